//! `muster rotate-key`: the two steps of changing the master key that are the program's.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use clap::Args;

use super::completions::write;
use super::{Error, SettingsFile, SystemRandomness, init, token};
use crate::pki::vault::MasterKey;
use crate::service::{Actor, rotation};

/// Options of `muster rotate-key`.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    settings: SettingsFile,
    /// Only make a new master key, in this file, which must not be there yet. Changes nothing else.
    #[arg(long, value_name = "FILE")]
    make: Option<PathBuf>,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Error> {
    match &arguments.make {
        Some(file) => make(arguments, file),
        None => reseal(arguments),
    }
}

fn make(arguments: &Arguments, file: &Path) -> Result<(), Error> {
    let settings = arguments.settings.load()?;
    let key = MasterKey::generate(&SystemRandomness);
    init::new_file(file, format!("{}\n", key.format().expose()).as_bytes())
        .map_err(|why| Error::Refused(format!("cannot make {}: {why}; nothing was changed", file.display())))?;
    let shown = absolute(file);
    let current = match settings.master_key_text {
        Some(_) => "a file that holds the key now in MUSTER_MASTER_KEY".to_owned(),
        None => toml_text(&absolute(settings.master_key.file.as_path())),
    };
    let text = format!(
        "{} holds a new master key, {}.\n\nNext, in {}:\n\n  [master_key]\n  file = {}\n  older = [{current}]\n\n\
         Then start every server anew, and run `muster rotate-key`.\n",
        shown.display(),
        hex::encode(key.id()),
        arguments.settings.config.display(),
        toml_text(&shown),
    );
    write(&mut std::io::stdout().lock(), text.as_bytes())
}

fn reseal(arguments: &Arguments) -> Result<(), Error> {
    token::with_app(&arguments.settings, async |app| {
        let _ = writeln!(
            anstream::stderr(),
            "a server that runs must have been started since the settings name this key; start anew one that was not: it \
             cannot open what is sealed from now on"
        );
        let rotated = rotation::reseal(app, &Actor::command_line()).await?;
        let key = hex::encode(app.vault().active_key_id());
        let text = format!("{} records were sealed anew under the master key {key}\n", rotated.resealed);
        write(&mut std::io::stdout().lock(), text.as_bytes())?;
        if rotated.unreadable == 0 {
            return Ok(());
        }
        for example in &rotated.examples {
            let _ = writeln!(anstream::stderr(), "{example}");
        }
        Err(Error::Refused(format!(
            "{} records do not open, and stay as they are; keep the older keys until they do",
            rotated.unreadable
        )))
    })
}

/// The settings read a relative path from the data directory, not from where this is run.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf())
}

fn toml_text(path: &Path) -> String {
    toml::Value::from(path.display().to_string()).to_string()
}
