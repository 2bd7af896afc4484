//! Devices of a NanoMDM fleet: taken over without their certificates, bound to them when they come, and served their
//! declarations by a hook.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Request, State};
use axum::response::{IntoResponse as _, Response};
use http::StatusCode;
use http_body_util::BodyExt as _;
use muster::model::{CaId, Secret};
use muster::pki::authority::{issue_device_certificate, make_device_ca};
use muster::pki::request::Subject;
use muster::pki::{Authority, Certificate, CertificateRequest};
use muster::remote::hooks::{HEADER, sign, verifies};
use muster::store::AuthorityRow;
use plist::Value;
use serde_json::json;
use tokio::net::TcpListener;

use crate::support::compat::{Tool, command, json};
use crate::support::db::{Fixture, TestDb};
use crate::support::edge::{CHECK_IN, Phone, xml};
use crate::support::ready::rsa;
use crate::support::rows::{DAY, TOPIC};

/// A server that binds devices which were taken over to the first certificate they come with.
struct Moving(Tool);

impl Fixture for Moving {
    async fn on(db: TestDb) -> Self {
        Self(Tool::with(db, "pin_on_first_use = true", "").await)
    }
}

/// The key of the hook's signatures.
const HOOK_KEY: &str = "a key for signatures";

/// What a hook was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Asked {
    method: String,
    path: String,
    id: String,
    kind: String,
    parent: Option<String>,
    content_type: Option<String>,
    body: Vec<u8>,
}

type Notes = Arc<Mutex<Vec<Asked>>>;

/// A server whose declarations are a hook's affair, and what the hook was asked.
struct Declaring {
    tool: Tool,
    notes: Notes,
}

impl Fixture for Declaring {
    async fn on(db: TestDb) -> Self {
        let notes = Notes::default();
        let routes = Router::new().fallback(hook).with_state(notes.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move { axum::serve(listener, routes).await });
        let settings = format!(
            "declarative_management_url = \"http://127.0.0.1:{port}/ddm/\"\ndeclarative_management_key = {HOOK_KEY:?}\n\
             [hooks]\nallow = [\"127.0.0.1\"]\n"
        );
        Self { tool: Tool::with(db, "", &settings).await, notes }
    }
}

async fn hook(State(notes): State<Notes>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes().to_vec();
    let key = Secret::new(HOOK_KEY.to_owned());
    let text = |name: &str| parts.headers.get(name).map(|value| value.to_str().unwrap().to_owned());
    let signature = text(HEADER).unwrap_or_default();
    assert!(verifies(&key, &body, signature.as_bytes()), "each request is signed");
    let path = parts.uri.path().to_owned();
    notes.lock().unwrap().push(Asked {
        method: parts.method.to_string(),
        path: path.clone(),
        id: text("x-enrollment-id").unwrap_or_default(),
        kind: text("x-enrollment-type").unwrap_or_default(),
        parent: text("x-enrollment-parentid"),
        content_type: text("content-type"),
        body,
    });
    let (status, body) = match path.as_str() {
        "/ddm/tokens" => (StatusCode::OK, "{\"SyncTokens\":{}}"),
        "/ddm/status" => (StatusCode::OK, ""),
        "/ddm/declaration/asset/unauthorized" => (StatusCode::UNAUTHORIZED, "no"),
        "/ddm/declaration/asset/moved" => (StatusCode::FOUND, "there"),
        "/ddm/declaration/asset/forged" => {
            return (StatusCode::OK, [(HEADER, sign(&key, b"other"))], "x").into_response();
        }
        _ => (StatusCode::NOT_FOUND, "none"),
    };
    (status, [(HEADER, sign(&key, body.as_bytes()))], Bytes::from_static(body.as_bytes())).into_response()
}

/// A text as nginx writes it into a header.
fn escaped(text: &str) -> String {
    let escape = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' => char::from(byte).to_string(),
        other => format!("%{other:02X}"),
    };
    text.bytes().map(escape).collect()
}

/// What a phone told its earlier server.
pub fn authenticate(udid: &str) -> Vec<u8> {
    xml(&[
        ("MessageType", "Authenticate".into()),
        ("UDID", udid.into()),
        ("Topic", TOPIC.into()),
        ("SerialNumber", format!("SN{udid}").into()),
        ("DeviceName", "Old phone".into()),
    ])
}

