//! The domain's errors as problems, and the list of all codes.

use std::time::Duration;

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
    (
        "confirmation_needed",
        409,
        "destroys on several devices, or is for several commands; send `confirm` with the number that `detail` names",
    ),
    ("no_target", 409, "none of the targets can get the command"),
    ("not_enrolled", 409, "the device is not enrolled, so it cannot be woken"),
    ("command_held", 409, "the command is held since the database was restored; release or cancel it first"),
    ("not_held", 409, "the command is not held, so it cannot be released"),
    ("nothing_unconfirmed", 409, "nothing of this command waits for being delivered again"),
    ("package_incomplete", 409, "the app's package was not uploaded completely"),
    ("quota_exceeded", 409, "the package does not fit into what all packages may take (`apps.quota`)"),
    ("identifier_taken", 409, "another profile has this identifier; replace that one"),
    ("devices_enrolled", 409, "devices are enrolled under the certificate's topic; `force` strands them"),
    ("other_topic", 409, "the certificate is for another topic than the one that devices are enrolled under"),
    ("older_certificate", 409, "the certificate ends before the one that devices have now"),
    ("is_default", 409, "a certificate must be the default; make another one that first"),
    ("default_expired", 409, "an expired certificate cannot become the default"),
    ("vendor_certificate", 409, "the vendor certificate of the settings cannot be used; `detail` says why"),
    ("authority_exists", 409, "certificates of this authority are accepted already"),
    ("authority_active", 409, "the authority issues to new devices; activate another one first"),
    ("authority_in_use", 409, "enrolled devices authenticate with its certificates; `force` locks them out"),
    ("authority_retired", 409, "the authority is retired; import it again"),
    ("authority_without_key", 409, "the authority's key is not here, so it cannot issue"),
    ("too_many_webhooks", 409, "there are as many webhooks as there may be"),
    ("request_in_flight", 409, "a request with the same `Idempotency-Key` is at work; ask again in a moment"),
    ("revision_mismatch", 412, "somebody else changed it; read it again and repeat with the new `ETag`"),
    ("body_too_large", 413, "the body is larger than allowed; `detail` says how large it may be"),
    ("unsupported_media_type", 415, "the `Content-Type` is none that the route takes"),
    ("idempotency_key_reused", 422, "the `Idempotency-Key` came with another request before"),
    ("invalid_request", 422, "the body has faults; `errors` names each by its place"),
    ("invalid_command", 422, "the command cannot be sent as it is; `errors` names each fault by its place"),
    ("invalid_token", 422, "the token cannot be made as asked"),
    ("invalid_enrollment_link", 422, "the enrollment link cannot be made as asked; `errors` names each fault"),
    ("invalid_challenge", 422, "the challenge cannot be made as asked; `errors` names each fault"),
    ("invalid_authority", 422, "the authority cannot be accepted; `detail` says why"),
    ("invalid_profile", 422, "the file is no configuration profile that devices take; `errors` names each fault"),
    ("invalid_app", 422, "the app cannot be kept as it is; `errors` names each fault by its place"),
    ("invalid_package", 422, "the file is no app's package (.ipa), or one that costs more than it should"),
    ("package_too_large", 422, "the package is larger than `apps.max_package_size`"),
    ("invalid_webhook", 422, "the webhook cannot be kept as asked; `errors` names each fault by its place"),
    ("invalid_push_request", 422, "the request for a push certificate has faults; `errors` names each by its place"),
    ("unreadable_certificate", 422, "the file is no PEM, no .p12 and no certificate"),
    ("wrong_password", 422, "the file needs a password, and none or a wrong one was given"),
    ("legacy_encryption", 422, "the file is encrypted in an old way that this server cannot read"),
    ("no_certificate", 422, "there is no certificate in the file"),
    ("no_key", 422, "there is no key in the file, and no request made here belongs to the certificate"),
    ("key_mismatch", 422, "the key does not belong to the certificate"),
    ("wrong_kind_of_certificate", 422, "the certificate is for something else than MDM pushes"),
    ("certificate_expired", 422, "the certificate has expired"),
    ("certificate_not_yet_valid", 422, "the certificate is not valid yet: a clock is wrong"),
    ("precondition_required", 428, "send `If-Match` with the `ETag` of what you have read"),
    ("too_many_uploads", 429, "so many packages are uploaded just now; `Retry-After` says when to come again"),
    ("rate_limited", 429, "too many requests from this address; `Retry-After` says when to come again"),
    ("internal", 500, "a fault of the server; its log tells which, under the request id"),
    ("unavailable", 503, "something that the server needs (such as the database) is away for now; try again"),
    (
        "overloaded",
        503,
        "as many requests are being worked on as this server takes; `Retry-After` says when to come again",
    ),
    ("timeout", 503, "the request took too long and was given up; look what is there before you repeat it"),
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

/// All places for uploads are taken.
pub(super) fn too_many_uploads() -> Problem {
    let detail = "so many packages are uploaded just now that another has to wait";
    Problem::new(StatusCode::TOO_MANY_REQUESTS, "too_many_uploads", detail).retry_after(Duration::from_secs(30))
}

/// The time for ordinary requests ran out.
pub(super) fn timed_out() -> Problem {
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "timeout", "the request took too long and was given up")
}
