//! `/api/v1/webhooks`

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::super::Problem;
use super::admit::Caller;
use super::cursor::{Page, Window};
use super::input::{At, Body, Creation, IfMatch, MaybeIfMatch, Query};
use super::output::{Made, Tagged};
use crate::model::{DeviceId, EventId, Secret, Timestamp, WebhookForm, WebhookId};
use crate::service::App;
use crate::service::webhooks::{self, View};
use crate::store::{DeadEvent, WebhookRow};

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::default()
        .routes(routes!(list_webhooks, create_webhook))
        .routes(routes!(get_webhook, change_webhook, delete_webhook))
        .routes(routes!(test_webhook))
        .routes(routes!(list_dead_events))
        .routes(routes!(replay_events))
}

/// An address that is told of what devices send, without its secret.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct Webhook {
    id: WebhookId,
    /// What it is for.
    #[schema(example = "inventory")]
    name: String,
    /// Where it is.
    #[schema(example = "https://inventory.example.org/mdm")]
    url: String,
    form: WebhookForm,
    /// Whether its messages are signed.
    signed: bool,
    /// What it is told of; none for all.
    #[schema(example = json!(["muster.device.enrolled", "muster.command.answered"]))]
    topics: Vec<String>,
    /// Whether it is told of polls, as well as it goes.
    idle: bool,
    /// Whether what the device sent rides along as it came, with all its secrets; always in NanoMDM's form.
    raw: bool,
    /// Since when nothing is sent to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    paused_at: Option<Timestamp>,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "the receiver answered 410 (Gone)")]
    paused_reason: Option<String>,
    created_at: Timestamp,
    /// Who made it.
    #[schema(example = "ada")]
    created_by: String,
    updated_at: Timestamp,
}

impl From<WebhookRow> for Webhook {
    fn from(row: WebhookRow) -> Self {
        Self {
            id: row.id,
            name: row.name,
            url: row.url,
            form: row.form,
            signed: row.secret_sealed.is_some(),
            topics: serde_json::from_str(&row.topics).unwrap_or_default(),
            idle: row.idle,
            raw: row.raw || row.form == WebhookForm::NanoMdm,
            paused_at: row.paused_at,
            paused_reason: row.paused_reason,
            created_at: row.created_at,
            created_by: row.created_by,
            updated_at: row.updated_at,
        }
    }
}

/// A webhook, and how many events there are for it.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct WebhookStanding {
    #[serde(flatten)]
    facts: Webhook,
    /// How many events wait.
    waiting: i64,
    /// Since when the first of them does, about.
    #[serde(skip_serializing_if = "Option::is_none")]
    waiting_since: Option<Timestamp>,
    /// How many were given up.
    dead: i64,
}

impl From<View> for WebhookStanding {
    fn from(view: View) -> Self {
        let View { row, waiting, waiting_since, dead } = view;
        Self { facts: row.into(), waiting, waiting_since, dead }
    }
}

/// A webhook to be made.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"name": "inventory", "url": "https://inventory.example.org/mdm", "form": "cloudevents"}))]
pub(super) struct NewWebhook {
    /// What it is for.
    #[schema(min_length = 1, max_length = 200)]
    name: String,
    /// Where it is: http or https. Private addresses have to be listed in `hooks.allow`.
    #[schema(value_type = String, min_length = 1, max_length = 2000)]
    url: Secret<String>,
    form: WebhookForm,
    /// What messages are signed with. For `cloudevents`: `whsec_` and then 24 to 64 bytes in base64; left out, one is made.
    /// For `nanomdm`: a text of 16 to 200 characters; left out, messages are not signed.
    #[schema(value_type = Option<String>, max_length = 200)]
    secret: Option<Secret<String>>,
    /// What it is told of, in the words of its form; left out or none for all.
    #[schema(max_items = 20)]
    topics: Option<Vec<String>>,
    /// Whether it is told of polls: as well as it goes, from memory, once.
    idle: Option<bool>,
    /// For `cloudevents`: whether what the device sent rides along as it came. It holds tokens.
    raw: Option<bool>,
}

/// A webhook that was made, with its secret, which is shown this once.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct CreatedWebhook {
    #[serde(flatten)]
    facts: Webhook,
    /// What its messages are signed with.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "whsec_…")]
    secret: Option<String>,
}

