//! `/api/v1/enrollment-links` and `/api/v1/scep/challenges`

use axum::Json;
use axum::extract::State;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::super::Problem;
use super::admit::Caller;
use super::cursor::{Page, Window};
use super::input::{At, Creation, Query};
use super::output::Made;
use crate::model::{ChallengeId, LinkId, Sha256, Timestamp};
use crate::service::enrollment::{self, LinkView};
use crate::service::{App, scep};

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::default()
        .routes(routes!(list_enrollment_links, create_enrollment_link))
        .routes(routes!(get_enrollment_link, revoke_enrollment_link))
        .routes(routes!(create_scep_challenge))
}

/// An enrollment link to be made.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"name": "reception", "uses": 5, "expires_at": "2027-01-31T00:00:00Z"}))]
pub(super) struct NewEnrollmentLink {
    /// What it is for, for admins.
    #[schema(min_length = 1, max_length = 200)]
    name: String,
    /// How many devices may enroll by it; without it, any number.
    #[schema(minimum = 1, maximum = 1_000_000)]
    uses: Option<i64>,
    /// Until when it can be opened; without it, until it is ended.
    expires_at: Option<Timestamp>,
    /// Whose devices they will be.
    #[schema(max_length = 200)]
    user_name: Option<String>,
    /// The user's e-mail address.
    #[schema(max_length = 254, example = "kim@example.org")]
    user_email: Option<String>,
}

/// An enrollment link, without its code.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct EnrollmentLink {
    id: LinkId,
    #[schema(example = "reception")]
    name: String,
    /// `open`, `used_up`, `expired` or `revoked`.
    #[schema(example = "open")]
    state: &'static str,
    /// How many devices may enroll by it; absent for any number.
    #[serde(skip_serializing_if = "Option::is_none")]
    uses_allowed: Option<i64>,
    /// How many have.
    uses_count: i64,
    /// How many uses are held by devices that have a certificate and are not enrolled yet.
    uses_reserved: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_email: Option<String>,
    created_at: Timestamp,
    /// The name of the token that made it.
    #[schema(example = "help desk")]
    created_by: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    revoked_at: Option<Timestamp>,
}

impl From<LinkView> for EnrollmentLink {
    fn from(view: LinkView) -> Self {
        let link = view.link;
        Self {
            id: link.id,
            name: link.name,
            state: view.state.as_str(),
            uses_allowed: link.uses_allowed,
            uses_count: link.uses_count,
            uses_reserved: view.reserved,
            user_name: link.user_name,
            user_email: link.user_email,
            created_at: link.created_at,
            created_by: link.created_by,
            expires_at: link.expires_at,
            revoked_at: link.revoked_at,
        }
    }
}

/// An enrollment link that was made, with what is shown this once.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct CreatedEnrollmentLink {
    #[serde(flatten)]
    facts: EnrollmentLink,
    /// What to send to whoever enrolls.
    #[schema(example = "https://mdm.example.org/enroll/4K7Q…")]
    url: String,
    /// The URL as a QR code, SVG.
    #[schema(example = "<svg xmlns=\"http://www.w3.org/2000/svg\">…</svg>")]
    qr_svg: String,
    /// The URL as a QR code, PNG in base64.
    #[schema(example = "iVBORw0KGgo…")]
    qr_png: String,
}

/// Which links.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct LinkQuery {
    /// Most items of a page.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<i64>,
    /// Where the page begins: `next_cursor` of the page before.
    #[param(max_length = 4096)]
    cursor: Option<String>,
}

/// List the enrollment links
///
/// Newest first; those that ended too. Codes are not shown again.
#[utoipa::path(get, path = "/api/v1/enrollment-links", tag = "Enrollment", params(LinkQuery),
    responses((status = 200, body = Page<EnrollmentLink>)))]
async fn list_enrollment_links(
    State(app): State<App>,
    Query { value: query, list }: Query<LinkQuery>,
) -> Result<Json<Page<EnrollmentLink>>, Problem> {
    let window = Window::<LinkId>::read(query.limit, query.cursor.as_deref(), &list)?;
    let views = enrollment::list_links(&app, window.after, window.rows()).await?;
    Ok(Json(window.page(views, |view| view.link.id, EnrollmentLink::from)))
}

