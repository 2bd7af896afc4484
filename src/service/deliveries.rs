//! What a device gets next, and what becomes of what it got. Every change of a delivery's state goes through [`step`],
//! and so through the graph of [`DeliveryState::after`].
//!
//! A connection begins with Idle and ends with the empty answer, whatever sockets, proxies or server processes carry
//! it. Its number stands in the enrollment, and in each delivery that of its last offer: so a delivery that was
//! offered in this connection and put off (NotNow) is not offered in it again, and one that was offered in an earlier
//! connection and not answered is a lost report.

use std::time::Duration;

use super::{App, Error, renewal};
use crate::model::{CommandId, DeliveryState, EnrollmentId, Resend, Timestamp, Transition};
use crate::protocol;
use crate::store::{CommandHead, Delivery, Enrollment, Write};

mod fill;

pub(super) use fill::{AtDelivery, to_json as fills_to_json};

/// When to wake a device that went away with work open.
const SILENCE: Duration = Duration::from_secs(10 * 60);
/// When to wake a device that said NotNow, at the earliest; the same again at most is added at random.
const NOT_NOW: Duration = Duration::from_secs(10 * 60);
/// What was handed over so often and not answered the last time is offered after the others.
const PATIENCE: i64 = 3;
/// Deliveries that are read at once; what changes many goes on until none is left.
const BATCH: i64 = 50;
/// What stands in the history of a delivery that could not be made ready. The reason is for the log alone.
const NOT_READY: &str = "the server could not make it ready for the device and tries again; its log says why";

/// Why all that is open for an enrollment ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The device enrolled anew: a wipe that it had was done, unless the enrollment had ended otherwise before.
    NewEnrollment,
    /// The enrollment profile was removed: its removal, if it had that command, was done.
    CheckOut,
    /// The device said that it wipes itself.
    Wiped,
    /// An admin removed the device.
    Removed,
}

impl End {
    const fn text(self) -> &'static str {
        match self {
            Self::NewEnrollment => "the device enrolled anew",
            Self::CheckOut => "the enrollment profile was removed",
            Self::Wiped => "the device was wiped",
            Self::Removed => "the device was removed from management",
        }
    }
}

/// A delivery after a transition; none where the graph has no such arrow.
#[must_use]
pub fn step(delivery: &Delivery, transition: Transition, now: Timestamp) -> Option<Delivery> {
    let state = delivery.state.after(transition)?;
    Some(Delivery { state, revision: delivery.revision + 1, updated_at: now, ..delivery.clone() })
}

/// Takes a delivery through a transition. False: the graph has no such arrow, and nothing was written.
pub(super) async fn apply(
    tx: &mut Write,
    delivery: &Delivery,
    transition: Transition,
    now: Timestamp,
    detail: Option<&str>,
) -> Result<bool, Error> {
    match step(delivery, transition, now) {
        Some(next) => write(tx, &next, detail).await.map(|()| true),
        None => Ok(false),
    }
}

/// Writes a delivery that [`step`] made. The enrollment's row is locked, so that nobody else changed it meanwhile.
async fn write(tx: &mut Write, next: &Delivery, detail: Option<&str>) -> Result<(), Error> {
    if tx.update_delivery(next, detail).await? {
        Ok(())
    } else {
        Err(Error::Unavailable("the delivery was changed by another request at the same time".to_owned()))
    }
}

/// Ends everything that is open for an enrollment.
///
/// What the device never had is cancelled. What it had and did not report on may have happened: what this end proves is
/// presumed done, and the rest is unconfirmed, until the device enrolls anew, which makes it void.
///
/// A wipe is never void: it is presumed done where the device comes as new out of the very enrollment that it was handed
/// over in. A device that had checked out or was removed in between comes as new without having been erased, so that
/// its wipe stays unconfirmed for good. `enrollment` is the row as it is before it ends.
pub(super) async fn void_open(tx: &mut Write, enrollment: &Enrollment, end: End, now: Timestamp) -> Result<(), Error> {
    let has_ended = !matches!(enrollment.state.as_str(), "enabled" | "authenticated");
    for delivery in tx.unfinished_deliveries(enrollment.id).await? {
        let was_handed_over = matches!(delivery.state, DeliveryState::Sent | DeliveryState::Unconfirmed);
        let is_wipe = delivery.resend == Resend::SameGeneration;
        let left_before = has_ended || delivery.generation != enrollment.generation;
        let transition = match end {
            End::NewEnrollment if is_wipe && delivery.state == DeliveryState::Unconfirmed && left_before => continue,
            End::NewEnrollment if is_wipe && was_handed_over => Transition::Presume,
            End::CheckOut if was_handed_over && unenrolls(tx, &delivery).await? => Transition::Presume,
            End::CheckOut | End::Wiped | End::Removed if was_handed_over => Transition::Unconfirm,
            _ => Transition::Void,
        };
        apply(tx, &delivery, transition, now, Some(end.text())).await?;
    }
    Ok(())
}

