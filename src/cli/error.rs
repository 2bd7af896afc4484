use std::io;
use std::process::ExitCode;

use crate::config::Faults;
use crate::http::tls::TlsError;
use crate::service;
use crate::store::StoreError;

/// Why a subcommand did not do what it was asked to. Shown to the person at the terminal.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The settings have faults; each is a line.
    #[error("{0}")]
    Settings(#[from] Faults),
    /// A master key cannot be read.
    #[error("{0}")]
    Key(String),
    /// The database cannot be opened or used.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// Another server has the database.
    #[error("{0}")]
    Busy(String),
    /// A listener cannot be opened.
    #[error("{0}")]
    Listen(String),
    /// A certificate of a listener cannot be used.
    #[error("{0}")]
    Tls(#[from] TlsError),
    /// The push service's endpoint or roots cannot be used.
    #[error("{0}")]
    Push(String),
    /// Files that settings name cannot be used; each is a line.
    #[error("{0}")]
    NamedFiles(String),
    /// A file cannot be written.
    #[error("{0}")]
    Files(String),
    /// The simulator cannot do what it was asked to.
    #[error("{0}")]
    Simulator(String),
    /// The demo did not go as it should.
    #[error("{0}")]
    Demo(String),
    /// The domain refused.
    #[error("{0}")]
    Service(#[from] service::Error),
    /// It would have spoiled something, or made no sense; nothing was done.
    #[error("{0}")]
    Refused(String),
    /// `muster doctor` found faults; they were shown.
    #[error("muster doctor: {0} failed")]
    Faults(usize),
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
            _ => ExitCode::from(1),
        }
    }
}
