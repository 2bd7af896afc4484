use serde::{Deserialize, Serialize};
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

/// A kept profile's row without its content.
#[derive(Clone, Debug, PartialEq, Eq, FromRow, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the columns are described in the migration")]
pub struct ProfileFacts {
    pub id: ProfileId,
    pub identifier: String,
    pub name: String,
    pub payload_uuid: String,
    pub organization: Option<String>,
    pub scope: String,
    pub payload_types: String,
    pub sha256: Sha256,
    pub size_bytes: i64,
    pub signed: bool,
    pub revision: i64,
    pub created_at: Timestamp,
    pub created_by: String,
    pub updated_at: Timestamp,
}

impl ProfileRow {
    /// The same without the content.
    #[must_use]
    pub fn facts(&self) -> ProfileFacts {
        ProfileFacts {
            id: self.id,
            identifier: self.identifier.clone(),
            name: self.name.clone(),
            payload_uuid: self.payload_uuid.clone(),
            organization: self.organization.clone(),
            scope: self.scope.clone(),
            payload_types: self.payload_types.clone(),
            sha256: self.sha256,
            size_bytes: self.size_bytes,
            signed: self.signed,
            revision: self.revision,
            created_at: self.created_at,
            created_by: self.created_by.clone(),
            updated_at: self.updated_at,
        }
    }
}

/// Which profiles to list; what is none is not looked at.
#[derive(Clone, Debug, Default)]
pub struct ProfileFilter {
    /// Those with this identifier.
    pub identifier: Option<String>,
    /// Those with a payload of this type.
    pub payload_type: Option<String>,
}

/// The text that reads a profile without its content, with or without a lock.
macro_rules! profile_facts {
    ($lock:literal) => {
        concat!(
            "SELECT id, identifier, name, payload_uuid, organization, scope, payload_types, sha256, size_bytes, signed,
                    revision, created_at, created_by, updated_at
               FROM profiles WHERE id = $1",
            $lock
        )
    };
}

impl Read {
    /// The profiles that pass the filter, newest first, those before `after` only.
    pub async fn profiles(
        &mut self,
        filter: &ProfileFilter,
        after: Option<ProfileId>,
        limit: i64,
    ) -> Result<Vec<ProfileFacts>, StoreError> {
        // The types stand in a JSON array of texts: a type with its quotes is found nowhere else in it.
        let payload_type = filter.payload_type.as_ref().map(|name| format!("\"{name}\""));
        on!(
            self,
            fetch_all,
            query_as(
                "SELECT id, identifier, name, payload_uuid, organization, scope, payload_types, sha256, size_bytes,
                        signed, revision, created_at, created_by, updated_at
                   FROM profiles
                  WHERE ($1 IS NULL OR id < $1)
                    AND (CAST($2 AS TEXT) IS NULL OR identifier = $2)
                    AND (CAST($3 AS TEXT) IS NULL OR REPLACE(payload_types, $3, '') <> payload_types)
                  ORDER BY id DESC LIMIT $4",
                after,
                filter.identifier.as_deref(),
                payload_type.as_deref(),
                limit
            )
        )
    }

    /// The profile with this id, without its content.
    pub async fn profile_facts(&mut self, id: ProfileId) -> Result<Option<ProfileFacts>, StoreError> {
        on!(self, fetch_optional, query_as(profile_facts!(""), id))
    }

    /// The profile with this identifier.
    pub async fn profile_by_identifier(&mut self, identifier: &str) -> Result<Option<ProfileId>, StoreError> {
        on!(self, fetch_optional, query_scalar("SELECT id FROM profiles WHERE identifier = $1", identifier))
    }

    /// The profile with this id.
    pub async fn profile(&mut self, id: ProfileId) -> Result<Option<ProfileRow>, StoreError> {
        on!(self, fetch_optional, query_as("SELECT * FROM profiles WHERE id = $1", id))
    }
}

impl Write {
    /// As [`Read::profile_facts`]; the row is locked until the end of the transaction, so that nobody changes it meanwhile.
    pub async fn profile_facts_for_update(&mut self, id: ProfileId) -> Result<Option<ProfileFacts>, StoreError> {
        on!(self, fetch_optional, query_as(profile_facts!(" FOR UPDATE"), id))
    }

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
