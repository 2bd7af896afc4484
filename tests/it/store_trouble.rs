//! A full disk, a database that goes away, requests that are given up: nothing is half-written, and it heals by itself.

use std::time::Duration;

use futures_util::future::join_all;
use muster::model::DeviceId;
use muster::store::{DeviceFacts, Store, StoreError};

use crate::support::db::{Kind, TestDb, connect, run};
use crate::support::line::Line;
use crate::support::rows::{Phone, command};

/// A change of two rows, each larger than a page; the second is what a full disk has no room for.
async fn two_devices(store: &Store, db: &TestDb, names: &str) -> Result<(), StoreError> {
    let mut tx = store.begin_write().await?;
    for n in [1, 2] {
        let facts =
            DeviceFacts { udid: Some(format!("{names}-{n}")), name: Some("x".repeat(6000)), ..DeviceFacts::default() };
        tx.insert_device(db.id(DeviceId::new), &facts, db.now()).await?;
    }
    tx.commit().await
}

async fn devices(db: &TestDb) -> usize {
    db.texts("SELECT udid FROM devices").await.len()
}

both_databases! {
    async fn a_reader_sees_a_change_from_its_commit_on(db: TestDb) {
        let mut tx = db.write().await;
        let facts = DeviceFacts { udid: Some("UDID-1".to_owned()), ..DeviceFacts::default() };
        tx.insert_device(db.id(DeviceId::new), &facts, db.now()).await.unwrap();
        assert!(db.read().await.device_by_udid("UDID-1").await.unwrap().is_none());
        tx.commit().await.unwrap();
        assert!(db.read().await.device_by_udid("UDID-1").await.unwrap().is_some());
    }

    async fn a_program_beside_the_server_waits_for_its_turn(db: TestDb) {
        let other = db.second_process().await;
        join_all((0..20).map(|n| {
            let store = if n % 2 == 0 { &db.store } else { &other };
            let db = &db;
            async move { two_devices(store, db, &n.to_string()).await.unwrap() }
        }))
        .await;
        other.close().await;
        assert_eq!(devices(&db).await, 40);
    }

    /// A client that goes away drops its request wherever that stands: at the beginning, between two statements, within
    /// one, in the commit.
    async fn requests_that_are_given_up_leave_whole_changes_or_none(db: TestDb) {
        for n in 0..60u64 {
            let (db, names) = (db.clone(), n.to_string());
            let request = tokio::spawn(async move { two_devices(&db.store, &db, &names).await });
            tokio::time::sleep(Duration::from_micros(n * 200)).await;
            request.abort();
            let _ = request.await;
        }
        two_devices(&db.store, &db, "last").await.unwrap();
        assert_eq!(devices(&db).await % 2, 0, "a change was cut in half");
    }

    async fn a_pool_that_was_closed_is_not_available(db: TestDb) {
        let other = db.second_process().await;
        other.ping().await.unwrap();
        other.close().await;
        assert!(matches!(other.ping().await, Err(StoreError::Unavailable(_))));
        assert!(matches!(two_devices(&other, &db, "late").await, Err(StoreError::Unavailable(_))));
    }

    async fn a_statement_that_is_wrong_is_broken_and_harms_nothing(db: TestDb) {
        db.execute("ALTER TABLE devices RENAME COLUMN imei TO other").await;
        assert!(matches!(two_devices(&db.store, &db, "one").await, Err(StoreError::Broken(_))));
        db.execute("ALTER TABLE devices RENAME COLUMN other TO imei").await;
        two_devices(&db.store, &db, "two").await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_whole_changes_until_there_is_room() {
    run(Kind::Sqlite, async |db: TestDb| {
        two_devices(&db.store, &db, "before").await.unwrap();
        db.store.limit_growth(Some(3)).await.unwrap();
        for n in 0..3 {
            let refused = two_devices(&db.store, &db, &format!("full-{n}")).await;
            assert!(matches!(refused, Err(StoreError::Unavailable(_))), "attempt {n}: {refused:?}");
            db.store.ping().await.expect("what is there can be read");
        }
        assert_eq!(devices(&db).await, 2, "half of a change was kept");
        db.store.limit_growth(None).await.unwrap();
        two_devices(&db.store, &db, "after").await.unwrap();
        assert_eq!(devices(&db).await, 4);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_failed_for_room_makes_place_for_a_smaller_one() {
    run(Kind::Sqlite, async |db: TestDb| {
        let phone = Phone::enrolled(&db, "UDID-1").await;
        db.store.limit_growth(Some(1)).await.unwrap();
        assert!(two_devices(&db.store, &db, "large").await.is_err());
        phone.queue(&db, &command(&db, "DeviceLock")).await;
        assert!(db.store.poll("UDID-1", phone.pin).await.unwrap().unwrap().has_work);
    })
    .await;
}

/// PostgreSQL goes away between two statements and while nothing is under way; it comes back at the same address.
#[tokio::test(flavor = "multi_thread")]
async fn a_postgres_that_goes_away_is_not_available_until_it_is_back() {
    run(Kind::Postgres, async |db: TestDb| {
        let line = Line::to(&db.url).await;
        let store = connect(&line.url).await;
        two_devices(&store, &db, "before").await.unwrap();

        let mut tx = store.begin_write().await.unwrap();
        let facts = DeviceFacts { udid: Some("UDID-1".to_owned()), ..DeviceFacts::default() };
        tx.insert_device(db.id(DeviceId::new), &facts, db.now()).await.unwrap();
        line.cut();
        let broken = tx.insert_device(db.id(DeviceId::new), &DeviceFacts::default(), db.now()).await;
        assert!(matches!(broken, Err(StoreError::Unavailable(_))), "{broken:?}");
        assert!(matches!(tx.commit().await, Err(StoreError::Unavailable(_))));
        let since = tokio::time::Instant::now();
        let refused = two_devices(&store, &db, "while away").await;
        assert!(since.elapsed() < Duration::from_secs(6), "{:?}", since.elapsed());
        assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");

        line.mend();
        two_devices(&store, &db, "after").await.unwrap();
        assert_eq!(devices(&db).await, 4, "half of a change was kept");
        store.close().await;
    })
    .await;
}

/// An administrator stops the server: it ends the connections itself, with a reason.
#[tokio::test(flavor = "multi_thread")]
async fn a_postgres_that_ends_the_connections_is_not_available() {
    run(Kind::Postgres, async |db: TestDb| {
        let mut tx = db.write().await;
        tx.fleet_number_for_enrollment().await.unwrap();
        db.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
              WHERE datname = current_database() AND pid <> pg_backend_pid()",
        )
        .await;
        let ended = tx.fleet_number_for_enrollment().await;
        assert!(matches!(ended, Err(StoreError::Unavailable(_))), "{ended:?}");
        drop(tx);
        two_devices(&db.store, &db, "after").await.unwrap();
    })
    .await;
}

/// Two transactions that wait for each other: PostgreSQL ends one, which may simply try again.
#[tokio::test(flavor = "multi_thread")]
async fn a_deadlock_passes_by_itself() {
    run(Kind::Postgres, async |db: TestDb| {
        let (a, b) = (Phone::enrolled(&db, "UDID-1").await, Phone::enrolled(&db, "UDID-2").await);
        let both_hold_one = tokio::sync::Barrier::new(2);
        let lock = async |first: &Phone, second: &Phone| {
            let mut tx = db.write().await;
            tx.enrollment_by_id_for_update(first.id).await?;
            both_hold_one.wait().await;
            tx.enrollment_by_id_for_update(second.id).await?;
            tx.commit().await
        };
        let ends: [_; 2] = tokio::join!(lock(&a, &b), lock(&b, &a)).into();
        assert_eq!(ends.iter().filter(|end| end.is_ok()).count(), 1);
        assert!(ends.iter().any(|end| matches!(end, Err(StoreError::Unavailable(_)))), "{ends:?}");
    })
    .await;
}

#[tokio::test]
async fn an_address_that_is_no_database_says_what_to_do() {
    for (url, hint) in [
        ("mysql://localhost/muster", "sqlite: or postgres://"),
        ("postgres://127.0.0.1:port/muster", "postgres://user@host/db"),
        ("sqlite:/nowhere/at/all/muster.db", "/nowhere/at/all/muster.db"),
    ] {
        let options = muster::store::Options { url: url.to_owned(), direct_url: None, max_connections: 2 };
        let refused = Store::connect(options, false).await.unwrap_err();
        assert!(matches!(&refused, StoreError::Open(why) if why.contains(hint)), "{url}: {refused}");
    }
}
