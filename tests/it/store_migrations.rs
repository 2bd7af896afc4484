//! Migrations: the same tables on both databases, made once, and never by an older program.

use muster::store::StoreError;

use crate::support::db::{Kind, TestDb, run_empty};

both_databases! {
    async fn migrating_twice_changes_nothing(db: TestDb) {
        assert_eq!(db.store.pending_migrations().await.unwrap(), 0);
        db.store.migrate().await.unwrap();
        db.store.ping().await.unwrap();
    }

    async fn a_database_made_by_a_newer_version_is_refused(db: TestDb) {
        db.execute(
            "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
             SELECT 9999, 'from the future', success, checksum, execution_time FROM _sqlx_migrations WHERE version = 1",
        )
        .await;
        let refused = db.store.migrate().await.unwrap_err();
        assert!(matches!(&refused, StoreError::Open(why) if why.contains("9999")), "{refused:?}");
    }
}

async fn an_empty_database_lacks_every_migration(kind: Kind, directory: &str) {
    let files = std::fs::read_dir(directory).unwrap().count();
    run_empty(kind, async |db: TestDb| {
        assert_eq!(db.store.pending_migrations().await.unwrap(), files, "every file is built into the program");
        db.store.migrate().await.unwrap();
        assert_eq!(db.store.pending_migrations().await.unwrap(), 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_sqlite_lacks_every_migration() {
    an_empty_database_lacks_every_migration(Kind::Sqlite, "migrations/sqlite").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_postgres_lacks_every_migration() {
    an_empty_database_lacks_every_migration(Kind::Postgres, "migrations/postgres").await;
}
