//! What webhooks are to be told: written in the transaction of the change, sent in the order of each device.
//!
//! Whoever writes to a line holds its row until the commit, so that the numbers of its events are the order of the commits,
//! whichever process they come by. Who settles a line on PostgreSQL holds no other line: messages that share a transaction
//! lock many, in no particular order.

use sqlx::FromRow;

use super::audit::least_id;
use super::{Lease, Read, StoreError, Write};
use crate::model::{DeviceId, EnrollmentId, EventId, Timestamp, WebhookId};

/// An event to be told.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "the columns are described in the migration")]
pub struct NewEvent<'a> {
    pub device_id: DeviceId,
    pub webhook_id: WebhookId,
    pub id: EventId,
    pub enrollment_id: EnrollmentId,
    pub topic: &'a str,
    pub token_tally: Option<i64>,
    pub content_sealed: &'a [u8],
}

/// A line in which something is due, leased to whoever got it.
#[derive(Clone, Debug, FromRow)]
#[expect(missing_docs, reason = "the columns are described in the migration")]
pub struct DueLine {
    pub device_id: DeviceId,
    pub webhook_id: WebhookId,
    pub last: i64,
    pub done: i64,
    pub attempts: i64,
    pub leased_until: Timestamp,
}

/// An event that waits.
#[derive(Clone, Debug, FromRow)]
#[expect(missing_docs, reason = "the columns are described in the migration")]
pub struct WaitingEvent {
    pub number: i64,
    pub id: EventId,
    pub enrollment_id: EnrollmentId,
    pub topic: String,
    pub token_tally: Option<i64>,
    pub content_sealed: Vec<u8>,
    pub created_at: Timestamp,
    pub queued_at: Timestamp,
}

/// An event that was given up.
#[derive(Clone, Debug, FromRow)]
#[expect(missing_docs, reason = "the columns are described in the migration")]
pub struct DeadEvent {
    pub device_id: DeviceId,
    pub number: i64,
    pub id: EventId,
    pub topic: String,
    pub created_at: Timestamp,
    pub dead_at: Timestamp,
    pub attempts: i64,
    pub error: String,
}

/// What waits for a webhook.
#[derive(Clone, Copy, Debug, FromRow)]
#[expect(missing_docs, reason = "named by what they are")]
pub struct WaitingEvents {
    pub webhook_id: WebhookId,
    pub count: i64,
    pub since: Option<Timestamp>,
}

/// How far a line has come.
#[derive(Clone, Debug)]
pub struct Settled<'a> {
    /// The number of the last event that was sent; that before the lease where none was.
    pub sent: i64,
    /// That of the one after it, if it was given up: how often it was tried, and why it failed.
    pub dead: Option<(i64, i64, &'a str)>,
    /// How often the first that waits was tried.
    pub attempts: i64,
    /// When to go on, if anything waits.
    pub due_at: Timestamp,
    /// Since when the first that waits does, as far as is known.
    pub waiting_since: Timestamp,
}

