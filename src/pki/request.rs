//! Requests for certificates (PKCS#10, RFC 2986) and the names in them.

use std::fmt;

use const_oid::ObjectIdentifier;
use openssl::hash::MessageDigest;
use openssl::pkey::{PKey, Public};
use openssl::sign::Signer;
use x509_parser::prelude::{FromDer, X509Name};

use super::algorithm::Signature;
use super::asn1::{self, Malformed, Reader};
use super::certificate::name_text;
use super::spki::{KeyKind, Spki};
use super::{Error, PrivateKey, pem};
use crate::model::{Secret, Sha256};

/// Largest request that is read, in bytes.
pub const MAX_REQUEST_BYTES: usize = 32 * 1024;

/// Longest challenge that is read, in bytes.
const MAX_CHALLENGE_BYTES: usize = 1024;

/// PKCS#9 challengePassword (RFC 2985, section 5.4.1).
const CHALLENGE_PASSWORD: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.7");

/// A distinguished name to be written: relative names in order, each one attribute and its value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subject(Vec<(ObjectIdentifier, String)>);

impl Subject {
    /// A name of a common name only.
    #[must_use]
    pub fn common_name(name: &str) -> Self {
        Self::default().and("CN", name).unwrap_or_default()
    }

    /// The same name and one attribute more: `CN`, `O`, `OU`, `C`, `L`, `ST`, `UID`, `serialNumber`, `emailAddress`, or
    /// a dotted object identifier, as in the Subject of Apple's SCEP payload.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an unknown attribute.
    pub fn and(mut self, attribute: &str, value: &str) -> Result<Self, Error> {
        let dotted = match attribute {
            "CN" => "2.5.4.3",
            "O" => "2.5.4.10",
            "OU" => "2.5.4.11",
            "C" => "2.5.4.6",
            "L" => "2.5.4.7",
            "ST" => "2.5.4.8",
            "serialNumber" | "SERIALNUMBER" => "2.5.4.5",
            "UID" => "0.9.2342.19200300.100.1.1",
            "emailAddress" | "E" => "1.2.840.113549.1.9.1",
            other => other,
        };
        let oid = ObjectIdentifier::new(dotted).map_err(|_| {
            Error::invalid(format!(
                "{attribute:?} is no attribute of a subject; expected CN, O, OU, C, L, ST or an object identifier"
            ))
        })?;
        self.0.push((oid, value.to_owned()));
        Ok(self)
    }

    /// Whether nothing stands in it.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The Name in DER (RFC 5280, section 4.1.2.4).
    pub(super) fn to_der(&self) -> Vec<u8> {
        let country = ObjectIdentifier::new_unwrap("2.5.4.6");
        let relative: Vec<u8> = self
            .0
            .iter()
            .flat_map(|(oid, value)| {
                let tag = if *oid == country { asn1::PRINTABLE_STRING } else { asn1::UTF8_STRING };
                let value = asn1::element(tag, value.as_bytes());
                asn1::of(asn1::SET, &[&asn1::of(asn1::SEQUENCE, &[&asn1::oid(*oid), &value])])
            })
            .collect();
        asn1::element(asn1::SEQUENCE, &relative)
    }
}

/// A request for a certificate whose signature was checked: whoever made it holds the key.
#[derive(Clone)]
pub struct CertificateRequest {
    der: Vec<u8>,
    /// The wanted subject as text; for people.
    pub subject: String,
    /// SHA-256 of the SubjectPublicKeyInfo.
    pub public_key_sha256: Sha256,
    /// The challengePassword, if there is one.
    pub challenge: Option<Secret<String>>,
    /// Whether the key is RSA.
    pub is_rsa: bool,
    /// The size of the key in bits.
    pub key_bits: u32,
    /// Whether the request is signed with SHA-1.
    pub uses_sha1: bool,
    pub(super) subject_der: Vec<u8>,
    pub(super) public_key: PKey<Public>,
}

