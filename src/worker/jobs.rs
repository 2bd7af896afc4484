//! Jobs: work that was written down in the transaction that made it necessary.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::{CommandId, EnrollmentId};
use crate::service::{App, Error, commands, push_certificates};
use crate::store::JobRow;

/// How long one step of a job may take before another process may take it over.
const LEASE: Duration = Duration::from_secs(300);
/// The first pause after a failure; doubled each time.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
/// After so many failures a job is given up, and shows in the metrics and in `/api/v1/server`.
const MAX_ATTEMPTS: i64 = 20;
/// Jobs that are taken before the loop looks whether to stop.
const ROUND: usize = 50;

#[derive(Debug, Serialize, Deserialize)]
struct Materialize {
    command: CommandId,
    push: bool,
}

/// Runs what is due. Returns how many jobs were run.
///
/// # Errors
/// [`Error::Unavailable`] when the jobs themselves cannot be read or written.
pub async fn run_due_jobs(app: &App) -> Result<usize, Error> {
    for done in 0..ROUND {
        let now = app.clock.now();
        let mut tx = app.store.begin_write().await?;
        let job = tx.lease_job(now, now.plus(LEASE)).await?;
        tx.commit().await?;
        let Some(job) = job else { return Ok(done) };
        let outcome = run(app, &job).await;
        settle(app, &job, outcome).await?;
    }
    Ok(ROUND)
}

async fn run(app: &App, job: &JobRow) -> Result<(), Error> {
    match job.kind.as_str() {
        "materialize" => {
            let task: Materialize = serde_json::from_str(&job.payload)
                .map_err(|e| Error::Internal(format!("the payload of job {}: {e}", job.id)))?;
            let mut after = EnrollmentId(uuid::Uuid::nil());
            while let Some(last) = commands::materialize_batch(app, task.command, after, task.push).await? {
                after = last;
            }
            Ok(())
        }
        push_certificates::WAKE_TOPIC => {
            let task: push_certificates::WakeTopic = serde_json::from_str(&job.payload)
                .map_err(|e| Error::Internal(format!("the payload of job {}: {e}", job.id)))?;
            let mut after = EnrollmentId(uuid::Uuid::nil());
            while let Some(last) = push_certificates::wake_batch(app, &task.topic, after).await? {
                after = last;
            }
            Ok(())
        }
        other => Err(Error::Internal(format!("there is no job {other:?} in this version"))),
    }
}

async fn settle(app: &App, job: &JobRow, outcome: Result<(), Error>) -> Result<(), Error> {
    let now = app.clock.now();
    let mut tx = app.store.begin_write().await?;
    match outcome {
        Ok(()) => tx.finish_job(job).await?,
        Err(error) => {
            let dead = job.attempts >= MAX_ATTEMPTS;
            tracing::warn!(job = %job.id, kind = job.kind, attempts = job.attempts, dead, %error, "a job failed");
            let doublings = u32::try_from(job.attempts.clamp(1, 10) - 1).unwrap_or(0);
            let again = now.plus(FIRST_PAUSE * 2_u32.pow(doublings));
            tx.retry_job(job, &error.to_string(), again, dead.then_some(now)).await?;
        }
    }
    tx.commit().await?;
    Ok(())
}
