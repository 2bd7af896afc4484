use std::fmt::Write as _;

use super::reader::{Preset, join};
use super::settings::Settings;

/// The text of a `muster.toml` with every setting in it, explained: what `muster init` writes.
///
/// Settings stand as comments that show their defaults; only those in `given` (full name, value as TOML) are set.
#[must_use]
pub fn template(given: &[(&str, String)]) -> String {
    let mut text = String::from(
        "# Muster's settings.\n#\n# A line that begins with \"#\" and a letter shows a setting's default, or the form of one that has none: remove\n\
         # the \"#\" to set it. Each can also be set by an environment variable, which wins: devices.listen by\n\
         # MUSTER_DEVICES_LISTEN. Relative paths start from this file's directory. `muster doctor` checks the settings.\n",
    );
    for section in Settings::SECTIONS {
        text.push('\n');
        if !section.path.is_empty() {
            comment(&mut text, section.about);
            let _ = writeln!(text, "[{}]", section.path);
        }
        for (index, key) in section.keys.iter().enumerate() {
            let path = join(section.path, key.name);
            if index > 0 {
                text.push('\n');
            }
            comment(&mut text, key.about);
            let set = given.iter().find(|(name, _)| *name == path).map(|(_, value)| value.as_str());
            // Writing into a String cannot fail.
            let _ = match (set, key.preset) {
                (Some(value), _) => writeln!(text, "{} = {value}", key.name),
                (None, Preset::Required(value)) => writeln!(text, "{} = {value}", key.name),
                (None, preset) => writeln!(text, "#{} = {}", key.name, preset.toml()),
            };
        }
    }
    text
}

fn comment(text: &mut String, lines: &[&str]) {
    for line in lines {
        let _ = writeln!(text, "#{line}");
    }
}
