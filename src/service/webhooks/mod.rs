//! Webhooks: addresses that are told of what devices send, in NanoMDM's form or as CloudEvents.
//!
//! An event is written in the transaction of the message that it tells of ([`tell`]), into a line for each device and webhook,
//! and sent from there in its order, at least once ([`send`]). Polls are told from memory, if at all ([`idle`]). Which
//! webhooks there are is known in memory ([`known`]): where there is none, a message costs nothing more.

mod body;
mod care;
mod idle;
mod known;
mod secret;
mod send;
mod tell;
mod topic;

use std::time::Duration;

use serde_json::json;
use url::Url;

use super::audit::Subject;
use super::{Actor, App, Error, Fault, idempotency};
use crate::config::Settings;
use crate::model::{EventId, Secret, Timestamp, WebhookForm, WebhookId};
use crate::store::{DeadEvent, WebhookRow, Write};

pub use care::{Waiting, clear_removed, count_waiting};
pub use idle::send_idle;
pub use known::{Outbox, RESULTS, take_counts};
pub use send::{Flight, send_due};
pub use topic::topics;

pub(super) use care::prune_dead;
pub(super) use idle::polled;
pub(super) use tell::{Telling, of_check_in, of_report, told};
pub(super) use topic::Message;

use known::Webhook;
use send::Verdict;

/// Most webhooks: each message writes for all that want it.
const MOST: i64 = 20;
/// Longest URL, in bytes.
const MAX_URL: usize = 2000;
/// Events that were given up and are read at once.
const BATCH: i64 = 100;
/// Most of them that one request sends again.
const MOST_REPLAYED: u64 = 10_000;

/// A webhook to be made.
#[derive(Clone, Debug)]
pub struct NewWebhook {
    /// What it is for.
    pub name: String,
    /// Where it is.
    pub url: Secret<String>,
    /// The form of its messages.
    pub form: WebhookForm,
    /// What they are signed with. Without one, one is made for CloudEvents.
    pub secret: Option<Secret<String>>,
    /// What it is told of; nothing for all.
    pub topics: Vec<String>,
    /// Whether it is told of polls.
    pub idle: bool,
    /// Whether the message itself rides along with a CloudEvent.
    pub raw: bool,
}

/// What is changed of a webhook; what is none stays.
#[derive(Clone, Debug, Default)]
#[expect(missing_docs, reason = "as in NewWebhook")]
pub struct Change {
    pub name: Option<String>,
    pub url: Option<Secret<String>>,
    pub secret: Option<Secret<String>>,
    pub topics: Option<Vec<String>>,
    pub idle: Option<bool>,
    pub raw: Option<bool>,
    /// Whether nothing is sent for now.
    pub paused: Option<bool>,
}

/// A webhook that was made. Its secret is shown this once.
#[derive(Clone, Debug)]
pub struct Created {
    /// What is kept of it.
    pub row: WebhookRow,
    /// Its secret, if it has one.
    pub secret: Option<Secret<String>>,
}

/// A webhook, and what there is for it.
#[derive(Clone, Debug)]
pub struct View {
    /// The webhook.
    pub row: WebhookRow,
    /// How many events wait.
    pub waiting: i64,
    /// Since when the first of them does.
    pub waiting_since: Option<Timestamp>,
    /// How many were given up.
    pub dead: i64,
}

/// What came of trying a webhook.
#[derive(Clone, Debug)]
pub struct Tried {
    /// Whether the receiver took the message.
    pub taken: bool,
    /// Why not.
    pub why: Option<String>,
    /// How long it took.
    pub took: Duration,
}

