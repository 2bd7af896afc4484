use std::time::Duration;

use super::{StoreError, Write};
use crate::model::{ProcessId, Timestamp};

/// How long after it was last seen a process counts as alive.
pub const ALIVE: Duration = Duration::from_secs(6);

/// A lease that is asked for. It ends at `until`, or when its holder is gone: what another process held that was seen,
/// but not within [`ALIVE`], is free. One that was never seen is waited for until its lease ends.
#[derive(Clone, Copy, Debug)]
pub struct Lease {
    /// Who asks.
    pub holder: ProcessId,
    /// The time.
    pub now: Timestamp,
    /// When it ends at the latest.
    pub until: Timestamp,
}

impl Lease {
    /// Who was seen before this time, and not since, is gone.
    pub(super) fn gone_before(&self) -> Timestamp {
        self.now.minus(ALIVE)
    }
}

impl Write {
    /// Notes that a process is alive.
    pub async fn see_process(&mut self, id: ProcessId, now: Timestamp) -> Result<(), StoreError> {
        run!(
            self,
            "INSERT INTO processes (id, started_at, seen_at) VALUES ($1, $2, $2)
             ON CONFLICT (id) DO UPDATE SET seen_at = excluded.seen_at",
            id,
            now
        )
        .map(drop)
    }

    /// Forgets a process that ends and holds nothing any more.
    pub async fn end_process(&mut self, id: ProcessId) -> Result<(), StoreError> {
        run!(self, "DELETE FROM processes WHERE id = $1", id).map(drop)
    }

    /// Forgets processes that were not seen since `before`: longer ago than any lease lasts.
    pub async fn delete_gone_processes(&mut self, before: Timestamp) -> Result<u64, StoreError> {
        run!(self, "DELETE FROM processes WHERE seen_at < $1", before)
    }
}
