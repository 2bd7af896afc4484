//! PKCS#12 files (RFC 7292), as Keychain Access and older tools export them.

use openssl::pkcs12::Pkcs12;

use super::asn1::{self, Malformed, Reader};
use super::error::reasons;
use super::{Certificate, Error, PrivateKey, legacy};
use crate::model::Secret;

/// Largest file that is read, in bytes.
pub const MAX_P12_BYTES: usize = 256 * 1024;

/// Most rounds of key derivation that a file may ask for: a second or so. Files ask for 2,048 to 600,000.
const MAX_ROUNDS: u64 = 5_000_000;

/// How many octet strings inside each other are looked into for such rounds.
const MAX_LAYERS: usize = 6;

/// Why a file could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum P12Error {
    /// The password is wrong (or missing).
    #[error("the password does not open the .p12 file; expected the one that was set when it was exported")]
    WrongPassword,
    /// It is encrypted with an old algorithm that this machine does not offer.
    #[error("{0}")]
    LegacyMissing(Error),
    /// It is no such file, or damaged.
    #[error("is no .p12 file that can be read: {0}")]
    Malformed(String),
}

/// What was in the file.
#[derive(Clone, Debug)]
pub struct P12 {
    /// All certificates, the key's own first.
    pub certificates: Vec<Certificate>,
    /// The private key, if there is one.
    pub key: Option<PrivateKey>,
}

/// Whether the bytes look like PKCS#12: a SEQUENCE that begins with version 3.
#[must_use]
pub fn is_p12(bytes: &[u8]) -> bool {
    bytes.first() == Some(&asn1::SEQUENCE) && bytes.windows(3).take(8).any(|window| window == [asn1::INTEGER, 1, 3])
}

/// Opens the file with its password (empty if it has none). Old encryption loads OpenSSL's legacy provider.
///
/// # Errors
/// Any [`P12Error`].
pub fn read(file: &[u8], password: &Secret<String>) -> Result<P12, P12Error> {
    if file.len() > MAX_P12_BYTES {
        return Err(P12Error::Malformed(format!("longer than {MAX_P12_BYTES} bytes")));
    }
    let definite = asn1::to_definite(file).map_err(|Malformed| P12Error::Malformed(Malformed.to_string()))?;
    let rounds = most_rounds(&definite, MAX_LAYERS).unwrap_or(0);
    if rounds > MAX_ROUNDS {
        return Err(P12Error::Malformed(format!("it asks for {rounds} rounds of key derivation")));
    }
    // A NUL cannot be part of the password for OpenSSL, so a password that holds one is certainly not right.
    if password.expose().contains('\0') {
        return Err(P12Error::WrongPassword);
    }
    let archive = Pkcs12::from_der(file).map_err(|stack| P12Error::Malformed(reasons(&stack)))?;
    let parsed = match archive.parse2(password.expose()) {
        Ok(parsed) => parsed,
        Err(stack) => {
            let reason = reasons(&stack);
            if reason.contains("mac verify failure") {
                return Err(P12Error::WrongPassword);
            }
            if !reason.contains("unsupported") {
                return Err(P12Error::Malformed(reason));
            }
            legacy::load().map_err(P12Error::LegacyMissing)?;
            archive.parse2(password.expose()).map_err(|stack| P12Error::Malformed(reasons(&stack)))?
        }
    };
    let malformed = |error: Error| P12Error::Malformed(error.to_string());
    let key = parsed.pkey.map(PrivateKey::from_pkey).transpose().map_err(malformed)?;
    let mut certificates = Vec::new();
    for certificate in parsed.cert.into_iter().chain(parsed.ca.into_iter().flatten()) {
        let der = certificate.to_der().map_err(|stack| P12Error::Malformed(reasons(&stack)))?;
        certificates.push(Certificate::from_der(&der).map_err(malformed)?);
    }
    Ok(P12 { certificates, key })
}

