//! Who gets a certificate by SCEP, and who does not.

use muster::model::{EnrollmentId, Secret, Sha256};
use muster::pki::authority::make_device_ca;
use muster::pki::request::Subject;
use muster::pki::scep::client::{Answer, Quirks};
use muster::pki::scep::{Cipher, FailInfo, MessageType};
use muster::pki::{Certificate, chain};
use muster::service::authorities::{self, Import};
use muster::service::enrollment::{self, profile_for_link};
use muster::service::scep::{self, NewApiChallenge};
use muster::service::{Error, enrollment_profile};
use muster::store::Write;

use crate::enrollment_links::link;
use crate::support::applicant::{Applicant, challenge, issued, opened, send};
use crate::support::ready::{Ready, SCHOOL, rsa};
use crate::support::rows::{DAY, HOUR, MINUTE, Phone, terms};

const REFUSED: Answer = Answer::Refused(Some(FailInfo::BadRequest));

/// A challenge for tools.
async fn minted(t: &Ready, uses: i64) -> String {
    let new = NewApiChallenge { name: "tool".to_owned(), uses: Some(uses), expires_at: None };
    scep::mint_challenge(&t.app, &t.admin, new).await.unwrap().challenge.expose().clone()
}

/// The challenge in the profile of a link.
async fn fetched(t: &Ready, code: &str) -> String {
    challenge(&opened(&profile_for_link(&t.app, code).await.unwrap()))
}

async fn reasons(t: &Ready) -> Vec<String> {
    let details = t.db.texts("SELECT detail FROM audit WHERE action = 'certificate.refused' ORDER BY at, id").await;
    let read = |detail: &String| serde_json::from_str::<serde_json::Value>(detail).unwrap()["reason"].clone();
    details.iter().map(|detail| read(detail).as_str().unwrap().to_owned()).collect()
}

async fn certificates(t: &Ready) -> usize {
    t.db.texts("SELECT serial FROM certificates").await.len()
}

/// An enrolled phone whose certificate was issued here.
async fn enrolled(t: &Ready, key: usize) -> (Phone, Applicant, Certificate) {
    let applicant = Applicant::new(t, key);
    let certificate = issued(applicant.ask(t, &minted(t, 1).await).await);
    let phone = Phone::enrolled(&t.db, &format!("phone-{key}")).await;
    let mut tx = t.db.write().await;
    belongs(&mut tx, &certificate, phone.id).await;
    tx.put_pin(phone.id, certificate.sha256, None, None, t.now()).await.unwrap();
    tx.commit().await.unwrap();
    (phone, applicant, certificate)
}

async fn belongs(tx: &mut Write, certificate: &Certificate, id: EnrollmentId) {
    tx.link_certificate(certificate.sha256, id).await.unwrap();
}