pub fn token_update(ids: &[(&str, Value)]) -> Vec<u8> {
    let mut members = vec![
        ("MessageType", Value::from("TokenUpdate")),
        ("Topic", TOPIC.into()),
        ("Token", Value::Data(vec![7; 32])),
        ("PushMagic", "magic".into()),
        ("UnlockToken", Value::Data(b"escrow".to_vec())),
    ];
    members.extend_from_slice(ids);
    xml(&members)
}

/// Takes a phone over; it has a certificate of the earlier server's CA.
async fn taken_over(tool: &Tool, udid: &str) -> Phone {
    assert_eq!(tool.put("/migration", authenticate(udid)).await.status, 200);
    let answer = tool.put("/migration", token_update(&[("UDID", udid.into())])).await;
    assert_eq!((answer.status.as_u16(), answer.bytes.as_slice()), (200, b"".as_slice()));
    Phone { edge: tool.edge.clone(), udid: udid.to_owned(), certificate: foreign(tool, udid).await }
}

/// A certificate of a CA that is accepted here and issues elsewhere.
pub async fn foreign(tool: &Tool, name: &str) -> Certificate {
    let t = &tool.edge.t;
    let ca = foreign_ca(tool);
    let row = AuthorityRow {
        id: t.db.id(CaId::new),
        purpose: "device".to_owned(),
        slot: None,
        name: "The earlier server's".to_owned(),
        certificate: ca.certificate.der().to_vec(),
        sha256: ca.certificate.sha256,
        key_sealed: None,
        issues_elsewhere: true,
        not_after: ca.certificate.not_after,
        created_at: t.now(),
        retired_at: None,
    };
    let mut tx = t.db.write().await;
    if !tx.authorities("device").await.unwrap().iter().any(|known| known.sha256 == row.sha256) {
        assert!(tx.insert_authority(&row).await.unwrap());
    }
    tx.commit().await.unwrap();
    t.app.reload_trust().await.unwrap();
    let request = CertificateRequest::make(&rsa(4), &Subject::common_name(name), None).unwrap();
    issue_device_certificate(&ca, &request, None, t.now(), 365 * DAY, &*t.db.random).unwrap()
}

pub fn foreign_ca(tool: &Tool) -> Authority {
    static CA: std::sync::OnceLock<Authority> = std::sync::OnceLock::new();
    CA.get_or_init(|| {
        let random = muster::model::SeededRandomness::new(11);
        let begin = tool.edge.t.now().minus(Duration::from_secs(3600));
        make_device_ca(&rsa(5), "Earlier CA", "Example", begin, &random).unwrap()
    })
    .clone()
}

/// Asks for something by declarative management; the status, and the answer.
async fn declare(phone: &Phone, endpoint: &str, data: Option<&[u8]>) -> (u16, Vec<u8>) {
    let mut more = vec![("Endpoint", Value::from(endpoint))];
    more.extend(data.map(|data| ("Data", Value::Data(data.to_vec()))));
    let answer = phone.check_in("DeclarativeManagement", &more).await;
    (answer.status.as_u16(), answer.body.to_vec())
}

