//! Control of the fake APNs by other processes: plain HTTP on loopback.
//!
//! | request | does |
//! |---|---|
//! | `POST /register` `{"topic": …, "token": …}` (both optional) | registers a token, answers `{"token": "<hex>"}` |
//! | `GET /wakes/{token}?wait=SECONDS` | the next wake as JSON, or 204 after `wait` seconds (at most 60) |
//! | `DELETE /tokens/{token}` | makes a token invalid: 410 from now on |
//! | `POST /faults` a [`Fault`] | appends to the script |
//! | `DELETE /faults` | empties the script |
//! | `GET /counters` | [`Counters`](super::Counters) |
//! | `GET /root.pem` | the certificate authority that push clients must trust |

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{DefaultBodyLimit, Path, Query, State as Shared};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use url::Url;

use super::fault::Fault;
use super::state::{Counters, State, Wake};
use crate::simulator::web;

/// The longest wait for a wake in one request, in seconds.
const MAX_WAIT: u64 = 60;

/// The longest token, in bytes. Apple's have 32 and may become longer.
const MAX_TOKEN: usize = 100;

#[derive(Clone)]
struct Control {
    state: Arc<State>,
    root_pem: String,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Registration {
    #[serde(default)]
    topic: Option<String>,
    #[serde(default)]
    token: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Registered {
    token: String,
}

#[derive(Debug, Deserialize)]
struct Waiting {
    #[serde(default)]
    wait: u64,
}

pub(super) fn router(state: Arc<State>, root_pem: String) -> Router {
    Router::new()
        .route("/register", post(register))
        .route("/wakes/{token}", get(next_wake))
        .route("/tokens/{token}", delete(unregister))
        .route("/faults", post(inject).delete(clear_faults))
        .route("/counters", get(counters))
        .route("/root.pem", get(root_pem_text))
        .layer(DefaultBodyLimit::max(16 * 1024))
        .with_state(Control { state, root_pem })
}

async fn register(Shared(control): Shared<Control>, Json(wanted): Json<Registration>) -> Response {
    let token = match wanted.token.as_deref().map(parse_token) {
        None => None,
        Some(Some(token)) => Some(token),
        Some(None) => return (StatusCode::BAD_REQUEST, "the token is no hex of 1 to 100 bytes").into_response(),
    };
    let token = control.state.register(wanted.topic.as_deref(), token.as_deref());
    Json(Registered { token: hex::encode(token) }).into_response()
}

async fn next_wake(
    Shared(control): Shared<Control>,
    Path(token): Path<String>,
    Query(waiting): Query<Waiting>,
) -> Response {
    let Some(token) = parse_token(&token).filter(|token| control.state.knows(token)) else {
        return (StatusCode::NOT_FOUND, "no such token").into_response();
    };
    let wait = Duration::from_secs(waiting.wait.min(MAX_WAIT));
    match control.state.next_wake(&token, wait).await {
        Some(wake) => Json(wake).into_response(),
        None => StatusCode::NO_CONTENT.into_response(),
    }
}

async fn unregister(Shared(control): Shared<Control>, Path(token): Path<String>) -> StatusCode {
    match parse_token(&token) {
        Some(token) => {
            control.state.unregister(&token, None);
            StatusCode::NO_CONTENT
        }
        None => StatusCode::NOT_FOUND,
    }
}

async fn inject(Shared(control): Shared<Control>, Json(fault): Json<Fault>) -> StatusCode {
    control.state.inject(fault);
    StatusCode::NO_CONTENT
}

async fn clear_faults(Shared(control): Shared<Control>) -> StatusCode {
    control.state.clear_faults();
    StatusCode::NO_CONTENT
}

async fn counters(Shared(control): Shared<Control>) -> Json<Counters> {
    Json(control.state.counters())
}

async fn root_pem_text(Shared(control): Shared<Control>) -> Response {
    ([(axum::http::header::CONTENT_TYPE, "application/x-pem-file")], control.root_pem).into_response()
}

fn parse_token(text: &str) -> Option<Vec<u8>> {
    hex::decode(text).ok().filter(|token| (1..=MAX_TOKEN).contains(&token.len()))
}

/// The other end: how a simulated device reaches a fake APNs in another process.
#[derive(Clone, Debug)]
pub struct ControlClient {
    http: reqwest::Client,
    base: Url,
}

/// Why control failed.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// It cannot be reached, or its answer cannot be read.
    #[error("the simulated push service at {0} does not answer: {1}")]
    Unreachable(Url, String),
    /// It refused.
    #[error("the simulated push service answered {0}: {1}")]
    Refused(u16, String),
}

impl ControlClient {
    /// A client of the control listener at `base`.
    ///
    /// # Errors
    /// [`ControlError::Unreachable`] if no HTTP client can be made.
    pub fn new(base: Url) -> Result<Self, ControlError> {
        match web::plain_client() {
            Ok(http) => Ok(Self { http, base }),
            Err(error) => Err(ControlError::Unreachable(base, error)),
        }
    }

    /// Registers a new token for `topic`, or for every topic.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn register(&self, topic: Option<&str>) -> Result<Vec<u8>, ControlError> {
        let wanted = Registration { topic: topic.map(str::to_owned), token: None };
        let response = self.send(self.http.post(self.url("register")).json(&wanted)).await?;
        let registered: Registered = response.json().await.map_err(|error| self.unreachable(&error))?;
        parse_token(&registered.token)
            .ok_or_else(|| ControlError::Unreachable(self.base.clone(), "its token is no hex".to_owned()))
    }

    /// The next wake of a token, if one comes within `wait` (whole seconds, at most 60).
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn next(&self, token: &[u8], wait: Duration) -> Result<Option<Wake>, ControlError> {
        let mut url = self.url(&format!("wakes/{}", hex::encode(token)));
        url.set_query(Some(&format!("wait={}", wait.as_secs())));
        let response = self.send(self.http.get(url).timeout(wait + Duration::from_secs(10))).await?;
        if response.status() == StatusCode::NO_CONTENT {
            return Ok(None);
        }
        response.json().await.map(Some).map_err(|error| self.unreachable(&error))
    }

    /// Appends to the script of faults.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn inject(&self, fault: &Fault) -> Result<(), ControlError> {
        self.send(self.http.post(self.url("faults")).json(fault)).await.map(drop)
    }

    /// What has happened so far.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn counters(&self) -> Result<Counters, ControlError> {
        let response = self.send(self.http.get(self.url("counters"))).await?;
        response.json().await.map_err(|error| self.unreachable(&error))
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Result<reqwest::Response, ControlError> {
        let response = request.send().await.map_err(|error| self.unreachable(&error))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        Err(ControlError::Refused(status.as_u16(), response.text().await.unwrap_or_default()))
    }

    fn url(&self, path: &str) -> Url {
        let mut url = self.base.clone();
        url.set_path(path);
        url
    }

    fn unreachable(&self, error: &reqwest::Error) -> ControlError {
        ControlError::Unreachable(self.base.clone(), error.to_string())
    }
}
