//! Client and server against each other: every quirk, every refusal.

use std::sync::OnceLock;
use std::time::Duration;

use proptest::prelude::*;

use super::client::{self, Answer, Exchange, Quirks};
use super::server::{self, Request, RequestError};
use super::{Cipher, FailInfo, MessageType, capabilities};
use crate::model::{Secret, SeededRandomness};
use crate::pki::authority::{Authority, issue_device_certificate, make_device_ca};
use crate::pki::fixtures::{self, NOW};
use crate::pki::request::{CertificateRequest, Subject};
use crate::pki::{Certificate, PrivateKey, legacy};

const YEAR: Duration = Duration::from_secs(86_400 * 365);

fn csr(key: &PrivateKey) -> CertificateRequest {
    let subject = Subject::common_name("iPhone").and("O", "Example").unwrap();
    CertificateRequest::make(key, &subject, Some(&Secret::new("challenge".to_owned()))).unwrap()
}

/// A first request, signed by another key than the wanted certificate's.
fn first(quirks: Quirks) -> Exchange {
    let random = SeededRandomness::new(11);
    let signer = client::make_signer(fixtures::rsa(1), &Subject::common_name("signer"), NOW, &random).unwrap();
    let ca = &fixtures::device_ca().certificate;
    client::request(MessageType::PkcsReq, &csr(fixtures::rsa(0)), &signer, ca, quirks, NOW, &random).unwrap()
}

fn issue(request: &Request) -> Certificate {
    let random = SeededRandomness::new(12);
    issue_device_certificate(fixtures::device_ca(), &request.csr, None, NOW, YEAR, &random).unwrap()
}

