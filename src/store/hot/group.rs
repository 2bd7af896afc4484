use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rusqlite::Connection;
use sqlx::postgres::PgPool;
use tokio::sync::{Notify, Semaphore, oneshot};
use tokio::time::timeout;

use super::loader::Loader;
use super::member::Member;
use super::sqlite;
use crate::store::{Store, StoreError, Write};

/// Most messages in one transaction.
const LARGEST: usize = 128;
/// Most transactions at once on PostgreSQL: while one is being committed, the next one works.
const AT_ONCE: usize = 3;
/// Most messages that wait for a transaction; more are told to come again.
const LONGEST: usize = 8_192;
/// A transaction that takes longer is given up, so that those in line are told.
const PATIENCE: Duration = Duration::from_secs(10);

/// What two messages must not have in common to be in one transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key(u64);

impl Key {
    /// The key of a thing; two things may have the same, which costs time and nothing else.
    pub fn of(thing: impl Hash) -> Self {
        let mut hasher = DefaultHasher::new();
        thing.hash(&mut hasher);
        Self(hasher.finish())
    }
}

/// The line of messages that wait for a transaction. Cheap to clone.
#[derive(Clone, Debug)]
pub(in crate::store) struct Together(Arc<Handle>);

/// Ends the writer's thread with the last of its users.
#[derive(Debug)]
struct Handle(Arc<Line>);

impl Drop for Handle {
    fn drop(&mut self) {
        // Under the lock, so that the thread is not just about to wait.
        let _waiting = self.0.waiting();
        self.0.closed.store(true, Ordering::Release);
        self.0.came.notify_all();
    }
}

#[derive(Debug)]
struct Line {
    waiting: Mutex<Waiting>,
    came: Condvar,
    closed: AtomicBool,
    /// Told when the writer's thread has ended.
    ended: Notify,
    /// How many pages an SQLite file may have, for tests; 0 is no limit.
    pages: AtomicU32,
}

#[derive(Default)]
struct Waiting {
    jobs: Vec<Box<dyn Job>>,
    /// Those of the transactions under way.
    keys: HashSet<Key>,
    /// How many transactions are under way; on SQLite whether the thread was started.
    at_work: usize,
}

impl std::fmt::Debug for Waiting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Waiting")
            .field("jobs", &self.jobs.len())
            .field("at_work", &self.at_work)
            .finish_non_exhaustive()
    }
}

/// One message's work, and whoever waits for what comes of it.
trait Job: Send {
    fn keys(&self) -> &[Key];
    /// Runs once, and keeps what came of it.
    fn attempt(&self, tx: Write) -> BoxFuture<'static, ()>;
    /// Tells what came of it: after the commit, or where there was nothing to commit.
    fn done(self: Box<Self>);
    /// Tells that it has to run again in a transaction of its own.
    fn alone(self: Box<Self>);
    fn failed(self: Box<Self>, why: StoreError);
}

enum Told<R> {
    Done(R),
    Alone,
    Failed(StoreError),
}

struct Work<F, R> {
    keys: Vec<Key>,
    work: Arc<F>,
    result: Arc<Mutex<Option<R>>>,
    answer: oneshot::Sender<Told<R>>,
}

impl<F, R> Job for Work<F, R>
where
    F: Fn(Write) -> BoxFuture<'static, R> + Send + Sync + 'static,
    R: Send + 'static,
{
    fn keys(&self) -> &[Key] {
        &self.keys
    }

    fn attempt(&self, tx: Write) -> BoxFuture<'static, ()> {
        let result = Arc::clone(&self.result);
        let work = (self.work)(tx);
        Box::pin(async move {
            let came = work.await;
            *result.lock().unwrap_or_else(PoisonError::into_inner) = Some(came);
        })
    }

    fn done(self: Box<Self>) {
        let result = self.result.lock().unwrap_or_else(PoisonError::into_inner).take();
        // Whoever went away needs no answer.
        let _ = self.answer.send(result.map_or(Told::Alone, Told::Done));
    }

    fn alone(self: Box<Self>) {
        let _ = self.answer.send(Told::Alone);
    }

    fn failed(self: Box<Self>, why: StoreError) {
        let _ = self.answer.send(Told::Failed(why));
    }
}

