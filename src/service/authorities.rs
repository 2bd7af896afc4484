//! The authorities that the server keeps: device CAs, whose certificates devices authenticate with, and the root of the
//! server's own certificates.
//!
//! One device CA is active and issues; the others stay accepted until they are retired. What the server makes for
//! itself is in [`own`].

mod opened;
mod own;
mod tls;

use std::time::Duration;

use serde_json::json;

use super::audit::Subject;
use super::{Actor, App, Error, idempotency};
use crate::config::{DeviceTls, ProfileSigning, Settings};
use crate::model::{CaId, Secret, Timestamp};
use crate::pki::{self, Authority, Certificate, PrivateKey};
use crate::store::{AuthorityRow, Read, StoreError};

pub(super) use opened::{OpenedAuthorities, with_keys};
pub use own::{Prepared, Renewed, SERVER, ensure, ensure_with, renew_due};
pub(super) use tls::{own_tls_identity, tls_root_on};
pub use tls::{pages_identity, tls_identity, tls_root};

/// The purpose of authorities whose certificates devices authenticate with.
pub const DEVICE: &str = "device";
/// The purpose of the root of the server's own certificates.
pub const TLS: &str = "tls";
/// The slot of the one authority of a purpose that issues.
const ACTIVE: &str = "active";
/// Smallest RSA key of an imported device CA that issues, in bits.
const MIN_CA_BITS: u32 = 2048;
/// A device CA that issues needs a successor so long before its end: from a lifetime of its certificates before, these
/// end with it.
const SUCCESSOR: Duration = Duration::from_secs(2 * 365 * 86_400);
/// Another authority whose end is so near is worth a word.
const SOON: Duration = Duration::from_secs(365 * 86_400);
/// Longest name of an authority, in characters.
const MAX_NAME: usize = 200;

/// An authority for showing.
#[derive(Clone, Debug)]
pub struct Listed {
    /// Its id.
    pub id: CaId,
    /// [`DEVICE`] or [`TLS`].
    pub purpose: String,
    /// The name that it was given here.
    pub name: String,
    /// Its certificate.
    pub certificate: Certificate,
    /// Whether it issues.
    pub active: bool,
    /// Whether its key is here.
    pub has_key: bool,
    /// Whether its certificates are issued elsewhere, so that there is no issuing record here.
    pub issues_elsewhere: bool,
    /// When it was made or imported.
    pub created_at: Timestamp,
    /// How many device channels have a valid pin of one of its certificates.
    pub devices: i64,
}

/// A device CA to be accepted.
#[derive(Clone, Debug)]
pub struct Import {
    /// A name for people; the certificate's common name when empty.
    pub name: String,
    /// The certificate, PEM or DER.
    pub certificate: Vec<u8>,
    /// Its key, PEM or DER; none where it issues elsewhere.
    pub key: Option<Secret<Vec<u8>>>,
    /// The password of the key.
    pub password: Option<Secret<String>>,
    /// Whether its certificates are issued elsewhere: they are pinned at Authenticate without an issuing record here.
    pub issues_elsewhere: bool,
    /// Whether it issues from now on, in place of the one that does.
    pub activate: bool,
}

/// All authorities that are not retired: the device CAs, then the root of the server's own certificates.
///
/// # Errors
/// [`Error::Unavailable`].
pub async fn list(app: &App) -> Result<Vec<Listed>, Error> {
    let mut read = app.store.begin_read().await?;
    let mut listed = Vec::new();
    for purpose in [DEVICE, TLS] {
        for row in read.authorities(purpose).await? {
            listed.push(listing(&mut read, row).await?);
        }
    }
    Ok(listed)
}

/// One authority, retired or not.
///
/// # Errors
/// [`Error::NotFound`].
pub async fn get(app: &App, id: CaId) -> Result<Listed, Error> {
    let mut read = app.store.begin_read().await?;
    let row = read.authority(id).await?.ok_or_else(|| unknown(id))?;
    listing(&mut read, row).await
}

/// The device CA that issues, with its key.
///
/// # Errors
/// [`Error::Unavailable`] when there is none: [`ensure`] was not called.
pub async fn issuing_authority(app: &App) -> Result<(CaId, Authority), Error> {
    let row = active(&mut app.store.begin_read().await?, DEVICE).await?.ok_or_else(none_issues)?;
    Ok((row.id, authority_of(app, &row)?))
}

/// The certificate of the device CA that issues.
///
/// # Errors
/// As [`issuing_authority`].
pub async fn issuing_certificate(read: &mut Read) -> Result<(CaId, Certificate), Error> {
    let row = active(read, DEVICE).await?.ok_or_else(none_issues)?;
    let certificate = Certificate::from_der(&row.certificate);
    Ok((row.id, certificate.map_err(|e| Error::Internal(format!("authority {}: {e}", row.id)))?))
}

