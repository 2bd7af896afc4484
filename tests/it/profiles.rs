//! Profiles: uploaded, refused with their faults, replaced under their revision, listed, read.

use muster::model::{Role, Timestamp};
use muster::pki::authority::{issue_profile_signer, make_tls_root};
use muster::pki::{self, Identity, PrivateKey};
use muster::service::profiles::{MAX_PROFILE_BYTES, content, create, for_install, get, list, remove, replace};
use muster::service::{App, Error};
use muster::store::{ProfileFacts, ProfileFilter};

use crate::support::app::{TestApp, actor};
use crate::support::rows::{DAY, MINUTE};

const WIFI: &[u8] = include_bytes!("../fixtures/plists/profile-wifi.mobileconfig");

/// A small profile.
pub fn profile(identifier: &str, name: &str) -> Vec<u8> {
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><plist version=\"1.0\"><dict>\
         <key>PayloadType</key><string>Configuration</string><key>PayloadVersion</key><integer>1</integer>\
         <key>PayloadIdentifier</key><string>{identifier}</string>\
         <key>PayloadUUID</key><string>5D9A2F3E-0000-4000-8000-000000000001</string>\
         <key>PayloadDisplayName</key><string>{name}</string>\
         <key>PayloadContent</key><array/></dict></plist>"
    )
    .into_bytes()
}

pub fn signed(t: &TestApp, profile: &[u8]) -> Vec<u8> {
    let root = make_tls_root("Root", "Example", t.now(), &*t.db.random).unwrap();
    let key = PrivateKey::generate_rsa(2048).unwrap();
    let signer = issue_profile_signer(&root, key, "Example", t.now(), 365 * DAY, &*t.db.random).unwrap();
    pki::profile::sign(profile, &Identity::from(signer), None, t.now()).unwrap()
}

async fn created(app: &App, file: &[u8]) -> ProfileFacts {
    create(app, &actor(Role::Operator), file).await.unwrap()
}

/// The places of the faults, and the whole text.
async fn refused(app: &App, file: &[u8]) -> (Vec<String>, String) {
    match create(app, &actor(Role::Operator), file).await.unwrap_err() {
        Error::Invalid { code: "invalid_profile", detail, faults } => {
            let text = faults.iter().map(|fault| format!("; {}: {}", fault.pointer, fault.detail)).collect::<String>();
            (faults.into_iter().map(|fault| fault.pointer).collect(), detail + &text)
        }
        other => panic!("{other:?}"),
    }
}

