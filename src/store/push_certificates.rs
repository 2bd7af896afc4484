use sqlx::FromRow;

use super::{Read, StoreError, Write};
use crate::model::{EnrollmentId, PushRequestId, Sha256, Timestamp};

/// A push certificate's row.
#[derive(Clone, Debug, FromRow)]
#[expect(missing_docs, reason = "the columns are described in the migration")]
pub struct PushCertificateRow {
    pub topic: String,
    pub chain_pem: String,
    pub key_sealed: Vec<u8>,
    pub sha256: Sha256,
    pub subject: String,
    pub not_before: Timestamp,
    pub not_after: Timestamp,
    pub is_default: bool,
    pub created_at: Timestamp,
    pub created_by: String,
}

/// A key that waits for Apple's certificate.
#[derive(Clone, Debug, FromRow)]
#[expect(missing_docs, reason = "the columns are described in the migration")]
pub struct PushRequestRow {
    pub id: PushRequestId,
    pub csr_pem: String,
    pub public_key_sha256: Sha256,
    pub key_sealed: Vec<u8>,
    pub created_at: Timestamp,
    pub created_by: String,
    pub answered_at: Option<Timestamp>,
}

/// The least priority, where any would do: with `EXISTS` SQLite reads the whole history of each device.
pub(super) const TO_WAKE: &str = "SELECT e.id FROM enrollments e
      WHERE e.topic = $1 AND e.state = 'enabled' AND e.id > $2
        AND ((SELECT MIN(d.priority) FROM deliveries d
               WHERE d.enrollment_id = e.id AND d.state IN ('queued', 'sent', 'not_now')) IS NOT NULL
             OR EXISTS (SELECT 1 FROM wakes w
                         WHERE w.enrollment_id = e.id AND (w.due_at > $3 OR w.not_before > $3)))
      ORDER BY e.id LIMIT $4";

impl Read {
    /// All push certificates, the default first.
    pub async fn push_certificates(&mut self) -> Result<Vec<PushCertificateRow>, StoreError> {
        on!(
            self,
            fetch_all,
            query_as("SELECT * FROM push_certificates ORDER BY is_default DESC, created_at DESC, topic LIMIT 1000")
        )
    }

    /// The push certificate for a topic.
    pub async fn push_certificate(&mut self, topic: &str) -> Result<Option<PushCertificateRow>, StoreError> {
        on!(self, fetch_optional, query_as("SELECT * FROM push_certificates WHERE topic = $1", topic))
    }

    /// How many devices are enrolled under each topic.
    pub async fn enabled_devices_by_topic(&mut self) -> Result<Vec<(String, i64)>, StoreError> {
        on!(
            self,
            fetch_all,
            query_as(
                "SELECT topic, COUNT(*) FROM enrollments
                  WHERE state = 'enabled' AND parent_id IS NULL AND topic IS NOT NULL
                  GROUP BY topic ORDER BY topic"
            )
        )
    }

    /// The next enabled enrollments of a topic, in the order of their ids, that have something open or whose wake-up
    /// was put off until after `now`, or would be.
    pub async fn enrollments_to_wake(
        &mut self,
        topic: &str,
        after: EnrollmentId,
        now: Timestamp,
        limit: i64,
    ) -> Result<Vec<EnrollmentId>, StoreError> {
        on!(self, fetch_all, query_scalar(TO_WAKE, topic, after, now, limit))
    }

    /// Requests for push certificates that were made before this one, newest first.
    pub async fn push_requests(
        &mut self,
        before: Option<PushRequestId>,
        limit: i64,
    ) -> Result<Vec<PushRequestRow>, StoreError> {
        on!(
            self,
            fetch_all,
            query_as(
                "SELECT * FROM push_requests WHERE $1 IS NULL OR id < $1 ORDER BY id DESC LIMIT $2",
                before,
                limit
            )
        )
    }

