#![no_main]
//! SCEP requests, and the query of a GET.

use libfuzzer_sys::fuzz_target;
use muster::model::SeededRandomness;
use muster::pki::request::Subject;
use muster::pki::scep::client::{Quirks, make_signer, request};
use muster::pki::scep::{MessageType, Query, server};
use muster_fuzz::{NOW, authority, plant, request as device};

fn seeds() -> Vec<Vec<u8>> {
    let random = SeededRandomness::new(3);
    let (key, csr) = device();
    let signer = make_signer(key, &Subject::common_name("device"), NOW, &random).expect("a signer");
    let all = [(false, false), (true, false), (true, true)];
    let messages = all.map(|(indefinite_lengths, unsorted)| {
        let quirks = Quirks { indefinite_lengths, unsorted, ..Quirks::default() };
        let ca = &authority().certificate;
        request(MessageType::PkcsReq, csr, &signer, ca, quirks, NOW, &random).expect("a request").message
    });
    let query = b"?operation=PKIOperation&message=MIIB+/==".to_vec();
    messages.into_iter().chain([query]).collect()
}

fuzz_target!(
    init: plant("scep", seeds().iter().map(Vec::as_slice)),
    |bytes: &[u8]| {
        if let Some(query) = bytes.strip_prefix(b"?") {
            if let Some(query) = std::str::from_utf8(query).ok().and_then(Query::parse) {
                let _ = query.message();
            }
        } else if let Ok(read) = server::read(bytes, &[authority()], true) {
            // Only what is not signed can differ, never what is asked for.
            assert_eq!(read.csr.public_key_sha256, device().1.public_key_sha256);
        }
    }
);
