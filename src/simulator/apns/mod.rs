//! A fake APNs: a TLS HTTP/2 server that checks what Apple's checks, answers in Apple's words, hands the wakes to
//! simulated devices, and misbehaves on request.
//!
//! In one process it is driven through [`FakeApns`]; other processes use its [control listener](control), plain HTTP on
//! loopback.
//!
//! Source: Apple, "Sending notification requests to APNs" and "Handling notification responses from APNs".

mod certificate;
pub mod control;
mod fault;
mod request;
mod server;
mod state;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use url::Url;

use crate::model::{Clock, Randomness, Timestamp};

pub use control::ControlClient;
pub use fault::{Fault, FaultKind};
pub use state::{Counters, Wake};

use certificate::ServerIdentity;
use state::State;

/// How the fake APNs is set up.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where to listen for pushes; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Where to listen for control, on loopback; none: no control listener.
    pub control: Option<SocketAddr>,
    /// Names in the server's certificate, beside `localhost` and the loopback addresses.
    pub names: Vec<String>,
    /// The certificate authorities (DER) that push certificates must come from; empty: any certificate that names a
    /// topic is taken.
    pub client_authorities: Vec<Vec<u8>>,
    /// HTTP/2's MAX_CONCURRENT_STREAMS.
    pub max_concurrent_streams: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0),
            control: None,
            names: Vec::new(),
            client_authorities: Vec::new(),
            max_concurrent_streams: 1000,
        }
    }
}

/// Why the fake APNs does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: std::io::Error,
    },
    /// Control is without protection, so only this machine may reach it.
    #[error("the control listener's address {0} is not a loopback address")]
    ControlNotLoopback(SocketAddr),
    /// A name for the certificate, or an authority of the clients, cannot be used.
    #[error("the certificates cannot be set up: {0}")]
    Certificates(String),
}

/// A running fake APNs. Clones are the same one; it stops when told to, or with the runtime.
#[derive(Clone)]
pub struct FakeApns {
    inner: Arc<Inner>,
}

struct Inner {
    state: Arc<State>,
    identity: ServerIdentity,
    address: SocketAddr,
    control: Option<SocketAddr>,
    control_stop: CancellationToken,
    running: Mutex<Running>,
}

#[derive(Clone)]
struct Running {
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// A simulated device's connection to APNs: what its token receives.
#[derive(Clone)]
pub struct Mailbox {
    state: Arc<State>,
    token: Vec<u8>,
}

impl FakeApns {
    /// Starts it: makes a certificate authority and a server certificate of its own, listens, serves.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start(
        options: Options,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Randomness>,
    ) -> Result<Self, StartError> {
        if let Some(address) = options.control.filter(|address| !address.ip().is_loopback()) {
            return Err(StartError::ControlNotLoopback(address));
        }
        let identity = ServerIdentity::make(&options, Arc::clone(&clock)).map_err(StartError::Certificates)?;
        let state = Arc::new(State::new(options.max_concurrent_streams, clock, random));
        let (listener, address) = listen(options.listen).await?;
        let running = Running { stop: CancellationToken::new(), tasks: TaskTracker::new() };
        let control_stop = CancellationToken::new();
        let control = match options.control {
            Some(wanted) => Some(listen(wanted).await?),
            None => None,
        };
        let control = control.map(|(listener, address)| {
            let app = control::router(Arc::clone(&state), identity.root_pem());
            let stop = control_stop.clone();
            tokio::spawn(async move {
                let served = axum::serve(listener, app).with_graceful_shutdown(stop.cancelled_owned()).await;
                if let Err(error) = served {
                    tracing::warn!(%error, "the control listener ended");
                }
            });
            address
        });
        server::spawn(listener, &identity, &state, running.stop.clone(), &running.tasks);
        let inner = Inner { state, identity, address, control, control_stop, running: Mutex::new(running) };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Where it listens for pushes.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.inner.address
    }

