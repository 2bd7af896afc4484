//! `/api/v1/certificates`

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::super::Problem;
use super::admit::Caller;
use super::cursor::{Page, Window};
use super::input::{At, Body, Query};
use crate::model::{CaId, DeviceId, EnrollmentId, Sha256, Timestamp};
use crate::service::{App, certificates};
use crate::store::{CertificateFilter, ListedCertificate};

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::default()
        .routes(routes!(list_certificates))
        .routes(routes!(get_certificate))
        .routes(routes!(revoke_certificate))
}

/// Which certificates.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct CertificateQuery {
    /// Of this device.
    #[param(format = Uuid, value_type = Option<String>)]
    device: Option<DeviceId>,
    /// With this serial number, in lower-case hex.
    #[param(min_length = 1, max_length = 100)]
    serial: Option<String>,
    /// Of this authority.
    #[param(format = Uuid, value_type = Option<String>)]
    authority: Option<CaId>,
    /// Revoked ones, or those that are not.
    revoked: Option<bool>,
    /// Those that end before this time.
    #[param(format = DateTime, value_type = Option<String>)]
    expires_before: Option<Timestamp>,
    /// Most items of a page.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<i64>,
    /// Where the page begins: `next_cursor` of the page before.
    #[param(max_length = 4096)]
    cursor: Option<String>,
}

/// A certificate that was issued here.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Certificate {
    sha256: Sha256,
    /// The serial number in hex.
    #[schema(example = "3f0c9a51")]
    serial: String,
    #[schema(example = "CN=device")]
    subject: String,
    authority_id: CaId,
    /// The enrollment that it is for, as soon as that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    enrollment_id: Option<EnrollmentId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    device_id: Option<DeviceId>,
    not_before: Timestamp,
    not_after: Timestamp,
    issued_at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    revoked_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "the device was lost")]
    revoked_reason: Option<String>,
}

impl From<ListedCertificate> for Certificate {
    fn from(row: ListedCertificate) -> Self {
        Self {
            sha256: row.sha256,
            serial: row.serial,
            subject: row.subject,
            authority_id: row.authority_id,
            enrollment_id: row.enrollment_id,
            device_id: row.device_id,
            not_before: row.not_before,
            not_after: row.not_after,
            issued_at: row.issued_at,
            revoked_at: row.revoked_at,
            revoked_reason: row.revoked_reason,
        }
    }
}

/// List the certificates of devices
///
/// Those that this server issued, newest first.
#[utoipa::path(get, path = "/api/v1/certificates", tag = "Certificates", params(CertificateQuery),
    responses((status = 200, body = Page<Certificate>)))]
async fn list_certificates(
    State(app): State<App>,
    Query { value: query, list }: Query<CertificateQuery>,
) -> Result<Json<Page<Certificate>>, Problem> {
    let window = Window::<(i64, String)>::read(query.limit, query.cursor.as_deref(), &list)?;
    let filter = CertificateFilter {
        device: query.device,
        serial: query.serial,
        authority: query.authority,
        revoked: query.revoked,
        expires_before: query.expires_before,
    };
    let after = window.after.as_ref().and_then(|(at, hex)| Some((Timestamp::from_micros(*at), digest(hex)?)));
    let rows = certificates::list(&app, &filter, after, window.rows()).await?;
    Ok(Json(window.page(rows, |row| (row.issued_at.micros(), row.sha256.hex()), Certificate::from)))
}

/// Show a certificate
///
/// By its SHA-256 digest.
#[utoipa::path(get, path = "/api/v1/certificates/{sha256}", tag = "Certificates", params(("sha256" = Sha256, Path)),
    responses((status = 200, body = Certificate)))]
async fn get_certificate(State(app): State<App>, At(hex): At<String>) -> Result<Json<Certificate>, Problem> {
    Ok(Json(certificates::get(&app, named(&hex)?).await?.into()))
}

/// Why a certificate is revoked.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"reason": "the device was lost"}))]
pub(super) struct Revocation {
    /// For the record.
    #[schema(min_length = 1, max_length = 200)]
    reason: String,
}

/// Revoke a certificate
///
/// No device authenticates with it from this moment on.
#[utoipa::path(post, path = "/api/v1/certificates/{sha256}/revoke", tag = "Certificates", request_body = Revocation,
    params(("sha256" = Sha256, Path)), responses((status = 200, body = Certificate)))]
async fn revoke_certificate(
    State(app): State<App>,
    caller: Caller,
    At(hex): At<String>,
    Body(new): Body<Revocation>,
) -> Result<Json<Certificate>, Problem> {
    let sha256 = named(&hex)?;
    certificates::revoke(&app, &caller.0, sha256, &new.reason).await?;
    Ok(Json(certificates::get(&app, sha256).await?.into()))
}

fn named(hex: &str) -> Result<Sha256, Problem> {
    digest(hex).ok_or_else(|| Problem::not_found("a certificate is named by its SHA-256 digest, 64 letters of hex"))
}

fn digest(hex: &str) -> Option<Sha256> {
    Sha256::from_slice(&hex::decode(hex).ok()?)
}
