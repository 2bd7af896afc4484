use sqlx::FromRow;

use super::{Read, StoreError, Write};
use crate::model::{ProfileId, Sha256, Timestamp};

/// A kept profile's row.
#[derive(Clone, Debug, FromRow)]
#[expect(missing_docs, reason = "the columns are described in the migration")]
pub struct ProfileRow {
    pub id: ProfileId,
    pub identifier: String,
    pub name: String,
    pub payload_uuid: String,
    pub organization: Option<String>,
    pub scope: String,
    pub payload_types: String,
    pub content_sealed: Vec<u8>,
    pub sha256: Sha256,
    pub size_bytes: i64,
    pub signed: bool,
    pub revision: i64,
    pub created_at: Timestamp,
    pub created_by: String,
    pub updated_at: Timestamp,
}

impl Read {
    /// The profile with this id.
    pub async fn profile(&mut self, id: ProfileId) -> Result<Option<ProfileRow>, StoreError> {
        on!(self, fetch_optional, query_as("SELECT * FROM profiles WHERE id = $1", id))
    }
}

impl Write {
    /// Adds a profile; its identifier must be new.
    pub async fn insert_profile(&mut self, row: &ProfileRow) -> Result<(), StoreError> {
        run!(
            self,
            "INSERT INTO profiles (id, identifier, name, payload_uuid, organization, scope, payload_types,
                                   content_sealed, sha256, size_bytes, signed, revision, created_at, created_by,
                                   updated_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, 1, $12, $13, $12)",
            row.id,
            row.identifier.as_str(),
            row.name.as_str(),
            row.payload_uuid.as_str(),
            row.organization.as_deref(),
            row.scope.as_str(),
            row.payload_types.as_str(),
            row.content_sealed.as_slice(),
            row.sha256,
            row.size_bytes,
            row.signed,
            row.created_at,
            row.created_by.as_str()
        )
        .map(drop)
    }

    /// Replaces a profile's content, if it still has the revision `row.revision`. False: it has another by now.
    pub async fn replace_profile(&mut self, row: &ProfileRow, now: Timestamp) -> Result<bool, StoreError> {
        Ok(run!(
            self,
            "UPDATE profiles
                SET name = $3, payload_uuid = $4, organization = $5, scope = $6, payload_types = $7,
                    content_sealed = $8, sha256 = $9, size_bytes = $10, signed = $11, revision = revision + 1,
                    updated_at = $12
              WHERE id = $1 AND revision = $2",
            row.id,
            row.revision,
            row.name.as_str(),
            row.payload_uuid.as_str(),
            row.organization.as_deref(),
            row.scope.as_str(),
            row.payload_types.as_str(),
            row.content_sealed.as_slice(),
            row.sha256,
            row.size_bytes,
            row.signed,
            now
        )? == 1)
    }

    /// Forgets a profile, if it still has this revision.
    pub async fn delete_profile(&mut self, id: ProfileId, revision: i64) -> Result<bool, StoreError> {
        Ok(run!(self, "DELETE FROM profiles WHERE id = $1 AND revision = $2", id, revision)? == 1)
    }
}
