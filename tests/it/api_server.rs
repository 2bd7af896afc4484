//! The server, the audit log and the certificates through the API, and the document.

use std::time::Duration;

use muster::model::Role;
use serde_json::{Value, json};

use crate::support::api::{Fleet, walk};

both_databases! {
    async fn the_server_shows_how_it_is(f: Fleet) {
        f.phone("U1").await;
        let mut shown = f.api.get("/api/v1/server").await.expect(200);
        assert_eq!(shown["database"], f.edge.t.db.store.kind());
        (shown["database"], shown["version"]) = (Value::Null, Value::Null);
        insta::assert_json_snapshot!("server", shown);
    }

    async fn the_audit_log_is_shown_by_what_where_and_when(f: Fleet) {
        let (_, id) = f.phone("U1").await;
        let enrolled = f.edge.t.now();
        f.edge.t.db.clock.advance(Duration::from_secs(10));
        let lock = json!({"targets": {"devices": [id]}, "command": {"type": "lock"}});
        let command = f.api.json(Role::Operator, "POST", "/api/v1/commands", &lock).await.expect(202)["id"].clone();
        f.edge.t.db.clock.advance(Duration::from_secs(10));
        f.api.delete(&format!("/api/v1/devices/{id}")).await.expect(204);

        for limit in [1, 3, 50] {
            let list = async |query: &str| walk(&f.api, &format!("/api/v1/audit?{query}"), limit, "action").await;
            let mut all = list("sort=at").await;
            assert_eq!(all.last().map(String::as_str), Some("device.removed"));
            all.reverse();
            let newest_first = list("").await;
            assert_eq!((newest_first.len(), &newest_first[..2]), (all.len(), &all[..2]));
            assert_eq!(list("action=command.accepted&actor=olga").await, ["command.accepted"]);
            assert_eq!(list(&format!("subject={}", command.as_str().unwrap())).await, ["command.accepted"]);
            let about = list(&format!("subject={id}&subject_kind=device&sort=at")).await;
            assert_eq!(about, ["enrollment.began", "enrollment.completed", "device.removed"]);
            let since = enrolled.plus(Duration::from_secs(5));
            assert_eq!(list(&format!("since={since}")).await, ["device.removed", "command.accepted"]);
            let until = since.plus(Duration::from_secs(10));
            assert_eq!(list(&format!("since={since}&until={until}")).await, ["command.accepted"]);
            assert!(list("actor=nobody").await.is_empty());
        }
        f.api.get("/api/v1/audit?since=yesterday").await.problem(400, "bad_query");
        let row = f.api.get("/api/v1/audit?action=command.accepted").await.expect(200)["items"][0].clone();
        assert!(row["request_id"].is_string());
        assert_eq!((&row["actor_kind"], &row["actor"]), (&json!("token"), &json!("olga")));
    }

    async fn certificates_are_listed_and_revoked(f: Fleet) {
        let (phone, id) = f.phone("U1").await;
        f.phone("U2").await;
        let list = async |query: &str| walk(&f.api, &format!("/api/v1/certificates?{query}"), 1, "sha256").await;
        let sha256 = phone.certificate.sha256.hex();
        assert_eq!(list("").await.len(), 2);
        assert_eq!(list(&format!("device={id}")).await, [sha256.clone()]);
        assert_eq!(list(&format!("serial={}", phone.certificate.serial)).await, [sha256.clone()]);
        assert_eq!(list(&format!("authority={}&revoked=false", f.edge.ca)).await.len(), 2);
        assert!(list("revoked=true").await.is_empty());
        assert_eq!(list("expires_before=2100-01-01T00:00:00Z").await.len(), 2);
        assert!(list("expires_before=2026-12-01T00:00:00Z").await.is_empty());

        let at = format!("/api/v1/certificates/{sha256}");
        let revoke = format!("{at}/revoke");
        let reason = json!({"reason": "the device was lost"});
        f.api.json(Role::Operator, "POST", &revoke, &reason).await.problem(403, "forbidden");
        f.api.post(&revoke, &json!({})).await.problem(422, "invalid_request");
        let revoked = f.api.post(&revoke, &reason).await.expect(200);
        assert_eq!(revoked["revoked_reason"], "the device was lost");
        assert_eq!(f.api.post(&revoke, &json!({"reason": "again"})).await.expect(200), revoked);
        assert_eq!(f.api.get(&at).await.expect(200), revoked);
        assert_eq!(list("revoked=true").await, [sha256]);
        assert_eq!(phone.authenticate().await.status, 403, "refused at the device edge at once");
        f.api.get("/api/v1/certificates/zz").await.problem(404, "not_found");
        f.api.get(&format!("/api/v1/certificates/{}", "0".repeat(64))).await.problem(404, "not_found");
    }
}

#[test]
fn the_document_is_as_it_was() {
    insta::assert_json_snapshot!("openapi", muster::http::api::openapi());
}
