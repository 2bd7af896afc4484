//! What a person sees who enrolls a device: `/enroll` asks for a code, `/enroll/{code}` tells what will happen and has
//! one button, `/enroll/{code}/profile` is what the button downloads.

mod view;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use askama::Template;
use axum::Router;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::header::{CONTENT_DISPOSITION, CONTENT_TYPE, LOCATION, RETRY_AFTER};
use http::request::Parts;
use http::{HeaderValue, Method, StatusCode};
use tokio::time::timeout;
use url::form_urlencoded;

use super::limit::RateLimiter;
use super::observe::client_address;
use super::page::{page, secure};
use super::problem::retry_after;
use super::{Metrics, Proxies, body};
use crate::service::enrollment::{LinkError, normalized_code, open_link, profile_for_link, svg};
use crate::service::{App, Error};
use view::{AskView, LinkView, NoticeView, STYLE};

/// The name of the limit in the metrics.
const LIMIT: &str = "enrollment";
/// The media type that makes a device offer to install a profile.
const PROFILE: &str = "application/x-apple-aspen-config";
/// The largest form, in bytes: it has one field.
const MAX_FORM: usize = 4096;
/// How long to wait after trouble here.
const TROUBLE_WAIT: Duration = Duration::from_secs(60);

#[derive(Clone)]
struct Pages {
    app: App,
    metrics: Metrics,
    proxies: Arc<Proxies>,
    limiter: Arc<RateLimiter>,
}

/// The routes for people who enroll a device.
pub fn router(app: App, metrics: Metrics) -> Router {
    let limiter = Arc::new(RateLimiter::per_minute(app.settings.enrollment.requests_per_minute));
    let proxies = Arc::new(Proxies::from(&app.settings.proxy));
    Router::new()
        .route("/enroll", get(ask).post(code_entered))
        .route("/enroll/", get(ask).post(code_entered))
        .route("/enroll/{code}", get(link))
        .route("/enroll/{code}/profile", get(profile))
        .with_state(Pages { app, metrics, proxies, limiter })
}

async fn ask(State(pages): State<Pages>, request: Request) -> Response {
    let (parts, _) = request.into_parts();
    pages.refuse_too_many(&parts).unwrap_or_else(|| pages.ask(StatusCode::OK, None))
}

/// The code came by POST, so that it stands in no log of addresses on the way.
async fn code_entered(State(pages): State<Pages>, request: Request) -> Response {
    let (parts, request_body) = request.into_parts();
    if let Some(refused) = pages.refuse_too_many(&parts) {
        return refused;
    }
    let Ok(form) = body::read(request_body, MAX_FORM, pages.app.settings.devices.body_timeout).await else {
        return pages.ask(StatusCode::BAD_REQUEST, Some("That could not be read. Please enter the code again."));
    };
    let field = form_urlencoded::parse(&form).find(|(name, _)| name == "code").map(|(_, value)| value.into_owned());
    let Some(code) = field.as_deref().and_then(normalized_code) else {
        return pages.ask(StatusCode::BAD_REQUEST, Some("Please enter a code."));
    };
    // Codes consist of letters and digits; what does not is no code, and is not put into a header.
    if !code.expose().bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return pages.ask(StatusCode::NOT_FOUND, Some("There is no such code. Please check it, and enter it again."));
    }
    let mut response = StatusCode::SEE_OTHER.into_response();
    secure(response.headers_mut());
    if let Ok(location) = HeaderValue::from_str(&format!("/enroll/{}", code.expose())) {
        response.headers_mut().insert(LOCATION, location);
    }
    response
}

async fn link(State(pages): State<Pages>, code: Result<Path<String>, PathRejection>, request: Request) -> Response {
    let (parts, _) = request.into_parts();
    if let Some(refused) = pages.refuse_too_many(&parts) {
        return refused;
    }
    let Some(code) = code.ok().and_then(|Path(code)| normalized_code(&code)) else {
        return pages.dead(&LinkError::Unknown, None);
    };
    let opened = pages.in_time(open_link(&pages.app, code.expose())).await;
    let shown = opened.and_then(|opened| {
        let address = pages.app.settings.pages_url().at(&format!("/enroll/{}", code.expose()));
        let qr = svg(&address)?;
        LinkView::new(&opened, code.expose(), &qr).render().map_err(|e| Error::Internal(e.to_string()).into())
    });
    match shown {
        Ok(html) => page(StatusCode::OK, html, STYLE),
        Err(error) => pages.dead(&error, Some(code.expose())),
    }
}

async fn profile(State(pages): State<Pages>, code: Result<Path<String>, PathRejection>, request: Request) -> Response {
    let (parts, _) = request.into_parts();
    if let Some(refused) = pages.refuse_too_many(&parts) {
        return refused;
    }
    let Some(code) = code.ok().and_then(|Path(code)| normalized_code(&code)) else {
        return pages.dead(&LinkError::Unknown, None);
    };
    let made = if parts.method == Method::HEAD {
        // Whoever only wants to know whether it is there gets no challenge.
        match pages.in_time(open_link(&pages.app, code.expose())).await {
            Ok(opened) if !opened.ready => Err(LinkError::NotReady),
            other => other.map(|_| Vec::new()),
        }
    } else {
        pages.in_time(profile_for_link(&pages.app, code.expose())).await
    };
    match made {
        Ok(profile) => {
            let mut response = profile.into_response();
            let headers = response.headers_mut();
            secure(headers);
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(PROFILE));
            headers
                .insert(CONTENT_DISPOSITION, HeaderValue::from_static("attachment; filename=\"enroll.mobileconfig\""));
            response
        }
        Err(error) => pages.dead(&error, Some(code.expose())),
    }
}

