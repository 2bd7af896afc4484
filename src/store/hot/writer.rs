//! Shared transactions on SQLite: a thread that runs those who share, one after the other.

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::FutureExt;
use rusqlite::Connection;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::group::{Job, Line, PATIENCE, Taken};
use super::member::{Fate, Member};
use super::sqlite;
use crate::store::{StoreError, Write};

/// Starts the thread.
pub(super) fn start(line: &Arc<Line>, path: PathBuf, turn: Arc<Semaphore>) -> Result<(), StoreError> {
    let runtime = tokio::runtime::Handle::current();
    let writer = Writer { line: Arc::clone(line), path, turn, runtime, connection: None, pages: 0 };
    let started = std::thread::Builder::new().name("sqlite-writer".to_owned()).spawn(move || writer.run());
    started.map(drop).map_err(|e| StoreError::Unavailable(format!("no thread could be started: {e}")))
}

/// The thread that writes what devices send.
struct Writer {
    line: Arc<Line>,
    path: PathBuf,
    /// Whoever writes to the file has it.
    turn: Arc<Semaphore>,
    runtime: tokio::runtime::Handle,
    connection: Option<Arc<Mutex<Connection>>>,
    /// The limit that the connection has.
    pages: u32,
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.connection = None;
        // Should it die of a panic, the next message begins another.
        self.line.waiting().at_work = 0;
        self.line.ended.notify_waiters();
    }
}

impl Writer {
    fn run(mut self) {
        while let Some(jobs) = self.wait() {
            let taken = Taken::by(&jobs, &self.line);
            self.share(jobs);
            drop(taken);
        }
    }

    fn wait(&self) -> Option<Vec<Box<dyn Job>>> {
        let mut waiting = self.line.waiting();
        loop {
            let jobs = waiting.next(false);
            if !jobs.is_empty() {
                return Some(jobs);
            }
            if self.line.closed.load(Ordering::Acquire) {
                return None;
            }
            waiting = self.line.came.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn share(&mut self, jobs: Vec<Box<dyn Job>>) {
        let turn = Arc::clone(&self.turn);
        let turn = self.runtime.block_on(async { timeout(PATIENCE, turn.acquire_owned()).await });
        let begun = match turn {
            // Closed it would be with the store, when nobody waits any more.
            Ok(_) => self.begin(),
            Err(_) => Err(StoreError::Unavailable("another transaction holds the database".to_owned())),
        };
        let ran = begun.and_then(|connection| run_all(&connection, &jobs).map(|fates| (connection, fates)));
        let (connection, fates) = match ran {
            Ok(ran) => ran,
            Err(why) => return jobs.into_iter().for_each(|job| job.failed(why.clone())),
        };
        let ended = end(&connection.lock().unwrap_or_else(PoisonError::into_inner), &fates);
        // The others' turn comes before those that have to run alone.
        drop(turn);
        for (job, fate) in jobs.into_iter().zip(fates) {
            match &ended {
                Ok(true) if fate == Fate::Done => job.done(),
                Ok(_) => job.alone(),
                Err(_) if fate != Fate::Done => job.alone(),
                Err(why) => job.failed(why.clone()),
            }
        }
    }

    fn begin(&mut self) -> Result<Arc<Mutex<Connection>>, StoreError> {
        let connection = match &self.connection {
            Some(connection) => Arc::clone(connection),
            None => {
                self.pages = 0;
                Arc::new(Mutex::new(sqlite::writer(&self.path)?))
            }
        };
        // Opened anew the next time, if this does not go well.
        self.connection = None;
        let pages = self.line.pages.load(Ordering::Acquire);
        if pages != self.pages {
            sqlite::limit_pages(&connection.lock().unwrap_or_else(PoisonError::into_inner), pages)?;
            self.pages = pages;
        }
        execute(&connection, "BEGIN IMMEDIATE")?;
        self.connection = Some(Arc::clone(&connection));
        Ok(connection)
    }
}

type Shared = Arc<Mutex<Connection>>;

fn execute(connection: &Shared, sql: &str) -> Result<(), StoreError> {
    sqlite::execute(&connection.lock().unwrap_or_else(PoisonError::into_inner), sql)
}

/// Runs all, one after the other. Savepoints copy each page that is changed under them: there are none until somebody fails
/// after having written. Then all is undone, and each runs again in one of its own.
fn run_all(connection: &Shared, jobs: &[Box<dyn Job>]) -> Result<Vec<Fate>, StoreError> {
    let mut fates = Vec::with_capacity(jobs.len());
    for job in jobs {
        match attempt(connection, &**job) {
            Fate::Broken => {
                again(connection)?;
                return Ok(jobs.iter().map(|job| in_savepoint(connection, &**job)).collect());
            }
            fate => fates.push(fate),
        }
    }
    Ok(fates)
}

fn attempt(connection: &Shared, job: &dyn Job) -> Fate {
    let (member, marks) = Member::sqlite(connection);
    // Nothing here waits: each statement is a call. What does wait for something else has to do so alone.
    let ended = job.attempt(Write::of_member(member)).now_or_never().is_some();
    if is_over(connection) { Fate::Broken } else { marks.fate(ended) }
}

/// Whether SQLite has ended the transaction by itself, as it may when the disk is full or fails. What were run now would
/// be committed at once.
fn is_over(connection: &Shared) -> bool {
    connection.lock().unwrap_or_else(PoisonError::into_inner).is_autocommit()
}

/// Broken is only what the savepoint itself did not undo. What ended without a commit has its answer, and left nothing.
fn in_savepoint(connection: &Shared, job: &dyn Job) -> Fate {
    if is_over(connection) {
        return Fate::Broken;
    }
    let run = || {
        execute(connection, "SAVEPOINT one")?;
        let (member, marks) = Member::sqlite(connection);
        let ended = job.attempt(Write::of_member(member)).now_or_never().is_some();
        if marks.fate(ended) != Fate::Done {
            execute(connection, "ROLLBACK TO one")?;
        }
        execute(connection, "RELEASE one")?;
        Ok::<_, StoreError>(if marks.is_alone(ended) { Fate::Alone } else { Fate::Done })
    };
    run().unwrap_or_else(|why| {
        tracing::debug!("a shared transaction broke: {why}");
        Fate::Broken
    })
}

/// Undoes the transaction and begins another.
fn again(connection: &Shared) -> Result<(), StoreError> {
    let connection = connection.lock().unwrap_or_else(PoisonError::into_inner);
    if !connection.is_autocommit() {
        sqlite::execute(&connection, "ROLLBACK")?;
    }
    sqlite::execute(&connection, "BEGIN IMMEDIATE")
}

/// Commits, unless somebody left what must not be committed. False: nothing is there, and all have to run alone.
fn end(connection: &Connection, fates: &[Fate]) -> Result<bool, StoreError> {
    if connection.is_autocommit() {
        return Ok(false);
    }
    if fates.contains(&Fate::Broken) {
        return sqlite::execute(connection, "ROLLBACK").map(|()| false);
    }
    sqlite::execute(connection, "COMMIT").map(|()| true).inspect_err(|_| {
        // Nobody is told that it is there: it must not be, whatever the next transaction finds.
        let _ = sqlite::execute(connection, "ROLLBACK");
    })
}
