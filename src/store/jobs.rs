use sqlx::FromRow;

use super::{Lease, Read, StoreError, Write};
use crate::model::{JobId, Timestamp};

/// Work of the server itself.
#[derive(Clone, Debug, FromRow)]
#[expect(missing_docs, reason = "the columns are described in the migration")]
pub struct JobRow {
    pub id: JobId,
    pub kind: String,
    pub payload: String,
    pub revision: i64,
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
    /// Adds a job; one with the same `dedupe` that is still there stands for it: one that waits takes the newer payload
    /// and the earlier time, one that runs just now runs again afterwards, and one that was given up is revived.
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
            "INSERT INTO jobs (id, kind, payload, dedupe, revision, run_at, attempts, created_at)
             VALUES ($1, $2, $3, $4, 1, $5, 0, $6)
             ON CONFLICT (dedupe) DO UPDATE
                SET payload = excluded.payload, revision = jobs.revision + 1,
                    run_at = CASE WHEN jobs.dead_at IS NULL AND jobs.run_at < excluded.run_at
                                       AND (jobs.leased_until IS NULL OR jobs.leased_until < excluded.created_at)
                                  THEN jobs.run_at ELSE excluded.run_at END,
                    attempts = CASE WHEN jobs.dead_at IS NULL THEN jobs.attempts ELSE 0 END,
                    dead_at = NULL",
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
    pub async fn lease_job(&mut self, lease: &Lease) -> Result<Option<JobRow>, StoreError> {
        let due: Option<JobRow> = on!(
            self,
            fetch_optional,
            query_as(
                "SELECT * FROM jobs
                  WHERE dead_at IS NULL AND run_at <= $1
                    AND (leased_until IS NULL OR leased_until < $1
                         OR EXISTS (SELECT 1 FROM processes p
                                     WHERE p.id = leased_by AND p.id <> $2 AND p.seen_at < $3))
                  ORDER BY run_at LIMIT 1 FOR UPDATE",
                lease.now,
                lease.holder,
                lease.gone_before()
            )
        )?;
        let Some(job) = due else { return Ok(None) };
        run!(
            self,
            "UPDATE jobs SET leased_until = $2, leased_by = $3, attempts = attempts + 1 WHERE id = $1",
            job.id,
            lease.until,
            lease.holder
        )?;
        Ok(Some(JobRow { attempts: job.attempts + 1, leased_until: Some(lease.until), ..job }))
    }

    /// Goes on with a job: the lease now ends at `until`, and `payload` says from where the next to lease it would go on.
    /// Where it was asked for again while it ran, the payload stays that of the asking. False: the lease ran out and
    /// another has the job by now; nothing was changed.
    pub async fn extend_job(&mut self, job: &mut JobRow, payload: &str, until: Timestamp) -> Result<bool, StoreError> {
        let changed = run!(
            self,
            "UPDATE jobs SET leased_until = $4, payload = CASE WHEN revision = $2 THEN $5 ELSE payload END
              WHERE id = $1 AND leased_until = $3",
            job.id,
            job.revision,
            job.leased_until,
            until,
            payload
        )?;
        if changed == 1 {
            job.leased_until = Some(until);
        }
        Ok(changed == 1)
    }

    /// The job is done, and gone, unless it was asked for again while it ran: then it runs again. Nothing is changed where
    /// the lease ran out and another has the job by now.
    pub async fn finish_job(&mut self, job: &JobRow) -> Result<(), StoreError> {
        let (id, revision, leased_until) = (job.id, job.revision, job.leased_until);
        let sql = "DELETE FROM jobs WHERE id = $1 AND revision = $2 AND leased_until = $3";
        if run!(self, sql, id, revision, leased_until)? == 1 {
            return Ok(());
        }
        run!(
            self,
            "UPDATE jobs SET leased_until = NULL, attempts = 0, last_error = NULL WHERE id = $1 AND leased_until = $2",
            id,
            leased_until
        )
        .map(drop)
    }

    /// The job did not succeed: it runs again at `run_at`, or is given up; if it was asked for again while it ran, it
    /// begins anew. Nothing is changed where the lease ran out and another has the job by now.
    pub async fn retry_job(
        &mut self,
        job: &JobRow,
        error: &str,
        run_at: Timestamp,
        dead_at: Option<Timestamp>,
    ) -> Result<(), StoreError> {
        run!(
            self,
            "UPDATE jobs
                SET leased_until = NULL, last_error = $4,
                    attempts = CASE WHEN revision = $2 THEN attempts ELSE 0 END,
                    run_at = CASE WHEN revision = $2 THEN $5 ELSE run_at END,
                    dead_at = CASE WHEN revision = $2 THEN $6 END
              WHERE id = $1 AND leased_until = $3",
            job.id,
            job.revision,
            job.leased_until,
            error,
            run_at,
            dead_at
        )
        .map(drop)
    }
}
