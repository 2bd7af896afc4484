//! Who is let in, by which token and with which role; and what bad requests get, whatever the route.

use std::time::Duration;

use axum::body::Body;
use http::Request;
use http::header::{ALLOW, CACHE_CONTROL, WWW_AUTHENTICATE};
use muster::model::{ManualClock, Role};
use serde_json::json;

use crate::api_docs::documented_roles;
use crate::support::api::Api;
use crate::support::rows::DAY;

const NOBODY: &str = "00000000-0000-7000-8000-000000000000";

both_databases! {
    async fn nobody_enters_without_a_valid_token(api: Api) {
        let ask = async |value: Option<&str>| {
            let mut request = Request::get("/api/v1/tokens");
            if let Some(value) = value {
                request = request.header("authorization", value);
            }
            api.send(request.body(Body::empty()).unwrap()).await
        };
        let basic = format!("Basic {}", api.admin);
        let long = format!("Bearer {}", "x".repeat(5000));
        for value in [None, Some("Bearer muster_wrong"), Some(&basic), Some("Bearer"), Some(""), Some(&long)] {
            let answer = ask(value).await;
            assert_eq!(answer.headers[WWW_AUTHENTICATE], "Bearer");
            assert_eq!(answer.headers[CACHE_CONTROL], "no-store");
            answer.problem(401, "unauthorized");
        }
        ask(Some(&format!("bearer  {}", api.admin))).await.expect(200);
    }

    async fn a_token_ends_by_its_time_or_by_an_admin(api: Api) {
        let until = api.t.now().plus(DAY);
        let body = json!({"name": "for a day", "role": "viewer", "expires_at": until});
        let made = api.post("/api/v1/tokens", &body).await.expect(201);
        let clock: &ManualClock = &api.t.db.clock;
        let mut for_a_day = api.clone();
        for_a_day.admin = made["token"].as_str().unwrap().to_owned();
        for_a_day.get("/api/v1/tokens").await.problem(403, "forbidden");
        clock.advance(DAY - Duration::from_secs(1));
        for_a_day.get("/api/v1/tokens").await.problem(403, "forbidden");
        clock.advance(Duration::from_secs(1));
        for_a_day.get("/api/v1/tokens").await.problem(401, "unauthorized");

        let made = api.post("/api/v1/tokens", &json!({"name": "short-lived", "role": "admin"})).await.expect(201);
        let mut other = api.clone();
        other.admin = made["token"].as_str().unwrap().to_owned();
        other.get("/api/v1/tokens").await.expect(200);
        api.delete(&format!("/api/v1/tokens/{}", made["id"].as_str().unwrap())).await.expect(204);
        other.get("/api/v1/tokens").await.problem(401, "unauthorized");
    }

    async fn every_route_takes_its_role_and_no_less(api: Api) {
        let roles = documented_roles();
        let document = muster::http::api::openapi();
        let routes = document["paths"].as_object().unwrap().iter().flat_map(|(path, item)| {
            item.as_object().unwrap().keys().map(move |method| (method.to_uppercase(), path.clone()))
        });
        let routes: Vec<_> = routes.collect();
        assert_eq!(routes.len(), roles.len());
        for (method, template) in routes {
            let row = roles.iter().find(|(m, path, _)| (m, path) == (&method, &template));
            let least = row.unwrap_or_else(|| panic!("docs/api/roles.md lacks {method} {template}")).2;
            let path = template.replace("{id}", NOBODY).replace("{enrollment_id}", NOBODY);
            let path = path.replace("{sha256}", &"0".repeat(64)).replace("{topic}", "com.apple.mgmt.x");
            for role in [Role::Viewer, Role::Operator, Role::Admin] {
                let answer = api.json(role, &method, &path, &json!({"no such member": 1})).await;
                let name = format!("{method} {template} as {role}: {}", answer.status);
                if role < least {
                    assert_eq!(answer.status, 403, "{name}");
                    answer.problem(403, "forbidden");
                } else {
                    assert!(answer.status != 403 && answer.status != 401, "{name}");
                    assert!(answer.status.as_u16() < 500, "{name}");
                }
            }
            let nobody = Request::builder().method(method.as_str()).uri(&path).body(Body::empty()).unwrap();
            api.send(nobody).await.problem(401, "unauthorized");
        }
    }

    async fn unknown_routes_and_methods_say_so(api: Api) {
        api.get("/api/v1/nothing").await.problem(404, "not_found");
        api.get("/").await.problem(404, "not_found");
        let answer = api.json(Role::Viewer, "PATCH", "/api/v1/tokens", &json!({})).await;
        assert!(answer.headers[ALLOW].to_str().unwrap().contains("POST"));
        answer.problem(405, "method_not_allowed");
        api.call(Role::Admin, "HEAD", "/api/v1/tokens", &[], Body::empty()).await.expect(200);
    }

    async fn a_body_that_is_not_as_it_should_be_is_told_why(api: Api) {
        let post = async |kind: &'static str, body: String| {
            api.call(Role::Admin, "POST", "/api/v1/tokens", &[("content-type", kind)], Body::from(body)).await
        };
        post("text/plain", "{}".to_owned()).await.problem(415, "unsupported_media_type");
        post("application/json", "{\"name\":".to_owned()).await.problem(400, "bad_json");
        post("application/json", String::new()).await.problem(400, "bad_json");
        let nothing = api.call(Role::Admin, "POST", "/api/v1/tokens", &[], Body::empty()).await;
        assert_eq!(nothing.problem(422, "invalid_request")["errors"].as_array().unwrap().len(), 2);
        let untold = api.call(Role::Admin, "POST", "/api/v1/tokens", &[], Body::from("{}")).await;
        untold.problem(415, "unsupported_media_type");
        post("application/json", "\u{0}".to_owned()).await.problem(400, "bad_json");
        post("application/json", "[".repeat(100_000)).await.problem(400, "bad_json");
        let large = format!("{{\"name\":\"{}\"}}", "x".repeat(9 << 20));
        post("application/json", large).await.problem(413, "body_too_large");
        let wrong = json!({"name": "", "role": "king", "expires_at": 5, "colour": "red"}).to_string();
        let body = post("application/json; charset=utf-8", wrong).await.problem(422, "invalid_request");
        let mut places: Vec<_> = body["errors"].as_array().unwrap().iter().map(|e| e["pointer"].clone()).collect();
        places.sort_by_key(ToString::to_string);
        assert_eq!(places, ["/colour", "/expires_at", "/name", "/role"]);
        assert!(body["request_id"].is_string());
    }

    async fn the_same_creation_twice_is_one(api: Api) {
        let body = json!({"name": "ci", "role": "viewer"});
        let first = api.post_once("k1", "/api/v1/tokens", &body).await.expect(201);
        let again = api.post_once("k1", "/api/v1/tokens", &body).await.expect(201);
        assert_eq!(first, again);
        api.post_once("k1", "/api/v1/tokens", &json!({"name": "ci", "role": "admin"})).await
            .problem(422, "idempotency_key_reused");
        let other = api.post_once("k2", "/api/v1/tokens", &body).await.expect(201);
        assert_ne!(first["id"], other["id"]);
        api.delete(&format!("/api/v1/tokens/{}", first["id"].as_str().unwrap())).await.expect(204);
        assert_eq!(api.post_once("k1", "/api/v1/tokens", &body).await.expect(201), first, "as it was when it was made");
        // A failure is not remembered: the corrected request may carry the same key.
        let past = json!({"name": "ci", "role": "viewer", "expires_at": "2001-01-01T00:00:00Z"});
        api.post_once("k3", "/api/v1/tokens", &past).await.problem(422, "invalid_token");
        api.post_once("k3", "/api/v1/tokens", &body).await.expect(201);
        api.post_once(&"k".repeat(201), "/api/v1/tokens", &body).await.problem(400, "bad_header");
        assert_eq!(api.t.audited().await.iter().filter(|action| *action == "token.created").count(), 6);
    }

    async fn two_tokens_of_one_name_are_told_apart_in_the_audit_log(api: Api) {
        let body = json!({"name": "ci", "role": "admin"});
        for _ in 0..2 {
            let made = api.post("/api/v1/tokens", &body).await.expect(201);
            let bearer = format!("Bearer {}", made["token"].as_str().unwrap());
            let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
            let link = json!({"name": "reception"}).to_string();
            let mut request = http::Request::post("/api/v1/enrollment-links");
            for (name, value) in headers {
                request = request.header(name, value);
            }
            api.send(request.body(Body::from(link)).unwrap()).await.expect(201);
            let log = api.get("/api/v1/audit?action=enrollment_link.created&limit=1").await.expect(200);
            assert_eq!((&log["items"][0]["actor"], &log["items"][0]["actor_token"]), (&json!("ci"), &made["id"]));
        }
    }

    async fn the_same_creation_at_once_is_one(api: Api) {
        let body = json!({"name": "ci", "role": "viewer"});
        let mut asked = tokio::task::JoinSet::new();
        for _ in 0..8 {
            let (api, body) = (api.clone(), body.clone());
            asked.spawn(async move { api.post_once("k", "/api/v1/tokens", &body).await.expect(201) });
        }
        let answers = asked.join_all().await;
        assert!(answers.windows(2).all(|two| two[0] == two[1]), "{answers:?}");
    }

    async fn a_database_that_is_away_is_503_and_says_nothing_else(api: Api) {
        api.t.db.store.close().await;
        let body = api.get("/api/v1/tokens").await.problem(503, "unavailable");
        assert!(!body.to_string().to_lowercase().contains("pool"), "{body}");
        assert!(api.metrics.render().contains(r#"muster_database_errors_total{kind="unavailable"} 1"#));
    }

    async fn a_database_that_fails_behind_the_token_counts_too(api: Api) {
        if api.t.db.store.kind() == "sqlite" {
            api.t.db.store.limit_growth(Some(0)).await.unwrap();
            let command = json!({"type": "lock", "message": "x".repeat(200)});
            let targets = json!({"targets": {"all": true}, "command": command});
            for _ in 0..50 {
                if api.post("/api/v1/commands", &targets).await.status == 503 {
                    break;
                }
            }
            assert!(api.metrics.render().contains(r#"muster_database_errors_total{kind="unavailable"} 1"#));
        }
    }

    async fn the_document_and_its_reader_need_no_token(api: Api) {
        let get = async |path: &str| api.send(Request::get(path).body(Body::empty()).unwrap()).await;
        let document = get("/api/openapi.json").await.expect(200);
        assert_eq!(document["openapi"], "3.1.0");
        let page = get("/api/docs/").await;
        assert_eq!(page.status, 200);
        assert!(String::from_utf8_lossy(&page.bytes).contains("swagger"));
        assert_eq!(get("/api/docs").await.status, 303);
    }
}
