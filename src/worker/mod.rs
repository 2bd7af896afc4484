//! The server's own work: jobs, pushes, and what has to be done from time to time. Each loop looks by itself and is
//! woken after a commit that made work, so that nothing depends on the waking. Several processes may run them on one
//! database: whoever leases a row has it.

mod jobs;
mod schedule;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::service::{App, Error, wakes};

pub use jobs::run_due_jobs;
pub use schedule::run_schedule_once;

/// How often a loop looks for work when nobody wakes it.
const LOOK: Duration = Duration::from_secs(1);
/// The pause after an error, so that a database which is away is not hammered.
const PAUSE: Duration = Duration::from_secs(2);

/// Told how each push ended (`accepted`, `refused`, …), for the metrics.
pub type PushObserver = Arc<dyn Fn(&'static str) + Send + Sync>;

/// Runs all loops until `stop`; returns when each has finished what it was doing.
pub async fn run(app: App, stop: CancellationToken, pushed: PushObserver) {
    let tracker = TaskTracker::new();
    let pushes = app.clone();
    tracker.spawn(repeat("push", stop.clone(), app.clone(), Signal::Push, move || {
        let (app, pushed) = (pushes.clone(), Arc::clone(&pushed));
        async move { send_pushes(&app, &pushed).await }
    }));
    let jobs = app.clone();
    tracker.spawn(repeat("jobs", stop.clone(), app.clone(), Signal::Jobs, move || {
        let app = jobs.clone();
        async move { run_due_jobs(&app).await.map(|done| done > 0) }
    }));
    tracker.spawn(schedule::run(app.clone(), stop));
    tracker.close();
    tracker.wait().await;
    if let Err(error) = app.flush_seen().await {
        tracing::warn!(%error, "the last times that devices were seen at could not be written");
    }
}

/// Which signal wakes a loop.
#[derive(Clone, Copy)]
enum Signal {
    Push,
    Jobs,
}

/// Repeats `work` until `stop`: at once while there is more to do, else when woken or after a while.
async fn repeat<F, W>(name: &'static str, stop: CancellationToken, app: App, signal: Signal, work: F)
where
    F: Fn() -> W,
    W: Future<Output = Result<bool, Error>>,
{
    while !stop.is_cancelled() {
        let pause = match work().await {
            Ok(true) => continue,
            Ok(false) => LOOK,
            Err(error) => {
                tracing::warn!(worker = name, %error, "work is put off");
                PAUSE
            }
        };
        let signal = match signal {
            Signal::Push => &app.signals.push,
            Signal::Jobs => &app.signals.jobs,
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = signal.notified() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// One round of wake-ups. True: there may be more.
async fn send_pushes(app: &App, pushed: &PushObserver) -> Result<bool, Error> {
    let round = wakes::send_due(app).await?;
    for result in &round.results {
        pushed(result);
    }
    Ok(!round.results.is_empty())
}
