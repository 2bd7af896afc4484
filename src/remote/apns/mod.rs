//! Apple Push Notification service: wakes a device, so that it asks for its commands.
//!
//! [`Pusher`] is the seam; [`ApnsClient`] speaks HTTP/2 to Apple or to whatever endpoint the settings name. It sends one
//! push and says what became of it; when to push, and what to do about a failure, is the caller's affair. `a2` lends
//! the vocabulary (header values, error reasons); the transport is our own, since endpoint, roots and TCP_NODELAY
//! must be ours to set.
//!
//! Source: Apple, "Sending notification requests to APNs" and "Handling notification responses from APNs".

mod answer;
mod connection;
mod identity;
mod unlock;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use a2::{Priority, PushType};
use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use http::{Method, Request};
use http_body_util::Full;
use rustls::RootCertStore;
use rustls_pki_types::{CertificateDer, ServerName};
use url::{Host, Url};

use crate::model::{Clock, Sha256, Timestamp};

pub use answer::explain;
pub(super) use answer::retry_after;
pub use identity::ApnsIdentity;
pub use unlock::{Unlock, UnlockAnswer};

use connection::{Connection, Failure, Target};

/// Apple's own endpoint.
pub const APPLE_ENDPOINT: &str = "https://api.push.apple.com";

/// How often one push is sent when its connection breaks under it. A push is a wake-up without content, of which APNs
/// keeps the newest one: sending it twice does no harm, losing it does.
const ATTEMPTS: usize = 3;

/// A wake-up for one enrollment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Push {
    /// The device's push token, as it came in TokenUpdate.
    pub token: Vec<u8>,
    /// The PushMagic of that TokenUpdate; the device ignores a push with another one.
    pub magic: String,
    /// Until when APNs keeps the push for a device that it cannot reach.
    pub expires_at: Timestamp,
}

/// What became of a push.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PushOutcome {
    /// APNs took it (which does not mean that the device got it).
    Accepted {
        /// APNs' own id of the push, for asking Apple about it.
        apns_id: Option<String>,
    },
    /// APNs will not take this push, however often it is sent.
    Refused {
        /// The HTTP status: 400, 403, 410, 413, …
        status: u16,
        /// Apple's word, such as `BadDeviceToken`, or the beginning of whatever came instead.
        reason: String,
        /// With 410: when APNs last saw the token to be invalid. It counts only when the stored token is older.
        at: Option<Timestamp>,
    },
    /// APNs is busy or broken (429, 5xx): send it again later.
    Later {
        /// How long to wait at least, where APNs said so.
        after: Option<Duration>,
        /// Apple's word, or the beginning of whatever came instead.
        reason: String,
    },
    /// There was no answer: no connection, TLS refused, broken off, or too slow. Send it again later.
    Unreachable {
        /// What went wrong, for the admin.
        reason: String,
    },
}

/// Something that can send pushes.
pub trait Pusher: Send + Sync + 'static {
    /// Sends one push under `identity` and waits for the answer, for a bounded time.
    fn push<'a>(&'a self, identity: &'a ApnsIdentity, push: &'a Push) -> BoxFuture<'a, PushOutcome>;

    /// Has Apple lift a device's activation lock, under `identity`, within a bounded time. The error says what went wrong.
    fn unlock<'a>(
        &'a self,
        _identity: &'a ApnsIdentity,
        _unlock: &'a Unlock,
    ) -> BoxFuture<'a, Result<UnlockAnswer, String>> {
        std::future::ready(Err("this push service lifts no activation lock".to_owned())).boxed()
    }
}

/// Which certificate authorities the endpoint's certificate may come from.
#[derive(Clone, Debug)]
pub enum Roots {
    /// The public ones (Mozilla's list), which hold those of Apple's servers.
    Public,
    /// Only these, as DER.
    Only(Vec<Vec<u8>>),
}

/// How long to wait for what.
#[derive(Clone, Copy, Debug)]
pub struct TimeOuts {
    /// For TCP, TLS and HTTP/2 to be established.
    pub connect: Duration,
    /// For the answer to a push that was sent.
    pub answer: Duration,
}

impl Default for TimeOuts {
    fn default() -> Self {
        Self { connect: Duration::from_secs(10), answer: Duration::from_secs(20) }
    }
}

