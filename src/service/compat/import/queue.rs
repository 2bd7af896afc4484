use std::collections::{BTreeMap, HashMap};

use uuid::Uuid;

use super::super::super::deliveries::{apply, queued};
use super::super::super::{App, Error};
use super::super::enqueue::{self, Request};
use super::super::push::lock;
use super::channels::skip;
use super::tally::Report;
use super::{ATTEMPTS, Run, Standing, passes};
use crate::catalog::HELD_AFTER_RESTORE;
use crate::model::{CommandId, EnrollmentId, Sha256, Timestamp, Transition};
use crate::protocol::command::{self, Command};
use crate::protocol::wire::Limits;
use crate::remote::nanomdm::Queued;
use crate::store::{CommandRow, Enrollment, TakenOver, Write};

/// Rows that are read and taken at once.
const PAGE: i64 = 200;
/// Bytes of commands that are kept in memory at once, if there is more than one.
const MAX_BYTES: i64 = 16 << 20;
/// Clocks of servers are whole quarters of an hour apart, where one says local time.
const QUARTER: i64 = 15 * 60 * 1_000_000;
/// What stands in the history of a delivery that is not handed over, since it waits at the other server no more.
const WITHDRAWN: &str = "it was answered at the earlier server, or withdrawn there";

/// Takes over what waits. `last` is when the last of it was queued, by the other server's clock.
pub(super) async fn take(run: &mut Run<'_>, last: Option<i64>) -> Result<(), Error> {
    let ahead = ahead(last, run.app.clock.now());
    let (mut after, mut done) = (Queued::default(), 0);
    loop {
        let mut page = run.source.queue(&after, PAGE).await?;
        let commands = commands(run, &mut page).await?;
        let Some(end) = page.last() else { return Ok(()) };
        after = end.clone();
        done += page.len() as u64;
        let mut attempts = 0;
        let report = loop {
            attempts += 1;
            match take_page(run, &page, &commands, ahead).await {
                Err(error) if attempts < ATTEMPTS && passes(&error) => {}
                taken => break taken?,
            }
        };
        *run.report = report;
        run.watch.reach(done);
    }
}

/// How far the times of the other server are ahead of ours. Times without a zone may be local ones, and only their order
/// counts.
fn ahead(last: Option<i64>, now: Timestamp) -> i64 {
    let beyond = last.map_or(0, |last| last.saturating_sub(now.micros())).max(0);
    beyond.saturating_add(QUARTER - 1) / QUARTER * QUARTER
}

/// A command as the other server has it.
enum Found {
    /// It is here by that name.
    Here,
    Read(Box<Command>, Sha256),
    Unreadable(String),
}

/// The commands that a page names. What would be too much at once is taken from the end of the page, for the next one.
async fn commands(run: &mut Run<'_>, page: &mut Vec<Queued>) -> Result<HashMap<String, Found>, Error> {
    let mut commands = HashMap::new();
    let mut bytes = 0;
    let mut keep = 0;
    for row in page.iter() {
        if !commands.contains_key(&row.command_uuid) {
            let is_here = run.app.store.begin_read().await?.command_by_wire_uuid(&row.command_uuid).await?.is_some();
            if !is_here && bytes > 0 && bytes + row.size_bytes > MAX_BYTES {
                break;
            }
            let found = match is_here {
                true => Found::Here,
                false => {
                    bytes += row.size_bytes;
                    read(run, row).await?
                }
            };
            commands.insert(row.command_uuid.clone(), found);
        }
        keep += 1;
    }
    page.truncate(keep);
    Ok(commands)
}

async fn read(run: &mut Run<'_>, row: &Queued) -> Result<Found, Error> {
    if usize::try_from(row.size_bytes).is_ok_and(|size| size > Limits::COMMAND.bytes) {
        return Ok(Found::Unreadable(format!("the command is larger than {} bytes", Limits::COMMAND.bytes)));
    }
    let Some(text) = run.source.command(&row.command_uuid).await? else {
        return Ok(Found::Unreadable("the command was taken away meanwhile".to_owned()));
    };
    Ok(match command::decode_any(text.as_bytes()) {
        Ok(command) if command.uuid == row.command_uuid => Found::Read(Box::new(command), Sha256::of(text.as_bytes())),
        Ok(_) => Found::Unreadable("the command has another CommandUUID in itself".to_owned()),
        Err(why) => Found::Unreadable(format!("the command cannot be read: {why}")),
    })
}

