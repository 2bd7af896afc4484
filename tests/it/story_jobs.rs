//! Jobs that take long, beside a second process.

use std::sync::Arc;
use std::time::Duration;

use muster::model::{Clock, DeviceId, EnrollmentId, JobId, ManualClock, Timestamp};
use muster::service::push_certificates::WAKE_TOPIC;
use muster::service::{App, Parts};
use muster::store::Store;
use muster::worker::run_due_jobs;
use serde_json::json;

use crate::support::app::TestApp;
use crate::support::rows::{DAY, TOPIC, device_channel, push};

/// More than two batches.
const MANY: usize = 1001;

/// Whoever looks at it is slow: each look takes 100 seconds.
struct SlowClock(Arc<ManualClock>);

impl Clock for SlowClock {
    fn now(&self) -> Timestamp {
        self.0.advance(Duration::from_secs(100));
        self.0.now()
    }
}

/// Another process on the same database.
fn process(t: &TestApp, store: Store, clock: Arc<dyn Clock>) -> App {
    App::new(Parts {
        store,
        settings: t.app.settings.clone(),
        vault: t.app.vault().clone(),
        clock,
        random: t.db.random.clone(),
        pusher: t.pusher.clone(),
    })
}

both_databases! {
    async fn a_job_that_outlasts_its_lease_is_done_once(t: TestApp) {
        let db = &t.db;
        let mut tx = db.write().await;
        for n in 0..MANY {
            let id = db.id(EnrollmentId::new);
            let channel = device_channel(&format!("UDID-{n}"));
            tx.insert_enrollment(id, db.id(DeviceId::new), None, &channel, db.now()).await.unwrap();
            tx.set_push(id, &push(TOPIC), db.now()).await.unwrap();
            tx.request_wake(id, db.now().plus(DAY), db.now().plus(2 * DAY)).await.unwrap();
        }
        let task = json!({ "topic": TOPIC }).to_string();
        tx.add_job(db.id(JobId::new), WAKE_TOPIC, &task, None, db.now(), db.now()).await.unwrap();
        tx.commit().await.unwrap();

        let begin = db.now();
        let slow = process(&t, db.store.clone(), Arc::new(SlowClock(db.clock.clone())));
        let beside = db.second_process().await;
        let other = process(&t, beside.clone(), db.clock.clone());
        let mut taken = 0;
        let look_for_work = async {
            // The slow one has it first.
            while db.texts("SELECT kind FROM jobs WHERE leased_until IS NOT NULL").await.is_empty() {
                tokio::task::yield_now().await;
            }
            loop {
                taken += run_due_jobs(&other).await.unwrap();
            }
        };
        tokio::select! {
            done = run_due_jobs(&slow) => assert_eq!(done.unwrap(), 1),
            () = look_for_work => {}
        }
        assert!(db.now().since(begin) > Duration::from_secs(600), "longer than the lease of 300 seconds");
        taken += run_due_jobs(&other).await.unwrap();
        beside.close().await;
        assert_eq!(taken, 0, "one process did all of it");
        assert_eq!(db.read().await.count_jobs().await.unwrap(), (0, 0));
        let woken = db.texts("SELECT CAST(COUNT(*) AS TEXT) FROM wakes WHERE revision = 2").await;
        assert_eq!(woken, [MANY.to_string()], "each was woken, and once");
    }
}
