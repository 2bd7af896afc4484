//! `muster simulate`: devices and an APNs that play against any server which follows the protocol.

pub(super) mod apns;
mod devices;

use clap::Subcommand;

use super::Error;

/// What to simulate.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Simulated iPhones, which enroll from a link and do what they are told.
    Devices(devices::Arguments),
    /// A fake APNs, which checks pushes as Apple's does and hands them to simulated devices.
    Apns(apns::Arguments),
}

/// Simulates until a signal.
pub fn run(command: &Command) -> Result<(), Error> {
    match command {
        Command::Devices(arguments) => devices::run(arguments),
        Command::Apns(arguments) => apns::run(arguments),
    }
}
