//! The `Mdm-Signature` header: how a device proves who it is when TLS ends at a proxy.
//!
//! Base64 of a detached CMS over the exact bytes of the body, by one signer. Source: Apple, "Implementing device
//! management" (SignMessage).

use std::borrow::Cow;
use std::time::Duration;

use super::algorithm::Digest;
use super::asn1;
use super::cms::{Sign, SignedData, Unverified};
use super::pem::LENIENT;
use super::{Certificate, Error, Identity};
use crate::model::Timestamp;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Longest header that is read, in bytes: a signature with a chain of certificates is some 10 KB.
pub const MAX_HEADER_BYTES: usize = 32 * 1024;

/// What is tolerated.
#[derive(Clone, Copy, Debug)]
pub struct SignaturePolicy {
    /// SHA-1 digests and signatures, which older clients send.
    pub allow_sha1: bool,
    /// How far the stated signing time may be from now, either way.
    pub skew: Duration,
}

/// A signature that holds. Says nothing about whether the signer is trusted.
#[derive(Clone, Debug)]
pub struct Signed {
    /// The signer's certificate.
    pub signer: Certificate,
    /// The other certificates that came along.
    pub others: Vec<Certificate>,
    /// Whether SHA-1 took part (to be counted).
    pub uses_sha1: bool,
}

/// Why a signature does not hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// Not base64 of a signed CMS with one signer and its certificate, or too long.
    #[error("the signature is malformed: {0}")]
    Malformed(&'static str),
    /// Made with an algorithm that is not understood or not allowed.
    #[error("the signature uses an algorithm that is not accepted: {0}")]
    Algorithm(&'static str),
    /// Made over other bytes than the body.
    #[error("the signature was made over another body")]
    OtherBody,
    /// The signature does not fit the signer's certificate.
    #[error("the signature does not fit the certificate of its signer")]
    Wrong,
    /// Made at a time that is too far from now.
    #[error("the signature was made at {at}, too far from now: the clock of the device or of this server is wrong")]
    Clock {
        /// The stated time.
        at: Timestamp,
    },
}

/// Decodes the header's value: the CMS in it, with definite lengths.
///
/// # Errors
/// [`SignatureError::Malformed`].
pub fn decode_header(header: &str) -> Result<Vec<u8>, SignatureError> {
    if header.len() > MAX_HEADER_BYTES {
        return Err(SignatureError::Malformed("longer than 32 KiB"));
    }
    let packed: Vec<u8> = header.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let cms = LENIENT.decode(packed).map_err(|_| SignatureError::Malformed("no base64"))?;
    definite(cms)
}

fn definite(cms: Vec<u8>) -> Result<Vec<u8>, SignatureError> {
    if cms.len() > MAX_HEADER_BYTES {
        return Err(SignatureError::Malformed("longer than 32 KiB"));
    }
    match asn1::to_definite(&cms).map_err(|_| SignatureError::Malformed("no signed CMS"))? {
        Cow::Owned(definite) => Ok(definite),
        Cow::Borrowed(_) => Ok(cms),
    }
}

/// A detached signature that was read, and not compared with any body yet: it tells who claims to have signed, so that
/// nothing is read for those who would not be let in anyway.
pub struct Detached<'a> {
    data: SignedData<'a>,
    signer: Certificate,
}

impl<'a> Detached<'a> {
    /// Reads the CMS that [`decode_header`] gave.
    ///
    /// # Errors
    /// [`SignatureError::Malformed`].
    pub fn read(definite: &'a [u8]) -> Result<Self, SignatureError> {
        let data = SignedData::read(definite).map_err(|_| SignatureError::Malformed("no signed CMS"))?;
        let [signer] = data.signers.as_slice() else {
            return Err(SignatureError::Malformed("not exactly one signer"));
        };
        let certificate =
            data.certificate_of(signer).ok_or(SignatureError::Malformed("without the certificate of its signer"))?;
        Ok(Self { signer: certificate.clone(), data })
    }

    /// The certificate of whoever claims to have signed.
    #[must_use]
    pub const fn claimed_signer(&self) -> &Certificate {
        &self.signer
    }

    /// The other certificates that came along.
    pub fn others(&self) -> impl Iterator<Item = &Certificate> {
        self.data.certificates.iter().filter(|other| other.sha256 != self.signer.sha256)
    }

