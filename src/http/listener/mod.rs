//! Accepts connections and serves HTTP/1.1 and HTTP/2 on them, with bounds on everything that a client could stretch.

mod connection;
mod stall;

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

pub use connection::Connection;

use super::address::neighborhood;
use super::tls::Tls;
use super::{Metrics, Proxies, Shutdown};
use crate::config::Devices;

/// The request line and all headers together. SCEP clients send request lines of 16 KiB and more.
const MAX_HEADER_BYTES: usize = 64 * 1024;
/// After an accept that failed for want of resources: the first wait, and the longest.
const BACKOFF: Duration = Duration::from_millis(50);
const MAX_BACKOFF: Duration = Duration::from_secs(1);

/// What a client may take of time and connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// For the TLS handshake.
    pub handshake_timeout: Duration,
    /// From the end of an answer (or of the handshake) to the end of the next request's header; so it is also how long an
    /// HTTP/1.1 connection is kept without a request.
    pub header_timeout: Duration,
    /// How long an HTTP/2 connection is kept without a request.
    pub idle_timeout: Duration,
    /// How long a client may read nothing of its answer.
    pub write_timeout: Duration,
    /// After this a connection is closed once its requests are answered.
    pub max_age: Duration,
    /// Connections at once; further ones wait in the system's queue.
    pub max_connections: usize,
    /// Connections at once from one address (IPv6: from one /64), trusted proxies aside; further ones are closed.
    pub max_connections_per_address: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            handshake_timeout: Duration::from_secs(10),
            header_timeout: Duration::from_secs(15),
            idle_timeout: Duration::from_secs(120),
            write_timeout: Duration::from_secs(60),
            max_age: Duration::from_secs(3600),
            max_connections: 20_000,
            max_connections_per_address: 5_000,
        }
    }
}

impl From<&Devices> for Limits {
    /// One address may have a quarter of the connections: a school behind one address fits, and one client alone cannot
    /// shut the others out.
    fn from(settings: &Devices) -> Self {
        let max_connections = usize::try_from(settings.max_connections).unwrap_or(usize::MAX);
        Self {
            handshake_timeout: settings.handshake_timeout,
            header_timeout: settings.header_timeout,
            max_connections,
            max_connections_per_address: max_connections.div_ceil(4),
            ..Self::default()
        }
    }
}

/// An address to listen on, and what is served there.
#[derive(Debug)]
pub struct Listener {
    /// For metrics and logs: `devices`, `pages` or `admin`.
    pub name: &'static str,
    /// Bound already, so that a test knows the port and a fault shows before anything starts.
    pub socket: TcpListener,
    /// Plain HTTP without it.
    pub tls: Option<Arc<Tls>>,
    /// The routes.
    pub app: Router,
    /// What a client may take.
    pub limits: Limits,
    /// Whose number of connections is not limited.
    pub proxies: Proxies,
}

/// Serves until `shutdown`: then accepts nothing more, finishes the requests in flight and returns; when the shutdown
/// becomes an abort it drops what is left. Returns how many connections were dropped.
pub async fn serve(listeners: Vec<Listener>, shutdown: Shutdown, metrics: Metrics) -> usize {
    let aborted = Arc::new(AtomicUsize::new(0));
    let tasks = TaskTracker::new();
    for Listener { name, socket, tls, app, limits, proxies } in listeners {
        let listening = Arc::new(Listening {
            name,
            tls,
            app,
            limits,
            proxies,
            tasks: tasks.clone(),
            shutdown: shutdown.clone(),
            metrics: metrics.clone(),
            aborted: Arc::clone(&aborted),
            addresses: Mutex::default(),
        });
        tasks.spawn(accept_all(socket, listening));
    }
    shutdown.stopping().cancelled().await;
    tasks.close();
    tasks.wait().await;
    aborted.load(Ordering::Relaxed)
}

/// A listener at work.
struct Listening {
    name: &'static str,
    tls: Option<Arc<Tls>>,
    app: Router,
    limits: Limits,
    proxies: Proxies,
    tasks: TaskTracker,
    shutdown: Shutdown,
    metrics: Metrics,
    aborted: Arc<AtomicUsize>,
    /// Open connections by address.
    addresses: Mutex<HashMap<IpAddr, usize>>,
}

impl Listening {
    /// Counts a connection from `peer`; none if there are enough.
    fn place_for(self: &Arc<Self>, peer: IpAddr) -> Option<Place> {
        if self.proxies.trust(peer) {
            return Some(Place { listening: Arc::clone(self), address: None });
        }
        let address = neighborhood(peer);
        let mut addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        let open = addresses.entry(address).or_default();
        if *open >= self.limits.max_connections_per_address {
            return None;
        }
        *open += 1;
        Some(Place { listening: Arc::clone(self), address: Some(address) })
    }
}

/// One of the connections that an address may have.
struct Place {
    listening: Arc<Listening>,
    address: Option<IpAddr>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some(address) = self.address else {
            return;
        };
        let mut addresses = self.listening.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = addresses.get_mut(&address) {
            *open = open.saturating_sub(1);
            if *open == 0 {
                addresses.remove(&address);
            }
        }
    }
}

/// Where connections come from; a trait so that a test can let it fail.
trait Accept: Send + 'static {
    fn accept(&mut self) -> impl Future<Output = io::Result<(TcpStream, SocketAddr)>> + Send;
}

impl Accept for TcpListener {
    async fn accept(&mut self) -> io::Result<(TcpStream, SocketAddr)> {
        TcpListener::accept(self).await
    }
}

async fn accept_all(mut socket: impl Accept, listening: Arc<Listening>) {
    let stop = listening.shutdown.stopping().clone();
    let places = Arc::new(Semaphore::new(listening.limits.max_connections.min(Semaphore::MAX_PERMITS)));
    let mut backoff = BACKOFF;
    loop {
        let next = async {
            // A semaphore that is never closed always gives a permit.
            let permit = Arc::clone(&places).acquire_owned().await.ok();
            (permit, socket.accept().await)
        };
        let Some((permit, accepted)) = stop.run_until_cancelled(next).await else {
            return;
        };
        match accepted {
            Ok((stream, peer)) => {
                backoff = BACKOFF;
                let Some(place) = listening.place_for(peer.ip()) else {
                    listening.metrics.connection_refused(listening.name, "crowded");
                    continue;
                };
                let open = listening.metrics.connection_opened(listening.name);
                let connection = connection::run(stream, peer, Arc::clone(&listening));
                listening.tasks.spawn(async move {
                    connection.await;
                    drop((permit, place, open));
                });
            }
            Err(why) if concerns_one_connection(&why) => {
                listening.metrics.connection_refused(listening.name, "closed");
            }
            Err(why) => {
                // Most likely no file descriptor or no memory is left: trying again at once would only burn the
                // processor that the open connections need to end.
                listening.metrics.connection_refused(listening.name, "system");
                if backoff == BACKOFF {
                    tracing::error!(listener = listening.name, %why, "connections cannot be accepted; trying again");
                }
                if stop.run_until_cancelled(tokio::time::sleep(backoff)).await.is_none() {
                    return;
                }
                backoff = (backoff * 2).min(MAX_BACKOFF);
            }
        }
    }
}

/// Whether the error is that of the connection which would have been accepted, and the next may be fine.
fn concerns_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::TimedOut
    )
}

#[cfg(test)]
mod tests;
