//! Signed data (CMS, RFC 5652, section 5), read and written with its signed attributes as they stand on the wire.

use const_oid::ObjectIdentifier;
use openssl::hash::hash;
use openssl::sign::Signer;
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

use super::algorithm::{Digest, Signature};
use super::asn1::{self, Malformed, Reader};
use super::spki::KeyKind;
use super::{Certificate, Error, PrivateKey};
use crate::model::Timestamp;

pub(super) const DATA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.7.1");
pub(super) const SIGNED_DATA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.7.2");
const CONTENT_TYPE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.3");
const MESSAGE_DIGEST: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.4");
const SIGNING_TIME: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.5");
const RSA_ENCRYPTION: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
const EC_PUBLIC_KEY: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");

/// Most certificates, signers and attributes that are read from one message.
const MAX_CERTIFICATES: usize = 16;
const MAX_SIGNERS: usize = 4;
const MAX_ATTRIBUTES: usize = 32;

/// Signed data, read but not verified. The bytes have definite lengths: see [`asn1::to_definite`].
pub(super) struct SignedData<'a> {
    /// What was signed; none if it travels elsewhere (detached) or there is nothing.
    pub content: Option<&'a [u8]>,
    /// The certificates that came along, in their order.
    pub certificates: Vec<Certificate>,
    /// Who signed.
    pub signers: Vec<SignerInfo<'a>>,
}

impl<'a> SignedData<'a> {
    pub(super) fn read(definite: &'a [u8]) -> Result<Self, Malformed> {
        let mut outer = Reader(definite);
        let mut info = outer.expect(asn1::SEQUENCE)?.inside();
        outer.end()?;
        if info.expect(asn1::OID)?.value != SIGNED_DATA.as_bytes() {
            return Err(Malformed);
        }
        let mut data = info.expect(asn1::context(0))?.inside().expect(asn1::SEQUENCE)?.inside();
        data.expect(asn1::INTEGER)?;
        data.expect(asn1::SET)?;
        let mut encapsulated = data.expect(asn1::SEQUENCE)?.inside();
        encapsulated.expect(asn1::OID)?;
        let content = match encapsulated.optional(asn1::context(0))? {
            Some(explicit) => explicit.inside().next()?.map(|content| content.value),
            None => None,
        };
        let mut certificates = Vec::new();
        if let Some(set) = data.optional(asn1::context(0))? {
            let mut set = set.inside();
            while let Some(certificate) = set.next()? {
                if certificates.len() >= MAX_CERTIFICATES {
                    return Err(Malformed);
                }
                // Other tags are older or attribute certificates, which nothing here needs.
                if certificate.tag == asn1::SEQUENCE {
                    certificates.push(Certificate::from_der(certificate.whole).map_err(|_| Malformed)?);
                }
            }
        }
        data.optional(asn1::context(1))?;
        let mut set = data.expect(asn1::SET)?.inside();
        let mut signers = Vec::new();
        while let Some(signer) = set.next()? {
            if signers.len() >= MAX_SIGNERS || signer.tag != asn1::SEQUENCE {
                return Err(Malformed);
            }
            signers.push(SignerInfo::read(signer.inside())?);
        }
        Ok(Self { content, certificates, signers })
    }

    /// The certificate of a signer, if it came along.
    pub(super) fn certificate_of(&self, signer: &SignerInfo<'_>) -> Option<&Certificate> {
        self.certificates.iter().find(|certificate| match signer.id {
            SignerId::Issued { issuer, serial } => {
                certificate.issuer_der == issuer && certificate.serial_bytes == serial
            }
            SignerId::Key(id) => certificate.key_identifier.as_deref() == Some(id),
        })
    }
}

/// How a signer names its certificate.
#[derive(Clone, Copy)]
enum SignerId<'a> {
    Issued { issuer: &'a [u8], serial: &'a [u8] },
    Key(&'a [u8]),
}