/// Makes a webhook.
///
/// # Errors
/// [`Error::Invalid`] `invalid_webhook`; [`Error::Conflict`] `too_many_webhooks`.
pub async fn create(app: &App, actor: &Actor, new: NewWebhook) -> Result<Created, Error> {
    let now = app.clock.now();
    let mut tx = app.store.begin_write().await?;
    if let Some((row, secret)) = idempotency::earlier::<(WebhookRow, Option<String>)>(app, &mut tx, actor).await? {
        return Ok(Created { row, secret: secret.map(Secret::new) });
    }
    let mut faults = Vec::new();
    check_url(app, &new.url, &mut faults);
    check_topics(new.form, &new.topics, &mut faults);
    check_raw(new.form, new.raw, &mut faults);
    let secret = match (&new.secret, new.form) {
        (None, WebhookForm::CloudEvents) => Some(secret::make(app)),
        (given, _) => given.clone(),
    };
    check_secret(new.form, secret.as_ref(), &mut faults);
    if !faults.is_empty() {
        return Err(invalid(faults));
    }
    if tx.count_webhooks().await? >= MOST {
        return Err(Error::conflict("too_many_webhooks", format!("there are {MOST} webhooks, which is the most")));
    }
    let id = WebhookId::new(now, &*app.random);
    let row = WebhookRow {
        id,
        name: new.name,
        url: new.url.expose().clone(),
        form: new.form,
        secret_sealed: seal(app, id, secret.as_ref())?,
        topics: json!(new.topics).to_string(),
        idle: new.idle,
        raw: new.raw,
        revision: 1,
        paused_at: None,
        paused_reason: None,
        created_at: now,
        created_by: actor.name.clone(),
        updated_at: now,
        removed_at: None,
    };
    tx.insert_webhook(&row).await?;
    audit(app, &mut tx, actor, "webhook.created", &row, now).await?;
    let kept = WebhookRow { secret_sealed: None, ..row.clone() };
    idempotency::remember(app, &mut tx, actor, &(kept, secret.as_ref().map(Secret::expose))).await?;
    tx.commit().await?;
    know(app).await;
    Ok(Created { row, secret })
}

/// Webhooks that were made before this one, newest first.
///
/// # Errors
/// [`Error::Unavailable`].
pub async fn list(app: &App, before: Option<WebhookId>, limit: i64) -> Result<Vec<View>, Error> {
    let mut read = app.store.begin_read().await?;
    let mut views = Vec::new();
    for row in read.webhooks(before, limit).await? {
        let (waiting, waiting_since) = read.waiting_for(row.id).await?;
        let dead = read.count_dead_events(row.id).await?;
        views.push(View { row, waiting, waiting_since, dead });
    }
    Ok(views)
}

/// One webhook.
///
/// # Errors
/// [`Error::NotFound`].
pub async fn get(app: &App, id: WebhookId) -> Result<View, Error> {
    let mut read = app.store.begin_read().await?;
    let row = read.webhook(id).await?.ok_or_else(|| not_found(id))?;
    let (waiting, waiting_since) = read.waiting_for(id).await?;
    let dead = read.count_dead_events(id).await?;
    Ok(View { row, waiting, waiting_since, dead })
}

/// Changes a webhook. `revision` is what was read; none for whatever is there.
///
/// # Errors
/// [`Error::NotFound`]; [`Error::Conflict`] `revision_mismatch`; [`Error::Invalid`] `invalid_webhook`.
pub async fn change(
    app: &App,
    actor: &Actor,
    id: WebhookId,
    revision: Option<i64>,
    change: Change,
) -> Result<View, Error> {
    let now = app.clock.now();
    let mut tx = app.store.begin_write().await?;
    let mut row = tx.webhook_for_update(id).await?.ok_or_else(|| not_found(id))?;
    let is_revision = row.revision;
    row.revision = revision.unwrap_or(is_revision);
    let mut faults = Vec::new();
    if let Some(url) = &change.url {
        check_url(app, url, &mut faults);
        url.expose().clone_into(&mut row.url);
    }
    if let Some(topics) = &change.topics {
        check_topics(row.form, topics, &mut faults);
        row.topics = json!(topics).to_string();
    }
    if let Some(raw) = change.raw {
        check_raw(row.form, raw, &mut faults);
        row.raw = raw;
    }
    if let Some(secret) = &change.secret {
        check_secret(row.form, Some(secret), &mut faults);
        row.secret_sealed = seal(app, id, Some(secret))?;
    }
    if !faults.is_empty() {
        return Err(invalid(faults));
    }
    row.name = change.name.unwrap_or(row.name);
    row.idle = change.idle.unwrap_or(row.idle);
    match change.paused {
        Some(true) if row.paused_at.is_none() => {
            row.paused_at = Some(now);
            row.paused_reason = Some(format!("paused by {}", actor.name));
        }
        Some(false) => {
            row.paused_at = None;
            row.paused_reason = None;
        }
        _ => {}
    }
    if !tx.update_webhook(&row, now).await? {
        return Err(changed(id, is_revision));
    }
    audit(app, &mut tx, actor, "webhook.changed", &row, now).await?;
    tx.commit().await?;
    know(app).await;
    app.signals.webhooks.notify_one();
    get(app, id).await
}

