//! What device channels and user channels have in common.

use std::time::Duration;

use super::super::super::{App, Error};
use super::Standing;
use super::tally::{Report, Tally};
use crate::model::{EnrollmentId, Timestamp};
use crate::protocol::checkin::{self, CheckIn, TokenUpdate};
use crate::protocol::wire::Limits;
use crate::store::{Enrollment, Write};

/// Longest text that is kept of what another server says: as what a device sends.
const MAX_TEXT: usize = 255;

pub(super) const GONE: &str = "it is not enrolled there any more, or has not finished";
const REMOVED: &str = "it was removed from management here";
const ENROLLED_HERE: &str = "it has enrolled here";
const CAME_HERE: &str = "it comes here already: what it tells itself counts";

/// How a channel is pushed to.
pub(super) struct Push {
    pub(super) token: Vec<u8>,
    pub(super) magic: String,
    pub(super) topic: String,
}

impl Push {
    /// Reads what the other server keeps.
    pub(super) fn read(token_hex: &str, magic: &str, topic: &str) -> Result<Self, &'static str> {
        let token = hex::decode(token_hex.trim()).ok().filter(|token| (1..=MAX_TEXT).contains(&token.len()));
        let token = token.ok_or("its push token is none")?;
        if !is_text(magic) || !is_text(topic) {
            return Err("its push magic or topic cannot be kept");
        }
        Ok(Self { token, magic: magic.to_owned(), topic: topic.to_owned() })
    }

    pub(super) fn is_of(&self, row: &Enrollment) -> bool {
        row.push_token.as_ref() == Some(&self.token)
            && row.push_magic.as_ref() == Some(&self.magic)
            && row.topic.as_ref() == Some(&self.topic)
    }
}

/// Whether an id, magic or topic can be kept.
pub(super) fn is_text(text: &str) -> bool {
    (1..=MAX_TEXT).contains(&text.len()) && !text.chars().any(|c| c.is_control() || c == '\u{FFFD}')
}

/// What is to be done with a channel.
pub(super) enum Verdict {
    Add,
    Take(Enrollment),
    End(Enrollment),
    Skip(&'static str),
}

/// Judges a channel by how it stands here, and by whether it is enrolled there still.
pub(super) async fn judge(tx: &mut Write, existing: Option<Enrollment>, enabled: bool) -> Result<Verdict, Error> {
    let Some(row) = existing else {
        return Ok(if enabled { Verdict::Add } else { Verdict::Skip(GONE) });
    };
    if row.state == "removed" {
        return Ok(Verdict::Skip(REMOVED));
    }
    Ok(match tx.standing(row.id).await? {
        Standing::EnrolledHere => Verdict::Skip(ENROLLED_HERE),
        Standing::CameHere => Verdict::Skip(CAME_HERE),
        Standing::Awaited if enabled => Verdict::Take(row),
        Standing::Awaited if row.is_enabled() => Verdict::End(row),
        Standing::Awaited => Verdict::Skip(GONE),
    })
}

/// Begins what each enrollment has: the number that tells which commands for all it gets, and wake-ups. It is woken within
/// one interval at the latest, spread, and sooner for what is asked for.
pub(super) async fn enroll(app: &App, tx: &mut Write, id: EnrollmentId, now: Timestamp) -> Result<(), Error> {
    let number = tx.fleet_number_for_enrollment().await?;
    tx.set_fleet_cursor(id, number).await?;
    let interval = app.settings.push.sync_interval;
    let spread = app.random.below(u64::try_from(interval.as_micros()).unwrap_or(u64::MAX));
    let first = now.plus(Duration::from_micros(spread));
    tx.request_wake(id, first, first.plus(interval)).await?;
    Ok(())
}

/// When a channel was last heard of; never later than now.
pub(super) fn seen(micros: Option<i64>, now: Timestamp) -> Timestamp {
    micros.map_or(now, Timestamp::from_micros).min(now)
}

/// The `TokenUpdate` that another server keeps for `id`, if it can be read.
pub(super) fn token_update(raw: Option<&str>, id: &str) -> Option<TokenUpdate> {
    match checkin::decode(raw?.as_bytes(), Limits::CHECK_IN) {
        Ok(CheckIn::TokenUpdate(message)) if message.sender.apple_id.id == id => Some(message),
        _ => None,
    }
}

/// Counts a channel that is not taken.
pub(super) fn skip(report: &mut Report, of: fn(&mut Report) -> &mut Tally, what: &'static str, why: &str, id: &str) {
    of(report).skipped += 1;
    report.note(what, why, id);
}
