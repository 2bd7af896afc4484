//! HTTP clients for simulated devices.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::model::Clock;
use crate::pki::{Certificate, Identity, identity};

/// How long a server may take for one answer.
const TIME_OUT: Duration = Duration::from_secs(60);

/// Which servers a device believes.
#[derive(Clone, Debug)]
pub enum Trust {
    /// Those with a certificate of a public authority, or of one of these.
    Roots(Vec<Certificate>),
    /// Everyone: as a person does who taps "Continue" at the browser's warning.
    Anyone,
}

/// A client for plain HTTP: it trusts no certificate.
pub(super) fn plain_client() -> Result<reqwest::Client, String> {
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    build(config, None)
}

/// A client that believes the servers in `trust` and shows `identity` to those that ask for a certificate. It connects
/// to `connect_to`, if that is given, whatever host name a URL has.
pub(super) fn client(
    trust: &Trust,
    identity: Option<&Identity>,
    connect_to: Option<SocketAddr>,
    clock: &Arc<dyn Clock>,
) -> Result<reqwest::Client, String> {
    let builder = ClientConfig::builder_with_details(provider(), Arc::new(ModelTime(Arc::clone(clock))))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let builder = match trust {
        Trust::Anyone => builder.dangerous().with_custom_certificate_verifier(Arc::new(BelieveAnyone(provider()))),
        Trust::Roots(roots) => {
            let mut store = RootCertStore::empty();
            store.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
            for root in roots {
                store.add(identity::rustls_certificate(root)).map_err(|error| error.to_string())?;
            }
            builder.with_root_certificates(store)
        }
    };
    let config = match identity {
        None => builder.with_no_client_auth(),
        Some(identity) => builder
            .with_client_auth_cert(identity.rustls_chain(), identity.rustls_key())
            .map_err(|error| error.to_string())?,
    };
    build(config, connect_to)
}

fn build(config: ClientConfig, connect_to: Option<SocketAddr>) -> Result<reqwest::Client, String> {
    let mut builder = reqwest::Client::builder();
    if let Some(address) = connect_to {
        builder = builder.dns_resolver(Arc::new(Always(address)));
    }
    builder
        .use_preconfigured_tls(config)
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .tcp_nodelay(true)
        .pool_max_idle_per_host(1)
        .timeout(TIME_OUT)
        .build()
        .map_err(|error| error.to_string())
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// Knows one address for every name. Its port counts where a URL names none.
struct Always(SocketAddr);

impl Resolve for Always {
    fn resolve(&self, _name: Name) -> Resolving {
        let addresses: Addrs = Box::new(std::iter::once(self.0));
        Box::pin(std::future::ready(Ok(addresses)))
    }
}

/// The model's clock, for the validity of certificates.
struct ModelTime(Arc<dyn Clock>);

impl TimeProvider for ModelTime {
    fn current_time(&self) -> Option<UnixTime> {
        let seconds = u64::try_from(self.0.now().seconds()).ok()?;
        Some(UnixTime::since_unix_epoch(Duration::from_secs(seconds)))
    }
}

impl fmt::Debug for ModelTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ModelTime")
    }
}

/// Takes any certificate whose key the server has.
#[derive(Debug)]
struct BelieveAnyone(Arc<CryptoProvider>);

impl ServerCertVerifier for BelieveAnyone {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