/// Why a client cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ApnsError {
    /// The endpoint is no https URL of a host.
    #[error("{0} is no endpoint for push notifications; expected https://HOST[:PORT]")]
    Endpoint(Url),
    /// A root certificate cannot be used.
    #[error("root certificate {number} of the push endpoint cannot be used: {reason}")]
    Root {
        /// Which one, counted from 1.
        number: usize,
        /// What is wrong with it.
        reason: String,
    },
}

/// The client: one HTTP/2 connection for each topic, made when needed, kept, and replaced when it breaks, when APNs
/// says GOAWAY, or when the certificate changes.
pub struct ApnsClient {
    target: Target,
    roots: Arc<RootCertStore>,
    clock: Arc<dyn Clock>,
    time_outs: TimeOuts,
    /// By topic.
    slots: Mutex<HashMap<String, Slot>>,
}

struct Slot {
    fingerprint: Sha256,
    attempt: Attempt,
}

/// A connection in the making, or made, or failed: all who need it wait for the same attempt.
type Attempt = Shared<BoxFuture<'static, Result<Arc<Connection>, Arc<str>>>>;

impl ApnsClient {
    /// A client for `endpoint`, an https URL; its path is ignored. Connects when the first push is sent. The clock
    /// judges the endpoint's certificate.
    ///
    /// # Errors
    /// [`ApnsError`], when endpoint or roots cannot be used.
    pub fn new(endpoint: &Url, roots: &Roots, clock: Arc<dyn Clock>) -> Result<Self, ApnsError> {
        Ok(Self {
            target: target(endpoint)?,
            roots: Arc::new(root_store(roots)?),
            clock,
            time_outs: TimeOuts::default(),
            slots: Mutex::new(HashMap::new()),
        })
    }

    /// The same with other time-outs.
    #[must_use]
    pub fn with_time_outs(mut self, time_outs: TimeOuts) -> Self {
        self.time_outs = time_outs;
        self
    }

    async fn send(&self, identity: &ApnsIdentity, push: &Push) -> PushOutcome {
        let mut reason: Arc<str> = Arc::from("");
        for _ in 0..ATTEMPTS {
            let connection = match self.connection(identity).await {
                Ok(connection) => connection,
                Err(reason) => return PushOutcome::Unreachable { reason: reason.to_string() },
            };
            let request = match self.request(identity, push) {
                Ok(request) => request,
                Err(error) => return PushOutcome::Refused { status: 400, reason: error.to_string(), at: None },
            };
            match connection.send(request, self.time_outs.answer).await {
                Ok(answer) => return answer::outcome(&answer, self.clock.now()),
                Err(Failure::Broken(why)) => reason = why,
                Err(Failure::TooSlow) => {
                    let seconds = self.time_outs.answer.as_secs_f32();
                    return PushOutcome::Unreachable { reason: format!("no answer within {seconds} seconds") };
                }
            }
        }
        PushOutcome::Unreachable { reason: reason.to_string() }
    }

    /// The connection for the identity's topic: the one there is while it is usable, else a new one.
    async fn connection(&self, identity: &ApnsIdentity) -> Result<Arc<Connection>, Arc<str>> {
        let attempt = {
            let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
            match slots.get(identity.topic()) {
                Some(slot) if slot.fingerprint == identity.fingerprint() && is_usable(&slot.attempt) => {
                    slot.attempt.clone()
                }
                _ => {
                    let attempt = self.connect(identity);
                    let slot = Slot { fingerprint: identity.fingerprint(), attempt: attempt.clone() };
                    slots.insert(identity.topic().to_owned(), slot);
                    attempt
                }
            }
        };
        attempt.await
    }

    /// Starts a connection. It is a task of its own, so that it goes on when the push that began it is given up.
    fn connect(&self, identity: &ApnsIdentity) -> Attempt {
        let connecting = identity
            .tls_config(&self.roots, &self.clock)
            .map(|config| Connection::open(self.target.clone(), config, self.time_outs.connect));
        let task = tokio::spawn(async move {
            match connecting {
                Ok(connecting) => connecting.await.map(Arc::new),
                Err(reason) => Err(Arc::from(reason)),
            }
        });
        async move { task.await.unwrap_or_else(|error| Err(Arc::from(error.to_string()))) }.boxed().shared()
    }

