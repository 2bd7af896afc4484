//! A small MDM server, just enough to judge a phone by.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Query, State};
use axum::http::{Extensions, HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use plist::{Dictionary, Value};
use tokio::net::TcpListener;
use url::Url;

use super::{Environment, KeySource, Phone, PhoneOptions, Trust, WakeService, text};
use crate::http::listener::{Connection, Limits as Bounds, Listener, serve};
use crate::http::tls::{ServerCertificate, Tls};
use crate::http::{Metrics, Proxies, Shutdown};
use crate::model::{Clock, ManualClock, Randomness, SeededRandomness, Timestamp};
use crate::pki::authority::{self, Authority};
use crate::pki::scep::server as scep;
use crate::pki::scep::{FailInfo, MessageType};
use crate::pki::signature::{SignaturePolicy, verify_header};
use crate::pki::{Certificate, Identity, PrivateKey, identity, profile};
use crate::protocol::wire::{self, Limits};
use crate::protocol::{command, report};
use crate::simulator::apns::{FakeApns, Options};

const NOW: Timestamp = Timestamp::from_seconds(1_795_000_000);
const DAY: Duration = Duration::from_secs(86_400);
const TOPIC: &str = "com.apple.mgmt.External.1";
pub(super) const PACKAGE_BYTES: usize = 200_000;

pub(super) struct Server {
    shared: Arc<Shared>,
    shutdown: Shutdown,
    port: u16,
    plain_port: u16,
}

struct Shared {
    clock: Arc<ManualClock>,
    random: Arc<SeededRandomness>,
    device_ca: Authority,
    root: Authority,
    signer: Identity,
    base: String,
    world: Mutex<World>,
}

pub(super) struct World {
    pub(super) challenge: String,
    pub(super) roots_in_profile: bool,
    pub(super) repeats_after_not_now: bool,
    pub(super) broken_answer: Option<(u16, String)>,
    /// Commands for whoever comes.
    pub(super) queue: VecDeque<(String, Vec<u8>)>,
    /// Commands that each device gets once, in this order.
    pub(super) for_each_device: Vec<&'static str>,
    /// By device: the commands that it has done, and those that it put off in this connection.
    done: BTreeMap<String, BTreeSet<String>>,
    put_off: BTreeMap<String, BTreeSet<String>>,
    check_ins: Vec<Dictionary>,
    reports: Vec<Dictionary>,
    bootstrap_token: Option<Value>,
    issued: Vec<Certificate>,
    number: usize,
}

fn keys() -> Arc<[PrivateKey]> {
    static KEYS: OnceLock<Arc<[PrivateKey]>> = OnceLock::new();
    Arc::clone(KEYS.get_or_init(|| (0..3).map(|_| PrivateKey::generate_rsa(2048).unwrap()).collect()))
}

impl Server {
    pub(super) async fn start() -> Self {
        let (clock, random) = (Arc::new(ManualClock::new(NOW)), Arc::new(SeededRandomness::new(9)));
        let keys = keys();
        let device_ca = authority::make_device_ca(&keys[2], "Device CA", "Example", NOW, random.as_ref()).unwrap();
        let root = authority::make_tls_root("Root", "Example", NOW, random.as_ref()).unwrap();
        let names = ["127.0.0.1".to_owned()];
        let leaf = authority::issue_server_certificate(&root, &names, NOW, 90 * DAY, random.as_ref()).unwrap();
        let signer =
            authority::issue_profile_signer(&root, keys[2].clone(), "Example", NOW, 90 * DAY, random.as_ref()).unwrap();
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let plain_socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = socket.local_addr().unwrap().port();
        let plain_port = plain_socket.local_addr().unwrap().port();

        let leaf = Identity::from(leaf);
        let certificate = ServerCertificate::new(leaf.rustls_chain(), leaf.rustls_key()).unwrap();
        let accepted = [identity::rustls_certificate(&device_ca.certificate)];
        let tls = Tls::for_devices(Arc::new(certificate), &accepted).unwrap();
        let world = World {
            challenge: "challenge".to_owned(),
            roots_in_profile: true,
            repeats_after_not_now: false,
            broken_answer: None,
            queue: VecDeque::new(),
            for_each_device: Vec::new(),
            done: BTreeMap::new(),
            put_off: BTreeMap::new(),
            check_ins: Vec::new(),
            reports: Vec::new(),
            bootstrap_token: None,
            issued: Vec::new(),
            number: 0,
        };
        let base = format!("https://127.0.0.1:{port}");
        let signer = Identity::from(signer);
        let world = Mutex::new(world);
        let shared = Arc::new(Shared { clock, random, device_ca, root, signer, base, world });
        let app = Router::new()
            .route("/enroll/code", get(page))
            .route("/enroll/code/profile", get(enrollment_profile))
            .route("/scep", any(scep_operation))
            .route("/mdm", any(mdm))
            .route("/manifest.plist", get(manifest))
            .route("/app.ipa", get(package))
            .with_state(Arc::clone(&shared));
        let listener = |socket, tls| Listener {
            name: "devices",
            socket,
            tls,
            app: app.clone(),
            limits: Bounds::default(),
            proxies: Proxies::none(),
        };
        let listeners = vec![listener(socket, Some(Arc::new(tls))), listener(plain_socket, None)];
        let shutdown = Shutdown::new();
        tokio::spawn(serve(listeners, shutdown.clone(), Metrics::new("test")));
        Self { shared, shutdown, port, plain_port }
    }

    pub(super) async fn stop(&self) {
        self.shutdown.abort();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    pub(super) fn url(&self, path: &str) -> Url {
        format!("https://127.0.0.1:{}{path}", self.port).parse().unwrap()
    }

    pub(super) fn link(&self) -> Url {
        self.url("/enroll/code")
    }

    pub(super) fn plain_url(&self) -> Url {
        format!("http://127.0.0.1:{}", self.plain_port).parse().unwrap()
    }

    pub(super) fn environment(&self) -> Environment {
        let keys = keys();
        Environment {
            clock: Arc::clone(&self.shared.clock) as Arc<dyn Clock>,
            random: Arc::clone(&self.shared.random) as Arc<dyn Randomness>,
            keys: KeySource::Given(keys[..2].iter().cloned().collect()),
            wakes: WakeService::None,
        }
    }

    /// A phone that believes this server's root already, unless the options say otherwise.
    pub(super) fn phone(&self, number: usize, mut options: PhoneOptions) -> Phone {
        if matches!(&options.page_trust, Trust::Roots(roots) if roots.is_empty()) {
            options.page_trust = Trust::Roots(vec![self.shared.root.certificate.clone()]);
        }
        Phone::new(number, options, self.environment())
    }

    pub(super) fn set(&self, change: impl FnOnce(&mut World)) {
        change(&mut self.shared.world.lock().unwrap());
    }

    pub(super) fn queue(&self, request_type: &str, payload: Vec<(&str, Value)>) {
        self.set(|world| {
            world.number += 1;
            let uuid = format!("COMMAND-{}", world.number);
            let body = command::encode(&uuid, request_type, super::dictionary(payload));
            world.queue.push_back((uuid, body));
        });
    }

    pub(super) fn check_ins(&self) -> Vec<Dictionary> {
        self.shared.world.lock().unwrap().check_ins.clone()
    }

    pub(super) fn reports(&self) -> Vec<Dictionary> {
        self.shared.world.lock().unwrap().reports.clone()
    }

    pub(super) fn enrollment_profile(&self) -> Vec<u8> {
        self.shared.enrollment_profile()
    }

    pub(super) fn plain_profile(&self, identifier: &str) -> Vec<u8> {
        wire::write(&payload("Configuration", identifier, vec![("PayloadContent", Value::Array(Vec::new()))]))
    }

    pub(super) async fn with_push(&self) -> FakeApns {
        let environment = self.environment();
        FakeApns::start(Options::default(), environment.clock, environment.random).await.unwrap()
    }

    /// Hands a wake to every device, without the detour through HTTP/2.
    pub(super) async fn push_to_all(&self, apns: &FakeApns) {
        for message in self.check_ins().iter().filter(|message| message.contains_key("Token")) {
            let token = message.get("Token").unwrap().as_data().unwrap();
            apns.deliver(token, &text(message, "PushMagic"));
        }
    }
}

impl Shared {
    fn enrollment_profile(&self) -> Vec<u8> {
        let world = self.world.lock().unwrap();
        let common_name = Value::Array(vec![Value::Array(vec![Value::from("CN"), Value::from("device")])]);
        let scep = super::dictionary(vec![
            ("URL", Value::from(format!("{}/scep?lost", self.base))),
            ("Subject", Value::Array(vec![common_name])),
            ("Challenge", Value::from(world.challenge.as_str())),
            ("Keysize", Value::from(2048)),
            ("CAFingerprint", Value::Data(self.device_ca.certificate.sha256.0.to_vec())),
        ]);
        let mdm = vec![
            ("ServerURL", Value::from(format!("{}/mdm", self.base))),
            ("Topic", Value::from(TOPIC)),
            ("IdentityCertificateUUID", Value::from("org.example.scep")),
            ("AccessRights", Value::from(8191)),
            ("SignMessage", Value::from(true)),
            ("CheckOutWhenRemoved", Value::from(true)),
        ];
        let mut content = vec![
            payload(super::super::profile::SCEP, "org.example.scep", vec![("PayloadContent", Value::Dictionary(scep))]),
            payload(super::super::profile::MDM, "org.example.mdm", mdm),
        ];
        if world.roots_in_profile {
            let root = Value::Data(self.root.certificate.der().to_vec());
            content.push(payload("com.apple.security.root", "org.example.root", vec![("PayloadContent", root)]));
        }
        let content = vec![("PayloadContent", Value::Array(content))];
        let plist = wire::write(&payload("Configuration", "org.example.enrollment", content));
        profile::sign(&plist, &self.signer, Some(&self.root.certificate), self.clock.now()).unwrap()
    }
}

fn payload(kind: &str, identifier: &str, more: Vec<(&str, Value)>) -> Value {
    let mut members = super::dictionary(vec![
        ("PayloadType", Value::from(kind)),
        ("PayloadVersion", Value::from(1)),
        ("PayloadIdentifier", Value::from(identifier)),
        ("PayloadUUID", Value::from(identifier)),
    ]);
    members.extend(super::dictionary(more));
    Value::Dictionary(members)
}

async fn page() -> Response {
    ([(header::CONTENT_TYPE, "text/html")], "<a href=\"/enroll/code/profile\">Install</a>").into_response()
}

async fn enrollment_profile(State(shared): State<Arc<Shared>>) -> Response {
    ([(header::CONTENT_TYPE, "application/x-apple-aspen-config")], shared.enrollment_profile()).into_response()
}

async fn scep_operation(
    State(shared): State<Arc<Shared>>,
    method: Method,
    uri: axum::http::Uri,
    Query(query): Query<BTreeMap<String, String>>,
    body: Bytes,
) -> Response {
    match query.get("operation").map(String::as_str) {
        Some("GetCACert") => {
            let der = shared.device_ca.certificate.der().to_vec();
            ([(header::CONTENT_TYPE, "application/x-x509-ca-cert")], der).into_response()
        }
        Some("GetCACaps") => "POSTPKIOperation\nSHA-256\nAES\nSCEPStandard\nRenewal\n".into_response(),
        Some("PKIOperation") => {
            let message = if method == Method::POST {
                body.to_vec()
            } else {
                // The `+` of unescaped base64 must not be read as a space.
                let text = uri.query().unwrap().split("message=").nth(1).unwrap();
                STANDARD.decode(text).unwrap()
            };
            let answer = scep_answer(&shared, &message);
            ([(header::CONTENT_TYPE, "application/x-pki-message")], answer).into_response()
        }
        _ => StatusCode::BAD_REQUEST.into_response(),
    }
}

fn scep_answer(shared: &Shared, message: &[u8]) -> Vec<u8> {
    let (now, random) = (shared.clock.now(), shared.random.as_ref());
    let request = scep::read(message, &[&shared.device_ca], false).unwrap();
    let mut world = shared.world.lock().unwrap();
    let entitled = match request.message_type {
        MessageType::PkcsReq => {
            request.csr.challenge.as_ref().is_some_and(|challenge| *challenge.expose() == world.challenge)
        }
        _ => world.issued.contains(&request.signer),
    };
    if !entitled {
        return scep::failure(&shared.device_ca, &request.reply_to, FailInfo::BadRequest, now, random).unwrap();
    }
    let issued =
        authority::issue_device_certificate(&shared.device_ca, &request.csr, None, now, 365 * DAY, random).unwrap();
    world.issued.push(issued.clone());
    scep::success(&shared.device_ca, &request.reply_to, &issued, now, random).unwrap()
}

async fn mdm(State(shared): State<Arc<Shared>>, headers: HeaderMap, extensions: Extensions, body: Bytes) -> Response {
    if !has_identity(&shared, &headers, &extensions, &body) {
        return (StatusCode::BAD_REQUEST, "no identity").into_response();
    }
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if kind.starts_with("application/x-apple-aspen-mdm-checkin") {
        return check_in(&shared, &body);
    }
    let mut world = shared.world.lock().unwrap();
    if let Some((status, text)) = world.broken_answer.clone() {
        let kind = if text.starts_with('{') { "application/json" } else { "text/plain" };
        return (StatusCode::from_u16(status).unwrap(), [(header::CONTENT_TYPE, kind)], text).into_response();
    }
    let report = report::decode(&body, Limits::REPORT).unwrap();
    world.reports.push(report.body.clone());
    next_command(&mut world, &report).into_response()
}

/// TLS, signature or header; those that are there must name an issued certificate.
fn has_identity(shared: &Shared, headers: &HeaderMap, extensions: &Extensions, body: &[u8]) -> bool {
    let mut found = Vec::new();
    let connection = Connection::of(extensions).unwrap();
    found.extend(connection.certificate.iter().map(|certificate| certificate.der().to_vec()));
    if let Some(signature) = headers.get("Mdm-Signature") {
        let policy = SignaturePolicy { allow_sha1: true, skew: DAY };
        let signed = verify_header(signature.to_str().unwrap(), body, policy, shared.clock.now()).unwrap();
        found.push(signed.signer.der().to_vec());
    }
    if let Some(value) = headers.get("Client-Cert").filter(|_| !connection.tls) {
        let value = value.to_str().unwrap();
        found.push(match value.strip_prefix(':') {
            Some(value) => STANDARD.decode(value.trim_end_matches(':')).unwrap(),
            None => {
                let pem: String =
                    url::form_urlencoded::parse(format!("a={value}").as_bytes()).map(|(_, text)| text).collect();
                Certificate::from_pem_many(pem.as_bytes()).unwrap()[0].der().to_vec()
            }
        });
    }
    let world = shared.world.lock().unwrap();
    !found.is_empty() && found.iter().all(|der| world.issued.iter().any(|issued| issued.der() == der.as_slice()))
}

fn check_in(shared: &Shared, body: &[u8]) -> Response {
    let message = wire::dictionary(wire::read(body, Limits::CHECK_IN).unwrap()).unwrap();
    let mut world = shared.world.lock().unwrap();
    world.check_ins.push(message.clone());
    match text(&message, "MessageType").as_str() {
        "SetBootstrapToken" => world.bootstrap_token = message.get("BootstrapToken").cloned(),
        "GetBootstrapToken" => {
            if let Some(token) = world.bootstrap_token.clone() {
                let answer = super::dictionary(vec![("BootstrapToken", token)]);
                return wire::write(&Value::Dictionary(answer)).into_response();
            }
        }
        "DeclarativeManagement" => return StatusCode::NOT_FOUND.into_response(),
        _ => (),
    }
    empty()
}

fn next_command(world: &mut World, report: &report::Report) -> Response {
    use crate::model::ReportStatus::{Idle, NotNow};
    let device = report.sender.apple_id.id.clone();
    let put_off = world.put_off.entry(device.clone()).or_default();
    match (report.status, &report.command_uuid) {
        (Idle, _) => put_off.clear(),
        (NotNow, Some(uuid)) => {
            if !world.repeats_after_not_now {
                put_off.insert(uuid.clone());
            }
        }
        (_, Some(uuid)) => {
            world.queue.retain(|(queued, _)| queued != uuid);
            world.done.entry(device.clone()).or_default().insert(uuid.clone());
        }
        (_, None) => (),
    }
    let put_off = put_off_of(world, &device);
    if let Some((_, body)) = world.queue.iter().find(|(uuid, _)| !put_off.contains(uuid)) {
        return body.clone().into_response();
    }
    let done = world.done.get(&device).cloned().unwrap_or_default();
    for request_type in &world.for_each_device {
        let uuid = format!("{request_type}-{device}");
        if put_off.contains(&uuid) {
            break;
        }
        if !done.contains(&uuid) {
            return command::encode(&uuid, request_type, Dictionary::new()).into_response();
        }
    }
    empty()
}

fn put_off_of(world: &World, device: &str) -> BTreeSet<String> {
    world.put_off.get(device).cloned().unwrap_or_default()
}

fn empty() -> Response {
    ([(header::CONTENT_LENGTH, "0")], "").into_response()
}

async fn manifest(State(shared): State<Arc<Shared>>) -> Response {
    let asset = super::dictionary(vec![
        ("kind", Value::from("software-package")),
        ("url", Value::from(format!("{}/app.ipa", shared.base))),
    ]);
    let metadata = super::dictionary(vec![
        ("bundle-identifier", Value::from("org.example.app")),
        ("bundle-version", Value::from("3")),
        ("title", Value::from("App")),
    ]);
    let item = super::dictionary(vec![
        ("assets", Value::Array(vec![Value::Dictionary(asset)])),
        ("metadata", Value::Dictionary(metadata)),
    ]);
    let items = super::dictionary(vec![("items", Value::Array(vec![Value::Dictionary(item)]))]);
    wire::write(&Value::Dictionary(items)).into_response()
}

async fn package(headers: HeaderMap) -> Response {
    let mut bytes = vec![7; PACKAGE_BYTES];
    bytes[..2].copy_from_slice(b"PK");
    let range = headers[header::RANGE].to_str().unwrap().strip_prefix("bytes=").unwrap().to_owned();
    let (from, to) = range.split_once('-').unwrap();
    let (from, to): (usize, usize) = (from.parse().unwrap(), to.parse().unwrap());
    let content_range = format!("bytes {from}-{to}/{PACKAGE_BYTES}");
    let piece = bytes[from..=to.min(PACKAGE_BYTES - 1)].to_vec();
    (StatusCode::PARTIAL_CONTENT, [(header::CONTENT_RANGE, content_range)], piece).into_response()
}
