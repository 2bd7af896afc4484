use axum::Extension;
use axum::routing::get;
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls_pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::*;
use crate::http::fixtures::{Authority, client, connect};
use crate::http::tls::ServerCertificate;
use crate::model::Sha256;

const SOON: Duration = Duration::from_secs(5);

/// A server of these tests.
struct Server {
    address: SocketAddr,
    shutdown: Shutdown,
    metrics: Metrics,
    served: JoinHandle<usize>,
}

impl Server {
    async fn start(app: Router, limits: Limits, tls: Option<Arc<Tls>>) -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let (shutdown, metrics) = (Shutdown::new(), Metrics::new("test"));
        let listener = Listener { name: "devices", socket, tls, app, limits, proxies: Proxies::none() };
        let served = tokio::spawn(serve(vec![listener], shutdown.clone(), metrics.clone()));
        Self { address, shutdown, metrics, served }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    async fn end(self) -> usize {
        timeout(SOON, self.served).await.expect("the server ends soon").unwrap()
    }
}

/// Tells who asks.
async fn who(Extension(connection): Extension<Arc<Connection>>) -> String {
    let certificate = connection.certificate.as_ref().map(|shown| shown.sha256().hex());
    format!("{} {}", connection.peer, certificate.unwrap_or_else(|| "nobody".to_owned()))
}

fn app() -> Router {
    Router::new()
        .route("/who", get(who))
        .route("/scep", get(|| async { "read" }))
        .route(
            "/slow",
            get(|| async {
                sleep(Duration::from_millis(300)).await;
                "done"
            }),
        )
        .route("/never", get(|| async { std::future::pending::<String>().await }))
}

/// Sends a request and reads the connection to its end.
async fn ask(mut stream: impl AsyncRead + AsyncWrite + Unpin, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // A TLS server that refuses a request closes without reading the rest of it, which may reach us as a reset.
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8(answer).unwrap()
}

fn hasty() -> Limits {
    let short = Duration::from_millis(200);
    Limits { handshake_timeout: short, header_timeout: short, idle_timeout: short, ..Limits::default() }
}

fn tls(web: &Authority, devices: &Authority) -> Arc<Tls> {
    let pair = web.server(&["localhost"]);
    let certificate = Arc::new(ServerCertificate::new(pair.chain(), pair.key()).unwrap());
    Arc::new(Tls::for_devices(certificate, &[devices.certificate()]).unwrap())
}

