use std::env;
use std::path::PathBuf;

use clap::Args;

use super::Error;
use crate::config::{self, Settings};

/// Where the settings are: an argument of every subcommand that needs them.
#[derive(Clone, Debug, Args)]
pub struct SettingsFile {
    /// The file of settings.
    #[arg(long, short, value_name = "FILE", env = "MUSTER_CONFIG", default_value = "muster.toml")]
    pub config: PathBuf,
}

impl SettingsFile {
    /// Loads the settings of the file and of this process's environment.
    ///
    /// # Errors
    /// All faults of the settings.
    pub fn load(&self) -> Result<Settings, Error> {
        // What is no UTF-8 is no setting that could be right: shown with the strange bytes replaced.
        let environment = env::vars_os()
            .map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()));
        Ok(config::load(&self.config, environment)?)
    }
}
