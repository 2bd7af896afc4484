//! The certificate that lets a server wake devices through APNs, and how one is asked for.
//!
//! Source: Apple, "Setting up push notifications for your MDM customers". The topic is the UID of the certificate's
//! subject (`com.apple.mgmt.…`); it must stay the same for as long as devices are enrolled under it.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use openssl::hash::MessageDigest;
use openssl::sign::Signer;
use rcgen::{DnType, ExtendedKeyUsagePurpose, KeyUsagePurpose};

use super::authority::{Authority, issue, leaf_params};
use super::p12::{self, P12Error};
use super::request::Subject;
use super::{Certificate, CertificateRequest, Error, Identity, PrivateKey, chain, pem};
use crate::model::{Randomness, Secret, Timestamp};

/// What every MDM push certificate's topic begins with.
pub const TOPIC_PREFIX: &str = "com.apple.mgmt.";

/// Size of the key of a push certificate, in bits. Apple's portal takes RSA 2048.
pub const PUSH_KEY_BITS: u32 = 2048;

/// Why an uploaded push certificate is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PushError {
    /// The upload is no PEM, no .p12 and no certificate, or a part of it cannot be read.
    #[error(
        "the upload cannot be read: {0}; expected PEM (certificate, and key unless it was requested here) or a .p12 file"
    )]
    Unreadable(String),
    /// It needs a password, and none or a wrong one was given.
    #[error("{0}")]
    WrongPassword(String),
    /// It is encrypted with an old algorithm that this machine does not offer.
    #[error("{0}")]
    LegacyMissing(String),
    /// There is no certificate in it.
    #[error("the upload holds no certificate; download it from Apple's push certificate portal as a .pem file")]
    NoCertificate,
    /// There is no key in it, and none was made here for it.
    #[error(
        "the upload holds the certificate {subject} without its private key, and no request made on this server \
         belongs to it; upload the key together with the certificate, or make a request here and have Apple sign that"
    )]
    NoKey {
        /// The certificate's subject.
        subject: String,
    },
    /// The key is another certificate's.
    #[error(
        "the private key does not belong to the certificate {subject}; expected the key that its request was made with"
    )]
    KeyMismatch {
        /// The certificate's subject.
        subject: String,
    },
    /// It is a certificate for something else.
    #[error(
        "{subject} is not an MDM push certificate: {reason}; expected one whose subject has a UID that begins with com.apple.mgmt., from https://identity.apple.com/pushcert"
    )]
    WrongKind {
        /// The certificate's subject.
        subject: String,
        /// What it is instead.
        reason: String,
    },
    /// It has expired.
    #[error(
        "the push certificate for topic {topic} expired at {at}; renew it under the same Apple Account and upload the new one"
    )]
    Expired {
        /// The certificate's topic.
        topic: String,
        /// When it expired.
        at: Timestamp,
    },
    /// It is not valid yet: some clock is wrong.
    #[error("the push certificate for topic {topic} is not valid before {from}; check the clock of this server")]
    NotYetValid {
        /// The certificate's topic.
        topic: String,
        /// When its validity begins.
        from: Timestamp,
    },
}

/// A push certificate with its key, checked.
#[derive(Clone, Debug)]
pub struct PushCertificate {
    /// Certificate, chain and key.
    pub identity: Identity,
    /// The topic that devices are enrolled under.
    pub topic: String,
}

/// What an admin uploaded: certificates, and a key if there is one.
#[derive(Clone, Debug)]
pub struct Upload {
    /// All certificates, in their order.
    pub certificates: Vec<Certificate>,
    /// The private key.
    pub key: Option<PrivateKey>,
}