async fn take_page(
    run: &Run<'_>,
    page: &[Queued],
    commands: &HashMap<String, Found>,
    ahead: i64,
) -> Result<Report, Error> {
    let mut report = run.report.clone();
    let mut tx = run.app.store.begin_write().await?;
    // The commands' rows first, in one order, then those of the enrollments, as by whoever else locks several.
    let mut by_command: BTreeMap<&str, Vec<&Queued>> = BTreeMap::new();
    for row in page {
        by_command.entry(&row.command_uuid).or_default().push(row);
    }
    let mut known = HashMap::new();
    for uuid in by_command.keys() {
        known.insert(*uuid, tx.command_by_wire_uuid_for_update(uuid).await?);
    }
    let mut ids: Vec<String> = page.iter().map(|row| row.id.clone()).collect();
    ids.dedup();
    let (channels, _) = lock(&mut tx, &ids).await?;
    let mut open = HashMap::new();
    for channel in channels {
        let standing = tx.standing(channel.id).await?;
        open.insert(channel.apple_id.clone(), (channel, standing));
    }
    for (uuid, rows) in by_command {
        let (row, found) = (known.remove(uuid).flatten(), commands.get(uuid));
        take_command(run, &mut tx, row, found, &rows, &open, ahead, &mut report).await?;
    }
    if !run.dry_run {
        tx.commit().await?;
    }
    Ok(report)
}

