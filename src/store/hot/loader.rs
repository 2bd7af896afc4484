use std::collections::{HashMap, HashSet};
use std::future::poll_fn;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use sqlx::postgres::PgConnection;
use tokio::sync::oneshot;
use uuid::Uuid;

use super::sqlite::Outcome;
use super::{Statement, Value, postgres};
use crate::store::StoreError;

/// The questions of the members of one transaction on PostgreSQL, each of which waits for its answer.
///
/// The members are run until none of them can go on; then the statement that most of them wait for is run for all of these
/// at once, and so on until they are done. They do much the same, so that they go in step.
#[derive(Debug, Default)]
pub(super) struct Loader {
    waiting: Mutex<Vec<Question>>,
    guards: Mutex<HashMap<Uuid, Arc<tokio::sync::Mutex<()>>>>,
}

struct Question {
    statement: &'static Statement,
    arguments: Vec<Value>,
    answer: oneshot::Sender<Result<Outcome, StoreError>>,
}

impl std::fmt::Debug for Question {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The arguments may be secrets.
        f.debug_struct("Question").field("statement", &self.statement.one()).finish_non_exhaustive()
    }
}

impl Loader {
    pub(super) async fn ask(
        &self,
        statement: &'static Statement,
        arguments: Vec<Value>,
    ) -> Result<Outcome, StoreError> {
        let (answer, answered) = oneshot::channel();
        self.waiting().push(Question { statement, arguments, answer });
        answered.await.unwrap_or_else(|_| Err(StoreError::Unavailable("the shared transaction ended".to_owned())))
    }

