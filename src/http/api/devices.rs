//! `/api/v1/devices`

mod shown;

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use self::shown::{Device, ListedDevice};
use super::super::Problem;
use super::admit::Caller;
use super::commands::Delivery;
use super::cursor::{Page, Window};
use super::input::{At, Body, Query};
use crate::model::{CommandId, DeliveryState, DeviceId, EnrollmentId, Timestamp};
use crate::service::devices::{self, DeviceName, Woken};
use crate::service::{App, history};
use crate::store::{DeviceFilter, DeviceOrder};

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::default()
        .routes(routes!(list_devices))
        .routes(routes!(get_device, remove_device))
        .routes(routes!(list_device_commands))
        .routes(routes!(push_device))
        .routes(routes!(approve_reenrollment))
}

/// Which devices, in which order.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct DeviceQuery {
    /// Somewhere in name, serial number, UDID, model, user name or e-mail address; upper and lower case are the same. A
    /// whole serial number, UDID or e-mail address finds the devices that have it, and no others.
    #[param(min_length = 1, max_length = 200, example = "front desk")]
    q: Option<String>,
    /// The serial number.
    #[param(min_length = 1, max_length = 200)]
    serial: Option<String>,
    /// The name, exactly.
    #[param(min_length = 1, max_length = 200)]
    name: Option<String>,
    /// The user's name or e-mail address.
    #[param(min_length = 1, max_length = 254)]
    user: Option<String>,
    /// The state of the enrollment. Without it, all but removed devices.
    #[param(inline)]
    state: Option<EnrollmentState>,
    /// The platform.
    #[param(inline)]
    platform: Option<PlatformName>,
    /// The order; `-` turns it around.
    #[param(inline)]
    sort: Option<DeviceSort>,
    /// Most items of a page.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<i64>,
    /// Where the page begins: `next_cursor` of the page before.
    #[param(max_length = 4096)]
    cursor: Option<String>,
}

/// The states of an enrollment.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum EnrollmentState {
    Authenticated,
    Enabled,
    Disabled,
    Removed,
}

/// The platforms.
#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum PlatformName {
    Apple,
}

/// The orders of devices.
#[derive(Clone, Copy, Debug, Default, Deserialize, ToSchema)]
enum DeviceSort {
    #[serde(rename = "created_at")]
    Created,
    #[default]
    #[serde(rename = "-created_at")]
    CreatedDescending,
    #[serde(rename = "name")]
    Name,
    #[serde(rename = "-name")]
    NameDescending,
    #[serde(rename = "serial")]
    Serial,
    #[serde(rename = "-serial")]
    SerialDescending,
}

impl DeviceSort {
    const fn order(self) -> (DeviceOrder, bool) {
        match self {
            Self::Created => (DeviceOrder::Created, false),
            Self::CreatedDescending => (DeviceOrder::Created, true),
            Self::Name => (DeviceOrder::Name, false),
            Self::NameDescending => (DeviceOrder::Name, true),
            Self::Serial => (DeviceOrder::Serial, false),
            Self::SerialDescending => (DeviceOrder::Serial, true),
        }
    }
}

impl EnrollmentState {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Authenticated => "authenticated",
            Self::Enabled => "enabled",
            Self::Disabled => "disabled",
            Self::Removed => "removed",
        }
    }
}

/// List devices
///
/// Newest first unless `sort` says otherwise. Removed devices are shown only with `state=removed`.
#[utoipa::path(get, path = "/api/v1/devices", tag = "Devices", params(DeviceQuery),
    responses((status = 200, body = Page<ListedDevice>)))]
async fn list_devices(
    State(app): State<App>,
    Query { value: query, list }: Query<DeviceQuery>,
) -> Result<Json<Page<ListedDevice>>, Problem> {
    let window = Window::<(String, DeviceId)>::read(query.limit, query.cursor.as_deref(), &list)?;
    let (order, is_descending) = query.sort.unwrap_or_default().order();
    let filter = DeviceFilter {
        text: query.q,
        serial: query.serial,
        name: query.name,
        user: query.user,
        state: query.state.map(|state| state.as_str().to_owned()),
        platform: query.platform.map(|PlatformName::Apple| "apple".to_owned()),
    };
    let after = window.after.as_ref().map(|(key, id)| (key.as_str(), *id));
    let slice = devices::list(&app, &filter, order, is_descending, after, window.rows()).await?;
    Ok(Json(window.slice(slice, |row| (devices::order_key(row, order), row.device.id), ListedDevice::from)))
}

/// Show a device
///
/// With its enrollments, the certificates that it authenticates with, the last push and what came of it, and what it
/// last told of itself. A viewer does not see what is secret in the latter.
#[utoipa::path(get, path = "/api/v1/devices/{id}", tag = "Devices", params(("id" = String, Path, description = ID)),
    responses((status = 200, body = Device)))]
