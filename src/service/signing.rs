//! Signing what devices install.

use std::sync::Arc;
use std::time::Duration;

use rustls::RootCertStore;
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::aws_lc_rs;
use rustls::server::ParsedCertificate;
use rustls_pki_types::UnixTime;

use super::authorities::tls_identity;
use super::{App, Error};
use crate::config::{DeviceTls, ProfileSigning};
use crate::model::Timestamp;
use crate::pki;
use crate::store::Read;

/// The use of the certificate that signs profiles, among the server's own certificates.
pub const PROFILE_SIGNER: &str = "profile_signer";

/// Who signs a profile.
#[derive(Clone, Debug)]
pub struct Signer {
    /// Certificate, chain and key.
    pub identity: pki::Identity,
    /// The root above it, for a device that may not have it yet.
    pub root: Option<pki::Certificate>,
}

impl Signer {
    /// Signs a profile; the whole chain goes along.
    ///
    /// # Errors
    /// [`Error::Internal`].
    pub fn sign(&self, content: &[u8], now: Timestamp) -> Result<Vec<u8>, Error> {
        pki::profile::sign(content, &self.identity, self.root.as_ref(), now)
            .map_err(|e| Error::Internal(format!("a profile cannot be signed: {e}")))
    }
}

/// Signs a profile with the certificate that the settings choose.
///
/// # Errors
/// [`Error::Unavailable`] while there is no signing certificate.
pub async fn sign(app: &App, read: &mut Read, content: &[u8]) -> Result<Vec<u8>, Error> {
    signer(app, read).await?.sign(content, app.clock.now())
}

/// The certificate that the settings choose for signing profiles.
///
/// # Errors
/// [`Error::Unavailable`] while it is not there.
pub async fn signer(app: &App, read: &mut Read) -> Result<Signer, Error> {
    match app.settings.profiles.signing {
        ProfileSigning::Own => own_signer(app, read).await,
        ProfileSigning::Tls if app.settings.devices.tls == DeviceTls::Own => {
            let identity = super::authorities::own_tls_identity(app, read).await?;
            Ok(Signer { identity, root: own_root(read).await? })
        }
        ProfileSigning::Tls => match tls_identity(app).await? {
            Some(identity) => Ok(Signer { identity, root: None }),
            None => Err(Error::Unavailable(
                "profiles.signing is \"tls\", but behind a proxy this server has no TLS certificate".to_owned(),
            )),
        },
        ProfileSigning::Auto if app.settings.devices.tls == DeviceTls::Files => match tls_identity(app).await {
            Ok(Some(identity)) if is_publicly_trusted(&identity, app.clock.now()) => {
                Ok(Signer { identity, root: None })
            }
            _ => own_signer(app, read).await,
        },
        ProfileSigning::Auto => own_signer(app, read).await,
    }
}

/// Whether the chain leads to one of the public roots that are built in.
#[must_use]
pub fn is_publicly_trusted(identity: &pki::Identity, now: Timestamp) -> bool {
    let chain = identity.rustls_chain();
    let Some((leaf, intermediates)) = chain.split_first() else { return false };
    let Ok(leaf) = ParsedCertificate::try_from(leaf) else { return false };
    let roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    let seconds = u64::try_from(now.seconds()).unwrap_or(0);
    let provider = Arc::new(aws_lc_rs::default_provider());
    let algorithms = provider.signature_verification_algorithms.all;
    let now = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
    verify_server_cert_signed_by_trust_anchor(&leaf, &roots, intermediates, now, algorithms).is_ok()
}

async fn own_signer(app: &App, read: &mut Read) -> Result<Signer, Error> {
    let row = read
        .server_certificate(PROFILE_SIGNER)
        .await?
        .ok_or_else(|| Error::Unavailable("the server has no certificate that signs profiles".to_owned()))?;
    let identity = own_identity(app, &row.chain_pem, &row.key_sealed, PROFILE_SIGNER)?;
    Ok(Signer { identity, root: own_root(read).await? })
}

async fn own_root(read: &mut Read) -> Result<Option<pki::Certificate>, Error> {
    let root = read.authorities("tls").await?.into_iter().find(|authority| authority.slot.is_some());
    Ok(root.and_then(|row| pki::Certificate::from_der(&row.certificate).ok()))
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
