//! Commands and deliveries as the API shows them.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::super::cursor::Page;
use crate::model::{CommandId, DeliveryState, DeviceId, EnrollmentId, EnrollmentKind, Timestamp};
use crate::service::history::{CommandView, DeliveryView, ReportView};
use crate::store::{self, DeliveryRow};

/// A command in a list.
#[derive(Debug, Serialize, ToSchema)]
pub(in super::super) struct ListedCommand {
    id: CommandId,
    /// What was asked for.
    #[serde(rename = "type")]
    #[schema(example = "lock")]
    verb: String,
    /// Apple's request type.
    #[schema(example = "DeviceLock")]
    request_type: String,
    /// What was asked for, without PINs and other secrets.
    #[schema(value_type = serde_json::Map<String, Value>, example = json!({"type": "lock", "message": "Please bring me back."}))]
    command: Value,
    /// `devices`, or `all`: all that were enrolled when it was accepted.
    #[schema(example = "devices")]
    target: String,
    /// For how many enrollments it was accepted.
    #[schema(example = 1)]
    targets: i64,
    /// The smaller, the sooner.
    #[schema(example = 100)]
    priority: i64,
    /// Whether the server itself asked for it.
    internal: bool,
    created_at: Timestamp,
    /// The name of the token that asked for it.
    #[schema(example = "help desk")]
    created_by: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cancelled_at: Option<Timestamp>,
    /// Since when it is handed to no device: the database was restored, and an admin has to release it.
    #[serde(skip_serializing_if = "Option::is_none")]
    held_at: Option<Timestamp>,
}

impl From<store::ListedCommand> for ListedCommand {
    fn from(row: store::ListedCommand) -> Self {
        Self {
            id: row.id,
            verb: row.verb,
            request_type: row.request_type,
            command: serde_json::from_str(&row.summary).unwrap_or_default(),
            target: row.target,
            targets: row.target_count,
            priority: row.priority,
            internal: row.internal,
            created_at: row.created_at,
            created_by: row.created_by,
            expires_at: row.expires_at,
            cancelled_at: row.cancelled_at,
            held_at: row.held_at,
        }
    }
}

/// A command and how far it is.
#[derive(Debug, Serialize, ToSchema)]
pub(in super::super) struct Command {
    #[serde(flatten)]
    facts: ListedCommand,
    /// How many deliveries are in each state.
    #[schema(example = json!({"acknowledged": 24, "sent": 1}))]
    states: BTreeMap<String, i64>,
    /// For a command for all: how many targets have no delivery yet.
    to_come: i64,
    /// Whether nothing more can happen to it.
    done: bool,
    /// A page of its deliveries.
    deliveries: Page<Delivery>,
}

impl Command {
    pub(super) fn of(view: CommandView, deliveries: Page<Delivery>) -> Self {
        Self {
            facts: view.command.into(),
            states: view.counts.into_iter().collect(),
            to_come: view.to_come,
            done: view.is_done,
            deliveries,
        }
    }
}

/// A delivery: one command for one enrollment.
#[derive(Debug, Serialize, ToSchema)]
pub(in super::super) struct Delivery {
    command_id: CommandId,
    enrollment_id: EnrollmentId,
    device_id: DeviceId,
    /// The kind of the enrollment.
    enrollment_kind: EnrollmentKind,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "Front desk iPhone")]
    device_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "F2LXK0AAPLJM")]
    serial: Option<String>,
    /// What was asked for.
    #[serde(rename = "type")]
    #[schema(example = "lock")]
    verb: String,
    /// Apple's request type.
    #[schema(example = "DeviceLock")]
    request_type: String,
    /// Whether the server itself asked for it.
    internal: bool,
    /// The name of the token that asked for it.
    #[schema(example = "help desk")]
    created_by: String,
    state: DeliveryState,
    /// How often it was handed over.
    #[schema(example = 1)]
    attempts: i64,
    queued_at: Timestamp,
    /// When it was last handed over.
    #[serde(skip_serializing_if = "Option::is_none")]
    sent_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    answered_at: Option<Timestamp>,
    updated_at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<Timestamp>,
    /// Why it failed: Apple's chain of errors.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<Object>>)]
    error: Option<Value>,
    /// Whether there is a report of the device.
    has_report: bool,
}

impl From<DeliveryRow> for Delivery {
    fn from(row: DeliveryRow) -> Self {
        Self {
            command_id: row.command_id,
            enrollment_id: row.enrollment_id,
            device_id: row.device_id,
            enrollment_kind: row.kind,
            device_name: row.device_name,
            serial: row.serial,
            verb: row.verb,
            request_type: row.request_type,
            internal: row.internal,
            created_by: row.created_by,
            state: row.state,
            attempts: row.attempts,
            queued_at: row.queued_at,
            sent_at: row.sent_at,
            answered_at: row.answered_at,
            updated_at: row.updated_at,
            expires_at: row.expires_at,
            error: row.error.and_then(|text| serde_json::from_str(&text).ok()),
            has_report: row.report_id.is_some(),
        }
    }
}

/// A delivery and its history.
#[derive(Debug, Serialize, ToSchema)]
pub(in super::super) struct DeliveryDetail {
    #[serde(flatten)]
    facts: Delivery,
    /// What happened to it, oldest first.
    transitions: Vec<Transition>,
}

/// A step of a delivery's history.
#[derive(Debug, Serialize, ToSchema)]
pub(in super::super) struct Transition {
    state: DeliveryState,
    at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "attempt 2")]
    detail: Option<String>,
}

impl From<DeliveryView> for DeliveryDetail {
    fn from(view: DeliveryView) -> Self {
        let steps = view.transitions.into_iter();
        Self {
            facts: view.delivery.into(),
            transitions: steps.map(|row| Transition { state: row.state, at: row.at, detail: row.detail }).collect(),
        }
    }
}

/// What a device reported on a command.
#[derive(Debug, Serialize, ToSchema)]
pub(in super::super) struct Report {
    /// Apple's word for how it went; `Unreadable` of a report that could not be read.
    #[schema(example = "Acknowledged")]
    status: String,
    received_at: Timestamp,
    /// As it was read. Data stands as `{"$data": "base64"}`, dates as `{"$date": "RFC 3339"}`.
    #[schema(value_type = serde_json::Map<String, Value>, example = json!({"Status": "Acknowledged"}))]
    report: Value,
    /// As it came: a property list, in base64.
    #[schema(example = "PD94bWwgdmVyc2lvbj0iMS4wIiBlbmNvZGluZz0iVVRGLTgiPz4…")]
    raw: String,
}

impl From<ReportView> for Report {
    fn from(view: ReportView) -> Self {
        Self {
            status: view.status,
            received_at: view.received_at,
            report: serde_json::from_slice(view.parsed.expose()).unwrap_or_default(),
            raw: STANDARD.encode(view.raw.expose()),
        }
    }
}
