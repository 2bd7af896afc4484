//! `muster init`: everything that an installation needs, made once and never overwritten.

use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;

use super::completions::write;
use super::{Error, SystemClock, SystemRandomness, open};
use crate::config::{self, DatabaseUrl, PublicUrl, Settings};
use crate::model::{Role, Secret};
use crate::pki::vault::MasterKey;
use crate::service::tokens::{self, NewToken};
use crate::service::{Actor, authorities};
use crate::store::Store;

/// Where devices connect without `--public-url`: good for a trial on one machine.
const TRIAL_URL: &str = "https://localhost:8443";

/// Options of `muster init`.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The directory of the installation; made if it is not there.
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// The URL that devices will use: https, a host name that will last, and perhaps a port. The server listens on its
    /// port.
    #[arg(long, value_name = "URL", env = "MUSTER_PUBLIC_URL", hide_env_values = true, default_value = TRIAL_URL)]
    public_url: PublicUrl,
    /// The database: sqlite:FILE, or postgres://USER:PASSWORD@HOST/DATABASE for one that is empty. Without it, SQLite in
    /// the data directory.
    #[arg(long, value_name = "URL")]
    database_url: Option<String>,
    /// The organization's name, as devices and people are shown it.
    #[arg(long, value_name = "NAME")]
    organization: Option<String>,
}

/// Makes the installation, or nothing.
pub(super) fn run(arguments: &Arguments) -> Result<(), Error> {
    let directory = std::path::absolute(&arguments.directory)
        .map_err(|why| refused(format!("{}: {why}", arguments.directory.display())))?;
    let file = directory.join("muster.toml");
    if file.symlink_metadata().is_ok() {
        return Err(refused(format!(
            "{} is there already, and nothing is overwritten; nothing was changed. To check that installation: \
             muster doctor --config {}",
            file.display(),
            file.display()
        )));
    }
    let text = settings_text(arguments);
    let environment = std::env::vars_os()
        .map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()));
    let settings = Settings::parse(&file, &text, environment)?;
    refuse_taken(&settings)?;
    super::block_on(make(&file, &text, settings))
}

/// The text of the settings file. The listener gets the port of the URL, so that both agree from the start.
fn settings_text(arguments: &Arguments) -> String {
    let quoted = |text: &str| toml::Value::from(text).to_string();
    let mut given = vec![("public_url", quoted(arguments.public_url.as_str()))];
    given.push(("devices.listen", quoted(&format!("0.0.0.0:{}", arguments.public_url.port()))));
    if let Some(url) = &arguments.database_url {
        given.push(("database.url", quoted(url)));
    }
    if let Some(name) = &arguments.organization {
        given.push(("organization.name", quoted(name)));
    }
    config::template(&given)
}

/// Refuses where anything is there that would be written to.
fn refuse_taken(settings: &Settings) -> Result<(), Error> {
    let mut taken = Vec::new();
    if let Ok(entries) = fs::read_dir(&settings.data_dir) {
        taken.extend(entries.flatten().map(|entry| entry.path()));
    }
    if settings.master_key_text.is_none() {
        taken.push(settings.master_key.file.as_path().to_owned());
    }
    if let DatabaseUrl::Sqlite(database) = &settings.database.url {
        taken.push(database.clone());
    }
    taken.retain(|path| path.symlink_metadata().is_ok());
    taken.sort();
    taken.dedup();
    if taken.is_empty() {
        return Ok(());
    }
    let names: Vec<_> = taken.iter().take(5).map(|path| path.display().to_string()).collect();
    Err(refused(format!(
        "there is something already, and nothing is overwritten; nothing was changed: {}{}",
        names.join(", "),
        if taken.len() > names.len() { ", …" } else { "" }
    )))
}

