//! `muster import`: takes the fleet of another server over.

use std::fmt::Write as _;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use super::completions::write;
use super::progress::Progress;
use super::{Error, SettingsFile, table, token};
use crate::model::Secret;
use crate::remote::nanomdm::Source;
use crate::service::Actor;
use crate::service::compat::import::{self, Options, Report, Watch};

/// Largest file of an authority's certificate, in bytes.
const MAX_AUTHORITY: u64 = 65_536;
/// How many examples of what was skipped the table shows.
const EXAMPLES: usize = 3;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Take over what a NanoMDM server has in its database. Can be run again; what is this server's own is left alone.
    Nanomdm(Nanomdm),
}

/// Options of `muster import nanomdm`.
#[derive(Debug, Args)]
pub(super) struct Nanomdm {
    #[command(flatten)]
    settings: SettingsFile,
    /// The database: postgres://USER:PASSWORD@HOST/DATABASE or mysql://USER:PASSWORD@HOST/DATABASE. In the variable, other
    /// users of this machine do not see it.
    #[arg(long, value_name = "URL", env = "NANOMDM_DATABASE_URL", hide_env_values = true, value_parser = secret)]
    from: Secret<String>,
    /// Only say what would be done.
    #[arg(long)]
    dry_run: bool,
    /// Accept the device certificates of this authority, PEM; once for each that the devices have certificates of.
    #[arg(long = "authority", value_name = "FILE")]
    authorities: Vec<PathBuf>,
    /// At the end, have all devices woken for which something waits: once they come to this server.
    #[arg(long, conflicts_with = "dry_run")]
    wake: bool,
    /// Write the report as JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(command: &Command) -> Result<(), Error> {
    let Command::Nanomdm(arguments) = command;
    let authorities = arguments.authorities.iter().map(|path| file(path)).collect::<Result<Vec<_>, _>>()?;
    let options = Options { dry_run: arguments.dry_run, wake: arguments.wake, authorities };
    token::with_app(&arguments.settings, async |app| {
        let mut source = Source::connect(&arguments.from).await.map_err(|why| Error::Refused(why.to_string()))?;
        let (mut bar, mut report) = (Bar::default(), Report::default());
        let outcome = import::import(app, &Actor::import(), &mut source, &options, &mut bar, &mut report).await;
        bar.end();
        source.close().await;
        let text = if arguments.json { as_json(&report) } else { as_table(&report) };
        write(&mut std::io::stdout().lock(), text.as_bytes())?;
        Ok(outcome?)
    })
}

/// It never fails, so that no error shows what was given.
#[expect(clippy::unnecessary_wraps, reason = "what parses values has a result")]
fn secret(text: &str) -> Result<Secret<String>, std::convert::Infallible> {
    Ok(Secret::new(text.to_owned()))
}

fn file(path: &Path) -> Result<Vec<u8>, Error> {
    let cannot = |why: String| Error::Files(format!("cannot read {}: {why}", path.display()));
    let file = std::fs::File::open(path).map_err(|e| cannot(e.to_string()))?;
    let mut bytes = Vec::new();
    file.take(MAX_AUTHORITY + 1).read_to_end(&mut bytes).map_err(|e| cannot(e.to_string()))?;
    if bytes.len() as u64 > MAX_AUTHORITY {
        return Err(cannot(format!("it is larger than {MAX_AUTHORITY} bytes, and no certificate")));
    }
    Ok(bytes)
}

/// Shows how far it is, one kind of rows after the other.
#[derive(Default)]
struct Bar(Option<Progress>);

impl Bar {
    fn end(&mut self) {
        if let Some(progress) = self.0.take() {
            progress.clear();
        }
    }
}

impl Watch for Bar {
    fn begin(&mut self, what: &'static str, count: u64) {
        self.end();
        self.0 = Some(Progress::of(usize::try_from(count).unwrap_or(usize::MAX), what));
    }

    fn reach(&mut self, done: u64) {
        if let Some(progress) = &self.0 {
            progress.reach(done);
        }
    }
}

fn as_table(report: &Report) -> String {
    let mut table = table::with_header(["", "ADDED", "UPDATED", "UNCHANGED", "SKIPPED"]);
    for (what, tally) in [
        ("authorities", report.authorities),
        ("push certificates", report.push_certificates),
        ("devices", report.devices),
        ("users", report.users),
        ("pins", report.pins),
        ("unlock tokens", report.unlock_tokens),
        ("bootstrap tokens", report.bootstrap_tokens),
        ("queued commands", report.queue),
    ] {
        let counts = [tally.added, tally.updated, tally.unchanged, tally.skipped];
        table.add_row(std::iter::once(what.to_owned()).chain(counts.map(|count| count.to_string())));
    }
    let mut text = table::text(&table);
    // Writing into a String cannot fail.
    if !report.skipped.is_empty() {
        text.push_str("\nskipped:\n");
    }
    for skipped in &report.skipped {
        let examples: Vec<_> = skipped.examples.iter().take(EXAMPLES).map(|id| id.escape_debug().to_string()).collect();
        let more = if skipped.count > examples.len() as u64 { ", …" } else { "" };
        let _ = writeln!(
            text,
            "  {} of {}: {} ({}{more})",
            skipped.count,
            skipped.what,
            skipped.why.escape_debug(),
            examples.join(", ")
        );
    }
    if report.held > 0 {
        let _ = writeln!(
            text,
            "\n{} commands are held, since they may have been done already: `muster held list`, then release or cancel each",
            report.held
        );
    }
    if report.without_pin > 0 {
        let _ = writeln!(
            text,
            "\n{} devices have no certificate that is known: they are let in where devices.pin_on_first_use is set",
            report.without_pin
        );
    }
    if report.dry_run {
        text.push_str("\nnothing was changed\n");
    }
    text
}

fn as_json(report: &Report) -> String {
    let mut text = serde_json::to_string_pretty(report).unwrap_or_default();
    text.push('\n');
    text
}
