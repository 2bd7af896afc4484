//! Certificates (RFC 5280): the bytes and the facts that decisions hang on.

use std::net::IpAddr;
use std::sync::Arc;

use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer, X509Certificate, X509Name};

use super::algorithm::Digest;
use super::asn1::{self, Malformed, Reader};
use super::spki::{KeyKind, Spki};
use super::{Error, pem};
use crate::model::{Sha256, Timestamp};

/// Largest certificate that is read, in bytes.
pub const MAX_CERTIFICATE_BYTES: usize = 32 * 1024;

/// Most certificates that are read from one file.
pub const MAX_CERTIFICATES: usize = 256;

/// Longest subject or issuer text that is kept, in characters; the rest is cut off.
const MAX_NAME_CHARS: usize = 512;

/// The subject attribute that holds an MDM push certificate's topic: UID, `0.9.2342.19200300.100.1.1`.
const UID: x509_parser::der_parser::asn1_rs::Oid<'static> = x509_parser::der_parser::oid!(0.9.2342.19200300.100.1.1);

/// A certificate: its DER and what it says. Says nothing about trust.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    der: Arc<[u8]>,
    /// SHA-256 of the DER: what an enrollment is pinned to.
    pub sha256: Sha256,
    /// SHA-256 of the SubjectPublicKeyInfo.
    pub public_key_sha256: Sha256,
    /// The kind of its key.
    pub key_kind: KeyKind,
    /// The size of its key in bits; 0 if the kind is not known.
    pub key_bits: u32,
    /// The subject as text (`CN=…, O=…`); for people, not for comparisons.
    pub subject: String,
    /// The subject's common name, if it has one.
    pub common_name: Option<String>,
    /// The issuer as text.
    pub issuer: String,
    /// The serial number as lower-case hex.
    pub serial: String,
    /// Valid from here.
    pub not_before: Timestamp,
    /// Valid until here.
    pub not_after: Timestamp,
    /// Whether it may sign certificates (basicConstraints, and keyUsage where it stands).
    pub is_ca: bool,
    /// How many CAs may stand between this one and a leaf.
    pub path_length: Option<u32>,
    /// The DNS names of subjectAltName.
    pub dns_names: Vec<String>,
    /// The addresses of subjectAltName.
    pub ip_addresses: Vec<IpAddr>,
    /// Whether a TLS client may use it: extendedKeyUsage has clientAuth, or stands not there at all.
    pub for_clients: bool,
    /// Whether a TLS server may use it: extendedKeyUsage has serverAuth, or stands not there at all.
    pub for_servers: bool,
    /// Whether it may sign data (keyUsage digitalSignature, or no keyUsage).
    pub may_sign: bool,
    /// The UID of the subject: the topic, in an MDM push certificate.
    pub push_topic: Option<String>,
    /// The first critical extension that nothing here understands, as an OID.
    pub unknown_critical: Option<String>,
    /// The SubjectPublicKeyInfo's DER.
    spki: Vec<u8>,
    /// The subject's DER, to compare with an issuer.
    pub(super) subject_der: Vec<u8>,
    /// The issuer's DER.
    pub(super) issuer_der: Vec<u8>,
    /// The serial number's bytes, as encoded.
    pub(super) serial_bytes: Vec<u8>,
    /// The subjectKeyIdentifier, if it stands there.
    pub(super) key_identifier: Option<Vec<u8>>,
}

impl Certificate {
    /// Reads one certificate.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the bytes are too many or not exactly one certificate.
    pub fn from_der(der: &[u8]) -> Result<Self, Error> {
        if der.len() > MAX_CERTIFICATE_BYTES {
            return Err(Error::invalid(format!("the certificate is longer than {MAX_CERTIFICATE_BYTES} bytes")));
        }
        match X509Certificate::from_der(der) {
            Ok(([], parsed)) if is_canonical(der) == Ok(true) => Ok(Self::read(der, &parsed)),
            Ok(([], _)) => Err(Error::invalid("is a certificate whose unsigned parts were changed")),
            Ok(_) => Err(Error::invalid("has bytes after the certificate")),
            Err(_) => Err(Error::invalid("is no certificate (X.509, DER)")),
        }
    }

