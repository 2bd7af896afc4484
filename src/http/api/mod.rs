//! The API for admins: `/api/v1`, its document and the reader of the document.
//!
//! Each route is a handler that reads its input ([`input`]), calls one verb of `service` and shapes the answer. Who may
//! call it stands in one table ([`roles`]); what can go wrong is one form ([`super::Problem`]). The OpenAPI document is
//! made of the handlers; what is the same for all routes is added in [`document`].

pub mod roles;

mod admit;
mod check;
mod cursor;
mod document;
mod example;
mod fault;
mod file;
mod input;
mod output;
mod schema;

mod apns;
mod apps;
mod audit;
mod authorities;
mod certificates;
mod commands;
mod devices;
mod enrollment;
mod profiles;
mod server;
mod tokens;
mod webhooks;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::Response;
use axum::routing::get;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, StatusCode, Uri};
use utoipa_axum::router::OpenApiRouter;
use utoipa_swagger_ui::{Config, SwaggerUi};

use super::{Metrics, Problem};
use crate::service::App;

pub use document::openapi;
pub use fault::CODES;

/// Where the document is.
pub const DOCUMENT: &str = "/api/openapi.json";
/// Where its reader is.
pub const DOCS: &str = "/api/docs";

/// The API, its document and the reader.
pub fn router(app: App, metrics: Metrics) -> Router {
    let admission = admit::Admission::new(app.clone(), metrics);
    let (routes, _) = routes().split_for_parts();
    let routes = routes
        .method_not_allowed_fallback(method_not_allowed)
        .route_layer(from_fn_with_state(Arc::new(admission), admit::admit))
        .with_state(app);
    let text: Arc<str> = openapi().to_string().into();
    let docs = SwaggerUi::new(DOCS).config(Config::new([DOCUMENT]).persist_authorization(false).validator_url("none"));
    let docs = Router::from(docs).layer(from_fn(plain_headers));
    routes
        .route(
            DOCUMENT,
            get(move || async move { ([(CONTENT_TYPE, HeaderValue::from_static("application/json"))], text.to_string()) }),
        )
        .merge(docs)
        .fallback(not_found)
}

/// The routes of the API. Each resource is a module with a `routes` of its own.
fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::default()
        .merge(server::routes())
        .merge(devices::routes())
        .merge(commands::routes())
        .merge(profiles::routes())
        .merge(apps::routes())
        .merge(apns::routes())
        .merge(certificates::routes())
        .merge(tokens::routes())
        .merge(audit::routes())
        .merge(enrollment::routes())
        .merge(authorities::routes())
        .merge(webhooks::routes())
}

async fn not_found(uri: Uri) -> Problem {
    Problem::not_found(format!("there is nothing at {}; {DOCS} shows what there is", uri.path()))
}

async fn method_not_allowed(method: Method) -> Problem {
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", format!("{method} is not possible here"))
}

/// The reader loads nothing from elsewhere and is shown in no frame.
async fn plain_headers(request: axum::extract::Request, next: axum::middleware::Next) -> Response {
    let mut response = next.run(request).await;
    super::page::secure(response.headers_mut());
    response.headers_mut().insert(
        http::header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(
            "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; frame-ancestors 'none'",
        ),
    );
    response
}

/// How long an ordinary request may take before it is given up.
fn patience(app: &App) -> Duration {
    app.settings.admin.request_timeout
}
