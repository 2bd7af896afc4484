use sqlx::FromRow;

use super::{Lease, Read, StoreError, Write};
use crate::model::{EnrollmentId, Timestamp};

/// A wake-up that is due, leased to whoever got it.
#[derive(Clone, Debug, FromRow)]
#[expect(missing_docs, reason = "the columns are described in the migration")]
pub struct DueWake {
    pub enrollment_id: EnrollmentId,
    pub revision: i64,
    pub leased_until: Timestamp,
    pub attempts: i64,
    pub topic: Option<String>,
    pub push_token: Option<Vec<u8>>,
    pub push_magic: Option<String>,
    pub token_at: Option<Timestamp>,
}

/// The wake-up row of an enrollment, for showing.
#[derive(Clone, Debug, FromRow)]
#[expect(missing_docs, reason = "the columns are described in the migration")]
pub struct WakeRow {
    pub due_at: Option<Timestamp>,
    pub attempts: i64,
    pub sync_at: Option<Timestamp>,
    pub last_at: Option<Timestamp>,
    pub last_result: Option<String>,
    pub last_reason: Option<String>,
    pub last_apns_id: Option<String>,
    pub revision: i64,
    pub leased_until: Option<Timestamp>,
    pub not_before: Option<Timestamp>,
    pub last_revision: Option<i64>,
}

/// How a push ended.
#[derive(Clone, Debug)]
pub struct PushResult<'a> {
    /// `accepted`, `refused`, `later`, `unreachable`, `token_invalid`, `no_certificate`, …
    pub result: &'static str,
    /// APNs' reason, or what went wrong.
    pub reason: Option<&'a str>,
    /// The id that APNs gave the push.
    pub apns_id: Option<&'a str>,
    /// When to try again; none when this wake-up is over.
    pub retry_at: Option<Timestamp>,
}

impl Read {
    /// The wake-up row of an enrollment.
    pub async fn wake(&mut self, id: EnrollmentId) -> Result<Option<WakeRow>, StoreError> {
        on!(self, fetch_optional, query_as("SELECT * FROM wakes WHERE enrollment_id = $1", id))
    }

    /// How many wake-ups are due.
    pub async fn count_due_wakes(&mut self, now: Timestamp) -> Result<i64, StoreError> {
        on!(self, fetch_one, query_scalar("SELECT COUNT(*) FROM wakes WHERE due_at <= $1", now))
    }

    /// When the next wake-up is due, leased ones included.
    pub async fn next_wake_at(&mut self) -> Result<Option<Timestamp>, StoreError> {
        on!(self, fetch_one, query_scalar("SELECT MIN(due_at) FROM wakes WHERE due_at IS NOT NULL"))
    }
}

