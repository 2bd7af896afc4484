//! Waking devices: at most one wake-up is due for each enrollment, and at most one is in flight.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::try_join_all;
use tokio::task::JoinSet;

use super::{App, Error};
use crate::model::{EnrollmentId, Sha256, Timestamp};
use crate::pki;
use crate::remote::apns::{ApnsIdentity, Push, PushOutcome};
use crate::store::{DueWake, Lease, PushResult, Read, Write};

/// How long a process may take for one wake-up before another may take it over; longer than a push can last.
const LEASE: Duration = Duration::from_secs(120);
/// Wake-ups that are leased at once.
const BATCH: usize = 500;
/// The first pause after a failure; doubled each time, with jitter.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(60 * 60);
/// When to look again whether there is a certificate.
const NO_CERTIFICATE_PAUSE: Duration = Duration::from_secs(10 * 60);

/// The push certificates with their keys, by topic: decrypted once, until another takes a topic's place.
#[derive(Debug, Default)]
pub struct PushIdentities(Mutex<HashMap<String, (Sha256, Arc<ApnsIdentity>)>>);

/// What a round of wake-ups did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Round {
    /// How each wake-up that was leased ended: `accepted`, `refused`, `later`, `unreachable`, `token_invalid`,
    /// `no_certificate`, `not_possible`.
    pub results: Vec<&'static str>,
}

/// What a push came to, for the metrics and the store.
#[derive(Clone, Debug)]
struct Finished {
    result: &'static str,
    reason: Option<String>,
    apns_id: Option<String>,
    retry_at: Option<Timestamp>,
    /// The token is invalid since then.
    invalid_at: Option<Timestamp>,
}

/// Why devices of these topics cannot be woken, one line for each topic.
///
/// # Errors
/// [`Error::Unavailable`].
pub async fn topics_without_certificate(
    read: &mut Read,
    topics: &BTreeSet<String>,
    now: Timestamp,
) -> Result<Vec<String>, Error> {
    let certificates = read.push_certificates().await?;
    Ok(topics
        .iter()
        .filter_map(|topic| match certificates.iter().find(|row| row.topic == *topic) {
            None => Some(format!("no push certificate for topic {topic}")),
            Some(row) if row.not_after <= now => {
                Some(format!("the push certificate for topic {topic} expired on {}", row.not_after))
            }
            Some(_) => None,
        })
        .collect())
}

/// Leases what is due and sends it, until nothing of it is under way any more.
///
/// # Errors
/// [`Error::Unavailable`]; leases that were taken run out by themselves.
pub async fn send_due(app: &App) -> Result<Round, Error> {
    let mut flight = Flight::new(app);
    let mut round = Round::default();
    let mut is_all = false;
    loop {
        if !is_all {
            is_all = flight.begin().await?;
        }
        if flight.is_empty() {
            return Ok(round);
        }
        round.results.extend(flight.next().await?.results);
    }
}

/// The pushes of this process that are under way, at most `push.concurrency`. Each is settled when it ends, and others are
/// leased into its place: a slow one holds up none.
///
/// The store forgets a wake-up only after APNs took it: a crash in between repeats one push, and loses none.
#[expect(missing_debug_implementations, reason = "an App has none")]
pub struct Flight {
    app: App,
    pushes: JoinSet<Ended>,
    /// What has ended and is being written down, while others are sent.
    settling: JoinSet<Result<Round, Error>>,
}

/// A push that ended, and how.
#[derive(Debug)]
pub struct Ended {
    wake: DueWake,
    done: Finished,
}

impl Flight {
    /// None is under way.
    #[must_use]
    pub fn new(app: &App) -> Self {
        Self { app: app.clone(), pushes: JoinSet::new(), settling: JoinSet::new() }
    }

