//! What is written down for webhooks, in the transaction of the message itself.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::super::check_in::Arrived;
use super::super::{App, Error};
use super::content_context;
use super::known::Webhook;
use super::topic::{Message, Standing};
use crate::model::{DeviceId, EnrollmentId, EnrollmentKind, EventId, Timestamp};
use crate::protocol::Sender;
use crate::protocol::report::{ErrorItem, Report};
use crate::store::{NewEvent, Write};

/// What a message says, beside itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Head {
    pub(super) message: Message,
    pub(super) apple_id: String,
    pub(super) kind: EnrollmentKind,
    pub(super) parent: Option<String>,
    pub(super) udid: Option<String>,
    pub(super) apple_enrollment_id: Option<String>,
    pub(super) query: Option<String>,
    pub(super) status: Option<String>,
    pub(super) command_uuid: Option<String>,
    pub(super) request_type: Option<String>,
    pub(super) errors: Vec<ErrorItem>,
}

impl Head {
    pub(super) fn of(message: Message, sender: &Sender, query: Option<&str>) -> Self {
        Self {
            message,
            apple_id: sender.apple_id.id.clone(),
            kind: sender.apple_id.kind,
            parent: sender.apple_id.parent.clone(),
            udid: sender.udid.clone(),
            apple_enrollment_id: sender.enrollment_id.clone(),
            query: query.map(str::to_owned),
            status: None,
            command_uuid: None,
            request_type: None,
            errors: Vec::new(),
        }
    }

    /// Head and message as they are sealed: a line of JSON, and what came.
    fn with(&self, raw: &[u8]) -> Result<Vec<u8>, Error> {
        let mut content =
            serde_json::to_vec(self).map_err(|e| Error::Internal(format!("an event cannot be written: {e}")))?;
        content.push(b'\n');
        content.extend_from_slice(raw);
        Ok(content)
    }

    /// The way back.
    pub(super) fn read(content: &[u8]) -> Result<(Self, &[u8]), Error> {
        let broken = || Error::Internal("an event for a webhook is damaged".to_owned());
        let end = content.iter().position(|byte| *byte == b'\n').ok_or_else(broken)?;
        let (head, raw) = (content.get(..end).ok_or_else(broken)?, content.get(end + 1..).ok_or_else(broken)?);
        Ok((serde_json::from_slice(head).map_err(|_| broken())?, raw))
    }
}

/// What webhooks are to be told of one message. Made before the transaction, which others share: sealing takes longer than
/// all that is written.
#[derive(Debug)]
pub(in crate::service) struct Telling {
    id: EventId,
    message: Message,
    is_user: bool,
    webhooks: Vec<Arc<Webhook>>,
    with_raw: Option<Vec<u8>>,
    without_raw: Option<Vec<u8>>,
    now: Timestamp,
}

/// What is to be told of a check-in message; none where no webhook wants to know.
pub(in crate::service) fn of_check_in(
    app: &App,
    message: Message,
    arrived: &Arrived,
    sender: &Sender,
) -> Result<Option<Telling>, Error> {
    prepare(app, message, arrived, |query| Head::of(message, sender, query))
}

/// What is to be told of a report; none where no webhook wants to know.
pub(in crate::service) fn of_report(app: &App, arrived: &Arrived, report: &Report) -> Result<Option<Telling>, Error> {
    prepare(app, Message::Report, arrived, |query| Head {
        status: Some(report.status.as_str().to_owned()),
        command_uuid: report.command_uuid.clone(),
        request_type: report.request_type.clone(),
        errors: report.error_chain.clone(),
        ..Head::of(Message::Report, &report.sender, query)
    })
}

fn prepare(
    app: &App,
    message: Message,
    arrived: &Arrived,
    head: impl FnOnce(Option<&str>) -> Head,
) -> Result<Option<Telling>, Error> {
    let known = app.outbox.known.load();
    if known.is_empty() {
        return Ok(None);
    }
    let full = app.outbox.full.load();
    let wanting = known.iter().filter(|webhook| webhook.may_want(message));
    let (dropped, webhooks): (Vec<_>, Vec<_>) = wanting.cloned().partition(|webhook| full.contains(&webhook.id));
    app.outbox.counters.add("dropped", dropped.len() as u64);
    if webhooks.is_empty() {
        return Ok(None);
    }
    let now = app.clock.now();
    let id = EventId::new(now, &*app.random);
    let head = head(arrived.query.as_deref());
    let seal = |raw: &[u8]| app.seal(&content_context(id), &head.with(raw)?);
    let with_raw = webhooks.iter().any(|webhook| webhook.takes_raw()).then(|| seal(&arrived.raw)).transpose()?;
    let without_raw = webhooks.iter().any(|webhook| !webhook.takes_raw()).then(|| seal(b"")).transpose()?;
    Ok(Some(Telling { id, message, is_user: head.parent.is_some(), webhooks, with_raw, without_raw, now }))
}

impl Telling {
    /// Writes it down for each webhook that wants it. `tally` and `is_old` as in [`Standing`].
    pub(in crate::service) async fn write(
        &self,
        tx: &mut Write,
        (device_id, enrollment_id): (DeviceId, EnrollmentId),
        tally: Option<i64>,
        is_old: bool,
    ) -> Result<(), Error> {
        let standing = Standing { is_user: self.is_user, tally, is_old };
        for webhook in &self.webhooks {
            let topic = self.message.topic(webhook.form, standing).filter(|topic| webhook.wants(topic));
            let content = if webhook.takes_raw() { &self.with_raw } else { &self.without_raw };
            if let (Some(topic), Some(content)) = (topic, content) {
                let event = NewEvent {
                    device_id,
                    webhook_id: webhook.id,
                    id: self.id,
                    enrollment_id,
                    topic,
                    token_tally: tally,
                    content_sealed: content,
                };
                tx.queue_event(&event, self.now).await?;
            }
        }
        Ok(())
    }
}

/// After the commit: the worker looks at once.
pub(in crate::service) fn told(app: &App, telling: Option<&Telling>) {
    if telling.is_some() {
        app.signals.webhooks.notify_one();
    }
}
