use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::future::try_join_all;
use rusqlite::Connection;
use tokio::sync::OwnedMutexGuard;
use uuid::Uuid;

use super::loader::Loader;
use super::sqlite::{self, Outcome};
use super::{Statement, Value};
use crate::store::StoreError;

/// One of those who share a transaction.
#[derive(Debug)]
pub(in crate::store) struct Member {
    by: By,
    marks: Arc<Marks>,
}

#[derive(Debug)]
enum By {
    Sqlite(Arc<Mutex<Connection>>),
    Postgres(Arc<Loader>),
}

/// What a member did, for whoever ends the transaction.
#[derive(Debug, Default)]
pub(super) struct Marks {
    committed: AtomicBool,
    wrote: AtomicBool,
    alone: AtomicBool,
}

/// While it is there, no other member of the same transaction holds one for the same thing.
#[derive(Debug)]
pub struct Exclusive(#[expect(dead_code, reason = "held")] Option<OwnedMutexGuard<()>>);

impl Member {
    pub(super) fn sqlite(connection: &Arc<Mutex<Connection>>) -> (Self, Arc<Marks>) {
        let marks = Arc::<Marks>::default();
        (Self { by: By::Sqlite(Arc::clone(connection)), marks: Arc::clone(&marks) }, marks)
    }

    pub(super) fn postgres(loader: &Arc<Loader>) -> (Self, Arc<Marks>) {
        let marks = Arc::<Marks>::default();
        (Self { by: By::Postgres(Arc::clone(loader)), marks: Arc::clone(&marks) }, marks)
    }

    pub(in crate::store) async fn ask(
        &mut self,
        statement: &'static Statement,
        arguments: Vec<Value>,
    ) -> Result<Outcome, StoreError> {
        if statement.writes() {
            self.marks.wrote.store(true, Ordering::Relaxed);
        }
        match &self.by {
            By::Sqlite(connection) => {
                sqlite::run(&connection.lock().unwrap_or_else(PoisonError::into_inner), statement, &arguments)
            }
            By::Postgres(loader) => loader.ask(statement, arguments).await,
        }
    }

    pub(in crate::store) async fn ask_many(
        &mut self,
        statement: &'static Statement,
        arguments: Vec<Vec<Value>>,
    ) -> Result<Vec<Outcome>, StoreError> {
        if statement.writes() {
            self.marks.wrote.store(true, Ordering::Relaxed);
        }
        match &self.by {
            By::Sqlite(connection) => {
                let connection = connection.lock().unwrap_or_else(PoisonError::into_inner);
                arguments.iter().map(|arguments| sqlite::run(&connection, statement, arguments)).collect()
            }
            By::Postgres(loader) => {
                try_join_all(arguments.into_iter().map(|arguments| loader.ask(statement, arguments))).await
            }
        }
    }

    /// Notes that this member needs a transaction of its own.
    pub(in crate::store) fn refuse(&self) -> StoreError {
        self.marks.alone.store(true, Ordering::Relaxed);
        StoreError::Unavailable("this needs a transaction of its own".to_owned())
    }

    /// Keeps what was written, once the transaction is committed.
    pub(in crate::store) fn commit(self) {
        self.marks.committed.store(true, Ordering::Relaxed);
    }

    pub(in crate::store) const fn is_sqlite(&self) -> bool {
        matches!(self.by, By::Sqlite(_))
    }

    /// Waits until no other member of the transaction holds the same thing. On SQLite there is one at a time anyway.
    pub(in crate::store) async fn exclusive(&self, what: Uuid) -> Exclusive {
        match &self.by {
            By::Sqlite(_) => Exclusive::nobody(),
            By::Postgres(loader) => Exclusive(Some(loader.guard(what).lock_owned().await)),
        }
    }
}

impl Exclusive {
    /// Where nobody else is in the transaction.
    pub(in crate::store) const fn nobody() -> Self {
        Self(None)
    }
}

/// What becomes of one of those who share a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It has its answer, and what it wrote, if anything, is to be committed.
    Done,
    /// It has to run again, alone, and left nothing.
    Alone,
    /// It left something that must not be committed.
    Broken,
}

impl Marks {
    /// What becomes of a member; `ended` is false for one that waited for something else than the database.
    pub(super) fn fate(&self, ended: bool) -> Fate {
        let (is_alone, wrote) = (self.is_alone(ended), self.wrote.load(Ordering::Relaxed));
        // Also when it went on after the refusal and asked for the commit: it runs again, and must not have run twice.
        let is_kept = !is_alone && self.committed.load(Ordering::Relaxed);
        match (wrote && !is_kept, is_alone) {
            (true, _) => Fate::Broken,
            (false, true) => Fate::Alone,
            (false, false) => Fate::Done,
        }
    }

    /// Whether it has to run again, alone.
    pub(super) fn is_alone(&self, ended: bool) -> bool {
        !ended || self.alone.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_written_committed_and_never_refused_is_kept() {
        let fate = |wrote: bool, committed: bool, alone: bool, ended: bool| {
            let marks = Marks { committed: committed.into(), wrote: wrote.into(), alone: alone.into() };
            marks.fate(ended)
        };
        assert_eq!(fate(true, true, false, true), Fate::Done);
        assert_eq!(fate(false, true, false, true), Fate::Done, "it only read");
        assert_eq!(fate(false, false, false, true), Fate::Done, "it was refused before it wrote");
        assert_eq!(fate(true, false, false, true), Fate::Broken, "it failed after it had written");
        assert_eq!(fate(true, true, true, true), Fate::Broken, "it went on after a statement that needs to be alone");
        assert_eq!(fate(true, false, false, false), Fate::Broken, "it waits for something else");
        assert_eq!(fate(false, false, true, true), Fate::Alone);
        assert_eq!(fate(false, false, false, false), Fate::Alone);
    }
}
