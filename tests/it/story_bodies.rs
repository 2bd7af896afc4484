//! What is read of a device's message, and when.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::Request;
use muster::pki::request::Subject;
use muster::pki::scep::client::make_signer;
use plist::Value;

use crate::support::db::TestDb;
use crate::support::edge::{Answer, CHECK_IN, Edge, Phone, REPORT, client_cert, xml};
use crate::support::ready::rsa;
use crate::support::rows::TOPIC;

/// A body of one piece that never ends, and how often it was asked for more.
fn endless(first: usize) -> (Body, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let first = stream::iter([Ok::<_, std::io::Error>(Bytes::from(vec![b' '; first]))]);
    let body = first.chain(stream::pending()).inspect(move |_| {
        count.fetch_add(1, Ordering::SeqCst);
    });
    (Body::from_stream(body), asked)
}

/// Sends an endless body with one header; it must be answered at once, unread.
async fn unread(edge: &Edge, header: (&str, &str)) -> Answer {
    let (body, asked) = endless(1 << 20);
    let request = Request::put("/mdm").header(header.0, header.1).body(body).unwrap();
    let answer = tokio::time::timeout(Duration::from_secs(5), edge.send(request)).await.expect("an answer at once");
    assert_eq!(asked.load(Ordering::SeqCst), 0, "nothing is read for nobody");
    answer
}

async fn signed(phone: &Phone, over: &[u8], body: &[u8]) -> Answer {
    let request = Request::put("/mdm").header("Mdm-Signature", phone.signature(over));
    phone.edge.send(request.body(body.to_vec().into()).unwrap()).await
}

/// A report that needs no answer, of about this size.
fn report(udid: &str, size: usize) -> Vec<u8> {
    xml(&[("Status", "Idle".into()), ("UDID", udid.into()), ("Padding", "x".repeat(size).into())])
}

async fn with_devices(db: TestDb, devices: &str) -> Edge {
    Edge::with_devices(db, devices, "").await
}

both_databases! {
    async fn nothing_is_read_for_nobody(edge: Edge) {
        assert_eq!(unread(&edge, ("Mdm-Signature", "x")).await.status, 400);
        let random = &*edge.t.db.random;
        let own = make_signer(&rsa(0), &Subject::common_name("anybody"), edge.t.now(), random).unwrap();
        assert_eq!(unread(&edge, ("Client-Cert", &client_cert(&own.certificate))).await.status, 403);
        let by = muster::pki::Identity::from(own);
        let value = muster::pki::signature::sign_header(b"x", &by, Default::default(), edge.t.now()).unwrap();
        assert_eq!(unread(&edge, ("Mdm-Signature", &value)).await.status, 403);
    }

    async fn a_signature_counts_for_the_body_it_was_made_over(edge: Edge) {
        let phone = edge.enrolled("PHONE-1").await;
        let body = report("PHONE-1", 10);
        assert_eq!(signed(&phone, &body, &body).await.status, 200);
        assert_eq!(signed(&phone, &body, &report("PHONE-1", 11)).await.status, 400);
        let mut stranger = edge.phone("PHONE-2").await;
        let both = Request::put("/mdm")
            .header("Client-Cert", client_cert(&phone.certificate))
            .header("Mdm-Signature", stranger.signature(&body));
        assert_eq!(edge.send(both.body(body.clone().into()).unwrap()).await.status, 400);
        stranger.udid = "PHONE-1".to_owned();
        assert_eq!(signed(&stranger, &body, &body).await.status, 403);
    }

    async fn large_messages_at_once_are_put_off(db: TestDb) {
        let edge = with_devices(db, "max_report_size = \"1MiB\"\nbody_memory = \"1MiB\"").await;
        let phone = edge.enrolled("PHONE-1").await;
        let (body, _) = endless(900 << 10);
        let slow = tokio::spawn({
            let phone = phone.clone();
            async move { phone.put(REPORT, body).await }
        });
        let large = async || phone.put(REPORT, report("PHONE-1", 400 << 10)).await.status.as_u16();
        let mut status = large().await;
        for _ in 0..100 {
            if status == 503 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
            status = large().await;
        }
        assert_eq!(status, 503);
        assert_eq!(phone.idle().await, None, "small ones have nothing to do with it");
        slow.abort();
        let _ = slow.await;
        assert_eq!(large().await, 200);
    }

    async fn messages_may_be_as_large_as_the_settings_say(db: TestDb) {
        let edge = with_devices(db, "max_checkin_size = \"4MiB\"").await;
        let phone = edge.enrolled("PHONE-1").await;
        assert_eq!(phone.put(REPORT, report("PHONE-1", 12 << 20)).await.status, 200);
        assert_eq!(phone.put(REPORT, report("PHONE-1", 16 << 20)).await.status, 413);
        let many = Value::Array(vec![Value::Boolean(true); 300_000]);
        let many = xml(&[("Status", "Idle".into()), ("UDID", "PHONE-1".into()), ("Many", many)]);
        assert_eq!(phone.put(REPORT, many).await.status, 200);
        let members = |size: usize| {
            xml(&[
                ("MessageType", "DeclarativeManagement".into()),
                ("UDID", "PHONE-1".into()),
                ("Endpoint", "status".into()),
                ("Padding", "x".repeat(size).into()),
            ])
        };
        assert_eq!(phone.put(CHECK_IN, members(3 << 20)).await.status, 404, "read, and nothing is declared");
        assert_eq!(phone.put(CHECK_IN, members(4 << 20)).await.status, 413);
    }

    async fn long_names_are_cut_and_long_ids_are_refused(edge: Edge) {
        let phone = edge.phone("PHONE-1").await;
        let long = || Value::from("long ".repeat(4000));
        let names = ["SerialNumber", "DeviceName", "Model", "ModelName", "ProductName", "OSVersion", "IMEI"];
        let mut members: Vec<_> = names.iter().map(|key| (*key, long())).collect();
        members.push(("Topic", long()));
        assert_eq!(phone.check_in("Authenticate", &members).await.status, 400);
        members.pop();
        members.push(("Topic", TOPIC.into()));
        assert_eq!(phone.check_in("Authenticate", &members).await.status, 200);
        let token = ("Token", Value::Data(vec![7; 32]));
        for (topic, magic) in [(long(), "magic".into()), (TOPIC.into(), long())] {
            let members = [token.clone(), ("Topic", topic), ("PushMagic", magic)];
            assert_eq!(phone.check_in("TokenUpdate", &members).await.status, 400);
        }
        phone.token_update(None).await;
        let inventory = phone.idle().await.unwrap();
        assert_eq!(inventory.request_type, "DeviceInformation");
        let answers: plist::Dictionary = names.iter().map(|key| ((*key).to_owned(), long())).collect();
        let next = phone.report_with("Acknowledged", Some(&inventory.uuid), &[("QueryResponses", answers.into())]).await;
        assert_eq!(next.unwrap().request_type, "SecurityInfo");
        let device = edge.t.db.read().await.device(phone.device_id().await).await.unwrap().unwrap();
        assert_eq!(device.serial.unwrap().chars().count(), 255);
        assert_eq!(device.name.unwrap().chars().count(), 255);
    }
}
