//! Pushes that a tool waits for. They are sent by the worker, here or in another process, like all others: this asks for
//! them and watches the rows of the wake-ups.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::super::{App, Error, wakes};
use super::outcome::{OfId, Outcome};
use super::{MAX_IDS, told};
use crate::model::{EnrollmentId, Timestamp};
use crate::store::{Enrollment, WakeRow, Write};

/// How long a tool waits for its pushes at most.
const WAIT: Duration = Duration::from_secs(10);
/// How often the rows are looked at without being told: another process may have sent the push.
const LOOK: Duration = Duration::from_millis(500);
/// The word of the interface for an enrollment that cannot be pushed to.
const NO_PUSH_DATA: &str = "push data missing for id";

/// Wakes enrollments and waits for what becomes of it.
pub async fn push(app: &App, ids: &[String]) -> Outcome {
    if let Some(why) = wrong_count(ids) {
        return Outcome { push_error: Some(why), ..Outcome::default() };
    }
    match ask(app, ids).await {
        Ok((mut outcome, wanted)) => {
            watch(app, wanted, &mut outcome).await;
            outcome
        }
        Err(error) => Outcome { push_error: Some(told(&error)), ..Outcome::default() },
    }
}

/// Why a request with these ids does nothing.
pub(super) fn wrong_count(ids: &[String]) -> Option<String> {
    match ids.len() {
        0 => Some("the path names no enrollment".to_owned()),
        1..=MAX_IDS => None,
        more => Some(format!("{more} enrollments at once; at most {MAX_IDS}")),
    }
}

async fn ask(app: &App, ids: &[String]) -> Result<(Outcome, Wanted), Error> {
    let now = app.clock.now();
    let mut outcome = Outcome::default();
    let mut wanted = Wanted::default();
    let mut tx = app.store.begin_write().await?;
    let (channels, unknown) = lock(&mut tx, ids).await?;
    for id in unknown {
        outcome.of(&id).push_error = Some(NO_PUSH_DATA.to_owned());
    }
    for channel in &channels {
        wanted.add(app, &mut tx, channel, &mut outcome, now).await?;
    }
    outcome.push_error = wanted.without_certificate(&mut tx, now).await?;
    tx.commit().await?;
    app.signals.push.notify_one();
    Ok((outcome, wanted))
}

/// The enrollments that ids name, locked in the order of these, as by messages of devices; and the ids that name none.
pub(super) async fn lock(tx: &mut Write, ids: &[String]) -> Result<(Vec<Enrollment>, Vec<String>), Error> {
    let mut known = BTreeSet::new();
    let mut unknown = Vec::new();
    for id in ids {
        // PostgreSQL takes no NUL in a text.
        let found = if id.contains('\0') { None } else { tx.enrollment_by_apple_id(id).await? };
        match found {
            Some(enrollment) => drop(known.insert(enrollment.apple_id)),
            None => unknown.push(id.clone()),
        }
    }
    let mut locked = Vec::with_capacity(known.len());
    for id in known {
        locked.extend(tx.enrollment_for_update(&id).await?);
    }
    // What belongs to them is locked by their ids everywhere.
    locked.sort_by_key(|enrollment| enrollment.id);
    Ok((locked, unknown))
}

/// Wake-ups that were asked for.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    awaited: Vec<Awaited>,
    topics: BTreeSet<String>,
}

#[derive(Debug)]
struct Awaited {
    apple_id: String,
    topic: String,
    enrollment: EnrollmentId,
    /// A push for this revision, or a later one, is the one that was asked for.
    revision: i64,
}

impl Wanted {
    /// Asks for the wake-up of a locked enrollment, if it can be pushed to.
    pub(super) async fn add(
        &mut self,
        app: &App,
        tx: &mut Write,
        channel: &Enrollment,
        outcome: &mut Outcome,
        now: Timestamp,
    ) -> Result<(), Error> {
        let (true, Some(topic), true) = (channel.is_enabled(), &channel.topic, channel.push_token.is_some()) else {
            outcome.of(&channel.apple_id).push_error = Some(NO_PUSH_DATA.to_owned());
            return Ok(());
        };
        tx.request_wake(channel.id, now, now.plus(app.settings.push.sync_interval)).await?;
        let row = tx.wake(channel.id).await?.ok_or_else(|| Error::Internal("a wake-up's row vanished".to_owned()))?;
        self.topics.insert(topic.clone());
        self.awaited.push(Awaited {
            apple_id: channel.apple_id.clone(),
            topic: topic.clone(),
            enrollment: channel.id,
            revision: row.revision,
        });
        Ok(())
    }