impl Upload {
    /// Reads PEM (certificate and key in any order and form), .p12, or a bare certificate in DER.
    ///
    /// # Errors
    /// Those of [`PushError`] that concern reading.
    pub fn read(bytes: &[u8], password: Option<&Secret<String>>) -> Result<Self, PushError> {
        if p12::is_p12(bytes) {
            let none = Secret::default();
            let read = p12::read(bytes, password.unwrap_or(&none)).map_err(|error| match error {
                P12Error::WrongPassword if password.is_none() => PushError::WrongPassword(
                    "the .p12 file has a password; give the one that was set when it was exported".to_owned(),
                ),
                P12Error::WrongPassword => PushError::WrongPassword(error.to_string()),
                P12Error::LegacyMissing(error) => PushError::LegacyMissing(error.to_string()),
                P12Error::Malformed(_) => PushError::Unreadable(error.to_string()),
            })?;
            return Ok(Self { certificates: read.certificates, key: read.key });
        }
        if pem::is_pem(bytes) {
            let unreadable = |error: Error| PushError::Unreadable(error.to_string());
            let blocks = pem::blocks(bytes).map_err(unreadable)?;
            let certificates = if blocks.iter().any(|block| block.label.ends_with("CERTIFICATE")) {
                Certificate::from_pem_many(bytes).map_err(unreadable)?
            } else {
                Vec::new()
            };
            let key = PrivateKey::find_in_pem(bytes, password).map_err(|error| {
                let text = error.to_string();
                if text.contains("password") { PushError::WrongPassword(text) } else { PushError::Unreadable(text) }
            })?;
            return Ok(Self { certificates, key });
        }
        match Certificate::from_der(bytes) {
            Ok(certificate) => Ok(Self { certificates: vec![certificate], key: None }),
            Err(error) => Err(PushError::Unreadable(error.to_string())),
        }
    }

    /// Checks that everything fits together. `requested` are the keys of earlier requests of this server, used when
    /// the upload brings no key itself.
    ///
    /// # Errors
    /// [`PushError::KeyMismatch`], [`PushError::WrongKind`], [`PushError::Expired`] and so on, the most helpful first.
    pub fn finish(self, requested: &[PrivateKey], now: Timestamp) -> Result<PushCertificate, PushError> {
        let likely = self.certificates.iter().find(|certificate| topic(certificate).is_some());
        let likely = likely.or_else(|| self.certificates.iter().find(|certificate| !certificate.is_ca));
        let likely = likely.or(self.certificates.first()).ok_or(PushError::NoCertificate)?;
        let owner = |key: &PrivateKey| {
            let public = key.public_key_sha256().ok()?;
            self.certificates.iter().find(|certificate| certificate.public_key_sha256 == public)
        };
        let keys = self.key.as_ref().map_or(requested, std::slice::from_ref);
        let found = keys.iter().find_map(|key| owner(key).map(|certificate| (key, certificate)));
        let Some((key, certificate)) = found else {
            // The wrong kind of file is worth saying before anything about keys.
            check_kind(likely)?;
            let subject = likely.subject.clone();
            return Err(if self.key.is_some() {
                PushError::KeyMismatch { subject }
            } else {
                PushError::NoKey { subject }
            });
        };
        if let Some(fault) = faults(certificate, now).into_iter().next() {
            return Err(fault);
        }
        let topic = check_kind(certificate)?;
        Ok(self.assembled(certificate, key, topic))
    }

    /// Checks only that it can be used at all: the upload holds a certificate that says its topic, and its key. Returns what
    /// else is wrong with it.
    ///
    /// # Errors
    /// [`PushError::NoCertificate`], [`PushError::NoKey`], [`PushError::KeyMismatch`], [`PushError::WrongKind`].
    pub fn finish_as_it_is(self, now: Timestamp) -> Result<(PushCertificate, Vec<PushError>), PushError> {
        let first = self.certificates.first().ok_or(PushError::NoCertificate)?;
        let key = self.key.as_ref().ok_or_else(|| PushError::NoKey { subject: first.subject.clone() })?;
        let public = key.public_key_sha256().map_err(|e| PushError::Unreadable(e.to_string()))?;
        let certificate = self
            .certificates
            .iter()
            .find(|certificate| certificate.public_key_sha256 == public)
            .ok_or_else(|| PushError::KeyMismatch { subject: first.subject.clone() })?;
        let Some(topic) = topic(certificate) else {
            check_kind(certificate)?;
            return Err(PushError::NoCertificate);
        };
        Ok((self.assembled(certificate, key, topic.to_owned()), faults(certificate, now)))
    }

    fn assembled(&self, certificate: &Certificate, key: &PrivateKey, topic: String) -> PushCertificate {
        let identity = Identity {
            certificate: certificate.clone(),
            chain: chain::intermediates_of(certificate, &self.certificates),
            key: key.clone(),
        };
        PushCertificate { identity, topic }
    }
}

/// What keeps a certificate from being used for pushes at this time; empty for one that is good.
#[must_use]
pub fn faults(certificate: &Certificate, now: Timestamp) -> Vec<PushError> {
    let mut faults: Vec<_> = check_kind(certificate).err().into_iter().collect();
    let topic = topic(certificate).unwrap_or("?").to_owned();
    if now > certificate.not_after {
        faults.push(PushError::Expired { topic, at: certificate.not_after });
    } else if now < certificate.not_before {
        faults.push(PushError::NotYetValid { topic, from: certificate.not_before });
    }
    faults
}

