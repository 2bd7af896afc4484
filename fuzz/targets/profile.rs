#![no_main]
//! Profiles that admins upload, signed or not.

use libfuzzer_sys::fuzz_target;
use muster::protocol::profile::{Mobileconfig, is_signed};
use muster_fuzz::{NOW, identity, messages, plant};

fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = messages();
    let signed = seeds.iter().filter_map(|profile| muster::pki::profile::sign(profile, &identity(), None, NOW).ok());
    let signed: Vec<_> = signed.take(3).collect();
    seeds.extend(signed);
    seeds
}

fuzz_target!(
    init: plant("profile", seeds().iter().map(Vec::as_slice)),
    |bytes: &[u8]| {
        if is_signed(bytes) {
            if let Ok(opened) = muster::pki::profile::open(bytes) {
                let _ = Mobileconfig::parse(&opened.profile);
            }
        } else {
            let _ = Mobileconfig::parse(bytes);
        }
    }
);
