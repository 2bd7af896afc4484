//! The authorities that the server keeps, and the certificates that it makes for itself.

use muster::model::{Secret, SeededRandomness};
use muster::pki::authority::make_device_ca;
use muster::pki::chain::{self, Purpose};
use muster::pki::profile;
use muster::service::authorities::{self, Import, Renewed};
use muster::service::{Error, signing};
use muster::store::TermsRow;

use crate::support::db::TestDb;
use crate::support::ready::{Ready, SCHOOL, prepared, rsa};
use crate::support::rows::{DAY, HOUR, Phone, terms};

const NO_GRACE: std::time::Duration = std::time::Duration::ZERO;

/// A CA of somebody else's.
fn other_ca(t: &Ready, name: &str) -> muster::pki::Authority {
    make_device_ca(&rsa(2), name, "Example", t.now(), &SeededRandomness::new(9)).unwrap()
}

fn import(ca: &muster::pki::Authority) -> Import {
    Import {
        name: String::new(),
        certificate: ca.certificate.to_pem().into_bytes(),
        key: Some(Secret::new(ca.key.to_pem().expose().clone().into_bytes())),
        password: None,
        issues_elsewhere: false,
        activate: false,
    }
}

fn code(error: &Error) -> &'static str {
    match error {
        Error::Conflict { code, .. } | Error::Invalid { code, .. } => code,
        _ => panic!("{error:?}"),
    }
}