async fn unenrolls(tx: &mut Write, delivery: &Delivery) -> Result<bool, Error> {
    let command = tx.command(delivery.command_id).await?;
    Ok(command.is_some_and(|command| command.destruction.as_deref() == Some("unenroll")))
}

/// A renewal that was handed over is done: the device sent its Authenticate and TokenUpdate again.
pub(super) async fn presume_renewal(tx: &mut Write, id: EnrollmentId, now: Timestamp) -> Result<(), Error> {
    loop {
        let sent = tx.sent_of_verb(id, super::commands::RENEW, BATCH).await?;
        if sent.is_empty() {
            return Ok(());
        }
        for delivery in sent {
            apply(tx, &delivery, Transition::Presume, now, Some("the device authenticated anew")).await?;
        }
    }
}

/// What begins with Idle: commands for all become deliveries, what ran out of time expires, and what must not be run
/// twice and was not answered waits for an admin. Returns the connection's number.
pub(super) async fn begin_connection(tx: &mut Write, enrollment: &Enrollment, now: Timestamp) -> Result<i64, Error> {
    let connection = tx.begin_connection(enrollment.id, now).await?;
    materialize(tx, enrollment, now).await?;
    loop {
        let sent = tx.sent_by_admin_only(enrollment.id, BATCH).await?;
        if sent.is_empty() {
            break;
        }
        for delivery in sent {
            apply(tx, &delivery, Transition::Unconfirm, now, Some("no report came")).await?;
        }
    }
    tx.put_off_wake(enrollment.id, Some(now.plus(SILENCE))).await?;
    Ok(connection)
}

/// Makes deliveries of the commands for all that this enrollment has not been given. Idempotent: the enrollment's
/// cursor moves in the same transaction.
pub(super) async fn materialize(tx: &mut Write, enrollment: &Enrollment, now: Timestamp) -> Result<u64, Error> {
    let Some(mut cursor) = enrollment.fleet_cursor.filter(|_| enrollment.is_enabled()) else { return Ok(0) };
    if enrollment.parent_id.is_some() {
        // Commands for all are for devices; a user channel only notes that it has seen them.
        return skip_fleet_commands(tx, enrollment, cursor).await;
    }
    let mut made = 0;
    loop {
        let commands = tx.commands_for_all_after(cursor).await?;
        let Some(last) = commands.last().and_then(|command| command.fleet_number) else { return Ok(made) };
        for command in &commands {
            let over = command.cancelled_at.is_some() || command.expires_at.is_some_and(|at| at <= now);
            if !over && tx.insert_delivery(&queued(command, enrollment.id, enrollment.generation, now)).await? {
                made += 1;
            }
        }
        cursor = last;
        tx.set_fleet_cursor(enrollment.id, cursor).await?;
    }
}

/// Whether anything is open for an enrollment, or a command for all not yet looked at.
pub(super) async fn is_anything_waiting(tx: &mut Write, enrollment: &Enrollment) -> Result<bool, Error> {
    if tx.has_deliverable(enrollment.id).await? {
        return Ok(true);
    }
    match enrollment.fleet_cursor.filter(|_| enrollment.parent_id.is_none()) {
        Some(cursor) => Ok(tx.has_commands_for_all_after(cursor).await?),
        None => Ok(false),
    }
}

async fn skip_fleet_commands(tx: &mut Write, enrollment: &Enrollment, mut cursor: i64) -> Result<u64, Error> {
    loop {
        let commands = tx.commands_for_all_after(cursor).await?;
        let Some(last) = commands.last().and_then(|command| command.fleet_number) else { return Ok(0) };
        cursor = last;
        tx.set_fleet_cursor(enrollment.id, cursor).await?;
    }
}

