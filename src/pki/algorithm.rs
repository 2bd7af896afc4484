//! The signature and digest algorithms that are understood, as they stand in certificates, requests and CMS.

use const_oid::ObjectIdentifier;
use openssl::hash::MessageDigest;

use super::asn1;
use super::spki::KeyKind;

const fn oid(text: &str) -> ObjectIdentifier {
    ObjectIdentifier::new_unwrap(text)
}

/// A digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Digest {
    Sha1,
    Sha256,
    Sha384,
    Sha512,
}

impl Digest {
    const ALL: [(Self, ObjectIdentifier); 4] = [
        (Self::Sha1, oid("1.3.14.3.2.26")),
        (Self::Sha256, oid("2.16.840.1.101.3.4.2.1")),
        (Self::Sha384, oid("2.16.840.1.101.3.4.2.2")),
        (Self::Sha512, oid("2.16.840.1.101.3.4.2.3")),
    ];

    /// By the contents of its object identifier.
    pub(super) fn from_oid(bytes: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|(_, oid)| oid.as_bytes() == bytes).map(|(digest, _)| digest)
    }

    pub(super) fn openssl(self) -> MessageDigest {
        match self {
            Self::Sha1 => MessageDigest::sha1(),
            Self::Sha256 => MessageDigest::sha256(),
            Self::Sha384 => MessageDigest::sha384(),
            Self::Sha512 => MessageDigest::sha512(),
        }
    }

    /// The AlgorithmIdentifier, with the NULL that old readers expect.
    pub(super) fn identifier(self) -> Vec<u8> {
        asn1::of(asn1::SEQUENCE, &[&self.oid(), &asn1::null()])
    }

    /// The AlgorithmIdentifier without parameters, as newer writers have it (RFC 5754, section 2).
    pub(super) fn bare_identifier(self) -> Vec<u8> {
        asn1::of(asn1::SEQUENCE, &[&self.oid()])
    }

    fn oid(self) -> Vec<u8> {
        let found = Self::ALL.into_iter().find(|(digest, _)| *digest == self).map(|(_, found)| asn1::oid(found));
        found.unwrap_or_default()
    }
}

/// A signature algorithm: kind of key and digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signature {
    RsaSha1,
    RsaSha256,
    RsaSha384,
    RsaSha512,
    EcdsaSha1,
    EcdsaSha256,
    EcdsaSha384,
    EcdsaSha512,
}

impl Signature {
    const ALL: [(Self, ObjectIdentifier); 8] = [
        (Self::RsaSha1, oid("1.2.840.113549.1.1.5")),
        (Self::RsaSha256, oid("1.2.840.113549.1.1.11")),
        (Self::RsaSha384, oid("1.2.840.113549.1.1.12")),
        (Self::RsaSha512, oid("1.2.840.113549.1.1.13")),
        (Self::EcdsaSha1, oid("1.2.840.10045.4.1")),
        (Self::EcdsaSha256, oid("1.2.840.10045.4.3.2")),
        (Self::EcdsaSha384, oid("1.2.840.10045.4.3.3")),
        (Self::EcdsaSha512, oid("1.2.840.10045.4.3.4")),
    ];

    /// By the contents of its object identifier.
    pub(super) fn from_oid(bytes: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|(_, oid)| oid.as_bytes() == bytes).map(|(signature, _)| signature)
    }

    /// ECDSA with this digest.
    pub(super) const fn ecdsa(digest: Digest) -> Self {
        match digest {
            Digest::Sha1 => Self::EcdsaSha1,
            Digest::Sha256 => Self::EcdsaSha256,
            Digest::Sha384 => Self::EcdsaSha384,
            Digest::Sha512 => Self::EcdsaSha512,
        }
    }

    /// RSA (PKCS#1 v1.5) with this digest.
    pub(super) const fn rsa(digest: Digest) -> Self {
        match digest {
            Digest::Sha1 => Self::RsaSha1,
            Digest::Sha256 => Self::RsaSha256,
            Digest::Sha384 => Self::RsaSha384,
            Digest::Sha512 => Self::RsaSha512,
        }
    }

    const fn is_rsa(self) -> bool {
        matches!(self, Self::RsaSha1 | Self::RsaSha256 | Self::RsaSha384 | Self::RsaSha512)
    }

    /// Whether a key of this kind makes such signatures.
    pub(super) fn fits(self, key: KeyKind) -> bool {
        if self.is_rsa() { key == KeyKind::Rsa } else { key.is_curve() }
    }

    pub(super) const fn hash(self) -> Digest {
        match self {
            Self::RsaSha1 | Self::EcdsaSha1 => Digest::Sha1,
            Self::RsaSha256 | Self::EcdsaSha256 => Digest::Sha256,
            Self::RsaSha384 | Self::EcdsaSha384 => Digest::Sha384,
            Self::RsaSha512 | Self::EcdsaSha512 => Digest::Sha512,
        }
    }

    pub(super) fn is_sha1(self) -> bool {
        self.hash() == Digest::Sha1
    }

    /// The AlgorithmIdentifier without parameters.
    pub(super) fn bare_identifier(self) -> Vec<u8> {
        asn1::of(asn1::SEQUENCE, &[&self.oid()])
    }

    /// The AlgorithmIdentifier: NULL parameters for RSA (RFC 4055, section 5), none for ECDSA (RFC 5758, section 3.2).
    pub(super) fn identifier(self) -> Vec<u8> {
        let parameters = if self.is_rsa() { asn1::null() } else { Vec::new() };
        asn1::of(asn1::SEQUENCE, &[&self.oid(), &parameters])
    }

    fn oid(self) -> Vec<u8> {
        let found = Self::ALL.into_iter().find(|(signature, _)| *signature == self).map(|(_, found)| asn1::oid(found));
        found.unwrap_or_default()
    }
}
