//! SCEP (RFC 8894) over HTTP, as real clients speak it: `GET` and `POST /scep`.
//!
//! What is wrong inside of a message is answered in SCEP's own form, with status 200. A status of 400 is for what is no
//! message at all, so that there is nobody to answer to; 5xx for trouble here, after which clients ask again.

use std::net::IpAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderValue, Method, StatusCode};
use tokio::time::timeout;

use super::limit::RateLimiter;
use super::observe::client_address;
use super::problem::retry_after;
use super::{Metrics, Proxies, body};
use crate::pki::scep::{CA_CERT_TYPE, MAX_MESSAGE_BYTES, MESSAGE_TYPE, Operation, Query};
use crate::service::{App, Error, scep};

/// The name of the limit in the metrics.
const LIMIT: &str = "scep";
/// How long a client is asked to wait after trouble here, in seconds.
const TROUBLE_WAIT: HeaderValue = HeaderValue::from_static("10");

#[derive(Clone)]
struct Scep {
    app: App,
    metrics: Metrics,
    proxies: Arc<Proxies>,
    /// Before any RSA is done.
    messages: Arc<RateLimiter>,
    /// For what is cheap; a client asks for it once or twice for each message.
    others: Arc<RateLimiter>,
}

/// The route for SCEP.
pub fn router(app: App, metrics: Metrics) -> Router {
    let rate = app.settings.scep.requests_per_minute;
    let proxies = Arc::new(Proxies::from(&app.settings.proxy));
    let messages = Arc::new(RateLimiter::per_minute(rate));
    let others = Arc::new(RateLimiter::per_minute(rate.saturating_mul(4)));
    let state = Scep { app, metrics, proxies, messages, others };
    Router::new().route("/scep", get(answer).post(answer)).with_state(state)
}

async fn answer(State(scep): State<Scep>, request: Request) -> Response {
    let (parts, request_body) = request.into_parts();
    let address = client_address(&parts, &scep.proxies);
    let query = parts.uri.query().and_then(Query::parse);
    let operation = match (&query, &parts.method) {
        // Nothing else is ever posted, and proxies corrupt queries.
        (_, &Method::POST) => Operation::PkiOperation,
        (Some(query), _) => query.operation,
        (None, _) => {
            return refused(StatusCode::BAD_REQUEST, "expected operation=GetCACaps, GetCACert or PKIOperation");
        }
    };
    if operation == Operation::PkiOperation && parts.method == Method::HEAD {
        // It would issue a certificate that nobody gets.
        let mut response = refused(StatusCode::METHOD_NOT_ALLOWED, "expected GET or POST");
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, POST"));
        return response;
    }
    let limiter = if operation == Operation::PkiOperation { &scep.messages } else { &scep.others };
    if let Err(wait) = limiter.check(address) {
        scep.metrics.rate_limited(LIMIT);
        let mut response = refused(StatusCode::TOO_MANY_REQUESTS, "too many requests from this address");
        response.headers_mut().insert(RETRY_AFTER, retry_after(wait));
        return response;
    }
    match operation {
        Operation::GetCaCaps => {
            scep.metrics.scep_answered("GetCACaps", "ok");
            content("text/plain", scep::ca_capabilities(&scep.app))
        }
        Operation::GetCaCert => match scep::ca_certificate(&scep.app).await {
            Ok(certificate) => {
                scep.metrics.scep_answered("GetCACert", "ok");
                content(CA_CERT_TYPE, certificate.der().to_vec())
            }
            Err(error) => failed(&scep, "GetCACert", &error),
        },
        Operation::PkiOperation => {
            let message = if parts.method == Method::POST {
                // The query may hold the same message once more, escaped: it is not looked at.
                read(&scep.app, request_body).await
            } else {
                let message = query.map(|query| query.message());
                message
                    .and_then(Result::ok)
                    .ok_or_else(|| refused(StatusCode::BAD_REQUEST, "expected message=, a SCEP message in base64"))
            };
            match message {
                Ok(message) => pki_operation(&scep, message, address).await,
                Err(response) => {
                    scep.metrics.scep_answered("PKIOperation", "malformed");
                    response
                }
            }
        }
    }
}

async fn read(app: &App, request_body: Body) -> Result<Vec<u8>, Response> {
    let time = app.settings.devices.body_timeout;
    match body::read(request_body, MAX_MESSAGE_BYTES, time).await {
        Ok(bytes) => Ok(Bytes::into(bytes)),
        Err(why) => Err(refused(why.status(), &why.to_string())),
    }
}

async fn pki_operation(scep: &Scep, message: Vec<u8>, address: IpAddr) -> Response {
    let time = scep.app.settings.devices.request_timeout;
    let work = timeout(time, scep::pki_operation(&scep.app, message, Some(address)));
    match work.await.unwrap_or_else(|_| Err(Error::Unavailable("the request took too long".to_owned()))) {
        Ok(answered) => {
            scep.metrics.scep_answered("PKIOperation", answered.outcome.as_str());
            content(MESSAGE_TYPE, answered.message)
        }
        Err(error) => failed(scep, "PKIOperation", &error),
    }
}

/// An answer whose content type is exactly this: with a charset Apple's client does not know it.
fn content(kind: &'static str, content: impl Into<Body>) -> Response {
    let mut response = Response::new(content.into());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

fn refused(status: StatusCode, why: &str) -> Response {
    (status, format!("{why}\n")).into_response()
}

fn failed(scep: &Scep, operation: &'static str, error: &Error) -> Response {
    let (status, result) = match error {
        Error::Invalid { .. } => (StatusCode::BAD_REQUEST, "malformed"),
        Error::Unavailable(_) | Error::Conflict { .. } => (StatusCode::SERVICE_UNAVAILABLE, "failed"),
        Error::NotFound(_) | Error::Denied(_) | Error::Unrecognized | Error::Internal(_) => {
            (StatusCode::INTERNAL_SERVER_ERROR, "failed")
        }
    };
    scep.metrics.scep_answered(operation, result);
    if let Error::Invalid { detail, .. } = error {
        tracing::info!(why = detail, "a SCEP request was refused");
        return refused(status, detail);
    }
    tracing::error!(why = %error, "a SCEP request could not be answered");
    if matches!(error, Error::Unavailable(_)) {
        scep.metrics.database_failed("unavailable");
    }
    let mut response = refused(status, "the server cannot answer now; try again later");
    response.headers_mut().insert(RETRY_AFTER, TROUBLE_WAIT);
    response
}
