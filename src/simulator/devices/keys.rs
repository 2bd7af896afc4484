use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::StreamExt as _;

use super::error::PhoneError;
use crate::pki::PrivateKey;

/// Where devices get their RSA keys from. Making one takes longer than all the rest of an enrollment.
#[derive(Clone)]
pub enum KeySource {
    /// Each device makes its own, of the size that the profile asks for.
    Generate,
    /// One file for each device, `device-NNNNN.pem`; what is missing is made and kept there for the next time.
    Directory(PathBuf),
    /// These, in turn.
    Given(Arc<[PrivateKey]>),
}

impl KeySource {
    /// The key of device `number`.
    ///
    /// # Errors
    /// [`PhoneError::Internal`] when a file cannot be read or written, or holds no key.
    pub async fn key(&self, number: usize, bits: u32) -> Result<PrivateKey, PhoneError> {
        match self {
            Self::Generate => generate(bits).await,
            Self::Directory(directory) => {
                let path = directory.join(format!("device-{number:05}.pem"));
                match read(&path)? {
                    Some(key) => Ok(key),
                    None => {
                        let key = generate(bits).await?;
                        // Another simulator may have made one meanwhile: the first to keep its key wins.
                        if write(directory, &path, &key)? {
                            return Ok(key);
                        }
                        let gone = || PhoneError::Internal(format!("{} has just been taken away", path.display()));
                        read(&path)?.ok_or_else(gone)
                    }
                }
            }
            Self::Given(keys) => {
                let key = number.checked_rem(keys.len()).and_then(|index| keys.get(index));
                key.cloned().ok_or_else(|| PhoneError::Internal("no keys were given".to_owned()))
            }
        }
    }
}

impl KeySource {
    /// Makes the keys of devices 1 to `count` that a directory does not hold yet, on all cores; `done` is told the number
    /// of each. Nothing to do for other sources.
    ///
    /// # Errors
    /// As [`KeySource::key`].
    pub async fn prepare(&self, count: usize, bits: u32, done: impl Fn(usize)) -> Result<(), PhoneError> {
        if !matches!(self, Self::Directory(_)) {
            return Ok(());
        }
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let made = (1..=count).map(|number| async move { self.key(number, bits).await.map(|_| number) });
        let mut made = futures_util::stream::iter(made).buffer_unordered(cores);
        while let Some(number) = made.next().await {
            done(number?);
        }
        Ok(())
    }
}

async fn generate(bits: u32) -> Result<PrivateKey, PhoneError> {
    let made = tokio::task::spawn_blocking(move || PrivateKey::generate_rsa(bits)).await;
    Ok(made.map_err(|error| PhoneError::Internal(error.to_string()))??)
}

fn read(path: &Path) -> Result<Option<PrivateKey>, PhoneError> {
    match std::fs::read(path) {
        Ok(text) => match PrivateKey::from_pem(&text, None) {
            Ok(key) => Ok(Some(key)),
            Err(error) => Err(PhoneError::Internal(format!("{}: {error}", path.display()))),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(PhoneError::Internal(format!("{}: {error}", path.display()))),
    }
}

/// Keeps a key, whole or not at all: it is written beside its place and linked into it. False: there is one already.
fn write(directory: &Path, path: &Path, key: &PrivateKey) -> Result<bool, PhoneError> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let failed = |error: std::io::Error| PhoneError::Internal(format!("{}: {error}", path.display()));
    std::fs::create_dir_all(directory).map_err(failed)?;
    let beside = path.with_extension(format!("{}.new", std::process::id()));
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&beside)
        .map_err(failed)?;
    let linked = file.write_all(key.to_pem().expose().as_bytes()).and_then(|()| std::fs::hard_link(&beside, path));
    std::fs::remove_file(&beside).map_err(failed)?;
    match linked {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(failed(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_directory_keeps_its_keys() {
        let directory = tempfile::tempdir().unwrap();
        let source = KeySource::Directory(directory.path().join("keys"));
        let made = source.key(3, 1024).await.unwrap();
        let again = source.key(3, 1024).await.unwrap();
        assert_eq!(made.public_key_sha256().unwrap(), again.public_key_sha256().unwrap());
        std::fs::write(directory.path().join("keys/device-00004.pem"), "nothing").unwrap();
        source.prepare(3, 1024, |_| ()).await.unwrap();
        assert_eq!(std::fs::read_dir(directory.path().join("keys")).unwrap().count(), 4);
        assert!(source.key(4, 1024).await.unwrap_err().to_string().contains("device-00004.pem"));
    }

    #[tokio::test]
    async fn the_first_of_two_keys_is_kept() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("device-00001.pem");
        let [first, second] = [generate(1024).await.unwrap(), generate(1024).await.unwrap()];
        assert!(write(directory.path(), &path, &first).unwrap());
        assert!(!write(directory.path(), &path, &second).unwrap());
        let kept = read(&path).unwrap().unwrap();
        assert_eq!(kept.public_key_sha256().unwrap(), first.public_key_sha256().unwrap());
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1, "nothing is left beside it");
    }
}
