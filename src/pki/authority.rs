//! Certificate authorities and what they issue.
//!
//! There are two kinds, kept apart on purpose: the *device CA* (RSA, since Apple's SCEP client encrypts to it) issues
//! what devices authenticate with; the *TLS root* (P-256) issues the server's certificate and the profile signer's
//! where there is no public one. A key of one kind can never pass for the other.

use std::net::IpAddr;
use std::time::Duration;

use openssl::asn1::{Asn1Integer, Asn1Time};
use openssl::bn::BigNum;
use openssl::hash::MessageDigest;
use openssl::x509::extension::{
    AuthorityKeyIdentifier, BasicConstraints, ExtendedKeyUsage, KeyUsage, SubjectKeyIdentifier,
};
use openssl::x509::{X509, X509Name};
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyUsagePurpose, SanType, SerialNumber};
use rustls_pki_types::CertificateDer;

use super::request::Subject;
use super::{Certificate, CertificateRequest, Error, PrivateKey};
use crate::model::{Randomness, Timestamp};

/// Size of a device CA's key, in bits.
pub const DEVICE_CA_BITS: u32 = 3072;

/// Longest validity of a server certificate. Apple refuses more than 398 days from public roots.
pub const MAX_SERVER_VALIDITY: Duration = Duration::from_secs(397 * DAY);

const DAY: u64 = 86_400;
const AUTHORITY_VALIDITY: Duration = Duration::from_secs(15 * 365 * DAY);

/// Certificates are valid from a little before they are made: the clocks of devices differ from ours.
const BACKDATED: Duration = Duration::from_secs(3600);

/// A certificate with its private key: an authority, or a server's or signer's own.
#[derive(Clone, Debug)]
pub struct Authority {
    /// The certificate.
    pub certificate: Certificate,
    /// The key that belongs to it.
    pub key: PrivateKey,
}

impl Authority {
    /// Puts an imported certificate and its key together as a device CA.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the key is another certificate's, or the certificate may not sign certificates.
    pub fn import(certificate: Certificate, key: PrivateKey) -> Result<Self, Error> {
        if certificate.public_key_sha256 != key.public_key_sha256()? {
            return Err(Error::invalid(format!(
                "the private key does not belong to the certificate {}; expected the key that was made with it",
                certificate.subject
            )));
        }
        if !certificate.is_ca {
            return Err(Error::invalid(format!(
                "the certificate {} may not sign certificates (basicConstraints CA:TRUE, keyUsage keyCertSign)",
                certificate.subject
            )));
        }
        Ok(Self { certificate, key })
    }
}

/// Makes a device CA: RSA, usages for both signing and SCEP's encryption, no further CAs below it, 15 years.
///
/// The key is the caller's (`PrivateKey::generate_rsa(DEVICE_CA_BITS)`), since making one takes time.
///
/// # Errors
/// [`Error::Invalid`] when the key is not RSA or a name is too long.
pub fn make_device_ca(
    key: &PrivateKey,
    name: &str,
    organization: &str,
    now: Timestamp,
    random: &dyn Randomness,
) -> Result<Authority, Error> {
    if !key.is_rsa() {
        return Err(Error::invalid("the key of a device CA must be RSA: Apple's SCEP client encrypts to it"));
    }
    let mut params = authority_params(name, organization, now, random);
    params.key_usages.extend([KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment]);
    self_signed(&params, key)
}

/// Makes a root for the server's own TLS certificates and its profile signer: P-256, 15 years.
///
/// # Errors
/// Only when the cryptography library fails.
pub fn make_tls_root(
    name: &str,
    organization: &str,
    now: Timestamp,
    random: &dyn Randomness,
) -> Result<Authority, Error> {
    let key = PrivateKey::generate_p256()?;
    self_signed(&authority_params(name, organization, now, random), &key)
}

/// Issues a TLS server certificate with a new P-256 key for these DNS names and addresses.
///
/// # Errors
/// [`Error::Invalid`] without names, with one that is no host name, or for longer than [`MAX_SERVER_VALIDITY`].
pub fn issue_server_certificate(
    root: &Authority,
    names: &[String],
    now: Timestamp,
    validity: Duration,
    random: &dyn Randomness,
) -> Result<Authority, Error> {
    let first = names.first().ok_or_else(|| Error::invalid("a server certificate needs at least one name"))?;
    if validity > MAX_SERVER_VALIDITY {
        return Err(Error::invalid("a server certificate for more than 397 days, which Apple's clients refuse"));
    }
    // It begins a little before now, and both ends count.
    let validity = validity.min(MAX_SERVER_VALIDITY.saturating_sub(BACKDATED + Duration::from_secs(1)));
    let mut params = leaf_params(&shortened(first), now, validity, random, root);
    params.subject_alt_names = names.iter().map(|name| alternative_name(name)).collect::<Result<_, _>>()?;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    issue(root, &params, PrivateKey::generate_p256()?)
}

