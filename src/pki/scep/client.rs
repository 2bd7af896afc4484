//! The client's side, for simulated devices: build a request, read the answer. Can be as awkward as real clients.

use std::time::Duration;

use openssl::asn1::{Asn1Integer, Asn1Time};
use openssl::bn::BigNum;
use openssl::hash::MessageDigest;
use openssl::x509::extension::{ExtendedKeyUsage, KeyUsage};
use openssl::x509::{X509, X509Name};

use super::envelope::{self, Cipher};
use super::message::{
    self, CERT_REP, FAIL_INFO, FailInfo, MAX_MESSAGE_BYTES, MESSAGE_TYPE, MessageType, PKI_STATUS, RECIPIENT_NONCE,
    SENDER_NONCE, TRANSACTION_ID,
};
use crate::model::{Randomness, Timestamp};
use crate::pki::algorithm::Digest;
use crate::pki::asn1::{self, Malformed, Reader};
use crate::pki::authority::serial;
use crate::pki::certificate::MAX_CERTIFICATE_BYTES;
use crate::pki::cms::{Sign, SignedData};
use crate::pki::request::Subject;
use crate::pki::{Authority, Certificate, CertificateRequest, Error};

/// What a client does differently from others. The default is what current clients do.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quirks {
    /// Write the message and the envelope in BER with indefinite lengths.
    pub indefinite_lengths: bool,
    /// The encryption of the envelope.
    pub cipher: Cipher,
    /// Sign with SHA-1.
    pub sha1: bool,
    /// Signed attributes that are not sorted.
    pub unsorted: bool,
}

/// A request that was made, and what its answer must fit.
#[derive(Clone, Debug)]
pub struct Exchange {
    /// The message to send, in DER (or BER).
    pub message: Vec<u8>,
    transaction_id: String,
    nonce: [u8; 16],
    signer: Authority,
}

/// What the server answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Certificates, the issued one first.
    Issued(Vec<Certificate>),
    /// Refused. None if the server gave no reason that is known.
    Refused(Option<FailInfo>),
    /// Ask again later.
    Pending,
}

/// The throw-away certificate that signs a first request: valid for an hour from now, as current clients make it.
///
/// The key may be another than the request's.
///
/// # Errors
/// [`Error::Invalid`] when the key is not RSA, which answers are encrypted to.
pub fn make_signer(
    key: &crate::pki::PrivateKey,
    subject: &Subject,
    now: Timestamp,
    random: &dyn Randomness,
) -> Result<Authority, Error> {
    if !key.is_rsa() {
        return Err(Error::invalid("the signer of a SCEP request needs an RSA key"));
    }
    let name = X509Name::from_der(&subject.to_der())?;
    let until = now.plus(Duration::from_secs(3600));
    let mut builder = X509::builder()?;
    builder.set_version(2)?;
    builder.set_serial_number(Asn1Integer::from_bn(BigNum::from_slice(&serial(random))?.as_ref())?.as_ref())?;
    builder.set_subject_name(&name)?;
    builder.set_issuer_name(&name)?;
    builder.set_pubkey(key.pkey())?;
    builder.set_not_before(Asn1Time::from_unix(now.seconds())?.as_ref())?;
    builder.set_not_after(Asn1Time::from_unix(until.seconds())?.as_ref())?;
    builder.append_extension(KeyUsage::new().critical().digital_signature().key_encipherment().build()?)?;
    builder.append_extension(ExtendedKeyUsage::new().server_auth().build()?)?;
    builder.sign(key.pkey(), MessageDigest::sha256())?;
    Ok(Authority { certificate: Certificate::from_der(&builder.build().to_der()?)?, key: key.clone() })
}

/// Reads the answer to `GetCACert`: one certificate, or several in a degenerate CMS.
///
/// # Errors
/// [`Error::Invalid`] when it is neither.
pub fn read_authorities(body: &[u8]) -> Result<Vec<Certificate>, Error> {
    if body.len() <= MAX_CERTIFICATE_BYTES
        && let Ok(certificate) = Certificate::from_der(body)
    {
        return Ok(vec![certificate]);
    }
    let wrong = |Malformed| Error::invalid("the answer to GetCACert is neither a certificate nor a CMS of some");
    let definite =
        asn1::to_definite(body.get(..MAX_MESSAGE_BYTES.min(body.len())).unwrap_or_default()).map_err(wrong)?;
    let certificates = SignedData::read(&definite).map_err(wrong)?.certificates;
    if certificates.is_empty() { Err(wrong(Malformed)) } else { Ok(certificates) }
}

