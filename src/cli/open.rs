//! Opening what the settings name: the master keys, the database, and the domain on top of them.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::config::{DatabaseUrl, Settings};
use crate::model::{Clock, Randomness};
use crate::pki::vault::{MasterKey, Vault};
use crate::remote::apns::{ApnsClient, Pusher, Roots};
use crate::service::{App, Parts};
use crate::store::{Options, Store};

use super::Error;

/// Largest file of a master key, in bytes.
const MAX_KEY_FILE: u64 = 4096;

/// The keys for what is encrypted at rest: from the environment, or from the files that the settings name.
///
/// # Errors
/// [`Error::Key`] with the file and what to do.
pub fn vault(settings: &Settings) -> Result<Vault, Error> {
    let active = match &settings.master_key_text {
        Some(text) => MasterKey::parse(text.expose())
            .map_err(|why| Error::Key(format!("MUSTER_MASTER_KEY holds no master key: {why}"))),
        None => key_from("master_key.file", settings.master_key.file.as_path()),
    };
    let older = settings.master_key.older.iter().map(|path| key_from("master_key.older", path.as_path())).collect();
    match (active, older) {
        (Ok(active), Ok(older)) => Ok(Vault::new(active, older)),
        (Err(one), Err(other)) => Err(Error::Key(format!("{one}\n{other}"))),
        (Err(one), Ok(_)) | (Ok(_), Err(one)) => Err(one),
    }
}

fn key_from(name: &str, path: &Path) -> Result<MasterKey, Error> {
    let shown = format!("{name}: {}", path.display());
    let size = fs::metadata(path)
        .map_err(|e| {
            Error::Key(format!(
                "{shown}: cannot read the master key: {e}; `muster init` makes one, and a backup must hold it"
            ))
        })?
        .len();
    if size > MAX_KEY_FILE {
        return Err(Error::Key(format!("{shown} holds no master key: {size} bytes")));
    }
    let text = fs::read_to_string(path).map_err(|e| Error::Key(format!("{shown}: cannot read the master key: {e}")))?;
    MasterKey::parse(&text).map_err(|why| Error::Key(format!("{shown} holds no master key: {why}")))
}

/// Connects to the database; makes the file of an SQLite one when `create` says so. No migration is run.
///
/// # Errors
/// [`Error::Store`]; [`Error::Refused`] when there is no such file and none is to be made.
pub async fn store(settings: &Settings, create: bool) -> Result<Store, Error> {
    if let DatabaseUrl::Sqlite(path) = &settings.database.url
        && !create
        && matches!(path.try_exists(), Ok(false))
    {
        return Err(Error::Refused(format!(
            "database.url: there is no file {}; restore the backup, or correct the setting. If a new, empty database is \
             meant, `muster migrate` makes it",
            path.display()
        )));
    }
    let text = |url: &DatabaseUrl| match url {
        DatabaseUrl::Sqlite(path) => format!("sqlite:{}", path.display()),
        DatabaseUrl::Postgres(url) => url.expose().clone(),
    };
    let options = Options {
        url: text(&settings.database.url),
        direct_url: settings.database.direct_url.as_ref().map(text),
        max_connections: settings.database.max_connections,
    };
    Ok(Store::connect(options, create).await?)
}

/// The domain on an open database.
///
/// # Errors
/// [`Error::Key`]; [`Error::Push`] when the endpoint for pushes or its roots cannot be used.
pub fn app(settings: Settings, store: Store, clock: Arc<dyn Clock>, random: Arc<dyn Randomness>) -> Result<App, Error> {
    let vault = vault(&settings)?;
    let pusher = pusher(&settings, Arc::clone(&clock))?;
    Ok(App::new(Parts { store, settings, vault, clock, random, pusher }))
}

/// What wakes devices.
///
/// # Errors
/// [`Error::Push`].
pub(super) fn pusher(settings: &Settings, clock: Arc<dyn Clock>) -> Result<Arc<dyn Pusher>, Error> {
    let roots = match &settings.push.roots {
        None => Roots::Public,
        Some(path) => {
            let expected = "expected the certificates of authorities, PEM";
            let unusable = |why: String| Error::Push(format!("push.roots: {}: {why}; {expected}", path.display()));
            let bytes = fs::read(path).map_err(|e| unusable(e.to_string()))?;
            let roots = crate::pki::Certificate::from_file(&bytes).map_err(|e| unusable(e.to_string()))?;
            Roots::Only(roots.iter().map(|root| root.der().to_vec()).collect())
        }
    };
    let client = ApnsClient::new(settings.push.endpoint.url(), &roots, clock)
        .map_err(|e| Error::Push(format!("push.endpoint: {e}")))?;
    Ok(Arc::new(client))
}

/// The right to be the one server of an SQLite file. Other subcommands work beside it.
#[derive(Debug)]
pub struct ServerLock {
    _file: Option<File>,
}

impl ServerLock {
    /// Takes it; it is given back when dropped, and by the system when the process dies. PostgreSQL needs none.
    ///
    /// # Errors
    /// [`Error::Busy`] when another server has it.
    pub fn take(store: &Store) -> Result<Self, Error> {
        store.sqlite_file().map_or(Ok(Self { _file: None }), |database| Self::take_for(&database))
    }

    /// The same for the file of an SQLite database that need not be there.
    ///
    /// # Errors
    /// [`Error::Busy`] when a server has it.
    pub fn take_for(database: &Path) -> Result<Self, Error> {
        let path = lock_path(database);
        let cannot = |e: std::io::Error| Error::Busy(format!("cannot lock {}: {e}", path.display()));
        let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(cannot)?;
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: Some(file) }),
            Err(TryLockError::WouldBlock) => Err(Error::Busy(format!(
                "another muster server uses the database {}; several servers need PostgreSQL (database.url)",
                database.display()
            ))),
            Err(TryLockError::Error(e)) => Err(cannot(e)),
        }
    }
}

fn lock_path(database: &Path) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(".server-lock");
    PathBuf::from(name)
}
