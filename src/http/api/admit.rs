//! Before every route: who asks, and whether they may.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{FromRequestParts, MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::header::{AUTHORIZATION, CACHE_CONTROL};
use http::request::Parts;
use http::{HeaderMap, HeaderValue};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::super::problem::Code;
use super::super::{ClientAddress, Connection, Metrics, Problem, request_id};
use super::{fault, patience, roles};
use crate::model::Role;
use crate::service::{Actor, ActorKind, App, Error, tokens};
use crate::store::TokenRow;

/// The code of what the database (or the disk) did not do, and the word for it in the metrics.
const UNAVAILABLE: &str = "unavailable";

/// What the check of every request needs.
pub(super) struct Admission {
    app: App,
    metrics: Metrics,
    /// Of requests that are worked on at once.
    places: Semaphore,
}

impl Admission {
    pub(super) fn new(app: App, metrics: Metrics) -> Self {
        let places = Semaphore::new(usize::try_from(app.settings.admin.max_requests).unwrap_or(Semaphore::MAX_PERMITS));
        Self { app, metrics, places }
    }
}

/// Lets a request through to its route: a valid token, and a role that suffices. The route finds the [`Caller`] in the
/// request's extensions.
pub(super) async fn admit(State(admission): State<Arc<Admission>>, request: Request, next: Next) -> Response {
    let mut response = match enter(&admission, request, next).await {
        Ok(response) => response,
        Err(problem) => problem.into_response(),
    };
    if response.extensions().get() == Some(&Code(UNAVAILABLE)) {
        admission.metrics.database_failed(UNAVAILABLE);
    }
    // Answers hold what is not everybody's, tokens among it.
    response.headers_mut().entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

async fn enter(admission: &Admission, mut request: Request, next: Next) -> Result<Response, Problem> {
    let app = &admission.app;
    let place = admission.places.try_acquire().map_err(|_| Problem::overloaded())?;
    let token = token(app, request.headers()).await.map_err(Refused::into_problem)?;
    let path = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned()).unwrap_or_default();
    let Some(rule) = roles::rule_for(request.method(), &path) else {
        // A route with other methods says itself which; any other has been forgotten in the table.
        return if roles::knows_path(&path) {
            Ok(next.run(request).await)
        } else {
            Err(Problem::forbidden("no role may do this"))
        };
    };
    if token.role < rule.role {
        return Err(Problem::forbidden(format!(
            "this takes the role {}, and the token {:?} has the role {}",
            rule.role, token.name, token.role
        )));
    }
    let address = address(&request);
    let actor = Actor {
        kind: ActorKind::Token,
        token: Some(token.id),
        name: token.name,
        role: token.role,
        request_id: request_id::current(),
        address,
        repeat: None,
    };
    request.extensions_mut().insert(Caller(actor));
    let (time, _place) = if rule.is_upload {
        // As long as it takes; uploads have a bound of their own.
        drop(place);
        (Duration::MAX, None)
    } else {
        (patience(app), Some(place))
    };
    timeout(time, next.run(request)).await.map_err(|_| {
        tracing::warn!(route = path, "the request took too long");
        fault::timed_out()
    })
}

/// The address for the audit log: behind trusted proxies too where the request is watched, else the other end's.
fn address(request: &Request) -> Option<String> {
    let extensions = request.extensions();
    let watched = extensions.get::<ClientAddress>().map(|client| client.0);
    watched.or_else(|| Connection::of(extensions).map(|connection| connection.peer.ip())).map(|ip| ip.to_string())
}

/// Why nobody is let in.
enum Refused {
    NoToken,
    WrongScheme,
    BadToken,
    Failed(Error),
}

impl Refused {
    fn into_problem(self) -> Problem {
        match self {
            Self::NoToken => Problem::unauthorized("send a token: Authorization: Bearer muster_…"),
            Self::WrongScheme => Problem::unauthorized("the Authorization header must be: Bearer, a space, the token"),
            Self::BadToken => Problem::unauthorized("the token is unknown, expired or revoked"),
            Self::Failed(error) => error.into(),
        }
    }
}

async fn token(app: &App, headers: &HeaderMap) -> Result<TokenRow, Refused> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let value = values.next().ok_or(Refused::NoToken)?;
    let text = value.to_str().map_err(|_| Refused::WrongScheme)?;
    let (scheme, text) = text.split_once(' ').ok_or(Refused::WrongScheme)?;
    if !scheme.eq_ignore_ascii_case("bearer") || values.next().is_some() {
        return Err(Refused::WrongScheme);
    }
    tokens::authenticate(app, text.trim()).await.map_err(Refused::Failed)?.ok_or(Refused::BadToken)
}

/// Who asks. An argument of handlers that change something, or that show more to some roles than to others.
#[derive(Clone, Debug)]
pub(super) struct Caller(pub(super) Actor);

impl Caller {
    /// Whether the caller has at least this role.
    pub(super) fn is_at_least(&self, role: Role) -> bool {
        self.0.role >= role
    }
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        // Missing only on a route that was not put behind the check: a fault of ours, and closed.
        parts.extensions.get::<Self>().cloned().ok_or_else(Problem::internal)
    }
}