/// A new delivery of `command` for the present generation of an enrollment.
#[must_use]
pub(super) fn queued(command: &CommandHead, enrollment: EnrollmentId, generation: i64, now: Timestamp) -> Delivery {
    Delivery {
        enrollment_id: enrollment,
        command_id: command.id,
        generation,
        state: DeliveryState::Queued,
        priority: command.priority,
        resend: command.resend,
        connection: 0,
        attempts: 0,
        revision: 1,
        // The age that counts is the command's, not that of a delivery that was made later from a command for all.
        queued_at: command.created_at,
        sent_at: None,
        answered_at: None,
        updated_at: now,
        expires_at: command.expires_at,
        error: None,
        report_id: None,
    }
}

/// Chooses and hands over the next command, as the bytes that go to the device; none when there is nothing to do in
/// this connection.
///
/// The store leaves out what was offered in this connection already, so that nothing hides behind it however much it is.
/// What is passed over here is out of the way by that: each round has fewer left. What was handed over several times and
/// never answered comes after all others: whatever it is that this device cannot say about it, the queue goes on.
pub(super) async fn next(
    app: &App,
    tx: &mut Write,
    enrollment: &Enrollment,
    connection: i64,
    now: Timestamp,
) -> Result<Option<Vec<u8>>, Error> {
    loop {
        let mut batch = tx.offerable_deliveries(enrollment.id, connection, PATIENCE, BATCH).await?;
        if batch.is_empty() {
            batch = tx.unanswered_deliveries(enrollment.id, connection, PATIENCE, BATCH).await?;
        }
        if batch.is_empty() {
            break;
        }
        for delivery in batch {
            if pass_over(tx, enrollment, &delivery, now).await? {
                continue;
            }
            if let Some(bytes) = offer(app, tx, enrollment, &delivery, connection, now).await? {
                return Ok(Some(bytes));
            }
        }
    }
    // What is held wakes nobody: it is asked for when it is released.
    let remains = tx.has_deliverable(enrollment.id).await?;
    let wake = remains.then(|| {
        let spread = Duration::from_micros(app.random.below(u64::try_from(NOT_NOW.as_micros()).unwrap_or(0)));
        now.plus(NOT_NOW).plus(spread)
    });
    tx.put_off_wake(enrollment.id, wake).await?;
    Ok(None)
}

/// What the device gets for a report that it sent before: the answer to the first was lost, and with it what was handed
/// over in this connection last. That comes again, unless it must not be run twice, or is over by now; else what is next.
/// Whether what is over was done is for the next connection to tell: the answer may have arrived all the same.
pub(super) async fn again_or_next(
    app: &App,
    tx: &mut Write,
    enrollment: &Enrollment,
    connection: i64,
    now: Timestamp,
) -> Result<Option<Vec<u8>>, Error> {
    if let Some(last) = tx.last_offered(enrollment.id, connection).await?
        && last.resend != Resend::ByAdminOnly
        && last.generation == enrollment.generation
        && last.expires_at.is_none_or(|at| at > now)
        && tx.command_facts(last.command_id).await?.is_some_and(|command| command.cancelled_at.is_none())
        && let Some(bytes) = offer(app, tx, enrollment, &last, connection, now).await?
    {
        return Ok(Some(bytes));
    }
    next(app, tx, enrollment, connection, now).await
}

/// Whether a delivery is not to be handed over any more; then it has left the open states, or waits for an admin.
async fn pass_over(
    tx: &mut Write,
    enrollment: &Enrollment,
    delivery: &Delivery,
    now: Timestamp,
) -> Result<bool, Error> {
    if delivery.generation != enrollment.generation {
        // Made while the device enrolled anew: never delivered.
        return apply(tx, delivery, Transition::Void, now, Some(End::NewEnrollment.text())).await;
    }
    let is_over = delivery.expires_at.is_some_and(|at| at <= now);
    if delivery.state == DeliveryState::Sent {
        // A lost report. What must not be run twice, or has no time left, waits for an admin instead.
        if is_over {
            return give_up(tx, delivery, "its time ran out", now).await;
        }
        let waits = delivery.resend == Resend::ByAdminOnly;
        return Ok(waits && apply(tx, delivery, Transition::Unconfirm, now, Some("no report came")).await?);
    }
    Ok(is_over && apply(tx, delivery, Transition::Expire, now, None).await?)
}

