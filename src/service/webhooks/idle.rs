//! Polls: told from memory, as well as it goes. What has no room is dropped, and nothing is tried twice.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream;
use tokio_util::sync::CancellationToken;

use super::super::check_in::Arrived;
use super::super::{App, Error};
use super::body::Event;
use super::known::Webhook;
use super::send::{Verdict, post};
use super::tell::Head;
use super::topic::{Message, Standing};
use crate::model::{EnrollmentId, EventId, Timestamp};
use crate::protocol::Sender;

/// Most polls that wait.
const WAITING: usize = 1024;
/// The largest poll that is told of, in bytes; real ones have some hundreds.
const LARGEST: usize = 16 << 10;
/// How many are told of at the same time.
pub(super) const AT_ONCE: usize = 8;

/// A poll that webhooks are to be told of.
#[derive(Debug)]
pub(super) struct IdleEvent {
    enrollment: EnrollmentId,
    head: Head,
    raw: Bytes,
    at: Timestamp,
}

/// A poll was answered: webhooks that want to know are told of it, if there is room.
pub(in crate::service) fn polled(app: &App, enrollment: EnrollmentId, arrived: &Arrived, sender: &Sender) {
    if !app.outbox.known.load().iter().any(|webhook| wants(webhook)) {
        return;
    }
    if arrived.raw.len() > LARGEST {
        app.outbox.counters.add("idle_dropped", 1);
        return;
    }
    let head = Head { status: Some("Idle".to_owned()), ..Head::of(Message::Idle, sender, arrived.query.as_deref()) };
    // Copied: what came counts against the memory for messages while it is there.
    let raw = Bytes::copy_from_slice(&arrived.raw);
    app.outbox.push_idle(IdleEvent { enrollment, head, raw, at: app.clock.now() }, WAITING);
    app.signals.polled.notify_one();
}

fn wants(webhook: &Webhook) -> bool {
    let topic = Message::Idle.topic(webhook.form, Standing::default());
    webhook.idle && !webhook.is_paused && topic.is_some_and(|topic| webhook.wants(topic))
}

/// Tells of the polls that wait, until `stop`.
///
/// # Errors
/// [`Error::Unavailable`]; the polls that were taken are lost then.
pub async fn send_idle(app: &App, stop: &CancellationToken) -> Result<(), Error> {
    while !stop.is_cancelled()
        && let Some(event) = app.outbox.take_idle()
    {
        let more = std::iter::from_fn(|| app.outbox.take_idle()).take(AT_ONCE - 1);
        let events: Vec<_> = std::iter::once(event).chain(more).collect();
        let told = stream::iter(events).map(|event| tell(app, event)).buffer_unordered(AT_ONCE);
        let outcomes: Vec<Result<(), Error>> = told.collect().await;
        outcomes.into_iter().collect::<Result<(), Error>>()?;
    }
    Ok(())
}

async fn tell(app: &App, idle: IdleEvent) -> Result<(), Error> {
    let webhooks: Vec<Arc<Webhook>> =
        app.outbox.known.load().iter().filter(|webhook| wants(webhook)).map(Arc::clone).collect();
    let Some(enrollment) = app.store.begin_read().await?.enrollment(idle.enrollment).await? else { return Ok(()) };
    let id = EventId::new(idle.at, &*app.random);
    for webhook in webhooks {
        let Some(topic) = Message::Idle.topic(webhook.form, Standing::default()) else { continue };
        let event = Event {
            id,
            topic,
            created_at: idle.at,
            about: Some((enrollment.device_id, enrollment.id)),
            tally: None,
            head: Some(&idle.head),
            raw: &idle.raw,
        };
        let is_taken = matches!(post(app, &webhook, &event).await, Verdict::Taken);
        app.outbox.counters.add(if is_taken { "idle_delivered" } else { "idle_failed" }, 1);
    }
    Ok(())
}
