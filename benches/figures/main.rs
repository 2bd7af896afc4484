//! The figures of `make bench`: memory of a fresh server, processor time of an idle poll beside that of a handler which
//! does nothing, and the enrollment of many simulated devices. What is measured, and how, is in `docs/performance.md`.
//!
//! A harness of its own, because what counts is a server as a process of its own, with its own accounts of time and
//! memory, and not the time of a function. Everything happens on loopback, in directories that are deleted afterwards,
//! and is bounded in count and time.

mod baseline;
mod bulk;
mod enrollment;
mod idle;
mod installation;
mod load;
mod machine;
mod memory;
mod process;
mod report;

use std::error::Error;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, ValueEnum};

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
    /// Where to write the figures as JSON; without it, target/tmp/bench.json.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// End with 1 when a limit is not kept.
    #[arg(long)]
    check: bool,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
    /// Be the handler that does nothing, at this address.
    #[arg(long, hide = true, value_name = "ADDRESS")]
    baseline: Option<SocketAddr>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    Memory,
    Idle,
    Enrollment,
}

/// How much is done.
struct Size {
    /// Devices that poll.
    devices: usize,
    /// Runs of each of two servers, in turn.
    pairs: usize,
    /// Runs for what is only reported.
    reported_pairs: usize,
    /// Seconds of each run that count.
    seconds: u64,
    /// Devices that sign their messages: each takes a signature beforehand.
    signing: usize,
    /// Devices that enroll.
    enrolling: usize,
}

const WHOLE: Size = Size { devices: 10_000, pairs: 7, reported_pairs: 3, seconds: 4, signing: 1000, enrolling: 1000 };
const QUICK: Size = Size { devices: 500, pairs: 2, reported_pairs: 1, seconds: 1, signing: 100, enrolling: 40 };

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if !arguments.bench && arguments.baseline.is_none() {
        // `cargo test --all-targets` comes here: a benchmark is no test.
        return ExitCode::SUCCESS;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let outcome = match (runtime, arguments.baseline) {
        (Err(why), _) => Err(why.into()),
        (Ok(runtime), Some(address)) => runtime.block_on(baseline::serve(address)).map(|()| true),
        (Ok(runtime), None) => runtime.block_on(measure(&arguments)),
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

/// Measures, and says whether all limits are kept.
async fn measure(arguments: &Arguments) -> Result<bool> {
    let place = Path::new(env!("CARGO_TARGET_TMPDIR"));
    std::fs::create_dir_all(place)?;
    let size = if arguments.quick { &QUICK } else { &WHOLE };
    let wanted = |part| arguments.only.is_empty() || arguments.only.contains(&part);
    let mut report = Report::new(arguments.quick)?;
    if wanted(Part::Memory) {
        memory::measure(place, &mut report).await?;
    }
    if wanted(Part::Idle) {
        idle::measure(place, size, &mut report).await?;
    }
    if wanted(Part::Enrollment) {
        enrollment::measure(place, size.enrolling, &mut report).await?;
    }
    let json = arguments.json.clone().unwrap_or_else(|| place.join("bench.json"));
    report.finish(&json)
}

/// Says what goes on.
fn tell(what: &str) {
    // Nobody who reads it: no reason to end.
    let _ = writeln!(anstream::stderr(), "{what}");
}