/// Makes a request. For a renewal the signer is the certificate to be renewed, with its key.
///
/// # Errors
/// Only when OpenSSL fails (single DES needs its legacy provider).
pub fn request(
    message_type: MessageType,
    csr: &CertificateRequest,
    signer: &Authority,
    authority: &Certificate,
    quirks: Quirks,
    now: Timestamp,
    random: &dyn Randomness,
) -> Result<Exchange, Error> {
    let mut nonce = [0; 16];
    random.fill(&mut nonce);
    // As many clients do: the digest of the key names the exchange, so that asking again continues it.
    let transaction_id = csr.public_key_sha256.hex();
    let malformed = |Malformed| Error::Library("OpenSSL made an envelope that cannot be read".to_owned());
    let mut envelope = envelope::seal(csr.der(), authority, quirks.cipher)?;
    if quirks.indefinite_lengths {
        envelope = envelope::as_ber(&envelope).map_err(malformed)?;
    }
    let sign = Sign {
        content: &envelope,
        detached: false,
        certificate: &signer.certificate,
        key: &signer.key,
        chain: &[],
        signing_time: Some(now),
        attributes: vec![
            message::text_attribute(TRANSACTION_ID, &transaction_id),
            message::text_attribute(MESSAGE_TYPE, message_type.number()),
            message::nonce_attribute(SENDER_NONCE, &nonce),
        ],
        digest: if quirks.sha1 { Digest::Sha1 } else { Digest::Sha256 },
        unsorted: quirks.unsorted,
        terse: false,
    };
    let mut message = sign.make()?;
    if quirks.indefinite_lengths {
        message = signed_as_ber(&message).map_err(malformed)?;
    }
    Ok(Exchange { message, transaction_id, nonce, signer: signer.clone() })
}

impl Exchange {
    /// Reads the answer, which must be signed by the authority and belong to this request.
    ///
    /// # Errors
    /// [`Error::Invalid`] with what is wrong about the answer.
    pub fn read(&self, answer: &[u8], authority: &Certificate) -> Result<Answer, Error> {
        if answer.len() > MAX_MESSAGE_BYTES {
            return Err(Error::invalid("the SCEP answer is longer than 64 KiB"));
        }
        let malformed = |Malformed| Error::invalid("the SCEP answer is no signed CMS");
        let definite = asn1::to_definite(answer).map_err(malformed)?;
        let data = SignedData::read(&definite).map_err(malformed)?;
        let [signer] = data.signers.as_slice() else {
            return Err(Error::invalid("the SCEP answer has not exactly one signer"));
        };
        let by = data.certificate_of(signer).ok_or_else(|| Error::invalid("the SCEP answer lacks its signer"))?;
        if by != authority && !by.signed_by(authority) {
            return Err(Error::invalid("the SCEP answer is signed by somebody else than the authority"));
        }
        let content = data.content.unwrap_or_default();
        signer.verify(by, content).map_err(|_| Error::invalid("the signature of the SCEP answer does not hold"))?;
        let text = |oid| message::text(signer, oid).unwrap_or_default();
        let time = signer.signing_time();
        for (fits, what) in [
            (text(TRANSACTION_ID) == self.transaction_id, "another transaction"),
            (text(MESSAGE_TYPE) == CERT_REP, "another type of message than CertRep"),
            (message::nonce(signer, RECIPIENT_NONCE) == Ok(Some(self.nonce.to_vec())), "another nonce"),
            (matches!(message::nonce(signer, SENDER_NONCE), Ok(Some(_))), "no nonce of its own"),
            (time.is_none_or(|time| by.valid_at(time)), "a signing time outside of its signer's validity"),
        ] {
            if !fits {
                return Err(Error::invalid(format!("the SCEP answer has {what}")));
            }
        }
        match text(PKI_STATUS).as_str() {
            "0" => self.open(content).map(Answer::Issued),
            "2" => Ok(Answer::Refused(FailInfo::from_number(&text(FAIL_INFO)))),
            "3" => Ok(Answer::Pending),
            other => Err(Error::invalid(format!("the SCEP answer has the unknown status {other:?}"))),
        }
    }

    fn open(&self, content: &[u8]) -> Result<Vec<Certificate>, Error> {
        let malformed = |Malformed| Error::invalid("the SCEP answer holds no certificates");
        let definite = asn1::to_definite(content).map_err(malformed)?;
        let outside = envelope::Envelope::read(&definite).map_err(malformed)?;
        let cipher = outside.cipher.ok_or_else(|| Error::invalid("the SCEP answer has an unknown encryption"))?;
        let inside = envelope::open(content, cipher, &self.signer.certificate, &self.signer.key)?;
        let definite = asn1::to_definite(&inside).map_err(malformed)?;
        let certificates = SignedData::read(&definite).map_err(malformed)?.certificates;
        if certificates.is_empty() { Err(malformed(Malformed)) } else { Ok(certificates) }
    }
}

/// The same signed data in BER with indefinite lengths. The content stays one piece inside its constructed octet
/// string, since servers in the field read the first piece only.
fn signed_as_ber(signed: &[u8]) -> Result<Vec<u8>, Malformed> {
    let mut info = Reader(signed).expect(asn1::SEQUENCE)?.inside();
    let kind = info.expect(asn1::OID)?.whole;
    let mut data = info.expect(asn1::context(0))?.inside().expect(asn1::SEQUENCE)?.inside();
    let (version, digests) = (data.any()?.whole, data.any()?.whole);
    let mut encapsulated = data.expect(asn1::SEQUENCE)?.inside();
    let content_kind = encapsulated.expect(asn1::OID)?.whole;
    let content = encapsulated.expect(asn1::context(0))?.inside().expect(asn1::OCTET_STRING)?.value;
    let pieces = asn1::pieces(asn1::CONSTRUCTED_OCTET_STRING, content, content.len());
    let content = asn1::indefinite(asn1::context(0), &[&pieces]);
    let encapsulated = asn1::indefinite(asn1::SEQUENCE, &[content_kind, &content]);
    let data = asn1::indefinite(asn1::SEQUENCE, &[version, digests, &encapsulated, data.0]);
    Ok(asn1::indefinite(asn1::SEQUENCE, &[kind, &asn1::indefinite(asn1::context(0), &[&data])]))
}
