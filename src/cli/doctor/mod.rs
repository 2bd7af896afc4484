//! `muster doctor`: looks at everything that an installation stands on, a line each, and says what to do. It changes
//! nothing and works beside a running server.

mod authorities;
mod certificate;
mod database;
mod files;
mod finding;
mod network;
mod push;
mod secrets;

use clap::Args;

use self::finding::{Report, State};
pub(super) use self::secrets::unopened;
use super::{Error, SettingsFile, SystemClock};
use crate::config::{DatabaseUrl, Settings};
use crate::model::{Clock, Timestamp};
use crate::pki::vault::Vault;
use crate::store::{Store, StoreError};

/// Options of `muster doctor`.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    settings: SettingsFile,
    /// Write one JSON object instead of lines.
    #[arg(long)]
    json: bool,
    /// Leave out what needs the network: resolving and reaching the public URL and Apple's push service.
    #[arg(long)]
    offline: bool,
}

/// What the checks look at.
struct Patient<'a> {
    settings: &'a Settings,
    /// None where a master key cannot be read.
    vault: Option<&'a Vault>,
    now: Timestamp,
}

/// Examines the installation and writes what was found to the standard output.
pub(super) fn run(arguments: &Arguments) -> Result<(), Error> {
    let report = super::block_on(examine(arguments))?;
    let text = if arguments.json { report.json() } else { report.text() };
    super::completions::write(&mut std::io::stdout().lock(), text.as_bytes())?;
    match report.count(State::Fail) {
        0 => Ok(()),
        faults => Err(Error::Faults(faults)),
    }
}

async fn examine(arguments: &Arguments) -> Result<Report, Error> {
    let mut report = Report::default();
    let settings = match arguments.settings.load() {
        Ok(settings) => settings,
        Err(Error::Settings(faults)) => {
            for fault in faults.0 {
                report.fail("settings", fault.to_string(), "correct it; until then nothing else can be checked");
            }
            return Ok(report);
        }
        Err(other) => return Err(other),
    };
    files::settings(&mut report, &settings, &arguments.settings.config);
    files::data_directory(&mut report, &settings);
    let vault = files::master_keys(&mut report, &settings);
    let patient = Patient { settings: &settings, vault: vault.as_ref(), now: SystemClock.now() };
    push::files(&mut report, &patient);
    let store = database::connect(&mut report, &settings).await;
    if let Some(store) = &store {
        stored(&mut report, &patient, store).await;
    }
    network::proxy(&mut report, &settings);
    network::first_use(&mut report, &settings);
    network::admin(&mut report, &patient);
    network::ports(&mut report, &settings);
    if arguments.offline {
        report.ok("public_url", format!("{} (not tried: --offline)", settings.public_url));
    } else {
        network::public_urls(&mut report, &settings).await;
        network::push_service(&mut report, &settings).await;
    }
    if let Some(store) = store {
        store.close().await;
    }
    Ok(report)
}

/// What is looked up in the database. Where one thing cannot be read, the others still are.
async fn stored(report: &mut Report, patient: &Patient<'_>, store: &Store) {
    let outcome = database::condition(report, patient, store).await;
    unreadable(report, outcome);
    let mut read = match store.begin_read().await {
        Ok(read) => read,
        Err(error) => return unreadable(report, Err(error)),
    };
    let read = &mut read;
    let outcome = secrets::check(report, patient, read).await;
    unreadable(report, outcome);
    let outcome = authorities::device(report, patient, read).await;
    unreadable(report, outcome);
    let outcome = authorities::listeners(report, patient, read).await;
    unreadable(report, outcome);
    let outcome = authorities::signer(report, patient, read).await;
    unreadable(report, outcome);
    let outcome = push::certificates(report, patient, read).await;
    unreadable(report, outcome);
    let outcome = push::identities(report, patient, read).await;
    unreadable(report, outcome);
    let outcome = push::terms(report, patient, read).await;
    unreadable(report, outcome);
}

fn unreadable(report: &mut Report, outcome: Result<(), StoreError>) {
    if let Err(error) = outcome {
        report.fail("database", format!("cannot be read: {error}"), "look at the database and its log");
    }
}

/// Where the database is, without a password.
pub(super) fn shown(url: &DatabaseUrl) -> String {
    match url {
        DatabaseUrl::Sqlite(path) => format!("SQLite, {}", path.display()),
        DatabaseUrl::Postgres(url) => match url::Url::parse(url.expose()) {
            Ok(url) => format!("PostgreSQL, {}{}", url.host_str().unwrap_or("local"), url.path()),
            Err(_) => "PostgreSQL".to_owned(),
        },
    }
}

/// How far away a time is, in the unit that people plan in.
fn until(at: Timestamp, now: Timestamp) -> String {
    let (span, form) = if at >= now { (at.since(now), ("in ", "")) } else { (now.since(at), ("", " ago")) };
    let hours = span.as_secs() / 3600;
    let text = if hours >= 24 * 365 * 3 {
        format!("{} years", hours / (24 * 365))
    } else if hours >= 48 {
        format!("{} days", hours / 24)
    } else {
        format!("{hours} hours")
    };
    format!("{}{text}{}", form.0, form.1)
}

/// The day of a time: `2026-11-22`.
fn day(at: Timestamp) -> String {
    at.to_datetime().date().to_string()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::Secret;

    #[test]
    fn a_database_is_shown_without_its_password() {
        let url = DatabaseUrl::Postgres(Secret::new("postgres://muster:hunter2@db.example.org/muster".to_owned()));
        assert_eq!(shown(&url), "PostgreSQL, db.example.org/muster");
    }

    #[test]
    fn times_are_told_as_people_say_them() {
        let now = Timestamp::from_seconds(1_795_324_800);
        assert_eq!(until(now.plus(Duration::from_secs(60 * 86_400)), now), "in 60 days");
        assert_eq!(until(now.minus(Duration::from_secs(7200)), now), "2 hours ago");
        assert_eq!(until(now.plus(Duration::from_secs(10 * 366 * 86_400)), now), "in 10 years");
        assert_eq!(day(now), "2026-11-22");
    }
}
