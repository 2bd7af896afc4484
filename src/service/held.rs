//! After a restore: what the database asks for may have been done, or withdrawn, since the backup. So whatever takes
//! something from people is held until an admin says that it is still meant, and nobody enrolls by an old link.

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::audit::Subject;
use super::{Actor, App, Error};
use crate::catalog::HELD_AFTER_RESTORE;
use crate::model::{CommandId, EnrollmentId, JobId, Timestamp};
use crate::store::{CommandFilter, ListedCommand, Write};

/// The job that wakes the devices of a command that was released.
pub const WAKE_RELEASED: &str = "wake_released";

/// Commands that are released, or devices that are woken, in one transaction.
const BATCH: i64 = 500;

/// The payload of [`WAKE_RELEASED`].
#[derive(Debug, Serialize, Deserialize)]
pub struct WakeReleased {
    /// The command.
    pub command: CommandId,
    /// The last device that the job has come to; none at its beginning.
    #[serde(default)]
    pub after: Option<EnrollmentId>,
}

/// What a mark changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marked {
    /// Commands that are held now and were not before.
    pub held: u64,
    /// Enrollment links that were ended.
    pub links: u64,
    /// Challenges that were ended.
    pub challenges: u64,
}

/// Marks a database that was restored, in one transaction. From then on
///
/// - open commands that destroy something, lock, or clear a passcode are held: no device gets them until an admin releases
///   them, and they can be cancelled; also those for all devices that have no deliveries yet;
/// - enrollment links and SCEP challenges that were issued before are void, and so is a certificate that came of such a
///   link and was not used yet.
///
/// Again it does the same to what was asked for and issued in between, and nothing where that is nothing.
///
/// # Errors
/// [`Error::Unavailable`].
pub async fn mark(app: &App, actor: &Actor) -> Result<Marked, Error> {
    let now = app.clock.now();
    let mut tx = app.store.begin_write().await?;
    let marked = Marked {
        held: tx.hold_commands(HELD_AFTER_RESTORE, now).await?,
        links: tx.revoke_all_links(now).await?,
        challenges: tx.end_all_challenges(now).await?,
    };
    tx.end_backup().await?;
    let detail = json!({"held": marked.held, "links": marked.links, "challenges": marked.challenges});
    let subject = Subject { kind: "database", id: app.store.kind() };
    app.audit(&mut tx, actor, "database.restored", subject, &detail, now).await?;
    tx.commit().await?;
    Ok(marked)
}

/// How many commands are held.
///
/// # Errors
/// [`Error::Unavailable`].
pub async fn count(app: &App) -> Result<u64, Error> {
    let count = app.store.begin_read().await?.count_held_commands().await?;
    Ok(u64::try_from(count).unwrap_or(0))
}

/// The next commands that are held, oldest first.
///
/// # Errors
/// [`Error::Unavailable`].
pub async fn list(app: &App, after: Option<CommandId>, limit: i64) -> Result<Vec<ListedCommand>, Error> {
    let filter = CommandFilter { only_held: true, ..CommandFilter::default() };
    Ok(app.store.begin_read().await?.list_commands(&filter, false, after, limit).await?.rows)
}

/// Lets a command go on, and wakes its devices.
///
/// # Errors
/// [`Error::NotFound`]; [`Error::Conflict`] `not_held`.
pub async fn release(app: &App, actor: &Actor, id: CommandId) -> Result<(), Error> {
    let now = app.clock.now();
    let mut tx = app.store.begin_write().await?;
    if tx.command_for_update(id).await?.is_none() {
        return Err(Error::NotFound(format!("there is no command {id}")));
    }
    if !release_one(app, &mut tx, actor, id, now).await? {
        return Err(Error::conflict("not_held", format!("the command {id} is not held")));
    }
    tx.commit().await?;
    app.signals.jobs.notify_one();
    Ok(())
}

/// Lets all commands that are held go on, oldest first. Returns how many there were. What was released stays released
/// when this is broken off.
///
/// # Errors
/// [`Error::Conflict`] `confirmation_needed` where `confirm` is not their number.
pub async fn release_all(app: &App, actor: &Actor, confirm: Option<u64>) -> Result<u64, Error> {
    let now = app.clock.now();
    let count = count(app).await?;
    if confirm != Some(count) {
        let detail = format!("{count} commands are held; send \"confirm\": {count} if all are still meant");
        return Err(Error::conflict("confirmation_needed", detail));
    }
    let (mut released, mut after) = (0, None);
    loop {
        let batch = list(app, after, BATCH).await?;
        let Some(last) = batch.last() else { break };
        after = Some(last.id);
        let mut tx = app.store.begin_write().await?;
        for command in &batch {
            released += u64::from(release_one(app, &mut tx, actor, command.id, now).await?);
        }
        tx.commit().await?;
    }
    app.signals.jobs.notify_one();
    Ok(released)
}

async fn release_one(app: &App, tx: &mut Write, actor: &Actor, id: CommandId, now: Timestamp) -> Result<bool, Error> {
    if !tx.release_command(id).await? {
        return Ok(false);
    }
    let payload = json!({ "command": id }).to_string();
    tx.add_job(JobId::new(now, &*app.random), WAKE_RELEASED, &payload, None, now, now).await?;
    let subject = Subject { kind: "command", id: &id.to_string() };
    app.audit(tx, actor, "command.released", subject, &json!({}), now).await?;
    Ok(true)
}

/// Wakes the next devices for which a command is open. Some: from where to go on; none: there are no more. Those of a
/// command for all that have no delivery yet are woken by its own job.
///
/// # Errors
/// [`Error::Unavailable`].
pub async fn wake_batch(app: &App, id: CommandId, after: EnrollmentId) -> Result<Option<EnrollmentId>, Error> {
    let now = app.clock.now();
    let mut tx = app.store.begin_write().await?;
    let batch = tx.open_for(id, after, BATCH).await?;
    for enrollment in &batch {
        if tx.enrollment_by_id_for_update(*enrollment).await?.is_some_and(|channel| channel.is_enabled()) {
            tx.request_wake(*enrollment, now, now.plus(app.settings.push.sync_interval)).await?;
        }
    }
    tx.commit().await?;
    app.signals.push.notify_one();
    Ok(batch.last().copied())
}
