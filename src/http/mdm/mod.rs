//! The device edge: `PUT /mdm` and `PUT /checkin`, each for both check-ins and reports; the content type tells them
//! apart. Extract, authenticate, bound the body, call one verb, map the error. No decision about the domain.
//!
//! What a status means to a device is not what it means to a browser: 401 may make it leave management, so it is never
//! sent; 403 with Apple's code makes it leave, which is sent for devices that an admin removed; 4xx tells it that the
//! message is at fault, 5xx that it should come again.

mod answer;
mod identify;

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use axum::routing::put;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, StatusCode};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::identity::IdentityReader;
use super::observe::client_address;
use super::{Connection, Metrics, Proxies, body};
use crate::protocol;
use crate::protocol::wire::Limits;
use crate::service::check_in::{self, Arrived};
use crate::service::{App, Error, reports};
use answer::{failed, refused, report_answer, respond};

/// The content type of check-in messages; everything else is a report, an empty content type too.
const CHECK_IN: &str = "application/x-apple-aspen-mdm-checkin";

#[derive(Clone)]
struct Edge {
    app: App,
    metrics: Metrics,
    identities: Arc<IdentityReader>,
    proxies: Arc<Proxies>,
    /// For the bodies that are large.
    memory: body::Budget,
    /// Of messages that are worked on at once.
    places: Arc<Semaphore>,
}

/// The routes for devices.
pub fn router(app: App, metrics: Metrics) -> Router {
    let proxy = &app.settings.proxy;
    let identities = Arc::new(IdentityReader::new(proxy, metrics.clone()));
    let proxies = Arc::new(Proxies::from(proxy));
    let memory = body::Budget::new(app.settings.devices.body_memory.as_usize());
    let places =
        Arc::new(Semaphore::new(usize::try_from(app.settings.devices.max_requests).unwrap_or(Semaphore::MAX_PERMITS)));
    Router::new().route("/mdm", put(message)).route("/checkin", put(message)).with_state(Edge {
        app,
        metrics,
        identities,
        proxies,
        memory,
        places,
    })
}

async fn message(State(edge): State<Edge>, request: Request) -> Response {
    let (parts, request_body) = request.into_parts();
    let connection = Connection::of(&parts.extensions).map(Arc::as_ref);
    let is_check_in = is_check_in(&parts.headers);

    // Who it is, as far as that can be said before the body is read. Nothing is read for somebody who would not be let
    // in anyway, and nothing that follows takes back what was judged here.
    let carried = match edge.identities.read(connection, &parts.headers) {
        Ok(carried) => carried,
        Err(why) => return refused(StatusCode::BAD_REQUEST, &why.to_string()),
    };
    let cms = match identify::signature(&parts.headers) {
        Ok(cms) => cms,
        Err(error) => return failed(&error, &edge.metrics),
    };
    let signature = match cms.as_deref().map(identify::claimed).transpose() {
        Ok(signature) => signature,
        Err(error) => return failed(&error, &edge.metrics),
    };
    let presented = match identify::present(&edge.app, carried, signature.as_ref()) {
        Ok(presented) => presented,
        Err(error) => return failed(&error, &edge.metrics),
    };
    let raw = match read(&edge, request_body, is_check_in).await {
        Ok(raw) => raw,
        Err(body::BodyError::Crowded) => return answer::crowded(),
        Err(why) => return refused(why.status(), &why.to_string()),
    };
    if let Some(signature) = &signature
        && let Err(error) = identify::compare(&edge.app, &edge.metrics, signature, &raw)
    {
        return failed(&error, &edge.metrics);
    }
    let arrived = Arrived {
        presented,
        raw: raw.share(),
        address: client_address(&parts, &edge.proxies),
        query: parts.uri.query().map(str::to_owned),
    };

    // Only now: who sends its message byte by byte takes nobody's place. One more in line would make all of them late.
    let Ok(_place) = edge.places.try_acquire() else { return answer::overloaded() };
    let time = edge.app.settings.devices.request_timeout;
    // Check-ins are rare and what is kept for one is large: on the heap, or it would be moved about with each poll.
    let work =
        async { if is_check_in { Box::pin(check_in(&edge, arrived)).await } else { report(&edge, arrived).await } };
    match timeout(time, work).await {
        Ok(response) => response,
        Err(_) => failed(&Error::Unavailable("the request took too long".to_owned()), &edge.metrics),
    }
}

async fn read(edge: &Edge, request_body: Body, is_check_in: bool) -> Result<body::Held, body::BodyError> {
    let devices = &edge.app.settings.devices;
    let limit = if is_check_in { devices.max_checkin_size } else { devices.max_report_size };
    body::read_within(request_body, limit.as_usize(), devices.body_timeout, &edge.memory).await
}

async fn check_in(edge: &Edge, arrived: Arrived) -> Response {
    let limits = Limits::CHECK_IN.sized(edge.app.settings.devices.max_checkin_size.as_usize());
    let message = match protocol::checkin::decode(&arrived.raw, limits) {
        Ok(message) => message,
        Err(why) => return refused(StatusCode::BAD_REQUEST, &why.to_string()),
    };
    let kind = message.message_type();
    match check_in::handle(&edge.app, arrived, message).await {
        Ok(answer) => {
            edge.metrics.checked_in(kind, "ok");
            respond(answer)
        }
        Err(error) => {
            edge.metrics.checked_in(kind, answer::result_word(&error));
            failed(&error, &edge.metrics)
        }
    }
}

async fn report(edge: &Edge, arrived: Arrived) -> Response {
    let limits = Limits::REPORT.sized(edge.app.settings.devices.max_report_size.as_usize());
    let handled = match protocol::report::decode(&arrived.raw, limits) {
        Ok(report) => {
            edge.metrics.reported(report.status.as_str());
            reports::handle(&edge.app, arrived, report).await
        }
        Err(why) => {
            let Some(found) = protocol::unreadable::look(&arrived.raw) else {
                return refused(StatusCode::BAD_REQUEST, &why.to_string());
            };
            edge.metrics.reported("other");
            reports::unreadable(&edge.app, arrived, found, &why.to_string()).await
        }
    };
    match handled {
        Ok(reply) => {
            edge.metrics.device_polled(if reply.command.is_some() { "command" } else { "empty" });
            report_answer(reply.command)
        }
        Err(error) => {
            edge.metrics.device_polled(answer::result_word(&error));
            failed(&error, &edge.metrics)
        }
    }
}

fn is_check_in(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).map(http::HeaderValue::as_bytes).unwrap_or_default();
    kind.get(..CHECK_IN.len()).is_some_and(|start| start.eq_ignore_ascii_case(CHECK_IN.as_bytes()))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn the_content_types_prefix_tells_a_check_in() {
        let of = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(text));
            is_check_in(&headers)
        };
        assert!(of("application/x-apple-aspen-mdm-checkin"));
        assert!(of("Application/X-Apple-Aspen-MDM-Checkin; charset=utf-8"));
        assert!(!of("application/x-apple-aspen-mdm"));
        assert!(!of(""));
        assert!(!is_check_in(&HeaderMap::new()));
    }
}