    pub(super) fn guard(&self, what: Uuid) -> Arc<tokio::sync::Mutex<()>> {
        Arc::clone(self.guards.lock().unwrap_or_else(PoisonError::into_inner).entry(what).or_default())
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, Vec<Question>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many questions there are. One of which nobody awaits the answer any more is none.
    fn asking(&self) -> usize {
        let mut waiting = self.waiting();
        waiting.retain(|question| !question.answer.is_closed());
        waiting.len()
    }

    /// Takes out those that are answered next: they wait for the same statement, and when it writes, have different first
    /// arguments. In the order of these, so that two transactions do not lock rows in opposite orders.
    fn next(&self) -> Vec<Question> {
        let mut waiting = self.waiting();
        let mut counts: HashMap<*const Statement, usize> = HashMap::new();
        for question in waiting.iter() {
            *counts.entry(std::ptr::from_ref(question.statement)).or_default() += 1;
        }
        let of = |question: &Question| counts.get(&std::ptr::from_ref(question.statement)).copied().unwrap_or(0);
        // The oldest of those that are as many.
        let Some(most) = waiting.iter().rev().max_by_key(|question| of(question)).map(|q| q.statement) else {
            return Vec::new();
        };
        let is_bound = most.writes() && !most.adds_up();
        let mut firsts = HashSet::new();
        let (mut taken, left): (Vec<_>, Vec<_>) = std::mem::take(&mut *waiting).into_iter().partition(|question| {
            std::ptr::eq(question.statement, most) && (!is_bound || firsts.insert(question.arguments.first().cloned()))
        });
        *waiting = left;
        taken.sort_by(|a, b| a.arguments.first().cmp(&b.arguments.first()));
        taken
    }

    /// Polls the members until each has asked or is done.
    ///
    /// A set of futures, and the runtime too, now and then say "pending" for a future that could go on, so that others get
    /// their turn. So whoever is not done may neither have asked nor wait for anything: only where somebody has asked is
    /// there something to do here; else it is waited for the next poll, and never for the end of a member, which may come to
    /// wait for an answer itself.
    async fn advance(&self, members: &mut FuturesUnordered<BoxFuture<'static, ()>>) {
        let all = poll_fn(|context| {
            loop {
                let asked = self.asking();
                while let Poll::Ready(Some(())) = members.poll_next_unpin(context) {}
                let asks = self.asking();
                if members.is_empty() || (asks == asked && asks > 0) {
                    return Poll::Ready(());
                }
                if asks == asked {
                    return Poll::Pending;
                }
            }
        });
        // Without the runtime's measure for one task: it would be used up by a hundred members in the midst of a step.
        tokio::task::unconstrained(all).await;
    }

    /// Runs the members until all are done. False: the transaction has to be undone, and each has to run again, alone.
    pub(super) async fn run(
        self: &Arc<Self>,
        members: Vec<BoxFuture<'static, ()>>,
        connection: &mut PgConnection,
    ) -> Result<bool, StoreError> {
        let mut members: FuturesUnordered<_> = members.into_iter().collect();
        loop {
            self.advance(&mut members).await;
            if members.is_empty() {
                return Ok(true);
            }
            let questions = self.next();
            let Some(statement) = questions.first().map(|question| question.statement) else { continue };
            let (arguments, answers): (Vec<_>, Vec<_>) =
                questions.into_iter().map(|question| (question.arguments, question.answer)).unzip();
            let outcomes = match postgres::run_many(connection, statement, arguments).await {
                Ok(Some(outcomes)) => outcomes,
                Ok(None) => return Ok(false),
                // The connection or the server is gone: nobody else fares better. What was one member's fault is found
                // when each runs alone.
                Err(error) => {
                    tracing::debug!(statement = statement.one(), "a shared statement failed: {error}");
                    return Ok(false);
                }
            };
            for (answer, outcome) in answers.into_iter().zip(outcomes) {
                // Whoever went away needs none.
                let _ = answer.send(Ok(outcome));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static STATEMENT: Statement = Statement::new("SELECT $1");

    /// Asks after it has used up what the runtime allows a task in one go, and what a set of futures polls in one go.
    async fn late(loader: Arc<Loader>, number: i64) {
        for _ in 0..number % 300 {
            let (sender, receiver) = oneshot::channel();
            let _ = sender.send(());
            let _ = receiver.await;
            tokio::task::yield_now().await;
        }
        let _ = loader.ask(&STATEMENT, vec![Value::Int(Some(number))]).await;
    }

    #[tokio::test]
    async fn whoever_can_go_on_is_never_left_behind() {
        let loader = Arc::new(Loader::default());
        let mut members: FuturesUnordered<BoxFuture<'static, ()>> = FuturesUnordered::new();
        for number in 0..500 {
            members.push(Box::pin(late(Arc::clone(&loader), number)));
        }
        let mut answered = 0;
        while answered < 500 {
            loader.advance(&mut members).await;
            let questions = loader.next();
            assert!(!questions.is_empty(), "{answered} were answered");
            answered += questions.len();
            for question in questions {
                let _ = question.answer.send(Ok(Outcome::default()));
            }
        }
        loader.advance(&mut members).await;
        assert!(members.is_empty());
    }

    #[tokio::test]
    async fn those_who_go_in_step_are_asked_for_together() {
        let loader = Arc::new(Loader::default());
        let mut members: FuturesUnordered<BoxFuture<'static, ()>> = FuturesUnordered::new();
        for number in 0..1_000 {
            let loader = Arc::clone(&loader);
            members.push(Box::pin(async move {
                for _ in 0..3 {
                    let _ = loader.ask(&STATEMENT, vec![Value::Int(Some(number))]).await;
                }
            }));
        }
        for _ in 0..3 {
            loader.advance(&mut members).await;
            let questions = loader.next();
            assert_eq!(questions.len(), 1_000);
            for question in questions {
                let _ = question.answer.send(Ok(Outcome::default()));
            }
        }
        loader.advance(&mut members).await;
        assert!(members.is_empty());
    }

    #[tokio::test]
    async fn a_question_of_one_who_went_away_is_forgotten() {
        let loader = Arc::new(Loader::default());
        let mut members: FuturesUnordered<BoxFuture<'static, ()>> = FuturesUnordered::new();
        let asks = Arc::clone(&loader);
        members.push(Box::pin(async move {
            let given_up = asks.ask(&STATEMENT, vec![Value::Int(Some(1))]);
            let _ = tokio::time::timeout(std::time::Duration::ZERO, given_up).await;
            let _ = asks.ask(&STATEMENT, vec![Value::Int(Some(2))]).await;
        }));
        loop {
            loader.advance(&mut members).await;
            let questions = loader.next();
            if questions.iter().any(|question| question.arguments == [Value::Int(Some(2))]) {
                assert_eq!(questions.len(), 1);
                break;
            }
        }
    }
}
