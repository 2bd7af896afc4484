//! Public keys as they stand in certificates and requests (SubjectPublicKeyInfo, RFC 5280, section 4.1.2.7).
//!
//! Signatures of the common kinds are checked by aws-lc, since every signed request of a device passes here: OpenSSL 3
//! takes several times as long to read a public key alone.

use aws_lc_rs::signature as lc;
use const_oid::ObjectIdentifier;
use openssl::pkey::{PKey, Public};
use openssl::sign::Verifier;

use super::Error;
use super::algorithm::Digest;
use super::asn1::{self, Malformed, Reader};
use super::key::check_kind;

const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
const EC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const ED25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");
const P256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
const P384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.34");
const P521: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.35");

/// What kind of public key it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKind {
    /// RSA.
    Rsa,
    /// The curve P-256.
    P256,
    /// The curve P-384.
    P384,
    /// The curve P-521.
    P521,
    /// Ed25519.
    Ed25519,
    /// Something that nothing here works with.
    Other,
}

impl KeyKind {
    /// Whether signatures by it are ECDSA.
    pub(super) const fn is_curve(self) -> bool {
        matches!(self, Self::P256 | Self::P384 | Self::P521)
    }
}

/// A public key, looked at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spki<'a> {
    der: &'a [u8],
    pub kind: KeyKind,
    /// The size in bits; 0 for other kinds.
    pub bits: u32,
    /// The key itself, within its BIT STRING.
    key: &'a [u8],
}

impl<'a> Spki<'a> {
    pub(super) fn read(der: &'a [u8]) -> Result<Self, Malformed> {
        let mut info = Reader(der).expect(asn1::SEQUENCE)?.inside();
        let mut algorithm = info.expect(asn1::SEQUENCE)?.inside();
        let key = info.expect(asn1::BIT_STRING)?.value.strip_prefix(&[0]).ok_or(Malformed)?;
        let name = algorithm.expect(asn1::OID)?.value;
        let curve = if name == EC.as_bytes() { algorithm.optional(asn1::OID)?.map(|curve| curve.value) } else { None };
        let (kind, bits) = if name == RSA.as_bytes() {
            (KeyKind::Rsa, rsa_bits(key)?)
        } else if curve == Some(P256.as_bytes()) {
            (KeyKind::P256, 256)
        } else if curve == Some(P384.as_bytes()) {
            (KeyKind::P384, 384)
        } else if curve == Some(P521.as_bytes()) {
            (KeyKind::P521, 521)
        } else if name == ED25519.as_bytes() {
            (KeyKind::Ed25519, 256)
        } else {
            (KeyKind::Other, 0)
        };
        Ok(Self { der, kind, bits, key })
    }

    /// The key for OpenSSL. Kinds are told apart here first: OpenSSL must not compute with a curve that a stranger
    /// describes.
    pub(super) fn openssl(&self) -> Result<PKey<Public>, Error> {
        if self.kind == KeyKind::Other {
            return Err(Error::invalid(
                "holds a public key that is neither RSA nor on the curves P-256, P-384 or P-521",
            ));
        }
        let key = PKey::public_key_from_der(self.der)
            .map_err(|_| Error::invalid("holds a public key that cannot be read"))?;
        check_kind(key.id(), key.bits())?;
        Ok(key)
    }

    /// Whether `signature` over `data` was made with this key: RSA PKCS#1 v1.5, or ECDSA in ASN.1 form.
    pub(super) fn verify(&self, digest: Digest, data: &[u8], signature: &[u8]) -> bool {
        if let Some(algorithm) = self.fast(digest) {
            return lc::UnparsedPublicKey::new(algorithm, self.key).verify(data, signature).is_ok();
        }
        if self.kind != KeyKind::Rsa && !self.kind.is_curve() {
            return false;
        }
        let Ok(key) = self.openssl() else { return false };
        let verified = Verifier::new(digest.openssl(), &key).and_then(|mut it| it.verify_oneshot(signature, data));
        verified.unwrap_or(false)
    }

    fn fast(&self, digest: Digest) -> Option<&'static dyn lc::VerificationAlgorithm> {
        let short = self.kind == KeyKind::Rsa && self.bits < 2048;
        Some(match (self.kind, digest) {
            (KeyKind::Rsa, Digest::Sha1) => &lc::RSA_PKCS1_1024_8192_SHA1_FOR_LEGACY_USE_ONLY,
            (KeyKind::Rsa, Digest::Sha256) => &lc::RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY,
            (KeyKind::Rsa, Digest::Sha384) if !short => &lc::RSA_PKCS1_2048_8192_SHA384,
            (KeyKind::Rsa, Digest::Sha512) => &lc::RSA_PKCS1_1024_8192_SHA512_FOR_LEGACY_USE_ONLY,
            (KeyKind::P256, Digest::Sha256) => &lc::ECDSA_P256_SHA256_ASN1,
            (KeyKind::P256, Digest::Sha384) => &lc::ECDSA_P256_SHA384_ASN1,
            (KeyKind::P384, Digest::Sha256) => &lc::ECDSA_P384_SHA256_ASN1,
            (KeyKind::P384, Digest::Sha384) => &lc::ECDSA_P384_SHA384_ASN1,
            _ => return None,
        })
    }
}

/// The size of an RSA key's modulus.
fn rsa_bits(key: &[u8]) -> Result<u32, Malformed> {
    let modulus = Reader(key).expect(asn1::SEQUENCE)?.inside().expect(asn1::INTEGER)?.value;
    let zeros = modulus.iter().take_while(|byte| **byte == 0).count();
    let Some((first, rest)) = modulus.get(zeros..).and_then(<[u8]>::split_first) else { return Ok(0) };
    let rest = u32::try_from(rest.len()).map_err(|_| Malformed)?;
    Ok(rest.saturating_mul(8).saturating_add(8 - first.leading_zeros()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::{PrivateKey, fixtures};
    use openssl::sign::Signer;

    #[test]
    fn both_libraries_verify_what_openssl_signs() {
        let p256 = PrivateKey::generate_p256().unwrap();
        let short = PrivateKey::generate_rsa(1024).unwrap();
        for (key, kind, bits) in
            [(fixtures::rsa(0), KeyKind::Rsa, 2048), (&short, KeyKind::Rsa, 1024), (&p256, KeyKind::P256, 256)]
        {
            let der = key.pkey().public_key_to_der().unwrap();
            let spki = Spki::read(&der).unwrap();
            assert_eq!((spki.kind, spki.bits), (kind, bits));
            for digest in [Digest::Sha1, Digest::Sha256, Digest::Sha384, Digest::Sha512] {
                let mut signer = Signer::new(digest.openssl(), key.pkey()).unwrap();
                let signature = signer.sign_oneshot_to_vec(b"data").unwrap();
                assert!(spki.verify(digest, b"data", &signature), "{kind:?} {digest:?}");
                assert!(!spki.verify(digest, b"other", &signature), "{kind:?} {digest:?}");
                assert!(!spki.verify(digest, b"data", b""), "{kind:?} {digest:?}");
            }
        }
    }

    #[test]
    fn unknown_kinds_stay_away_from_openssl() {
        let x25519 = openssl::pkey::PKey::generate_x25519().unwrap().public_key_to_der().unwrap();
        let spki = Spki::read(&x25519).unwrap();
        assert_eq!(spki.kind, KeyKind::Other);
        assert!(spki.openssl().is_err() && !spki.verify(Digest::Sha256, b"data", b"signature"));
        assert!(Spki::read(b"nonsense").is_err());
    }
}
