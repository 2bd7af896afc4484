//! Keys and authorities for the tests of this room: made once per test run, since RSA keys take their time.

use std::sync::OnceLock;

use super::authority::{Authority, make_device_ca};
use super::key::PrivateKey;
use crate::model::{SeededRandomness, Timestamp};

/// The time at which the tests happen.
pub(super) const NOW: Timestamp = Timestamp::from_seconds(1_795_000_000);

/// One of a few RSA keys of 2048 bits.
pub(super) fn rsa(number: usize) -> &'static PrivateKey {
    static KEYS: [OnceLock<PrivateKey>; 4] = [const { OnceLock::new() }; 4];
    KEYS[number].get_or_init(|| PrivateKey::generate_rsa(2048).unwrap())
}

/// A device CA.
pub(super) fn device_ca() -> &'static Authority {
    static CA: OnceLock<Authority> = OnceLock::new();
    CA.get_or_init(|| make_device_ca(rsa(3), "Device CA", "Example", NOW, &SeededRandomness::new(1)).unwrap())
}
