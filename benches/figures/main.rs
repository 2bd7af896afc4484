//! The figures of `make bench`: memory of a fresh server, processor time of an idle poll beside that of a handler which
//! does nothing, and the enrollment of many simulated devices. What is measured, and how, is in `docs/performance.md`.
//!
//! A harness of its own, because what counts is a server as a process of its own, with its own accounts of time and
//! memory, and not the time of a function. Everything happens on loopback, in directories that are deleted afterwards,
//! and is bounded in count and time.

mod baseline;
mod broadcast;
mod bulk;
mod context;
mod cycles;
mod database;
mod enrollment;
mod enrollments;
mod fleet;
mod idle;
mod installation;
mod load;
mod machine;
mod memory;
mod messages;
mod overload;
mod pages;
mod parallel;
mod peer;
mod plot;
mod process;
mod report;
mod reports;
mod secure;
mod spread;
mod sql;
mod template;
mod wakes;
mod wire;

use std::error::Error;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, ValueEnum};

use context::Context;
use database::Kind;
use fleet::{Fleet, Shape};
use installation::free_address;
use process::Process;
use report::Report;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// Measures Muster on this machine.
#[derive(Debug, Parser)]
#[command(name = "make bench ARGS=", disable_help_subcommand = true)]
struct Arguments {
    /// A run of seconds that shows whether it works. Its figures say little.
    #[arg(long)]
    quick: bool,
    /// Only these parts.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "PART,…")]
    only: Vec<Part>,
    /// How many devices are enrolled, such as 1k, 1m, or 100k-history for ten answered commands each.
    #[arg(long, value_delimiter = ',', value_name = "SIZE,…")]
    sizes: Option<Vec<String>>,
    /// On which databases.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "NAME,…", default_values_t = [Kind::Sqlite, Kind::Postgres])]
    databases: Vec<Kind>,
    /// Where to write the figures as JSON; without it, target/tmp/bench.json.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Where to draw the cost against the size of the fleet; without it, target/tmp/bench.svg.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// End with 1 when a limit is not kept.
    #[arg(long)]
    check: bool,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
    /// Be the handler that does nothing, at this address.
    #[arg(long, hide = true, value_name = "ADDRESS")]
    baseline: Option<SocketAddr>,
    #[command(flatten)]
    peer: peer::PeerArguments,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Resident memory of a fresh installation.
    Memory,
    /// Resident memory with a fleet that is idle.
    Resident,
    Idle,
    /// First pages of lists.
    Pages,
    /// Signed messages, mutual TLS, handshakes.
    Secure,
    /// Health checks while devices ask for more than the machine can do.
    Overload,
    /// Commands that reach a device.
    Cycles,
    Reports,
    /// One command to the whole fleet.
    Broadcast,
    Enrollments,
    /// Wake-ups of the whole fleet.
    Wakes,
    /// The whole enrollment of simulated devices.
    Simulated,
}

/// The parts that each kind of database is measured by, in an order in which none disturbs the next.
const OF_FLEETS: &[Part] = &[
    Part::Resident,
    Part::Idle,
    Part::Pages,
    Part::Secure,
    Part::Overload,
    Part::Cycles,
    Part::Reports,
    Part::Broadcast,
    Part::Enrollments,
    Part::Wakes,
];

/// How much is done.
struct Size {
    /// Devices of each fleet that are driven, at most.
    driven: usize,
    /// Runs of each, in turn.
    runs: usize,
    /// Milliseconds of each run that count.
    millis: u64,
    /// Command cycles of each run.
    cycles: usize,
    /// Reports of 100 KB of each run.
    reports: usize,
    /// Enrollments of each run.
    enrollments: usize,
    /// Milliseconds of each wave of wake-ups, at most.
    wave: u64,
    /// Simulated devices that enroll.
    simulated: usize,
    /// The fleets, where nothing is said.
    sizes: &'static [&'static str],
}

impl Size {
    /// How long a run may take whose work is counted, as far as that is known before.
    fn seconds(&self) -> f64 {
        load::count(usize::try_from(self.millis).unwrap_or(usize::MAX)) / 500.0
    }
}

const WHOLE: Size = Size {
    driven: 5000,
    runs: 5,
    millis: 2000,
    cycles: 10_000,
    reports: 500,
    enrollments: 4000,
    wave: 8000,
    simulated: 1000,
    sizes: &["1k", "10k", "100k", "100k-history", "1m"],
};
const QUICK: Size = Size {
    driven: 100,
    runs: 2,
    millis: 200,
    cycles: 100,
    reports: 10,
    enrollments: 40,
    wave: 500,
    simulated: 20,
    sizes: &["200", "400"],
};

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if !arguments.bench && arguments.baseline.is_none() && !arguments.peer.is_peer() {
        // `cargo test --all-targets` comes here: a benchmark is no test.
        return ExitCode::SUCCESS;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let outcome = match (runtime, arguments.baseline) {
        (Err(why), _) => Err(why.into()),
        (Ok(runtime), Some(address)) => runtime.block_on(baseline::serve(address)).map(|()| true),
        (Ok(runtime), None) if arguments.peer.is_peer() => {
            runtime.block_on(peer::serve(&arguments.peer)).map(|()| true)
        }
        (Ok(runtime), None) => runtime.block_on(measure_until_told(&arguments)),
    };
    match outcome {
        Ok(kept) if kept || !arguments.check => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(why) => {
            let _ = writeln!(anstream::stderr(), "{why}");
            ExitCode::FAILURE
        }
    }
}

