use std::io::Write;
use std::sync::Mutex;

use axum::Extension;
use axum::body::Body;
use axum::response::IntoResponse;
use axum::routing::get;
use http::StatusCode;
use tower::ServiceExt;
use tracing_subscriber::fmt::MakeWriter;

use super::*;
use crate::http::problem::Problem;
use crate::model::SeededRandomness;

/// A log that can be read.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }

    /// Catches the log of this thread, at all levels.
    fn caught() -> (Self, tracing::subscriber::DefaultGuard) {
        let log = Self::default();
        let subscriber =
            tracing_subscriber::fmt().with_max_level(Level::DEBUG).with_ansi(false).with_writer(log.clone()).finish();
        let guard = tracing::subscriber::set_default(subscriber);
        (log, guard)
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

fn app() -> (Router, Metrics) {
    let metrics = Metrics::new("test");
    let observer = Observer {
        proxies: Proxies::new(vec!["10.0.0.0/8".parse().unwrap()], "x-forwarded-for".parse().unwrap()),
        metrics: metrics.clone(),
        ids: Arc::new(RequestIds::new(&SeededRandomness::new(1))),
        on_panic: || Problem::internal().into_response(),
    };
    let routes = Router::new()
        .route("/enroll/{code}/profile", get(|| async { "profile" }))
        .route("/devices/{id}", get(|| async { "device" }))
        .route("/mdm", get(|| async { "" }))
        .route("/scep", get(|| async { "scep" }))
        .route("/address", get(|Extension(client): Extension<ClientAddress>| async move { client.0.to_string() }))
        .route("/problem", get(|| async { Problem::not_found("nothing here") }))
        .route(
            "/panic",
            get(|| async {
                if true {
                    panic!("a test of the net")
                }
            }),
        );
    (observer.around(routes), metrics)
}

/// Asks as if from `peer`; status, id and body.
async fn ask(app: &Router, peer: &str, path: &str, headers: &[(&str, &str)]) -> (StatusCode, String, String) {
    let mut request = http::Request::get(path).body(Body::empty()).unwrap();
    for (name, value) in headers {
        request.headers_mut().append(http::HeaderName::try_from(*name).unwrap(), value.parse().unwrap());
    }
    request.extensions_mut().insert(Arc::new(Connection::plain("devices", format!("{peer}:4711").parse().unwrap())));
    let response = app.clone().oneshot(request).await.unwrap();
    let id = response.headers()[request_id::HEADER].to_str().unwrap().to_owned();
    let status = response.status();
    let body = axum::body::to_bytes(response.into_body(), 10_000).await.unwrap();
    (status, id, String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn the_log_shows_requests_and_no_secrets() {
    let (app, _) = app();
    let (log, _guard) = Log::caught();
    let (_, id, _) = ask(&app, "192.0.2.1", "/enroll/s3cr3t-c0de/profile?s3cr3t=1", &[]).await;
    ask(&app, "192.0.2.1", "/scep?operation=PKIOperation&message=s3cr3t", &[]).await;
    ask(&app, "192.0.2.1", "/devices/serial:C02", &[]).await;
    assert_eq!(ask(&app, "192.0.2.1", "/enrol/s3cr3t-c0de", &[]).await.0, 404);
    let text = log.text();
    assert!(!text.contains("s3cr3t"), "{text}");
    assert!(text.contains("/enroll/…/profile") && text.contains(&id), "{text}");
    assert!(text.contains("/devices/serial:C02") && text.contains("client=192.0.2.1"), "{text}");
    assert!(text.contains("(no route)") && text.contains("status=404"), "{text}");
}

#[test]
fn times_are_short_to_read() {
    let shown = |nanos| in_milliseconds(Duration::from_nanos(nanos)).to_string();
    assert_eq!(
        [shown(40), shown(84_333), shown(1_249_999_777), shown(30_000_000_000)],
        ["0", "0.084", "1250", "30000"]
    );
}

#[tokio::test]
async fn polls_are_logged_more_quietly() {
    let (app, _) = app();
    let (log, _guard) = Log::caught();
    ask(&app, "192.0.2.1", "/mdm", &[]).await;
    ask(&app, "192.0.2.1", "/scep", &[]).await;
    let text = log.text();
    let levels: Vec<_> = text.lines().filter_map(|line| line.split_whitespace().nth(1)).collect();
    assert_eq!(levels, ["DEBUG", "INFO"], "{text}");
}

#[tokio::test]
async fn an_id_and_an_address_are_taken_from_trusted_proxies_only() {
    let (app, _) = app();
    let headers = [("x-request-id", "given-by-proxy"), ("x-forwarded-for", "203.0.113.9")];
    let (_, id, address) = ask(&app, "10.0.0.7", "/address", &headers).await;
    assert_eq!((id.as_str(), address.as_str()), ("given-by-proxy", "203.0.113.9"));
    let (_, id, address) = ask(&app, "192.0.2.66", "/address", &headers).await;
    assert_ne!(id, "given-by-proxy");
    assert_eq!((id.len(), address.as_str()), (32, "192.0.2.66"));
}

#[tokio::test]
async fn a_problem_names_the_request() {
    let (app, _) = app();
    let (status, id, body) = ask(&app, "192.0.2.1", "/problem", &[]).await;
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status.as_u16(), body["request_id"].as_str()), (404, Some(id.as_str())));
}

#[tokio::test]
async fn a_panic_is_answered_and_counted() {
    let (app, metrics) = app();
    let (status, id, body) = ask(&app, "192.0.2.1", "/panic", &[]).await;
    assert_eq!(status, 500);
    assert!(!body.contains("a test of the net") && !id.is_empty(), "{body}");
    assert_eq!(ask(&app, "192.0.2.1", "/mdm", &[]).await.0, 200);
    let text = metrics.render();
    assert!(text.contains("muster_panics_total 1"), "{text}");
    assert!(text.contains("muster_http_requests_total{route=\"/panic\",method=\"GET\",status=\"500\"} 1"), "{text}");
    assert!(text.contains("muster_http_requests_in_flight 0"), "{text}");
}

#[tokio::test]
async fn labels_do_not_grow_with_what_clients_ask() {
    let (app, metrics) = app();
    for number in 0..100 {
        ask(&app, "192.0.2.1", &format!("/no/such/{number}"), &[]).await;
        ask(&app, "192.0.2.1", &format!("/devices/{number}"), &[]).await;
    }
    let text = metrics.render();
    assert_eq!(text.lines().filter(|line| line.starts_with("muster_http_requests_total{")).count(), 2, "{text}");
}

#[test]
fn paths_are_shown_by_their_route() {
    let shown = |route: &str, path: &str| shown_path(Some(route), path);
    assert_eq!(shown("/", "/"), "/");
    assert_eq!(shown("/enroll/{code}", "/enroll/abc"), "/enroll/…");
    assert_eq!(shown("/packages/{secret}/{name}", "/packages/abc/App.ipa"), "/packages/…/App.ipa");
    assert_eq!(shown("/api/docs/{*rest}", "/api/docs/a/b/c"), "/api/docs/…");
    assert_eq!(shown("/devices/{id}", &format!("/devices/{}", "x".repeat(1000))).chars().count(), 201);
    assert_eq!(shown_path(None, "/anything"), "(no route)");
}
