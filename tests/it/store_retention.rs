//! Finding and taking away what is old.

use muster::model::{AuditId, DeliveryState, EnrollmentId, ReportId};
use muster::store::{AuditRow, Delivery, NewReport, SEARCHES};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::support::db::{self, TestDb};
use crate::support::rows::{DAY, HOUR, Phone, command};

/// Takes a delivery to another state.
async fn put(db: &TestDb, delivery: &Delivery, state: DeliveryState) {
    let mut tx = db.write().await;
    let next = Delivery { state, revision: delivery.revision + 1, updated_at: db.now(), ..delivery.clone() };
    assert!(tx.update_delivery(&next, None).await.unwrap());
    tx.commit().await.unwrap();
}

both_databases! {
    async fn a_delivery_goes_when_it_has_ended_and_its_command_with_the_last(db: TestDb) {
        let (one, other) = (Phone::enrolled(&db, "UDID-1").await, Phone::enrolled(&db, "UDID-2").await);
        let new = command(&db, "ProfileList");
        let first = one.queue(&db, &new).await;
        let mut tx = db.write().await;
        let second = Delivery { enrollment_id: other.id, ..first.clone() };
        assert!(tx.insert_delivery(&second).await.unwrap());
        tx.commit().await.unwrap();
        put(&db, &first, DeliveryState::Cancelled).await;
        let now = db.now();
        db.clock.advance(DAY);

        let mut tx = db.write().await;
        assert_eq!(tx.ended_deliveries(now, 10).await.unwrap(), [], "not before it is old");
        assert_eq!(tx.ended_deliveries(db.now(), 10).await.unwrap(), [(one.id, new.id)]);
        tx.lock_command(new.id).await.unwrap();
        assert_eq!(tx.prune_transitions(one.id, new.id, 1).await.unwrap(), 1);
        assert_eq!(tx.transitions(one.id, new.id).await.unwrap().len(), 1, "the newest stay for the last");
        assert_eq!(tx.prune_transitions(one.id, new.id, 10).await.unwrap(), 1);
        assert!(tx.prune_delivery(one.id, new.id).await.unwrap());
        assert!(!tx.prune_delivery(one.id, new.id).await.unwrap());
        assert!(!tx.prune_delivery(other.id, new.id).await.unwrap(), "it is open");
        assert!(!tx.prune_command(new.id, db.now()).await.unwrap(), "one is left");
        tx.commit().await.unwrap();
        put(&db, &second, DeliveryState::Expired).await;
        let mut tx = db.write().await;
        assert!(tx.prune_delivery(other.id, new.id).await.unwrap());
        assert!(!tx.prune_command(new.id, now).await.unwrap(), "it is not old");
        assert!(tx.prune_command(new.id, db.now()).await.unwrap());
    }

    async fn an_old_report_goes_and_its_delivery_knows(db: TestDb) {
        let phone = Phone::enrolled(&db, "UDID-1").await;
        let made = phone.queue(&db, &command(&db, "ProfileList")).await;
        let mut ids = Vec::new();
        for _ in 0..3 {
            let new = NewReport {
                enrollment_id: phone.id,
                id: db.id(ReportId::new),
                command_id: Some(made.command_id),
                command_uuid: None,
                status: "NotNow",
                size_bytes: 3,
                raw_sealed: b"raw",
            };
            let mut tx = db.write().await;
            tx.insert_report(&new, db.now()).await.unwrap();
            tx.commit().await.unwrap();
            ids.push(new.id);
            db.clock.advance(HOUR);
        }
        put(&db, &Delivery { report_id: Some(ids[1]), ..made.clone() }, DeliveryState::NotNow).await;
        let mut tx = db.write().await;
        let old = tx.old_reports(db.now().minus(HOUR), 10).await.unwrap();
        assert_eq!(old.iter().map(|old| old.id).collect::<Vec<_>>(), ids[..2], "the oldest first");
        assert_eq!(old[0].size_bytes, 3);
        assert!(tx.prune_report(old[0]).await.unwrap());
        assert_eq!(tx.delivery(phone.id, made.command_id).await.unwrap().unwrap().report_id, Some(ids[1]));
        assert!(tx.prune_report(old[1]).await.unwrap());
        assert!(!tx.prune_report(old[1]).await.unwrap());
        assert_eq!(tx.delivery(phone.id, made.command_id).await.unwrap().unwrap().report_id, None);
        assert_eq!(tx.prune_reports_of(db.id(EnrollmentId::new), made.command_id, 10).await.unwrap(), 0);
        assert_eq!(tx.prune_reports_of(phone.id, made.command_id, 10).await.unwrap(), 1);
    }

    async fn commands_for_all_are_walked_through_by_their_number(db: TestDb) {
        let phone = Phone::enrolled(&db, "UDID-1").await;
        let mut tx = db.write().await;
        let mut made = Vec::new();
        for _ in 0..3 {
            let number = tx.fleet_number_for_command().await.unwrap();
            let new = muster::store::NewCommand { fleet_number: Some(number), ..command(&db, "ProfileList") };
            tx.insert_command(&new, db.now()).await.unwrap();
            made.push(new.id);
        }
        tx.set_materialized(made[0]).await.unwrap();
        tx.set_materialized(made[1]).await.unwrap();
        let of_phone = crate::support::rows::delivery(&db, &phone, made[1]);
        assert!(tx.insert_delivery(&of_phone).await.unwrap());
        let soon = db.now().plus(HOUR);
        let found = tx.commands_for_all_since(soon, 0, 10).await.unwrap();
        assert_eq!(found.iter().map(|one| (one.id, one.is_spent)).collect::<Vec<_>>(), [
            (made[0], true), (made[1], false), (made[2], false)
        ]);
        let rest = tx.commands_for_all_since(soon, found[0].fleet_number, 1).await.unwrap();
        assert_eq!(rest[0].id, made[1]);
        assert!(!tx.commands_for_all_since(db.now(), 0, 1).await.unwrap()[0].is_spent, "not before it is old");
    }

    async fn the_audit_log_is_cut_at_its_beginning(db: TestDb) {
        for _ in 0..5 {
            let row = AuditRow {
                id: db.id(AuditId::new),
                at: db.now(),
                actor_kind: "server".to_owned(),
                actor: "server".to_owned(),
                actor_token: None,
                action: "x".to_owned(),
                subject_kind: "device".to_owned(),
                subject: "UDID-1".to_owned(),
                detail: "{}".to_owned(),
                request_id: None,
                address: None,
            };
            let mut tx = db.write().await;
            tx.insert_audit(&row).await.unwrap();
            tx.commit().await.unwrap();
            db.clock.advance(HOUR);
        }
        let mut tx = db.write().await;
        let before = db.now().minus(2 * HOUR);
        assert_eq!(tx.prune_audit(before, 2).await.unwrap(), 2);
        assert_eq!(tx.prune_audit(before, 2).await.unwrap(), 1);
        assert_eq!(tx.prune_audit(before, 2).await.unwrap(), 0);
    }
}

