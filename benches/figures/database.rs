//! Databases for this run alone.

use std::fs;
use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use crate::Result;
use crate::machine::{cpu_of, cpu_of_ended_children, exact_cpu_of};

/// A PostgreSQL server, by the URL of a user who may create databases. `scripts/postgres` sets it.
const POSTGRES_URL: &str = "MUSTER_TEST_POSTGRES_URL";

/// The kinds of database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Kind {
    Sqlite,
    Postgres,
}

impl Kind {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sqlite => "SQLite",
            Self::Postgres => "PostgreSQL",
        }
    }

    pub const fn key(self) -> &'static str {
        match self {
            Self::Sqlite => "sqlite",
            Self::Postgres => "postgres",
        }
    }
}

/// A database on PostgreSQL. To be dropped when it is done with.
pub struct Database {
    server: String,
    name: String,
    pub url: String,
    /// The process that all of PostgreSQL's processes are children of.
    pub postmaster: u32,
}

impl Database {
    pub async fn make(purpose: &str) -> Result<Self> {
        let server = std::env::var(POSTGRES_URL).map_err(|_| format!("{POSTGRES_URL} is not set"))?;
        let name = format!("muster_bench_{}_{purpose}", std::process::id());
        let mut url: url::Url = server.parse().map_err(|_| format!("{POSTGRES_URL} is no URL"))?;
        url.set_path(&name);
        let mut connection = PgConnection::connect(&server).await?;
        let backend: i32 = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut connection).await?;
        let made = Self { postmaster: parent_of(u32::try_from(backend)?)?, server, url: url.to_string(), name };
        made.command("DROP DATABASE IF EXISTS").await?;
        made.command("CREATE DATABASE").await?;
        connection.close().await?;
        Ok(made)
    }

    pub async fn drop(self) -> Result<()> {
        self.command("DROP DATABASE IF EXISTS").await
    }

    async fn command(&self, verb: &str) -> Result<()> {
        let mut connection = PgConnection::connect(&self.server).await?;
        sqlx::raw_sql(AssertSqlSafe(format!("{verb} {}", self.name))).execute(&mut connection).await?;
        Ok(connection.close().await?)
    }
}

/// The processor time of all of PostgreSQL's processes up to now, also of those that have ended.
pub fn cpu_of_postgres(postmaster: u32) -> Result<Duration> {
    let mut sum = cpu_of(postmaster)? + cpu_of_ended_children(postmaster)?;
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(process) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        // One that ends meanwhile is counted with those that have ended, the next time.
        if parent_of(process).is_ok_and(|parent| parent == postmaster) {
            sum += exact_cpu_of(process).unwrap_or_default();
        }
    }
    Ok(sum)
}

fn parent_of(process: u32) -> Result<u32> {
    let text = fs::read_to_string(format!("/proc/{process}/stat"))
        .map_err(|why| format!("PostgreSQL must run on this machine, for its processor time: {why}"))?;
    let (_, rest) = text.rsplit_once(')').ok_or("/proc/PID/stat has no name in it")?;
    Ok(rest.split_ascii_whitespace().nth(1).ok_or("/proc/PID/stat ends early")?.parse()?)
}
