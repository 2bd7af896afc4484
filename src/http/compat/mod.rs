//! The interface for tools that speak NanoMDM's, on the admin listener: only where `compat.nanomdm` holds an API key. Its
//! words, statuses and quirks are that interface's; docs/operate/nanomdm-compat.md lists them.
//!
//! No request needs a `Content-Type`. Who asks is told by Basic authentication; a wrong key costs as much time as a right one.

mod admit;
mod answer;

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Query, Request, State};
use axum::middleware::from_fn_with_state;
use axum::response::Response;
use axum::routing::{any, get, post};
use bytes::Bytes;
use http::StatusCode;
use serde::Deserialize;
use serde_json::json;
use url::form_urlencoded;

use super::body::{self, BodyError};
use crate::model::Secret;
use crate::protocol::checkin;
use crate::protocol::wire::Limits;
use crate::service::compat::{self, Asked};
use crate::service::push_certificates::{self, Kept};
use crate::service::{App, Error};
use admit::Caller;
use answer::{error, json_of, outcome, plain};

/// Most members of a form that are read.
const MAX_MEMBERS: usize = 100;

/// The routes; none where the interface is off.
pub fn router(app: &App) -> Router {
    if app.settings.compat.nanomdm.is_none() {
        return Router::new();
    }
    Router::new()
        .route("/v1/enqueue/", any(enqueue))
        .route("/v1/enqueue/{*ids}", any(enqueue))
        .route("/v1/push/", any(push))
        .route("/v1/push/{*ids}", any(push))
        .route("/v1/pushcert", get(push_certificate).put(put_push_certificate).post(put_push_certificate))
        .route("/v1/escrowkeyunlock", post(escrow_key_unlock))
        .route("/migration", any(migration))
        .route_layer(from_fn_with_state(Arc::new(admit::Admission::new(app.clone())), admit::admit))
        .route("/version", get(version))
        .with_state(app.clone())
}

async fn version() -> Response {
    json_of(StatusCode::OK, &json!({"version": env!("CARGO_PKG_VERSION")}))
}

#[derive(Deserialize)]
struct Enqueue {
    #[serde(default)]
    nopush: String,
}

async fn enqueue(
    State(app): State<App>,
    ids: Option<Path<String>>,
    Query(query): Query<Enqueue>,
    caller: Caller,
    request: Request,
) -> Response {
    let ids = named(ids);
    let command = match read(&app, request.into_body()).await {
        Ok(command) => command,
        Err(why) => return json_of(StatusCode::INTERNAL_SERVER_ERROR, &json!({"command_error": why.to_string()})),
    };
    outcome(&compat::enqueue(&app, &caller.actor, &ids, &command, !query.nopush.is_empty()).await, ids.len())
}

async fn push(State(app): State<App>, ids: Option<Path<String>>) -> Response {
    let ids = named(ids);
    outcome(&compat::push(&app, &ids).await, ids.len())
}

#[derive(Deserialize)]
struct OfTopic {
    #[serde(default)]
    topic: String,
}

async fn push_certificate(State(app): State<App>, Query(query): Query<OfTopic>) -> Response {
    if query.topic.is_empty() {
        return error(StatusCode::BAD_REQUEST, "missing required query parameter: topic");
    }
    match push_certificates::get(&app, &query.topic).await {
        Ok(kept) => shown(&kept),
        Err(why) => answer::failed(&why, StatusCode::INTERNAL_SERVER_ERROR),
    }
}

async fn put_push_certificate(State(app): State<App>, caller: Caller, request: Request) -> Response {
    let file = match read(&app, request.into_body()).await {
        Ok(file) => Secret::new(file.to_vec()),
        Err(why) => return error(why.status(), &why.to_string()),
    };
    match compat::put_certificate(&app, &caller.actor, file).await {
        Ok(kept) => shown(&kept),
        Err(why) => answer::failed(&why, StatusCode::INTERNAL_SERVER_ERROR),
    }
}

fn shown(kept: &Kept) -> Response {
    json_of(StatusCode::OK, &json!({"topic": kept.topic, "not_after": kept.not_after}))
}

async fn escrow_key_unlock(State(app): State<App>, caller: Caller, request: Request) -> Response {
    let form = match read(&app, request.into_body()).await {
        Ok(form) => form,
        Err(why) => return error(why.status(), &why.to_string()),
    };
    let asked: Asked = form_urlencoded::parse(&form)
        .take(MAX_MEMBERS)
        .map(|(name, value)| (name.into_owned(), value.into_owned()))
        .collect();
    match compat::escrow_key_unlock(&app, &caller.actor, &asked).await {
        Ok(unlocked) => answer::passed_on(unlocked),
        Err(why) => answer::failed(&why, StatusCode::INTERNAL_SERVER_ERROR),
    }
}

async fn migration(State(app): State<App>, caller: Caller, request: Request) -> Response {
    let raw = match read(&app, request.into_body()).await {
        Ok(raw) => raw,
        Err(why) => return plain(why.status()),
    };
    let limits = Limits::CHECK_IN.sized(app.settings.devices.max_checkin_size.as_usize());
    let message = match checkin::decode(&raw, limits) {
        Ok(message) => message,
        Err(why) => {
            tracing::info!(%why, "a message to be taken over cannot be read");
            return plain(StatusCode::BAD_REQUEST);
        }
    };
    match compat::migrate(&app, &caller.actor, caller.address, message, &raw).await {
        Ok(()) => answer::empty(),
        Err(why) => {
            tracing::warn!(%why, "an enrollment was not taken over");
            plain(if matches!(why, Error::Invalid { .. }) {
                StatusCode::BAD_REQUEST
            } else {
                StatusCode::INTERNAL_SERVER_ERROR
            })
        }
    }
}

/// The ids of a path, each once, in their order.
fn named(path: Option<Path<String>>) -> Vec<String> {
    let Some(Path(path)) = path else { return Vec::new() };
    let mut ids: Vec<String> = Vec::new();
    let mut known = std::collections::HashSet::new();
    for id in path.split(',').filter(|id| !id.is_empty()) {
        if known.insert(id) {
            ids.push(id.to_owned());
        }
    }
    ids
}

async fn read(app: &App, request_body: Body) -> Result<Bytes, BodyError> {
    let admin = &app.settings.admin;
    body::read(request_body, admin.max_body_size.as_usize(), admin.request_timeout).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ids_of_a_path_count_once_each() {
        let of = |path: &str| named(Some(Path(path.to_owned())));
        assert_eq!(of("A,B:c,A,,B"), ["A", "B:c", "B"]);
        assert_eq!(named(None), [""; 0]);
    }
}
