//! A database that has the tables of a NanoMDM server, as far as they are read, and rows in them.
//!
//! Source of names and types: github.com/micromdm/nanomdm, `storage/pgsql/schema.sql` and `storage/mysql/schema.sql`.

use std::sync::atomic::{AtomicU32, Ordering};

use muster::model::Secret;
use muster::remote::nanomdm::Source;
use sqlx::{AssertSqlSafe, Connection as _, MySqlConnection, PgConnection};
use url::Url;

static DATABASES: AtomicU32 = AtomicU32::new(0);

/// The other server's database.
pub struct Nanomdm {
    pub url: String,
    server: String,
    name: String,
    prefix: &'static str,
}

impl Nanomdm {
    /// On the tests' PostgreSQL.
    pub async fn on_postgres() -> Self {
        Self::make("MUSTER_TEST_POSTGRES_URL", "", &tables("", "TEXT", "SMALLINT", "VARCHAR(255) NOT NULL UNIQUE"))
            .await
    }

    /// On the tests' MySQL, with the names that some installations have.
    pub async fn on_mysql() -> Self {
        Self::make("MUSTER_TEST_MYSQL_URL", "nano_", &tables("nano_", "MEDIUMBLOB", "TINYINT", "VARCHAR(255) NOT NULL"))
            .await
    }

    /// A database without any table.
    pub async fn empty() -> Self {
        Self::make("MUSTER_TEST_POSTGRES_URL", "", "").await
    }

    async fn make(variable: &str, prefix: &'static str, tables: &str) -> Self {
        let server = std::env::var(variable).unwrap_or_else(|_| panic!("{variable} is not set: see scripts/"));
        let name = format!("muster_other_{}_{}", std::process::id(), DATABASES.fetch_add(1, Ordering::SeqCst));
        let mut url: Url = server.parse().unwrap();
        url.set_path(&name);
        execute(&server, &format!("CREATE DATABASE {name}")).await;
        let made = Self { url: url.to_string(), server, name, prefix };
        made.execute(tables).await;
        made
    }

    /// Takes it away.
    pub async fn drop_database(self) {
        execute(&self.server, &format!("DROP DATABASE {}", self.name)).await;
    }

    /// A connection as an import has.
    pub async fn source(&self) -> Source {
        Source::connect(&Secret::new(self.url.clone())).await.unwrap()
    }

    /// Runs statements; `{t}` stands before names of tables.
    pub async fn execute(&self, sql: &str) {
        if !sql.is_empty() {
            execute(&self.url, &sql.replace("{t}", self.prefix)).await;
        }
    }

    /// An enrolled device.
    pub async fn device(&self, udid: &str, topic: &str, authenticate: &[u8], token_update: &[u8]) {
        self.execute(&format!(
            "INSERT INTO {{t}}devices (id, serial_number, authenticate, authenticate_at, token_update)
             VALUES ({id}, {serial}, {authenticate}, CURRENT_TIMESTAMP, {update});
             INSERT INTO {{t}}enrollments (id, device_id, type, topic, push_magic, token_hex, last_seen_at)
             VALUES ({id}, {id}, 'Device', {topic}, 'magic', '{token}', '2026-11-01 00:00:00')",
            id = quoted(udid),
            serial = quoted(&format!("SN{udid}")),
            authenticate = quoted_bytes(authenticate),
            update = quoted_bytes(token_update),
            topic = quoted(topic),
            token = "07".repeat(32),
        ))
        .await;
    }

    /// A user of a device.
    pub async fn user(&self, udid: &str, user: &str, topic: &str) {
        self.execute(&format!(
            "INSERT INTO {{t}}users (id, device_id, user_short_name) VALUES ({id}, {device}, 'kim');
             INSERT INTO {{t}}enrollments (id, device_id, user_id, type, topic, push_magic, token_hex, last_seen_at)
             VALUES ({id}, {device}, {id}, 'User', {topic}, 'magic', '0808', '2026-11-01 00:00:00')",
            id = quoted(&format!("{udid}:{user}")),
            device = quoted(udid),
            topic = quoted(topic),
        ))
        .await;
    }

    /// A device may authenticate with the certificate of this digest.
    pub async fn pin(&self, udid: &str, sha256: &str) {
        let (id, sha256) = (quoted(udid), quoted(sha256));
        self.execute(&format!("INSERT INTO {{t}}cert_auth_associations (id, sha256) VALUES ({id}, {sha256})")).await;
    }

    /// A command.
    pub async fn command(&self, uuid: &str, request_type: &str, command: &[u8]) {
        self.execute(&format!(
            "INSERT INTO {{t}}commands (command_uuid, request_type, command) VALUES ({}, {}, {})",
            quoted(uuid),
            quoted(request_type),
            quoted_bytes(command)
        ))
        .await;
    }

