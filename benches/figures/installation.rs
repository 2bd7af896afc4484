//! A throw-away installation: settings, master key and database in a directory of their own.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use muster::cli::{SystemClock, SystemRandomness, open};
use muster::config::Settings;
use muster::pki::vault::MasterKey;
use muster::service::{App, authorities};
use tempfile::TempDir;

use crate::Result;

/// Who speaks TLS with devices.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Front {
    /// The server.
    Own,
    /// A proxy on this machine, which hands on certificates in a header (RFC 9440).
    Proxy,
}

/// An installation.
pub struct Installation {
    directory: TempDir,
    /// Where devices connect.
    pub devices: SocketAddr,
    /// Where admins connect.
    pub admin: SocketAddr,
    /// More settings: tables in TOML.
    tables: String,
    /// How devices are woken.
    push: String,
}

impl Installation {
    /// Makes directory and master key, for SQLite unless `database` is another URL. Under `place`, so that the database
    /// is on a real disk wherever the system keeps its temporary files.
    pub fn make(place: &Path, database: Option<&str>) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("bench-").tempdir_in(place)?;
        fs::create_dir(directory.path().join("data"))?;
        let key = MasterKey::generate(&SystemRandomness).format();
        let file = directory.path().join("data/master.key");
        fs::write(&file, key.expose())?;
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600))?;
        let tables = database.map(|url| format!("[database]\nurl = \"{url}\"\n")).unwrap_or_default();
        Ok(Self { directory, devices: free_address()?, admin: free_address()?, tables, push: String::new() })
    }

    /// Adds tables of settings.
    pub fn with(mut self, tables: &str) -> Self {
        self.tables.push_str(tables);
        self
    }

    /// Sets how devices are woken: a table of settings, in place of the one before.
    pub fn set_push(&mut self, table: &str) {
        table.clone_into(&mut self.push);
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// The file of the database, where that is SQLite.
    pub fn sqlite_file(&self) -> PathBuf {
        self.path().join("data/muster.db")
    }

    /// Writes the settings; returns their file.
    pub fn settle(&self, front: Front) -> Result<PathBuf> {
        let file = self.path().join("muster.toml");
        fs::write(&file, self.text(front))?;
        Ok(file)
    }

    fn text(&self, front: Front) -> String {
        let tls = match front {
            Front::Own => "own\"\n",
            Front::Proxy => "behind_proxy\"\n[proxy]\ntrusted = [\"127.0.0.1\"]\n",
        };
        format!(
            "public_url = \"https://localhost:{port}\"\ndata_dir = \"data\"\n\
             [organization]\nname = \"Example\"\n\
             [admin]\nlisten = \"{admin}\"\n\
             [devices]\nlisten = \"{devices}\"\ntls = \"{tls}\
             {tables}{push}",
            port = self.devices.port(),
            devices = self.devices,
            admin = self.admin,
            tables = self.tables,
            push = self.push,
        )
    }

    /// Opens it in this process, with tables and authorities. To be closed before a server is started on it.
    pub async fn open(&self, front: Front) -> Result<App> {
        let settings = Settings::parse(&self.path().join("muster.toml"), &self.text(front), [])?;
        let store = open::store(&settings, true).await?;
        store.migrate().await?;
        let app = open::app(settings, store, Arc::new(SystemClock), Arc::new(SystemRandomness))?;
        authorities::ensure(&app).await?;
        Ok(app)
    }
}

/// An address of this machine whose port was free just now.
pub fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}
