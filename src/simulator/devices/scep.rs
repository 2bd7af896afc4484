//! Obtains a certificate by SCEP (RFC 8894), as a device does.

use std::time::Duration;

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::{CONTENT_TYPE, USER_AGENT};
use reqwest::{Method, RequestBuilder};
use tokio::time::sleep;
use url::Url;

use super::behavior::Quirks;
use super::enrollment::ScepPayload;
use super::error::PhoneError;
use super::line::{Answer, Line, percent_encode};
use super::phone::Environment;
use crate::pki::request::Subject;
use crate::pki::scep::client::{self, Exchange};
use crate::pki::scep::{Cipher, MessageType};
use crate::pki::{Authority, Certificate, CertificateRequest, Identity, PrivateKey};

/// The media type of a single CA certificate; Apple's client takes it exactly so.
const CA_TYPE: &str = "application/x-x509-ca-cert";

/// The media type of requests and answers.
const MESSAGE_TYPE: &str = "application/x-pki-message";

/// What a device brings to SCEP.
pub(super) struct Applicant {
    /// The key that the certificate is for.
    pub(super) key: PrivateKey,
    /// The key of the throw-away certificate that signs a first request: the same, or another one.
    pub(super) signer_key: PrivateKey,
    /// The identity to be renewed.
    pub(super) renew: Option<Identity>,
    pub(super) quirks: Quirks,
}

/// Gets a certificate: GetCACert, GetCACaps, PKIOperation.
///
/// # Errors
/// [`PhoneError::Scep`] for FAILURE and for PENDING without end; what is wrong with an answer.
pub(super) async fn obtain(
    line: &Line,
    payload: &ScepPayload,
    applicant: Applicant,
    environment: &Environment,
) -> Result<Identity, PhoneError> {
    let authority = authority(line, payload).await?;
    let capabilities = get(line, "GetCACaps", payload).await?.expect_ok("GetCACaps")?;
    let can_post = capabilities.text().lines().any(|line| line.trim().eq_ignore_ascii_case("POSTPKIOperation"));
    let exchange = exchange(payload, &applicant, &authority, environment)?;
    for _ in 0..=payload.retries {
        let request = operation(line, payload, &exchange.message, can_post, applicant.quirks)?;
        let answer = line.send("PKIOperation", request).await?.expect_ok("PKIOperation")?;
        expect_type(&answer, MESSAGE_TYPE, "PKIOperation")?;
        let read = exchange.read(&answer.body, &authority);
        match read.map_err(|error| PhoneError::protocol("PKIOperation", error.to_string()))? {
            client::Answer::Issued(certificates) => return identity(&certificates, applicant.key),
            client::Answer::Refused(reason) => {
                return Err(PhoneError::Scep(reason.map_or("FAILURE".to_owned(), |it| format!("FAILURE, {it:?}"))));
            }
            client::Answer::Pending => sleep(Duration::from_secs(payload.retry_delay.into())).await,
        }
    }
    Err(PhoneError::Scep("PENDING too often".to_owned()))
}

async fn authority(line: &Line, payload: &ScepPayload) -> Result<Certificate, PhoneError> {
    const STEP: &str = "GetCACert";
    let answer = get(line, STEP, payload).await?.expect_ok(STEP)?;
    expect_type(&answer, CA_TYPE, STEP)?;
    let wrong = |reason: String| PhoneError::protocol(STEP, reason);
    let mut certificates = client::read_authorities(&answer.body).map_err(|error| wrong(error.to_string()))?;
    if certificates.len() != 1 {
        return Err(wrong(format!("{} certificates; expected one", certificates.len())));
    }
    let authority = certificates.remove(0);
    if payload.ca_fingerprint.as_ref().is_some_and(|wanted| !fingerprint_fits(wanted, authority.der())) {
        return Err(wrong("the certificate does not have the fingerprint of the profile".to_owned()));
    }
    Ok(authority)
}

/// SHA-1 or SHA-256; the length tells. (Apple's documentation allows MD5 too, which nobody should use.)
fn fingerprint_fits(wanted: &[u8], der: &[u8]) -> bool {
    let algorithm = match wanted.len() {
        20 => &digest::SHA1_FOR_LEGACY_USE_ONLY,
        32 => &digest::SHA256,
        _ => return false,
    };
    digest::digest(algorithm, der).as_ref() == wanted
}

