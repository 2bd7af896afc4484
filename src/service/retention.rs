//! Taking away what is old, as the settings say: bit by bit, each bit a short transaction of its own, so that no device
//! waits for it. Where it was broken off it goes on with what is still there.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{App, Error, webhooks};
use crate::config::Keep;
use crate::model::Timestamp;

/// Deliveries that are looked at in one transaction.
const DELIVERIES: i64 = 100;
/// Rows that one transaction takes away, about.
const ROWS: i64 = 1000;
/// Reports that one transaction takes away; they are large.
const REPORTS: i64 = 100;
/// Bytes of reports that one transaction takes away, about.
const REPORT_BYTES: i64 = 8 << 20;
/// Commands for all that are looked at in one transaction.
const FOR_ALL: i64 = 100;
/// Rows of the audit log that one transaction takes away.
const AUDIT: i64 = 1000;

/// What was taken away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Reports, but for those that went with their deliveries.
    pub reports: u64,
    /// Deliveries, with their histories and reports.
    pub deliveries: u64,
    /// Commands.
    pub commands: u64,
    /// Rows of the audit log.
    pub audit: u64,
    /// Events that webhooks did not take.
    pub dead_events: u64,
}

/// One walk through all that may be old.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sweep {
    stage: Stage,
}

#[derive(Clone, Copy, Debug, Default)]
enum Stage {
    #[default]
    Reports,
    Deliveries,
    /// Commands for all that nobody got: after the one with this number.
    ForAll(i64),
    Audit,
    DeadEvents,
    Done,
}

/// Takes away the next bit. None: nothing is left that is old.
///
/// # Errors
/// [`Error::Unavailable`].
pub async fn next_batch(app: &App, sweep: &mut Sweep) -> Result<Option<Pruned>, Error> {
    let (now, retention) = (app.clock.now(), &app.settings.retention);
    loop {
        let (keep, next) = match sweep.stage {
            Stage::Reports => (retention.reports, Stage::Deliveries),
            Stage::Deliveries => (retention.commands, Stage::ForAll(0)),
            Stage::ForAll(_) => (retention.commands, Stage::Audit),
            Stage::Audit => (retention.audit, Stage::DeadEvents),
            Stage::DeadEvents => (retention.dead_events, Stage::Done),
            Stage::Done => return Ok(None),
        };
        let Some(before) = end_of(keep, now) else {
            sweep.stage = next;
            continue;
        };
        let pruned = match &mut sweep.stage {
            Stage::Reports => reports(app, before).await?,
            Stage::Deliveries => deliveries(app, before).await?,
            Stage::ForAll(after) => for_all(app, before, after).await?,
            Stage::Audit => audit(app, before).await?,
            Stage::DeadEvents => {
                let dead_events = webhooks::prune_dead(app, before).await?;
                (dead_events > 0).then(|| Pruned { dead_events, ..Pruned::default() })
            }
            Stage::Done => None,
        };
        match pruned {
            Some(pruned) => return Ok(Some(pruned)),
            None => sweep.stage = next,
        }
    }
}

/// What is of before this time is old.
fn end_of(keep: Keep, now: Timestamp) -> Option<Timestamp> {
    match keep {
        Keep::Forever => None,
        Keep::For(span) => Some(now.minus(span.max(Duration::from_secs(1)))),
    }
}

async fn reports(app: &App, before: Timestamp) -> Result<Option<Pruned>, Error> {
    let mut tx = app.store.begin_write().await?;
    let (mut pruned, mut bytes) = (Pruned::default(), 0);
    for old in tx.old_reports(before, REPORTS).await? {
        pruned.reports += u64::from(tx.prune_report(old).await?);
        bytes += old.size_bytes;
        if bytes >= REPORT_BYTES {
            break;
        }
    }
    if pruned.reports == 0 {
        return Ok(None);
    }
    tx.commit().await?;
    Ok(Some(pruned))
}

/// A delivery that put off its command for months has thousands of steps: what is too much for one transaction is left to
/// the next, and the delivery goes with the last of it.
async fn deliveries(app: &App, before: Timestamp) -> Result<Option<Pruned>, Error> {
    let mut tx = app.store.begin_write().await?;
    let ended = tx.ended_deliveries(before, DELIVERIES).await?;
    if ended.is_empty() {
        return Ok(None);
    }
    let commands: BTreeSet<_> = ended.iter().map(|(_, command)| *command).collect();
    for command in &commands {
        tx.lock_command(*command).await?;
    }
    let mut pruned = Pruned::default();
    let (mut rows, mut reports) = (ROWS, REPORTS);
    for (enrollment, command) in ended {
        rows -= count(tx.prune_transitions(enrollment, command, rows).await?);
        reports -= count(tx.prune_reports_of(enrollment, command, reports).await?);
        if rows <= 0 || reports <= 0 {
            break;
        }
        pruned.deliveries += u64::from(tx.prune_delivery(enrollment, command).await?);
    }
    for command in commands {
        pruned.commands += u64::from(tx.prune_command(command, before).await?);
    }
    tx.commit().await?;
    Ok(Some(pruned))
}

fn count(rows: u64) -> i64 {
    i64::try_from(rows).unwrap_or(i64::MAX)
}

/// Commands for all that were for nobody, or whose last delivery went before they could.
async fn for_all(app: &App, before: Timestamp, after: &mut i64) -> Result<Option<Pruned>, Error> {
    let mut tx = app.store.begin_write().await?;
    let batch = tx.commands_for_all_since(before, *after, FOR_ALL).await?;
    let Some(last) = batch.last() else { return Ok(None) };
    *after = last.fleet_number;
    let mut pruned = Pruned::default();
    for command in batch.iter().filter(|command| command.is_spent) {
        tx.lock_command(command.id).await?;
        pruned.commands += u64::from(tx.prune_command(command.id, before).await?);
    }
    if pruned.commands > 0 {
        tx.commit().await?;
    }
    Ok(Some(pruned))
}

async fn audit(app: &App, before: Timestamp) -> Result<Option<Pruned>, Error> {
    let mut tx = app.store.begin_write().await?;
    let audit = tx.prune_audit(before, AUDIT).await?;
    if audit == 0 {
        return Ok(None);
    }
    tx.commit().await?;
    Ok(Some(Pruned { audit, ..Pruned::default() }))
}
