//! Enrollment links, SCEP challenges and authorities through the API.

use axum::body::Body;
use http::header::LOCATION;
use muster::model::{Role, SeededRandomness};
use muster::pki::Authority;
use muster::pki::authority::make_device_ca;
use serde_json::json;

use crate::support::api::{Api, walk};
use crate::support::db::{Fixture, TestDb};
use crate::support::ready::{Ready, rsa};
use crate::support::rows::DAY;

const LINKS: &str = "/api/v1/enrollment-links";
const AUTHORITIES: &str = "/api/v1/authorities";

/// The API of a server that devices can enroll at.
pub struct ReadyApi(Api);

impl Fixture for ReadyApi {
    async fn on(db: TestDb) -> Self {
        Self(Api::of(Ready::on(db).await.test).await)
    }
}

fn other_ca(api: &Api, name: &str) -> Authority {
    make_device_ca(&rsa(2), name, "Example", api.t.now(), &SeededRandomness::new(9)).unwrap()
}

both_databases! {
    async fn a_link_is_shown_once_and_never_again(f: ReadyApi) {
        let api = f.0;
        let body = json!({
            "name": "reception", "uses": 25, "expires_at": api.t.now().plus(DAY), "user_name": "Sam",
            "user_email": "sam@example.org",
        });
        let answer = api.json(Role::Operator, "POST", LINKS, &body).await;
        let at = answer.headers[LOCATION].to_str().unwrap().to_owned();
        let made = answer.expect(201);
        let url = made["url"].as_str().unwrap();
        assert!(url.starts_with("https://mdm.example.org/enroll/"), "{url}");
        assert!(made["qr_svg"].as_str().unwrap().contains("<svg"));
        assert!(made["qr_png"].as_str().unwrap().starts_with("iVBORw0KGgo"));
        let code = url.rsplit('/').next().unwrap();
        for path in [LINKS, &at, "/api/v1/audit"] {
            let answer = api.call(Role::Viewer, "GET", path, &[], Body::empty()).await;
            assert!(!String::from_utf8_lossy(&answer.bytes).contains(code), "{path}");
            answer.expect(200);
        }
        let shown = api.get(&at).await.expect(200);
        assert_eq!((&shown["state"], &shown["uses_allowed"], &shown["uses_count"]), (&json!("open"), &json!(25), &json!(0)));
        api.json(Role::Viewer, "DELETE", &at, &json!({})).await.problem(403, "forbidden");
        api.json(Role::Operator, "DELETE", &at, &json!({})).await.expect(204);
        assert_eq!(api.get(&at).await.expect(200)["state"], "revoked");
    }

    async fn a_link_made_twice_with_one_key_is_one_link(f: ReadyApi) {
        let api = f.0;
        let body = json!({"name": "reception"});
        let first = api.post_once("k", LINKS, &body).await.expect(201);
        let again = api.post_once("k", LINKS, &body).await.expect(201);
        assert_eq!(first, again, "the URL and its QR codes too");
        assert_eq!(walk(&api, LINKS, 10, "id").await.len(), 1);
        let kept = api.t.db.texts("SELECT CAST(COUNT(*) AS TEXT) FROM idempotency WHERE response_sealed IS NOT NULL").await;
        assert_eq!(kept, ["1"]);
    }

    async fn links_are_listed_page_by_page(f: ReadyApi) {
        let api = f.0;
        for number in 1..=5 {
            api.t.db.clock.advance(DAY);
            api.post(LINKS, &json!({"name": format!("link {number}")})).await.expect(201);
        }
        for limit in [1, 2, 5, 500] {
            assert_eq!(walk(&api, LINKS, limit, "name").await, ["link 5", "link 4", "link 3", "link 2", "link 1"]);
        }
    }

    async fn what_is_wrong_with_a_link_is_told_by_its_place(f: ReadyApi) {
        let api = f.0;
        let body = json!({"name": "", "uses": 0, "expires_at": "soon", "user_email": 5, "user": "Sam"});
        let wrong = api.post(LINKS, &body).await.problem(422, "invalid_request");
        assert_eq!(wrong["errors"].as_array().unwrap().len(), 5, "{wrong}");
        let body = json!({"name": " ", "user_email": "nobody", "expires_at": "2001-01-01T00:00:00Z"});
        let wrong = api.post(LINKS, &body).await.problem(422, "invalid_enrollment_link");
        assert_eq!(wrong["errors"].as_array().unwrap().len(), 3, "{wrong}");
        api.get(&format!("{LINKS}/00000000-0000-7000-8000-000000000000")).await.problem(404, "not_found");
    }

    async fn a_challenge_is_minted_by_an_admin(f: ReadyApi) {
        let (api, path) = (f.0, "/api/v1/scep/challenges");
        let body = json!({"name": "kiosk tool", "uses": 3});
        api.json(Role::Operator, "POST", path, &body).await.problem(403, "forbidden");
        let made = api.post_once("k", path, &body).await.expect(201);
        assert_eq!((&made["uses"], &made["url"]), (&json!(3), &json!("https://mdm.example.org/scep")));
        assert!(made["challenge"].as_str().unwrap().len() >= 26);
        assert_eq!(api.post_once("k", path, &body).await.expect(201), made);
        let body = json!({"name": "kiosk tool", "expires_at": "2001-01-01T00:00:00Z"});
        api.post(path, &body).await.problem(422, "invalid_challenge");
    }

    async fn authorities_are_imported_activated_and_retired(f: ReadyApi) {
        let api = f.0;
        let own = api.get(AUTHORITIES).await.expect(200)["items"].clone();
        assert_eq!((own[0]["purpose"].clone(), own[1]["purpose"].clone()), (json!("device"), json!("tls")));
        assert!(!own.to_string().contains("PRIVATE KEY"));

        let ca = other_ca(&api, "Former CA");
        let body = json!({"certificate": ca.certificate.to_pem(), "key": ca.key.to_pem().expose()});
        api.json(Role::Operator, "POST", AUTHORITIES, &body).await.problem(403, "forbidden");
        let answer = api.post_once("k", AUTHORITIES, &body).await;
        let at = answer.headers[LOCATION].to_str().unwrap().to_owned();
        let imported = answer.expect(201);
        assert_eq!((&imported["name"], &imported["active"]), (&json!("Former CA"), &json!(false)));
        assert_eq!(api.post_once("k", AUTHORITIES, &body).await.expect(201), imported);
        api.post(AUTHORITIES, &body).await.problem(409, "authority_exists");
        assert_eq!(api.post(&format!("{at}/activate"), &json!({})).await.expect(200)["active"], true);
        api.delete(&at).await.problem(409, "authority_active");
        let first = format!("{AUTHORITIES}/{}", own[0]["id"].as_str().unwrap());
        api.delete(&first).await.expect(204);
        assert_eq!(api.get(AUTHORITIES).await.expect(200)["items"].as_array().unwrap().len(), 2);

        api.post(AUTHORITIES, &json!({"certificate": "nonsense"})).await.problem(422, "invalid_authority");
        api.post(AUTHORITIES, &json!({"key": ""})).await.problem(422, "invalid_request");
        api.delete(&format!("{at}?force=perhaps")).await.problem(400, "bad_query");
        api.get(&format!("{AUTHORITIES}/x")).await.problem(404, "not_found");
    }
}