/// Issues a certificate that signs profiles. RSA, since old versions of iOS show others as unverified.
///
/// # Errors
/// [`Error::Invalid`] when the key is not RSA.
pub fn issue_profile_signer(
    root: &Authority,
    key: PrivateKey,
    name: &str,
    now: Timestamp,
    validity: Duration,
    random: &dyn Randomness,
) -> Result<Authority, Error> {
    if !key.is_rsa() {
        return Err(Error::invalid("the key of a profile signer must be RSA"));
    }
    let mut params = leaf_params(&shortened(name), now, validity, random, root);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    issue(root, &params, key)
}

/// Issues a certificate that a device authenticates with.
///
/// The subject is `subject`, or the request's own when none is given. Nothing else of the request but its key is
/// taken over: a device cannot ask for extensions. The certificate never outlives the authority.
///
/// Made with OpenSSL rather than rcgen, which loses repeated attributes of a request's subject.
///
/// # Errors
/// [`Error::Invalid`] when the subject would be empty: macOS refuses such a certificate.
pub fn issue_device_certificate(
    ca: &Authority,
    request: &CertificateRequest,
    subject: Option<&Subject>,
    now: Timestamp,
    validity: Duration,
    random: &dyn Randomness,
) -> Result<Certificate, Error> {
    let subject_der = match subject {
        Some(subject) if !subject.is_empty() => subject.to_der(),
        _ if request.subject_is_empty() => {
            return Err(Error::invalid("a device certificate needs a subject: macOS refuses an empty one"));
        }
        _ => request.subject_der.clone(),
    };
    let subject = X509Name::from_der(&subject_der)
        .map_err(|_| Error::invalid("the subject holds a name or value that does not fit into a certificate"))?;
    let issuer = ca.certificate.openssl()?;
    let mut builder = X509::builder()?;
    builder.set_version(2)?;
    let serial = BigNum::from_slice(&serial(random))?;
    builder.set_serial_number(Asn1Integer::from_bn(&serial)?.as_ref())?;
    builder.set_subject_name(&subject)?;
    builder.set_issuer_name(issuer.subject_name())?;
    builder.set_pubkey(&request.public_key)?;
    let (from, until) = validity_within(&ca.certificate, now, validity);
    builder.set_not_before(Asn1Time::from_unix(from.seconds())?.as_ref())?;
    builder.set_not_after(Asn1Time::from_unix(until.seconds())?.as_ref())?;
    builder.append_extension(BasicConstraints::new().critical().build()?)?;
    builder.append_extension(KeyUsage::new().critical().digital_signature().key_encipherment().build()?)?;
    builder.append_extension(ExtendedKeyUsage::new().client_auth().build()?)?;
    let key_id = SubjectKeyIdentifier::new().build(&builder.x509v3_context(Some(&issuer), None))?;
    builder.append_extension(key_id)?;
    let issuer_id = AuthorityKeyIdentifier::new().keyid(false).build(&builder.x509v3_context(Some(&issuer), None))?;
    builder.append_extension(issuer_id)?;
    builder.sign(ca.key.pkey(), MessageDigest::sha256())?;
    Certificate::from_der(&builder.build().to_der()?)
}

/// A positive serial number of 16 bytes, 126 of its bits random (RFC 5280, section 4.1.2.2).
pub(super) fn serial(random: &dyn Randomness) -> [u8; 16] {
    let mut bytes = [0; 16];
    random.fill(&mut bytes);
    if let Some(first) = bytes.first_mut() {
        *first = (*first & 0x3f) | 0x40;
    }
    bytes
}

