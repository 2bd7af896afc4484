use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{FromRequestParts, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{AUTHORIZATION, RETRY_AFTER};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, StatusCode};
use subtle::ConstantTimeEq;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::super::{ClientAddress, Connection, request_id};
use super::answer::{plain, unauthorized};
use crate::model::Sha256;
use crate::service::{Actor, App};

/// What Apple and the push service may take at most, and some more.
const LONGEST_WAIT: Duration = Duration::from_secs(45);
/// The only user.
const USER: &str = "nanomdm";

/// Who asks.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    pub(super) actor: Actor,
    pub(super) address: IpAddr,
}

/// What the check of every request needs.
pub(super) struct Admission {
    app: App,
    /// Of requests that are worked on at once: as many as of the API's.
    places: Semaphore,
}

impl Admission {
    pub(super) fn new(app: App) -> Self {
        let places = Semaphore::new(usize::try_from(app.settings.admin.max_requests).unwrap_or(Semaphore::MAX_PERMITS));
        Self { app, places }
    }
}

/// Lets a request with the API key through, if there is room.
pub(super) async fn admit(State(admission): State<Arc<Admission>>, mut request: Request, next: Next) -> Response {
    let app = &admission.app;
    if !is_admitted(app, request.headers()) {
        return unauthorized();
    }
    let Ok(_place) = admission.places.try_acquire() else {
        let mut response = plain(StatusCode::SERVICE_UNAVAILABLE);
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
        return response;
    };
    let extensions = request.extensions();
    let watched = extensions.get::<ClientAddress>().map(|client| client.0);
    let address = watched.or_else(|| Connection::of(extensions).map(|connection| connection.peer.ip()));
    let actor = Actor { request_id: request_id::current(), ..Actor::compat(USER).at(address) };
    let address = address.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    request.extensions_mut().insert(Caller { actor, address });
    let time = app.settings.admin.request_timeout.max(LONGEST_WAIT);
    timeout(time, next.run(request)).await.unwrap_or_else(|_| plain(StatusCode::SERVICE_UNAVAILABLE))
}

/// Digests of the whole are compared, so that the time tells neither where a wrong key differs nor how long the right one is.
fn is_admitted(app: &App, headers: &HeaderMap) -> bool {
    let Some(key) = &app.settings.compat.nanomdm else { return false };
    let given = given(headers).unwrap_or_default();
    let right = [USER.as_bytes(), b":", key.expose().as_bytes()].concat();
    Sha256::of(&given).0.ct_eq(&Sha256::of(&right).0).into()
}

/// `user:password` of Basic authentication (RFC 7617).
fn given(headers: &HeaderMap) -> Option<Vec<u8>> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let (scheme, text) = values.next()?.to_str().ok()?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") || values.next().is_some() {
        return None;
    }
    STANDARD.decode(text.trim()).ok()
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Response> {
        // Missing only on a route that was not put behind the check: a fault of ours, and closed.
        parts.extensions.get::<Self>().cloned().ok_or_else(unauthorized)
    }
}
