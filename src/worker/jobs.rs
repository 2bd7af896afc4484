//! Jobs: work that was written down in the transaction that made it necessary.

use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::model::{CommandId, EnrollmentId};
use crate::service::{App, Error, commands, held, push_certificates};
use crate::store::{JobRow, Lease};

/// How long one batch of a job may take before another process may take it over: with each the lease begins anew.
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
    /// The last device that the job has come to; none at its beginning.
    #[serde(default)]
    after: Option<EnrollmentId>,
}

/// Runs what is due. Returns how many jobs were run.
///
/// # Errors
/// [`Error::Unavailable`] when the jobs themselves cannot be read or written.
pub async fn run_due_jobs(app: &App) -> Result<usize, Error> {
    for done in 0..ROUND {
        let now = app.clock.now();
        let mut tx = app.store.begin_write().await?;
        let job = tx.lease_job(&Lease { holder: app.process, now, until: now.plus(LEASE) }).await?;
        tx.commit().await?;
        let Some(mut job) = job else { return Ok(done) };
        match run(app, &mut job).await {
            Ok(Ended::Lost) => tracing::warn!(job = %job.id, kind = job.kind, "another process took a job over"),
            Ok(Ended::Done) => settle(app, &job, Ok(())).await?,
            Err(error) => settle(app, &job, Err(error)).await?,
        }
    }
    Ok(ROUND)
}

/// How the work on a job ended.
enum Ended {
    /// All of it is done.
    Done,
    /// The lease ran out, and another goes on with it.
    Lost,
}

async fn run(app: &App, job: &mut JobRow) -> Result<Ended, Error> {
    let nobody = EnrollmentId(uuid::Uuid::nil());
    match job.kind.as_str() {
        "materialize" => {
            let mut task: Materialize = payload(job)?;
            while let Some(last) =
                commands::materialize_batch(app, task.command, task.after.unwrap_or(nobody), task.push).await?
            {
                task.after = Some(last);
                // Whoever takes it over may come to a device again: the cursor of each says what it was given.
                if !go_on(app, job, &task).await? {
                    return Ok(Ended::Lost);
                }
            }
            Ok(Ended::Done)
        }
        push_certificates::WAKE_TOPIC => {
            let mut task: push_certificates::WakeTopic = payload(job)?;
            while let Some(last) = push_certificates::wake_batch(app, &task.topic, task.after.unwrap_or(nobody)).await?
            {
                task.after = Some(last);
                if !go_on(app, job, &task).await? {
                    return Ok(Ended::Lost);
                }
            }
            Ok(Ended::Done)
        }
        held::WAKE_RELEASED => {
            let mut task: held::WakeReleased = payload(job)?;
            while let Some(last) = held::wake_batch(app, task.command, task.after.unwrap_or(nobody)).await? {
                task.after = Some(last);
                if !go_on(app, job, &task).await? {
                    return Ok(Ended::Lost);
                }
            }
            Ok(Ended::Done)
        }
        other => Err(Error::Internal(format!("there is no job {other:?} in this version"))),
    }
}

fn payload<T: DeserializeOwned>(job: &JobRow) -> Result<T, Error> {
    serde_json::from_str(&job.payload).map_err(|e| Error::Internal(format!("the payload of job {}: {e}", job.id)))
}

/// Between two batches of a job: keeps how far it is, and the lease. False: another has the job by now.
async fn go_on(app: &App, job: &mut JobRow, task: &impl Serialize) -> Result<bool, Error> {
    let payload =
        serde_json::to_string(task).map_err(|e| Error::Internal(format!("the payload of job {}: {e}", job.id)))?;
    let until = app.clock.now().plus(LEASE);
    let mut tx = app.store.begin_write().await?;
    let is_held = tx.extend_job(job, &payload, until).await?;
    tx.commit().await?;
    Ok(is_held)
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