impl Store {
    /// Runs `work` in a transaction that it may share with others of the same moment; see [`super`]. What it returns is
    /// given back after the commit. It may run twice: what the first time wrote is undone then, and it must have no other
    /// effects. It goes on when whoever waits for it goes away.
    ///
    /// # Errors
    /// What `work` returns, and [`StoreError::Unavailable`].
    pub async fn together<T, E, F>(&self, keys: Vec<Key>, work: F) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
        F: Fn(Write) -> BoxFuture<'static, Result<T, E>> + Send + Sync + 'static,
    {
        let work = Arc::new(work);
        let (answer, answered) = oneshot::channel();
        self.join(Box::new(Work { keys, work: Arc::clone(&work), result: Arc::default(), answer }))?;
        match answered.await {
            Ok(Told::Done(result)) => result,
            Ok(Told::Alone) => work(self.begin_write().await?).await,
            Ok(Told::Failed(why)) => Err(why.into()),
            Err(_) => Err(StoreError::Unavailable("a message was left without an answer".to_owned()).into()),
        }
    }

    fn join(&self, job: Box<dyn Job>) -> Result<(), StoreError> {
        let line = &self.together.0.0;
        if line.closed.load(Ordering::Acquire) {
            return Err(sqlite::closed());
        }
        let mut waiting = line.waiting();
        if waiting.jobs.len() >= LONGEST {
            return Err(StoreError::Unavailable("too many messages wait to be written".to_owned()));
        }
        waiting.jobs.push(job);
        if let Some(pool) = self.postgres() {
            let begin = waiting.at_work == 0 || (waiting.at_work < AT_ONCE && waiting.jobs.len() >= LARGEST);
            if begin {
                waiting.at_work += 1;
                let at_work = AtWork { line: Arc::clone(line), finished: false };
                tokio::spawn(serve(at_work, pool.clone()));
            }
        } else if let Some((path, turn)) = self.sqlite_turn() {
            if waiting.at_work == 0 {
                let writer = Writer {
                    line: Arc::clone(line),
                    path,
                    turn,
                    runtime: tokio::runtime::Handle::current(),
                    connection: None,
                    pages: 0,
                };
                std::thread::Builder::new()
                    .name("sqlite-writer".to_owned())
                    .spawn(move || writer.run())
                    .map_err(|e| StoreError::Unavailable(format!("no thread could be started: {e}")))?;
                waiting.at_work = 1;
            }
            line.came.notify_one();
        }
        Ok(())
    }
}

impl Together {
    pub(in crate::store) fn new() -> Self {
        Self(Arc::new(Handle(Arc::new(Line {
            waiting: Mutex::default(),
            came: Condvar::new(),
            closed: AtomicBool::new(false),
            ended: Notify::new(),
            pages: AtomicU32::new(0),
        }))))
    }

    /// Takes no more messages, and waits until those in line are served and the writer's connection is closed: the last
    /// connection that closes takes the write-ahead log away.
    pub(in crate::store) async fn close(&self) {
        let line = &self.0.0;
        {
            // Under the lock, so that the thread is not just about to wait.
            let _waiting = line.waiting();
            line.closed.store(true, Ordering::Release);
            line.came.notify_all();
        }
        let all = async {
            loop {
                let ended = line.ended.notified();
                if line.waiting().at_work == 0 {
                    return;
                }
                ended.await;
            }
        };
        if timeout(PATIENCE, all).await.is_err() {
            tracing::warn!("messages are still being written");
        }
    }

    /// See [`Store::limit_growth`].
    pub(in crate::store) fn limit_pages(&self, pages: Option<u32>) {
        self.0.0.pages.store(pages.unwrap_or(0), Ordering::Release);
    }
}

impl Line {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    /// Takes out the next that may share a transaction, the oldest first.
    fn next(&mut self) -> Vec<Box<dyn Job>> {
        let mut taken = Vec::new();
        let mut left = Vec::new();
        for job in std::mem::take(&mut self.jobs) {
            if taken.len() < LARGEST && !job.keys().iter().any(|key| self.keys.contains(key)) {
                self.keys.extend(job.keys());
                taken.push(job);
            } else {
                left.push(job);
            }
        }
        self.jobs = left;
        taken
    }
}

// PostgreSQL.

