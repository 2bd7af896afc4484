//! `make chaos`: a fleet and its admins at work, while the server is killed, connections are cut and PostgreSQL is stopped;
//! and a model beside it, which says after each round whether anything was lost. See `docs/operate/chaos.md`.
//!
//! A harness of its own, because what is killed must be a process.

mod admin;
mod check;
mod cluster;
mod counts;
mod device;
mod haproxy;
mod ledger;
mod messages;
mod network;
mod plan;
mod run;
mod site;
mod wire;

use std::error::Error;
use std::io::Write as _;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// Kills, cuts and stops, and says what was lost.
#[derive(Debug, Parser)]
#[command(name = "make chaos ARGS=", disable_help_subcommand = true)]
struct Arguments {
    /// How long, all databases together. A round that has begun is brought to its end.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=7 * 86_400))]
    seconds: u64,
    /// What stands for the plan; without it, one from the clock. It is printed.
    #[arg(long)]
    seed: Option<u64>,
    /// On which databases.
    #[arg(long, value_enum, default_value_t = Databases::Both)]
    database: Databases,
    /// How many devices.
    #[arg(long, default_value_t = 40, value_parser = clap::value_parser!(u16).range(4..=2000))]
    fleet: u16,
    /// Requests of each round.
    #[arg(long, default_value_t = 2500, value_parser = clap::value_parser!(u64).range(100..=1_000_000))]
    requests: u64,
    /// How long a device may wait for its wake-up once everything runs again, seconds.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3600))]
    patience: u64,
    /// Instead of all that: so many servers behind HAProxy on one PostgreSQL, restarted in turn and killed.
    #[arg(long, value_name = "SERVERS", value_parser = clap::value_parser!(u16).range(2..=16))]
    cluster: Option<u16>,
    /// Needed, so that nobody runs it by chance with all tests and benchmarks.
    #[arg(long)]
    run: bool,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Databases {
    Sqlite,
    Postgres,
    Both,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if !arguments.run {
        return ExitCode::SUCCESS;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let outcome = runtime.map_err(Into::into).and_then(|runtime| runtime.block_on(until_told(&arguments)));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            tell(&format!("chaos: {why}"));
            ExitCode::FAILURE
        }
    }
}

/// Runs until a signal: what was started ends with it.
async fn until_told(arguments: &Arguments) -> Result<()> {
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        outcome = Box::pin(run::all(arguments)) => outcome,
        _ = tokio::signal::ctrl_c() => Err("interrupted".into()),
        _ = terminate.recv() => Err("terminated".into()),
    }
}

/// Says how far it is.
fn tell(text: &str) {
    let _ = writeln!(anstream::stderr(), "{text}");
}
