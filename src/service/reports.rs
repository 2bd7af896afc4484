//! Command reports: what the device says about a command, and what it gets next.

mod inventory;
mod packed;

use std::sync::Arc;

use futures_util::FutureExt;
use serde_json::json;

use super::audit::Subject;
use super::check_in::Arrived;
use super::deliveries::{self, End, step, void_open};
use super::device_identity::require_pin;
use super::webhooks::{self, Telling};
use super::{Actor, App, Error, renewal};
use crate::model::{CommandId, DeliveryState, EnrollmentId, ReportId, ReportStatus, Secret, Timestamp, Transition};
use crate::protocol::Sender;
use crate::protocol::json::dictionary_to_json;
use crate::protocol::report::Report;
use crate::protocol::unreadable::Unreadable;
use crate::protocol::wire::{self, Limits};
use crate::store::{CommandKind, Enrollment, Key, NewReport, Write};

/// What a report led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The next command, as XML; none ends the connection.
    pub command: Option<Vec<u8>>,
    /// What the report was about, for the metrics.
    pub about: About,
}

/// What a report was about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum About {
    /// Nothing: an Idle.
    Idle,
    /// A command that waited for it.
    Command,
    /// A command whose outcome was known already: the same report again.
    Repeated,
    /// A command that this enrollment never had.
    Unknown,
}

/// What came of a report.
enum Heard {
    /// All of it.
    Read(Report),
    /// The ids alone, and why not the rest.
    Unread(Unreadable, String),
}

impl Heard {
    const fn sender(&self) -> &Sender {
        match self {
            Self::Read(report) => &report.sender,
            Self::Unread(found, _) => &found.sender,
        }
    }

    fn is_idle(&self) -> bool {
        matches!(self, Self::Read(report) if report.status == ReportStatus::Idle)
    }

    fn command_uuid(&self) -> Option<&str> {
        match self {
            Self::Read(report) => report.command_uuid.as_deref(),
            Self::Unread(found, _) => Some(&found.command_uuid),
        }
    }

    /// Apple's word, or ours for what has none.
    const fn status(&self) -> &'static str {
        match self {
            Self::Read(report) => report.status.as_str(),
            Self::Unread(..) => UNREADABLE,
        }
    }
}

/// The status under which a report is kept that could not be read.
const UNREADABLE: &str = "Unreadable";

/// A report with what is kept of it. Made before the transaction, which others share: sealing and converting take longer
/// than all that is written.
struct Heeded {
    arrived: Arrived,
    heard: Heard,
    now: Timestamp,
    /// None for an Idle, of which nothing is kept.
    kept: Option<Kept>,
    telling: Option<Telling>,
}

struct Kept {
    id: ReportId,
    raw_sealed: Vec<u8>,
    /// What it tells of the device.
    told: Option<inventory::Told>,
}

/// Handles a report and chooses the next command, in one transaction. An Idle with nothing to do is one read and no
/// write.
///
/// A report about a command that is not known is answered like any other: an error would confuse the device's queue.
///
/// # Errors
/// [`Error::Denied`], [`Error::Unrecognized`], [`Error::Unavailable`].
pub async fn handle(app: &App, arrived: Arrived, report: Report) -> Result<Reply, Error> {
    let now = app.clock.now();
    let heard = Heard::Read(report);
    if !heard.is_idle() {
        return Box::pin(work(app, arrived, heard, now)).await;
    }
    let poll = app.store.poll(&heard.sender().apple_id.id, arrived.presented.sha256()).await?.ok_or_else(unknown)?;
    if poll.state == "removed" {
        return Err(Error::Unrecognized);
    }
    if poll.revoked {
        return Err(Error::Denied("the client certificate was revoked or replaced".to_owned()));
    }
    if poll.pinned && !poll.has_work {
        app.seen.enrollment(poll.id, now);
        webhooks::polled(app, poll.id, &arrived, heard.sender());
        return Ok(Reply { command: None, about: About::Idle });
    }
    // On the heap: what is kept while a report is recorded is large, and would be moved about with each idle poll.
    Box::pin(work(app, arrived, heard, now)).await
}

