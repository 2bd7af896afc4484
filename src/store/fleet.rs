use super::{StoreError, Write};
use crate::model::EnrollmentId;

// Fleet numbers order "this enrollment was enabled" and "this command for all was accepted" against each other: an
// enrollment gets a command for all if and only if the number that it was enabled under is smaller than the command's.
//
// Accepting a command for all raises the number, and holds its row until the commit: so the numbers of commands are
// committed in their order. Enrollments only read it, and none waits for another. A command waits until the enrollments
// that have read the number are committed, and those that come meanwhile read it when the command is committed: so those
// that the command counts are exactly those that will get it. SQLite's single writer gives the same. On PostgreSQL it is
// the gate, a lock in memory that writes nothing, which enrollments share and a command has alone. No row lock, which
// would be written to disk for each, and no lock of a table, which the cleaning of a table or a dump would hold up.

/// Which of PostgreSQL's advisory locks is the gate; any number that nothing else in the database uses.
const GATE: i64 = 0x4d75_7374_6572;

impl Write {
    /// The number that an enrollment is enabled under.
    pub async fn fleet_number_for_enrollment(&mut self) -> Result<i64, StoreError> {
        if self.is_postgres() {
            // A statement of its own: what the next one sees is from after the wait. The lock is the transaction's, so
            // that the first of those who share one would do for all.
            hot!(self, all, "SELECT pg_advisory_xact_lock_shared($1) IS NULL", GATE).map(|_: Vec<bool>| ())?;
        }
        hot!(self, one, "SELECT number FROM fleet WHERE id = 1")
    }

    /// A number for a command for all that is accepted in this transaction.
    pub async fn fleet_number_for_command(&mut self) -> Result<i64, StoreError> {
        if self.is_postgres() {
            run!(self, "SELECT pg_advisory_xact_lock($1)", GATE)?;
        }
        on!(self, fetch_one, query_scalar("UPDATE fleet SET number = number + 1 WHERE id = 1 RETURNING number"))
    }

    /// Sets up to which command for all an enrollment has been served.
    pub async fn set_fleet_cursor(&mut self, id: EnrollmentId, number: i64) -> Result<(), StoreError> {
        hot!(self, change, "UPDATE enrollments SET fleet_cursor = $2 WHERE id = $1", id, number).map(drop)
    }
}
