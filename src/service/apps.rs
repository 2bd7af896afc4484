//! Apps kept for installing: of the App Store, by a manifest elsewhere, or by a package that is kept and served here.
//!
//! Commands hold the reference as it was when they were accepted. Removing an app takes its package away: a device that
//! has not fetched it by then cannot any more.

mod package;
mod serve;
mod spool;

use plist::{Dictionary, Value};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::audit::Subject;
use super::{Actor, App, Error, Fault, idempotency};
use crate::catalog::without_query;
use crate::model::{AppId, PackageId, Timestamp};
use crate::store::{AppFilter, AppRow, PackageRow, Read, Write};

pub use package::{NotUploaded, remove_abandoned, upload};
pub use serve::{Served, chunk, manifest, served};

/// Most packages that are uploaded at the same time, to one server process.
pub const MAX_UPLOADS: usize = 4;
/// Longest name, characters.
pub const MAX_NAME: usize = 200;
/// Longest bundle id or version, characters.
const MAX_ID: usize = 155;
/// Longest URL of a manifest, bytes.
const MAX_URL: usize = 2048;

/// An app with its package, if it has one here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// The app.
    pub app: AppRow,
    /// Its package.
    pub package: Option<PackageRow>,
}

/// An app to be kept that has no package here.
#[derive(Clone, Debug)]
pub struct NewApp {
    /// How devices find it.
    pub reference: Reference,
    /// Its name, for people.
    pub name: String,
    /// Its bundle id.
    pub bundle_id: Option<String>,
    /// Its version.
    pub version: Option<String>,
}

/// What is to be different about an app; what is none stays.
#[derive(Clone, Debug, Default)]
pub struct Change {
    /// Its name.
    pub name: Option<String>,
    /// Its bundle id; not of a package, which tells it itself.
    pub bundle_id: Option<String>,
    /// Its version; not of a package.
    pub version: Option<String>,
    /// The URL of its manifest; only of an app that has one.
    pub manifest_url: Option<String>,
}

/// How a device finds an app.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reference {
    /// In the App Store, by number.
    Store(i64),
    /// By a manifest at this URL.
    Manifest(String),
}

impl Reference {
    /// Puts it into the payload of InstallApplication.
    pub fn put_into(self, payload: &mut Dictionary) {
        match self {
            Self::Store(id) => payload.insert("iTunesStoreID".to_owned(), Value::from(id)),
            Self::Manifest(url) => payload.insert("ManifestURL".to_owned(), Value::from(url)),
        };
    }
}

/// How a device finds this app.
///
/// # Errors
/// [`Error::NotFound`]; [`Error::Conflict`] while its package is not complete.
pub async fn reference(app: &App, tx: &mut Write, id: AppId) -> Result<Reference, Error> {
    let row = tx.app(id).await?.ok_or_else(|| not_found(id))?;
    if let Some(number) = row.store_id {
        return Ok(Reference::Store(number));
    }
    if let Some(url) = row.manifest_url {
        return Ok(Reference::Manifest(url));
    }
    let package = match row.package_id {
        Some(id) => tx.package(id).await?,
        None => None,
    };
    match package {
        Some(package) if package.ready_at.is_some() => Ok(Reference::Manifest(serve::manifest_url(app, &package))),
        _ => Err(Error::conflict("package_incomplete", format!("the package of app {id} is not complete"))),
    }
}

