//! The app of the story: a package made on the spot, which nothing could run.

use std::io::{Cursor, Write as _};

use plist::Dictionary;
use zip::CompressionMethod;
use zip::write::{SimpleFileOptions, ZipWriter};

use super::super::Error;
use crate::protocol::wire;

/// The app's bundle id.
pub(super) const BUNDLE_ID: &str = "org.example.muster.notes";
/// The size of what is in place of its program, in bytes: several chunks of the store, and of a device's downloads.
const SIZE: usize = 3 * 1024 * 1024;

/// The package, an .ipa.
pub(super) fn make() -> Result<Vec<u8>, Error> {
    write().map_err(|e| Error::Demo(format!("cannot make a package: {e}")))
}

fn write() -> Result<Vec<u8>, zip::result::ZipError> {
    let info: Dictionary = [
        ("CFBundleIdentifier", BUNDLE_ID),
        ("CFBundleName", "Notes"),
        ("CFBundleShortVersionString", "1.0"),
        ("CFBundleVersion", "1"),
        ("MinimumOSVersion", "16.0"),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), plist::Value::from(value)))
    .collect();
    let stored = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    let mut package = ZipWriter::new(Cursor::new(Vec::new()));
    package.start_file("Payload/Notes.app/Info.plist", SimpleFileOptions::default())?;
    package.write_all(&wire::write(&plist::Value::Dictionary(info)))?;
    package.start_file("Payload/Notes.app/Notes", stored)?;
    package.write_all(&vec![0x5a; SIZE])?;
    Ok(package.finish()?.into_inner())
}