both_databases! {
    async fn what_is_missing_is_made_once(t: Ready) {
        let mut before = t.audited().await;
        before.sort();
        assert_eq!(
            before,
            ["authority.made", "authority.made", "server_certificate.made", "server_certificate.made"]
        );
        authorities::ensure_with(&t.app, prepared()).await.unwrap();
        assert_eq!(t.audited().await.len(), before.len(), "nothing was left to do");
        let identity = authorities::tls_identity(&t.app).await.unwrap().unwrap();
        assert!(identity.certificate.covers("mdm.example.org"));
        assert!(identity.certificate.not_after <= t.now().plus(397 * DAY));
        let root = authorities::tls_root(&t.app).await.unwrap();
        chain::verify_for(Purpose::Server, &identity.certificate, &[], &[root], t.now(), NO_GRACE).unwrap();
        let (id, ca) = authorities::issuing_authority(&t.app).await.unwrap();
        assert_eq!(t.app.trust().roots, [ca.certificate]);
        assert_eq!(t.app.trust().authorities[0].id, id);
    }

    async fn two_servers_that_start_at_once_make_one_of_each(db: TestDb) {
        let one = Ready::empty(db.clone(), SCHOOL).await;
        let two = one.second_process(SCHOOL).await;
        let (first, second) = tokio::join!(
            authorities::ensure_with(&one.app, prepared()),
            authorities::ensure_with(&two.app, prepared())
        );
        first.unwrap();
        second.unwrap();
        assert_eq!(authorities::list(&one.app).await.unwrap().len(), 2);
        assert_eq!(one.app.trust().roots, two.app.trust().roots);
        assert_eq!(one.audited().await.len(), 4);
        let shown = authorities::tls_identity(&one.app).await.unwrap().unwrap().certificate;
        assert_eq!(authorities::tls_identity(&two.app).await.unwrap().unwrap().certificate, shown);
    }

    async fn certificates_are_renewed_in_time_and_when_the_names_change(t: Ready) {
        assert_eq!(authorities::renew_due(&t.app).await.unwrap(), Renewed::default());
        t.db.clock.advance(260 * DAY);
        assert_eq!(authorities::renew_due(&t.app).await.unwrap(), Renewed::default());
        t.db.clock.advance(10 * DAY);
        let both = Renewed { tls: true, profile_signer: true };
        assert_eq!(authorities::renew_due(&t.app).await.unwrap(), both);
        assert_eq!(authorities::renew_due(&t.app).await.unwrap(), Renewed::default());
        let moved = format!("pages.public_url = \"https://enroll.example.org\"\n{SCHOOL}");
        let moved = t.second_process(&moved).await;
        let tls = Renewed { tls: true, profile_signer: false };
        assert_eq!(authorities::renew_due(&moved.app).await.unwrap(), tls);
        let shown = authorities::tls_identity(&moved.app).await.unwrap().unwrap().certificate;
        assert!(shown.covers("mdm.example.org") && shown.covers("enroll.example.org"));
    }

    async fn the_own_certificate_is_for_the_names_that_enrolled_devices_were_given(t: Ready) {
        let phone = Phone::enrolled(&t.db, "phone").await;
        let terms = TermsRow {
            server_url: Some("https://old.example.org:8443/mdm".to_owned()),
            checkin_url: Some("https://[2001:db8::1]/checkin".to_owned()),
            ..terms("muster.enrollment")
        };
        let mut tx = t.db.write().await;
        tx.put_terms(&terms, t.now()).await.unwrap();
        tx.set_terms(phone.id, Some(terms.sha256)).await.unwrap();
        tx.commit().await.unwrap();
        assert!(authorities::renew_due(&t.app).await.unwrap().tls);
        assert_eq!(authorities::renew_due(&t.app).await.unwrap(), Renewed::default());
        let shown = authorities::tls_identity(&t.app).await.unwrap().unwrap().certificate;
        for name in ["mdm.example.org", "old.example.org", "2001:db8::1"] {
            assert!(shown.covers(name), "{name}");
        }
        let mut tx = t.db.write().await;
        tx.close_enrollment(phone.id, "disabled", t.now()).await.unwrap();
        tx.commit().await.unwrap();
        assert!(authorities::renew_due(&t.app).await.unwrap().tls);
        assert!(!authorities::tls_identity(&t.app).await.unwrap().unwrap().certificate.covers("old.example.org"));
    }

    async fn another_authority_is_accepted_issues_and_is_retired(t: Ready) {
        let (first, _) = authorities::issuing_authority(&t.app).await.unwrap();
        let ca = other_ca(&t, "Old MDM CA");
        let imported = authorities::import(&t.app, &t.admin, import(&ca)).await.unwrap();
        assert_eq!((imported.name.as_str(), imported.active, imported.has_key), ("Old MDM CA", false, true));
        assert!(t.app.trust().roots.contains(&ca.certificate));
        let again = authorities::import(&t.app, &t.admin, import(&ca)).await.unwrap_err();
        assert_eq!(code(&again), "authority_exists");

        authorities::activate(&t.app, &t.admin, imported.id).await.unwrap();
        assert_eq!(authorities::issuing_authority(&t.app).await.unwrap().0, imported.id);
        let active = authorities::retire(&t.app, &t.admin, imported.id, true).await.unwrap_err();
        assert_eq!(code(&active), "authority_active");

        let phone = Phone::enrolled(&t.db, "phone").await;
        let mut tx = t.db.write().await;
        tx.put_pin(phone.id, t.db.digest(), Some(first), None, t.now()).await.unwrap();
        tx.commit().await.unwrap();
        let strands = authorities::retire(&t.app, &t.admin, first, false).await.unwrap_err();
        assert!(strands.to_string().starts_with("1 enrolled devices"), "{strands}");
        authorities::retire(&t.app, &t.admin, first, true).await.unwrap();
        assert_eq!(t.app.trust().roots, std::slice::from_ref(&ca.certificate));

        t.db.clock.advance(HOUR);
        authorities::activate(&t.app, &t.admin, first).await.unwrap_err();
        let kept = authorities::get(&t.app, first).await.unwrap();
        let back = Import {
            certificate: kept.certificate.to_pem().into_bytes(),
            key: None,
            issues_elsewhere: true,
            ..import(&ca)
        };
        let back = authorities::import(&t.app, &t.admin, back).await.unwrap();
        assert_eq!((back.id, back.has_key, back.issues_elsewhere), (first, true, true), "its key was kept");
    }

    async fn what_is_no_authority_is_refused_with_the_reason(t: Ready) {
        let ca = other_ca(&t, "CA");
        let leaf = authorities::tls_identity(&t.app).await.unwrap().unwrap();
        let old = make_device_ca(&rsa(2), "Old", "", t.now().minus(16 * 365 * DAY), &SeededRandomness::new(3));
        let cases = [
            (Import { key: None, ..import(&ca) }, "issues_elsewhere"),
            (Import { key: None, activate: true, ..import(&ca) }, "without its key"),
            (Import { key: Some(Secret::new(b"nothing".to_vec())), ..import(&ca) }, "private key"),
            (Import { certificate: b"nothing".to_vec(), ..import(&ca) }, "certificate"),
            (Import { certificate: leaf.chain_pem().into_bytes(), ..import(&ca) }, "may not sign certificates"),
            (import(&old.unwrap()), "expired"),
            (
                Import { key: Some(Secret::new(rsa(3).to_pem().expose().clone().into_bytes())), ..import(&ca) },
                "does not belong",
            ),
        ];
        for (wrong, expected) in cases {
            let error = authorities::import(&t.app, &t.admin, wrong).await.unwrap_err();
            assert_eq!(code(&error), "invalid_authority");
            assert!(error.to_string().contains(expected), "{error}");
        }
        assert_eq!(authorities::list(&t.app).await.unwrap().len(), 2);
    }

    async fn the_settings_choose_who_signs_profiles(t: Ready) {
        let own = authorities::tls_identity(&t.app).await.unwrap().unwrap();
        let files = t.directory.path();
        std::fs::write(files.join("chain.pem"), own.chain_pem()).unwrap();
        std::fs::write(files.join("key.pem"), own.key.to_pem().expose()).unwrap();
        let of_files = format!(
            "[devices]\ntls = \"files\"\ntls_certificate = {:?}\ntls_key = {:?}\n",
            files.join("chain.pem"),
            files.join("key.pem")
        );
        let behind_proxy = "[devices]\ntls = \"behind_proxy\"\n[proxy]\ntrusted = [\"127.0.0.1\"]\n";
        for (devices, signing, by_tls, with_root) in [
            ("", "auto", false, true),
            ("", "own", false, true),
            ("", "tls", true, true),
            (&*of_files, "tls", true, false),
            // A certificate in files that no public root is above: devices would show its signature as unknown.
            (&*of_files, "auto", false, true),
            (behind_proxy, "auto", false, true),
        ] {
            let process = t.second_process(&format!("{devices}[profiles]\nsigning = \"{signing}\"\n")).await;
            let mut read = process.db.read().await;
            let signed = signing::sign(&process.app, &mut read, b"<plist/>").await.unwrap();
            let opened = profile::open(&signed).unwrap();
            let signer = opened.signer.unwrap();
            assert_eq!(signer == own.certificate, by_tls, "{devices}{signing}");
            assert_eq!(opened.certificates.len(), 1 + usize::from(with_root), "{devices}{signing}");
            let root = authorities::tls_root(&process.app).await.unwrap();
            chain::verify_for(Purpose::Signing, &signer, &[], &[root], t.now(), NO_GRACE).unwrap();
        }
        let nothing = t.second_process(behind_proxy).await;
        assert!(authorities::tls_identity(&nothing.app).await.unwrap().is_none());

        std::fs::remove_file(files.join("key.pem")).unwrap();
        let broken = t.second_process(&of_files).await;
        let error = authorities::tls_identity(&broken.app).await.unwrap_err();
        assert!(error.to_string().contains("key.pem"), "{error}");
    }
}
