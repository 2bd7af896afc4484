//! What comes past a bound is put off at once, and the server serves again as soon as there is room.

use std::time::Duration;

use axum::body::Body;
use http::header::RETRY_AFTER;
use muster::model::Role;
use muster::store::Write;
use serde_json::json;

use crate::support::api::Api;
use crate::support::app::TestApp;
use crate::support::db::TestDb;
use crate::support::edge::{Answer, Edge, Phone, REPORT, xml};

/// Holds what the messages of these phones need, as a database does that is slow.
async fn hold(edge: &Edge, phones: &[&Phone]) -> Write {
    let mut tx = edge.t.db.write().await;
    for phone in phones {
        tx.enrollment_for_update(&phone.udid).await.unwrap().unwrap();
    }
    tx
}

/// A message of the phone, sent and not yet answered.
fn waiting(phone: &Phone) -> tokio::task::JoinHandle<u16> {
    let phone = phone.clone();
    tokio::spawn(async move { phone.token_update(None).await.status.as_u16() })
}

async fn idle(phone: &Phone) -> Answer {
    phone.put(REPORT, xml(&[("Status", "Idle".into()), ("UDID", phone.udid.as_str().into())])).await
}

/// Until `check` says so.
async fn until(mut check: impl AsyncFnMut() -> bool) {
    for _ in 0..500 {
        if check().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it did not come to that");
}

both_databases! {
    async fn devices_past_the_bound_are_told_to_come_again(db: TestDb) {
        let edge = Edge::with_devices(db, "max_requests = 2", "").await;
        let (one, two, three) = (edge.enrolled("PHONE-1").await, edge.enrolled("PHONE-2").await, edge.enrolled("PHONE-3").await);
        let held = hold(&edge, &[&one, &two]).await;
        let (mut first, mut second) = (waiting(&one), waiting(&two));
        until(async || {
            // It may itself have been the one too many.
            for (message, phone) in [(&mut first, &one), (&mut second, &two)] {
                if message.is_finished() {
                    assert_eq!(std::mem::replace(message, waiting(phone)).await.unwrap(), 503);
                }
            }
            let answer = idle(&three).await;
            let is_put_off = answer.status == 503;
            assert!(is_put_off || answer.status == 200);
            assert_eq!(answer.headers.contains_key(RETRY_AFTER), is_put_off);
            is_put_off
        })
        .await;
        assert!(!first.is_finished() && !second.is_finished());

        drop(held);
        assert_eq!((first.await.unwrap(), second.await.unwrap()), (200, 200));
        assert_eq!(idle(&three).await.status, 200, "at once");
    }

    async fn a_body_that_comes_slowly_takes_nobodys_place(db: TestDb) {
        let edge = Edge::with_devices(db, "max_requests = 1", "").await;
        let (slow, other) = (edge.enrolled("PHONE-1").await, edge.enrolled("PHONE-2").await);
        let never = Body::from_stream(futures_util::stream::pending::<Result<bytes::Bytes, std::io::Error>>());
        let dripping = tokio::spawn(async move { slow.put(REPORT, never).await });
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(idle(&other).await.status, 200);
        assert!(!dripping.is_finished());
        dripping.abort();
    }

    async fn requests_to_the_api_past_the_bound_are_put_off(db: TestDb) {
        let api = Api::of(TestApp::with(db, "[admin]\nmax_requests = 1\n").await).await;
        let mut held = api.t.app.store.begin_write().await.unwrap();
        // On PostgreSQL one transaction that writes does not keep all others from it.
        if api.t.db.store.kind() == "postgres" {
            held.fleet_number_for_command().await.unwrap();
        }
        let ask = || {
            let api = api.clone();
            let body = json!({"targets": {"all": true}, "command": {"type": "security_info"}});
            tokio::spawn(async move { api.post("/api/v1/commands", &body).await })
        };
        let mut asked = ask();
        until(async || {
            if asked.is_finished() {
                std::mem::replace(&mut asked, ask()).await.unwrap().problem(503, "overloaded");
            }
            let answer = api.get("/api/v1/server").await;
            let is_put_off = answer.status == 503;
            assert!(is_put_off || answer.status == 200);
            if is_put_off {
                assert_eq!(answer.headers[RETRY_AFTER], "1");
                answer.problem(503, "overloaded");
            }
            is_put_off
        })
        .await;
        assert!(!asked.is_finished());
        drop(held);
        asked.await.unwrap().expect(202);
        api.get("/api/v1/server").await.expect(200);
        assert_eq!(api.call(Role::Viewer, "GET", "/api/v1/server", &[], Body::empty()).await.status, 200);
    }
}
