//! Packages of apps, made when they are needed.

use std::io::{Cursor, Write};

use zip::CompressionMethod;
use zip::write::{SimpleFileOptions, ZipWriter};

/// What the `Info.plist` of the test app says.
pub const INFO: &[u8] = include_bytes!("../../fixtures/plists/info.plist");
/// Where it is in a package.
pub const INFO_PATH: &str = "Payload/Notes.app/Info.plist";

/// A package with these files.
pub fn package(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, content) in files {
        zip.start_file(*name, SimpleFileOptions::default()).unwrap();
        zip.write_all(content).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

/// A whole app whose package is a little larger than `size` bytes.
pub fn notes(size: usize) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let stored = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    zip.start_file(INFO_PATH, SimpleFileOptions::default()).unwrap();
    zip.write_all(INFO).unwrap();
    zip.start_file("Payload/Notes.app/Notes", stored).unwrap();
    // No two pieces of it are the same, so that a mix-up shows.
    let binary: Vec<u8> = (0..size / 4).flat_map(|n| u32::try_from(n).unwrap().to_be_bytes()).collect();
    zip.write_all(&binary).unwrap();
    zip.finish().unwrap().into_inner()
}
