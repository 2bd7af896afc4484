//! HTTP/1.1 as cheap as it can be: prepared requests, and of the answers only what is needed to tell them apart. What the
//! load costs is missing to the server, since both share the processors.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::sleep;

use crate::Result;

/// How many requests were put off (503) and sent again, since the start.
pub static PUT_OFF: AtomicUsize = AtomicUsize::new(0);
/// How often a request is sent again, and after which time.
const MOST_PUT_OFF: usize = 200;
const PAUSE: Duration = Duration::from_millis(50);
/// The longest answer that is read.
const MAX_ANSWER: usize = 64 << 20;

/// A request, ready to be sent again and again.
pub fn request(line: &str, headers: &[(&str, &str)], body: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(512 + body.len());
    out.put_slice(format!("{line} HTTP/1.1\r\nHost: localhost\r\nUser-Agent: MDM/1.0\r\n").as_bytes());
    for (name, value) in headers {
        out.put_slice(format!("{name}: {value}\r\n").as_bytes());
    }
    out.put_slice(format!("Content-Length: {}\r\n\r\n", body.len()).as_bytes());
    out.put_slice(body);
    out.freeze()
}

/// A connection that stays.
pub struct Wire<S> {
    io: S,
    buffer: BytesMut,
}

/// What a server answered.
pub struct Answer {
    pub status: u16,
    pub body: Bytes,
}

impl Wire<TcpStream> {
    pub async fn connect(address: SocketAddr) -> Result<Self> {
        let socket = TcpStream::connect(address).await?;
        socket.set_nodelay(true)?;
        Ok(Self::new(socket))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    pub fn new(io: S) -> Self {
        Self { io, buffer: BytesMut::with_capacity(16 * 1024) }
    }

    /// Sends a request and reads the answer.
    pub async fn ask(&mut self, request: &[u8]) -> Result<Answer> {
        self.io.write_all(request).await?;
        let (head, status, length) = loop {
            if let Some(end) = find(&self.buffer, b"\r\n\r\n") {
                let head = self.buffer.get(..end).unwrap_or_default();
                break (end + 4, status(head)?, content_length(head)?);
            }
            self.fill().await?;
        };
        if length > MAX_ANSWER {
            return Err("an answer is too long".into());
        }
        while self.buffer.len() < head + length {
            self.fill().await?;
        }
        let mut whole = self.buffer.split_to(head + length);
        let body = whole.split_off(head).freeze();
        if self.buffer.capacity() < 4096 {
            self.buffer.reserve(16 * 1024);
        }
        Ok(Answer { status, body })
    }

    /// As [`Wire::ask`]; what the server puts off is sent again, as devices do.
    pub async fn ask_again(&mut self, request: &[u8]) -> Result<Answer> {
        for _ in 0..MOST_PUT_OFF {
            let answer = self.ask(request).await?;
            if answer.status != 503 {
                return Ok(answer);
            }
            PUT_OFF.fetch_add(1, Ordering::Relaxed);
            sleep(PAUSE).await;
        }
        self.ask(request).await
    }

    /// As [`Wire::ask_again`], where the answer must be 200 without a body.
    pub async fn expect_nothing(&mut self, request: &[u8]) -> Result<()> {
        let answer = self.ask_again(request).await?;
        if answer.status == 200 && answer.body.is_empty() { Ok(()) } else { Err(answer.unexpected()) }
    }

    async fn fill(&mut self) -> Result<()> {
        match self.io.read_buf(&mut self.buffer).await? {
            0 => Err("the server closed a connection".into()),
            _ => Ok(()),
        }
    }
}

impl Answer {
    /// An error that shows it.
    pub fn unexpected(&self) -> Box<dyn std::error::Error + Send + Sync> {
        let text = String::from_utf8_lossy(&self.body);
        format!("an answer was {}: {}", self.status, text.chars().take(500).collect::<String>()).into()
    }
}

/// Where `what` begins in `text`.
pub fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    let first = *what.first()?;
    let mut from = 0;
    loop {
        let rest = text.get(from..)?;
        let at = from + rest.iter().position(|byte| *byte == first)?;
        if text.get(at..)?.starts_with(what) {
            return Some(at);
        }
        from = at + 1;
    }
}

fn status(head: &[u8]) -> Result<u16> {
    let digits = head.get(9..12).ok_or("an answer has no status")?;
    Ok(std::str::from_utf8(digits)?.parse()?)
}

fn content_length(head: &[u8]) -> Result<usize> {
    for line in head.split(|byte| *byte == b'\n').skip(1) {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let (name, value) = line.split_at(colon);
        if name.eq_ignore_ascii_case(b"content-length") {
            return Ok(std::str::from_utf8(value.get(1..).unwrap_or_default())?.trim().parse()?);
        }
        if name.eq_ignore_ascii_case(b"transfer-encoding") {
            return Err("an answer comes in chunks".into());
        }
    }
    Ok(0)
}