both_databases! {
    async fn a_device_is_taken_over_and_goes_on_without_enrolling(moving: Moving) {
        let tool = moving.0.ready().await;
        let phone = taken_over(&tool, "PHONE-1").await;
        let row = phone.enrollment().await;
        assert_eq!((row.state.as_str(), row.topic.as_deref()), ("enabled", Some(TOPIC)));
        let user = [("UDID", "PHONE-1".into()), ("UserID", "USER-1".into()), ("UserShortName", "kim".into())];
        assert_eq!(tool.put("/migration", token_update(&user)).await.status, 200);

        // It can be pushed to and gets commands before it has ever come.
        json(tool.enqueue("PHONE-1,PHONE-1:USER-1", command("CMD1", "ProfileList", &[])).await, 200);
        let done = phone.finish_all().await;
        assert_eq!(done[0], "ProfileList", "what an admin asked for comes first: {done:?}");
        let devices = tool.api.get("/api/v1/devices").await.expect(200);
        assert_eq!(devices["items"][0]["serial"], "SNPHONE-1", "{devices}");
        assert!(tool.edge.t.audited().await.contains(&"enrollment.migrated".to_owned()));

        // What was entrusted to the earlier server came along.
        phone.ask(json!({"type": "clear_passcode"})).await;
        let clear = phone.idle().await.unwrap();
        assert_eq!(clear.payload["UnlockToken"].as_data(), Some(b"escrow".as_slice()));
    }

    async fn a_device_is_bound_once_to_the_certificate_that_it_comes_with(moving: Moving) {
        let tool = moving.0;
        let phone = taken_over(&tool, "PHONE-1").await;
        let other = taken_over(&tool, "PHONE-2").await;
        phone.idle().await.unwrap();
        let thief = Phone { certificate: foreign(&tool, "PHONE-9").await, ..phone.clone() };
        assert_eq!(thief.put("", xml(&[("Status", "Idle".into()), ("UDID", "PHONE-1".into())])).await.status, 403);
        let twin = Phone { certificate: phone.certificate.clone(), ..other.clone() };
        assert_eq!(twin.put("", xml(&[("Status", "Idle".into()), ("UDID", "PHONE-2".into())])).await.status, 403);
        other.idle().await.unwrap();

        // Who enrolled here is bound already.
        let own = tool.phone("PHONE-3").await;
        let thief = Phone { certificate: foreign(&tool, "PHONE-8").await, ..own };
        assert_eq!(thief.put("", xml(&[("Status", "Idle".into()), ("UDID", "PHONE-3".into())])).await.status, 403);
    }

    async fn a_fleet_behind_a_proxy_is_served_as_it_is(db: TestDb) {
        let proxy = "identity_form = \"pem\"\nidentity_header = \"X-Ssl-Client-Cert\"";
        let tool = Tool::behind(db, proxy, "pin_on_first_use = true", "").await;
        let phone = taken_over(&tool, "PHONE-1").await;
        let body = token_update(&[("UDID", "PHONE-1".into())]);
        let put = |path: &'static str, kind: &'static str, body: Vec<u8>| {
            let request = http::Request::put(path)
                .header("Content-Type", kind)
                .header("X-Ssl-Client-Cert", escaped(&phone.certificate.to_pem()));
            phone.edge.send(request.body(axum::body::Body::from(body)).unwrap())
        };
        assert_eq!(put("/checkin", CHECK_IN, body).await.status, 200);
        let idle = xml(&[("Status", "Idle".into()), ("UDID", "PHONE-1".into())]);
        assert!(put("/mdm", "", idle.clone()).await.command().is_some());
        let by_a_stranger = http::Request::put("/mdm")
            .header("X-Ssl-Client-Cert", escaped(&foreign(&tool, "X").await.to_pem()))
            .body(axum::body::Body::from(idle));
        assert_eq!(phone.edge.send(by_a_stranger.unwrap()).await.status, 403);
    }

    async fn without_the_setting_nobody_is_bound(tool: Tool) {
        let phone = taken_over(&tool, "PHONE-1").await;
        let answer = phone.put("", xml(&[("Status", "Idle".into()), ("UDID", "PHONE-1".into())])).await;
        assert_eq!(answer.status, 403);
        let answer = phone.token_update(None).await;
        assert_eq!(answer.status, 403);
        // It can enroll anew.
        phone.enroll().await;
        assert_eq!(phone.enrollment().await.generation, 2);
    }

    async fn a_migration_can_be_run_again_and_harms_nobody(moving: Moving) {
        let tool = moving.0;
        let phone = taken_over(&tool, "PHONE-1").await;
        json(tool.enqueue("PHONE-1", command("CMD1", "ProfileList", &[])).await, 200);
        taken_over(&tool, "PHONE-1").await;
        assert_eq!(phone.enrollment().await.generation, 1);
        assert_eq!(phone.finish_all().await[0], "ProfileList", "what waited still waits");
        // The device tells this server itself from here on.
        let more = [("Topic", TOPIC.into()), ("Token", Value::Data(vec![9; 32])), ("PushMagic", "new".into())];
        assert_eq!(phone.check_in("TokenUpdate", &more).await.status, 200);
        taken_over(&tool, "PHONE-1").await;
        assert_eq!(phone.enrollment().await.push_magic.as_deref(), Some("new"));
    }

    async fn what_cannot_be_taken_over_is_refused(tool: Tool) {
        let update = token_update(&[("UDID", "PHONE-1".into())]);
        assert_eq!(tool.put("/migration", update).await.status, 500, "TokenUpdate before any Authenticate");
        let check_out = xml(&[("MessageType", "CheckOut".into()), ("UDID", "PHONE-1".into()), ("Topic", TOPIC.into())]);
        for body in [b"junk".to_vec(), check_out, Vec::new()] {
            assert_eq!(tool.put("/migration", body).await.status, 400);
        }
        assert_eq!(tool.put("/migration", authenticate("PHONE-1")).await.status, 200);
        let user = token_update(&[("UDID", "PHONE-1".into()), ("UserID", "USER-1".into())]);
        assert_eq!(tool.put("/migration", user).await.status, 500, "a user before the device");
        let phone = tool.phone("PHONE-2").await;
        tool.api.delete(&format!("/api/v1/devices/{}", phone.device_id().await)).await.expect(204);
        assert_eq!(tool.put("/migration", authenticate("PHONE-2")).await.status, 500, "removed here");
    }

    async fn the_hook_answers_for_the_declarations(declaring: Declaring) {
        let Declaring { tool, notes } = declaring;
        let phone = tool.phone("PHONE-1").await;
        let asked = || notes.lock().unwrap().drain(..).collect::<Vec<_>>();
        assert_eq!(declare(&phone, "tokens", None).await, (200, b"{\"SyncTokens\":{}}".to_vec()));
        let plain = Asked {
            method: "GET".to_owned(),
            path: "/ddm/tokens".to_owned(),
            id: "PHONE-1".to_owned(),
            kind: "Device".to_owned(),
            parent: None,
            content_type: None,
            body: Vec::new(),
        };
        assert_eq!(asked(), std::slice::from_ref(&plain));
        assert_eq!(declare(&phone, "status", Some(b"{\"a\":1}")).await, (200, Vec::new()));
        let put = Asked {
            method: "PUT".to_owned(),
            path: "/ddm/status".to_owned(),
            content_type: Some("application/json".to_owned()),
            body: b"{\"a\":1}".to_vec(),
            ..plain.clone()
        };
        assert_eq!(asked(), [put]);

        assert_eq!(declare(&phone, "declaration/configuration/org.example.a", None).await.0, 404);
        assert_eq!(asked()[0].path, "/ddm/declaration/configuration/org.example.a");
        for hostile in ["//evil.example.org/", "../tokens", "declaration/asset/../../x", "other", "declaration/a/b"] {
            assert_eq!(declare(&phone, hostile, None).await.0, 404, "{hostile}");
        }
        assert_eq!(asked(), []);
        for odd in ["unauthorized", "moved", "forged"] {
            let (status, body) = declare(&phone, &format!("declaration/asset/{odd}"), None).await;
            assert_eq!((status, body), (500, Vec::new()), "{odd}");
        }
        asked();

        let user = [
            ("MessageType", Value::from("DeclarativeManagement")),
            ("UDID", "PHONE-1".into()),
            ("UserID", "USER-1".into()),
            ("Endpoint", "tokens".into()),
        ];
        assert_eq!(phone.put(CHECK_IN, xml(&user)).await.status, 200);
        let expected = Asked {
            id: "PHONE-1:USER-1".to_owned(),
            kind: "User".to_owned(),
            parent: Some("PHONE-1".to_owned()),
            ..plain
        };
        assert_eq!(asked(), [expected]);

        let stranger = Phone { certificate: tool.edge.certificate("X").await, ..phone };
        assert_eq!(declare(&stranger, "tokens", None).await.0, 403);
        assert_eq!(asked(), [], "nobody is asked for a stranger");
    }

    async fn a_hook_on_a_private_address_is_not_asked_unless_it_is_listed(db: TestDb) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let settings = format!("declarative_management_url = \"http://localhost:{port}/\"\n");
        let tool = Tool::with(db, "", &settings).await;
        let phone = tool.phone("PHONE-1").await;
        assert_eq!(declare(&phone, "tokens", None).await.0, 500);
        let nobody = tokio::time::timeout(Duration::from_millis(50), listener.accept()).await;
        assert!(nobody.is_err(), "nobody connected");
    }
}
