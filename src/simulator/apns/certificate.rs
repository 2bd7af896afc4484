use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, ServerConfig, SignatureScheme,
    version,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use super::Options;
use crate::model::{Clock, Timestamp};

/// The object identifier of UID, where Apple puts the topic. Source: RFC 4519, section 2.39.
const UID: &str = "0.9.2342.19200300.100.1.1";

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// The server's certificate and what it asks of clients.
pub(super) struct ServerIdentity {
    root: CertificateDer<'static>,
    root_pem: String,
    pub(super) config: Arc<ServerConfig>,
    pub(super) clients: Arc<ClientCheck>,
}

impl ServerIdentity {
    /// Makes a certificate authority and a server certificate under it, both valid for a year.
    pub(super) fn make(options: &Options, clock: Arc<dyn Clock>) -> Result<Self, String> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let clients = Arc::new(ClientCheck::new(&options.client_authorities, &provider)?);
        let now = clock.now();
        let root = certificate_authority(now).map_err(|error| error.to_string())?;
        let (leaf, key) = leaf(&options.names, now, &root).map_err(|error| error.to_string())?;
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&version::TLS13, &version::TLS12])
            .map_err(|error| error.to_string())?
            .with_client_cert_verifier(Arc::new(ProofOfPossession { provider, clock }))
            .with_single_cert(vec![leaf], key)
            .map_err(|error| error.to_string())?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Self { root: root.der().clone(), root_pem: root.pem(), config: Arc::new(config), clients })
    }

    pub(super) fn root_der(&self) -> Vec<u8> {
        self.root.to_vec()
    }

    pub(super) fn root_pem(&self) -> String {
        self.root_pem.clone()
    }
}

fn certificate_authority(now: Timestamp) -> Result<CertifiedIssuer<'static, KeyPair>, rcgen::Error> {
    let mut params = CertificateParams::default();
    name(&mut params, "Simulated push service authority");
    valid_around(&mut params, now);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    CertifiedIssuer::self_signed(params, KeyPair::generate()?)
}

fn leaf(
    names: &[String],
    now: Timestamp,
    issuer: &CertifiedIssuer<'static, KeyPair>,
) -> Result<(CertificateDer<'static>, PrivateKeyDer<'static>), rcgen::Error> {
    let mut params = CertificateParams::new(names)?;
    params.subject_alt_names.extend([
        SanType::DnsName("localhost".try_into()?),
        SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        SanType::IpAddress(IpAddr::V6(Ipv6Addr::LOCALHOST)),
    ]);
    name(&mut params, "Simulated push service");
    valid_around(&mut params, now);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, issuer)?;
    Ok((certificate.der().clone(), PrivateKeyDer::from(key)))
}

fn name(params: &mut CertificateParams, common_name: &str) {
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
}

fn valid_around(params: &mut CertificateParams, now: Timestamp) {
    params.not_before = now.minus(DAY).to_datetime();
    params.not_after = now.plus(365 * DAY).to_datetime();
}

/// Who a connection comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Client {
    /// A holder of a push certificate for this topic.
    Topic(String),
    /// Someone with another certificate. Apple answers each of its requests with 403 BadCertificate.
    BadCertificate,
}

/// Judges client certificates, after the handshake.
pub(super) struct ClientCheck {
    authorities: Option<Arc<dyn ClientCertVerifier>>,
}

impl ClientCheck {
    fn new(authorities: &[Vec<u8>], provider: &Arc<CryptoProvider>) -> Result<Self, String> {
        if authorities.is_empty() {
            return Ok(Self { authorities: None });
        }
        let mut roots = RootCertStore::empty();
        for der in authorities {
            roots.add(CertificateDer::from(der.clone())).map_err(|error| error.to_string())?;
        }
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider)).build();
        Ok(Self { authorities: Some(verifier.map_err(|error| error.to_string())?) })
    }

    /// Judges a chain, leaf first.
    pub(super) fn check(&self, chain: &[CertificateDer<'_>], now: Timestamp) -> Client {
        self.topic(chain, now).map_or(Client::BadCertificate, Client::Topic)
    }

    fn topic(&self, chain: &[CertificateDer<'_>], now: Timestamp) -> Option<String> {
        let (leaf, intermediates) = chain.split_first()?;
        let seconds = u64::try_from(now.seconds()).ok()?;
        if let Some(verifier) = &self.authorities {
            let at = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
            verifier.verify_client_cert(leaf, intermediates, at).ok()?;
        }
        let (_, certificate) = X509Certificate::from_der(leaf).ok()?;
        certificate
            .subject()
            .iter_attributes()
            .filter(|attribute| attribute.attr_type().to_id_string() == UID)
            .find_map(|attribute| attribute.as_str().ok())
            .filter(|topic| topic.starts_with("com.apple.mgmt."))
            .map(str::to_owned)
    }
}

/// Demands a client certificate that is valid now, and the proof that the client has its key. Who it is gets judged
/// later, in HTTP.
struct ProofOfPossession {
    provider: Arc<CryptoProvider>,
    clock: Arc<dyn Clock>,
}

impl ClientCertVerifier for ProofOfPossession {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let (_, certificate) = X509Certificate::from_der(end_entity)
            .map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))?;
        let (now, validity) = (self.clock.now().seconds(), certificate.validity());
        if now < validity.not_before.timestamp() {
            return Err(Error::InvalidCertificate(CertificateError::NotValidYet));
        }
        if now > validity.not_after.timestamp() {
            return Err(Error::InvalidCertificate(CertificateError::Expired));
        }
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

impl fmt::Debug for ProofOfPossession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ProofOfPossession")
    }
}
