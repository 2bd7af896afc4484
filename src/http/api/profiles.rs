//! `/api/v1/profiles`

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::super::Problem;
use super::admit::Caller;
use super::cursor::{MAX_LIMIT, Page, Window};
use super::file::{File, attachment, kind_of};
use super::input::{At, IfMatch, MaybeIfMatch, Query, Upload};
use super::output::{Made, Tagged};
use crate::model::{ProfileId, Sha256, Timestamp};
use crate::service::{App, profiles};
use crate::store::{ProfileFacts, ProfileFilter};

/// What profiles are served as, and the types that they may come with.
const PROFILE: &str = "application/x-apple-aspen-config";
const TAKEN: &[&str] = &[PROFILE, "application/xml", "text/xml", "application/octet-stream"];

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::default()
        .routes(routes!(list_profiles, create_profile))
        .routes(routes!(get_profile, replace_profile, delete_profile))
        .routes(routes!(get_profile_content))
}

/// A configuration profile, without its content.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct Profile {
    id: ProfileId,
    /// Its `PayloadIdentifier`: on a device, a profile takes the place of the one with the same.
    #[schema(example = "org.example.wifi")]
    identifier: String,
    /// Its `PayloadDisplayName`, or else the identifier.
    #[schema(example = "Wi-Fi")]
    name: String,
    /// Its `PayloadUUID`.
    #[schema(example = "5C1F0A3E-7B64-4E0D-9B1C-2F8A6D3E4B57")]
    payload_uuid: String,
    /// Its `PayloadOrganization`.
    #[serde(skip_serializing_if = "Option::is_none")]
    organization: Option<String>,
    /// On a Mac: for the whole `system`, or for one `user`.
    #[schema(example = "system")]
    scope: String,
    /// The types of its payloads; none of a profile that is encrypted for one device.
    #[schema(example = json!(["com.apple.wifi.managed"]))]
    payload_types: Vec<String>,
    /// Whether it was uploaded signed, and is installed as it is; others are signed by the server.
    signed: bool,
    size_bytes: i64,
    /// Digest of the file as it was uploaded.
    sha256: Sha256,
    created_at: Timestamp,
    /// Who uploaded it first.
    #[schema(example = "help desk")]
    created_by: String,
    updated_at: Timestamp,
}

impl From<ProfileFacts> for Profile {
    fn from(row: ProfileFacts) -> Self {
        Self {
            id: row.id,
            identifier: row.identifier,
            name: row.name,
            payload_uuid: row.payload_uuid,
            organization: row.organization,
            scope: row.scope,
            payload_types: serde_json::from_str(&row.payload_types).unwrap_or_default(),
            signed: row.signed,
            size_bytes: row.size_bytes,
            sha256: row.sha256,
            created_at: row.created_at,
            created_by: row.created_by,
            updated_at: row.updated_at,
        }
    }
}

fn tagged<T>(row: ProfileFacts, answer: impl FnOnce(Profile) -> T) -> Tagged<T> {
    Tagged { revision: row.revision, answer: answer(row.into()) }
}

/// Which profiles to list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Filters {
    /// Only the one with this identifier.
    #[param(max_length = 255)]
    identifier: Option<String>,
    /// Only those with a payload of this type.
    #[param(max_length = 255, example = "com.apple.wifi.managed")]
    payload_type: Option<String>,
    /// How many to show at most.
    #[param(minimum = 1, maximum = 500, default = 50)]
    limit: Option<i64>,
    /// Where to go on: the `next_cursor` of the page before.
    cursor: Option<String>,
}

const _: () = assert!(MAX_LIMIT == 500);

/// List the profiles
///
/// Newest first, without their contents.
#[utoipa::path(get, path = "/api/v1/profiles", tag = "Profiles", params(Filters),
    responses((status = 200, body = Page<Profile>)))]
async fn list_profiles(State(app): State<App>, query: Query<Filters>) -> Result<Json<Page<Profile>>, Problem> {
    let Filters { identifier, payload_type, limit, cursor } = query.value;
    let window = Window::<ProfileId>::read(limit, cursor.as_deref(), &query.list)?;
    let filter = ProfileFilter { identifier, payload_type };
    let rows = profiles::list(&app, &filter, window.after, window.rows()).await?;
    Ok(Json(window.page(rows, |row| row.id, Profile::from)))
}

