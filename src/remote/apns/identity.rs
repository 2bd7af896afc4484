use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::super::tls::ModelTime;
use crate::model::{Clock, Secret, Sha256};

/// The push certificate with its key: how Muster proves to APNs that it may push to a topic.
#[derive(Clone, Debug)]
pub struct ApnsIdentity {
    topic: String,
    chain: Vec<Vec<u8>>,
    key: Secret<Vec<u8>>,
    fingerprint: Sha256,
}

impl ApnsIdentity {
    /// From the topic (the UID in the certificate's subject), the certificate chain as DER, leaf first, and the leaf's
    /// private key as PKCS#8, PKCS#1 or SEC 1 DER. Whether they belong together shows when it is first used.
    #[must_use]
    pub fn new(topic: String, chain: Vec<Vec<u8>>, key: Secret<Vec<u8>>) -> Self {
        let lengths_and_bytes: Vec<u8> =
            chain.iter().flat_map(|der| der.len().to_be_bytes().into_iter().chain(der.iter().copied())).collect();
        let fingerprint = Sha256::of(&lengths_and_bytes);
        Self { topic, chain, key, fingerprint }
    }

    /// The topic, `com.apple.mgmt.…`.
    #[must_use]
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// Tells one certificate from its successor.
    #[must_use]
    pub fn fingerprint(&self) -> Sha256 {
        self.fingerprint
    }

    /// TLS that presents this identity and trusts `roots`.
    pub(super) fn tls_config(
        &self,
        roots: &Arc<RootCertStore>,
        clock: &Arc<dyn Clock>,
    ) -> Result<ClientConfig, String> {
        let unusable = |reason: String| format!("the push certificate for {} cannot be used: {reason}", self.topic);
        let chain = self.chain.iter().map(|der| CertificateDer::from(der.clone())).collect();
        let key = PrivateKeyDer::try_from(self.key.expose().clone())
            .map_err(|_| unusable("its key is neither PKCS#8 nor PKCS#1".to_owned()))?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_details(provider, Arc::new(ModelTime(Arc::clone(clock))))
            .with_safe_default_protocol_versions()
            .map_err(|error| unusable(error.to_string()))?
            .with_root_certificates(Arc::clone(roots))
            .with_client_auth_cert(chain, key)
            .map_err(|error| unusable(error.to_string()))?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fingerprint_follows_the_chain_and_debug_hides_the_key() {
        let identity = |chain: &[&[u8]]| {
            let chain = chain.iter().map(|der| der.to_vec()).collect();
            ApnsIdentity::new("com.apple.mgmt.External.a".to_owned(), chain, Secret::new(b"key".to_vec()))
        };
        assert_eq!(identity(&[b"ab", b"c"]).fingerprint(), identity(&[b"ab", b"c"]).fingerprint());
        assert_ne!(identity(&[b"ab", b"c"]).fingerprint(), identity(&[b"a", b"bc"]).fingerprint());
        assert!(format!("{:?}", identity(&[b"ab"])).contains("[redacted]"));
    }
}