/// Accepts the certificates of another device CA, and perhaps issues from it.
///
/// # Errors
/// [`Error::Invalid`] when the certificate is none of a CA, has expired, or the key is another's; [`Error::Conflict`]
/// when it is accepted already.
pub async fn import(app: &App, actor: &Actor, import: Import) -> Result<Listed, Error> {
    let now = app.clock.now();
    let mut tx = app.store.begin_write().await?;
    if let Some(id) = idempotency::earlier::<CaId>(app, &mut tx, actor).await? {
        drop(tx);
        return get(app, id).await;
    }
    let (certificate, key) = check(&import, now)?;
    let sha256 = certificate.sha256;
    let known = tx.authority_by_sha256(DEVICE, sha256).await?;
    if known.as_ref().is_some_and(|row| row.retired_at.is_none()) {
        return Err(Error::conflict("authority_exists", "certificates of this authority are accepted already"));
    }
    let id = known.as_ref().map_or_else(|| CaId::new(now, &*app.random), |row| row.id);
    let row = AuthorityRow {
        id,
        purpose: DEVICE.to_owned(),
        slot: None,
        name: name_of(&import.name, &certificate),
        certificate: certificate.der().to_vec(),
        sha256,
        key_sealed: key.map(|key| app.seal(&key_context(id), key.pkcs8_der().expose())).transpose()?,
        issues_elsewhere: import.issues_elsewhere,
        not_after: certificate.not_after,
        created_at: now,
        retired_at: None,
    };
    if known.is_some() {
        tx.restore_authority(&row).await?;
    } else if !tx.insert_authority(&row).await? {
        return Err(StoreError::Conflict("authorities".to_owned()).into());
    }
    if import.activate {
        tx.activate_authority(id).await?;
    }
    let detail = json!({
        "name": row.name,
        "subject": certificate.subject,
        "sha256": sha256,
        "issues_elsewhere": row.issues_elsewhere,
        "with_key": row.key_sealed.is_some(),
        "active": import.activate,
    });
    app.audit(&mut tx, actor, "authority.imported", Subject { kind: "authority", id: &id.to_string() }, &detail, now)
        .await?;
    idempotency::remember(app, &mut tx, actor, &id).await?;
    tx.commit().await?;
    app.reload_trust().await?;
    get(app, id).await
}

/// Issues from this device CA from now on. The one that did stays accepted.
///
/// # Errors
/// [`Error::NotFound`]; [`Error::Conflict`] for one that is retired or whose key is not here.
pub async fn activate(app: &App, actor: &Actor, id: CaId) -> Result<Listed, Error> {
    let now = app.clock.now();
    let mut tx = app.store.begin_write().await?;
    let row = tx.authority(id).await?.filter(|row| row.purpose == DEVICE).ok_or_else(|| unknown(id))?;
    if row.retired_at.is_some() {
        return Err(Error::conflict("authority_retired", "the authority is retired; import it again"));
    }
    let authority = match row.key_sealed {
        Some(_) => authority_of(app, &row)?,
        None => {
            return Err(Error::conflict(
                "authority_without_key",
                "the key of this authority is not here, so it cannot issue; retire it and import it with its key",
            ));
        }
    };
    require_issuing_key(&authority.key)?;
    if row.slot.is_none() {
        tx.activate_authority(id).await?;
        let subject = Subject { kind: "authority", id: &id.to_string() };
        app.audit(&mut tx, actor, "authority.activated", subject, &json!({"name": row.name}), now).await?;
        tx.commit().await?;
    }
    get(app, id).await
}

/// Stops accepting the certificates of a device CA.
///
/// # Errors
/// [`Error::NotFound`]; [`Error::Conflict`] for the one that issues, and, unless `force` is set, where devices would be
/// locked out: it says how many.
pub async fn retire(app: &App, actor: &Actor, id: CaId, force: bool) -> Result<(), Error> {
    let now = app.clock.now();
    let mut tx = app.store.begin_write().await?;
    let row = tx.authority(id).await?.filter(|row| row.purpose == DEVICE).ok_or_else(|| unknown(id))?;
    if row.slot.is_some() {
        return Err(Error::conflict(
            "authority_active",
            "this authority issues the certificates of new devices; activate another one before",
        ));
    }
    let devices = tx.count_pins_of_authority(id).await?;
    if devices > 0 && !force {
        return Err(Error::conflict(
            "authority_in_use",
            format!(
                "{devices} enrolled devices authenticate with a certificate of this authority and would be locked out; \
                 renew their identities first, or send force=true to strand them"
            ),
        ));
    }
    if tx.retire_authority(id, now).await? {
        let detail = json!({"name": row.name, "devices": devices, "forced": force});
        let subject = Subject { kind: "authority", id: &id.to_string() };
        app.audit(&mut tx, actor, "authority.retired", subject, &detail, now).await?;
        tx.commit().await?;
    }
    app.reload_trust().await
}

