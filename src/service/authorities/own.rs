//! What the server makes for itself: a device CA, a root of its own certificates, and below that the certificate of its
//! listeners and the one that signs profiles.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::json;

use super::super::audit::Subject;
use super::super::signing::{PROFILE_SIGNER, is_due, own_identity, own_key_context};
use super::super::{Actor, App, Error};
use super::{ACTIVE, DEVICE, TLS, active, authority_of, key_context};
use crate::config::DeviceTls;
use crate::model::{CaId, Timestamp};
use crate::pki::authority::{
    DEVICE_CA_BITS, MAX_SERVER_VALIDITY, issue_profile_signer, issue_server_certificate, make_device_ca, make_tls_root,
};
use crate::pki::{self, Authority, PrivateKey};
use crate::store::{AuthorityRow, ServerCertificateRow};

/// The use of the listeners' certificate, among the server's own certificates.
pub const SERVER: &str = "tls";

/// Size of the profile signer's key, in bits.
const SIGNER_BITS: u32 = 2048;
/// Most names in the listeners' certificate: it goes over the wire with each handshake.
const MAX_NAMES: usize = 20;
/// How often a certificate is tried to be replaced when other processes do the same.
const TRIES: usize = 3;

/// RSA keys that were made beforehand, since making them takes a second. What is none is made when it is needed.
#[derive(Clone, Debug, Default)]
pub struct Prepared {
    /// For the device CA, of [`DEVICE_CA_BITS`].
    pub device_ca: Option<PrivateKey>,
    /// For the profile signer.
    pub profile_signer: Option<PrivateKey>,
}

/// Which of the server's own certificates were replaced by a new one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Renewed {
    /// The listeners' certificate.
    pub tls: bool,
    /// The profile signer's.
    pub profile_signer: bool,
}

/// Makes what is missing: the device CA, the TLS root, the profile signer and, for `devices.tls = "own"`, the
/// listeners' certificate. Then reads the list of trusted authorities.
///
/// Does nothing where all is there. Several processes may do it at once on one database: one of each is made.
///
/// # Errors
/// [`Error::Unavailable`]; [`Error::Internal`] where a key cannot be made or opened.
pub async fn ensure(app: &App) -> Result<(), Error> {
    ensure_with(app, Prepared::default()).await
}

/// As [`ensure`], with keys that were made beforehand.
///
/// # Errors
/// As [`ensure`].
pub async fn ensure_with(app: &App, mut prepared: Prepared) -> Result<(), Error> {
    let mut read = app.store.begin_read().await?;
    let has_device_ca = active(&mut read, DEVICE).await?.is_some();
    let has_root = active(&mut read, TLS).await?.is_some();
    drop(read);
    let organization = app.settings.organization.name.as_str();
    if !has_device_ca {
        let key = rsa_key(prepared.device_ca.take(), DEVICE_CA_BITS).await?;
        let name = format!("{organization} Device CA");
        let made = make_device_ca(&key, &name, organization, app.clock.now(), &*app.random).map_err(|e| failed(&e))?;
        keep(app, DEVICE, &name, &made).await?;
    }
    if !has_root {
        let name = format!("{organization} TLS Root");
        let made = make_tls_root(&name, organization, app.clock.now(), &*app.random).map_err(|e| failed(&e))?;
        keep(app, TLS, &name, &made).await?;
    }
    renew(app, prepared).await?;
    app.reload_trust().await
}

/// Replaces the listeners' certificate and the profile signer when a third of their life is left, and the listeners'
/// also when the names have changed that devices and people reach the server by. Idempotent; called at the start and by the scheduler.
///
/// # Errors
/// [`Error::Unavailable`]; [`Error::Internal`] where a key cannot be made or opened.
pub async fn renew_due(app: &App) -> Result<Renewed, Error> {
    renew(app, Prepared::default()).await
}

async fn renew(app: &App, prepared: Prepared) -> Result<Renewed, Error> {
    let mut renewed = Renewed::default();
    if app.settings.devices.tls == DeviceTls::Own {
        renewed.tls = renew_one(app, SERVER, &server_names(app).await?, None).await?;
    }
    renewed.profile_signer = renew_one(app, PROFILE_SIGNER, &[], prepared.profile_signer).await?;
    Ok(renewed)
}

/// The names that devices and people reach the server by: those of the settings, and those that enrolled devices were
/// given before the settings were changed, since a device keeps its URL.
async fn server_names(app: &App) -> Result<Vec<String>, Error> {
    let mut names = vec![app.settings.public_url.host(), app.settings.pages_url().host()];
    names.dedup();
    let mut earlier = BTreeSet::new();
    for under in app.store.begin_read().await?.enabled_by_terms().await? {
        earlier.extend([under.server_url, under.checkin_url].into_iter().flatten().filter_map(|url| host_of(&url)));
    }
    for name in earlier {
        if names.len() < MAX_NAMES && !names.contains(&name) {
            names.push(name);
        }
    }
    Ok(names)
}