/// The largest number that stands right behind a salt: the rounds of PBE, PBKDF2 and the MAC. OpenSSL would run them
/// all.
fn most_rounds(bytes: &[u8], layers: usize) -> Result<u64, Malformed> {
    let layers = layers.checked_sub(1).ok_or(Malformed)?;
    let mut most = 0;
    let mut after_salt = false;
    let mut reader = Reader(bytes);
    while let Some(element) = reader.next()? {
        if element.tag == asn1::INTEGER && after_salt {
            let number =
                element.value.iter().fold(0_u64, |sum, &byte| sum.saturating_mul(256).saturating_add(byte.into()));
            most = most.max(number);
        }
        after_salt = element.tag == asn1::OCTET_STRING;
        let constructed = element.tag & 0x20 != 0;
        if constructed {
            // Nesting is bounded by `to_definite`; only octet strings begin a new layer.
            most = most.max(most_rounds(element.value, layers + 1)?);
        } else if after_salt && let Ok(inner) = asn1::to_definite(element.value) {
            most = most.max(most_rounds(&inner, layers).unwrap_or(0));
        }
    }
    Ok(most)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::fixtures;
    use openssl::nid::Nid;
    use proptest::prelude::*;

    fn archive(encryption: Nid, rounds: u32) -> Vec<u8> {
        let ca = fixtures::device_ca();
        let certificate = ca.certificate.openssl().unwrap();
        let mut builder = Pkcs12::builder();
        builder.name("x").pkey(ca.key.pkey()).cert(&certificate).mac_iter(rounds);
        builder.key_algorithm(encryption).cert_algorithm(encryption);
        builder.build2("hunter2").unwrap().to_der().unwrap()
    }

    fn secret(text: &str) -> Secret<String> {
        Secret::new(text.to_owned())
    }

    #[test]
    fn old_and_new_files_open_with_their_password_only() {
        let mut kinds = vec![Nid::AES_256_CBC, Nid::PBE_WITHSHA1AND3_KEY_TRIPLEDES_CBC];
        if legacy::load().is_ok() {
            kinds.push(Nid::PBE_WITHSHA1AND40BITRC2_CBC);
        }
        for kind in kinds {
            let file = archive(kind, 2048);
            assert!(is_p12(&file));
            let read = super::read(&file, &secret("hunter2")).unwrap();
            assert_eq!(read.certificates, std::slice::from_ref(&fixtures::device_ca().certificate));
            let key = read.key.unwrap().public_key_sha256().unwrap();
            assert_eq!(key, fixtures::device_ca().certificate.public_key_sha256);
            for wrong in ["", "hunter3", "hunter2\0"] {
                assert_eq!(super::read(&file, &secret(wrong)).unwrap_err(), P12Error::WrongPassword);
            }
        }
    }

    #[test]
    fn a_file_that_would_keep_the_server_busy_is_refused() {
        let file = archive(Nid::AES_256_CBC, 2048);
        let definite = {
            let mut outer = Reader(&file);
            let mut parts = outer.any().unwrap().inside();
            let (version, safe, mac) = (parts.any().unwrap(), parts.any().unwrap(), parts.any().unwrap());
            let mut mac = mac.inside();
            let (digest, salt) = (mac.any().unwrap(), mac.any().unwrap());
            let rounds = asn1::element(asn1::INTEGER, &[0x7f, 0xff, 0xff, 0xff]);
            let mac = asn1::of(asn1::SEQUENCE, &[digest.whole, salt.whole, &rounds]);
            asn1::of(asn1::SEQUENCE, &[version.whole, safe.whole, &mac])
        };
        let error = super::read(&definite, &secret("hunter2")).unwrap_err().to_string();
        assert!(error.contains("rounds of key derivation"), "{error}");
    }

    #[test]
    fn other_files_are_named() {
        for bytes in [&b"nonsense"[..], &[], fixtures::device_ca().certificate.der()] {
            assert!(matches!(super::read(bytes, &secret("")), Err(P12Error::Malformed(_))));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn damaged_files_never_panic(at in 0_usize..4000, byte in any::<u8>(), cut in 0_usize..4000) {
            static FILE: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
            let mut file = FILE.get_or_init(|| archive(Nid::AES_256_CBC, 2048)).clone();
            let at = at % file.len();
            file[at] = byte;
            let _ = super::read(&file, &secret("hunter2"));
            let _ = super::read(&file[..cut.min(file.len())], &secret("hunter2"));
        }
    }
}
