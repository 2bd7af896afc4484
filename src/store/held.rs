//! What a restored database holds back until an admin says that it is still meant.

use super::{Read, StoreError, Write};
use crate::model::{CommandId, EnrollmentId, Timestamp};

/// The least priority, where any would do: with `EXISTS` SQLite takes the primary key and reads the whole history.
pub(super) const HAS_DELIVERABLE: &str = "SELECT MIN(d.priority) IS NOT NULL FROM deliveries d
       JOIN commands c ON c.id = d.command_id
      WHERE d.enrollment_id = $1 AND d.state IN ('queued', 'sent', 'not_now') AND c.held_at IS NULL";

pub(super) const HELD: &str = "SELECT COUNT(*) FROM commands WHERE held_at IS NOT NULL";

impl Read {
    /// Whether anything is open for an enrollment that is not held.
    pub async fn has_deliverable(&mut self, enrollment: EnrollmentId) -> Result<bool, StoreError> {
        hot!(self, one, HAS_DELIVERABLE, enrollment)
    }

    /// How many commands are held.
    pub async fn count_held_commands(&mut self) -> Result<i64, StoreError> {
        on!(self, fetch_one, query_scalar(HELD))
    }

    /// The next enrollments for which a command is open, by id.
    pub async fn open_for(
        &mut self,
        command: CommandId,
        after: EnrollmentId,
        limit: i64,
    ) -> Result<Vec<EnrollmentId>, StoreError> {
        on!(
            self,
            fetch_all,
            query_scalar(
                "SELECT enrollment_id FROM deliveries
                  WHERE command_id = $1 AND enrollment_id > $2 AND state IN ('queued', 'sent', 'not_now')
                  ORDER BY enrollment_id LIMIT $3",
                command,
                after,
                limit
            )
        )
    }
}

impl Write {
    /// Holds every command that may still be handed to somebody and that destroys something, or has one of these request
    /// types (in lower case). Returns how many are held now that were not. Looks at all commands there are,
    /// and at the deliveries of those alone (with `EXISTS` PostgreSQL may read all).
    pub async fn hold_commands(&mut self, types: [&str; 4], now: Timestamp) -> Result<u64, StoreError> {
        let [one, two, three, four] = types;
        run!(
            self,
            "UPDATE commands SET held_at = $1
              WHERE held_at IS NULL AND cancelled_at IS NULL
                AND (destruction IS NOT NULL OR lower(trim(request_type)) IN ($2, $3, $4, $5))
                AND (materialized = FALSE
                     OR (SELECT d.command_id FROM deliveries d
                          WHERE d.command_id = commands.id AND d.state IN ('queued', 'sent', 'not_now') LIMIT 1)
                        IS NOT NULL)",
            now,
            one,
            two,
            three,
            four
        )
    }

    /// Lets a command be handed over again. False: it is not held.
    pub async fn release_command(&mut self, id: CommandId) -> Result<bool, StoreError> {
        Ok(run!(self, "UPDATE commands SET held_at = NULL WHERE id = $1 AND held_at IS NOT NULL", id)? == 1)
    }

    /// Ends every link that was not ended by an admin. Returns how many.
    pub async fn revoke_all_links(&mut self, now: Timestamp) -> Result<u64, StoreError> {
        run!(self, "UPDATE enrollment_links SET revoked_at = $1 WHERE revoked_at IS NULL", now)
    }

    /// Ends every challenge that could still be used. Returns how many.
    pub async fn end_all_challenges(&mut self, now: Timestamp) -> Result<u64, StoreError> {
        run!(self, "UPDATE challenges SET expires_at = $1 WHERE expires_at > $1", now)
    }
}
