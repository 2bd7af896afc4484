//! HTTP/1.1 with a connection for each request: what is cut must take nothing else with it.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::Result;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// The longest message that is read.
const MAX: u64 = 64 << 20;

/// What a server answered.
pub struct Answer {
    pub status: u16,
    pub body: Vec<u8>,
}

/// A request as bytes.
pub fn request(line: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut out = format!("{line} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n");
    for (name, value) in headers {
        out.push_str(&format!("{name}: {value}\r\n"));
    }
    out.push_str(&format!("Content-Length: {}\r\n\r\n", body.len()));
    let mut out = out.into_bytes();
    out.extend_from_slice(body);
    out
}

/// Sends a request and reads the whole answer. An answer that ends early is an error.
pub async fn ask(address: SocketAddr, request: &[u8]) -> Result<Answer> {
    Answer::read(&raw(address, request).await?)
}

/// As [`ask`]; the answer as it came.
pub async fn raw(address: SocketAddr, request: &[u8]) -> Result<Vec<u8>> {
    let exchange = async {
        let mut socket = TcpStream::connect(address).await?;
        socket.set_nodelay(true)?;
        socket.write_all(request).await?;
        let mut answer = Vec::new();
        socket.take(MAX).read_to_end(&mut answer).await?;
        if is_whole(&answer) { Ok(answer) } else { Err("the answer ended early".into()) }
    };
    timeout(PATIENCE, exchange).await.map_err(|_| "no answer in time")?
}

impl Answer {
    fn read(answer: &[u8]) -> Result<Self> {
        let (head, body) = split(answer).ok_or("an answer has no head")?;
        let status = std::str::from_utf8(head.get(9..12).ok_or("an answer has no status")?)?.parse()?;
        Ok(Self { status, body: body.to_vec() })
    }

    /// The body as JSON, if the status is this one.
    pub fn json(&self) -> Result<serde_json::Value> {
        Ok(serde_json::from_slice(&self.body)?)
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).chars().take(400).collect()
    }
}

/// The head, and what comes after it.
pub fn split(message: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = message.windows(4).position(|four| four == b"\r\n\r\n")?;
    Some((message.get(..end)?, message.get(end + 4..)?))
}

/// A header's value.
pub fn header(head: &[u8], wanted: &str) -> Option<String> {
    let head = String::from_utf8_lossy(head);
    let mut lines = head.split("\r\n").skip(1).filter_map(|line| line.split_once(':'));
    lines.find(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| value.trim().to_owned())
}

/// Whether a message has come to its end.
pub fn is_whole(message: &[u8]) -> bool {
    let Some((head, body)) = split(message) else { return false };
    match header(head, "content-length").and_then(|length| length.parse::<usize>().ok()) {
        Some(length) => body.len() >= length,
        None if header(head, "transfer-encoding").is_some() => body.ends_with(b"0\r\n\r\n"),
        None => true,
    }
}
