use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::fault::{Fault, FaultKind};
use crate::model::{Clock, Randomness, Timestamp};

/// A push as a device gets it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wake {
    /// The topic it was sent under.
    pub topic: String,
    /// The PushMagic.
    pub magic: String,
    /// Until when it is kept for a device that is away.
    pub expires_at: Timestamp,
    /// When APNs got it.
    pub received_at: Timestamp,
}

/// What has happened since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// TLS connections.
    pub connections: u64,
    /// HTTP requests.
    pub requests: u64,
    /// Pushes taken.
    pub accepted: u64,
    /// Wakes that a device took.
    pub delivered: u64,
    /// Answers by status.
    pub answers: BTreeMap<u16, u64>,
    /// The most requests that were open at once on one connection.
    pub most_streams: u64,
}

/// What the server knows.
pub(super) struct State {
    pub(super) clock: Arc<dyn Clock>,
    pub(super) random: Arc<dyn Randomness>,
    pub(super) max_concurrent_streams: u32,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    tokens: HashMap<Vec<u8>, Token>,
    faults: VecDeque<Fault>,
    counters: Counters,
}

struct Token {
    topic: Option<String>,
    /// The newest push that no device has taken yet: APNs keeps one.
    waiting: Option<Wake>,
    arrived: Arc<Notify>,
    /// How many are waiting for a wake now: the device is online.
    listeners: usize,
    gone_since: Option<Timestamp>,
    /// Pushes taken for it, those too that a newer one took the place of.
    taken: u64,
}

/// Whether a token can be pushed to under a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TokenCheck {
    Good,
    Unknown,
    OtherTopic,
    Gone(Timestamp),
}

impl State {
    pub(super) fn new(max_concurrent_streams: u32, clock: Arc<dyn Clock>, random: Arc<dyn Randomness>) -> Self {
        Self { clock, random, max_concurrent_streams, inner: Mutex::default() }
    }

    pub(super) fn register(&self, topic: Option<&str>, wanted: Option<&[u8]>) -> Vec<u8> {
        let token = wanted.map_or_else(
            || {
                let mut token = vec![0; 32];
                self.random.fill(&mut token);
                token
            },
            <[u8]>::to_vec,
        );
        let fresh = Token {
            topic: topic.map(str::to_owned),
            waiting: None,
            arrived: Arc::new(Notify::new()),
            listeners: 0,
            gone_since: None,
            taken: 0,
        };
        self.lock().tokens.insert(token.clone(), fresh);
        token
    }

    pub(super) fn unregister(&self, token: &[u8], since: Option<Timestamp>) {
        let since = since.unwrap_or_else(|| self.clock.now());
        if let Some(known) = self.lock().tokens.get_mut(token) {
            known.gone_since = Some(since);
            known.waiting = None;
        }
    }

    pub(super) fn check(&self, token: &[u8], topic: &str) -> TokenCheck {
        match self.lock().tokens.get(token) {
            None => TokenCheck::Unknown,
            Some(Token { gone_since: Some(since), .. }) => TokenCheck::Gone(*since),
            Some(Token { topic: Some(own), .. }) if own != topic => TokenCheck::OtherTopic,
            Some(_) => TokenCheck::Good,
        }
    }

    pub(super) fn knows(&self, token: &[u8]) -> bool {
        self.lock().tokens.contains_key(token)
    }

    /// Takes a push: hands it over, or keeps it in place of an older one.
    pub(super) fn accept(&self, token: &[u8], wake: Wake) {
        let mut inner = self.lock();
        inner.counters.accepted += 1;
        if let Some(known) = inner.tokens.get_mut(token) {
            known.taken += 1;
            // An expiration of 0 means: now or never.
            if known.listeners > 0 || wake.expires_at > wake.received_at {
                known.waiting = Some(wake);
                known.arrived.notify_one();
            }
        }
    }

    /// The newest wake of a token, waiting for it if need be.
    pub(super) async fn next_wake(&self, token: &[u8], wait: Duration) -> Option<Wake> {
        let deadline = Instant::now() + wait;
        let arrived = Arc::clone(&self.lock().tokens.get(token)?.arrived);
        let _listening = Listening::new(self, token);
        loop {
            if let Some(wake) = self.take(token) {
                return Some(wake);
            }
            timeout_at(deadline, arrived.notified()).await.ok()?;
        }
    }

