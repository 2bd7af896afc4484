use serde::{Deserialize, Serialize};
use sqlx::FromRow;

use super::{Read, StoreError, Write};
use crate::model::{AppId, PackageId, Sha256, Timestamp};

/// A kept app's row.
#[derive(Clone, Debug, PartialEq, Eq, FromRow, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the columns are described in the migration")]
pub struct AppRow {
    pub id: AppId,
    pub kind: String,
    pub name: String,
    pub bundle_id: Option<String>,
    pub version: Option<String>,
    pub display_version: Option<String>,
    pub minimum_os: Option<String>,
    pub store_id: Option<i64>,
    pub manifest_url: Option<String>,
    pub package_id: Option<PackageId>,
    pub revision: i64,
    pub created_at: Timestamp,
    pub created_by: String,
    pub updated_at: Timestamp,
}

/// A stored package's row; its bytes are in chunks beside it.
#[derive(Clone, Debug, PartialEq, Eq, FromRow, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the columns are described in the migration")]
pub struct PackageRow {
    pub id: PackageId,
    pub slug: String,
    pub size_bytes: i64,
    pub chunk_bytes: i64,
    pub sha256: Option<Sha256>,
    pub created_at: Timestamp,
    pub ready_at: Option<Timestamp>,
}

/// Which apps to list; what is none is not looked at.
#[derive(Clone, Debug, Default)]
pub struct AppFilter {
    /// Those of this kind.
    pub kind: Option<String>,
    /// Those with this bundle id.
    pub bundle_id: Option<String>,
}

impl Read {
    /// The app with this id.
    pub async fn app(&mut self, id: AppId) -> Result<Option<AppRow>, StoreError> {
        on!(self, fetch_optional, query_as("SELECT * FROM apps WHERE id = $1", id))
    }

    /// The apps that pass the filter, newest first, those before `after` only.
    pub async fn apps(
        &mut self,
        filter: &AppFilter,
        after: Option<AppId>,
        limit: i64,
    ) -> Result<Vec<AppRow>, StoreError> {
        on!(
            self,
            fetch_all,
            query_as(
                "SELECT * FROM apps
                  WHERE ($1 IS NULL OR id < $1)
                    AND (CAST($2 AS TEXT) IS NULL OR kind = $2)
                    AND (CAST($3 AS TEXT) IS NULL OR bundle_id = $3)
                  ORDER BY id DESC LIMIT $4",
                after,
                filter.kind.as_deref(),
                filter.bundle_id.as_deref(),
                limit
            )
        )
    }

    /// The package with this id.
    pub async fn package(&mut self, id: PackageId) -> Result<Option<PackageRow>, StoreError> {
        on!(self, fetch_optional, query_as("SELECT * FROM packages WHERE id = $1", id))
    }

    /// The complete package that is served under this unguessable name.
    pub async fn package_by_slug(&mut self, slug: &str) -> Result<Option<PackageRow>, StoreError> {
        on!(self, fetch_optional, query_as("SELECT * FROM packages WHERE slug = $1 AND ready_at IS NOT NULL", slug))
    }

    /// The app that a package belongs to.
    pub async fn app_of_package(&mut self, id: PackageId) -> Result<Option<AppRow>, StoreError> {
        on!(self, fetch_optional, query_as("SELECT * FROM apps WHERE package_id = $1", id))
    }

    /// One chunk of a package.
    pub async fn package_chunk(&mut self, id: PackageId, number: i64) -> Result<Option<Vec<u8>>, StoreError> {
        on!(
            self,
            fetch_optional,
            query_scalar("SELECT bytes FROM package_chunks WHERE package_id = $1 AND number = $2", id, number)
        )
    }

    /// Packages whose upload began before `before` and was never finished.
    pub async fn abandoned_packages(&mut self, before: Timestamp) -> Result<Vec<PackageId>, StoreError> {
        on!(
            self,
            fetch_all,
            query_scalar("SELECT id FROM packages WHERE ready_at IS NULL AND created_at < $1 LIMIT 100", before)
        )
    }

    /// The bytes that all packages take together, those that are being uploaded or taken away included.
    pub async fn package_bytes(&mut self) -> Result<i64, StoreError> {
        on!(self, fetch_one, query_scalar("SELECT CAST(COALESCE(SUM(size_bytes), 0) AS BIGINT) FROM packages"))
    }
}

