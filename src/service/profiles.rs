//! Configuration profiles kept for installing.

use super::{App, Error, signing};
use crate::model::ProfileId;
use crate::store::Write;

/// The bytes that go to a device: as they were uploaded if they were signed, else signed here.
///
/// # Errors
/// [`Error::NotFound`].
pub async fn for_install(app: &App, tx: &mut Write, id: ProfileId) -> Result<Vec<u8>, Error> {
    let row = tx.profile(id).await?.ok_or_else(|| Error::NotFound(format!("there is no profile {id}")))?;
    let content = app.open(&content_context(id), &row.content_sealed)?;
    if row.signed { Ok(content.expose().clone()) } else { signing::sign(app, tx, content.expose()).await }
}

/// The place for which a profile's content is sealed.
#[must_use]
pub fn content_context(id: ProfileId) -> String {
    format!("profiles.content:{id}")
}
