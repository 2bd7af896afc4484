#![no_main]
//! The value of `Mdm-Signature`, unpacked.

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use muster::pki::signature::{SignaturePolicy, SigningQuirks, sign_header, verify_detached, verify_header};
use muster_fuzz::{NOW, authority, identity, plant};

const BODY: &[u8] = b"body";
const POLICY: SignaturePolicy = SignaturePolicy { allow_sha1: true, skew: Duration::from_secs(86_400) };

fn seeds() -> Vec<Vec<u8>> {
    let all = [(false, false), (true, false), (false, true)];
    let headers = all.map(|(sha1, unsorted)| {
        let quirks = SigningQuirks { sha1, unsorted, ..SigningQuirks::default() };
        sign_header(BODY, &identity(), quirks, NOW).expect("a signature")
    });
    // Both forms: what is unpacked, and, behind a mark, the text.
    headers.iter().map(|text| [b"#", text.as_bytes()].concat()).collect()
}

fuzz_target!(
    init: plant("signature", seeds().iter().map(Vec::as_slice)),
    |bytes: &[u8]| {
        let verified = match bytes.strip_prefix(b"#") {
            Some(text) => match std::str::from_utf8(text) {
                Ok(text) => verify_header(text, BODY, POLICY, NOW),
                Err(_) => return,
            },
            None => verify_detached(bytes, BODY, POLICY, NOW),
        };
        if let Ok(signed) = verified {
            let roots = [authority().certificate.clone()];
            let trusted = muster::pki::chain::verify(&signed.signer, &[], &roots, NOW, Duration::ZERO).is_ok();
            // The signature does not cover the certificate, but the authority's does.
            assert!(!trusted || signed.signer.public_key_sha256 == identity().certificate.public_key_sha256);
        }
    }
);
