//! The device edge without a network: messages go to the routes as a trusted proxy would hand them on.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt as _;
use muster::config::Settings;
use muster::http::{Connection, Metrics};
use muster::model::{CaId, CommandId, DeviceId, EnrollmentId, Timestamp};
use muster::pki::authority::{DEVICE_CA_BITS, issue_device_certificate, make_device_ca};
use muster::pki::request::Subject;
use muster::pki::signature::{SigningQuirks, sign_header};
use muster::pki::{Authority, Certificate, CertificateRequest, PrivateKey};
use muster::protocol::command::{self, Command};
use muster::protocol::wire;
use muster::service::commands::{Accepted, NewCommand, Targets, accept};
use muster::service::{Actor, App, Error, Parts};
use muster::store::{AuthorityRow, CertificateRow, Delivery, Enrollment, NewChallenge};
use plist::{Dictionary, Value};
use serde_json::json;
use tower::ServiceExt as _;

use super::app::TestApp;
use super::db::{Fixture, START, TestDb};
use super::rows::{self, DAY, TOPIC, terms};

/// What a device edge behind a proxy needs.
const SETTINGS: &str = "[devices]\ntls = \"behind_proxy\"\n[proxy]\ntrusted = [\"127.0.0.1\"]\n";

/// The device edge on an app of its own, with a device CA of its own.
#[derive(Clone)]
pub struct Edge {
    pub t: TestApp,
    pub ca: CaId,
    routes: Router,
}

impl Fixture for Edge {
    async fn on(db: TestDb) -> Self {
        Self::with(db, "").await
    }
}

/// An answer of the device edge.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// The CA of all stories: its key takes a while to make.
fn authority() -> &'static Authority {
    static CA: OnceLock<Authority> = OnceLock::new();
    CA.get_or_init(|| {
        let key = PrivateKey::generate_rsa(DEVICE_CA_BITS).unwrap();
        let random = muster::model::SeededRandomness::new(7);
        make_device_ca(&key, "Example Device CA", "Example", START, &random).unwrap()
    })
}

/// A key for devices; what tells devices apart is the certificate.
fn device_key() -> &'static PrivateKey {
    static KEY: OnceLock<PrivateKey> = OnceLock::new();
    KEY.get_or_init(|| PrivateKey::generate_rsa(2048).unwrap())
}

impl Edge {
    /// With more settings, in TOML (tables other than `devices` and `proxy`).
    pub async fn with(db: TestDb, settings: &str) -> Self {
        Self::with_devices(db, "", settings).await
    }

    /// With more settings for `devices`, and others.
    pub async fn with_devices(db: TestDb, devices: &str, settings: &str) -> Self {
        let text = SETTINGS.replace("[proxy]", &format!("{devices}\n[proxy]")) + settings;
        let t = TestApp::with(db, &text).await;
        let certificate = &authority().certificate;
        let row = AuthorityRow {
            id: t.db.id(CaId::new),
            purpose: "device".to_owned(),
            slot: Some("active".to_owned()),
            name: "Example Device CA".to_owned(),
            certificate: certificate.der().to_vec(),
            sha256: certificate.sha256,
            key_sealed: None,
            issues_elsewhere: false,
            not_after: certificate.not_after,
            created_at: t.now(),
            retired_at: None,
        };
        let mut tx = t.db.write().await;
        assert!(tx.insert_authority(&row).await.unwrap());
        tx.commit().await.unwrap();
        t.app.reload_trust().await.unwrap();
        let routes = muster::http::mdm::router(t.app.clone(), Metrics::new("test"));
        Self { t, ca: row.id, routes }
    }

    /// The same server after a restart with other settings: this `public_url`, and tables other than `devices` and
    /// `proxy`.
    pub fn restarted(&self, public_url: &str, tables: &str) -> Self {
        let text = format!("public_url = {public_url:?}\ndata_dir = {:?}\n{SETTINGS}{tables}", self.t.directory.path());
        let app = App::new(Parts {
            store: self.t.db.store.clone(),
            settings: Settings::parse(Path::new("muster.toml"), &text, []).unwrap(),
            vault: self.t.app.vault().clone(),
            clock: self.t.db.clock.clone(),
            random: self.t.db.random.clone(),
            pusher: self.t.pusher.clone(),
        });
        let routes = muster::http::mdm::router(app.clone(), Metrics::new("test"));
        Self { t: TestApp { app, ..self.t.clone() }, ca: self.ca, routes }
    }

    /// A certificate of the CA that stands in no issuing record.
    pub fn unrecorded_certificate(&self, name: &str) -> Certificate {
        let request = CertificateRequest::make(device_key(), &Subject::common_name(name), None).unwrap();
        let validity = Duration::from_secs(365 * 86_400);
        issue_device_certificate(authority(), &request, None, self.t.now(), validity, &*self.t.db.random).unwrap()
    }

    /// A certificate with its issuing record, as if by a profile of this server with the standard identifier.
    pub async fn certificate(&self, name: &str) -> Certificate {
        self.certificate_by(name, Some("muster.enrollment")).await
    }

