use serde::{Deserialize, Serialize};
use sqlx::FromRow;

use super::hot::Statement;
use super::{Read, StoreError, Write};
use crate::model::{ChallengeId, EnrollmentId, LinkId, Sha256, Timestamp};

/// An enrollment link's row.
#[derive(Clone, Debug, FromRow, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the columns are described in the migration")]
pub struct Link {
    pub id: LinkId,
    pub name: String,
    pub code_hash: Sha256,
    pub uses_allowed: Option<i64>,
    pub uses_count: i64,
    pub user_name: Option<String>,
    pub user_email: Option<String>,
    pub expires_at: Option<Timestamp>,
    pub created_at: Timestamp,
    pub created_by: String,
    pub revoked_at: Option<Timestamp>,
}

columns!(Link, link_columns: id, name, code_hash, uses_allowed, uses_count, user_name, user_email, expires_at, created_at, created_by, revoked_at);

/// A SCEP challenge's row.
#[derive(Clone, Debug, FromRow)]
#[expect(missing_docs, reason = "the columns are described in the migration")]
pub struct Challenge {
    pub id: ChallengeId,
    pub hash: Sha256,
    pub purpose: String,
    pub name: String,
    pub link_id: Option<LinkId>,
    pub enrollment_id: Option<EnrollmentId>,
    pub generation: Option<i64>,
    pub terms: Option<Sha256>,
    pub uses_allowed: i64,
    pub uses_count: i64,
    pub created_at: Timestamp,
    pub created_by: String,
    pub expires_at: Timestamp,
    pub reserved_until: Option<Timestamp>,
    pub counted_at: Option<Timestamp>,
}

columns!(Challenge, challenge_columns: id, hash, purpose, name, link_id, enrollment_id, generation, terms, uses_allowed, uses_count, created_at, created_by, expires_at, reserved_until, counted_at);

/// A challenge to be made.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "the columns are described in the migration")]
pub struct NewChallenge<'a> {
    pub id: ChallengeId,
    pub hash: Sha256,
    pub purpose: &'static str,
    pub name: &'a str,
    pub link_id: Option<LinkId>,
    pub enrollment_id: Option<EnrollmentId>,
    pub generation: Option<i64>,
    pub terms: Option<Sha256>,
    pub uses_allowed: i64,
    pub created_by: &'a str,
    pub expires_at: Timestamp,
}

impl Read {
    /// The link with this code.
    pub async fn link_by_code(&mut self, code_hash: Sha256) -> Result<Option<Link>, StoreError> {
        on!(self, fetch_optional, query_as("SELECT * FROM enrollment_links WHERE code_hash = $1", code_hash))
    }

    /// The link with this id.
    pub async fn link(&mut self, id: LinkId) -> Result<Option<Link>, StoreError> {
        hot!(self, first, concat!("SELECT ", link_columns!(), " FROM enrollment_links WHERE id = $1"), id)
    }

    /// At most `limit` links that were made before `before`, newest first.
    pub async fn links(&mut self, before: Option<LinkId>, limit: i64) -> Result<Vec<Link>, StoreError> {
        on!(
            self,
            fetch_all,
            query_as(
                "SELECT * FROM enrollment_links WHERE $1 IS NULL OR id < $1 ORDER BY id DESC LIMIT $2",
                before,
                limit
            )
        )
    }

    /// How many uses of a link are held by certificates that were issued and not yet counted.
    pub async fn reserved_uses(&mut self, id: LinkId, now: Timestamp) -> Result<i64, StoreError> {
        hot!(
            self,
            one,
            "SELECT COUNT(*) FROM challenges WHERE link_id = $1 AND counted_at IS NULL AND reserved_until > $2",
            id,
            now
        )
    }

    /// How many challenges of a link are open: neither expired nor used.
    pub async fn open_challenges(&mut self, id: LinkId, now: Timestamp) -> Result<i64, StoreError> {
        on!(
            self,
            fetch_one,
            query_scalar(
                "SELECT COUNT(*) FROM challenges WHERE link_id = $1 AND expires_at > $2 AND uses_count = 0",
                id,
                now
            )
        )
    }

    /// When the first of the uses that are held comes free, if it does not count before.
    pub async fn first_reserved_until(&mut self, id: LinkId, now: Timestamp) -> Result<Option<Timestamp>, StoreError> {
        on!(
            self,
            fetch_one,
            query_scalar(
                "SELECT MIN(reserved_until) FROM challenges
                  WHERE link_id = $1 AND counted_at IS NULL AND reserved_until > $2",
                id,
                now
            )
        )
    }

    /// When the first of the open challenges expires.
    pub async fn first_challenge_expires(
        &mut self,
        id: LinkId,
        now: Timestamp,
    ) -> Result<Option<Timestamp>, StoreError> {
        on!(
            self,
            fetch_one,
            query_scalar(
                "SELECT MIN(expires_at) FROM challenges WHERE link_id = $1 AND expires_at > $2 AND uses_count = 0",
                id,
                now
            )
        )
    }

    /// The challenge with this hash.
    pub async fn challenge_by_hash(&mut self, hash: Sha256) -> Result<Option<Challenge>, StoreError> {
        on!(self, fetch_optional, query_as("SELECT * FROM challenges WHERE hash = $1", hash))
    }

