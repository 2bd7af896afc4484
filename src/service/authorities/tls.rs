//! What the listeners show.

use std::path::Path;

use super::super::signing::own_identity;
use super::super::{App, Error};
use super::own::SERVER;
use super::{TLS, active};
use crate::config::DeviceTls;
use crate::pki::{Certificate, Identity};
use crate::store::Read;

/// A PEM file of more bytes than this is none.
const MAX_FILE: u64 = 1024 * 1024;

/// What the device listener shows: the server's own certificate, or the one in the files that the settings name. None
/// behind a proxy, which speaks TLS in its place.
///
/// # Errors
/// [`Error::Unavailable`] when it is not there or cannot be read, with the file's name.
pub async fn tls_identity(app: &App) -> Result<Option<Identity>, Error> {
    let devices = &app.settings.devices;
    match (devices.tls, &devices.tls_certificate, &devices.tls_key) {
        (DeviceTls::Own, ..) => own_tls_identity(app, &mut app.store.begin_read().await?).await.map(Some),
        (DeviceTls::Files, Some(certificate), Some(key)) => from_files(certificate, key).await.map(Some),
        (DeviceTls::Files, ..) => Err(Error::Internal("devices.tls is \"files\", and none are named".to_owned())),
        (DeviceTls::BehindProxy, ..) => Ok(None),
    }
}

/// What is shown at the host name of the pages: a certificate in files of its own where the settings name them, else
/// the device listener's.
///
/// # Errors
/// As [`tls_identity`].
pub async fn pages_identity(app: &App) -> Result<Option<Identity>, Error> {
    match (&app.settings.pages.tls_certificate, &app.settings.pages.tls_key) {
        (Some(certificate), Some(key)) => from_files(certificate, key).await.map(Some),
        _ => tls_identity(app).await,
    }
}

/// The root of the server's own certificates.
///
/// # Errors
/// [`Error::Unavailable`] when there is none.
pub async fn tls_root(app: &App) -> Result<Certificate, Error> {
    tls_root_on(&mut app.store.begin_read().await?).await
}

/// As [`tls_root`], on the caller's connection.
pub(in crate::service) async fn tls_root_on(read: &mut Read) -> Result<Certificate, Error> {
    let row = active(read, TLS).await?;
    let row = row.ok_or_else(|| Error::Unavailable("the server has no root for its own certificates".to_owned()))?;
    Certificate::from_der(&row.certificate).map_err(|e| Error::Internal(format!("authority {}: {e}", row.id)))
}

/// The server's own certificate, whatever the listeners show.
pub(in crate::service) async fn own_tls_identity(app: &App, read: &mut Read) -> Result<Identity, Error> {
    let row = read.server_certificate(SERVER).await?;
    let row = row.ok_or_else(|| Error::Unavailable("the server has no certificate for its listeners".to_owned()))?;
    own_identity(app, &row.chain_pem, &row.key_sealed, SERVER)
}

async fn from_files(certificate: &Path, key: &Path) -> Result<Identity, Error> {
    let (certificates, key_text) = (read(certificate).await?, read(key).await?);
    Identity::from_files(&certificates, &key_text, None).map_err(|e| {
        Error::Unavailable(format!("the certificate of {} and {}: {e}", certificate.display(), key.display()))
    })
}

async fn read(file: &Path) -> Result<zeroize::Zeroizing<Vec<u8>>, Error> {
    use tokio::io::AsyncReadExt;
    let mut bytes = zeroize::Zeroizing::new(Vec::new());
    let result = async { tokio::fs::File::open(file).await?.take(MAX_FILE).read_to_end(&mut bytes).await };
    match result.await {
        Ok(_) => Ok(bytes),
        Err(e) => Err(Error::Unavailable(format!("{}: {e}", file.display()))),
    }
}
