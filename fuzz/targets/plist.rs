#![no_main]
//! Property lists, XML and binary, strict and tolerant.

use libfuzzer_sys::fuzz_target;
use muster::protocol::wire::{Limits, read, read_any, read_lenient, write};
use muster_fuzz::{messages, plant};

fuzz_target!(
    init: plant("plist", messages().iter().map(Vec::as_slice)),
    |bytes: &[u8]| {
        let _ = (read_any(bytes, Limits::REPORT), read_lenient(bytes, Limits::REPORT));
        if let Ok(value) = read(bytes, Limits::REPORT) {
            // What was read can be written, and reads back as the same.
            assert_eq!(read(&write(&value), Limits::REPORT), Ok(value));
        }
    }
);