    /// What keeps whole topics from being pushed to; their enrollments are not waited for.
    pub(super) async fn without_certificate(
        &mut self,
        tx: &mut Write,
        now: Timestamp,
    ) -> Result<Option<String>, Error> {
        let problems = wakes::topics_without_certificate(tx, &self.topics, now).await?;
        if problems.is_empty() {
            return Ok(None);
        }
        let valid: BTreeSet<_> =
            tx.push_certificates().await?.into_iter().filter(|row| row.not_after > now).map(|row| row.topic).collect();
        self.awaited.retain(|one| valid.contains(&one.topic));
        Ok(Some(problems.join("; ")))
    }
}

/// Waits until each push has ended, for a bounded time, and notes how.
pub(super) async fn watch(app: &App, wanted: Wanted, outcome: &mut Outcome) {
    let until = Instant::now() + WAIT;
    let mut open = wanted.awaited;
    loop {
        // Registered before looking, so that what ends in between is not missed.
        let ended = app.signals.pushed.notified();
        tokio::pin!(ended);
        ended.as_mut().enable();
        match look(app, &open).await {
            Ok(found) => open.retain(|one| match found.get(&one.enrollment) {
                Some(of) => {
                    let of_id = outcome.of(&one.apple_id);
                    of_id.push_error.clone_from(&of.push_error);
                    of_id.push_result.clone_from(&of.push_result);
                    false
                }
                None => true,
            }),
            Err(error) => {
                outcome.push_error = Some(told(&error));
                return;
            }
        }
        if open.is_empty() {
            return;
        }
        if Instant::now() >= until {
            break;
        }
        let _ = timeout_at(until.min(Instant::now() + LOOK), ended).await;
    }
    for one in open {
        let why = format!("the push service did not answer within {} seconds; the push goes on", WAIT.as_secs());
        outcome.of(&one.apple_id).push_error = Some(why);
    }
}

/// Those that have ended.
async fn look(app: &App, open: &[Awaited]) -> Result<BTreeMap<EnrollmentId, OfId>, Error> {
    let now = app.clock.now();
    let mut read = app.store.begin_read().await?;
    let mut found = BTreeMap::new();
    for one in open {
        let Some(row) = read.wake(one.enrollment).await? else { continue };
        if let Some(of) = ended(&row, one.revision, now) {
            found.insert(one.enrollment, of);
        }
    }
    Ok(found)
}

/// How the push for a revision ended; none while it is under way or due.
fn ended(row: &WakeRow, revision: i64, now: Timestamp) -> Option<OfId> {
    let error = |why: String| Some(OfId { push_error: Some(why), ..OfId::default() });
    let reason = || row.last_reason.clone().or_else(|| row.last_result.clone()).unwrap_or_default();
    if row.last_revision.is_some_and(|last| last >= revision) {
        return match row.last_result.as_deref() {
            Some("accepted") => Some(OfId { push_result: row.last_apns_id.clone(), ..OfId::default() }),
            Some("not_possible") => error(NO_PUSH_DATA.to_owned()),
            _ => error(reason()),
        };
    }
    if row.leased_until.is_some_and(|until| until >= now) || row.due_at.is_some_and(|due| due <= now) {
        return None;
    }
    match row.not_before.filter(|until| *until > now) {
        Some(until) => {
            error(format!("the push service is left alone until {until}, since the last push failed: {}", reason()))
        }
        // The device came by itself meanwhile: it needs no push any more.
        None => Some(OfId::default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> WakeRow {
        WakeRow {
            due_at: None,
            attempts: 0,
            sync_at: None,
            last_at: None,
            last_result: None,
            last_reason: None,
            last_apns_id: None,
            revision: 5,
            leased_until: None,
            not_before: None,
            last_revision: None,
        }
    }

    #[test]
    fn a_push_has_ended_when_one_for_its_revision_or_a_later_has() {
        let (now, later) = (Timestamp::from_seconds(100), Timestamp::from_seconds(200));
        let accepted = WakeRow {
            last_result: Some("accepted".to_owned()),
            last_apns_id: Some("id".to_owned()),
            last_revision: Some(5),
            ..row()
        };
        assert_eq!(ended(&accepted, 5, now).unwrap().push_result.as_deref(), Some("id"));
        assert_eq!(ended(&accepted, 4, now).unwrap().push_result.as_deref(), Some("id"));
        assert_eq!(ended(&WakeRow { due_at: Some(now), ..accepted.clone() }, 6, now), None, "that was an earlier one");
        assert_eq!(ended(&WakeRow { leased_until: Some(later), ..row() }, 5, now), None);
        assert_eq!(ended(&row(), 5, now), Some(OfId::default()), "the device came by itself");
        let refused = WakeRow {
            due_at: Some(later),
            not_before: Some(later),
            last_result: Some("unreachable".to_owned()),
            last_reason: Some("nobody there".to_owned()),
            ..row()
        };
        assert!(ended(&refused, 5, now).unwrap().push_error.unwrap().contains("nobody there"));
        let gone = WakeRow { last_revision: Some(5), last_result: Some("token_invalid".to_owned()), ..refused };
        assert_eq!(ended(&gone, 5, now).unwrap().push_error.as_deref(), Some("nobody there"));
    }
}
