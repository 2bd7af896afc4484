use sqlx::FromRow;

use super::{Read, StoreError, Write};
use crate::model::{CaId, ChallengeId, DeviceId, EnrollmentId, Sha256, Timestamp};

/// A certificate that was issued here.
#[derive(Clone, Debug, FromRow)]
#[expect(missing_docs, reason = "the columns are described in the migration")]
pub struct CertificateRow {
    pub sha256: Sha256,
    pub authority_id: CaId,
    pub serial: String,
    pub subject: String,
    pub public_key_sha256: Sha256,
    pub der: Vec<u8>,
    pub challenge_id: Option<ChallengeId>,
    pub enrollment_id: Option<EnrollmentId>,
    pub generation: Option<i64>,
    pub not_before: Timestamp,
    pub not_after: Timestamp,
    pub issued_at: Timestamp,
    pub revoked_at: Option<Timestamp>,
    pub revoked_reason: Option<String>,
}

/// What the issuing record of a certificate says about where it belongs.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "the columns are described in the migration")]
pub struct IssuedRow {
    pub subject: String,
    pub challenge_id: Option<ChallengeId>,
    pub enrollment_id: Option<EnrollmentId>,
    pub generation: Option<i64>,
    pub revoked_at: Option<Timestamp>,
}

columns!(IssuedRow, issued_columns: subject, challenge_id, enrollment_id, generation, revoked_at);

/// A pin: an enrollment may authenticate with this certificate.
#[derive(Clone, Debug, FromRow)]
#[expect(missing_docs, reason = "the columns are described in the migration")]
pub struct PinRow {
    pub enrollment_id: EnrollmentId,
    pub sha256: Sha256,
    pub authority_id: Option<CaId>,
    pub not_after: Option<Timestamp>,
    pub pinned_at: Timestamp,
    pub revoked_at: Option<Timestamp>,
}

columns!(PinRow, pin_columns: enrollment_id, sha256, authority_id, not_after, pinned_at, revoked_at);

/// A pin with what the issuing record knows of it, for showing.
#[derive(Clone, Debug, FromRow)]
#[expect(missing_docs, reason = "the columns are described in the migration")]
pub struct IdentityRow {
    pub sha256: Sha256,
    pub serial: Option<String>,
    pub subject: Option<String>,
    pub not_after: Option<Timestamp>,
    pub pinned_at: Timestamp,
    pub revoked_at: Option<Timestamp>,
}

/// A certificate that was issued here, without its DER, for showing.
#[derive(Clone, Debug, FromRow)]
#[expect(missing_docs, reason = "the columns are described in the migration")]
pub struct ListedCertificate {
    pub sha256: Sha256,
    pub authority_id: CaId,
    pub serial: String,
    pub subject: String,
    pub enrollment_id: Option<EnrollmentId>,
    pub device_id: Option<DeviceId>,
    pub not_before: Timestamp,
    pub not_after: Timestamp,
    pub issued_at: Timestamp,
    pub revoked_at: Option<Timestamp>,
    pub revoked_reason: Option<String>,
}

/// Which certificates a list shows. What is none does not matter.
#[derive(Clone, Debug, Default)]
pub struct CertificateFilter {
    /// Of this device.
    pub device: Option<DeviceId>,
    /// With this serial number, in lower-case hex.
    pub serial: Option<String>,
    /// Of this authority.
    pub authority: Option<CaId>,
    /// Revoked ones, or those that are not.
    pub revoked: Option<bool>,
    /// Those that end before this time.
    pub expires_before: Option<Timestamp>,
}

/// The text of a list of certificates.
macro_rules! certificate_list {
    ($rest:literal) => {
        concat!(
            "SELECT c.sha256, c.authority_id, c.serial, c.subject, c.enrollment_id, e.device_id, c.not_before,
                    c.not_after, c.issued_at, c.revoked_at, c.revoked_reason
               FROM certificates c LEFT JOIN enrollments e ON e.id = c.enrollment_id
              WHERE ",
            $rest
        )
    };
}

impl Read {
    /// One certificate that was issued here, without its DER.
    pub async fn listed_certificate(&mut self, sha256: Sha256) -> Result<Option<ListedCertificate>, StoreError> {
        on!(self, fetch_optional, query_as(certificate_list!("c.sha256 = $1"), sha256))
    }

