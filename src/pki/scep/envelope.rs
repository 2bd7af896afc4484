//! Enveloped data (RFC 5652, section 6): OpenSSL opens and makes it, since it reads the BER that clients send; what
//! it may try is decided here first.

use const_oid::ObjectIdentifier;
use openssl::cms::{CMSOptions, CmsContentInfo};
use openssl::stack::Stack;

use crate::pki::asn1::{self, Malformed, Reader};
use crate::pki::{Authority, Certificate, Error, PrivateKey, legacy};

const ENVELOPED_DATA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.7.3");

/// Most recipients of one envelope: each may cost an RSA operation.
const MAX_RECIPIENTS: usize = 4;

/// How the contents of an envelope are encrypted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cipher {
    /// AES-256-CBC.
    #[default]
    Aes256,
    /// AES-192-CBC.
    Aes192,
    /// AES-128-CBC.
    Aes128,
    /// Triple DES in CBC.
    TripleDes,
    /// Single DES in CBC: broken, and all that some clients know.
    Des,
}

impl Cipher {
    const ALL: [(Self, ObjectIdentifier); 5] = [
        (Self::Aes256, ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.1.42")),
        (Self::Aes192, ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.1.22")),
        (Self::Aes128, ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.1.2")),
        (Self::TripleDes, ObjectIdentifier::new_unwrap("1.2.840.113549.3.7")),
        (Self::Des, ObjectIdentifier::new_unwrap("1.3.14.3.2.7")),
    ];

    fn openssl(self) -> openssl::symm::Cipher {
        match self {
            Self::Aes256 => openssl::symm::Cipher::aes_256_cbc(),
            Self::Aes192 => openssl::symm::Cipher::aes_192_cbc(),
            Self::Aes128 => openssl::symm::Cipher::aes_128_cbc(),
            Self::TripleDes => openssl::symm::Cipher::des_ede3_cbc(),
            Self::Des => openssl::symm::Cipher::des_cbc(),
        }
    }
}

/// The readable outside of an envelope.
pub(super) struct Envelope<'a> {
    /// Issuer and serial number of each recipient that is named so.
    recipients: Vec<(&'a [u8], &'a [u8])>,
    /// The content encryption; none if it is not known.
    pub cipher: Option<Cipher>,
}

impl<'a> Envelope<'a> {
    /// Reads the outside. The bytes have definite lengths.
    pub(super) fn read(definite: &'a [u8]) -> Result<Self, Malformed> {
        let mut info = Reader(definite).expect(asn1::SEQUENCE)?.inside();
        if info.expect(asn1::OID)?.value != ENVELOPED_DATA.as_bytes() {
            return Err(Malformed);
        }
        let mut data = info.expect(asn1::context(0))?.inside().expect(asn1::SEQUENCE)?.inside();
        data.expect(asn1::INTEGER)?;
        data.optional(asn1::context(0))?;
        let mut set = data.expect(asn1::SET)?.inside();
        let mut recipients = Vec::new();
        let mut count = 0;
        while let Some(recipient) = set.next()? {
            count += 1;
            // Only key transport (RSA) recipients: others, such as passwords, would make OpenSSL do other work.
            if count > MAX_RECIPIENTS || recipient.tag != asn1::SEQUENCE {
                return Err(Malformed);
            }
            let mut recipient = recipient.inside();
            recipient.expect(asn1::INTEGER)?;
            if let Some(id) = recipient.optional(asn1::SEQUENCE)? {
                let mut id = id.inside();
                recipients.push((id.expect(asn1::SEQUENCE)?.whole, id.expect(asn1::INTEGER)?.value));
            }
        }
        let mut encrypted = data.expect(asn1::SEQUENCE)?.inside();
        encrypted.expect(asn1::OID)?;
        let algorithm = encrypted.expect(asn1::SEQUENCE)?.inside().expect(asn1::OID)?.value;
        let cipher = Cipher::ALL.into_iter().find(|(_, oid)| oid.as_bytes() == algorithm).map(|(cipher, _)| cipher);
        Ok(Self { recipients, cipher })
    }

    /// Which of the authorities it is for.
    pub(super) fn recipient<'b>(&self, authorities: &[&'b Authority]) -> Option<(usize, &'b Authority)> {
        authorities.iter().copied().enumerate().find(|(_, authority)| {
            let certificate = &authority.certificate;
            self.recipients
                .iter()
                .any(|(issuer, serial)| *issuer == certificate.issuer_der && *serial == certificate.serial_bytes)
        })
    }
}

