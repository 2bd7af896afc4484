//! What `muster doctor` asks: the condition of an installation, in numbers.

use std::time::Duration;

use sqlx::FromRow;

use super::connect::Connection;
use super::{Read, Store, StoreError};
use crate::model::{Timestamp, TokenId};

/// How many sealed records of one table are under one master key.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
pub struct SealedCount {
    /// The table.
    pub place: String,
    /// The id of the master key.
    pub key_id: Vec<u8>,
    /// The records that were looked at and are under it.
    pub records: i64,
}

/// Work of the server itself that does not go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobCounts {
    /// Jobs that were given up.
    pub dead: i64,
    /// Jobs that should have been begun before the time that was asked for, and were not.
    pub overdue: i64,
    /// What the latest of those that were given up failed with: its kind, and the error.
    pub last_error: Option<(String, String)>,
}

/// Enabled device channels by the end of the certificate that they authenticate with: the latest of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromRow)]
pub struct IdentityCounts {
    /// Those whose certificate has ended.
    pub expired: i64,
    /// Those whose certificate ends before the time that was asked for, and has not yet, and that the server renews.
    pub expiring: i64,
    /// Those whose certificate has ended or ends before that time, and that the server does not renew, since their
    /// enrollment profile was made elsewhere.
    pub not_renewed: i64,
}

impl Store {
    /// Whether the database can be written to: changes a row to what it is, and takes that back.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] with the reason.
    pub async fn probe_write(&self) -> Result<(), StoreError> {
        let mut tx = self.begin_write().await?;
        run!(tx, "UPDATE fleet SET number = number WHERE id = 1")?;
        drop(tx);
        Ok(())
    }

    /// How many migrations this version of the program has.
    #[must_use]
    pub fn known_migrations(&self) -> usize {
        self.migrator().iter().count()
    }

    /// How many migrations the database has that this version does not know: a newer version made them.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]; [`StoreError::Broken`] where nothing was ever migrated.
    pub async fn foreign_migrations(&self) -> Result<usize, StoreError> {
        let mut read = self.begin_read().await?;
        let applied: Vec<i64> = on!(read, fetch_all, query_scalar("SELECT version FROM _sqlx_migrations"))?;
        Ok(applied.iter().filter(|version| !self.migrator().iter().any(|known| known.version == **version)).count())
    }
}

impl Read {
    /// The database's own clock; none for SQLite, which has this machine's.
    pub async fn clock(&mut self) -> Result<Option<Timestamp>, StoreError> {
        match self.connection() {
            Connection::Sqlite(_) => Ok(None),
            Connection::Shared(refused) => Err(refused),
            Connection::Postgres(c) => {
                let now = "SELECT CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000000 AS BIGINT)";
                Ok(Some(sqlx::query_scalar(now).fetch_one(c).await?))
            }
        }
    }

    /// When the latest row of the audit log was written.
    pub async fn last_audit(&mut self) -> Result<Option<Timestamp>, StoreError> {
        on!(self, fetch_optional, query_scalar("SELECT at FROM audit ORDER BY id DESC LIMIT 1"))
    }

    /// Jobs that were given up, and those that nobody began though they were due at `due_before`.
    pub async fn stuck_jobs(&mut self, due_before: Timestamp) -> Result<JobCounts, StoreError> {
        let (dead, overdue): (i64, i64) = on!(
            self,
            fetch_one,
            query_as(
                "SELECT COUNT(dead_at),
                        COUNT(CASE WHEN dead_at IS NULL AND run_at < $1
                                    AND (leased_until IS NULL OR leased_until < $1) THEN 1 END)
                   FROM jobs",
                due_before
            )
        )?;
        let last_error = on!(
            self,
            fetch_optional,
            query_as(
                "SELECT kind, COALESCE(last_error, '') FROM jobs WHERE dead_at IS NOT NULL ORDER BY dead_at DESC LIMIT 1"
            )
        )?;
        Ok(JobCounts { dead, overdue, last_error })
    }

    /// How many enabled device channels authenticate with a certificate that has ended, or will within `soon`.
    pub async fn ending_identities(&mut self, now: Timestamp, soon: Duration) -> Result<IdentityCounts, StoreError> {
        on!(
            self,
            fetch_one,
            query_as(
                "SELECT COUNT(CASE WHEN ends < $1 THEN 1 END) AS expired,
                        COUNT(CASE WHEN ends >= $1 AND ends < $2 AND server_url IS NOT NULL THEN 1 END) AS expiring,
                        COUNT(CASE WHEN ends < $2 AND server_url IS NULL THEN 1 END) AS not_renewed
                   FROM (SELECT MAX(i.not_after) AS ends, t.server_url
                           FROM identities i JOIN enrollments e ON e.id = i.enrollment_id
                           LEFT JOIN enrollment_terms t ON t.sha256 = e.terms
                          WHERE e.state = 'enabled' AND i.revoked_at IS NULL AND i.not_after IS NOT NULL
                          GROUP BY i.enrollment_id, t.server_url) AS latest",
                now,
                now.plus(soon)
            )
        )
    }

    /// An API token of an admin that holds at `now`, if there is one.
    pub async fn some_admin_token(&mut self, now: Timestamp) -> Result<Option<TokenId>, StoreError> {
        on!(
            self,
            fetch_optional,
            query_scalar(
                "SELECT id FROM api_tokens
                  WHERE role = 'admin' AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > $1) LIMIT 1",
                now
            )
        )
    }

    /// Under which master keys the sealed records are: all of the few, and some hundreds of each of the large tables. The
    /// key's id stands behind the version byte.
    pub async fn sealed_counts(&mut self) -> Result<Vec<SealedCount>, StoreError> {
        on!(
            self,
            fetch_all,
            query_as(
                "SELECT place, key_id, COUNT(*) AS records FROM (
                     SELECT 'authorities' AS place, substr(key_sealed, 2, 8) AS key_id FROM authorities
                      WHERE key_sealed IS NOT NULL
                     UNION ALL SELECT 'server_certificates', substr(key_sealed, 2, 8) FROM server_certificates
                     UNION ALL SELECT 'push_certificates', substr(key_sealed, 2, 8) FROM push_certificates
                     UNION ALL SELECT 'push_requests', substr(key_sealed, 2, 8) FROM push_requests
                     UNION ALL SELECT 'profiles', substr(content_sealed, 2, 8) FROM profiles
                     UNION ALL SELECT 'webhooks', substr(secret_sealed, 2, 8) FROM webhooks
                      WHERE secret_sealed IS NOT NULL
                     UNION ALL SELECT 'escrow', key_id
                       FROM (SELECT substr(value_sealed, 2, 8) AS key_id FROM escrow LIMIT 500) AS e
                     UNION ALL SELECT 'check_ins', key_id
                       FROM (SELECT substr(raw_sealed, 2, 8) AS key_id FROM check_ins LIMIT 500) AS c
                     UNION ALL SELECT 'commands', key_id
                       FROM (SELECT substr(payload_sealed, 2, 8) AS key_id FROM commands LIMIT 500) AS d
                     UNION ALL SELECT 'reports', key_id
                       FROM (SELECT substr(raw_sealed, 2, 8) AS key_id FROM reports LIMIT 500) AS r
                     UNION ALL SELECT 'webhook_events', key_id
                       FROM (SELECT substr(content_sealed, 2, 8) AS key_id FROM webhook_events LIMIT 500) AS w
                 ) AS records GROUP BY place, key_id ORDER BY place, key_id"
            )
        )
    }
}