/// One signer.
pub(super) struct SignerInfo<'a> {
    id: SignerId<'a>,
    digest: Option<Digest>,
    /// The contents of the SET of signed attributes, in wire order.
    signed: Option<&'a [u8]>,
    attributes: Vec<(&'a [u8], asn1::Element<'a>)>,
    algorithm: &'a [u8],
    signature: &'a [u8],
}

/// Why a signature does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unverified {
    /// An algorithm that is not understood, or that does not fit the key.
    Algorithm,
    /// It was made over other content.
    OtherContent,
    /// The signature is wrong.
    Signature,
}

impl<'a> SignerInfo<'a> {
    fn read(mut info: Reader<'a>) -> Result<Self, Malformed> {
        info.expect(asn1::INTEGER)?;
        let id = info.any()?;
        let id = match id.tag {
            asn1::SEQUENCE => {
                let mut id = id.inside();
                SignerId::Issued { issuer: id.expect(asn1::SEQUENCE)?.whole, serial: id.expect(asn1::INTEGER)?.value }
            }
            asn1::IMPLICIT_0 => SignerId::Key(id.value),
            _ => return Err(Malformed),
        };
        let digest = Digest::from_oid(algorithm(&mut info)?);
        let signed = info.optional(asn1::context(0))?.map(|set| set.value);
        let mut attributes = Vec::new();
        let mut set = Reader(signed.unwrap_or_default());
        while let Some(attribute) = set.next()? {
            if attributes.len() >= MAX_ATTRIBUTES || attribute.tag != asn1::SEQUENCE {
                return Err(Malformed);
            }
            let mut attribute = attribute.inside();
            let oid = attribute.expect(asn1::OID)?.value;
            attributes.push((oid, attribute.expect(asn1::SET)?.inside().any()?));
        }
        let algorithm = algorithm(&mut info)?;
        let signature = info.expect(asn1::OCTET_STRING)?.value;
        Ok(Self { id, digest, signed, attributes, algorithm, signature })
    }

    /// The value of a signed attribute. One that stands there twice is not taken at all.
    pub(super) fn attribute(&self, oid: ObjectIdentifier) -> Option<asn1::Element<'a>> {
        let mut found = self.attributes.iter().filter(|(name, _)| *name == oid.as_bytes());
        let first = found.next().map(|(_, value)| *value);
        if found.next().is_some() { None } else { first }
    }

    /// When the signer says that it signed.
    pub(super) fn signing_time(&self) -> Option<Timestamp> {
        read_time(self.attribute(SIGNING_TIME)?)
    }

    /// Whether SHA-1 takes part.
    pub(super) fn uses_sha1(&self) -> bool {
        self.digest == Some(Digest::Sha1) || Signature::from_oid(self.algorithm).is_some_and(Signature::is_sha1)
    }

    /// Checks the signature over `content` with the key of `certificate`; trusts nothing else.
    ///
    /// The signed attributes are tried as they were sent and then sorted as DER wants them: clients exist that sign
    /// one and send the other.
    pub(super) fn verify(&self, certificate: &Certificate, content: &[u8]) -> Result<(), Unverified> {
        let digest = self.digest.ok_or(Unverified::Algorithm)?;
        let signature_hash = self.signature_hash(digest, certificate.key_kind)?;
        let check = |data: &[u8]| certificate.verify(signature_hash, data, self.signature);
        let verdict = |holds: bool| if holds { Ok(()) } else { Err(Unverified::Signature) };
        let Some(signed) = self.signed else {
            return verdict(check(content));
        };
        let stated = self.attribute(MESSAGE_DIGEST).ok_or(Unverified::OtherContent)?;
        let actual = hash(digest.openssl(), content).map_err(|_| Unverified::Algorithm)?;
        if stated.value != &*actual {
            return Err(Unverified::OtherContent);
        }
        let as_sent = asn1::element(asn1::SET, signed);
        if check(&as_sent) {
            return Ok(());
        }
        let mut parts = Vec::new();
        let mut set = Reader(signed);
        while let Ok(Some(part)) = set.next() {
            parts.push(part.whole.to_vec());
        }
        let sorted = asn1::set_of(parts);
        verdict(sorted != as_sent && check(&sorted))
    }

    /// The digest that was signed: named by the signature algorithm, or left to the digest algorithm beside it.
    fn signature_hash(&self, digest: Digest, key: KeyKind) -> Result<Digest, Unverified> {
        let plain = (self.algorithm == RSA_ENCRYPTION.as_bytes() && key == KeyKind::Rsa)
            || (self.algorithm == EC_PUBLIC_KEY.as_bytes() && key.is_curve());
        if plain {
            return Ok(digest);
        }
        let named = Signature::from_oid(self.algorithm).filter(|named| named.fits(key));
        named.map(Signature::hash).ok_or(Unverified::Algorithm)
    }
}

