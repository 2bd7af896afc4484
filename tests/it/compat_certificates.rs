//! Push certificates by NanoMDM's interface, and what Apple is asked under them.

use std::sync::{Arc, Mutex};

use axum::body::Body;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use http::HeaderValue;
use muster::http::compat;
use muster::pki::push::issue_fake;
use muster::pki::{PrivateKey, authority::make_tls_root};
use muster::remote::apns::{ApnsIdentity, Push, PushOutcome, Pusher, Unlock, UnlockAnswer};
use muster::service::{App, Parts};
use serde_json::json;

use crate::support::compat::{Tool, json};
use crate::support::rows::{DAY, TOPIC};

/// What Apple needs to lift an activation lock.
const FORM: &str = "topic=com.apple.mgmt.External.7f3a&serial=ABC123&productType=iPad4%2C1&escrowKey=AAAA-BBBB&\
                    orgName=Example+School&guid=kim%40example.org&imei=1";

/// Takes notes of what Apple is asked to unlock.
#[derive(Default)]
struct Apple(Mutex<Vec<(String, Unlock)>>);

impl Pusher for Apple {
    fn push<'a>(&'a self, _: &'a ApnsIdentity, _: &'a Push) -> BoxFuture<'a, PushOutcome> {
        std::future::ready(PushOutcome::Accepted { apns_id: None }).boxed()
    }

    fn unlock<'a>(
        &'a self,
        identity: &'a ApnsIdentity,
        unlock: &'a Unlock,
    ) -> BoxFuture<'a, Result<UnlockAnswer, String>> {
        self.0.lock().unwrap().push((identity.topic().to_owned(), unlock.clone()));
        let content_type = Some(HeaderValue::from_static("application/json"));
        let body = bytes::Bytes::from_static(b"{\"code\":1}");
        std::future::ready(Ok(UnlockAnswer { status: 403, content_type, body })).boxed()
    }
}