impl CertificateRequest {
    /// Reads a request and checks its signature.
    ///
    /// # Errors
    /// [`Error::Invalid`] when it is too long, malformed, of a kind of key that is not used here, or not signed with
    /// its own key.
    pub fn from_der(der: &[u8]) -> Result<Self, Error> {
        if der.len() > MAX_REQUEST_BYTES {
            return Err(Error::invalid(format!("the certificate request is longer than {MAX_REQUEST_BYTES} bytes")));
        }
        let parts = Parts::read(der).map_err(|Malformed| Error::invalid("is no certificate request (PKCS#10)"))?;
        let (_, name) = X509Name::from_der(parts.subject)
            .map_err(|_| Error::invalid("the certificate request holds a subject that cannot be read"))?;
        let spki =
            Spki::read(parts.spki).map_err(|Malformed| Error::invalid("holds a public key that cannot be read"))?;
        let public_key = spki.openssl()?;
        let signature =
            Signature::from_oid(parts.algorithm).filter(|signature| signature.fits(spki.kind)).ok_or_else(|| {
                Error::invalid("the certificate request is signed with an algorithm that is not supported")
            })?;
        if !spki.verify(signature.hash(), parts.info, parts.signature) {
            return Err(Error::invalid("the certificate request is not signed with its own key"));
        }
        Ok(Self {
            subject: name_text(&name),
            public_key_sha256: Sha256::of(parts.spki),
            challenge: parts.challenge.map(Secret::new),
            is_rsa: spki.kind == KeyKind::Rsa,
            key_bits: spki.bits,
            uses_sha1: signature.is_sha1(),
            subject_der: parts.subject.to_vec(),
            public_key,
            der: der.to_vec(),
        })
    }

    /// Reads a request as PEM.
    ///
    /// # Errors
    /// As [`CertificateRequest::from_der`].
    pub fn from_pem(text: &[u8]) -> Result<Self, Error> {
        let blocks = pem::blocks(text)?;
        let block = blocks.iter().find(|block| block.label.ends_with("CERTIFICATE REQUEST"));
        Self::from_der(&block.ok_or_else(|| Error::invalid("holds no PEM block CERTIFICATE REQUEST"))?.der)
    }

    /// Makes a request, signed with SHA-256.
    ///
    /// # Errors
    /// Only when OpenSSL fails.
    pub fn make(key: &PrivateKey, subject: &Subject, challenge: Option<&Secret<String>>) -> Result<Self, Error> {
        let attributes = challenge.map_or_else(Vec::new, |challenge| {
            let value = asn1::element(asn1::UTF8_STRING, challenge.expose().as_bytes());
            asn1::of(asn1::SEQUENCE, &[&asn1::oid(CHALLENGE_PASSWORD), &asn1::of(asn1::SET, &[&value])])
        });
        let info = asn1::of(
            asn1::SEQUENCE,
            &[
                &asn1::small(0),
                &subject.to_der(),
                &key.pkey().public_key_to_der()?,
                &asn1::element(asn1::context(0), &attributes),
            ],
        );
        let signature = if key.is_rsa() { Signature::RsaSha256 } else { Signature::EcdsaSha256 };
        let mut signer = Signer::new(MessageDigest::sha256(), key.pkey())?;
        let bits = [&[0], signer.sign_oneshot_to_vec(&info)?.as_slice()].concat();
        let der = asn1::of(asn1::SEQUENCE, &[&info, &signature.identifier(), &asn1::element(asn1::BIT_STRING, &bits)]);
        Self::from_der(&der)
    }

    /// The DER.
    #[must_use]
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// The request as PEM.
    #[must_use]
    pub fn to_pem(&self) -> String {
        pem::write("CERTIFICATE REQUEST", &self.der)
    }

    /// Whether the wanted subject is empty (macOS refuses a certificate with none).
    #[must_use]
    pub fn subject_is_empty(&self) -> bool {
        self.subject_der.len() <= 2
    }
}

impl fmt::Debug for CertificateRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CertificateRequest")
            .field("subject", &self.subject)
            .field("public_key_sha256", &self.public_key_sha256)
            .field("challenge", &self.challenge)
            .field("key_bits", &self.key_bits)
            .finish_non_exhaustive()
    }
}

/// The parts of a request as slices of its bytes.
struct Parts<'a> {
    info: &'a [u8],
    subject: &'a [u8],
    spki: &'a [u8],
    challenge: Option<String>,
    algorithm: &'a [u8],
    signature: &'a [u8],
}