async fn http2(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> hyper::client::conn::http2::SendRequest<Empty<Bytes>> {
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

async fn get2(sender: &mut hyper::client::conn::http2::SendRequest<Empty<Bytes>>, url: &str) -> String {
    let request = http::Request::get(url).body(Empty::new()).unwrap();
    let answer = sender.send_request(request).await.unwrap().into_body().collect().await.unwrap();
    String::from_utf8(answer.to_bytes().to_vec()).unwrap()
}

#[tokio::test]
async fn a_request_carries_the_address_and_the_certificate_of_its_peer() {
    let (web, devices) = (Authority::new("Web"), Authority::new("Devices"));
    let phone = devices.device("phone");
    let server = Server::start(app(), Limits::default(), Some(tls(&web, &devices))).await;

    let stream = connect(server.address, "localhost", &Arc::new(client(&web, Some(&phone)))).await.unwrap();
    let own = stream.get_ref().0.local_addr().unwrap();
    let answer = ask(stream, "/who").await;
    assert!(answer.ends_with(&format!("{own} {}", Sha256::of(&phone.certificate))), "{answer}");

    let stream = connect(server.address, "localhost", &Arc::new(client(&web, None))).await.unwrap();
    assert!(ask(stream, "/who").await.ends_with(" nobody"));
}

#[tokio::test]
async fn http2_is_chosen_by_alpn_and_by_prior_knowledge() {
    let (web, devices) = (Authority::new("Web"), Authority::new("Devices"));
    let phone = devices.device("phone");
    let server = Server::start(app(), Limits::default(), Some(tls(&web, &devices))).await;
    let mut config = client(&web, Some(&phone));
    config.alpn_protocols = vec![b"h2".to_vec()];
    let stream = connect(server.address, "localhost", &Arc::new(config)).await.unwrap();
    let mut sender = http2(stream).await;
    for _ in 0..2 {
        let answer = get2(&mut sender, "https://localhost/who").await;
        assert!(answer.ends_with(&Sha256::of(&phone.certificate).hex()), "{answer}");
    }

    let plain = Server::start(app(), Limits::default(), None).await;
    let mut sender = http2(plain.connect().await).await;
    assert!(get2(&mut sender, "http://localhost/who").await.ends_with("nobody"));
}

#[tokio::test]
async fn a_peer_that_says_nothing_is_given_up() {
    let (web, devices) = (Authority::new("Web"), Authority::new("Devices"));
    let encrypted = Server::start(app(), hasty(), Some(tls(&web, &devices))).await;
    let plain = Server::start(app(), hasty(), None).await;
    for server in [encrypted, plain] {
        let mut silent = server.connect().await;
        let read = timeout(SOON, silent.read(&mut [0; 1])).await.expect("closed soon").unwrap();
        assert_eq!(read, 0);
        let text = server.metrics.render();
        assert!(text.contains("muster_connections_refused_total{listener=\"devices\",reason=\"slow\"} 1"), "{text}");
    }
}

#[tokio::test]
async fn headers_that_drip_are_given_up() {
    let server = Server::start(app(), hasty(), None).await;
    let mut stream = server.connect().await;
    stream.write_all(b"GET /who HTTP/1.1\r\nHost: localhost\r\n").await.unwrap();
    let (mut reader, mut writer) = stream.into_split();
    let dripping = tokio::spawn(async move {
        while writer.write_all(b"a: b\r\n").await.is_ok() {
            sleep(Duration::from_millis(20)).await;
        }
    });
    let mut answer = Vec::new();
    let _ = timeout(SOON, reader.read_to_end(&mut answer)).await.expect("closed soon");
    assert!(!answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    timeout(SOON, dripping).await.expect("and the peer notices").unwrap();
}

#[tokio::test]
async fn an_unused_or_idle_http2_connection_is_closed() {
    let server = Server::start(app(), hasty(), None).await;
    let mut unused = server.connect().await;
    unused.write_all(b"PRI * HTTP/2.0\r\n").await.unwrap();
    let _ = timeout(SOON, unused.read_to_end(&mut Vec::new())).await.expect("closed soon");

    let mut sender = http2(server.connect().await).await;
    get2(&mut sender, "http://localhost/who").await;
    timeout(SOON, async {
        while !sender.is_closed() {
            sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("closed soon");
}

#[tokio::test]
async fn long_request_lines_are_read_up_to_the_bound() {
    let server = Server::start(app(), Limits::default(), None).await;
    let long = |length| format!("/scep?operation=PKIOperation&message={}", "x".repeat(length));
    for length in [16 * 1024, 60 * 1024] {
        let answer = ask(server.connect().await, &long(length)).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{length}: {answer}");
    }
    let answer = ask(server.connect().await, &long(80 * 1024)).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    assert!(ask(server.connect().await, "/scep").await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn a_stop_finishes_what_is_in_flight_and_takes_nothing_more() {
    let server = Server::start(app(), Limits::default(), None).await;
    let mut kept = server.connect().await;
    kept.write_all(b"GET /who HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let unused = server.connect().await;
    let mut multiplexed = http2(server.connect().await).await;
    let slow2 = tokio::spawn(async move { get2(&mut multiplexed, "http://localhost/slow").await });
    let slow = tokio::spawn(ask(server.connect().await, "/slow"));
    sleep(Duration::from_millis(100)).await;

    server.shutdown.stop();
    sleep(Duration::from_millis(50)).await;
    assert!(TcpStream::connect(server.address).await.is_err(), "nobody listens any more");
    assert!(slow.await.unwrap().ends_with("done"));
    assert_eq!(slow2.await.unwrap(), "done");
    let mut answer = String::new();
    kept.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(server.end().await, 0);
    drop(unused);
}

#[tokio::test]
async fn an_abort_drops_what_does_not_end() {
    let server = Server::start(app(), Limits::default(), None).await;
    let hanging = tokio::spawn(ask(server.connect().await, "/never"));
    let mut multiplexed = http2(server.connect().await).await;
    let hanging2 = tokio::spawn(async move {
        multiplexed.send_request(http::Request::get("http://localhost/never").body(Empty::new()).unwrap()).await
    });
    sleep(Duration::from_millis(100)).await;
    server.shutdown.stop();
    sleep(Duration::from_millis(100)).await;
    assert!(!server.served.is_finished());
    server.shutdown.abort();
    assert_eq!(server.end().await, 2);
    assert_eq!(hanging.await.unwrap(), "");
    assert!(hanging2.await.unwrap().is_err());
}

#[tokio::test]
async fn one_address_gets_so_many_connections_and_all_get_no_more() {
    let limits = Limits { max_connections_per_address: 1, ..Limits::default() };
    let server = Server::start(app(), limits, None).await;
    let first = server.connect().await;
    sleep(Duration::from_millis(50)).await;
    let mut second = server.connect().await;
    assert!(!matches!(timeout(SOON, second.read(&mut [0; 1])).await.expect("closed soon"), Ok(1..)));
    drop(first);
    sleep(Duration::from_millis(50)).await;
    assert!(ask(server.connect().await, "/who").await.ends_with("nobody"));

    let server = Server::start(app(), Limits { max_connections: 1, ..Limits::default() }, None).await;
    let first = server.connect().await;
    sleep(Duration::from_millis(50)).await;
    let waiting = tokio::spawn(ask(server.connect().await, "/who"));
    sleep(Duration::from_millis(100)).await;
    assert!(!waiting.is_finished(), "there is no place yet");
    drop(first);
    assert!(timeout(SOON, waiting).await.unwrap().unwrap().ends_with("nobody"));
}

#[tokio::test]
async fn a_want_of_file_descriptors_is_waited_out() {
    /// Fails for want of file descriptors for a while.
    struct Exhausted(TcpListener, Arc<AtomicUsize>);
    impl Accept for Exhausted {
        async fn accept(&mut self) -> io::Result<(TcpStream, SocketAddr)> {
            if self.1.fetch_add(1, Ordering::Relaxed) < 3 {
                return Err(io::Error::from_raw_os_error(24));
            }
            self.0.accept().await
        }
    }
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let tries = Arc::new(AtomicUsize::new(0));
    let (shutdown, tasks) = (Shutdown::new(), TaskTracker::new());
    let listening = Listening {
        name: "devices",
        tls: None,
        app: app(),
        limits: Limits::default(),
        proxies: Proxies::none(),
        tasks: tasks.clone(),
        shutdown: shutdown.clone(),
        metrics: Metrics::new("test"),
        aborted: Arc::default(),
        addresses: Mutex::default(),
    };
    tasks.spawn(accept_all(Exhausted(socket, Arc::clone(&tries)), Arc::new(listening)));
    sleep(Duration::from_millis(100)).await;
    assert!(tries.load(Ordering::Relaxed) <= 2, "it must not spin");
    assert!(ask(TcpStream::connect(address).await.unwrap(), "/who").await.ends_with("nobody"));
    assert_eq!(tries.load(Ordering::Relaxed), 5);
    shutdown.stop();
    tasks.close();
    timeout(SOON, tasks.wait()).await.unwrap();
}

#[tokio::test]
async fn a_certificate_that_no_device_ca_issued_reaches_the_application() {
    let (web, devices) = (Authority::new("Web"), Authority::new("Devices"));
    let stranger = Authority::new("Strangers").device("stranger");
    let server = Server::start(app(), Limits::default(), Some(tls(&web, &devices))).await;
    let stream = connect(server.address, "localhost", &Arc::new(client(&web, Some(&stranger)))).await.unwrap();
    let shown: &CertificateDer<'_> = &stranger.certificate;
    assert!(ask(stream, "/who").await.ends_with(&Sha256::of(shown).hex()));
}