    /// Whether none is under way, and none is to be written down.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pushes.is_empty() && self.settling.is_empty()
    }

    /// Leases what is due, as far as there is room for a good many, and begins to send it: a push begins with its lease, and
    /// so ends before it. True: nothing more is due now.
    ///
    /// # Errors
    /// [`Error::Unavailable`]; leases that were taken run out by themselves.
    pub async fn begin(&mut self) -> Result<bool, Error> {
        let most = usize::try_from(self.app.settings.push.concurrency).unwrap_or(usize::MAX).max(1);
        loop {
            let count = most.saturating_sub(self.pushes.len()).min(BATCH);
            // Few at a time would cost a transaction each.
            if count < most.min(BATCH).div_ceil(2) {
                return Ok(false);
            }
            let now = self.app.clock.now();
            let mut tx = self.app.store.begin_write().await?;
            let lease = Lease { holder: self.app.process, now, until: now.plus(LEASE) };
            let due = tx.lease_wakes(&lease, limit(count)).await?;
            if due.is_empty() {
                return Ok(true);
            }
            tx.commit().await?;
            let is_all = due.len() < count;
            let identities = identities(&self.app).await?;
            for wake in due {
                let identity = wake.topic.as_ref().and_then(|topic| identities.get(topic).cloned());
                let app = self.app.clone();
                self.pushes.spawn(async move {
                    let done = send(&app, &wake, identity.as_deref(), now).await;
                    Ended { wake, done }
                });
            }
            if is_all {
                return Ok(true);
            }
        }
    }

    /// Waits until something has ended: pushes, which are being written down from then on, or that. For ever where nothing
    /// is under way. Nothing is lost when this is dropped before it is done. Says what was written down.
    ///
    /// # Errors
    /// [`Error::Unavailable`]; the leases of what could not be written down run out by themselves.
    pub async fn next(&mut self) -> Result<Round, Error> {
        let one = tokio::select! {
            Some(ended) = self.pushes.join_next() => ended,
            Some(settled) = self.settling.join_next() => {
                let died = |error| Error::Internal(format!("the end of pushes could not be written: {error}"));
                return settled.map_err(died)?;
            }
            else => std::future::pending().await,
        };
        let mut ended = Vec::new();
        let mut next = Some(one);
        while let Some(one) = next {
            match one {
                Ok(one) => ended.push(one),
                // Its lease runs out.
                Err(error) => tracing::error!(%error, "a push ended by a fault of the server"),
            }
            next = self.pushes.try_join_next();
        }
        self.settling.spawn(settle(self.app.clone(), ended));
        Ok(Round::default())
    }
}

/// Writes down how pushes ended.
async fn settle(app: App, ended: Vec<Ended>) -> Result<Round, Error> {
    let now = app.clock.now();
    invalidate_tokens(&app, &ended).await?;
    let results = ended.iter().map(|one| one.done.result).collect();
    let each = ended.into_iter().map(|one| {
        let one = Arc::new(one);
        app.store.note(move |tx| {
            let one = Arc::clone(&one);
            async move { finish(tx, &one.wake, &one.done, now).await }.boxed()
        })
    });
    try_join_all(each).await?;
    app.signals.pushed.notify_waiters();
    Ok(Round { results })
}

fn limit(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// Forgets the tokens that APNs no longer knows. In a transaction of its own, before any wake-up is held: all others
/// lock enrollments first and wake-ups then, so that the two together could wait for each other in a ring. A crash in
/// between leaves a wake-up that finds no token.
async fn invalidate_tokens(app: &App, ended: &[Ended]) -> Result<(), Error> {
    let mut invalid: Vec<_> =
        ended.iter().filter_map(|one| Some((one.wake.enrollment_id, one.done.invalid_at?))).collect();
    if invalid.is_empty() {
        return Ok(());
    }
    invalid.sort_unstable();
    let mut tx = app.store.begin_write().await?;
    for (id, at) in invalid {
        tx.invalidate_push_token(id, at).await?;
    }
    tx.commit().await?;
    Ok(())
}

async fn finish(mut tx: Write, wake: &DueWake, done: &Finished, now: Timestamp) -> Result<(), Error> {
    let result = PushResult {
        result: done.result,
        reason: done.reason.as_deref(),
        apns_id: done.apns_id.as_deref(),
        retry_at: done.retry_at,
    };
    if !tx.finish_wake(wake, &result, now).await? {
        tracing::warn!(enrollment = %wake.enrollment_id, result = done.result, "a push ended after its lease");
    }
    tx.commit().await?;
    Ok(())
}

async fn send(app: &App, wake: &DueWake, identity: Option<&ApnsIdentity>, now: Timestamp) -> Finished {
    let over = |result, reason: &str| Finished {
        result,
        reason: Some(reason.to_owned()),
        apns_id: None,
        retry_at: None,
        invalid_at: None,
    };
    let (Some(topic), Some(token), Some(magic)) = (&wake.topic, &wake.push_token, &wake.push_magic) else {
        return over("not_possible", "the enrollment is not enabled, or its push token is no longer valid");
    };
    let Some(identity) = identity else {
        let mut none = over("no_certificate", &format!("no valid push certificate for topic {topic}"));
        none.retry_at = Some(now.plus(NO_CERTIFICATE_PAUSE));
        return none;
    };
    let push = Push { token: token.clone(), magic: magic.clone(), expires_at: now.plus(app.settings.push.expiration) };
    let outcome = app.pusher.push(identity, &push).await;
    let now = app.clock.now();
    match outcome {
        PushOutcome::Accepted { apns_id } => {
            Finished { result: "accepted", reason: None, apns_id, retry_at: None, invalid_at: None }
        }
        // The timestamp counts only when it is later than our token's own arrival: else the device has a newer one.
        PushOutcome::Refused { status: 410, reason, at } => match (at, wake.token_at) {
            (Some(at), Some(stored)) if at <= stored => later(app, wake, reason, None, now),
            (at, stored) => {
                // Without a time it says of the token that was sent, and nothing of one that came since.
                let at = at.or_else(|| stored.map(|stored| stored.plus(Duration::from_micros(1))));
                Finished { invalid_at: Some(at.unwrap_or(now)), ..over("token_invalid", &reason) }
            }
        },
        // About the certificate, not about this device: the wake-up stays due.
        PushOutcome::Refused { status: 403, reason, .. } => {
            Finished { result: "refused", ..later(app, wake, reason, Some(NO_CERTIFICATE_PAUSE), now) }
        }
        PushOutcome::Refused { status, reason, .. } => over("refused", &format!("{status} {reason}")),
        PushOutcome::Later { after, reason } => later(app, wake, reason, after, now),
        PushOutcome::Unreachable { reason } => {
            Finished { result: "unreachable", ..later(app, wake, reason, None, now) }
        }
    }
}

fn later(app: &App, wake: &DueWake, reason: String, after: Option<Duration>, now: Timestamp) -> Finished {
    let pause = pause(wake.attempts, app.random.below(1_000_000)).max(after.unwrap_or_default());
    Finished { result: "later", reason: Some(reason), apns_id: None, retry_at: Some(now.plus(pause)), invalid_at: None }
}

/// The pause before the next attempt: doubled each time up to the longest, then between half of it and all of it, by
/// `random` in millionths.
pub(super) fn pause(attempts: i64, random: u64) -> Duration {
    let doublings = u32::try_from(attempts.saturating_sub(1).clamp(0, 16)).unwrap_or(0);
    let full = FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(doublings)).min(LONGEST_PAUSE);
    let half = full / 2;
    half + Duration::from_micros(u64::try_from(half.as_micros()).unwrap_or(0) / 1_000_000 * random)
}