/// What to do where an authority's end is near; none where it is not.
#[must_use]
pub fn ends_soon(row: &AuthorityRow, settings: &Settings, now: Timestamp) -> Option<&'static str> {
    let (issues, near) = (row.slot.is_some(), |span| row.not_after < now.plus(span));
    match row.purpose.as_str() {
        DEVICE if issues => near(SUCCESSOR).then_some(
            "import a successor and activate it (POST /api/v1/authorities): devices move to it as their certificates are \
             renewed",
        ),
        DEVICE => near(SOON).then_some(
            "devices that still authenticate with its certificates are locked out then: renew or enroll them anew, and \
             retire it",
        ),
        _ if settings.devices.tls == DeviceTls::Own => near(SOON).then_some(
            "devices do not trust this server any more then: give it a publicly trusted certificate before \
             (devices.tls = \"files\"; docs/operate/tls-and-proxies.md)",
        ),
        _ if settings.profiles.signing != ProfileSigning::Tls => near(SOON).then_some(
            "devices show the profiles that it signs as not verified then: sign them with the TLS certificate \
             (profiles.signing = \"tls\")",
        ),
        _ => None,
    }
}

/// The place for which an authority's key is sealed (PKCS#8 DER).
#[must_use]
pub fn key_context(id: CaId) -> String {
    format!("authorities.key:{id}")
}

/// The authority of a purpose that issues.
async fn active(read: &mut Read, purpose: &str) -> Result<Option<AuthorityRow>, Error> {
    Ok(read.authorities(purpose).await?.into_iter().find(|row| row.slot.as_deref() == Some(ACTIVE)))
}

/// A row with its key opened.
fn authority_of(app: &App, row: &AuthorityRow) -> Result<Authority, Error> {
    let damaged = |e: pki::Error| Error::Internal(format!("authority {}: {e}", row.id));
    let sealed = row.key_sealed.as_deref();
    let sealed = sealed.ok_or_else(|| Error::Internal(format!("the key of authority {} is not here", row.id)))?;
    let key = app.open(&key_context(row.id), sealed)?;
    let key = PrivateKey::from_der(key.expose()).map_err(damaged)?;
    Ok(Authority { certificate: Certificate::from_der(&row.certificate).map_err(damaged)?, key })
}

async fn listing(read: &mut Read, row: AuthorityRow) -> Result<Listed, Error> {
    let certificate = Certificate::from_der(&row.certificate)
        .map_err(|e| Error::Internal(format!("the certificate of authority {}: {e}", row.id)))?;
    Ok(Listed {
        id: row.id,
        active: row.slot.as_deref() == Some(ACTIVE),
        has_key: row.key_sealed.is_some(),
        devices: read.count_pins_of_authority(row.id).await?,
        purpose: row.purpose,
        name: row.name,
        certificate,
        issues_elsewhere: row.issues_elsewhere,
        created_at: row.created_at,
    })
}

fn check(import: &Import, now: Timestamp) -> Result<(Certificate, Option<PrivateKey>), Error> {
    let mut certificates = Certificate::from_file(&import.certificate).map_err(invalid)?.into_iter();
    let (Some(certificate), None) = (certificates.next(), certificates.next()) else {
        return Err(refused("expected exactly one certificate: the one of the authority that issues to devices"));
    };
    if !certificate.is_ca {
        return Err(refused(format!(
            "the certificate {} may not sign certificates (basicConstraints CA:TRUE, keyUsage keyCertSign)",
            certificate.subject
        )));
    }
    if certificate.not_after <= now {
        return Err(refused(format!("the certificate {} expired at {}", certificate.subject, certificate.not_after)));
    }
    let Some(key) = &import.key else {
        if import.activate {
            return Err(refused("an authority cannot issue here without its key"));
        }
        if !import.issues_elsewhere {
            return Err(refused(
                "without its key and without issues_elsewhere no certificate of this authority would ever be accepted",
            ));
        }
        return Ok((certificate, None));
    };
    let key = PrivateKey::from_pem(key.expose(), import.password.as_ref())
        .or_else(|e| PrivateKey::from_der(key.expose()).map_err(|_| e))
        .map_err(invalid)?;
    let authority = Authority::import(certificate, key).map_err(invalid)?;
    require_issuing_key(&authority.key)?;
    Ok((authority.certificate, Some(authority.key)))
}

/// Apple's SCEP client encrypts to the issuing authority, which takes RSA.
fn require_issuing_key(key: &PrivateKey) -> Result<(), Error> {
    if key.is_rsa() && key.bits() >= MIN_CA_BITS {
        return Ok(());
    }
    Err(refused(format!("the key of a device CA that issues must be RSA of at least {MIN_CA_BITS} bits, for SCEP")))
}

fn name_of(name: &str, certificate: &Certificate) -> String {
    let name = name.trim();
    let name = if name.is_empty() { certificate.common_name.as_deref().unwrap_or(&certificate.subject) } else { name };
    name.chars().filter(|char| !char.is_control()).take(MAX_NAME).collect()
}

fn none_issues() -> Error {
    Error::Unavailable("there is no device CA that issues".to_owned())
}

fn refused(detail: impl Into<String>) -> Error {
    Error::invalid("invalid_authority", detail)
}

fn invalid(error: pki::Error) -> Error {
    match error {
        pki::Error::Invalid(text) => refused(text),
        library @ pki::Error::Library(_) => Error::Internal(library.to_string()),
    }
}

fn unknown(id: CaId) -> Error {
    Error::NotFound(format!("there is no device authority {id}"))
}
