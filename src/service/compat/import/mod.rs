//! Takes the fleet of a NanoMDM server over, out of its database.
//!
//! What must hold:
//!
//! - Nothing that is this server's own is overwritten: an enrollment is taken, or taken again, only while nobody has heard of
//!   it here ([`Standing`]).
//! - It can be run again, and may be ended at any time: each page of rows is a transaction of its own, and a page that was
//!   taken before changes nothing.
//! - A command that waits there waits here, once: under its own name, and until it waits there no more. Whether the other
//!   server has handed it over is not known; so what takes something from people is held until an admin releases it.
//! - Nothing of the other server is read inside a transaction.

mod certificates;
mod channels;
mod devices;
mod queue;
mod tally;
mod users;

use super::super::authorities::{self, Import as Authority};
use super::super::push_certificates::wake_all;
use super::super::{Actor, App, Error};
use crate::remote::nanomdm::{Source, SourceError};
use crate::store::Standing;

pub use tally::{Report, Skipped, Tally};

/// How often a page is begun anew that another request disturbed.
const ATTEMPTS: usize = 3;

/// What is to be done.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Only look, and change nothing.
    pub dry_run: bool,
    /// Have the devices woken at the end for which something waits.
    pub wake: bool,
    /// Files with certificates of device CAs, PEM, that are to be accepted.
    pub authorities: Vec<Vec<u8>>,
}

/// Who is told how far it is.
pub trait Watch {
    /// The next kind of rows begins, of which there are about so many.
    fn begin(&mut self, what: &'static str, count: u64);
    /// So many of them were looked at.
    fn reach(&mut self, done: u64);
}

/// Takes everything over that `source` has. `report` says what was done, also when it ends with an error.
///
/// # Errors
/// [`Error::Unavailable`] when one of the databases is away, [`Error::Invalid`] for an authority that cannot be accepted.
/// What was done until then stays.
pub async fn import(
    app: &App,
    actor: &Actor,
    source: &mut Source,
    options: &Options,
    watch: &mut dyn Watch,
    report: &mut Report,
) -> Result<(), Error> {
    report.dry_run = options.dry_run;
    for certificate in &options.authorities {
        accept(app, actor, certificate, options.dry_run, report).await?;
    }
    let counts = source.counts().await?;
    let mut run = Run { app, actor, source, dry_run: options.dry_run, watch, report };
    certificates::take(&mut run).await?;
    run.watch.begin("devices", u64::try_from(counts.devices).unwrap_or(0));
    devices::take(&mut run).await?;
    run.watch.begin("users", u64::try_from(counts.users).unwrap_or(0));
    users::take(&mut run).await?;
    queue::withdraw(&mut run).await?;
    run.watch.begin("queue", u64::try_from(counts.queued).unwrap_or(0));
    queue::take(&mut run, counts.queued_last).await?;
    if options.wake && !options.dry_run {
        wake_all(app).await?;
    }
    Ok(())
}

/// What each part needs.
struct Run<'a> {
    app: &'a App,
    actor: &'a Actor,
    source: &'a mut Source,
    dry_run: bool,
    watch: &'a mut dyn Watch,
    report: &'a mut Report,
}

/// Accepts a device CA as one that issues elsewhere.
async fn accept(app: &App, actor: &Actor, certificate: &[u8], dry_run: bool, report: &mut Report) -> Result<(), Error> {
    if dry_run {
        return Ok(());
    }
    let import = Authority {
        name: String::new(),
        certificate: certificate.to_vec(),
        key: None,
        password: None,
        issues_elsewhere: true,
        activate: false,
    };
    match authorities::import(app, actor, import).await {
        Ok(_) => report.authorities.added += 1,
        Err(Error::Conflict { code: "authority_exists", .. }) => report.authorities.unchanged += 1,
        Err(error) => return Err(error),
    }
    Ok(())
}

/// Whether a page may do better when it is begun anew.
fn passes(error: &Error) -> bool {
    matches!(error, Error::Unavailable(_) | Error::Conflict { code: "conflict", .. })
}

impl From<SourceError> for Error {
    fn from(error: SourceError) -> Self {
        match error {
            SourceError::Url(why) | SourceError::NotNanomdm(why) => Self::invalid("other_server", why),
            other => Self::Unavailable(other.to_string()),
        }
    }
}