    /// The challenge with this id.
    pub async fn challenge(&mut self, id: ChallengeId) -> Result<Option<Challenge>, StoreError> {
        hot!(self, first, concat!("SELECT ", challenge_columns!(), " FROM challenges WHERE id = $1"), id)
    }
}

impl Write {
    /// Adds a link.
    pub async fn insert_link(&mut self, link: &Link) -> Result<(), StoreError> {
        run!(
            self,
            "INSERT INTO enrollment_links (id, name, code_hash, uses_allowed, uses_count, user_name, user_email,
                                           expires_at, created_at, created_by)
             VALUES ($1, $2, $3, $4, 0, $5, $6, $7, $8, $9)",
            link.id,
            link.name.as_str(),
            link.code_hash,
            link.uses_allowed,
            link.user_name.as_deref(),
            link.user_email.as_deref(),
            link.expires_at,
            link.created_at,
            link.created_by.as_str()
        )
        .map(drop)
    }

    /// The link with this id, locked until the end of the transaction.
    pub async fn link_for_update(&mut self, id: LinkId) -> Result<Option<Link>, StoreError> {
        if self.must_not_wait() {
            let free: Option<Link> = hot!(
                self,
                first,
                concat!("SELECT ", link_columns!(), " FROM enrollment_links WHERE id = $1 FOR UPDATE SKIP LOCKED"),
                id
            )?;
            // It is there, or was a moment ago: the work finds out when it runs again.
            return if free.is_none() { Err(self.held_by_another()) } else { Ok(free) };
        }
        hot!(self, first, concat!("SELECT ", link_columns!(), " FROM enrollment_links WHERE id = $1 FOR UPDATE"), id)
    }

    /// Ends a link. False: there is none, or it was ended before.
    pub async fn revoke_link(&mut self, id: LinkId, now: Timestamp) -> Result<bool, StoreError> {
        Ok(run!(self, "UPDATE enrollment_links SET revoked_at = $2 WHERE id = $1 AND revoked_at IS NULL", id, now)?
            == 1)
    }

    /// Adds a challenge.
    pub async fn insert_challenge(&mut self, new: &NewChallenge<'_>, now: Timestamp) -> Result<(), StoreError> {
        run!(
            self,
            "INSERT INTO challenges (id, hash, purpose, name, link_id, enrollment_id, generation, terms, uses_allowed,
                                     uses_count, created_at, created_by, expires_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, 0, $10, $11, $12)",
            new.id,
            new.hash,
            new.purpose,
            new.name,
            new.link_id,
            new.enrollment_id,
            new.generation,
            new.terms,
            new.uses_allowed,
            now,
            new.created_by,
            new.expires_at
        )
        .map(drop)
    }

    /// The challenge with this hash, locked until the end of the transaction.
    pub async fn challenge_for_update(&mut self, hash: Sha256) -> Result<Option<Challenge>, StoreError> {
        on!(self, fetch_optional, query_as("SELECT * FROM challenges WHERE hash = $1 FOR UPDATE", hash))
    }

    /// The challenge with this id, locked until the end of the transaction.
    pub async fn challenge_by_id_for_update(&mut self, id: ChallengeId) -> Result<Option<Challenge>, StoreError> {
        hot!(self, first, concat!("SELECT ", challenge_columns!(), " FROM challenges WHERE id = $1 FOR UPDATE"), id)
    }

    /// Holds the use of a link, for a certificate of this challenge, until `until`.
    pub async fn hold_link_use(&mut self, id: ChallengeId, until: Timestamp) -> Result<(), StoreError> {
        hot!(self, change, "UPDATE challenges SET reserved_until = $2 WHERE id = $1", id, until).map(drop)
    }

    /// Uses a challenge once, and holds a use of its link until `reserved_until`.
    pub async fn use_challenge(
        &mut self,
        id: ChallengeId,
        reserved_until: Option<Timestamp>,
    ) -> Result<(), StoreError> {
        run!(
            self,
            "UPDATE challenges SET uses_count = uses_count + 1, reserved_until = $2 WHERE id = $1",
            id,
            reserved_until
        )
        .map(drop)
    }

    /// Counts a use of the link that a challenge belongs to, once for each challenge.
    pub async fn count_link_use(&mut self, challenge: ChallengeId, now: Timestamp) -> Result<bool, StoreError> {
        // Many devices use the same link at once: what they add is added up.
        static COUNT: Statement = Statement::with_many(
            "UPDATE enrollment_links SET uses_count = uses_count + 1 WHERE id = $1",
            "UPDATE enrollment_links SET uses_count = uses_count + used.times
               FROM (SELECT a.p1, COUNT(*) AS times FROM {a} GROUP BY a.p1 ORDER BY a.p1) used
              WHERE id = used.p1",
        );
        let link: Option<Option<LinkId>> = hot!(
            self,
            first,
            "UPDATE challenges SET counted_at = $2 WHERE id = $1 AND counted_at IS NULL RETURNING link_id",
            challenge,
            now
        )?;
        let Some(link) = link.flatten() else { return Ok(false) };
        Ok(self.change(&COUNT, vec![link.into()]).await? == 1)
    }

    /// Forgets challenges that expired before `before`, with no certificate to show for it.
    pub async fn delete_expired_challenges(&mut self, before: Timestamp) -> Result<u64, StoreError> {
        run!(self, "DELETE FROM challenges WHERE expires_at < $1 AND uses_count = 0", before)
    }
}
