//! What the interface for tools of another server needs: commands by a name that the tool chose, and enrollments that were
//! taken over.

use super::{CommandRow, Delivery, Read, StoreError, Write};
use crate::model::{CommandId, EnrollmentId, Timestamp};

/// How an enrollment stands that another server had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It enrolled here, or enrolled anew since it was taken over.
    EnrolledHere,
    /// It was taken over, and has come here since: what it tells itself counts.
    CameHere,
    /// It was taken over, and nobody has heard of it here.
    Awaited,
}

/// A delivery of a command that was taken over, which was not handed over here yet.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
#[expect(missing_docs, reason = "the columns are described in the migration")]
pub struct TakenOver {
    pub enrollment_id: EnrollmentId,
    pub command_id: CommandId,
    pub apple_id: String,
    pub wire_uuid: String,
}

impl Read {
    /// How an enrollment stands that another server had.
    pub async fn standing(&mut self, id: EnrollmentId) -> Result<Standing, StoreError> {
        let word: String = on!(
            self,
            fetch_one,
            query_scalar(
                "SELECT CASE WHEN e.migrated_at IS NULL OR e.authenticated_at > e.migrated_at THEN 'enrolled'
                             WHEN e.last_seen_at > e.migrated_at OR e.connection > 0 OR e.disabled_at > e.migrated_at
                                  OR EXISTS (SELECT 1 FROM escrow s
                                              WHERE s.enrollment_id = e.id AND s.stored_at > e.migrated_at)
                                  OR EXISTS (SELECT 1 FROM identities i
                                              WHERE i.enrollment_id = e.id AND i.authority_id IS NOT NULL) THEN 'came'
                             ELSE 'awaited' END
                   FROM enrollments e WHERE e.id = $1",
                id
            )
        )?;
        Ok(match word.as_str() {
            "awaited" => Standing::Awaited,
            "came" => Standing::CameHere,
            _ => Standing::EnrolledHere,
        })
    }

    /// The command that a tool named so.
    pub async fn command_by_wire_uuid(&mut self, wire_uuid: &str) -> Result<Option<CommandRow>, StoreError> {
        on!(self, fetch_optional, query_as("SELECT * FROM commands WHERE wire_uuid = $1", wire_uuid))
    }

    /// The next deliveries of commands that `created_by` took over and that nobody was handed here, to enrollments that
    /// were taken over; in the order of enrollment and command, after `after`.
    pub async fn taken_over_and_queued(
        &mut self,
        created_by: &str,
        after: (EnrollmentId, CommandId),
        limit: i64,
    ) -> Result<Vec<TakenOver>, StoreError> {
        on!(
            self,
            fetch_all,
            query_as(
                "SELECT d.enrollment_id, d.command_id, e.apple_id, c.wire_uuid
                   FROM deliveries d
                   JOIN commands c ON c.id = d.command_id
                   JOIN enrollments e ON e.id = d.enrollment_id
                  WHERE d.state IN ('queued', 'sent', 'not_now') AND d.state = 'queued' AND d.attempts = 0
                    AND (d.enrollment_id, d.command_id) > ($1, $2)
                    AND c.wire_uuid IS NOT NULL AND c.created_by = $3 AND e.migrated_at IS NOT NULL
                  ORDER BY d.enrollment_id, d.command_id LIMIT $4",
                after.0,
                after.1,
                created_by,
                limit
            )
        )
    }

    /// The delivery to an enrollment of the command that a tool named so.
    pub async fn delivery_by_wire_uuid(
        &mut self,
        enrollment: EnrollmentId,
        wire_uuid: &str,
    ) -> Result<Option<Delivery>, StoreError> {
        on!(
            self,
            fetch_optional,
            query_as(
                "SELECT d.* FROM commands c JOIN deliveries d ON d.command_id = c.id
                  WHERE c.wire_uuid = $2 AND d.enrollment_id = $1",
                enrollment,
                wire_uuid
            )
        )
    }

    /// Whether an enrollment was taken over from another server and no certificate has ever been pinned to it.
    pub async fn is_migrated_without_pin(&mut self, id: EnrollmentId) -> Result<bool, StoreError> {
        on!(
            self,
            fetch_one,
            query_scalar(
                "SELECT EXISTS (SELECT 1 FROM enrollments e
                                 WHERE e.id = $1 AND e.migrated_at IS NOT NULL
                                   AND NOT EXISTS (SELECT 1 FROM identities i WHERE i.enrollment_id = e.id))",
                id
            )
        )
    }
}

impl Write {
    /// The command that a tool named so, locked until the end of the transaction.
    pub async fn command_by_wire_uuid_for_update(&mut self, wire_uuid: &str) -> Result<Option<CommandRow>, StoreError> {
        on!(self, fetch_optional, query_as("SELECT * FROM commands WHERE wire_uuid = $1 FOR UPDATE", wire_uuid))
    }

    /// Gives a command the name that a tool chose for it, and keeps the sealed digest of what the tool sent.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] where another command has the name.
    pub async fn set_wire_uuid(&mut self, id: CommandId, wire_uuid: &str, sealed: &[u8]) -> Result<(), StoreError> {
        run!(self, "UPDATE commands SET wire_uuid = $2, wire_sealed = $3 WHERE id = $1", id, wire_uuid, sealed)
            .map(drop)
    }

    /// A command has so many targets more.
    pub async fn add_targets(&mut self, id: CommandId, more: i64) -> Result<(), StoreError> {
        run!(self, "UPDATE commands SET target_count = target_count + $2 WHERE id = $1", id, more).map(drop)
    }

    /// Has a command handed to nobody until an admin releases it.
    pub async fn hold_command(&mut self, id: CommandId, now: Timestamp) -> Result<(), StoreError> {
        run!(self, "UPDATE commands SET held_at = $2 WHERE id = $1 AND held_at IS NULL", id, now).map(drop)
    }

    /// Notes that an enrollment was taken over from another server, which heard of it at `seen`.
    pub async fn set_migrated_seen(
        &mut self,
        id: EnrollmentId,
        seen: Timestamp,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        run!(self, "UPDATE enrollments SET migrated_at = $3, last_seen_at = $2 WHERE id = $1", id, seen, now).map(drop)
    }

    /// Notes that an enrollment was taken over from another server.
    pub async fn set_migrated(&mut self, id: EnrollmentId, now: Timestamp) -> Result<(), StoreError> {
        run!(self, "UPDATE enrollments SET migrated_at = $2 WHERE id = $1", id, now).map(drop)
    }
}
