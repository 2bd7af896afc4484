//! TLS of the listeners.
//!
//! A device listener asks for a client certificate and demands none: TLS proves that the peer has the key of the
//! certificate that it shows, and nothing else. Chain, expiry and pin are checked by the application at every request,
//! because one connection may carry many devices, and because a refusal should be an HTTP status with a reason in the
//! log rather than an alert.
//!
//! Browsers show a dialog when a server asks for a certificate, so the host names of the pages can be set apart
//! ([`Tls::with_pages`]): which is meant is read from the name that the client sends (SNI).

mod certificate;
mod client;
mod watch;

use std::io;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::{Acceptor, ProducesTickets, WantsServerCert};
use rustls::{ConfigBuilder, RootCertStore, ServerConfig};
use rustls_pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

pub use certificate::{CertificateFiles, ServerCertificate};
use client::AnyClient;
pub use watch::watch_files;

/// Why TLS cannot be set up, or a certificate cannot be taken over.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{path}: {source}")]
    Unreadable {
        /// The file.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// A file, or the given chain, holds no certificate.
    #[error("{0}: no certificate (expected PEM, the server's own certificate first)")]
    NoCertificate(String),
    /// A file holds no private key.
    #[error("{0}: no private key (expected PEM: PKCS#8, PKCS#1 or SEC1, not encrypted)")]
    NoKey(String),
    /// The key is another certificate's.
    #[error("the private key does not belong to the certificate")]
    KeyMismatch,
    /// A device CA's certificate cannot be read.
    #[error("device CA number {index}: {why}")]
    DeviceCa {
        /// Its place in the list, from 0.
        index: usize,
        /// Why.
        why: String,
    },
    /// The TLS library refuses something else.
    #[error("TLS: {0}")]
    Refused(#[from] rustls::Error),
}

/// The TLS of one listener: its server certificate, and whom it asks for a client certificate.
#[derive(Debug)]
pub struct Tls {
    provider: Arc<CryptoProvider>,
    main: ArcSwap<ServerConfig>,
    pages: Option<Pages>,
}

/// The host names whose visitors are not asked for a certificate.
#[derive(Debug)]
struct Pages {
    hosts: Vec<String>,
    config: Arc<ServerConfig>,
}

impl Tls {
    /// Asks every client for a certificate that one of the device CAs issued, and accepts clients without one.
    ///
    /// With an empty list nobody is asked: an empty hint would make browsers offer any certificate that they have.
    ///
    /// # Errors
    /// [`TlsError::DeviceCa`] if a CA's certificate cannot be read.
    pub fn for_devices(
        certificate: Arc<ServerCertificate>,
        device_cas: &[CertificateDer<'_>],
    ) -> Result<Self, TlsError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let config = config(&provider, device_cas, certificate, aws_lc_rs::Ticketer::new()?)?;
        Ok(Self { provider, main: ArcSwap::from_pointee(config), pages: None })
    }

    /// Asks nobody for a certificate: for the admin listener, and for a listener of pages alone.
    ///
    /// # Errors
    /// [`TlsError::Refused`] if the system gives no randomness.
    pub fn without_client_certificates(certificate: Arc<ServerCertificate>) -> Result<Self, TlsError> {
        Self::for_devices(certificate, &[])
    }

    /// Does not ask clients that connect to one of `hosts` (SNI; in any case of letters), and shows them `certificate`,
    /// which may be the same as the devices' or another.
    ///
    /// # Errors
    /// [`TlsError::Refused`] if the system gives no randomness.
    pub fn with_pages(mut self, hosts: &[String], certificate: Arc<ServerCertificate>) -> Result<Self, TlsError> {
        // A ticket key of its own, so that a session without a client certificate cannot be resumed on the devices' name.
        let config = config(&self.provider, &[], certificate, aws_lc_rs::Ticketer::new()?)?;
        let hosts = hosts.iter().map(|host| host.trim_end_matches('.').to_ascii_lowercase()).collect();
        self.pages = Some(Pages { hosts, config: Arc::new(config) });
        Ok(self)
    }

    /// Names other device CAs in the request for a certificate, from the next connection on.
    ///
    /// # Errors
    /// [`TlsError::DeviceCa`] if a certificate cannot be read; the earlier list stays.
    pub fn set_device_cas(&self, device_cas: &[CertificateDer<'_>]) -> Result<(), TlsError> {
        let old = self.main.load();
        let mut new =
            with_client_certificates(&self.provider, device_cas)?.with_cert_resolver(old.cert_resolver.clone());
        finish(&mut new, old.ticketer.clone());
        self.main.store(Arc::new(new));
        Ok(())
    }

    /// The configuration for a client that names this host, or none.
    #[must_use]
    pub fn config_for(&self, server_name: Option<&str>) -> Arc<ServerConfig> {
        if let (Some(pages), Some(name)) = (&self.pages, server_name)
            && pages.hosts.iter().any(|host| host.eq_ignore_ascii_case(name.trim_end_matches('.')))
        {
            return Arc::clone(&pages.config);
        }
        self.main.load_full()
    }

    /// Does the handshake. Takes as long as the client likes: the caller bounds the time.
    ///
    /// # Errors
    /// Whatever the connection fails with, or an alert's reason.
    pub async fn accept<IO: AsyncRead + AsyncWrite + Unpin>(&self, io: IO) -> io::Result<TlsStream<IO>> {
        let hello = LazyConfigAcceptor::new(Acceptor::default(), io).await?;
        let config = self.config_for(hello.client_hello().server_name());
        hello.into_stream(config).await
    }
}

fn config(
    provider: &Arc<CryptoProvider>,
    device_cas: &[CertificateDer<'_>],
    certificate: Arc<ServerCertificate>,
    ticketer: Arc<dyn ProducesTickets>,
) -> Result<ServerConfig, TlsError> {
    let mut config = with_client_certificates(provider, device_cas)?.with_cert_resolver(certificate);
    finish(&mut config, ticketer);
    Ok(config)
}

fn with_client_certificates(
    provider: &Arc<CryptoProvider>,
    device_cas: &[CertificateDer<'_>],
) -> Result<ConfigBuilder<ServerConfig, WantsServerCert>, TlsError> {
    let builder = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?;
    if device_cas.is_empty() {
        return Ok(builder.with_no_client_auth());
    }
    let mut roots = RootCertStore::empty();
    for (index, ca) in device_cas.iter().enumerate() {
        roots.add(ca.clone().into_owned()).map_err(|why| TlsError::DeviceCa { index, why: why.to_string() })?;
    }
    Ok(builder.with_client_cert_verifier(Arc::new(AnyClient::new(roots.subjects(), provider))))
}

/// What all configurations have in common.
fn finish(config: &mut ServerConfig, ticketer: Arc<dyn ProducesTickets>) {
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // Tickets rather than a cache: the client keeps the session, its certificate included, so that nobody can fill the
    // server's memory with sessions. One is enough, since a resumed handshake brings the next.
    config.ticketer = ticketer;
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    config.send_tls13_tickets = 1;
}

#[cfg(test)]
mod tests;
