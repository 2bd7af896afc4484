//! Push certificates by topic, one of them the default, and the keys that wait for Apple's answer.

use muster::model::{EnrollmentId, PushRequestId, Sha256};
use muster::store::{PushCertificateRow, PushRequestRow, StoreError, Write};

use crate::support::db::TestDb;
use crate::support::rows::{DAY, MINUTE, Phone, TOPIC, command, push, user_channel};

fn certificate(db: &TestDb, topic: &str, is_default: bool) -> PushCertificateRow {
    PushCertificateRow {
        topic: topic.to_owned(),
        chain_pem: "pem".to_owned(),
        key_sealed: b"key".to_vec(),
        sha256: db.digest(),
        subject: "CN=APSP".to_owned(),
        not_before: db.now(),
        not_after: db.now().plus(365 * DAY),
        is_default,
        created_at: db.now(),
        created_by: "ci".to_owned(),
    }
}

fn request(db: &TestDb) -> PushRequestRow {
    PushRequestRow {
        id: db.id(PushRequestId::new),
        csr_pem: "csr".to_owned(),
        public_key_sha256: db.digest(),
        key_sealed: b"key".to_vec(),
        created_at: db.now(),
        created_by: "ci".to_owned(),
        answered_at: None,
    }
}

both_databases! {
    async fn a_renewed_certificate_takes_the_place_of_the_one_for_its_topic(db: TestDb) {
        let mut tx = db.write().await;
        tx.put_push_certificate(&certificate(&db, TOPIC, true)).await.unwrap();
        db.clock.advance(300 * DAY);
        let renewed = PushCertificateRow { subject: "CN=renewed".to_owned(), ..certificate(&db, TOPIC, true) };
        tx.put_push_certificate(&renewed).await.unwrap();
        let all = tx.push_certificates().await.unwrap();
        assert_eq!((all.len(), all[0].sha256, all[0].subject.as_str()), (1, renewed.sha256, "CN=renewed"));
        assert_eq!((all[0].not_before, all[0].not_after), (renewed.not_before, renewed.not_after));
        assert!(all[0].is_default);
    }

    async fn one_topic_is_the_default_and_comes_first(db: TestDb) {
        let mut tx = db.write().await;
        tx.put_push_certificate(&certificate(&db, "a", true)).await.unwrap();
        db.clock.advance(MINUTE);
        tx.put_push_certificate(&certificate(&db, "b", false)).await.unwrap();
        let listed = async |tx: &mut Write| {
            let all = tx.push_certificates().await.unwrap();
            all.iter().map(|c| (c.topic.clone(), c.is_default)).collect::<Vec<_>>()
        };
        assert_eq!(listed(&mut tx).await, [("a".to_owned(), true), ("b".to_owned(), false)]);
        tx.put_push_certificate(&certificate(&db, "b", true)).await.unwrap();
        assert_eq!(listed(&mut tx).await, [("b".to_owned(), true), ("a".to_owned(), false)]);
    }

    async fn the_default_moves_to_another_topic_and_stays_when_it_is_put_again(db: TestDb) {
        let mut tx = db.write().await;
        for (topic, is_default) in [("a", true), ("b", false)] {
            tx.put_push_certificate(&certificate(&db, topic, is_default)).await.unwrap();
        }
        let default = async |tx: &mut Write, topic: &str| tx.push_certificate(topic).await.unwrap().unwrap().is_default;
        for _ in 0..2 {
            tx.set_default_push_certificate("b").await.unwrap();
            assert!(default(&mut tx, "b").await && !default(&mut tx, "a").await);
        }
        tx.put_push_certificate(&certificate(&db, "b", true)).await.unwrap();
        assert!(default(&mut tx, "b").await);
        assert!(tx.push_certificate("c").await.unwrap().is_none());
        assert_eq!(tx.push_certificate_for_update("a").await.unwrap().unwrap().topic, "a");
        assert!(tx.push_certificate_for_update("c").await.unwrap().is_none());
    }

    async fn devices_are_counted_by_topic_without_their_users(db: TestDb) {
        let mac = Phone::enrolled(&db, "MAC").await;
        Phone::enrolled(&db, "UDID-1").await;
        Phone::authenticated(&db, "UDID-2").await;
        let mut tx = db.write().await;
        let user = db.id(EnrollmentId::new);
        tx.insert_enrollment(user, mac.device, Some(mac.id), &user_channel("MAC", "501"), db.now()).await.unwrap();
        tx.set_push(user, &push(TOPIC), db.now()).await.unwrap();
        assert_eq!(tx.enabled_devices_by_topic().await.unwrap(), [(TOPIC.to_owned(), 2)]);
    }

    async fn a_certificate_that_came_back_wakes_who_waited_for_it(db: TestDb) {
        let mut phones = Vec::new();
        for udid in ["WORK", "PUT OFF", "DUE", "NOTHING", "OTHER TOPIC", "GONE"] {
            phones.push(Phone::enrolled(&db, udid).await);
            db.clock.advance(MINUTE);
        }
        for n in [0, 4, 5] {
            phones[n].queue(&db, &command(&db, "ProfileList")).await;
        }
        let mut tx = db.write().await;
        for (n, due_at) in [(1, db.now().plus(DAY)), (2, db.now())] {
            tx.request_wake(phones[n].id, due_at, db.now().plus(DAY)).await.unwrap();
        }
        tx.set_push(phones[4].id, &push("other"), db.now()).await.unwrap();
        tx.close_enrollment(phones[5].id, "disabled", db.now()).await.unwrap();
        let first = EnrollmentId(uuid::Uuid::nil());
        let waiting = tx.enrollments_to_wake(TOPIC, first, db.now(), 10).await.unwrap();
        assert_eq!(waiting, [phones[0].id, phones[1].id]);
        assert_eq!(tx.enrollments_to_wake(TOPIC, first, db.now(), 1).await.unwrap(), [phones[0].id]);
        assert_eq!(tx.enrollments_to_wake(TOPIC, phones[0].id, db.now(), 10).await.unwrap(), [phones[1].id]);
    }

    async fn requests_are_listed_newest_first_until_they_are_forgotten(db: TestDb) {
        let mut tx = db.write().await;
        let mut ids = Vec::new();
        for _ in 0..3 {
            let new = request(&db);
            tx.insert_push_request(&new).await.unwrap();
            ids.insert(0, new.id);
            db.clock.advance(MINUTE);
        }
        let listed: Vec<_> = tx.push_requests(None, 2).await.unwrap().iter().map(|r| r.id).collect();
        assert_eq!(listed, ids[..2]);
        let rest: Vec<_> = tx.push_requests(Some(ids[1]), 2).await.unwrap().iter().map(|r| r.id).collect();
        assert_eq!(rest, ids[2..]);
        assert!(tx.delete_push_request(ids[0]).await.unwrap());
        assert!(!tx.delete_push_request(ids[0]).await.unwrap());
        assert_eq!(tx.push_requests(None, 10).await.unwrap().len(), 2);
    }

    async fn a_certificate_can_be_taken_away(db: TestDb) {
        let mut tx = db.write().await;
        tx.put_push_certificate(&certificate(&db, TOPIC, true)).await.unwrap();
        assert!(tx.delete_push_certificate(TOPIC).await.unwrap());
        assert!(!tx.delete_push_certificate(TOPIC).await.unwrap());
        assert!(tx.push_certificates().await.unwrap().is_empty());
    }

    async fn the_certificate_that_comes_finds_the_key_that_waits(db: TestDb) {
        let waiting = request(&db);
        let mut tx = db.write().await;
        tx.insert_push_request(&waiting).await.unwrap();
        tx.insert_push_request(&request(&db)).await.unwrap();
        let found = tx.push_request_by_key(waiting.public_key_sha256).await.unwrap().unwrap();
        assert_eq!((found.id, found.answered_at, found.key_sealed), (waiting.id, None, waiting.key_sealed.clone()));
        assert!(tx.push_request_by_key(Sha256::of(b"another key")).await.unwrap().is_none());
        tx.answer_push_request(waiting.id, db.now()).await.unwrap();
        assert_eq!(tx.push_request(waiting.id).await.unwrap().unwrap().answered_at, Some(db.now()));
        assert!(tx.push_request(db.id(PushRequestId::new)).await.unwrap().is_none());
        assert!(matches!(tx.insert_push_request(&waiting).await, Err(StoreError::Conflict(_))));
    }
}
