//! The issuing record and the pins.

use muster::model::{CaId, EnrollmentId};
use muster::store::{CertificateRow, StoreError};

use crate::support::db::TestDb;
use crate::support::rows::{DAY, MINUTE, Phone, certificate, challenge, push, terms, user_channel};

/// Issues a certificate to a phone and pins it.
async fn issued(db: &TestDb, phone: &Phone, days: u32) -> CertificateRow {
    let row = CertificateRow {
        enrollment_id: Some(phone.id),
        not_after: db.now().plus(days * DAY),
        ..certificate(db, db.id(CaId::new))
    };
    let mut tx = db.write().await;
    tx.insert_certificate(&row).await.unwrap();
    tx.put_pin(phone.id, row.sha256, Some(row.authority_id), Some(row.not_after), db.now()).await.unwrap();
    tx.commit().await.unwrap();
    row
}

both_databases! {
    async fn a_certificate_reads_back_and_is_recorded_once(db: TestDb) {
        let row = certificate(&db, db.id(CaId::new));
        let mut tx = db.write().await;
        tx.insert_certificate(&row).await.unwrap();
        let found = tx.certificate(row.sha256).await.unwrap().unwrap();
        assert_eq!((&found.serial, &found.subject, &found.der), (&row.serial, &row.subject, &row.der));
        assert_eq!((found.authority_id, found.public_key_sha256), (row.authority_id, row.public_key_sha256));
        assert_eq!((found.not_before, found.not_after), (row.not_before, row.not_after));
        assert_eq!((found.enrollment_id, found.revoked_at, found.revoked_reason), (None, None, None));
        assert!(tx.certificate(db.digest()).await.unwrap().is_none());
        assert!(matches!(tx.insert_certificate(&row).await, Err(StoreError::Conflict(_))));
    }

    async fn the_same_challenge_and_key_find_the_first_certificate_again(db: TestDb) {
        let opened = challenge(&db, None);
        let first = CertificateRow { challenge_id: Some(opened.id), ..certificate(&db, db.id(CaId::new)) };
        let second = CertificateRow {
            public_key_sha256: first.public_key_sha256,
            issued_at: db.now().plus(MINUTE),
            challenge_id: Some(opened.id),
            ..certificate(&db, first.authority_id)
        };
        let mut tx = db.write().await;
        tx.insert_certificate(&second).await.unwrap();
        tx.insert_certificate(&first).await.unwrap();
        let found = tx.certificate_for_key(opened.id, first.public_key_sha256).await.unwrap().unwrap();
        assert_eq!(found.sha256, first.sha256);
        assert!(tx.certificate_for_key(opened.id, db.digest()).await.unwrap().is_none(), "another key");
        let other = challenge(&db, None).id;
        assert!(tx.certificate_for_key(other, first.public_key_sha256).await.unwrap().is_none(), "another challenge");
    }

    async fn a_certificate_issued_before_its_device_is_known_is_linked_at_authenticate(db: TestDb) {
        let row = certificate(&db, db.id(CaId::new));
        let phone = Phone::authenticated(&db, "UDID-1").await;
        let mut tx = db.write().await;
        tx.insert_certificate(&row).await.unwrap();
        tx.link_certificate(row.sha256, phone.id).await.unwrap();
        assert_eq!(tx.certificate(row.sha256).await.unwrap().unwrap().enrollment_id, Some(phone.id));
    }

    async fn one_certificate_on_two_devices_shows_both_pins(db: TestDb) {
        let a = Phone::authenticated(&db, "UDID-1").await;
        db.clock.advance(MINUTE);
        let b = Phone::authenticated(&db, "UDID-2").await;
        let mut tx = db.write().await;
        tx.put_pin(b.id, a.pin, None, None, db.now()).await.unwrap();
        let holders: Vec<_> = tx.pins_of_certificate(a.pin).await.unwrap().iter().map(|p| p.enrollment_id).collect();
        assert_eq!(holders, [a.id, b.id]);
        tx.revoke_pins(a.id, None, db.now()).await.unwrap();
        assert_eq!(tx.pins_of_certificate(a.pin).await.unwrap().len(), 1, "revoked ones are left out");
        assert!(tx.pins_of_certificate(db.digest()).await.unwrap().is_empty());
    }

    async fn a_renewal_revokes_all_pins_but_the_new_one(db: TestDb) {
        let phone = Phone::authenticated(&db, "UDID-1").await;
        let bystander = Phone::authenticated(&db, "UDID-2").await;
        db.clock.advance(MINUTE);
        let renewed = issued(&db, &phone, 365).await;
        let mut tx = db.write().await;
        assert_eq!(tx.revoke_pins(phone.id, Some(renewed.sha256), db.now()).await.unwrap(), 1);
        assert_eq!(tx.pin(phone.id, phone.pin).await.unwrap().unwrap().revoked_at, Some(db.now()));
        assert_eq!(tx.pin(phone.id, renewed.sha256).await.unwrap().unwrap().revoked_at, None);
        assert_eq!(tx.pin(bystander.id, bystander.pin).await.unwrap().unwrap().revoked_at, None);
        assert!(tx.pin(bystander.id, phone.pin).await.unwrap().is_none());

        let shown = tx.identities_of_enrollment(phone.id).await.unwrap();
        assert_eq!(shown.iter().map(|i| i.sha256).collect::<Vec<_>>(), [renewed.sha256, phone.pin], "newest first");
        assert_eq!(shown[0].serial.as_deref(), Some(renewed.serial.as_str()));
        assert_eq!(shown[1].serial, None, "pinned, but not issued here");
    }

    async fn pinning_again_makes_a_revoked_pin_valid(db: TestDb) {
        let phone = Phone::authenticated(&db, "UDID-1").await;
        let mut tx = db.write().await;
        assert_eq!(tx.revoke_pins(phone.id, None, db.now()).await.unwrap(), 1);
        assert_eq!(tx.revoke_pins(phone.id, None, db.now()).await.unwrap(), 0, "revoked already");
        db.clock.advance(MINUTE);
        tx.put_pin(phone.id, phone.pin, None, None, db.now()).await.unwrap();
        let pin = tx.pin(phone.id, phone.pin).await.unwrap().unwrap();
        assert_eq!((pin.revoked_at, pin.pinned_at), (None, db.now()));
    }

    async fn a_revoked_certificate_takes_its_pins_along(db: TestDb) {
        let phone = Phone::authenticated(&db, "UDID-1").await;
        let row = issued(&db, &phone, 365).await;
        let mut tx = db.write().await;
        assert!(tx.revoke_certificate(row.sha256, "lost", db.now()).await.unwrap());
        assert!(!tx.revoke_certificate(row.sha256, "again", db.now()).await.unwrap());
        assert!(!tx.revoke_certificate(db.digest(), "unknown", db.now()).await.unwrap());
        let record = tx.certificate(row.sha256).await.unwrap().unwrap();
        assert_eq!((record.revoked_at, record.revoked_reason.as_deref()), (Some(db.now()), Some("lost")));
        assert_eq!(tx.pin(phone.id, row.sha256).await.unwrap().unwrap().revoked_at, Some(db.now()));
        assert_eq!(tx.pin(phone.id, phone.pin).await.unwrap().unwrap().revoked_at, None, "another certificate");
    }

    async fn removing_a_device_revokes_all_that_was_issued_for_it(db: TestDb) {
        let phone = Phone::authenticated(&db, "UDID-1").await;
        let (first, second) = (issued(&db, &phone, 10).await, issued(&db, &phone, 20).await);
        let bystander = issued(&db, &Phone::authenticated(&db, "UDID-2").await, 30).await;
        let mut tx = db.write().await;
        assert_eq!(tx.revoke_certificates(phone.id, "removed", db.now()).await.unwrap(), 2);
        assert_eq!(tx.revoke_certificates(phone.id, "removed", db.now()).await.unwrap(), 0);
        for revoked in [first, second] {
            let record = tx.certificate(revoked.sha256).await.unwrap().unwrap();
            assert_eq!((record.revoked_at, record.revoked_reason.as_deref()), (Some(db.now()), Some("removed")));
        }
        assert_eq!(tx.certificate(bystander.sha256).await.unwrap().unwrap().revoked_at, None);
    }

    async fn identities_that_expire_soon_are_those_without_a_newer_valid_one(db: TestDb) {
        let soon = Phone::authenticated(&db, "SOON").await;
        let renewed = Phone::authenticated(&db, "RENEWED").await;
        // The pins that these have from the beginning were not issued here: nothing is known of their renewal.
        let elsewhere = Phone::authenticated(&db, "ELSEWHERE").await;
        let gone = Phone::authenticated(&db, "GONE").await;
        let mac = Phone::authenticated(&db, "MAC").await;
        for phone in [&soon, &renewed, &elsewhere, &gone, &mac] {
            phone.token_update(&db).await;
        }
        let ends = issued(&db, &soon, 10).await.not_after;
        issued(&db, &renewed, 10).await;
        issued(&db, &renewed, 300).await;
        issued(&db, &gone, 10).await;
        issued(&db, &mac, 300).await;

        let mut tx = db.write().await;
        let terms = terms("muster.enrollment");
        tx.put_terms(&terms, db.now()).await.unwrap();
        for phone in [&soon, &renewed, &elsewhere, &gone, &mac] {
            tx.set_terms(phone.id, Some(terms.sha256)).await.unwrap();
        }
        tx.put_pin(elsewhere.id, db.digest(), None, Some(db.now().plus(DAY)), db.now()).await.unwrap();
        tx.close_enrollment(gone.id, "disabled", db.now()).await.unwrap();
        // A user channel has no identity of its own.
        let user = db.id(EnrollmentId::new);
        tx.insert_enrollment(user, mac.device, Some(mac.id), &user_channel("MAC", "501"), db.now()).await.unwrap();
        tx.set_push(user, &push("topic"), db.now()).await.unwrap();

        let first = EnrollmentId(uuid::Uuid::nil());
        let before = db.now().plus(30 * DAY);
        assert_eq!(tx.expiring_identities(before, db.now(), first, 10).await.unwrap(), [(soon.id, ends)]);
        assert!(tx.expiring_identities(before, db.now(), soon.id, 10).await.unwrap().is_empty(), "the next page");
        assert!(tx.expiring_identities(db.now().plus(5 * DAY), db.now(), first, 10).await.unwrap().is_empty());
        assert_eq!(tx.expiring_identities(db.now().plus(400 * DAY), db.now(), first, 2).await.unwrap().len(), 2, "a page of two");

        // One that was sent a renewal lately gets none; nor does one whose profile was made elsewhere.
        tx.put_renewal(soon.id, 1, db.now().plus(DAY), db.now()).await.unwrap();
        assert!(tx.expiring_identities(before, db.now(), first, 10).await.unwrap().is_empty());
        assert_eq!(tx.expiring_identities(before, db.now().plus(DAY), first, 10).await.unwrap().len(), 1);
        tx.clear_renewal(soon.id).await.unwrap();
        tx.set_terms(soon.id, None).await.unwrap();
        assert!(tx.expiring_identities(before, db.now(), first, 10).await.unwrap().is_empty());
    }
}
