//! `muster backup`: a copy of an SQLite database, made while the server works on it.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;

use super::completions::write;
use super::progress::Progress;
use super::{Error, SettingsFile, open};
use crate::store::Store;

/// Where the way to back up PostgreSQL is written.
pub(super) const POSTGRES: &str =
    "the database is PostgreSQL, which pg_dump backs up and pg_restore restores: see docs/operate/backup.md";

/// How often it is looked how far the copy is.
const LOOK: Duration = Duration::from_millis(250);

/// Options of `muster backup`.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    settings: SettingsFile,
    /// The file to make; it must not be there yet. Beside it, FILE.partial holds the copy until it is whole.
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

/// Copies the database. What has the name of the backup is whole and on the disk.
pub(super) fn run(arguments: &Arguments) -> Result<(), Error> {
    let settings = arguments.settings.load()?;
    super::block_on(async move {
        let file = std::path::absolute(&arguments.file)
            .map_err(|e| Error::Files(format!("cannot make {}: {e}", arguments.file.display())))?;
        let store = open::store(&settings, false).await?;
        let made = if store.sqlite_file().is_some() {
            make(&store, &file).await
        } else {
            Err(Error::Refused(POSTGRES.to_owned()))
        };
        store.close().await;
        let text = format!("{}: {} bytes; the master key is not in it\n", file.display(), made?);
        write(&mut std::io::stdout().lock(), text.as_bytes())
    })
}

async fn make(store: &Store, file: &Path) -> Result<u64, Error> {
    if file.symlink_metadata().is_ok() {
        return Err(Error::Refused(format!("{} is there already; nothing was changed", file.display())));
    }
    let (path, partial) = begin(file)?;
    let outcome = fill(store, &path, &partial).await.and_then(|size| {
        let cannot = |e: std::io::Error| Error::Files(format!("cannot make {}: {e}", file.display()));
        partial.sync_all().map_err(cannot)?;
        // Nobody else writes under this name while the partial file is locked.
        if file.symlink_metadata().is_ok() {
            return Err(Error::Refused(format!("{} has appeared meanwhile; it stays as it is", file.display())));
        }
        fs::rename(&path, file).map_err(cannot)?;
        sync_directory(file).map_err(cannot)?;
        Ok(size)
    });
    if outcome.is_err() {
        // What is left of it takes room only, and the next backup takes it over.
        let _ = fs::remove_file(&path);
    }
    outcome
}

/// The empty file that the copy is made in: only its owner may read it, and no other backup writes to it.
fn begin(file: &Path) -> Result<(PathBuf, File), Error> {
    let path = with_suffix(file, ".partial");
    let cannot = |e: std::io::Error| Error::Files(format!("cannot make {}: {e}", path.display()));
    let mut options = OpenOptions::new();
    let partial = options.write(true).create(true).truncate(false).mode(0o600).open(&path).map_err(cannot)?;
    match partial.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Err(Error::Busy(format!("another backup is writing {}", path.display())));
        }
        Err(TryLockError::Error(e)) => return Err(cannot(e)),
    }
    // Of one that was broken off, which may have been under other eyes.
    partial.set_permissions(fs::Permissions::from_mode(0o600)).map_err(cannot)?;
    partial.set_len(0).map_err(cannot)?;
    Ok((path, partial))
}

/// Copies the database, and shows how far that is by the size of the file. Returns its size in bytes.
async fn fill(store: &Store, path: &Path, partial: &File) -> Result<u64, Error> {
    let mib = |bytes: u64| usize::try_from(bytes.div_ceil(1 << 20)).unwrap_or(usize::MAX);
    let all = mib(store.size_bytes().await?).max(1);
    let progress = Progress::of(all, "copied, in MiB");
    let mut copying = std::pin::pin!(store.copy_into(path));
    loop {
        tokio::select! {
            copied = &mut copying => {
                copied.map_err(|why| Error::Files(format!("cannot write {}: {why}", path.display())))?;
                break;
            }
            () = tokio::time::sleep(LOOK) => {
                let size = partial.metadata().map_or(0, |metadata| metadata.len());
                progress.reach(u64::try_from(mib(size).min(all)).unwrap_or(0));
            }
        }
    }
    progress.clear();
    let size = partial.metadata().map_err(|e| Error::Files(format!("cannot read {}: {e}", path.display())))?.len();
    Ok(size)
}

/// A name with something behind it.
pub(super) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name: OsString = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Writes the names in the directory of a file to the disk.
pub(super) fn sync_directory(file: &Path) -> std::io::Result<()> {
    File::open(file.parent().unwrap_or(Path::new("/")))?.sync_all()
}
