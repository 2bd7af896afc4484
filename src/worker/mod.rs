//! The server's own work: jobs, pushes, and what has to be done from time to time. Each loop looks by itself and is
//! woken after a commit that made work, so that nothing depends on the waking. Several processes may run them on one
//! database: whoever leases a row has it.

mod jobs;
mod prune;
mod schedule;
mod webhooks;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::service::retention::Pruned;
use crate::service::wakes::Flight;
use crate::service::{App, Error};

pub use jobs::run_due_jobs;
pub use schedule::run_schedule_once;
pub use webhooks::WebhookNews;

/// How often a loop looks for work when nobody wakes it.
const LOOK: Duration = Duration::from_secs(1);
/// The pause after an error, so that a database which is away is not hammered.
const PAUSE: Duration = Duration::from_secs(2);
/// How often this process says that it is alive: three times before it would count as gone.
const BEAT: Duration = Duration::from_secs(2);

/// Told how each push ended (`accepted`, `refused`, …), for the metrics.
pub type PushObserver = Arc<dyn Fn(&'static str) + Send + Sync>;

/// Told what was taken away, for the metrics.
pub type PruneObserver = Arc<dyn Fn(&Pruned) + Send + Sync>;

/// Told what became of events for webhooks, for the metrics.
pub type WebhookObserver = Arc<dyn Fn(&WebhookNews) + Send + Sync>;

/// Whom the loops tell of what they did.
#[derive(Clone)]
pub struct Observers {
    /// Of pushes.
    pub pushed: PushObserver,
    /// Of what was taken away.
    pub pruned: PruneObserver,
    /// Of events for webhooks.
    pub webhooks: WebhookObserver,
}

impl Default for Observers {
    /// Nobody.
    fn default() -> Self {
        Self { pushed: Arc::new(|_| {}), pruned: Arc::new(|_| {}), webhooks: Arc::new(|_| {}) }
    }
}

impl fmt::Debug for Observers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Observers").finish_non_exhaustive()
    }
}

/// Runs all loops until `stop`; returns when each has finished what it was doing.
pub async fn run(app: App, stop: CancellationToken, observers: Observers) {
    // Before anything is leased: others wait for the leases of a process that they have never seen.
    if let Err(error) = beat(&app).await {
        tracing::warn!(%error, "this process could not say that it is alive");
    }
    let beating = tokio::spawn(beat_on(app.clone()));
    let tracker = TaskTracker::new();
    tracker.spawn(push(app.clone(), stop.clone(), observers.pushed));
    tracker.spawn(run_jobs(app.clone(), stop.clone()));
    tracker.spawn(prune::run(app.clone(), stop.clone(), observers.pruned));
    tracker.spawn(webhooks::run(app.clone(), stop.clone(), observers.webhooks));
    tracker.spawn(webhooks::run_idle(app.clone(), stop.clone()));
    tracker.spawn(schedule::run(app.clone(), stop));
    tracker.close();
    tracker.wait().await;
    beating.abort();
    if let Err(error) = end(&app).await {
        tracing::warn!(%error, "this process could not say that it ends");
    }
    if let Err(error) = app.flush_seen().await {
        tracing::warn!(%error, "the last times that devices were seen at could not be written");
    }
}

/// Says again and again that this process is alive, until it has ended what it was doing.
async fn beat_on(app: App) {
    loop {
        tokio::time::sleep(BEAT).await;
        if let Err(error) = beat(&app).await {
            tracing::warn!(%error, "this process could not say that it is alive");
        }
    }
}

async fn beat(app: &App) -> Result<(), Error> {
    let mut tx = app.store.begin_write().await?;
    tx.see_process(app.process, app.clock.now()).await?;
    tx.commit().await?;
    Ok(())
}

async fn end(app: &App) -> Result<(), Error> {
    let mut tx = app.store.begin_write().await?;
    tx.end_process(app.process).await?;
    tx.commit().await?;
    Ok(())
}

/// Runs jobs until `stop`: at once while there are more, else when woken or after a while.
async fn run_jobs(app: App, stop: CancellationToken) {
    while !stop.is_cancelled() {
        let pause = match run_due_jobs(&app).await {
            Ok(0) => LOOK,
            Ok(_) => continue,
            Err(error) => put_off("jobs", &error),
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = app.signals.jobs.notified() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Sends what is due until `stop`, and then waits for what is under way.
async fn push(app: App, stop: CancellationToken, pushed: PushObserver) {
    let mut flight = Flight::new(&app);
    // Whether something may be due that was not leased for want of room, or that nobody has looked for.
    let mut is_due = true;
    while !stop.is_cancelled() || !flight.is_empty() {
        let mut pause = LOOK;
        if is_due && !stop.is_cancelled() {
            match flight.begin().await {
                Ok(is_all) => is_due = !is_all,
                Err(error) => {
                    is_due = false;
                    pause = put_off("push", &error);
                }
            }
        }
        tokio::select! {
            settled = flight.next(), if !flight.is_empty() => match settled {
                Ok(round) => round.results.into_iter().for_each(|result| pushed(result)),
                Err(error) => {
                    put_off("push", &error);
                }
            },
            () = stop.cancelled(), if !stop.is_cancelled() => {}
            () = app.signals.push.notified() => is_due = true,
            () = tokio::time::sleep(pause) => is_due = true,
        }
    }
}

/// Tells of an error; returns the pause after it.
fn put_off(worker: &'static str, error: &Error) -> Duration {
    tracing::warn!(worker, %error, "work is put off");
    PAUSE
}
