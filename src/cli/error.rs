use std::io;
use std::process::ExitCode;

use crate::config::Faults;

/// Why a subcommand did not do what it was asked to. Shown to the person at the terminal.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The settings have faults; each is a line.
    #[error("{0}")]
    Settings(#[from] Faults),
    /// Nothing could be written where the output goes.
    #[error("cannot write the output: {0}")]
    Output(#[source] io::Error),
}

impl Error {
    /// What the program ends with: 1, or 2 (as for a wrong command line) where the settings have to be corrected first.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Settings(_) => ExitCode::from(2),
            Self::Output(_) => ExitCode::from(1),
        }
    }
}
