//! Fleet numbers: "all" means the devices enabled when the command was accepted, also while devices are enrolling.

use std::time::Duration;

use futures_util::future::join_all;
use muster::model::EnrollmentId;
use muster::store::{NewCommand, Write};

use crate::support::db::{Kind, TestDb, run};
use crate::support::rows::{Phone, TOPIC, command, push};

/// Accepts a wipe of all; returns its number and how many devices it was accepted for.
async fn wipe_all(db: &TestDb, tx: &mut Write) -> (i64, i64) {
    let number = tx.fleet_number_for_command().await.unwrap();
    let targets = tx.count_enabled().await.unwrap().iter().map(|(_, enabled)| enabled).sum();
    let new = NewCommand { fleet_number: Some(number), target_count: targets, ..command(db, "EraseDevice") };
    tx.insert_command(&new, db.now()).await.unwrap();
    (number, targets)
}

/// A transaction in which a phone becomes enabled and took its number, not yet committed.
async fn enrolling(db: &TestDb, phone: &Phone) -> (Write, i64) {
    let mut tx = db.write().await;
    tx.set_push(phone.id, &push(TOPIC), db.now()).await.unwrap();
    let number = tx.fleet_number_for_enrollment().await.unwrap();
    tx.set_fleet_cursor(phone.id, number).await.unwrap();
    (tx, number)
}

both_databases! {
    async fn a_command_for_all_reaches_who_was_enabled_and_nobody_later(db: TestDb) {
        let before = Phone::enrolled(&db, "BEFORE").await;
        let mut tx = db.write().await;
        let (number, targets) = wipe_all(&db, &mut tx).await;
        tx.commit().await.unwrap();
        let after = Phone::enrolled(&db, "AFTER").await;

        assert_eq!(targets, 1);
        let mut read = db.read().await;
        assert!(db.store.poll("BEFORE", before.pin).await.unwrap().unwrap().has_work);
        assert!(!db.store.poll("AFTER", after.pin).await.unwrap().unwrap().has_work);
        let nobody = EnrollmentId(uuid::Uuid::nil());
        let before_it = read.enrollments_before_fleet_number(number, None, nobody, 10).await.unwrap();
        assert_eq!(before_it, [(before.id, "BEFORE".to_owned())]);
        assert!(read.commands_for_all_after(after.row(&db).await.fleet_cursor.unwrap()).await.unwrap().is_empty());
    }

    async fn a_wiped_device_that_enrolls_again_is_not_wiped_again(db: TestDb) {
        let phone = Phone::enrolled(&db, "UDID-1").await;
        let mut tx = db.write().await;
        wipe_all(&db, &mut tx).await;
        tx.begin_generation(phone.id, db.now()).await.unwrap();
        tx.commit().await.unwrap();
        assert!(!db.store.poll("UDID-1", phone.pin).await.unwrap().unwrap().has_work);
        phone.token_update(&db).await;
        assert!(!db.store.poll("UDID-1", phone.pin).await.unwrap().unwrap().has_work);
    }

    /// A command for all that is accepted while a device becomes enabled waits for it: it counts that device, and reaches it.
    async fn an_enrollment_that_overlaps_a_command_for_all_is_counted_and_gets_it(db: TestDb) {
        let phone = Phone::authenticated(&db, "UDID-1").await;
        let (enrolling, enrolled_at) = enrolling(&db, &phone).await;
        let accept = tokio::spawn({
            let db = db.clone();
            async move {
                let mut tx = db.write().await;
                let accepted = wipe_all(&db, &mut tx).await;
                tx.commit().await.unwrap();
                accepted
            }
        });
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert!(!accept.is_finished());
        enrolling.commit().await.unwrap();
        let (number, targets) = accept.await.unwrap();
        assert!(number > enrolled_at);
        assert_eq!(targets, 1);
        assert!(db.store.poll("UDID-1", phone.pin).await.unwrap().unwrap().has_work);
    }

    async fn two_processes_share_the_numbers(db: TestDb) {
        let other = db.second_process().await;
        let mut numbers = Vec::new();
        for store in [&db.store, &other, &db.store] {
            let mut tx = store.begin_write().await.unwrap();
            numbers.push(tx.fleet_number_for_command().await.unwrap());
            tx.commit().await.unwrap();
        }
        assert!(numbers.is_sorted_by(|a, b| a < b), "{numbers:?}");
        other.close().await;
    }

    /// Many at once: each command reaches exactly those that it counted.
    async fn under_load_every_command_reaches_the_earlier_enrollments(db: TestDb) {
        let mut phones = Vec::new();
        for n in 0..24 {
            phones.push(Phone::authenticated(&db, &format!("UDID-{n}")).await);
        }
        let enroll = phones.iter().map(|phone| async { phone.token_update(&db).await });
        let accept = (0..8).map(|_| async {
            let mut tx = db.write().await;
            let accepted = wipe_all(&db, &mut tx).await;
            tx.commit().await.unwrap();
            accepted
        });
        let (_, accepted) = tokio::join!(join_all(enroll), join_all(accept));

        let mut cursors = Vec::new();
        for phone in &phones {
            cursors.push(phone.row(&db).await.fleet_cursor.unwrap());
        }
        for (number, targets) in accepted {
            let earlier = cursors.iter().filter(|cursor| **cursor < number).count();
            let reached = i64::try_from(earlier).unwrap();
            assert_eq!(reached, targets, "command {number}, enrollments {cursors:?}");
        }
    }
}

/// SQLite has one writer; PostgreSQL lets enrollments go on side by side.
#[tokio::test(flavor = "multi_thread")]
async fn on_postgres_enrollments_do_not_wait_for_each_other() {
    run(Kind::Postgres, async |db: TestDb| {
        let (a, b) = (Phone::authenticated(&db, "UDID-1").await, Phone::authenticated(&db, "UDID-2").await);
        let (first, one) = enrolling(&db, &a).await;
        let (second, two) = tokio::time::timeout(Duration::from_secs(10), enrolling(&db, &b)).await.unwrap();
        assert_eq!(one, two);
        second.commit().await.unwrap();
        first.commit().await.unwrap();
    })
    .await;
}