fn refused(message: &[u8], allow_legacy: bool) -> (FailInfo, String) {
    match server::read(message, &[fixtures::device_ca()], allow_legacy) {
        Err(RequestError::Refused { fail, reason, .. }) => (fail, reason),
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_kind_of_client_gets_its_certificate() {
    let ca = fixtures::device_ca();
    let random = SeededRandomness::new(13);
    let mut kinds = vec![
        Quirks::default(),
        Quirks { indefinite_lengths: true, ..Quirks::default() },
        Quirks { cipher: Cipher::TripleDes, indefinite_lengths: true, unsorted: true, ..Quirks::default() },
        Quirks { cipher: Cipher::Aes128, sha1: true, unsorted: true, ..Quirks::default() },
    ];
    if legacy::load().is_ok() {
        kinds.push(Quirks { cipher: Cipher::Des, sha1: true, ..Quirks::default() });
    }
    for quirks in kinds {
        let exchange = first(quirks);
        let request = server::read(&exchange.message, &[ca], true).unwrap();
        assert_eq!(request.message_type, MessageType::PkcsReq);
        assert_eq!(request.csr.challenge.as_ref().unwrap().expose(), "challenge");
        assert_eq!(request.is_legacy, quirks.sha1 || quirks.cipher == Cipher::Des);
        assert_ne!(request.signer.public_key_sha256, request.csr.public_key_sha256);
        let issued = issue(&request);
        let answer = server::success(ca, &request.reply_to, &issued, NOW, &random).unwrap();
        assert_eq!(exchange.read(&answer, &ca.certificate).unwrap(), Answer::Issued(vec![issued]), "{quirks:?}");
    }
}

#[test]
fn a_renewal_is_signed_by_the_certificate_in_use() {
    let ca = fixtures::device_ca();
    let random = SeededRandomness::new(14);
    let first = server::read(&first(Quirks::default()).message, &[ca], false).unwrap();
    let current = Authority { certificate: issue(&first), key: fixtures::rsa(0).clone() };
    let new = csr(fixtures::rsa(2));
    let exchange =
        client::request(MessageType::RenewalReq, &new, &current, &ca.certificate, Quirks::default(), NOW, &random)
            .unwrap();
    let request = server::read(&exchange.message, &[ca], false).unwrap();
    assert!(request.message_type.is_renewal());
    assert_eq!(request.signer, current.certificate);
    let answer = server::success(ca, &request.reply_to, &issue(&request), NOW, &random).unwrap();
    assert!(matches!(exchange.read(&answer, &ca.certificate).unwrap(), Answer::Issued(_)));
}

#[test]
fn refusals_and_patience_reach_the_client() {
    let ca = fixtures::device_ca();
    let random = SeededRandomness::new(15);
    let exchange = first(Quirks::default());
    let to = server::read(&exchange.message, &[ca], false).unwrap().reply_to;
    let answer = server::failure(ca, &to, FailInfo::BadRequest, NOW, &random).unwrap();
    assert_eq!(exchange.read(&answer, &ca.certificate).unwrap(), Answer::Refused(Some(FailInfo::BadRequest)));
    let answer = server::pending(ca, &to, NOW, &random).unwrap();
    assert_eq!(exchange.read(&answer, &ca.certificate).unwrap(), Answer::Pending);
}

#[test]
fn old_algorithms_need_the_setting() {
    let (fail, reason) = refused(&first(Quirks { sha1: true, ..Quirks::default() }).message, false);
    assert_eq!(fail, FailInfo::BadAlg);
    assert!(reason.contains("allow_legacy_algorithms"), "{reason}");
    if legacy::load().is_ok() {
        let (fail, _) = refused(&first(Quirks { cipher: Cipher::Des, ..Quirks::default() }).message, false);
        assert_eq!(fail, FailInfo::BadAlg);
    }
    let random = SeededRandomness::new(16);
    let short = PrivateKey::generate_rsa(1024).unwrap();
    let signer = client::make_signer(fixtures::rsa(1), &Subject::common_name("signer"), NOW, &random).unwrap();
    let ca = &fixtures::device_ca().certificate;
    let quirks = Quirks::default();
    let exchange = client::request(MessageType::PkcsReq, &csr(&short), &signer, ca, quirks, NOW, &random).unwrap();
    assert_eq!(refused(&exchange.message, false).0, FailInfo::BadRequest);
    assert!(server::read(&exchange.message, &[fixtures::device_ca()], true).unwrap().is_legacy);
    assert!(!capabilities(false).contains("SHA-1") && capabilities(true).contains("SHA-1\n"));
}

#[test]
fn the_right_one_of_several_authorities_answers() {
    let random = SeededRandomness::new(17);
    let other = make_device_ca(fixtures::rsa(2), "Other CA", "Example", NOW, &random).unwrap();
    let message = first(Quirks::default()).message;
    assert_eq!(server::read(&message, &[&other, fixtures::device_ca()], false).unwrap().authority, 1);
    let Err(RequestError::Refused { fail, .. }) = server::read(&message, &[&other], false) else { panic!() };
    assert_eq!(fail, FailInfo::BadRequest);
}

#[test]
fn answers_that_do_not_belong_are_refused_by_the_client() {
    let ca = fixtures::device_ca();
    let random = SeededRandomness::new(18);
    let other = make_device_ca(fixtures::rsa(2), "Other CA", "Example", NOW, &random).unwrap();
    let exchange = first(Quirks::default());
    let request = server::read(&exchange.message, &[ca], false).unwrap();
    let issued = issue(&request);
    let by_other = server::success(&other, &request.reply_to, &issued, NOW, &random).unwrap();
    let error = exchange.read(&by_other, &ca.certificate).unwrap_err().to_string();
    assert!(error.contains("somebody else"), "{error}");
    let good = server::success(ca, &request.reply_to, &issued, NOW, &random).unwrap();
    let signer = client::make_signer(fixtures::rsa(1), &Subject::common_name("signer"), NOW, &random).unwrap();
    let new = csr(fixtures::rsa(2));
    let another =
        client::request(MessageType::PkcsReq, &new, &signer, &ca.certificate, Quirks::default(), NOW, &random).unwrap();
    let error = another.read(&good, &ca.certificate).unwrap_err().to_string();
    assert!(error.contains("another transaction"), "{error}");
    let late = NOW.plus(YEAR * 100);
    let answer = server::failure(ca, &request.reply_to, FailInfo::BadRequest, late, &random).unwrap();
    let error = exchange.read(&answer, &ca.certificate).unwrap_err().to_string();
    assert!(error.contains("outside of its signer's validity"), "{error}");
}

#[test]
fn messages_that_are_none_are_told_apart_from_refusals() {
    let ca = fixtures::device_ca();
    for bytes in [&b""[..], b"GET / HTTP/1.1", &[0x30, 0x80, 0, 0], ca.certificate.der(), &[0x30; 70_000]] {
        assert!(matches!(server::read(bytes, &[ca], true), Err(RequestError::Malformed(_))));
    }
    let mut message = first(Quirks::default()).message;
    *message.last_mut().unwrap() ^= 1;
    assert_eq!(refused(&message, true).0, FailInfo::BadMessageCheck);
}

#[test]
fn getcacert_is_read_in_both_forms() {
    let ca = &fixtures::device_ca().certificate;
    assert_eq!(client::read_authorities(ca.der()).unwrap(), std::slice::from_ref(ca));
    let both = crate::pki::cms::degenerate(&[ca]);
    assert_eq!(client::read_authorities(&both).unwrap(), std::slice::from_ref(ca));
    assert!(client::read_authorities(b"nonsense").is_err());
}

proptest! {
    #[test]
    fn damaged_requests_never_panic_and_are_never_taken(at in 0_usize..6000, byte in any::<u8>(), cut in 0_usize..6000) {
        static MESSAGE: OnceLock<Vec<u8>> = OnceLock::new();
        let quirks = Quirks { indefinite_lengths: true, ..Quirks::default() };
        let original = MESSAGE.get_or_init(|| first(quirks).message);
        let mut message = original.clone();
        let at = at % message.len();
        message[at] = byte;
        let ca = fixtures::device_ca();
        if let Ok(request) = server::read(&message, &[ca], true) {
            // Only unsigned parts can differ, never what is asked for.
            prop_assert_eq!(request.csr.public_key_sha256, fixtures::rsa(0).public_key_sha256().unwrap());
        }
        let cut = cut.min(original.len() - 1);
        prop_assert!(server::read(&original[..cut], &[ca], true).is_err());
    }

    #[test]
    fn damaged_answers_never_panic(at in 0_usize..6000, byte in any::<u8>(), cut in 0_usize..6000) {
        static MADE: OnceLock<(Exchange, Vec<u8>)> = OnceLock::new();
        let ca = fixtures::device_ca();
        let (exchange, answer) = MADE.get_or_init(|| {
            let exchange = first(Quirks::default());
            let request = server::read(&exchange.message, &[ca], false).unwrap();
            let answer = server::success(ca, &request.reply_to, &issue(&request), NOW, &SeededRandomness::new(19)).unwrap();
            (exchange, answer)
        });
        let mut answer = answer.clone();
        let at = at % answer.len();
        answer[at] = byte;
        let _ = exchange.read(&answer, &ca.certificate);
        let _ = exchange.read(&answer[..cut.min(answer.len())], &ca.certificate);
    }
}
