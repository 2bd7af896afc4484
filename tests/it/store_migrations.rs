//! Migrations: the same tables on both databases, made once, and never by an older program.

use muster::store::{Options, Store, StoreError};

use crate::support::db::{Kind, TestDb, connect, run, run_empty};

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

/// Migrations take a session lock, which a pooler in between would break: they may go another way.
#[tokio::test(flavor = "multi_thread")]
async fn postgres_is_migrated_by_the_direct_address() {
    run_empty(Kind::Postgres, async |db: TestDb| {
        let at = |url: &str, direct: &str| {
            let direct_url = Some(direct.to_owned());
            Store::connect(Options { url: url.to_owned(), direct_url, max_connections: 2 }, false)
        };
        let lost = at(&db.url, "postgres://127.0.0.1:1/muster").await.unwrap().migrate().await.unwrap_err();
        assert!(matches!(&lost, StoreError::Open(why) if why.contains("database.direct_url")), "{lost:?}");
        at(&db.url, &db.url).await.unwrap().migrate().await.unwrap();
        assert_eq!(db.store.pending_migrations().await.unwrap(), 0);
    })
    .await;
}

/// Several server processes start on one empty database.
#[tokio::test(flavor = "multi_thread")]
async fn processes_that_start_together_migrate_once() {
    for kind in [Kind::Sqlite, Kind::Postgres] {
        run_empty(kind, async |db: TestDb| {
            let other = connect(&db.url).await;
            let (a, b) = tokio::join!(db.store.migrate(), other.migrate());
            // On SQLite one server holds the file; a second one may be told that it is busy, and starts anew.
            assert!(a.is_ok() || b.is_ok(), "{a:?} {b:?}");
            db.store.migrate().await.unwrap();
            other.close().await;
        })
        .await;
    }
}

/// What both databases must have alike, one line for each column, key and index.
#[tokio::test(flavor = "multi_thread")]
async fn both_databases_have_the_same_tables() {
    run(Kind::Sqlite, async |sqlite: TestDb| {
        run(Kind::Postgres, async |postgres: TestDb| {
            for (what, on_sqlite, on_postgres) in [
                ("columns", SQLITE_COLUMNS, POSTGRES_COLUMNS),
                ("keys", SQLITE_KEYS, POSTGRES_KEYS),
                ("indexes", SQLITE_INDEXES, POSTGRES_INDEXES),
            ] {
                let (mut a, mut b) = (sqlite.texts(on_sqlite).await, postgres.texts(on_postgres).await);
                a.sort();
                b.sort();
                assert!(a.len() > 10, "nothing was compared: {what}");
                let only = |these: &[String], those: &[String]| -> Vec<String> {
                    these.iter().filter(|line| !those.contains(line)).cloned().collect()
                };
                assert!(a == b, "{what}: only SQLite {:#?}, only PostgreSQL {:#?}", only(&a, &b), only(&b, &a));
            }
        })
        .await;
    })
    .await;
}

const SQLITE_COLUMNS: &str = "
    SELECT t.name || '.' || c.name || ' ' || lower(c.type) || CASE WHEN c.\"notnull\" = 1 THEN ' not null' ELSE '' END
      FROM sqlite_master t JOIN pragma_table_info(t.name) c
     WHERE t.type = 'table' AND t.name NOT LIKE '\\_%' ESCAPE '\\'";

const POSTGRES_COLUMNS: &str = "
    SELECT table_name || '.' || column_name || ' ' ||
           CASE data_type WHEN 'bigint' THEN 'integer' WHEN 'boolean' THEN 'integer'
                          WHEN 'bytea' THEN 'blob' WHEN 'uuid' THEN 'blob' ELSE data_type END ||
           CASE is_nullable WHEN 'NO' THEN ' not null' ELSE '' END
      FROM information_schema.columns WHERE table_schema = 'public' AND table_name NOT LIKE '\\_%'";

const SQLITE_KEYS: &str = "
    SELECT 'primary key ' || t.name || '(' ||
           (SELECT group_concat(name) FROM (SELECT name FROM pragma_table_info(t.name) WHERE pk > 0 ORDER BY pk)) || ')'
      FROM sqlite_master t WHERE t.type = 'table' AND t.name NOT LIKE '\\_%' ESCAPE '\\'
     UNION ALL
    SELECT 'unique ' || t.name || '(' ||
           (SELECT group_concat(name) FROM (SELECT name FROM pragma_index_info(i.name) ORDER BY seqno)) || ')'
      FROM sqlite_master t JOIN pragma_index_list(t.name) i
     WHERE t.type = 'table' AND t.name NOT LIKE '\\_%' ESCAPE '\\' AND i.origin = 'u'";

const POSTGRES_KEYS: &str = "
    SELECT CASE k.contype WHEN 'p' THEN 'primary key ' ELSE 'unique ' END || k.conrelid::regclass || '(' ||
           (SELECT string_agg(a.attname, ',' ORDER BY c.place)
              FROM unnest(k.conkey) WITH ORDINALITY AS c (attnum, place)
              JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = c.attnum) || ')'
      FROM pg_constraint k
     WHERE k.connamespace = 'public'::regnamespace AND k.contype IN ('p', 'u')
       AND k.conrelid::regclass::text NOT LIKE '\\_%'";

const SQLITE_INDEXES: &str = "
    SELECT x.name || ' on ' || x.tbl_name || '(' ||
           (SELECT group_concat(name) FROM (SELECT name FROM pragma_index_info(x.name) ORDER BY seqno)) || ')' ||
           CASE WHEN x.sql LIKE 'CREATE UNIQUE%' THEN ' unique' ELSE '' END ||
           CASE WHEN x.sql LIKE '% WHERE %' THEN ' partial' ELSE '' END
      FROM sqlite_master x WHERE x.type = 'index' AND x.sql IS NOT NULL";

const POSTGRES_INDEXES: &str = "
    SELECT i.indexrelid::regclass || ' on ' || i.indrelid::regclass || '(' ||
           (SELECT string_agg(a.attname, ',' ORDER BY c.place)
              FROM unnest(i.indkey::smallint[]) WITH ORDINALITY AS c (attnum, place)
              JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = c.attnum) || ')' ||
           CASE WHEN i.indisunique THEN ' unique' ELSE '' END ||
           CASE WHEN i.indpred IS NOT NULL THEN ' partial' ELSE '' END
      FROM pg_index i JOIN pg_class r ON r.oid = i.indexrelid
     WHERE r.relnamespace = 'public'::regnamespace
       AND NOT EXISTS (SELECT 1 FROM pg_constraint k WHERE k.conindid = i.indexrelid)";
