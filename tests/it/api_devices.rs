//! Devices through the API: listed, found, shown, woken, removed, approved.

use std::time::Duration;

use axum::body::Body;
use muster::model::Role;
use serde_json::{Value, json};

use crate::support::api::{Fleet, walk, with_plain_ids};
use crate::support::edge::YEAR;
use crate::support::rows::DAY;

both_databases! {
    async fn devices_are_listed_in_every_order_page_by_page(f: Fleet) {
        for (udid, name) in [("U1", "beta"), ("U2", "Alpha"), ("U3", "gamma"), ("U4", "alpha"), ("U5", "Änne")] {
            f.phone(udid).await;
            f.edge.t.db.execute(&format!("UPDATE devices SET name = '{name}' WHERE udid = '{udid}'")).await;
        }
        f.edge.t.db.execute("UPDATE devices SET name = NULL WHERE udid = 'U3'").await;
        for limit in [1, 2, 5, 50] {
            let list = async |query: &str, member| walk(&f.api, &format!("/api/v1/devices{query}"), limit, member).await;
            assert_eq!(list("", "udid").await, ["U5", "U4", "U3", "U2", "U1"]);
            assert_eq!(list("?sort=created_at", "udid").await, ["U1", "U2", "U3", "U4", "U5"]);
            assert_eq!(list("?sort=name", "udid").await, ["U3", "U2", "U4", "U1", "U5"]);
            assert_eq!(list("?sort=-name", "udid").await, ["U5", "U1", "U4", "U2", "U3"]);
            assert_eq!(list("?sort=serial", "serial").await, ["SNU1", "SNU2", "SNU3", "SNU4", "SNU5"]);
            assert_eq!(list("?sort=-serial&q=sn", "udid").await, ["U5", "U4", "U3", "U2", "U1"]);
        }
        let page = f.api.get("/api/v1/devices?limit=2").await.expect(200);
        let cursor = page["next_cursor"].as_str().unwrap();
        for other in ["?sort=name&", "?q=x&", "?state=enabled&"] {
            f.api.get(&format!("/api/v1/devices{other}cursor={cursor}")).await.problem(400, "bad_cursor");
        }
        f.api.get("/api/v1/commands?cursor=x").await.problem(400, "bad_cursor");
    }

    async fn a_page_goes_on_where_the_last_one_ended_whatever_happens_meanwhile(f: Fleet) {
        for udid in ["U1", "U2", "U3", "U4"] {
            f.phone(udid).await;
        }
        let first = f.api.get("/api/v1/devices?limit=2").await.expect(200);
        let (_, removed) = f.phone("U5").await;
        f.api.delete(&format!("/api/v1/devices/{removed}")).await.expect(204);
        f.api.delete("/api/v1/devices/udid:U3").await.expect(204);
        let cursor = first["next_cursor"].as_str().unwrap();
        let second = f.api.get(&format!("/api/v1/devices?limit=2&cursor={cursor}")).await.expect(200);
        let udids: Vec<_> = second["items"].as_array().unwrap().iter().map(|d| d["udid"].clone()).collect();
        assert_eq!(udids, ["U2", "U1"]);
    }

    async fn devices_are_found_by_what_is_known_of_them(f: Fleet) {
        let (_, one) = f.phone("U1").await;
        let (_, two) = f.phone("U2").await;
        f.edge.t.db.execute(
            "UPDATE devices SET name = '50% off_', user_name = 'Sam', user_email = 'Sam@Example.org' WHERE udid = 'U1'",
        ).await;
        let list = async |query: &str| walk(&f.api, &format!("/api/v1/devices?{query}"), 10, "id").await;
        for query in ["serial=SNU1", "name=50%25+off_", "user=sam", "user=sam%40example.ORG", "q=50%25", "q=OFF_", "q=u1"] {
            assert_eq!(list(query).await, [one.clone()], "{query}");
        }
        for query in ["serial=sn", "name=50", "q=%25%25", "q=f-", "user=s"] {
            assert!(list(query).await.is_empty(), "{query}");
        }
        assert_eq!(list("state=enabled&platform=apple&q=iphone").await, [two.clone()], "by its name");
        f.api.delete(&format!("/api/v1/devices/{two}")).await.expect(204);
        assert_eq!(list("").await, [one.clone()]);
        assert_eq!(list("state=removed").await, [two]);
        assert!(list("state=disabled").await.is_empty());
        for wrong in ["state=lost", "sort=color", "limit=0", "limit=501", "limit=x", "color=red", "serial=", "q=%00", "q=a&q=b"] {
            f.api.get(&format!("/api/v1/devices?{wrong}")).await.problem(400, "bad_query");
        }
    }

    async fn a_device_is_named_by_id_udid_or_serial_number(f: Fleet) {
        let (_, id) = f.phone("U1").await;
        for name in [id.as_str(), "udid:U1", "serial:SNU1"] {
            assert_eq!(f.api.get(&format!("/api/v1/devices/{name}")).await.expect(200)["id"], json!(id));
        }
        for name in ["udid:U9", "serial:x", "U1", "serial:", "udid:%00", "%ff", "00000000-0000-7000-8000-000000000000"] {
            f.api.get(&format!("/api/v1/devices/{name}")).await.problem(404, "not_found");
        }
        f.phone("U2").await;
        f.edge.t.db.execute("UPDATE devices SET serial = 'SAME'").await;
        f.api.get("/api/v1/devices/serial:SAME").await.problem(409, "ambiguous_device");
    }

    async fn a_device_shows_what_is_known_of_it(f: Fleet) {
        let (phone, id) = f.phone("U1").await;
        let new = json!({"targets": {"devices": [id]}, "command": {"type": "security_info"}});
        let asked = f.api.post("/api/v1/commands", &new).await.expect(202);
        let command = phone.idle().await.unwrap();
        let members = [
            ("FDE_Enabled".to_owned(), plist::Value::Boolean(true)),
            ("FDE_PersonalRecoveryKeyCMS".to_owned(), plist::Value::Data(vec![1, 2, 3])),
        ];
        let told = [("SecurityInfo", plist::Value::Dictionary(members.into_iter().collect()))];
        phone.report_with("Acknowledged", Some(&command.uuid), &told).await;
        let mut shown = f.api.get(&format!("/api/v1/devices/{id}")).await.expect(200);
        let as_viewer = f.api.call(Role::Viewer, "GET", "/api/v1/devices/udid:U1", &[], Body::empty()).await.expect(200);
        let secret = |shown: &Value| shown["inventory"]["security_info"]["data"]["FDE_PersonalRecoveryKeyCMS"].clone();
        assert_eq!((secret(&shown), secret(&as_viewer)), (json!("[redacted]"), json!("[redacted]")));
        let kept = f.edge.t.db.texts("SELECT data FROM inventory").await.concat();
        assert!(!kept.contains("AQID"), "what is secret does not lie open in the database: {kept}");
        let at = format!("/api/v1/commands/{}/deliveries/{}/report", asked["id"].as_str().unwrap(), phone.id().await);
        let report = f.api.get(&at).await.expect(200);
        assert_eq!(report["report"]["SecurityInfo"]["FDE_PersonalRecoveryKeyCMS"]["$data"], "AQID");
        assert!(!as_viewer.to_string().contains("magic"), "push tokens and magic are shown to nobody");
        assert_eq!(shown["enrollments"][0]["identities"].as_array().unwrap().len(), 1);
        // The certificate is another one each time.
        shown["enrollments"][0]["identities"] = json!([]);
        insta::assert_json_snapshot!("device", with_plain_ids(shown));
    }

    async fn an_identity_that_ended_is_shown_as_such(f: Fleet) {
        let (_, id) = f.phone("U1").await;
        let state = async || {
            let shown = f.api.get(&format!("/api/v1/devices/{id}")).await.expect(200);
            let enrollment = &shown["enrollments"][0];
            assert_eq!(enrollment["identity_state"], enrollment["identities"][0]["state"]);
            enrollment["identity_state"].as_str().unwrap().to_owned()
        };
        assert_eq!(state().await, "valid");
        f.edge.t.db.clock.advance(YEAR + Duration::from_secs(60));
        assert_eq!(state().await, "in_grace");
        f.edge.t.db.clock.advance(91 * DAY);
        assert_eq!(state().await, "expired");
    }

    async fn a_device_is_woken_or_it_is_said_why_not(f: Fleet) {
        let (phone, id) = f.phone("U1").await;
        let push = format!("/api/v1/devices/{id}/push");
        let answer = f.api.json(Role::Operator, "POST", &push, &json!({})).await.expect(202);
        assert_eq!(answer["scheduled"], false);
        assert!(answer["detail"].as_str().unwrap().contains("no push certificate"), "{answer}");
        assert!(phone.wake_at().await.is_some_and(|at| at <= f.edge.t.now()));
        phone.check_in("CheckOut", &[]).await;
        f.api.post(&push, &json!({})).await.problem(409, "not_enrolled");
        assert!(f.edge.t.audited().await.contains(&"device.woken".to_owned()));
    }

    async fn a_removed_device_is_told_to_leave_and_may_come_back_by_a_fresh_certificate(f: Fleet) {
        let (phone, id) = f.phone("U1").await;
        let waiting = phone.ask_apps().await;
        f.api.json(Role::Operator, "DELETE", &format!("/api/v1/devices/{id}"), &json!({})).await.problem(403, "forbidden");
        f.api.delete(&format!("/api/v1/devices/{id}")).await.expect(204);
        f.api.delete(&format!("/api/v1/devices/{id}")).await.expect(204);
        assert_eq!(phone.states(waiting).await, ["queued", "cancelled"]);
        assert_eq!(f.edge.t.audited().await.iter().filter(|action| *action == "device.removed").count(), 1);

        let answer = phone.put(crate::support::edge::REPORT, crate::support::edge::xml(&[
            ("Status", "Idle".into()), ("UDID", "U1".into()),
        ])).await;
        assert_eq!(answer.status, 403);
        assert!(String::from_utf8_lossy(&answer.body).contains("com.apple.unrecognized.device"), "{answer:?}");
        let shown = f.api.get(&format!("/api/v1/devices/{id}")).await.expect(200);
        assert_eq!((&shown["state"], &shown["enrollments"][0]["identity_state"]), (&json!("removed"), &json!("revoked")));
        assert!(shown["removed_at"].is_string());
        f.api.post("/api/v1/commands", &json!({"targets": {"devices": [id]}, "command": {"type": "restart"}})).await
            .problem(409, "no_target");

        assert_ne!(phone.authenticate().await.status, 200, "the old certificate is revoked");
        let fresh = f.edge.phone("U1").await;
        fresh.enroll().await;
        let shown = f.api.get(&format!("/api/v1/devices/{id}")).await.expect(200);
        assert_eq!((&shown["state"], &shown["removed_at"]), (&json!("enabled"), &Value::Null));
    }

    async fn another_enrollment_is_approved_for_a_while(f: Fleet) {
        let (phone, id) = f.phone("U1").await;
        let path = format!("/api/v1/devices/{id}/approve-reenrollment");
        let until = f.api.post(&path, &json!({"hours": 2})).await.expect(200);
        assert_eq!(until["until"], json!(f.edge.t.now().plus(Duration::from_secs(7200))));
        let shown = f.api.get(&format!("/api/v1/devices/{id}")).await.expect(200);
        assert_eq!(shown["enrollments"][0]["reenrollment_approved_until"], until["until"]);
        f.api.post(&path, &json!({"hours": 0})).await.problem(422, "invalid_request");
        f.api.json(Role::Operator, "POST", &path, &json!({})).await.problem(403, "forbidden");
        phone.check_in("CheckOut", &[]).await;
        f.api.post(&path, &json!({})).await.problem(409, "not_enrolled");
    }

    async fn the_history_of_a_device_shows_every_delivery(f: Fleet) {
        let (phone, id) = f.phone("U1").await;
        for _ in 0..3 {
            phone.ask_apps().await;
        }
        let lock = phone.ask(json!({"type": "lock", "pin": "123456"})).await;
        let path = format!("/api/v1/devices/{id}/commands");
        for limit in [1, 2, 10] {
            let mut verbs = walk(&f.api, &path, limit, "type").await;
            // Ids of one millisecond are in any order.
            verbs[4..].sort();
            let expected = ["lock", "installed_apps", "installed_apps", "installed_apps", "device_information", "security_info"];
            assert_eq!(verbs, expected);
        }
        assert_eq!(walk(&f.api, &format!("{path}?type=lock"), 10, "command_id").await, [lock.to_string()]);
        assert_eq!(walk(&f.api, &format!("{path}?state=acknowledged"), 1, "type").await.len(), 2);
        let page = f.api.get(&path).await;
        assert!(!String::from_utf8_lossy(&page.bytes).contains("123456"));
    }
}