/// Handles a report that cannot be read, because of `why`, but for the ids: the command has failed by that, and the next
/// is chosen. Asked for the same again, the device would say the same.
///
/// # Errors
/// As [`handle`].
pub async fn unreadable(app: &App, arrived: Arrived, found: Unreadable, why: &str) -> Result<Reply, Error> {
    tracing::info!(command_uuid = found.command_uuid, why, "a report could not be read");
    // The reason may quote the report, and databases refuse NUL.
    let why: String = why.chars().map(|c| if c.is_control() { '\u{FFFD}' } else { c }).collect();
    work(app, arrived, Heard::Unread(found, why), app.clock.now()).await
}

fn unknown() -> Error {
    Error::Denied("the device is not enrolled here".to_owned())
}

/// Records a report and chooses the next command.
async fn work(app: &App, arrived: Arrived, heard: Heard, now: Timestamp) -> Result<Reply, Error> {
    let kept = if heard.is_idle() { None } else { Some(keep(app, &arrived, &heard, now)?) };
    let keys = vec![Key::of(heard.sender().apple_id.device_channel())];
    let telling = match &heard {
        Heard::Read(report) if report.status != ReportStatus::Idle => webhooks::of_report(app, &arrived, report)?,
        // What could not be read is told to nobody else, and polls are told of when they are answered.
        _ => None,
    };
    let heeded = Arc::new(Heeded { arrived, heard, now, kept, telling });
    let (reply, id) = {
        let (app, heeded) = (app.clone(), Arc::clone(&heeded));
        let store = app.store.clone();
        let work = move |tx| {
            let (app, heeded) = (app.clone(), Arc::clone(&heeded));
            async move { within(&app, tx, &heeded).await }.boxed()
        };
        store.together(keys, work).await?
    };
    app.seen.enrollment(id, now);
    webhooks::told(app, heeded.telling.as_ref());
    if heeded.heard.is_idle() {
        webhooks::polled(app, id, &heeded.arrived, heeded.heard.sender());
    }
    Ok(reply)
}

async fn within(app: &App, mut tx: Write, heeded: &Heeded) -> Result<(Reply, EnrollmentId), Error> {
    let (heard, now) = (&heeded.heard, heeded.now);
    let apple_id = &heard.sender().apple_id;
    if let Some(device_channel) = &apple_id.parent {
        // In the order of check-ins, which lock the device channel first: a certificate that is seen for the first time
        // changes rows of the device and of all its users.
        tx.enrollment_for_update(device_channel).await?;
    }
    let mut enrollment = tx.enrollment_for_update(&apple_id.id).await?.ok_or_else(unknown)?;
    if enrollment.state == "removed" {
        return Err(Error::Unrecognized);
    }
    let device_channel = enrollment.parent_id.unwrap_or(enrollment.id);
    require_pin(&mut tx, &heeded.arrived.presented, device_channel, now).await?;
    let about = match &heeded.kept {
        None => About::Idle,
        Some(kept) => record(app, &mut tx, heeded, kept, &mut enrollment).await?,
    };
    let command = if enrollment.is_enabled() {
        // A device that never said Idle begins with what it says first.
        let connection = if heeded.kept.is_none() || enrollment.connection == 0 {
            deliveries::begin_connection(&mut tx, &enrollment, now).await?
        } else {
            enrollment.connection
        };
        if about == About::Repeated {
            deliveries::again_or_next(app, &mut tx, &enrollment, connection, now).await?
        } else {
            deliveries::next(app, &mut tx, &enrollment, connection, now).await?
        }
    } else {
        None
    };
    if let Some(telling) = &heeded.telling {
        let is_old = matches!(about, About::Repeated | About::Unknown);
        telling.write(&mut tx, (enrollment.device_id, enrollment.id), None, is_old).await?;
    }
    tx.commit().await?;
    Ok((Reply { command, about }, enrollment.id))
}

