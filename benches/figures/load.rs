//! The devices of the idle poll: keep-alive connections that ask again as soon as they have an answer.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsConnector;

use crate::Result;
use crate::process::Process;

/// Connections at once.
pub const CONNECTIONS: usize = 64;
/// No server takes as long as this to answer all devices once.
const WARM_UP: Duration = Duration::from_secs(180);
/// No server takes as long as this for one answer.
const ANSWER: Duration = Duration::from_secs(30);

/// A message, ready to be sent again and again.
#[derive(Clone)]
pub struct Call {
    headers: HeaderMap,
    body: Bytes,
}

impl Call {
    /// A report with this body, and one more header.
    pub fn report(body: Bytes, more: Option<(&'static str, String)>) -> Result<Self> {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, HeaderValue::from_static("localhost"));
        headers.insert(USER_AGENT, HeaderValue::from_static("MDM/1.0"));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-apple-aspen-mdm; charset=UTF-8"));
        if let Some((name, value)) = more {
            headers.insert(name, HeaderValue::try_from(value)?);
        }
        Ok(Self { headers, body })
    }
}

/// Who asks, and how.
#[derive(Clone)]
pub struct Crowd {
    /// One message of each device.
    pub calls: Arc<[Call]>,
    /// With mutual TLS a connection is one device's: these are the first devices' settings. Without, each connection
    /// carries whichever device comes next, as those of a proxy do.
    pub tls: Option<Arc<[Arc<ClientConfig>]>>,
}

/// What a server did in a while.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    pub requests: usize,
    pub cpu: Duration,
    pub wall: Duration,
}

impl Sample {
    /// Processor time of the server for one request, microseconds.
    pub fn cpu_micros(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / count(self.requests)
    }

    /// Requests in a second.
    pub fn rate(&self) -> f64 {
        count(self.requests) / self.wall.as_secs_f64()
    }
}

fn count(requests: usize) -> f64 {
    f64::from(u32::try_from(requests).unwrap_or(u32::MAX)).max(1.0)
}

struct Drive {
    crowd: Crowd,
    address: SocketAddr,
    asked: AtomicUsize,
    answered: AtomicUsize,
    stop: AtomicBool,
    fault: Mutex<Option<String>>,
}

/// Lets the crowd ask until every device had an answer (the first sample), and then for `time` (the second).
pub async fn measure(crowd: &Crowd, address: SocketAddr, server: &Process, time: Duration) -> Result<(Sample, Sample)> {
    let drive = Arc::new(Drive {
        crowd: crowd.clone(),
        address,
        asked: AtomicUsize::new(0),
        answered: AtomicUsize::new(0),
        stop: AtomicBool::new(false),
        fault: Mutex::new(None),
    });
    let reading =
        || Ok::<_, Box<dyn std::error::Error + Send + Sync>>((server.cpu()?, drive.answered(), Instant::now()));
    let begin = reading()?;
    let mut connections = JoinSet::new();
    for number in 0..CONNECTIONS {
        let drive = Arc::clone(&drive);
        connections.spawn(async move {
            if let Err(why) = drive.connection(number).await {
                drive.fail(&why.to_string());
            }
        });
    }
    let all = drive.crowd.calls.len().max(CONNECTIONS);
    let warm = timeout(WARM_UP, async {
        while drive.answered() < all && !drive.stop.load(Ordering::Relaxed) {
            sleep(Duration::from_millis(5)).await;
        }
    });
    if warm.await.is_err() {
        drive.fail("the server did not answer all devices in time");
    }
    let middle = reading()?;
    if !drive.stop.load(Ordering::Relaxed) {
        sleep(time).await;
    }
    let end = reading()?;
    drive.stop.store(true, Ordering::Relaxed);
    while connections.join_next().await.is_some() {}
    if let Some(why) = drive.fault.lock().unwrap_or_else(PoisonError::into_inner).take() {
        return Err(why.into());
    }
    let sample = |from: (Duration, usize, Instant), to: (Duration, usize, Instant)| Sample {
        requests: to.1 - from.1,
        cpu: to.0.saturating_sub(from.0),
        wall: to.2 - from.2,
    };
    Ok((sample(begin, middle), sample(middle, end)))
}

impl Drive {
    fn answered(&self) -> usize {
        self.answered.load(Ordering::Relaxed)
    }

    /// The first fault counts; all stop.
    fn fail(&self, why: &str) {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| why.to_owned());
        self.stop.store(true, Ordering::Relaxed);
    }

    async fn connection(&self, number: usize) -> Result<()> {
        let socket = TcpStream::connect(self.address).await?;
        socket.set_nodelay(true)?;
        match &self.crowd.tls {
            None => self.ask(socket, None).await,
            Some(settings) => {
                let settings = settings.get(number).ok_or("fewer devices than connections")?;
                let name = ServerName::try_from("localhost")?;
                let stream = TlsConnector::from(Arc::clone(settings)).connect(name, socket).await?;
                self.ask(stream, Some(number)).await
            }
        }
    }

    /// Asks as `device`, or as whichever comes next.
    async fn ask(&self, io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, device: Option<usize>) -> Result<()> {
        let (mut sender, connection) = http1::handshake(TokioIo::new(io)).await?;
        let connection = tokio::spawn(connection);
        let calls = &self.crowd.calls;
        while !self.stop.load(Ordering::Relaxed) {
            let next = device.unwrap_or_else(|| self.asked.fetch_add(1, Ordering::Relaxed) % calls.len());
            let call = calls.get(next).ok_or("fewer devices than connections")?;
            let mut request = Request::new(Full::new(call.body.clone()));
            *request.method_mut() = Method::PUT;
            *request.uri_mut() = Uri::from_static("/mdm");
            *request.headers_mut() = call.headers.clone();
            let answer = timeout(ANSWER, async {
                let answer = sender.send_request(request).await?;
                let status = answer.status();
                Ok::<_, hyper::Error>((status, answer.into_body().collect().await?.to_bytes()))
            });
            let (status, body) = answer.await.map_err(|_| "no answer in time")??;
            if status != StatusCode::OK || !body.is_empty() {
                return Err(format!("a poll was answered {status} with {} bytes", body.len()).into());
            }
            self.answered.fetch_add(1, Ordering::Relaxed);
        }
        drop(sender);
        // An error as it closes is nobody's concern.
        let _ = connection.await;
        Ok(())
    }
}
