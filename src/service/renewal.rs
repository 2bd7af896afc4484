//! Renewing the identity certificates of enrolled devices before they end.

use std::time::Duration;

use super::commands::{Internal, enqueue_internal};
use super::{App, Error};
use crate::model::{EnrollmentId, Timestamp};

/// Devices that are looked at in one transaction.
const BATCH: i64 = 200;

/// Sends a renewal to every enrolled device whose certificate has less than a third of its life left and that has no
/// renewal open. Returns how many.
///
/// # Errors
/// [`Error::Unavailable`]; what was sent before stays sent.
pub async fn renew_identities(app: &App) -> Result<u64, Error> {
    let now = app.clock.now();
    let before = now.plus(margin(app.settings.scep.certificate_lifetime));
    let mut after = EnrollmentId(uuid::Uuid::nil());
    let mut sent = 0;
    loop {
        let mut tx = app.store.begin_write().await?;
        let batch = tx.expiring_identities(before, after, BATCH).await?;
        let Some((last, _)) = batch.last() else { return Ok(sent) };
        after = *last;
        for (id, _) in &batch {
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

async fn renew(app: &App, tx: &mut crate::store::Write, id: EnrollmentId, now: Timestamp) -> Result<bool, Error> {
    let Some(enrollment) = tx.enrollment_by_id_for_update(id).await? else { return Ok(false) };
    if !enrollment.is_enabled() {
        return Ok(false);
    }
    for delivery in tx.unfinished_deliveries(id).await? {
        if tx.command(delivery.command_id).await?.is_some_and(|command| command.verb == super::commands::RENEW) {
            return Ok(false);
        }
    }
    enqueue_internal(app, tx, id, Internal::Renewal, now).await?;
    tx.request_wake(id, now, now.plus(app.settings.push.sync_interval)).await?;
    Ok(true)
}
