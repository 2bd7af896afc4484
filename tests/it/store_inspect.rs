//! What `muster doctor` asks the database.

use muster::model::{JobId, Role};
use muster::store::{AuthorityRow, TokenRow};

use crate::support::db::TestDb;
use crate::support::rows::{DAY, MINUTE, Phone, device_ca, terms, token};

both_databases! {
    async fn a_write_is_probed_without_a_trace(db: TestDb) {
        db.store.probe_write().await.unwrap();
        assert_eq!(db.texts("SELECT CAST(number AS TEXT) FROM fleet").await, ["1"]);
    }

    async fn migrations_of_a_newer_version_are_noticed(db: TestDb) {
        assert_eq!(db.store.foreign_migrations().await.unwrap(), 0);
        assert!(db.store.known_migrations() > 0);
        db.execute(
            "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
             VALUES (9999, 'of tomorrow', TRUE, '', 0)",
        )
        .await;
        assert_eq!(db.store.foreign_migrations().await.unwrap(), 1);
    }

    async fn only_a_database_server_has_a_clock_of_its_own(db: TestDb) {
        let clock = db.read().await.clock().await.unwrap();
        assert_eq!(clock.is_some(), db.store.kind() == "postgres");
    }

    async fn jobs_that_do_not_go_on_are_counted(db: TestDb) {
        let now = db.now();
        let mut tx = db.write().await;
        tx.add_job(db.id(JobId::new), "kind", "{}", None, now.minus(DAY), now).await.unwrap();
        let job = tx.lease_job(&db.lease(MINUTE)).await.unwrap().unwrap();
        tx.retry_job(&job, "no luck", now.minus(DAY), Some(now)).await.unwrap();
        for run_at in [now, now.minus(DAY)] {
            tx.add_job(db.id(JobId::new), "kind", "{}", None, run_at, now).await.unwrap();
        }
        let counts = tx.stuck_jobs(now.minus(MINUTE)).await.unwrap();
        assert_eq!((counts.dead, counts.overdue), (1, 1));
        assert_eq!(counts.last_error, Some(("kind".to_owned(), "no luck".to_owned())));
    }

    async fn an_admin_token_must_hold(db: TestDb) {
        let mut tx = db.write().await;
        let end = Some(db.now().plus(MINUTE));
        tx.insert_token(&TokenRow { role: Role::Operator, ..token(&db) }).await.unwrap();
        assert_eq!(tx.some_admin_token(db.now()).await.unwrap(), None);
        let admin = TokenRow { role: Role::Admin, expires_at: end, ..token(&db) };
        tx.insert_token(&admin).await.unwrap();
        assert_eq!(tx.some_admin_token(db.now()).await.unwrap(), Some(admin.id));
        assert_eq!(tx.some_admin_token(db.now().plus(DAY)).await.unwrap(), None);
    }

    async fn a_device_counts_by_the_latest_of_its_certificates(db: TestDb) {
        let enabled = Phone::enrolled(&db, "enabled").await;
        Phone::enrolled(&db, "with a profile from elsewhere").await;
        let renewed = Phone::enrolled(&db, "renewed").await;
        Phone::authenticated(&db, "not yet").await;
        let now = db.now();
        let mut tx = db.write().await;
        tx.put_pin(renewed.id, db.digest(), None, Some(now.plus(DAY * 800)), now).await.unwrap();
        let terms = terms("muster.enrollment");
        tx.put_terms(&terms, now).await.unwrap();
        tx.set_terms(enabled.id, Some(terms.sha256)).await.unwrap();
        tx.commit().await.unwrap();
        let mut read = db.read().await;
        for (passed, expected) in [(DAY * 300, (0, 0, 0)), (DAY * 350, (0, 1, 1)), (DAY * 366, (2, 0, 1))] {
            let counts = read.ending_identities(now.plus(passed), DAY * 30).await.unwrap();
            assert_eq!((counts.expired, counts.expiring, counts.not_renewed), expected, "{passed:?}");
        }
    }

    async fn sealed_records_are_counted_by_the_key_that_they_name(db: TestDb) {
        let sealed = |key: &[u8; 8]| [&[1_u8], key.as_slice(), b"nonce and the rest"].concat();
        let mut tx = db.write().await;
        for key in [b"key-one-", b"key-two-", b"key-two-"] {
            let row = AuthorityRow { key_sealed: Some(sealed(key)), slot: None, ..device_ca(&db) };
            assert!(tx.insert_authority(&row).await.unwrap());
        }
        let counts = tx.sealed_counts().await.unwrap();
        let counts: Vec<_> = counts.iter().map(|c| (c.place.as_str(), c.key_id.as_slice(), c.records)).collect();
        assert_eq!(counts, [("authorities", b"key-one-".as_slice(), 1), ("authorities", b"key-two-", 2)]);
    }

    async fn an_empty_database_has_nothing_to_count(db: TestDb) {
        let mut read = db.read().await;
        assert_eq!(read.sealed_counts().await.unwrap(), []);
        assert_eq!(read.last_audit().await.unwrap(), None);
        let identities = read.ending_identities(db.now(), DAY).await.unwrap();
        assert_eq!((identities.expired, identities.expiring), (0, 0));
    }
}