async fn get_device(State(app): State<App>, At(name): At<String>) -> Result<Json<Device>, Problem> {
    let id = find(&app, &name).await?;
    let view = devices::get(&app, id).await?;
    Ok(Json(Device::of(view)))
}

/// Remove a device
///
/// Its certificates are revoked and what is open for it is cancelled. When it comes the next time, it is told to leave
/// management. Its history stays; by a fresh enrollment link it may enroll anew.
#[utoipa::path(delete, path = "/api/v1/devices/{id}", tag = "Devices",
    params(("id" = String, Path, description = ID)), responses((status = 204, description = "It is removed")))]
async fn remove_device(State(app): State<App>, caller: Caller, At(name): At<String>) -> Result<StatusCode, Problem> {
    let id = find(&app, &name).await?;
    devices::remove(&app, &caller.0, id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Which deliveries of a device.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct HistoryQuery {
    /// The state of the delivery.
    #[param(inline)]
    state: Option<DeliveryState>,
    /// What was asked for, such as `lock`.
    #[param(min_length = 1, max_length = 100, example = "lock")]
    r#type: Option<String>,
    /// Most items of a page.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<i64>,
    /// Where the page begins: `next_cursor` of the page before.
    #[param(max_length = 4096)]
    cursor: Option<String>,
}

/// List what a device was asked to do
///
/// The newest command first, those of the server itself among them. A command for all devices appears once its delivery
/// for this device is made, at most some seconds after it was accepted.
#[utoipa::path(get, path = "/api/v1/devices/{id}/commands", tag = "Devices",
    params(("id" = String, Path, description = ID), HistoryQuery), responses((status = 200, body = Page<Delivery>)))]
async fn list_device_commands(
    State(app): State<App>,
    At(name): At<String>,
    Query { value: query, list }: Query<HistoryQuery>,
) -> Result<Json<Page<Delivery>>, Problem> {
    let window = Window::<(CommandId, EnrollmentId)>::read(query.limit, query.cursor.as_deref(), &list)?;
    let id = find(&app, &name).await?;
    let (verb, after) = (query.r#type.as_deref(), window.after);
    let rows = history::deliveries_of_device(&app, id, query.state, verb, after, window.rows()).await?;
    Ok(Json(window.page(rows, |row| (row.command_id, row.enrollment_id), Delivery::from)))
}

/// Whether a device is being woken.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct PushAnswer {
    /// Whether a push is on its way.
    scheduled: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "no push certificate for topic com.apple.mgmt.External.7f3a")]
    detail: Option<String>,
}

/// Wake a device
///
/// Sends a push: the device comes and asks for commands. What came of it is shown with the device.
#[utoipa::path(post, path = "/api/v1/devices/{id}/push", tag = "Devices",
    params(("id" = String, Path, description = ID)), responses((status = 202, body = PushAnswer)))]
async fn push_device(
    State(app): State<App>,
    caller: Caller,
    At(name): At<String>,
) -> Result<(StatusCode, Json<PushAnswer>), Problem> {
    let id = find(&app, &name).await?;
    let Woken { not_possible } = devices::wake(&app, &caller.0, id).await?;
    let answer = PushAnswer { scheduled: not_possible.is_none(), detail: not_possible };
    Ok((StatusCode::ACCEPTED, Json(answer)))
}

/// For how long a device may enroll anew.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"hours": 24}))]
pub(super) struct NewApproval {
    /// Hours from now; 24 where nothing is said.
    #[schema(minimum = 1, maximum = 720)]
    hours: Option<u32>,
}

/// Until when a device may enroll anew.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Approval {
    until: Timestamp,
}

/// Approve that a device enrolls anew
///
/// Within this time another certificate or user may take over the device's active enrollment, whatever
/// `devices.reenroll` says.
#[utoipa::path(post, path = "/api/v1/devices/{id}/approve-reenrollment", tag = "Devices", request_body = NewApproval,
    params(("id" = String, Path, description = ID)), responses((status = 200, body = Approval)))]
async fn approve_reenrollment(
    State(app): State<App>,
    caller: Caller,
    At(name): At<String>,
    Body(new): Body<NewApproval>,
) -> Result<Json<Approval>, Problem> {
    let id = find(&app, &name).await?;
    let time = Duration::from_secs(u64::from(new.hours.unwrap_or(24)) * 3600);
    let until = devices::approve_reenrollment(&app, &caller.0, id, time).await?;
    Ok(Json(Approval { until }))
}

/// About `{id}` of a device.
const ID: &str = "The device's id, `udid:UDID` or `serial:NUMBER`.";

async fn find(app: &App, name: &str) -> Result<DeviceId, Problem> {
    let name: DeviceName = name.parse().map_err(Problem::not_found)?;
    Ok(devices::find(app, &name).await?)
}
