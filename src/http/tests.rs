//! The parts of this room together, over real sockets: what bad clients get.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::put;
use base64::Engine;
use http::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};

use super::fixtures::Authority;
use super::identity::IdentityReader;
use super::request_id::RequestIds;
use super::*;
use crate::config::Settings;
use crate::model::{SeededRandomness, Sha256};

/// Answers with the digest of the certificate and the length of the body.
async fn poll(State(identities): State<Arc<IdentityReader>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let connection = Connection::of(&parts.extensions).map(Arc::as_ref);
    let presented = match identities.read(connection, &parts.headers) {
        Ok(presented) => presented,
        Err(_) => return StatusCode::BAD_REQUEST.into_response(),
    };
    match body::read(body, 1000, Duration::from_millis(300)).await {
        Ok(body) => {
            let who = presented.map_or_else(|| "nobody".to_owned(), |shown| shown.certificate.sha256().hex());
            format!("{who} {}", body.len()).into_response()
        }
        Err(why) => why.status().into_response(),
    }
}

/// A server that trusts these proxies.
async fn start(trusted: &str) -> (SocketAddr, Shutdown, Metrics) {
    let text = format!("public_url = \"https://mdm.example.org\"\n[proxy]\ntrusted = [{trusted}]\n");
    let settings = Settings::parse("muster.toml".as_ref(), &text, []).unwrap();
    let (metrics, shutdown) = (Metrics::new("test"), Shutdown::new());
    let identities = Arc::new(IdentityReader::new(&settings.proxy, metrics.clone()));
    let observer = Observer {
        proxies: Proxies::from(&settings.proxy),
        metrics: metrics.clone(),
        ids: Arc::new(RequestIds::new(&SeededRandomness::new(1))),
        on_panic: || StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    };
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let listener = Listener {
        name: "devices",
        socket,
        tls: None,
        app: observer.around(Router::new().route("/mdm", put(poll)).with_state(identities)),
        limits: Limits::default(),
        proxies: Proxies::from(&settings.proxy),
    };
    tokio::spawn(serve(vec![listener], shutdown.clone(), metrics.clone()));
    (address, shutdown, metrics)
}

/// Sends bytes, keeps the connection open, and reads the answer to its end.
async fn exchange(to: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(to).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let _ = timeout(Duration::from_secs(5), stream.read_to_end(&mut answer)).await.expect("an answer in time");
    String::from_utf8(answer).unwrap()
}

fn request(headers: &str, body: &str) -> String {
    let length = body.len();
    format!("PUT /mdm HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}")
}

#[tokio::test]
async fn a_body_that_is_too_large_or_too_slow_gets_its_status() {
    let (address, _shutdown, _) = start("").await;
    assert!(exchange(address, &request("", "12345")).await.ends_with("nobody 5"));
    let large =
        exchange(address, "PUT /mdm HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 1001\r\n\r\n").await;
    assert!(large.starts_with("HTTP/1.1 413"), "refused before it is sent: {large}");
    let chunk = format!("258\r\n{}\r\n", "x".repeat(600));
    let head = "PUT /mdm HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n";
    let large = exchange(address, &format!("{head}{chunk}{chunk}0\r\n\r\n")).await;
    assert!(large.starts_with("HTTP/1.1 413"), "{large}");
    let slow =
        exchange(address, "PUT /mdm HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 5\r\n\r\n1").await;
    assert!(slow.starts_with("HTTP/1.1 408"), "{slow}");

    // One that drips, a byte at a time, gains nothing.
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(&request("", &"x".repeat(500)).as_bytes()[..90]).await.unwrap();
    let (mut reader, mut writer) = stream.into_split();
    let dripping = tokio::spawn(async move {
        while writer.write_all(b"x").await.is_ok() {
            sleep(Duration::from_millis(10)).await;
        }
    });
    let mut answer = Vec::new();
    let _ = timeout(Duration::from_secs(5), reader.read_to_end(&mut answer)).await.expect("an answer in time");
    assert!(answer.starts_with(b"HTTP/1.1 408"), "{}", String::from_utf8_lossy(&answer));
    dripping.abort();
}

#[tokio::test]
async fn a_spoofed_proxy_header_is_ignored_and_a_doubled_one_refused() {
    let phone = Authority::new("Devices").device("phone");
    let value = base64::engine::general_purpose::STANDARD.encode(&phone.certificate);
    let header = format!("Client-Cert: :{value}:\r\n");

    let (strict, _one, metrics) = start("").await;
    assert!(exchange(strict, &request(&header, "")).await.ends_with("nobody 0"));
    assert!(metrics.render().contains("muster_proxy_headers_ignored_total 1"));

    let (trusting, _two, metrics) = start("\"127.0.0.0/8\"").await;
    let digest = Sha256::of(&phone.certificate);
    assert!(exchange(trusting, &request(&header, "")).await.ends_with(&format!("{digest} 0")));
    assert!(exchange(trusting, &request(&header.repeat(2), "")).await.starts_with("HTTP/1.1 400"));
    assert!(exchange(trusting, &request("Client-Cert: :?:\r\n", "")).await.starts_with("HTTP/1.1 400"));
    assert!(metrics.render().contains("muster_proxy_headers_ignored_total 0"));
}

#[tokio::test]
async fn an_answer_carries_the_id_of_its_request_and_an_exact_length() {
    let (address, _shutdown, _) = start("").await;
    let answer = exchange(address, &request("X-Request-Id: chosen-by-me\r\n", "")).await.to_ascii_lowercase();
    assert!(answer.contains("x-request-id: ") && !answer.contains("chosen-by-me"), "{answer}");
    assert!(answer.contains("content-length: 8\r\n"), "{answer}");
    let unknown = exchange(address, "GET /nothing HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    assert!(unknown.starts_with("HTTP/1.1 404"), "{unknown}");
    assert!(unknown.to_ascii_lowercase().contains("content-length: 0\r\n"), "{unknown}");
}