both_databases! {
    async fn a_challenge_gives_a_certificate_that_is_on_record(t: Ready) {
        let certificate = issued(Applicant::new(&t, 2).ask(&t, &minted(&t, 1).await).await);
        let ca = scep::ca_certificate(&t.app).await.unwrap();
        chain::verify(&certificate, &[], &[ca], t.now(), MINUTE).unwrap();
        assert_eq!(certificate.subject, "CN=phone");
        assert!(certificate.for_clients && !certificate.for_servers && !certificate.is_ca);
        assert_eq!(certificate.not_after, t.now().plus(365 * DAY));
        let row = t.db.read().await.certificate(certificate.sha256).await.unwrap().unwrap();
        assert_eq!((row.serial.as_str(), row.subject.as_str()), (certificate.serial.as_str(), "CN=phone"));
        assert_eq!((row.der.as_slice(), row.enrollment_id), (certificate.der(), None));
        assert!(t.audited().await.contains(&"certificate.issued".to_owned()));
    }

    async fn a_subject_is_never_empty(t: Ready) {
        let nameless = Applicant { subject: Subject::default(), ..Applicant::new(&t, 2) };
        let certificate = issued(nameless.ask(&t, &minted(&t, 1).await).await);
        assert!(certificate.common_name.unwrap().starts_with("Device "));
    }

    async fn a_lost_answer_is_given_again_and_to_nobody_else(t: Ready) {
        let phone = Applicant::new(&t, 2);
        let code = minted(&t, 1).await;
        let first = issued(phone.ask(&t, &code).await);
        t.db.clock.advance(30 * MINUTE);
        assert_eq!(issued(phone.ask(&t, &code).await), first);
        assert_eq!(Applicant::new(&t, 3).ask(&t, &code).await, REFUSED, "another key");
        t.db.clock.advance(30 * MINUTE);
        assert_eq!(phone.ask(&t, &code).await, REFUSED, "expired");
        assert_eq!(reasons(&t).await, ["the challenge has been used", "the challenge has expired"]);
        assert_eq!(certificates(&t).await, 1);
    }

    /// The process dies after the commit: all that is left is the row. Another process answers the repetition.
    async fn killed_between_issuing_and_answering_the_device_still_gets_its_certificate(t: Ready) {
        let phone = Applicant::new(&t, 2);
        let code = minted(&t, 1).await;
        let ca = scep::ca_certificate(&t.app).await.unwrap();
        let exchange = phone.message(&t, &ca, Some(&code));
        scep::pki_operation(&t.app, exchange.message.clone(), None).await.unwrap();
        let other = t.second_process(SCHOOL).await;
        let certificate = issued(send(&other, &exchange, &ca).await);
        assert!(t.db.read().await.certificate(certificate.sha256).await.unwrap().is_some());
        assert_eq!(certificates(&t).await, 1);
    }

    async fn whoever_has_no_challenge_is_refused_and_noted(t: Ready) {
        let phone = Applicant::new(&t, 2);
        let ca = scep::ca_certificate(&t.app).await.unwrap();
        assert_eq!(phone.ask(&t, "wrong").await, REFUSED);
        assert_eq!(phone.ask(&t, "").await, REFUSED);
        assert_eq!(send(&t, &phone.message(&t, &ca, None), &ca).await, REFUSED);
        let renewal = phone.exchange(&t, &ca, MessageType::RenewalReq, None, Quirks::default());
        assert_eq!(send(&t, &renewal, &ca).await, REFUSED);
        let expected =
            ["unknown challenge", "no challenge", "no challenge", "the signer's certificate was not issued here"];
        let mut found = reasons(&t).await;
        found.sort_unstable();
        let mut expected = expected.to_vec();
        expected.sort_unstable();
        assert_eq!(found, expected);
        assert_eq!(certificates(&t).await, 0);
        assert_eq!(t.db.texts("SELECT address FROM audit WHERE action = 'certificate.refused'").await, ["192.0.2.1"; 4]);
    }

    async fn of_many_requests_with_one_challenge_one_key_gets_a_certificate(t: Ready) {
        let code = minted(&t, 1).await;
        let applicants: Vec<_> = (2..6).map(|key| Applicant::new(&t, key)).collect();
        let answers = futures_util::future::join_all(applicants.iter().map(|one| one.ask(&t, &code))).await;
        assert_eq!(answers.iter().filter(|answer| matches!(answer, Answer::Issued(_))).count(), 1);
        assert_eq!(certificates(&t).await, 1);
    }

    async fn one_key_that_asks_many_times_at_once_gets_one_certificate(t: Ready) {
        let code = minted(&t, 1).await;
        let phone = Applicant::new(&t, 2);
        let answers = futures_util::future::join_all((0..6).map(|_| phone.ask(&t, &code))).await;
        let all: Vec<Sha256> = answers.into_iter().map(|answer| issued(answer).sha256).collect();
        assert!(all.iter().all(|one| *one == all[0]));
        assert_eq!(certificates(&t).await, 1);
    }

    async fn a_challenge_for_tools_has_uses(t: Ready) {
        let code = minted(&t, 2).await;
        issued(Applicant::new(&t, 2).ask(&t, &code).await);
        issued(Applicant::new(&t, 3).ask(&t, &code).await);
        assert_eq!(Applicant::new(&t, 4).ask(&t, &code).await, REFUSED);
        let wrong = NewApiChallenge { name: "\n".repeat(3) + "x\u{7}", uses: Some(0), expires_at: Some(t.now()) };
        let Err(Error::Invalid { faults, .. }) = scep::mint_challenge(&t.app, &t.admin, wrong).await else { panic!() };
        assert_eq!(faults.len(), 3);
    }

    async fn a_use_of_a_link_is_held_by_a_certificate_and_comes_free(t: Ready) {
        let (made, code) = link(&t, Some(1)).await;
        let (one, two) = (fetched(&t, &code).await, fetched(&t, &code).await);
        issued(Applicant::new(&t, 2).ask(&t, &one).await);
        let view = enrollment::get_link(&t.app, made.link.link.id).await.unwrap();
        assert_eq!((view.link.uses_count, view.reserved), (0, 1));
        assert_eq!(Applicant::new(&t, 3).ask(&t, &two).await, REFUSED, "the only use is held");
        t.db.clock.advance(20 * MINUTE);
        issued(Applicant::new(&t, 3).ask(&t, &two).await);
    }

    async fn a_revoked_link_gives_no_certificate_though_its_profile_was_fetched_before(t: Ready) {
        let (made, code) = link(&t, None).await;
        let fetched = fetched(&t, &code).await;
        enrollment::revoke_link(&t.app, &t.admin, made.link.link.id).await.unwrap();
        assert_eq!(Applicant::new(&t, 2).ask(&t, &fetched).await, REFUSED);
        assert_eq!(reasons(&t).await, ["the enrollment link was revoked"]);
    }

    async fn a_device_renews_its_own_certificate(t: Ready) {
        let (phone, applicant, old) = enrolled(&t, 2).await;
        let new = issued(applicant.renew(&t, &old, 3).await);
        let row = t.db.read().await.certificate(new.sha256).await.unwrap().unwrap();
        assert_eq!(row.enrollment_id, Some(phone.id), "so that it is pinned when it is first presented");
        assert_eq!(new.public_key_sha256, rsa(3).public_key_sha256().unwrap());
    }

    async fn a_certificate_that_would_not_be_let_in_renews_nothing(t: Ready) {
        let (phone, applicant, old) = enrolled(&t, 2).await;
        let (_, other, revoked) = enrolled(&t, 3).await;
        let unlinked_phone = Applicant::new(&t, 4);
        let unlinked = issued(unlinked_phone.ask(&t, &minted(&t, 1).await).await);
        assert_eq!(unlinked_phone.renew(&t, &unlinked, 5).await, REFUSED);

        let mut tx = t.db.write().await;
        assert!(tx.revoke_certificate(revoked.sha256, "lost", t.now()).await.unwrap());
        tx.commit().await.unwrap();
        assert_eq!(other.renew(&t, &revoked, 5).await, REFUSED);

        let thief = Applicant { key: rsa(6), ..applicant.clone() };
        let ca = scep::ca_certificate(&t.app).await.unwrap();
        let mut stolen = thief.clone();
        stolen.signer.certificate = old.clone();
        stolen.signer.key = rsa(6);
        let forged = stolen.exchange(&t, &ca, MessageType::RenewalReq, None, Quirks::default());
        let answered = scep::pki_operation(&t.app, forged.message, None).await.unwrap();
        assert_eq!(answered.outcome, scep::Outcome::Refused);

        let mut tx = t.db.write().await;
        tx.close_enrollment(phone.id, "removed", t.now()).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(applicant.renew(&t, &old, 5).await, REFUSED);
        assert_eq!(certificates(&t).await, 3);
    }

    async fn a_renewal_profile_is_for_one_enrolled_device(t: Ready) {
        let (phone, _, _) = enrolled(&t, 2).await;
        let profile = async || {
            let mut tx = t.db.write().await;
            let row = phone.row(&t.db).await;
            let profile = enrollment_profile::for_renewal(&t.app, &mut tx, &row, t.now()).await.unwrap();
            tx.commit().await.unwrap();
            profile.map(|profile| challenge(&opened(&profile)))
        };
        assert_eq!(profile().await, None, "no other can take the place of a profile from elsewhere");
        let terms = terms("muster.enrollment");
        let mut tx = t.db.write().await;
        tx.put_terms(&terms, t.now()).await.unwrap();
        tx.set_terms(phone.id, Some(terms.sha256)).await.unwrap();
        tx.commit().await.unwrap();
        let profile = async || profile().await.unwrap();
        let (one, two) = (profile().await, profile().await);
        let new = issued(Applicant::new(&t, 3).ask(&t, &one).await);
        let row = t.db.read().await.certificate(new.sha256).await.unwrap().unwrap();
        assert_eq!(row.enrollment_id, Some(phone.id));
        let mut tx = t.db.write().await;
        tx.close_enrollment(phone.id, "disabled", t.now()).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(Applicant::new(&t, 4).ask(&t, &two).await, REFUSED);
    }

    async fn awkward_clients_are_understood(t: Ready) {
        let ca = scep::ca_certificate(&t.app).await.unwrap();
        let mut phone = Applicant::new(&t, 2);
        // A throw-away signer with another key than the request's.
        phone.signer = Applicant::new(&t, 3).signer;
        let awkward = Quirks {
            indefinite_lengths: true,
            cipher: Cipher::TripleDes,
            unsorted: true,
            ..Quirks::default()
        };
        let code = minted(&t, 1).await;
        let exchange = phone.exchange(&t, &ca, MessageType::PkcsReq, Some(&code), awkward);
        issued(send(&t, &exchange, &ca).await);

        let sha1 = Quirks { sha1: true, ..Quirks::default() };
        let code = minted(&t, 1).await;
        let old = phone.exchange(&t, &ca, MessageType::PkcsReq, Some(&code), sha1);
        assert_eq!(send(&t, &old, &ca).await, Answer::Refused(Some(FailInfo::BadAlg)));
        let legacy = t.second_process(&format!("{SCHOOL}[scep]\nallow_legacy_algorithms = true\n")).await;
        issued(send(&legacy, &old, &ca).await);
    }

    async fn a_key_that_was_opened_is_not_used_when_its_authority_is_retired(t: Ready) {
        let old = scep::ca_certificate(&t.app).await.unwrap();
        let (old_id, _) = authorities::issuing_authority(&t.app).await.unwrap();
        issued(Applicant::new(&t, 2).ask(&t, &minted(&t, 1).await).await);
        let next = make_device_ca(&rsa(4), "Next CA", "", t.now(), &*t.db.random).unwrap();
        let import = Import {
            name: String::new(),
            certificate: next.certificate.der().to_vec(),
            key: Some(Secret::new(next.key.pkcs8_der().expose().clone())),
            password: None,
            issues_elsewhere: false,
            activate: true,
        };
        authorities::import(&t.app, &t.admin, import).await.unwrap();
        let certificate = issued(Applicant::new(&t, 3).ask(&t, &minted(&t, 1).await).await);
        chain::verify(&certificate, &[], &[next.certificate], t.now(), MINUTE).unwrap();
        // Who fetched the old one's certificate before is still understood, until it is retired: by any server process.
        let exchange = Applicant::new(&t, 5).message(&t, &old, Some(&minted(&t, 1).await));
        issued(send(&t, &exchange, &old).await);
        let other = t.second_process(SCHOOL).await;
        authorities::retire(&other.app, &t.admin, old_id, true).await.unwrap();
        let exchange = Applicant::new(&t, 6).message(&t, &old, Some(&minted(&t, 1).await));
        let answered = scep::pki_operation(&t.app, exchange.message, None).await.unwrap();
        assert_eq!(answered.outcome, scep::Outcome::Refused);
    }

    async fn what_is_no_message_is_an_error_and_changes_nothing(t: Ready) {
        let ca = scep::ca_certificate(&t.app).await.unwrap();
        let good = Applicant::new(&t, 2).message(&t, &ca, Some("x")).message;
        let cases = [Vec::new(), b"garbage".to_vec(), vec![0x30; 1000], vec![0; 70_000], good[..good.len() / 2].to_vec()];
        for bytes in cases {
            let error = scep::pki_operation(&t.app, bytes, None).await.unwrap_err();
            assert!(matches!(error, Error::Invalid { code: "bad_scep_message", .. }), "{error}");
        }
        assert_eq!(certificates(&t).await, 0);
    }

    async fn with_the_database_away_nothing_is_half_done(t: Ready) {
        let code = minted(&t, 1).await;
        let phone = Applicant::new(&t, 2);
        let ca = scep::ca_certificate(&t.app).await.unwrap();
        let message = phone.message(&t, &ca, Some(&code)).message;
        t.db.execute("ALTER TABLE certificates RENAME TO away").await;
        scep::pki_operation(&t.app, message, None).await.unwrap_err();
        t.db.execute("ALTER TABLE away RENAME TO certificates").await;
        issued(phone.ask(&t, &code).await);
        t.db.clock.advance(HOUR);
    }
}
