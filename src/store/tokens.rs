use serde::{Deserialize, Serialize};
use sqlx::FromRow;

use super::{Read, StoreError, Write};
use crate::model::{Role, Sha256, Timestamp, TokenId};

/// An API token's row.
#[derive(Clone, Debug, FromRow, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the columns are described in the migration")]
pub struct TokenRow {
    pub id: TokenId,
    pub name: String,
    pub hash: Sha256,
    pub role: Role,
    pub scope: Option<String>,
    pub created_at: Timestamp,
    pub created_by: String,
    pub expires_at: Option<Timestamp>,
    pub last_used_at: Option<Timestamp>,
    pub revoked_at: Option<Timestamp>,
}

impl Read {
    /// The token with this hash, revoked and expired ones too.
    pub async fn token_by_hash(&mut self, hash: Sha256) -> Result<Option<TokenRow>, StoreError> {
        on!(self, fetch_optional, query_as("SELECT * FROM api_tokens WHERE hash = $1", hash))
    }

    /// The token with this id.
    pub async fn token(&mut self, id: TokenId) -> Result<Option<TokenRow>, StoreError> {
        on!(self, fetch_optional, query_as("SELECT * FROM api_tokens WHERE id = $1", id))
    }

    /// Tokens that were made before this one, newest first; revoked and expired ones too.
    pub async fn tokens(&mut self, before: Option<TokenId>, limit: i64) -> Result<Vec<TokenRow>, StoreError> {
        on!(
            self,
            fetch_all,
            query_as("SELECT * FROM api_tokens WHERE $1 IS NULL OR id < $1 ORDER BY id DESC LIMIT $2", before, limit)
        )
    }
}

impl Write {
    /// Adds a token.
    pub async fn insert_token(&mut self, row: &TokenRow) -> Result<(), StoreError> {
        run!(
            self,
            "INSERT INTO api_tokens (id, name, hash, role, scope, created_at, created_by, expires_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
            row.id,
            row.name.as_str(),
            row.hash,
            row.role,
            row.scope.as_deref(),
            row.created_at,
            row.created_by.as_str(),
            row.expires_at
        )
        .map(drop)
    }

    /// Ends a token. False: there is none, or it was ended before.
    pub async fn revoke_token(&mut self, id: TokenId, now: Timestamp) -> Result<bool, StoreError> {
        Ok(run!(self, "UPDATE api_tokens SET revoked_at = $2 WHERE id = $1 AND revoked_at IS NULL", id, now)? == 1)
    }

    /// Notes when tokens were last used; never moves a time backwards.
    pub async fn touch_tokens(&mut self, used: &[(TokenId, Timestamp)]) -> Result<(), StoreError> {
        // In one order of rows everywhere, so that two processes never wait for each other in a ring.
        let mut used = used.to_vec();
        used.sort_unstable();
        for (id, at) in used {
            run!(
                self,
                "UPDATE api_tokens SET last_used_at = $2 WHERE id = $1 AND (last_used_at IS NULL OR last_used_at < $2)",
                id,
                at
            )?;
        }
        Ok(())
    }
}
