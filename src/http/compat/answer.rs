use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::header::{CACHE_CONTROL, CONTENT_TYPE, WWW_AUTHENTICATE};
use http::{HeaderValue, StatusCode};
use serde::Serialize;
use serde_json::json;

use crate::service::Error;
use crate::service::compat::{Outcome, Unlocked, Verdict};

/// JSON with a status. Nothing of it may be kept by who stands between.
pub(super) fn json_of(status: StatusCode, body: &impl Serialize) -> Response {
    let bytes = serde_json::to_vec_pretty(body).unwrap_or_default();
    typed(status, HeaderValue::from_static("application/json"), bytes)
}

/// `{"error": …}` with a status.
pub(super) fn error(status: StatusCode, text: &str) -> Response {
    json_of(status, &json!({"error": text}))
}

/// An error of the domain: 400 where the request is at fault, else `otherwise`.
pub(super) fn failed(why: &Error, otherwise: StatusCode) -> Response {
    match why {
        Error::Invalid { detail, .. } => error(StatusCode::BAD_REQUEST, detail),
        Error::Internal(detail) | Error::Unavailable(detail) => {
            tracing::error!(why = detail, "a request of the compatible interface failed");
            error(otherwise, "the server could not do it; its log says why")
        }
        other => error(otherwise, &other.to_string()),
    }
}

/// What became of a command or a push for `asked` enrollments.
pub(super) fn outcome(outcome: &Outcome, asked: usize) -> Response {
    let status = match outcome.verdict(asked) {
        Verdict::Good => StatusCode::OK,
        Verdict::Partly => StatusCode::MULTI_STATUS,
        Verdict::Bad => StatusCode::INTERNAL_SERVER_ERROR,
    };
    json_of(status, outcome)
}

/// An answer of Apple's. A status that is none becomes 502.
pub(super) fn passed_on(unlocked: Unlocked) -> Response {
    let status = StatusCode::from_u16(unlocked.status).unwrap_or(StatusCode::BAD_GATEWAY);
    let kind = unlocked.content_type.unwrap_or(HeaderValue::from_static("application/octet-stream"));
    typed(status, kind, unlocked.body)
}

/// 200 without a body.
pub(super) fn empty() -> Response {
    Response::new(Body::empty())
}

/// A status and its own words, as text.
pub(super) fn plain(status: StatusCode) -> Response {
    let text = format!("{}\n", status.canonical_reason().unwrap_or_default());
    typed(status, HeaderValue::from_static("text/plain; charset=utf-8"), text)
}

/// 401: the one answer to whoever is not let in.
pub(super) fn unauthorized() -> Response {
    let mut response = plain(StatusCode::UNAUTHORIZED);
    response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"nanomdm\""));
    response
}

fn typed(status: StatusCode, kind: HeaderValue, body: impl Into<Body>) -> Response {
    let mut response = (status, body.into()).into_response();
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
