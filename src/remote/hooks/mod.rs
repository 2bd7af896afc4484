//! Calls to addresses that an admin configured: hooks. One client for all of them, behind a [`Guard`], so that nobody makes
//! this server ask its own machine or network by an address that only looks public.
//!
//! A call is bounded in time, and its answer in size. Redirects are not followed, and proxies of the environment are not
//! used: either would choose another peer than the one that was judged.

mod guard;
mod signature;

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method};
use reqwest::redirect::Policy;
use rustls::{ClientConfig, RootCertStore};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;
use url::Url;

use super::apns::retry_after;
use super::tls::ModelTime;
use crate::config::Peer;
use crate::model::{Clock, Secret};

pub use guard::Guard;
pub use signature::{HEADER, sign, sign_standard, verifies};

/// Most calls at the same time, unless it is said otherwise; the others wait within their own time.
const AT_ONCE: usize = 64;

/// What is asked of a hook.
#[derive(Clone, Debug)]
pub struct Call<'a> {
    /// The method.
    pub method: Method,
    /// Where.
    pub url: Url,
    /// More headers.
    pub headers: HeaderMap,
    /// The body; may be empty.
    pub body: Vec<u8>,
    /// The key by which the body is signed in `X-Hmac-Signature`, and by which the answer has to be.
    pub key: Option<&'a Secret<String>>,
    /// The time for all of it.
    pub time: Duration,
    /// The largest answer, in bytes.
    pub largest: usize,
}

/// What a hook answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookAnswer {
    /// The HTTP status.
    pub status: u16,
    /// The body.
    pub body: Bytes,
}

/// What a hook said to something that it was told: as much of it as matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heard {
    /// The HTTP status.
    pub status: u16,
    /// How long it asks to be left alone, at most a day.
    pub retry_after: Option<Duration>,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HookError {
    /// It is not asked at all.
    #[error("{0}")]
    Refused(String),
    /// It could not be reached, or the connection broke.
    #[error("{0}")]
    Failed(String),
    /// It did not answer in time.
    #[error("no answer within {} seconds", .0.as_secs_f32())]
    TooSlow(Duration),
    /// The answer is too large.
    #[error("the answer is larger than {0} bytes")]
    TooLarge(usize),
    /// The answer's signature is missing or wrong.
    #[error("the answer has no valid {HEADER} header")]
    Unsigned,
}

/// How long the rest of an answer is waited for that nobody reads, so that its connection can be used again.
const REST: Duration = Duration::from_secs(1);

/// The client. Made when it is first used.
pub struct Hooks {
    guard: Guard,
    clock: Arc<dyn Clock>,
    client: OnceLock<Result<reqwest::Client, String>>,
    places: Semaphore,
}

impl Hooks {
    /// A client that reaches public addresses, and those that are listed.
    #[must_use]
    pub fn new(allow: &[Peer], clock: Arc<dyn Clock>) -> Self {
        Self { guard: Guard::new(allow), clock, client: OnceLock::new(), places: Semaphore::new(AT_ONCE) }
    }

    /// The same client for so many calls at the same time: for a caller that bounds them itself.
    #[must_use]
    pub fn at_once(self, places: usize) -> Self {
        Self { places: Semaphore::new(places), ..self }
    }

    /// Calls a hook and reads its answer, whatever its status.
    ///
    /// # Errors
    /// [`HookError`].
    pub async fn call(&self, call: Call<'_>) -> Result<HookAnswer, HookError> {
        let time = call.time;
        timeout(time, self.exchange(call)).await.unwrap_or(Err(HookError::TooSlow(time)))
    }