/// As [`measure`], until a signal: what was started ends with it.
async fn measure_until_told(arguments: &Arguments) -> Result<bool> {
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        outcome = Box::pin(measure(arguments)) => outcome,
        _ = tokio::signal::ctrl_c() => Err("interrupted".into()),
        _ = terminate.recv() => Err("terminated".into()),
    }
}

/// Measures, and says whether all limits are kept.
async fn measure(arguments: &Arguments) -> Result<bool> {
    let place = Path::new(env!("CARGO_TARGET_TMPDIR"));
    std::fs::create_dir_all(place)?;
    let size = if arguments.quick { &QUICK } else { &WHOLE };
    let wanted = |part| arguments.only.is_empty() || arguments.only.contains(&part);
    let sizes: Vec<_> = size.sizes.iter().map(|label| (*label).to_owned()).collect();
    let shapes =
        arguments.sizes.as_ref().unwrap_or(&sizes).iter().map(|label| shape(label)).collect::<Result<Vec<_>>>()?;
    let mut report = Report::new(arguments.quick)?;
    if wanted(Part::Memory) {
        memory::measure(place, &mut report).await?;
    }
    let parts: Vec<_> = OF_FLEETS.iter().copied().filter(|part| wanted(*part)).collect();
    if !parts.is_empty() {
        for kind in &arguments.databases {
            of_fleets(place, *kind, &shapes, &parts, size, &mut report).await?;
        }
    }
    if wanted(Part::Simulated) {
        enrollment::measure(place, size.simulated, &mut report).await?;
    }
    let json = arguments.json.clone().unwrap_or_else(|| place.join("bench.json"));
    let svg = arguments.svg.clone().unwrap_or_else(|| place.join("bench.svg"));
    report.finish(&json, &svg)
}

/// Measures fleets on one kind of database.
async fn of_fleets(
    place: &Path,
    kind: Kind,
    shapes: &[Shape],
    parts: &[Part],
    size: &Size,
    report: &mut Report,
) -> Result<()> {
    let baseline_at = free_address()?;
    let baseline = Process::baseline(place, baseline_at).await?;
    let mut context = Context { kind, fleets: Vec::new(), baseline: &baseline, baseline_at, size, report };
    let outcome = async {
        for shape in shapes {
            context.fleets.push(Fleet::make(place, kind, shape, size.driven, "").await?);
        }
        for part in parts {
            match part {
                Part::Resident => idle::memory(&mut context).await?,
                Part::Idle => idle::measure(&mut context).await?,
                Part::Pages => pages::measure(&mut context).await?,
                Part::Secure => secure::measure(&mut context).await?,
                Part::Overload => overload::measure(&mut context).await?,
                Part::Cycles => cycles::measure(&mut context).await?,
                Part::Reports => reports::measure(&mut context).await?,
                Part::Broadcast => broadcast::measure(&mut context).await?,
                Part::Wakes => wakes::measure(&mut context).await?,
                Part::Enrollments => enrollments::measure(&mut context).await?,
                Part::Memory | Part::Simulated => (),
            }
        }
        Ok(())
    }
    .await;
    // Also after a fault: no server and no database stays behind.
    for fleet in context.fleets {
        fleet.end().await?;
    }
    baseline.stop().await?;
    outcome
}

/// A fleet by its name: `1k`, `1m`, `100k-history`.
fn shape(label: &str) -> Result<Shape> {
    let (number, commands) = match label.strip_suffix("-history") {
        Some(number) => (number, 10),
        None => (label, 1),
    };
    let (digits, unit) = match number.as_bytes().last() {
        Some(b'k') => (number.trim_end_matches('k'), 1000),
        Some(b'm') => (number.trim_end_matches('m'), 1_000_000),
        _ => (number, 1),
    };
    let count: usize = digits.parse().map_err(|_| format!("{label} is no size such as 10k"))?;
    if count == 0 || count > 100_000_000 / unit {
        return Err(format!("{label} is no size that can be measured").into());
    }
    Ok(Shape { label: label.to_owned(), count: count * unit, commands })
}

/// Says what goes on.
fn tell(what: &str) {
    // Nobody who reads it: no reason to end.
    let _ = writeln!(anstream::stderr(), "{what}");
}
