//! Wake-ups: at most one is due and at most one in flight for each enrollment, and none is lost.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::future::join_all;
use muster::model::{EnrollmentId, JobId, ProcessId, Timestamp};
use muster::store::{ALIVE, DueWake, Lease, PushResult, Store, WakeRow};

use crate::support::db::TestDb;
use crate::support::rows::{ACCEPTED, HOUR, MINUTE, Phone, TOPIC};

async fn request(db: &TestDb, phone: &Phone, due_at: Timestamp) {
    let mut tx = db.write().await;
    tx.request_wake(phone.id, due_at, db.now().plus(3 * HOUR)).await.unwrap();
    tx.commit().await.unwrap();
}

/// What a push worker does first: leases for a minute what is due now.
async fn lease(db: &TestDb, store: &Store, limit: i64) -> Vec<DueWake> {
    let mut tx = store.begin_write().await.unwrap();
    let due = tx.lease_wakes(&db.lease(MINUTE), limit).await.unwrap();
    tx.commit().await.unwrap();
    due
}

async fn finish(db: &TestDb, wake: &DueWake, result: &PushResult<'_>) {
    let mut tx = db.write().await;
    tx.finish_wake(wake, result, db.now()).await.unwrap();
    tx.commit().await.unwrap();
}

async fn put_off(db: &TestDb, phone: &Phone, due_at: Option<Timestamp>) {
    let mut tx = db.write().await;
    tx.put_off_wake(phone.id, due_at).await.unwrap();
    tx.commit().await.unwrap();
}

async fn row(db: &TestDb, phone: &Phone) -> WakeRow {
    db.read().await.wake(phone.id).await.unwrap().unwrap()
}

/// APNs asks to come again at `at`.
fn later(at: Timestamp) -> PushResult<'static> {
    PushResult { result: "later", reason: Some("TooManyRequests"), apns_id: None, retry_at: Some(at) }
}