    /// Reads all certificates of a PEM text, in order; blocks of other kinds are passed over.
    ///
    /// # Errors
    /// [`Error::Invalid`] when there is none, too many, or one cannot be read (it is named by its number).
    pub fn from_pem_many(text: &[u8]) -> Result<Vec<Self>, Error> {
        let blocks = pem::blocks(text)?;
        let certificates = blocks
            .iter()
            .filter(|block| matches!(block.label, "CERTIFICATE" | "X509 CERTIFICATE" | "TRUSTED CERTIFICATE"));
        let mut read = Vec::new();
        for (number, block) in certificates.enumerate() {
            if number >= MAX_CERTIFICATES {
                return Err(Error::invalid(format!("holds more than {MAX_CERTIFICATES} certificates")));
            }
            let certificate = Self::from_der(&block.der);
            read.push(certificate.map_err(|error| Error::invalid(format!("certificate {}: {error}", number + 1)))?);
        }
        if read.is_empty() {
            return Err(Error::invalid("holds no certificate (a PEM block CERTIFICATE)"));
        }
        Ok(read)
    }

    /// Reads one or more certificates, PEM or DER: whatever the file is.
    ///
    /// # Errors
    /// As [`Certificate::from_der`] and [`Certificate::from_pem_many`].
    pub fn from_file(bytes: &[u8]) -> Result<Vec<Self>, Error> {
        if pem::is_pem(bytes) { Self::from_pem_many(bytes) } else { Ok(vec![Self::from_der(bytes)?]) }
    }

    /// The DER.
    #[must_use]
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// The certificate as PEM.
    #[must_use]
    pub fn to_pem(&self) -> String {
        pem::write("CERTIFICATE", &self.der)
    }

    /// Whether these bytes are a fingerprint of the certificate: SHA-256, or SHA-1 as `CAFingerprint` of Apple's SCEP
    /// payload has it. By its length.
    #[must_use]
    pub fn has_fingerprint(&self, fingerprint: &[u8]) -> bool {
        match fingerprint.len() {
            20 => self.sha1().as_slice() == fingerprint,
            _ => self.sha256.0.as_slice() == fingerprint,
        }
    }

    /// SHA-1 of the DER: what `CAFingerprint` of Apple's SCEP payload holds. Not for decisions of our own.
    #[must_use]
    pub fn sha1(&self) -> [u8; 20] {
        openssl::sha::sha1(&self.der)
    }

    /// Whether subject and issuer are the same.
    #[must_use]
    pub fn self_issued(&self) -> bool {
        self.subject_der == self.issuer_der
    }

    /// Whether the certificate is signed with its own key.
    #[must_use]
    pub fn self_signed(&self) -> bool {
        self.self_issued() && self.signed_by(self)
    }

    /// Whether `now` lies within the validity.
    #[must_use]
    pub fn valid_at(&self, now: Timestamp) -> bool {
        self.not_before <= now && now <= self.not_after
    }

    /// Whether subjectAltName covers this host: a DNS name (one wildcard label allowed, RFC 9525 section 6.3) or an
    /// address.
    #[must_use]
    pub fn covers(&self, host: &str) -> bool {
        if let Ok(address) = host.trim_matches(['[', ']']).parse::<IpAddr>() {
            return self.ip_addresses.contains(&address);
        }
        let host = host.trim_end_matches('.');
        self.dns_names.iter().any(|name| match name.strip_prefix("*.") {
            Some(suffix) => host.split_once('.').is_some_and(|(_, rest)| rest.eq_ignore_ascii_case(suffix)),
            None => name.eq_ignore_ascii_case(host),
        })
    }

    /// Whether the signature on this certificate was made with the key of `issuer`. Names and validity are not looked
    /// at.
    pub(super) fn signed_by(&self, issuer: &Self) -> bool {
        let (Ok((_, this)), Ok((_, issuer))) =
            (X509Certificate::from_der(&self.der), X509Certificate::from_der(&issuer.der))
        else {
            return false;
        };
        this.verify_signature(Some(issuer.public_key())).is_ok()
    }

    pub(super) fn openssl(&self) -> Result<openssl::x509::X509, Error> {
        openssl::x509::X509::from_der(&self.der).map_err(|_| Error::invalid("is no certificate that OpenSSL can read"))
    }

    /// Whether `signature` over `data` was made with the key of this certificate.
    pub(super) fn verify(&self, digest: Digest, data: &[u8], signature: &[u8]) -> bool {
        Spki::read(&self.spki).is_ok_and(|spki| spki.verify(digest, data, signature))
    }

