//! Certificates that were issued here: listed, shown and revoked.

use serde_json::json;

use super::audit::Subject;
use super::{Actor, App, Error};
use crate::model::{Sha256, Timestamp};
use crate::store::{CertificateFilter, ListedCertificate};

/// Longest reason that is kept, in characters.
const MAX_REASON: usize = 200;

/// The next certificates, newest first.
///
/// # Errors
/// [`Error::Unavailable`].
pub async fn list(
    app: &App,
    filter: &CertificateFilter,
    after: Option<(Timestamp, Sha256)>,
    limit: i64,
) -> Result<Vec<ListedCertificate>, Error> {
    Ok(app.store.begin_read().await?.list_certificates(filter, after, limit).await?)
}

/// One certificate.
///
/// # Errors
/// [`Error::NotFound`].
pub async fn get(app: &App, sha256: Sha256) -> Result<ListedCertificate, Error> {
    app.store.begin_read().await?.listed_certificate(sha256).await?.ok_or_else(|| not_found(sha256))
}

/// Revokes a certificate: no device authenticates with it from now on. One that was revoked before stays as it is.
///
/// # Errors
/// [`Error::NotFound`].
pub async fn revoke(app: &App, actor: &Actor, sha256: Sha256, reason: &str) -> Result<(), Error> {
    let now = app.clock.now();
    let reason: String = reason.chars().take(MAX_REASON).collect();
    let mut tx = app.store.begin_write().await?;
    let row = tx.listed_certificate(sha256).await?.ok_or_else(|| not_found(sha256))?;
    if tx.revoke_certificate(sha256, &reason, now).await? {
        let detail = json!({"serial": row.serial, "subject": row.subject, "device": row.device_id, "reason": reason});
        let subject = Subject { kind: "certificate", id: &sha256.hex() };
        app.audit(&mut tx, actor, "certificate.revoked", subject, &detail, now).await?;
        tx.commit().await?;
    }
    Ok(())
}

fn not_found(sha256: Sha256) -> Error {
    Error::NotFound(format!("no certificate with the digest {sha256} was issued here"))
}
