//! The domain's errors as problems, and the list of all codes.

use http::StatusCode;

use super::super::Problem;
use super::super::problem::Pointed;
use crate::service::{Error, Fault};

/// Every code that the API answers with, with its status and meaning. `docs/api/errors.md` shows this list.
pub const CODES: &[(&str, u16, &str)] = &[
    ("bad_query", 400, "a query parameter is unknown, doubled or has a wrong value; `errors` names it"),
    ("bad_cursor", 400, "the cursor is none of this list with these filters and this order"),
    ("bad_header", 400, "a header (`Idempotency-Key`, `If-Match`) has no acceptable form"),
    ("bad_json", 400, "the body is not JSON"),
    ("body_incomplete", 400, "the connection broke before the body had come"),
    ("unauthorized", 401, "no token, or one that is unknown, expired or revoked"),
    ("forbidden", 403, "the token's role does not suffice"),
    ("not_found", 404, "there is no such thing, or no such route"),
    ("method_not_allowed", 405, "the route has other methods; `Allow` names them"),
    ("body_too_slow", 408, "the body did not arrive in time"),
    ("conflict", 409, "another request changed the same at the same time; try again"),
    ("ambiguous_device", 409, "several devices have this serial number; use the id"),
    ("confirmation_needed", 409, "destroys on several devices; send `confirm` with the number that `detail` names"),
    ("no_target", 409, "none of the targets can get the command"),
    ("not_enrolled", 409, "the device is not enrolled, so it cannot be woken"),
    ("nothing_unconfirmed", 409, "nothing of this command waits for being delivered again"),
    ("package_incomplete", 409, "the app's package was not uploaded completely"),
    ("request_in_flight", 409, "a request with the same `Idempotency-Key` is at work; ask again in a moment"),
    ("revision_mismatch", 412, "somebody else changed it; read it again and repeat with the new `ETag`"),
    ("body_too_large", 413, "the body is larger than allowed; `detail` says how large it may be"),
    ("unsupported_media_type", 415, "the `Content-Type` is none that the route takes"),
    ("idempotency_key_reused", 422, "the `Idempotency-Key` came with another request before"),
    ("invalid_request", 422, "the body has faults; `errors` names each by its place"),
    ("invalid_command", 422, "the command cannot be sent as it is; `errors` names each fault by its place"),
    ("invalid_token", 422, "the token cannot be made as asked"),
    ("precondition_required", 428, "send `If-Match` with the `ETag` of what you have read"),
    ("rate_limited", 429, "too many requests from this address; `Retry-After` says when to come again"),
    ("internal", 500, "a fault of the server; its log tells which, under the request id"),
    ("unavailable", 503, "something that the server needs (such as the database) is away for now; try again"),
    ("timeout", 503, "the request took too long and was given up; nothing was changed"),
];

impl From<Error> for Problem {
    /// What went wrong here is logged now, once, and its text does not leave.
    fn from(error: Error) -> Self {
        match error {
            Error::NotFound(detail) => Self::not_found(detail),
            Error::Conflict { code: code @ "revision_mismatch", detail } => {
                Self::new(StatusCode::PRECONDITION_FAILED, code, detail)
            }
            Error::Conflict { code, detail } => Self::new(StatusCode::CONFLICT, code, detail),
            Error::Denied(detail) => Self::forbidden(detail),
            Error::Invalid { code, detail, faults } => {
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, code, detail).with_errors(pointed(faults))
            }
            Error::Unavailable(why) => {
                tracing::warn!(why, "not available");
                Self::unavailable("something that the server needs is away for now; try again in a moment")
            }
            Error::Internal(why) => {
                tracing::error!(why, "the server failed");
                Self::internal()
            }
            Error::Unrecognized => {
                tracing::error!("an answer for devices was given to an admin");
                Self::internal()
            }
        }
    }
}

/// Faults as a problem shows them.
pub(super) fn pointed(faults: Vec<Fault>) -> Vec<Pointed> {
    faults.into_iter().map(|fault| Pointed { pointer: fault.pointer, detail: fault.detail }).collect()
}

/// A body with faults.
pub(super) fn invalid_request(faults: Vec<Fault>) -> Problem {
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_request", "the request has faults")
        .with_errors(pointed(faults))
}

/// Query parameters with faults.
pub(super) fn bad_query(faults: Vec<Fault>) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "bad_query", "the query parameters have faults").with_errors(pointed(faults))
}

/// A header that cannot be read.
pub(super) fn bad_header(detail: impl Into<String>) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "bad_header", detail)
}

/// The time for ordinary requests ran out.
pub(super) fn timed_out() -> Problem {
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "timeout", "the request took too long and was given up")
}