async fn make(file: &Path, text: &str, settings: Settings) -> Result<(), Error> {
    // A database server that cannot be used is noticed before anything is made.
    let server = match &settings.database.url {
        DatabaseUrl::Postgres(_) => Some(empty_server(&settings).await?),
        DatabaseUrl::Sqlite(_) => None,
    };
    let mut made = Made::default();
    let files = make_files(&mut made, file, text, &settings);
    let outcome = match files {
        Ok(()) => fill(&settings, server.clone()).await,
        Err(why) => Err(why),
    };
    match outcome {
        Ok(token) => {
            let text = welcome(file, &settings, &token);
            write(&mut io::stdout().lock(), text.as_bytes())
        }
        Err(why) => {
            // What is in a database server may be sealed under the new key: then the key must stay.
            let is_touched = match &server {
                Some(store) => store.pending_migrations().await.ok() != Some(store.known_migrations()),
                None => false,
            };
            if is_touched {
                return Err(Error::Refused(format!(
                    "{why}\nThe files were made, and the database was begun. Correct the cause; then `muster serve` makes \
                     what is missing, and `muster token create` a token."
                )));
            }
            made.undo();
            Err(why)
        }
    }
}

/// Connects to a database server that holds no installation yet.
async fn empty_server(settings: &Settings) -> Result<Store, Error> {
    let store = open::store(settings, false).await?;
    if store.pending_migrations().await? == store.known_migrations() {
        return Ok(store);
    }
    store.close().await;
    Err(refused(
        "the database holds an installation already, and nothing is overwritten; nothing was changed. For one more server \
         on it, copy the settings and the master key of the first"
            .to_owned(),
    ))
}

fn make_files(made: &mut Made, file: &Path, text: &str, settings: &Settings) -> Result<(), Error> {
    let of = |path: &Path| {
        let shown = path.display().to_string();
        move |why: io::Error| refused(format!("cannot make {shown}: {why}"))
    };
    let directory = file.parent().unwrap_or(Path::new("/"));
    made.directory(directory, 0o755).map_err(of(directory))?;
    made.directory(&settings.data_dir, 0o700).map_err(of(&settings.data_dir))?;
    // One that was there, empty, becomes private too.
    fs::set_permissions(&settings.data_dir, Permissions::from_mode(0o700)).map_err(of(&settings.data_dir))?;
    if settings.master_key_text.is_none() {
        let path = settings.master_key.file.as_path();
        let key = MasterKey::generate(&SystemRandomness).format();
        let line = zeroize::Zeroizing::new(format!("{}\n", key.expose()));
        made.file(path, line.as_bytes()).map_err(of(path))?;
    }
    if let DatabaseUrl::Sqlite(path) = &settings.database.url {
        // Made here, and not by SQLite, so that nobody else can read it; SQLite takes an empty file for an empty database.
        made.file(path, b"").map_err(of(path))?;
    }
    made.file(file, text.as_bytes()).map_err(of(file))
}

/// Makes tables, authorities, certificates and the first token.
async fn fill(settings: &Settings, server: Option<Store>) -> Result<Secret<String>, Error> {
    let store = match server {
        Some(store) => store,
        None => open::store(settings, false).await?,
    };
    store.migrate().await?;
    let app = open::app(settings.clone(), store, Arc::new(SystemClock), Arc::new(SystemRandomness))?;
    authorities::ensure(&app).await?;
    let new = NewToken { name: "first admin".to_owned(), role: Role::Admin, expires_at: None };
    let token = tokens::create(&app, &Actor::command_line(), new).await?;
    app.store.close().await;
    Ok(token.text)
}

