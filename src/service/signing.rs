//! Signing what devices install.

use super::{App, Error};
use crate::model::Timestamp;
use crate::pki;
use crate::store::{Read, Write};

/// The use of the certificate that signs profiles, among the server's own certificates.
pub const PROFILE_SIGNER: &str = "profile_signer";

/// Signs a profile with the certificate that the settings choose.
///
/// # Errors
/// [`Error::Unavailable`] while there is no signing certificate.
pub async fn sign(app: &App, tx: &mut Write, content: &[u8]) -> Result<Vec<u8>, Error> {
    let now = app.clock.now();
    let (signer, root) = signer(app, tx).await?;
    pki::profile::sign(content, &signer, root.as_ref(), now)
        .map_err(|e| Error::Internal(format!("a profile cannot be signed: {e}")))
}

async fn signer(app: &App, read: &mut Read) -> Result<(pki::Identity, Option<pki::Certificate>), Error> {
    let row = read
        .server_certificate(PROFILE_SIGNER)
        .await?
        .ok_or_else(|| Error::Unavailable("the server has no certificate that signs profiles".to_owned()))?;
    let identity = own_identity(app, &row.chain_pem, &row.key_sealed, PROFILE_SIGNER)?;
    let root = read.authorities("tls").await?.into_iter().find(|authority| authority.slot.is_some());
    let root = root.and_then(|row| pki::Certificate::from_der(&row.certificate).ok());
    Ok((identity, root))
}

/// A certificate of the server's own, with its key.
///
/// # Errors
/// [`Error::Internal`] where it is damaged.
pub fn own_identity(app: &App, chain_pem: &str, key_sealed: &[u8], name: &str) -> Result<pki::Identity, Error> {
    let damaged = |e: pki::Error| Error::Internal(format!("the server's own certificate {name}: {e}"));
    let key = app.open(&own_key_context(name), key_sealed)?;
    let key = pki::PrivateKey::from_der(key.expose()).map_err(damaged)?;
    let chain = pki::Certificate::from_pem_many(chain_pem.as_bytes()).map_err(damaged)?;
    pki::Identity::assemble(&chain, key).map_err(damaged)
}

/// The place for which the key of a certificate of the server's own is sealed (PKCS#8 DER).
#[must_use]
pub fn own_key_context(name: &str) -> String {
    format!("server_certificates.key:{name}")
}

/// A certificate is renewed when less than this part of its life is left: a third.
#[must_use]
pub fn is_due(created_at: Timestamp, not_after: Timestamp, now: Timestamp) -> bool {
    let life = not_after.since(created_at);
    now.plus(life / 3) >= not_after
}
