use sqlx::FromRow;

use super::{Read, StoreError, Write};
use crate::model::{CaId, Sha256, Timestamp};

/// A certificate authority's row.
#[derive(Clone, Debug, FromRow)]
#[expect(missing_docs, reason = "the columns are described in the migration")]
pub struct AuthorityRow {
    pub id: CaId,
    pub purpose: String,
    pub slot: Option<String>,
    pub name: String,
    pub certificate: Vec<u8>,
    pub sha256: Sha256,
    pub key_sealed: Option<Vec<u8>>,
    pub issues_elsewhere: bool,
    pub not_after: Timestamp,
    pub created_at: Timestamp,
    pub retired_at: Option<Timestamp>,
}

/// A leaf certificate of the server itself.
#[derive(Clone, Debug, FromRow)]
#[expect(missing_docs, reason = "the columns are described in the migration")]
pub struct ServerCertificateRow {
    pub name: String,
    pub chain_pem: String,
    pub key_sealed: Vec<u8>,
    pub names: String,
    pub not_after: Timestamp,
    pub created_at: Timestamp,
}

impl Read {
    /// All authorities of a purpose (`device` or `tls`) that are not retired, oldest first.
    pub async fn authorities(&mut self, purpose: &str) -> Result<Vec<AuthorityRow>, StoreError> {
        on!(
            self,
            fetch_all,
            query_as(
                "SELECT * FROM authorities WHERE purpose = $1 AND retired_at IS NULL ORDER BY created_at, id LIMIT 1000",
                purpose
            )
        )
    }

    /// One authority, retired or not.
    pub async fn authority(&mut self, id: CaId) -> Result<Option<AuthorityRow>, StoreError> {
        on!(self, fetch_optional, query_as("SELECT * FROM authorities WHERE id = $1", id))
    }

    /// The authority with this certificate, retired or not.
    pub async fn authority_by_sha256(
        &mut self,
        purpose: &str,
        sha256: Sha256,
    ) -> Result<Option<AuthorityRow>, StoreError> {
        on!(
            self,
            fetch_optional,
            query_as("SELECT * FROM authorities WHERE purpose = $1 AND sha256 = $2", purpose, sha256)
        )
    }

    /// How many enabled device channels have a valid pin of a certificate of this authority.
    pub async fn count_pins_of_authority(&mut self, id: CaId) -> Result<i64, StoreError> {
        on!(
            self,
            fetch_one,
            query_scalar(
                "SELECT COUNT(DISTINCT i.enrollment_id) FROM identities i JOIN enrollments e ON e.id = i.enrollment_id
                  WHERE i.authority_id = $1 AND i.revoked_at IS NULL AND e.state = 'enabled'",
                id
            )
        )
    }

    /// A leaf certificate of the server, by its use.
    pub async fn server_certificate(&mut self, name: &str) -> Result<Option<ServerCertificateRow>, StoreError> {
        on!(self, fetch_optional, query_as("SELECT * FROM server_certificates WHERE name = $1", name))
    }
}

impl Write {
    /// Adds an authority. Returns false when its purpose and slot, or its certificate, are there already: two server
    /// processes that start on an empty database make one authority.
    pub async fn insert_authority(&mut self, row: &AuthorityRow) -> Result<bool, StoreError> {
        Ok(run!(
            self,
            "INSERT INTO authorities (id, purpose, slot, name, certificate, sha256, key_sealed, issues_elsewhere,
                                      not_after, created_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ON CONFLICT DO NOTHING",
            row.id,
            row.purpose.as_str(),
            row.slot.as_deref(),
            row.name.as_str(),
            row.certificate.as_slice(),
            row.sha256,
            row.key_sealed.as_deref(),
            row.issues_elsewhere,
            row.not_after,
            row.created_at
        )? == 1)
    }

    /// Stops accepting an authority's certificates.
    pub async fn retire_authority(&mut self, id: CaId, now: Timestamp) -> Result<bool, StoreError> {
        Ok(run!(
            self,
            "UPDATE authorities SET retired_at = $2 WHERE id = $1 AND retired_at IS NULL AND slot IS NULL",
            id,
            now
        )? == 1)
    }

    /// Accepts a retired authority's certificates again. A key that is known stays where none is given.
    pub async fn restore_authority(&mut self, row: &AuthorityRow) -> Result<(), StoreError> {
        run!(
            self,
            "UPDATE authorities
                SET name = $2, key_sealed = COALESCE($3, key_sealed), issues_elsewhere = $4, retired_at = NULL
              WHERE id = $1",
            row.id,
            row.name.as_str(),
            row.key_sealed.as_deref(),
            row.issues_elsewhere
        )
        .map(drop)
    }

    /// Makes this device authority the one that issues, in place of the one that did.
    pub async fn activate_authority(&mut self, id: CaId) -> Result<(), StoreError> {
        run!(self, "UPDATE authorities SET slot = NULL WHERE purpose = 'device' AND slot = 'active'")?;
        run!(self, "UPDATE authorities SET slot = 'active' WHERE id = $1", id).map(drop)
    }

    /// Replaces a leaf certificate of the server, unless another process did so since `seen` (its `created_at`).
    pub async fn put_server_certificate(
        &mut self,
        row: &ServerCertificateRow,
        seen: Option<Timestamp>,
    ) -> Result<bool, StoreError> {
        Ok(run!(
            self,
            "INSERT INTO server_certificates (name, chain_pem, key_sealed, names, not_after, created_at)
             VALUES ($1, $2, $3, $4, $5, $6)
             ON CONFLICT (name) DO UPDATE
                SET chain_pem = excluded.chain_pem, key_sealed = excluded.key_sealed, names = excluded.names,
                    not_after = excluded.not_after, created_at = excluded.created_at
              WHERE server_certificates.created_at = $7",
            row.name.as_str(),
            row.chain_pem.as_str(),
            row.key_sealed.as_slice(),
            row.names.as_str(),
            row.not_after,
            row.created_at,
            seen
        )? == 1)
    }
}