/// Make an enrollment link
///
/// Send its URL, or the QR code, to whoever is to enroll a device. The URL is shown this once.
#[utoipa::path(post, path = "/api/v1/enrollment-links", tag = "Enrollment", request_body = NewEnrollmentLink,
    responses((status = 201, body = CreatedEnrollmentLink, headers(("Location" = String)))))]
async fn create_enrollment_link(
    State(app): State<App>,
    Creation(actor, new): Creation<NewEnrollmentLink>,
) -> Result<Made<CreatedEnrollmentLink>, Problem> {
    let new = enrollment::NewLink {
        name: new.name,
        uses: new.uses,
        expires_at: new.expires_at,
        user_name: new.user_name,
        user_email: new.user_email,
    };
    let made = enrollment::create_link(&app, &actor, new).await?;
    let at = format!("/api/v1/enrollment-links/{}", made.link.link.id);
    let body = CreatedEnrollmentLink {
        facts: made.link.into(),
        url: made.url.expose().clone(),
        qr_svg: made.qr_svg.expose().clone(),
        qr_png: STANDARD.encode(made.qr_png.expose()),
    };
    Ok(Made { at, body })
}

/// Show an enrollment link
///
/// Without its code, which nobody can show again.
#[utoipa::path(get, path = "/api/v1/enrollment-links/{id}", tag = "Enrollment", params(("id" = LinkId, Path)),
    responses((status = 200, body = EnrollmentLink)))]
async fn get_enrollment_link(State(app): State<App>, At(id): At<LinkId>) -> Result<Json<EnrollmentLink>, Problem> {
    Ok(Json(enrollment::get_link(&app, id).await?.into()))
}

/// End an enrollment link
///
/// Nobody enrolls by it from now on; devices that did stay.
#[utoipa::path(delete, path = "/api/v1/enrollment-links/{id}", tag = "Enrollment", params(("id" = LinkId, Path)),
    responses((status = 204)))]
async fn revoke_enrollment_link(
    State(app): State<App>,
    Caller(actor): Caller,
    At(id): At<LinkId>,
) -> Result<StatusCode, Problem> {
    enrollment::revoke_link(&app, &actor, id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// A SCEP challenge to be made.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"name": "profile of the front desk", "uses": 1}))]
pub(super) struct NewScepChallenge {
    /// What it is for, for admins.
    #[schema(max_length = 200)]
    name: Option<String>,
    /// How many certificates it gives; one where nothing is said.
    #[schema(minimum = 1, maximum = 1_000_000)]
    uses: Option<i64>,
    /// Until when; `scep.challenge_lifetime` from now where nothing is said.
    expires_at: Option<Timestamp>,
}

/// A SCEP challenge, shown this once.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct CreatedScepChallenge {
    id: ChallengeId,
    /// The challenge.
    #[schema(example = "4K7Q…")]
    challenge: String,
    /// Where it is to be used.
    #[schema(example = "https://mdm.example.org/scep")]
    url: String,
    /// SHA-256 of the certificate of the CA that issues, for clients that check it.
    ca_sha256: Sha256,
    /// How many certificates it gives.
    #[schema(example = 1)]
    uses: i64,
    expires_at: Timestamp,
}

/// Make a SCEP challenge
///
/// For profiles and tools that were made elsewhere. Whoever has it gets a certificate by which a device can enroll.
#[utoipa::path(post, path = "/api/v1/scep/challenges", tag = "Enrollment", request_body = NewScepChallenge,
    responses((status = 201, body = CreatedScepChallenge)))]
async fn create_scep_challenge(
    State(app): State<App>,
    Creation(actor, new): Creation<NewScepChallenge>,
) -> Result<(StatusCode, Json<CreatedScepChallenge>), Problem> {
    let new = scep::NewApiChallenge { name: new.name.unwrap_or_default(), uses: new.uses, expires_at: new.expires_at };
    let made = scep::mint_challenge(&app, &actor, new).await?;
    let body = CreatedScepChallenge {
        id: made.id,
        challenge: made.challenge.expose().clone(),
        url: made.url,
        ca_sha256: made.ca_sha256,
        uses: made.uses,
        expires_at: made.expires_at,
    };
    Ok((StatusCode::CREATED, Json(body)))
}
