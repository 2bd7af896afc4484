//! Push certificates: asked for, stored, renewed, refused; and what that does to the devices.

use std::sync::OnceLock;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use muster::model::{EnrollmentId, Role, Secret};
use muster::pki::authority::{Authority, issue_server_certificate, make_tls_root};
use muster::pki::push::{PushCertificate, issue_fake};
use muster::pki::{Certificate, CertificateRequest, PrivateKey};
use muster::service::push_certificates::{
    NewCertificate, NewRequest, Stored, get, make_default, overview, put, remove, remove_request, request, requested,
    requests, wake_batch,
};
use muster::service::{App, Error, wakes};
use openssl::pkcs12::Pkcs12;
use openssl::pkey::PKey;
use openssl::x509::X509;

use crate::support::app::{TestApp, actor};
use crate::support::rows::{DAY, HOUR, MINUTE, Phone, TOPIC, command, push};

const OTHER: &str = "com.apple.mgmt.External.0b55";

/// The same few keys for all stories: making them takes most of the time.
fn key(number: usize) -> PrivateKey {
    static KEYS: [OnceLock<PrivateKey>; 3] = [const { OnceLock::new() }; 3];
    KEYS[number].get_or_init(|| PrivateKey::generate_rsa(2048).unwrap()).clone()
}

/// Plays Apple.
fn apple(t: &TestApp) -> Authority {
    make_tls_root("Fake Apple", "", t.now(), &*t.db.random).unwrap()
}

fn issue(t: &TestApp, topic: &str, number: usize, validity: Duration) -> PushCertificate {
    issue_fake(&apple(t), key(number), topic, t.now(), validity, &*t.db.random).unwrap()
}

fn pem(certificate: &PushCertificate) -> Vec<u8> {
    let identity = &certificate.identity;
    format!("{}{}", identity.certificate.to_pem(), identity.key.to_pem().expose()).into_bytes()
}

fn new(file: impl Into<Vec<u8>>) -> NewCertificate {
    NewCertificate { file: Secret::new(file.into()), password: None, default: None, force: false }
}

async fn store(t: &TestApp, topic: &str, validity: Duration) -> Stored {
    put(&t.app, &actor(Role::Admin), new(pem(&issue(t, topic, 0, validity)))).await.unwrap()
}

async fn refused(app: &App, new: NewCertificate) -> (&'static str, String) {
    match put(app, &actor(Role::Admin), new).await.unwrap_err() {
        Error::Invalid { code, detail, .. } | Error::Conflict { code, detail } => (code, detail),
        other => panic!("{other:?}"),
    }
}

/// A phone that is enrolled under this topic, with its wake-up row.
async fn enrolled(t: &TestApp, udid: &str, topic: &str) -> Phone {
    let phone = Phone::enrolled(&t.db, udid).await;
    let mut tx = t.db.write().await;
    tx.set_push(phone.id, &push(topic), t.now()).await.unwrap();
    tx.commit().await.unwrap();
    phone
}

