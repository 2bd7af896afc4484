//! Settings: load, validate, redact; all faults reported together.
//!
//! They come from a TOML file, then from `MUSTER_*` variables of the environment, which win. Each setting stands once,
//! in `settings`: its type, its default, and the text about it, which is also the comment in the file that `muster
//! init` writes.

mod address;
mod check;
mod fault;
mod nearest;
mod network;
mod reader;
mod settings;
mod value;
mod write;

use std::io::Read;
use std::path::Path;

pub use address::{DatabaseUrl, Endpoint, HookUrl, PublicUrl};
pub use fault::{Fault, Faults, Origin};
pub use network::{Network, Peer};
pub use settings::{
    Admin, Apps, Compat, Database, DeviceTls, Devices, Enrollment, Hooks, IdentityForm, Log, LogFormat, MasterKeys,
    Metrics, Organization, Pages, ProfileSigning, Profiles, Proxy, Push, Reenroll, Scep, Settings, Vendor,
};
pub use value::{DataPath, Keep, Size};
pub use write::template;

/// The largest file of settings that is read, in bytes.
const MAX_FILE: u64 = 1024 * 1024;

/// Reads the settings of `file`, with `environment` over them.
///
/// Relative paths start from the directory of the file.
///
/// # Errors
/// Everything that is wrong with them, at once.
pub fn load(file: &Path, environment: impl IntoIterator<Item = (String, String)>) -> Result<Settings, Faults> {
    let text = read(file).map_err(|problem| {
        let origin = Origin::File { file: file.to_path_buf(), line: None };
        let expected = "a readable file of settings; `muster init DIRECTORY` writes one".to_owned();
        Faults(vec![Fault { origin, key: String::new(), problem, expected }])
    })?;
    Settings::parse(file, &text, environment)
}

fn read(file: &Path) -> Result<String, String> {
    let mut text = String::new();
    let opened = std::fs::File::open(file).map_err(|why| format!("cannot be opened: {why}"))?;
    opened.take(MAX_FILE + 1).read_to_string(&mut text).map_err(|why| format!("cannot be read: {why}"))?;
    if text.len() as u64 > MAX_FILE { Err("is larger than 1 MiB".to_owned()) } else { Ok(text) }
}

#[cfg(test)]
mod tests;
