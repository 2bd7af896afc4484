use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use crate::model::Sha256;

/// A PEM file of more than this is none.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// Reads `files` every `every` and calls `changed` with their contents, in the same order, whenever one of them is not
/// what it was; until `stop`. What they hold at the call is taken as known.
///
/// The contents decide, not the time of the last change: a restored file, a swapped symbolic link and a clock that was
/// set back are seen too, and the files are small.
pub async fn watch_files(
    files: Vec<PathBuf>,
    every: Duration,
    stop: CancellationToken,
    mut changed: impl FnMut(&[Zeroizing<Vec<u8>>]) + Send,
) {
    let mut known = fingerprint(&read_all(&files).await);
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.tick().await;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let contents = read_all(&files).await;
        let now = fingerprint(&contents);
        if now == known {
            continue;
        }
        known = now;
        match contents {
            Ok(contents) => changed(&contents),
            Err((file, why)) => {
                tracing::warn!(file = %file.display(), %why, "a watched file cannot be read; what it held stays in use");
            }
        }
    }
}

type Contents = Result<Vec<Zeroizing<Vec<u8>>>, (PathBuf, String)>;

async fn read_all(files: &[PathBuf]) -> Contents {
    let mut contents = Vec::with_capacity(files.len());
    for file in files {
        contents.push(read(file).await.map_err(|why| (file.clone(), why))?);
    }
    Ok(contents)
}

async fn read(file: &Path) -> Result<Zeroizing<Vec<u8>>, String> {
    let mut content = Zeroizing::new(Vec::new());
    let opened = tokio::fs::File::open(file).await.map_err(|why| why.to_string())?;
    opened.take(MAX_FILE_BYTES + 1).read_to_end(&mut content).await.map_err(|why| why.to_string())?;
    if u64::try_from(content.len()).unwrap_or(u64::MAX) > MAX_FILE_BYTES {
        return Err(format!("larger than {MAX_FILE_BYTES} bytes"));
    }
    Ok(content)
}

/// What is remembered between two looks: no key stays in memory for it.
fn fingerprint(contents: &Contents) -> Result<Vec<Sha256>, String> {
    match contents {
        Ok(contents) => Ok(contents.iter().map(|content| Sha256::of(content)).collect()),
        Err((file, why)) => Err(format!("{}: {why}", file.display())),
    }
}
