//! Renewing the identity certificates of enrolled devices before they end.

use std::time::Duration;

use super::commands::{Internal, enqueue_internal};
use super::{App, Error, authorities};
use crate::model::{EnrollmentId, Timestamp};
use crate::store::Write;

/// Devices that are looked at in one transaction.
const BATCH: i64 = 200;

/// The pause after a renewal before the next is sent, if it takes no effect; doubled each time.
const FIRST_PAUSE: Duration = Duration::from_secs(60 * 60);
/// A certificate that would hold so little longer than the one before is not worth a renewal.
const GAIN: Duration = Duration::from_secs(24 * 60 * 60);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// Longest text that is kept of why a renewal failed, in characters.
const MAX_ERROR: usize = 500;

/// Sends a renewal to every enrolled device whose certificate has less than a third of its life left and that has no
/// renewal open. Returns how many. A device that refuses it, or on which it has no effect, is asked again after a while
/// that doubles up to a week. One whose profile was made elsewhere gets none: no profile of ours can replace it. Nor does
/// one whose certificate ends with the authority that issues: the next would end no later.
///
/// # Errors
/// [`Error::Unavailable`]; what was sent before stays sent.
pub async fn renew_identities(app: &App) -> Result<u64, Error> {
    let now = app.clock.now();
    let before = now.plus(margin(app.settings.scep.certificate_lifetime));
    let (_, authority) = authorities::issuing_certificate(&mut app.store.begin_read().await?).await?;
    let mut after = EnrollmentId(uuid::Uuid::nil());
    let mut sent = 0;
    loop {
        let mut tx = app.store.begin_write().await?;
        let batch = tx.expiring_identities(before, now, after, BATCH).await?;
        let Some((last, _)) = batch.last() else { return Ok(sent) };
        after = *last;
        for (id, _) in batch.iter().filter(|(_, ends)| authority.not_after > ends.plus(GAIN)) {
            sent += u64::from(renew(app, &mut tx, *id, now).await?);
        }
        tx.commit().await?;
        app.signals.push.notify_one();
    }
}

/// The time before its end at which a certificate is renewed.
fn margin(lifetime: Duration) -> Duration {
    lifetime / 3
}

async fn renew(app: &App, tx: &mut Write, id: EnrollmentId, now: Timestamp) -> Result<bool, Error> {
    let Some(enrollment) = tx.enrollment_by_id_for_update(id).await? else { return Ok(false) };
    if !enrollment.is_enabled() {
        return Ok(false);
    }
    for delivery in tx.unfinished_deliveries(id).await? {
        if tx.command(delivery.command_id).await?.is_some_and(|command| command.verb == super::commands::RENEW) {
            return Ok(false);
        }
    }
    enqueue_internal(app, tx, (id, enrollment.generation), Internal::Renewal, now).await?;
    let attempts = tx.renewal(id).await?.map_or(0, |row| row.attempts).saturating_add(1);
    tx.put_renewal(id, attempts, now.plus(pause(attempts)), now).await?;
    tx.request_wake(id, now, now.plus(app.settings.push.sync_interval)).await?;
    Ok(true)
}

/// Notes that a device did not do what a command of this verb asks for, if that was a renewal.
pub(super) async fn failed(
    tx: &mut Write,
    verb: &str,
    id: EnrollmentId,
    why: &str,
    now: Timestamp,
) -> Result<(), Error> {
    if verb != super::commands::RENEW {
        return Ok(());
    }
    let attempts = tx.renewal(id).await?.map_or(1, |row| row.attempts);
    let why: String = why.chars().map(|char| if char.is_control() { ' ' } else { char }).take(MAX_ERROR).collect();
    tx.fail_renewal(id, &why, now.plus(pause(attempts)), now).await?;
    Ok(())
}

/// The pause after the renewal that was the `attempts`-th.
fn pause(attempts: i64) -> Duration {
    let doublings = u32::try_from(attempts.saturating_sub(1).clamp(0, 16)).unwrap_or(0);
    FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(doublings)).min(LONGEST_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_week() {
        let hours = |attempts| pause(attempts).as_secs() / 3600;
        assert_eq!([hours(1), hours(2), hours(3), hours(8), hours(9), hours(i64::MAX)], [1, 2, 4, 128, 168, 168]);
    }
}
