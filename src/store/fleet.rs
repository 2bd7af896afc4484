use super::{StoreError, Write};
use crate::model::EnrollmentId;

// Fleet numbers order "this enrollment was enabled" and "this command for all was accepted" against each other: an
// enrollment gets a command for all if and only if the number that it was enabled under is smaller than the command's.
//
// Accepting a command for all raises the number, and holds its row until the commit: so the numbers of commands are
// committed in their order. An enrollment only reads the number, and locks nothing: thousands may do so at once, and a
// command for all waits for none of them. What it reads is the number of the last such command that was committed. So a
// command that was accepted (its caller knows) before the device said that it is enabled has a number that is no greater,
// and one that is accepted after the enrollment was committed has a greater one. Where the two overlap in time either order
// is right.

impl Write {
    /// The number that an enrollment is enabled under.
    pub async fn fleet_number_for_enrollment(&mut self) -> Result<i64, StoreError> {
        hot!(self, one, "SELECT number FROM fleet WHERE id = 1")
    }

    /// A number for a command for all that is accepted in this transaction.
    pub async fn fleet_number_for_command(&mut self) -> Result<i64, StoreError> {
        on!(self, fetch_one, query_scalar("UPDATE fleet SET number = number + 1 WHERE id = 1 RETURNING number"))
    }

    /// Sets up to which command for all an enrollment has been served.
    pub async fn set_fleet_cursor(&mut self, id: EnrollmentId, number: i64) -> Result<(), StoreError> {
        hot!(self, change, "UPDATE enrollments SET fleet_cursor = $2 WHERE id = $1", id, number).map(drop)
    }
}
