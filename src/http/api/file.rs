//! Bodies that are files: what they may be, and how they stand in the document.

use std::borrow::Cow;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::header::{CONTENT_DISPOSITION, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderMap, HeaderValue};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{KnownFormat, ObjectBuilder, Schema, SchemaFormat, Type};
use utoipa::{PartialSchema, ToSchema};

use super::super::Problem;
use super::input::unsupported;

/// Any file, in the document.
pub(super) struct File;

impl ToSchema for File {
    fn name() -> Cow<'static, str> {
        "File".into()
    }
}

impl PartialSchema for File {
    fn schema() -> RefOr<Schema> {
        let format = SchemaFormat::KnownFormat(KnownFormat::Binary);
        RefOr::T(Schema::Object(ObjectBuilder::new().schema_type(Type::String).format(Some(format)).build()))
    }
}

/// The content type without its parameters, if it is one of those that the route takes.
pub(super) fn kind_of(headers: &HeaderMap, taken: &[&'static str]) -> Result<&'static str, Problem> {
    let kind = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    taken.iter().copied().find(|taken| taken.eq_ignore_ascii_case(kind)).ok_or_else(|| unsupported(taken))
}

/// A file to be saved under this name, which holds nothing but letters, digits, `.` and `-`.
pub(super) fn attachment(kind: &'static str, name: &str, content: Vec<u8>) -> Response {
    let mut response = Body::from(content).into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if let Ok(value) = HeaderValue::from_str(&format!("attachment; filename=\"{name}\"")) {
        headers.insert(CONTENT_DISPOSITION, value);
    }
    response
}
