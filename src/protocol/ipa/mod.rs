//! What an app's package (.ipa) says of the app: the `Info.plist` in its `Payload/<Name>.app`, and nothing else of it.

mod zip;

use std::io::{Read, Seek};

use plist::Value;

use super::wire::{self, Limits, WireError};

/// Largest `Info.plist`, bytes when inflated.
const MAX_INFO: u64 = 1 << 20;
/// Longest bundle id, version or name, characters.
const MAX_TEXT: usize = 155;

/// What a package says of its app.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppFacts {
    /// `CFBundleIdentifier`.
    pub bundle_identifier: String,
    /// `CFBundleVersion`: the build.
    pub version: Option<String>,
    /// `CFBundleShortVersionString`: the version that people see.
    pub short_version: Option<String>,
    /// `CFBundleDisplayName`, or else `CFBundleName`.
    pub name: Option<String>,
    /// `MinimumOSVersion`.
    pub minimum_os: Option<String>,
    /// `CFBundleSupportedPlatforms`, such as `iPhoneOS`.
    pub platforms: Vec<String>,
}

/// Why a package is not taken.
#[derive(Debug, thiserror::Error)]
pub enum IpaError {
    /// It could not be read; nothing is said about what is in it.
    #[error("the package cannot be read: {0}")]
    Read(#[from] std::io::Error),
    /// It is no zip archive, or damaged.
    #[error("not an app's package: {0}")]
    NotAPackage(&'static str),
    /// It is made to cost more than it should.
    #[error("the package is refused: {0}")]
    TooCostly(&'static str),
    /// There is no `Payload/<Name>.app/Info.plist` in it.
    #[error("there is no Payload/<name>.app/Info.plist in it")]
    NoApp,
    /// There is more than one.
    #[error("there is more than one app in it")]
    SeveralApps,
    /// The app's `Info.plist` cannot be read.
    #[error("the app's Info.plist: {0}")]
    Info(#[from] WireError),
    /// The app's `Info.plist` lacks something.
    #[error("the app's Info.plist has no usable {0}")]
    Missing(&'static str),
}

/// Reads the facts of a package. It costs one pass over the archive's directory and at most a megabyte inflated,
/// whatever the package claims.
///
/// # Errors
/// Every [`IpaError`].
pub fn read(package: &mut (impl Read + Seek)) -> Result<AppFacts, IpaError> {
    let info = zip::read_only(package, is_info, MAX_INFO)?;
    let info = wire::dictionary(wire::read_any(&info, Limits::INFO)?)?;
    let text = |key: &str| {
        let text = info.get(key)?.as_string()?.trim();
        let fits = !text.is_empty() && text.chars().count() <= MAX_TEXT && !text.chars().any(char::is_control);
        fits.then(|| text.to_owned())
    };
    let is_id = |id: &String| id.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
    let platforms = info.get("CFBundleSupportedPlatforms").and_then(Value::as_array);
    Ok(AppFacts {
        bundle_identifier: text("CFBundleIdentifier").filter(is_id).ok_or(IpaError::Missing("CFBundleIdentifier"))?,
        version: text("CFBundleVersion"),
        short_version: text("CFBundleShortVersionString"),
        name: text("CFBundleDisplayName").or_else(|| text("CFBundleName")),
        minimum_os: text("MinimumOSVersion"),
        platforms: platforms.into_iter().flatten().filter_map(Value::as_string).take(8).map(str::to_owned).collect(),
    })
}

/// Whether this is the `Info.plist` of the app itself, and not of an extension or framework in it.
fn is_info(name: &[u8]) -> bool {
    let app = name.strip_prefix(b"Payload/").and_then(|rest| rest.strip_suffix(b".app/Info.plist"));
    app.is_some_and(|app| !app.is_empty() && !app.contains(&b'/'))
}

#[cfg(test)]
mod tests {
    use std::io::{Cursor, Write};

    use ::zip::write::{SimpleFileOptions, ZipWriter};
    use proptest::prelude::*;

    use super::*;

    const INFO: &[u8] = include_bytes!("../../../tests/fixtures/plists/info.plist");

    fn package(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
        for (name, content) in files {
            zip.start_file(*name, SimpleFileOptions::default()).unwrap();
            zip.write_all(content).unwrap();
        }
        zip.finish().unwrap().into_inner()
    }

    fn facts(package: Vec<u8>) -> Result<AppFacts, IpaError> {
        read(&mut Cursor::new(package))
    }

    #[test]
    fn an_app_says_what_it_is_in_either_form() {
        let mut binary = Vec::new();
        wire::read(INFO, Limits::INFO).unwrap().to_writer_binary(&mut binary).unwrap();
        for info in [INFO, &binary] {
            let files: [(&str, &[u8]); 4] = [
                ("Payload/", b""),
                ("Payload/Notes.app/PlugIns/Share.appex/Info.plist", b"not this one"),
                ("Payload/Notes.app/Info.plist", info),
                ("iTunesArtwork", b"\x89PNG"),
            ];
            let facts = facts(package(&files)).unwrap();
            assert_eq!(facts.bundle_identifier, "org.example.notes");
            assert_eq!(facts.version.as_deref(), Some("42"));
            assert_eq!(facts.short_version.as_deref(), Some("1.2"));
            assert_eq!(facts.name.as_deref(), Some("Notes"));
            assert_eq!(facts.minimum_os.as_deref(), Some("16.0"));
            assert_eq!(facts.platforms, ["iPhoneOS"]);
        }
    }

    #[test]
    fn what_is_no_package_is_refused() {
        let name = "Payload/Notes.app/Info.plist";
        assert!(matches!(facts(Vec::new()), Err(IpaError::NotAPackage(_))));
        assert!(matches!(facts(vec![b'P'; 70_000]), Err(IpaError::NotAPackage(_))));
        assert!(matches!(facts(package(&[])), Err(IpaError::NoApp)));
        assert!(matches!(facts(package(&[("Payload/A.app/B.app/Info.plist", INFO)])), Err(IpaError::NoApp)));
        let two = [(name, INFO), ("Payload/Other.app/Info.plist", INFO)];
        assert!(matches!(facts(package(&two)), Err(IpaError::SeveralApps)));
        assert!(matches!(facts(package(&[(name, b"hello")])), Err(IpaError::Info(_))));
        let empty = b"<plist><dict/></plist>";
        assert!(matches!(facts(package(&[(name, empty)])), Err(IpaError::Missing("CFBundleIdentifier"))));
        let path = b"<plist><dict><key>CFBundleIdentifier</key><string>../../etc</string></dict></plist>";
        assert!(matches!(facts(package(&[(name, path)])), Err(IpaError::Missing("CFBundleIdentifier"))));
        let mut cut = package(&[(name, INFO)]);
        cut.truncate(cut.len() - 30);
        assert!(matches!(facts(cut), Err(IpaError::NotAPackage(_))));
    }

    #[test]
    fn a_bomb_is_refused_by_what_it_claims_and_by_what_it_does() {
        let name = "Payload/Notes.app/Info.plist";
        let bomb = package(&[(name, &vec![b' '; 8 << 20])]);
        assert!(bomb.len() < 20_000);
        assert!(matches!(facts(bomb.clone()), Err(IpaError::TooCostly(_))));
        // The same, with a directory that claims a thousand bytes.
        let mut liar = bomb;
        let claim = (8_u32 << 20).to_le_bytes();
        let places: Vec<_> = (0..liar.len() - 4).filter(|at| liar[*at..*at + 4] == claim).collect();
        for at in places {
            liar[at..at + 4].copy_from_slice(&70_000_u32.to_le_bytes());
        }
        assert!(matches!(facts(liar), Err(IpaError::NotAPackage(_))));
    }

    proptest! {
        #[test]
        fn damaged_packages_never_panic(at in any::<proptest::sample::Index>(), bytes: [u8; 4]) {
            let mut zip = package(&[("Payload/Notes.app/Info.plist", INFO), ("other", b"x")]);
            let at = at.index(zip.len() - 4);
            zip[at..at + 4].copy_from_slice(&bytes);
            let _ = facts(zip);
        }

        #[test]
        fn arbitrary_bytes_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), zip64: bool) {
            let _ = facts(bytes.clone());
            if zip64 {
                bytes.extend(b"PK\x06\x07");
                bytes.extend([0; 16]);
            }
            bytes.extend(b"PK\x05\x06");
            bytes.extend([0xFF; 16]);
            bytes.extend([0; 2]);
            let _ = facts(bytes);
        }
    }
}
