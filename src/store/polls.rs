//! Idle polls: what one needs to know, and one statement for all that are asked at the same time.
//!
//! A poll reads three rows and writes none; the way to the database and back (a thread on SQLite, a socket on
//! PostgreSQL) costs several times as much as the reading. So polls wait in line, and whoever finds nobody at work asks
//! for all of them at once. Nothing is delayed for it: a single poll is asked for as soon as it comes, and those that
//! come meanwhile are the next statement's. Each poll is answered from a state of the database that is no older than
//! its own question: a revocation that was committed before it is seen.

use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sqlx::AssertSqlSafe;
use tokio::sync::oneshot;
use tokio::time::timeout;
use uuid::Uuid;

use super::connect::Connection;
use super::{Read, Store, StoreError};
use crate::model::{EnrollmentId, Sha256};

/// Most polls in one statement, as a power of two.
const LARGEST: u32 = 6;
/// Most statements at once. A second one begins only when the line is longer than one statement takes.
const AT_ONCE: usize = 4;
/// A statement that takes longer than this is given up, so that those in line are told.
const PATIENCE: Duration = Duration::from_secs(10);

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
    question: Question,
    answer: oneshot::Sender<Result<Option<Poll>, StoreError>>,
}

/// An enrollment by Apple's id, and the certificate that the message came with.
#[derive(Clone, Debug)]
struct Question {
    apple_id: String,
    certificate: Sha256,
}

impl Store {
    /// The enrollment that a message names, the pin of the certificate it came with, and whether there is work.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn poll(&self, apple_id: &str, certificate: Sha256) -> Result<Option<Poll>, StoreError> {
        let (answer, answered) = oneshot::channel();
        let question = Question { apple_id: apple_id.to_owned(), certificate };
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
        let asked = timeout(PATIENCE, async { store.begin_read().await?.polls(&questions).await });
        let found = asked.await.unwrap_or_else(|_| Err(StoreError::Unavailable("it does not answer".to_owned())));
        match found {
            Ok(found) => {
                for (answer, found) in answers.into_iter().zip(found) {
                    // Whoever went away needs none.
                    let _ = answer.send(Ok(found));
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
        let begin = line.asking == 0 || (line.asking < AT_ONCE && line.waiting.len() >= 1 << LARGEST);
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
        let count = line.waiting.len().min(1 << LARGEST);
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

impl Read {
    /// Answers at most 2 to the power of [`LARGEST`] questions, in their order, by one statement.
    async fn polls(&mut self, questions: &[Question]) -> Result<Vec<Option<Poll>>, StoreError> {
        let size = questions.len().next_power_of_two();
        let power = size.trailing_zeros() as usize;
        macro_rules! ask {
            ($connection:expr, $statements:expr) => {{
                let sql = $statements.get(power).map(|sql| AssertSqlSafe(Arc::clone(sql)));
                let sql = sql.ok_or_else(|| StoreError::Broken(format!("{size} polls at once")))?;
                let mut query = sqlx::query_scalar::<_, Option<String>>(sql);
                for place in 0..size {
                    let question = questions.get(place);
                    query = query.bind(question.map(|q| q.apple_id.as_str())).bind(question.map(|q| q.certificate));
                }
                query.fetch_one($connection).await
            }};
        }
        let text = match self.connection() {
            Connection::Sqlite(connection) => ask!(connection, SQLITE_STATEMENTS),
            Connection::Postgres(connection) => ask!(connection, POSTGRES_STATEMENTS),
        }?;
        let mut answers = vec![None; questions.len()];
        for answer in text.iter().flat_map(|text| text.split(',')) {
            let (place, poll) =
                read_answer(answer).ok_or_else(|| StoreError::Broken(format!("a poll's answer: {answer}")))?;
            if let Some(answer) = answers.get_mut(place) {
                *answer = Some(poll);
            }
        }
        Ok(answers)
    }
}

/// The number of a question, and the words that [`statement`] makes of its answer.
fn read_answer(text: &str) -> Option<(usize, Poll)> {
    let mut words = text.split(' ');
    let mut word = || words.next();
    let (place, id, state) = (word()?.parse().ok()?, Uuid::try_parse(word()?).ok()?, word()?.to_owned());
    let mut flag = || word().map(|word| word == "1");
    let poll = Poll { id: EnrollmentId(id), state, pinned: flag()?, revoked: flag()?, has_work: flag()? };
    Some((place, poll))
}

/// The statements for 1, 2, 4 … questions: few texts, so that each is prepared once for a connection. Places that are
/// not needed hold NULL, which finds nothing.
type Statements = LazyLock<Vec<Arc<str>>>;

pub(super) static SQLITE_STATEMENTS: Statements = LazyLock::new(|| statements("hex(e.id)"));
static POSTGRES_STATEMENTS: Statements = LazyLock::new(|| statements("CAST(e.id AS TEXT)"));

fn statements(id: &str) -> Vec<Arc<str>> {
    (0..=LARGEST).map(|power| statement(1 << power, id)).collect()
}

/// All answers are one text: on SQLite each row would wake the task that waits for it. `id` is how the database writes
/// an enrollment's.
///
/// `CROSS JOIN` tells SQLite to begin with the questions and to look up each; to PostgreSQL it is a plain join. SQLite
/// takes the index of open deliveries for the least priority, where `EXISTS` would read the device's history; and that of
/// the commands for all only when told that it holds all that count.
fn statement(size: usize, id: &str) -> Arc<str> {
    let places: Vec<_> = (0..size).map(|n| format!("(CAST({n} AS BIGINT), ${}, ${})", 2 * n + 1, 2 * n + 2)).collect();
    let flag = |condition: &str| format!("CASE WHEN {condition} THEN '1' ELSE '0' END");
    let open = "(SELECT MIN(d.priority) FROM deliveries d
                  WHERE d.enrollment_id = e.id AND d.state IN ('queued', 'sent', 'not_now')) IS NOT NULL";
    let for_all = "(SELECT MAX(c.fleet_number) FROM commands c WHERE c.fleet_number IS NOT NULL) > e.fleet_cursor";
    format!(
        "WITH asked (place, apple_id, sha256) AS (VALUES {places})
         SELECT string_agg(CAST(a.place AS TEXT) || ' ' || {id} || ' ' || e.state || ' ' || {pinned} || ' ' || {revoked}
                           || ' ' || {has_work}, ',')
           FROM asked a
          CROSS JOIN enrollments e
           LEFT JOIN identities i ON i.enrollment_id = COALESCE(e.parent_id, e.id) AND i.sha256 = a.sha256
          WHERE e.apple_id = a.apple_id",
        places = places.join(", "),
        pinned = flag("i.sha256 IS NOT NULL"),
        revoked = flag("i.revoked_at IS NOT NULL"),
        has_work = flag(&format!("{open} OR {for_all}")),
    )
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_as_either_database_writes_it() {
        let id = EnrollmentId(Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_00ab));
        let poll = Poll { id, state: "enabled".to_owned(), pinned: true, revoked: false, has_work: true };
        for written in ["019000000000700080000000000000AB", "01900000-0000-7000-8000-0000000000ab"] {
            assert_eq!(read_answer(&format!("7 {written} enabled 1 0 1")), Some((7, poll.clone())));
        }
        for wrong in ["", "7", "x 01900000-0000-7000-8000-0000000000ab enabled 1 0 1", "7 nobody enabled 1 0 1"] {
            assert_eq!(read_answer(wrong), None, "{wrong}");
        }
    }
}
