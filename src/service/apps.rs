//! Apps kept for installing.

use plist::{Dictionary, Value};

use super::{App, Error};
use crate::model::AppId;
use crate::store::Write;

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
    let row = tx.app(id).await?.ok_or_else(|| Error::NotFound(format!("there is no app {id}")))?;
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
        Some(package) if package.ready_at.is_some() => {
            Ok(Reference::Manifest(app.settings.pages_url().at(&format!("/apps/{}/manifest.plist", package.slug))))
        }
        _ => Err(Error::conflict("package_incomplete", format!("the package of app {id} is not complete"))),
    }
}