/// The valid push certificate for a topic, with its key.
pub(super) async fn identity(app: &App, topic: &str) -> Result<Option<Arc<ApnsIdentity>>, Error> {
    Ok(identities(app).await?.remove(topic))
}

/// The valid push certificates with their keys, by topic.
async fn identities(app: &App) -> Result<HashMap<String, Arc<ApnsIdentity>>, Error> {
    let now = app.clock.now();
    let rows = app.store.begin_read().await?.push_certificates().await?;
    let mut known = app.push_identities.0.lock().unwrap_or_else(PoisonError::into_inner);
    let mut valid = HashMap::new();
    for row in rows.iter().filter(|row| row.not_after > now) {
        let identity = match known.get(&row.topic) {
            Some((sha256, identity)) if *sha256 == row.sha256 => Arc::clone(identity),
            _ => {
                let key = app.open(&key_context(&row.topic), &row.key_sealed)?;
                let chain = pki::Certificate::from_pem_many(row.chain_pem.as_bytes())
                    .map_err(|e| Error::Internal(format!("the push certificate for {}: {e}", row.topic)))?;
                let chain = chain.iter().map(|certificate| certificate.der().to_vec()).collect();
                Arc::new(ApnsIdentity::new(row.topic.clone(), chain, key))
            }
        };
        known.insert(row.topic.clone(), (row.sha256, Arc::clone(&identity)));
        valid.insert(row.topic.clone(), identity);
    }
    Ok(valid)
}

/// The place for which a push certificate's key (PKCS#8 DER) is sealed.
#[must_use]
pub fn key_context(topic: &str) -> String {
    format!("push_certificates.key:{topic}")
}

/// Makes the periodic wake-ups due whose time has come. Returns how many.
///
/// # Errors
/// [`Error::Unavailable`].
pub async fn schedule_syncs(app: &App) -> Result<u64, Error> {
    let interval = i64::try_from(app.settings.push.sync_interval.as_micros()).unwrap_or(i64::MAX);
    let mut tx = app.store.begin_write().await?;
    let scheduled = tx.schedule_syncs(app.clock.now(), interval, limit(BATCH)).await?;
    tx.commit().await?;
    Ok(scheduled)
}

/// Asks for a wake-up now, because an admin wants one.
///
/// # Errors
/// [`Error::NotFound`]; [`Error::Conflict`] where the enrollment is not enabled.
pub async fn request(app: &App, id: EnrollmentId) -> Result<(), Error> {
    let now = app.clock.now();
    let mut tx = app.store.begin_write().await?;
    let enrollment = tx
        .enrollment_by_id_for_update(id)
        .await?
        .ok_or_else(|| Error::NotFound(format!("there is no enrollment {id}")))?;
    if !enrollment.is_enabled() {
        return Err(Error::conflict("not_enrolled", format!("the enrollment is {}", enrollment.state)));
    }
    tx.request_wake(id, now, now.plus(app.settings.push.sync_interval)).await?;
    tx.commit().await?;
    app.signals.push.notify_one();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_stay_bounded() {
        assert_eq!(pause(1, 0), Duration::from_millis(2_500));
        assert!(pause(1, 999_999) <= Duration::from_secs(5));
        assert!(pause(4, 0) > pause(1, 999_999));
        assert!(pause(i64::MAX, 999_999) <= LONGEST_PAUSE);
    }
}
