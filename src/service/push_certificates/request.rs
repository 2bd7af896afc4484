use serde::{Deserialize, Serialize};
use serde_json::json;

use super::super::audit::Subject;
use super::super::{Actor, App, Error, Fault, idempotency};
use crate::model::{PushRequestId, Timestamp};
use crate::pki::push::{self, PUSH_KEY_BITS, Vendor};
use crate::pki::{CertificateRequest, PrivateKey};
use crate::store::PushRequestRow;

/// Longest common name, characters (RFC 5280, appendix A.1, ub-common-name).
const MAX_NAME: usize = 64;
/// Longest e-mail address, characters.
const MAX_EMAIL: usize = 128;

/// What stands in a request. Apple takes no notice of it; people who look at the certificate may.
#[derive(Clone, Debug, Default)]
pub struct NewRequest {
    /// The name in it; the organization's where nothing is said.
    pub name: Option<String>,
    /// An e-mail address.
    pub email: Option<String>,
}

/// A request for a push certificate, whose key is kept here.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Requested {
    /// Its id.
    pub id: PushRequestId,
    /// The request itself, PEM.
    pub csr_pem: String,
    /// The request signed by the vendor, as Apple's portal takes it; none where no vendor certificate is set.
    pub signed_request: Option<String>,
    /// When it was made.
    pub created_at: Timestamp,
    /// By whom.
    pub created_by: String,
    /// When the certificate that answers it came.
    pub answered_at: Option<Timestamp>,
}

/// Makes a key and the request that Apple turns into a push certificate. The key never leaves the server.
///
/// # Errors
/// [`Error::Invalid`] with all faults; [`Error::Conflict`] `vendor_certificate` when the vendor's files cannot be used:
/// then nothing is kept.
pub async fn request(app: &App, actor: &Actor, new: NewRequest) -> Result<Requested, Error> {
    let now = app.clock.now();
    let name = new.name.unwrap_or_else(|| app.settings.organization.name.chars().take(MAX_NAME).collect());
    check(&name, new.email.as_deref())?;
    let vendor = vendor(app).await?;
    let failed = |e: crate::pki::Error| Error::Internal(format!("a request for a push certificate: {e}"));
    let make = move || {
        let key = PrivateKey::generate_rsa(PUSH_KEY_BITS)?;
        let request = push::request(&key, &name, new.email.as_deref())?;
        Ok((key, request))
    };
    let (key, csr) = blocking(make).await?.map_err(failed)?;
    let id = PushRequestId::new(now, &*app.random);
    let row = PushRequestRow {
        id,
        csr_pem: csr.to_pem(),
        public_key_sha256: csr.public_key_sha256,
        key_sealed: app.seal(&key_context(id), key.pkcs8_der().expose())?,
        created_at: now,
        created_by: actor.name.clone(),
        answered_at: None,
    };
    let requested = signed(row.clone(), vendor.as_ref())?;
    let mut tx = app.store.begin_write().await?;
    if let Some(earlier) = idempotency::earlier(app, &mut tx, actor).await? {
        return Ok(earlier);
    }
    tx.insert_push_request(&row).await?;
    let subject = Subject { kind: "push_request", id: &id.to_string() };
    let detail = json!({ "subject": csr.subject });
    app.audit(&mut tx, actor, "push_request.created", subject, &detail, now).await?;
    idempotency::remember(app, &mut tx, actor, &requested).await?;
    tx.commit().await?;
    Ok(requested)
}

/// Requests that were made before this one, newest first, without the vendor's signature.
///
/// # Errors
/// [`Error::Unavailable`].
pub async fn requests(app: &App, before: Option<PushRequestId>, limit: i64) -> Result<Vec<Requested>, Error> {
    let rows = app.store.begin_read().await?.push_requests(before, limit).await?;
    rows.into_iter().map(|row| signed(row, None)).collect()
}

/// One request, signed by the vendor where one is set.
///
/// # Errors
/// [`Error::NotFound`]; [`Error::Conflict`] `vendor_certificate` when the vendor's files cannot be used.
pub async fn requested(app: &App, id: PushRequestId) -> Result<Requested, Error> {
    let row = app.store.begin_read().await?.push_request(id).await?.ok_or_else(|| not_found(id))?;
    signed(row, vendor(app).await?.as_ref())
}

