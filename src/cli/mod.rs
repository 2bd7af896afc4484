//! Subcommands and the composition root.
//!
//! Exit codes: 0 if all went well, 1 if something did not, 2 if the command line or the settings have to be corrected
//! first.

mod backup;
mod completions;
mod demo;
mod doctor;
mod error;
mod held;
mod import;
mod init;
mod migrate;
mod named;
pub mod open;
mod openapi;
mod progress;
mod restore;
mod rotate_key;
mod serve;
pub mod server;
mod settings;
mod simulate;
mod system;
mod table;
mod telemetry;
mod token;
mod webhook;

use std::ffi::OsString;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

pub use error::Error;
pub use settings::SettingsFile;
pub use system::{SystemClock, SystemRandomness, asked_to_end};
pub use telemetry::start as start_telemetry;

/// An agentless MDM server for Apple devices.
#[derive(Debug, Parser)]
#[command(name = "muster", version, about, arg_required_else_help = true, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make an installation: settings, master key, database, authorities, a first admin token.
    Init(init::Arguments),
    /// Run the server.
    Serve(serve::Arguments),
    /// Show the whole job on this machine: a server, a fake APNs, and simulated iPhones.
    Demo(demo::Arguments),
    /// Simulate devices, or Apple's push service, against any server.
    #[command(subcommand)]
    Simulate(simulate::Command),
    /// Bring the database's tables up to this version.
    Migrate(migrate::Arguments),
    /// Make, list and end tokens for the API.
    Token(token::Arguments),
    /// Copy an SQLite database into a file, while the server goes on.
    Backup(backup::Arguments),
    /// Put a backup of an SQLite database in place, or mark a database that was restored by other means.
    Restore(restore::Arguments),
    /// List, release and cancel what is held since the database was restored.
    Held(held::Arguments),
    /// Make, list, try and remove webhooks, and send again what they did not take.
    Webhook(webhook::Arguments),
    /// Take the fleet of another server over.
    #[command(subcommand)]
    Import(import::Command),
    /// Check an installation: a line for each thing, and what to do about it.
    Doctor(doctor::Arguments),
    /// Change the master key: make a new one, then seal everything that is stored anew under it.
    RotateKey(rotate_key::Arguments),
    /// Print the API's description, OpenAPI 3.1.
    Openapi,
    /// Print the completions of a shell.
    Completions(completions::Arguments),
}

/// Runs the program with the arguments of a command line, the program's name first.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(asked) => {
            // Help and version come this way too, to the standard output and with 0. That nobody reads them, or the
            // complaint, is no reason for another complaint.
            let _ = asked.print();
            return u8::try_from(asked.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from);
        }
    };
    let outcome = match cli.command {
        Command::Init(arguments) => init::run(&arguments),
        Command::Serve(arguments) => serve::run(&arguments),
        Command::Demo(arguments) => demo::run(&arguments),
        Command::Simulate(command) => simulate::run(&command),
        Command::Migrate(arguments) => migrate::run(&arguments),
        Command::Token(arguments) => token::run(&arguments),
        Command::Backup(arguments) => backup::run(&arguments),
        Command::Restore(arguments) => restore::run(&arguments),
        Command::Held(arguments) => held::run(&arguments),
        Command::Webhook(arguments) => webhook::run(&arguments),
        Command::Import(command) => import::run(&command),
        Command::Doctor(arguments) => doctor::run(&arguments),
        Command::RotateKey(arguments) => rotate_key::run(&arguments),
        Command::Openapi => openapi::run(),
        Command::Completions(arguments) => completions::run(&arguments),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(anstream::stderr(), "{error}");
            error.exit_code()
        }
    }
}

/// Writes a file that only its owner may read. What is there is replaced only when `replace` says so.
fn secret_file(path: &Path, text: &str, replace: bool) -> Result<(), Error> {
    let cannot = |e: std::io::Error| Error::Files(format!("cannot write {}: {e}", path.display()));
    let mut options = fs::OpenOptions::new();
    options.write(true).mode(0o600);
    if replace {
        options.create(true).truncate(true);
    } else {
        options.create_new(true);
    }
    let mut file = options.open(path).map_err(cannot)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(cannot)
}

/// Runs asynchronous work on all cores to its end.
fn block_on<T>(work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| Error::Listen(format!("cannot start: {e}")))?
        .block_on(work)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_wrong_command_line_is_2_and_help_is_0() {
        let code = |line: &[&str]| format!("{:?}", run(line.iter().map(OsString::from)));
        assert_eq!(code(&["muster", "--version"]), format!("{:?}", ExitCode::SUCCESS));
        assert_eq!(code(&["muster", "conquer"]), format!("{:?}", ExitCode::from(2)));
        assert_eq!(code(&["muster"]), format!("{:?}", ExitCode::from(2)));
    }
}
