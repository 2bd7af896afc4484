//! Reads the tables of a NanoMDM server, on PostgreSQL or MySQL, and writes nothing.
//!
//! This is the one place outside of `store` that speaks SQL: the tables are another program's. What is read is wild input
//! like anything that comes over the network. It is read in pages by key, each with a time limit, and texts past a size
//! are left out by the database itself, so that no row can fill the memory.
//!
//! Source of the tables: github.com/micromdm/nanomdm, `storage/pgsql/schema.sql` and `storage/mysql/schema.sql`.

mod connect;
mod error;
mod queue;
mod rows;

use std::time::Duration;

use sqlx::{MySqlConnection, PgConnection};

pub use error::SourceError;
pub use queue::Queued;
pub use rows::{Counts, Device, Pin, PushCertificate, User};

/// How long one answer of the database may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// Longest check-in message that is read, bytes. What is longer counts as not there.
pub const MAX_MESSAGE: i64 = 256 << 10;

/// A connection to the database of a NanoMDM server.
#[derive(Debug)]
pub struct Source {
    connection: Connection,
    /// What the names of the tables begin with.
    prefix: &'static str,
}

#[derive(Debug)]
enum Connection {
    Postgres(Box<PgConnection>),
    MySql(Box<MySqlConnection>),
}

impl Source {
    /// The text of a statement for the database that is there. `{t}` stands before names of tables; `$1`, `$2` … stand once
    /// each and in this order; `{micros}…{as_micros}` is a time, `{bytes}…{as_bytes}` a column of bytes, `{int}` the type
    /// of whole numbers.
    fn text(&self, sql: &str) -> String {
        let (micros, as_micros, bytes, as_bytes, int) = match &self.connection {
            Connection::Postgres(_) => {
                ("CAST(1000000 * EXTRACT(EPOCH FROM ", ") AS BIGINT)", "CONVERT_TO(", ", 'UTF8')", "BIGINT")
            }
            Connection::MySql(_) => ("CAST(1000000 * UNIX_TIMESTAMP(", ") AS SIGNED)", "(", ")", "SIGNED"),
        };
        let mut text = sql
            .replace("{t}", self.prefix)
            .replace("{micros}", micros)
            .replace("{as_micros}", as_micros)
            .replace("{bytes}", bytes)
            .replace("{as_bytes}", as_bytes)
            .replace("{int}", int);
        if matches!(self.connection, Connection::MySql(_)) {
            for number in 1..=9 {
                text = text.replace(&format!("${number}"), "?");
            }
        }
        text
    }
}

/// Asks the database: `ask!(self, fetch_all, (String, i64), "SELECT …", argument)`.
macro_rules! ask {
    ($source:expr, $method:ident, $row:ty, $sql:expr $(, $argument:expr)* $(,)?) => {{
        let text = sqlx::AssertSqlSafe($source.text($sql));
        let answer = async {
            match &mut $source.connection {
                $crate::remote::nanomdm::Connection::Postgres(c) => {
                    sqlx::query_as::<_, $row>(text)$(.bind($argument))*.$method(&mut **c).await
                }
                $crate::remote::nanomdm::Connection::MySql(c) => {
                    sqlx::query_as::<_, $row>(text)$(.bind($argument))*.$method(&mut **c).await
                }
            }
        };
        match tokio::time::timeout($crate::remote::nanomdm::PATIENCE, answer).await {
            Ok(answer) => answer.map_err($crate::remote::nanomdm::SourceError::from),
            Err(_) => Err($crate::remote::nanomdm::SourceError::TimedOut),
        }
    }};
}
use ask;
