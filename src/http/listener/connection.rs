use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::Service;

use super::stall::StallGuard;
use super::{Limits, Listening, MAX_HEADER_BYTES};
use crate::pki::PeerCertificate;

/// How long a connection that has not sent its first request yet may stay when the server stops.
const FIRST_REQUEST_AT_STOP: Duration = Duration::from_secs(1);
/// How long a connection that has reached its age may take to finish.
const AGED_GRACE: Duration = Duration::from_secs(600);
/// HTTP/2: how many requests one connection may have open.
const MAX_STREAMS: u32 = 128;
/// HTTP/2: how often a silent peer is asked whether it is there, and how long it may take to say so.
const PING_EVERY: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// What is known of the connection that a request came by. In the request's extensions as `Arc<Connection>`.
#[derive(Debug)]
pub struct Connection {
    /// Which listener accepted it.
    pub listener: &'static str,
    /// The other end: the client, or the proxy before it.
    pub peer: SocketAddr,
    /// Whether it is encrypted up to this process.
    pub tls: bool,
    /// The host name that the client asked for in the handshake.
    pub server_name: Option<String>,
    /// The certificate whose key the peer has proven to have.
    pub certificate: Option<Arc<PeerCertificate>>,
}

impl Connection {
    /// An unencrypted connection from `peer`: for requests that come through no listener.
    #[must_use]
    pub const fn plain(listener: &'static str, peer: SocketAddr) -> Self {
        Self { listener, peer, tls: false, server_name: None, certificate: None }
    }

    /// The connection of a request; none where the request did not come through a listener.
    #[must_use]
    pub fn of(extensions: &http::Extensions) -> Option<&Arc<Self>> {
        extensions.get()
    }
}

/// Serves one connection to its end.
pub(super) async fn run(socket: TcpStream, peer: SocketAddr, listening: Arc<Listening>) {
    let shutdown = listening.shutdown.clone();
    // A stop lets a started request finish, not a handshake.
    let opened = shutdown.stopping().run_until_cancelled(open(socket, peer, &listening)).await;
    match opened {
        Some(Ok(opened)) => {
            let served = serve(opened, &listening);
            if shutdown.aborting().run_until_cancelled(served).await.is_none() {
                listening.aborted.fetch_add(1, Ordering::Relaxed);
            }
        }
        Some(Err(refusal)) => listening.metrics.connection_refused(listening.name, refusal),
        None => {}
    }
}

/// A connection whose first bytes can be read as HTTP.
struct Opened {
    io: Box<dyn Stream>,
    version: Version,
    connection: Connection,
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

#[derive(Clone, Copy, PartialEq)]
enum Version {
    Http1,
    Http2,
}

/// Does the handshake, where there is one, and finds the version of HTTP. The error is a reason for the metrics.
async fn open(socket: TcpStream, peer: SocketAddr, listening: &Listening) -> Result<Opened, &'static str> {
    // Small answers must not wait for the peer's acknowledgement of earlier ones.
    let _ = socket.set_nodelay(true);
    let limits = &listening.limits;
    let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
    let mut connection = Connection::plain(listening.name, peer);
    let Some(tls) = &listening.tls else {
        let version =
            timeout(limits.header_timeout, sniff(&socket)).await.map_err(|_| "slow")?.map_err(|_| "closed")?;
        return Ok(Opened { io: Box::new(StallGuard::new(socket, limits.write_timeout)), version, connection });
    };
    let handshake = tls.accept(StallGuard::new(socket, limits.write_timeout));
    let stream = match timeout(limits.handshake_timeout, handshake).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(why)) => {
            tracing::debug!(%peer, %why, "a TLS handshake failed");
            return Err("tls");
        }
        Err(_) => return Err("slow"),
    };
    let session = stream.get_ref().1;
    let version = if session.alpn_protocol() == Some(b"h2") { Version::Http2 } else { Version::Http1 };
    connection.tls = true;
    connection.server_name = session.server_name().map(str::to_owned);
    connection.certificate = session.peer_certificates().and_then(|certificates| {
        let (leaf, chain) = certificates.split_first()?;
        let chain = chain.iter().map(|certificate| certificate.to_vec()).collect();
        Some(Arc::new(PeerCertificate::new(leaf.to_vec(), chain)))
    });
    Ok(Opened { io: Box::new(stream), version, connection })
}

/// Tells HTTP/2 with prior knowledge from HTTP/1.1 by the first two bytes: no method that is used here begins with `PR`.
async fn sniff(socket: &TcpStream) -> io::Result<Version> {
    let mut first = [0; 2];
    match socket.peek(&mut first).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ if first == *b"PR" => Ok(Version::Http2),
        _ => Ok(Version::Http1),
    }
}

/// Counts the requests of one connection.
#[derive(Default)]
struct Requests {
    started: AtomicUsize,
    running: AtomicUsize,
}

struct RunningRequest(Arc<Requests>);

