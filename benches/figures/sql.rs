//! Rows in bulk, straight into the database of a server that does not run.

use std::path::Path;

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, SqliteConnection};

use crate::Result;

/// A connection of the benchmark's own, past the server and its store.
pub enum Sql {
    Sqlite(SqliteConnection),
    Postgres(PgConnection),
}

impl Sql {
    /// Opens the file of an SQLite database, for writes that need not survive a crash.
    pub async fn sqlite(file: &Path) -> Result<Self> {
        let options = SqliteConnectOptions::new()
            .filename(file)
            .pragma("synchronous", "OFF")
            .pragma("cache_size", "-1000000")
            .pragma("temp_store", "MEMORY")
            .busy_timeout(std::time::Duration::from_secs(60));
        Ok(Self::Sqlite(SqliteConnection::connect_with(&options).await?))
    }

    /// Opens a PostgreSQL database, for writes that need not survive a crash.
    pub async fn postgres(url: &str) -> Result<Self> {
        let mut opened = Self::Postgres(PgConnection::connect(url).await?);
        opened.run("SET synchronous_commit = off; SET maintenance_work_mem = '512MB'; SET work_mem = '256MB'").await?;
        Ok(opened)
    }

    /// Whether it is PostgreSQL.
    pub const fn is_postgres(&self) -> bool {
        matches!(self, Self::Postgres(_))
    }

    /// Runs statements.
    pub async fn run(&mut self, text: &str) -> Result<()> {
        let statements = sqlx::raw_sql(AssertSqlSafe(text.to_owned()));
        let outcome = match self {
            Self::Sqlite(c) => statements.execute(c).await.map(drop),
            Self::Postgres(c) => statements.execute(c).await.map(drop),
        };
        outcome.map_err(|why| format!("{why}\nin {}", text.chars().take(2000).collect::<String>()).into())
    }

    /// The first column of all rows.
    pub async fn texts(&mut self, text: &str) -> Result<Vec<String>> {
        let query = sqlx::query_scalar(AssertSqlSafe(text.to_owned()));
        Ok(match self {
            Self::Sqlite(c) => query.fetch_all(c).await?,
            Self::Postgres(c) => sqlx::query_scalar(AssertSqlSafe(text.to_owned())).fetch_all(c).await?,
        })
    }

    /// One number.
    pub async fn number(&mut self, text: &str) -> Result<i64> {
        let first = self.texts(&format!("SELECT CAST(({text}) AS TEXT)")).await?;
        Ok(first.first().ok_or("no row")?.parse()?)
    }

    /// The columns of a table, in their order.
    pub async fn columns(&mut self, table: &str) -> Result<Vec<String>> {
        let text = match self {
            Self::Sqlite(_) => format!("SELECT name FROM pragma_table_info('{table}') ORDER BY cid"),
            Self::Postgres(_) => format!(
                "SELECT column_name::text FROM information_schema.columns
                  WHERE table_schema = current_schema() AND table_name = '{table}' AND is_generated = 'NEVER'
                  ORDER BY ordinal_position"
            ),
        };
        let columns = self.texts(&text).await?;
        if columns.is_empty() {
            return Err(format!("there is no table {table}").into());
        }
        Ok(columns)
    }

    /// The statements that make the indexes of a table which no constraint has made.
    pub async fn indexes(&mut self, table: &str) -> Result<Vec<(String, String)>> {
        let from = match self {
            Self::Sqlite(_) => {
                format!("FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL AND tbl_name = '{table}'")
            }
            Self::Postgres(_) => format!(
                "FROM (SELECT indexname::text AS name, indexdef AS sql FROM pg_indexes
                        WHERE schemaname = current_schema() AND tablename = '{table}') AS i
                  WHERE NOT EXISTS (SELECT 1 FROM pg_constraint WHERE conname = i.name)"
            ),
        };
        let names = self.texts(&format!("SELECT name {from} ORDER BY name")).await?;
        let texts = self.texts(&format!("SELECT sql {from} ORDER BY name")).await?;
        Ok(names.into_iter().zip(texts).collect())
    }

    pub async fn close(self) -> Result<()> {
        match self {
            Self::Sqlite(c) => c.close().await?,
            Self::Postgres(c) => c.close().await?,
        }
        Ok(())
    }
}
