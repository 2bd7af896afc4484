use std::error::Error;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::poll_fn;
use http::Request;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::answer::Answer;

/// The largest body of an answer that is read; Apple's are under 100 bytes.
const MAX_BODY: usize = 16 * 1024;

/// The most pushes in flight over one connection, where the peer allows more or has not said yet.
const MAX_IN_FLIGHT: usize = 1000;

/// How often an unused connection is probed, so that one that a firewall has forgotten is replaced before it is needed.
const PING_INTERVAL: Duration = Duration::from_secs(60);

/// How long a probe may stay without an answer.
const PING_TIME_OUT: Duration = Duration::from_secs(20);

/// How much is read in search of the alert after a failed write, in steps of 1 KiB.
const READS_FOR_ALERT: usize = 64;

/// Where to connect to.
#[derive(Clone, Debug)]
pub(super) struct Target {
    /// A host name or an address, without brackets.
    pub(super) address: String,
    pub(super) port: u16,
    pub(super) name: ServerName<'static>,
    /// For `:authority`.
    pub(super) authority: String,
}

/// Why a request got no answer.
#[derive(Debug)]
pub(super) enum Failure {
    /// The connection broke, or was closed by the peer: another one may do.
    Broken(Arc<str>),
    /// No answer in time.
    TooSlow,
}

/// One HTTP/2 connection.
#[derive(Debug)]
pub(super) struct Connection {
    sender: SendRequest<Full<Bytes>>,
    /// Closed when the connection ended, or when nothing new should be sent over it.
    gate: Arc<Gate>,
    /// The error that ended the connection; the HTTP layer tells its requests only *that* it ended.
    ended_by: Arc<OnceLock<String>>,
}

impl Connection {
    /// Connects: TCP, TLS, HTTP/2, all within `limit`.
    pub(super) async fn open(target: Target, config: ClientConfig, limit: Duration) -> Result<Self, Arc<str>> {
        let what = format!("{} port {}", target.address, target.port);
        match timeout(limit, Self::establish(target, config)).await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(error)) => Err(Arc::from(format!("{what}: {}", chain(error.as_ref())))),
            Err(_) => Err(Arc::from(format!("{what}: no connection within {} seconds", limit.as_secs_f32()))),
        }
    }

    async fn establish(target: Target, config: ClientConfig) -> Result<Self, Box<dyn Error + Send + Sync>> {
        let tcp = TcpStream::connect((target.address.as_str(), target.port)).await?;
        // Pushes are small: with Nagle's algorithm each would wait for the acknowledgement of the one before.
        tcp.set_nodelay(true)?;
        let tls = TlsConnector::from(Arc::new(config)).connect(target.name, tcp).await?;
        if tls.get_ref().1.alpn_protocol() != Some(b"h2") {
            return Err("the server does not speak HTTP/2".into());
        }
        let ended_by = Arc::new(OnceLock::new());
        let io = Recorded { io: tls, error: Arc::clone(&ended_by) };
        let (sender, mut driver) = Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            // One until the peer has said how many it takes: what exceeds its limit would be refused.
            .initial_max_send_streams(1)
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIME_OUT)
            .keep_alive_while_idle(true)
            .handshake(TokioIo::new(io))
            .await?;
        let gate = Arc::new(Gate::default());
        gate.limit.store(driver.current_max_send_streams().clamp(1, MAX_IN_FLIGHT), Ordering::SeqCst);
        let door = Arc::clone(&gate);
        tokio::spawn(async move {
            let ended = poll_fn(|context| {
                let progress = Pin::new(&mut driver).poll(context);
                door.set_limit(driver.current_max_send_streams());
                progress
            })
            .await;
            if let Err(error) = ended {
                tracing::debug!(error = chain(&error), "the connection to the push service ended");
            }
            door.close();
        });
        Ok(Self { sender, gate, ended_by })
    }

    /// Whether new requests may be sent over it.
    pub(super) fn is_usable(&self) -> bool {
        !self.sender.is_closed() && !self.gate.is_closed()
    }

    /// Sends a request as soon as the peer's limit on streams allows, and waits `limit` for the answer from then on.
    pub(super) async fn send(&self, request: Request<Full<Bytes>>, limit: Duration) -> Result<Answer, Failure> {
        let Some(_pass) = self.gate.enter().await else {
            return Err(Failure::Broken(self.reason("the connection was closed")));
        };
        match timeout(limit, self.exchange(request)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => {
                // GOAWAY, most likely: those in flight may still be answered, but nothing new should be sent here.
                self.gate.close();
                Err(Failure::Broken(self.reason(&chain(&error))))
            }
            Err(_) => {
                // The connection may be dead without a word.
                self.gate.close();
                Err(Failure::TooSlow)
            }
        }
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<Answer, hyper::Error> {
        let response = self.sender.clone().send_request(request).await?;
        let (head, body) = response.into_parts();
        // The status has come, which is what counts: a body that is too long or breaks off does not make it undone.
        let body = Limited::new(body, MAX_BODY).collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        Ok(Answer { status: head.status, headers: head.headers, body })
    }

    fn reason(&self, fallback: &str) -> Arc<str> {
        Arc::from(self.ended_by.get().map_or(fallback, String::as_str))
    }
}

