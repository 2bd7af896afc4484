//! What a handler gives, beside plain JSON.

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::header::{ETAG, LOCATION};
use http::{HeaderValue, StatusCode};
use serde::Serialize;

/// 201 with what was made, and where it is.
pub(super) struct Made<T> {
    /// The path of what was made.
    pub(super) at: String,
    /// What was made.
    pub(super) body: T,
}

impl<T: Serialize> IntoResponse for Made<T> {
    fn into_response(self) -> Response {
        let mut response = (StatusCode::CREATED, Json(self.body)).into_response();
        if let Ok(at) = HeaderValue::from_str(&self.at) {
            response.headers_mut().insert(LOCATION, at);
        }
        response
    }
}

/// An answer with the revision of what it shows as its `ETag`.
pub(super) struct Tagged<T> {
    /// The revision.
    pub(super) revision: i64,
    /// The answer.
    pub(super) answer: T,
}

impl<T: IntoResponse> IntoResponse for Tagged<T> {
    fn into_response(self) -> Response {
        let mut response = self.answer.into_response();
        if let Ok(tag) = HeaderValue::from_str(&format!("\"{}\"", self.revision)) {
            response.headers_mut().insert(ETAG, tag);
        }
        response
    }
}
