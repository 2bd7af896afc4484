use sqlx::FromRow;

use super::{Read, StoreError, Write};
use crate::model::{JobId, Timestamp};

/// Work of the server itself.
#[derive(Clone, Debug, FromRow)]
#[expect(missing_docs, reason = "the columns are described in the migration")]
pub struct JobRow {
    pub id: JobId,
    pub kind: String,
    pub payload: String,
    pub run_at: Timestamp,
    pub leased_until: Option<Timestamp>,
    pub attempts: i64,
    pub last_error: Option<String>,
    pub dead_at: Option<Timestamp>,
}

impl Read {
    /// How many jobs wait, and how many gave up.
    pub async fn count_jobs(&mut self) -> Result<(i64, i64), StoreError> {
        on!(self, fetch_one, query_as("SELECT COUNT(*) - COUNT(dead_at), COUNT(dead_at) FROM jobs"))
    }
}

impl Write {
    /// Adds a job; one with the same `dedupe` that is still there stands for it, and is revived if it was given up.
    pub async fn add_job(
        &mut self,
        id: JobId,
        kind: &str,
        payload: &str,
        dedupe: Option<&str>,
        run_at: Timestamp,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        run!(
            self,
            "INSERT INTO jobs (id, kind, payload, dedupe, run_at, attempts, created_at) VALUES ($1, $2, $3, $4, $5, 0, $6)
             ON CONFLICT (dedupe) DO UPDATE
                SET payload = excluded.payload, run_at = excluded.run_at, attempts = 0, dead_at = NULL
              WHERE jobs.dead_at IS NOT NULL",
            id,
            kind,
            payload,
            dedupe,
            run_at,
            now
        )
        .map(drop)
    }

    /// Takes the next due job and leases it. A lease that ran out counts as free: the process that held it is gone.
    pub async fn lease_job(&mut self, now: Timestamp, until: Timestamp) -> Result<Option<JobRow>, StoreError> {
        let due: Option<JobRow> = on!(
            self,
            fetch_optional,
            query_as(
                "SELECT * FROM jobs
                  WHERE dead_at IS NULL AND run_at <= $1 AND (leased_until IS NULL OR leased_until < $1)
                  ORDER BY run_at LIMIT 1 FOR UPDATE",
                now
            )
        )?;
        let Some(job) = due else { return Ok(None) };
        run!(self, "UPDATE jobs SET leased_until = $2, attempts = attempts + 1 WHERE id = $1", job.id, until)?;
        Ok(Some(JobRow { attempts: job.attempts + 1, leased_until: Some(until), ..job }))
    }

    /// The job is done.
    pub async fn delete_job(&mut self, id: JobId) -> Result<(), StoreError> {
        run!(self, "DELETE FROM jobs WHERE id = $1", id).map(drop)
    }

    /// The job did not succeed: it runs again at `run_at`, or is given up.
    pub async fn retry_job(
        &mut self,
        id: JobId,
        error: &str,
        run_at: Timestamp,
        dead_at: Option<Timestamp>,
    ) -> Result<(), StoreError> {
        run!(
            self,
            "UPDATE jobs SET leased_until = NULL, last_error = $2, run_at = $3, dead_at = $4 WHERE id = $1",
            id,
            error,
            run_at,
            dead_at
        )
        .map(drop)
    }
}