    fn read(der: &[u8], parsed: &X509Certificate<'_>) -> Self {
        let spki = parsed.public_key().raw;
        let (key_kind, key_bits) = Spki::read(spki).map_or((KeyKind::Other, 0), |spki| (spki.kind, spki.bits));
        let mut certificate = Self {
            der: der.into(),
            key_kind,
            key_bits,
            spki: spki.to_vec(),
            sha256: Sha256::of(der),
            public_key_sha256: Sha256::of(spki),
            subject: name_text(parsed.subject()),
            common_name: parsed.subject().iter_common_name().find_map(text),
            issuer: name_text(parsed.issuer()),
            serial: hex::encode(parsed.raw_serial()),
            not_before: Timestamp::from_seconds(parsed.validity().not_before.timestamp()),
            not_after: Timestamp::from_seconds(parsed.validity().not_after.timestamp()),
            is_ca: false,
            path_length: None,
            dns_names: Vec::new(),
            ip_addresses: Vec::new(),
            for_clients: true,
            for_servers: true,
            may_sign: true,
            push_topic: parsed.subject().iter_by_oid(&UID).find_map(text),
            unknown_critical: None,
            subject_der: parsed.subject().as_raw().to_vec(),
            issuer_der: parsed.issuer().as_raw().to_vec(),
            serial_bytes: parsed.raw_serial().to_vec(),
            key_identifier: None,
        };
        let mut may_sign_certificates = true;
        for extension in parsed.extensions() {
            match extension.parsed_extension() {
                ParsedExtension::BasicConstraints(constraints) => {
                    certificate.is_ca = constraints.ca;
                    certificate.path_length = constraints.path_len_constraint;
                }
                ParsedExtension::KeyUsage(usage) => {
                    may_sign_certificates = usage.key_cert_sign();
                    certificate.may_sign = usage.digital_signature();
                }
                ParsedExtension::ExtendedKeyUsage(usage) => {
                    certificate.for_clients = usage.any || usage.client_auth;
                    certificate.for_servers = usage.any || usage.server_auth;
                }
                ParsedExtension::SubjectAlternativeName(names) => certificate.take_names(&names.general_names),
                ParsedExtension::SubjectKeyIdentifier(id) => certificate.key_identifier = Some(id.0.to_vec()),
                // Policies restrict nothing here, since no policy is ever asked for (RFC 5280, section 6.1.1).
                ParsedExtension::CertificatePolicies(_)
                | ParsedExtension::PolicyConstraints(_)
                | ParsedExtension::PolicyMappings(_)
                | ParsedExtension::InhibitAnyPolicy(_)
                | ParsedExtension::AuthorityKeyIdentifier(_) => {}
                _ if extension.critical && certificate.unknown_critical.is_none() => {
                    certificate.unknown_critical = Some(extension.oid.to_id_string());
                }
                _ => {}
            }
        }
        certificate.is_ca &= may_sign_certificates;
        certificate
    }