/// Upload a profile
///
/// The file as it is: XML or binary, signed or not, at most 4 MiB. All its faults are named at once. A signed one is
/// installed as it is; others are signed by the server when they are installed. Contents are encrypted at rest.
#[utoipa::path(post, path = "/api/v1/profiles", tag = "Profiles",
    request_body(description = "The .mobileconfig file", content(
        (File = "application/x-apple-aspen-config"), (File = "application/xml"), (File = "text/xml"),
        (File = "application/octet-stream"))),
    responses((status = 201, body = Profile, headers(("Location" = String), ("ETag" = String)))))]
async fn create_profile(State(app): State<App>, upload: Upload) -> Result<Tagged<Made<Profile>>, Problem> {
    kind_of(&upload.headers, TAKEN)?;
    let row = profiles::create(&app, &upload.actor, &upload.bytes).await?;
    Ok(tagged(row, |profile| Made { at: format!("/api/v1/profiles/{}", profile.id), body: profile }))
}

/// Show a profile
///
/// Without its content.
#[utoipa::path(get, path = "/api/v1/profiles/{id}", tag = "Profiles", params(("id" = ProfileId, Path)),
    responses((status = 200, body = Profile, headers(("ETag" = String)))))]
async fn get_profile(State(app): State<App>, At(id): At<ProfileId>) -> Result<Tagged<Json<Profile>>, Problem> {
    Ok(tagged(profiles::get(&app, id).await?, Json))
}

/// Replace a profile
///
/// With another content under the same identifier. What was asked to be installed before is installed as it was then;
/// devices that have the old one keep it until the new one is installed.
#[utoipa::path(put, path = "/api/v1/profiles/{id}", tag = "Profiles",
    params(("id" = ProfileId, Path), ("If-Match" = String, Header, description = "The `ETag` of what you have read, or `*`")),
    request_body(description = "The .mobileconfig file", content(
        (File = "application/x-apple-aspen-config"), (File = "application/xml"), (File = "text/xml"),
        (File = "application/octet-stream"))),
    responses((status = 200, body = Profile, headers(("ETag" = String)))))]
async fn replace_profile(
    State(app): State<App>,
    At(id): At<ProfileId>,
    IfMatch(revision): IfMatch,
    upload: Upload,
) -> Result<Tagged<Json<Profile>>, Problem> {
    kind_of(&upload.headers, TAKEN)?;
    let row = profiles::replace(&app, &upload.actor, id, revision, &upload.bytes).await?;
    Ok(tagged(row, Json))
}

/// Delete a profile
///
/// It stays on the devices that have it; `remove_profile` takes it from there.
#[utoipa::path(delete, path = "/api/v1/profiles/{id}", tag = "Profiles",
    params(("id" = ProfileId, Path), ("If-Match" = Option<String>, Header, description = "The `ETag` of what you have read, or `*`")),
    responses((status = 204, description = "It is not kept any more")))]
async fn delete_profile(
    State(app): State<App>,
    caller: Caller,
    At(id): At<ProfileId>,
    MaybeIfMatch(revision): MaybeIfMatch,
) -> Result<StatusCode, Problem> {
    profiles::remove(&app, &caller.0, id, revision).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Download a profile
///
/// The file as it was uploaded. It may hold passwords and keys, so only an admin may, and the audit log says who did.
#[utoipa::path(get, path = "/api/v1/profiles/{id}/content", tag = "Profiles", params(("id" = ProfileId, Path)),
    responses((status = 200, body = File, content_type = "application/x-apple-aspen-config")))]
async fn get_profile_content(
    State(app): State<App>,
    caller: Caller,
    At(id): At<ProfileId>,
) -> Result<Response, Problem> {
    let (_, content) = profiles::content(&app, &caller.0, id).await?;
    Ok(attachment(PROFILE, &format!("{id}.mobileconfig"), content.expose().clone()))
}
