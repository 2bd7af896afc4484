use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::server::ParsedCertificate;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use rustls_pki_types::{CertificateDer, UnixTime};

/// A client's own certificate; a device's has about 1 KiB. Together with the chain it must fit into a ticket (64 KiB).
const MAX_LEAF_BYTES: usize = 16 * 1024;
/// What else a client may send of its chain.
const MAX_CHAIN: usize = 6;
const MAX_CHAIN_BYTES: usize = 32 * 1024;

/// Takes any certificate that can be read, if the client has its key.
///
/// Who issued it, whether it is still valid and whose it is, the application decides at every request: it can answer
/// with a status, allow a grace to a device that was switched off for long, and see a revocation at once.
#[derive(Debug)]
pub(super) struct AnyClient {
    hints: Vec<DistinguishedName>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl AnyClient {
    /// Names `hints` to the clients as the issuers of acceptable certificates.
    pub(super) fn new(hints: Vec<DistinguishedName>, provider: &CryptoProvider) -> Self {
        Self { hints, algorithms: provider.signature_verification_algorithms }
    }
}

impl ClientCertVerifier for AnyClient {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let chain_bytes: usize = intermediates.iter().map(|certificate| certificate.len()).sum();
        if end_entity.len() > MAX_LEAF_BYTES || intermediates.len() > MAX_CHAIN || chain_bytes > MAX_CHAIN_BYTES {
            return Err(Error::InvalidCertificate(CertificateError::BadEncoding));
        }
        ParsedCertificate::try_from(end_entity)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