fn algorithm<'a>(reader: &mut Reader<'a>) -> Result<&'a [u8], Malformed> {
    Ok(reader.expect(asn1::SEQUENCE)?.inside().expect(asn1::OID)?.value)
}

/// Signed data to be made.
pub(super) struct Sign<'a> {
    /// What is signed.
    pub content: &'a [u8],
    /// Whether the content stays outside.
    pub detached: bool,
    /// Who signs.
    pub certificate: &'a Certificate,
    /// The signer's key.
    pub key: &'a PrivateKey,
    /// Certificates sent along with the signer's.
    pub chain: &'a [Certificate],
    /// The time to state.
    pub signing_time: Option<Timestamp>,
    /// Further signed attributes.
    pub attributes: Vec<Vec<u8>>,
    /// The digest.
    pub digest: Digest,
    /// Sign and send the signed attributes in reverse order, as some clients do.
    pub unsorted: bool,
    /// Name the signature algorithm in full (`sha256WithRSAEncryption`) and leave out the NULLs, as some clients do.
    pub terse: bool,
}

impl Sign<'_> {
    /// The ContentInfo in DER.
    pub(super) fn make(self) -> Result<Vec<u8>, Error> {
        let digest = hash(self.digest.openssl(), self.content)?;
        let mut attributes = self.attributes;
        attributes.push(attribute(CONTENT_TYPE, &asn1::oid(DATA)));
        attributes.push(attribute(MESSAGE_DIGEST, &asn1::element(asn1::OCTET_STRING, &digest)));
        if let Some(time) = self.signing_time {
            attributes.push(attribute(SIGNING_TIME, &write_time(time)?));
        }
        attributes.sort();
        if self.unsorted {
            attributes.reverse();
        }
        let signed = asn1::element(asn1::SET, &attributes.concat());
        let mut signer = Signer::new(self.digest.openssl(), self.key.pkey())?;
        let signature = signer.sign_oneshot_to_vec(&signed)?;
        let algorithm = if self.terse && self.key.is_rsa() {
            Signature::rsa(self.digest).bare_identifier()
        } else if self.key.is_rsa() {
            asn1::of(asn1::SEQUENCE, &[&asn1::oid(RSA_ENCRYPTION), &asn1::null()])
        } else {
            Signature::ecdsa(self.digest).identifier()
        };
        let signer_info = asn1::of(
            asn1::SEQUENCE,
            &[
                &asn1::small(1),
                &asn1::of(
                    asn1::SEQUENCE,
                    &[&self.certificate.issuer_der, &asn1::element(asn1::INTEGER, &self.certificate.serial_bytes)],
                ),
                &if self.terse { self.digest.bare_identifier() } else { self.digest.identifier() },
                &asn1::retag(signed, asn1::context(0)),
                &algorithm,
                &asn1::element(asn1::OCTET_STRING, &signature),
            ],
        );
        let content = if self.detached { None } else { Some(self.content) };
        let certificates: Vec<&Certificate> = std::iter::once(self.certificate).chain(self.chain).collect();
        Ok(signed_data(&[self.digest], content, &certificates, &[signer_info]))
    }
}