    /// The key that a certificate answers.
    pub async fn push_request_by_key(&mut self, public_key: Sha256) -> Result<Option<PushRequestRow>, StoreError> {
        on!(self, fetch_optional, query_as("SELECT * FROM push_requests WHERE public_key_sha256 = $1", public_key))
    }

    /// One request for a push certificate.
    pub async fn push_request(&mut self, id: PushRequestId) -> Result<Option<PushRequestRow>, StoreError> {
        on!(self, fetch_optional, query_as("SELECT * FROM push_requests WHERE id = $1", id))
    }
}

impl Write {
    /// The push certificate for a topic, locked until the end of the transaction.
    pub async fn push_certificate_for_update(&mut self, topic: &str) -> Result<Option<PushCertificateRow>, StoreError> {
        on!(self, fetch_optional, query_as("SELECT * FROM push_certificates WHERE topic = $1 FOR UPDATE", topic))
    }

    /// Makes the push certificate for this topic the default, and no other.
    pub async fn set_default_push_certificate(&mut self, topic: &str) -> Result<(), StoreError> {
        run!(self, "UPDATE push_certificates SET is_default = FALSE WHERE is_default = TRUE AND topic <> $1", topic)?;
        run!(self, "UPDATE push_certificates SET is_default = TRUE WHERE topic = $1", topic).map(drop)
    }

    /// Puts a push certificate in place of the one for its topic, if any.
    pub async fn put_push_certificate(&mut self, row: &PushCertificateRow) -> Result<(), StoreError> {
        if row.is_default {
            let topic = row.topic.as_str();
            run!(
                self,
                "UPDATE push_certificates SET is_default = FALSE WHERE is_default = TRUE AND topic <> $1",
                topic
            )?;
        }
        run!(
            self,
            "INSERT INTO push_certificates (topic, chain_pem, key_sealed, sha256, subject, not_before, not_after,
                                            is_default, created_at, created_by)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
             ON CONFLICT (topic) DO UPDATE
                SET chain_pem = excluded.chain_pem, key_sealed = excluded.key_sealed, sha256 = excluded.sha256,
                    subject = excluded.subject, not_before = excluded.not_before, not_after = excluded.not_after,
                    is_default = excluded.is_default, created_at = excluded.created_at, created_by = excluded.created_by",
            row.topic.as_str(),
            row.chain_pem.as_str(),
            row.key_sealed.as_slice(),
            row.sha256,
            row.subject.as_str(),
            row.not_before,
            row.not_after,
            row.is_default,
            row.created_at,
            row.created_by.as_str()
        )
        .map(drop)
    }

    /// Takes a push certificate away.
    pub async fn delete_push_certificate(&mut self, topic: &str) -> Result<bool, StoreError> {
        Ok(run!(self, "DELETE FROM push_certificates WHERE topic = $1", topic)? == 1)
    }

    /// Keeps a key that waits for its certificate.
    pub async fn insert_push_request(&mut self, row: &PushRequestRow) -> Result<(), StoreError> {
        run!(
            self,
            "INSERT INTO push_requests (id, csr_pem, public_key_sha256, key_sealed, created_at, created_by)
             VALUES ($1, $2, $3, $4, $5, $6)",
            row.id,
            row.csr_pem.as_str(),
            row.public_key_sha256,
            row.key_sealed.as_slice(),
            row.created_at,
            row.created_by.as_str()
        )
        .map(drop)
    }

    /// Forgets a request and its key.
    pub async fn delete_push_request(&mut self, id: PushRequestId) -> Result<bool, StoreError> {
        Ok(run!(self, "DELETE FROM push_requests WHERE id = $1", id)? == 1)
    }

    /// The certificate for this request came.
    pub async fn answer_push_request(&mut self, id: PushRequestId, now: Timestamp) -> Result<(), StoreError> {
        run!(self, "UPDATE push_requests SET answered_at = $2 WHERE id = $1", id, now).map(drop)
    }
}