/// Removes a webhook, and all that waits for it.
///
/// # Errors
/// [`Error::NotFound`]; [`Error::Conflict`] `revision_mismatch`.
pub async fn remove(app: &App, actor: &Actor, id: WebhookId, revision: Option<i64>) -> Result<(), Error> {
    let now = app.clock.now();
    let mut tx = app.store.begin_write().await?;
    let row = tx.webhook_for_update(id).await?.ok_or_else(|| not_found(id))?;
    if !tx.remove_webhook(id, revision.unwrap_or(row.revision), now).await? {
        return Err(changed(id, row.revision));
    }
    audit(app, &mut tx, actor, "webhook.removed", &row, now).await?;
    tx.commit().await?;
    know(app).await;
    Ok(())
}

/// Sends a message without a device to a webhook, now, also to one that is paused.
///
/// # Errors
/// [`Error::NotFound`].
pub async fn try_out(app: &App, id: WebhookId) -> Result<Tried, Error> {
    let row = app.store.begin_read().await?.webhook(id).await?.ok_or_else(|| not_found(id))?;
    let webhook = Webhook::of(app, &row)?;
    let began = app.clock.now();
    let topic = Message::Test.topic(webhook.form, topic::Standing::default()).unwrap_or_default();
    let event = body::Event {
        id: EventId::new(began, &*app.random),
        topic,
        created_at: began,
        about: None,
        tally: None,
        head: None,
        raw: b"",
    };
    let verdict = send::post(app, &webhook, &event).await;
    let took = app.clock.now().since(began);
    let why = match verdict {
        Verdict::Taken => None,
        Verdict::Gone => Some("it answered 410".to_owned()),
        Verdict::Failed(why, _) => Some(why),
    };
    Ok(Tried { taken: why.is_none(), why, took })
}

/// Events that were given up, behind this one; the oldest first.
///
/// # Errors
/// [`Error::NotFound`].
pub async fn dead(app: &App, id: WebhookId, after: Option<EventId>, limit: i64) -> Result<Vec<DeadEvent>, Error> {
    let mut read = app.store.begin_read().await?;
    read.webhook(id).await?.ok_or_else(|| not_found(id))?;
    Ok(read.dead_events(id, after, limit).await?)
}

/// Sends events again that were given up: those named, or all; at most ten thousand at once. They come behind what waits
/// already, with the ids that they had. Returns how many.
///
/// # Errors
/// [`Error::NotFound`], also for a named event that was not given up.
pub async fn replay(app: &App, actor: &Actor, id: WebhookId, events: Option<Vec<EventId>>) -> Result<u64, Error> {
    let now = app.clock.now();
    let mut read = app.store.begin_read().await?;
    let row = read.webhook(id).await?.ok_or_else(|| not_found(id))?;
    let mut named = Vec::new();
    for event in events.iter().flatten() {
        let found = read.dead_event(id, *event).await?;
        named.push(found.ok_or_else(|| Error::NotFound(format!("the event {event} was not given up")))?);
    }
    drop(read);
    let mut count = 0;
    if events.is_some() {
        count += revive(app, id, named, now).await?;
    } else {
        let mut after = None;
        while count < MOST_REPLAYED {
            let batch = app.store.begin_read().await?.dead_events(id, after, BATCH).await?;
            let Some(last) = batch.last() else { break };
            after = Some(last.id);
            count += revive(app, id, batch, now).await?;
        }
    }
    let mut tx = app.store.begin_write().await?;
    let subject = Subject { kind: "webhook", id: &id.to_string() };
    app.audit(&mut tx, actor, "webhook.replayed", subject, &json!({"name": row.name, "events": count}), now).await?;
    tx.commit().await?;
    app.signals.webhooks.notify_one();
    Ok(count)
}

/// In the order in which they were; where rows are locked, each in a transaction of its own (see `store::outbox`).
async fn revive(app: &App, id: WebhookId, mut events: Vec<DeadEvent>, now: Timestamp) -> Result<u64, Error> {
    events.sort_by_key(|event| (event.device_id, event.number));
    let size = if app.store.has_one_writer() { events.len().max(1) } else { 1 };
    let mut count = 0;
    for chunk in events.chunks(size) {
        let mut tx = app.store.begin_write().await?;
        for event in chunk {
            count += u64::from(tx.revive_event(id, event, now).await?);
        }
        tx.commit().await?;
    }
    Ok(count)
}

