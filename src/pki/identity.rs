//! Stored certificates and keys in the forms that rustls takes.

use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use super::{Authority, Certificate, Error, PrivateKey, chain};
use crate::model::Secret;

/// A key with its certificate and the chain above it: what a TLS server, a TLS client or a signer presents.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The certificate.
    pub certificate: Certificate,
    /// The authorities above it, nearest first, without the root.
    pub chain: Vec<Certificate>,
    /// The key that belongs to the certificate.
    pub key: PrivateKey,
}

impl Identity {
    /// Puts together what stands in two files (or one, given twice): the certificate that belongs to the key, and the
    /// chain above it, in whatever order they stand there.
    ///
    /// # Errors
    /// [`Error::Invalid`] when a file cannot be read or no certificate belongs to the key.
    pub fn from_files(certificates: &[u8], key: &[u8], password: Option<&Secret<String>>) -> Result<Self, Error> {
        let key = PrivateKey::from_pem(key, password)?;
        Self::assemble(&Certificate::from_file(certificates)?, key)
    }

    /// Finds the certificate of `key` and its chain among `certificates`.
    ///
    /// # Errors
    /// [`Error::Invalid`] when none belongs to the key.
    pub fn assemble(certificates: &[Certificate], key: PrivateKey) -> Result<Self, Error> {
        let public = key.public_key_sha256()?;
        let Some(certificate) = certificates.iter().find(|certificate| certificate.public_key_sha256 == public) else {
            let first = certificates.first().map_or("none", |certificate| certificate.subject.as_str());
            return Err(Error::invalid(format!(
                "the private key does not belong to the certificate ({first}); expected the key that its request was made with"
            )));
        };
        let chain = chain::intermediates_of(certificate, certificates);
        Ok(Self { certificate: certificate.clone(), chain, key })
    }

    /// The certificate and its chain for rustls.
    #[must_use]
    pub fn rustls_chain(&self) -> Vec<CertificateDer<'static>> {
        std::iter::once(&self.certificate).chain(&self.chain).map(rustls_certificate).collect()
    }

    /// The key for rustls.
    #[must_use]
    pub fn rustls_key(&self) -> PrivateKeyDer<'static> {
        rustls_key(&self.key)
    }

    /// Certificate and chain as PEM.
    #[must_use]
    pub fn chain_pem(&self) -> String {
        std::iter::once(&self.certificate).chain(&self.chain).map(Certificate::to_pem).collect()
    }
}

impl From<Authority> for Identity {
    /// A leaf that was issued directly below its root.
    fn from(authority: Authority) -> Self {
        Self { certificate: authority.certificate, chain: Vec::new(), key: authority.key }
    }
}

/// A certificate for rustls.
#[must_use]
pub fn rustls_certificate(certificate: &Certificate) -> CertificateDer<'static> {
    CertificateDer::from(certificate.der().to_vec())
}

/// A key for rustls.
#[must_use]
pub fn rustls_key(key: &PrivateKey) -> PrivateKeyDer<'static> {
    PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.pkcs8_der().expose().clone()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::SeededRandomness;
    use crate::pki::authority::{issue_server_certificate, make_tls_root};
    use crate::pki::fixtures::{self, NOW};
    use std::time::Duration;

    #[test]
    fn files_in_any_order_become_an_identity_that_rustls_takes() {
        let random = SeededRandomness::new(4);
        let root = make_tls_root("Root", "Example", NOW, &random).unwrap();
        let names = ["mdm.example.org".to_owned()];
        let made = issue_server_certificate(&root, &names, NOW, Duration::from_secs(86_400), &random).unwrap();
        let file = [root.certificate.to_pem(), made.certificate.to_pem(), made.key.to_pem().expose().clone()].concat();
        let identity = Identity::from_files(file.as_bytes(), file.as_bytes(), None).unwrap();
        assert_eq!(identity.certificate, made.certificate);
        assert_eq!(identity.rustls_chain().len(), 1);
        let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(identity.rustls_chain(), identity.rustls_key())
            .unwrap();
        let other = Identity::assemble(&[made.certificate], fixtures::rsa(0).clone()).unwrap_err();
        assert!(other.to_string().contains("does not belong to the certificate (CN=mdm.example.org)"), "{other}");
    }
}
