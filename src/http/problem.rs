//! How the API says no: `application/problem+json` (RFC 9457) with a stable code.

use std::time::Duration;

use axum::response::{IntoResponse, Response};
use http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, StatusCode};
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::body::BodyError;
use super::request_id;

/// The media type of problems.
pub const CONTENT: &str = "application/problem+json";

/// An error of the API.
///
/// Programs look at `code`, which never changes for a kind of error; people read `detail`. The text of a fault of the
/// server stays in the log, where the request id finds it.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Problem {
    /// The kind of error as a URI reference, made from the code.
    #[serde(rename = "type")]
    #[schema(example = "/problems/invalid-command")]
    kind: String,
    /// The kind of error in words.
    #[schema(example = "Invalid command")]
    title: String,
    /// The HTTP status.
    #[schema(example = 422)]
    status: u16,
    /// The kind of error for programs.
    #[schema(example = "invalid_command")]
    code: &'static str,
    /// What is wrong this time, and what to do.
    #[schema(example = "the PIN of a lock has 6 digits")]
    detail: String,
    /// What is wrong with parts of the request, all at once.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<Pointed>,
    /// Finds the request in the server's log.
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<String>,
    /// More facts for programs, by the code.
    #[serde(flatten)]
    #[schema(ignore)]
    facts: Map<String, Value>,
    #[serde(skip)]
    retry_after: Option<Duration>,
}

/// What is wrong with one part of the request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Pointed {
    /// The part, as a JSON pointer into the body (RFC 6901), or the name of a query parameter or header.
    #[schema(example = "/command/pin")]
    pub pointer: String,
    /// What is wrong with it.
    #[schema(example = "6 digits")]
    pub detail: String,
}

impl Problem {
    /// A problem of this kind. `code` is in `snake_case` and documented; `detail` is for the person who asks.
    #[must_use]
    pub fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self {
            kind: format!("/problems/{}", code.replace('_', "-")),
            title: title(code),
            status: status.as_u16(),
            code,
            detail: detail.into(),
            errors: Vec::new(),
            request_id: None,
            facts: Map::new(),
            retry_after: None,
        }
    }

    /// The same, naming the parts of the request that are wrong.
    #[must_use]
    pub fn with_errors(mut self, errors: Vec<Pointed>) -> Self {
        self.errors = errors;
        self
    }

    /// The same with a fact for programs, such as the number that a confirmation should have had.
    #[must_use]
    pub fn with_fact(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.facts.insert(name.to_owned(), value.into());
        self
    }

    /// The same, asking the client to wait before it tries again.
    #[must_use]
    pub const fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// 401: no token, or not a valid one.
    #[must_use]
    pub fn unauthorized(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", detail)
    }

    /// 403: the token's role does not allow it.
    #[must_use]
    pub fn forbidden(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", detail)
    }

    /// 404.
    #[must_use]
    pub fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", detail)
    }

    /// 429, with the time to wait.
    #[must_use]
    pub fn rate_limited(wait: Duration) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limited", "too many requests from this address")
            .retry_after(wait)
    }

    /// 500. Says nothing: the reason is in the log.
    #[must_use]
    pub fn internal() -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "the server failed; its log tells why, under the request id",
        )
    }

    /// 503: something that the server needs is away for now.
    #[must_use]
    pub fn unavailable(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", detail).retry_after(Duration::from_secs(5))
    }

    /// 503: as many requests as this server takes are being worked on.
    #[must_use]
    pub fn overloaded() -> Self {
        let detail = "so many requests are being worked on that this one was not begun; come again in a moment";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", detail).retry_after(Duration::from_secs(1))
    }

    /// Its code.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        self.code
    }
}

impl From<BodyError> for Problem {
    fn from(error: BodyError) -> Self {
        let code = match error {
            BodyError::TooLarge { .. } => "body_too_large",
            BodyError::TooSlow => "body_too_slow",
            BodyError::Broken => "body_incomplete",
            BodyError::Crowded => "unavailable",
        };
        Self::new(error.status(), code, error.to_string())
    }
}

/// The code of the problem that a response is, among its extensions: for what looks at responses on their way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Code(pub &'static str);

impl IntoResponse for Problem {
    fn into_response(mut self) -> Response {
        self.request_id = request_id::current();
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        // A struct of texts and numbers can always be written.
        let body = serde_json::to_vec(&self).unwrap_or_default();
        let mut response = (status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(CONTENT));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(wait) = self.retry_after {
            headers.insert(RETRY_AFTER, retry_after(wait));
        }
        response.extensions_mut().insert(Code(self.code));
        response
    }
}

/// The value of a `Retry-After` header: whole seconds, rounded up, at least one.
#[must_use]
pub fn retry_after(wait: Duration) -> HeaderValue {
    let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
    HeaderValue::from(seconds.max(1))
}

/// `invalid_command` becomes `Invalid command`.
fn title(code: &str) -> String {
    let words = code.replace('_', " ");
    let mut letters = words.chars();
    letters.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(letters).collect()
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use serde_json::json;

    use super::*;

    async fn written(problem: Problem) -> (http::response::Parts, Value) {
        let (parts, body) = problem.into_response().into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        (parts, serde_json::from_slice(&body).unwrap())
    }

    #[tokio::test]
    async fn a_problem_tells_programs_and_people() {
        let problem = Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_command", "the PIN is wrong")
            .with_errors(vec![Pointed { pointer: "/command/pin".to_owned(), detail: "6 digits".to_owned() }])
            .with_fact("devices", 3);
        let (parts, body) = written(problem).await;
        assert_eq!(parts.status, 422);
        assert_eq!(parts.headers[CONTENT_TYPE], CONTENT);
        let expected = json!({
            "type": "/problems/invalid-command", "title": "Invalid command", "status": 422, "code": "invalid_command",
            "detail": "the PIN is wrong", "errors": [{"pointer": "/command/pin", "detail": "6 digits"}], "devices": 3,
        });
        assert_eq!(body, expected);
    }

    #[tokio::test]
    async fn headers_follow_the_kind() {
        let (parts, _) = written(Problem::unauthorized("no token")).await;
        assert_eq!(parts.headers[WWW_AUTHENTICATE], "Bearer");
        let (parts, _) = written(Problem::rate_limited(Duration::from_millis(1200))).await;
        assert_eq!((parts.status.as_u16(), &parts.headers[RETRY_AFTER]), (429, &HeaderValue::from(2)));
        let (parts, body) = written(BodyError::TooLarge { limit: 5 }.into()).await;
        assert_eq!((parts.status.as_u16(), body["code"].as_str()), (413, Some("body_too_large")));
    }
}
