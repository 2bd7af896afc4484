use crate::model::Sha256;

/// The certificate that a client has shown, as it came: nothing is known of it but that whoever handed it on vouches for
/// its possession. Its digest is made once, and is that of these bytes by construction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerCertificate {
    der: Vec<u8>,
    sha256: Sha256,
    chain: Vec<Vec<u8>>,
}

impl PeerCertificate {
    /// From its DER, and that of the further certificates that came with it.
    #[must_use]
    pub fn new(der: Vec<u8>, chain: Vec<Vec<u8>>) -> Self {
        Self { sha256: Sha256::of(&der), der, chain }
    }

    /// The client's own, as DER.
    #[must_use]
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// The digest of the client's own.
    #[must_use]
    pub fn sha256(&self) -> Sha256 {
        self.sha256
    }

    /// What else came with it, as DER: perhaps the certificates above it.
    #[must_use]
    pub fn chain(&self) -> &[Vec<u8>] {
        &self.chain
    }
}