fn topic(certificate: &Certificate) -> Option<&str> {
    certificate
        .push_topic
        .as_deref()
        .filter(|topic| topic.starts_with(TOPIC_PREFIX) && topic.len() > TOPIC_PREFIX.len())
}

/// The topic, or what the certificate is instead.
fn check_kind(certificate: &Certificate) -> Result<String, PushError> {
    let name = certificate.common_name.as_deref().unwrap_or_default();
    let reason = if certificate.is_ca {
        "it is an authority's certificate".to_owned()
    } else if let Some(topic) = topic(certificate) {
        if certificate.for_clients {
            return Ok(topic.to_owned());
        }
        "it may not be used by a TLS client (extendedKeyUsage)".to_owned()
    } else if let Some(app) = &certificate.push_topic {
        format!("it is for pushes to the app {app}")
    } else if name.starts_with("MDM Vendor") {
        "it is an MDM vendor's signing certificate, which signs requests for push certificates".to_owned()
    } else if !certificate.dns_names.is_empty() {
        "it is a web server's certificate".to_owned()
    } else {
        "its subject has no UID".to_owned()
    };
    Err(PushError::WrongKind { subject: certificate.subject.clone(), reason })
}

/// A key and the request that Apple (by way of a vendor) turns into a push certificate.
///
/// # Errors
/// [`Error::Invalid`] when the key is not RSA.
pub fn request(key: &PrivateKey, name: &str, email: Option<&str>) -> Result<CertificateRequest, Error> {
    if !key.is_rsa() {
        return Err(Error::invalid("the key of a push certificate must be RSA: Apple's portal takes no other"));
    }
    let mut subject = Subject::common_name(name);
    if let Some(email) = email {
        subject = subject.and("emailAddress", email)?;
    }
    CertificateRequest::make(key, &subject, None)
}

/// An MDM vendor's certificate, which Apple demands under every request for a push certificate.
#[derive(Clone, Debug)]
pub struct Vendor {
    /// The vendor's certificate, then the authorities above it up to Apple's root.
    pub certificates: Vec<Certificate>,
    key: PrivateKey,
}

impl Vendor {
    /// Puts together what stands in the vendor's files.
    ///
    /// # Errors
    /// [`Error::Invalid`] when a file cannot be read, the key is not that of the first certificate, or is not RSA.
    pub fn from_files(certificates: &[u8], key: &[u8], password: Option<&Secret<String>>) -> Result<Self, Error> {
        let certificates = Certificate::from_file(certificates)?;
        let key = PrivateKey::from_pem(key, password)?;
        let public = key.public_key_sha256()?;
        if certificates.first().is_none_or(|first| first.public_key_sha256 != public) {
            return Err(Error::invalid(
                "the vendor's private key does not belong to the first certificate of its chain file; expected the \
                 vendor's certificate, then Apple's intermediate and root",
            ));
        }
        if !key.is_rsa() {
            return Err(Error::invalid("the vendor's key must be RSA"));
        }
        Ok(Self { certificates, key })
    }

    /// The signed request that is uploaded at Apple's portal: base64 of a plist with the request, the vendor's chain
    /// and the vendor's signature (RSA PKCS#1 v1.5, SHA-256) over the request's DER.
    ///
    /// # Errors
    /// Only when OpenSSL fails.
    pub fn sign(&self, request: &CertificateRequest) -> Result<String, Error> {
        let mut signer = Signer::new(MessageDigest::sha256(), self.key.pkey())?;
        let signature = signer.sign_oneshot_to_vec(request.der())?;
        let chain: String = self.certificates.iter().map(Certificate::to_pem).collect();
        let mut plist = plist::Dictionary::new();
        plist.insert("PushCertRequestCSR".to_owned(), STANDARD.encode(request.der()).into());
        plist.insert("PushCertCertificateChain".to_owned(), chain.into());
        plist.insert("PushCertSignature".to_owned(), STANDARD.encode(signature).into());
        let mut xml = Vec::new();
        plist::to_writer_xml(&mut xml, &plist).map_err(|error| Error::Library(error.to_string()))?;
        Ok(STANDARD.encode(xml))
    }
}

