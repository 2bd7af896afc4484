//! Copies of an SQLite database, made while others write to it, and what has to be known before one takes its place.

use std::path::Path;

use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions as _, Connection as _};

use super::connect::Connection;
use super::{Store, StoreError, Write};

/// SQLite's `user_version`, which Muster uses for nothing else: this file is a backup that was not restored yet.
const BACKUP: i64 = 1;

/// Faults of a file that are told.
const FAULTS: &str = "PRAGMA integrity_check(5)";

impl Store {
    /// Writes the whole of an SQLite database, as it is at this moment, into an empty file, as one file that needs no
    /// other. Nobody who reads or writes waits for it; what is written meanwhile is not in it.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], also where the disk is full; [`StoreError::Broken`] on PostgreSQL.
    pub async fn copy_into(&self, file: &Path) -> Result<(), StoreError> {
        let from = self.sqlite_file().ok_or_else(|| StoreError::Broken("no SQLite database".to_owned()))?;
        let path = file.to_str().ok_or_else(|| StoreError::Broken("the file's name is no UTF-8".to_owned()))?;
        let mut source = open(&from).await?;
        sqlx::query("VACUUM INTO $1").bind(path).execute(&mut source).await?;
        source.close().await?;
        let mut copy = open(file).await?;
        sqlx::query("PRAGMA user_version = 1").execute(&mut copy).await?;
        copy.close().await?;
        Ok(())
    }

    /// About how large a copy of an SQLite database is, in bytes; 0 on PostgreSQL.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn size_bytes(&self) -> Result<u64, StoreError> {
        let mut read = self.begin_read().await?;
        let Connection::Sqlite(connection) = read.connection() else { return Ok(0) };
        let sql = "SELECT (c.page_count - f.freelist_count) * s.page_size
                     FROM pragma_page_count c, pragma_freelist_count f, pragma_page_size s";
        let size: i64 = sqlx::query_scalar(sql).fetch_one(connection).await?;
        Ok(u64::try_from(size).unwrap_or(0))
    }

    /// Whether this is a file that [`Store::copy_into`] made and that was not marked as restored since.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn is_backup(&self) -> Result<bool, StoreError> {
        let mut read = self.begin_read().await?;
        let Connection::Sqlite(connection) = read.connection() else { return Ok(false) };
        let version: i64 = sqlx::query_scalar("PRAGMA user_version").fetch_one(connection).await?;
        Ok(version == BACKUP)
    }

    /// What is wrong with the file of an SQLite database: reads all of it. Nothing on PostgreSQL.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]; [`StoreError::Broken`] where it cannot even be read.
    pub async fn damage(&self) -> Result<Vec<String>, StoreError> {
        let mut read = self.begin_read().await?;
        let Connection::Sqlite(connection) = read.connection() else { return Ok(Vec::new()) };
        let mut found: Vec<String> = sqlx::query_scalar(FAULTS).fetch_all(connection).await?;
        found.retain(|line| line != "ok");
        Ok(found)
    }
}

impl Write {
    /// The file is no mere backup any more. Nothing on PostgreSQL, whose dumps cannot tell.
    pub async fn end_backup(&mut self) -> Result<(), StoreError> {
        if let Connection::Sqlite(connection) = self.connection() {
            sqlx::query("PRAGMA user_version = 0").execute(connection).await?;
        }
        Ok(())
    }
}

/// A connection of its own: those that read may not write, not even into another file.
async fn open(file: &Path) -> Result<SqliteConnection, StoreError> {
    let options = SqliteConnectOptions::new().filename(file).disable_statement_logging();
    options.connect().await.map_err(|e| StoreError::Open(format!("cannot open {}: {e}", file.display())))
}