both_databases! {
    async fn a_push_certificate_is_stored_replaced_and_told_of(tool: Tool) {
        let (now, random) = (tool.edge.t.now(), &*tool.edge.t.db.random);
        let first = json(tool.put("/v1/pushcert", tool.push_certificate(TOPIC, 100 * DAY)).await, 200);
        assert_eq!(first["topic"], TOPIC);
        let path = format!("/v1/pushcert?topic={TOPIC}");
        assert_eq!(json(tool.get(&path).await, 200), first);

        // An RSA key as PKCS#1, before its certificate, the two glued together.
        let key = crate::support::ready::rsa(3);
        let pkcs1 = pkcs1(&key);
        let root = make_tls_root("Nobody", "", now, random).unwrap();
        let made = issue_fake(&root, key, TOPIC, now, 200 * DAY, random).unwrap();
        let glued = format!("{}{}", pkcs1.trim_end(), made.identity.certificate.to_pem());
        assert!(glued.contains("----------BEGIN"));
        let second = json(tool.put("/v1/pushcert", glued).await, 200);
        assert!(second["not_after"].as_str() > first["not_after"].as_str(), "{second}");
        assert_eq!(json(tool.get(&path).await, 200), second);
        let kept = tool.api.get("/api/v1/apns/certificate").await.expect(200);
        assert_eq!(kept["items"].as_array().unwrap().len(), 1, "{kept}");
        assert!(tool.edge.t.audited().await.contains(&"push_certificate.stored".to_owned()));
    }

    async fn an_expired_one_is_taken_and_its_fault_shows_elsewhere(tool: Tool) {
        tool.edge.phone("PHONE-1").await.enroll().await;
        let old = tool.push_certificate(TOPIC, DAY);
        tool.edge.t.db.clock.advance(10 * DAY);
        json(tool.put("/v1/pushcert", old).await, 200);
        let pushed = json(tool.get("/v1/push/PHONE-1").await, 500);
        assert!(pushed["push_error"].as_str().unwrap().contains("expired"), "{pushed}");
        // It never takes the place of the one by which new devices enroll.
        let other = tool.push_certificate("com.apple.mgmt.External.other", 365 * DAY);
        json(tool.put("/v1/pushcert", other).await, 200);
        let kept = tool.api.get("/api/v1/apns/certificate").await.expect(200);
        assert_eq!(kept["items"][0]["topic"], TOPIC, "{kept}");
        assert_eq!(kept["items"][0]["default"], true, "{kept}");
    }

    async fn what_is_no_push_certificate_is_refused(tool: Tool) {
        assert!(json(tool.get("/v1/pushcert").await, 400)["error"].as_str().unwrap().contains("topic"));
        let unknown = json(tool.get("/v1/pushcert?topic=com.apple.mgmt.x").await, 500);
        assert!(unknown["error"].is_string(), "{unknown}");
        let good = tool.push_certificate(TOPIC, DAY);
        let (certificate, key) = good.split_once("-----BEGIN PRIVATE").unwrap();
        let other = tool.push_certificate(TOPIC, DAY);
        let (_, other_key) = other.split_once("-----BEGIN PRIVATE").unwrap();
        let wrong = [
            String::new(),
            "junk".to_owned(),
            certificate.to_owned(),
            format!("-----BEGIN PRIVATE{key}"),
            format!("{certificate}-----BEGIN PRIVATE{other_key}"),
            tool.push_certificate("com.example.app", DAY),
        ];
        for file in wrong {
            let answer = json(tool.put("/v1/pushcert", file).await, 400);
            assert!(answer["error"].as_str().is_some_and(|why| !why.is_empty()), "{answer}");
        }
        let kept = tool.api.get("/api/v1/apns/certificate").await.expect(200);
        assert_eq!(kept["items"], json!([]));
    }

    async fn apple_is_asked_to_lift_an_activation_lock(tool: Tool) {
        let tool = tool.ready().await;
        let apple = Arc::new(Apple::default());
        let t = &tool.edge.t;
        let app = App::new(Parts {
            store: t.db.store.clone(),
            settings: t.app.settings.clone(),
            vault: t.app.vault().clone(),
            clock: t.db.clock.clone(),
            random: t.db.random.clone(),
            pusher: apple.clone(),
        });
        let tool = Tool { routes: compat::router(&app), ..tool.clone() };
        for missing in ["serial", "productType", "escrowKey", "orgName", "guid", "topic"] {
            let form = FORM.replace(&format!("{missing}="), &format!("no{missing}="));
            let answer = json(tool.call("POST", "/v1/escrowkeyunlock", form).await, 400);
            assert!(answer["error"].is_string(), "{missing}: {answer}");
        }
        let unknown = FORM.replace("7f3a", "none");
        assert!(json(tool.call("POST", "/v1/escrowkeyunlock", unknown).await, 500)["error"].is_string());
        assert!(apple.0.lock().unwrap().is_empty(), "nothing was asked");

        let answer = tool.call("POST", "/v1/escrowkeyunlock", Body::from(FORM)).await;
        assert_eq!((answer.status.as_u16(), answer.bytes.as_slice()), (403, b"{\"code\":1}".as_slice()));
        let (topic, asked) = apple.0.lock().unwrap().pop().unwrap();
        assert_eq!((topic.as_str(), asked.endpoint.host_str()), (TOPIC, Some("deviceservices-external.apple.com")));
        let pairs = |pairs: &[(&'static str, String)]| format!("{pairs:?}");
        assert_eq!(pairs(&asked.device), r#"[("serial", "ABC123"), ("productType", "iPad4,1"), ("imei", "1")]"#);
        assert_eq!(
            pairs(&asked.form),
            r#"[("orgName", "Example School"), ("guid", "kim@example.org"), ("escrowKey", "AAAA-BBBB")]"#
        );
        assert!(!format!("{asked:?}").contains("AAAA-BBBB"));
        assert!(t.audited().await.contains(&"activation_lock.bypass_asked".to_owned()));
    }
}

/// An RSA key as older tools write it.
fn pkcs1(key: &PrivateKey) -> String {
    let pkcs8 = key.pkcs8_der().expose();
    // The inner key of PKCS#8 (RFC 5208) is the last octet string; for RSA of 2048 bits it begins at a fixed place.
    let inner = &pkcs8[26..];
    let text = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, inner);
    format!("-----BEGIN RSA PRIVATE KEY-----\n{text}\n-----END RSA PRIVATE KEY-----\n")
}