both_databases! {
    async fn a_wake_up_brings_what_the_push_needs(db: TestDb) {
        let phone = Phone::enrolled(&db, "UDID-1").await;
        request(&db, &phone, db.now()).await;
        let due = lease(&db, &db.store, 10).await;
        assert_eq!((due.len(), due[0].enrollment_id, due[0].attempts), (1, phone.id, 1));
        assert_eq!((due[0].topic.as_deref(), due[0].push_magic.as_deref()), (Some(TOPIC), Some("magic")));
        assert_eq!((due[0].push_token.as_deref(), due[0].token_at), (Some(&b"token"[..]), Some(db.now())));
    }

    async fn requests_coalesce_and_the_earlier_time_wins(db: TestDb) {
        let phone = Phone::enrolled(&db, "UDID-1").await;
        assert!(db.read().await.wake(phone.id).await.unwrap().is_none());
        let soon = db.now().plus(MINUTE);
        for at in [soon.plus(HOUR), soon, soon.plus(MINUTE)] {
            request(&db, &phone, at).await;
        }
        assert_eq!(row(&db, &phone).await.due_at, Some(soon));
        assert!(lease(&db, &db.store, 10).await.is_empty(), "not due yet");
        assert_eq!(db.read().await.count_due_wakes(db.now()).await.unwrap(), 0);
        assert_eq!(db.read().await.next_wake_at().await.unwrap(), Some(soon));
        db.clock.advance(MINUTE);
        assert_eq!(db.read().await.count_due_wakes(db.now()).await.unwrap(), 1);
        assert_eq!(lease(&db, &db.store, 10).await.len(), 1);
    }

    async fn what_was_due_longest_is_leased_first(db: TestDb) {
        let mut order = Vec::new();
        for n in 0..5 {
            let phone = Phone::enrolled(&db, &format!("UDID-{n}")).await;
            request(&db, &phone, db.now()).await;
            order.push(phone.id);
            db.clock.advance(MINUTE);
        }
        let ids = |due: Vec<DueWake>| due.iter().map(|w| w.enrollment_id).collect::<BTreeSet<_>>();
        assert_eq!(ids(lease(&db, &db.store, 2).await), order[..2].iter().copied().collect());
        assert_eq!(ids(lease(&db, &db.store, 10).await), order[2..].iter().copied().collect());
        assert!(lease(&db, &db.store, 10).await.is_empty());
    }

    /// Two server processes, several workers each: every wake-up goes to one of them.
    async fn workers_that_lease_at_once_never_share_a_wake_up(db: TestDb) {
        let mut all = BTreeSet::new();
        for n in 0..40 {
            let phone = Phone::enrolled(&db, &format!("UDID-{n}")).await;
            request(&db, &phone, db.now()).await;
            all.insert(phone.id);
        }
        let other = db.second_process().await;
        let worker = async |store: &Store| {
            let mut mine = Vec::new();
            loop {
                match lease(&db, store, 7).await {
                    batch if batch.is_empty() => break mine,
                    batch => mine.extend(batch.into_iter().map(|w| w.enrollment_id)),
                }
            }
        };
        let mut leased = join_all([&db.store, &other, &db.store, &other].map(worker)).await.concat();
        // Who is beaten to a batch gets none, though more is due: it comes back later.
        leased.extend(worker(&db.store).await);
        other.close().await;
        assert_eq!(leased.iter().copied().collect::<BTreeSet<_>>().len(), leased.len(), "leased twice");
        let mut left = all;
        for id in &leased {
            assert!(left.remove(id));
        }
        assert!(left.is_empty(), "never leased: {left:?}");
    }

    async fn a_lease_that_ran_out_is_free_again(db: TestDb) {
        let phone = Phone::enrolled(&db, "UDID-1").await;
        request(&db, &phone, db.now()).await;
        assert_eq!(lease(&db, &db.store, 10).await[0].attempts, 1);
        db.clock.advance(MINUTE);
        assert!(lease(&db, &db.store, 10).await.is_empty(), "the lease holds through its last moment");
        db.clock.advance(MINUTE);
        assert_eq!(lease(&db, &db.store, 10).await[0].attempts, 2);
    }

    async fn what_a_process_held_that_is_gone_is_free_within_ten_seconds(db: TestDb) {
        let phone = Phone::enrolled(&db, "UDID-1").await;
        request(&db, &phone, db.now()).await;
        let gone = Lease { holder: ProcessId(uuid::Uuid::from_u128(7)), ..db.lease(HOUR) };
        let mut tx = db.write().await;
        tx.see_process(gone.holder, db.now()).await.unwrap();
        let held = tx.lease_wakes(&gone, 10).await.unwrap();
        tx.add_job(JobId(uuid::Uuid::from_u128(8)), "kind", "{}", None, db.now(), db.now()).await.unwrap();
        assert!(tx.lease_job(&gone).await.unwrap().is_some());
        tx.commit().await.unwrap();

        db.clock.advance(ALIVE);
        assert!(lease(&db, &db.store, 10).await.is_empty(), "it counts as alive still");
        db.clock.advance(Duration::from_secs(1));
        let mut tx = db.write().await;
        let own = Lease { now: db.now(), until: db.now().plus(HOUR), ..gone };
        assert!(tx.lease_wakes(&own, 10).await.unwrap().is_empty(), "what it holds itself it does not take again");
        assert!(tx.lease_job(&own).await.unwrap().is_none());
        drop(tx);
        assert_eq!(lease(&db, &db.store, 10).await.len(), 1);
        let mut tx = db.write().await;
        assert!(tx.lease_job(&db.lease(MINUTE)).await.unwrap().is_some());
        assert!(!tx.finish_wake(&held[0], &ACCEPTED, db.now()).await.unwrap());
    }

    async fn a_process_that_goes_on_keeps_what_it_holds(db: TestDb) {
        let phone = Phone::enrolled(&db, "UDID-1").await;
        request(&db, &phone, db.now()).await;
        let alive = Lease { holder: ProcessId(uuid::Uuid::from_u128(7)), ..db.lease(HOUR) };
        let mut tx = db.write().await;
        tx.see_process(alive.holder, db.now()).await.unwrap();
        assert_eq!(tx.lease_wakes(&alive, 10).await.unwrap().len(), 1);
        tx.commit().await.unwrap();
        for _ in 0..5 {
            db.clock.advance(ALIVE);
            let mut tx = db.write().await;
            tx.see_process(alive.holder, db.now()).await.unwrap();
            tx.commit().await.unwrap();
            assert!(lease(&db, &db.store, 10).await.is_empty());
        }
        let mut tx = db.write().await;
        assert_eq!(tx.delete_gone_processes(db.now()).await.unwrap(), 0);
        tx.end_process(alive.holder).await.unwrap();
        tx.commit().await.unwrap();
    }

    async fn who_lost_the_lease_does_not_end_the_wake_up_of_another(db: TestDb) {
        let phone = Phone::enrolled(&db, "UDID-1").await;
        request(&db, &phone, db.now()).await;
        let slow = lease(&db, &db.store, 10).await.remove(0);
        db.clock.advance(2 * MINUTE);
        let other = lease(&db, &db.store, 10).await.remove(0);
        let mut tx = db.write().await;
        assert!(!tx.finish_wake(&slow, &ACCEPTED, db.now()).await.unwrap());
        tx.commit().await.unwrap();
        assert!(row(&db, &phone).await.due_at.is_some());
        assert!(lease(&db, &db.store, 10).await.is_empty(), "the other has it still");
        finish(&db, &other, &ACCEPTED).await;
        assert_eq!(row(&db, &phone).await.due_at, None);
    }

    async fn an_enrollment_that_begins_again_is_woken_on_schedule_again(db: TestDb) {
        let phone = Phone::enrolled(&db, "UDID-1").await;
        request(&db, &phone, db.now()).await;
        let mut tx = db.write().await;
        tx.begin_generation(phone.id, db.now()).await.unwrap();
        tx.commit().await.unwrap();
        let stopped = row(&db, &phone).await;
        assert_eq!((stopped.due_at, stopped.sync_at), (None, None));
        request(&db, &phone, db.now()).await;
        assert_eq!(row(&db, &phone).await.sync_at, Some(db.now().plus(3 * HOUR)));
    }

    async fn an_accepted_push_ends_the_wake_up_and_shows(db: TestDb) {
        let phone = Phone::enrolled(&db, "UDID-1").await;
        request(&db, &phone, db.now()).await;
        let wake = lease(&db, &db.store, 10).await.remove(0);
        finish(&db, &wake, &ACCEPTED).await;
        let shown = row(&db, &phone).await;
        assert_eq!((shown.due_at, shown.attempts, shown.last_at), (None, 0, Some(db.now())));
        assert_eq!((shown.last_result.as_deref(), shown.last_apns_id.as_deref()), (Some("accepted"), Some("6f1c")));
        assert_eq!(db.read().await.next_wake_at().await.unwrap(), None);
        assert!(lease(&db, &db.store, 10).await.is_empty());
    }

    async fn a_request_during_the_flight_stays_due(db: TestDb) {
        let phone = Phone::enrolled(&db, "UDID-1").await;
        request(&db, &phone, db.now()).await;
        let wake = lease(&db, &db.store, 10).await.remove(0);
        request(&db, &phone, db.now()).await;
        assert!(lease(&db, &db.store, 10).await.is_empty(), "one is in flight");
        finish(&db, &wake, &ACCEPTED).await;
        assert_eq!(lease(&db, &db.store, 10).await.len(), 1);
    }

    async fn a_push_put_off_is_due_again_with_its_attempts(db: TestDb) {
        let phone = Phone::enrolled(&db, "UDID-1").await;
        request(&db, &phone, db.now()).await;
        let wake = lease(&db, &db.store, 10).await.remove(0);
        request(&db, &phone, db.now()).await;
        finish(&db, &wake, &later(db.now().plus(MINUTE))).await;
        assert!(lease(&db, &db.store, 10).await.is_empty(), "APNs asked for patience");
        let shown = row(&db, &phone).await;
        assert_eq!((shown.attempts, shown.last_reason.as_deref()), (1, Some("TooManyRequests")));
        db.clock.advance(MINUTE);
        let again = lease(&db, &db.store, 10).await.remove(0);
        assert_eq!(again.attempts, 2);
        finish(&db, &again, &ACCEPTED).await;
        assert_eq!(row(&db, &phone).await.due_at, None);
    }

    async fn no_request_shortens_the_pause_that_the_push_service_asked_for(db: TestDb) {
        let phone = Phone::enrolled(&db, "UDID-1").await;
        request(&db, &phone, db.now()).await;
        let wake = lease(&db, &db.store, 10).await.remove(0);
        let patience = db.now().plus(5 * MINUTE);
        finish(&db, &wake, &later(patience)).await;
        // It came by itself, and has nothing open: the pause is the service's all the same.
        put_off(&db, &phone, None).await;
        for _ in 0..5 {
            request(&db, &phone, db.now()).await;
            assert!(lease(&db, &db.store, 10).await.is_empty());
        }
        put_off(&db, &phone, Some(db.now().plus(MINUTE))).await;
        assert_eq!(row(&db, &phone).await.due_at, Some(patience));
        put_off(&db, &phone, None).await;
        db.clock.advance(3 * HOUR);
        request(&db, &phone, db.now()).await;
        let again = lease(&db, &db.store, 10).await.remove(0);
        finish(&db, &again, &later(db.now().plus(MINUTE))).await;
        put_off(&db, &phone, None).await;
        let mut tx = db.write().await;
        assert_eq!(tx.schedule_syncs(db.now(), 3, 10).await.unwrap(), 1);
        tx.commit().await.unwrap();
        assert_eq!(row(&db, &phone).await.due_at, Some(db.now().plus(MINUTE)), "nor does the schedule");

        // Another token, or another certificate.
        let mut tx = db.write().await;
        tx.end_wake_pause(phone.id).await.unwrap();
        tx.commit().await.unwrap();
        request(&db, &phone, db.now()).await;
        let now = lease(&db, &db.store, 10).await.remove(0);
        finish(&db, &now, &ACCEPTED).await;
        request(&db, &phone, db.now()).await;
        assert_eq!(lease(&db, &db.store, 10).await.len(), 1, "a push that was taken leaves no pause");
    }

    async fn a_wake_up_called_off_in_flight_does_not_come_back(db: TestDb) {
        let phone = Phone::enrolled(&db, "UDID-1").await;
        for result in [later(db.now().plus(MINUTE)), ACCEPTED] {
            request(&db, &phone, db.now()).await;
            let wake = lease(&db, &db.store, 10).await.remove(0);
            put_off(&db, &phone, None).await;
            finish(&db, &wake, &result).await;
            assert_eq!(row(&db, &phone).await.due_at, None);
            db.clock.advance(MINUTE);
        }
    }

    async fn a_device_that_came_by_itself_is_woken_later(db: TestDb) {
        let phone = Phone::enrolled(&db, "UDID-1").await;
        let patience = db.now().plus(HOUR);
        request(&db, &phone, db.now()).await;
        put_off(&db, &phone, Some(patience)).await;
        assert!(lease(&db, &db.store, 10).await.is_empty());
        assert_eq!(row(&db, &phone).await.due_at, Some(patience));

        // It came while the push was under way: however that ends, the next one is not sooner.
        for result in [later(db.now().plus(MINUTE)), ACCEPTED] {
            request(&db, &phone, db.now()).await;
            let wake = lease(&db, &db.store, 10).await.remove(0);
            put_off(&db, &phone, Some(patience)).await;
            finish(&db, &wake, &result).await;
            assert_eq!(row(&db, &phone).await.due_at, Some(patience));
            db.clock.advance(MINUTE);
        }
    }

    async fn a_disabled_enrollment_is_leased_without_a_topic(db: TestDb) {
        let phone = Phone::enrolled(&db, "UDID-1").await;
        request(&db, &phone, db.now()).await;
        let mut tx = db.write().await;
        tx.close_enrollment(phone.id, "disabled", db.now()).await.unwrap();
        tx.commit().await.unwrap();
        assert!(lease(&db, &db.store, 10).await.is_empty(), "it is not woken any more");
        request(&db, &phone, db.now()).await;
        assert_eq!(lease(&db, &db.store, 10).await[0].topic, None);
    }

    async fn every_enabled_device_is_woken_on_schedule(db: TestDb) {
        let phone = Phone::enrolled(&db, "UDID-1").await;
        let gone = Phone::enrolled(&db, "UDID-2").await;
        for p in [&phone, &gone] {
            request(&db, p, db.now()).await;
        }
        for wake in lease(&db, &db.store, 10).await {
            finish(&db, &wake, &ACCEPTED).await;
        }
        let mut tx = db.write().await;
        tx.close_enrollment(gone.id, "disabled", db.now()).await.unwrap();
        let interval = i64::try_from((3 * HOUR).as_micros()).unwrap();
        assert_eq!(tx.schedule_syncs(db.now(), interval, 10).await.unwrap(), 0, "not yet");
        tx.commit().await.unwrap();

        db.clock.advance(3 * HOUR);
        let mut tx = db.write().await;
        assert_eq!(tx.schedule_syncs(db.now(), interval, 10).await.unwrap(), 1);
        assert_eq!(tx.schedule_syncs(db.now(), interval, 10).await.unwrap(), 0, "planned for the next time");
        tx.commit().await.unwrap();
        assert_eq!(row(&db, &phone).await.sync_at, Some(db.now().plus(3 * HOUR)));
        assert_eq!(row(&db, &gone).await.sync_at, None, "not planned, and so not passed over each time");
        let due: Vec<_> = lease(&db, &db.store, 10).await.iter().map(|w| w.enrollment_id).collect();
        assert_eq!(due, [phone.id]);
    }

    async fn after_a_long_silence_a_fleet_is_still_spread(db: TestDb) {
        let start = db.now();
        let mut phones = Vec::new();
        for n in 0..3 {
            let phone = Phone::enrolled(&db, &format!("UDID-{n}")).await;
            request(&db, &phone, db.now()).await;
            phones.push(phone);
            db.clock.advance(20 * MINUTE);
        }
        // Nothing was scheduled for a day and more.
        db.clock.advance(25 * HOUR);
        let interval = i64::try_from((3 * HOUR).as_micros()).unwrap();
        let mut tx = db.write().await;
        assert_eq!(tx.schedule_syncs(db.now(), interval, 10).await.unwrap(), 3);
        tx.commit().await.unwrap();
        for (n, phone) in (0..).zip(&phones) {
            let next = row(&db, phone).await.sync_at.unwrap();
            assert_eq!(next, start.plus(27 * HOUR + n * 20 * MINUTE), "each at its own time");
            assert!(next > db.now() && next <= db.now().plus(3 * HOUR));
        }
    }

    /// A command for several devices asks for their wake-ups in the order of their ids; what leases goes by the times.
    async fn who_leases_waits_for_nobody(db: TestDb) {
        let (first, second) = (Phone::enrolled(&db, "UDID-1").await, Phone::enrolled(&db, "UDID-2").await);
        for phone in [&second, &first] {
            request(&db, phone, db.now()).await;
            db.clock.advance(MINUTE);
        }
        db.clock.advance(3 * HOUR);
        let mut command = db.write().await;
        command.request_wake(first.id, db.now(), db.now().plus(3 * HOUR)).await.unwrap();
        let another = db.clone();
        let worker = tokio::spawn(async move {
            let mut tx = another.write().await;
            let interval = i64::try_from(HOUR.as_micros()).unwrap();
            let scheduled = tx.schedule_syncs(another.now(), interval, 10).await.unwrap();
            let leased = tx.lease_wakes(&another.lease(MINUTE), 10).await.unwrap();
            tx.commit().await.unwrap();
            (scheduled, leased.len())
        });
        // As far as it gets.
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        command.request_wake(second.id, db.now(), db.now().plus(3 * HOUR)).await.unwrap();
        command.commit().await.unwrap();
        let expected = if db.store.kind() == "sqlite" { (2, 2) } else { (1, 1) };
        assert_eq!(worker.await.unwrap(), expected, "what is held is left for the next time");
    }

    async fn scheduled_wake_ups_go_in_batches_and_keep_an_earlier_due_time(db: TestDb) {
        let mut phones = Vec::new();
        for n in 0..3 {
            let phone = Phone::enrolled(&db, &format!("UDID-{n}")).await;
            request(&db, &phone, db.now().plus(4 * HOUR)).await;
            phones.push(phone);
            db.clock.advance(MINUTE);
        }
        let waiting = db.now();
        request(&db, &phones[0], waiting).await;
        db.clock.advance(3 * HOUR);
        let mut tx = db.write().await;
        assert_eq!(tx.schedule_syncs(db.now(), 1, 2).await.unwrap(), 2);
        tx.commit().await.unwrap();
        assert_eq!(row(&db, &phones[0]).await.due_at, Some(waiting));
        assert_eq!(row(&db, &phones[1]).await.due_at, Some(db.now()));
        assert!(row(&db, &phones[2]).await.due_at > Some(db.now()), "the next batch");
    }

    async fn a_token_that_apns_refused_is_forgotten_unless_a_newer_one_came(db: TestDb) {
        let phone = Phone::enrolled(&db, "UDID-1").await;
        let mut tx = db.write().await;
        assert!(!tx.invalidate_push_token(phone.id, db.now()).await.unwrap(), "the token came at that moment");
        assert!(!tx.invalidate_push_token(phone.id, db.now().minus(HOUR)).await.unwrap());
        assert!(tx.invalidate_push_token(phone.id, db.now().plus(MINUTE)).await.unwrap());
        assert!(!tx.invalidate_push_token(phone.id, db.now().plus(MINUTE)).await.unwrap(), "forgotten already");
        assert!(!tx.invalidate_push_token(db.id(EnrollmentId::new), db.now()).await.unwrap());
        tx.commit().await.unwrap();
        let row = phone.row(&db).await;
        assert!(row.push_token.is_none() && row.is_enabled(), "it may still poll by itself");
    }
}