/// The text that leases; `$5` is the holder, and who was not seen since `$6` is gone.
macro_rules! lease {
    ($lock:literal) => {
        concat!(
            "WITH due AS MATERIALIZED
                  (SELECT l.device_id FROM webhook_lines l
                    WHERE l.webhook_id = $1 AND l.due_at <= $2
                      AND (l.leased_until IS NULL OR l.leased_until < $2
                           OR EXISTS (SELECT 1 FROM processes p
                                       WHERE p.id = l.leased_by AND p.id <> $5 AND p.seen_at < $6))
                    ORDER BY l.due_at LIMIT $4",
            $lock,
            ")
             UPDATE webhook_lines SET leased_until = $3, leased_by = $5
              WHERE webhook_id = $1 AND device_id IN (SELECT due.device_id FROM due)
          RETURNING device_id, webhook_id, last, done, attempts, leased_until"
        )
    };
}

pub(super) const LEASE: &str = lease!("");
pub(super) const DUE: &str = "SELECT last FROM webhook_lines
      WHERE webhook_id = $1 AND due_at <= $2
        AND (leased_until IS NULL OR leased_until < $2
             OR EXISTS (SELECT 1 FROM processes p WHERE p.id = leased_by AND p.id <> $3 AND p.seen_at < $4)) LIMIT 1";
pub(super) const NEXT: &str =
    "SELECT number, id, enrollment_id, topic, token_tally, content_sealed, created_at, queued_at FROM webhook_events
      WHERE device_id = $1 AND webhook_id = $2 AND number > $3 AND dead_at IS NULL ORDER BY number LIMIT 1";
pub(super) const WAITING: &str =
    "SELECT webhook_id, CAST(SUM(last - done) AS BIGINT) AS count, MIN(waiting_since) AS since
       FROM webhook_lines WHERE due_at IS NOT NULL GROUP BY webhook_id";
pub(super) const DEAD: &str = "SELECT device_id, number, id, topic, created_at, dead_at, attempts, error
       FROM webhook_events
      WHERE webhook_id = $1 AND dead_at IS NOT NULL AND ($2 IS NULL OR id > $2) ORDER BY id LIMIT $3";
pub(super) const PRUNE_DEAD: &str = "DELETE FROM webhook_events
      WHERE (device_id, webhook_id, number) IN
            (SELECT e.device_id, e.webhook_id, e.number FROM webhook_events e
              WHERE e.webhook_id = $1 AND e.dead_at IS NOT NULL AND e.id < $2 ORDER BY e.id LIMIT $3)
        AND dead_at IS NOT NULL";

impl Read {
    /// Whether anything is due for a webhook that nobody holds.
    pub async fn is_line_due(&mut self, webhook: WebhookId, lease: &Lease) -> Result<bool, StoreError> {
        let (holder, gone) = (lease.holder, lease.gone_before());
        let found: Option<i64> = on!(self, fetch_optional, query_scalar(DUE, webhook, lease.now, holder, gone))?;
        Ok(found.is_some())
    }

    /// The first event of a line that waits behind this number.
    pub async fn next_event(
        &mut self,
        device: DeviceId,
        webhook: WebhookId,
        after: i64,
    ) -> Result<Option<WaitingEvent>, StoreError> {
        on!(self, fetch_optional, query_as(NEXT, device, webhook, after))
    }

    /// What waits for each webhook for which anything does.
    pub async fn waiting_events(&mut self) -> Result<Vec<WaitingEvents>, StoreError> {
        on!(self, fetch_all, query_as(WAITING))
    }

    /// What waits for one webhook.
    pub async fn waiting_for(&mut self, webhook: WebhookId) -> Result<(i64, Option<Timestamp>), StoreError> {
        on!(
            self,
            fetch_one,
            query_as(
                "SELECT CAST(COALESCE(SUM(last - done), 0) AS BIGINT), MIN(waiting_since)
                   FROM webhook_lines WHERE webhook_id = $1 AND due_at IS NOT NULL",
                webhook
            )
        )
    }

    /// How many events for a webhook were given up.
    pub async fn count_dead_events(&mut self, webhook: WebhookId) -> Result<i64, StoreError> {
        on!(
            self,
            fetch_one,
            query_scalar("SELECT COUNT(*) FROM webhook_events WHERE webhook_id = $1 AND dead_at IS NOT NULL", webhook)
        )
    }

    /// Events for a webhook that were given up, behind this one; the oldest first.
    pub async fn dead_events(
        &mut self,
        webhook: WebhookId,
        after: Option<EventId>,
        limit: i64,
    ) -> Result<Vec<DeadEvent>, StoreError> {
        on!(self, fetch_all, query_as(DEAD, webhook, after, limit))
    }

    /// One event that was given up.
    pub async fn dead_event(&mut self, webhook: WebhookId, id: EventId) -> Result<Option<DeadEvent>, StoreError> {
        on!(
            self,
            fetch_optional,
            query_as(
                "SELECT device_id, number, id, topic, created_at, dead_at, attempts, error FROM webhook_events
                  WHERE webhook_id = $1 AND dead_at IS NOT NULL AND id = $2",
                webhook,
                id
            )
        )
    }
}

impl Write {
    /// Puts an event at the end of its line.
    pub async fn queue_event(&mut self, event: &NewEvent<'_>, now: Timestamp) -> Result<(), StoreError> {
        hot!(
            self,
            change,
            "INSERT INTO webhook_lines (device_id, webhook_id, last, done, due_at, waiting_since, attempts)
             VALUES ($1, $2, 1, 0, $3, $3, 0)
             ON CONFLICT (device_id, webhook_id) DO UPDATE
                SET last = webhook_lines.last + 1, due_at = COALESCE(webhook_lines.due_at, excluded.due_at),
                    waiting_since = COALESCE(webhook_lines.waiting_since, excluded.waiting_since)",
            event.device_id,
            event.webhook_id,
            now
        )?;
        hot!(
            self,
            change,
            "INSERT INTO webhook_events (device_id, webhook_id, number, id, enrollment_id, topic, token_tally,
                                         content_sealed, created_at, queued_at)
             VALUES ($1, $2, (SELECT l.last FROM webhook_lines l WHERE l.device_id = $1 AND l.webhook_id = $2), $3, $4, $5,
                     $6, $7, $8, $8)",
            event.device_id,
            event.webhook_id,
            event.id,
            event.enrollment_id,
            event.topic,
            event.token_tally,
            event.content_sealed,
            now
        )
        .map(drop)
    }

    /// Leases the lines of a webhook in which something is due, those first that wait longest. A lease that ran out counts
    /// as free. Lines that another transaction holds are passed over, and found the next time.
    pub async fn lease_lines(
        &mut self,
        webhook: WebhookId,
        lease: &Lease,
        limit: i64,
    ) -> Result<Vec<DueLine>, StoreError> {
        let sql = self.choose(LEASE, lease!(" FOR UPDATE OF l SKIP LOCKED"));
        on!(self, fetch_all, query_as(sql, webhook, lease.now, lease.until, limit, lease.holder, lease.gone_before()))
    }

    /// Ends the lease of a line: what was sent goes, and what was given up is kept as such. False: the lease ran out and
    /// another has the line by now; nothing was changed.
    ///
    /// Whether anything waits is told by the line itself, which is read anew when its lock was waited for: an event that is
    /// being written just now is seen in it.
    pub async fn settle_line(
        &mut self,
        line: &DueLine,
        settled: &Settled<'_>,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let done = settled.dead.map_or(settled.sent, |(number, ..)| number);
        let changed = hot!(
            self,
            change,
            "UPDATE webhook_lines
                SET done = $4, attempts = $5, leased_until = NULL, leased_by = NULL,
                    due_at = CASE WHEN last > $4 THEN CAST($6 AS BIGINT) END,
                    waiting_since = CASE WHEN last > $4 THEN CAST($7 AS BIGINT) END
              WHERE device_id = $1 AND webhook_id = $2 AND leased_until = $3",
            line.device_id,
            line.webhook_id,
            line.leased_until,
            done,
            settled.attempts,
            settled.due_at,
            settled.waiting_since
        )?;
        if changed == 0 {
            return Ok(false);
        }
        if settled.sent > line.done {
            hot!(
                self,
                change,
                "DELETE FROM webhook_events
                  WHERE device_id = $1 AND webhook_id = $2 AND number > $3 AND number <= $4 AND dead_at IS NULL",
                line.device_id,
                line.webhook_id,
                line.done,
                settled.sent
            )?;
        }
        if let Some((number, attempts, error)) = settled.dead {
            hot!(
                self,
                change,
                "UPDATE webhook_events SET dead_at = $4, attempts = $5, error = $6
                  WHERE device_id = $1 AND webhook_id = $2 AND number = $3",
                line.device_id,
                line.webhook_id,
                number,
                now,
                attempts,
                error
            )?;
        }
        Ok(true)
    }

    /// Puts an event that was given up at the end of its line again. False: it waits already, or is gone.
    pub async fn revive_event(
        &mut self,
        webhook: WebhookId,
        event: &DeadEvent,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        // The line first, as whoever adds to it does.
        run!(
            self,
            "UPDATE webhook_lines
                SET last = last + 1, due_at = COALESCE(due_at, $3), waiting_since = COALESCE(waiting_since, $3)
              WHERE device_id = $1 AND webhook_id = $2",
            event.device_id,
            webhook,
            now
        )?;
        Ok(run!(
            self,
            "UPDATE webhook_events
                SET number = (SELECT l.last FROM webhook_lines l WHERE l.device_id = $1 AND l.webhook_id = $2),
                    queued_at = $4, dead_at = NULL, attempts = NULL, error = NULL
              WHERE device_id = $1 AND webhook_id = $2 AND number = $3 AND dead_at IS NOT NULL",
            event.device_id,
            webhook,
            event.number,
            now
        )? == 1)
    }

    /// Takes away the first events for a webhook that were given up and told of something before `before` (to the
    /// millisecond).
    pub async fn prune_dead_events(
        &mut self,
        webhook: WebhookId,
        before: Timestamp,
        limit: i64,
    ) -> Result<u64, StoreError> {
        run!(self, PRUNE_DEAD, webhook, EventId(least_id(before).0), limit)
    }

    /// Takes away the next lines of a removed webhook, and all events in them: behind this device, at most of `limit` lines.
    /// Returns the last device that was looked at; none at the end.
    pub async fn prune_lines(
        &mut self,
        webhook: WebhookId,
        after: DeviceId,
        limit: i64,
    ) -> Result<Option<DeviceId>, StoreError> {
        // Those of all webhooks: the key begins with the device.
        let next: Vec<DeviceId> = on!(
            self,
            fetch_all,
            query_scalar(
                "SELECT device_id FROM webhook_lines WHERE device_id > $1 ORDER BY device_id LIMIT $2",
                after,
                limit
            )
        )?;
        let Some(last) = next.last().copied() else { return Ok(None) };
        run!(
            self,
            "DELETE FROM webhook_events WHERE device_id > $2 AND device_id <= $3 AND webhook_id = $1",
            webhook,
            after,
            last
        )?;
        run!(
            self,
            "DELETE FROM webhook_lines WHERE device_id > $2 AND device_id <= $3 AND webhook_id = $1",
            webhook,
            after,
            last
        )?;
        Ok(Some(last))
    }
}
