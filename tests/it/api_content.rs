//! Profiles, apps and push certificates as clients of the API see them: statuses, roles, tags, bodies.

use axum::body::Body;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::stream;
use http::header::{CONTENT_DISPOSITION, CONTENT_TYPE, ETAG, LOCATION};
use muster::model::{Role, Sha256};
use muster::pki::PrivateKey;
use muster::pki::authority::make_tls_root;
use muster::pki::push::{PushCertificate, issue_fake};
use muster::service::apps::MAX_UPLOADS;
use openssl::pkcs12::Pkcs12;
use openssl::pkey::PKey;
use openssl::x509::X509;
use serde_json::{Value, json};

use crate::support::api::{Answer, Api};
use crate::support::app::TestApp;
use crate::support::ipa::{INFO_PATH, notes, package};
use crate::support::rows::{DAY, Phone, TOPIC};

const WIFI: &[u8] = include_bytes!("../fixtures/plists/profile-wifi.mobileconfig");
const PROFILE: (&str, &str) = ("content-type", "application/x-apple-aspen-config");
const OCTETS: (&str, &str) = ("content-type", "application/octet-stream");
const PEM: (&str, &str) = ("content-type", "application/x-pem-file");

async fn send(api: &Api, role: Role, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
    api.call(role, method, path, headers, Body::from(body.to_vec())).await
}

fn push_certificate(api: &Api, topic: &str) -> PushCertificate {
    let (now, random) = (api.t.now(), &*api.t.db.random);
    let apple = make_tls_root("Fake Apple", "", now, random).unwrap();
    issue_fake(&apple, PrivateKey::generate_rsa(2048).unwrap(), topic, now, 365 * DAY, random).unwrap()
}

fn pem(certificate: &PushCertificate) -> Vec<u8> {
    let identity = &certificate.identity;
    format!("{}{}", identity.certificate.to_pem(), identity.key.to_pem().expose()).into_bytes()
}

fn texts(list: &Value, member: &str) -> Vec<String> {
    let items = list["items"].as_array().unwrap();
    items.iter().map(|item| item[member].as_str().unwrap().to_owned()).collect()
}

