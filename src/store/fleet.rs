use super::connect::Connection;
use super::{StoreError, Write};
use crate::model::EnrollmentId;

// Fleet numbers order "this enrollment was enabled" and "this command for all was accepted" against each other: an
// enrollment gets a command for all if and only if its own number is smaller. What must hold is that a number is
// committed before a greater one is given to the other kind. On SQLite the single writer sees to it. On PostgreSQL
// enrollments hold the row of `fleet` shared until they commit, and accepting a command for all takes it alone: so it
// waits for enrollments under way, and none begins until it is committed. Enrollments do not wait for each other.

impl Write {
    /// A number for an enrollment that becomes enabled in this transaction.
    pub async fn fleet_number_for_enrollment(&mut self) -> Result<i64, StoreError> {
        self.next_fleet_number("SELECT number FROM fleet WHERE id = 1 FOR SHARE").await
    }

    /// A number for a command for all that is accepted in this transaction.
    pub async fn fleet_number_for_command(&mut self) -> Result<i64, StoreError> {
        self.next_fleet_number("SELECT number FROM fleet WHERE id = 1 FOR UPDATE").await
    }

    async fn next_fleet_number(&mut self, lock: &'static str) -> Result<i64, StoreError> {
        Ok(match self.connection() {
            Connection::Sqlite(c) => {
                sqlx::query_scalar("UPDATE fleet SET number = number + 1 WHERE id = 1 RETURNING number")
                    .fetch_one(c)
                    .await?
            }
            Connection::Postgres(c) => {
                sqlx::query(lock).execute(&mut *c).await?;
                sqlx::query_scalar("SELECT nextval('fleet_numbers')").fetch_one(c).await?
            }
        })
    }

    /// Sets up to which command for all an enrollment has been served.
    pub async fn set_fleet_cursor(&mut self, id: EnrollmentId, number: i64) -> Result<(), StoreError> {
        run!(self, "UPDATE enrollments SET fleet_cursor = $2 WHERE id = $1", id, number).map(drop)
    }
}