/// Certificates alone, as SCEP sends them: signed data that nobody signed (RFC 8894, section 3.4).
pub(super) fn degenerate(certificates: &[&Certificate]) -> Vec<u8> {
    signed_data(&[], None, certificates, &[])
}

fn signed_data(
    digests: &[Digest],
    content: Option<&[u8]>,
    certificates: &[&Certificate],
    signers: &[Vec<u8>],
) -> Vec<u8> {
    let content = content
        .map_or_else(Vec::new, |content| asn1::of(asn1::context(0), &[&asn1::element(asn1::OCTET_STRING, content)]));
    let digests: Vec<Vec<u8>> = digests.iter().map(|digest| digest.identifier()).collect();
    let certificates: Vec<&[u8]> = certificates.iter().map(|certificate| certificate.der()).collect();
    let data = asn1::of(
        asn1::SEQUENCE,
        &[
            &asn1::small(1),
            &asn1::set_of(digests),
            &asn1::of(asn1::SEQUENCE, &[&asn1::oid(DATA), &content]),
            // Not sorted as DER would have it: clients take the first certificate for the leaf.
            &asn1::of(asn1::context(0), &certificates),
            &asn1::set_of(signers.to_vec()),
        ],
    );
    asn1::of(asn1::SEQUENCE, &[&asn1::oid(SIGNED_DATA), &asn1::of(asn1::context(0), &[&data])])
}

/// A signed attribute with one value.
pub(super) fn attribute(oid: ObjectIdentifier, value: &[u8]) -> Vec<u8> {
    asn1::of(asn1::SEQUENCE, &[&asn1::oid(oid), &asn1::of(asn1::SET, &[value])])
}

