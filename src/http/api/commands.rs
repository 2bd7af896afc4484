//! `/api/v1/commands`

mod shown;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header::LOCATION;
use http::{HeaderValue, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub(super) use self::shown::Delivery;
use self::shown::{Command, DeliveryDetail, ListedCommand, Report};
use super::super::Problem;
use super::admit::Caller;
use super::cursor::{Page, Window};
use super::fault::invalid_request;
use super::input::{At, Creation, Query};
use crate::catalog::Verb;
use crate::model::{CommandId, DeliveryState, EnrollmentId, Timestamp};
use crate::service::commands::{self, Accepted, PushNote};
use crate::service::devices::{self, DeviceName};
use crate::service::{App, Fault, held, history};
use crate::store::CommandFilter;

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::default()
        .routes(routes!(list_commands, send_command))
        .routes(routes!(get_command, cancel_command))
        .routes(routes!(redeliver_command))
        .routes(routes!(release_command))
        .routes(routes!(release_held_commands))
        .routes(routes!(get_delivery))
        .routes(routes!(get_report))
}

/// A command to be sent.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({
    "targets": {"devices": ["serial:F2LXK0AAPLJM"]},
    "command": {"type": "lock", "message": "Please bring me back to the front desk."},
}))]
pub(super) struct NewCommand {
    #[schema(inline)]
    targets: NewTargets,
    #[schema(value_type = Verb)]
    command: Value,
    /// For how many devices you believe it to be. Needed for what destroys on more than one: erasing, locking with a
    /// PIN, removing the enrollment profile. A wrong number is refused, whatever the command.
    #[schema(minimum = 0, maximum = 1_000_000_000)]
    confirm: Option<u64>,
    /// After this time it is not handed to a device any more.
    expires_at: Option<Timestamp>,
    /// The smaller, the sooner; 100 where nothing is said. What the server asks for by itself has 200.
    #[schema(minimum = 1, maximum = 1000)]
    priority: Option<i64>,
    /// Do not wake the devices: they get it when they come by themselves.
    no_push: Option<bool>,
}

/// For whom a command is: exactly one of these.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewTargets {
    /// Devices, each by its id, `udid:UDID` or `serial:NUMBER`.
    #[schema(min_items = 1, max_items = 10_000)]
    devices: Option<Vec<String>>,
    /// Enrollments, such as the channel of a user on a Mac.
    #[schema(min_items = 1, max_items = 10_000)]
    enrollments: Option<Vec<EnrollmentId>>,
    /// All devices that are enrolled now. One that enrolls later does not get it.
    all: Option<bool>,
}

/// A command that was accepted.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct AcceptedCommand {
    id: CommandId,
    /// For how many enrollments.
    #[schema(example = 1)]
    targets: u64,
    /// Those that were named and do not get it.
    skipped: Vec<SkippedTarget>,
    push: PushState,
}

/// A target that does not get a command.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct SkippedTarget {
    #[schema(example = "serial:F2LXK0AAPLJM")]
    target: String,
    #[schema(example = "the enrollment is disabled")]
    reason: String,
}

/// Whether devices are woken for a command.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct PushState {
    /// Whether all of them are woken.
    scheduled: bool,
    /// Why not; they get it when they come by themselves.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "no push certificate for topic com.apple.mgmt.External.7f3a")]
    detail: Option<String>,
}

impl From<Accepted> for AcceptedCommand {
    fn from(accepted: Accepted) -> Self {
        let detail = match accepted.push {
            PushNote::Scheduled => None,
            PushNote::NotWanted => Some("it was not wanted".to_owned()),
            PushNote::NotPossible(why) => Some(why),
        };
        let skipped = accepted.skipped.into_iter();
        Self {
            id: accepted.id,
            targets: accepted.targets,
            skipped: skipped.map(|one| SkippedTarget { target: one.target, reason: one.reason }).collect(),
            push: PushState { scheduled: detail.is_none(), detail },
        }
    }
}

/// Send a command
///
/// It is accepted for the devices that are enrolled now, and cannot be lost from then on. Devices get it when they come;
/// they are woken for that. What became of it is shown at `/api/v1/commands/{id}`.
///
/// What destroys on more than one device takes the role admin and `confirm` with the number of devices.
#[utoipa::path(post, path = "/api/v1/commands", tag = "Commands", request_body = NewCommand,
    responses((status = 202, body = AcceptedCommand, headers(("Location" = String)))))]
async fn send_command(State(app): State<App>, Creation(actor, new): Creation<NewCommand>) -> Result<Response, Problem> {
    if let Some(accepted) = commands::accepted_before(&app, &actor).await? {
        return Ok(answer(accepted));
    }
    let new = commands::NewCommand {
        targets: targets(&app, new.targets).await?,
        command: new.command,
        confirm: new.confirm,
        expires_at: new.expires_at,
        priority: new.priority,
        no_push: new.no_push.unwrap_or(false),
    };
    Ok(answer(commands::accept(&app, &actor, new).await?))
}

