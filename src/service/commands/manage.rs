use serde_json::json;

use super::super::audit::Subject;
use super::super::deliveries::{apply, materialize};
use super::super::{Actor, App, Error};
use super::accept::{destruction_of, guard};
use crate::model::{CommandId, DeliveryState, EnrollmentId, Timestamp, Transition};
use crate::store::{CommandRow, Key, Write};
use futures_util::FutureExt;
use futures_util::future::try_join_all;

/// Deliveries that are changed in one transaction.
const BATCH: usize = 500;
/// The same as a limit of what is read.
const LIMIT: i64 = BATCH as i64;
/// Most deliveries that one request hands over again; what is left takes another.
const MAX_AGAIN: i64 = 10_000;

/// What a cancellation withdraws, two states at a time.
const CANCELLED_FROM: [[DeliveryState; 2]; 2] =
    [[DeliveryState::Queued, DeliveryState::NotNow], [DeliveryState::Unconfirmed, DeliveryState::Unconfirmed]];

/// What a cancellation did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cancelled {
    /// Deliveries that were withdrawn.
    pub cancelled: u64,
    /// Deliveries that a device has or had: they take their course.
    pub not_cancelled: u64,
}

/// Withdraws what no device has yet. What was handed over takes its course.
///
/// No delivery is made of the command from the first transaction on; those that are there are withdrawn in batches.
///
/// # Errors
/// [`Error::NotFound`].
pub async fn cancel(app: &App, actor: &Actor, id: CommandId) -> Result<Cancelled, Error> {
    let now = app.clock.now();
    let mut tx = app.store.begin_write().await?;
    let command = tx.command_for_update(id).await?.ok_or_else(|| not_found(id))?;
    audit_cancellation(app, &mut tx, actor, &command, now).await?;
    tx.cancel_command(id, now).await?;
    tx.commit().await?;

    let mut cancelled = 0;
    for states in CANCELLED_FROM {
        cancelled += each_in(app, id, states, Transition::Cancel, now).await?;
    }
    let total: i64 = app.store.begin_read().await?.count_deliveries(id).await?.iter().map(|(_, n)| n).sum();
    let not_cancelled = u64::try_from(total).unwrap_or(0).saturating_sub(cancelled);
    Ok(Cancelled { cancelled, not_cancelled })
}

/// Records what a cancellation is about to withdraw, in the transaction that stops the command: nothing, if there is
/// nothing left to withdraw. The counts are those of this moment; a device that comes before its delivery is withdrawn
/// gets the command still.
async fn audit_cancellation(
    app: &App,
    tx: &mut Write,
    actor: &Actor,
    command: &CommandRow,
    now: Timestamp,
) -> Result<(), Error> {
    let (mut cancelled, mut not_cancelled) = (0, 0);
    for (state, count) in tx.count_deliveries(command.id).await? {
        let count_of = if CANCELLED_FROM.as_flattened().iter().any(|from| from.as_str() == state) {
            &mut cancelled
        } else {
            &mut not_cancelled
        };
        *count_of += count;
    }
    let mut detail = json!({"cancelled": cancelled, "not_cancelled": not_cancelled});
    let mut not_made = 0;
    if let Some(number) = command.fleet_number.filter(|_| !command.materialized) {
        not_made = tx.count_not_materialized(number).await?;
        detail["not_made"] = json!(not_made);
    }
    if cancelled + not_made == 0 {
        return Ok(());
    }
    let subject = Subject { kind: "command", id: &command.id.to_string() };
    app.audit(tx, actor, "command.cancelled", subject, &detail, now).await
}

