//! Idle polls: what one needs to know, and one statement for all that are asked at the same time.
//!
//! A poll reads three rows and writes none; the way to the database and back costs several times as much as the reading. On
//! SQLite there is no way: the thread that has the request reads the file itself. On PostgreSQL polls wait in line, and
//! whoever finds nobody at work asks for all of them at once. Nothing is delayed for it: a single poll is asked for as soon
//! as it comes, and those that come meanwhile are the next statement's. Each poll is answered from a state of the database
//! that is no older than its own question: a revocation that was committed before it is seen.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;

use super::hot::{FromCells, Statement, Value};
use super::{Store, StoreError};
use crate::model::{EnrollmentId, Sha256};

/// Most polls in one statement.
const LARGEST: usize = 256;
/// Most statements at once. A second one begins only when the line is longer than one statement takes.
const AT_ONCE: usize = 4;
/// A statement that takes longer than this is given up, so that those in line are told.
const PATIENCE: Duration = Duration::from_secs(10);

/// SQLite takes the index of open deliveries for the least priority, where `EXISTS` would read the device's history; and
/// that of the commands for all only when told that it holds all that count.
pub(super) static POLL: Statement = Statement::new(
    "SELECT e.id, e.state, i.sha256 IS NOT NULL AS is_pinned, i.revoked_at IS NOT NULL AS is_revoked,
            (SELECT MIN(d.priority) FROM deliveries d
              WHERE d.enrollment_id = e.id AND d.state IN ('queued', 'sent', 'not_now')) IS NOT NULL
            OR COALESCE((SELECT MAX(c.fleet_number) FROM commands c WHERE c.fleet_number IS NOT NULL) > e.fleet_cursor,
                        FALSE) AS has_work
       FROM enrollments e
       LEFT JOIN identities i ON i.enrollment_id = COALESCE(e.parent_id, e.id) AND i.sha256 = $2
      WHERE e.apple_id = $1",
);

/// What one idle poll needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Poll {
    /// The enrollment.
    pub id: EnrollmentId,
    /// See the migration.
    pub state: String,
    /// Whether the certificate is pinned to its device channel.
    pub pinned: bool,
    /// Whether that pin was revoked.
    pub revoked: bool,
    /// Whether a delivery is open, or a command for all not yet looked at.
    pub has_work: bool,
}

columns!(Poll, poll_columns: id, state, pinned, revoked, has_work);

/// The polls of a store that wait for an answer.
#[derive(Clone, Debug, Default)]
pub(super) struct Polls(Arc<Mutex<Line>>);

/// Its length is bounded by that of the requests in flight.
#[derive(Debug, Default)]
struct Line {
    waiting: Vec<Waiting>,
    asking: usize,
}

#[derive(Debug)]
struct Waiting {
    /// An enrollment by Apple's id, and the certificate that the message came with.
    question: Vec<Value>,
    answer: oneshot::Sender<Result<Option<Poll>, StoreError>>,
}

impl Store {
    /// The enrollment that a message names, the pin of the certificate it came with, and whether there is work.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn poll(&self, apple_id: &str, certificate: Sha256) -> Result<Option<Poll>, StoreError> {
        let question = vec![apple_id.into(), certificate.into()];
        if let Some(readers) = self.quick() {
            let rows = readers.run(&POLL, &question)?;
            return rows.into_iter().next().map(|row| Poll::from_cells(&mut row.into_iter())).transpose();
        }
        let (answer, answered) = oneshot::channel();
        if self.polls.join(Waiting { question, answer }) {
            // In a task of its own: whoever began it may go away, and the others still wait.
            tokio::spawn(ask_all(self.clone()));
        }
        answered.await.unwrap_or_else(|_| Err(StoreError::Unavailable("a poll was left without an answer".to_owned())))
    }
}

/// Asks until nobody is in line.
async fn ask_all(store: Store) {
    let mut work = AtWork { polls: store.polls.clone(), finished: false };
    loop {
        // Those that are just being read join first.
        tokio::task::yield_now().await;
        let batch = work.next();
        if batch.is_empty() {
            return;
        }
        let (questions, answers): (Vec<_>, Vec<_>) = batch.into_iter().map(|w| (w.question, w.answer)).unzip();
        let asked = timeout(PATIENCE, async { store.begin_read().await?.ask_many(&POLL, questions).await });
        let found = asked.await.unwrap_or_else(|_| Err(StoreError::Unavailable("it does not answer".to_owned())));
        match found {
            Ok(found) => {
                for (answer, found) in answers.into_iter().zip(found) {
                    let row = found.rows.into_iter().next();
                    // Whoever went away needs none.
                    let _ = answer.send(row.map(|row| Poll::from_cells(&mut row.into_iter())).transpose());
                }
            }
            Err(why) => {
                for answer in answers {
                    let _ = answer.send(Err(why.clone()));
                }
            }
        }
    }
}

impl Polls {
    fn line(&self) -> MutexGuard<'_, Line> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Joins the line; true for whoever is to begin asking.
    fn join(&self, one: Waiting) -> bool {
        let mut line = self.line();
        line.waiting.push(one);
        let begin = line.asking == 0 || (line.asking < AT_ONCE && line.waiting.len() >= LARGEST);
        line.asking += usize::from(begin);
        begin
    }
}

/// One of those who ask. It is counted until it finds the line empty, under the same lock, so that a poll that joins is
/// either taken or begins anew; and it is counted no more when its task dies.
struct AtWork {
    polls: Polls,
    finished: bool,
}

impl AtWork {
    /// The next that are asked for; nobody ends the work.
    fn next(&mut self) -> Vec<Waiting> {
        let mut line = self.polls.line();
        line.waiting.retain(|one| !one.answer.is_closed());
        let count = line.waiting.len().min(LARGEST);
        let batch: Vec<_> = line.waiting.drain(..count).collect();
        if batch.is_empty() {
            line.asking -= 1;
            self.finished = true;
        }
        batch
    }
}

impl Drop for AtWork {
    fn drop(&mut self) {
        if !self.finished {
            let mut line = self.polls.line();
            line.asking -= 1;
            // Their askers are told; the next poll begins anew.
            line.waiting.clear();
        }
    }
}
