use const_oid::ObjectIdentifier;

use crate::pki::asn1::{self, Malformed};
use crate::pki::cms::{self, SignerInfo};

/// Largest SCEP message that is read, in bytes.
pub const MAX_MESSAGE_BYTES: usize = 64 * 1024;

/// Longest transaction id and nonce that are read, in bytes. Clients send hashes or a key's digest.
const MAX_TRANSACTION_BYTES: usize = 256;
const MAX_NONCE_BYTES: usize = 64;

const fn verisign(text: &str) -> ObjectIdentifier {
    ObjectIdentifier::new_unwrap(text)
}

pub(super) const MESSAGE_TYPE: ObjectIdentifier = verisign("2.16.840.1.113733.1.9.2");
pub(super) const PKI_STATUS: ObjectIdentifier = verisign("2.16.840.1.113733.1.9.3");
pub(super) const FAIL_INFO: ObjectIdentifier = verisign("2.16.840.1.113733.1.9.4");
pub(super) const SENDER_NONCE: ObjectIdentifier = verisign("2.16.840.1.113733.1.9.5");
pub(super) const RECIPIENT_NONCE: ObjectIdentifier = verisign("2.16.840.1.113733.1.9.6");
pub(super) const TRANSACTION_ID: ObjectIdentifier = verisign("2.16.840.1.113733.1.9.7");

/// The messageType of an answer.
pub(super) const CERT_REP: &str = "3";

/// What a client asks for (RFC 8894, section 3.2.1.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageType {
    /// A first certificate: 19.
    PkcsReq,
    /// A certificate in place of the one that signs the request: 17.
    RenewalReq,
    /// The same in an older draft: 18.
    UpdateReq,
}

impl MessageType {
    pub(super) fn from_number(number: &str) -> Option<Self> {
        match number {
            "19" => Some(Self::PkcsReq),
            "17" => Some(Self::RenewalReq),
            "18" => Some(Self::UpdateReq),
            _ => None,
        }
    }

    pub(super) const fn number(self) -> &'static str {
        match self {
            Self::PkcsReq => "19",
            Self::RenewalReq => "17",
            Self::UpdateReq => "18",
        }
    }

    /// Whether the signer's own certificate is what entitles it.
    #[must_use]
    pub const fn is_renewal(self) -> bool {
        !matches!(self, Self::PkcsReq)
    }
}

/// Why a request was refused (RFC 8894, section 3.2.1.4.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailInfo {
    /// An algorithm that is not accepted.
    BadAlg,
    /// The signature of the message does not hold.
    BadMessageCheck,
    /// Everything else: wrong challenge, wrong signer, unreadable contents.
    BadRequest,
    /// The time is too far off.
    BadTime,
    /// No certificate of that name.
    BadCertId,
}

impl FailInfo {
    pub(super) const fn number(self) -> &'static str {
        match self {
            Self::BadAlg => "0",
            Self::BadMessageCheck => "1",
            Self::BadRequest => "2",
            Self::BadTime => "3",
            Self::BadCertId => "4",
        }
    }

    pub(super) fn from_number(number: &str) -> Option<Self> {
        [Self::BadAlg, Self::BadMessageCheck, Self::BadRequest, Self::BadTime, Self::BadCertId]
            .into_iter()
            .find(|fail| fail.number() == number)
    }
}

/// A short text attribute: PrintableString by the standard, other kinds in the field.
pub(super) fn text(signer: &SignerInfo<'_>, oid: ObjectIdentifier) -> Option<String> {
    let value = signer.attribute(oid).filter(|value| value.tag & 0x20 == 0)?.value;
    let text = std::str::from_utf8(value).ok().filter(|text| text.len() <= MAX_TRANSACTION_BYTES)?;
    (!text.is_empty() && !text.chars().any(char::is_control)).then(|| text.to_owned())
}

/// A nonce.
pub(super) fn nonce(signer: &SignerInfo<'_>, oid: ObjectIdentifier) -> Result<Option<Vec<u8>>, Malformed> {
    match signer.attribute(oid) {
        None => Ok(None),
        Some(value) if value.tag == asn1::OCTET_STRING && value.value.len() <= MAX_NONCE_BYTES => {
            Ok(Some(value.value.to_vec()))
        }
        Some(_) => Err(Malformed),
    }
}

/// A text attribute to be signed.
pub(super) fn text_attribute(oid: ObjectIdentifier, text: &str) -> Vec<u8> {
    cms::attribute(oid, &asn1::element(asn1::PRINTABLE_STRING, text.as_bytes()))
}

/// A nonce to be signed.
pub(super) fn nonce_attribute(oid: ObjectIdentifier, nonce: &[u8]) -> Vec<u8> {
    cms::attribute(oid, &asn1::element(asn1::OCTET_STRING, nonce))
}
