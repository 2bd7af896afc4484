//! Requests that may come again: the answer to the first is remembered in the transaction of its change, so that the
//! second gets the same answer and changes nothing.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Actor, App, Error};
use crate::model::{Sha256, TokenId};
use crate::store::{Remembered, Write};

/// How a request is recognized when it comes again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repeat {
    /// Who asks; keys are of one token.
    pub token: TokenId,
    /// The key that the client chose.
    pub key: String,
    /// Digest of all that the client asks for.
    pub request: Sha256,
}

impl Repeat {
    /// The place for which an answer is sealed.
    fn context(&self) -> String {
        context(self.token, &self.key)
    }
}

/// The place for which the answer to a token's request is sealed.
pub(super) fn context(token: TokenId, key: &str) -> String {
    format!("idempotency.response:{token}:{key}")
}

/// What the same request led to before; none the first time, or where the request cannot be recognized.
///
/// To be called first in the transaction of a verb that creates something. A request that comes while the first one is
/// at work waits here until that one is done, and starts anew if it failed: a failure changes nothing, so it is not
/// remembered.
///
/// # Errors
/// [`Error::Invalid`] `idempotency_key_reused` where the key stands for another request.
pub(super) async fn earlier<T: DeserializeOwned>(app: &App, tx: &mut Write, actor: &Actor) -> Result<Option<T>, Error> {
    let Some(repeat) = &actor.repeat else { return Ok(None) };
    let now = app.clock.now();
    let Some(found) = tx.begin_idempotent(repeat.token, &repeat.key, repeat.request, now).await? else {
        return Ok(None);
    };
    answered(app, repeat, &found).map(Some)
}

/// The answer that is remembered.
fn answered<T: DeserializeOwned>(app: &App, repeat: &Repeat, found: &Remembered) -> Result<T, Error> {
    if found.request_sha256 != repeat.request {
        return Err(Error::invalid(
            "idempotency_key_reused",
            "this Idempotency-Key came with another request before; use a new key for a new request",
        ));
    }
    let Some(sealed) = &found.response_sealed else {
        return Err(Error::conflict("request_in_flight", "the same request is at work; ask again in a moment"));
    };
    let plain = app.open(&repeat.context(), sealed)?;
    serde_json::from_slice(plain.expose())
        .map_err(|e| Error::Internal(format!("a remembered answer cannot be read: {e}")))
}

/// As [`earlier`], for what has to be looked at before the transaction of the change begins, because it may not be there
/// any more. That transaction still asks [`earlier`]: the same request may have come twice at once.
///
/// # Errors
/// As [`earlier`].
pub(super) async fn before<T: DeserializeOwned>(app: &App, actor: &Actor) -> Result<Option<T>, Error> {
    let Some(repeat) = &actor.repeat else { return Ok(None) };
    let found = app.store.begin_read().await?.remembered(repeat.token, &repeat.key).await?;
    found.map(|found| answered(app, repeat, &found)).transpose()
}

/// Remembers what a request led to, as it is answered. To be called last before the commit.
///
/// # Errors
/// [`Error::Unavailable`].
pub(super) async fn remember<T: Serialize>(app: &App, tx: &mut Write, actor: &Actor, made: &T) -> Result<(), Error> {
    let Some(repeat) = &actor.repeat else { return Ok(()) };
    let plain = serde_json::to_vec(made).map_err(|e| Error::Internal(format!("an answer cannot be written: {e}")))?;
    let sealed = app.seal(&repeat.context(), &plain)?;
    tx.finish_idempotent(repeat.token, &repeat.key, DONE, &sealed).await?;
    Ok(())
}

/// What the column `status` holds for an answer that is remembered: the HTTP status is the caller's to choose.
const DONE: u16 = 200;
