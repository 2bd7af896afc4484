//! The API of a [`TestApp`], asked as a client would, without a socket.

use axum::Router;
use axum::body::Body;
use axum::response::IntoResponse;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::BodyExt;
use muster::http::{Metrics, Observer, Problem, Proxies, api};
use muster::model::Role;
use muster::service::{Actor, tokens};
use serde_json::Value;
use tower::ServiceExt;

use super::app::TestApp;
use super::db::{Fixture, TestDb};
use super::edge::{Edge, Phone};

/// A server's API with a token for each role.
#[derive(Clone)]
pub struct Api {
    pub t: TestApp,
    pub router: Router,
    pub metrics: Metrics,
    pub admin: String,
    pub operator: String,
    pub viewer: String,
}

impl Fixture for Api {
    async fn on(db: TestDb) -> Self {
        Self::of(TestApp::on(db).await).await
    }
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub bytes: Vec<u8>,
}

impl Answer {
    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes)
            .unwrap_or_else(|e| panic!("no JSON: {e}: {}", String::from_utf8_lossy(&self.bytes)))
    }

    /// Sees to it that the status is this one; gives the body.
    #[track_caller]
    pub fn expect(self, status: u16) -> Value {
        assert_eq!(self.status.as_u16(), status, "{}", String::from_utf8_lossy(&self.bytes));
        if self.bytes.is_empty() { Value::Null } else { self.json() }
    }

    /// Sees to it that this is a problem with this status and code; gives the body.
    #[track_caller]
    pub fn problem(self, status: u16, code: &str) -> Value {
        assert_eq!(self.headers[CONTENT_TYPE], "application/problem+json");
        let body = self.expect(status);
        assert_eq!(body["code"], code, "{body}");
        body
    }
}

impl Api {
    pub async fn of(t: TestApp) -> Self {
        let metrics = Metrics::new("test");
        let observer = Observer {
            proxies: Proxies::none(),
            metrics: metrics.clone(),
            ids: std::sync::Arc::new(muster::http::request_id::RequestIds::new(&*t.db.random)),
            on_panic: || Problem::internal().into_response(),
        };
        let router = observer.around(api::router(t.app.clone(), metrics.clone()));
        let make = async |name: &str, role| {
            let new = tokens::NewToken { name: name.to_owned(), role, expires_at: None };
            tokens::create(&t.app, &Actor::command_line(), new).await.unwrap().text.expose().clone()
        };
        let admin = make("ada", Role::Admin).await;
        let operator = make("olga", Role::Operator).await;
        let viewer = make("vera", Role::Viewer).await;
        Self { t, router, metrics, admin, operator, viewer }
    }

    /// The token of a role.
    pub fn token(&self, role: Role) -> &str {
        match role {
            Role::Admin => &self.admin,
            Role::Operator => &self.operator,
            Role::Viewer => &self.viewer,
        }
    }

    /// Sends a request as it is.
    pub async fn send(&self, request: Request<Body>) -> Answer {
        let (parts, body) = self.router.clone().oneshot(request).await.unwrap().into_parts();
        let bytes = body.collect().await.unwrap().to_bytes().to_vec();
        Answer { status: parts.status, headers: parts.headers, bytes }
    }

    /// Sends a request as somebody with this role.
    pub async fn call(&self, role: Role, method: &str, path: &str, headers: &[(&str, &str)], body: Body) -> Answer {
        let mut request = Request::builder()
            .method(Method::from_bytes(method.as_bytes()).unwrap())
            .uri(path)
            .header(AUTHORIZATION, format!("Bearer {}", self.token(role)));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request.body(body).unwrap()).await
    }

    /// GET, as admin.
    pub async fn get(&self, path: &str) -> Answer {
        self.call(Role::Admin, "GET", path, &[], Body::empty()).await
    }

    /// POST of JSON, as admin.
    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.json(Role::Admin, "POST", path, body).await
    }

    /// DELETE, as admin.
    pub async fn delete(&self, path: &str) -> Answer {
        self.call(Role::Admin, "DELETE", path, &[], Body::empty()).await
    }

    /// JSON, as somebody with this role.
    pub async fn json(&self, role: Role, method: &str, path: &str, body: &Value) -> Answer {
        let headers = [("content-type", "application/json")];
        self.call(role, method, path, &headers, Body::from(body.to_string())).await
    }

    /// POST of JSON with an `Idempotency-Key`, as admin.
    pub async fn post_once(&self, key: &str, path: &str, body: &Value) -> Answer {
        let headers = [("content-type", "application/json"), ("idempotency-key", key)];
        self.call(Role::Admin, "POST", path, &headers, Body::from(body.to_string())).await
    }
}

/// A server with its API and its device edge.
#[derive(Clone)]
pub struct Fleet {
    pub api: Api,
    pub edge: Edge,
}

impl Fixture for Fleet {
    async fn on(db: TestDb) -> Self {
        let edge = Edge::on(db).await;
        Self { api: Api::of(edge.t.clone()).await, edge }
    }
}

impl Fleet {
    /// A phone that is enrolled, and its id.
    pub async fn phone(&self, udid: &str) -> (Phone, String) {
        let phone = self.edge.enrolled(udid).await;
        let id = phone.device_id().await.to_string();
        (phone, id)
    }
}

/// The items of a list, page by page, by one of their members.
pub async fn walk(api: &Api, path: &str, limit: usize, member: &str) -> Vec<String> {
    let (mut found, mut cursor) = (Vec::new(), String::new());
    for _ in 0..100 {
        let joint = if path.contains('?') { '&' } else { '?' };
        let page = api.get(&format!("{path}{joint}limit={limit}{cursor}")).await.expect(200);
        let items = page["items"].as_array().unwrap();
        assert!(items.len() <= limit);
        found.extend(items.iter().map(|item| item[member].as_str().unwrap_or("-").to_owned()));
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return found,
        }
    }
    panic!("the list does not end: {found:?}");
}

/// The same with every id replaced by its number in the order of appearance, for snapshots.
pub fn with_plain_ids(mut value: Value) -> Value {
    fn replace(value: &mut Value, known: &mut Vec<String>) {
        match value {
            Value::String(text) if text.parse::<uuid::Uuid>().is_ok() => {
                let number = known.iter().position(|id| id == text).unwrap_or_else(|| {
                    known.push(text.clone());
                    known.len() - 1
                });
                *text = format!("id {}", number + 1);
            }
            Value::Array(items) => items.iter_mut().for_each(|item| replace(item, known)),
            Value::Object(members) => members.values_mut().for_each(|value| replace(value, known)),
            _ => {}
        }
    }
    replace(&mut value, &mut Vec::new());
    value
}
