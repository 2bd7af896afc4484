use sqlx::FromRow;

use super::{Read, StoreError, Write};
use crate::model::{Sha256, Timestamp, TokenId};

/// What is remembered of a request with an Idempotency-Key.
#[derive(Clone, Debug, FromRow)]
pub struct Remembered {
    /// Digest of method, path and body.
    pub request_sha256: Sha256,
    /// The answer's status; none while the first request is still at work.
    pub status: Option<i64>,
    /// The answer's body, sealed.
    pub response_sealed: Option<Vec<u8>>,
}

impl Read {
    /// What is remembered of a request with this key.
    pub async fn remembered(&mut self, token: TokenId, key: &str) -> Result<Option<Remembered>, StoreError> {
        let sql = "SELECT request_sha256, status, response_sealed FROM idempotency WHERE token_id = $1 AND key = $2";
        on!(self, fetch_optional, query_as(sql, token, key))
    }
}

impl Write {
    /// Remembers that a request with this key is at work. Some: one with this key was here before.
    pub async fn begin_idempotent(
        &mut self,
        token: TokenId,
        key: &str,
        request: Sha256,
        now: Timestamp,
    ) -> Result<Option<Remembered>, StoreError> {
        let added = run!(
            self,
            "INSERT INTO idempotency (token_id, key, request_sha256, created_at) VALUES ($1, $2, $3, $4)
             ON CONFLICT (token_id, key) DO NOTHING",
            token,
            key,
            request,
            now
        )?;
        if added == 1 {
            return Ok(None);
        }
        self.remembered(token, key).await
    }

    /// Keeps the answer, in the transaction of the change.
    pub async fn finish_idempotent(
        &mut self,
        token: TokenId,
        key: &str,
        status: u16,
        sealed: &[u8],
    ) -> Result<(), StoreError> {
        run!(
            self,
            "UPDATE idempotency SET status = $3, response_sealed = $4 WHERE token_id = $1 AND key = $2",
            token,
            key,
            i64::from(status),
            sealed
        )
        .map(drop)
    }

    /// Forgets answers from before `before`.
    pub async fn delete_old_idempotency(&mut self, before: Timestamp) -> Result<u64, StoreError> {
        run!(self, "DELETE FROM idempotency WHERE created_at < $1", before)
    }
}