/// After a change: this process knows of it at once, or, where the database is away, as soon as the others.
async fn know(app: &App) {
    if let Err(error) = app.reload_webhooks().await {
        tracing::warn!(%error, "the webhooks could not be read anew");
    }
}

fn check_url(app: &App, text: &Secret<String>, faults: &mut Vec<Fault>) {
    let mut no = |detail: String| faults.push(Fault { pointer: "/url".to_owned(), detail });
    let Ok(url) = Url::parse(text.expose()) else { return no("is no URL".to_owned()) };
    if text.expose().len() > MAX_URL {
        return no(format!("is longer than {MAX_URL} bytes"));
    }
    if !url.username().is_empty() || url.password().is_some() || url.fragment().is_some() {
        return no("holds a user name, a password or a fragment".to_owned());
    }
    if let Err(why) = app.receivers.judge(&url) {
        no(why.to_string());
    }
}

fn check_topics(form: WebhookForm, asked: &[String], faults: &mut Vec<Fault>) {
    for (at, topic) in asked.iter().enumerate() {
        if !topics(form).contains(&topic.as_str()) {
            let detail = format!("is no topic of {form}; there are {}", topics(form).join(", "));
            faults.push(Fault { pointer: format!("/topics/{at}"), detail });
        }
    }
}

fn check_raw(form: WebhookForm, raw: bool, faults: &mut Vec<Fault>) {
    if raw && form == WebhookForm::NanoMdm {
        let detail = "in this form the message rides along in any case".to_owned();
        faults.push(Fault { pointer: "/raw".to_owned(), detail });
    }
}

fn check_secret(form: WebhookForm, secret: Option<&Secret<String>>, faults: &mut Vec<Fault>) {
    if let Some(Err(detail)) = secret.map(|secret| secret::check(form, secret)) {
        faults.push(Fault { pointer: "/secret".to_owned(), detail });
    }
}

fn invalid(faults: Vec<Fault>) -> Error {
    Error::Invalid { code: "invalid_webhook", detail: "the webhook cannot be kept as it is".to_owned(), faults }
}

fn not_found(id: WebhookId) -> Error {
    Error::NotFound(format!("there is no webhook {id}"))
}

fn changed(id: WebhookId, revision: i64) -> Error {
    Error::conflict("revision_mismatch", format!("the webhook {id} was changed meanwhile: it has revision {revision}"))
}

fn seal(app: &App, id: WebhookId, secret: Option<&Secret<String>>) -> Result<Option<Vec<u8>>, Error> {
    secret.map(|secret| app.seal(&secret_context(id), secret.expose().as_bytes())).transpose()
}

/// How many messages may be under way to all receivers together, so that none of them waits for another.
pub(super) fn places(settings: &Settings) -> usize {
    let each = usize::try_from(settings.hooks.concurrency).unwrap_or(usize::MAX);
    let webhooks = usize::try_from(MOST).unwrap_or(usize::MAX);
    each.saturating_mul(webhooks).saturating_add(idle::AT_ONCE)
}

/// The audit log has the host alone: a URL may hold a secret.
async fn audit(
    app: &App,
    tx: &mut Write,
    actor: &Actor,
    action: &str,
    row: &WebhookRow,
    now: Timestamp,
) -> Result<(), Error> {
    let url = row.url.parse::<Url>().ok();
    let host = url.as_ref().and_then(Url::host_str).unwrap_or_default();
    let detail = json!({
        "name": row.name, "host": host, "form": row.form, "idle": row.idle, "raw": row.raw,
        "paused": row.paused_at.is_some(),
    });
    app.audit(tx, actor, action, Subject { kind: "webhook", id: &row.id.to_string() }, &detail, now).await
}

/// The place for which a webhook's secret is sealed.
pub(super) fn secret_context(id: WebhookId) -> String {
    format!("webhooks.secret:{id}")
}

/// The place for which an event's content is sealed.
pub(super) fn content_context(id: EventId) -> String {
    format!("webhook_events.content:{id}")
}