    fn request(&self, identity: &ApnsIdentity, push: &Push) -> Result<Request<Full<Bytes>>, http::Error> {
        let body = serde_json::json!({ "mdm": push.magic }).to_string();
        Request::builder()
            .method(Method::POST)
            .uri(format!("https://{}/3/device/{}", self.target.authority, hex::encode(&push.token)))
            .header("apns-topic", identity.topic())
            .header("apns-push-type", PushType::Mdm.to_string())
            .header("apns-priority", Priority::High.to_string())
            .header("apns-expiration", push.expires_at.seconds().max(0))
            .body(Full::new(Bytes::from(body)))
    }
}

impl Pusher for ApnsClient {
    fn push<'a>(&'a self, identity: &'a ApnsIdentity, push: &'a Push) -> BoxFuture<'a, PushOutcome> {
        self.send(identity, push).boxed()
    }

    fn unlock<'a>(
        &'a self,
        identity: &'a ApnsIdentity,
        unlock: &'a Unlock,
    ) -> BoxFuture<'a, Result<UnlockAnswer, String>> {
        async move {
            let config = identity.tls_config(&self.roots, &self.clock)?;
            unlock::send(config, unlock, self.time_outs).await
        }
        .boxed()
    }
}

impl fmt::Debug for ApnsClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApnsClient").field("target", &self.target.authority).finish_non_exhaustive()
    }
}

fn is_usable(attempt: &Attempt) -> bool {
    match attempt.peek() {
        None => true,
        Some(Ok(connection)) => connection.is_usable(),
        Some(Err(_)) => false,
    }
}

fn target(endpoint: &Url) -> Result<Target, ApnsError> {
    let wrong = || ApnsError::Endpoint(endpoint.clone());
    let port = endpoint.port_or_known_default().ok_or_else(wrong)?;
    let (address, name) = match endpoint.host() {
        Some(Host::Domain(name)) => (name.to_owned(), ServerName::try_from(name.to_owned()).map_err(|_| wrong())?),
        Some(Host::Ipv4(address)) => (address.to_string(), ServerName::from(std::net::IpAddr::V4(address))),
        Some(Host::Ipv6(address)) => (address.to_string(), ServerName::from(std::net::IpAddr::V6(address))),
        None => return Err(wrong()),
    };
    if endpoint.scheme() != "https" || !endpoint.username().is_empty() || endpoint.password().is_some() {
        return Err(wrong());
    }
    let authority = endpoint.authority().to_owned();
    Ok(Target { address, port, name, authority })
}

fn root_store(roots: &Roots) -> Result<RootCertStore, ApnsError> {
    let mut store = RootCertStore::empty();
    match roots {
        Roots::Public => store.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
        Roots::Only(certificates) => {
            for (number, der) in (1..).zip(certificates) {
                store
                    .add(CertificateDer::from(der.clone()))
                    .map_err(|error| ApnsError::Root { number, reason: error.to_string() })?;
            }
        }
    }
    Ok(store)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ManualClock;

    fn client(endpoint: &str, roots: &Roots) -> Result<ApnsClient, ApnsError> {
        let clock = Arc::new(ManualClock::new(Timestamp::from_seconds(1_800_000_000)));
        ApnsClient::new(&endpoint.parse().unwrap(), roots, clock)
    }

    #[test]
    fn endpoints_are_https_urls_of_a_host() {
        for good in [APPLE_ENDPOINT, "https://127.0.0.1:2197", "https://[::1]:443/"] {
            client(good, &Roots::Public).unwrap();
        }
        for bad in ["http://api.push.apple.com", "mailto:a@example.org", "https://user@example.org"] {
            assert!(client(bad, &Roots::Public).unwrap_err().to_string().contains("expected https://"), "{bad}");
        }
        assert_eq!(client("https://[::1]:8443", &Roots::Public).unwrap().target.authority, "[::1]:8443");
        assert_eq!(client(APPLE_ENDPOINT, &Roots::Public).unwrap().target.port, 443);
    }

    #[test]
    fn a_root_that_is_no_certificate_is_named() {
        let error = client(APPLE_ENDPOINT, &Roots::Only(vec![b"nothing".to_vec()])).unwrap_err();
        assert!(error.to_string().starts_with("root certificate 1 "), "{error}");
    }
}