/// Many rows, so that reading all of them would cost more than an index.
const MANY: [&str; 5] = [
    "INSERT INTO deliveries (enrollment_id, command_id, generation, state, priority, resend, connection, attempts, revision,
                             queued_at, updated_at)
     SELECT gen_random_uuid(), gen_random_uuid(), 1, 'acknowledged', 1, 'freely', 1, 1, 3, n, n FROM generate_series(1, 20000) n",
    "INSERT INTO delivery_transitions (enrollment_id, command_id, revision, state, at)
     SELECT enrollment_id, command_id, n, 'sent', 1 FROM deliveries, generate_series(1, 3) n",
    "INSERT INTO reports (enrollment_id, id, command_id, status, size_bytes, raw_sealed, received_at)
     SELECT enrollment_id, gen_random_uuid(), command_id, 'Acknowledged', 1, '', updated_at FROM deliveries",
    "INSERT INTO audit (id, at, actor_kind, actor, action, subject_kind, subject, detail)
     SELECT gen_random_uuid(), 1, 'server', 'server', 'x', 'x', 'x', '{}' FROM generate_series(1, 20000)",
    "INSERT INTO commands (id, verb, request_type, payload_sealed, fills, summary, resend, priority, internal, target,
                           target_count, fleet_number, materialized, created_at, created_by)
     SELECT gen_random_uuid(), 'x', 'x', '', '[]', '{}', 'freely', 1, FALSE, 'all', 1, CASE WHEN n < 1000 THEN n END, TRUE,
            1, 'ci' FROM generate_series(1, 20000) n",
];

/// SQLite's plans are looked at where its statements are.
#[tokio::test(flavor = "multi_thread")]
async fn postgres_finds_what_is_old_by_its_indexes() {
    db::run(db::Kind::Postgres, async |db: TestDb| {
        for fill in MANY {
            db.execute(fill).await;
        }
        db.execute("ANALYZE").await;
        let id = &db.texts("SELECT CAST(command_id AS TEXT) FROM deliveries LIMIT 1").await[0];
        let mut c = PgConnection::connect(&db.url).await.unwrap();
        for (sql, index) in SEARCHES {
            let first = if index == "audit_pkey" || sql.contains("enrollment_id = $1") {
                format!("'{id}'")
            } else {
                "500".to_owned()
            };
            let second = if sql.contains("command_id = $2") || sql.contains("id <= $2") {
                format!("'{id}'")
            } else {
                "100".to_owned()
            };
            let sql = sql.replace("$1", &first).replace("$2", &second).replace("$3", "100");
            let explain = AssertSqlSafe(format!("EXPLAIN {sql}"));
            let plan: Vec<String> = sqlx::query_scalar(explain).fetch_all(&mut c).await.unwrap();
            let plan = plan.join("\n");
            assert!(plan.contains(index), "{index}: {plan}");
            assert!(!plan.contains("Seq Scan"), "{plan}");
        }
        c.close().await.unwrap();
    })
    .await;
}
