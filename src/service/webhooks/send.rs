//! Sending what waits: each line in its order, some lines of each webhook at a time.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use http::Method;
use serde_json::json;
use tokio::task::{Id, JoinSet};
use tokio_util::sync::CancellationToken;

use super::super::audit::Subject;
use super::super::wakes::pause;
use super::super::{Actor, App, Error};
use super::body::{Event, write};
use super::content_context;
use super::known::Webhook;
use super::tell::Head;
use crate::model::{Timestamp, WebhookId};
use crate::remote::hooks::Call;
use crate::store::{DueLine, Lease, Settled, WaitingEvent, Write};

/// How long one message may take.
const TIME: Duration = Duration::from_secs(10);
/// Most events of a line that are sent under one lease.
const EVENTS: usize = 10;
/// How long a process may take for a line before another may take it over; longer than its events can last.
const LEASE: Duration = Duration::from_secs(150);
/// How much of an answer is read, for the sake of the connection.
const LARGEST: usize = 64 << 10;
/// Longest reason that is kept, in characters.
const REASON: usize = 300;

/// What a receiver said to an event.
#[derive(Debug)]
pub(super) enum Verdict {
    /// It has it.
    Taken,
    /// It wants none any more.
    Gone,
    /// It has to be sent again, not before this pause.
    Failed(String, Option<Duration>),
}

/// Sends one message.
pub(super) async fn post(app: &App, webhook: &Webhook, event: &Event<'_>) -> Verdict {
    let (headers, body) = match write(app, webhook, event, app.clock.now()) {
        Ok(written) => written,
        Err(error) => return Verdict::Failed(error.to_string(), None),
    };
    let url = webhook.url.clone();
    let call = Call { method: Method::POST, url, headers, body, key: None, time: TIME, largest: LARGEST };
    match app.receivers.tell(call).await {
        Ok(heard) if (200..300).contains(&heard.status) => Verdict::Taken,
        Ok(heard) if heard.status == 410 => Verdict::Gone,
        Ok(heard) => Verdict::Failed(format!("it answered {}", heard.status), heard.retry_after),
        Err(why) => Verdict::Failed(why.to_string().chars().take(REASON).collect(), None),
    }
}

/// The lines that this process sends just now: some of each webhook, so that a receiver which hangs holds up no other.
#[expect(missing_debug_implementations, reason = "an App has none")]
pub struct Flight {
    app: App,
    stop: CancellationToken,
    lines: JoinSet<Result<(), Error>>,
    webhooks: HashMap<Id, WebhookId>,
}

impl Flight {
    /// None is under way. After `stop`, each ends with the event that is being sent.
    #[must_use]
    pub fn new(app: &App, stop: CancellationToken) -> Self {
        Self { app: app.clone(), stop, lines: JoinSet::new(), webhooks: HashMap::new() }
    }

    /// Whether none is under way.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Leases what is due, as far as there is room, and begins to send it.
    ///
    /// # Errors
    /// [`Error::Unavailable`]; leases that were taken run out by themselves.
    pub async fn begin(&mut self) -> Result<(), Error> {
        let known = self.app.outbox.known.load_full();
        let most = usize::try_from(self.app.settings.hooks.concurrency).unwrap_or(usize::MAX);
        for webhook in known.iter().filter(|webhook| !webhook.is_paused) {
            let taken = self.webhooks.values().filter(|id| **id == webhook.id).count();
            let room = i64::try_from(most.saturating_sub(taken)).unwrap_or(i64::MAX);
            let now = self.app.clock.now();
            let lease = Lease { holder: self.app.process, now, until: now.plus(LEASE) };
            if room == 0 || !self.app.store.begin_read().await?.is_line_due(webhook.id, &lease).await? {
                continue;
            }
            let mut tx = self.app.store.begin_write().await?;
            let lines = tx.lease_lines(webhook.id, &lease, room).await?;
            tx.commit().await?;
            for line in lines {
                let work = send_line(self.app.clone(), Arc::clone(webhook), line, self.stop.clone());
                let task = self.lines.spawn(work);
                self.webhooks.insert(task.id(), webhook.id);
            }
        }
        Ok(())
    }

    /// Waits until a line has come to the end of what was leased of it. For ever where none is under way.
    ///
    /// # Errors
    /// [`Error::Unavailable`]; its lease runs out by itself.
    pub async fn next(&mut self) -> Result<(), Error> {
        match self.lines.join_next_with_id().await {
            None => std::future::pending().await,
            Some(Ok((id, outcome))) => {
                self.webhooks.remove(&id);
                outcome
            }
            Some(Err(died)) => {
                self.webhooks.remove(&died.id());
                Err(Error::Internal(format!("the sending of events died: {died}")))
            }
        }
    }
}

/// Sends what is due now, until nothing of it is under way any more.
///
/// # Errors
/// [`Error::Unavailable`].
pub async fn send_due(app: &App) -> Result<(), Error> {
    let mut flight = Flight::new(app, CancellationToken::new());
    loop {
        flight.begin().await?;
        if flight.is_empty() {
            return Ok(());
        }
        flight.next().await?;
    }
}

/// How far a line has come, before it is written down.
struct Progress {
    sent: i64,
    dead: Option<(i64, i64, String)>,
    attempts: i64,
    due_at: Timestamp,
    waiting_since: Timestamp,
}