/// Keeps a report and takes its delivery through the transition. `enrollment` is read anew where the report changed it.
async fn record(
    app: &App,
    tx: &mut Write,
    heeded: &Heeded,
    kept: &Kept,
    enrollment: &mut Enrollment,
) -> Result<About, Error> {
    let (heard, now) = (&heeded.heard, heeded.now);
    let command_uuid = heard.command_uuid();
    let command_id = command_uuid.and_then(|text| text.parse::<CommandId>().ok());
    let mut delivery = match command_id {
        Some(id) => tx.delivery(enrollment.id, id).await?,
        None => None,
    };
    // Another name is one that a tool chose; what could be none is not looked for, since PostgreSQL takes no NUL.
    if let (None, Some(uuid)) = (&delivery, command_uuid.filter(|uuid| !uuid.chars().any(char::is_control))) {
        delivery = tx.delivery_by_wire_uuid(enrollment.id, uuid).await?;
    }
    let Some(delivery) = delivery else {
        tracing::info!(enrollment = %enrollment.id, command_uuid, "report about a command that this device never had");
        return Ok(About::Unknown);
    };
    let transition = match heard {
        Heard::Unread(..) => Transition::Fail,
        Heard::Read(report) => match report.status {
            ReportStatus::Acknowledged => Transition::Acknowledge,
            ReportStatus::Error | ReportStatus::CommandFormatError => Transition::Fail,
            ReportStatus::NotNow => Transition::Defer,
            ReportStatus::Idle => return Ok(About::Idle),
        },
    };
    // A wipe may be unconfirmed from an earlier enrollment. Its outcome is of interest still; what the device is to do
    // later is not, and the enrollment that it has now is another.
    let is_of_now = delivery.generation == enrollment.generation;
    // What was put off in this connection has not been offered in it since: it is the same report once more.
    let is_put_off = delivery.state == DeliveryState::NotNow && delivery.connection == enrollment.connection;
    if transition == Transition::Defer && (!is_of_now || is_put_off) {
        return Ok(About::Repeated);
    }
    let Some(mut next) = step(&delivery, transition, now) else { return Ok(About::Repeated) };
    tx.insert_report(
        &NewReport {
            enrollment_id: enrollment.id,
            id: kept.id,
            command_id: Some(delivery.command_id),
            command_uuid,
            status: heard.status(),
            size_bytes: i64::try_from(heeded.arrived.raw.len()).unwrap_or(i64::MAX),
            raw_sealed: &kept.raw_sealed,
        },
        now,
    )
    .await?;
    next.report_id = Some(kept.id);
    next.connection = enrollment.connection;
    if transition != Transition::Defer {
        next.answered_at = Some(now);
    }
    let (chain, why, detail) = match heard {
        Heard::Read(report) => {
            let first = report.error_chain.first();
            let why = first.map_or("", |error| error.us_english.as_deref().unwrap_or(&error.description)).to_owned();
            let is_format_error = report.status == ReportStatus::CommandFormatError;
            (json!(report.error_chain), why, is_format_error.then(|| "CommandFormatError".to_owned()))
        }
        Heard::Unread(_, why) => {
            let why = format!("the report could not be read: {why}");
            (json!([{"domain": "muster", "code": 0, "description": why}]), why.clone(), Some(why))
        }
    };
    if transition == Transition::Fail {
        next.error = Some(chain.to_string());
    }
    if !tx.update_delivery(&next, detail.as_deref()).await? {
        return Err(Error::Unavailable("the delivery was changed by another request at the same time".to_owned()));
    }
    if is_of_now
        && matches!(transition, Transition::Acknowledge | Transition::Fail)
        && let Some(command) = tx.command_kind(delivery.command_id).await?
    {
        match heard {
            Heard::Read(report) if transition == Transition::Acknowledge => {
                let told = kept.told.as_ref().filter(|told| told.request_type == command.request_type);
                if consequences(app, tx, enrollment, (delivery.command_id, &command), report, told, now).await? {
                    *enrollment = tx
                        .enrollment_by_id_for_update(enrollment.id)
                        .await?
                        .ok_or_else(|| Error::Internal("an enrollment row vanished".to_owned()))?;
                }
            }
            _ => renewal::failed(tx, &command.verb, enrollment.id, &why, now).await?,
        }
    }
    Ok(About::Command)
}