    /// The next certificates that were issued here, newest first, after the one of the time and hash `after`.
    pub async fn list_certificates(
        &mut self,
        filter: &CertificateFilter,
        after: Option<(Timestamp, Sha256)>,
        limit: i64,
    ) -> Result<Vec<ListedCertificate>, StoreError> {
        let (at, sha256) = after.unwrap_or((Timestamp::from_micros(i64::MAX), Sha256([0xff; 32])));
        let sql = certificate_list!(
            "c.issued_at <= $1 AND (c.issued_at < $1 OR c.sha256 < $2)
                AND ($3 IS NULL OR e.device_id = $3) AND ($4 IS NULL OR c.serial = $4)
                AND ($5 IS NULL OR c.authority_id = $5) AND ($6 IS NULL OR (c.revoked_at IS NOT NULL) = $6)
                AND ($7 IS NULL OR c.not_after < $7)
              ORDER BY c.issued_at DESC, c.sha256 DESC LIMIT $8"
        );
        let serial = filter.serial.as_deref();
        let (device, authority, revoked) = (filter.device, filter.authority, filter.revoked);
        on!(
            self,
            fetch_all,
            query_as(sql, at, sha256, device, serial, authority, revoked, filter.expires_before, limit)
        )
    }

    /// The issuing record of a certificate.
    pub async fn certificate(&mut self, sha256: Sha256) -> Result<Option<CertificateRow>, StoreError> {
        on!(self, fetch_optional, query_as("SELECT * FROM certificates WHERE sha256 = $1", sha256))
    }

    /// Where a certificate that was issued here belongs.
    pub async fn issued(&mut self, sha256: Sha256) -> Result<Option<IssuedRow>, StoreError> {
        hot!(self, first, concat!("SELECT ", issued_columns!(), " FROM certificates WHERE sha256 = $1"), sha256)
    }

    /// The certificate that a challenge gave to this key already.
    pub async fn certificate_for_key(
        &mut self,
        challenge: ChallengeId,
        public_key: Sha256,
    ) -> Result<Option<CertificateRow>, StoreError> {
        on!(
            self,
            fetch_optional,
            query_as(
                "SELECT * FROM certificates WHERE challenge_id = $1 AND public_key_sha256 = $2 ORDER BY issued_at LIMIT 1",
                challenge,
                public_key
            )
        )
    }

    /// The enrollments that a certificate is pinned to and not revoked for.
    pub async fn pins_of_certificate(&mut self, sha256: Sha256) -> Result<Vec<PinRow>, StoreError> {
        hot!(
            self,
            all,
            concat!(
                "SELECT ",
                pin_columns!(),
                " FROM identities WHERE sha256 = $1 AND revoked_at IS NULL ORDER BY enrollment_id LIMIT 10"
            ),
            sha256
        )
    }

    /// One pin, revoked or not.
    pub async fn pin(&mut self, enrollment: EnrollmentId, sha256: Sha256) -> Result<Option<PinRow>, StoreError> {
        hot!(
            self,
            first,
            concat!("SELECT ", pin_columns!(), " FROM identities WHERE enrollment_id = $1 AND sha256 = $2"),
            enrollment,
            sha256
        )
    }

    /// The pins of an enrollment, newest first.
    pub async fn identities_of_enrollment(&mut self, id: EnrollmentId) -> Result<Vec<IdentityRow>, StoreError> {
        on!(
            self,
            fetch_all,
            query_as(
                "SELECT i.sha256, c.serial, c.subject, i.not_after, i.pinned_at, i.revoked_at
                   FROM identities i LEFT JOIN certificates c ON c.sha256 = i.sha256
                  WHERE i.enrollment_id = $1 ORDER BY i.pinned_at DESC, i.sha256 LIMIT 100",
                id
            )
        )
    }