/// Delivers again what a device had and did not report on, where the server does not do so by itself; on at most 10,000
/// devices at once. What destroys on more than one device needs the same confirmation as the first time. It is for those
/// deliveries that were counted for it, and not for those that become unconfirmed while it goes on.
///
/// # Errors
/// [`Error::NotFound`]; [`Error::Conflict`] when nothing of this command is unconfirmed, when it was cancelled or its time
/// ran out (it would never be handed over), `command_held`, and `confirmation_needed`; [`Error::Denied`] where the role does not allow it.
pub async fn redeliver(app: &App, actor: &Actor, id: CommandId, confirm: Option<u64>) -> Result<u64, Error> {
    let now = app.clock.now();
    let mut tx = app.store.begin_write().await?;
    let command = tx.command_for_update(id).await?.ok_or_else(|| not_found(id))?;
    let over = match (command.cancelled_at, command.expires_at.filter(|at| *at <= now)) {
        (Some(at), _) => Some(format!("the command was cancelled at {at}")),
        (None, Some(at)) => Some(format!("the command's time ran out at {at}")),
        (None, None) => None,
    };
    if command.held_at.is_some() {
        let detail = "the command is held since the database was restored; release it first, or cancel it";
        return Err(Error::conflict("command_held", detail));
    }
    if let Some(over) = over {
        let detail = format!("{over}, so that it is not handed over any more; ask for it anew");
        return Err(Error::conflict("nothing_unconfirmed", detail));
    }
    let counted = tx.redeliverable(id, MAX_AGAIN).await?;
    if counted.is_empty() {
        return Err(nothing_unconfirmed());
    }
    guard(actor, command.destruction.as_deref().and_then(destruction_of), counted.len() as u64, confirm)?;
    let detail = json!({"deliveries": counted.len()});

    // The audit row stands with the first that are handed over again, and with none if there are none.
    let mut again = 0;
    let mut begun = Some(tx);
    for batch in counted.chunks(BATCH) {
        let mut tx = match begun.take() {
            Some(tx) => tx,
            None => app.store.begin_write().await?,
        };
        if again == 0 {
            let subject = Subject { kind: "command", id: &id.to_string() };
            app.audit(&mut tx, actor, "command.redelivered", subject, &detail, now).await?;
        }
        let before = again;
        for (enrollment, revision) in batch {
            again += u64::from(one_again(app, &mut tx, id, *enrollment, *revision, now).await?);
        }
        if again > before {
            tx.commit().await?;
        }
    }
    if again == 0 {
        return Err(nothing_unconfirmed());
    }
    app.signals.push.notify_one();
    Ok(again)
}

fn nothing_unconfirmed() -> Error {
    Error::conflict(
        "nothing_unconfirmed",
        "no delivery of this command is unconfirmed on a device that is still enrolled as it was then; others are \
         offered again by the server itself",
    )
}

fn not_found(id: CommandId) -> Error {
    Error::NotFound(format!("there is no command {id}"))
}

/// Takes all deliveries of a command that are in one of `states` through a transition, in batches. Each enrollment is
/// locked before its delivery is looked at again, as by the device's own messages.
async fn each_in(
    app: &App,
    id: CommandId,
    states: [DeliveryState; 2],
    transition: Transition,
    now: Timestamp,
) -> Result<u64, Error> {
    let mut changed = 0;
    let mut after = EnrollmentId(uuid::Uuid::nil());
    loop {
        let mut tx = app.store.begin_write().await?;
        let batch = tx.deliveries_in(id, states, after, LIMIT).await?;
        let Some(last) = batch.last() else { return Ok(changed) };
        after = last.enrollment_id;
        for found in &batch {
            changed += u64::from(one(&mut tx, id, found.enrollment_id, transition, now).await?);
        }
        tx.commit().await?;
    }
}

async fn one(
    tx: &mut Write,
    id: CommandId,
    enrollment: EnrollmentId,
    transition: Transition,
    now: Timestamp,
) -> Result<bool, Error> {
    if tx.enrollment_by_id_for_update(enrollment).await?.is_none() {
        return Ok(false);
    }
    let Some(delivery) = tx.delivery(enrollment, id).await? else { return Ok(false) };
    apply(tx, &delivery, transition, now, None).await
}

