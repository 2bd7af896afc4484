//! What is old: found by an index, a bounded number of rows at a time, and taken away.
//!
//! A delivery that has ended is never changed again, so nothing here waits for a device, nor a device for it. Several
//! processes may be at it: on PostgreSQL each passes over what another has locked, and the row of a command is locked
//! before its deliveries go, so that the last of them is seen to be the last.

use sqlx::FromRow;

use super::audit::least_id;
use super::{StoreError, Write};
use crate::model::{AuditId, CommandId, EnrollmentId, ReportId, Timestamp};

/// A report that is old.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromRow)]
#[expect(missing_docs, reason = "the columns are described in the migration")]
pub struct OldReport {
    pub enrollment_id: EnrollmentId,
    pub id: ReportId,
    pub command_id: Option<CommandId>,
    pub size_bytes: i64,
}

/// A command for all devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromRow)]
pub struct ForAll {
    /// Its id.
    pub id: CommandId,
    /// Its number.
    pub fleet_number: i64,
    /// Whether it is old, and nothing is left of it.
    pub is_spent: bool,
}

pub(super) const ENDED: &str = "SELECT enrollment_id, command_id FROM deliveries
      WHERE state IN ('acknowledged', 'error', 'cancelled', 'expired', 'presumed_done') AND updated_at < $1
      ORDER BY updated_at LIMIT $2";
const ENDED_UNLOCKED: &str = "SELECT enrollment_id, command_id FROM deliveries
      WHERE state IN ('acknowledged', 'error', 'cancelled', 'expired', 'presumed_done') AND updated_at < $1
      ORDER BY updated_at LIMIT $2 FOR UPDATE SKIP LOCKED";
pub(super) const OLD_REPORTS: &str = "SELECT enrollment_id, id, command_id, size_bytes FROM reports
      WHERE received_at < $1 ORDER BY received_at LIMIT $2";
const OLD_REPORTS_UNLOCKED: &str = "SELECT enrollment_id, id, command_id, size_bytes FROM reports
      WHERE received_at < $1 ORDER BY received_at LIMIT $2 FOR UPDATE SKIP LOCKED";
/// With `NOT EXISTS` PostgreSQL would read all deliveries once rather than look up those of each command.
pub(super) const FOR_ALL: &str = "SELECT id, fleet_number,
            created_at < $1 AND materialized = TRUE AND (cancelled_at IS NULL OR cancelled_at < $1)
            AND (SELECT d.command_id FROM deliveries d WHERE d.command_id = commands.id LIMIT 1) IS NULL AS is_spent
       FROM commands WHERE fleet_number > $2 ORDER BY fleet_number LIMIT $3";
pub(super) const OLD_AUDIT: &str = "SELECT id FROM audit WHERE id < $1 ORDER BY id LIMIT $2";
/// From the first to the last: for a list of ids PostgreSQL would read all of the table, unless it is very large.
pub(super) const CUT_AUDIT: &str = "DELETE FROM audit WHERE id >= $1 AND id <= $2";
pub(super) const TRANSITIONS: &str = "DELETE FROM delivery_transitions
      WHERE enrollment_id = $1 AND command_id = $2
        AND revision IN (SELECT revision FROM delivery_transitions
                          WHERE enrollment_id = $1 AND command_id = $2 ORDER BY revision LIMIT $3)";
pub(super) const REPORTS_OF: &str = "DELETE FROM reports
      WHERE enrollment_id = $1
        AND id IN (SELECT id FROM reports WHERE command_id = $2 AND enrollment_id = $1 LIMIT $3)";

/// What looks for old rows as PostgreSQL is asked, each with the index that it is to go by: for a test of its plans.
#[doc(hidden)]
pub const SEARCHES: [(&str, &str); 7] = [
    (ENDED_UNLOCKED, "deliveries_ended"),
    (OLD_REPORTS_UNLOCKED, "reports_by_time"),
    (FOR_ALL, "commands_for_all"),
    (OLD_AUDIT, "audit_pkey"),
    (CUT_AUDIT, "audit_pkey"),
    (TRANSITIONS, "delivery_transitions_pkey"),
    (REPORTS_OF, "reports_by_command"),
];

