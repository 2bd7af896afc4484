use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http2::Builder;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use super::certificate::{Client, ClientCheck, ServerIdentity};
use super::fault::FaultKind;
use super::request::{self, GoodPush, MAX_BODY, Refusal};
use super::state::{State, TokenCheck, Wake};

const HANDSHAKE_TIME_OUT: Duration = Duration::from_secs(10);

/// How long an abrupt GOAWAY has to reach the client before the connection ends.
const FLUSH: Duration = Duration::from_millis(30);

/// What shall become of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Serve,
    GoAway,
    GoAwayAbrupt,
    HangUp,
}

/// One connection, as its requests see it.
struct Line {
    client: Client,
    fate: watch::Sender<Fate>,
    open_streams: AtomicU64,
}

/// Serves until `stop`.
pub(super) fn spawn(
    listener: TcpListener,
    identity: &ServerIdentity,
    state: &Arc<State>,
    stop: CancellationToken,
    tasks: &TaskTracker,
) {
    let acceptor = TlsAcceptor::from(Arc::clone(&identity.config));
    let clients = Arc::clone(&identity.clients);
    let state = Arc::clone(state);
    let connections = tasks.clone();
    tasks.spawn(async move {
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            let Ok((tcp, _)) = accepted else {
                // Out of file descriptors, most likely: they may come back.
                sleep(Duration::from_millis(50)).await;
                continue;
            };
            let connection = serve(tcp, acceptor.clone(), Arc::clone(&clients), Arc::clone(&state));
            let stop = stop.clone();
            connections.spawn(async move {
                tokio::select! {
                    () = stop.cancelled() => (),
                    () = connection => (),
                }
            });
        }
    });
}

async fn serve(tcp: TcpStream, acceptor: TlsAcceptor, clients: Arc<ClientCheck>, state: Arc<State>) {
    if tcp.set_nodelay(true).is_err() {
        return;
    }
    let tls = match timeout(HANDSHAKE_TIME_OUT, acceptor.accept(tcp)).await {
        Ok(Ok(tls)) => tls,
        Ok(Err(error)) => return tracing::debug!(%error, "a push client's TLS handshake failed"),
        Err(_) => return,
    };
    let session = tls.get_ref().1;
    if session.alpn_protocol() != Some(b"h2") {
        return;
    }
    state.count(|counters| counters.connections += 1);
    let client = clients.check(session.peer_certificates().unwrap_or_default(), state.clock.now());
    let (fate, mut fates) = watch::channel(Fate::Serve);
    let line = Arc::new(Line { client, fate, open_streams: AtomicU64::new(0) });
    let mut builder = Builder::new(TokioExecutor::new());
    builder.timer(TokioTimer::new()).max_concurrent_streams(state.max_concurrent_streams);
    let service = service_fn(move |request| answer(request, Arc::clone(&line), Arc::clone(&state)));
    let mut connection = pin!(builder.serve_connection(TokioIo::new(tls), service));
    loop {
        tokio::select! {
            _ = connection.as_mut() => return,
            changed = fates.changed() => {
                if changed.is_err() {
                    return;
                }
            }
        }
        let fate = *fates.borrow_and_update();
        match fate {
            Fate::Serve => (),
            Fate::GoAway => connection.as_mut().graceful_shutdown(),
            Fate::GoAwayAbrupt => {
                connection.as_mut().graceful_shutdown();
                let _ = timeout(FLUSH, connection.as_mut()).await;
                return;
            }
            Fate::HangUp => return,
        }
    }
}