both_databases! {
    async fn a_request_waits_for_its_certificate(t: TestApp) {
        let admin = actor(Role::Admin);
        let new_request = NewRequest { name: None, email: Some("mdm@example.org".to_owned()) };
        let made = request(&t.app, &admin, new_request).await.unwrap();
        assert_eq!((made.signed_request, made.answered_at), (None, None));
        let csr = CertificateRequest::from_pem(made.csr_pem.as_bytes()).unwrap();
        assert!(csr.is_rsa && csr.key_bits == 2048 && csr.subject.contains("Our organization"), "{}", csr.subject);

        // Another request's answer does not take its place.
        let certificate = issue(&t, TOPIC, 1, 365 * DAY).identity.certificate;
        let (code, detail) = refused(&t.app, new(certificate.to_pem())).await;
        assert_eq!(code, "no_key");
        assert!(detail.contains("no request made on this server"), "{detail}");

        // Apple's answer is a certificate alone; its key is found by its public half.
        let key = t.db.read().await.push_request(made.id).await.unwrap().unwrap().key_sealed;
        let key = t.app.open(&format!("push_requests.key:{}", made.id), &key).unwrap();
        let key = PrivateKey::from_der(key.expose()).unwrap();
        let answer = issue_fake(&apple(&t), key, TOPIC, t.now(), 365 * DAY, &*t.db.random).unwrap();
        let stored = put(&t.app, &admin, new(answer.identity.certificate.der())).await.unwrap();
        assert_eq!((stored.certificate.topic.as_str(), stored.certificate.is_default), (TOPIC, true));
        assert_eq!(stored.certificate.not_after, answer.identity.certificate.not_after);
        assert!(!stored.replaced);
        let listed = requests(&t.app, None, 10).await.unwrap();
        assert_eq!((listed.len(), listed[0].id, listed[0].answered_at), (1, made.id, Some(t.now())));

        remove_request(&t.app, &admin, made.id).await.unwrap();
        assert!(matches!(requested(&t.app, made.id).await, Err(Error::NotFound(_))));
        let expected = ["push_certificate.stored", "push_request.created", "push_request.removed"];
        assert_eq!(t.audited().await, expected);
    }

    async fn a_request_names_its_faults_together(t: TestApp) {
        let wrong = NewRequest { name: Some("x".repeat(65)), email: Some("nobody".to_owned()) };
        let Err(Error::Invalid { faults, .. }) = request(&t.app, &actor(Role::Admin), wrong).await else { panic!() };
        let pointers: Vec<_> = faults.iter().map(|fault| fault.pointer.as_str()).collect();
        assert_eq!(pointers, ["/name", "/email"]);
        assert!(requests(&t.app, None, 10).await.unwrap().is_empty());
    }

    async fn a_vendor_signs_requests_where_one_is_set(t: TestApp) {
        let t = TestApp::with(t.db.clone(), "[vendor]\ncertificate = \"vendor.pem\"\nkey = \"vendor.key\"\n").await;
        let admin = actor(Role::Admin);
        let settings = &t.app.settings.vendor;
        let (certificate, key_file) = (settings.certificate.clone().unwrap(), settings.key.clone().unwrap());
        let Err(Error::Conflict { code, detail }) = request(&t.app, &admin, NewRequest::default()).await else {
            panic!("the vendor's files are not there")
        };
        assert_eq!(code, "vendor_certificate");
        assert!(detail.contains("vendor.certificate") && detail.contains("cannot be read"), "{detail}");
        assert!(requests(&t.app, None, 10).await.unwrap().is_empty());

        let vendor = issue(&t, "vendor", 1, DAY).identity;
        std::fs::write(&certificate, vendor.certificate.to_pem()).unwrap();
        std::fs::write(&key_file, vendor.key.to_pem().expose()).unwrap();
        let made = request(&t.app, &admin, NewRequest::default()).await.unwrap();
        let plist = STANDARD.decode(made.signed_request.unwrap()).unwrap();
        let plist = plist::Value::from_reader_xml(plist.as_slice()).unwrap().into_dictionary().unwrap();
        let csr = plist.get("PushCertRequestCSR").and_then(plist::Value::as_string).unwrap();
        assert_eq!(STANDARD.decode(csr).unwrap(), CertificateRequest::from_pem(made.csr_pem.as_bytes()).unwrap().der());
        assert!(requested(&t.app, made.id).await.unwrap().signed_request.is_some());

        t.db.clock.advance(2 * DAY);
        let Err(Error::Conflict { detail, .. }) = requested(&t.app, made.id).await else { panic!() };
        assert!(detail.contains("Apple refuses it now"), "{detail}");
    }

    async fn what_is_no_push_certificate_is_told_what_it_is(t: TestApp) {
        let made = issue(&t, TOPIC, 0, 30 * DAY);
        let (certificate, root) = (&made.identity.certificate, apple(&t));
        let app_push = issue(&t, "org.example.notes", 0, 30 * DAY);
        let names = ["mdm.example.org".to_owned()];
        let server = issue_server_certificate(&root, &names, t.now(), 30 * DAY, &*t.db.random).unwrap();
        let with = |certificate: &Certificate, key: &PrivateKey| {
            format!("{}{}", certificate.to_pem(), key.to_pem().expose()).into_bytes()
        };
        for (file, code, text) in [
            (with(certificate, &key(1)), "key_mismatch", "does not belong to the certificate"),
            (pem(&app_push), "wrong_kind_of_certificate", "for pushes to the app org.example.notes"),
            (with(&server.certificate, &server.key), "wrong_kind_of_certificate", "a web server's certificate"),
            (with(&root.certificate, &root.key), "wrong_kind_of_certificate", "an authority's certificate"),
            (key(0).to_pem().expose().clone().into_bytes(), "no_certificate", "holds no certificate"),
            (certificate.to_pem().into_bytes(), "no_key", "without its private key"),
            (b"hello".to_vec(), "unreadable_certificate", "cannot be read"),
            (Vec::new(), "unreadable_certificate", "cannot be read"),
        ] {
            let (found, detail) = refused(&t.app, new(file)).await;
            assert_eq!(found, code, "{detail}");
            assert!(detail.contains(text), "{detail}");
        }
        t.db.clock.advance(31 * DAY);
        let (code, detail) = refused(&t.app, new(pem(&made))).await;
        assert_eq!(code, "certificate_expired");
        assert!(detail.contains("renew it under the same Apple Account"), "{detail}");
        assert!(overview(&t.app).await.unwrap().certificates.is_empty());
        assert!(t.audited().await.is_empty());
    }

    async fn a_p12_needs_its_password(t: TestApp) {
        let made = issue(&t, TOPIC, 0, 30 * DAY).identity;
        let certificate = X509::from_der(made.certificate.der()).unwrap();
        let pkey = PKey::private_key_from_der(made.key.pkcs8_der().expose()).unwrap();
        let file = Pkcs12::builder().pkey(&pkey).cert(&certificate).build2("hunter2").unwrap().to_der().unwrap();
        let with = |password: Option<&str>| NewCertificate {
            password: password.map(|text| Secret::new(text.to_owned())),
            ..new(file.clone())
        };
        for (password, text) in [(None, "has a password"), (Some("wrong"), "does not open")] {
            let (code, detail) = refused(&t.app, with(password)).await;
            assert_eq!(code, "wrong_password", "{detail}");
            assert!(detail.contains(text) && !detail.contains("hunter2"), "{detail}");
        }
        let stored = put(&t.app, &actor(Role::Admin), with(Some("hunter2"))).await.unwrap();
        assert_eq!(stored.certificate.topic, TOPIC);
    }

    async fn a_renewal_takes_the_place_of_its_predecessor(t: TestApp) {
        enrolled(&t, "A", TOPIC).await;
        let first = store(&t, TOPIC, 365 * DAY).await;
        assert_eq!((first.certificate.devices, first.certificate.is_default), (1, true));
        t.db.clock.advance(340 * DAY);
        let renewed = store(&t, TOPIC, 365 * DAY).await;
        assert!(renewed.replaced && renewed.certificate.is_default);
        let all = overview(&t.app).await.unwrap();
        assert_eq!(all.certificates, std::slice::from_ref(&renewed.certificate));
        assert_eq!(get(&t.app, TOPIC).await.unwrap(), renewed.certificate);
    }

    async fn another_topic_as_the_default_strands_nobody_and_replaces_nobodys(t: TestApp) {
        store(&t, TOPIC, 30 * DAY).await;
        enrolled(&t, "A", TOPIC).await;
        let other = pem(&issue(&t, OTHER, 1, 365 * DAY));
        let as_default = NewCertificate { default: Some(true), ..new(other) };

        // While the certificate of those that are enrolled holds, they lose nothing.
        assert!(put(&t.app, &actor(Role::Admin), as_default.clone()).await.unwrap().certificate.is_default);
        let mut tx = t.db.write().await;
        let topics = [TOPIC.to_owned()].into_iter().collect();
        assert!(wakes::topics_without_certificate(&mut tx, &topics, t.now()).await.unwrap().is_empty());
        drop(tx);
        make_default(&t.app, &actor(Role::Admin), TOPIC).await.unwrap();
        remove(&t.app, &actor(Role::Admin), OTHER, false).await.unwrap();

        // Once it has ended, this one is taken for its successor, and is none.
        t.db.clock.advance(31 * DAY);
        let (code, detail) = refused(&t.app, as_default.clone()).await;
        assert_eq!(code, "other_topic");
        assert!(detail.contains(&format!("1 device is enrolled under {TOPIC}")), "{detail}");
        assert!(detail.contains("force=true"), "{detail}");
        let beside = NewCertificate { default: Some(false), ..as_default.clone() };
        put(&t.app, &actor(Role::Admin), beside).await.unwrap();
        make_default(&t.app, &actor(Role::Admin), OTHER).await.unwrap();
        let forced = NewCertificate { force: true, ..as_default };
        assert!(put(&t.app, &actor(Role::Admin), forced).await.unwrap().certificate.is_default);
    }

    async fn last_years_file_is_not_taken_over_a_newer_one(t: TestApp) {
        let old = issue(&t, TOPIC, 1, 365 * DAY);
        t.db.clock.advance(300 * DAY);
        store(&t, TOPIC, 365 * DAY).await;
        enrolled(&t, "A", TOPIC).await;
        let (code, detail) = refused(&t.app, new(pem(&old))).await;
        assert_eq!(code, "older_certificate");
        assert!(detail.contains("1 device is enrolled under"), "{detail}");
        let forced = NewCertificate { force: true, ..new(pem(&old)) };
        let stored = put(&t.app, &actor(Role::Admin), forced).await.unwrap();
        assert_eq!(stored.certificate.not_after, old.identity.certificate.not_after);
    }

    async fn a_renewal_under_another_account_is_noticed(t: TestApp) {
        store(&t, TOPIC, 365 * DAY).await;
        for udid in ["A", "B"] {
            enrolled(&t, udid, TOPIC).await;
        }
        let other = pem(&issue(&t, OTHER, 1, 365 * DAY));
        let (code, detail) = refused(&t.app, new(other.clone())).await;
        assert_eq!(code, "other_topic");
        assert!(detail.contains(&format!("2 devices are enrolled under {TOPIC}")), "{detail}");
        assert!(detail.contains("same Apple Account"), "{detail}");

        // Beside the other one it may stand; then it can become the default.
        let beside = NewCertificate { default: Some(false), ..new(other.clone()) };
        assert!(!put(&t.app, &actor(Role::Admin), beside).await.unwrap().certificate.is_default);
        assert!(make_default(&t.app, &actor(Role::Admin), OTHER).await.unwrap().is_default);
        let all = overview(&t.app).await.unwrap();
        let listed: Vec<_> = all.certificates.iter().map(|c| (c.topic.as_str(), c.is_default, c.devices)).collect();
        assert_eq!(listed, [(OTHER, true, 0), (TOPIC, false, 2)]);

        // A renewal leaves the default alone; the default cannot be given up without another.
        assert!(!store(&t, TOPIC, 366 * DAY).await.certificate.is_default);
        let not_default = NewCertificate { default: Some(false), ..new(other) };
        assert_eq!(refused(&t.app, not_default).await.0, "is_default");
    }

    async fn another_topic_can_be_forced(t: TestApp) {
        store(&t, TOPIC, 365 * DAY).await;
        enrolled(&t, "A", TOPIC).await;
        let forced = NewCertificate { force: true, ..new(pem(&issue(&t, OTHER, 1, 365 * DAY))) };
        assert!(put(&t.app, &actor(Role::Admin), forced).await.unwrap().certificate.is_default);
        // Nobody's certificate was taken away by that.
        assert_eq!(get(&t.app, TOPIC).await.unwrap().devices, 1);
    }

    async fn a_certificate_that_devices_need_is_not_removed_unasked(t: TestApp) {
        let admin = actor(Role::Admin);
        store(&t, TOPIC, 365 * DAY).await;
        enrolled(&t, "A", TOPIC).await;
        let Err(Error::Conflict { code, detail }) = remove(&t.app, &admin, TOPIC, false).await else { panic!() };
        assert_eq!(code, "devices_enrolled");
        assert!(detail.contains("1 device is enrolled under"), "{detail}");
        remove(&t.app, &admin, TOPIC, true).await.unwrap();
        assert_eq!(overview(&t.app).await.unwrap().without, [(TOPIC.to_owned(), 1)]);
        assert!(matches!(remove(&t.app, &admin, TOPIC, true).await, Err(Error::NotFound(_))));
        assert!(matches!(get(&t.app, TOPIC).await, Err(Error::NotFound(_))));
    }

    async fn the_default_goes_last(t: TestApp) {
        let admin = actor(Role::Admin);
        store(&t, TOPIC, 365 * DAY).await;
        store(&t, OTHER, DAY).await;
        let Err(Error::Conflict { code, .. }) = remove(&t.app, &admin, OTHER, false).await else { panic!() };
        assert_eq!(code, "is_default");
        make_default(&t.app, &admin, TOPIC).await.unwrap();
        t.db.clock.advance(2 * DAY);
        let Err(Error::Conflict { code, .. }) = make_default(&t.app, &admin, OTHER).await else { panic!() };
        assert_eq!(code, "default_expired");
        remove(&t.app, &admin, OTHER, false).await.unwrap();
        remove(&t.app, &admin, TOPIC, false).await.unwrap();
    }

    async fn a_new_certificate_wakes_who_waits_for_it(t: TestApp) {
        let (waits, idle, other) = (
            enrolled(&t, "WAITS", TOPIC).await,
            enrolled(&t, "IDLE", TOPIC).await,
            enrolled(&t, "OTHER", OTHER).await,
        );
        for phone in [&waits, &other] {
            phone.queue(&t.db, &command(&t.db, "DeviceLock")).await;
        }
        store(&t, TOPIC, 365 * DAY).await;
        assert_eq!(muster::worker::run_due_jobs(&t.app).await.unwrap(), 1);
        let due = t.db.read().await.wake(waits.id).await.unwrap().unwrap().due_at;
        assert_eq!(due, Some(t.now()));
        for phone in [idle, other] {
            assert!(t.db.read().await.wake(phone.id).await.unwrap().is_none(), "{}", phone.udid);
        }
        assert_eq!(wakes::send_due(&t.app).await.unwrap().results, ["accepted"]);
        assert_eq!(t.pusher.take()[0].topic, TOPIC);
    }

    async fn a_wake_up_that_was_put_off_for_want_of_a_certificate_comes_at_once(t: TestApp) {
        let phone = enrolled(&t, "A", TOPIC).await;
        let mut tx = t.db.write().await;
        tx.request_wake(phone.id, t.now(), t.now().plus(HOUR)).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(wakes::send_due(&t.app).await.unwrap().results, ["no_certificate"]);
        let wake = t.db.read().await.wake(phone.id).await.unwrap().unwrap();
        assert_eq!(wake.last_result.as_deref(), Some("no_certificate"));
        t.db.clock.advance(MINUTE);
        store(&t, TOPIC, 365 * DAY).await;
        let nobody = EnrollmentId(uuid::Uuid::nil());
        let last = wake_batch(&t.app, TOPIC, nobody).await.unwrap().unwrap();
        assert_eq!((last, wake_batch(&t.app, TOPIC, last).await.unwrap()), (phone.id, None));
        assert_eq!(wakes::send_due(&t.app).await.unwrap().results, ["accepted"]);
    }
}
