//! Command reports: what the device says about a command, and what it gets next.

mod inventory;

use serde_json::json;

use super::audit::Subject;
use super::check_in::Arrived;
use super::deliveries::{self, End, step, void_open};
use super::device_identity::require_pin;
use super::{Actor, App, Error, renewal};
use crate::model::{CommandId, DeliveryState, EnrollmentId, ReportId, ReportStatus, Timestamp, Transition};
use crate::protocol::Sender;
use crate::protocol::json::dictionary_to_json;
use crate::protocol::report::Report;
use crate::protocol::unreadable::Unreadable;
use crate::store::{CommandRow, Enrollment, NewReport, Write};

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
#[derive(Clone, Copy)]
enum Heard<'a> {
    /// All of it.
    Read(&'a Report),
    /// The ids alone, and why not the rest.
    Unread(&'a Unreadable, &'a str),
}

impl Heard<'_> {
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

/// Handles a report and chooses the next command, in one transaction. An Idle with nothing to do is one read and no
/// write.
///
/// A report about a command that is not known is answered like any other: an error would confuse the device's queue.
///
/// # Errors
/// [`Error::Denied`], [`Error::Unrecognized`], [`Error::Unavailable`].
pub async fn handle(app: &App, arrived: &Arrived<'_>, report: &Report) -> Result<Reply, Error> {
    answer(app, arrived, Heard::Read(report)).await
}

/// Handles a report that cannot be read, because of `why`, but for the ids: the command has failed by that, and the next
/// is chosen. Asked for the same again, the device would say the same.
///
/// # Errors
/// As [`handle`].
pub async fn unreadable(app: &App, arrived: &Arrived<'_>, found: &Unreadable, why: &str) -> Result<Reply, Error> {
    tracing::info!(command_uuid = found.command_uuid, why, "a report could not be read");
    // The reason may quote the report, and databases refuse NUL.
    let why: String = why.chars().map(|c| if c.is_control() { '\u{FFFD}' } else { c }).collect();
    answer(app, arrived, Heard::Unread(found, &why)).await
}

async fn answer(app: &App, arrived: &Arrived<'_>, heard: Heard<'_>) -> Result<Reply, Error> {
    let now = app.clock.now();
    let poll = app
        .store
        .poll(&heard.sender().apple_id.id, arrived.presented.sha256())
        .await?
        .ok_or_else(|| Error::Denied("the device is not enrolled here".to_owned()))?;
    if poll.state == "removed" {
        return Err(Error::Unrecognized);
    }
    if poll.revoked {
        return Err(Error::Denied("the client certificate was revoked or replaced".to_owned()));
    }
    app.seen.enrollment(poll.id, now);
    if heard.is_idle() && poll.pinned && !poll.has_work {
        return Ok(Reply { command: None, about: About::Idle });
    }

    // On the heap: what is kept while a report is recorded is large, and would be moved about with each idle poll.
    Box::pin(work(app, arrived, heard, poll.id, now)).await
}

