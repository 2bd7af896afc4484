//! A server whose interface for NanoMDM's tools is on, and a tool that speaks it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::AUTHORIZATION;
use http::{HeaderMap, Request};
use http_body_util::BodyExt as _;
use muster::http::{Connection, compat};
use muster::pki::PrivateKey;
use muster::pki::authority::make_tls_root;
use muster::pki::push::issue_fake;
use muster::remote::apns::PushOutcome;
use muster::worker::Observers;
use plist::Value;
use serde_json::Value as Json;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use super::api::{Answer, Api};
use super::db::{Fixture, TestDb};
use super::edge::{Edge, Phone, xml};
use super::rows::{DAY, TOPIC};

/// The API key.
pub const KEY: &str = "0123456789abcdef";

/// The server, and Muster's own API beside.
#[derive(Clone)]
pub struct Tool {
    pub edge: Edge,
    pub api: Api,
    pub routes: Router,
}

impl Fixture for Tool {
    async fn on(db: TestDb) -> Self {
        Self::with(db, "", "").await
    }
}

impl Tool {
    /// With more settings for `devices` and `compat`, and other tables.
    pub async fn with(db: TestDb, devices: &str, compat: &str) -> Self {
        Self::behind(db, "", devices, compat).await
    }

    /// With more settings for `proxy`, too.
    pub async fn behind(db: TestDb, proxy: &str, devices: &str, compat: &str) -> Self {
        let tables = format!("{proxy}\n[compat]\nnanomdm = {KEY:?}\n{compat}\n");
        let edge = Edge::with_devices(db, devices, &tables).await;
        Self { api: Api::of(edge.t.clone()).await, routes: compat::router(&edge.t.app), edge }
    }

    /// With a push certificate, stored by the interface itself.
    pub async fn ready(self) -> Self {
        let answer = self.put("/v1/pushcert", self.push_certificate(TOPIC, 365 * DAY)).await;
        answer.expect(200);
        // Those that have waited for the certificate are woken, so that each later push is a story's own.
        muster::worker::run_due_jobs(&self.edge.t.app).await.unwrap();
        muster::service::wakes::send_due(&self.edge.t.app).await.unwrap();
        self
    }

    /// A push certificate of nobody's, with its key, both PEM.
    pub fn push_certificate(&self, topic: &str, validity: Duration) -> String {
        let (now, random) = (self.edge.t.now(), &*self.edge.t.db.random);
        let root = make_tls_root("Nobody", "", now, random).unwrap();
        let made = issue_fake(&root, PrivateKey::generate_p256().unwrap(), topic, now, validity, random).unwrap();
        format!("{}{}", made.identity.certificate.to_pem(), made.identity.key.to_pem().expose())
    }

    /// Sends a request as it is.
    pub async fn send(&self, mut request: Request<Body>) -> Answer {
        self.edge.t.db.clock.advance(Duration::from_millis(1));
        let peer: SocketAddr = "192.0.2.7:40000".parse().unwrap();
        request.extensions_mut().insert(Arc::new(Connection::plain("admin", peer)));
        let (parts, body) = self.routes.clone().oneshot(request).await.unwrap().into_parts();
        let bytes = body.collect().await.unwrap().to_bytes().to_vec();
        Answer { status: parts.status, headers: parts.headers, bytes }
    }

    /// Sends a request with the API key, and without any other header.
    pub async fn call(&self, method: &str, path: &str, body: impl Into<Body>) -> Answer {
        let request = Request::builder().method(method).uri(path).header(AUTHORIZATION, basic("nanomdm", KEY));
        self.send(request.body(body.into()).unwrap()).await
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.call("GET", path, Body::empty()).await
    }

    pub async fn put(&self, path: &str, body: impl Into<Body>) -> Answer {
        self.call("PUT", path, body).await
    }

    /// Puts a command into the queue of these ids without a push.
    pub async fn enqueue(&self, ids: &str, command: Vec<u8>) -> Answer {
        self.put(&format!("/v1/enqueue/{ids}?nopush=1"), command).await
    }

    /// Runs the server's workers until it is dropped.
    pub fn works(&self) -> Works {
        let stop = CancellationToken::new();
        let running = muster::worker::run(self.edge.t.app.clone(), stop.clone(), Observers::default());
        Works { stop, running: Some(tokio::spawn(running)) }
    }

    /// What the push service answers to the next push.
    pub fn apns_takes(&self, id: &str) {
        self.edge.t.pusher.answer(PushOutcome::Accepted { apns_id: Some(id.to_owned()) });
    }

    /// A phone that is enrolled with a certificate.
    pub async fn phone(&self, udid: &str) -> Phone {
        self.edge.enrolled(udid).await
    }
}

/// The workers of a server.
pub struct Works {
    stop: CancellationToken,
    running: Option<JoinHandle<()>>,
}

impl Works {
    /// Stops them.
    pub async fn stop(mut self) {
        self.stop.cancel();
        if let Some(running) = self.running.take() {
            running.await.unwrap();
        }
    }
}

impl Drop for Works {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// The value of `Authorization`.
pub fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

/// A command as a tool makes it.
pub fn command(uuid: &str, request_type: &str, more: &[(&str, Value)]) -> Vec<u8> {
    let mut members = vec![("RequestType", Value::from(request_type))];
    members.extend_from_slice(more);
    let members = members.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    xml(&[("Command", Value::Dictionary(members)), ("CommandUUID", Value::from(uuid))])
}

/// Sees to it that an answer is JSON with this status, and gives it.
#[track_caller]
pub fn json(answer: Answer, status: u16) -> Json {
    assert_eq!(answer.headers[http::header::CONTENT_TYPE], "application/json", "{answer:?}");
    answer.expect(status)
}

/// The headers of an answer that name who may ask.
pub fn challenge(headers: &HeaderMap) -> &str {
    headers[http::header::WWW_AUTHENTICATE].to_str().unwrap()
}
