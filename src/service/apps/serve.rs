use super::super::{App, Error};
use crate::model::PackageId;
use crate::protocol::manifest::Manifest;
use crate::store::{AppRow, PackageRow};

/// How long the name is that a package is served by: 128 random bits in hex.
const SLUG_LENGTH: usize = 32;

/// A package that is served, and the app that it is of.
#[derive(Clone, Debug)]
pub struct Served {
    /// The package.
    pub package: PackageRow,
    /// The app.
    pub app: AppRow,
}

/// What is served under this name. Whoever knows the name may have it: devices fetch apps without showing who they
/// are.
///
/// # Errors
/// [`Error::NotFound`].
pub async fn served(app: &App, slug: &str) -> Result<Served, Error> {
    let is_slug = slug.len() == SLUG_LENGTH && slug.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let mut read = app.store.begin_read().await?;
    let package = if is_slug { read.package_by_slug(slug).await? } else { None };
    let nothing = || Error::NotFound("there is no such package".to_owned());
    let package = package.ok_or_else(nothing)?;
    let app = read.app_of_package(package.id).await?.ok_or_else(nothing)?;
    Ok(Served { package, app })
}

/// The manifest that leads a device to the package.
#[must_use]
pub fn manifest(app: &App, served: &Served) -> Vec<u8> {
    Manifest {
        package_url: app.settings.pages_url().at(&format!("/apps/{}/app.ipa", served.package.slug)),
        bundle_identifier: served.app.bundle_id.clone().unwrap_or_default(),
        bundle_version: served.app.version.clone(),
        title: served.app.name.clone(),
    }
    .write()
}

/// The URL of a package's manifest.
pub(super) fn manifest_url(app: &App, package: &PackageRow) -> String {
    app.settings.pages_url().at(&format!("/apps/{}/manifest.plist", package.slug))
}

/// A chunk of a package; none when the package was taken away.
///
/// # Errors
/// [`Error::Unavailable`].
pub async fn chunk(app: &App, id: PackageId, number: i64) -> Result<Option<Vec<u8>>, Error> {
    Ok(app.store.begin_read().await?.package_chunk(id, number).await?)
}
