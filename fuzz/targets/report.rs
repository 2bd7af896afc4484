#![no_main]
//! What devices answer to commands.

use libfuzzer_sys::fuzz_target;
use muster_fuzz::{messages, plant};

fuzz_target!(
    init: plant("report", messages().iter().map(Vec::as_slice)),
    |bytes: &[u8]| {
        if muster::protocol::report::decode(bytes, muster::protocol::wire::Limits::REPORT).is_err() {
            let _ = muster::protocol::unreadable::look(bytes);
        }
    }
);
