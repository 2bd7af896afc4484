//! Shared transactions on PostgreSQL: those who share run side by side.

use std::sync::Arc;

use sqlx::postgres::PgPool;
use tokio::time::timeout;

use super::group::{Job, Line, PATIENCE, Taken};
use super::loader::Loader;
use super::member::{Fate, Member};
use crate::store::{StoreError, Write};

/// Runs transactions until nobody waits.
pub(super) async fn run(mut at_work: AtWork, pool: PgPool) {
    loop {
        // Those that are just being read join first.
        tokio::task::yield_now().await;
        let jobs = at_work.next();
        if jobs.is_empty() {
            return;
        }
        let taken = Taken::by(&jobs, &at_work.line);
        share(jobs, &pool).await;
        drop(taken);
    }
}

/// One of those who run transactions. It counts until it finds nothing to do, under the same lock, so that a message that
/// joins is either taken or begins anew; and it counts no more when its task dies.
pub(super) struct AtWork {
    line: Arc<Line>,
    finished: bool,
}

impl AtWork {
    /// Counted already.
    pub(super) fn new(line: &Arc<Line>) -> Self {
        Self { line: Arc::clone(line), finished: false }
    }

    /// The next that share a transaction; nobody ends the work. What waits for a key of another transaction is taken after
    /// that one.
    fn next(&mut self) -> Vec<Box<dyn Job>> {
        let mut waiting = self.line.waiting();
        let jobs = waiting.next(true);
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
        if !went || marks.iter().any(|mark| mark.fate(true) == Fate::Broken) {
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
                if mark.fate(true) == Fate::Done { job.done() } else { job.alone() }
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
