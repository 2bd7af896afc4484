//! What happens around every request: an id, a line in the log, the counters, and a net under panics.

use std::net::{IpAddr, Ipv4Addr};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use futures_util::FutureExt;
use http::Method;
use http::request::Parts;
use tokio::time::Instant;
use tracing::{Instrument, Level};

use super::listener::Connection;
use super::request_id::{self, RequestId, RequestIds};
use super::{Metrics, Proxies};

/// The names of path parameters that are secrets: what stands in their place is shown in no log.
const SECRET_PARAMETERS: &[&str] = &["{code}", "{secret}", "{token}"];
/// Routes that are asked all the time; the log shows them at the level `debug`, unless they fail.
const FREQUENT_ROUTES: &[&str] = &["/mdm", "/checkin", "/healthz", "/readyz", "/metrics"];

/// The address that a request came from, behind trusted proxies too. In the request's extensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientAddress(pub IpAddr);

/// The address that a request came from: as it was observed, or, for routes that nobody observes, as the connection
/// tells it.
#[must_use]
pub fn client_address(parts: &Parts, proxies: &Proxies) -> IpAddr {
    if let Some(ClientAddress(address)) = parts.extensions.get() {
        return *address;
    }
    let peer = Connection::of(&parts.extensions).map(|connection| connection.peer.ip());
    peer.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| proxies.client_address(peer, &parts.headers))
}

/// What the watching of requests needs.
#[derive(Clone)]
pub struct Observer {
    /// Whose word on the client's address and the request's id counts.
    pub proxies: Proxies,
    /// Where requests are counted.
    pub metrics: Metrics,
    /// Where ids come from.
    pub ids: Arc<RequestIds>,
    /// The answer to a request whose handler panicked: a status of 500 in the form that the listener's clients expect.
    pub on_panic: fn() -> Response,
}

impl Observer {
    /// Puts itself around all routes of `app`, its fallback included. To be the last thing done to the routes: what is
    /// added later is not seen.
    pub fn around(self, app: Router) -> Router {
        app.layer(from_fn_with_state(Arc::new(self), observe))
    }
}

async fn observe(State(observer): State<Arc<Observer>>, mut request: Request, next: Next) -> Response {
    let started = Instant::now();
    let running = observer.metrics.request_begins();
    let peer = Connection::of(request.extensions()).map(|connection| connection.peer.ip());
    let client = peer.map(|peer| observer.proxies.client_address(peer, request.headers()));
    let client = ClientAddress(client.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)));
    let believed = peer.is_some_and(|peer| observer.proxies.trust(peer));
    let id = believed.then(|| RequestId::given(request.headers())).flatten();
    let id = id.unwrap_or_else(|| observer.ids.next());
    request.extensions_mut().insert(client);
    request.extensions_mut().insert(id.clone());

    let route = request.extensions().get::<MatchedPath>().cloned();
    let method = known_method(request.method());
    let uri = request.uri().clone();
    let path = || shown_path(route.as_ref().map(MatchedPath::as_str), uri.path());
    let name = route.as_ref().map_or("none", MatchedPath::as_str);
    let is_frequent = FREQUENT_ROUTES.contains(&name);
    // What is asked all the time has no span unless somebody looks closely: making one takes longer than an idle poll.
    let span = if is_frequent {
        tracing::debug_span!("request", id = id.as_str(), method, path = path(), client = %client.0)
    } else {
        tracing::info_span!("request", id = id.as_str(), method, path = path(), client = %client.0)
    };

    let work = AssertUnwindSafe(next.run(request)).catch_unwind();
    let outcome = id.clone().scope(work).instrument(span.clone()).await;
    let mut response = outcome.unwrap_or_else(|_| {
        // The panic hook has logged it.
        observer.metrics.panicked();
        (observer.on_panic)()
    });

    if let Some(id) = id.header_value() {
        response.headers_mut().insert(request_id::HEADER, id);
    }
    let took = started.elapsed();
    observer.metrics.request_answered(name, method, response.status(), took);
    let (status, milliseconds) = (response.status().as_u16(), in_milliseconds(took));
    if !is_frequent || !span.is_disabled() {
        span.in_scope(|| log(is_frequent, status, milliseconds));
    } else if status >= 400 {
        tracing::info!(id = id.as_str(), method, path = path(), client = %client.0, status, milliseconds, "answered");
    }
    drop(running);
    response
}

fn log(is_frequent: bool, status: u16, milliseconds: f64) {
    if status < 400 && is_frequent {
        tracing::event!(Level::DEBUG, status, milliseconds, "answered");
    } else {
        tracing::event!(Level::INFO, status, milliseconds, "answered");
    }
}

/// Milliseconds with no more than three decimals: what is below a microsecond says nothing and is long.
fn in_milliseconds(took: Duration) -> f64 {
    (took.as_secs_f64() * 1_000_000.0).round() / 1000.0
}

/// The path for the log: without query, with dots for what the route names a secret. A path without a route is not
/// shown at all, since it may be a mistyped link with its code.
fn shown_path(route: Option<&str>, path: &str) -> String {
    const MAX: usize = 200;
    let Some(route) = route else {
        return "(no route)".to_owned();
    };
    let mut shown = String::new();
    let mut segments = path.split('/');
    for template in route.split('/').skip(1) {
        // Both begin with a slash.
        let segment = if shown.is_empty() { segments.nth(1) } else { segments.next() };
        shown.push('/');
        if SECRET_PARAMETERS.contains(&template) || template.starts_with("{*") {
            shown.push('…');
        } else {
            shown.push_str(segment.unwrap_or_default());
        }
    }
    if let Some((end, _)) = shown.char_indices().nth(MAX) {
        shown.truncate(end);
        shown.push('…');
    }
    shown
}

/// The methods that a label may have.
fn known_method(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

/// Sends the text of panics to the log instead of the standard error, within the span of the request that caused them.
/// For the program's start.
pub fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let message = panic.payload_as_str().unwrap_or("(no text)");
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(place, message, "panic: this is a fault of the program, please report it");
    }));
}

#[cfg(test)]
mod tests;
