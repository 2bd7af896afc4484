//! Webhooks, told of what devices send: in order, at least once, and of nothing when there are none.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use muster::model::{Role, Secret};
use muster::remote::hooks::{HEADER, sign_standard, verifies};
use muster::service::retention::{Sweep, next_batch};
use muster::service::webhooks::{clear_removed, count_waiting, send_due, send_idle, take_counts};
use muster::worker::Observers;
use plist::Value as Plist;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::support::api::Api;
use crate::support::db::{Fixture, START, TestDb};
use crate::support::edge::{CHECK_IN, Edge, Phone, REPORT, client_cert, xml};
use crate::support::receiver::{Receiver, Reply, Told};
use crate::support::rows::{DAY, HOUR, MINUTE, TOPIC};

const SETTINGS: &str = "[hooks]\nallow = [\"127.0.0.1\"]\n";
const SECRET: &str = "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=";

/// A server that may tell this machine's receiver, and its API.
#[derive(Clone)]
struct Telling {
    edge: Edge,
    api: Api,
    receiver: Receiver,
}

impl Fixture for Telling {
    async fn on(db: TestDb) -> Self {
        Self::with(db, "").await
    }
}

impl Telling {
    async fn with(db: TestDb, settings: &str) -> Self {
        let edge = Edge::with(db, &format!("{SETTINGS}{settings}")).await;
        Self { api: Api::of(edge.t.clone()).await, edge, receiver: Receiver::start().await }
    }

    /// Makes a webhook; gives its path.
    async fn webhook(&self, form: &str, more: Value) -> String {
        let mut body = json!({"name": "test", "url": self.receiver.url("/hook"), "form": form});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let made = self.api.post("/api/v1/webhooks", &body).await.expect(201);
        format!("/api/v1/webhooks/{}", made["id"].as_str().unwrap())
    }

    /// Sends what is due, and gives what was told.
    async fn sent(&self) -> Vec<Told> {
        send_due(&self.edge.t.app).await.unwrap();
        self.receiver.take()
    }

    async fn sent_topics(&self) -> Vec<String> {
        self.sent().await.iter().map(Told::topic).collect()
    }

    fn advance(&self, by: Duration) {
        self.edge.t.db.clock.advance(by);
    }

    async fn patch(&self, path: &str, change: Value) -> Value {
        let headers = [("content-type", "application/json"), ("if-match", "*")];
        self.api.call(Role::Admin, "PATCH", path, &headers, change.to_string().into()).await.expect(200)
    }

    fn counts(&self) -> Vec<(&'static str, u64)> {
        take_counts(&self.edge.t.app).into_iter().filter(|(_, count)| *count > 0).collect()
    }

    async fn rows(&self, table: &str) -> String {
        self.edge.t.db.texts(&format!("SELECT CAST(COUNT(*) AS TEXT) FROM {table}")).await.remove(0)
    }
}

/// The whole life of a phone, up to its end.
async fn live(edge: &Edge, udid: &str) -> Phone {
    let phone = edge.phone(udid).await;
    phone.enroll().await;
    phone.finish_all().await;
    phone.ask_apps().await;
    let command = phone.idle().await.unwrap();
    assert!(phone.not_now(&command).await.is_none());
    let message = [("AwaitingConfiguration", Plist::from(false))];
    assert_eq!(phone.check_in("GetBootstrapToken", &message).await.status, 200);
    let token = [("BootstrapToken", Plist::Data(b"boot".to_vec()))];
    assert_eq!(phone.check_in("SetBootstrapToken", &token).await.status, 200);
    let service = [("TokenServiceType", Plist::from("com.apple.maid"))];
    assert_eq!(phone.check_in("GetToken", &service).await.status, 404);
    assert_eq!(phone.check_in("DeclarativeManagement", &[("Endpoint", "tokens".into())]).await.status, 404);
    assert_eq!(phone.check_in("UserAuthenticate", &[("UserID", "USER-1".into())]).await.status, 410);
    assert_eq!(phone.token_update(None).await.status, 200);
    assert_eq!(phone.check_in("CheckOut", &[("Topic", TOPIC.into())]).await.status, 200);
    phone
}