/// What all own authorities have in common.
pub(super) fn authority_params(
    name: &str,
    organization: &str,
    now: Timestamp,
    random: &dyn Randomness,
) -> CertificateParams {
    let mut params = params(&shortened(name), now.minus(BACKDATED), now.plus(AUTHORITY_VALIDITY), random);
    if !organization.is_empty() {
        params.distinguished_name.push(DnType::OrganizationName, shortened(organization));
    }
    params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

/// What all leaves that rcgen makes have in common.
pub(super) fn leaf_params(
    name: &str,
    now: Timestamp,
    validity: Duration,
    random: &dyn Randomness,
    issuer: &Authority,
) -> CertificateParams {
    let (from, until) = validity_within(&issuer.certificate, now, validity);
    let mut params = params(name, from, until, random);
    params.is_ca = IsCa::ExplicitNoCa;
    params.use_authority_key_identifier_extension = true;
    params
}

fn params(name: &str, from: Timestamp, until: Timestamp, random: &dyn Randomness) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.serial_number = Some(SerialNumber::from_slice(&serial(random)));
    params.not_before = Timestamp::from_seconds(from.seconds()).to_datetime();
    params.not_after = Timestamp::from_seconds(until.seconds()).to_datetime();
    params
}

/// From a little before now until the end, within the issuer's own validity.
fn validity_within(issuer: &Certificate, now: Timestamp, validity: Duration) -> (Timestamp, Timestamp) {
    (now.minus(BACKDATED).max(issuer.not_before), now.plus(validity).min(issuer.not_after))
}

fn self_signed(params: &CertificateParams, key: &PrivateKey) -> Result<Authority, Error> {
    let made = params.self_signed(&key.for_rcgen()?)?;
    Ok(Authority { certificate: Certificate::from_der(made.der())?, key: key.clone() })
}

/// Signs a leaf with the authority's key.
pub(super) fn issue(issuer: &Authority, params: &CertificateParams, key: PrivateKey) -> Result<Authority, Error> {
    let issuer_der = CertificateDer::from(issuer.certificate.der());
    let by = Issuer::from_ca_cert_der(&issuer_der, issuer.key.for_rcgen()?)?;
    let made = params.signed_by(&key.for_rcgen()?, &by)?;
    Ok(Authority { certificate: Certificate::from_der(made.der())?, key })
}

/// Common and organization names have at most 64 characters (RFC 5280, appendix A.1).
fn shortened(name: &str) -> String {
    name.chars().take(64).collect()
}