    /// Checks the signature against the body. True: SHA-1 took part (to be counted).
    ///
    /// Tolerates BER, signed attributes in any order, `sha…WithRSAEncryption` where `rsaEncryption` belongs, and
    /// AlgorithmIdentifiers without NULL.
    ///
    /// # Errors
    /// Any [`SignatureError`].
    pub fn verify(&self, body: &[u8], policy: SignaturePolicy, now: Timestamp) -> Result<bool, SignatureError> {
        let signer = self.data.signers.first().ok_or(SignatureError::Malformed("not exactly one signer"))?;
        let uses_sha1 = signer.uses_sha1();
        if uses_sha1 && !policy.allow_sha1 {
            return Err(SignatureError::Algorithm("SHA-1; devices.allow_sha1_signatures would accept it"));
        }
        if self.data.content.is_some_and(|content| content != body) {
            return Err(SignatureError::OtherBody);
        }
        signer.verify(&self.signer, body).map_err(|reason| match reason {
            Unverified::Algorithm => {
                SignatureError::Algorithm("expected RSA or ECDSA with SHA-256, SHA-384 or SHA-512")
            }
            Unverified::OtherContent => SignatureError::OtherBody,
            Unverified::Signature => SignatureError::Wrong,
        })?;
        if let Some(at) = signer.signing_time()
            && (at > now.plus(policy.skew) || at < now.minus(policy.skew))
        {
            return Err(SignatureError::Clock { at });
        }
        Ok(uses_sha1)
    }
}

/// Checks the header's value against the body. See [`Detached::verify`].
///
/// # Errors
/// Any [`SignatureError`].
pub fn verify_header(
    header: &str,
    body: &[u8],
    policy: SignaturePolicy,
    now: Timestamp,
) -> Result<Signed, SignatureError> {
    verified(&decode_header(header)?, body, policy, now)
}

/// Checks a detached CMS against the body. See [`Detached::verify`].
///
/// # Errors
/// Any [`SignatureError`].
pub fn verify_detached(
    cms: &[u8],
    body: &[u8],
    policy: SignaturePolicy,
    now: Timestamp,
) -> Result<Signed, SignatureError> {
    verified(&definite(cms.to_vec())?, body, policy, now)
}

fn verified(definite: &[u8], body: &[u8], policy: SignaturePolicy, now: Timestamp) -> Result<Signed, SignatureError> {
    let read = Detached::read(definite)?;
    let uses_sha1 = read.verify(body, policy, now)?;
    Ok(Signed { signer: read.signer.clone(), others: read.others().cloned().collect(), uses_sha1 })
}

/// What a client does differently from others. The default is what current clients do.
#[derive(Clone, Copy, Debug, Default)]
pub struct SigningQuirks {
    /// Sign with SHA-1, and as the clients that do: the signature algorithm named in full
    /// (`sha1WithRSAEncryption`), algorithms without NULL.
    pub sha1: bool,
    /// Signed attributes that are not sorted.
    pub unsorted: bool,
}