/// Forgets a request and its key. A certificate that was stored for it keeps its key.
///
/// # Errors
/// [`Error::NotFound`].
pub async fn remove_request(app: &App, actor: &Actor, id: PushRequestId) -> Result<(), Error> {
    let now = app.clock.now();
    let mut tx = app.store.begin_write().await?;
    if !tx.delete_push_request(id).await? {
        return Err(not_found(id));
    }
    let subject = Subject { kind: "push_request", id: &id.to_string() };
    app.audit(&mut tx, actor, "push_request.removed", subject, &json!({}), now).await?;
    tx.commit().await?;
    Ok(())
}

/// The place for which the key of a request is sealed (PKCS#8 DER).
pub(in crate::service) fn key_context(id: PushRequestId) -> String {
    format!("push_requests.key:{id}")
}

/// Runs what takes the processor for tenths of a second where it holds up nobody.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.map_err(|e| Error::Internal(format!("work on a key ended early: {e}")))
}

fn check(name: &str, email: Option<&str>) -> Result<(), Error> {
    let mut faults = Vec::new();
    let mut fault = |pointer: &str, detail: String| faults.push(Fault { pointer: pointer.to_owned(), detail });
    if name.trim().is_empty() || name.chars().count() > MAX_NAME || name.chars().any(char::is_control) {
        fault("/name", format!("expected 1 to {MAX_NAME} characters without control characters"));
    }
    // It stands in the request as ASCII, and is only looked at by people.
    let is_email = |text: &str| {
        text.len() <= MAX_EMAIL
            && text.bytes().all(|byte| byte.is_ascii_graphic())
            && text.split_once('@').is_some_and(|(user, host)| !user.is_empty() && !host.is_empty())
    };
    if email.is_some_and(|email| !is_email(email)) {
        fault("/email", format!("expected an e-mail address in ASCII, at most {MAX_EMAIL} characters"));
    }
    if faults.is_empty() {
        return Ok(());
    }
    Err(Error::Invalid { code: "invalid_push_request", detail: "the request cannot be made".to_owned(), faults })
}

fn signed(row: PushRequestRow, vendor: Option<&Vendor>) -> Result<Requested, Error> {
    let failed = |e: crate::pki::Error| Error::Internal(format!("the request {}: {e}", row.id));
    let signed_request = match vendor {
        Some(vendor) => {
            let csr = CertificateRequest::from_pem(row.csr_pem.as_bytes()).map_err(failed)?;
            Some(vendor.sign(&csr).map_err(failed)?)
        }
        None => None,
    };
    Ok(Requested {
        id: row.id,
        csr_pem: row.csr_pem,
        signed_request,
        created_at: row.created_at,
        created_by: row.created_by,
        answered_at: row.answered_at,
    })
}

/// The vendor's certificate of the settings, read anew each time: it is needed once a year.
async fn vendor(app: &App) -> Result<Option<Vendor>, Error> {
    let settings = &app.settings.vendor;
    let (Some(certificate), Some(key)) = (&settings.certificate, &settings.key) else { return Ok(None) };
    let unusable = |what: String| Error::conflict("vendor_certificate", what);
    let read = async |setting: &str, path: &std::path::Path| {
        let failed = |e: std::io::Error| unusable(format!("vendor.{setting}: {} cannot be read: {e}", path.display()));
        tokio::fs::read(path).await.map_err(failed)
    };
    let files = (read("certificate", certificate).await?, read("key", key).await?);
    let vendor =
        Vendor::from_files(&files.0, &files.1, None).map_err(|e| unusable(format!("the vendor certificate: {e}")))?;
    if let Some(certificate) = vendor.certificates.first().filter(|certificate| !certificate.valid_at(app.clock.now()))
    {
        let (from, to) = (certificate.not_before, certificate.not_after);
        return Err(unusable(format!(
            "the vendor certificate is valid from {from} to {to} only; Apple refuses it now"
        )));
    }
    Ok(Some(vendor))
}

fn not_found(id: PushRequestId) -> Error {
    Error::NotFound(format!("there is no request {id} for a push certificate"))
}
