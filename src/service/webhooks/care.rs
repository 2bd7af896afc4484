//! What is done for webhooks now and then: counting what waits, and taking away what is left of those that were removed.

use std::collections::BTreeSet;
use std::time::Duration;

use super::super::{App, Error};
use crate::model::{DeviceId, Timestamp, WebhookId};

/// A removed webhook's events are taken away after so long: no message is written by then that knew of it.
const GRACE: Duration = Duration::from_secs(60);
/// Lines that are looked at in one transaction.
const LINES: i64 = 200;
/// Events that were given up and are taken away in one transaction.
const EVENTS: i64 = 1000;

/// What waits for all webhooks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    /// How many events.
    pub count: i64,
    /// How long the oldest of them has.
    pub oldest: Duration,
}

/// Counts what waits, and notes for which webhooks it is too much.
///
/// # Errors
/// [`Error::Unavailable`].
pub async fn count_waiting(app: &App) -> Result<Waiting, Error> {
    if app.outbox.known.load().is_empty() {
        app.outbox.full.store(Default::default());
        return Ok(Waiting::default());
    }
    let now = app.clock.now();
    let rows = app.store.begin_read().await?.waiting_events().await?;
    let most = i64::from(app.settings.hooks.max_waiting);
    let full: BTreeSet<WebhookId> = rows.iter().filter(|row| row.count >= most).map(|row| row.webhook_id).collect();
    let before = app.outbox.full.load_full();
    for id in full.difference(&before) {
        tracing::warn!(webhook = %id, most, "too many events wait for a webhook: it is told of nothing new until fewer do");
    }
    app.outbox.full.store(full.into());
    let oldest = rows.iter().filter_map(|row| row.since).min().map_or(Duration::ZERO, |since| now.since(since));
    Ok(Waiting { count: rows.iter().map(|row| row.count).sum(), oldest })
}

/// Takes away the next bit of what is left of removed webhooks; `after` says how far that is. False: nothing is left, or
/// it is too early.
///
/// # Errors
/// [`Error::Unavailable`].
pub async fn clear_removed(app: &App, after: &mut Option<(WebhookId, DeviceId)>) -> Result<bool, Error> {
    let now = app.clock.now();
    let removed = app.outbox.removed.load_full();
    let is_old = |at: Option<Timestamp>| at.is_some_and(|at| at.plus(GRACE) <= now);
    let Some(row) = removed.iter().find(|row| is_old(row.removed_at)) else { return Ok(false) };
    let from = after.filter(|(id, _)| *id == row.id).map_or(DeviceId(uuid::Uuid::nil()), |(_, device)| device);
    let mut tx = app.store.begin_write().await?;
    let last = tx.prune_lines(row.id, from, LINES).await?;
    if last.is_none() {
        tx.forget_webhook(row.id).await?;
    }
    tx.commit().await?;
    *after = last.map(|device| (row.id, device));
    if last.is_none() {
        app.reload_webhooks().await?;
    }
    Ok(true)
}

/// Takes away events of before `before` that were given up. Returns how many; the rest is left to the next time.
///
/// # Errors
/// [`Error::Unavailable`].
pub(in crate::service) async fn prune_dead(app: &App, before: Timestamp) -> Result<u64, Error> {
    let rows = app.store.begin_read().await?.all_webhooks().await?;
    for row in rows {
        let mut tx = app.store.begin_write().await?;
        let count = tx.prune_dead_events(row.id, before, EVENTS).await?;
        if count > 0 {
            tx.commit().await?;
            return Ok(count);
        }
    }
    Ok(0)
}