/// Keeps an app of the App Store, or one whose manifest lies elsewhere. Nothing is fetched: what the URL leads to is
/// between its server and the devices.
///
/// # Errors
/// [`Error::Invalid`] `invalid_app` with all faults.
pub async fn create(app: &App, actor: &Actor, new: NewApp) -> Result<Kept, Error> {
    let now = app.clock.now();
    let (store_id, manifest_url) = match new.reference {
        Reference::Store(id) => (Some(id), None),
        Reference::Manifest(url) => (None, Some(url)),
    };
    let row = AppRow {
        id: AppId::new(now, &*app.random),
        kind: if store_id.is_some() { "store" } else { "manifest" }.to_owned(),
        name: new.name,
        bundle_id: new.bundle_id,
        version: new.version,
        display_version: None,
        minimum_os: None,
        store_id,
        manifest_url,
        package_id: None,
        revision: 1,
        created_at: now,
        created_by: actor.name.clone(),
        updated_at: now,
    };
    check(&row)?;
    let mut tx = app.store.begin_write().await?;
    if let Some(kept) = idempotency::earlier(app, &mut tx, actor).await? {
        return Ok(kept);
    }
    tx.insert_app(&row).await?;
    audit(app, &mut tx, actor, "app.created", &row, now).await?;
    let kept = Kept { app: row, package: None };
    idempotency::remember(app, &mut tx, actor, &kept).await?;
    tx.commit().await?;
    Ok(kept)
}

/// Changes what is known of an app. `revision` is the one that whoever asks has seen; none: whatever is there.
///
/// # Errors
/// As [`create`]; [`Error::NotFound`]; [`Error::Conflict`] `revision_mismatch`.
pub async fn change(app: &App, actor: &Actor, id: AppId, revision: Option<i64>, change: Change) -> Result<Kept, Error> {
    let now = app.clock.now();
    let mut tx = app.store.begin_write().await?;
    let row = tx.app_for_update(id).await?.ok_or_else(|| not_found(id))?;
    let old = Kept { package: package_of(&mut tx, row.package_id).await?, app: row };
    let mut faults = Vec::new();
    let is_package = old.app.kind == "package";
    for (is_wrong, pointer, detail) in [
        (is_package && change.bundle_id.is_some(), "/bundle_id", "stands in the package"),
        (is_package && change.version.is_some(), "/version", "stands in the package"),
        (old.app.kind != "manifest" && change.manifest_url.is_some(), "/manifest_url", "this app has none"),
    ] {
        if is_wrong {
            faults.push(Fault { pointer: pointer.to_owned(), detail: detail.to_owned() });
        }
    }
    if !faults.is_empty() {
        return Err(invalid(faults));
    }
    let seen = revision.unwrap_or(old.app.revision);
    let mut row = AppRow { revision: seen, ..old.app.clone() };
    row.name = change.name.unwrap_or(row.name);
    row.bundle_id = change.bundle_id.or(row.bundle_id);
    row.version = change.version.or(row.version);
    row.manifest_url = change.manifest_url.or(row.manifest_url);
    check(&row)?;
    if !tx.update_app(&row, now).await? {
        return Err(changed(id, old.app.revision));
    }
    row.revision = seen + 1;
    row.updated_at = now;
    audit(app, &mut tx, actor, "app.changed", &row, now).await?;
    tx.commit().await?;
    Ok(Kept { app: row, package: old.package })
}

/// Forgets an app and its package. It stays on the devices that have it.
///
/// # Errors
/// [`Error::NotFound`]; [`Error::Conflict`] `revision_mismatch`.
pub async fn remove(app: &App, actor: &Actor, id: AppId, revision: Option<i64>) -> Result<(), Error> {
    let now = app.clock.now();
    let mut tx = app.store.begin_write().await?;
    let row = tx.app_for_update(id).await?.ok_or_else(|| not_found(id))?;
    if !tx.delete_app(id, revision.unwrap_or(row.revision)).await? {
        return Err(changed(id, row.revision));
    }
    if let Some(package) = row.package_id {
        tx.retire_package(package).await?;
    }
    audit(app, &mut tx, actor, "app.removed", &row, now).await?;
    tx.commit().await?;
    if let Some(package) = row.package_id {
        package::take_away_or_leave(app, package).await;
    }
    Ok(())
}

