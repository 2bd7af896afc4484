//! Reports, inventory, the audit log and remembered requests.

use muster::model::{AuditId, CommandId, EnrollmentId, ReportId, TokenId};
use muster::store::{AuditRow, NewReport};

use crate::support::db::TestDb;
use crate::support::rows::{DAY, MINUTE, Phone};

fn audit(db: &TestDb) -> AuditRow {
    AuditRow {
        id: db.id(AuditId::new),
        at: db.now(),
        actor_kind: "token".to_owned(),
        actor: "ci".to_owned(),
        actor_token: Some(db.id(TokenId::new)),
        action: "device.removed".to_owned(),
        subject_kind: "device".to_owned(),
        subject: "UDID-1".to_owned(),
        detail: r#"{"certificates":1}"#.to_owned(),
        request_id: Some("r-1".to_owned()),
        address: Some("127.0.0.1".to_owned()),
    }
}

both_databases! {
    async fn a_large_report_reads_back_byte_for_byte(db: TestDb) {
        let phone = Phone::enrolled(&db, "UDID-1").await;
        let raw: Vec<u8> = (0..=255).cycle().take(300_000).collect();
        let new = NewReport {
            enrollment_id: phone.id,
            id: db.id(ReportId::new),
            command_id: Some(db.id(CommandId::new)),
            command_uuid: Some("no uuid at all"),
            status: "Acknowledged",
            size_bytes: 300_000,
            raw_sealed: &raw,
        };
        let mut tx = db.write().await;
        tx.insert_report(&new, db.now()).await.unwrap();
        let row = tx.report(phone.id, new.id).await.unwrap().unwrap();
        assert!(row.raw_sealed == raw);
        assert_eq!((row.command_id, row.command_uuid.as_deref()), (new.command_id, new.command_uuid));
        assert_eq!((row.status.as_str(), row.size_bytes, row.received_at), ("Acknowledged", 300_000, db.now()));
        let stranger = db.id(EnrollmentId::new);
        assert!(tx.report(stranger, new.id).await.unwrap().is_none(), "the report of another");
    }

    async fn the_same_report_twice_is_kept_twice(db: TestDb) {
        let phone = Phone::enrolled(&db, "UDID-1").await;
        let mut tx = db.write().await;
        let mut ids = Vec::new();
        for _ in 0..2 {
            let new = NewReport {
                enrollment_id: phone.id,
                id: db.id(ReportId::new),
                command_id: None,
                command_uuid: None,
                status: "NotNow",
                size_bytes: 3,
                raw_sealed: b"raw",
            };
            tx.insert_report(&new, db.now()).await.unwrap();
            ids.push(new.id);
        }
        for id in ids {
            assert!(tx.report(phone.id, id).await.unwrap().is_some());
        }
    }

    async fn inventory_holds_the_last_of_each_kind(db: TestDb) {
        let phone = Phone::enrolled(&db, "UDID-1").await;
        let mut tx = db.write().await;
        tx.put_inventory(phone.device, "security_info", "{}", db.now()).await.unwrap();
        tx.put_inventory(phone.device, "device_information", r#"{"OSVersion":"17.1"}"#, db.now()).await.unwrap();
        let first = db.now();
        db.clock.advance(MINUTE);
        tx.put_inventory(phone.device, "device_information", r#"{"OSVersion":"17.2"}"#, db.now()).await.unwrap();
        let known = tx.inventory(phone.device).await.unwrap();
        let seen: Vec<_> = known.iter().map(|i| (i.kind.as_str(), i.data.as_str(), i.updated_at)).collect();
        let newest = ("device_information", r#"{"OSVersion":"17.2"}"#, db.now());
        assert_eq!(seen, [newest, ("security_info", "{}", first)]);
    }

    async fn an_audit_row_is_written_with_its_change_or_not_at_all(db: TestDb) {
        let phone = Phone::enrolled(&db, "UDID-1").await;
        let remove = async |row: &AuditRow| {
            let mut tx = db.write().await;
            tx.remove_device(phone.device, db.now()).await.unwrap();
            tx.insert_audit(row).await.unwrap();
            tx
        };
        drop(remove(&audit(&db)).await);
        let written = "SELECT action || ' ' || subject || ' ' || detail || ' ' || address FROM audit";
        assert!(db.texts(written).await.is_empty());
        assert_eq!(db.read().await.device(phone.device).await.unwrap().unwrap().removed_at, None);

        remove(&audit(&db)).await.commit().await.unwrap();
        assert_eq!(db.texts(written).await, [r#"device.removed UDID-1 {"certificates":1} 127.0.0.1"#]);
        assert_eq!(db.read().await.device(phone.device).await.unwrap().unwrap().removed_at, Some(db.now()));
    }

    async fn a_repeated_request_finds_the_first_answer(db: TestDb) {
        let (token, request) = (db.id(TokenId::new), db.digest());
        let mut tx = db.write().await;
        assert!(tx.begin_idempotent(token, "key", request, db.now()).await.unwrap().is_none());
        let at_work = tx.begin_idempotent(token, "key", db.digest(), db.now()).await.unwrap().unwrap();
        assert_eq!((at_work.request_sha256, at_work.status), (request, None), "the first is still at work");
        tx.finish_idempotent(token, "key", 202, b"answer").await.unwrap();
        let done = tx.begin_idempotent(token, "key", request, db.now()).await.unwrap().unwrap();
        assert_eq!((done.status, done.response_sealed.as_deref()), (Some(202), Some(&b"answer"[..])));
        let stranger = db.id(TokenId::new);
        assert!(tx.begin_idempotent(stranger, "key", request, db.now()).await.unwrap().is_none(), "keys are per token");
        assert!(tx.begin_idempotent(token, "other", request, db.now()).await.unwrap().is_none());
    }

    /// Two copies of a request at once: the second waits for the first and gets its answer.
    async fn of_two_equal_requests_at_once_one_is_carried_out(db: TestDb) {
        let (token, request) = (db.id(TokenId::new), db.digest());
        let ask = async || {
            let mut tx = db.write().await;
            let before = tx.begin_idempotent(token, "key", request, db.now()).await.unwrap();
            if before.is_none() {
                tx.finish_idempotent(token, "key", 201, b"made").await.unwrap();
            }
            tx.commit().await.unwrap();
            before
        };
        let (a, b) = tokio::join!(ask(), ask());
        let repeated = match (a, b) {
            (None, Some(found)) | (Some(found), None) => found,
            other => panic!("carried out twice, or never: {other:?}"),
        };
        assert_eq!((repeated.status, repeated.response_sealed.as_deref()), (Some(201), Some(&b"made"[..])));
    }

    async fn answers_are_forgotten_after_their_time(db: TestDb) {
        let (token, request) = (db.id(TokenId::new), db.digest());
        let mut tx = db.write().await;
        tx.begin_idempotent(token, "old", request, db.now()).await.unwrap();
        db.clock.advance(DAY);
        tx.begin_idempotent(token, "new", request, db.now()).await.unwrap();
        assert_eq!(tx.delete_old_idempotency(db.now()).await.unwrap(), 1);
        assert!(tx.begin_idempotent(token, "old", request, db.now()).await.unwrap().is_none());
        assert!(tx.begin_idempotent(token, "new", request, db.now()).await.unwrap().is_some());
    }
}
