use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::{Notify, oneshot};
use tokio::time::timeout;

use super::{server, sqlite, writer};
use crate::store::{Store, StoreError, Write};

/// Most messages in one transaction.
const LARGEST: usize = 128;
/// Most transactions at once on PostgreSQL: while one is being committed, the next one works.
const AT_ONCE: usize = 3;
/// Most messages that wait for a transaction; more are told to come again.
const LONGEST: usize = 8_192;
/// A transaction that takes longer is given up, so that those in line are told.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

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

/// What shares a transaction with what, on PostgreSQL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// Messages of devices, and what is done to devices in their stead: an enrollment is locked, and then what belongs to it.
    Message,
    /// Notes of the server's own on rows that belong to enrollments, which it does not lock. They wait for no row; in one
    /// transaction with messages, which may wait for such a row, they would hold theirs meanwhile.
    Note,
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
pub(super) struct Line {
    waiting: Mutex<Waiting>,
    pub(super) came: Condvar,
    pub(super) closed: AtomicBool,
    /// Told when the writer's thread has ended.
    pub(super) ended: Notify,
    /// How many pages an SQLite file may have, for tests; 0 is no limit.
    pub(super) pages: AtomicU32,
}

#[derive(Default)]
pub(super) struct Waiting {
    jobs: Vec<Box<dyn Job>>,
    /// Those of the transactions under way.
    keys: HashSet<Key>,
    /// How many transactions are under way; on SQLite whether the thread was started.
    pub(super) at_work: usize,
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
pub(super) trait Job: Send {
    fn class(&self) -> Class;
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
    class: Class,
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
    fn class(&self) -> Class {
        self.class
    }

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
        self.share(Class::Message, keys, work).await
    }

    /// As [`Store::together`], for notes on rows that belong to enrollments, which `work` does not lock. It waits for no row
    /// that another holds, and has no key in common with any.
    ///
    /// # Errors
    /// As [`Store::together`].
    pub async fn note<T, E, F>(&self, work: F) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
        F: Fn(Write) -> BoxFuture<'static, Result<T, E>> + Send + Sync + 'static,
    {
        self.share(Class::Note, Vec::new(), work).await
    }

    async fn share<T, E, F>(&self, class: Class, keys: Vec<Key>, work: F) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
        F: Fn(Write) -> BoxFuture<'static, Result<T, E>> + Send + Sync + 'static,
    {
        let work = Arc::new(work);
        let (answer, answered) = oneshot::channel();
        self.join(Box::new(Work { class, keys, work: Arc::clone(&work), result: Arc::default(), answer }))?;
        match answered.await {
            Ok(Told::Done(result)) => result,
            Ok(Told::Alone) => work(self.begin_write().await?).await,
            Ok(Told::Failed(why)) => Err(why.into()),
            Err(_) => Err(StoreError::Unavailable("a message was left without an answer".to_owned()).into()),
        }
    }

    fn join(&self, job: Box<dyn Job>) -> Result<(), StoreError> {
        let line = &self.together.0.0;
        let mut waiting = line.waiting();
        // Under the lock: who closes waits for those that are in line, and for nobody who comes after.
        if line.closed.load(Ordering::Acquire) {
            return Err(sqlite::closed());
        }
        if waiting.jobs.len() >= LONGEST {
            return Err(StoreError::Unavailable("too many messages wait to be written".to_owned()));
        }
        if let Some((path, turn)) = self.sqlite_turn() {
            if waiting.at_work == 0 {
                writer::start(line, path, turn)?;
                waiting.at_work = 1;
            }
            waiting.jobs.push(job);
            line.came.notify_one();
        } else if let Some(pool) = self.postgres() {
            waiting.jobs.push(job);
            if waiting.at_work == 0 || (waiting.at_work < AT_ONCE && waiting.jobs.len() >= LARGEST) {
                waiting.at_work += 1;
                tokio::spawn(server::run(server::AtWork::new(line), pool.clone()));
            }
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
    pub(super) fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    /// Takes out the next that may share a transaction, the oldest first; of one class where only `alike` may share one.
    pub(super) fn next(&mut self, alike: bool) -> Vec<Box<dyn Job>> {
        let mut taken: Vec<Box<dyn Job>> = Vec::new();
        let mut left = Vec::new();
        for job in std::mem::take(&mut self.jobs) {
            let fits = !alike || taken.first().is_none_or(|first| first.class() == job.class());
            if fits && taken.len() < LARGEST && !job.keys().iter().any(|key| self.keys.contains(key)) {
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

/// The keys of a transaction under way; free again when it has ended, in whatever way.
pub(super) struct Taken {
    line: Arc<Line>,
    keys: Vec<Key>,
}

impl Taken {
    pub(super) fn by(jobs: &[Box<dyn Job>], line: &Arc<Line>) -> Self {
        Self { line: Arc::clone(line), keys: jobs.iter().flat_map(|job| job.keys()).copied().collect() }
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        let mut waiting = self.line.waiting();
        for key in &self.keys {
            waiting.keys.remove(key);
        }
    }
}
