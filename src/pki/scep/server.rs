//! The server's side: read a request, write one of the three answers.

use super::envelope::{self, Cipher, Envelope};
use super::message::{
    self, CERT_REP, FAIL_INFO, FailInfo, MAX_MESSAGE_BYTES, MESSAGE_TYPE, MessageType, PKI_STATUS, RECIPIENT_NONCE,
    SENDER_NONCE, TRANSACTION_ID,
};
use crate::model::{Randomness, Timestamp};
use crate::pki::algorithm::Digest;
use crate::pki::asn1;
use crate::pki::cms::{self, Sign, SignedData};
use crate::pki::key::MAX_RSA_BITS;
use crate::pki::spki::KeyKind;
use crate::pki::{Authority, Certificate, CertificateRequest, Error};

/// Smallest RSA key that is accepted, in bits.
const MIN_RSA_BITS: u32 = 2048;

/// A request, opened: whoever sent it holds the keys of the signer's certificate and of the wanted one. Whether it is
/// entitled (challenge, or the signer's own certificate for a renewal) is for the caller to decide.
#[derive(Clone, Debug)]
pub struct Request {
    /// What is asked for.
    pub message_type: MessageType,
    /// The request for the certificate; its challenge stands in it.
    pub csr: CertificateRequest,
    /// Who signed: for a first request a throw-away certificate that means nothing (it may hold another key than the
    /// request, be valid from this moment or for servers), for a renewal the certificate to be renewed, whose chain
    /// and revocation the caller checks.
    pub signer: Certificate,
    /// Which of the authorities it was sent to.
    pub authority: usize,
    /// Whether it took an algorithm that only the legacy setting accepts.
    pub is_legacy: bool,
    /// What the answer needs.
    pub reply_to: ReplyTo,
}

/// What an answer must repeat from its request.
#[derive(Clone, Debug)]
pub struct ReplyTo {
    /// The client's name for this exchange.
    pub transaction_id: String,
    nonce: Option<Vec<u8>>,
    signer: Certificate,
    cipher: Cipher,
}

/// Why a message is not taken.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RequestError {
    /// Nothing that could be answered in SCEP: a 400.
    #[error("no SCEP request: {0}")]
    Malformed(&'static str),
    /// To be answered with [`failure`].
    #[error("{reason}")]
    Refused {
        /// Which failure to answer.
        fail: FailInfo,
        /// What was wrong, for the log only.
        reason: String,
        /// What the answer needs.
        reply_to: Box<ReplyTo>,
    },
}

/// Reads a message, BER or DER.
///
/// `authorities` are the device CAs whose keys are here. `allow_legacy` accepts single DES, SHA-1 and RSA keys from
/// 1024 bits.
///
/// # Errors
/// [`RequestError::Malformed`] when it cannot be answered, else [`RequestError::Refused`].
pub fn read(bytes: &[u8], authorities: &[&Authority], allow_legacy: bool) -> Result<Request, RequestError> {
    if bytes.len() > MAX_MESSAGE_BYTES {
        return Err(RequestError::Malformed("longer than 64 KiB"));
    }
    let malformed = |_| RequestError::Malformed("no signed CMS");
    let definite = asn1::to_definite(bytes).map_err(malformed)?;
    let data = SignedData::read(&definite).map_err(malformed)?;
    let [signer] = data.signers.as_slice() else {
        return Err(RequestError::Malformed("not exactly one signer"));
    };
    let certificate =
        data.certificate_of(signer).ok_or(RequestError::Malformed("without the certificate of its signer"))?;
    let content = data.content.ok_or(RequestError::Malformed("without content"))?;
    let reply_to = ReplyTo {
        transaction_id: message::text(signer, TRANSACTION_ID).ok_or(RequestError::Malformed("no transaction id"))?,
        nonce: message::nonce(signer, SENDER_NONCE).map_err(|_| RequestError::Malformed("a nonce that is none"))?,
        signer: certificate.clone(),
        cipher: Cipher::default(),
    };
    // The answer is encrypted to the signer, so a key that cannot decrypt cannot be answered.
    if certificate.key_kind != KeyKind::Rsa || certificate.key_bits > MAX_RSA_BITS {
        return Err(RequestError::Malformed("signed with a key that is not RSA of at most 8192 bits"));
    }
    let refuse = |fail: FailInfo, reason: &str| RequestError::Refused {
        fail,
        reason: reason.to_owned(),
        reply_to: Box::new(reply_to.clone()),
    };
    if signer.verify(certificate, content).is_err() {
        return Err(refuse(FailInfo::BadMessageCheck, "the signature of the message does not hold"));
    }
    let mut is_legacy = signer.uses_sha1() || certificate.key_bits < MIN_RSA_BITS;
    if is_legacy && !allow_legacy {
        return Err(refuse(FailInfo::BadAlg, "signed with SHA-1 or a short key; scep.allow_legacy_algorithms is off"));
    }
    let message_type = message::text(signer, MESSAGE_TYPE).and_then(|number| MessageType::from_number(&number));
    let message_type =
        message_type.ok_or_else(|| refuse(FailInfo::BadRequest, "a type of message that is not served"))?;

    let unopened = |_| refuse(FailInfo::BadRequest, "the envelope cannot be read");
    let envelope_definite = asn1::to_definite(content).map_err(unopened)?;
    let envelope = Envelope::read(&envelope_definite).map_err(unopened)?;
    let cipher = envelope.cipher.ok_or_else(|| refuse(FailInfo::BadAlg, "encrypted with an unknown algorithm"))?;
    if cipher == Cipher::Des && !allow_legacy {
        return Err(refuse(FailInfo::BadAlg, "encrypted with single DES; scep.allow_legacy_algorithms is off"));
    }
    is_legacy |= cipher == Cipher::Des;
    let (index, authority) =
        envelope.recipient(authorities).ok_or_else(|| refuse(FailInfo::BadRequest, "sent to another authority"))?;

    // From here on all failures look the same from outside.
    let refuse = |reason: String| refuse(FailInfo::BadRequest, &reason);
    let inside = envelope::open(content, cipher, &authority.certificate, &authority.key)
        .map_err(|error| refuse(format!("the envelope does not open: {error}")))?;
    let csr = CertificateRequest::from_der(&inside).map_err(|error| refuse(error.to_string()))?;
    let csr_is_legacy = csr.uses_sha1 || (csr.is_rsa && csr.key_bits < MIN_RSA_BITS);
    if csr_is_legacy && !allow_legacy {
        return Err(refuse("a request with SHA-1 or a short key; scep.allow_legacy_algorithms is off".to_owned()));
    }
    let reply_to = ReplyTo { cipher: answer_cipher(cipher), ..reply_to.clone() };
    let is_legacy = is_legacy || csr_is_legacy;
    Ok(Request { message_type, csr, signer: certificate.clone(), authority: index, is_legacy, reply_to })
}

