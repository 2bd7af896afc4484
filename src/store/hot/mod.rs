//! What devices wait for: statements that many of them need at the same time, and transactions that they share.
//!
//! A device's message is a transaction of some twenty small statements. Alone, it costs a commit (a write to the disk that
//! is waited for) and a way to the database and back for each statement. So the messages of a moment share a transaction:
//! [`Store::together`](super::Store::together) takes what one message does, and runs it with others in one transaction. What
//! must hold, and why it does:
//!
//! - **Acknowledged only after COMMIT.** Nobody is told anything of a shared transaction before it is committed.
//! - **Each fails alone.** On SQLite each runs after the other; on PostgreSQL they run side by side, so that the same
//!   statement of all becomes one (see [`Statement`]). When one of them fails after it has written, or the database refuses
//!   a statement, the whole transaction is undone and each runs again: on SQLite in a savepoint of its own, on PostgreSQL
//!   alone.
//! - **As if one after the other.** Two messages with a key in common (a device, a certificate) are never in one shared
//!   transaction, nor in two at once in this process; rows are locked as ever against other processes. What several of one
//!   transaction have in common beside that is either only added to, or guarded by [`Write::exclusive`](super::Write).
//! - **Waits for nobody while it holds rows.** On PostgreSQL a shared transaction passes over a device or a wake-up that
//!   another one holds, and whoever needed it runs again alone: two that hold several rows each, in whatever order, would
//!   wait for each other. Those that wait (an admin's command for many devices, in the order of Apple's ids) are waited
//!   for by none.
//! - Only the statements of this module can be shared. Work that needs another, which is rare, is told so by an error, and
//!   runs again in a transaction of its own.

#[macro_use]
mod value;

mod group;
mod loader;
mod member;
mod postgres;
mod server;
mod sqlite;
mod statement;
mod writer;

pub use group::Key;
pub(super) use group::Together;
pub use member::Exclusive;
pub(super) use member::Member;
pub(super) use postgres::{run as for_one, run_many as for_many};
pub(super) use sqlite::{Outcome, Readers, by_sqlx};
pub(super) use statement::{Kind, Statement};
pub(super) use value::{Cells, FromCells, Value};

use super::{Read, StoreError};

/// Runs a statement that can be shared: `hot!(self, first, "SELECT …", id)`, with `first`, `all`, `one` or `change`.
macro_rules! hot {
    ($conn:expr, $method:ident, $sql:expr $(, $argument:expr)* $(,)?) => {{
        static STATEMENT: $crate::store::hot::Statement = $crate::store::hot::Statement::new($sql);
        $conn.$method(&STATEMENT, vec![$($crate::store::hot::Value::from($argument)),*]).await
    }};
}

impl Read {
    /// The first row, if there is any.
    pub(super) async fn first<T: FromCells>(
        &mut self,
        statement: &'static Statement,
        arguments: Vec<Value>,
    ) -> Result<Option<T>, StoreError> {
        let outcome = self.ask(statement, arguments).await?;
        outcome.rows.into_iter().next().map(|row| T::from_cells(&mut row.into_iter())).transpose()
    }

    /// The row that there is in any case.
    pub(super) async fn one<T: FromCells>(
        &mut self,
        statement: &'static Statement,
        arguments: Vec<Value>,
    ) -> Result<T, StoreError> {
        let found = self.first(statement, arguments).await?;
        found.ok_or_else(|| StoreError::Broken(format!("no row: {}", statement.one())))
    }

    /// All rows.
    pub(super) async fn all<T: FromCells>(
        &mut self,
        statement: &'static Statement,
        arguments: Vec<Value>,
    ) -> Result<Vec<T>, StoreError> {
        let outcome = self.ask(statement, arguments).await?;
        outcome.rows.into_iter().map(|row| T::from_cells(&mut row.into_iter())).collect()
    }

    /// The number of rows that were changed.
    pub(super) async fn change(
        &mut self,
        statement: &'static Statement,
        arguments: Vec<Value>,
    ) -> Result<u64, StoreError> {
        Ok(self.ask(statement, arguments).await?.changed)
    }
}