/// Hands one delivery over again, if it still is as it was counted.
async fn one_again(
    app: &App,
    tx: &mut Write,
    id: CommandId,
    enrollment: EnrollmentId,
    revision: i64,
    now: Timestamp,
) -> Result<bool, Error> {
    let Some(channel) = tx.enrollment_by_id_for_update(enrollment).await? else { return Ok(false) };
    let Some(delivery) = tx.delivery(enrollment, id).await? else { return Ok(false) };
    if delivery.revision != revision || !channel.is_enabled() || channel.generation != delivery.generation {
        // A report came, or the device has left, or enrolled anew: nothing of then is handed over any more.
        return Ok(false);
    }
    let done = apply(tx, &delivery, Transition::Redeliver, now, None).await?;
    if done {
        tx.request_wake(enrollment, now, now.plus(app.settings.push.sync_interval)).await?;
    }
    Ok(done)
}

/// Makes the next deliveries of a command for all and asks for their wake-ups. Some: from where to go on; none: all
/// are made. Idempotent, as the enrollment's cursor moves with it.
///
/// Whoever comes first (the device, or the job of another command) makes the deliveries of all commands for all, and
/// need not want to wake anybody: each command's own job wakes those that have it waiting, whoever made the delivery.
///
/// # Errors
/// [`Error::Unavailable`].
pub async fn materialize_batch(
    app: &App,
    id: CommandId,
    after: EnrollmentId,
    push: bool,
) -> Result<Option<EnrollmentId>, Error> {
    let now = app.clock.now();
    let (batch, push) = {
        let mut read = app.store.begin_read().await?;
        let Some(command) = read.command(id).await? else { return Ok(None) };
        let Some(number) = command.fleet_number.filter(|_| !command.materialized) else { return Ok(None) };
        // What is held wakes nobody.
        let push = push && command.held_at.is_none();
        (read.enrollments_before_fleet_number(number, push.then_some(id), after, LIMIT).await?, push)
    };
    let Some((last, _)) = batch.last() else {
        // None is left that was enrolled when the command was accepted: whoever enrolls now has a greater number.
        let mut tx = app.store.begin_write().await?;
        tx.set_materialized(id).await?;
        tx.commit().await?;
        return Ok(None);
    };
    let last = *last;
    // Each on its own, and all of them in as few transactions as can be, beside the messages of devices.
    let each = batch.into_iter().map(|(_, apple_id)| {
        let next_sync = push.then(|| now.plus(app.settings.push.sync_interval));
        app.store.together(vec![Key::of(&apple_id)], move |tx| {
            let apple_id = apple_id.clone();
            async move { give(tx, &apple_id, id, next_sync, now).await }.boxed()
        })
    });
    try_join_all(each).await?;
    app.signals.push.notify_one();
    Ok(Some(last))
}

/// Makes the deliveries of an enrollment, and wakes it if it has this command waiting and `next_sync` says so.
async fn give(
    mut tx: Write,
    apple_id: &str,
    id: CommandId,
    next_sync: Option<Timestamp>,
    now: Timestamp,
) -> Result<(), Error> {
    // As messages do, so that rows are locked in one order.
    let Some(locked) = tx.enrollment_for_update(apple_id).await? else { return Ok(()) };
    materialize(&mut tx, &locked, now).await?;
    if let Some(next_sync) = next_sync
        && locked.is_enabled()
        && is_queued(&mut tx, locked.id, id).await?
    {
        tx.request_wake(locked.id, now, next_sync).await?;
    }
    tx.commit().await?;
    Ok(())
}

async fn is_queued(tx: &mut Write, enrollment: EnrollmentId, id: CommandId) -> Result<bool, Error> {
    Ok(tx.delivery(enrollment, id).await?.is_some_and(|delivery| delivery.state == DeliveryState::Queued))
}

/// Ends deliveries whose time ran out. Returns how many.
///
/// # Errors
/// [`Error::Unavailable`].
pub async fn expire_deliveries(app: &App) -> Result<u64, Error> {
    let now = app.clock.now();
    let mut tx = app.store.begin_write().await?;
    let mut due = tx.expired_deliveries(now, LIMIT).await?;
    due.sort_by_key(|delivery| delivery.enrollment_id);
    let mut expired = 0;
    for found in due {
        expired += u64::from(one(&mut tx, found.command_id, found.enrollment_id, Transition::Expire, now).await?);
    }
    tx.commit().await?;
    Ok(expired)
}