fn alternative_name(name: &str) -> Result<SanType, Error> {
    if let Ok(address) = name.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(address));
    }
    let host = name.strip_prefix("*.").unwrap_or(name);
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
    };
    if host.len() > 253 || !host.split('.').all(label) {
        return Err(Error::invalid(format!("{name:?} is no host name or address for a server certificate")));
    }
    Ok(SanType::DnsName(rcgen::string::Ia5String::try_from(name.to_ascii_lowercase())?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::SeededRandomness;
    use crate::pki::fixtures::{self, NOW};

    const YEAR: Duration = Duration::from_secs(365 * DAY);

    fn request() -> CertificateRequest {
        let subject = Subject::common_name("iPhone").and("OU", "one").unwrap().and("OU", "two").unwrap();
        CertificateRequest::make(fixtures::rsa(0), &subject, None).unwrap()
    }

    #[test]
    fn a_device_certificate_keeps_the_requests_subject_and_key() {
        let random = SeededRandomness::new(5);
        let ca = fixtures::device_ca();
        let made = issue_device_certificate(ca, &request(), None, NOW, YEAR, &random).unwrap();
        assert_eq!(made.subject, "CN=iPhone, OU=one, OU=two");
        assert_eq!(made.public_key_sha256, request().public_key_sha256);
        assert!(made.for_clients && !made.for_servers && !made.is_ca && made.may_sign);
        assert_eq!((made.not_before, made.not_after), (NOW.minus(BACKDATED), NOW.plus(YEAR)));
        assert_eq!(made.serial.len(), 32);
        assert!(made.signed_by(&ca.certificate) && made.unknown_critical.is_none());
        let again = issue_device_certificate(ca, &request(), None, NOW, YEAR, &random).unwrap();
        assert_ne!(made.serial, again.serial);
    }

    #[test]
    fn a_subject_can_be_given_and_may_not_be_empty() {
        let random = SeededRandomness::new(5);
        let ca = fixtures::device_ca();
        let given = Subject::common_name("given");
        let made = issue_device_certificate(ca, &request(), Some(&given), NOW, YEAR, &random).unwrap();
        assert_eq!(made.subject, "CN=given");
        let nameless = CertificateRequest::make(fixtures::rsa(0), &Subject::default(), None).unwrap();
        let error = issue_device_certificate(ca, &nameless, None, NOW, YEAR, &random).unwrap_err();
        assert!(error.to_string().contains("needs a subject"), "{error}");
    }

    #[test]
    fn a_certificate_never_outlives_its_authority() {
        let random = SeededRandomness::new(5);
        let ca = fixtures::device_ca();
        let made = issue_device_certificate(ca, &request(), None, NOW, YEAR * 100, &random).unwrap();
        assert_eq!(made.not_after, ca.certificate.not_after);
    }

    #[test]
    fn server_certificates_are_bounded_and_named() {
        let random = SeededRandomness::new(5);
        let root = make_tls_root("Root", "Example", NOW, &random).unwrap();
        let issue = |names: &[&str], days| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            issue_server_certificate(&root, &names, NOW, Duration::from_secs(days * DAY), &random)
        };
        let made = issue(&["mdm.example.org", "192.0.2.1"], 397).unwrap();
        assert!(made.certificate.signed_by(&root.certificate));
        let seconds = made.certificate.not_after.seconds() - made.certificate.not_before.seconds() + 1;
        assert_eq!(seconds, 397 * 86_400, "from the first second to the last");
        assert_eq!(made.certificate.public_key_sha256, made.key.public_key_sha256().unwrap());
        for (names, days) in [(&[][..], 90), (&["mdm.example.org"], 398), (&["no host"], 90), (&["a..b"], 90)] {
            assert!(matches!(issue(names, days), Err(Error::Invalid(_))), "{names:?} {days}");
        }
        let signer = issue_profile_signer(&root, fixtures::rsa(0).clone(), "Example", NOW, YEAR, &random).unwrap();
        assert!(signer.certificate.signed_by(&root.certificate) && signer.certificate.may_sign);
    }

    /// What `openssl verify -purpose …` says.
    fn openssl_verifies(leaf: &Certificate, root: &Certificate, purpose: openssl::x509::X509PurposeId) -> bool {
        let mut store = openssl::x509::store::X509StoreBuilder::new().unwrap();
        store.add_cert(root.openssl().unwrap()).unwrap();
        store.set_purpose(purpose).unwrap();
        let mut param = openssl::x509::verify::X509VerifyParam::new().unwrap();
        param.set_time(NOW.seconds());
        param.set_flags(openssl::x509::verify::X509VerifyFlags::X509_STRICT).unwrap();
        store.set_param(&param).unwrap();
        let mut context = openssl::x509::X509StoreContext::new().unwrap();
        let none = openssl::stack::Stack::new().unwrap();
        context.init(&store.build(), &leaf.openssl().unwrap(), &none, |context| context.verify_cert()).unwrap()
    }

    #[test]
    fn openssl_verifies_what_is_issued_for_its_purpose_only() {
        use openssl::x509::X509PurposeId;
        let random = SeededRandomness::new(5);
        let ca = fixtures::device_ca();
        let device = issue_device_certificate(ca, &request(), None, NOW, YEAR, &random).unwrap();
        assert!(openssl_verifies(&device, &ca.certificate, X509PurposeId::SSL_CLIENT));
        assert!(!openssl_verifies(&device, &ca.certificate, X509PurposeId::SSL_SERVER));
        let root = make_tls_root("Root", "Example", NOW, &random).unwrap();
        let names = ["mdm.example.org".to_owned()];
        let server = issue_server_certificate(&root, &names, NOW, Duration::from_secs(90 * DAY), &random).unwrap();
        assert!(openssl_verifies(&server.certificate, &root.certificate, X509PurposeId::SSL_SERVER));
        assert!(!openssl_verifies(&server.certificate, &ca.certificate, X509PurposeId::SSL_SERVER));
        let signer = issue_profile_signer(&root, fixtures::rsa(0).clone(), "Example", NOW, YEAR, &random).unwrap();
        assert!(openssl_verifies(&signer.certificate, &root.certificate, X509PurposeId::SMIME_SIGN));
    }

    #[test]
    fn importing_checks_that_the_parts_belong_together() {
        let ca = fixtures::device_ca();
        Authority::import(ca.certificate.clone(), ca.key.clone()).unwrap();
        let error = Authority::import(ca.certificate.clone(), fixtures::rsa(0).clone()).unwrap_err();
        assert!(error.to_string().contains("does not belong"), "{error}");
        let leaf = issue_device_certificate(ca, &request(), None, NOW, YEAR, &SeededRandomness::new(5)).unwrap();
        let error = Authority::import(leaf, fixtures::rsa(0).clone()).unwrap_err();
        assert!(error.to_string().contains("may not sign certificates"), "{error}");
    }
}
