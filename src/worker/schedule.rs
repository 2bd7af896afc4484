//! What has to be done from time to time.

use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::service::{App, Error, apps, authorities, commands, outlook, renewal, wakes};

/// How often times of "last seen" are written, and how much of them a crash can lose.
const SEEN: Duration = Duration::from_secs(5);
/// How soon a change of the accepted authorities by another process is seen here.
const TRUST: Duration = Duration::from_secs(10);
/// How often periodic wake-ups and expiries are looked for.
const SYNC: Duration = Duration::from_secs(15);
/// How often old rows are cleared and certificates renewed.
const HOUSEKEEPING: Duration = Duration::from_secs(60 * 60);
/// How often the log says what will fail one day if nobody acts.
const OUTLOOK: Duration = Duration::from_secs(24 * 60 * 60);
/// Answers to requests with an Idempotency-Key are kept so long.
const IDEMPOTENCY: Duration = Duration::from_secs(24 * 60 * 60);
/// Processes that are gone are kept so long: longer than any lease lasts.
const PROCESSES: Duration = Duration::from_secs(24 * 60 * 60);
/// Challenges that were never used are kept so long after their end.
const CHALLENGES: Duration = Duration::from_secs(24 * 60 * 60);

/// Runs the schedule until `stop`.
pub(super) async fn run(app: App, stop: CancellationToken) {
    let start = Instant::now();
    let mut due = [start; 5];
    let every = [SEEN, TRUST, SYNC, HOUSEKEEPING, OUTLOOK];
    loop {
        for (index, (due, every)) in due.iter_mut().zip(every).enumerate() {
            if Instant::now() < *due {
                continue;
            }
            *due = Instant::now() + every;
            let outcome = match index {
                0 => app.flush_seen().await,
                1 => app.reload_trust().await,
                2 => sync(&app).await,
                3 => housekeeping(&app).await,
                _ => outlook::log(&app).await,
            };
            if let Err(error) = outcome {
                tracing::warn!(%error, "periodic work is put off");
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
        }
    }
}

/// Does all of it once.
///
/// # Errors
/// The first that occurs.
pub async fn run_schedule_once(app: &App) -> Result<(), Error> {
    app.flush_seen().await?;
    app.reload_trust().await?;
    sync(app).await?;
    housekeeping(app).await
}

async fn sync(app: &App) -> Result<(), Error> {
    while wakes::schedule_syncs(app).await? > 0 {}
    while commands::expire_deliveries(app).await? > 0 {}
    app.signals.push.notify_one();
    Ok(())
}

async fn housekeeping(app: &App) -> Result<(), Error> {
    renewal::renew_identities(app).await?;
    authorities::renew_due(app).await?;
    let now = app.clock.now();
    let mut tx = app.store.begin_write().await?;
    tx.delete_old_idempotency(now.minus(IDEMPOTENCY)).await?;
    tx.delete_expired_challenges(now.minus(CHALLENGES)).await?;
    tx.delete_gone_processes(now.minus(PROCESSES)).await?;
    tx.commit().await?;
    apps::remove_abandoned(app).await?;
    Ok(())
}
