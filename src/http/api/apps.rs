//! `/api/v1/apps`

use axum::Json;
use axum::extract::{Request, State};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::super::Problem;
use super::super::body;
use super::admit::Caller;
use super::cursor::{MAX_LIMIT, Page, Window};
use super::fault::{invalid_request, too_many_uploads};
use super::file::{File, kind_of};
use super::input::{At, Body, Creation, IfMatch, MaybeIfMatch, Query, announced};
use super::output::{Made, Tagged};
use crate::catalog::without_query;
use crate::model::{AppId, Role, Sha256, Timestamp};
use crate::service::apps::{self, Kept, NotUploaded, Reference};
use crate::service::{self, Fault};
use crate::store::AppFilter;

/// The types that packages may come with.
const TAKEN: &[&str] = &["application/octet-stream", "application/zip", "application/x-ios-app"];

pub(super) fn routes() -> OpenApiRouter<service::App> {
    OpenApiRouter::default()
        .routes(routes!(list_apps, create_app))
        .routes(routes!(get_app, change_app, delete_app))
        .routes(routes!(upload_package))
}

/// An app that is kept for installing.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct App {
    id: AppId,
    kind: AppKind,
    /// Its name, for people.
    #[schema(example = "Notes")]
    name: String,
    /// Its bundle id.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "org.example.notes")]
    bundle_id: Option<String>,
    /// Its version; of a package, the `CFBundleVersion`.
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    /// Of a package, the version that people see.
    #[serde(skip_serializing_if = "Option::is_none")]
    display_version: Option<String>,
    /// Of a package, the least version of the system.
    #[serde(skip_serializing_if = "Option::is_none")]
    minimum_os: Option<String>,
    /// Its number in the App Store.
    #[serde(skip_serializing_if = "Option::is_none")]
    store_id: Option<i64>,
    /// Where its manifest is, if not here; for viewers without the query, which may be what lets one in.
    #[serde(skip_serializing_if = "Option::is_none")]
    manifest_url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    package: Option<Package>,
    created_at: Timestamp,
    /// Who added it.
    #[schema(example = "help desk")]
    created_by: String,
    updated_at: Timestamp,
}

/// How devices find an app.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum AppKind {
    /// In the App Store.
    Store,
    /// By a manifest that lies elsewhere.
    Manifest,
    /// By a package that is kept here.
    Package,
}

impl AppKind {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Store => "store",
            Self::Manifest => "manifest",
            Self::Package => "package",
        }
    }
}

/// The package of an app, which this server serves to devices. Where it lies is told to devices only.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct Package {
    size_bytes: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    sha256: Option<Sha256>,
}

impl App {
    /// As a caller may see it: what lets one in, in the query of a URL, is for those who install it.
    fn seen_by(mut self, caller: &Caller) -> Self {
        if !caller.is_at_least(Role::Operator) {
            self.manifest_url = self.manifest_url.map(|url| without_query(&url).to_owned());
        }
        self
    }
}

impl From<Kept> for App {
    fn from(kept: Kept) -> Self {
        let Kept { app, package } = kept;
        let kind = match app.kind.as_str() {
            "store" => AppKind::Store,
            "manifest" => AppKind::Manifest,
            _ => AppKind::Package,
        };
        Self {
            id: app.id,
            kind,
            name: app.name,
            bundle_id: app.bundle_id,
            version: app.version,
            display_version: app.display_version,
            minimum_os: app.minimum_os,
            store_id: app.store_id,
            manifest_url: app.manifest_url,
            package: package.map(|package| Package { size_bytes: package.size_bytes, sha256: package.sha256 }),
            created_at: app.created_at,
            created_by: app.created_by,
            updated_at: app.updated_at,
        }
    }
}

fn tagged<T>(kept: Kept, answer: impl FnOnce(App) -> T) -> Tagged<T> {
    Tagged { revision: kept.app.revision, answer: answer(kept.into()) }
}

fn made(app: App) -> Made<App> {
    Made { at: format!("/api/v1/apps/{}", app.id), body: app }
}

/// An app of the App Store, or one whose manifest lies elsewhere: either `store_id` or `manifest_url`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"name": "Notes", "store_id": 361309726, "bundle_id": "org.example.notes"}))]
pub(super) struct NewApp {
    /// Its name, for people.
    #[schema(min_length = 1, max_length = 200)]
    name: String,
    /// Its number in the App Store: what stands after `id` in its URL there.
    #[schema(minimum = 1)]
    store_id: Option<i64>,
    /// The https URL of its manifest. Devices fetch it; the server never does.
    #[schema(max_length = 2048)]
    manifest_url: Option<String>,
    /// Its bundle id.
    #[schema(max_length = 155)]
    bundle_id: Option<String>,
    /// Its version.
    #[schema(max_length = 155)]
    version: Option<String>,
}

impl NewApp {
    fn reference(&self) -> Result<Reference, Problem> {
        match (self.store_id, &self.manifest_url) {
            (Some(id), None) => Ok(Reference::Store(id)),
            (None, Some(url)) => Ok(Reference::Manifest(url.clone())),
            _ => Err(invalid_request(vec![Fault {
                pointer: String::new(),
                detail: "expected either store_id or manifest_url; upload a package at /api/v1/apps/package".to_owned(),
            }])),
        }
    }
}

/// What is to be different about an app; what is left out stays.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"name": "Our notes"}))]
pub(super) struct AppChange {
    /// Its name, for people.
    #[schema(min_length = 1, max_length = 200)]
    name: Option<String>,
    /// Its bundle id; a package tells its own.
    #[schema(max_length = 155)]
    bundle_id: Option<String>,
    /// Its version; a package tells its own.
    #[schema(max_length = 155)]
    version: Option<String>,
    /// The https URL of its manifest, where it has one.
    #[schema(max_length = 2048)]
    manifest_url: Option<String>,
}