/// Lets as many requests pass at a time as the peer takes (MAX_CONCURRENT_STREAMS), so that the others wait here, where
/// the wait does not count as slowness of the peer. (HTTP/2 keeps the limit in any case.)
#[derive(Debug, Default)]
struct Gate {
    limit: AtomicUsize,
    inside: AtomicUsize,
    closed: AtomicBool,
    changed: Notify,
}

struct Pass<'a>(&'a Gate);

impl Gate {
    /// Waits for a place; none when the connection ended.
    async fn enter(&self) -> Option<Pass<'_>> {
        loop {
            // Registered before looking, so that a change in between is not missed.
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.is_closed() {
                return None;
            }
            let limit = self.limit.load(Ordering::SeqCst);
            let place = |inside| (inside < limit).then_some(inside + 1);
            if self.inside.fetch_update(Ordering::SeqCst, Ordering::SeqCst, place).is_ok() {
                return Some(Pass(self));
            }
            changed.await;
        }
    }

    fn set_limit(&self, limit: usize) {
        let limit = limit.clamp(1, MAX_IN_FLIGHT);
        if self.limit.swap(limit, Ordering::SeqCst) < limit {
            self.changed.notify_waiters();
        }
    }

    fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.changed.notify_waiters();
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        self.0.inside.fetch_sub(1, Ordering::SeqCst);
        self.0.changed.notify_one();
    }
}

/// A stream that remembers the error that ended it. In TLS 1.3 the refusal of a client certificate arrives after the
/// handshake, as an error of the first read: without this the admin would learn "connection closed" and not why.
struct Recorded<T> {
    io: T,
    error: Arc<OnceLock<String>>,
}

impl<T: AsyncRead + Unpin> Recorded<T> {
    /// A write that fails because the peer has hung up is not the cause: the TLS alert that the peer sent before is. So
    /// a failed write fails only when the alert, or the end of the stream, has been read.
    fn find_cause<R>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<R>>) -> Poll<io::Result<R>> {
        let Poll::Ready(Err(error)) = written else { return written };
        let mut scratch = [0; 1024];
        for _ in 0..READS_FOR_ALERT {
            let mut buffer = ReadBuf::new(&mut scratch);
            match Pin::new(&mut self.io).poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => (),
                Poll::Ready(Ok(())) => break,
                Poll::Ready(Err(cause)) => {
                    let _ = self.error.set(cause.to_string());
                    break;
                }
                Poll::Pending => return Poll::Pending,
            }
        }
        let _ = self.error.set(error.to_string());
        Poll::Ready(Err(error))
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Recorded<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.io).poll_read(cx, buffer);
        if let Poll::Ready(Err(error)) = &read {
            let _ = self.error.set(error.to_string());
        }
        read
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Recorded<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(cx, bytes);
        self.find_cause(cx, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.io).poll_flush(cx);
        self.find_cause(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// An error and what caused it, in one line.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}