both_databases! {
    async fn without_webhooks_no_message_touches_their_tables(db: TestDb) {
        let edge = Edge::on(db).await;
        for table in ["webhook_events", "webhook_lines"] {
            edge.t.db.execute(&format!("DROP TABLE {table}")).await;
        }
        live(&edge, "PHONE-1").await;
    }

    async fn nanomdm_is_told_as_by_nanomdm(t: Telling) {
        let key = "a secret of some length";
        let path = t.webhook("nanomdm", json!({"secret": key})).await;
        let shown = t.api.get(&path).await.expect(200);
        assert_eq!((&shown["signed"], &shown["raw"], &shown["topics"]), (&json!(true), &json!(true), &json!([])));
        assert!(!shown.to_string().contains(key));

        let phone = t.edge.phone("PHONE-1").await;
        phone.enroll().await;
        let told = t.sent().await;
        assert_eq!(told.iter().map(Told::topic).collect::<Vec<_>>(), ["mdm.Authenticate", "mdm.TokenUpdate"]);
        for told in &told {
            assert_eq!((told.path.as_str(), told.header("content-type")), ("/hook", "application/json"));
            let signature = told.header(HEADER).as_bytes();
            assert!(verifies(&Secret::new(key.to_owned()), &told.body, signature));
        }
        let (first, second) = (told[0].json(), told[1].json());
        let raw = |body: &Value, event: &str| {
            let text = body[event]["raw_payload"].as_str().unwrap();
            String::from_utf8(STANDARD.decode(text).unwrap()).unwrap()
        };
        assert!(raw(&first, "checkin_event").starts_with("<?xml"));
        assert!(raw(&first, "checkin_event").contains("SNPHONE-1"));
        let ids = json!({"id": "PHONE-1", "type": "Device"});
        let expected = json!({
            "topic": "mdm.Authenticate", "event_id": first["event_id"], "created_at": first["created_at"],
            "checkin_event": {
                "ids": ids, "udid": "PHONE-1", "raw_payload": first["checkin_event"]["raw_payload"],
            },
        });
        assert_eq!(first, expected);
        let expected = json!({
            "topic": "mdm.TokenUpdate", "event_id": second["event_id"], "created_at": second["created_at"],
            "checkin_event": {
                "ids": ids, "udid": "PHONE-1", "raw_payload": second["checkin_event"]["raw_payload"],
                "token_update_tally": 1,
            },
        });
        assert_eq!(second, expected);

        let command = phone.idle().await.unwrap();
        phone.acknowledge(&command).await;
        let report = t.sent().await[0].json();
        let expected = json!({
            "topic": "mdm.Connect", "event_id": report["event_id"], "created_at": report["created_at"],
            "acknowledge_event": {
                "ids": ids, "udid": "PHONE-1", "status": "Acknowledged", "command_uuid": command.uuid,
                "raw_payload": report["acknowledge_event"]["raw_payload"],
            },
        });
        assert_eq!(report, expected);
        assert!(raw(&report, "acknowledge_event").contains(&command.uuid));

        phone.token_update(None).await;
        assert_eq!(t.sent().await[0].json()["checkin_event"]["token_update_tally"], 2);
        assert_eq!(phone.check_in("CheckOut", &[("Topic", TOPIC.into())]).await.status, 200);
        let last = t.sent().await[0].json();
        assert_eq!((&last["topic"], &last["checkin_event"]["ids"]), (&json!("mdm.CheckOut"), &ids));
        assert_eq!(t.rows("webhook_events").await, "0", "what was sent goes");
    }

    async fn every_message_is_told_once_and_in_order(t: Telling) {
        t.webhook("nanomdm", json!({})).await;
        t.webhook("cloudevents", json!({"url": t.receiver.url("/own")})).await;
        live(&t.edge, "PHONE-1").await;
        let told = t.sent().await;
        let of = |path: &str| told.iter().filter(|told| told.path == path).map(Told::topic).collect::<Vec<_>>();
        assert_eq!(of("/hook"), [
            "mdm.Authenticate", "mdm.TokenUpdate", "mdm.Connect", "mdm.Connect", "mdm.Connect", "mdm.GetBootstrapToken",
            "mdm.SetBootstrapToken", "mdm.GetToken", "mdm.DeclarativeManagement", "mdm.UserAuthenticate",
            "mdm.TokenUpdate", "mdm.CheckOut",
        ]);
        assert_eq!(of("/own"), [
            "muster.device.authenticated", "muster.device.enrolled", "muster.command.answered",
            "muster.command.answered", "muster.command.answered", "muster.device.bootstrap_token_requested",
            "muster.device.bootstrap_token_set", "muster.device.token_requested", "muster.device.declarative_management",
            "muster.user.authenticating", "muster.device.token_updated", "muster.device.checked_out",
        ]);
        assert_eq!(t.counts(), [("delivered", 24)]);
        assert!(t.sent().await.is_empty());
    }

    async fn own_events_are_signed_and_hold_no_message(t: Telling) {
        let path = t.webhook("cloudevents", json!({"secret": SECRET})).await;
        let phone = t.edge.enrolled("PHONE-1").await;
        let device = phone.device_id().await;
        let told = t.sent().await;
        let body = told[1].json();
        assert_eq!(told[1].header("content-type"), "application/cloudevents+json");
        let expected = json!({
            "specversion": "1.0", "id": body["id"], "source": "https://mdm.example.org",
            "type": "muster.device.enrolled", "subject": device, "time": body["time"],
            "datacontenttype": "application/json",
            "data": {
                "device_id": device, "enrollment_id": phone.id().await, "channel": "device", "apple_id": "PHONE-1",
                "token_update_tally": 1,
            },
        });
        assert_eq!(body, expected);
        let key = Secret::new(STANDARD.decode(SECRET.trim_start_matches("whsec_")).unwrap());
        for told in &told {
            let (id, at) = (told.header("webhook-id"), told.header("webhook-timestamp").parse().unwrap());
            assert_eq!(id, told.json()["id"].as_str().unwrap());
            assert_eq!(at, t.edge.t.now().seconds());
            assert_eq!(told.header("webhook-signature"), sign_standard(&key, id, at, &told.body));
            assert_eq!(told.header(HEADER), "");
        }
        let answer = told[2].json();
        assert_eq!((&answer["type"], &answer["data"]["status"]), (&json!("muster.command.answered"), &json!("Acknowledged")));

        // With `raw` the message rides along, and with topics the rest does not come at all.
        t.patch(&path, json!({"raw": true, "topics": ["muster.device.token_updated"]})).await;
        phone.token_update(Some(b"unlock")).await;
        phone.ask_apps().await;
        phone.finish_all().await;
        let told = t.sent().await;
        assert_eq!(told.len(), 1);
        let raw = told[0].json()["data"]["raw"].as_str().map(|text| STANDARD.decode(text).unwrap()).unwrap();
        assert!(String::from_utf8(raw).unwrap().contains("UnlockToken"));
    }

    async fn a_made_secret_is_shown_once(t: Telling) {
        let body = json!({"name": "x", "url": t.receiver.url("/"), "form": "cloudevents"});
        let made = t.api.post_once("key", "/api/v1/webhooks", &body).await.expect(201);
        let secret = made["secret"].as_str().unwrap();
        assert!(secret.starts_with("whsec_") && made["signed"] == true);
        let again = t.api.post_once("key", "/api/v1/webhooks", &body).await.expect(201);
        assert_eq!((&again["secret"], &again["id"]), (&made["secret"], &made["id"]));
        let list = t.api.get("/api/v1/webhooks").await.expect(200);
        assert_eq!(list["items"].as_array().unwrap().len(), 1);
        assert!(!list.to_string().contains("whsec_"));
        let audit = t.api.get("/api/v1/audit?action=webhook.created").await.expect(200).to_string();
        assert!(audit.contains("127.0.0.1") && !audit.contains("whsec_"));
    }

    async fn what_is_not_taken_is_sent_again_before_what_follows(t: Telling) {
        t.webhook("cloudevents", json!({})).await;
        t.receiver.answers([Reply::status(500), Reply::status(302)]);
        let phone = t.edge.phone("PHONE-1").await;
        phone.enroll().await;
        let first = t.sent().await;
        assert_eq!(first.len(), 1, "nothing behind it is sent");
        assert!(t.sent().await.is_empty(), "not due yet");
        t.advance(Duration::from_secs(5));
        assert_eq!(t.sent().await.len(), 1, "a redirect is not followed, and no success");
        t.advance(Duration::from_secs(10));
        let then = t.sent().await;
        assert_eq!(then.iter().map(Told::topic).collect::<Vec<_>>(), ["muster.device.authenticated", "muster.device.enrolled"]);
        assert_eq!(then[0].json(), first[0].json(), "the same event, with the same id");
        assert_eq!(t.counts(), [("delivered", 2), ("failed", 2)]);
    }

    async fn a_receiver_that_asks_for_time_gets_it(t: Telling) {
        t.webhook("cloudevents", json!({})).await;
        t.receiver.answers([Reply { headers: vec![("retry-after", "1800")], ..Reply::status(503) }]);
        t.edge.phone("PHONE-1").await.authenticate().await;
        assert_eq!(t.sent().await.len(), 1);
        t.advance(29 * MINUTE);
        assert!(t.sent().await.is_empty());
        t.advance(2 * MINUTE);
        assert_eq!(t.sent().await.len(), 1);
    }

    async fn one_device_that_waits_holds_up_no_other(t: Telling) {
        t.webhook("nanomdm", json!({})).await;
        t.receiver.answers([Reply::status(500)]);
        t.edge.phone("PHONE-1").await.authenticate().await;
        assert_eq!(t.sent().await.len(), 1);
        t.edge.phone("PHONE-2").await.authenticate().await;
        let told = t.sent().await;
        assert_eq!((told.len(), &told[0].json()["checkin_event"]["udid"]), (1, &json!("PHONE-2")));
    }

    async fn what_is_never_taken_is_given_up_and_can_be_sent_again(t: Telling) {
        let path = t.webhook("cloudevents", json!({})).await;
        t.receiver.always(Some(Reply::status(500)));
        let phone = t.edge.phone("PHONE-1").await;
        phone.enroll().await;
        let mut tries = 0;
        for _ in 0..60 {
            tries += t.sent().await.len();
            t.advance(HOUR);
        }
        let dead = t.api.get(&format!("{path}/dead")).await.expect(200);
        let dead = dead["items"].as_array().unwrap();
        assert_eq!(dead.len(), 2);
        assert_eq!(dead[0]["topic"], "muster.device.authenticated");
        assert_eq!((&dead[0]["error"], &dead[0]["device_id"]), (&json!("it answered 500"), &json!(phone.device_id().await)));
        assert!((20..60).contains(&tries), "{tries}");
        let shown = t.api.get(&path).await.expect(200);
        assert_eq!((&shown["waiting"], &shown["dead"]), (&json!(0), &json!(2)));

        // What comes later is sent, and the others behind it when an admin says so.
        t.receiver.always(None);
        t.receiver.take();
        assert_eq!(phone.token_update(None).await.status, 200);
        let one = json!({"ids": [dead[0]["id"]]});
        assert_eq!(t.api.post(&format!("{path}/replay"), &one).await.expect(200), json!({"replayed": 1}));
        t.api.post(&format!("{path}/replay"), &one).await.problem(404, "not_found");
        assert_eq!(t.api.post(&format!("{path}/replay"), &json!({})).await.expect(200), json!({"replayed": 1}));
        let told = t.sent().await;
        assert_eq!(told.iter().map(Told::topic).collect::<Vec<_>>(), [
            "muster.device.token_updated", "muster.device.authenticated", "muster.device.enrolled",
        ]);
        assert_eq!(told[1].json()["id"], dead[0]["id"]);
        assert_eq!(t.rows("webhook_events").await, "0");
        assert!(t.edge.t.audited().await.contains(&"webhook.replayed".to_owned()));
    }

    async fn a_replayed_event_is_tried_as_long_as_a_new_one(t: Telling) {
        let path = t.webhook("cloudevents", json!({})).await;
        t.receiver.always(Some(Reply::status(500)));
        t.edge.phone("PHONE-1").await.authenticate().await;
        for _ in 0..40 {
            t.sent().await;
            t.advance(HOUR);
        }
        assert_eq!(t.api.post(&format!("{path}/replay"), &json!({})).await.expect(200), json!({"replayed": 1}));
        t.sent().await;
        let shown = t.api.get(&path).await.expect(200);
        assert_eq!((&shown["waiting"], &shown["dead"]), (&json!(1), &json!(0)));
    }

    async fn what_was_given_up_goes_when_it_is_old(t: Telling) {
        t.webhook("cloudevents", json!({})).await;
        t.receiver.always(Some(Reply::status(500)));
        t.edge.phone("PHONE-1").await.authenticate().await;
        for _ in 0..40 {
            t.sent().await;
            t.advance(HOUR);
        }
        let sweep = async || {
            let (mut sweep, mut gone) = (Sweep::default(), 0);
            while let Some(bit) = next_batch(&t.edge.t.app, &mut sweep).await.unwrap() {
                gone += bit.dead_events;
            }
            gone
        };
        assert_eq!(sweep().await, 0);
        t.advance(30 * DAY);
        assert_eq!(sweep().await, 1);
        assert_eq!(t.rows("webhook_events").await, "0");
    }

    async fn a_receiver_that_is_gone_is_left_alone_until_an_admin_says_otherwise(t: Telling) {
        let path = t.webhook("cloudevents", json!({})).await;
        t.receiver.answers([Reply::status(410)]);
        let phone = t.edge.phone("PHONE-1").await;
        phone.enroll().await;
        assert_eq!(t.sent().await.len(), 1);
        t.advance(HOUR);
        assert!(t.sent().await.is_empty());
        let shown = t.api.get(&path).await.expect(200);
        assert_eq!(shown["paused_reason"], "the receiver answered 410 (Gone)");
        assert_eq!(shown["waiting"], 2, "what it is to be told waits");
        assert!(t.edge.t.audited().await.contains(&"webhook.paused".to_owned()));
        let tried = t.api.post(&format!("{path}/test"), &json!({})).await.expect(200);
        assert_eq!(tried["delivered"], true);
        assert_eq!(t.receiver.take()[0].json()["type"], "muster.webhook.test");
        t.patch(&path, json!({"paused": false})).await;
        assert_eq!(t.sent_topics().await, ["muster.device.authenticated", "muster.device.enrolled"]);
    }

    async fn a_process_that_dies_in_mid_delivery_loses_nothing(t: Telling) {
        t.webhook("cloudevents", json!({})).await;
        t.receiver.answers([Reply::status(200), Reply { hangs: true, ..Reply::status(200) }]);
        let phone = t.edge.phone("PHONE-1").await;
        phone.enroll().await;
        let app = t.edge.t.app.clone();
        let mut tx = t.edge.t.db.write().await;
        tx.see_process(app.process, app.clock.now()).await.unwrap();
        tx.commit().await.unwrap();
        let sending = tokio::spawn(async move { send_due(&app).await });
        assert_eq!(t.receiver.wait(2).await.len(), 2);
        sending.abort();
        assert!(sending.await.unwrap_err().is_cancelled());

        // Another process, once that one was not seen for a while.
        let after = t.edge.restarted("https://mdm.example.org", SETTINGS);
        after.t.app.reload_webhooks().await.unwrap();
        send_due(&after.t.app).await.unwrap();
        assert!(t.receiver.take().is_empty(), "it counts as alive still");
        t.advance(Duration::from_secs(7));
        send_due(&after.t.app).await.unwrap();
        let told = t.receiver.take();
        assert_eq!(told.iter().map(Told::topic).collect::<Vec<_>>(), [
            "muster.device.authenticated", "muster.device.enrolled",
        ]);
        assert_eq!(t.rows("webhook_events").await, "0");
    }

    async fn workers_tell_soon_and_stop_soon(t: Telling) {
        t.webhook("cloudevents", json!({"idle": true})).await;
        let stop = CancellationToken::new();
        let running = tokio::spawn(muster::worker::run(t.edge.t.app.clone(), stop.clone(), Observers::default()));
        let phone = t.edge.phone("PHONE-1").await;
        phone.enroll().await;
        assert_eq!(t.receiver.wait(2).await.len(), 2);
        phone.finish_all().await;
        let told = t.receiver.wait(3).await;
        assert!(told.iter().any(|told| told.topic() == "muster.device.idle"));
        // A receiver that hangs does not hold the server up for longer than one message may take.
        stop.cancel();
        tokio::time::timeout(Duration::from_secs(12), running).await.unwrap().unwrap();
    }

    async fn polls_are_told_only_to_who_asks_and_never_written(t: Telling) {
        let path = t.webhook("nanomdm", json!({})).await;
        let phone = t.edge.enrolled("PHONE-1").await;
        t.sent().await;
        let stop = CancellationToken::new();
        assert!(phone.idle().await.is_none());
        send_idle(&t.edge.t.app, &stop).await.unwrap();
        assert!(t.sent().await.is_empty(), "off by default");

        t.patch(&path, json!({"idle": true})).await;
        t.webhook("cloudevents", json!({"url": t.receiver.url("/own"), "idle": true})).await;
        assert!(phone.idle().await.is_none());
        assert_eq!(t.rows("webhook_events").await, "0");
        send_idle(&t.edge.t.app, &stop).await.unwrap();
        let told = t.receiver.take();
        assert_eq!(told.len(), 2);
        let (own, nano): (Vec<_>, Vec<_>) = told.iter().partition(|told| told.path == "/own");
        let body = nano[0].json();
        assert_eq!((&body["topic"], &body["acknowledge_event"]["status"]), (&json!("mdm.Connect"), &json!("Idle")));
        assert!(body["acknowledge_event"].get("command_uuid").is_none());
        let body = own[0].json();
        assert_eq!((&body["type"], &body["subject"]), (&json!("muster.device.idle"), &json!(phone.device_id().await)));

        // A receiver that fails is told once; and what has no room is dropped.
        t.counts();
        t.receiver.answers([Reply::status(500), Reply::status(500)]);
        phone.idle().await;
        send_idle(&t.edge.t.app, &stop).await.unwrap();
        send_idle(&t.edge.t.app, &stop).await.unwrap();
        assert_eq!(t.receiver.take().len(), 2);
        assert_eq!(t.counts(), [("idle_failed", 2)]);
        let large = [("Filler", Plist::from("x".repeat(20_000)))];
        assert!(phone.report_with("Idle", None, &large).await.is_none());
        assert_eq!(t.counts(), [("idle_dropped", 1)]);
        phone.ask_apps().await;
        assert!(phone.idle().await.is_some(), "a poll that gets a command is told, too");
        send_idle(&t.edge.t.app, &stop).await.unwrap();
        assert_eq!(t.receiver.take().len(), 2);
    }

    async fn the_query_of_the_server_url_is_told(t: Telling) {
        t.webhook("nanomdm", json!({})).await;
        let phone = t.edge.enrolled("PHONE-1").await;
        t.sent().await;
        let body = xml(&[("MessageType", "CheckOut".into()), ("UDID", "PHONE-1".into()), ("Topic", TOPIC.into())]);
        let request = http::Request::put("/mdm?site=a%20b&site=c&empty=")
            .header("Content-Type", CHECK_IN)
            .header("Client-Cert", client_cert(&phone.certificate))
            .body(axum::body::Body::from(body))
            .unwrap();
        assert_eq!(t.edge.send(request).await.status, 200);
        assert_eq!(t.sent().await[0].json()["checkin_event"]["url_params"], json!({"site": "a b", "empty": ""}));
    }

    async fn a_report_that_tells_nothing_new_is_no_event_of_ours(t: Telling) {
        t.webhook("cloudevents", json!({})).await;
        let phone = t.edge.enrolled("PHONE-1").await;
        t.sent().await;
        phone.report_with("Acknowledged", Some("NOBODYS"), &[]).await;
        assert!(t.sent().await.is_empty());
        let stranger = Phone { certificate: t.edge.certificate("X").await, ..phone.clone() };
        let body = xml(&[("Status", "Acknowledged".into()), ("UDID", "PHONE-1".into()), ("CommandUUID", "A".into())]);
        assert_eq!(stranger.put(REPORT, body).await.status, 403);
        assert_eq!(stranger.check_in("CheckOut", &[("Topic", TOPIC.into())]).await.status, 403);
        assert_eq!(stranger.token_update(None).await.status, 403);
        assert!(t.sent().await.is_empty(), "of strangers nobody is told");
    }

    async fn failures_tell_why_the_command_failed(t: Telling) {
        t.webhook("cloudevents", json!({"topics": ["muster.command.answered"]})).await;
        let phone = t.edge.enrolled("PHONE-1").await;
        t.sent().await;
        phone.ask_apps().await;
        let command = phone.idle().await.unwrap();
        let item = Plist::Dictionary([
            ("ErrorCode".to_owned(), Plist::from(12021)),
            ("ErrorDomain".to_owned(), "MCMDMErrorDomain".into()),
            ("LocalizedDescription".to_owned(), "no".into()),
        ].into_iter().collect());
        phone.report_with("Error", Some(&command.uuid), &[("ErrorChain", Plist::Array(vec![item]))]).await;
        let data = t.sent().await[0].json()["data"].clone();
        assert_eq!((&data["status"], &data["errors"][0]["code"]), (&json!("Error"), &json!(12021)));
        assert_eq!(data["command_uuid"], command.uuid);
    }

    async fn a_webhook_that_is_removed_leaves_nothing(t: Telling) {
        let path = t.webhook("cloudevents", json!({})).await;
        let other = t.webhook("nanomdm", json!({"url": t.receiver.url("/other")})).await;
        let phone = t.edge.enrolled("PHONE-1").await;
        t.api.delete(&path).await.expect(204);
        t.api.get(&path).await.problem(404, "not_found");
        t.api.delete(&path).await.problem(404, "not_found");
        let told = t.sent().await;
        assert!(!told.is_empty() && told.iter().all(|told| told.path == "/other"));
        phone.token_update(None).await;
        let mut after = None;
        assert!(!clear_removed(&t.edge.t.app, &mut after).await.unwrap(), "another process may write for it still");
        t.advance(2 * MINUTE);
        let mut rounds = 0;
        while clear_removed(&t.edge.t.app, &mut after).await.unwrap() {
            rounds += 1;
        }
        assert!(rounds >= 1);
        assert_eq!((t.rows("webhooks").await, t.rows("webhook_lines").await), ("1".to_owned(), "1".to_owned()));
        assert_eq!(t.sent_topics().await, ["mdm.TokenUpdate"], "the other's events stay");
        assert_eq!(t.rows("webhook_events").await, "0");
        t.api.get(&other).await.expect(200);
    }

    async fn too_much_that_waits_is_not_added_to(db: TestDb) {
        let t = Telling::with(db, "max_waiting = 3\n").await;
        t.webhook("cloudevents", json!({})).await;
        let phone = t.edge.enrolled("PHONE-1").await;
        t.advance(MINUTE);
        let waiting = count_waiting(&t.edge.t.app).await.unwrap();
        assert_eq!(waiting.count, 4);
        assert!(waiting.oldest >= MINUTE && waiting.oldest < 2 * MINUTE);
        phone.token_update(None).await;
        assert_eq!(t.counts(), [("dropped", 1)]);
        assert_eq!(t.rows("webhook_events").await, "4");
        t.sent().await;
        assert_eq!(count_waiting(&t.edge.t.app).await.unwrap().count, 0);
        phone.token_update(None).await;
        assert_eq!(t.sent_topics().await, ["muster.device.token_updated"]);
    }

    async fn a_change_by_another_process_is_seen(t: Telling) {
        let path = t.webhook("cloudevents", json!({})).await;
        let other = t.edge.restarted("https://mdm.example.org", SETTINGS);
        let phone = t.edge.enrolled("PHONE-1").await.on(&other).await;
        t.sent().await;
        phone.token_update(None).await;
        assert!(t.sent().await.is_empty(), "it has not looked yet");
        other.t.app.reload_webhooks().await.unwrap();
        phone.token_update(None).await;
        assert_eq!(t.sent_topics().await, ["muster.device.token_updated"]);
        t.api.delete(&path).await.expect(204);
        other.t.app.reload_webhooks().await.unwrap();
        phone.token_update(None).await;
        assert_eq!(t.rows("webhook_events").await, "0");
    }

    async fn what_cannot_be_a_webhook_is_refused_with_all_its_faults(db: TestDb) {
        let api = Api::on(db).await;
        let post = async |body: Value| {
            let body = api.post("/api/v1/webhooks", &body).await.problem(422, "invalid_webhook");
            body["errors"].as_array().unwrap().iter().map(|e| e["pointer"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        let good = json!({"name": "x", "url": "https://hooks.example.org/", "form": "nanomdm"});
        let with = |change: Value| {
            let mut body = good.clone();
            body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
            body
        };
        for url in [
            "http://127.0.0.1/", "http://10.1.2.3/x", "http://[::1]:80/", "http://169.254.169.254/", "ftp://example.org/",
            "no url", "https://u:p@example.org/", "https://example.org/#x", "http://2130706433/",
        ] {
            assert_eq!(post(with(json!({"url": url}))).await, ["/url"], "{url}");
        }
        let all = json!({"url": "x", "topics": ["mdm.Connect", "muster.device.enrolled"], "raw": true, "secret": "short"});
        assert_eq!(post(with(all)).await, ["/url", "/topics/1", "/raw", "/secret"]);
        assert_eq!(post(with(json!({"form": "cloudevents", "secret": "sixteen letters!"}))).await, ["/secret"]);
        api.post("/api/v1/webhooks", &with(json!({"form": "xml"}))).await.problem(422, "invalid_request");

        let made = api.post("/api/v1/webhooks", &good).await.expect(201);
        assert!(made.get("secret").is_none() && made["signed"] == false);
        let path = format!("/api/v1/webhooks/{}", made["id"].as_str().unwrap());
        let patch = async |revision: &str, body: Value| {
            let headers = [("content-type", "application/json"), ("if-match", revision)];
            api.call(Role::Admin, "PATCH", &path, &headers, body.to_string().into()).await
        };
        patch("*", json!({"url": "http://192.168.0.1/"})).await.problem(422, "invalid_webhook");
        patch("\"1\"", json!({"name": "y"})).await.expect(200);
        patch("\"1\"", json!({"name": "z"})).await.problem(412, "revision_mismatch");
        for _ in 1..20 {
            api.post("/api/v1/webhooks", &good).await.expect(201);
        }
        api.post("/api/v1/webhooks", &good).await.problem(409, "too_many_webhooks");
    }

    async fn a_name_that_leads_to_this_machine_is_not_told(db: TestDb) {
        let edge = Edge::on(db).await;
        let (api, receiver) = (Api::of(edge.t.clone()).await, Receiver::start().await);
        let url = format!("http://localhost:{}/", receiver.port);
        let made = api.post("/api/v1/webhooks", &json!({"name": "x", "url": url, "form": "nanomdm"})).await.expect(201);
        let path = format!("/api/v1/webhooks/{}/test", made["id"].as_str().unwrap());
        let tried = api.post(&path, &json!({})).await.expect(200);
        assert_eq!(tried["delivered"], false);
        assert!(tried["error"].as_str().unwrap().contains("hooks.allow"), "{tried}");
        edge.phone("PHONE-1").await.authenticate().await;
        send_due(&edge.t.app).await.unwrap();
        assert!(receiver.take().is_empty());
        assert!(edge.t.now() > START);
    }
}
