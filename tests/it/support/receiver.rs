//! A receiver of webhooks on this machine.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::response::{IntoResponse as _, Response};
use http::{HeaderMap, StatusCode};
use http_body_util::BodyExt as _;
use serde_json::Value;
use tokio::net::TcpListener;

/// What it was told.
#[derive(Clone, Debug)]
pub struct Told {
    pub path: String,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Told {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The topic, or the type.
    pub fn topic(&self) -> String {
        let body = self.json();
        let topic = body.get("topic").or_else(|| body.get("type")).unwrap();
        topic.as_str().unwrap().to_owned()
    }
}

/// What it answers.
#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(&'static str, &'static str)>,
    /// Never, after it has taken note.
    pub hangs: bool,
}

impl Reply {
    pub fn status(status: u16) -> Self {
        Self { status, headers: Vec::new(), hangs: false }
    }
}

#[derive(Default)]
struct Notes {
    told: Vec<Told>,
    replies: VecDeque<Reply>,
    always: Option<Reply>,
}

/// The receiver; it takes everything, unless told what to answer.
#[derive(Clone)]
pub struct Receiver {
    pub port: u16,
    notes: Arc<Mutex<Notes>>,
}

impl Receiver {
    pub async fn start() -> Self {
        let notes = Arc::<Mutex<Notes>>::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let routes = Router::new().fallback(take).with_state(notes.clone());
        tokio::spawn(async move { axum::serve(listener, routes).await });
        Self { port, notes }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// The answers to the next messages.
    pub fn answers(&self, replies: impl IntoIterator<Item = Reply>) {
        self.notes.lock().unwrap().replies.extend(replies);
    }

    /// The answer to all messages, from now on; none for 200.
    pub fn always(&self, reply: Option<Reply>) {
        self.notes.lock().unwrap().always = reply;
    }

    /// What it was told since this was last asked.
    pub fn take(&self) -> Vec<Told> {
        std::mem::take(&mut self.notes.lock().unwrap().told)
    }

    /// Waits until it was told so many things, and takes them.
    pub async fn wait(&self, count: usize) -> Vec<Told> {
        for _ in 0..1000 {
            if self.notes.lock().unwrap().told.len() >= count {
                return self.take();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("it was told {} things, not {count}", self.notes.lock().unwrap().told.len());
    }
}

async fn take(State(notes): State<Arc<Mutex<Notes>>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes().to_vec();
    let reply = {
        let mut notes = notes.lock().unwrap();
        notes.told.push(Told { path: parts.uri.path().to_owned(), headers: parts.headers, body });
        let reply = notes.replies.pop_front().or_else(|| notes.always.clone());
        reply.unwrap_or_else(|| Reply::status(200))
    };
    if reply.hangs {
        std::future::pending::<()>().await;
    }
    let mut response = StatusCode::from_u16(reply.status).unwrap().into_response();
    for (name, value) in reply.headers {
        response.headers_mut().insert(name, value.parse().unwrap());
    }
    response
}
