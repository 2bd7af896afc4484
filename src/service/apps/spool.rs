use std::io::SeekFrom;
use std::path::Path;

use bytes::Bytes;
use tokio::fs::{File, OpenOptions};
use tokio::io::{AsyncSeekExt, AsyncWriteExt};

use super::super::Error;
use crate::model::{Randomness, Sha256, Sha256Pieces};

/// A file without a name, for an upload that is not complete: whatever happens, the system takes it away.
#[derive(Debug)]
pub(super) struct Spool {
    file: File,
    digest: Sha256Pieces,
    size: u64,
}

/// An upload that came whole.
#[derive(Debug)]
pub(super) struct Spooled {
    pub(super) file: File,
    pub(super) sha256: Sha256,
    pub(super) size: u64,
}

impl Spool {
    pub(super) async fn new(directory: &Path, random: &dyn Randomness) -> Result<Self, Error> {
        let mut bytes = [0; 8];
        random.fill(&mut bytes);
        let path = directory.join(format!(".upload-{}", hex::encode(bytes)));
        let failed = |e: std::io::Error| trouble(directory, &e);
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path).await.map_err(failed)?;
        tokio::fs::remove_file(&path).await.map_err(failed)?;
        Ok(Self { file, digest: Sha256Pieces::default(), size: 0 })
    }

    pub(super) const fn size(&self) -> u64 {
        self.size
    }

    pub(super) async fn add(&mut self, piece: &Bytes) -> Result<(), Error> {
        self.digest.add(piece);
        self.size = self.size.saturating_add(u64::try_from(piece.len()).unwrap_or(u64::MAX));
        self.file.write_all(piece).await.map_err(|e| unwritten(&e))
    }

    pub(super) async fn finish(mut self) -> Result<Spooled, Error> {
        self.file.flush().await.map_err(|e| unwritten(&e))?;
        self.file.seek(SeekFrom::Start(0)).await.map_err(|e| unwritten(&e))?;
        Ok(Spooled { file: self.file, sha256: self.digest.finish(), size: self.size })
    }
}

fn trouble(directory: &Path, error: &std::io::Error) -> Error {
    Error::Unavailable(format!("an upload cannot be kept in {}: {error}", directory.display()))
}

fn unwritten(error: &std::io::Error) -> Error {
    Error::Unavailable(format!("an upload cannot be kept in data_dir: {error}"))
}