    fn take_names(&mut self, names: &[GeneralName<'_>]) {
        for name in names {
            match name {
                GeneralName::DNSName(name) => self.dns_names.push((*name).to_owned()),
                GeneralName::IPAddress(bytes) => {
                    let address = match bytes.len() {
                        4 => <[u8; 4]>::try_from(*bytes).ok().map(IpAddr::from),
                        _ => <[u8; 16]>::try_from(*bytes).ok().map(IpAddr::from),
                    };
                    self.ip_addresses.extend(address);
                }
                _ => {}
            }
        }
    }
}

/// Whether the parts that the signature does not cover have the one form they may have: otherwise anybody could make
/// copies of a certificate that differ in their SHA-256 and yet are validly signed. (RFC 5280, section 4.1.1.2, wants
/// the algorithm beside the signature to equal the signed one.)
fn is_canonical(der: &[u8]) -> Result<bool, Malformed> {
    let mut parts = Reader(der).expect(asn1::SEQUENCE)?.inside();
    let (signed, algorithm, signature) = (parts.any()?, parts.any()?, parts.expect(asn1::BIT_STRING)?);
    let mut fields = signed.inside();
    fields.optional(asn1::context(0))?;
    fields.expect(asn1::INTEGER)?;
    let same_algorithm = fields.expect(asn1::SEQUENCE)?.whole == algorithm.whole;
    let no_unused_bits = signature.value.first() == Some(&0);
    let signature = asn1::element(asn1::BIT_STRING, signature.value);
    let rebuilt = asn1::of(asn1::SEQUENCE, &[signed.whole, algorithm.whole, &signature]);
    Ok(same_algorithm && no_unused_bits && rebuilt == der)
}

fn text(attribute: &x509_parser::x509::AttributeTypeAndValue<'_>) -> Option<String> {
    attribute.as_str().ok().map(str::to_owned)
}

/// A distinguished name for people: printable and bounded.
pub(super) fn name_text(name: &X509Name<'_>) -> String {
    name.to_string().chars().filter(|char| !char.is_control()).take(MAX_NAME_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::SeededRandomness;
    use crate::pki::authority::{issue_server_certificate, make_tls_root};
    use crate::pki::fixtures::{self, NOW};
    use proptest::prelude::*;
    use std::time::Duration;

    fn server() -> Certificate {
        let random = SeededRandomness::new(3);
        let root = make_tls_root("Root", "Example", NOW, &random).unwrap();
        let names =
            ["mdm.example.org".to_owned(), "*.apps.example.org".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
        issue_server_certificate(&root, &names, NOW, Duration::from_secs(86_400 * 90), &random).unwrap().certificate
    }

    #[test]
    fn facts_are_read() {
        let ca = &fixtures::device_ca().certificate;
        assert!(ca.is_ca && ca.self_signed() && ca.may_sign);
        assert_eq!(ca.subject, "CN=Device CA, O=Example");
        assert_eq!(ca.common_name.as_deref(), Some("Device CA"));
        assert_eq!(Certificate::from_pem_many(ca.to_pem().as_bytes()).unwrap(), std::slice::from_ref(ca));
        assert_eq!(Certificate::from_file(ca.der()).unwrap(), std::slice::from_ref(ca));
        assert!(ca.has_fingerprint(&ca.sha1()) && ca.has_fingerprint(&ca.sha256.0));
        assert!(!ca.has_fingerprint(&[0; 20]) && !ca.has_fingerprint(&[]));
        let leaf = server();
        assert!(!leaf.is_ca && leaf.for_servers && !leaf.for_clients && !leaf.self_signed());
        for (host, covered) in [
            ("mdm.example.org", true),
            ("MDM.example.org.", true),
            ("a.apps.example.org", true),
            ("a.b.apps.example.org", false),
            ("apps.example.org", false),
            ("127.0.0.1", true),
            ("[::1]", true),
            ("127.0.0.2", false),
        ] {
            assert_eq!(leaf.covers(host), covered, "{host}");
        }
    }

    #[test]
    fn faults_are_named() {
        let ca = &fixtures::device_ca().certificate;
        for (bytes, expected) in [
            (b"nonsense".to_vec(), "is no certificate"),
            (ca.der()[..100].to_vec(), "is no certificate"),
            ([ca.der(), b"x"].concat(), "bytes after"),
            (vec![0x30; MAX_CERTIFICATE_BYTES + 1], "longer than"),
            (
                b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----".to_vec(),
                "certificate 1: is no certificate",
            ),
            (b"-----BEGIN X-----\nAAAA\n-----END X-----".to_vec(), "holds no certificate"),
        ] {
            let error = Certificate::from_file(&bytes).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn a_copy_that_differs_outside_the_signature_is_refused() {
        let ca = &fixtures::device_ca().certificate;
        let null = [0x05, 0x00, 0x03, 0x82];
        let at = ca.der().windows(4).rposition(|window| window == null).unwrap();
        let mut copy = ca.der().to_vec();
        copy[at] = 0x0c;
        let error = Certificate::from_der(&copy).unwrap_err().to_string();
        assert!(error.contains("unsigned parts were changed"), "{error}");
    }

    proptest! {
        #[test]
        fn damaged_certificates_never_panic(at in 0_usize..2000, byte in any::<u8>(), cut in 0_usize..2000) {
            let mut der = fixtures::device_ca().certificate.der().to_vec();
            let at = at % der.len();
            der[at] = byte;
            if let Ok(read) = Certificate::from_der(&der) {
                let _ = (read.self_signed(), read.openssl().is_ok());
            }
            let _ = Certificate::from_der(&der[..cut.min(der.len())]);
        }

        #[test]
        fn random_bytes_are_no_certificate(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            prop_assert!(Certificate::from_file(&bytes).is_err());
        }
    }
}
