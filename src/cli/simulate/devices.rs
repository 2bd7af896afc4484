use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use clap::Args;
use clap::builder::PossibleValuesParser;
use tokio_util::sync::CancellationToken;
use url::Url;

use super::super::progress;
use super::super::{Error, SystemClock, SystemRandomness, asked_to_end, block_on};
use crate::pki::Certificate;
use crate::simulator::apns::ControlClient;
use crate::simulator::devices::fleet::{self, Event, FleetOptions, Progress, Summary, What};
use crate::simulator::devices::{Behavior, Environment, KeySource, PhoneOptions, Trust, WakeService};

/// The size of a device's key, in bits.
const KEY_BITS: u32 = 2048;

/// Options of `muster simulate devices`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The enrollment link that all of them open.
    #[arg(long, value_name = "URL")]
    enroll_url: Url,
    /// How many devices.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    count: u32,
    /// How they behave.
    #[arg(long, default_value = "happy", value_parser = PossibleValuesParser::new(Behavior::ALL.map(|b| b.as_str())))]
    behavior: String,
    /// Keep the devices' keys here and use them again: making them takes longer than all the rest.
    #[arg(long, value_name = "DIR")]
    keys: Option<PathBuf>,
    /// Hear of pushes by the control listener of `muster simulate apns`. Without it, devices come by themselves.
    #[arg(long, value_name = "URL")]
    apns: Option<Url>,
    /// How often devices come by themselves, in seconds; without a push service every 5 seconds.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    poll: Option<u64>,
    /// Trust the certificates in this PEM file when the link is opened. Without it, devices go on whatever the
    /// certificate, as a person who taps "Continue"; from the profile on they trust what it brought.
    #[arg(long, value_name = "FILE")]
    root: Option<PathBuf>,
    /// How many enroll at the same time.
    #[arg(long, default_value_t = 16)]
    at_once: usize,
    /// End by itself after so many seconds; without it, when all devices are gone, or with Ctrl-C.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    seconds: Option<u64>,
    /// End when all devices have enrolled.
    #[arg(long)]
    enroll_only: bool,
}

/// Simulates until all devices are gone, or a signal.
pub(super) fn run(arguments: &Arguments) -> Result<(), Error> {
    let summary = block_on(simulate(arguments))?;
    let mut out = anstream::stdout();
    writeln!(
        out,
        "{} enrolled, {} did not, {} were erased, {} left, {} connections failed",
        summary.enrolled, summary.failed, summary.erased, summary.left, summary.troubles
    )
    .map_err(Error::Output)?;
    for (status, count) in &summary.reports {
        writeln!(out, "  {count:>6} {status}").map_err(Error::Output)?;
    }
    for error in &summary.errors {
        writeln!(out, "  {error}").map_err(Error::Output)?;
    }
    if summary.failed > 0 || summary.enrolled == 0 {
        return Err(Error::Simulator(format!("{} of {} devices did not enroll", summary.failed, arguments.count)));
    }
    Ok(())
}

async fn simulate(arguments: &Arguments) -> Result<Summary, Error> {
    let count = usize::try_from(arguments.count).unwrap_or(usize::MAX);
    let keys = arguments.keys.clone().map_or(KeySource::Generate, KeySource::Directory);
    if arguments.keys.is_some() {
        let made = progress::Progress::of(count, "keys");
        keys.prepare(count, KEY_BITS, |_| made.step()).await.map_err(|e| Error::Simulator(e.to_string()))?;
        made.clear();
    }

    let wakes = match &arguments.apns {
        Some(url) => WakeService::Remote(ControlClient::new(url.clone()).map_err(|e| Error::Simulator(e.to_string()))?),
        None => WakeService::None,
    };
    let comes_unasked = match (arguments.poll, &arguments.apns) {
        (Some(seconds), _) => Some(Duration::from_secs(seconds)),
        (None, None) => Some(Duration::from_secs(5)),
        (None, Some(_)) => None,
    };
    let page_trust = match &arguments.root {
        None => Trust::Anyone,
        Some(file) => {
            let unusable = |why: String| Error::Simulator(format!("--root {}: {why}", file.display()));
            let bytes = fs::read(file).map_err(|e| unusable(e.to_string()))?;
            Trust::Roots(Certificate::from_file(&bytes).map_err(|e| unusable(e.to_string()))?)
        }
    };
    let options = FleetOptions {
        count,
        behavior: arguments.behavior.parse().map_err(Error::Simulator)?,
        phone: PhoneOptions { page_trust, ..PhoneOptions::default() },
        enrolling_at_once: arguments.at_once,
        comes_unasked,
        ..FleetOptions::default()
    };
    let environment = Environment { clock: Arc::new(SystemClock), random: Arc::new(SystemRandomness), keys, wakes };

    let stop = CancellationToken::new();
    let progress = shown(count, arguments.enroll_only.then(|| stop.clone()));
    let ends = end(stop.clone(), arguments.seconds.map(Duration::from_secs));
    let fleet = fleet::run(options, environment, arguments.enroll_url.clone(), progress, stop);
    tokio::pin!(fleet, ends);
    // The end only says "stop": what the devices came to is told by the fleet in both cases.
    tokio::select! {
        summary = &mut fleet => Ok(summary),
        () = &mut ends => Ok(fleet.await),
    }
}

/// Says "stop" at a signal or after some time.
async fn end(stop: CancellationToken, after: Option<Duration>) {
    let time = async {
        match after {
            Some(after) => tokio::time::sleep(after).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = asked_to_end() => {}
        () = time => {}
    }
    stop.cancel();
}

/// Shows how many have enrolled, and says "stop" when all have, if that is wanted.
fn shown(count: usize, stop_when_enrolled: Option<CancellationToken>) -> Progress {
    let bar = progress::Progress::of(count, "enrolled");
    let settled = AtomicUsize::new(0);
    Arc::new(move |event: &Event| match &event.what {
        What::Enrolled | What::EnrollmentFailed(_) => {
            bar.step();
            if settled.fetch_add(1, Ordering::SeqCst) + 1 == count {
                bar.finish();
                if let Some(stop) = &stop_when_enrolled {
                    stop.cancel();
                }
            }
        }
        What::Trouble(error) => bar.say(&format!("{}: {error}", event.serial_number)),
        _ => {}
    })
}
