//! The database: reachable, migrated, writable; who holds it; what does not go on in it; the clocks.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::super::open;
use super::finding::Report;
use super::{Patient, day, shown};
use crate::config::{DatabaseUrl, Settings};
use crate::store::{Store, StoreError};

/// A difference of the clocks of this machine and of the database that somebody should look at, and one that breaks
/// leases and expiries.
const CLOCKS_APART: Duration = Duration::from_secs(5);
const CLOCKS_FAR_APART: Duration = Duration::from_secs(60);
/// A job that nobody began for so long waits for a server that is not there.
const OVERDUE: Duration = Duration::from_secs(15 * 60);

const ABSENT: &str = "restore the backup, or correct database.url; if a new, empty one is meant, run `muster migrate`";

/// Connects, where all tables are there. Otherwise says what is missing.
pub(super) async fn connect(report: &mut Report, settings: &Settings) -> Option<Store> {
    let check = "database";
    let place = shown(&settings.database.url);
    if let DatabaseUrl::Sqlite(path) = &settings.database.url
        && !path.exists()
    {
        report.fail(check, format!("{place}: there is no such file"), ABSENT);
        return None;
    }
    let store = match open::store(settings, false).await {
        Ok(store) => store,
        Err(why) => {
            report.fail(check, format!("{place}: {why}"), "start the database, or correct database.url");
            return None;
        }
    };
    report.ok(check, format!("{place}: reachable"));
    match migrations(report, &store).await {
        Ok(true) => Some(store),
        Ok(false) => {
            store.close().await;
            None
        }
        Err(error) => {
            report.fail(check, format!("{place}: {error}"), "look at the database and its log");
            store.close().await;
            None
        }
    }
}

async fn migrations(report: &mut Report, store: &Store) -> Result<bool, StoreError> {
    let check = "migrations";
    let (known, pending) = (store.known_migrations(), store.pending_migrations().await?);
    if pending > 0 {
        report.fail(check, format!("{pending} of {known} are missing"), "run `muster migrate`, or start the server");
        return Ok(false);
    }
    let foreign = store.foreign_migrations().await?;
    if foreign > 0 {
        let found = format!("{foreign} were made by a newer version of the program");
        report.fail(check, found, "run the newer version, or restore a backup from before it");
        return Ok(false);
    }
    report.ok(check, format!("all {known} are there"));
    Ok(true)
}

/// Writing, the server beside us, jobs, tokens and clocks.
pub(super) async fn condition(report: &mut Report, patient: &Patient<'_>, store: &Store) -> Result<(), StoreError> {
    match store.probe_write().await {
        Ok(()) => report.ok("database_write", "can be written to"),
        Err(why) => {
            let action = "look for a full disk, a read-only file or file system, or another program that holds a lock";
            report.fail("database_write", why.to_string(), action);
        }
    }
    if store.is_backup().await? {
        let found = "the file is a backup that was put in place by hand";
        report.fail(
            "restored",
            found,
            "run `muster restore --mark`: without it nothing is held that may be done by now",
        );
    }
    if let Some(file) = store.sqlite_file() {
        server(report, &file);
    }
    let now = patient.now;
    let mut read = store.begin_read().await?;
    let jobs = read.stuck_jobs(now.minus(OVERDUE)).await?;
    if jobs.dead > 0 {
        let last = jobs.last_error.map_or_else(String::new, |(kind, error)| format!("; the latest, {kind}: {error}"));
        report.warn("jobs", format!("{} were given up{last}", jobs.dead), "look at the server's log for their cause");
    }
    if jobs.overdue > 0 {
        let found = format!("{} have waited for more than 15 minutes", jobs.overdue);
        report.warn("jobs", found, "start the server: it alone does them");
    }
    if jobs.dead == 0 && jobs.overdue == 0 {
        report.ok("jobs", "none was given up, none waits for long");
    }
    let held = read.count_held_commands().await?;
    if held > 0 {
        let found = format!("{held} are held since the database was restored");
        report.warn("held_commands", found, "look through them: `muster held list`, then release or cancel each");
    }
    match read.some_admin_token(now).await? {
        Some(_) => report.ok("admin_tokens", "there is one that holds"),
        None => {
            let action = "make one: `muster token create --name NAME --role admin`";
            report.warn("admin_tokens", "no token of an admin holds: nobody can use the API", action);
        }
    }
    let last_audit = read.last_audit().await?;
    let theirs = read.clock().await?;
    // Asked again, since the answers above took their time.
    let ours = crate::model::Clock::now(&super::SystemClock);
    clock(report, ours, theirs, last_audit);
    Ok(())
}

fn clock(
    report: &mut Report,
    ours: crate::model::Timestamp,
    theirs: Option<crate::model::Timestamp>,
    last_audit: Option<crate::model::Timestamp>,
) {
    let check = "clock";
    let action = "set the clock, and keep it by NTP (such as systemd-timesyncd or chrony)";
    if let Some(last) = last_audit.filter(|last| *last > ours.plus(CLOCKS_FAR_APART)) {
        report.fail(check, format!("{ours} here, though the audit log was written to at {last}"), action);
        return;
    }
    let Some(theirs) = theirs else {
        report.ok(check, format!("{} here, not before anything in the database", day(ours)));
        return;
    };
    let apart = ours.since(theirs).max(theirs.since(ours));
    let found = format!("{:.1} s apart from the database's", apart.as_secs_f64());
    if apart > CLOCKS_FAR_APART {
        report.fail(check, found, action);
    } else if apart > CLOCKS_APART {
        report.warn(check, found, action);
    } else {
        report.ok(check, found);
    }
}

/// Whether a server holds the SQLite file. Tried with a shared lock for an instant, which a server that starts in that
/// very instant would take for another one.
fn server(report: &mut Report, database: &Path) {
    let mut path = database.as_os_str().to_owned();
    path.push(".server-lock");
    let found = match File::open(PathBuf::from(path)).map(|file| file.try_lock_shared()) {
        Ok(Err(TryLockError::WouldBlock)) => "a server is running on this file",
        _ => "no server is running on this file",
    };
    report.ok("server", found);
}

#[cfg(test)]
mod tests {
    use super::super::finding::State;
    use super::*;
    use crate::model::Timestamp;

    #[test]
    fn clocks_that_are_apart_are_noticed() {
        let now = Timestamp::from_seconds(1_795_324_800);
        let second = Duration::from_secs(1);
        for (theirs, audit, expected) in [
            (None, None, State::Ok),
            (None, Some(now.minus(second)), State::Ok),
            (None, Some(now.plus(second * 3600)), State::Fail),
            (Some(now.plus(second)), None, State::Ok),
            (Some(now.minus(second * 20)), None, State::Warn),
            (Some(now.plus(second * 100)), None, State::Fail),
        ] {
            let mut report = Report::default();
            clock(&mut report, now, theirs, audit);
            assert_eq!(report.count(expected), 1, "{theirs:?} {audit:?}: {}", report.text());
        }
    }
}
