use super::super::super::Error;
use super::super::super::check_in::raw_context;
use super::super::super::deliveries::{End, void_open};
use super::channels::{Push, Verdict, enroll, is_text, judge, seen, skip, token_update};
use super::tally::Report;
use super::{ATTEMPTS, Run, Standing, passes};
use crate::model::{AppleId, EnrollmentId, EnrollmentKind, Timestamp};
use crate::remote::nanomdm::User;
use crate::store::{Enrollment, PushFacts, Write};

/// Users that are read and taken at once.
const PAGE: i64 = 100;
/// Longest name of a user that is kept, characters.
const MAX_NAME: usize = 255;

/// Takes the user channels over, after the devices.
pub(super) async fn take(run: &mut Run<'_>) -> Result<(), Error> {
    let (mut after, mut done) = (String::new(), 0);
    loop {
        let page = run.source.users(&after, PAGE).await?;
        let Some(last) = page.last() else { return Ok(()) };
        after.clone_from(&last.id);
        done += page.len() as u64;
        let mut attempts = 0;
        let report = loop {
            attempts += 1;
            match take_page(run, &page).await {
                Err(error) if attempts < ATTEMPTS && passes(&error) => {}
                taken => break taken?,
            }
        };
        *run.report = report;
        run.watch.reach(done);
    }
}

async fn take_page(run: &Run<'_>, page: &[User]) -> Result<Report, Error> {
    let mut report = run.report.clone();
    let mut tx = run.app.store.begin_write().await?;
    for user in page {
        take_one(run, &mut tx, user, &mut report).await?;
    }
    if !run.dry_run {
        tx.commit().await?;
    }
    Ok(report)
}

async fn take_one(run: &Run<'_>, tx: &mut Write, user: &User, report: &mut Report) -> Result<(), Error> {
    let now = run.app.clock.now();
    let (apple_id, push) = match read(user) {
        Ok(read) => read,
        Err(why) => {
            skip(report, |report| &mut report.users, "user", why, &user.id);
            return Ok(());
        }
    };
    // The row of the device first, as by every message of a user.
    let parent = tx.enrollment_for_update(&user.device_id).await?;
    if let Some(why) = refusal(run, tx, parent.as_ref()).await? {
        skip(report, |report| &mut report.users, "user", why, &user.id);
        return Ok(());
    }
    let existing = tx.enrollment_for_update(&apple_id.id).await?;
    match judge(tx, existing, user.enabled).await? {
        Verdict::Skip(why) => skip(report, |report| &mut report.users, "user", why, &user.id),
        Verdict::End(row) => {
            report.users.updated += 1;
            if !run.dry_run {
                void_open(tx, &row, End::CheckOut, now).await?;
                tx.close_enrollment(row.id, "disabled", now).await?;
                tx.set_migrated(row.id, now).await?;
            }
        }
        Verdict::Add => {
            report.users.added += 1;
            if let Some(parent) = parent.filter(|_| !run.dry_run) {
                let id = EnrollmentId::new(now, &*run.app.random);
                tx.insert_enrollment(id, parent.device_id, Some(parent.id), &apple_id, now).await?;
                keep(run, tx, id, user, &push, now).await?;
                enroll(run.app, tx, id, now).await?;
            }
        }
        Verdict::Take(row) if row.is_enabled() && push.is_of(&row) => report.users.unchanged += 1,
        Verdict::Take(row) => {
            report.users.updated += 1;
            if !run.dry_run {
                let is_new = !row.is_enabled();
                if is_new {
                    tx.begin_generation(row.id, now).await?;
                }
                keep(run, tx, row.id, user, &push, now).await?;
                if is_new {
                    enroll(run.app, tx, row.id, now).await?;
                }
            }
        }
    }
    Ok(())
}

fn read(user: &User) -> Result<(AppleId, Push), &'static str> {
    let kind = match user.kind.as_str() {
        "User" => EnrollmentKind::User,
        "User Enrollment" => EnrollmentKind::UserEnrollment,
        "Shared iPad" => EnrollmentKind::SharedIpad,
        _ => return Err("its type is none of a user channel"),
    };
    let of_device = user.id.strip_prefix(user.device_id.as_str()).and_then(|rest| rest.strip_prefix(':'));
    // An id of ours has the device's in front of it: two parts of up to 255 bytes.
    if of_device.is_none_or(|rest| !is_text(rest)) || !is_text(&user.device_id) {
        return Err("its id is not its device's id, a colon, and a user's");
    }
    let push = Push::read(&user.token_hex, &user.push_magic, &user.topic)?;
    Ok((AppleId { id: user.id.clone(), parent: Some(user.device_id.clone()), kind }, push))
}

/// Why the users of a device are not taken.
async fn refusal(run: &Run<'_>, tx: &mut Write, parent: Option<&Enrollment>) -> Result<Option<&'static str>, Error> {
    let Some(parent) = parent else {
        // A dry run has not added it.
        return Ok((!run.dry_run).then_some("its device was not taken over"));
    };
    if !parent.is_enabled() {
        return Ok(Some("its device is not enrolled here"));
    }
    Ok(match tx.standing(parent.id).await? {
        Standing::EnrolledHere => Some("its device has enrolled here"),
        Standing::CameHere | Standing::Awaited => None,
    })
}

async fn keep(
    run: &Run<'_>,
    tx: &mut Write,
    id: EnrollmentId,
    user: &User,
    push: &Push,
    now: Timestamp,
) -> Result<(), Error> {
    let raw = user.token_update.as_ref().map(|raw| raw.expose().as_str());
    let message = token_update(raw, &user.id);
    if let (Some(raw), Some(_)) = (raw, &message) {
        let sealed = run.app.seal(&raw_context(&user.id, "TokenUpdate"), raw.as_bytes())?;
        tx.put_check_in(id, "TokenUpdate", &sealed, now).await?;
    }
    let name = |name: &Option<String>| name.as_ref().map(|name| name.chars().take(MAX_NAME).collect::<String>());
    tx.set_channel_user(id, name(&user.short_name).as_deref(), name(&user.long_name).as_deref()).await?;
    let facts = PushFacts {
        topic: &push.topic,
        token: &push.token,
        magic: &push.magic,
        awaiting_configuration: message.is_some_and(|message| message.awaiting_configuration),
    };
    tx.set_push(id, &facts, now).await?;
    tx.set_migrated_seen(id, seen(user.last_seen, now), now).await?;
    Ok(())
}