/// One of those who run transactions. It counts until it finds nothing to do, under the same lock, so that a message that
/// joins is either taken or begins anew; and it counts no more when its task dies.
struct AtWork {
    line: Arc<Line>,
    finished: bool,
}

impl AtWork {
    /// The next that share a transaction; nobody ends the work. What waits for a key of another transaction is taken after
    /// that one.
    fn next(&mut self) -> Vec<Box<dyn Job>> {
        let mut waiting = self.line.waiting();
        let jobs = waiting.next();
        if jobs.is_empty() {
            waiting.at_work -= 1;
            self.finished = true;
        }
        jobs
    }
}

impl Drop for AtWork {
    fn drop(&mut self) {
        if !self.finished {
            self.line.waiting().at_work -= 1;
        }
        self.line.ended.notify_waiters();
    }
}

async fn serve(mut at_work: AtWork, pool: PgPool) {
    loop {
        // Those that are just being read join first.
        tokio::task::yield_now().await;
        let jobs = at_work.next();
        if jobs.is_empty() {
            return;
        }
        let keys = jobs.iter().flat_map(|job| job.keys()).copied().collect();
        let taken = Taken { line: Arc::clone(&at_work.line), keys };
        share(jobs, &pool).await;
        drop(taken);
    }
}

/// The keys of a transaction under way; free again when it has ended, in whatever way.
struct Taken {
    line: Arc<Line>,
    keys: Vec<Key>,
}

impl Drop for Taken {
    fn drop(&mut self) {
        let mut waiting = self.line.waiting();
        for key in &self.keys {
            waiting.keys.remove(key);
        }
    }
}

async fn share(jobs: Vec<Box<dyn Job>>, pool: &PgPool) {
    let loader = Arc::new(Loader::default());
    let mut marks = Vec::with_capacity(jobs.len());
    let mut members = Vec::with_capacity(jobs.len());
    for job in &jobs {
        let (member, mark) = Member::postgres(&loader);
        marks.push(mark);
        members.push(job.attempt(Write::of_member(member)));
    }
    let shared = timeout(PATIENCE, async {
        let mut tx = pool.begin().await?;
        let went = loader.run(members, &mut tx).await?;
        if !went || marks.iter().any(|mark| mark.is_to_be_undone()) {
            // Not left to the drop: the locks must be gone before each runs alone.
            tx.rollback().await?;
            return Ok(false);
        }
        tx.commit().await?;
        Ok::<_, StoreError>(true)
    })
    .await;
    match shared {
        Ok(Ok(true)) => {
            for (job, mark) in jobs.into_iter().zip(marks) {
                if mark.is_alone() { job.alone() } else { job.done() }
            }
        }
        Ok(Ok(false)) => jobs.into_iter().for_each(|job| job.alone()),
        Ok(Err(why)) => jobs.into_iter().for_each(|job| job.failed(why.clone())),
        Err(_) => {
            let why = StoreError::Unavailable("the database does not answer".to_owned());
            jobs.into_iter().for_each(|job| job.failed(why.clone()));
        }
    }
}