/// A URL's host, an IPv6 address without brackets.
fn host_of(url: &str) -> Option<String> {
    match url::Url::parse(url).ok()?.host()? {
        url::Host::Domain(name) => Some(name.to_owned()),
        url::Host::Ipv4(address) => Some(address.to_string()),
        url::Host::Ipv6(address) => Some(address.to_string()),
    }
}

async fn renew_one(
    app: &App,
    name: &'static str,
    names: &[String],
    mut prepared: Option<PrivateKey>,
) -> Result<bool, Error> {
    let wanted = names.join(",");
    for _ in 0..TRIES {
        let now = app.clock.now();
        let mut read = app.store.begin_read().await?;
        let current = read.server_certificate(name).await?;
        let root = active(&mut read, TLS).await?;
        drop(read);
        let root = root.ok_or_else(|| Error::Internal("the root of the server's certificates is gone".to_owned()))?;
        let root = authority_of(app, &root)?;
        if let Some(row) = &current {
            // Opened so that a wrong master key is noticed at the start, and not at the first handshake.
            let identity = own_identity(app, &row.chain_pem, &row.key_sealed, name)?;
            let ends = row.not_after.min(identity.certificate.not_after);
            if row.names == wanted && !is_due(row.created_at, ends, now) {
                return Ok(false);
            }
        }
        let made = if name == SERVER {
            issue_server_certificate(&root, names, now, MAX_SERVER_VALIDITY, &*app.random).map_err(|e| failed(&e))?
        } else {
            let key = rsa_key(prepared.take(), SIGNER_BITS).await?;
            let shown = &app.settings.organization.name;
            issue_profile_signer(&root, key, shown, now, MAX_SERVER_VALIDITY, &*app.random).map_err(|e| failed(&e))?
        };
        let seen = current.as_ref().map(|row| row.created_at);
        // The time tells one replacement from the next, so it moves on even where the clock does not.
        let created_at = seen.map_or(now, |seen| now.max(seen.plus(Duration::from_micros(1))));
        if replace(app, name, &wanted, &made, seen, created_at, now).await? {
            return Ok(current.is_some());
        }
        // Another process replaced it in the meantime: look at what it made.
    }
    Ok(false)
}

async fn replace(
    app: &App,
    name: &'static str,
    names: &str,
    made: &Authority,
    seen: Option<Timestamp>,
    created_at: Timestamp,
    now: Timestamp,
) -> Result<bool, Error> {
    let row = ServerCertificateRow {
        name: name.to_owned(),
        chain_pem: made.certificate.to_pem(),
        key_sealed: app.seal(&own_key_context(name), made.key.pkcs8_der().expose())?,
        names: names.to_owned(),
        not_after: made.certificate.not_after,
        created_at,
    };
    let mut tx = app.store.begin_write().await?;
    if !tx.put_server_certificate(&row, seen).await? {
        return Ok(false);
    }
    let action = if seen.is_some() { "server_certificate.renewed" } else { "server_certificate.made" };
    let detail = json!({"names": names, "not_after": row.not_after, "sha256": made.certificate.sha256});
    let subject = Subject { kind: "server_certificate", id: name };
    app.audit(&mut tx, &Actor::server(), action, subject, &detail, now).await?;
    tx.commit().await?;
    Ok(true)
}

/// Keeps a new authority as the one that issues, unless another process was faster.
async fn keep(app: &App, purpose: &'static str, name: &str, made: &Authority) -> Result<(), Error> {
    let now = app.clock.now();
    let id = CaId::new(now, &*app.random);
    let row = AuthorityRow {
        id,
        purpose: purpose.to_owned(),
        slot: Some(ACTIVE.to_owned()),
        name: name.to_owned(),
        certificate: made.certificate.der().to_vec(),
        sha256: made.certificate.sha256,
        key_sealed: Some(app.seal(&key_context(id), made.key.pkcs8_der().expose())?),
        issues_elsewhere: false,
        not_after: made.certificate.not_after,
        created_at: now,
        retired_at: None,
    };
    let mut tx = app.store.begin_write().await?;
    if !tx.insert_authority(&row).await? {
        return Ok(());
    }
    let detail = json!({"purpose": purpose, "subject": made.certificate.subject, "sha256": row.sha256});
    let subject = Subject { kind: "authority", id: &id.to_string() };
    app.audit(&mut tx, &Actor::server(), "authority.made", subject, &detail, now).await?;
    tx.commit().await?;
    Ok(())
}

/// A key that was made beforehand, or a new one, made off the async threads.
async fn rsa_key(prepared: Option<PrivateKey>, bits: u32) -> Result<PrivateKey, Error> {
    match prepared {
        Some(key) => Ok(key),
        None => tokio::task::spawn_blocking(move || PrivateKey::generate_rsa(bits))
            .await
            .map_err(|e| Error::Internal(format!("making a key was interrupted: {e}")))?
            .map_err(|e| failed(&e)),
    }
}

fn failed(error: &pki::Error) -> Error {
    Error::Internal(format!("a certificate of the server's own cannot be made: {error}"))
}