    /// Enabled device channels whose newest valid pin of an own authority ends before `before`, and that a renewal can be sent to now: they
    /// have a profile of ours, and the last renewal is not too short ago.
    pub async fn expiring_identities(
        &mut self,
        before: Timestamp,
        now: Timestamp,
        after: EnrollmentId,
        limit: i64,
    ) -> Result<Vec<(EnrollmentId, Timestamp)>, StoreError> {
        on!(
            self,
            fetch_all,
            query_as(
                "SELECT e.id, MAX(i.not_after) FROM enrollments e
                   JOIN identities i ON i.enrollment_id = e.id AND i.revoked_at IS NULL
                   JOIN certificates c ON c.sha256 = i.sha256
                   JOIN enrollment_terms t ON t.sha256 = e.terms AND t.server_url IS NOT NULL
                   LEFT JOIN renewals r ON r.enrollment_id = e.id
                  WHERE e.state = 'enabled' AND e.parent_id IS NULL AND e.id > $2
                    AND (r.retry_at IS NULL OR r.retry_at <= $4)
                  GROUP BY e.id HAVING MAX(i.not_after) < $1 ORDER BY e.id LIMIT $3",
                before,
                after,
                limit,
                now
            )
        )
    }
}

impl Write {
    /// Records a certificate that is about to be handed out.
    pub async fn insert_certificate(&mut self, row: &CertificateRow) -> Result<(), StoreError> {
        run!(
            self,
            "INSERT INTO certificates (sha256, authority_id, serial, subject, public_key_sha256, der, challenge_id,
                                       enrollment_id, generation, not_before, not_after, issued_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
            row.sha256,
            row.authority_id,
            row.serial.as_str(),
            row.subject.as_str(),
            row.public_key_sha256,
            row.der.as_slice(),
            row.challenge_id,
            row.enrollment_id,
            row.generation,
            row.not_before,
            row.not_after,
            row.issued_at
        )
        .map(drop)
    }

    /// Notes which enrollment a certificate turned out to be for, in its present generation.
    pub async fn link_certificate(&mut self, sha256: Sha256, enrollment: EnrollmentId) -> Result<(), StoreError> {
        hot!(
            self,
            change,
            "UPDATE certificates
                SET enrollment_id = $2, generation = (SELECT e.generation FROM enrollments e WHERE e.id = $2)
              WHERE sha256 = $1",
            sha256,
            enrollment
        )
        .map(drop)
    }

    /// Pins a certificate to an enrollment; a revoked pin of the same certificate becomes valid again.
    pub async fn put_pin(
        &mut self,
        enrollment: EnrollmentId,
        sha256: Sha256,
        authority: Option<CaId>,
        not_after: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        hot!(
            self,
            change,
            "INSERT INTO identities (enrollment_id, sha256, authority_id, not_after, pinned_at)
             VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT (enrollment_id, sha256) DO UPDATE SET pinned_at = excluded.pinned_at, revoked_at = NULL",
            enrollment,
            sha256,
            authority,
            not_after,
            now
        )
        .map(drop)
    }

    /// Revokes all pins of an enrollment but one (or none of them is kept).
    pub async fn revoke_pins(
        &mut self,
        enrollment: EnrollmentId,
        keep: Option<Sha256>,
        now: Timestamp,
    ) -> Result<u64, StoreError> {
        let keep = keep.map_or_else(Vec::new, |digest| digest.0.to_vec());
        run!(
            self,
            "UPDATE identities SET revoked_at = $3 WHERE enrollment_id = $1 AND sha256 <> $2 AND revoked_at IS NULL",
            enrollment,
            keep,
            now
        )
    }

    /// Revokes all certificates that were issued for an enrollment.
    pub async fn revoke_certificates(
        &mut self,
        enrollment: EnrollmentId,
        reason: &'static str,
        now: Timestamp,
    ) -> Result<u64, StoreError> {
        run!(
            self,
            "UPDATE certificates SET revoked_at = $3, revoked_reason = $2 WHERE enrollment_id = $1 AND revoked_at IS NULL",
            enrollment,
            reason,
            now
        )
    }

    /// Revokes one certificate, its pins with it. False: there is no such certificate, or it was revoked before.
    pub async fn revoke_certificate(
        &mut self,
        sha256: Sha256,
        reason: &str,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        run!(self, "UPDATE identities SET revoked_at = $2 WHERE sha256 = $1 AND revoked_at IS NULL", sha256, now)?;
        Ok(run!(
            self,
            "UPDATE certificates SET revoked_at = $3, revoked_reason = $2 WHERE sha256 = $1 AND revoked_at IS NULL",
            sha256,
            reason,
            now
        )? == 1)
    }
}