/// Ends what was handed over in an earlier connection, not answered, and is not to be handed over again: it may have been
/// done, so that it is unconfirmed, and a late report counts. Not so a wipe: that the device came shows that nothing was
/// erased.
async fn give_up(tx: &mut Write, delivery: &Delivery, why: &str, now: Timestamp) -> Result<bool, Error> {
    if delivery.resend == Resend::SameGeneration {
        let detail = format!("{why}; the device came, and so has not erased itself");
        return apply(tx, delivery, Transition::Void, now, Some(&detail)).await;
    }
    apply(tx, delivery, Transition::Unconfirm, now, Some(&format!("{why}; no report came"))).await
}

/// Hands one delivery over. None: it cannot be filled in for this device and has failed, or it waits for the next
/// connection.
async fn offer(
    app: &App,
    tx: &mut Write,
    enrollment: &Enrollment,
    delivery: &Delivery,
    connection: i64,
    now: Timestamp,
) -> Result<Option<Vec<u8>>, Error> {
    let command = tx
        .command(delivery.command_id)
        .await?
        .ok_or_else(|| Error::Internal(format!("command {} has a delivery and no row", delivery.command_id)))?;
    if command.cancelled_at.is_some() {
        if delivery.state == DeliveryState::Sent {
            give_up(tx, delivery, "cancelled", now).await?;
        } else {
            apply(tx, delivery, Transition::Void, now, Some("cancelled")).await?;
        }
        return Ok(None);
    }
    if command.held_at.is_some() {
        // Since a restore: it may have been done, or withdrawn, after the backup. An admin has to say that it is meant.
        tx.leave_delivery(delivery, connection).await?;
        return Ok(None);
    }
    let payload = match fill::apply(app, tx, enrollment, &command, now).await {
        Ok(payload) => payload,
        Err(fill::Failure::Missing(what)) => {
            let mut failed = step(delivery, Transition::Fail, now)
                .ok_or_else(|| Error::Internal(format!("a delivery that is {} was to fail", delivery.state)))?;
            failed.answered_at = Some(now);
            failed.error = Some(serde_json::json!([{"domain": "muster", "code": 0, "description": what}]).to_string());
            write(tx, &failed, Some(&what)).await?;
            renewal::failed(tx, &command.verb, enrollment.id, &what, now).await?;
            return Ok(None);
        }
        Err(fill::Failure::Trouble(error)) => {
            leave(tx, delivery, connection, &error, now).await?;
            return Ok(None);
        }
        Err(fill::Failure::Store(error)) => return Err(error.into()),
    };
    let mut sent = step(delivery, Transition::Offer, now)
        .ok_or_else(|| Error::Internal(format!("a delivery that is {} was to be offered", delivery.state)))?;
    sent.connection = connection;
    sent.attempts += 1;
    sent.sent_at = Some(now);
    let detail = (sent.attempts > 1).then(|| format!("attempt {}", sent.attempts));
    write(tx, &sent, detail.as_deref()).await?;
    let uuid = command.wire_uuid.unwrap_or_else(|| wire_uuid(command.id));
    Ok(Some(protocol::command::encode(&uuid, &command.request_type, payload)))
}

/// Leaves a delivery as it is for this connection: it could not be made ready, which is no fault of the device's, and
/// neither its report nor what else waits for it is to suffer. The history and the log tell it once, not in each
/// connection.
async fn leave(tx: &mut Write, delivery: &Delivery, connection: i64, why: &Error, now: Timestamp) -> Result<(), Error> {
    if tx.delivery_detail(delivery).await?.as_deref() == Some(NOT_READY) {
        tx.leave_delivery(delivery, connection).await?;
        return Ok(());
    }
    let (command, enrollment) = (delivery.command_id, delivery.enrollment_id);
    tracing::warn!(%command, %enrollment, "a command waits since it cannot be made ready for its device: {why}");
    let left = Delivery { connection, revision: delivery.revision + 1, updated_at: now, ..delivery.clone() };
    write(tx, &left, Some(NOT_READY)).await
}

/// A command's id as it stands on the wire.
#[must_use]
pub fn wire_uuid(id: CommandId) -> String {
    id.to_string().to_uppercase()
}

/// The place for which a command's payload is sealed.
#[must_use]
pub(super) fn payload_context(id: CommandId) -> String {
    format!("commands.payload:{id}")
}