// SQLite.

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
            let keys: Vec<_> = jobs.iter().flat_map(|job| job.keys()).copied().collect();
            let taken = Taken { line: Arc::clone(&self.line), keys };
            self.share(jobs);
            drop(taken);
        }
    }

    fn wait(&self) -> Option<Vec<Box<dyn Job>>> {
        let mut waiting = self.line.waiting();
        loop {
            let jobs = waiting.next();
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
        // Closed only with the store, when nobody waits any more.
        let turn = self.runtime.block_on(timeout_at_most(turn.acquire_owned()));
        let begun = match turn {
            Some(_) => self.begin(),
            None => Err(StoreError::Unavailable("another transaction holds the database".to_owned())),
        };
        let connection = match begun {
            Ok(connection) => connection,
            Err(why) => return jobs.into_iter().for_each(|job| job.failed(why.clone())),
        };
        // Savepoints copy each page that is changed under them: none until somebody fails after having written.
        let mut fates = run_all(&connection, &jobs, false);
        if fates.contains(&Fate::Broken) {
            fates = match again(&connection) {
                Ok(()) => run_all(&connection, &jobs, true),
                Err(why) => return jobs.into_iter().for_each(|job| job.failed(why.clone())),
            };
        }
        let mut done = Vec::with_capacity(jobs.len());
        let mut alone = Vec::new();
        let is_broken = fates.contains(&Fate::Broken);
        for (job, fate) in jobs.into_iter().zip(fates) {
            if fate == Fate::Done && !is_broken { done.push(job) } else { alone.push(job) }
        }
        let ended = {
            let connection = connection.lock().unwrap_or_else(PoisonError::into_inner);
            // When the disk is full or fails, SQLite may have ended the transaction by itself.
            if connection.is_autocommit() { Ok(false) } else { sqlite::execute(&connection, "COMMIT").map(|()| true) }
        };
        match ended {
            Ok(true) => done.into_iter().for_each(|job| job.done()),
            Ok(false) => alone.extend(done),
            Err(why) => {
                let _ = sqlite::execute(&connection.lock().unwrap_or_else(PoisonError::into_inner), "ROLLBACK");
                done.into_iter().for_each(|job| job.failed(why.clone()));
            }
        }
        drop(turn);
        alone.into_iter().for_each(|job| job.alone());
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
        {
            let connection = connection.lock().unwrap_or_else(PoisonError::into_inner);
            let pages = self.line.pages.load(Ordering::Acquire);
            if pages != self.pages {
                sqlite::limit_pages(&connection, pages)?;
                self.pages = pages;
            }
            sqlite::execute(&connection, "BEGIN IMMEDIATE")?;
        }
        self.connection = Some(Arc::clone(&connection));
        Ok(connection)
    }
}

async fn timeout_at_most<T, E>(what: impl Future<Output = Result<T, E>>) -> Option<T> {
    timeout(PATIENCE, what).await.ok()?.ok()
}

/// What became of one of those who share a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// What it wrote, if anything, is to be committed.
    Done,
    /// It has to run again, alone, and left nothing.
    Alone,
    /// It left something that must not be committed.
    Broken,
}

/// Runs all, one after the other; with savepoints none leaves anything that must not be committed.
fn run_all(connection: &Arc<Mutex<Connection>>, jobs: &[Box<dyn Job>], savepoints: bool) -> Vec<Fate> {
    let mut fates = Vec::with_capacity(jobs.len());
    for job in jobs {
        let fate = if savepoints { in_savepoint(connection, &**job) } else { run_one(connection, &**job) };
        fates.push(fate);
        if fate == Fate::Broken {
            break;
        }
    }
    // Whoever was not reached.
    fates.resize(jobs.len(), Fate::Alone);
    fates
}

fn run_one(connection: &Arc<Mutex<Connection>>, job: &dyn Job) -> Fate {
    let (member, marks) = Member::sqlite(connection);
    // Nothing here waits: each statement is a call. What does wait for something else has to do so alone.
    let ended = job.attempt(Write::of_member(member)).now_or_never().is_some();
    match (!ended || marks.is_alone(), marks.has_written(), marks.is_to_be_undone()) {
        (true, true, _) | (false, _, true) => Fate::Broken,
        (true, false, _) => Fate::Alone,
        (false, _, false) => Fate::Done,
    }
}

fn in_savepoint(connection: &Arc<Mutex<Connection>>, job: &dyn Job) -> Fate {
    let execute = |sql| sqlite::execute(&connection.lock().unwrap_or_else(PoisonError::into_inner), sql);
    let run = || {
        execute("SAVEPOINT one")?;
        let (member, marks) = Member::sqlite(connection);
        let ended = job.attempt(Write::of_member(member)).now_or_never().is_some();
        let is_alone = !ended || marks.is_alone();
        if is_alone || marks.is_to_be_undone() {
            execute("ROLLBACK TO one")?;
        }
        execute("RELEASE one")?;
        Ok::<_, StoreError>(if is_alone { Fate::Alone } else { Fate::Done })
    };
    run().unwrap_or_else(|why| {
        tracing::debug!("a shared transaction broke: {why}");
        Fate::Broken
    })
}

/// Undoes the transaction and begins another.
fn again(connection: &Arc<Mutex<Connection>>) -> Result<(), StoreError> {
    let connection = connection.lock().unwrap_or_else(PoisonError::into_inner);
    if !connection.is_autocommit() {
        sqlite::execute(&connection, "ROLLBACK")?;
    }
    sqlite::execute(&connection, "BEGIN IMMEDIATE")
}