    /// A certificate with its issuing record, by a profile with this identifier, or by one that was made elsewhere.
    pub async fn certificate_by(&self, name: &str, identifier: Option<&str>) -> Certificate {
        let db = &self.t.db;
        let certificate = self.unrecorded_certificate(name);
        let terms = identifier.map(terms);
        let challenge = NewChallenge { terms: terms.as_ref().map(|terms| terms.sha256), ..rows::challenge(db, None) };
        let mut tx = db.write().await;
        if let Some(terms) = &terms {
            tx.put_terms(terms, db.now()).await.unwrap();
        }
        tx.insert_challenge(&challenge, db.now()).await.unwrap();
        tx.use_challenge(challenge.id, None).await.unwrap();
        tx.commit().await.unwrap();
        self.record(&certificate, |row| row.challenge_id = Some(challenge.id)).await;
        certificate
    }

    /// Records a certificate as issued, with what a story changes of the record.
    pub async fn record(&self, certificate: &Certificate, change: impl FnOnce(&mut CertificateRow)) {
        let mut row = CertificateRow {
            sha256: certificate.sha256,
            authority_id: self.ca,
            serial: certificate.serial.clone(),
            subject: certificate.subject.clone(),
            public_key_sha256: certificate.public_key_sha256,
            der: certificate.der().to_vec(),
            challenge_id: None,
            enrollment_id: None,
            generation: None,
            not_before: certificate.not_before,
            not_after: certificate.not_after,
            issued_at: self.t.now(),
            revoked_at: None,
            revoked_reason: None,
        };
        change(&mut row);
        let mut tx = self.t.db.write().await;
        tx.insert_certificate(&row).await.unwrap();
        tx.commit().await.unwrap();
    }

    /// A phone that has a certificate and is not enrolled.
    pub async fn phone(&self, udid: &str) -> Phone {
        Phone { edge: self.clone(), udid: udid.to_owned(), certificate: self.certificate(udid).await }
    }

    /// A phone that is enrolled, with its first inventory done.
    pub async fn enrolled(&self, udid: &str) -> Phone {
        let phone = self.phone(udid).await;
        phone.enroll().await;
        phone.finish_all().await;
        phone
    }

    /// Sends a request as the trusted proxy.
    pub async fn send(&self, request: Request<Body>) -> Answer {
        self.send_from("127.0.0.1:40000", request).await
    }

    /// Sends a request from an address.
    pub async fn send_from(&self, peer: &str, mut request: Request<Body>) -> Answer {
        let peer: SocketAddr = peer.parse().unwrap();
        // Ids order what happened by the millisecond.
        self.t.db.clock.advance(Duration::from_millis(1));
        request.extensions_mut().insert(Arc::new(Connection::plain("devices", peer)));
        let response = self.routes.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        assert_ne!(parts.status, StatusCode::UNAUTHORIZED, "a device must never get 401");
        let body = body.collect().await.unwrap().to_bytes();
        Answer { status: parts.status, headers: parts.headers, body }
    }

    /// Asks for something as an admin.
    pub async fn command(&self, targets: Targets, command: serde_json::Value) -> Result<Accepted, Error> {
        self.command_with(targets, command, |_| {}).await
    }

    /// As [`Edge::command`], with more to say.
    pub async fn command_with(
        &self,
        targets: Targets,
        command: serde_json::Value,
        change: impl FnOnce(&mut NewCommand),
    ) -> Result<Accepted, Error> {
        self.t.db.clock.advance(Duration::from_millis(1));
        let mut new = NewCommand { targets, command, confirm: None, expires_at: None, priority: None, no_push: false };
        change(&mut new);
        accept(&self.t.app, &Actor::command_line(), new).await
    }
}

/// The header in which the proxy hands on a certificate.
pub fn client_cert(certificate: &Certificate) -> String {
    format!(":{}:", STANDARD.encode(certificate.der()))
}

/// A phone: what it is, and the certificate that it has.
#[derive(Clone)]
pub struct Phone {
    pub edge: Edge,
    pub udid: String,
    pub certificate: Certificate,
}

/// A property list from JSON-like pieces.
pub fn xml(members: &[(&str, Value)]) -> Vec<u8> {
    let members: Dictionary = members.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
    wire::write(&Value::Dictionary(members))
}

pub const CHECK_IN: &str = "application/x-apple-aspen-mdm-checkin";
pub const REPORT: &str = "application/x-apple-aspen-mdm";

impl Phone {
    /// Sends a body with the phone's certificate.
    pub async fn put(&self, content_type: &str, body: impl Into<Body>) -> Answer {
        let request = Request::put("/mdm")
            .header("Content-Type", content_type)
            .header("Client-Cert", client_cert(&self.certificate))
            .body(body.into())
            .unwrap();
        self.edge.send(request).await
    }

    /// The value of `Mdm-Signature` for a body.
    pub fn signature(&self, body: &[u8]) -> String {
        let by = Authority { certificate: self.certificate.clone(), key: device_key().clone() };
        sign_header(body, &by.into(), SigningQuirks::default(), self.edge.t.now()).unwrap()
    }