/// What to change of a webhook. What is left out stays.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"paused": false}))]
pub(super) struct WebhookChange {
    /// What it is for.
    #[schema(min_length = 1, max_length = 200)]
    name: Option<String>,
    /// Where it is. What waits goes there, too.
    #[schema(value_type = Option<String>, min_length = 1, max_length = 2000)]
    url: Option<Secret<String>>,
    /// What messages are signed with from now on.
    #[schema(value_type = Option<String>, max_length = 200)]
    secret: Option<Secret<String>>,
    /// What it is told of; none for all.
    #[schema(max_items = 20)]
    topics: Option<Vec<String>>,
    /// Whether it is told of polls.
    idle: Option<bool>,
    /// Whether what the device sent rides along.
    raw: Option<bool>,
    /// Whether nothing is sent for now. What it is to be told waits.
    paused: Option<bool>,
}

/// What came of a message to a webhook.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct WebhookTest {
    /// Whether the receiver took it: answered 2xx.
    delivered: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "it answered 500")]
    error: Option<String>,
    /// How long it took.
    #[schema(example = 12)]
    milliseconds: u64,
}

/// An event that a webhook did not take, and that was given up.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct DeadWebhookEvent {
    id: EventId,
    device_id: DeviceId,
    /// What it is about.
    #[schema(example = "muster.device.enrolled")]
    topic: String,
    created_at: Timestamp,
    dead_at: Timestamp,
    /// How often it was tried.
    #[schema(example = 33)]
    attempts: i64,
    /// Why it was not taken the last time.
    #[schema(example = "it answered 500")]
    error: String,
}

impl From<DeadEvent> for DeadWebhookEvent {
    fn from(event: DeadEvent) -> Self {
        let DeadEvent { device_id, id, topic, created_at, dead_at, attempts, error, .. } = event;
        Self { id, device_id, topic, created_at, dead_at, attempts, error }
    }
}

/// Which events to send again.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"ids": ["0193f2a0-5b1c-7a11-9d0e-1f2a3b4c5d6e"]}))]
pub(super) struct Replay {
    /// Their ids; left out, all that were given up.
    #[schema(max_items = 500)]
    ids: Option<Vec<EventId>>,
}

/// How many events are sent again.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Replayed {
    /// How many; at most 10,000 at once.
    #[schema(example = 3)]
    replayed: u64,
}

/// Which part of a list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Part {
    /// Most items of a page.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<i64>,
    /// Where the page begins: `next_cursor` of the page before.
    #[param(max_length = 4096)]
    cursor: Option<String>,
}

/// List the webhooks
///
/// Newest first, with how much waits for each.
#[utoipa::path(get, path = "/api/v1/webhooks", tag = "Webhooks", params(Part),
    responses((status = 200, body = Page<WebhookStanding>)))]
async fn list_webhooks(
    State(app): State<App>,
    Query { value: query, list }: Query<Part>,
) -> Result<Json<Page<WebhookStanding>>, Problem> {
    let window = Window::<WebhookId>::read(query.limit, query.cursor.as_deref(), &list)?;
    let views = webhooks::list(&app, window.after, window.rows()).await?;
    Ok(Json(window.page(views, |view| view.row.id, WebhookStanding::from)))
}

/// Make a webhook
///
/// It is told of what devices send from now on. Its secret is shown this once.
#[utoipa::path(post, path = "/api/v1/webhooks", tag = "Webhooks", request_body = NewWebhook,
    responses((status = 201, body = CreatedWebhook, headers(("Location" = String)))))]
async fn create_webhook(
    State(app): State<App>,
    Creation(actor, new): Creation<NewWebhook>,
) -> Result<Made<CreatedWebhook>, Problem> {
    let new = webhooks::NewWebhook {
        name: new.name,
        url: new.url,
        form: new.form,
        secret: new.secret,
        topics: new.topics.unwrap_or_default(),
        idle: new.idle.unwrap_or(false),
        raw: new.raw.unwrap_or(false),
    };
    let made = webhooks::create(&app, &actor, new).await?;
    let at = format!("/api/v1/webhooks/{}", made.row.id);
    let secret = made.secret.as_ref().map(|secret| secret.expose().clone());
    let facts = Webhook { signed: secret.is_some(), ..made.row.into() };
    Ok(Made { at, body: CreatedWebhook { facts, secret } })
}