impl Write {
    /// The app with this id; its row is locked until the end of the transaction, so that nobody changes it meanwhile.
    pub async fn app_for_update(&mut self, id: AppId) -> Result<Option<AppRow>, StoreError> {
        on!(self, fetch_optional, query_as("SELECT * FROM apps WHERE id = $1 FOR UPDATE", id))
    }

    /// Adds an app.
    pub async fn insert_app(&mut self, row: &AppRow) -> Result<(), StoreError> {
        run!(
            self,
            "INSERT INTO apps (id, kind, name, bundle_id, version, display_version, minimum_os, store_id, manifest_url,
                               package_id, revision, created_at, created_by, updated_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, 1, $11, $12, $11)",
            row.id,
            row.kind.as_str(),
            row.name.as_str(),
            row.bundle_id.as_deref(),
            row.version.as_deref(),
            row.display_version.as_deref(),
            row.minimum_os.as_deref(),
            row.store_id,
            row.manifest_url.as_deref(),
            row.package_id,
            row.created_at,
            row.created_by.as_str()
        )
        .map(drop)
    }

    /// Changes what an admin may change of an app, if it still has the revision `row.revision`. False: it has another
    /// by now.
    pub async fn update_app(&mut self, row: &AppRow, now: Timestamp) -> Result<bool, StoreError> {
        Ok(run!(
            self,
            "UPDATE apps
                SET name = $3, bundle_id = $4, version = $5, manifest_url = $6, revision = revision + 1, updated_at = $7
              WHERE id = $1 AND revision = $2",
            row.id,
            row.revision,
            row.name.as_str(),
            row.bundle_id.as_deref(),
            row.version.as_deref(),
            row.manifest_url.as_deref(),
            now
        )? == 1)
    }

    /// Forgets an app, if it still has this revision.
    pub async fn delete_app(&mut self, id: AppId, revision: i64) -> Result<bool, StoreError> {
        Ok(run!(self, "DELETE FROM apps WHERE id = $1 AND revision = $2", id, revision)? == 1)
    }

    /// Begins a package of `row.size_bytes`.
    pub async fn insert_package(&mut self, row: &PackageRow) -> Result<(), StoreError> {
        run!(
            self,
            "INSERT INTO packages (id, slug, size_bytes, chunk_bytes, created_at) VALUES ($1, $2, $3, $4, $5)",
            row.id,
            row.slug.as_str(),
            row.size_bytes,
            row.chunk_bytes,
            row.created_at
        )
        .map(drop)
    }

    /// Adds the next chunk of a package.
    pub async fn insert_package_chunk(&mut self, id: PackageId, number: i64, bytes: &[u8]) -> Result<(), StoreError> {
        run!(self, "INSERT INTO package_chunks (package_id, number, bytes) VALUES ($1, $2, $3)", id, number, bytes)
            .map(drop)
    }

    /// A package is complete and can be served from now on. False: it is not there any more.
    pub async fn finish_package(&mut self, id: PackageId, sha256: Sha256, now: Timestamp) -> Result<bool, StoreError> {
        Ok(run!(self, "UPDATE packages SET sha256 = $2, ready_at = $3 WHERE id = $1", id, sha256, now)? == 1)
    }

    /// A package is not served any more; its bytes can be taken away at once.
    pub async fn retire_package(&mut self, id: PackageId) -> Result<(), StoreError> {
        run!(self, "UPDATE packages SET ready_at = NULL, created_at = 0 WHERE id = $1", id).map(drop)
    }

    /// Takes some of the bytes of a package away, so that no transaction is as large as a package. True: there may be
    /// more. The row goes with the last of them.
    pub async fn delete_package_part(&mut self, id: PackageId, chunks: i64) -> Result<bool, StoreError> {
        let deleted = run!(
            self,
            "DELETE FROM package_chunks WHERE package_id = $1 AND number IN
                    (SELECT number FROM package_chunks WHERE package_id = $1 ORDER BY number LIMIT $2)",
            id,
            chunks
        )?;
        if deleted > 0 {
            return Ok(true);
        }
        run!(self, "DELETE FROM packages WHERE id = $1", id)?;
        Ok(false)
    }
}
