use std::collections::BTreeSet;
use std::str::FromStr as _;
use std::time::Duration;

use sqlx::mysql::MySqlConnectOptions;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _};
use tokio::time::timeout;

use super::{Connection, PATIENCE, Source, SourceError, ask};
use crate::model::Secret;

/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(15);

/// The columns that are read; a table of a version that lacks one cannot be taken over.
const NEEDED: [(&str, &[&str]); 8] = [
    ("devices", &["id", "serial_number", "authenticate", "token_update", "unlock_token", "bootstrap_token_b64"]),
    ("users", &["id", "device_id", "user_short_name", "user_long_name", "token_update"]),
    (
        "enrollments",
        &["id", "device_id", "user_id", "type", "topic", "push_magic", "token_hex", "enabled", "last_seen_at"],
    ),
    ("commands", &["command_uuid", "request_type", "command"]),
    ("command_results", &["id", "command_uuid", "status"]),
    ("enrollment_queue", &["id", "command_uuid", "active", "priority", "created_at"]),
    ("push_certs", &["topic", "cert_pem", "key_pem"]),
    ("cert_auth_associations", &["id", "sha256"]),
];

impl Source {
    /// Connects to the database of a NanoMDM server, for reading alone, and looks whether its tables are there.
    ///
    /// # Errors
    /// [`SourceError::Url`] for what is no URL of PostgreSQL or MySQL, [`SourceError::NotNanomdm`] with what is missing.
    pub async fn connect(url: &Secret<String>) -> Result<Self, SourceError> {
        let connecting = timeout(CONNECT, open(url.expose())).await;
        let connection = connecting
            .map_err(|_| SourceError::Unreachable(format!("nobody answered within {} seconds", CONNECT.as_secs())))??;
        let mut source = Self { connection, prefix: "" };
        source.read_only().await?;
        source.look_for_tables().await?;
        Ok(source)
    }

    /// Ends the connection.
    pub async fn close(self) {
        // Nothing was written: an end that goes wrong costs nothing.
        let _ = timeout(CONNECT, async {
            match self.connection {
                Connection::Postgres(c) => c.close().await,
                Connection::MySql(c) => c.close().await,
            }
        })
        .await;
    }

    /// Has the database itself refuse to change anything.
    async fn read_only(&mut self) -> Result<(), SourceError> {
        let done = timeout(PATIENCE, async {
            match &mut self.connection {
                Connection::Postgres(c) => sqlx::query("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY")
                    .execute(&mut **c)
                    .await
                    .map(drop),
                Connection::MySql(c) => {
                    sqlx::query("SET SESSION TRANSACTION READ ONLY").execute(&mut **c).await.map(drop)
                }
            }
        });
        Ok(done.await.map_err(|_| SourceError::TimedOut)??)
    }

    /// Finds the tables. Some installations have them with `nano_` before the name.
    async fn look_for_tables(&mut self) -> Result<(), SourceError> {
        let schema = match &self.connection {
            Connection::Postgres(_) => "ANY (current_schemas(FALSE))",
            Connection::MySql(_) => "DATABASE()",
        };
        let sql = format!(
            "SELECT {{bytes}}LOWER(CONCAT(table_name, '.', column_name)){{as_bytes}}
               FROM information_schema.columns WHERE table_schema = {schema} LIMIT 20000"
        );
        let rows = ask!(self, fetch_all, (Vec<u8>,), &sql)?;
        let there: BTreeSet<String> =
            rows.into_iter().map(|(name,)| String::from_utf8_lossy(&name).into_owned()).collect();
        self.prefix = if there.contains("nano_enrollments.id") { "nano_" } else { "" };
        let prefix = self.prefix;
        let missing: Vec<String> = NEEDED
            .iter()
            .flat_map(|(table, columns)| columns.iter().map(move |column| format!("{prefix}{table}.{column}")))
            .filter(|name| !there.contains(name))
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        let all: usize = NEEDED.iter().map(|(_, columns)| columns.len()).sum();
        Err(SourceError::NotNanomdm(if missing.len() == all {
            "there are no tables of NanoMDM in this database that the user may see (enrollments, devices, …). Name the \
             database that its -storage-dsn names, and a user who may read it"
                .to_owned()
        } else {
            format!(
                "the tables are not those of a supported version of NanoMDM (0.3 or later, with all steps of its \
                 schema done); missing: {}",
                missing.join(", ")
            )
        }))
    }
}

async fn open(url: &str) -> Result<Connection, SourceError> {
    let expected = "expected postgres://USER:PASSWORD@HOST/DATABASE or mysql://USER:PASSWORD@HOST/DATABASE";
    // The library's own words might repeat the URL.
    let wrong = |_| SourceError::Url(format!("the URL of the other server's database cannot be read; {expected}"));
    match url.split_once("://").map(|(scheme, _)| scheme) {
        Some("postgres" | "postgresql") => {
            let options = PgConnectOptions::from_str(url).map_err(wrong)?.disable_statement_logging();
            Ok(Connection::Postgres(Box::new(options.connect().await.map_err(refused)?)))
        }
        Some("mysql" | "mariadb") => {
            let options = MySqlConnectOptions::from_str(url).map_err(wrong)?.disable_statement_logging();
            Ok(Connection::MySql(Box::new(options.connect().await.map_err(refused)?)))
        }
        _ => Err(SourceError::Url(format!("the other server's database is of no kind that can be read; {expected}"))),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn refused(error: sqlx::Error) -> SourceError {
    let text = match &error {
        sqlx::Error::Database(told) => told.message().to_owned(),
        other => other.to_string(),
    };
    // The plain way of this method of MySQL needs RSA from a library that leaks its keys by time.
    let hint = if text.contains("RSA") {
        "; this user's password can be checked over TLS alone: add ?ssl-mode=REQUIRED, or switch TLS on in MySQL"
    } else {
        ""
    };
    SourceError::Unreachable(format!("{text}{hint}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_url_that_is_none_is_not_repeated() {
        for wrong in
            ["", "secret", "sqlite:secret", "postgres://u:secret@host:port/x", "mysql://u:secret@[", "http://secret"]
        {
            let error = Source::connect(&Secret::new(wrong.to_owned())).await.unwrap_err().to_string();
            assert!(
                error.contains("mysql://USER:PASSWORD@HOST/DATABASE") && !error.contains("secret"),
                "{wrong}: {error}"
            );
        }
    }
}