/// Opens an envelope: the bytes as they came, BER or DER.
///
/// The recipient's certificate is given to OpenSSL on purpose: with it, a wrong PKCS#1 v1.5 padding yields random
/// contents rather than an error that an attacker could measure.
pub(super) fn open(
    bytes: &[u8],
    cipher: Cipher,
    certificate: &Certificate,
    key: &PrivateKey,
) -> Result<Vec<u8>, Error> {
    if cipher == Cipher::Des {
        legacy::load()?;
    }
    let info = CmsContentInfo::from_der(bytes)?;
    Ok(info.decrypt(key.pkey(), &certificate.openssl()?)?)
}

/// Makes an envelope for one recipient, in DER.
pub(super) fn seal(content: &[u8], recipient: &Certificate, cipher: Cipher) -> Result<Vec<u8>, Error> {
    if cipher == Cipher::Des {
        legacy::load()?;
    }
    let mut recipients = Stack::new()?;
    recipients.push(recipient.openssl()?)?;
    Ok(CmsContentInfo::encrypt(&recipients, content, cipher.openssl(), CMSOptions::BINARY)?.to_der()?)
}

/// The same envelope as Apple's clients write it: BER with indefinite lengths, the contents in pieces.
pub(super) fn as_ber(envelope: &[u8]) -> Result<Vec<u8>, Malformed> {
    let mut info = Reader(envelope).expect(asn1::SEQUENCE)?.inside();
    let kind = info.expect(asn1::OID)?.whole;
    let mut data = info.expect(asn1::context(0))?.inside().expect(asn1::SEQUENCE)?.inside();
    let (version, recipients) = (data.expect(asn1::INTEGER)?.whole, data.expect(asn1::SET)?.whole);
    let mut encrypted = data.expect(asn1::SEQUENCE)?.inside();
    let (content_kind, algorithm) = (encrypted.expect(asn1::OID)?.whole, encrypted.expect(asn1::SEQUENCE)?.whole);
    let content = asn1::pieces(asn1::context(0), encrypted.expect(asn1::IMPLICIT_0)?.value, 1000);
    let encrypted = asn1::indefinite(asn1::SEQUENCE, &[content_kind, algorithm, &content]);
    let data = asn1::indefinite(asn1::SEQUENCE, &[version, recipients, &encrypted]);
    Ok(asn1::indefinite(asn1::SEQUENCE, &[kind, &asn1::indefinite(asn1::context(0), &[&data])]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::fixtures;
    use proptest::prelude::*;

    #[test]
    fn envelopes_open_in_der_and_in_ber() {
        let ca = fixtures::device_ca();
        let content = vec![7; 3000];
        for (cipher, _) in Cipher::ALL {
            if cipher == Cipher::Des && legacy::load().is_err() {
                continue;
            }
            let der = seal(&content, &ca.certificate, cipher).unwrap();
            for bytes in [as_ber(&der).unwrap(), der] {
                let definite = asn1::to_definite(&bytes).unwrap();
                let outside = Envelope::read(&definite).unwrap();
                assert_eq!(outside.cipher, Some(cipher));
                assert_eq!(outside.recipient(&[ca]).map(|(index, _)| index), Some(0));
                assert_eq!(open(&bytes, cipher, &ca.certificate, &ca.key).unwrap(), content);
            }
        }
    }

    proptest! {
        #[test]
        fn damaged_envelopes_never_panic(at in 0_usize..4000, byte in any::<u8>(), cut in 0_usize..4000) {
            static SEALED: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
            let ca = fixtures::device_ca();
            let seal = || as_ber(&super::seal(b"content", &ca.certificate, Cipher::Aes128).unwrap()).unwrap();
            let mut bytes = SEALED.get_or_init(seal).clone();
            let at = at % bytes.len();
            bytes[at] = byte;
            let _ = open(&bytes, Cipher::Aes128, &ca.certificate, &ca.key);
            let cut = &bytes[..cut.min(bytes.len())];
            let _ = (asn1::to_definite(cut), open(cut, Cipher::Aes128, &ca.certificate, &ca.key));
        }
    }
}