impl RunningRequest {
    fn begin(requests: &Arc<Requests>) -> Self {
        requests.started.fetch_add(1, Ordering::Relaxed);
        requests.running.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(requests))
    }
}

impl Drop for RunningRequest {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn serve(opened: Opened, listening: &Listening) {
    let Opened { io, version, connection } = opened;
    let connection = Arc::new(connection);
    let requests = Arc::new(Requests::default());
    let service = service_fn(|request| answer(request, listening.app.clone(), &connection, &requests));
    let builder = builder(version, connection.peer, listening);
    let http = builder.serve_connection(TokioIo::new(io), service);
    tokio::pin!(http);

    let limits = &listening.limits;
    let stop = listening.shutdown.stopping();
    let mut stopping = false;
    let mut aged_at = Instant::now() + limits.max_age;
    let mut aged = false;
    let mut idle = IdleCheck::new(version, limits);
    let mut cut_at = None;
    loop {
        tokio::select! {
            result = http.as_mut() => {
                if let Err(why) = result {
                    tracing::debug!(peer = %connection.peer, %why, "a connection ended early");
                }
                return;
            }
            () = stop.cancelled(), if !stopping => {
                stopping = true;
                http.as_mut().graceful_shutdown();
                if requests.started.load(Ordering::Relaxed) == 0 {
                    cut_at = Some(Instant::now() + FIRST_REQUEST_AT_STOP);
                }
            }
            () = at(cut_at) => {
                if requests.started.load(Ordering::Relaxed) == 0 {
                    return;
                }
                cut_at = None;
            }
            () = sleep_until(aged_at) => {
                if aged {
                    return;
                }
                aged = true;
                aged_at = Instant::now() + AGED_GRACE;
                http.as_mut().graceful_shutdown();
            }
            () = at(idle.next) => match idle.look(&requests) {
                Verdict::Busy => {}
                Verdict::Idle => http.as_mut().graceful_shutdown(),
                Verdict::NeverUsed => return,
            },
        }
    }
}

/// Passes a request to the application. The error type says that there is always an answer.
fn answer(
    request: Request<Incoming>,
    mut app: Router,
    connection: &Arc<Connection>,
    requests: &Arc<Requests>,
) -> impl Future<Output = Result<http::Response<Body>, Infallible>> + Send + use<> {
    let running = RunningRequest::begin(requests);
    let mut request = request.map(Body::new);
    request.extensions_mut().insert(Arc::clone(connection));
    let answer = app.call(request);
    async move {
        let answer = answer.await;
        drop(running);
        answer
    }
}

fn builder(version: Version, peer: SocketAddr, listening: &Listening) -> auto::Builder<Tracked> {
    let limits = &listening.limits;
    // A proxy keeps connections for its next request; one that is closed as the request is sent becomes its 502.
    let header_timeout = if listening.proxies.trust(peer.ip()) {
        limits.header_timeout.max(limits.idle_timeout)
    } else {
        limits.header_timeout
    };
    let executor = Tracked { tasks: listening.tasks.clone(), abort: listening.shutdown.aborting().clone() };
    let builder = auto::Builder::new(executor);
    let mut builder = match version {
        Version::Http1 => builder.http1_only(),
        Version::Http2 => builder.http2_only(),
    };
    builder.http1().timer(TokioTimer::new()).header_read_timeout(header_timeout).max_buf_size(MAX_HEADER_BYTES);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(u32::try_from(MAX_HEADER_BYTES).unwrap_or(u32::MAX))
        .max_concurrent_streams(MAX_STREAMS)
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_TIMEOUT);
    builder
}

/// Runs the requests of an HTTP/2 connection so that the end of the server waits for them, or drops them.
#[derive(Clone)]
struct Tracked {
    tasks: TaskTracker,
    abort: CancellationToken,
}

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Tracked {
    fn execute(&self, future: F) {
        let abort = self.abort.clone();
        self.tasks.spawn(async move {
            let _ = abort.run_until_cancelled(future).await;
        });
    }
}

enum Verdict {
    Busy,
    Idle,
    NeverUsed,
}

/// Finds HTTP/2 connections on which nothing is asked any more. HTTP/1.1 has the time-out for headers, which runs
/// between requests too.
struct IdleCheck {
    every: Duration,
    next: Option<Instant>,
    started_before: usize,
}

impl IdleCheck {
    fn new(version: Version, limits: &Limits) -> Self {
        let every = limits.idle_timeout;
        let next = (version == Version::Http2).then(|| Instant::now() + every);
        Self { every, next, started_before: 0 }
    }

    fn look(&mut self, requests: &Requests) -> Verdict {
        self.next = Some(Instant::now() + self.every);
        let started = requests.started.load(Ordering::Relaxed);
        if requests.running.load(Ordering::Relaxed) > 0 || started != self.started_before {
            self.started_before = started;
            return Verdict::Busy;
        }
        if started == 0 { Verdict::NeverUsed } else { Verdict::Idle }
    }
}

/// Waits until then, or for ever.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}