/// A report as it is kept: as it came, and what it tells of the device.
fn keep(app: &App, arrived: &Arrived, heard: &Heard, now: Timestamp) -> Result<Kept, Error> {
    let id = ReportId::new(now, &*app.random);
    let raw_sealed = app.seal(&raw_context(id), &packed::pack(&arrived.raw))?;
    let told = match heard {
        Heard::Read(report) => inventory::Told::of(report),
        Heard::Unread(..) => None,
    };
    Ok(Kept { id, raw_sealed, told })
}

/// A report as it came, of how it is kept: compressed and sealed.
///
/// # Errors
/// [`Error::Internal`] where it does not open.
pub fn as_it_came(app: &App, id: ReportId, sealed: &[u8]) -> Result<Secret<Vec<u8>>, Error> {
    let opened = app.open(&raw_context(id), sealed)?;
    packed::unpack(opened.expose())
        .map(Secret::new)
        .ok_or_else(|| Error::Internal(format!("report {id} is damaged: it cannot be unpacked")))
}

/// A kept report as JSON. It is read anew when somebody asks for it: few reports are ever looked at.
///
/// # Errors
/// [`Error::Internal`] where it can no longer be read.
pub fn as_read(status: &str, raw: &[u8]) -> Result<Secret<Vec<u8>>, Error> {
    if status == UNREADABLE {
        return Ok(Secret::new(b"{}".to_vec()));
    }
    // It was small enough when it came, whatever the settings say now.
    let limits = Limits::REPORT.sized(raw.len().max(Limits::REPORT.bytes));
    let body = wire::read_lenient(raw, limits).and_then(wire::dictionary);
    let body = body.map_err(|e| Error::Internal(format!("a kept report: {e}")))?;
    Ok(Secret::new(dictionary_to_json(&body).to_string().into_bytes()))
}

/// What follows from a command that was done. True: the enrollment's row may be another now.
async fn consequences(
    app: &App,
    tx: &mut Write,
    enrollment: &Enrollment,
    (command_id, command): (CommandId, &CommandKind),
    report: &Report,
    told: Option<&inventory::Told>,
    now: Timestamp,
) -> Result<bool, Error> {
    let mut is_changed = false;
    if let Some(told) = told {
        is_changed = inventory::take_over(tx, enrollment, told, &report.body, now).await?;
    }
    if command.request_type != "EraseDevice" || enrollment.parent_id.is_some() {
        return Ok(is_changed);
    }
    // The device erases itself now and forgets that it was managed: nothing more is for it until it enrolls anew.
    for user in tx.user_channels_for_update(enrollment.id).await? {
        void_open(tx, &user, End::Wiped, now).await?;
        tx.close_enrollment(user.id, "disabled", now).await?;
    }
    void_open(tx, enrollment, End::Wiped, now).await?;
    tx.close_enrollment(enrollment.id, "disabled", now).await?;
    let subject = Subject { kind: "device", id: &enrollment.device_id.to_string() };
    let detail = json!({"command": command_id});
    app.audit(tx, &Actor::device(&enrollment.apple_id), "device.wiped", subject, &detail, now).await?;
    Ok(true)
}

/// The place for which a raw report is sealed.
#[must_use]
pub fn raw_context(id: ReportId) -> String {
    format!("reports.raw:{id}")
}
