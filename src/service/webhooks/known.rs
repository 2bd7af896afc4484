use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use url::Url;

use super::super::{App, Error};
use super::idle::IdleEvent;
use super::secret_context;
use super::topic::Message;
use crate::model::{Secret, WebhookForm, WebhookId};
use crate::store::WebhookRow;

/// A webhook as it is worked with.
pub(super) struct Webhook {
    pub(super) id: WebhookId,
    pub(super) url: Url,
    pub(super) form: WebhookForm,
    pub(super) secret: Option<Secret<String>>,
    topics: Vec<String>,
    pub(super) idle: bool,
    raw: bool,
    pub(super) is_paused: bool,
}

impl fmt::Debug for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Its URL may hold a secret.
        f.debug_struct("Webhook").field("id", &self.id).field("form", &self.form).finish_non_exhaustive()
    }
}

impl Webhook {
    pub(super) fn of(app: &App, row: &WebhookRow) -> Result<Self, Error> {
        let secret = row.secret_sealed.as_deref().map(|sealed| {
            let plain = app.open(&secret_context(row.id), sealed)?;
            let text = String::from_utf8(plain.expose().clone());
            text.map(Secret::new).map_err(|_| Error::Internal("a webhook's secret is no text".to_owned()))
        });
        Ok(Self {
            id: row.id,
            url: row.url.parse().map_err(|e| Error::Internal(format!("a webhook's URL: {e}")))?,
            form: row.form,
            secret: secret.transpose()?,
            topics: serde_json::from_str(&row.topics).unwrap_or_default(),
            idle: row.idle,
            raw: row.raw,
            is_paused: row.paused_at.is_some(),
        })
    }

    /// Whether it is told of a topic.
    pub(super) fn wants(&self, topic: &str) -> bool {
        self.topics.is_empty() || self.topics.iter().any(|one| one == topic)
    }

    /// Whether it may be told of a message.
    pub(super) fn may_want(&self, message: Message) -> bool {
        self.topics.is_empty() || message.may_be(self.form, &self.topics)
    }

    /// Whether the message itself rides along.
    pub(super) fn takes_raw(&self) -> bool {
        self.raw || self.form == WebhookForm::NanoMdm
    }
}

/// What this process knows of webhooks: which there are, as of at most some seconds ago, those for which too much waits,
/// the polls that they are to be told of, and what became of events.
#[derive(Debug, Default)]
pub struct Outbox {
    pub(super) known: ArcSwap<Vec<Arc<Webhook>>>,
    pub(super) removed: ArcSwap<Vec<WebhookRow>>,
    pub(super) full: ArcSwap<BTreeSet<WebhookId>>,
    pub(super) idle: Mutex<VecDeque<IdleEvent>>,
    pub(super) counters: Counters,
}

/// What became of events, since this was last asked.
#[derive(Debug, Default)]
pub(super) struct Counters([AtomicU64; RESULTS.len()]);

/// The results that are counted.
pub const RESULTS: [&str; 7] =
    ["delivered", "failed", "dead", "dropped", "idle_delivered", "idle_failed", "idle_dropped"];

impl Counters {
    pub(super) fn add(&self, result: &'static str, count: u64) {
        if let Some((counter, _)) = self.0.iter().zip(RESULTS).find(|(_, name)| *name == result) {
            counter.fetch_add(count, Ordering::Relaxed);
        }
    }

    fn take(&self) -> [(&'static str, u64); RESULTS.len()] {
        let mut counts = RESULTS.map(|name| (name, 0));
        for (count, counter) in counts.iter_mut().zip(&self.0) {
            count.1 = counter.swap(0, Ordering::Relaxed);
        }
        counts
    }
}

impl Outbox {
    /// Puts a poll into the queue, if there is room.
    pub(super) fn push_idle(&self, event: IdleEvent, most: usize) {
        let mut waiting = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() < most {
            waiting.push_back(event);
        } else {
            drop(waiting);
            self.counters.add("idle_dropped", 1);
        }
    }

    pub(super) fn take_idle(&self) -> Option<IdleEvent> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }
}

/// What became of events since this was last asked, by name; see [`RESULTS`].
#[must_use]
pub fn take_counts(app: &App) -> [(&'static str, u64); RESULTS.len()] {
    app.outbox.counters.take()
}

impl App {
    /// Reads which webhooks there are. Done every two seconds, and after each change of this process.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn reload_webhooks(&self) -> Result<(), Error> {
        let rows = self.store.begin_read().await?.all_webhooks().await?;
        let (removed, rows): (Vec<_>, Vec<_>) = rows.into_iter().partition(|row| row.removed_at.is_some());
        let mut known = Vec::with_capacity(rows.len());
        for row in &rows {
            match Webhook::of(self, row) {
                Ok(webhook) => known.push(Arc::new(webhook)),
                // The others go on.
                Err(error) => tracing::error!(webhook = %row.id, %error, "a webhook cannot be used"),
            }
        }
        self.outbox.known.store(Arc::new(known));
        self.outbox.removed.store(Arc::new(removed));
        Ok(())
    }
}
