#![no_main]
//! PKCS#12 files, with a password that may be right.

use libfuzzer_sys::fuzz_target;
use muster::model::Secret;
use muster::pki::p12;

fuzz_target!(|bytes: &[u8]| { let _ = (p12::is_p12(bytes), p12::read(bytes, &Secret::new("hunter2".to_owned()))); });
