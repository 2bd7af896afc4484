//! API tokens: made, listed, ended, and looked up by what a client presents. Only their hash is kept.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;

use super::audit::Subject;
use super::{Actor, App, Error, idempotency};
use crate::model::{Role, Secret, Sha256, Timestamp, TokenId};
use crate::store::TokenRow;

/// What every token begins with, so that one that went astray is recognized.
pub const PREFIX: &str = "muster_";
/// Random bytes of a token.
const RANDOM_BYTES: usize = 32;
/// What is longer is no token of ours.
const MAX_LENGTH: usize = 200;

/// A token to be made.
#[derive(Clone, Debug)]
pub struct NewToken {
    /// Whose it is, or what it is for.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// When it ends; none for never.
    pub expires_at: Option<Timestamp>,
}

/// A token that was made. Its text is shown this once.
#[derive(Clone, Debug)]
pub struct Created {
    /// What is kept of it.
    pub row: TokenRow,
    /// What the client presents.
    pub text: Secret<String>,
}

/// Makes a token.
///
/// # Errors
/// [`Error::Invalid`] for an end in the past.
pub async fn create(app: &App, actor: &Actor, new: NewToken) -> Result<Created, Error> {
    let now = app.clock.now();
    let mut tx = app.store.begin_write().await?;
    if let Some((row, text)) = idempotency::earlier::<(TokenRow, String)>(app, &mut tx, actor).await? {
        return Ok(Created { row, text: Secret::new(text) });
    }
    if new.expires_at.is_some_and(|at| at <= now) {
        return Err(Error::invalid("invalid_token", "expires_at lies in the past"));
    }
    let mut random = [0; RANDOM_BYTES];
    app.random.fill(&mut random);
    let text = Secret::new(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(random)));
    let row = TokenRow {
        id: TokenId::new(now, &*app.random),
        name: new.name,
        hash: Sha256::of(text.expose().as_bytes()),
        role: new.role,
        scope: None,
        created_at: now,
        created_by: actor.name.clone(),
        expires_at: new.expires_at,
        last_used_at: None,
        revoked_at: None,
    };
    tx.insert_token(&row).await?;
    let subject = Subject { kind: "token", id: &row.id.to_string() };
    let detail = json!({"name": row.name, "role": row.role, "expires_at": row.expires_at});
    app.audit(&mut tx, actor, "token.created", subject, &detail, now).await?;
    idempotency::remember(app, &mut tx, actor, &(&row, text.expose())).await?;
    tx.commit().await?;
    Ok(Created { row, text })
}

/// The token that a client presents, if it holds now. Its use is noted.
///
/// # Errors
/// [`Error::Unavailable`].
pub async fn authenticate(app: &App, text: &str) -> Result<Option<TokenRow>, Error> {
    if text.len() > MAX_LENGTH {
        return Ok(None);
    }
    // The hash is looked up, so that the time of the search tells nothing about the text.
    let found = app.store.begin_read().await?.token_by_hash(Sha256::of(text.as_bytes())).await?;
    let now = app.clock.now();
    let valid = found.filter(|row| row.revoked_at.is_none() && row.expires_at.is_none_or(|at| now < at));
    if let Some(row) = &valid {
        app.seen.token(row.id, now);
    }
    Ok(valid)
}

/// Tokens that were made before this one, newest first; those that ended too.
///
/// # Errors
/// [`Error::Unavailable`].
pub async fn list(app: &App, before: Option<TokenId>, limit: i64) -> Result<Vec<TokenRow>, Error> {
    Ok(app.store.begin_read().await?.tokens(before, limit).await?)
}

/// One token.
///
/// # Errors
/// [`Error::NotFound`].
pub async fn get(app: &App, id: TokenId) -> Result<TokenRow, Error> {
    app.store.begin_read().await?.token(id).await?.ok_or_else(|| not_found(id))
}

/// Ends a token at once. One that ended before stays as it is.
///
/// # Errors
/// [`Error::NotFound`].
pub async fn revoke(app: &App, actor: &Actor, id: TokenId) -> Result<(), Error> {
    let now = app.clock.now();
    let mut tx = app.store.begin_write().await?;
    let row = tx.token(id).await?.ok_or_else(|| not_found(id))?;
    if tx.revoke_token(id, now).await? {
        let subject = Subject { kind: "token", id: &id.to_string() };
        app.audit(&mut tx, actor, "token.revoked", subject, &json!({"name": row.name}), now).await?;
        tx.commit().await?;
    }
    Ok(())
}

fn not_found(id: TokenId) -> Error {
    Error::NotFound(format!("there is no token {id}"))
}