/// Show a webhook
///
/// Without its secret, which nobody can show again.
#[utoipa::path(get, path = "/api/v1/webhooks/{id}", tag = "Webhooks", params(("id" = WebhookId, Path)),
    responses((status = 200, body = WebhookStanding, headers(("ETag" = String)))))]
async fn get_webhook(State(app): State<App>, At(id): At<WebhookId>) -> Result<Tagged<Json<WebhookStanding>>, Problem> {
    Ok(tagged(webhooks::get(&app, id).await?))
}

/// Change a webhook
///
/// What is left out stays. `paused` stops and resumes it; what it is to be told waits meanwhile.
#[utoipa::path(patch, path = "/api/v1/webhooks/{id}", tag = "Webhooks", request_body = WebhookChange,
    params(("id" = WebhookId, Path), ("If-Match" = String, Header, description = "The `ETag` of what you have read, or `*`")),
    responses((status = 200, body = WebhookStanding, headers(("ETag" = String)))))]
async fn change_webhook(
    State(app): State<App>,
    caller: Caller,
    At(id): At<WebhookId>,
    IfMatch(revision): IfMatch,
    Body(change): Body<WebhookChange>,
) -> Result<Tagged<Json<WebhookStanding>>, Problem> {
    let WebhookChange { name, url, secret, topics, idle, raw, paused } = change;
    let change = webhooks::Change { name, url, secret, topics, idle, raw, paused };
    Ok(tagged(webhooks::change(&app, &caller.0, id, revision, change).await?))
}

/// Delete a webhook
///
/// With all that waits for it, and what was given up.
#[utoipa::path(delete, path = "/api/v1/webhooks/{id}", tag = "Webhooks",
    params(("id" = WebhookId, Path), ("If-Match" = Option<String>, Header, description = "The `ETag` of what you have read, or `*`")),
    responses((status = 204, description = "It is told of nothing more")))]
async fn delete_webhook(
    State(app): State<App>,
    caller: Caller,
    At(id): At<WebhookId>,
    MaybeIfMatch(revision): MaybeIfMatch,
) -> Result<StatusCode, Problem> {
    webhooks::remove(&app, &caller.0, id, revision).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Try a webhook
///
/// Sends it a message about no device, now, also while it is paused, and says what came of that.
#[utoipa::path(post, path = "/api/v1/webhooks/{id}/test", tag = "Webhooks", params(("id" = WebhookId, Path)),
    responses((status = 200, body = WebhookTest)))]
async fn test_webhook(State(app): State<App>, At(id): At<WebhookId>) -> Result<Json<WebhookTest>, Problem> {
    let tried = webhooks::try_out(&app, id).await?;
    let milliseconds = u64::try_from(tried.took.as_millis()).unwrap_or(u64::MAX);
    Ok(Json(WebhookTest { delivered: tried.taken, error: tried.why, milliseconds }))
}

/// List the events that were given up
///
/// Oldest first. They are kept for `retention.dead_events`.
#[utoipa::path(get, path = "/api/v1/webhooks/{id}/dead", tag = "Webhooks", params(("id" = WebhookId, Path), Part),
    responses((status = 200, body = Page<DeadWebhookEvent>)))]
async fn list_dead_events(
    State(app): State<App>,
    At(id): At<WebhookId>,
    Query { value: query, list }: Query<Part>,
) -> Result<Json<Page<DeadWebhookEvent>>, Problem> {
    let window = Window::<EventId>::read(query.limit, query.cursor.as_deref(), &list)?;
    let events = webhooks::dead(&app, id, window.after, window.rows()).await?;
    Ok(Json(window.page(events, |event| event.id, DeadWebhookEvent::from)))
}

/// Send events again
///
/// Those that were given up, behind what waits already. They keep their ids.
#[utoipa::path(post, path = "/api/v1/webhooks/{id}/replay", tag = "Webhooks", params(("id" = WebhookId, Path)),
    request_body = Replay, responses((status = 200, body = Replayed)))]
async fn replay_events(
    State(app): State<App>,
    caller: Caller,
    At(id): At<WebhookId>,
    Body(Replay { ids }): Body<Replay>,
) -> Result<Json<Replayed>, Problem> {
    let replayed = webhooks::replay(&app, &caller.0, id, ids).await?;
    Ok(Json(Replayed { replayed }))
}

fn tagged(view: View) -> Tagged<Json<WebhookStanding>> {
    Tagged { revision: view.row.revision, answer: Json(view.into()) }
}
