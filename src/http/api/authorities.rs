//! `/api/v1/authorities`

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::super::Problem;
use super::admit::Caller;
use super::input::{At, Creation, Query};
use super::output::Made;
use crate::model::{CaId, Secret, Sha256, Timestamp};
use crate::service::App;
use crate::service::authorities::{self, Listed};

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::default()
        .routes(routes!(list_authorities, import_authority))
        .routes(routes!(get_authority, retire_authority))
        .routes(routes!(activate_authority))
}

/// A certificate authority.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Authority {
    id: CaId,
    /// `device`: its certificates identify devices. `tls`: the root of this server's own certificates.
    #[schema(example = "device")]
    purpose: String,
    #[schema(example = "Example Device CA")]
    name: String,
    /// Whether it issues; one of each purpose does.
    active: bool,
    /// Whether its key is here.
    has_key: bool,
    /// Whether its certificates are issued elsewhere, so that they stand in no issuing record here.
    issues_elsewhere: bool,
    /// How many devices have a certificate of it.
    devices: i64,
    #[schema(example = "CN=Example Device CA, O=Example School")]
    subject: String,
    sha256: Sha256,
    not_before: Timestamp,
    not_after: Timestamp,
    created_at: Timestamp,
    /// The certificate, PEM.
    #[schema(example = "-----BEGIN CERTIFICATE-----\n…\n-----END CERTIFICATE-----\n")]
    certificate: String,
}

impl From<Listed> for Authority {
    fn from(listed: Listed) -> Self {
        let certificate = listed.certificate;
        Self {
            id: listed.id,
            purpose: listed.purpose,
            name: listed.name,
            active: listed.active,
            has_key: listed.has_key,
            issues_elsewhere: listed.issues_elsewhere,
            devices: listed.devices,
            subject: certificate.subject.clone(),
            sha256: certificate.sha256,
            not_before: certificate.not_before,
            not_after: certificate.not_after,
            created_at: listed.created_at,
            certificate: certificate.to_pem(),
        }
    }
}

/// All authorities.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Authorities {
    items: Vec<Authority>,
}

/// A device CA to be accepted.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"certificate": "-----BEGIN CERTIFICATE-----…", "issues_elsewhere": true}))]
pub(super) struct NewAuthority {
    /// A name for people; the certificate's common name where nothing is said.
    #[schema(max_length = 200)]
    name: Option<String>,
    /// The certificate, PEM.
    #[schema(min_length = 1, max_length = 65_536)]
    certificate: String,
    /// Its key, PEM, if it is to issue here.
    #[schema(value_type = Option<String>, max_length = 65_536)]
    key: Option<Secret<String>>,
    /// The password of the key.
    #[schema(value_type = Option<String>, max_length = 1024)]
    password: Option<Secret<String>>,
    /// Whether its certificates are issued elsewhere. They are pinned to a device when it authenticates, and need no
    /// issuing record here.
    issues_elsewhere: Option<bool>,
    /// Whether it issues from now on, in place of the one that does.
    activate: Option<bool>,
}

/// How to retire.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct RetireQuery {
    /// Retire it although devices have certificates of it; they must then enroll anew.
    force: Option<bool>,
}

/// List the certificate authorities
///
/// Those whose certificates devices may present, and the root of the server's own certificates.
#[utoipa::path(get, path = "/api/v1/authorities", tag = "Certificates", responses((status = 200, body = Authorities)))]
async fn list_authorities(State(app): State<App>) -> Result<Json<Authorities>, Problem> {
    let listed = authorities::list(&app).await?;
    Ok(Json(Authorities { items: listed.into_iter().map(Authority::from).collect() }))
}

/// Accept the certificates of another device CA
#[utoipa::path(post, path = "/api/v1/authorities", tag = "Certificates", request_body = NewAuthority,
    responses((status = 201, body = Authority, headers(("Location" = String)))))]
async fn import_authority(
    State(app): State<App>,
    Creation(actor, new): Creation<NewAuthority>,
) -> Result<Made<Authority>, Problem> {
    let import = authorities::Import {
        name: new.name.unwrap_or_default(),
        certificate: new.certificate.into_bytes(),
        key: new.key.map(|key| Secret::new(key.expose().clone().into_bytes())),
        password: new.password,
        issues_elsewhere: new.issues_elsewhere.unwrap_or(false),
        activate: new.activate.unwrap_or(false),
    };
    let listed = authorities::import(&app, &actor, import).await?;
    Ok(Made { at: format!("/api/v1/authorities/{}", listed.id), body: listed.into() })
}

/// Show a certificate authority
#[utoipa::path(get, path = "/api/v1/authorities/{id}", tag = "Certificates", params(("id" = CaId, Path)),
    responses((status = 200, body = Authority)))]
async fn get_authority(State(app): State<App>, At(id): At<CaId>) -> Result<Json<Authority>, Problem> {
    Ok(Json(authorities::get(&app, id).await?.into()))
}

/// Issue from another device CA
///
/// The one that issued before stays accepted until it is retired.
#[utoipa::path(post, path = "/api/v1/authorities/{id}/activate", tag = "Certificates", params(("id" = CaId, Path)),
    responses((status = 200, body = Authority)))]
async fn activate_authority(
    State(app): State<App>,
    Caller(actor): Caller,
    At(id): At<CaId>,
) -> Result<Json<Authority>, Problem> {
    authorities::activate(&app, &actor, id).await?;
    Ok(Json(authorities::get(&app, id).await?.into()))
}

/// Retire a device CA
///
/// Its certificates are accepted no more.
#[utoipa::path(delete, path = "/api/v1/authorities/{id}", tag = "Certificates",
    params(("id" = CaId, Path), RetireQuery), responses((status = 204)))]
async fn retire_authority(
    State(app): State<App>,
    Caller(actor): Caller,
    At(id): At<CaId>,
    Query { value: query, .. }: Query<RetireQuery>,
) -> Result<StatusCode, Problem> {
    authorities::retire(&app, &actor, id, query.force.unwrap_or(false)).await?;
    Ok(StatusCode::NO_CONTENT)
}