    /// Tells a hook something. Its answer's body is read, up to `largest`, and thrown away; a signature is not asked for.
    ///
    /// # Errors
    /// [`HookError`].
    pub async fn tell(&self, call: Call<'_>) -> Result<Heard, HookError> {
        let (time, mut left) = (call.time, call.largest);
        let _place = self.place(time).await?;
        let mut response = timeout(time, self.send(call)).await.unwrap_or(Err(HookError::TooSlow(time)))?;
        let heard = Heard {
            status: response.status().as_u16(),
            retry_after: retry_after(response.headers(), self.clock.now()),
        };
        let rest = async {
            while let Ok(Some(piece)) = response.chunk().await {
                left = left.saturating_sub(piece.len());
                if left == 0 {
                    break;
                }
            }
        };
        // What it said counts, whatever becomes of the rest.
        let _ = timeout(REST, rest).await;
        Ok(heard)
    }

    /// Judges a URL before it is called for the first time: its scheme, and an address that stands in it.
    ///
    /// # Errors
    /// [`HookError::Refused`].
    pub fn judge(&self, url: &Url) -> Result<(), HookError> {
        self.guard.judge(url)
    }

    async fn place(&self, time: Duration) -> Result<SemaphorePermit<'_>, HookError> {
        let place = timeout(time, self.places.acquire()).await.map_err(|_| HookError::TooSlow(time))?;
        place.map_err(|e| HookError::Failed(e.to_string()))
    }

    async fn send(&self, call: Call<'_>) -> Result<reqwest::Response, HookError> {
        self.guard.judge(&call.url)?;
        let client = self.client.get_or_init(|| client(&self.guard, &self.clock)).as_ref();
        let client = client.map_err(|why| HookError::Failed(why.clone()))?;
        let mut request = client.request(call.method, call.url).headers(call.headers);
        if let Some(key) = call.key {
            request = request.header(HEADER, sign(key, &call.body));
        }
        if !call.body.is_empty() {
            request = request.body(call.body);
        }
        request.send().await.map_err(|e| failed(&e))
    }

    async fn exchange(&self, call: Call<'_>) -> Result<HookAnswer, HookError> {
        let (key, largest) = (call.key, call.largest);
        let _place = self.place(call.time).await?;
        let mut response = self.send(call).await?;
        let status = response.status().as_u16();
        let signature = response.headers().get(HEADER).cloned();
        let mut body = BytesMut::new();
        while let Some(piece) = response.chunk().await.map_err(|e| failed(&e))? {
            if piece.len() > largest.saturating_sub(body.len()) {
                return Err(HookError::TooLarge(largest));
            }
            body.extend_from_slice(&piece);
        }
        if let Some(key) = key
            && !signature.is_some_and(|signature| verifies(key, &body, signature.as_bytes()))
        {
            return Err(HookError::Unsigned);
        }
        Ok(HookAnswer { status, body: body.freeze() })
    }
}

impl fmt::Debug for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hooks").field("guard", &self.guard).finish_non_exhaustive()
    }
}