/// A push certificate of one's own authority, for a fake APNs. The real APNs accepts Apple's only.
///
/// # Errors
/// Only when the cryptography library fails.
pub fn issue_fake(
    root: &Authority,
    key: PrivateKey,
    topic: &str,
    now: Timestamp,
    validity: Duration,
    random: &dyn Randomness,
) -> Result<PushCertificate, Error> {
    let name = format!("APSP:{}", topic.strip_prefix(TOPIC_PREFIX).unwrap_or(topic));
    let mut params = leaf_params(&name.chars().take(64).collect::<String>(), now, validity, random, root);
    params.distinguished_name.push(DnType::from_oid(&[0, 9, 2342, 19_200_300, 100, 1, 1]), topic);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    Ok(PushCertificate { identity: issue(root, &params, key)?.into(), topic: topic.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::SeededRandomness;
    use crate::pki::authority::{issue_server_certificate, make_tls_root};
    use crate::pki::fixtures::{self, NOW};
    use proptest::prelude::*;
    use std::sync::OnceLock;

    const YEAR: Duration = Duration::from_secs(86_400 * 365);
    const TOPIC: &str = "com.apple.mgmt.External.6f1d4b0a";

    fn root() -> &'static Authority {
        static ROOT: OnceLock<Authority> = OnceLock::new();
        ROOT.get_or_init(|| make_tls_root("Fake APNs", "", NOW, &SeededRandomness::new(6)).unwrap())
    }

    fn push(topic: &str, number: usize) -> PushCertificate {
        issue_fake(root(), fixtures::rsa(number).clone(), topic, NOW, YEAR, &SeededRandomness::new(6)).unwrap()
    }

    fn pem(certificate: &Certificate, key: Option<&PrivateKey>) -> Vec<u8> {
        let key = key.map_or_else(String::new, |key| key.to_pem().expose().clone());
        format!("{}{key}", certificate.to_pem()).into_bytes()
    }

    fn finish(bytes: &[u8], requested: &[PrivateKey], now: Timestamp) -> Result<PushCertificate, PushError> {
        Upload::read(bytes, None)?.finish(requested, now)
    }

    #[test]
    fn what_is_wrong_can_be_told_instead_of_refused() {
        let made = push(TOPIC, 0);
        let (certificate, key) = (&made.identity.certificate, &made.identity.key);
        let as_it_is = |file: &[u8], now| Upload::read(file, None).unwrap().finish_as_it_is(now);
        let good = pem(certificate, Some(key));
        let (taken, faults) = as_it_is(&good, NOW).unwrap();
        assert_eq!((taken.topic.as_str(), faults.as_slice()), (TOPIC, [].as_slice()));
        let (taken, faults) = as_it_is(&good, NOW.plus(2 * YEAR)).unwrap();
        assert_eq!(taken.identity.certificate, *certificate);
        assert!(matches!(faults.as_slice(), [PushError::Expired { .. }]), "{faults:?}");
        let other = push(TOPIC, 1).identity.key;
        for (file, expected) in [
            (pem(certificate, None), "without its private key"),
            (pem(certificate, Some(&other)), "does not belong"),
            (pem(&root().certificate, Some(&root().key)), "not an MDM push certificate"),
        ] {
            let refused = as_it_is(&file, NOW).unwrap_err().to_string();
            assert!(refused.contains(expected), "{refused}");
        }
    }

    #[test]
    fn pem_in_all_its_forms_is_taken() {
        let made = push(TOPIC, 0);
        let (certificate, key) = (&made.identity.certificate, &made.identity.key);
        let pkcs1 = String::from_utf8(key.pkey().rsa().unwrap().private_key_to_pem().unwrap()).unwrap();
        let glued = format!("{}{pkcs1}", certificate.to_pem().trim_end());
        assert!(glued.contains("----------BEGIN"));
        let key_first = format!("{pkcs1}{}{}", root().certificate.to_pem(), certificate.to_pem());
        for upload in [pem(certificate, Some(key)), glued.into_bytes(), key_first.into_bytes()] {
            let taken = finish(&upload, &[], NOW).unwrap();
            assert_eq!((taken.topic.as_str(), &taken.identity.certificate), (TOPIC, certificate));
        }
    }

    #[test]
    fn a_certificate_alone_answers_an_earlier_request() {
        let key = fixtures::rsa(0);
        let request = request(key, "Example", Some("mdm@example.org")).unwrap();
        assert_eq!(request.public_key_sha256, key.public_key_sha256().unwrap());
        let certificate = push(TOPIC, 0).identity.certificate;
        let requested = [fixtures::rsa(1).clone(), key.clone()];
        for upload in [pem(&certificate, None), certificate.der().to_vec()] {
            assert_eq!(finish(&upload, &requested, NOW).unwrap().topic, TOPIC);
            let error = finish(&upload, &requested[..1], NOW).unwrap_err();
            assert!(matches!(error, PushError::NoKey { .. }), "{error}");
        }
    }

    #[test]
    fn a_p12_needs_its_password() {
        let made = push(TOPIC, 0).identity;
        let mut builder = openssl::pkcs12::Pkcs12::builder();
        let certificate = made.certificate.openssl().unwrap();
        builder.pkey(made.key.pkey()).cert(&certificate);
        let file = builder.build2("hunter2").unwrap().to_der().unwrap();
        let read = |password: Option<&str>| {
            let password = password.map(|text| Secret::new(text.to_owned()));
            Upload::read(&file, password.as_ref())?.finish(&[], NOW)
        };
        assert_eq!(read(Some("hunter2")).unwrap().topic, TOPIC);
        let errors = [read(None), read(Some("wrong"))].map(|read| read.unwrap_err().to_string());
        assert!(errors[0].contains("has a password") && errors[1].contains("does not open"), "{errors:?}");
    }

    #[test]
    fn every_wrong_upload_is_told_what_it_is() {
        let made = push(TOPIC, 0).identity;
        let key = fixtures::rsa(0);
        let app = push("org.example.app", 0).identity.certificate;
        let names = ["mdm.example.org".to_owned()];
        let random = SeededRandomness::new(6);
        let server = issue_server_certificate(root(), &names, NOW, YEAR, &random).unwrap();
        let late = NOW.plus(YEAR * 2);
        for (upload, now, expected) in [
            (pem(&made.certificate, Some(fixtures::rsa(1))), NOW, "does not belong to the certificate"),
            (pem(&app, Some(key)), NOW, "for pushes to the app org.example.app"),
            (pem(&server.certificate, Some(&server.key)), NOW, "a web server's certificate"),
            (pem(&root().certificate, Some(&root().key)), NOW, "an authority's certificate"),
            (pem(&made.certificate, Some(key)), late, "expired at 2027-"),
            (pem(&made.certificate, Some(key)), NOW.minus(YEAR), "is not valid before"),
            (key.to_pem().expose().clone().into_bytes(), NOW, "holds no certificate"),
            (b"<plist/>".to_vec(), NOW, "cannot be read"),
            (b"-----BEGIN CERTIFICATE-----\n\n".to_vec(), NOW, "has no end line"),
        ] {
            let error = finish(&upload, &[], now).unwrap_err().to_string();
            assert!(error.contains(expected), "{expected}: {error}");
        }
    }

    #[test]
    fn a_vendor_signs_what_apples_portal_reads() {
        let (vendor_key, random) = (fixtures::rsa(1), SeededRandomness::new(6));
        let vendor = issue_fake(root(), vendor_key.clone(), "vendor", NOW, YEAR, &random).unwrap().identity;
        let chain = [pem(&vendor.certificate, None), pem(&root().certificate, None)].concat();
        let key_pem = vendor_key.to_pem();
        let loaded = Vendor::from_files(&chain, key_pem.expose().as_bytes(), None).unwrap();
        let request = request(fixtures::rsa(0), "Example", None).unwrap();
        let plist = STANDARD.decode(loaded.sign(&request).unwrap()).unwrap();
        let plist = plist::Value::from_reader_xml(plist.as_slice()).unwrap().into_dictionary().unwrap();
        let text = |key: &str| plist.get(key).and_then(plist::Value::as_string).unwrap();
        assert_eq!(STANDARD.decode(text("PushCertRequestCSR")).unwrap(), request.der());
        assert_eq!(text("PushCertCertificateChain").as_bytes(), chain);
        let signature = STANDARD.decode(text("PushCertSignature")).unwrap();
        assert!(vendor.certificate.verify(crate::pki::algorithm::Digest::Sha256, request.der(), &signature));
        let wrong = Vendor::from_files(&chain, fixtures::rsa(0).to_pem().expose().as_bytes(), None).unwrap_err();
        assert!(wrong.to_string().contains("does not belong to the first certificate"), "{wrong}");
    }

    proptest! {
        #[test]
        fn random_uploads_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            prop_assert!(finish(&bytes, &[], NOW).is_err());
        }
    }
}