/// The text that leases. Whoever leases never waits for a row that another holds, and nobody for whoever leases.
macro_rules! lease {
    ($lock:literal) => {
        concat!(
            "WITH due AS MATERIALIZED
                  (SELECT w.enrollment_id FROM wakes w
                    WHERE w.due_at <= $1
                      AND (w.leased_until IS NULL OR w.leased_until < $1
                           OR EXISTS (SELECT 1 FROM processes p
                                       WHERE p.id = w.leased_by AND p.id <> $4 AND p.seen_at < $5))
                    ORDER BY w.due_at LIMIT $3",
            $lock,
            ")
             UPDATE wakes SET leased_until = $2, leased_by = $4, attempts = attempts + 1
              WHERE enrollment_id IN (SELECT due.enrollment_id FROM due)
          RETURNING enrollment_id, revision, leased_until, attempts,
                    (SELECT e.topic FROM enrollments e
                      WHERE e.id = wakes.enrollment_id AND e.state = 'enabled') AS topic,
                    (SELECT e.push_token FROM enrollments e WHERE e.id = wakes.enrollment_id) AS push_token,
                    (SELECT e.push_magic FROM enrollments e WHERE e.id = wakes.enrollment_id) AS push_magic,
                    (SELECT e.token_at FROM enrollments e WHERE e.id = wakes.enrollment_id) AS token_at"
        )
    };
}

/// The text that schedules. The next time is a whole number of intervals after the last, so that devices which were
/// spread stay so, however long nothing was scheduled.
macro_rules! schedule {
    ($lock:literal) => {
        concat!(
            "WITH due AS MATERIALIZED
                  (SELECT w.enrollment_id FROM wakes w JOIN enrollments e ON e.id = w.enrollment_id
                    WHERE w.sync_at <= $1 AND e.state = 'enabled' ORDER BY w.sync_at LIMIT $3",
            $lock,
            ")
             UPDATE wakes
                SET sync_at = sync_at + (($1 - sync_at) / $2 + 1) * $2, revision = revision + 1,
                    due_at = CASE WHEN due_at <= $1 THEN due_at
                                  WHEN not_before > $1 THEN not_before
                                  ELSE $1 END
              WHERE enrollment_id IN (SELECT due.enrollment_id FROM due)"
        )
    };
}

impl Write {
    /// Asks for a wake-up at `due_at`, or earlier if one is due earlier: at most one is due for each enrollment, which must
    /// be enabled. It is not due before the pause is over that the last push ended with. The first by schedule comes at
    /// `sync_at`, unless one is planned already.
    pub async fn request_wake(
        &mut self,
        id: EnrollmentId,
        due_at: Timestamp,
        sync_at: Timestamp,
    ) -> Result<(), StoreError> {
        hot!(
            self,
            change,
            "INSERT INTO wakes (enrollment_id, due_at, revision, attempts, sync_at) VALUES ($1, $2, 1, 0, $3)
             ON CONFLICT (enrollment_id) DO UPDATE
                SET due_at = CASE WHEN wakes.due_at <= excluded.due_at THEN wakes.due_at
                                  WHEN wakes.not_before > excluded.due_at THEN wakes.not_before
                                  ELSE excluded.due_at END,
                    revision = wakes.revision + 1, sync_at = COALESCE(wakes.sync_at, excluded.sync_at)",
            id,
            due_at,
            sync_at
        )
        .map(drop)
    }

    /// Puts off the wake-up of an enrollment that has just come by itself, or takes it away. The caller holds the
    /// enrollment's row, so that no command slips in between.
    pub async fn put_off_wake(&mut self, id: EnrollmentId, due_at: Option<Timestamp>) -> Result<(), StoreError> {
        hot!(
            self,
            change,
            "UPDATE wakes
                SET due_at = CASE WHEN not_before > $2 THEN not_before ELSE $2 END, attempts = 0,
                    revision = revision + 1
              WHERE enrollment_id = $1",
            id,
            due_at
        )
        .map(drop)
    }

    /// Ends the pause that the last push ended with: what it came from (the token, the certificate) is another by now.
    pub async fn end_wake_pause(&mut self, id: EnrollmentId) -> Result<(), StoreError> {
        hot!(
            self,
            change,
            "UPDATE wakes SET not_before = NULL, attempts = 0 WHERE enrollment_id = $1 AND not_before IS NOT NULL",
            id
        )
        .map(drop)
    }

    /// Ends the wake-ups of an enrollment that is no longer enabled, those by schedule too.
    pub(super) async fn stop_wakes(&mut self, id: EnrollmentId) -> Result<(), StoreError> {
        run!(
            self,
            "UPDATE wakes SET due_at = NULL, not_before = NULL, sync_at = NULL, attempts = 0, revision = revision + 1
              WHERE enrollment_id = $1",
            id
        )
        .map(drop)
    }

    /// Leases the next wake-ups that are due. A lease that ran out counts as free: the process that held it is gone.
    ///
    /// On PostgreSQL rows that another transaction holds are passed over, and are found the next time: transactions that
    /// request several wake-ups lock them in the order of enrollments, these in that of the times.
    pub async fn lease_wakes(&mut self, lease: &Lease, limit: i64) -> Result<Vec<DueWake>, StoreError> {
        let sql = self.choose(lease!(""), lease!(" FOR UPDATE OF w SKIP LOCKED"));
        on!(self, fetch_all, query_as(sql, lease.now, lease.until, limit, lease.holder, lease.gone_before()))
    }

    /// Ends a leased wake-up: it is over, or comes again at `retry_at`. One that was asked for since (another
    /// revision) stays due, but not before `retry_at`, and neither does any that is asked for later; one that was put off
    /// since stays put off. False: the lease ran out and another has it by now; nothing was changed.
    pub async fn finish_wake(
        &mut self,
        wake: &DueWake,
        done: &PushResult<'_>,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        if self.must_not_wait() {
            // Messages of devices hold wake-ups, several of them, in whatever order.
            let free: Option<EnrollmentId> = hot!(
                self,
                first,
                "SELECT enrollment_id FROM wakes WHERE enrollment_id = $1 FOR UPDATE SKIP LOCKED",
                wake.enrollment_id
            )?;
            if free.is_none() {
                return Err(self.held_by_another());
            }
        }
        let changed = hot!(
            self,
            change,
            "UPDATE wakes
                SET leased_until = NULL, leased_by = NULL, last_at = $3, last_result = $4, last_reason = $5, last_apns_id = $6,
                    last_revision = $2,
                    attempts = CASE WHEN CAST($7 AS BIGINT) IS NULL THEN 0 ELSE attempts END,
                    due_at = CASE WHEN revision = $2 THEN $7
                                  WHEN $7 IS NULL OR due_at IS NULL OR due_at > $7 THEN due_at
                                  ELSE $7 END,
                    not_before = $7
              WHERE enrollment_id = $1 AND leased_until = $8",
            wake.enrollment_id,
            wake.revision,
            now,
            done.result,
            done.reason,
            done.apns_id,
            done.retry_at,
            wake.leased_until
        )?;
        Ok(changed == 1)
    }

    /// Takes the next enrollments whose periodic wake-up has come, makes them due and plans the next time, a whole number
    /// of intervals later. Returns how many.
    pub async fn schedule_syncs(
        &mut self,
        now: Timestamp,
        interval_micros: i64,
        limit: i64,
    ) -> Result<u64, StoreError> {
        let sql = self.choose(schedule!(""), schedule!(" FOR UPDATE OF w SKIP LOCKED"));
        run!(self, sql, now, interval_micros, limit)
    }

    /// APNs said at `at` that this token is no longer valid. Counts only if the token was stored before that.
    pub async fn invalidate_push_token(&mut self, id: EnrollmentId, at: Timestamp) -> Result<bool, StoreError> {
        Ok(run!(
            self,
            "UPDATE enrollments SET push_token = NULL WHERE id = $1 AND push_token IS NOT NULL AND token_at < $2",
            id,
            at
        )? == 1)
    }
}