fn answer(accepted: Accepted) -> Response {
    let accepted = AcceptedCommand::from(accepted);
    let at = format!("/api/v1/commands/{}", accepted.id);
    let mut response = (StatusCode::ACCEPTED, Json(accepted)).into_response();
    if let Ok(at) = HeaderValue::from_str(&at) {
        response.headers_mut().insert(LOCATION, at);
    }
    response
}

async fn targets(app: &App, new: NewTargets) -> Result<commands::Targets, Problem> {
    let fault = |pointer: String, detail: String| Fault { pointer, detail };
    match (new.devices, new.enrollments, new.all.unwrap_or(false)) {
        (Some(names), None, false) => {
            let mut parsed = Vec::with_capacity(names.len());
            let mut faults = Vec::new();
            for (index, name) in names.iter().enumerate() {
                match name.parse::<DeviceName>() {
                    Ok(name) => parsed.push(name),
                    Err(why) => faults.push(fault(format!("/targets/devices/{index}"), why)),
                }
            }
            if !faults.is_empty() {
                return Err(invalid_request(faults));
            }
            let found = devices::find_all(app, &parsed).await?;
            found.map(commands::Targets::Devices).map_err(|missing| {
                let missing = missing.into_iter();
                invalid_request(missing.map(|(index, why)| fault(format!("/targets/devices/{index}"), why)).collect())
            })
        }
        (None, Some(ids), false) => Ok(commands::Targets::Enrollments(ids)),
        (None, None, true) => Ok(commands::Targets::All),
        _ => {
            let detail = "expected exactly one of devices, enrollments and \"all\": true".to_owned();
            Err(invalid_request(vec![fault("/targets".to_owned(), detail)]))
        }
    }
}

/// Which commands, in which order.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct CommandQuery {
    /// What was asked for, such as `lock`.
    #[param(min_length = 1, max_length = 100, example = "lock")]
    r#type: Option<String>,
    /// Apple's request type.
    #[param(min_length = 1, max_length = 100, example = "DeviceLock")]
    request_type: Option<String>,
    /// The name of the token that asked for it.
    #[param(min_length = 1, max_length = 200)]
    created_by: Option<String>,
    /// Whether to show what the server itself asked for, too.
    internal: Option<bool>,
    /// Whether to show only what is held since the database was restored.
    held: Option<bool>,
    /// The order; `-` turns it around.
    #[param(inline)]
    sort: Option<TimeSort>,
    /// Most items of a page.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<i64>,
    /// Where the page begins: `next_cursor` of the page before.
    #[param(max_length = 4096)]
    cursor: Option<String>,
}

/// The orders of what has only its time.
#[derive(Clone, Copy, Debug, Default, Deserialize, ToSchema)]
enum TimeSort {
    #[serde(rename = "created_at")]
    Ascending,
    #[default]
    #[serde(rename = "-created_at")]
    Descending,
}

/// List commands
///
/// Newest first unless `sort` says otherwise.
#[utoipa::path(get, path = "/api/v1/commands", tag = "Commands", params(CommandQuery),
    responses((status = 200, body = Page<ListedCommand>)))]
async fn list_commands(
    State(app): State<App>,
    Query { value: query, list }: Query<CommandQuery>,
) -> Result<Json<Page<ListedCommand>>, Problem> {
    let window = Window::<CommandId>::read(query.limit, query.cursor.as_deref(), &list)?;
    let filter = CommandFilter {
        verb: query.r#type,
        request_type: query.request_type,
        created_by: query.created_by,
        with_internal: query.internal.unwrap_or(false),
        only_held: query.held.unwrap_or(false),
    };
    let is_descending = matches!(query.sort.unwrap_or_default(), TimeSort::Descending);
    let slice = history::commands(&app, &filter, is_descending, window.after, window.rows()).await?;
    Ok(Json(window.slice(slice, |row| row.id, ListedCommand::from)))
}

/// Which deliveries of a command.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct DeliveryQuery {
    /// The state of the deliveries that are shown.
    #[param(inline)]
    state: Option<DeliveryState>,
    /// Most deliveries of a page.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<i64>,
    /// Where the page of deliveries begins: `deliveries.next_cursor` of the page before.
    #[param(max_length = 4096)]
    cursor: Option<String>,
}

/// Show a command
///
/// What was asked for (without PINs and other secrets), how far it is, and a page of its deliveries: one for each
/// target.
#[utoipa::path(get, path = "/api/v1/commands/{id}", tag = "Commands", params(("id" = CommandId, Path), DeliveryQuery),
    responses((status = 200, body = Command)))]
