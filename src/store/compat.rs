//! What the interface for tools of another server needs: commands by a name that the tool chose, and enrollments that were
//! taken over.

use super::{CommandRow, Delivery, Read, StoreError, Write};
use crate::model::{CommandId, EnrollmentId, Timestamp};

impl Read {
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

    /// Notes that an enrollment was taken over from another server.
    pub async fn set_migrated(&mut self, id: EnrollmentId, now: Timestamp) -> Result<(), StoreError> {
        run!(self, "UPDATE enrollments SET migrated_at = $2 WHERE id = $1", id, now).map(drop)
    }
}
