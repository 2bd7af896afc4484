#![no_main]
//! What devices send to check in.

use libfuzzer_sys::fuzz_target;
use muster_fuzz::{messages, plant};

fuzz_target!(
    init: plant("check_in", messages().iter().map(Vec::as_slice)),
    |bytes: &[u8]| { let _ = muster::protocol::checkin::decode(bytes, muster::protocol::wire::Limits::CHECK_IN); }
);
