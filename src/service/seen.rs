use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::FutureExt;

use super::{App, Error};
use crate::model::{EnrollmentId, Timestamp, TokenId};
use crate::store::{StoreError, Write};

/// Most times that are written in one transaction.
const BATCH: usize = 500;

/// When enrollments and tokens were last heard of: kept in memory and written in batches, so that an idle poll writes
/// nothing. A crash loses some seconds of it, which is all that it is worth.
#[derive(Debug, Default)]
pub struct Seen {
    enrollments: Mutex<HashMap<EnrollmentId, Timestamp>>,
    tokens: Mutex<HashMap<TokenId, Timestamp>>,
}

impl Seen {
    /// An enrollment was heard of.
    pub fn enrollment(&self, id: EnrollmentId, now: Timestamp) {
        self.enrollments.lock().unwrap_or_else(PoisonError::into_inner).insert(id, now);
    }

    /// A token was used.
    pub fn token(&self, id: TokenId, now: Timestamp) {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner).insert(id, now);
    }
}

impl App {
    /// Writes what was heard of since the last time.
    ///
    /// # Errors
    /// [`Error::Unavailable`]; what was not written is forgotten.
    pub async fn flush_seen(&self) -> Result<(), Error> {
        let enrollments = std::mem::take(&mut *self.seen.enrollments.lock().unwrap_or_else(PoisonError::into_inner));
        let mut enrollments: Vec<_> = enrollments.into_iter().collect();
        // In the order of ids, so that two processes that write the same rows never wait for each other in a ring.
        enrollments.sort_unstable();
        for batch in enrollments.chunks(BATCH) {
            let batch: Arc<[_]> = batch.into();
            let touch = move |mut tx: Write| {
                let batch = Arc::clone(&batch);
                async move {
                    tx.touch_enrollments(&batch).await?;
                    tx.commit().await
                }
                .boxed()
            };
            self.store.note::<(), StoreError, _>(touch).await?;
        }
        let tokens = std::mem::take(&mut *self.seen.tokens.lock().unwrap_or_else(PoisonError::into_inner));
        if !tokens.is_empty() {
            let mut tokens: Vec<_> = tokens.into_iter().collect();
            tokens.sort_unstable();
            let mut tx = self.store.begin_write().await?;
            tx.touch_tokens(&tokens).await?;
            tx.commit().await?;
        }
        Ok(())
    }
}
