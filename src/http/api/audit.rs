//! `/api/v1/audit`

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::super::Problem;
use super::cursor::{Page, Window};
use super::input::Query;
use crate::model::{AuditId, Timestamp, TokenId};
use crate::service::{App, history};
use crate::store::{AuditFilter, AuditRow};

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::default().routes(routes!(list_audit))
}

/// Which rows of the audit log, in which order.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct AuditQuery {
    /// What was done, such as `command.accepted`.
    #[param(min_length = 1, max_length = 100, example = "command.accepted")]
    action: Option<String>,
    /// Who did it: the name of a token, Apple's id of a device, `server`, `command line`, or the user of the NanoMDM interface.
    #[param(min_length = 1, max_length = 400)]
    actor: Option<String>,
    /// What kind of thing it was done to, such as `device`.
    #[param(min_length = 1, max_length = 100, example = "device")]
    subject_kind: Option<String>,
    /// The id of what it was done to.
    #[param(min_length = 1, max_length = 400)]
    subject: Option<String>,
    /// Not before this time.
    #[param(format = DateTime, value_type = Option<String>)]
    since: Option<Timestamp>,
    /// Before this time.
    #[param(format = DateTime, value_type = Option<String>)]
    until: Option<Timestamp>,
    /// The order; `-` turns it around.
    #[param(inline)]
    sort: Option<AuditSort>,
    /// Most items of a page.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<i64>,
    /// Where the page begins: `next_cursor` of the page before.
    #[param(max_length = 4096)]
    cursor: Option<String>,
}

/// The orders of the audit log.
#[derive(Clone, Copy, Debug, Default, Deserialize, ToSchema)]
enum AuditSort {
    #[serde(rename = "at")]
    Ascending,
    #[default]
    #[serde(rename = "-at")]
    Descending,
}

/// Who did what to what.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct AuditEntry {
    id: AuditId,
    at: Timestamp,
    /// `token`, `device`, `server`, `command_line` or `compat` (a tool by the NanoMDM interface).
    #[schema(example = "token")]
    actor_kind: String,
    /// The name of the token, Apple's id of the device, `server` or `command line`.
    #[schema(example = "help desk")]
    actor: String,
    /// The id of the token, for a token: names need not be unique.
    #[serde(skip_serializing_if = "Option::is_none")]
    actor_token: Option<TokenId>,
    #[schema(example = "command.accepted")]
    action: String,
    #[schema(example = "command")]
    subject_kind: String,
    #[schema(example = "0193f2a0-5b1c-7a11-9d0e-1f2a3b4c5d6e")]
    subject: String,
    /// More about it, by the action.
    #[schema(value_type = serde_json::Map<String, Value>, example = json!({"request_type": "DeviceLock", "targets": 1}))]
    detail: Value,
    /// The request that it came with.
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<String>,
    /// The address that it came from.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "192.0.2.7")]
    address: Option<String>,
}

impl From<AuditRow> for AuditEntry {
    fn from(row: AuditRow) -> Self {
        Self {
            id: row.id,
            at: row.at,
            actor_kind: row.actor_kind,
            actor: row.actor,
            actor_token: row.actor_token,
            action: row.action,
            subject_kind: row.subject_kind,
            subject: row.subject,
            detail: serde_json::from_str(&row.detail).unwrap_or_default(),
            request_id: row.request_id,
            address: row.address,
        }
    }
}

/// Show the audit log
///
/// Who did what to what; newest first unless `sort` says otherwise. It holds no secrets.
#[utoipa::path(get, path = "/api/v1/audit", tag = "Audit", params(AuditQuery),
    responses((status = 200, body = Page<AuditEntry>)))]
async fn list_audit(
    State(app): State<App>,
    Query { value: query, list }: Query<AuditQuery>,
) -> Result<Json<Page<AuditEntry>>, Problem> {
    let window = Window::<AuditId>::read(query.limit, query.cursor.as_deref(), &list)?;
    let filter = AuditFilter {
        action: query.action,
        actor: query.actor,
        subject_kind: query.subject_kind,
        subject: query.subject,
        since: query.since,
        until: query.until,
    };
    let is_descending = matches!(query.sort.unwrap_or_default(), AuditSort::Descending);
    let rows = history::audit(&app, &filter, is_descending, window.after, window.rows()).await?;
    Ok(Json(window.page(rows, |row| row.id, AuditEntry::from)))
}