fn client(guard: &Guard, clock: &Arc<dyn Clock>) -> Result<reqwest::Client, String> {
    let mut roots = RootCertStore::empty();
    roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_details(provider, Arc::new(ModelTime(Arc::clone(clock))))
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    reqwest::Client::builder()
        .use_preconfigured_tls(config)
        .dns_resolver(Arc::new(guard.clone()))
        .no_proxy()
        .redirect(Policy::none())
        .tcp_nodelay(true)
        .user_agent(concat!("muster/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|e| e.to_string())
}

/// The error with its causes, of which the last says most; without the URL, whose query may be a secret.
fn failed(error: &reqwest::Error) -> HookError {
    let mut cause = std::error::Error::source(error);
    let mut texts = Vec::new();
    while let Some(error) = cause {
        if let Some(refused) = error.downcast_ref::<HookError>() {
            return refused.clone();
        }
        texts.push(error.to_string());
        cause = error.source();
    }
    HookError::Failed(texts.pop().unwrap_or_else(|| "the request failed".to_owned()))
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::response::Redirect;
    use axum::routing::{any, get};
    use tokio::net::TcpListener;

    use super::*;
    use crate::config::Network;
    use crate::model::{ManualClock, Timestamp};

    /// A server on this machine with answers of several kinds; its port.
    async fn server() -> u16 {
        let routes = Router::new()
            .route("/echo", any(|body: Bytes| async move { body }))
            .route("/large", get(|| async { vec![b'x'; 4096] }))
            .route("/slow", get(std::future::pending::<()>))
            .route("/away", get(|| async { Redirect::temporary("/echo") }));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move { axum::serve(listener, routes).await });
        port
    }

    fn hooks(allow: &[Peer]) -> Hooks {
        Hooks::new(allow, Arc::new(ManualClock::new(Timestamp::from_seconds(1_800_000_000))))
    }

    fn loopback() -> Peer {
        Peer::Addresses("127.0.0.0/8".parse::<Network>().unwrap())
    }

    fn get_of(url: &str) -> Call<'static> {
        Call {
            method: Method::GET,
            url: url.parse().unwrap(),
            headers: HeaderMap::new(),
            body: Vec::new(),
            key: None,
            time: Duration::from_secs(10),
            largest: 1024,
        }
    }

    #[tokio::test]
    async fn this_machine_is_reached_only_when_it_is_listed() {
        let port = server().await;
        for host in ["127.0.0.1", "localhost", "2130706433", "[::ffff:127.0.0.1]"] {
            let call = get_of(&format!("http://{host}:{port}/echo"));
            let refused = hooks(&[]).call(call).await.unwrap_err();
            assert!(matches!(refused, HookError::Refused(_)), "{host}: {refused:?}");
        }
        for (host, allowed) in
            [("127.0.0.1", loopback()), ("localhost", loopback()), ("localhost", Peer::Host("localhost".to_owned()))]
        {
            let call = get_of(&format!("http://{host}:{port}/echo"));
            assert_eq!(hooks(&[allowed]).call(call).await.unwrap().status, 200, "{host}");
        }
    }

    #[tokio::test]
    async fn an_answer_is_bounded_and_a_redirect_is_not_followed() {
        let port = server().await;
        let hooks = hooks(&[loopback()]);
        let call = |path: &str| get_of(&format!("http://127.0.0.1:{port}{path}"));
        assert_eq!(hooks.call(call("/large")).await, Err(HookError::TooLarge(1024)));
        assert_eq!(hooks.call(call("/away")).await.unwrap().status, 307);
        assert_eq!(hooks.call(call("/nowhere")).await.unwrap().status, 404);
        let time = Duration::from_millis(50);
        assert_eq!(hooks.call(Call { time, ..call("/slow") }).await, Err(HookError::TooSlow(time)));
        let closed = get_of("http://127.0.0.1:1/");
        assert!(matches!(hooks.call(closed).await, Err(HookError::Failed(_))));
    }

    #[tokio::test]
    async fn what_is_told_needs_no_signature_and_its_answer_no_size() {
        let port = server().await;
        let hooks = hooks(&[loopback()]);
        let key = Secret::new("a key of some length".to_owned());
        for (path, status) in [("/echo", 200), ("/large", 200), ("/away", 307), ("/nowhere", 404)] {
            let call = Call { key: Some(&key), largest: 16, ..get_of(&format!("http://127.0.0.1:{port}{path}")) };
            assert_eq!(hooks.tell(call).await, Ok(Heard { status, retry_after: None }), "{path}");
        }
        let time = Duration::from_millis(50);
        let slow = Call { time, ..get_of(&format!("http://127.0.0.1:{port}/slow")) };
        assert_eq!(hooks.tell(slow).await, Err(HookError::TooSlow(time)));
    }

    #[tokio::test]
    async fn an_answer_without_a_signature_is_none() {
        let port = server().await;
        let key = Secret::new("a key of some length".to_owned());
        let call = Call { key: Some(&key), ..get_of(&format!("http://127.0.0.1:{port}/echo")) };
        assert_eq!(hooks(&[loopback()]).call(call).await, Err(HookError::Unsigned));
    }
}
