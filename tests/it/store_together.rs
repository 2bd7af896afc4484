//! Transactions that messages share: nothing before the commit, each fails alone, and as if one after the other.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::FutureExt;
use futures_util::future::join_all;
use muster::model::{EnrollmentId, Timestamp};
use muster::store::{Key, Store, StoreError, Write};

use crate::support::db::TestDb;
use crate::support::rows::{HOUR, Phone};

/// The first `count` phones, enrolled.
async fn phones(db: &TestDb, count: usize) -> Vec<Phone> {
    let mut phones = Vec::new();
    for n in 0..count {
        phones.push(Phone::enrolled(db, &format!("UDID-{n}")).await);
    }
    phones
}

async fn connection(db: &TestDb, phone: &Phone) -> i64 {
    phone.row(db).await.connection
}

/// Begins a connection of an enrollment, and then does as `end` says.
async fn begin(store: &Store, id: EnrollmentId, now: Timestamp, end: End) -> Result<i64, StoreError> {
    let work = move |mut tx: Write| {
        async move {
            let row = tx.enrollment_by_id_for_update(id).await?.unwrap();
            let number = tx.begin_connection(id, now).await?;
            assert_eq!(number, row.connection + 1, "somebody else was in between");
            match end {
                End::Commit => tx.commit().await?,
                End::Leave => {}
                End::Fail => return Err(StoreError::Broken("on purpose".to_owned())),
                End::Conflict => {
                    // A statement that the database refuses.
                    tx.insert_enrollment(id, muster::model::DeviceId(id.0), None, &apple_id(), now).await?;
                    tx.commit().await?;
                }
            }
            Ok(number)
        }
        .boxed()
    };
    store.together(vec![Key::of(id)], work).await
}

#[derive(Clone, Copy)]
enum End {
    Commit,
    Leave,
    Fail,
    Conflict,
}

fn apple_id() -> muster::model::AppleId {
    muster::model::AppleId { id: "ANOTHER".to_owned(), kind: muster::model::EnrollmentKind::Device, parent: None }
}

both_databases! {
    async fn many_share_and_all_are_kept(db: TestDb) {
        let phones = phones(&db, 40).await;
        let all = phones.iter().map(|phone| begin(&db.store, phone.id, db.now(), End::Commit));
        let numbers: Result<Vec<_>, _> = join_all(all).await.into_iter().collect();
        assert_eq!(numbers.unwrap(), vec![1; 40]);
        for phone in &phones {
            assert_eq!(connection(&db, phone).await, 1);
        }
    }

    async fn each_fails_alone(db: TestDb) {
        let phones = phones(&db, 12).await;
        let ends = [End::Commit, End::Leave, End::Fail, End::Conflict];
        let all = phones.iter().zip(ends.iter().cycle());
        let all = all.map(|(phone, end)| begin(&db.store, phone.id, db.now(), *end));
        let results = join_all(all).await;
        for (n, (phone, result)) in phones.iter().zip(results).enumerate() {
            match ends[n % 4] {
                End::Commit | End::Leave => assert_eq!(result.unwrap(), 1),
                End::Fail => assert!(matches!(result, Err(StoreError::Broken(why)) if why == "on purpose")),
                End::Conflict => assert!(matches!(result, Err(StoreError::Conflict(_))), "{result:?}"),
            }
            let kept = i64::from(matches!(ends[n % 4], End::Commit));
            assert_eq!(connection(&db, phone).await, kept, "{n}");
        }
    }

    async fn messages_of_one_device_come_one_after_the_other(db: TestDb) {
        let phones = phones(&db, 3).await;
        let all = (0..30).map(|n| begin(&db.store, phones[n % 3].id, db.now(), End::Commit));
        let mut numbers: Vec<_> = join_all(all).await.into_iter().map(Result::unwrap).collect();
        numbers.sort_unstable();
        let expected: Vec<i64> = (1..=10).flat_map(|number| [number; 3]).collect();
        assert_eq!(numbers, expected);
    }

    /// A statement that is not shared: the work runs again in a transaction of its own, and what it had written is gone.
    async fn rare_work_runs_alone(db: TestDb) {
        let phones = phones(&db, 6).await;
        let runs = Arc::new(AtomicUsize::new(0));
        let all = phones.iter().map(|phone| {
            let (id, now, runs) = (phone.id, db.now(), Arc::clone(&runs));
            db.store.together(vec![Key::of(id)], move |mut tx: Write| {
                let runs = Arc::clone(&runs);
                async move {
                    runs.fetch_add(1, Ordering::Relaxed);
                    tx.begin_connection(id, now).await?;
                    tx.close_enrollment(id, "disabled", now).await?;
                    tx.commit().await
                }
                .boxed()
            })
        });
        for result in join_all(all).await {
            result.unwrap();
        }
        assert!(runs.load(Ordering::Relaxed) >= 12, "each ran again");
        for phone in &phones {
            let row = phone.row(&db).await;
            assert_eq!((row.connection, row.state.as_str()), (1, "disabled"));
        }
    }

    /// What is read, decided on and written beside the device's own rows is guarded.
    async fn a_thing_in_common_is_guarded(db: TestDb) {
        let phones = phones(&db, 20).await;
        let shared = phones[0].id;
        let all = phones.iter().map(|phone| {
            let (id, now) = (phone.id, db.now());
            db.store.together(vec![Key::of(id)], move |mut tx: Write| {
                async move {
                    let alone = tx.exclusive(shared.0).await;
                    let before = tx.enrollment_by_id_for_update(shared).await?.unwrap().connection;
                    let after = tx.begin_connection(shared, now).await?;
                    drop(alone);
                    assert_eq!(after, before + 1);
                    tx.commit().await?;
                    Ok::<_, StoreError>(after)
                }
                .boxed()
            })
        });
        let mut numbers: Vec<_> = join_all(all).await.into_iter().map(Result::unwrap).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, (1..=20).collect::<Vec<_>>());
    }

    /// What many add to one row is added up.
    async fn the_uses_of_one_link_are_added_up(db: TestDb) {
        let (link, challenges) = crate::support::rows::link_with_challenges(&db, 15).await;
        let all = challenges.iter().map(|challenge| {
            let (challenge, now) = (*challenge, db.now());
            db.store.together(Vec::new(), move |mut tx: Write| {
                async move {
                    tx.count_link_use(challenge, now).await?;
                    // Once for each.
                    assert!(!tx.count_link_use(challenge, now).await?);
                    tx.commit().await
                }
                .boxed()
            })
        });
        for result in join_all(all).await {
            result.unwrap();
        }
        assert_eq!(db.read().await.link(link).await.unwrap().unwrap().uses_count, 15);
    }

    /// Shared transactions and others take turns, also on the one writer of SQLite.
    async fn shared_and_other_transactions_take_turns(db: TestDb) {
        let phones = phones(&db, 8).await;
        let shared = phones.iter().map(|phone| begin(&db.store, phone.id, db.now(), End::Commit));
        let other = phones.iter().map(|phone| async {
            let mut tx = db.write().await;
            tx.request_wake(phone.id, db.now(), db.now().plus(HOUR)).await.unwrap();
            tx.commit().await.unwrap();
        });
        let (shared, _) = tokio::join!(join_all(shared), join_all(other));
        assert!(shared.into_iter().all(|result| result.unwrap() == 1));
        assert_eq!(db.read().await.count_due_wakes(db.now()).await.unwrap(), 8);
    }
}
