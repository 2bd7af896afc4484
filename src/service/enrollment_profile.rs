//! Enrollment profiles: for a link, for a renewal, for a device that is wiped and returns to service.

use super::{App, Error};
use crate::model::Timestamp;
use crate::store::{Enrollment, Write};

/// The profile that renews the identity of an enrolled device.
///
/// # Errors
/// [`Error::Unavailable`].
pub async fn for_renewal(app: &App, tx: &mut Write, enrollment: &Enrollment, now: Timestamp) -> Result<Vec<u8>, Error> {
    let _ = (app, tx, enrollment, now);
    Err(Error::Unavailable("enrollment profiles are not made yet".to_owned()))
}

/// The profile by which a wiped device enrolls again by itself.
///
/// # Errors
/// [`Error::Unavailable`].
pub async fn for_return_to_service(
    app: &App,
    tx: &mut Write,
    enrollment: &Enrollment,
    now: Timestamp,
) -> Result<Vec<u8>, Error> {
    let _ = (app, tx, enrollment, now);
    Err(Error::Unavailable("enrollment profiles are not made yet".to_owned()))
}