/// Signs a body as a device does: the value of the header.
///
/// # Errors
/// Only when OpenSSL fails.
pub fn sign_header(body: &[u8], by: &Identity, quirks: SigningQuirks, now: Timestamp) -> Result<String, Error> {
    let sign = Sign {
        content: body,
        detached: true,
        certificate: &by.certificate,
        key: &by.key,
        chain: &by.chain,
        signing_time: Some(now),
        attributes: Vec::new(),
        digest: if quirks.sha1 { Digest::Sha1 } else { Digest::Sha256 },
        unsorted: quirks.unsorted,
        terse: quirks.sha1,
    };
    Ok(STANDARD.encode(sign.make()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::SeededRandomness;
    use crate::pki::PrivateKey;
    use crate::pki::authority::{Authority, issue_device_certificate};
    use crate::pki::fixtures::{self, NOW};
    use crate::pki::request::{CertificateRequest, Subject};
    use proptest::prelude::*;

    const STRICT: SignaturePolicy = SignaturePolicy { allow_sha1: false, skew: Duration::from_secs(300) };
    const LENIENT_POLICY: SignaturePolicy = SignaturePolicy { allow_sha1: true, ..STRICT };

    fn device(key: &PrivateKey) -> Identity {
        let request = CertificateRequest::make(key, &Subject::common_name("iPhone"), None).unwrap();
        let random = SeededRandomness::new(8);
        let validity = Duration::from_secs(86_400);
        let certificate =
            issue_device_certificate(fixtures::device_ca(), &request, None, NOW, validity, &random).unwrap();
        Authority { certificate, key: key.clone() }.into()
    }

    #[test]
    fn a_signature_over_the_body_names_its_signer() {
        for key in [fixtures::rsa(0).clone(), PrivateKey::generate_p256().unwrap()] {
            let device = device(&key);
            let header = sign_header(b"body", &device, SigningQuirks::default(), NOW).unwrap();
            let signed = verify_header(&header, b"body", STRICT, NOW).unwrap();
            assert_eq!(signed.signer, device.certificate);
            assert!(!signed.uses_sha1 && signed.others.is_empty());
            let error = verify_header(&header, b"another body", STRICT, NOW).unwrap_err();
            assert_eq!(error, SignatureError::OtherBody);
        }
    }

    #[test]
    fn sha1_and_unsorted_attributes_are_accepted_where_allowed() {
        let device = device(fixtures::rsa(0));
        let header = sign_header(b"body", &device, SigningQuirks { sha1: true, unsorted: true }, NOW).unwrap();
        assert!(verify_header(&header, b"body", LENIENT_POLICY, NOW).unwrap().uses_sha1);
        let error = verify_header(&header, b"body", STRICT, NOW).unwrap_err();
        assert!(error.to_string().contains("allow_sha1_signatures"), "{error}");
    }

    #[test]
    fn clocks_may_differ_by_the_skew() {
        let header = sign_header(b"body", &device(fixtures::rsa(0)), SigningQuirks::default(), NOW).unwrap();
        for (now, accepted) in [
            (NOW.plus(STRICT.skew), true),
            (NOW.minus(STRICT.skew), true),
            (NOW.plus(STRICT.skew * 2), false),
            (NOW.minus(STRICT.skew * 2), false),
        ] {
            assert_eq!(verify_header(&header, b"body", STRICT, now).is_ok(), accepted);
        }
    }

    #[test]
    fn openssl_made_signatures_are_accepted() {
        use openssl::pkcs7::{Pkcs7, Pkcs7Flags};
        let device = device(fixtures::rsa(0));
        let certificate = device.certificate.openssl().unwrap();
        let none = openssl::stack::Stack::new().unwrap();
        let flags = Pkcs7Flags::DETACHED | Pkcs7Flags::BINARY;
        let any_time = SignaturePolicy { skew: Duration::from_secs(u32::MAX.into()), ..STRICT };
        for flags in [flags, flags | Pkcs7Flags::NOATTR] {
            let made = Pkcs7::sign(&certificate, device.key.pkey(), &none, b"body", flags).unwrap().to_der().unwrap();
            assert_eq!(verify_detached(&made, b"body", any_time, NOW).unwrap().signer, device.certificate);
            assert!(verify_detached(&made, b"other", any_time, NOW).is_err());
        }
    }

    #[test]
    fn malformed_headers_are_named() {
        for (header, expected) in [
            ("%%%".to_owned(), "no base64"),
            (String::new(), "no signed CMS"),
            ("MAA=".to_owned(), "no signed CMS"),
            ("A".repeat(MAX_HEADER_BYTES + 1), "longer than"),
            (STANDARD.encode(super::super::cms::degenerate(&[])), "not exactly one signer"),
        ] {
            let error = verify_header(&header, b"body", STRICT, NOW).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    proptest! {
        #[test]
        fn a_damaged_signature_never_panics_and_never_names_another_signer(at in 0_usize..4000, byte in any::<u8>()) {
            static MADE: std::sync::OnceLock<(Identity, Vec<u8>)> = std::sync::OnceLock::new();
            let (device, cms) = MADE.get_or_init(|| {
                let device = device(fixtures::rsa(0));
                let header = sign_header(b"body", &device, SigningQuirks::default(), NOW).unwrap();
                (device, STANDARD.decode(header).unwrap())
            });
            let mut cms = cms.clone();
            let at = at % cms.len();
            cms[at] = byte;
            if let Ok(signed) = verify_detached(&cms, b"body", LENIENT_POLICY, NOW) {
                // The signature does not cover the certificate; the authority's signature on that does.
                let roots = [fixtures::device_ca().certificate.clone()];
                let trusted = crate::pki::chain::verify(&signed.signer, &[], &roots, NOW, Duration::ZERO).is_ok();
                prop_assert!(signed.signer == device.certificate || !trusted);
            }
        }

        #[test]
        fn random_headers_are_refused(header in ".{0,200}") {
            prop_assert!(verify_header(&header, b"body", LENIENT_POLICY, NOW).is_err());
        }
    }
}