const UTC: &[BorrowedFormatItem<'_>] = format_description!("[year repr:last_two][month][day][hour][minute][second]Z");
const GENERALIZED: &[BorrowedFormatItem<'_>] = format_description!("[year][month][day][hour][minute][second]Z");

/// UTCTime until 2049, GeneralizedTime from 2050 on (RFC 5652, section 11.3).
fn write_time(time: Timestamp) -> Result<Vec<u8>, Error> {
    let time = time.to_datetime();
    let (tag, format) =
        if (1950..2050).contains(&time.year()) { (asn1::UTC_TIME, UTC) } else { (asn1::GENERALIZED_TIME, GENERALIZED) };
    let text = time.format(format).map_err(|error| Error::Library(error.to_string()))?;
    Ok(asn1::element(tag, text.as_bytes()))
}

fn read_time(element: asn1::Element<'_>) -> Option<Timestamp> {
    let text = std::str::from_utf8(element.value).ok()?;
    let four_digits = match element.tag {
        asn1::UTC_TIME => {
            let two: u8 = text.get(..2)?.parse().ok()?;
            format!("{}{text}", if two < 50 { "20" } else { "19" })
        }
        asn1::GENERALIZED_TIME => text.to_owned(),
        _ => return None,
    };
    let parsed = time::PrimitiveDateTime::parse(&four_digits, GENERALIZED).ok()?;
    Some(Timestamp::from_seconds(OffsetDateTime::unix_timestamp(parsed.assume_utc())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::fixtures::{self, NOW};
    use proptest::prelude::*;

    fn sign(content: &[u8], unsorted: bool, digest: Digest) -> Vec<u8> {
        let ca = fixtures::device_ca();
        let sign = Sign {
            content,
            detached: false,
            certificate: &ca.certificate,
            key: &ca.key,
            chain: &[],
            signing_time: Some(NOW),
            attributes: Vec::new(),
            digest,
            unsorted,
            terse: unsorted,
        };
        sign.make().unwrap()
    }

    #[test]
    fn what_is_signed_is_verified_in_any_order_of_attributes() {
        for (unsorted, digest) in [(false, Digest::Sha256), (true, Digest::Sha1), (true, Digest::Sha512)] {
            let der = sign(b"content", unsorted, digest);
            let data = SignedData::read(&der).unwrap();
            let signer = &data.signers[0];
            let certificate = data.certificate_of(signer).unwrap();
            signer.verify(certificate, data.content.unwrap()).unwrap();
            assert_eq!(signer.verify(certificate, b"other"), Err(Unverified::OtherContent));
            assert_eq!(signer.signing_time(), Some(NOW));
            assert_eq!(signer.uses_sha1(), digest == Digest::Sha1);
        }
    }

    #[test]
    fn attributes_signed_in_one_order_and_sent_in_another_are_verified() {
        let der = sign(b"content", true, Digest::Sha256);
        let data = SignedData::read(&der).unwrap();
        let reversed: Vec<u8> = {
            let mut parts = Vec::new();
            let mut set = Reader(data.signers[0].signed.unwrap());
            while let Some(part) = set.next().unwrap() {
                parts.push(part.whole.to_vec());
            }
            parts.reverse();
            parts.concat()
        };
        // Signed unsorted and sent sorted does not verify, as the signature covers neither form that is tried; the
        // other way round does.
        let mut changed = SignedData::read(&der).unwrap();
        changed.signers[0].signed = Some(&reversed);
        let certificate = &fixtures::device_ca().certificate;
        assert_eq!(changed.signers[0].verify(certificate, b"content"), Err(Unverified::Signature));
        let sorted = sign(b"content", false, Digest::Sha256);
        let mut sorted = SignedData::read(&sorted).unwrap();
        let mut parts = Vec::new();
        let mut set = Reader(sorted.signers[0].signed.unwrap());
        while let Some(part) = set.next().unwrap() {
            parts.insert(0, part.whole);
        }
        let sent = parts.concat();
        sorted.signers[0].signed = Some(&sent);
        sorted.signers[0].verify(certificate, b"content").unwrap();
    }

    #[test]
    fn openssl_reads_and_verifies_what_is_signed() {
        use openssl::pkcs7::{Pkcs7, Pkcs7Flags};
        let der = sign(b"content", false, Digest::Sha256);
        let pkcs7 = Pkcs7::from_der(&der).unwrap();
        let store = openssl::x509::store::X509StoreBuilder::new().unwrap().build();
        let empty = openssl::stack::Stack::new().unwrap();
        let mut out = Vec::new();
        let flags = Pkcs7Flags::NOVERIFY | Pkcs7Flags::BINARY;
        pkcs7.verify(&empty, &store, None, Some(&mut out), flags).unwrap();
        assert_eq!(out, b"content");
    }

    #[test]
    fn times_survive_on_both_sides_of_2050() {
        for seconds in [0, 1_795_000_000, 2_524_607_999, 2_524_608_000, 9_000_000_000] {
            let time = Timestamp::from_seconds(seconds);
            let der = write_time(time).unwrap();
            assert_eq!(read_time(Reader(&der).any().unwrap()), Some(time));
        }
    }

    proptest! {
        #[test]
        fn damaged_messages_never_panic(at in 0_usize..4000, byte in any::<u8>(), cut in 0_usize..4000) {
            static DER: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
            let mut der = DER.get_or_init(|| sign(b"content", false, Digest::Sha256)).clone();
            let at = at % der.len();
            der[at] = byte;
            for bytes in [&der[..], &der[..cut.min(der.len())]] {
                if let Ok(definite) = asn1::to_definite(bytes) && let Ok(data) = SignedData::read(&definite) {
                    for signer in &data.signers {
                        if let Some(certificate) = data.certificate_of(signer) {
                            let _ = signer.verify(certificate, data.content.unwrap_or_default());
                        }
                    }
                }
            }
        }
    }
}