impl Write {
    /// The first deliveries that ended before `before`, locked.
    pub async fn ended_deliveries(
        &mut self,
        before: Timestamp,
        limit: i64,
    ) -> Result<Vec<(EnrollmentId, CommandId)>, StoreError> {
        let sql = self.choose(ENDED, ENDED_UNLOCKED);
        on!(self, fetch_all, query_as(sql, before, limit))
    }

    /// Locks a command, so that nobody else takes away what belongs to it.
    pub async fn lock_command(&mut self, id: CommandId) -> Result<(), StoreError> {
        let _: Option<CommandId> =
            on!(self, fetch_optional, query_scalar("SELECT id FROM commands WHERE id = $1 FOR UPDATE", id))?;
        Ok(())
    }

    /// Takes away the first `limit` steps of a delivery. Returns how many there were.
    pub async fn prune_transitions(
        &mut self,
        enrollment: EnrollmentId,
        command: CommandId,
        limit: i64,
    ) -> Result<u64, StoreError> {
        run!(self, TRANSITIONS, enrollment, command, limit)
    }

    /// Takes away at most `limit` reports on a delivery. Returns how many there were.
    pub async fn prune_reports_of(
        &mut self,
        enrollment: EnrollmentId,
        command: CommandId,
        limit: i64,
    ) -> Result<u64, StoreError> {
        run!(self, REPORTS_OF, enrollment, command, limit)
    }

    /// Takes away a delivery that has ended. False: it has not, or is gone.
    pub async fn prune_delivery(&mut self, enrollment: EnrollmentId, command: CommandId) -> Result<bool, StoreError> {
        let gone = run!(
            self,
            "DELETE FROM deliveries
              WHERE enrollment_id = $1 AND command_id = $2
                AND state IN ('acknowledged', 'error', 'cancelled', 'expired', 'presumed_done')",
            enrollment,
            command
        )?;
        Ok(gone == 1)
    }

    /// Takes away a command of before `before` that has no delivery left, and gets none. False: it has, or may.
    ///
    /// One for all that was cancelled just now may be on its way to become a delivery still, and so stays for a while.
    pub async fn prune_command(&mut self, id: CommandId, before: Timestamp) -> Result<bool, StoreError> {
        let gone = run!(
            self,
            "DELETE FROM commands
              WHERE id = $1 AND created_at < $2 AND materialized = TRUE
                AND (fleet_number IS NULL OR cancelled_at IS NULL OR cancelled_at < $2)
                AND NOT EXISTS (SELECT 1 FROM deliveries d WHERE d.command_id = $1)",
            id,
            before
        )?;
        Ok(gone == 1)
    }

    /// The next commands for all devices, by their number.
    pub async fn commands_for_all_since(
        &mut self,
        before: Timestamp,
        after: i64,
        limit: i64,
    ) -> Result<Vec<ForAll>, StoreError> {
        on!(self, fetch_all, query_as(FOR_ALL, before, after, limit))
    }

    /// The first reports that came before `before`, locked.
    pub async fn old_reports(&mut self, before: Timestamp, limit: i64) -> Result<Vec<OldReport>, StoreError> {
        let sql = self.choose(OLD_REPORTS, OLD_REPORTS_UNLOCKED);
        on!(self, fetch_all, query_as(sql, before, limit))
    }

    /// Takes away a report, whatever its delivery still waits for.
    pub async fn prune_report(&mut self, old: OldReport) -> Result<bool, StoreError> {
        if let Some(command) = old.command_id {
            run!(
                self,
                "UPDATE deliveries SET report_id = NULL
                  WHERE enrollment_id = $1 AND command_id = $2 AND report_id = $3",
                old.enrollment_id,
                command,
                old.id
            )?;
        }
        Ok(run!(self, "DELETE FROM reports WHERE enrollment_id = $1 AND id = $2", old.enrollment_id, old.id)? == 1)
    }

    /// Takes away the first rows of the audit log that were written before `before` (to the millisecond).
    pub async fn prune_audit(&mut self, before: Timestamp, limit: i64) -> Result<u64, StoreError> {
        let old: Vec<AuditId> = on!(self, fetch_all, query_scalar(OLD_AUDIT, least_id(before), limit))?;
        let (Some(first), Some(last)) = (old.first(), old.last()) else { return Ok(0) };
        run!(self, CUT_AUDIT, *first, *last)
    }
}
