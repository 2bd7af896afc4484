//! `muster restore`: puts a backup of an SQLite database in place, and marks a database that was restored.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;

use super::backup::{POSTGRES, sync_directory, with_suffix};
use super::completions::write;
use super::doctor::unopened;
use super::open::{self, ServerLock};
use super::progress::Progress;
use super::{Error, SettingsFile, SystemClock, SystemRandomness, token};
use crate::config::{DatabaseUrl, Settings};
use crate::model::Clock as _;
use crate::pki::vault::Vault;
use crate::service::held::{self, Marked};
use crate::service::{Actor, App};
use crate::store::Store;

/// What SQLite keeps beside a database, by the end of its name; the database itself comes first.
const PARTS: [&str; 3] = ["", "-wal", "-shm"];
/// Bytes that are copied at once.
const PIECE: usize = 1 << 20;

/// Options of `muster restore`.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    settings: SettingsFile,
    /// The backup, as `muster backup` made it.
    #[arg(value_name = "FILE", required_unless_present = "mark", conflicts_with = "mark")]
    file: Option<PathBuf>,
    /// Restore also where a database is there; that one is kept under another name.
    #[arg(long)]
    force: bool,
    /// Only mark the database of the settings as restored: after pg_restore, and before any server is started.
    #[arg(long, conflicts_with = "force")]
    mark: bool,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Error> {
    let Some(file) = &arguments.file else {
        return token::with_app(&arguments.settings, async |app| {
            let marked = held::mark(app, &Actor::command_line()).await?;
            tell(marked, None)
        });
    };
    let settings = arguments.settings.load()?;
    let DatabaseUrl::Sqlite(database) = settings.database.url.clone() else {
        return Err(Error::Refused(format!("{POSTGRES}; `muster restore --mark` follows")));
    };
    // Told before anything is copied.
    let vault = open::vault(&settings)?;
    super::block_on(async move {
        let database = std::path::absolute(&database).map_err(|e| cannot("restore", &database, &e))?;
        let _lock = ServerLock::take_for(&database)?;
        if database.symlink_metadata().is_ok() && !arguments.force {
            return Err(Error::Refused(format!(
                "{} is there already; nothing was changed. With --force it is kept under another name",
                database.display()
            )));
        }
        let new = with_suffix(&database, ".restoring");
        remove(&new)?;
        let outcome = async {
            copy(file, &new)?;
            prepare(&settings, &vault, file, &new).await
        };
        let outcome = match outcome.await {
            Ok(marked) => replace(&database, &new).map(|kept| (marked, kept)),
            Err(error) => Err(error),
        };
        match outcome {
            Ok((marked, kept)) => tell(marked, kept.as_deref()),
            Err(error) => {
                remove(&new)?;
                Err(error)
            }
        }
    })
}

/// Copies the backup to where it will be checked and marked.
fn copy(from: &Path, to: &Path) -> Result<(), Error> {
    if fs::metadata(with_suffix(from, "-wal")).is_ok_and(|log| log.len() > 0) {
        return Err(Error::Refused(format!(
            "{} has a write-ahead log beside it: a database that was copied while it was used, and no backup. Use one \
             that `muster backup` made",
            from.display()
        )));
    }
    let mut source = File::open(from).map_err(|e| cannot("read", from, &e))?;
    let metadata = source.metadata().map_err(|e| cannot("read", from, &e))?;
    if !metadata.is_file() {
        return Err(Error::Refused(format!("{} is no file", from.display())));
    }
    let mut options = OpenOptions::new();
    let mut target = options.write(true).create_new(true).mode(0o600).open(to).map_err(|e| cannot("make", to, &e))?;
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    let progress = Progress::of(usize::try_from(mib(metadata.len())).unwrap_or(usize::MAX), "copied, in MiB");
    let (mut piece, mut done) = (vec![0; PIECE], 0);
    loop {
        let read = source.read(&mut piece).map_err(|e| cannot("read", from, &e))?;
        let Some(bytes) = piece.get(..read).filter(|bytes| !bytes.is_empty()) else { break };
        target.write_all(bytes).map_err(|e| cannot("write", to, &e))?;
        done += u64::try_from(read).unwrap_or(0);
        progress.reach(mib(done));
    }
    progress.clear();
    target.sync_all().map_err(|e| cannot("write", to, &e))
}