async fn answer(
    request: Request<Incoming>,
    line: Arc<Line>,
    state: Arc<State>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let open = line.open_streams.fetch_add(1, Ordering::SeqCst) + 1;
    state.count(|counters| {
        counters.requests += 1;
        counters.most_streams = counters.most_streams.max(open);
    });
    let _open = OpenStream(&line.open_streams);
    let (head, body) = request.into_parts();
    let outcome = match Limited::new(body, MAX_BODY).collect().await {
        Ok(body) => treat(&line, &state, &head, Some(&body.to_bytes())).await,
        Err(_) => treat(&line, &state, &head, None).await,
    };
    let response = match outcome {
        Ok(()) => respond(&state, &head.headers, StatusCode::OK, String::new(), None),
        Err(refusal) => respond(&state, &head.headers, refusal.status, refusal.body, refusal.retry_after),
    };
    let status = response.status().as_u16();
    state.count(|counters| *counters.answers.entry(status).or_default() += 1);
    Ok(response)
}

/// Checks a push, lets the script of faults have it, and accepts it.
async fn treat(line: &Line, state: &State, head: &http::request::Parts, body: Option<&[u8]>) -> Result<(), Refusal> {
    let push = request::check(&line.client, head, body)?;
    if let Some(fault) = state.take_fault(&push.token) {
        misbehave(fault, line, state).await?;
    }
    match state.check(&push.token, &push.topic) {
        TokenCheck::Good => {
            let GoodPush { token, topic, magic, expires_at } = push;
            state.accept(&token, Wake { topic, magic, expires_at, received_at: state.clock.now() });
            Ok(())
        }
        TokenCheck::Unknown => Err(Refusal::new(StatusCode::BAD_REQUEST, "BadDeviceToken")),
        TokenCheck::OtherTopic => Err(Refusal::new(StatusCode::BAD_REQUEST, "DeviceTokenNotForTopic")),
        TokenCheck::Gone(since) => Err(Refusal::unregistered(since.micros().div_euclid(1000))),
    }
}

async fn misbehave(fault: FaultKind, line: &Line, state: &State) -> Result<(), Refusal> {
    match fault {
        FaultKind::Unregistered { timestamp } => {
            let now = state.clock.now().micros().div_euclid(1000);
            Err(Refusal::unregistered(timestamp.unwrap_or(now)))
        }
        FaultKind::TooManyRequests { retry_after } => {
            Err(Refusal::new(StatusCode::TOO_MANY_REQUESTS, "TooManyRequests").after(retry_after))
        }
        FaultKind::InternalServerError => Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "InternalServerError")),
        FaultKind::ServiceUnavailable { retry_after } => {
            Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable").after(retry_after))
        }
        FaultKind::Answer { status, body } => {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            Err(Refusal { status, body, retry_after: None })
        }
        FaultKind::GoAway => {
            line.fate.send_replace(Fate::GoAway);
            Ok(())
        }
        FaultKind::GoAwayAbrupt => end_unanswered(line, Fate::GoAwayAbrupt).await,
        FaultKind::HangUp => end_unanswered(line, Fate::HangUp).await,
        FaultKind::Delay { millis } => {
            sleep(Duration::from_millis(millis)).await;
            Ok(())
        }
    }
}

async fn end_unanswered(line: &Line, fate: Fate) -> Result<(), Refusal> {
    line.fate.send_replace(fate);
    std::future::pending().await
}

fn respond(
    state: &State,
    asked: &HeaderMap,
    status: StatusCode,
    body: String,
    retry_after: Option<u64>,
) -> Response<Full<Bytes>> {
    let given = asked.get("apns-id").and_then(|id| id.to_str().ok()).and_then(|id| id.parse::<Uuid>().ok());
    let id = given.unwrap_or_else(|| {
        let mut bytes = [0; 16];
        state.random.fill(&mut bytes);
        uuid::Builder::from_random_bytes(bytes).into_uuid()
    });
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    if let Ok(id) = HeaderValue::try_from(id.hyphenated().to_string().to_uppercase()) {
        response.headers_mut().insert("apns-id", id);
    }
    if let Some(seconds) = retry_after {
        response.headers_mut().insert(http::header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

struct OpenStream<'a>(&'a AtomicU64);

impl Drop for OpenStream<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}