/// What a page says that has nothing else to say.
struct Notice {
    status: StatusCode,
    heading: &'static str,
    text: Cow<'static, str>,
    /// After which time it may help to try again.
    wait: Option<Duration>,
}

impl Pages {
    /// Counts the request. The answer, if there were too many.
    fn refuse_too_many(&self, parts: &Parts) -> Option<Response> {
        let wait = self.limiter.check(client_address(parts, &self.proxies)).err()?;
        self.metrics.rate_limited(LIMIT);
        let notice = Notice {
            status: StatusCode::TOO_MANY_REQUESTS,
            heading: "Too many requests",
            text: "Too many requests came from your network. Please wait a minute and try again.".into(),
            wait: Some(wait),
        };
        Some(self.notice(&notice, None))
    }

    async fn in_time<T>(&self, work: impl Future<Output = Result<T, LinkError>>) -> Result<T, LinkError> {
        let late = || LinkError::Other(Error::Unavailable("the request took too long".to_owned()));
        timeout(self.app.settings.devices.request_timeout, work).await.unwrap_or_else(|_| Err(late()))
    }

    fn ask(&self, status: StatusCode, problem: Option<&'static str>) -> Response {
        let settings = &self.app.settings.organization;
        let view = AskView { style: STYLE, organization: &settings.name, support: &settings.support, problem };
        rendered(status, &view)
    }

    /// Says kindly why a link lets nobody in.
    fn dead(&self, error: &LinkError, code: Option<&str>) -> Response {
        let notice = notice_of(error);
        if let LinkError::Other(error) = error {
            tracing::error!(why = %error, "an enrollment page cannot be shown");
            if matches!(error, Error::Unavailable(_)) {
                self.metrics.database_failed("unavailable");
            }
        }
        let again = code.filter(|_| notice.wait.is_some()).map(|code| format!("/enroll/{code}"));
        self.notice(&notice, again)
    }

    fn notice(&self, notice: &Notice, again: Option<String>) -> Response {
        let settings = &self.app.settings.organization;
        let view = NoticeView {
            style: STYLE,
            organization: &settings.name,
            support: &settings.support,
            heading: notice.heading,
            text: &notice.text,
            again,
        };
        let mut response = rendered(notice.status, &view);
        if let Some(wait) = notice.wait {
            response.headers_mut().insert(RETRY_AFTER, retry_after(wait));
        }
        response
    }
}

fn notice_of(error: &LinkError) -> Notice {
    let (status, heading, text, wait) = match error {
        LinkError::Unknown => (
            StatusCode::NOT_FOUND,
            "This link is not known",
            "Please check that the whole address was taken over, or ask whoever sent it to you for a new one.",
            None,
        ),
        LinkError::UsedUp => (
            StatusCode::GONE,
            "This link has been used",
            "It let in as many devices as it was made for. If yours is not among them, ask for a new link.",
            None,
        ),
        LinkError::Expired => {
            (StatusCode::GONE, "This link has expired", "Please ask whoever sent it to you for a new one.", None)
        }
        LinkError::Revoked => (
            StatusCode::GONE,
            "This link is no longer valid",
            "It was withdrawn. Please ask whoever sent it to you for a new one.",
            None,
        ),
        LinkError::NotReady => (
            StatusCode::SERVICE_UNAVAILABLE,
            "Not ready yet",
            "This server cannot enroll devices at the moment: its push certificate is missing or has expired. Please come \
             back later.",
            Some(TROUBLE_WAIT),
        ),
        LinkError::Busy { wait } => {
            let minutes = wait.as_secs().div_ceil(60).max(1);
            let text = format!(
                "Its profile was downloaded several times just now, or a device is enrolling by it. Install the profile \
                 that you have, or try again in {minutes} {}.",
                if minutes == 1 { "minute" } else { "minutes" }
            );
            return Notice {
                status: StatusCode::TOO_MANY_REQUESTS,
                heading: "This link is in use",
                text: text.into(),
                wait: Some(*wait),
            };
        }
        LinkError::Other(Error::Unavailable(_) | Error::Conflict { .. }) => (
            StatusCode::SERVICE_UNAVAILABLE,
            "Not available at the moment",
            "The server cannot answer right now. Please try again in a minute.",
            Some(TROUBLE_WAIT),
        ),
        LinkError::Other(_) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            "Something went wrong",
            "This is a fault of the server. Please tell your administrator.",
            None,
        ),
    };
    Notice { status, heading, text: text.into(), wait }
}

fn rendered(status: StatusCode, view: &impl Template) -> Response {
    match view.render() {
        Ok(html) => page(status, html, STYLE),
        Err(why) => {
            tracing::error!(%why, "a page cannot be written");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}
