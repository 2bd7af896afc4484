use axum::body::Body;
use axum::response::Response;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, StatusCode};

use super::super::{Metrics, request_id};
use crate::protocol::unrecognized;
use crate::service::Error;
use crate::service::check_in::Answer;

/// When a device may come again that the server could not serve, in seconds.
const TROUBLE_WAIT: HeaderValue = HeaderValue::from_static("10");
/// When a device may come again whose large message was put off, in seconds.
const CROWDED_WAIT: HeaderValue = HeaderValue::from_static("30");
/// What a removed device's user may read.
const GONE: &str = "This device is no longer managed by this server.";

/// An answer to a check-in.
pub(super) fn respond(answer: Answer) -> Response {
    match answer {
        Answer::Empty => empty(StatusCode::OK),
        Answer::Plist(bytes) => plist(bytes),
        Answer::Gone => empty(StatusCode::GONE),
        Answer::NothingDeclared => empty(StatusCode::NOT_FOUND),
        Answer::Declared(bytes) => of_type("application/json", bytes),
    }
}

/// The next command, or 200 with an empty body: any other form of "nothing" breaks clients.
pub(super) fn report_answer(command: Option<Vec<u8>>) -> Response {
    command.map_or_else(|| empty(StatusCode::OK), plist)
}

/// A message that is at fault. Only the log says how: a device has no use for it.
pub(super) fn refused(status: StatusCode, why: &str) -> Response {
    tracing::info!(id = request_id::current(), status = status.as_u16(), why, "a device's message was refused");
    empty(status)
}

/// Too many large bodies are read at the same time: the device comes again.
pub(super) fn crowded() -> Response {
    let why = "too many large messages at the same time; devices.body_memory bounds them";
    tracing::warn!(status = StatusCode::SERVICE_UNAVAILABLE.as_u16(), why, "a device's message was put off");
    later(CROWDED_WAIT)
}

/// Too many messages are worked on at the same time: the device comes again.
pub(super) fn overloaded() -> Response {
    let why = "too many messages at the same time; devices.max_requests bounds them";
    tracing::warn!(status = StatusCode::SERVICE_UNAVAILABLE.as_u16(), why, "a device's message was put off");
    later(TROUBLE_WAIT)
}

fn later(wait: HeaderValue) -> Response {
    let mut response = empty(StatusCode::SERVICE_UNAVAILABLE);
    response.headers_mut().insert(RETRY_AFTER, wait);
    response
}

/// The status for an error of the domain.
pub(super) fn failed(error: &Error, metrics: &Metrics) -> Response {
    match error {
        Error::NotFound(why) => refused(StatusCode::NOT_FOUND, why),
        Error::Denied(why) => refused(StatusCode::FORBIDDEN, why),
        Error::Invalid { detail, .. } => refused(StatusCode::BAD_REQUEST, detail),
        Error::Unrecognized => {
            tracing::info!("a removed device came by; it was told to leave management");
            let mut response = Response::new(Body::from(unrecognized::unrecognized_device(GONE)));
            *response.status_mut() = StatusCode::FORBIDDEN;
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(unrecognized::CONTENT_TYPE));
            response
        }
        // A conflict is a race with another request of the same device: it comes again and finds it solved.
        Error::Conflict { detail, .. } => trouble(StatusCode::SERVICE_UNAVAILABLE, detail),
        Error::Unavailable(why) => {
            metrics.database_failed("unavailable");
            trouble(StatusCode::SERVICE_UNAVAILABLE, why)
        }
        Error::Internal(why) => trouble(StatusCode::INTERNAL_SERVER_ERROR, why),
    }
}

/// The word for an error in the metrics: whose fault it is.
pub(super) const fn result_word(error: &Error) -> &'static str {
    match error {
        Error::NotFound(_) | Error::Denied(_) | Error::Unrecognized | Error::Invalid { .. } => "refused",
        Error::Conflict { .. } | Error::Unavailable(_) | Error::Internal(_) => "failed",
    }
}

fn trouble(status: StatusCode, why: &str) -> Response {
    tracing::error!(
        id = request_id::current(),
        status = status.as_u16(),
        why,
        "a device's message could not be handled"
    );
    if status == StatusCode::SERVICE_UNAVAILABLE { later(TROUBLE_WAIT) } else { empty(status) }
}

fn empty(status: StatusCode) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

fn plist(bytes: Vec<u8>) -> Response {
    of_type("application/xml", bytes)
}

fn of_type(kind: &'static str, bytes: Vec<u8>) -> Response {
    let mut response = Response::new(Body::from(bytes));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
