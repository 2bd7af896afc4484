//! Push certificates by topic, one of them the default, and the keys that wait for Apple's answer.

use muster::model::{PushRequestId, Sha256};
use muster::store::{PushCertificateRow, PushRequestRow, StoreError};

use crate::support::db::TestDb;
use crate::support::rows::{DAY, MINUTE, TOPIC};

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
        let listed = async |tx: &mut muster::store::Write| {
            let all = tx.push_certificates().await.unwrap();
            all.iter().map(|c| (c.topic.clone(), c.is_default)).collect::<Vec<_>>()
        };
        assert_eq!(listed(&mut tx).await, [("a".to_owned(), true), ("b".to_owned(), false)]);
        tx.put_push_certificate(&certificate(&db, "b", true)).await.unwrap();
        assert_eq!(listed(&mut tx).await, [("b".to_owned(), true), ("a".to_owned(), false)]);
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