impl<'a> Parts<'a> {
    fn read(der: &'a [u8]) -> Result<Self, Malformed> {
        let mut outer = Reader(der);
        let mut request = outer.expect(asn1::SEQUENCE)?.inside();
        outer.end()?;
        let info = request.expect(asn1::SEQUENCE)?;
        let algorithm = request.expect(asn1::SEQUENCE)?.inside().expect(asn1::OID)?.value;
        let signature = request.expect(asn1::BIT_STRING)?.value.strip_prefix(&[0]).ok_or(Malformed)?;
        request.end()?;
        let mut fields = info.inside();
        fields.expect(asn1::INTEGER)?;
        let subject = fields.expect(asn1::SEQUENCE)?.whole;
        let spki = fields.expect(asn1::SEQUENCE)?.whole;
        let mut challenge = None;
        // The attributes are not optional in RFC 2986, yet some tools leave them out.
        if let Some(attributes) = fields.optional(asn1::context(0))? {
            let mut attributes = attributes.inside();
            while let Some(attribute) = attributes.next()? {
                let mut attribute = attribute.inside();
                if attribute.expect(asn1::OID)?.value == CHALLENGE_PASSWORD.as_bytes() {
                    challenge = Some(string(attribute.expect(asn1::SET)?.inside().any()?)?);
                }
            }
        }
        Ok(Self { info: info.whole, subject, spki, challenge, algorithm, signature })
    }
}

/// A DirectoryString or IA5String as text.
fn string(element: asn1::Element<'_>) -> Result<String, Malformed> {
    if element.value.len() > MAX_CHALLENGE_BYTES {
        return Err(Malformed);
    }
    match element.tag {
        asn1::UTF8_STRING | asn1::PRINTABLE_STRING | asn1::IA5_STRING | asn1::TELETEX_STRING => {
            String::from_utf8(element.value.to_vec()).map_err(|_| Malformed)
        }
        asn1::BMP_STRING => {
            let units: Vec<u16> = element
                .value
                .chunks(2)
                .map(|pair| pair.iter().fold(0, |sum, &byte| (sum << 8) | u16::from(byte)))
                .collect();
            String::from_utf16(&units).map_err(|_| Malformed)
        }
        _ => Err(Malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::fixtures;
    use proptest::prelude::*;

    fn request() -> CertificateRequest {
        let subject = Subject::common_name("iPhone").and("OU", "one").unwrap().and("OU", "two").unwrap();
        CertificateRequest::make(fixtures::rsa(0), &subject, Some(&Secret::new("s3cret".to_owned()))).unwrap()
    }

    #[test]
    fn a_request_is_read_back_and_openssl_agrees() {
        let made = request();
        let read = CertificateRequest::from_pem(made.to_pem().as_bytes()).unwrap();
        assert_eq!(read.subject, "CN=iPhone, OU=one, OU=two");
        assert_eq!(read.challenge.as_ref().unwrap().expose(), "s3cret");
        assert_eq!(read.public_key_sha256, fixtures::rsa(0).public_key_sha256().unwrap());
        let openssl = openssl::x509::X509Req::from_der(made.der()).unwrap();
        assert!(openssl.verify(&openssl.public_key().unwrap()).unwrap());
        assert!(!format!("{read:?}").contains("s3cret"));
    }

    #[test]
    fn keys_on_a_curve_work_and_other_signatures_do_not() {
        let key = PrivateKey::generate_p256().unwrap();
        let request = CertificateRequest::make(&key, &Subject::default(), None).unwrap();
        assert!(!request.is_rsa && request.subject_is_empty() && request.challenge.is_none());
        let mut forged = self::request().der().to_vec();
        *forged.last_mut().unwrap() ^= 1;
        let error = CertificateRequest::from_der(&forged).unwrap_err().to_string();
        assert!(error.contains("not signed with its own key"), "{error}");
        assert!(Subject::default().and("nonsense", "x").is_err());
    }

    #[test]
    fn a_request_without_attributes_is_read() {
        let key = fixtures::rsa(0);
        let mut builder = openssl::x509::X509ReqBuilder::new().unwrap();
        builder.set_pubkey(key.pkey()).unwrap();
        builder.sign(key.pkey(), MessageDigest::sha1()).unwrap();
        let read = CertificateRequest::from_der(&builder.build().to_der().unwrap()).unwrap();
        assert!(read.uses_sha1);
    }

    proptest! {
        #[test]
        fn damaged_requests_never_panic(at in 0_usize..2000, byte in any::<u8>(), cut in 0_usize..2000) {
            let mut der = request().der().to_vec();
            let at = at % der.len();
            der[at] = byte;
            let _ = CertificateRequest::from_der(&der);
            let _ = CertificateRequest::from_der(&der[..cut.min(der.len())]);
        }
    }
}
