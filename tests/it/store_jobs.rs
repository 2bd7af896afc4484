//! Jobs: leased, retried, given up; one for each thing.

use futures_util::future::join_all;
use muster::model::{JobId, Timestamp};
use muster::store::{JobRow, Store};

use crate::support::db::TestDb;
use crate::support::rows::{HOUR, MINUTE};

async fn add(db: &TestDb, kind: &str, dedupe: Option<&str>, run_at: Timestamp) -> JobId {
    let id = db.id(JobId::new);
    let mut tx = db.write().await;
    tx.add_job(id, kind, "{}", dedupe, run_at, db.now()).await.unwrap();
    tx.commit().await.unwrap();
    id
}

async fn lease(db: &TestDb, store: &Store) -> Option<JobRow> {
    let mut tx = store.begin_write().await.unwrap();
    let job = tx.lease_job(&db.lease(MINUTE)).await.unwrap();
    tx.commit().await.unwrap();
    job
}

async fn finish(db: &TestDb, job: &JobRow) {
    let mut tx = db.write().await;
    tx.finish_job(job).await.unwrap();
    tx.commit().await.unwrap();
}

async fn fail(db: &TestDb, job: &JobRow, run_at: Timestamp, dead_at: Option<Timestamp>) {
    let mut tx = db.write().await;
    tx.retry_job(job, "out of paper", run_at, dead_at).await.unwrap();
    tx.commit().await.unwrap();
}