    /// A command waits for an enrollment since this minute of an hour, unless `status` answers it.
    pub async fn queue(&self, id: &str, uuid: &str, minute: u8, status: Option<&str>) {
        self.execute(&format!(
            "INSERT INTO {{t}}enrollment_queue (id, command_uuid, created_at)
             VALUES ({}, {}, '2026-11-02 10:{minute:02}:00')",
            quoted(id),
            quoted(uuid)
        ))
        .await;
        if let Some(status) = status {
            self.answer(id, uuid, status).await;
        }
    }

    /// A device answers a command.
    pub async fn answer(&self, id: &str, uuid: &str, status: &str) {
        self.execute(&format!(
            "INSERT INTO {{t}}command_results (id, command_uuid, status, result) VALUES ({}, {}, {}, '<?xml')",
            quoted(id),
            quoted(uuid),
            quoted(status)
        ))
        .await;
    }

    /// A push certificate with its key, both PEM in one text.
    pub async fn push_certificate(&self, topic: &str, pem: &str) {
        let end = "-----END CERTIFICATE-----\n";
        let (certificate, key) = pem.split_once(end).unwrap();
        self.execute(&format!(
            "INSERT INTO {{t}}push_certs (topic, cert_pem, key_pem, stale_token) VALUES ({}, {}, {}, 1)",
            quoted(topic),
            quoted(&format!("{certificate}{end}")),
            quoted(key)
        ))
        .await;
    }
}

async fn execute(url: &str, sql: &str) {
    let sql = AssertSqlSafe(sql.to_owned());
    if url.starts_with("mysql:") {
        let mut c = MySqlConnection::connect(url).await.unwrap();
        sqlx::raw_sql(sql).execute(&mut c).await.unwrap();
        c.close().await.unwrap();
    } else {
        let mut c = PgConnection::connect(url).await.unwrap();
        sqlx::raw_sql(sql).execute(&mut c).await.unwrap();
        c.close().await.unwrap();
    }
}

fn quoted(text: &str) -> String {
    assert!(!text.contains('\\'));
    format!("'{}'", text.replace('\'', "''"))
}

fn quoted_bytes(text: &[u8]) -> String {
    quoted(std::str::from_utf8(text).unwrap())
}

/// The tables. What nobody reads is left out.
fn tables(t: &str, blob: &str, small: &str, user_id: &str) -> String {
    format!(
        "CREATE TABLE {t}devices (
             id VARCHAR(255) NOT NULL PRIMARY KEY, identity_cert TEXT NULL, serial_number VARCHAR(127) NULL,
             unlock_token {blob} NULL, authenticate TEXT NOT NULL, authenticate_at TIMESTAMP NULL,
             token_update TEXT NULL, bootstrap_token_b64 TEXT NULL);
         CREATE TABLE {t}users (
             id {user_id}, device_id VARCHAR(255) NOT NULL REFERENCES {t}devices (id),
             user_short_name VARCHAR(255) NULL, user_long_name VARCHAR(255) NULL, token_update TEXT NULL,
             PRIMARY KEY (id, device_id));
         CREATE TABLE {t}enrollments (
             id VARCHAR(255) NOT NULL PRIMARY KEY, device_id VARCHAR(255) NOT NULL REFERENCES {t}devices (id),
             user_id VARCHAR(255) NULL UNIQUE, type VARCHAR(31) NOT NULL, topic VARCHAR(255) NOT NULL,
             push_magic VARCHAR(127) NOT NULL, token_hex VARCHAR(255) NOT NULL, enabled BOOLEAN NOT NULL DEFAULT TRUE,
             token_update_tally INTEGER NOT NULL DEFAULT 1, last_seen_at TIMESTAMP NULL);
         CREATE TABLE {t}commands (
             command_uuid VARCHAR(127) NOT NULL PRIMARY KEY, request_type VARCHAR(63) NOT NULL, command {text} NOT NULL);
         CREATE TABLE {t}command_results (
             id VARCHAR(255) NOT NULL, command_uuid VARCHAR(127) NOT NULL, status VARCHAR(31) NOT NULL,
             result {text} NOT NULL, PRIMARY KEY (id, command_uuid));
         CREATE TABLE {t}enrollment_queue (
             id VARCHAR(255) NOT NULL, command_uuid VARCHAR(127) NOT NULL, active BOOLEAN NOT NULL DEFAULT TRUE,
             priority {small} NOT NULL DEFAULT 0, created_at TIMESTAMP NULL DEFAULT CURRENT_TIMESTAMP,
             PRIMARY KEY (id, command_uuid));
         CREATE TABLE {t}push_certs (
             topic VARCHAR(255) NOT NULL PRIMARY KEY, cert_pem TEXT NOT NULL, key_pem TEXT NOT NULL,
             stale_token INTEGER NOT NULL);
         CREATE TABLE {t}cert_auth_associations (
             id VARCHAR(255) NOT NULL, sha256 CHAR(64) NOT NULL, PRIMARY KEY (id, sha256));",
        text = if t.is_empty() { "TEXT" } else { "MEDIUMTEXT" },
    )
}