both_databases! {
    async fn a_profile_goes_up_is_edited_and_goes(api: Api) {
        let made = send(&api, Role::Operator, "POST", "/api/v1/profiles", &[PROFILE], WIFI).await;
        assert_eq!(made.headers[ETAG], "\"1\"");
        let place = made.headers[LOCATION].to_str().unwrap().to_owned();
        let made = made.expect(201);
        assert_eq!(place, format!("/api/v1/profiles/{}", made["id"].as_str().unwrap()));
        assert_eq!(made["identifier"], "org.example.wifi");
        assert_eq!(made["payload_types"], json!(["com.apple.wifi.managed", "com.apple.security.root"]));
        assert_eq!((&made["scope"], &made["signed"]), (&json!("system"), &json!(false)));
        assert_eq!(made["sha256"], Sha256::of(WIFI).hex());

        let again = send(&api, Role::Operator, "POST", "/api/v1/profiles", &[PROFILE], WIFI).await;
        let detail = again.problem(409, "identifier_taken")["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains(made["id"].as_str().unwrap()), "{detail}");

        let put = async |headers: &[(&str, &str)]| send(&api, Role::Operator, "PUT", &place, headers, WIFI).await;
        put(&[PROFILE]).await.problem(428, "precondition_required");
        put(&[PROFILE, ("if-match", "\"7\"")]).await.problem(412, "revision_mismatch");
        let replaced = put(&[PROFILE, ("if-match", "\"1\"")]).await;
        assert_eq!((replaced.status.as_u16(), &replaced.headers[ETAG]), (200, &"\"2\"".parse().unwrap()));
        put(&[PROFILE, ("if-match", "*")]).await.expect(200);

        let shown = api.call(Role::Viewer, "GET", &place, &[], Body::empty()).await;
        assert_eq!(shown.headers[ETAG], "\"3\"");
        assert!(!String::from_utf8_lossy(&shown.bytes).contains("correct horse"));

        // The content is for admins, and comes back as it was.
        let content = format!("{place}/content");
        for role in [Role::Viewer, Role::Operator] {
            api.call(role, "GET", &content, &[], Body::empty()).await.problem(403, "forbidden");
        }
        let read = api.get(&content).await;
        assert_eq!((read.status.as_u16(), &read.bytes[..]), (200, WIFI));
        assert_eq!(read.headers[CONTENT_TYPE], "application/x-apple-aspen-config");
        assert!(read.headers[CONTENT_DISPOSITION].to_str().unwrap().contains(".mobileconfig"));

        let stale = [("if-match", "\"2\"")];
        api.call(Role::Operator, "DELETE", &place, &stale, Body::empty()).await.problem(412, "revision_mismatch");
        api.call(Role::Operator, "DELETE", &place, &[("if-match", "\"3\"")], Body::empty()).await.expect(204);
        api.get(&place).await.problem(404, "not_found");
        api.get(&content).await.problem(404, "not_found");
    }

    async fn what_is_no_profile_is_answered_with_its_faults(api: Api) {
        let wrong = b"<plist version=\"1.0\"><dict><key>PayloadType</key><string>Wish</string></dict></plist>";
        let answer = send(&api, Role::Operator, "POST", "/api/v1/profiles", &[PROFILE], wrong).await;
        let problem = answer.problem(422, "invalid_profile");
        let pointers: Vec<_> = problem["errors"].as_array().unwrap().iter().map(|e| e["pointer"].clone()).collect();
        assert!(pointers.contains(&json!("/PayloadType")) && pointers.contains(&json!("/PayloadUUID")), "{problem}");
        for body in [&b""[..], b"hello", &[0x30, 0x82, 1, 2, 3], &[0xFF; 100]] {
            let answer = send(&api, Role::Operator, "POST", "/api/v1/profiles", &[OCTETS], body).await;
            answer.problem(422, "invalid_profile");
        }
        let form = [("content-type", "application/x-www-form-urlencoded")];
        let answer = send(&api, Role::Operator, "POST", "/api/v1/profiles", &form, WIFI).await;
        let detail = answer.problem(415, "unsupported_media_type")["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains("application/x-apple-aspen-config"), "{detail}");
        let large = vec![b' '; 9 << 20];
        let answer = send(&api, Role::Operator, "POST", "/api/v1/profiles", &[PROFILE], &large).await;
        answer.problem(413, "body_too_large");
    }

    async fn the_same_upload_sent_twice_makes_one_profile(api: Api) {
        let headers = [PROFILE, ("idempotency-key", "first try")];
        let post = async || send(&api, Role::Operator, "POST", "/api/v1/profiles", &headers, WIFI).await.expect(201);
        let made = post().await;
        assert_eq!(post().await, made);
        // Also when it has been deleted since: the first answer may have been lost.
        let place = format!("/api/v1/profiles/{}", made["id"].as_str().unwrap());
        api.delete(&place).await.expect(204);
        assert_eq!(post().await, made);
        api.get(&place).await.problem(404, "not_found");
    }

    async fn whatever_is_there_is_changed_by_all_who_ask_at_once(api: Api) {
        let made = send(&api, Role::Operator, "POST", "/api/v1/profiles", &[PROFILE], WIFI).await.expect(201);
        let place = format!("/api/v1/profiles/{}", made["id"].as_str().unwrap());
        let mut asked = tokio::task::JoinSet::new();
        for _ in 0..8 {
            let (api, place) = (api.clone(), place.clone());
            let headers = [PROFILE, ("if-match", "*")];
            asked.spawn(async move { send(&api, Role::Operator, "PUT", &place, &headers, WIFI).await.expect(200) });
        }
        asked.join_all().await;
        assert_eq!(api.get(&place).await.headers[ETAG], "\"9\"");
    }

    async fn profiles_and_apps_come_in_pages(api: Api) {
        for name in ["a", "b", "c"] {
            let file = String::from_utf8_lossy(WIFI).replace("org.example.wifi", &format!("org.example.{name}"));
            send(&api, Role::Operator, "POST", "/api/v1/profiles", &[PROFILE], file.as_bytes()).await.expect(201);
            api.post("/api/v1/apps", &json!({"name": name, "store_id": 1})).await.expect(201);
            api.t.db.clock.advance(DAY);
        }
        for (list, member, names) in [
            ("/api/v1/profiles", "identifier", ["org.example.c", "org.example.b", "org.example.a"]),
            ("/api/v1/apps", "name", ["c", "b", "a"]),
        ] {
            let first = api.get(&format!("{list}?limit=2")).await.expect(200);
            assert_eq!(texts(&first, member), names[..2]);
            let cursor = first["next_cursor"].as_str().unwrap();
            let second = api.get(&format!("{list}?limit=2&cursor={cursor}")).await.expect(200);
            assert_eq!((texts(&second, member), &second["next_cursor"]), (vec![names[2].to_owned()], &Value::Null));
            api.get(&format!("{list}?limit=0")).await.problem(400, "bad_query");
            api.get(&format!("{list}?color=red")).await.problem(400, "bad_query");
        }
        let one = api.get("/api/v1/profiles?identifier=org.example.b").await.expect(200);
        assert_eq!(texts(&one, "identifier"), ["org.example.b"]);
        let none = api.get("/api/v1/apps?kind=package").await.expect(200);
        assert!(texts(&none, "name").is_empty());
        api.get("/api/v1/apps?kind=elsewhere").await.problem(400, "bad_query");
    }

    async fn an_app_is_added_changed_and_deleted(api: Api) {
        let new = json!({"name": "Notes", "store_id": 361_309_726, "bundle_id": "org.example.notes"});
        let made = api.json(Role::Operator, "POST", "/api/v1/apps", &new).await.expect(201);
        assert_eq!((&made["kind"], &made["store_id"]), (&json!("store"), &json!(361_309_726)));
        let place = format!("/api/v1/apps/{}", made["id"].as_str().unwrap());
        let elsewhere = json!({"name": "Notes", "manifest_url": "https://apps.example.org/notes.plist"});
        assert_eq!(api.post("/api/v1/apps", &elsewhere).await.expect(201)["kind"], "manifest");

        for wrong in [
            json!({"name": "Notes"}),
            json!({"name": "Notes", "store_id": 1, "manifest_url": "https://apps.example.org/"}),
            json!({"name": "", "store_id": 1}),
            json!({"store_id": "1"}),
        ] {
            api.post("/api/v1/apps", &wrong).await.problem(422, "invalid_request");
        }
        let plain = json!({"name": "Notes", "manifest_url": "http://apps.example.org/notes.plist"});
        let problem = api.post("/api/v1/apps", &plain).await.problem(422, "invalid_app");
        assert_eq!(problem["errors"][0]["pointer"], "/manifest_url");

        let patch = async |tag: &str| {
            let headers = [("content-type", "application/json"), ("if-match", tag)];
            send(&api, Role::Operator, "PATCH", &place, &headers, br#"{"name": "Our notes"}"#).await
        };
        patch("\"2\"").await.problem(412, "revision_mismatch");
        let changed = patch("\"1\"").await;
        assert_eq!(changed.headers[ETAG], "\"2\"");
        assert_eq!(changed.expect(200)["name"], "Our notes");
        api.call(Role::Viewer, "DELETE", &place, &[], Body::empty()).await.problem(403, "forbidden");
        let stale = [("if-match", "\"1\"")];
        api.call(Role::Operator, "DELETE", &place, &stale, Body::empty()).await.problem(412, "revision_mismatch");
        api.delete(&place).await.expect(204);
        api.delete(&place).await.problem(404, "not_found");
    }

    async fn a_viewer_sees_no_ticket_in_the_url_of_a_manifest(api: Api) {
        let url = "https://apps.example.org/notes.plist?ticket=987654";
        let new = json!({"name": "Notes", "manifest_url": url});
        let made = api.json(Role::Operator, "POST", "/api/v1/apps", &new).await.expect(201);
        assert_eq!(made["manifest_url"], url);
        let place = format!("/api/v1/apps/{}", made["id"].as_str().unwrap());
        for path in ["/api/v1/apps", &place, "/api/v1/audit"] {
            let shown = api.call(Role::Viewer, "GET", path, &[], Body::empty()).await.expect(200).to_string();
            assert!(shown.contains("https://apps.example.org/notes.plist") && !shown.contains("987654"), "{path}: {shown}");
        }
    }

    async fn a_package_sent_again_under_its_key_is_kept_once(api: Api) {
        let file = notes(600_000);
        let upload = async |key: &str, file: &[u8], query: &str| {
            let path = format!("/api/v1/apps/package{query}");
            send(&api, Role::Operator, "POST", &path, &[OCTETS, ("Idempotency-Key", key)], file).await
        };
        let made = upload("one", &file, "").await.expect(201);
        assert_eq!(upload("one", &file, "").await.expect(201), made);
        upload("one", &notes(10), "").await.problem(422, "idempotency_key_reused");
        upload("one", &file, "?name=Other").await.problem(422, "idempotency_key_reused");
        upload("", &file, "").await.problem(400, "bad_header");
        // What fails is not remembered.
        upload("two", b"hello", "").await.problem(422, "invalid_package");
        assert_ne!(upload("two", &file, "").await.expect(201)["id"], made["id"]);
        let (a, b) = tokio::join!(upload("three", &file, ""), upload("three", &file, ""));
        assert_eq!(a.expect(201), b.expect(201));
        assert_eq!(api.t.db.texts("SELECT CAST(COUNT(*) AS TEXT) FROM packages").await, ["3"]);
    }

    async fn a_package_sent_again_is_not_refused_for_its_own_size(api: Api) {
        let api = Api::of(TestApp::with(api.t.db.clone(), "[apps]\nquota = \"1MiB\"\n").await).await;
        let file = notes(600_000);
        let key = [OCTETS, ("Idempotency-Key", "one")];
        let made = send(&api, Role::Operator, "POST", "/api/v1/apps/package", &key, &file).await.expect(201);
        assert_eq!(send(&api, Role::Operator, "POST", "/api/v1/apps/package", &key, &file).await.expect(201), made);
        let other = [OCTETS, ("Idempotency-Key", "two")];
        send(&api, Role::Operator, "POST", "/api/v1/apps/package", &other, &file).await.problem(409, "quota_exceeded");
    }

    async fn so_many_packages_go_up_at_once_and_no_more(api: Api) {
        let all = api.t.app.uploads.try_acquire_many(u32::try_from(MAX_UPLOADS).unwrap()).unwrap();
        let full = send(&api, Role::Operator, "POST", "/api/v1/apps/package", &[OCTETS], &notes(10)).await;
        assert!(full.headers.contains_key("Retry-After"));
        full.problem(429, "too_many_uploads");
        drop(all);
        for _ in 0..=MAX_UPLOADS {
            send(&api, Role::Operator, "POST", "/api/v1/apps/package", &[OCTETS], b"hello").await.problem(422, "invalid_package");
        }
    }

    async fn a_package_goes_up_in_pieces(api: Api) {
        let file = notes(1_500_000);
        let upload = async |file: Vec<u8>, query: &str| {
            let pieces: Vec<_> = file.chunks(10_000).map(|piece| Ok::<_, std::io::Error>(Bytes::copy_from_slice(piece))).collect();
            let path = format!("/api/v1/apps/package{query}");
            api.call(Role::Operator, "POST", &path, &[OCTETS], Body::from_stream(stream::iter(pieces))).await
        };
        let made = upload(file.clone(), "?name=Our%20notes").await.expect(201);
        assert_eq!((&made["kind"], &made["name"]), (&json!("package"), &json!("Our notes")));
        assert_eq!((&made["bundle_id"], &made["version"]), (&json!("org.example.notes"), &json!("42")));
        assert_eq!(made["package"], json!({"size_bytes": file.len(), "sha256": Sha256::of(&file).hex()}));
        // Whoever knows where it lies may fetch it, so that is for devices to know.
        let shown = api.get(&format!("/api/v1/apps/{}", made["id"].as_str().unwrap())).await;
        let slug = api.t.db.texts("SELECT slug FROM packages").await.remove(0);
        assert!(!String::from_utf8_lossy(&shown.bytes).contains(&slug));

        let bomb = package(&[(INFO_PATH, &vec![b' '; 64 << 20])]);
        upload(bomb, "").await.problem(422, "invalid_package");
        upload(b"hello".to_vec(), "").await.problem(422, "invalid_package");
        upload(notes(10), "?name=").await.problem(400, "bad_query");
        let broken = stream::iter([Ok(Bytes::from_static(b"PK")), Err(std::io::Error::other("gone"))]);
        let answer =
            api.call(Role::Operator, "POST", "/api/v1/apps/package", &[OCTETS], Body::from_stream(broken)).await;
        answer.problem(400, "body_incomplete");
        send(&api, Role::Operator, "POST", "/api/v1/apps/package", &[], &file).await.problem(415, "unsupported_media_type");
        send(&api, Role::Viewer, "POST", "/api/v1/apps/package", &[OCTETS], &file).await.problem(403, "forbidden");
        assert_eq!(api.t.db.texts("SELECT CAST(COUNT(*) AS TEXT) FROM packages").await, ["1"]);
    }

    async fn a_push_certificate_is_asked_for_and_stored(api: Api) {
        let made = api.post("/api/v1/apns/requests", &json!({"email": "mdm@example.org"})).await.expect(201);
        assert!(made["csr"].as_str().unwrap().starts_with("-----BEGIN CERTIFICATE REQUEST-----"));
        assert_eq!(made.get("signed_request"), None);
        assert_eq!(api.get("/api/v1/apns/requests").await.expect(200)["items"], json!([made.clone()]));
        let place = format!("/api/v1/apns/requests/{}", made["id"].as_str().unwrap());
        assert_eq!(api.get(&place).await.expect(200), made);
        for role in [Role::Viewer, Role::Operator] {
            api.call(role, "GET", &place, &[], Body::empty()).await.problem(403, "forbidden");
            api.json(role, "POST", "/api/v1/apns/requests", &json!({})).await.problem(403, "forbidden");
        }
        api.post("/api/v1/apns/requests", &json!({"email": "nobody"})).await.problem(422, "invalid_push_request");

        let certificate = push_certificate(&api, TOPIC);
        let put = async |role, query: &str, kind, body: &[u8]| {
            let path = format!("/api/v1/apns/certificate{query}");
            send(&api, role, "PUT", &path, &[kind], body).await
        };
        put(Role::Operator, "", PEM, &pem(&certificate)).await.problem(403, "forbidden");
        let stored = put(Role::Admin, "", PEM, &pem(&certificate)).await.expect(200);
        assert_eq!((&stored["topic"], &stored["default"]), (&json!(TOPIC), &json!(true)));
        assert_eq!((&stored["devices"], &stored["expired"]), (&json!(0), &json!(false)));
        assert!(!stored.to_string().contains("PRIVATE"));

        // Another topic, while a phone is enrolled under the first.
        let phone = Phone::enrolled(&api.t.db, "A").await;
        let other = push_certificate(&api, "com.apple.mgmt.External.other");
        let problem = put(Role::Admin, "", PEM, &pem(&other)).await.problem(409, "other_topic");
        assert!(problem["detail"].as_str().unwrap().contains("1 device is enrolled"), "{problem}");
        put(Role::Admin, "?default=false", PEM, &pem(&other)).await.expect(200);
        let patch = async |body: Value| {
            api.json(Role::Admin, "PATCH", "/api/v1/apns/certificate/com.apple.mgmt.External.other", &body).await
        };
        patch(json!({"default": false})).await.problem(422, "invalid_request");
        assert_eq!(patch(json!({"default": true})).await.expect(200)["default"], true);
        let listed = api.call(Role::Viewer, "GET", "/api/v1/apns/certificate", &[], Body::empty()).await.expect(200);
        assert_eq!(texts(&listed, "topic"), ["com.apple.mgmt.External.other", TOPIC]);

        let place = format!("/api/v1/apns/certificate/{TOPIC}");
        assert_eq!(api.get(&place).await.expect(200)["devices"], 1);
        api.delete(&place).await.problem(409, "devices_enrolled");
        api.delete(&format!("{place}?force=true")).await.expect(204);
        api.get(&place).await.problem(404, "not_found");
        for nothing in ["%00", "%20", &"x".repeat(300)] {
            api.get(&format!("/api/v1/apns/certificate/{nothing}")).await.problem(404, "not_found");
        }
        let listed = api.get("/api/v1/apns/certificate").await.expect(200);
        assert_eq!(listed["without_certificate"], json!([{"topic": TOPIC, "devices": 1}]));
        drop(phone);
    }

    async fn a_p12_comes_in_json_with_its_password(api: Api) {
        let identity = push_certificate(&api, TOPIC).identity;
        let certificate = X509::from_der(identity.certificate.der()).unwrap();
        let key = PKey::private_key_from_der(identity.key.pkcs8_der().expose()).unwrap();
        let file = Pkcs12::builder().pkey(&key).cert(&certificate).build2("hunter2").unwrap().to_der().unwrap();
        let put = async |body: Value| api.json(Role::Admin, "PUT", "/api/v1/apns/certificate", &body).await;
        let with = |password: &str| json!({"file": STANDARD.encode(&file), "password": password});
        let problem = put(with("hunter3")).await.problem(422, "wrong_password");
        assert!(!problem.to_string().contains("hunter"), "{problem}");
        send(&api, Role::Admin, "PUT", "/api/v1/apns/certificate", &[OCTETS], &file).await.problem(422, "wrong_password");
        put(json!({"file": "not base64!"})).await.problem(422, "invalid_request");
        put(json!({"password": "x"})).await.problem(422, "invalid_request");
        assert_eq!(put(with("hunter2")).await.expect(200)["topic"], TOPIC);
    }
}
