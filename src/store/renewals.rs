use sqlx::FromRow;

use super::{Read, StoreError, Write};
use crate::model::{EnrollmentId, Timestamp};

/// Renewals of one device's certificate that have not taken effect.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
#[expect(missing_docs, reason = "the columns are described in the migration")]
pub struct RenewalRow {
    pub enrollment_id: EnrollmentId,
    pub attempts: i64,
    pub sent_at: Timestamp,
    pub retry_at: Timestamp,
    pub failed_at: Option<Timestamp>,
    pub error: Option<String>,
}

/// How the renewals of enabled devices go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RenewalCounts {
    /// Devices that refused the latest one.
    pub failed: i64,
    /// What the latest of them said.
    pub last_error: Option<String>,
}

impl Read {
    /// The renewal that was sent to a device and has not taken effect.
    pub async fn renewal(&mut self, id: EnrollmentId) -> Result<Option<RenewalRow>, StoreError> {
        on!(self, fetch_optional, query_as("SELECT * FROM renewals WHERE enrollment_id = $1", id))
    }

    /// How many enabled devices refused the latest renewal of their certificate.
    pub async fn failed_renewals(&mut self) -> Result<RenewalCounts, StoreError> {
        let failed = on!(
            self,
            fetch_one,
            query_scalar(
                "SELECT COUNT(*) FROM renewals r JOIN enrollments e ON e.id = r.enrollment_id
                  WHERE r.failed_at IS NOT NULL AND e.state = 'enabled'"
            )
        )?;
        let last_error: Option<Option<String>> = on!(
            self,
            fetch_optional,
            query_scalar(
                "SELECT r.error FROM renewals r JOIN enrollments e ON e.id = r.enrollment_id
                  WHERE r.failed_at IS NOT NULL AND e.state = 'enabled' ORDER BY r.failed_at DESC LIMIT 1"
            )
        )?;
        Ok(RenewalCounts { failed, last_error: last_error.flatten() })
    }
}

impl Write {
    /// Notes that a renewal was sent for the `attempts`-th time, and that no other is sent before `retry_at`. What the
    /// device said of the one before stays until it says something else.
    pub async fn put_renewal(
        &mut self,
        id: EnrollmentId,
        attempts: i64,
        retry_at: Timestamp,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        run!(
            self,
            "INSERT INTO renewals (enrollment_id, attempts, sent_at, retry_at) VALUES ($1, $2, $3, $4)
             ON CONFLICT (enrollment_id) DO UPDATE
                SET attempts = excluded.attempts, sent_at = excluded.sent_at, retry_at = excluded.retry_at",
            id,
            attempts,
            now,
            retry_at
        )
        .map(drop)
    }

    /// Notes why a renewal failed, and that no other is sent before `retry_at`.
    pub async fn fail_renewal(
        &mut self,
        id: EnrollmentId,
        error: &str,
        retry_at: Timestamp,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        run!(
            self,
            "UPDATE renewals SET retry_at = $2, failed_at = $3, error = $4 WHERE enrollment_id = $1",
            id,
            retry_at,
            now,
            error
        )
        .map(drop)
    }

    /// Forgets renewals: the device has its new certificate, or has enrolled anew.
    pub async fn clear_renewal(&mut self, id: EnrollmentId) -> Result<(), StoreError> {
        hot!(self, change, "DELETE FROM renewals WHERE enrollment_id = $1", id).map(drop)
    }
}