async fn get_command(
    State(app): State<App>,
    At(id): At<CommandId>,
    Query { value: query, list }: Query<DeliveryQuery>,
) -> Result<Json<Command>, Problem> {
    let window = Window::<EnrollmentId>::read(query.limit, query.cursor.as_deref(), &list)?;
    let view = history::command(&app, id).await?;
    let rows = history::deliveries_of_command(&app, id, query.state, window.after, window.rows()).await?;
    Ok(Json(Command::of(view, window.page(rows, |row| row.enrollment_id, Delivery::from))))
}

/// What a cancellation did.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Cancellation {
    /// Deliveries that were withdrawn.
    cancelled: u64,
    /// Deliveries that a device has or had: they take their course.
    not_cancelled: u64,
}

/// Cancel a command
///
/// Withdraws it from all devices that do not have it yet. What was handed over takes its course.
#[utoipa::path(delete, path = "/api/v1/commands/{id}", tag = "Commands", params(("id" = CommandId, Path)),
    responses((status = 200, body = Cancellation)))]
async fn cancel_command(
    State(app): State<App>,
    caller: Caller,
    At(id): At<CommandId>,
) -> Result<Json<Cancellation>, Problem> {
    let done = commands::cancel(&app, &caller.0, id).await?;
    Ok(Json(Cancellation { cancelled: done.cancelled, not_cancelled: done.not_cancelled }))
}

/// Whether another delivery is meant.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct RedeliverQuery {
    /// For how many devices you believe it to be; needed for what destroys on more than one.
    #[param(minimum = 0, maximum = 1_000_000_000)]
    confirm: Option<u64>,
}

/// What another delivery did.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Redelivery {
    /// Deliveries that are queued again.
    redelivered: u64,
}

/// Deliver a command again
///
/// To the devices that had it and did not report on it, where running it twice would hurt, so that the server does not
/// do so by itself (deliveries that are `unconfirmed`). At most 10,000 at once; ask again for the rest.
#[utoipa::path(post, path = "/api/v1/commands/{id}/redeliver", tag = "Commands",
    params(("id" = CommandId, Path), RedeliverQuery), responses((status = 200, body = Redelivery)))]
async fn redeliver_command(
    State(app): State<App>,
    caller: Caller,
    At(id): At<CommandId>,
    Query { value: query, .. }: Query<RedeliverQuery>,
) -> Result<Json<Redelivery>, Problem> {
    let redelivered = commands::redeliver(&app, &caller.0, id, query.confirm).await?;
    Ok(Json(Redelivery { redelivered }))
}

/// What was released.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Release {
    /// Commands that go on.
    #[schema(example = 1)]
    released: u64,
}

/// Release a command
///
/// One that is held since the database was restored (`held_at`). It is handed over from now on, and its devices are woken.
/// To withdraw it instead, cancel it.
#[utoipa::path(post, path = "/api/v1/commands/{id}/release", tag = "Commands", params(("id" = CommandId, Path)),
    responses((status = 200, body = Release)))]
async fn release_command(
    State(app): State<App>,
    caller: Caller,
    At(id): At<CommandId>,
) -> Result<Json<Release>, Problem> {
    held::release(&app, &caller.0, id).await?;
    Ok(Json(Release { released: 1 }))
}

/// How many commands are meant.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ReleaseQuery {
    /// How many commands you believe to be held.
    #[param(minimum = 0, maximum = 1_000_000_000)]
    confirm: Option<u64>,
}

/// Release all commands
///
/// All that are held since the database was restored.
#[utoipa::path(post, path = "/api/v1/commands/release-held", tag = "Commands", params(ReleaseQuery),
    responses((status = 200, body = Release)))]
async fn release_held_commands(
    State(app): State<App>,
    caller: Caller,
    Query { value: query, .. }: Query<ReleaseQuery>,
) -> Result<Json<Release>, Problem> {
    Ok(Json(Release { released: held::release_all(&app, &caller.0, query.confirm).await? }))
}

/// Show a delivery
///
/// One command for one enrollment, with its history.
#[utoipa::path(get, path = "/api/v1/commands/{id}/deliveries/{enrollment_id}", tag = "Commands",
    params(("id" = CommandId, Path), ("enrollment_id" = EnrollmentId, Path)),
    responses((status = 200, body = DeliveryDetail)))]
async fn get_delivery(
    State(app): State<App>,
    At((command, enrollment)): At<(CommandId, EnrollmentId)>,
) -> Result<Json<DeliveryDetail>, Problem> {
    Ok(Json(history::delivery(&app, command, enrollment).await?.into()))
}

/// Show what a device reported
///
/// The last report on a command, as it was read and as it came. It may hold secrets.
#[utoipa::path(get, path = "/api/v1/commands/{id}/deliveries/{enrollment_id}/report", tag = "Commands",
    params(("id" = CommandId, Path), ("enrollment_id" = EnrollmentId, Path)),
    responses((status = 200, body = Report)))]
async fn get_report(
    State(app): State<App>,
    At((command, enrollment)): At<(CommandId, EnrollmentId)>,
) -> Result<Json<Report>, Problem> {
    Ok(Json(history::report(&app, command, enrollment).await?.into()))
}