both_databases! {
    async fn a_job_goes_in_with_its_change_or_not_at_all(db: TestDb) {
        let mut tx = db.write().await;
        tx.add_job(db.id(JobId::new), "sweep", "{}", None, db.now(), db.now()).await.unwrap();
        drop(tx);
        assert_eq!(db.read().await.count_jobs().await.unwrap(), (0, 0));
    }

    async fn jobs_run_when_they_are_due_oldest_first(db: TestDb) {
        let second = add(&db, "second", None, db.now().plus(MINUTE)).await;
        let first = add(&db, "first", None, db.now()).await;
        assert_eq!(lease(&db, &db.store).await.unwrap().id, first);
        assert!(lease(&db, &db.store).await.is_none());
        db.clock.advance(MINUTE);
        let job = lease(&db, &db.store).await.unwrap();
        assert_eq!((job.id, job.kind.as_str(), job.payload.as_str(), job.attempts), (second, "second", "{}", 1));
        assert_eq!((job.leased_until, job.last_error, job.dead_at), (Some(db.now().plus(MINUTE)), None, None));
        assert_eq!(db.read().await.count_jobs().await.unwrap(), (2, 0));
    }

    async fn a_job_that_is_done_is_gone(db: TestDb) {
        add(&db, "sweep", Some("sweep"), db.now()).await;
        finish(&db, &lease(&db, &db.store).await.unwrap()).await;
        assert_eq!(db.read().await.count_jobs().await.unwrap(), (0, 0));
        add(&db, "sweep", Some("sweep"), db.now()).await;
        assert!(lease(&db, &db.store).await.is_some(), "the next of its kind may come");
    }

    async fn a_job_of_a_process_that_died_is_taken_over(db: TestDb) {
        let id = add(&db, "sweep", None, db.now()).await;
        lease(&db, &db.store).await.unwrap();
        db.clock.advance(MINUTE);
        assert!(lease(&db, &db.store).await.is_none(), "the lease holds through its last moment");
        db.clock.advance(MINUTE);
        let job = lease(&db, &db.store).await.unwrap();
        assert_eq!((job.id, job.attempts), (id, 2));
    }

    async fn a_job_that_failed_runs_again_later(db: TestDb) {
        add(&db, "sweep", None, db.now()).await;
        let job = lease(&db, &db.store).await.unwrap();
        fail(&db, &job, db.now().plus(HOUR), None).await;
        assert!(lease(&db, &db.store).await.is_none());
        db.clock.advance(HOUR);
        let job = lease(&db, &db.store).await.unwrap();
        assert_eq!((job.attempts, job.last_error.as_deref()), (2, Some("out of paper")));
    }

    async fn a_job_given_up_stays_to_be_seen_and_does_not_run(db: TestDb) {
        add(&db, "sweep", None, db.now()).await;
        let job = lease(&db, &db.store).await.unwrap();
        fail(&db, &job, db.now(), Some(db.now())).await;
        db.clock.advance(HOUR);
        assert!(lease(&db, &db.store).await.is_none());
        assert_eq!(db.read().await.count_jobs().await.unwrap(), (0, 1));
    }

    async fn there_is_one_job_for_one_thing(db: TestDb) {
        let first = add(&db, "inventory", Some("inventory:1"), db.now()).await;
        add(&db, "inventory", Some("inventory:1"), db.now().plus(HOUR)).await;
        add(&db, "inventory", Some("inventory:2"), db.now()).await;
        add(&db, "sweep", None, db.now()).await;
        add(&db, "sweep", None, db.now()).await;
        assert_eq!(db.read().await.count_jobs().await.unwrap(), (4, 0));
        let mut ids = Vec::new();
        while let Some(job) = lease(&db, &db.store).await {
            ids.push(job.id);
        }
        assert!(ids.len() == 4 && ids.contains(&first));
    }

    async fn asking_again_for_a_job_that_was_given_up_revives_it(db: TestDb) {
        add(&db, "inventory", Some("inventory:1"), db.now()).await;
        let job = lease(&db, &db.store).await.unwrap();
        fail(&db, &job, db.now(), Some(db.now())).await;
        add(&db, "inventory", Some("inventory:1"), db.now()).await;
        assert_eq!(db.read().await.count_jobs().await.unwrap(), (1, 0));
        let job = lease(&db, &db.store).await.unwrap();
        assert_eq!((job.attempts, job.dead_at), (1, None));
    }

    async fn work_that_arrives_while_the_job_runs_is_not_lost(db: TestDb) {
        add(&db, "inventory", Some("inventory:1"), db.now()).await;
        let running = lease(&db, &db.store).await.unwrap();
        let mut tx = db.write().await;
        let newer = r#"{"newer":true}"#;
        tx.add_job(db.id(JobId::new), "inventory", newer, Some("inventory:1"), db.now(), db.now()).await.unwrap();
        tx.commit().await.unwrap();
        assert!(lease(&db, &db.store).await.is_none(), "one at a time");
        finish(&db, &running).await;
        let again = lease(&db, &db.store).await.unwrap();
        assert_eq!((again.id, again.payload.as_str(), again.attempts), (running.id, newer, 1));

        // The same when the one that runs fails, for good even.
        add(&db, "inventory", Some("inventory:1"), db.now()).await;
        fail(&db, &again, db.now().plus(HOUR), Some(db.now())).await;
        let again = lease(&db, &db.store).await.unwrap();
        assert_eq!((again.attempts, again.dead_at), (1, None));
        finish(&db, &again).await;
        assert_eq!(db.read().await.count_jobs().await.unwrap(), (0, 0));
    }

    async fn a_job_that_waits_comes_at_the_earlier_time(db: TestDb) {
        for at in [HOUR, MINUTE, 2 * HOUR] {
            add(&db, "inventory", Some("inventory:1"), db.now().plus(at)).await;
        }
        db.clock.advance(MINUTE);
        assert!(lease(&db, &db.store).await.is_some());
    }

    async fn who_lost_the_lease_changes_nothing(db: TestDb) {
        add(&db, "sweep", None, db.now()).await;
        let slow = lease(&db, &db.store).await.unwrap();
        db.clock.advance(2 * MINUTE);
        let other = lease(&db, &db.store).await.unwrap();
        fail(&db, &slow, db.now(), Some(db.now())).await;
        finish(&db, &slow).await;
        assert!(lease(&db, &db.store).await.is_none(), "the other has it still");
        assert_eq!(db.read().await.count_jobs().await.unwrap(), (1, 0));
        finish(&db, &other).await;
        assert_eq!(db.read().await.count_jobs().await.unwrap(), (0, 0));
    }

    async fn a_job_that_goes_on_keeps_its_lease_and_how_far_it_is(db: TestDb) {
        add(&db, "sweep", Some("sweep"), db.now()).await;
        let extend = async |job: &mut JobRow, payload: &str| {
            let mut tx = db.write().await;
            let is_held = tx.extend_job(job, payload, db.now().plus(MINUTE)).await.unwrap();
            tx.commit().await.unwrap();
            is_held
        };
        let mut slow = lease(&db, &db.store).await.unwrap();
        for _ in 0..3 {
            db.clock.advance(MINUTE);
            assert!(extend(&mut slow, "half").await);
            assert!(lease(&db, &db.store).await.is_none());
        }
        db.clock.advance(2 * MINUTE);
        let mut other = lease(&db, &db.store).await.unwrap();
        assert_eq!(other.payload, "half");
        assert!(!extend(&mut slow, "more").await, "the other has it");
        assert!(extend(&mut other, "almost").await);

        // Asked for again, it begins again.
        add(&db, "sweep", Some("sweep"), db.now()).await;
        assert!(extend(&mut other, "all").await);
        finish(&db, &other).await;
        assert_eq!(lease(&db, &db.store).await.unwrap().payload, "{}");
    }

    async fn workers_that_lease_at_once_never_share_a_job(db: TestDb) {
        for _ in 0..20 {
            add(&db, "sweep", None, db.now()).await;
        }
        let other = db.second_process().await;
        let worker = async |store: &Store| {
            let mut mine = Vec::new();
            while let Some(job) = lease(&db, store).await {
                mine.push(job.id);
            }
            mine
        };
        let mut leased = join_all([&db.store, &other, &db.store, &other].map(worker)).await.concat();
        other.close().await;
        assert_eq!(leased.len(), 20);
        leased.sort();
        leased.dedup();
        assert_eq!(leased.len(), 20, "leased twice");
    }
}