/// The cipher of the answer: triple DES where the client chose it, else AES-256, which even clients that send single
/// DES understand.
const fn answer_cipher(asked: Cipher) -> Cipher {
    match asked {
        Cipher::TripleDes => Cipher::TripleDes,
        _ => Cipher::Aes256,
    }
}

/// The answer that brings a certificate.
///
/// # Errors
/// Only when OpenSSL fails.
pub fn success(
    authority: &Authority,
    to: &ReplyTo,
    issued: &Certificate,
    now: Timestamp,
    random: &dyn Randomness,
) -> Result<Vec<u8>, Error> {
    let envelope = envelope::seal(&cms::degenerate(&[issued]), &to.signer, to.cipher)?;
    reply(authority, to, "0", None, &envelope, now, random)
}

/// The answer that refuses.
///
/// # Errors
/// Only when OpenSSL fails.
pub fn failure(
    authority: &Authority,
    to: &ReplyTo,
    fail: FailInfo,
    now: Timestamp,
    random: &dyn Randomness,
) -> Result<Vec<u8>, Error> {
    reply(authority, to, "2", Some(fail), &[], now, random)
}

/// The answer that asks for patience.
///
/// # Errors
/// Only when OpenSSL fails.
pub fn pending(authority: &Authority, to: &ReplyTo, now: Timestamp, random: &dyn Randomness) -> Result<Vec<u8>, Error> {
    reply(authority, to, "3", None, &[], now, random)
}

fn reply(
    authority: &Authority,
    to: &ReplyTo,
    status: &str,
    fail: Option<FailInfo>,
    content: &[u8],
    now: Timestamp,
    random: &dyn Randomness,
) -> Result<Vec<u8>, Error> {
    let mut nonce = [0; 16];
    random.fill(&mut nonce);
    let mut attributes = vec![
        message::text_attribute(TRANSACTION_ID, &to.transaction_id),
        message::text_attribute(MESSAGE_TYPE, CERT_REP),
        message::text_attribute(PKI_STATUS, status),
        message::nonce_attribute(SENDER_NONCE, &nonce),
    ];
    if let Some(nonce) = &to.nonce {
        attributes.push(message::nonce_attribute(RECIPIENT_NONCE, nonce));
    }
    if let Some(fail) = fail {
        attributes.push(message::text_attribute(FAIL_INFO, fail.number()));
    }
    let sign = Sign {
        content,
        // Failures hold no content at all, rather than an empty one (RFC 8894, section 3.2.2).
        detached: content.is_empty(),
        certificate: &authority.certificate,
        key: &authority.key,
        chain: &[],
        signing_time: Some(now),
        attributes,
        digest: Digest::Sha256,
        unsorted: false,
        terse: false,
    };
    sign.make()
}