    /// Sends a check-in message.
    pub async fn check_in(&self, kind: &str, more: &[(&str, Value)]) -> Answer {
        let mut members = vec![("MessageType", Value::from(kind)), ("UDID", Value::from(self.udid.as_str()))];
        members.extend_from_slice(more);
        self.put(CHECK_IN, xml(&members)).await
    }

    pub async fn authenticate(&self) -> Answer {
        self.check_in(
            "Authenticate",
            &[
                ("Topic", TOPIC.into()),
                ("SerialNumber", format!("SN{}", self.udid).into()),
                ("DeviceName", "Test iPhone".into()),
                ("Model", "MTM93".into()),
                ("OSVersion", "18.1".into()),
            ],
        )
        .await
    }

    /// TokenUpdate with an unlock token, if it has one to give.
    pub async fn token_update(&self, unlock_token: Option<&[u8]>) -> Answer {
        let mut more = vec![
            ("Topic", Value::from(TOPIC)),
            ("Token", Value::Data(vec![7; 32])),
            ("PushMagic", Value::from("magic")),
        ];
        if let Some(token) = unlock_token {
            more.push(("UnlockToken", Value::Data(token.to_vec())));
        }
        self.check_in("TokenUpdate", &more).await
    }

    /// Authenticate and TokenUpdate.
    pub async fn enroll(&self) {
        assert_eq!(self.authenticate().await.status, 200);
        assert_eq!(self.token_update(Some(b"unlock")).await.status, 200);
    }

    /// Sends a report and reads the next command.
    pub async fn report_with(&self, status: &str, uuid: Option<&str>, more: &[(&str, Value)]) -> Option<Command> {
        let mut members = vec![("Status", Value::from(status)), ("UDID", Value::from(self.udid.as_str()))];
        if let Some(uuid) = uuid {
            members.push(("CommandUUID", uuid.into()));
        }
        members.extend_from_slice(more);
        self.put(REPORT, xml(&members)).await.command()
    }

    /// Begins a connection.
    pub async fn idle(&self) -> Option<Command> {
        self.report_with("Idle", None, &[]).await
    }

    pub async fn acknowledge(&self, command: &Command) -> Option<Command> {
        self.report_with("Acknowledged", Some(&command.uuid), &[]).await
    }

    pub async fn not_now(&self, command: &Command) -> Option<Command> {
        self.report_with("NotNow", Some(&command.uuid), &[]).await
    }

    /// Takes and acknowledges all that there is. Returns the request types.
    pub async fn finish_all(&self) -> Vec<String> {
        let mut done = Vec::new();
        let mut next = self.idle().await;
        while let Some(command) = next {
            done.push(command.request_type.clone());
            next = self.acknowledge(&command).await;
        }
        done
    }

    /// The enrollment's row.
    pub async fn enrollment(&self) -> Enrollment {
        self.edge.t.db.read().await.enrollment_by_apple_id(&self.udid).await.unwrap().unwrap()
    }

    pub async fn id(&self) -> EnrollmentId {
        self.enrollment().await.id
    }

    pub async fn device_id(&self) -> DeviceId {
        self.enrollment().await.device_id
    }

    /// As a target.
    pub async fn target(&self) -> Targets {
        Targets::Devices(vec![self.device_id().await])
    }

    /// The same phone, on a server that was restarted.
    pub async fn on(&self, edge: &Edge) -> Self {
        edge.t.app.reload_trust().await.unwrap();
        Self { edge: edge.clone(), ..self.clone() }
    }

    /// Has an admin ask for something on this phone.
    pub async fn ask(&self, command: serde_json::Value) -> CommandId {
        self.edge.command(self.target().await, command).await.unwrap().id
    }

    /// Has an admin ask for something harmless.
    pub async fn ask_apps(&self) -> CommandId {
        self.ask(json!({"type": "installed_apps"})).await
    }

    /// The delivery of a command to this phone.
    pub async fn delivery(&self, command: CommandId) -> Delivery {
        let id = self.id().await;
        self.edge.t.db.read().await.delivery(id, command).await.unwrap().unwrap()
    }

    /// The states that a delivery went through.
    pub async fn states(&self, command: CommandId) -> Vec<String> {
        let id = self.id().await;
        let steps = self.edge.t.db.read().await.transitions(id, command).await.unwrap();
        steps.iter().map(|step| step.state.to_string()).collect()
    }

    /// When it is woken next, if at all.
    pub async fn wake_at(&self) -> Option<Timestamp> {
        let id = self.id().await;
        self.edge.t.db.read().await.wake(id).await.unwrap().and_then(|wake| wake.due_at)
    }
}

impl Answer {
    /// The command in the answer; none for 200 with an empty body.
    pub fn command(&self) -> Option<Command> {
        assert_eq!(self.status, 200, "{self:?}");
        if self.body.is_empty() { None } else { Some(command::decode(&self.body).unwrap()) }
    }
}

/// A long time.
pub const YEAR: Duration = Duration::from_secs(365 * DAY.as_secs());