/// Checks the copy, brings its tables up to this version, and marks it.
async fn prepare(settings: &Settings, vault: &Vault, file: &Path, copy: &Path) -> Result<Marked, Error> {
    let mut there = settings.clone();
    there.database.url = DatabaseUrl::Sqlite(copy.to_owned());
    let shown = file.display();
    let store = open::store(&there, false)
        .await
        .map_err(|why| Error::Refused(format!("{shown} cannot be opened as a database, it may be damaged: {why}")))?;
    let checked = async {
        check(&store, vault, file).await?;
        let app = open::app(there, store.clone(), Arc::new(SystemClock), Arc::new(SystemRandomness))?;
        mark(&app).await
    };
    let outcome = checked.await;
    store.close().await;
    let marked = outcome?;
    // Closed cleanly, the copy is one file again, and all of it is there.
    if fs::metadata(with_suffix(copy, "-wal")).is_ok_and(|log| log.len() > 0) {
        return Err(Error::Refused(format!("{} could not be closed; nothing was changed", copy.display())));
    }
    File::open(copy).and_then(|copy| copy.sync_all()).map_err(|e| cannot("write", copy, &e))?;
    Ok(marked)
}

async fn mark(app: &App) -> Result<Marked, Error> {
    Ok(held::mark(app, &Actor::command_line()).await?)
}

/// That the copy is sound, a database of Muster, of no newer version, and under this master key.
async fn check(store: &Store, vault: &Vault, file: &Path) -> Result<(), Error> {
    let shown = file.display();
    let refused = |why: String| Error::Refused(format!("{shown}: {why}; nothing was changed"));
    let damage = store.damage().await.map_err(|why| refused(why.to_string()))?;
    if !damage.is_empty() {
        return Err(refused(format!("it is damaged: {}", damage.join("; "))));
    }
    match store.foreign_migrations().await {
        Ok(0) => {}
        Ok(newer) => return Err(refused(format!("{newer} of its migrations are of a newer version of the program"))),
        Err(_) => return Err(refused("it is no database of Muster".to_owned())),
    }
    store.migrate().await.map_err(|why| refused(why.to_string()))?;
    let mut read = store.begin_read().await?;
    let mut faults = unopened(vault, &mut read).await?;
    for count in read.sealed_counts().await? {
        if !vault.knows(&count.key_id) {
            let (place, key) = (count.place, hex::encode(&count.key_id));
            faults.push(format!("{} records of {place} are under the master key {key}", count.records));
        }
    }
    if faults.is_empty() {
        return Ok(());
    }
    let faults = faults.join("; ");
    Err(refused(format!(
        "the master key of the settings does not belong to it: {faults}. Put the key back that belongs to this backup, \
         or name it in master_key.older"
    )))
}

/// Puts the copy in the place of the database. What was there is kept; gives its name.
fn replace(database: &Path, new: &Path) -> Result<Option<PathBuf>, Error> {
    let aside = with_suffix(database, &format!(".replaced-{}", SystemClock.now().micros()));
    let mut kept = None;
    // Also what an old one left beside it: SQLite would take that for the new one's.
    for part in PARTS {
        let (from, to) = (with_suffix(database, part), with_suffix(&aside, part));
        if from.symlink_metadata().is_err() {
            continue;
        }
        if to.symlink_metadata().is_ok() {
            return Err(Error::Refused(format!("{} is there already", to.display())));
        }
        fs::rename(&from, &to).map_err(|e| cannot("rename", &from, &e))?;
        kept = kept.or(Some(to));
    }
    fs::rename(new, database).map_err(|e| cannot("rename", new, &e))?;
    sync_directory(database).map_err(|e| cannot("write the directory of", database, &e))?;
    Ok(kept)
}

/// Takes a copy away that did not come to be the database.
fn remove(copy: &Path) -> Result<(), Error> {
    for part in PARTS {
        let path = with_suffix(copy, part);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(cannot("remove", &path, &e)),
            _ => {}
        }
    }
    Ok(())
}

fn cannot(what: &str, path: &Path, why: &std::io::Error) -> Error {
    Error::Files(format!("cannot {what} {}: {why}", path.display()))
}

/// Says what was done, and what is left to do.
fn tell(marked: Marked, kept: Option<&Path>) -> Result<(), Error> {
    let Marked { held, links, challenges } = marked;
    let mut text = String::new();
    if let Some(kept) = kept {
        text.push_str(&format!("the database that was there is kept as {}\n", kept.display()));
    }
    text.push_str(&format!(
        "the database is marked as restored: {held} commands are held, {links} enrollment links and {challenges} \
         challenges are void\n"
    ));
    if held > 0 {
        text.push_str("next: `muster held list`, then release or cancel each\n");
    }
    write(&mut std::io::stdout().lock(), text.as_bytes())
}