    /// The URL to give to a push client.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("https://{}", self.inner.address)
    }

    /// The URL of the control listener, if there is one.
    #[must_use]
    pub fn control_url(&self) -> Option<Url> {
        self.inner.control.and_then(|address| Url::parse(&format!("http://{address}")).ok())
    }

    /// The certificate authority that a push client must trust, as DER.
    #[must_use]
    pub fn root_der(&self) -> Vec<u8> {
        self.inner.identity.root_der()
    }

    /// The same as PEM.
    #[must_use]
    pub fn root_pem(&self) -> String {
        self.inner.identity.root_pem()
    }

    /// Gives out a new token, valid for `topic` alone, or for every topic if none is named.
    #[must_use]
    pub fn register(&self, topic: Option<&str>) -> Mailbox {
        self.mailbox(self.inner.state.register(topic, None))
    }

    /// Registers a token of the caller's choice; one that is gone becomes valid again.
    #[must_use]
    pub fn register_token(&self, token: &[u8], topic: Option<&str>) -> Mailbox {
        self.mailbox(self.inner.state.register(topic, Some(token)))
    }

    /// Hands a wake to a token's device directly, as if a push had come.
    pub fn deliver(&self, token: &[u8], magic: &str) {
        let now = self.inner.state.clock.now();
        let expires_at = now.plus(Duration::from_secs(24 * 60 * 60));
        let wake = Wake { topic: String::new(), magic: magic.to_owned(), expires_at, received_at: now };
        self.inner.state.accept(token, wake);
    }

    /// Makes a token invalid: pushes to it are answered 410 with the time `since`, now if none is given.
    pub fn unregister(&self, token: &[u8], since: Option<Timestamp>) {
        self.inner.state.unregister(token, since);
    }

    /// Appends to the script of faults.
    pub fn inject(&self, fault: Fault) {
        self.inner.state.inject(fault);
    }

    /// Empties the script of faults.
    pub fn clear_faults(&self) {
        self.inner.state.clear_faults();
    }

    /// What has happened so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.inner.state.counters()
    }

    /// Stops accepting and breaks off every connection, without a word. The control listener and the tokens stay.
    pub async fn stop(&self) {
        let running = self.inner.running.lock().unwrap_or_else(PoisonError::into_inner).clone();
        running.stop.cancel();
        running.tasks.close();
        running.tasks.wait().await;
    }

    /// After [`FakeApns::stop`]: listens again, on the same address and with the same certificate.
    ///
    /// # Errors
    /// [`StartError::Listen`] if the port was taken in the meantime.
    pub async fn resume(&self) -> Result<(), StartError> {
        let (listener, _) = listen(self.inner.address).await?;
        let running = Running { stop: CancellationToken::new(), tasks: TaskTracker::new() };
        server::spawn(listener, &self.inner.identity, &self.inner.state, running.stop.clone(), &running.tasks);
        *self.inner.running.lock().unwrap_or_else(PoisonError::into_inner) = running;
        Ok(())
    }

    /// Stops everything, the control listener too.
    pub async fn shut_down(&self) {
        self.inner.control_stop.cancel();
        self.stop().await;
    }

    fn mailbox(&self, token: Vec<u8>) -> Mailbox {
        Mailbox { state: Arc::clone(&self.inner.state), token }
    }
}

impl Mailbox {
    /// The push token.
    #[must_use]
    pub fn token(&self) -> &[u8] {
        &self.token
    }

    /// How many pushes have come for it, those too that a newer one took the place of.
    #[must_use]
    pub fn taken(&self) -> u64 {
        self.state.taken(&self.token)
    }

    /// The next wake, or the newest of those that came while nobody waited; none if none comes within `wait`.
    pub async fn next(&self, wait: Duration) -> Option<Wake> {
        self.state.next_wake(&self.token, wait).await
    }
}

async fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let failed = |source| StartError::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

#[cfg(test)]
mod tests;
