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

impl Marks {
    /// Whether it has to run again, alone.
    pub(super) fn is_alone(&self) -> bool {
        self.alone.load(Ordering::Relaxed)
    }

    /// Whether it wrote anything.
    pub(super) fn has_written(&self) -> bool {
        self.wrote.load(Ordering::Relaxed)
    }

    /// Whether it wrote something that it did not commit.
    pub(super) fn is_to_be_undone(&self) -> bool {
        self.wrote.load(Ordering::Relaxed) && !self.committed.load(Ordering::Relaxed)
    }
}
