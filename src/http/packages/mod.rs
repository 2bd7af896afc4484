//! Packages of apps and the manifests that lead to them, for devices. Devices fetch them without showing who they are,
//! so each lies under a name that nobody guesses, and nothing lists the names.

mod range;

use std::future::ready;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::middleware::map_response;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::{Buf, Bytes};
use futures_util::stream;
use http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, IF_NONE_MATCH, RETRY_AFTER,
};
use http::{HeaderMap, HeaderValue, StatusCode};

use super::Metrics;
use super::page::secure;
use crate::model::PackageId;
use crate::protocol;
use crate::service::{App, Error, apps};
use range::{Wanted, wanted};

/// The routes.
pub fn router(app: App, metrics: Metrics) -> Router {
    let count = move |response: Response| {
        // The one reason for it here.
        if response.status() == StatusCode::SERVICE_UNAVAILABLE {
            metrics.database_failed("unavailable");
        }
        ready(response)
    };
    Router::new()
        .route("/apps/{secret}/manifest.plist", get(manifest))
        .route("/apps/{secret}/app.ipa", get(package))
        .layer(map_response(count))
        .with_state(app)
}

async fn manifest(State(app): State<App>, Path(name): Path<String>) -> Response {
    let served = match apps::served(&app, &name).await {
        Ok(served) => served,
        Err(error) => return failed(&error),
    };
    let mut response = Response::new(Body::from(apps::manifest(&app, &served)));
    secure(response.headers_mut());
    let kind = HeaderValue::from_static(protocol::manifest::CONTENT_TYPE);
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

/// The package, or the part of it that is asked for: a download that broke goes on where it was.
async fn package(State(app): State<App>, Path(name): Path<String>, headers: HeaderMap) -> Response {
    let served = match apps::served(&app, &name).await {
        Ok(served) => served,
        Err(error) => return failed(&error),
    };
    let package = served.package;
    let size = u64::try_from(package.size_bytes).unwrap_or(0);
    let tag = format!("\"{}\"", package.sha256.map(|digest| digest.hex()).unwrap_or_default());

    let mut response = if is_known(&headers, &tag) {
        status(StatusCode::NOT_MODIFIED)
    } else {
        match wanted(&headers, &tag, size) {
            Wanted::Nothing => {
                let mut response = status(StatusCode::RANGE_NOT_SATISFIABLE);
                put(&mut response, CONTENT_RANGE, &format!("bytes */{size}"));
                response
            }
            Wanted::All => {
                let content = Content { app, id: package.id, chunk: package.chunk_bytes, at: 0, end: size };
                content.respond(StatusCode::OK)
            }
            Wanted::Part { start, end } => {
                let content = Content { app, id: package.id, chunk: package.chunk_bytes, at: start, end };
                let mut response = content.respond(StatusCode::PARTIAL_CONTENT);
                put(&mut response, CONTENT_RANGE, &format!("bytes {start}-{}/{size}", end.saturating_sub(1)));
                response
            }
        }
    };
    secure(response.headers_mut());
    put(&mut response, ETAG, &tag);
    let headers = response.headers_mut();
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    // The device's own cache may keep it; a proxy may neither keep nor change it.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("private, no-cache, no-transform"));
    response
}

/// Whether the client has it already (RFC 9110, section 13.1.2).
fn is_known(headers: &HeaderMap, tag: &str) -> bool {
    let known = headers.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    known.flat_map(|value| value.split(',')).any(|known| {
        let known = known.trim();
        known == "*" || known.strip_prefix("W/").unwrap_or(known) == tag
    })
}

/// What is still to be sent of a package: the bytes from `at` to before `end`.
struct Content {
    app: App,
    id: PackageId,
    /// Size of a chunk, bytes.
    chunk: i64,
    at: u64,
    end: u64,
}

impl Content {
    fn respond(self, status: StatusCode) -> Response {
        let length = self.end.saturating_sub(self.at);
        // Chunk by chunk, as the device takes them; no connection to the database is held in between.
        let pieces = stream::try_unfold(self, async |mut content| {
            let piece = content.next().await?;
            Ok::<_, Broken>(piece.map(|piece| (piece, content)))
        });
        let mut response = Response::new(Body::from_stream(pieces));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
        response
    }

    /// The next piece; none when all was sent.
    async fn next(&mut self) -> Result<Option<Bytes>, Broken> {
        if self.at >= self.end {
            return Ok(None);
        }
        let size = u64::try_from(self.chunk).ok().filter(|size| *size > 0).ok_or(Broken)?;
        let number = i64::try_from(self.at / size).map_err(|_| Broken)?;
        let chunk = match apps::chunk(&self.app, self.id, number).await {
            Ok(chunk) => chunk.ok_or(Broken)?,
            Err(error) => {
                tracing::warn!(package = %self.id, %error, "a package breaks off");
                return Err(Broken);
            }
        };
        let skip = usize::try_from(self.at % size).map_err(|_| Broken)?;
        let mut piece = Bytes::from(chunk);
        if piece.len() <= skip {
            return Err(Broken);
        }
        piece.advance(skip);
        piece.truncate(usize::try_from(self.end - self.at).unwrap_or(usize::MAX));
        self.at += u64::try_from(piece.len()).map_err(|_| Broken)?;
        Ok(Some(piece))
    }
}

/// The package was taken away, or the database is: the connection is closed, and the device asks for the rest.
#[derive(Debug, thiserror::Error)]
#[error("the package breaks off")]
struct Broken;

fn failed(error: &Error) -> Response {
    let mut response = match error {
        Error::NotFound(_) => (StatusCode::NOT_FOUND, "there is nothing here\n").into_response(),
        Error::Unavailable(why) => {
            tracing::warn!(why, "not available");
            let mut response = status(StatusCode::SERVICE_UNAVAILABLE);
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("5"));
            response
        }
        other => {
            tracing::error!(error = %other, "the server failed");
            status(StatusCode::INTERNAL_SERVER_ERROR)
        }
    };
    secure(response.headers_mut());
    response
}

fn status(status: StatusCode) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

fn put(response: &mut Response, name: http::HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}