#[expect(clippy::too_many_arguments, reason = "what a page has read and locked")]
async fn take_command(
    run: &Run<'_>,
    tx: &mut Write,
    known: Option<CommandRow>,
    found: Option<&Found>,
    rows: &[&Queued],
    open: &HashMap<String, (Enrollment, Standing)>,
    ahead: i64,
    report: &mut Report,
) -> Result<(), Error> {
    let now = run.app.clock.now();
    let mut targets = Vec::new();
    for row in rows {
        match refusal(run, known.as_ref(), found, row, open.get(&row.id)) {
            Some(why) => skip(report, |report| &mut report.queue, "queued command", &why, &shown(row)),
            None => targets.push(*row),
        }
    }
    if targets.is_empty() {
        return Ok(());
    }
    let channels: Vec<Enrollment> =
        targets.iter().filter_map(|row| open.get(&row.id)).map(|(channel, _)| channel.clone()).collect();
    let command = match (known, found) {
        (Some(row), _) => row,
        (None, Some(Found::Read(command, digest))) if !run.dry_run => {
            match insert(run, tx, command, *digest, &channels, now).await {
                Ok((row, held)) => {
                    report.held += u64::from(held);
                    row
                }
                Err(Error::Conflict { code: "command_uuid", detail }) => {
                    for row in targets {
                        skip(report, |report| &mut report.queue, "queued command", &detail, &shown(row));
                    }
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
        _ => {
            report.queue.added += targets.len() as u64;
            return Ok(());
        }
    };
    let mut added = 0;
    for row in targets {
        let Some((channel, _)) = open.get(&row.id) else {
            report.queue.added += 1;
            continue;
        };
        let is_there = tx.delivery_by_wire_uuid(channel.id, &row.command_uuid).await?.is_some();
        if is_there {
            report.queue.unchanged += 1;
            continue;
        }
        report.queue.added += 1;
        if !run.dry_run {
            let mut delivery = queued(&command.head(), channel.id, channel.generation, now);
            delivery.queued_at = row.at.map_or(now, |at| Timestamp::from_micros(at.saturating_sub(ahead))).min(now);
            // There the greater comes first, here the smaller; what the server itself asks for stays behind.
            delivery.priority = delivery.priority.saturating_sub(row.priority).clamp(1, 199);
            added += i64::from(tx.insert_delivery(&delivery).await?);
        }
    }
    if added > 0 {
        tx.add_targets(command.id, added).await?;
    }
    Ok(())
}

/// Why a command that waits there is not taken for this enrollment.
fn refusal(
    run: &Run<'_>,
    known: Option<&CommandRow>,
    found: Option<&Found>,
    row: &Queued,
    channel: Option<&(Enrollment, Standing)>,
) -> Option<String> {
    let why = match channel {
        // A dry run has not added it.
        None if run.dry_run => None,
        None => Some("its enrollment was not taken over"),
        Some((_, Standing::EnrolledHere)) => Some("its device has enrolled here"),
        Some((channel, _)) if !channel.is_enabled() => Some("its enrollment has ended"),
        Some(_) => None,
    };
    let of_command = match (known, found) {
        (Some(command), _) if command.cancelled_at.is_some() => Some("the command was cancelled here"),
        (Some(command), _) if command.request_type != row.request_type => {
            Some("its CommandUUID stands for another command here")
        }
        (None, Some(Found::Unreadable(why))) => Some(why.as_str()),
        // It was here, and was pruned since.
        (None, Some(Found::Here) | None) => Some("the command was taken away here meanwhile"),
        _ => None,
    };
    why.or(of_command).map(str::to_owned)
}

async fn insert(
    run: &Run<'_>,
    tx: &mut Write,
    command: &Command,
    digest: Sha256,
    channels: &[Enrollment],
    now: Timestamp,
) -> Result<(CommandRow, bool), Error> {
    let request = Request { actor: run.actor, ids: &[], command, digest, no_push: true };
    let built = enqueue::built(command);
    let row = enqueue::insert(run.app, tx, &request, &built, channels, now).await?;
    let takes = row.destruction.is_some()
        || HELD_AFTER_RESTORE.contains(&row.request_type.trim().to_lowercase().as_str())
        || row.resend != crate::model::Resend::Freely;
    if takes {
        tx.hold_command(row.id, now).await?;
    }
    Ok((row, takes))
}

fn shown(row: &Queued) -> String {
    format!("{} for {}", row.command_uuid, row.id)
}

/// Takes back what was taken over before and waits at the other server no more, from enrollments that nobody has heard of
/// here: it was answered there, and must not be done again.
pub(super) async fn withdraw(run: &mut Run<'_>) -> Result<(), Error> {
    let mut after = (EnrollmentId(Uuid::nil()), CommandId(Uuid::nil()));
    loop {
        let mut read = run.app.store.begin_read().await?;
        let page = read.taken_over_and_queued(&run.actor.name, after, PAGE).await?;
        drop(read);
        let Some(last) = page.last() else { return Ok(()) };
        after = (last.enrollment_id, last.command_id);
        for row in &page {
            if !run.source.is_queued(&row.apple_id, &row.wire_uuid).await? {
                run.report.queue.updated += u64::from(withdraw_one(run.app, row, run.dry_run).await?);
            }
        }
    }
}

async fn withdraw_one(app: &App, row: &TakenOver, dry_run: bool) -> Result<bool, Error> {
    let now = app.clock.now();
    let mut tx = app.store.begin_write().await?;
    let device = row.apple_id.split_once(':').map_or(row.apple_id.as_str(), |(device, _)| device);
    tx.enrollment_for_update(device).await?;
    let Some(channel) = tx.enrollment_for_update(&row.apple_id).await? else { return Ok(false) };
    if tx.standing(channel.id).await? != Standing::Awaited {
        return Ok(false);
    }
    let Some(delivery) = tx.delivery_by_wire_uuid(channel.id, &row.wire_uuid).await? else { return Ok(false) };
    if dry_run {
        return Ok(true);
    }
    let done = apply(&mut tx, &delivery, Transition::Cancel, now, Some(WITHDRAWN)).await?;
    tx.commit().await?;
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_times_are_brought_back_by_quarters_of_an_hour() {
        let now = Timestamp::from_seconds(1_000_000);
        assert_eq!(ahead(None, now), 0);
        assert_eq!(ahead(Some(0), now), 0);
        assert_eq!(ahead(Some(now.micros()), now), 0);
        assert_eq!(ahead(Some(now.micros() + 1), now), QUARTER);
        assert_eq!(ahead(Some(now.micros() + 8 * QUARTER), now), 8 * QUARTER);
    }
}
