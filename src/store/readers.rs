//! The connections that read an SQLite file.
//!
//! sqlx's own pool asks a connection whether it is alive when it is lent, and again when it comes back. Each question
//! goes to the connection's thread and back, as each statement does: for an idle poll, which is one statement, that
//! would be two thirds of the work. A file does not go away as a server does, so these are asked now and then only.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions, Connection};
use tokio::sync::{Mutex, OwnedMappedMutexGuard, OwnedMutexGuard, OwnedSemaphorePermit, Semaphore, TryAcquireError};
use tokio::time::{Instant, timeout};

/// How often a connection is asked whether its thread is still there.
const CHECK: Duration = Duration::from_secs(5);

/// A fixed number of connections, each made when it is first needed. Cheap to clone.
#[derive(Clone)]
pub(super) struct Readers {
    options: Arc<SqliteConnectOptions>,
    slots: Arc<[Arc<Mutex<Slot>>]>,
    /// One for each slot: whoever has one finds a slot that is free.
    places: Arc<Semaphore>,
    patience: Duration,
}

struct Slot {
    connection: Option<SqliteConnection>,
    checked: Instant,
}

/// A connection that is lent; it comes back when this is dropped.
pub(super) struct Reader {
    // Before the place: the slot is free when the next one gets it.
    connection: OwnedMappedMutexGuard<Slot, SqliteConnection>,
    _place: OwnedSemaphorePermit,
}

impl Readers {
    /// At most `count` connections; who needs one waits no longer than `patience`.
    pub(super) fn new(options: SqliteConnectOptions, count: usize, patience: Duration) -> Self {
        let slot = |_| Arc::new(Mutex::new(Slot { connection: None, checked: Instant::now() }));
        Self {
            options: Arc::new(options),
            slots: (0..count).map(slot).collect(),
            places: Arc::new(Semaphore::new(count)),
            patience,
        }
    }

    /// Lends a connection.
    pub(super) async fn acquire(&self) -> Result<Reader, sqlx::Error> {
        let place = match Arc::clone(&self.places).try_acquire_owned() {
            Ok(place) => place,
            Err(TryAcquireError::Closed) => return Err(sqlx::Error::PoolClosed),
            Err(TryAcquireError::NoPermits) => timeout(self.patience, Arc::clone(&self.places).acquire_owned())
                .await
                .map_err(|_| sqlx::Error::PoolTimedOut)?
                .map_err(|_| sqlx::Error::PoolClosed)?,
        };
        loop {
            for slot in self.slots.iter() {
                let Ok(mut slot) = Arc::clone(slot).try_lock_owned() else { continue };
                slot.mend(&self.options).await?;
                if let Ok(connection) = OwnedMutexGuard::try_map(slot, |slot| slot.connection.as_mut()) {
                    return Ok(Reader { connection, _place: place });
                }
            }
            // The free one was passed before it came free, and another was taken meanwhile.
            tokio::task::yield_now().await;
        }
    }

    /// Closes all; those in use are waited for.
    pub(super) async fn close(&self) {
        let count = u32::try_from(self.slots.len()).unwrap_or(u32::MAX);
        // An error says that they are closed already.
        let Ok(_all) = self.places.acquire_many(count).await else { return };
        self.places.close();
        for slot in self.slots.iter() {
            if let Some(connection) = slot.lock().await.connection.take() {
                // What only read has nothing to lose.
                let _ = connection.close().await;
            }
        }
    }
}

impl Slot {
    /// Opens the connection where there is none, and where its thread has ended.
    async fn mend(&mut self, options: &SqliteConnectOptions) -> Result<(), sqlx::Error> {
        if let Some(connection) = &mut self.connection {
            if self.checked.elapsed() < CHECK {
                return Ok(());
            }
            self.checked = Instant::now();
            if connection.ping().await.is_ok() {
                return Ok(());
            }
        }
        self.connection = None;
        self.connection = Some(options.connect().await?);
        self.checked = Instant::now();
        Ok(())
    }
}

impl Deref for Reader {
    type Target = SqliteConnection;

    fn deref(&self) -> &SqliteConnection {
        &self.connection
    }
}

impl DerefMut for Reader {
    fn deref_mut(&mut self) -> &mut SqliteConnection {
        &mut self.connection
    }
}

impl std::fmt::Debug for Readers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Readers").field("count", &self.slots.len()).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Reader")
    }
}

#[cfg(test)]
mod tests {
    use std::str::FromStr;

    use futures_util::future::join_all;

    use super::*;

    fn readers(directory: &tempfile::TempDir, count: usize) -> Readers {
        let url = format!("sqlite:{}", directory.path().join("x.db").display());
        let options = SqliteConnectOptions::from_str(&url).unwrap().create_if_missing(true);
        Readers::new(options, count, Duration::from_millis(200))
    }

    async fn one(readers: &Readers) -> Result<i64, sqlx::Error> {
        let mut reader = readers.acquire().await?;
        sqlx::query_scalar("SELECT 1").fetch_one(&mut *reader).await
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn many_share_few() {
        let directory = tempfile::tempdir().unwrap();
        let readers = readers(&directory, 2);
        let all = join_all((0..200).map(|_| {
            let readers = readers.clone();
            tokio::spawn(async move { one(&readers).await.unwrap() })
        }));
        assert!(all.await.into_iter().all(|one| one.unwrap() == 1));
    }

    #[tokio::test]
    async fn who_waits_too_long_is_told_and_a_closed_one_lends_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let readers = readers(&directory, 1);
        let held = readers.acquire().await.unwrap();
        assert!(matches!(readers.acquire().await, Err(sqlx::Error::PoolTimedOut)));
        let closing = tokio::spawn({
            let readers = readers.clone();
            async move { readers.close().await }
        });
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(!closing.is_finished(), "one is in use");
        drop(held);
        closing.await.unwrap();
        assert!(matches!(readers.acquire().await, Err(sqlx::Error::PoolClosed)));
        readers.close().await;
    }

    #[tokio::test]
    async fn a_statement_that_was_given_up_harms_no_later_one() {
        let directory = tempfile::tempdir().unwrap();
        let readers = readers(&directory, 1);
        let endless =
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200000) SELECT i FROM n";
        for _ in 0..3 {
            let mut reader = readers.acquire().await.unwrap();
            let given_up = sqlx::query_scalar::<_, i64>(endless).fetch_all(&mut *reader);
            assert!(timeout(Duration::from_millis(2), given_up).await.is_err());
            drop(reader);
            assert_eq!(one(&readers).await.unwrap(), 1);
        }
    }

    #[tokio::test]
    async fn a_connection_that_was_long_unused_is_asked_first() {
        let directory = tempfile::tempdir().unwrap();
        let readers = readers(&directory, 1);
        assert_eq!(one(&readers).await.unwrap(), 1);
        readers.slots[0].lock().await.checked -= CHECK * 2;
        assert_eq!(one(&readers).await.unwrap(), 1);
    }
}
