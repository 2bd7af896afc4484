//! The store: what enrollment profiles laid down, and the renewals of identities.

use muster::model::{EnrollmentId, Sha256};
use muster::store::{NewChallenge, TermsRow};

use crate::support::db::TestDb;
use crate::support::rows::{DAY, HOUR, Phone, challenge, terms, user_channel};

both_databases! {
    async fn terms_are_kept_once_and_counted_by_device(db: TestDb) {
        let (ours, theirs) = (terms("muster.enrollment"), terms("other.enrollment"));
        let elsewhere = TermsRow {
            sha256: Sha256::of(b"x"), server_url: None, checkin_url: None, access_rights: None, ..terms("org.example.mdm")
        };
        let phones = [
            Phone::enrolled(&db, "ONE").await, Phone::enrolled(&db, "TWO").await, Phone::enrolled(&db, "THREE").await,
            Phone::enrolled(&db, "FOUR").await, Phone::authenticated(&db, "NOT YET").await,
        ];
        let mut tx = db.write().await;
        for row in [&ours, &ours, &theirs, &elsewhere] {
            tx.put_terms(row, db.now()).await.unwrap();
        }
        for (phone, row) in phones.iter().zip([Some(&ours), Some(&ours), Some(&theirs), None, Some(&theirs)]) {
            tx.set_terms(phone.id, row.map(|row| row.sha256)).await.unwrap();
        }
        assert_eq!(tx.terms(ours.sha256).await.unwrap(), Some(ours.clone()));
        assert_eq!(tx.terms(db.digest()).await.unwrap(), None);
        let mut counted: Vec<_> = tx.enabled_by_terms().await.unwrap();
        counted.sort_by(|a, b| a.identifier.cmp(&b.identifier));
        let counted: Vec<_> = counted.iter().map(|under| (under.identifier.as_deref(), under.enrollments)).collect();
        assert_eq!(counted, [(None, 1), (Some("muster.enrollment"), 2), (Some("other.enrollment"), 1)]);
        // What a device tells takes no identifier.
        let handed_out = tx.enrollment_profile_identifiers().await.unwrap();
        assert_eq!(handed_out, ["muster.enrollment", "other.enrollment"]);
    }

    async fn a_user_channel_has_the_terms_of_its_device(db: TestDb) {
        let mac = Phone::enrolled(&db, "MAC").await;
        let (ours, theirs) = (terms("muster.enrollment"), terms("other.enrollment"));
        let user = db.id(EnrollmentId::new);
        let mut tx = db.write().await;
        tx.put_terms(&ours, db.now()).await.unwrap();
        tx.put_terms(&theirs, db.now()).await.unwrap();
        tx.set_terms(mac.id, Some(ours.sha256)).await.unwrap();
        tx.insert_enrollment(user, mac.device, Some(mac.id), &user_channel("MAC", "501"), db.now()).await.unwrap();
        assert_eq!(tx.enrollment(user).await.unwrap().unwrap().terms, Some(ours.sha256));

        let renewal = NewChallenge { terms: Some(theirs.sha256), ..challenge(&db, None) };
        let from_elsewhere = challenge(&db, None);
        for new in [&renewal, &from_elsewhere] {
            tx.insert_challenge(new, db.now()).await.unwrap();
        }
        for (challenge, expected) in [(from_elsewhere.id, ours.sha256), (renewal.id, theirs.sha256)] {
            tx.take_over_terms(mac.id, challenge).await.unwrap();
            for id in [mac.id, user] {
                assert_eq!(tx.enrollment(id).await.unwrap().unwrap().terms, Some(expected));
            }
        }
    }

    async fn renewals_are_counted_until_one_takes_effect(db: TestDb) {
        let phone = Phone::enrolled(&db, "PHONE").await;
        let mut tx = db.write().await;
        assert_eq!(tx.renewal(phone.id).await.unwrap(), None);
        let (now, soon) = (db.now(), db.now().plus(HOUR));
        tx.put_renewal(phone.id, 1, soon, now).await.unwrap();
        assert_eq!(tx.failed_renewals().await.unwrap().failed, 0);
        tx.fail_renewal(phone.id, "refused", soon, now).await.unwrap();
        tx.put_renewal(phone.id, 2, now.plus(DAY), soon).await.unwrap();
        let row = tx.renewal(phone.id).await.unwrap().unwrap();
        assert_eq!((row.attempts, row.sent_at, row.retry_at), (2, soon, now.plus(DAY)));
        assert_eq!((row.failed_at, row.error.as_deref()), (Some(now), Some("refused")));
        assert_eq!(tx.failed_renewals().await.unwrap().last_error.as_deref(), Some("refused"));
        tx.close_enrollment(phone.id, "disabled", now).await.unwrap();
        assert_eq!(tx.failed_renewals().await.unwrap().failed, 0, "a device that left needs none");
        tx.clear_renewal(phone.id).await.unwrap();
        assert_eq!(tx.renewal(phone.id).await.unwrap(), None);
    }
}