both_databases! {
    async fn a_profile_is_kept_and_says_what_is_in_it(t: TestApp) {
        let made = created(&t.app, WIFI).await;
        assert_eq!((made.identifier.as_str(), made.name.as_str()), ("org.example.wifi", "Wi-Fi & certificates"));
        assert_eq!(made.payload_types, r#"["com.apple.wifi.managed","com.apple.security.root"]"#);
        assert_eq!((made.scope.as_str(), made.signed, made.revision), ("system", false, 1));
        assert_eq!(get(&t.app, made.id).await.unwrap(), made);

        // Passwords are not in the database as they are, and reading them leaves a trace.
        let row = t.db.read().await.profile(made.id).await.unwrap().unwrap();
        assert!(!row.content_sealed.windows(12).any(|window| window == b"PayloadType<"));
        let (_, read) = content(&t.app, &actor(Role::Admin), made.id).await.unwrap();
        assert_eq!(read.expose(), WIFI);
        assert_eq!(t.audited().await, ["profile.content_read", "profile.created"]);
        let details = t.db.texts("SELECT detail FROM audit").await.join(" ");
        assert!(!details.contains("correct horse"), "{details}");
    }

    async fn a_signed_profile_stays_as_it_is(t: TestApp) {
        let file = signed(&t, WIFI);
        let made = created(&t.app, &file).await;
        assert_eq!((made.identifier.as_str(), made.signed), ("org.example.wifi", true));
        let mut tx = t.db.write().await;
        assert_eq!(for_install(&t.app, &mut tx, made.id).await.unwrap(), file);
        drop(tx);

        let mut changed = signed(&t, &profile("org.example.other", "Other"));
        let at = changed.windows(5).position(|window| window == b"Other").unwrap();
        changed[at] = b'o';
        let (_, text) = refused(&t.app, &changed).await;
        assert!(text.contains("changed after it was signed"), "{text}");
    }

    async fn a_binary_profile_is_kept_as_well(t: TestApp) {
        let mut binary = Vec::new();
        plist::Value::from_reader_xml(WIFI).unwrap().to_writer_binary(&mut binary).unwrap();
        assert_eq!(created(&t.app, &binary).await.identifier, "org.example.wifi");
    }

    async fn what_is_no_profile_is_refused_with_its_faults(t: TestApp) {
        let empty = b"<plist version=\"1.0\"><dict/></plist>";
        let (places, _) = refused(&t.app, empty).await;
        for place in ["/PayloadType", "/PayloadVersion", "/PayloadIdentifier", "/PayloadUUID", "/PayloadContent"] {
            assert!(places.iter().any(|found| found == place), "{place}: {places:?}");
        }
        let deep = format!("<plist version=\"1.0\">{}", "<array>".repeat(10_000));
        for (file, text) in [
            (b"".as_slice(), "not a property list"),
            (b"hello", "not a property list"),
            (b"PK\x03\x04", "not a property list"),
            (&[0x30, 0x82, 0x01, 0x00], "the signed profile is damaged"),
            (deep.as_bytes(), "nested deeper"),
            (&vec![b' '; MAX_PROFILE_BYTES + 1], "is larger than"),
            (&profile("muster.enrollment", "Enrollment"), "enrollment.profile_identifier"),
        ] {
            let (_, found) = refused(&t.app, file).await;
            assert!(found.contains(text), "{text}: {found}");
        }
        assert!(list(&t.app, &ProfileFilter::default(), None, 10).await.unwrap().is_empty());
        assert!(t.audited().await.is_empty());
    }

    async fn an_identifier_stands_once(t: TestApp) {
        let made = created(&t.app, &profile("org.example.a", "A")).await;
        let again = create(&t.app, &actor(Role::Operator), &profile("org.example.a", "A again")).await.unwrap_err();
        let Error::Conflict { code, detail } = again else { panic!("{again:?}") };
        assert_eq!(code, "identifier_taken");
        assert!(detail.contains(&made.id.to_string()), "{detail}");
    }

    async fn a_profile_is_replaced_under_its_revision(t: TestApp) {
        let operator = actor(Role::Operator);
        let made = created(&t.app, &profile("org.example.a", "A")).await;
        t.db.clock.advance(MINUTE);
        let new = profile("org.example.a", "A, better");
        let replaced = replace(&t.app, &operator, made.id, Some(1), &new).await.unwrap();
        assert_eq!((replaced.name.as_str(), replaced.revision), ("A, better", 2));
        assert_eq!((replaced.created_at, replaced.updated_at), (made.created_at, t.now()));
        assert_eq!(get(&t.app, made.id).await.unwrap(), replaced);
        assert_eq!(content(&t.app, &actor(Role::Admin), made.id).await.unwrap().1.expose(), &new);

        let late = replace(&t.app, &operator, made.id, Some(1), &new).await.unwrap_err();
        assert!(matches!(late, Error::Conflict { code: "revision_mismatch", .. }), "{late:?}");
        assert_eq!(replace(&t.app, &operator, made.id, None, &new).await.unwrap().revision, 3);
        let other = replace(&t.app, &operator, made.id, None, &profile("org.example.b", "B")).await.unwrap_err();
        let Error::Invalid { detail, .. } = other else { panic!("{other:?}") };
        assert!(detail.contains("devices would keep both"), "{detail}");

        assert!(matches!(remove(&t.app, &operator, made.id, Some(2)).await, Err(Error::Conflict { .. })));
        remove(&t.app, &operator, made.id, Some(3)).await.unwrap();
        for gone in [
            get(&t.app, made.id).await.map(drop),
            remove(&t.app, &operator, made.id, None).await,
            replace(&t.app, &operator, made.id, None, &new).await.map(drop),
            content(&t.app, &operator, made.id).await.map(drop),
        ] {
            assert!(matches!(gone, Err(Error::NotFound(_))), "{gone:?}");
        }
    }

    async fn profiles_are_listed_page_by_page(t: TestApp) {
        let wifi = created(&t.app, WIFI).await;
        let mut ids = vec![wifi.id];
        for name in ["a", "b", "c"] {
            t.db.clock.set(Timestamp::from_micros(t.now().micros() + 1_000_000));
            ids.push(created(&t.app, &profile(&format!("org.example.{name}"), name)).await.id);
        }
        ids.reverse();
        let page = async |filter: &ProfileFilter, after| {
            list(&t.app, filter, after, 3).await.unwrap().into_iter().map(|row| row.id).collect::<Vec<_>>()
        };
        let all = ProfileFilter::default();
        let first = page(&all, None).await;
        assert_eq!(first, ids[..3]);
        assert_eq!(page(&all, first.last().copied()).await, ids[3..]);
        let by_identifier = ProfileFilter { identifier: Some("org.example.wifi".to_owned()), ..all.clone() };
        assert_eq!(page(&by_identifier, None).await, [wifi.id]);
        let by_type = |name: &str| ProfileFilter { payload_type: Some(name.to_owned()), ..ProfileFilter::default() };
        assert_eq!(page(&by_type("com.apple.security.root"), None).await, [wifi.id]);
        assert!(page(&by_type("com.apple.security"), None).await.is_empty());
    }
}
