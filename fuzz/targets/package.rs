#![no_main]
//! Packages of apps (.ipa).

use std::io::Cursor;

use libfuzzer_sys::fuzz_target;
use muster_fuzz::{messages, plant};

/// A zip of one stored file: headers as APPNOTE.TXT lays them out, without its check sum.
fn zip(name: &str, content: &[u8]) -> Vec<u8> {
    let (length, size) = (name.len() as u16, content.len() as u32);
    let facts = |version: &[u8]| [version, &[0; 12], &size.to_le_bytes(), &size.to_le_bytes(), &length.to_le_bytes()].concat();
    let local = [b"PK\x03\x04", &facts(&[20, 0])[..], &[0; 2], name.as_bytes(), content].concat();
    let central = [b"PK\x01\x02", &facts(&[20, 0, 20, 0])[..], &[0; 16], name.as_bytes()].concat();
    let counts = [0, 0, 0, 0, 1, 0, 1, 0];
    let places = [(central.len() as u32).to_le_bytes(), (local.len() as u32).to_le_bytes()].concat();
    [&local[..], &central, b"PK\x05\x06", &counts, &places, &[0, 0]].concat()
}

fn seeds() -> Vec<Vec<u8>> {
    messages().iter().map(|content| zip("Payload/Notes.app/Info.plist", content)).collect()
}

fuzz_target!(
    init: plant("package", seeds().iter().map(Vec::as_slice)),
    |bytes: &[u8]| { let _ = muster::protocol::ipa::read(&mut Cursor::new(bytes)); }
);
