//! Commands through the API: sent, guarded, followed, cancelled, delivered again.

use axum::body::Body;
use http::header::LOCATION;
use muster::model::Role;
use serde_json::{Value, json};

use crate::support::api::{Fleet, walk, with_plain_ids};
use crate::support::rows::DAY;

const COMMANDS: &str = "/api/v1/commands";

fn lock(targets: &Value) -> Value {
    json!({"targets": targets, "command": {"type": "lock", "message": "back to the front desk", "pin": "123456"}})
}

both_databases! {
    async fn a_command_is_sent_followed_and_answered(f: Fleet) {
        let (phone, id) = f.phone("U1").await;
        let body = lock(&json!({"devices": [id]}));
        let answer = f.api.json(Role::Operator, "POST", COMMANDS, &body).await;
        let at = answer.headers[LOCATION].to_str().unwrap().to_owned();
        let accepted = answer.expect(202);
        assert_eq!((&accepted["targets"], &accepted["push"]["scheduled"]), (&json!(1), &json!(false)));
        assert!(accepted["push"]["detail"].as_str().unwrap().contains("no push certificate"));
        let shown = f.api.get(&at).await.expect(200);
        assert_eq!((&shown["states"], &shown["done"]), (&json!({"queued": 1}), &json!(false)));

        let command = phone.idle().await.unwrap();
        assert_eq!(command.uuid.to_lowercase(), accepted["id"].as_str().unwrap());
        assert_eq!(command.payload.get("PIN").and_then(|pin| pin.as_string()), Some("123456"));
        phone.report_with("Acknowledged", Some(&command.uuid), &[("MessageResult", "Success".into())]).await;
        let shown = f.api.get(&at).await.expect(200);
        assert_eq!((&shown["states"], &shown["done"]), (&json!({"acknowledged": 1}), &json!(true)));
        let enrollment = shown["deliveries"]["items"][0]["enrollment_id"].as_str().unwrap().to_owned();
        insta::assert_json_snapshot!("command", with_plain_ids(shown));

        let delivery = format!("{at}/deliveries/{enrollment}");
        insta::assert_json_snapshot!("delivery", with_plain_ids(f.api.get(&delivery).await.expect(200)));
        let report = f.api.json(Role::Operator, "GET", &format!("{delivery}/report"), &json!({})).await.expect(200);
        assert_eq!(report["report"]["MessageResult"], "Success");
        assert!(report["raw"].is_string());
    }

    async fn a_viewer_sees_no_pin_and_no_report(f: Fleet) {
        let (phone, id) = f.phone("U1").await;
        let accepted = f.api.post(COMMANDS, &lock(&json!({"devices": [id]}))).await.expect(202);
        let command = phone.idle().await.unwrap();
        phone.acknowledge(&command).await;
        let at = format!("{COMMANDS}/{}", accepted["id"].as_str().unwrap());
        let enrollment = phone.id().await;
        for path in [
            COMMANDS.to_owned(),
            at.clone(),
            format!("{at}/deliveries/{enrollment}"),
            format!("/api/v1/devices/{id}"),
            format!("/api/v1/devices/{id}/commands"),
            "/api/v1/audit".to_owned(),
            "/api/v1/server".to_owned(),
        ] {
            let answer = f.api.call(Role::Viewer, "GET", &path, &[], Body::empty()).await;
            let text = String::from_utf8(answer.bytes.clone()).unwrap();
            answer.expect(200);
            for secret in ["123456", "magic", f.api.viewer.as_str(), f.api.admin.as_str()] {
                assert!(!text.contains(secret), "{path} shows {secret}");
            }
        }
        let report = format!("{at}/deliveries/{enrollment}/report");
        f.api.call(Role::Viewer, "GET", &report, &[], Body::empty()).await.problem(403, "forbidden");
    }

    async fn what_is_wrong_with_a_command_is_told_by_its_place(f: Fleet) {
        let (_, id) = f.phone("U1").await;
        let post = async |body: Value| f.api.post(COMMANDS, &body).await;
        let places = |body: Value| {
            let mut places: Vec<_> =
                body["errors"].as_array().unwrap().iter().map(|e| e["pointer"].as_str().unwrap().to_owned()).collect();
            places.sort();
            places
        };
        let restart = json!({"type": "restart"});
        for targets in [json!({}), json!({"all": false}), json!({"all": true, "devices": [id]})] {
            let body = post(json!({"targets": targets, "command": restart})).await.problem(422, "invalid_request");
            assert_eq!(places(body), ["/targets"]);
        }
        let devices = json!({"devices": ["nonsense", id, "udid:"]});
        let body = post(json!({"targets": devices, "command": restart})).await.problem(422, "invalid_request");
        assert_eq!(places(body), ["/targets/devices/0", "/targets/devices/2"]);
        let devices = json!({"devices": ["serial:none", "00000000-0000-7000-8000-000000000000"]});
        let body = post(json!({"targets": devices, "command": restart})).await.problem(422, "invalid_request");
        assert_eq!(places(body), ["/targets/devices/0"]);
        let devices = json!({"devices": ["00000000-0000-7000-8000-000000000000"]});
        let body = post(json!({"targets": devices, "command": restart})).await.problem(422, "invalid_command");
        assert_eq!(places(body), ["/targets/devices/0"]);
        let command = json!({"type": "lock", "pin": "12", "colour": "red"});
        let body = post(json!({"targets": {"devices": [id]}, "command": command})).await.problem(422, "invalid_command");
        assert_eq!(places(body), ["/command/colour", "/command/pin"]);
        let body = post(json!({"targets": {"devices": []}, "comand": restart})).await.problem(422, "invalid_request");
        assert_eq!(places(body), ["/comand", "/command", "/targets/devices"]);
        let past = json!({"targets": {"devices": [id]}, "command": restart, "expires_at": "2001-01-01T00:00:00Z"});
        post(past).await.problem(422, "invalid_command");
        assert!(f.edge.t.audited().await.iter().all(|action| action != "command.accepted"), "nothing was accepted");
    }

    async fn what_destroys_on_several_devices_takes_an_admin_and_a_confirmation(f: Fleet) {
        let (_, one) = f.phone("U1").await;
        f.phone("U2").await;
        f.phone("U3").await;
        let wipe = |targets: Value, confirm: Option<u64>| {
            let mut body = json!({"targets": targets, "command": {"type": "wipe"}});
            if let Some(confirm) = confirm {
                body["confirm"] = json!(confirm);
            }
            body
        };
        let all = json!({"all": true});
        let body = f.api.post(COMMANDS, &wipe(all.clone(), None)).await.problem(409, "confirmation_needed");
        assert!(body["detail"].as_str().unwrap().contains("\"confirm\": 3"), "{body}");
        f.api.post(COMMANDS, &wipe(all.clone(), Some(2))).await.problem(409, "confirmation_needed");
        f.api.json(Role::Operator, "POST", COMMANDS, &wipe(all.clone(), Some(3))).await.problem(403, "forbidden");
        let apple = json!({"targets": all, "command": {"type": "apple", "request_type": "EraseDevice"}});
        f.api.post(COMMANDS, &apple).await.problem(409, "confirmation_needed");
        let twice = json!({"devices": [one, one, "udid:U1"]});
        f.api.json(Role::Operator, "POST", COMMANDS, &wipe(twice, None)).await.expect(202);
        let accepted = f.api.post(COMMANDS, &wipe(all, Some(3))).await.expect(202);
        assert_eq!(accepted["targets"], 3);
    }

    async fn a_command_for_all_is_for_those_that_are_enrolled_now(f: Fleet) {
        f.phone("U1").await;
        let (second, _) = f.phone("U2").await;
        let body = json!({"targets": {"all": true}, "command": {"type": "installed_apps"}});
        let accepted = f.api.post(COMMANDS, &body).await.expect(202);
        let at = format!("{COMMANDS}/{}", accepted["id"].as_str().unwrap());
        let (late, _) = f.phone("U3").await;
        let shown = f.api.get(&at).await.expect(200);
        assert_eq!((&shown["target"], &shown["targets"], &shown["to_come"]), (&json!("all"), &json!(2), &json!(2)));
        assert_eq!(second.finish_all().await, ["InstalledApplicationList"]);
        assert!(late.idle().await.is_none());
        let shown = f.api.get(&at).await.expect(200);
        assert_eq!((&shown["to_come"], &shown["states"], &shown["done"]), (&json!(1), &json!({"acknowledged": 1}), &json!(false)));
    }

    async fn the_same_command_twice_is_sent_once(f: Fleet) {
        let (phone, id) = f.phone("U1").await;
        let body = json!({"targets": {"devices": [id]}, "command": {"type": "restart"}});
        let first = f.api.post_once("k", COMMANDS, &body).await.expect(202);
        let again = f.api.post_once("k", COMMANDS, &body).await;
        assert_eq!(again.headers[LOCATION], format!("{COMMANDS}/{}", first["id"].as_str().unwrap()));
        assert_eq!(again.expect(202), first);
        let other = json!({"targets": {"devices": [id]}, "command": {"type": "shut_down"}});
        f.api.post_once("k", COMMANDS, &other).await.problem(422, "idempotency_key_reused");
        assert_eq!(phone.finish_all().await, ["RestartDevice"]);
        // The key belongs to the token.
        let headers = [("content-type", "application/json"), ("idempotency-key", "k")];
        let another = f.api.call(Role::Operator, "POST", COMMANDS, &headers, Body::from(body.to_string())).await.expect(202);
        assert_ne!(another["id"], first["id"]);
        // The device may be gone by the time that a client asks again because its first answer was lost.
        f.api.delete(&format!("/api/v1/devices/{id}")).await.expect(204);
        assert_eq!(f.api.post_once("k", COMMANDS, &body).await.expect(202), first);
    }

    async fn a_profile_or_app_that_is_not_there_is_a_fault_of_the_command(f: Fleet) {
        let (_, id) = f.phone("U1").await;
        let nothing = "00000000-0000-7000-8000-000000000000";
        for (verb, member) in [("install_profile", "profile_id"), ("install_app", "app_id")] {
            let body = json!({"targets": {"devices": [id]}, "command": {"type": verb, member: nothing}});
            let problem = f.api.post(COMMANDS, &body).await.problem(422, "invalid_command");
            assert_eq!(problem["errors"][0]["pointer"], format!("/command/{member}"));
        }
    }

    async fn deliveries_come_in_pages_and_by_state(f: Fleet) {
        for udid in ["U1", "U2", "U3", "U4", "U5"] {
            f.phone(udid).await;
        }
        let devices: Vec<_> = (1..=5).map(|n| format!("serial:SNU{n}")).collect();
        let body = json!({"targets": {"devices": devices}, "command": {"type": "installed_apps"}});
        let accepted = f.api.post(COMMANDS, &body).await.expect(202);
        let at = format!("{COMMANDS}/{}", accepted["id"].as_str().unwrap());
        let (mut found, mut cursor) = (Vec::new(), String::new());
        loop {
            let shown = f.api.get(&format!("{at}?limit=2{cursor}")).await.expect(200);
            found.extend(shown["deliveries"]["items"].as_array().unwrap().iter().map(|d| d["serial"].clone()));
            match shown["deliveries"]["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
        found.sort_by_key(ToString::to_string);
        assert_eq!(found, ["SNU1", "SNU2", "SNU3", "SNU4", "SNU5"]);
        let none = f.api.get(&format!("{at}?state=error")).await.expect(200);
        assert_eq!(none["deliveries"]["items"], json!([]));
        f.api.get(&format!("{at}?state=lost")).await.problem(400, "bad_query");
        f.api.get(&format!("{COMMANDS}/00000000-0000-7000-8000-000000000000")).await.problem(404, "not_found");
        f.api.get(&format!("{at}/deliveries/00000000-0000-7000-8000-000000000000")).await.problem(404, "not_found");
        let first = f.api.get(&at).await.expect(200)["deliveries"]["items"][0]["enrollment_id"].clone();
        f.api.get(&format!("{at}/deliveries/{}/report", first.as_str().unwrap())).await.problem(404, "not_found");
    }

    async fn commands_are_listed_by_what_they_are(f: Fleet) {
        let (_, id) = f.phone("U1").await;
        for kind in ["restart", "shut_down", "restart"] {
            f.edge.t.db.clock.advance(DAY);
            let body = json!({"targets": {"devices": [id]}, "command": {"type": kind}});
            f.api.json(Role::Operator, "POST", COMMANDS, &body).await.expect(202);
        }
        for limit in [1, 2, 10] {
            let list = async |query: &str| walk(&f.api, &format!("{COMMANDS}{query}"), limit, "type").await;
            assert_eq!(list("").await, ["restart", "shut_down", "restart"]);
            assert_eq!(list("?type=restart&sort=created_at").await, ["restart", "restart"]);
            assert_eq!(list("?request_type=ShutDownDevice&created_by=olga").await, ["shut_down"]);
            assert!(list("?created_by=ada").await.is_empty());
            let all = ["device_information", "security_info", "restart", "shut_down", "restart"];
            let mut listed = list("?internal=true&sort=created_at").await;
            // The server's own were made in one millisecond: the order of their ids is chance.
            listed[..2].sort();
            assert_eq!(listed, all);
        }
    }

    async fn where_there_is_no_device_none_is_woken(f: Fleet) {
        let body = json!({"targets": {"all": true}, "command": {"type": "installed_apps"}});
        let accepted = f.api.post(COMMANDS, &body).await.expect(202);
        assert_eq!((&accepted["targets"], &accepted["push"]["scheduled"]), (&json!(0), &json!(false)));
        assert!(accepted["push"]["detail"].as_str().unwrap().contains("no device is enrolled"), "{accepted}");
    }

    async fn what_no_device_has_is_cancelled(f: Fleet) {
        let (phone, id) = f.phone("U1").await;
        let (_, other) = f.phone("U2").await;
        let body = json!({"targets": {"devices": [id, other]}, "command": {"type": "installed_apps"}});
        let accepted = f.api.post(COMMANDS, &body).await.expect(202);
        let at = format!("{COMMANDS}/{}", accepted["id"].as_str().unwrap());
        phone.idle().await.unwrap();
        f.api.json(Role::Viewer, "DELETE", &at, &json!({})).await.problem(403, "forbidden");
        let done = f.api.json(Role::Operator, "DELETE", &at, &json!({})).await.expect(200);
        assert_eq!(done, json!({"cancelled": 1, "not_cancelled": 1}));
        // What withdraws nothing is no event.
        let again = f.api.json(Role::Operator, "DELETE", &at, &json!({})).await.expect(200);
        assert_eq!(again["cancelled"], 0);
        let entries = f.api.get("/api/v1/audit?action=command.cancelled").await.expect(200);
        let details: Vec<_> = entries["items"].as_array().unwrap().iter().map(|entry| &entry["detail"]).collect();
        assert_eq!(details, [&json!({"cancelled": 1, "not_cancelled": 1})]);
        let shown = f.api.get(&at).await.expect(200);
        assert_eq!(shown["states"], json!({"cancelled": 1, "sent": 1}));
        assert!(shown["cancelled_at"].is_string());
        f.api.delete(&format!("{COMMANDS}/00000000-0000-7000-8000-000000000000")).await.problem(404, "not_found");
    }

    async fn what_was_not_reported_on_is_delivered_again_on_request(f: Fleet) {
        let (phone, id) = f.phone("U1").await;
        let (second, other) = f.phone("U2").await;
        let mut body = lock(&json!({"devices": [id, other]}));
        body["confirm"] = json!(2);
        let accepted = f.api.post(COMMANDS, &body).await.expect(202);
        let again = format!("{COMMANDS}/{}/redeliver", accepted["id"].as_str().unwrap());
        f.api.post(&again, &json!({})).await.problem(409, "nothing_unconfirmed");
        for phone in [&phone, &second] {
            phone.idle().await.unwrap();
            assert!(phone.idle().await.is_none(), "a lock with a PIN is not repeated");
        }
        f.api.json(Role::Operator, "POST", &again, &json!({})).await.problem(403, "forbidden");
        f.api.post(&again, &json!({})).await.problem(409, "confirmation_needed");
        f.api.post(&format!("{again}?confirm=3"), &json!({})).await.problem(409, "confirmation_needed");
        assert_eq!(f.api.post(&format!("{again}?confirm=2"), &json!({})).await.expect(200), json!({"redelivered": 2}));
        assert_eq!(phone.idle().await.unwrap().request_type, "DeviceLock");
    }
}
