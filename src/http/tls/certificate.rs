use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use rustls::InconsistentKeys;
use rustls::crypto::aws_lc_rs;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio_util::sync::CancellationToken;

use super::{TlsError, watch_files};

/// The certificate that a listener shows, replaceable while it runs: connections from then on see the new one.
#[derive(Debug, Default)]
pub struct ServerCertificate {
    current: ArcSwapOption<CertifiedKey>,
}

impl ServerCertificate {
    /// The server's certificate with its chain, own certificate first, and its key.
    ///
    /// # Errors
    /// As for [`ServerCertificate::replace`].
    pub fn new(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Result<Self, TlsError> {
        let new = Self::default();
        new.replace(chain, key)?;
        Ok(new)
    }

    /// Shows another certificate from now on.
    ///
    /// # Errors
    /// [`TlsError::NoCertificate`], [`TlsError::KeyMismatch`], or [`TlsError::Refused`] for a key of an unknown kind. The
    /// earlier certificate stays.
    pub fn replace(&self, chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Result<(), TlsError> {
        if chain.is_empty() {
            return Err(TlsError::NoCertificate("the chain".to_owned()));
        }
        let new = CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider()).map_err(|why| match why {
            rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => TlsError::KeyMismatch,
            other => TlsError::Refused(other),
        })?;
        self.current.store(Some(Arc::new(new)));
        Ok(())
    }

    /// The chain that is shown now, own certificate first; empty before the first.
    #[must_use]
    pub fn chain(&self) -> Vec<CertificateDer<'static>> {
        self.current.load().as_ref().map(|current| current.cert.clone()).unwrap_or_default()
    }
}

impl ResolvesServerCert for ServerCertificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.current.load_full()
    }
}

/// A server certificate in files that something else (an ACME client, an admin) keeps up to date.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The certificate and its chain, PEM, own certificate first.
    pub chain: PathBuf,
    /// The private key, PEM. May be the same file.
    pub key: PathBuf,
}

impl CertificateFiles {
    /// Reads both files. Blocks: for the start of the program.
    ///
    /// # Errors
    /// [`TlsError`] with the file's name.
    pub fn load(&self) -> Result<ServerCertificate, TlsError> {
        let read = |path: &Path| {
            std::fs::read(path).map_err(|source| TlsError::Unreadable { path: path.display().to_string(), source })
        };
        let (chain, key) = self.parse(&read(&self.chain)?, &read(&self.key)?)?;
        ServerCertificate::new(chain, key)
    }

    /// Looks at the files every `every` and shows what they hold, until `stop`. A pair that does not fit (half written,
    /// or only one of them replaced so far) is logged and changes nothing.
    pub async fn keep_fresh(self, certificate: Arc<ServerCertificate>, every: Duration, stop: CancellationToken) {
        let paths = vec![self.chain.clone(), self.key.clone()];
        watch_files(paths, every, stop, move |contents| {
            let [chain, key] = contents else {
                return;
            };
            match self.parse(chain, key).and_then(|(chain, key)| certificate.replace(chain, key)) {
                Ok(()) => tracing::info!(file = %self.chain.display(), "the server certificate was reloaded"),
                Err(why) => tracing::warn!(file = %self.chain.display(), %why,
                    "the server certificate changed but cannot be used; the earlier one stays"),
            }
        })
        .await;
    }

    fn parse(
        &self,
        chain: &[u8],
        key: &[u8],
    ) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsError> {
        let no_certificate = || TlsError::NoCertificate(self.chain.display().to_string());
        let chain =
            CertificateDer::pem_slice_iter(chain).collect::<Result<Vec<_>, _>>().map_err(|_| no_certificate())?;
        if chain.is_empty() {
            return Err(no_certificate());
        }
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| TlsError::NoKey(self.key.display().to_string()))?;
        Ok((chain, key))
    }
}
