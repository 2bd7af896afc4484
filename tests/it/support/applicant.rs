//! Somebody who asks for a certificate by SCEP.

use muster::model::{Secret, SeededRandomness};
use muster::pki::request::Subject;
use muster::pki::scep::MessageType;
use muster::pki::scep::client::{Answer, Exchange, Quirks, make_signer, request};
use muster::pki::{Authority, Certificate, CertificateRequest, PrivateKey, profile};
use muster::protocol::enrollment_profile::{EnrollmentProfile, read};
use muster::protocol::profile::Mobileconfig;
use muster::service::scep;

use super::ready::{Ready, rsa};

/// A device's key, and who signs its requests.
#[derive(Clone, Debug)]
pub struct Applicant {
    pub key: PrivateKey,
    pub signer: Authority,
    pub subject: Subject,
}

impl Applicant {
    /// With one of the keys of [`rsa`], and a throw-away certificate for the same key.
    pub fn new(t: &Ready, number: usize) -> Self {
        let (key, subject) = (rsa(number), Subject::common_name("phone"));
        let signer = make_signer(&key, &subject, t.now(), &SeededRandomness::new(5)).unwrap();
        Self { key, signer, subject }
    }

    /// The request for a certificate.
    pub fn csr(&self, challenge: Option<&str>) -> CertificateRequest {
        let challenge = challenge.map(|text| Secret::new(text.to_owned()));
        CertificateRequest::make(&self.key, &self.subject, challenge.as_ref()).unwrap()
    }

    /// The message of a first request.
    pub fn message(&self, t: &Ready, ca: &Certificate, challenge: Option<&str>) -> Exchange {
        self.exchange(t, ca, MessageType::PkcsReq, challenge, Quirks::default())
    }

    /// Any message.
    pub fn exchange(
        &self,
        t: &Ready,
        ca: &Certificate,
        kind: MessageType,
        challenge: Option<&str>,
        quirks: Quirks,
    ) -> Exchange {
        let csr = self.csr(challenge);
        request(kind, &csr, &self.signer, ca, quirks, t.now(), &*t.db.random).unwrap()
    }

    /// Asks with a challenge.
    pub async fn ask(&self, t: &Ready, challenge: &str) -> Answer {
        let ca = scep::ca_certificate(&t.app).await.unwrap();
        send(t, &self.message(t, &ca, Some(challenge)), &ca).await
    }

    /// Asks for a certificate in place of `old`, by a new key.
    pub async fn renew(&self, t: &Ready, old: &Certificate, new: usize) -> Answer {
        let ca = scep::ca_certificate(&t.app).await.unwrap();
        let signer = Authority { certificate: old.clone(), key: self.key.clone() };
        let next = Self { key: rsa(new), signer, subject: self.subject.clone() };
        send(t, &next.exchange(t, &ca, MessageType::RenewalReq, None, Quirks::default()), &ca).await
    }
}

/// Hands a message to the verb, and reads the answer.
pub async fn send(t: &Ready, exchange: &Exchange, ca: &Certificate) -> Answer {
    let answered =
        scep::pki_operation(&t.app, exchange.message.clone(), Some("192.0.2.1".parse().unwrap())).await.unwrap();
    exchange.read(&answered.message, ca).unwrap()
}

/// The certificate that was issued.
pub fn issued(answer: Answer) -> Certificate {
    match answer {
        Answer::Issued(mut certificates) => certificates.remove(0),
        other => panic!("{other:?}"),
    }
}

/// Opens a signed enrollment profile as a device does.
pub fn opened(signed: &[u8]) -> EnrollmentProfile {
    let opened = profile::open(signed).unwrap();
    assert!(opened.signer.is_some());
    read(&Mobileconfig::parse(&opened.profile).unwrap()).unwrap()
}

/// The challenge in it.
pub fn challenge(profile: &EnrollmentProfile) -> String {
    profile.scep.challenge.as_ref().unwrap().expose().clone()
}