/// Records a report and chooses the next command.
async fn work(
    app: &App,
    arrived: &Arrived<'_>,
    heard: Heard<'_>,
    id: EnrollmentId,
    now: Timestamp,
) -> Result<Reply, Error> {
    let is_idle = heard.is_idle();
    let mut tx = app.store.begin_write().await?;
    if let Some(device_channel) = &heard.sender().apple_id.parent {
        // In the order of check-ins, which lock the device channel first: a certificate that is seen for the first time
        // changes rows of the device and of all its users.
        tx.enrollment_for_update(device_channel).await?;
    }
    let enrollment = tx
        .enrollment_by_id_for_update(id)
        .await?
        .ok_or_else(|| Error::Internal("an enrollment row vanished".to_owned()))?;
    if enrollment.state == "removed" {
        return Err(Error::Unrecognized);
    }
    require_pin(&mut tx, arrived.presented, enrollment.parent_id.unwrap_or(enrollment.id), now).await?;
    let about = if is_idle { About::Idle } else { record(app, &mut tx, arrived, &enrollment, heard, now).await? };
    // The report may have ended the enrollment (a wipe).
    let enrollment = tx
        .enrollment_by_id_for_update(id)
        .await?
        .ok_or_else(|| Error::Internal("an enrollment row vanished".to_owned()))?;
    let command = if enrollment.is_enabled() {
        // A device that never said Idle begins with what it says first.
        let connection = if is_idle || enrollment.connection == 0 {
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
    tx.commit().await?;
    Ok(Reply { command, about })
}

/// Keeps a report and takes its delivery through the transition.
async fn record(
    app: &App,
    tx: &mut Write,
    arrived: &Arrived<'_>,
    enrollment: &Enrollment,
    heard: Heard<'_>,
    now: Timestamp,
) -> Result<About, Error> {
    let command_uuid = heard.command_uuid();
    let command_id = command_uuid.and_then(|text| text.parse::<CommandId>().ok());
    let delivery = match command_id {
        Some(id) => tx.delivery(enrollment.id, id).await?,
        None => None,
    };
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
    let id = keep(app, tx, arrived, enrollment.id, delivery.command_id, heard, now).await?;
    next.report_id = Some(id);
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
        && let Some(command) = tx.command(delivery.command_id).await?
    {
        match heard {
            Heard::Read(report) if transition == Transition::Acknowledge => {
                consequences(app, tx, enrollment, &command, report, now).await?;
            }
            _ => renewal::failed(tx, &command, enrollment.id, &why, now).await?,
        }
    }
    Ok(About::Command)
}

/// Keeps a report as it came and as it was read.
async fn keep(
    app: &App,
    tx: &mut Write,
    arrived: &Arrived<'_>,
    enrollment: EnrollmentId,
    command: CommandId,
    heard: Heard<'_>,
    now: Timestamp,
) -> Result<ReportId, Error> {
    let id = ReportId::new(now, &*app.random);
    let raw = app.seal(&raw_context(id), arrived.raw)?;
    let parsed = match heard {
        Heard::Read(report) => dictionary_to_json(&report.body),
        Heard::Unread(..) => json!({}),
    };
    let parsed = app.seal(&parsed_context(id), parsed.to_string().as_bytes())?;
    tx.insert_report(
        &NewReport {
            enrollment_id: enrollment,
            id,
            command_id: Some(command),
            command_uuid: heard.command_uuid(),
            status: heard.status(),
            size_bytes: i64::try_from(arrived.raw.len()).unwrap_or(i64::MAX),
            raw_sealed: &raw,
            parsed_sealed: &parsed,
        },
        now,
    )
    .await?;
    Ok(id)
}

/// What follows from a command that was done.
async fn consequences(
    app: &App,
    tx: &mut Write,
    enrollment: &Enrollment,
    command: &CommandRow,
    report: &Report,
    now: Timestamp,
) -> Result<(), Error> {
    inventory::take_over(tx, enrollment, &command.request_type, &report.body, now).await?;
    if command.request_type != "EraseDevice" || enrollment.parent_id.is_some() {
        return Ok(());
    }
    // The device erases itself now and forgets that it was managed: nothing more is for it until it enrolls anew.
    for user in tx.user_channels_for_update(enrollment.id).await? {
        void_open(tx, &user, End::Wiped, now).await?;
        tx.close_enrollment(user.id, "disabled", now).await?;
    }
    void_open(tx, enrollment, End::Wiped, now).await?;
    tx.close_enrollment(enrollment.id, "disabled", now).await?;
    let subject = Subject { kind: "device", id: &enrollment.device_id.to_string() };
    let detail = json!({"command": command.id});
    app.audit(tx, &Actor::device(&enrollment.apple_id), "device.wiped", subject, &detail, now).await
}

/// The place for which a raw report is sealed.
#[must_use]
pub fn raw_context(id: ReportId) -> String {
    format!("reports.raw:{id}")
}

/// The place for which a report as it was read is sealed.
#[must_use]
pub fn parsed_context(id: ReportId) -> String {
    format!("reports.parsed:{id}")
}