async fn send_line(app: App, webhook: Arc<Webhook>, line: DueLine, stop: CancellationToken) -> Result<(), Error> {
    let now = app.clock.now();
    let mut progress =
        Progress { sent: line.done, dead: None, attempts: line.attempts, due_at: now, waiting_since: now };
    for _ in 0..EVENTS {
        let mut read = app.store.begin_read().await?;
        let event = read.next_event(line.device_id, line.webhook_id, progress.sent).await?;
        drop(read);
        let Some(event) = event else {
            // All that there was when it was leased.
            progress.sent = progress.sent.max(line.last);
            break;
        };
        progress.waiting_since = event.queued_at;
        match tell(&app, &webhook, &line, &event).await {
            Verdict::Taken => {
                app.outbox.counters.add("delivered", 1);
                progress.sent = event.number;
                progress.attempts = 0;
            }
            Verdict::Gone => {
                pause_webhook(&app, webhook.id, "the receiver answered 410 (Gone)").await?;
                progress.due_at = app.clock.now();
                break;
            }
            Verdict::Failed(why, after) => {
                fail(&app, &webhook, &event, &mut progress, (&why, after));
                break;
            }
        }
        progress.due_at = app.clock.now();
        if stop.is_cancelled() {
            break;
        }
    }
    settle(&app, line, progress).await
}

/// An event was not taken: it is tried again later, or given up, and then the line goes on.
fn fail(
    app: &App,
    webhook: &Webhook,
    event: &WaitingEvent,
    progress: &mut Progress,
    (why, after): (&str, Option<Duration>),
) {
    let (now, hooks) = (app.clock.now(), &app.settings.hooks);
    app.outbox.counters.add("failed", 1);
    progress.attempts += 1;
    let is_over = progress.attempts >= i64::from(hooks.max_attempts) || event.queued_at.plus(hooks.retry_for) <= now;
    if is_over {
        tracing::warn!(webhook = %webhook.id, event = %event.id, attempts = progress.attempts, why, "an event is given up");
        app.outbox.counters.add("dead", 1);
        progress.dead = Some((event.number, progress.attempts, why.to_owned()));
        progress.attempts = 0;
        progress.due_at = now;
    } else {
        tracing::debug!(webhook = %webhook.id, event = %event.id, attempts = progress.attempts, why, "an event is put off");
        let wait = pause(progress.attempts, app.random.below(1_000_000)).max(after.unwrap_or_default());
        progress.due_at = now.plus(wait);
    }
}

async fn tell(app: &App, webhook: &Webhook, line: &DueLine, event: &WaitingEvent) -> Verdict {
    let opened = app.open(&content_context(event.id), &event.content_sealed);
    let content = match &opened {
        Ok(content) => content.expose(),
        Err(why) => return Verdict::Failed(why.to_string(), None),
    };
    match Head::read(content) {
        Ok((head, raw)) => {
            let event = Event {
                id: event.id,
                topic: &event.topic,
                created_at: event.created_at,
                about: Some((line.device_id, event.enrollment_id)),
                tally: event.token_tally,
                head: Some(&head),
                raw,
            };
            post(app, webhook, &event).await
        }
        Err(why) => Verdict::Failed(why.to_string(), None),
    }
}

/// Writes down how far a line has come. Where rows are locked it is alone in its transaction; see `store::outbox`.
async fn settle(app: &App, line: DueLine, progress: Progress) -> Result<(), Error> {
    let now = app.clock.now();
    let is_settled = if app.store.has_one_writer() {
        let both = Arc::new((line, progress));
        let work = move |tx| {
            let both = Arc::clone(&both);
            async move { write_down(tx, &both.0, &both.1, now).await }.boxed()
        };
        app.store.together(Vec::new(), work).await?
    } else {
        write_down(app.store.begin_write().await?, &line, &progress, now).await?
    };
    if !is_settled {
        tracing::warn!("events were sent after their lease, and may be sent twice");
    }
    Ok(())
}

async fn write_down(mut tx: Write, line: &DueLine, progress: &Progress, now: Timestamp) -> Result<bool, Error> {
    let settled = Settled {
        sent: progress.sent,
        dead: progress.dead.as_ref().map(|(number, attempts, why)| (*number, *attempts, why.as_str())),
        attempts: progress.attempts,
        due_at: progress.due_at,
        waiting_since: progress.waiting_since,
    };
    let is_settled = tx.settle_line(line, &settled, now).await?;
    tx.commit().await?;
    Ok(is_settled)
}

/// Sends nothing more to a webhook, because its receiver said so.
async fn pause_webhook(app: &App, id: WebhookId, why: &str) -> Result<(), Error> {
    let now = app.clock.now();
    let mut tx = app.store.begin_write().await?;
    let Some(mut row) = tx.webhook_for_update(id).await?.filter(|row| row.paused_at.is_none()) else { return Ok(()) };
    row.paused_at = Some(now);
    row.paused_reason = Some(why.to_owned());
    if tx.update_webhook(&row, now).await? {
        let subject = Subject { kind: "webhook", id: &id.to_string() };
        app.audit(&mut tx, &Actor::server(), "webhook.paused", subject, &json!({"reason": why}), now).await?;
        tx.commit().await?;
        tracing::warn!(webhook = %id, why, "a webhook is paused");
    }
    app.reload_webhooks().await
}