fn exchange(
    payload: &ScepPayload,
    applicant: &Applicant,
    authority: &Certificate,
    environment: &Environment,
) -> Result<Exchange, PhoneError> {
    let (now, random) = (environment.clock.now(), environment.random.as_ref());
    let subject = payload
        .subject
        .iter()
        .try_fold(Subject::default(), |subject, (attribute, value)| subject.and(attribute, value))?;
    let (message_type, signer, challenge) = match &applicant.renew {
        Some(identity) => {
            let signer = Authority { certificate: identity.certificate.clone(), key: identity.key.clone() };
            (MessageType::RenewalReq, signer, None)
        }
        None => {
            let signer = client::make_signer(&applicant.signer_key, &subject, now, random)?;
            (MessageType::PkcsReq, signer, payload.challenge.as_ref())
        }
    };
    let csr = CertificateRequest::make(&applicant.key, &subject, challenge)?;
    let quirks = client::Quirks {
        indefinite_lengths: applicant.quirks.indefinite_lengths,
        cipher: if applicant.quirks.triple_des { Cipher::TripleDes } else { Cipher::default() },
        sha1: false,
        unsorted: applicant.quirks.unsorted_attributes,
    };
    Ok(client::request(message_type, &csr, &signer, authority, quirks, now, random)?)
}

fn operation(
    line: &Line,
    payload: &ScepPayload,
    message: &[u8],
    can_post: bool,
    quirks: Quirks,
) -> Result<RequestBuilder, PhoneError> {
    if quirks.scep_by_get || !can_post {
        // Some clients leave `+`, `/` and `=` as they are.
        let base64 = STANDARD.encode(message);
        let base64 = if quirks.scep_by_get { base64 } else { percent_encode(base64.as_bytes()) };
        return Ok(line
            .request(Method::GET, &address(payload, "PKIOperation", Some(&base64)))?
            .header(USER_AGENT, AGENT));
    }
    let query = quirks.scep_query_with_post.then(|| percent_encode(message));
    let url = address(payload, "PKIOperation", query.as_deref());
    let request = line.request(Method::POST, &url)?;
    Ok(request.header(USER_AGENT, AGENT).header(CONTENT_TYPE, MESSAGE_TYPE).body(message.to_vec()))
}

/// How Apple's client names itself.
const AGENT: &str = "MDM-SCEP/1.0";

async fn get(line: &Line, step: &'static str, payload: &ScepPayload) -> Result<Answer, PhoneError> {
    let name = payload.name.as_deref().map(|name| percent_encode(name.as_bytes()));
    let url = address(payload, step, Some(&name.unwrap_or_default()));
    line.send(step, line.request(Method::GET, &url)?.header(USER_AGENT, AGENT)).await
}

/// The URL of an operation. A query in the profile's URL is lost here, as it is with Apple's client.
fn address(payload: &ScepPayload, operation: &str, message: Option<&str>) -> Url {
    let mut url = payload.url.clone();
    url.set_query(Some(&match message {
        Some(message) => format!("operation={operation}&message={message}"),
        None => format!("operation={operation}"),
    }));
    url
}

fn expect_type(answer: &Answer, expected: &str, step: &'static str) -> Result<(), PhoneError> {
    let stated = answer.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if stated == expected {
        return Ok(());
    }
    Err(PhoneError::protocol(step, format!("the media type is {stated:?}; expected exactly {expected}")))
}

fn identity(certificates: &[Certificate], key: PrivateKey) -> Result<Identity, PhoneError> {
    let wrong = |reason: &str| PhoneError::protocol("PKIOperation", reason);
    let issued = certificates.first().ok_or_else(|| wrong("no certificate was issued"))?;
    if issued.public_key_sha256 != key.public_key_sha256()? {
        return Err(wrong("the first certificate is not the one for the key of the request"));
    }
    if issued.subject.is_empty() {
        return Err(wrong("the subject of the certificate is empty"));
    }
    Ok(Identity { certificate: issued.clone(), chain: Vec::new(), key })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_are_told_by_their_length() {
        let sha1 = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, b"der");
        let sha256 = digest::digest(&digest::SHA256, b"der");
        assert!(fingerprint_fits(sha1.as_ref(), b"der") && fingerprint_fits(sha256.as_ref(), b"der"));
        assert!(!fingerprint_fits(sha1.as_ref(), b"other") && !fingerprint_fits(b"", b"der"));
    }
}