fn welcome(file: &Path, settings: &Settings, token: &Secret<String>) -> String {
    let config = file.display();
    let key = match settings.master_key_text {
        Some(_) => "the master key            from MUSTER_MASTER_KEY".to_owned(),
        None => format!("the master key            {}", settings.master_key.file.as_path().display()),
    };
    let database = super::doctor::shown(&settings.database.url);
    let (url, listen) = (&settings.public_url, settings.devices.listen);
    let mut notes = String::new();
    if url.as_str() == TRIAL_URL {
        notes.push_str(
            "  Only this machine knows itself as localhost: good for a trial with simulated devices. For real\n  \
             ones start anew in another directory with --public-url https://NAME, where NAME is a host name\n  \
             that devices reach and that will last: enrolled devices never accept another one.\n",
        );
    }
    if listen.port() < 1024 {
        notes.push_str("  Ports below 1024 need a permission: docs/operate/install.md shows how the server gets it.\n");
    }
    let admin = settings.admin.listen;
    format!(
        "The installation is made. Keep a backup of the first three together: none is of use alone.\n\n  \
         the settings, explained   {config}\n  {key}\n  the database              {database}\n\n\
         The token of the first admin, shown only now:\n\n  {token}\n\n\
         Devices will connect to {url}; the server listens for them on {listen}.\n{notes}\n\
         Next:\n\n  \
         muster doctor --config {config}\n  \
         muster serve --config {config}\n\n\
         Then http://{admin}/api/docs shows what can be done. The first thing is a push certificate:\n\
         docs/operate/push-certificate.md. After it, a device: docs/operate/enroll-a-device.md.\n",
        token = token.expose(),
    )
}

/// Makes a file for this user alone, on the disk when this returns. Never over one that is there.
pub(super) fn new_file(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

/// What was made so far, so that a failure leaves nothing behind.
#[derive(Debug, Default)]
struct Made {
    files: Vec<PathBuf>,
    directories: Vec<PathBuf>,
}

impl Made {
    /// A directory, with those above it that are missing. One that is there stays as it is.
    fn directory(&mut self, path: &Path, mode: u32) -> io::Result<()> {
        if path.is_dir() {
            return Ok(());
        }
        if let Some(above) = path.parent() {
            self.directory(above, 0o755)?;
        }
        DirBuilder::new().mode(mode).create(path)?;
        self.directories.push(path.to_owned());
        Ok(())
    }

    /// A file for this user alone, on the disk when this returns. Never one that is there.
    fn file(&mut self, path: &Path, content: &[u8]) -> io::Result<()> {
        // Noted before it is whole, so that half a file goes again too; but not one that was there.
        let outcome = new_file(path, content);
        if !matches!(&outcome, Err(why) if why.kind() == io::ErrorKind::AlreadyExists) {
            self.files.push(path.to_owned());
        }
        outcome
    }

    /// Takes everything away again. What cannot be removed stays: the failure itself is what gets told.
    fn undo(&self) {
        for file in &self.files {
            for beside in ["", "-wal", "-shm"] {
                let mut name = file.as_os_str().to_owned();
                name.push(beside);
                let _ = fs::remove_file(PathBuf::from(name));
            }
        }
        for directory in self.directories.iter().rev() {
            let _ = fs::remove_dir(directory);
        }
    }
}

fn refused(text: String) -> Error {
    Error::Refused(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(url: &str) -> Arguments {
        let organization = Some("Example \"School\"".to_owned());
        Arguments { directory: "x".into(), public_url: url.parse().unwrap(), database_url: None, organization }
    }

    #[test]
    fn the_listener_has_the_port_of_the_url() {
        for (url, port) in [("https://mdm.example.org", 443), (TRIAL_URL, 8443)] {
            let settings = Settings::parse(Path::new("muster.toml"), &settings_text(&arguments(url)), []).unwrap();
            assert_eq!(settings.devices.listen.port(), port);
            assert_eq!(settings.public_url.port(), port);
            assert_eq!(settings.organization.name, "Example \"School\"");
        }
    }

    #[test]
    fn what_was_made_goes_again_and_nothing_else() {
        let place = tempfile::tempdir().unwrap();
        fs::write(place.path().join("theirs"), "x").unwrap();
        let mut made = Made::default();
        let inner = place.path().join("a/b");
        made.directory(place.path(), 0o700).unwrap();
        made.directory(&inner, 0o700).unwrap();
        made.file(&inner.join("key"), b"secret").unwrap();
        assert_eq!(fs::metadata(inner.join("key")).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(made.file(&place.path().join("theirs"), b"ours").is_err());
        made.undo();
        assert!(!place.path().join("a").exists());
        assert_eq!(fs::read_to_string(place.path().join("theirs")).unwrap(), "x");
    }
}
