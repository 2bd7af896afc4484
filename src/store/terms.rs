use sqlx::FromRow;

use super::{Read, StoreError, Write};
use crate::model::{ChallengeId, EnrollmentId, Sha256, Timestamp};

/// What an enrollment profile laid down that may not change on a device.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
#[expect(missing_docs, reason = "the columns are described in the migration")]
pub struct TermsRow {
    pub sha256: Sha256,
    pub identifier: String,
    pub server_url: Option<String>,
    pub checkin_url: Option<String>,
    pub access_rights: Option<i64>,
}

columns!(TermsRow, terms_columns: sha256, identifier, server_url, checkin_url, access_rights);

/// How many enabled enrollments have the same terms; all is none where they are not known.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
pub struct EnabledUnder {
    /// The enrollment profile's identifier.
    pub identifier: Option<String>,
    /// Where their devices send reports.
    pub server_url: Option<String>,
    /// Where their devices check in.
    pub checkin_url: Option<String>,
    /// Apple's bits.
    pub access_rights: Option<i64>,
    /// How many.
    pub enrollments: i64,
}

impl Read {
    /// The terms with this hash.
    pub async fn terms(&mut self, sha256: Sha256) -> Result<Option<TermsRow>, StoreError> {
        hot!(self, first, concat!("SELECT ", terms_columns!(), " FROM enrollment_terms WHERE sha256 = $1"), sha256)
    }

    /// Under which terms the enabled device channels are, the most frequent first.
    pub async fn enabled_by_terms(&mut self) -> Result<Vec<EnabledUnder>, StoreError> {
        on!(
            self,
            fetch_all,
            query_as(
                "SELECT t.identifier, t.server_url, t.checkin_url, t.access_rights, e.enrollments
                   FROM (SELECT terms, COUNT(*) AS enrollments FROM enrollments
                          WHERE state = 'enabled' AND parent_id IS NULL GROUP BY terms) AS e
                   LEFT JOIN enrollment_terms t ON t.sha256 = e.terms
                  ORDER BY e.enrollments DESC, t.sha256"
            )
        )
    }

    /// The identifiers of all enrollment profiles that were ever handed out here.
    pub async fn enrollment_profile_identifiers(&mut self) -> Result<Vec<String>, StoreError> {
        on!(
            self,
            fetch_all,
            query_scalar(
                "SELECT DISTINCT identifier FROM enrollment_terms WHERE server_url IS NOT NULL ORDER BY identifier LIMIT 1000"
            )
        )
    }
}

impl Write {
    /// Keeps terms; nothing happens where they are there.
    pub async fn put_terms(&mut self, row: &TermsRow, now: Timestamp) -> Result<(), StoreError> {
        run!(
            self,
            "INSERT INTO enrollment_terms (sha256, identifier, server_url, checkin_url, access_rights, created_at)
             VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING",
            row.sha256,
            row.identifier.as_str(),
            row.server_url.as_deref(),
            row.checkin_url.as_deref(),
            row.access_rights,
            now
        )
        .map(drop)
    }

    /// Notes under which terms a device is, for its channel and those of its users.
    pub async fn set_terms(&mut self, id: EnrollmentId, terms: Option<Sha256>) -> Result<(), StoreError> {
        hot!(self, change, "UPDATE enrollments SET terms = $2 WHERE id = $1 OR parent_id = $1", id, terms).map(drop)
    }

    /// As [`Write::set_terms`], with the terms of the profile that held a challenge; those that are there stay where it
    /// stood in none of ours.
    pub async fn take_over_terms(&mut self, id: EnrollmentId, challenge: ChallengeId) -> Result<(), StoreError> {
        run!(
            self,
            "UPDATE enrollments SET terms = COALESCE((SELECT c.terms FROM challenges c WHERE c.id = $2), terms)
              WHERE id = $1 OR parent_id = $1",
            id,
            challenge
        )
        .map(drop)
    }
}