/// Which apps to list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Filters {
    /// Only those that devices find like this.
    #[param(inline)]
    kind: Option<AppKind>,
    /// Only those with this bundle id.
    #[param(max_length = 155)]
    bundle_id: Option<String>,
    /// How many to show at most.
    #[param(minimum = 1, maximum = 500, default = 50)]
    limit: Option<i64>,
    /// Where to go on: the `next_cursor` of the page before.
    cursor: Option<String>,
}

const _: () = assert!(MAX_LIMIT == 500);

/// What is said beside a package.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct PackageFacts {
    /// The app's name, for people; the package's own where nothing is said.
    #[param(min_length = 1, max_length = 200)]
    name: Option<String>,
}

/// List the apps
///
/// Newest first.
#[utoipa::path(get, path = "/api/v1/apps", tag = "Apps", params(Filters),
    responses((status = 200, body = Page<App>)))]
async fn list_apps(
    State(app): State<service::App>,
    caller: Caller,
    query: Query<Filters>,
) -> Result<Json<Page<App>>, Problem> {
    let Filters { kind, bundle_id, limit, cursor } = query.value;
    let window = Window::<AppId>::read(limit, cursor.as_deref(), &query.list)?;
    let filter = AppFilter { kind: kind.map(|kind| kind.as_str().to_owned()), bundle_id };
    let rows = apps::list(&app, &filter, window.after, window.rows()).await?;
    Ok(Json(window.page(rows, |kept| kept.app.id, |kept| App::from(kept).seen_by(&caller))))
}

/// Add an app
///
/// One of the App Store, or one whose manifest lies elsewhere.
#[utoipa::path(post, path = "/api/v1/apps", tag = "Apps", request_body = NewApp,
    responses((status = 201, body = App, headers(("Location" = String), ("ETag" = String)))))]
async fn create_app(
    State(app): State<service::App>,
    Creation(actor, new): Creation<NewApp>,
) -> Result<Tagged<Made<App>>, Problem> {
    let reference = new.reference()?;
    let new = apps::NewApp { reference, name: new.name, bundle_id: new.bundle_id, version: new.version };
    Ok(tagged(apps::create(&app, &actor, new).await?, made))
}

/// Upload an app
///
/// Its package (.ipa), as the body. What it is stands in the package. It is kept in the database and served to devices
/// by every server process, under a name that nobody guesses. `curl -T notes.ipa -X POST` sends a file of any size.
#[utoipa::path(post, path = "/api/v1/apps/package", tag = "Apps", params(PackageFacts),
    request_body(description = "The .ipa file", content(
        (File = "application/octet-stream"), (File = "application/zip"), (File = "application/x-ios-app"))),
    responses((status = 201, body = App, headers(("Location" = String), ("ETag" = String)))))]
async fn upload_package(
    State(app): State<service::App>,
    caller: Caller,
    query: Query<PackageFacts>,
    request: Request,
) -> Result<Tagged<Made<App>>, Problem> {
    kind_of(request.headers(), TAKEN)?;
    let (parts, stream) = request.into_parts();
    let actor = announced(&parts, caller.0)?;
    let _place = app.uploads.try_acquire().map_err(|_| too_many_uploads())?;
    let limit = app.settings.apps.max_package_size.bytes();
    let pieces = body::stream(stream, limit, app.settings.admin.request_timeout);
    let kept = apps::upload(&app, &actor, query.value.name, pieces).await.map_err(|why| match why {
        NotUploaded::Body(why) => Problem::from(why),
        NotUploaded::Refused(error) => error.into(),
    })?;
    Ok(tagged(kept, made))
}

/// Show an app
#[utoipa::path(get, path = "/api/v1/apps/{id}", tag = "Apps", params(("id" = AppId, Path)),
    responses((status = 200, body = App, headers(("ETag" = String)))))]
async fn get_app(
    State(app): State<service::App>,
    caller: Caller,
    At(id): At<AppId>,
) -> Result<Tagged<Json<App>>, Problem> {
    Ok(tagged(apps::get(&app, id).await?, |kept| Json(kept.seen_by(&caller))))
}

/// Change an app
///
/// What is left out stays.
#[utoipa::path(patch, path = "/api/v1/apps/{id}", tag = "Apps", request_body = AppChange,
    params(("id" = AppId, Path), ("If-Match" = String, Header, description = "The `ETag` of what you have read, or `*`")),
    responses((status = 200, body = App, headers(("ETag" = String)))))]
async fn change_app(
    State(app): State<service::App>,
    caller: Caller,
    At(id): At<AppId>,
    IfMatch(revision): IfMatch,
    Body(change): Body<AppChange>,
) -> Result<Tagged<Json<App>>, Problem> {
    let AppChange { name, bundle_id, version, manifest_url } = change;
    let change = apps::Change { name, bundle_id, version, manifest_url };
    Ok(tagged(apps::change(&app, &caller.0, id, revision, change).await?, Json))
}

/// Delete an app
///
/// With its package, which devices cannot fetch any more. The app stays on the devices that have it; `remove_app` takes
/// it from there.
#[utoipa::path(delete, path = "/api/v1/apps/{id}", tag = "Apps",
    params(("id" = AppId, Path), ("If-Match" = Option<String>, Header, description = "The `ETag` of what you have read, or `*`")),
    responses((status = 204, description = "It is not kept any more")))]
async fn delete_app(
    State(app): State<service::App>,
    caller: Caller,
    At(id): At<AppId>,
    MaybeIfMatch(revision): MaybeIfMatch,
) -> Result<StatusCode, Problem> {
    apps::remove(&app, &caller.0, id, revision).await?;
    Ok(StatusCode::NO_CONTENT)
}