    fn take(&self, token: &[u8]) -> Option<Wake> {
        let now = self.clock.now();
        let mut inner = self.lock();
        let known = inner.tokens.get_mut(token)?;
        let wake = known.waiting.take()?;
        if wake.expires_at <= now && wake.expires_at > wake.received_at {
            return None;
        }
        inner.counters.delivered += 1;
        Some(wake)
    }

    /// How many pushes were taken for a token.
    pub(super) fn taken(&self, token: &[u8]) -> u64 {
        self.lock().tokens.get(token).map_or(0, |known| known.taken)
    }

    pub(super) fn inject(&self, fault: Fault) {
        self.lock().faults.push_back(fault);
    }

    pub(super) fn clear_faults(&self) {
        self.lock().faults.clear();
    }

    /// The first fault of the script that applies, used up by one.
    pub(super) fn take_fault(&self, token: &[u8]) -> Option<FaultKind> {
        let faults = &mut self.lock().faults;
        let (index, fault) = faults.iter_mut().enumerate().find(|(_, fault)| fault.applies_to(token))?;
        let kind = fault.kind.clone();
        if let Some(times) = &mut fault.times {
            *times = times.saturating_sub(1);
            if *times == 0 {
                faults.remove(index);
            }
        }
        Some(kind)
    }

    pub(super) fn counters(&self) -> Counters {
        self.lock().counters.clone()
    }

    pub(super) fn count(&self, change: impl FnOnce(&mut Counters)) {
        change(&mut self.lock().counters);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Marks a token's device as online while it waits.
struct Listening<'a> {
    state: &'a State,
    token: &'a [u8],
}

impl<'a> Listening<'a> {
    fn new(state: &'a State, token: &'a [u8]) -> Self {
        if let Some(known) = state.lock().tokens.get_mut(token) {
            known.listeners += 1;
        }
        Self { state, token }
    }
}

impl Drop for Listening<'_> {
    fn drop(&mut self) {
        if let Some(known) = self.state.lock().tokens.get_mut(self.token) {
            known.listeners = known.listeners.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ManualClock, SeededRandomness};

    fn state(clock: &Arc<ManualClock>) -> State {
        State::new(10, Arc::clone(clock) as Arc<dyn Clock>, Arc::new(SeededRandomness::new(1)))
    }

    fn wake(magic: &str, received_at: Timestamp, keep: u64) -> Wake {
        let expires_at = received_at.plus(Duration::from_secs(keep));
        Wake { topic: "t".to_owned(), magic: magic.to_owned(), expires_at, received_at }
    }

    #[tokio::test]
    async fn the_newest_wake_is_kept_until_it_expires() {
        let clock = Arc::new(ManualClock::new(Timestamp::from_seconds(1000)));
        let state = state(&clock);
        let token = state.register(None, None);
        state.accept(&token, wake("old", clock.now(), 60));
        state.accept(&token, wake("new", clock.now(), 60));
        assert_eq!(state.next_wake(&token, Duration::ZERO).await.unwrap().magic, "new");
        assert_eq!(state.next_wake(&token, Duration::ZERO).await, None);
        assert_eq!(state.taken(&token), 2, "the old one was taken, too");

        state.accept(&token, wake("late", clock.now(), 60));
        clock.advance(Duration::from_secs(61));
        assert_eq!(state.next_wake(&token, Duration::ZERO).await, None);
        state.accept(&token, wake("now or never", clock.now(), 0));
        assert_eq!(state.next_wake(&token, Duration::ZERO).await, None);
    }

    #[test]
    fn faults_are_used_up_in_order() {
        let state = state(&Arc::new(ManualClock::new(Timestamp::from_seconds(1000))));
        state.inject(Fault::times(2, FaultKind::InternalServerError));
        state.inject(Fault::once(FaultKind::GoAway).for_token(b"a"));
        assert_eq!(state.take_fault(b"b"), Some(FaultKind::InternalServerError));
        assert_eq!(state.take_fault(b"a"), Some(FaultKind::InternalServerError));
        assert_eq!(state.take_fault(b"b"), None);
        assert_eq!(state.take_fault(b"a"), Some(FaultKind::GoAway));
        assert_eq!(state.take_fault(b"a"), None);
    }
}
