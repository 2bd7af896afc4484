//! What monitoring asks: whether the process lives, whether it can serve, and its counters.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures_util::future::BoxFuture;
use http::header::{AUTHORIZATION, CONTENT_TYPE, FORWARDED, VIA};
use http::{Extensions, HeaderMap, StatusCode};
use tokio::time::timeout;

use super::listener::Connection;
use super::{Metrics, Problem, Shutdown, metrics};
use crate::model::{Secret, Sha256};

/// A check that takes longer than this has failed.
const CHECK_TIMEOUT: Duration = Duration::from_secs(3);

/// Asks whether the server can do its work; the error names what is missing, in a word or two.
pub type ReadyCheck = Arc<dyn Fn() -> BoxFuture<'static, Result<(), &'static str>> + Send + Sync>;

/// What these routes need.
#[derive(Clone)]
pub struct Health {
    /// Asked by `/readyz`.
    pub ready: ReadyCheck,
    /// A server that stops is not ready, so that a load balancer sends nothing more.
    pub shutdown: Shutdown,
    /// Shown at `/metrics`.
    pub metrics: Metrics,
    /// The bearer token that may read the metrics. Without one only this machine may.
    pub metrics_token: Option<Secret<String>>,
    /// Whether a proxy stands before the listener: then what comes from this machine may come from anywhere.
    pub behind_proxy: bool,
}

impl Health {
    /// `/healthz` and `/readyz`: for every listener that a load balancer asks.
    pub fn probes(self) -> Router {
        Router::new().route("/healthz", get(|| async { "ok\n" })).route("/readyz", get(readyz)).with_state(self)
    }

    /// The probes and `/metrics`: for the admin listener.
    pub fn routes(self) -> Router {
        Router::new().route("/metrics", get(show_metrics)).with_state(self.clone()).merge(self.probes())
    }
}

async fn readyz(State(health): State<Health>) -> Response {
    if health.shutdown.stopping().is_cancelled() {
        return (StatusCode::SERVICE_UNAVAILABLE, "stopping\n").into_response();
    }
    match timeout(CHECK_TIMEOUT, (health.ready)()).await {
        Ok(Ok(())) => "ready\n".into_response(),
        Ok(Err(missing)) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {missing}\n")).into_response(),
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "not ready: no answer in time\n").into_response(),
    }
}

async fn show_metrics(State(health): State<Health>, extensions: Extensions, headers: HeaderMap) -> Response {
    let allowed = match &health.metrics_token {
        Some(token) => bearer(&headers).is_some_and(|given| {
            // Digests are compared, so that the time tells nothing about the token.
            Sha256::of(given.as_bytes()) == Sha256::of(token.expose().as_bytes())
        }),
        None => !health.behind_proxy && is_local(&extensions, &headers),
    };
    if !allowed {
        return Problem::unauthorized(
            "metrics are shown to the token of metrics.token; without one to this machine, unless admin.behind_proxy is set",
        )
        .into_response();
    }
    ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], health.metrics.render()).into_response()
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}

/// Whether the request comes from this machine, and not through a proxy on this machine, trusted or not.
fn is_local(extensions: &Extensions, headers: &HeaderMap) -> bool {
    let passed_on =
        headers.contains_key("x-forwarded-for") || headers.contains_key(FORWARDED) || headers.contains_key(VIA);
    let local = Connection::of(extensions).is_some_and(|connection| connection.peer.ip().is_loopback());
    local && !passed_on
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use tower::ServiceExt;

    use super::*;

    fn health(token: Option<&str>) -> Health {
        Health {
            ready: Arc::new(|| Box::pin(async { Ok(()) })),
            shutdown: Shutdown::new(),
            metrics: Metrics::new("test"),
            metrics_token: token.map(|token| Secret::new(token.to_owned())),
            behind_proxy: false,
        }
    }

    async fn ask(health: &Health, path: &str, peer: &str, header: Option<(&str, &str)>) -> u16 {
        let mut request = http::Request::get(path);
        if let Some((name, value)) = header {
            request = request.header(name, value);
        }
        let mut request = request.body(Body::empty()).unwrap();
        let connection = Connection::plain("admin", format!("{peer}:4711").parse().unwrap());
        request.extensions_mut().insert(Arc::new(connection));
        health.clone().routes().oneshot(request).await.unwrap().status().as_u16()
    }

    #[tokio::test]
    async fn metrics_are_for_the_token_or_for_this_machine() {
        let open = health(None);
        assert_eq!(ask(&open, "/metrics", "127.0.0.1", None).await, 200);
        assert_eq!(ask(&open, "/metrics", "192.0.2.1", None).await, 401);
        assert_eq!(ask(&open, "/metrics", "127.0.0.1", Some(("x-forwarded-for", "192.0.2.1"))).await, 401);
        let proxied = Health { behind_proxy: true, ..health(None) };
        assert_eq!(ask(&proxied, "/metrics", "127.0.0.1", None).await, 401, "it may come through the proxy");
        let closed = health(Some("t0ken"));
        assert_eq!(ask(&closed, "/metrics", "127.0.0.1", None).await, 401);
        assert_eq!(ask(&closed, "/metrics", "127.0.0.1", Some(("authorization", "Bearer wrong"))).await, 401);
        assert_eq!(ask(&closed, "/metrics", "192.0.2.1", Some(("authorization", "Bearer t0ken"))).await, 200);
    }

    #[tokio::test]
    async fn a_server_is_ready_until_something_is_missing_or_it_stops() {
        let good = health(None);
        assert_eq!(ask(&good, "/readyz", "192.0.2.1", None).await, 200);
        let bad = Health { ready: Arc::new(|| Box::pin(async { Err("database") })), ..health(None) };
        assert_eq!(ask(&bad, "/readyz", "192.0.2.1", None).await, 503);
        good.shutdown.stop();
        assert_eq!(ask(&good, "/readyz", "192.0.2.1", None).await, 503);
        assert_eq!(ask(&good, "/healthz", "192.0.2.1", None).await, 200);
    }
}