/// The apps that pass the filter, newest first, those older than `after`.
///
/// # Errors
/// [`Error::Unavailable`].
pub async fn list(app: &App, filter: &AppFilter, after: Option<AppId>, limit: i64) -> Result<Vec<Kept>, Error> {
    let mut read = app.store.begin_read().await?;
    let rows = read.apps(filter, after, limit).await?;
    let mut kept = Vec::with_capacity(rows.len());
    for row in rows {
        let package = package_of(&mut read, row.package_id).await?;
        kept.push(Kept { app: row, package });
    }
    Ok(kept)
}

/// One app.
///
/// # Errors
/// [`Error::NotFound`].
pub async fn get(app: &App, id: AppId) -> Result<Kept, Error> {
    with_package(&mut app.store.begin_read().await?, id).await
}

async fn with_package(read: &mut Read, id: AppId) -> Result<Kept, Error> {
    let row = read.app(id).await?.ok_or_else(|| not_found(id))?;
    let package = package_of(read, row.package_id).await?;
    Ok(Kept { app: row, package })
}

async fn package_of(read: &mut Read, id: Option<PackageId>) -> Result<Option<PackageRow>, Error> {
    match id {
        Some(id) => Ok(read.package(id).await?),
        None => Ok(None),
    }
}

async fn audit(
    app: &App,
    tx: &mut Write,
    actor: &Actor,
    action: &str,
    row: &AppRow,
    now: Timestamp,
) -> Result<(), Error> {
    let detail = json!({
        "kind": row.kind,
        "name": row.name,
        "bundle_id": row.bundle_id,
        "version": row.version,
        "store_id": row.store_id,
        "manifest_url": row.manifest_url.as_deref().map(without_query),
    });
    app.audit(tx, actor, action, Subject { kind: "app", id: &row.id.to_string() }, &detail, now).await
}

/// Checks what an admin says of an app.
fn check(row: &AppRow) -> Result<(), Error> {
    let mut faults = Vec::new();
    let mut fault = |pointer: &str, detail: String| faults.push(Fault { pointer: pointer.to_owned(), detail });
    if !is_text(&row.name, MAX_NAME) {
        fault("/name", format!("expected 1 to {MAX_NAME} characters without control characters"));
    }
    let is_id = |id: &str| id.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
    if row.bundle_id.as_ref().is_some_and(|id| !is_text(id, MAX_ID) || !is_id(id)) {
        fault("/bundle_id", "expected a bundle id such as org.example.notes".to_owned());
    }
    if row.version.as_ref().is_some_and(|version| !is_text(version, MAX_ID)) {
        fault("/version", format!("expected 1 to {MAX_ID} characters without control characters"));
    }
    if row.store_id.is_some_and(|id| id < 1) {
        fault("/store_id", "expected the number in the app's App Store URL, after \"id\"".to_owned());
    }
    if row.manifest_url.as_ref().is_some_and(|url| !is_manifest_url(url)) {
        fault("/manifest_url", format!("expected an https URL without a user name, at most {MAX_URL} bytes"));
    }
    if faults.is_empty() { Ok(()) } else { Err(invalid(faults)) }
}

fn is_text(text: &str, most: usize) -> bool {
    !text.trim().is_empty() && text.chars().count() <= most && !text.chars().any(char::is_control)
}

fn is_manifest_url(text: &str) -> bool {
    let Ok(url) = url::Url::parse(text) else { return false };
    text.len() <= MAX_URL
        && !text.chars().any(|c| c.is_control() || c.is_whitespace())
        && url.scheme() == "https"
        && url.has_host()
        && url.username().is_empty()
        && url.password().is_none()
}

fn invalid(faults: Vec<Fault>) -> Error {
    Error::Invalid { code: "invalid_app", detail: "the app cannot be kept like this".to_owned(), faults }
}

fn not_found(id: AppId) -> Error {
    Error::NotFound(format!("there is no app {id}"))
}

fn changed(id: AppId, revision: i64) -> Error {
    Error::conflict("revision_mismatch", format!("the app {id} was changed meanwhile: it has revision {revision}"))
}
