//! Devices as the API shows them.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::model::{DeviceId, EnrollmentId, EnrollmentKind, LinkId, Sha256, Timestamp};
use crate::service::devices::{ChannelView, DeviceView, IdentityState, IdentityView};
use crate::store;

/// What is known of a device.
#[derive(Debug, Serialize, ToSchema)]
pub(in super::super) struct DeviceFacts {
    id: DeviceId,
    /// The platform: `apple`.
    #[schema(example = "apple")]
    platform: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "00008110-001A2B3C4D5E6F70")]
    udid: Option<String>,
    /// For a User Enrollment, which tells no UDID: Apple's EnrollmentID.
    #[serde(skip_serializing_if = "Option::is_none")]
    enrollment_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "F2LXK0AAPLJM")]
    serial: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "Front desk iPhone")]
    name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "MLPG3LL")]
    model: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "iPhone")]
    model_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "iPhone14,5")]
    product_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "18.1")]
    os_version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "22B83")]
    build_version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    imei: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    supervised: Option<bool>,
    /// Whose it is, as the enrollment link said.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "Sam")]
    user_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "sam@example.org")]
    user_email: Option<String>,
    created_at: Timestamp,
    updated_at: Timestamp,
    /// When an admin removed it.
    #[serde(skip_serializing_if = "Option::is_none")]
    removed_at: Option<Timestamp>,
}

impl From<store::Device> for DeviceFacts {
    fn from(row: store::Device) -> Self {
        Self {
            id: row.id,
            platform: row.platform,
            udid: row.udid,
            enrollment_id: row.apple_enrollment_id,
            serial: row.serial,
            name: row.name,
            model: row.model,
            model_name: row.model_name,
            product_name: row.product_name,
            os_version: row.os_version,
            build_version: row.build_version,
            imei: row.imei,
            supervised: row.supervised,
            user_name: row.user_name,
            user_email: row.user_email,
            created_at: row.created_at,
            updated_at: row.updated_at,
            removed_at: row.removed_at,
        }
    }
}

/// A device in a list.
#[derive(Debug, Serialize, ToSchema)]
pub(in super::super) struct ListedDevice {
    #[serde(flatten)]
    facts: DeviceFacts,
    /// The state of its enrollment: `authenticated` (enrolling), `enabled`, `disabled` (it left, or was wiped) or
    /// `removed` (by an admin).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "enabled")]
    state: Option<String>,
    /// Since when it is enrolled.
    #[serde(skip_serializing_if = "Option::is_none")]
    enabled_at: Option<Timestamp>,
    /// When it was last heard of; up to a minute behind.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_seen_at: Option<Timestamp>,
}

impl From<store::ListedDevice> for ListedDevice {
    fn from(row: store::ListedDevice) -> Self {
        Self { facts: row.device.into(), state: row.state, enabled_at: row.enabled_at, last_seen_at: row.last_seen_at }
    }
}

/// All that is known of a device.
#[derive(Debug, Serialize, ToSchema)]
pub(in super::super) struct Device {
    #[serde(flatten)]
    facts: DeviceFacts,
    /// The state of its enrollment.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "enabled")]
    state: Option<String>,
    /// The link by which it enrolled.
    #[serde(skip_serializing_if = "Option::is_none")]
    link: Option<LinkName>,
    /// Its management channels, the device's own first.
    enrollments: Vec<Enrollment>,
    /// What it last told of itself, by kind. Secrets are left out (`[redacted]`): they stand in the report.
    #[schema(example = json!({"device_information": {
        "updated_at": "2026-11-22T05:20:08.123456Z",
        "data": {"DeviceName": "Front desk iPhone", "OSVersion": "18.1"},
    }}))]
    inventory: BTreeMap<String, Inventory>,
}

/// An enrollment link.
#[derive(Debug, Serialize, ToSchema)]
pub(in super::super) struct LinkName {
    id: LinkId,
    #[schema(example = "reception")]
    name: String,
}

/// One management channel of a device.
#[derive(Debug, Serialize, ToSchema)]
pub(in super::super) struct Enrollment {
    id: EnrollmentId,
    kind: EnrollmentKind,
    /// `authenticated` (enrolling), `enabled`, `disabled` (it left, or was wiped) or `removed` (by an admin).
    #[schema(example = "enabled")]
    state: String,
    /// Apple's id of the channel.
    #[schema(example = "00008110-001A2B3C4D5E6F70")]
    apple_id: String,
    /// Which enrollment of this channel it is; commands and tokens belong to one.
    #[schema(example = 1)]
    generation: i64,
    /// The user of a user channel.
    #[serde(skip_serializing_if = "Option::is_none")]
    user_short_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_long_name: Option<String>,
    /// Whether it waits in Setup Assistant.
    awaiting_configuration: bool,
    authenticated_at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    enabled_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    disabled_at: Option<Timestamp>,
    /// When it was last heard of; up to a minute behind.
    last_seen_at: Timestamp,
    /// Until then another certificate or user may take it over.
    #[serde(skip_serializing_if = "Option::is_none")]
    reenrollment_approved_until: Option<Timestamp>,
    push: LastPush,
    /// Whether the device can still authenticate: `valid`, `in_grace` (its certificate ended, and is still accepted for
    /// a while), `expired` (it must enroll again), `revoked` or `missing`. A user channel uses the device's.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "valid")]
    identity_state: Option<&'static str>,
    identities: Vec<Identity>,
    /// A renewal of its certificate that the server sent and that has not taken effect.
    #[serde(skip_serializing_if = "Option::is_none")]
    renewal: Option<Renewal>,
    /// The enrollment profile on the device; missing where it was made elsewhere and the device has not listed it yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    profile: Option<EnrollmentProfile>,
}

/// A renewal of a device's certificate that has not taken effect.
#[derive(Debug, Serialize, ToSchema)]
pub(in super::super) struct Renewal {
    /// How often it was sent.
    #[schema(example = 1)]
    attempts: i64,
    sent_at: Timestamp,
    /// No other is sent before: the pause doubles, up to a week.
    retry_at: Timestamp,
    /// When the device last refused one.
    #[serde(skip_serializing_if = "Option::is_none")]
    failed_at: Option<Timestamp>,
    /// What the device said.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// What the enrollment profile on a device lays down. It stays as it is, whatever the settings say later.
#[derive(Debug, Serialize, ToSchema)]
pub(in super::super) struct EnrollmentProfile {
    #[schema(example = "muster.enrollment")]
    identifier: String,
    /// Where the device sends its reports; missing where the profile was made elsewhere, as the others are then.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "https://mdm.example.org/mdm")]
    server_url: Option<String>,
    /// Where it checks in.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "https://mdm.example.org/checkin")]
    checkin_url: Option<String>,
    /// The sum of Apple's bits of what the server may do.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = 8191)]
    access_rights: Option<i64>,
}

/// When a channel was last woken, and what came of it.
#[derive(Debug, Serialize, ToSchema)]
pub(in super::super) struct LastPush {
    /// The topic, which a push certificate must have.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "com.apple.mgmt.External.7f3a")]
    topic: Option<String>,
    /// Whether there is a push token that Apple has not called invalid.
    has_token: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_at: Option<Timestamp>,
    /// `accepted`, `refused`, `later`, `unreachable`, `token_invalid`, `no_certificate` or `not_possible`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "accepted")]
    last_result: Option<String>,
    /// Apple's reason, or what went wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_reason: Option<String>,
    /// The id that Apple gave the push.
    #[serde(skip_serializing_if = "Option::is_none")]
    apns_id: Option<String>,
    /// When the next push is due.
    #[serde(skip_serializing_if = "Option::is_none")]
    due_at: Option<Timestamp>,
    /// How often this push was tried and failed.
    attempts: i64,
}

/// A certificate that admits a device.
#[derive(Debug, Serialize, ToSchema)]
pub(in super::super) struct Identity {
    sha256: Sha256,
    /// `valid`, `in_grace`, `expired` or `revoked`.
    #[schema(example = "valid")]
    state: &'static str,
    /// Its serial number in hex, where it was issued here.
    #[serde(skip_serializing_if = "Option::is_none")]
    serial: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<Timestamp>,
    pinned_at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    revoked_at: Option<Timestamp>,
}

/// What a device last told of itself, of one kind.
#[derive(Debug, Serialize, ToSchema)]
pub(in super::super) struct Inventory {
    updated_at: Timestamp,
    /// As Apple names it.
    #[schema(value_type = Object, example = json!({"DeviceName": "Front desk iPhone", "OSVersion": "18.1"}))]
    data: Value,
}

impl Device {
    /// The device with its channels and what it told of itself.
    pub(super) fn of(view: DeviceView) -> Self {
        let state = view.channels.iter().find(|channel| channel.enrollment.parent_id.is_none());
        let state = state.map(|channel| channel.enrollment.state.clone());
        let inventory = view.inventory.into_iter().map(|row| {
            let data = serde_json::from_str(&row.data).unwrap_or_default();
            (row.kind, Inventory { updated_at: row.updated_at, data })
        });
        Self {
            facts: view.device.into(),
            state,
            link: view.link.map(|link| LinkName { id: link.id, name: link.name }),
            inventory: inventory.collect(),
            enrollments: view.channels.into_iter().map(Enrollment::from).collect(),
        }
    }
}

impl From<ChannelView> for Enrollment {
    fn from(view: ChannelView) -> Self {
        let row = view.enrollment;
        let wake = view.wake;
        Self {
            id: row.id,
            kind: row.kind,
            state: row.state,
            apple_id: row.apple_id,
            generation: row.generation,
            user_short_name: row.user_short_name,
            user_long_name: row.user_long_name,
            awaiting_configuration: row.awaiting_configuration,
            authenticated_at: row.authenticated_at,
            enabled_at: row.enabled_at,
            disabled_at: row.disabled_at,
            last_seen_at: row.last_seen_at,
            reenrollment_approved_until: row.reenroll_approved_until,
            push: LastPush {
                topic: row.topic,
                has_token: row.push_token.is_some(),
                last_at: wake.as_ref().and_then(|wake| wake.last_at),
                last_result: wake.as_ref().and_then(|wake| wake.last_result.clone()),
                last_reason: wake.as_ref().and_then(|wake| wake.last_reason.clone()),
                apns_id: wake.as_ref().and_then(|wake| wake.last_apns_id.clone()),
                due_at: wake.as_ref().and_then(|wake| wake.due_at),
                attempts: wake.map_or(0, |wake| wake.attempts),
            },
            identity_state: view.identity_state.map(IdentityState::as_str),
            identities: view.identities.into_iter().map(Identity::from).collect(),
            renewal: view.renewal.map(|row| Renewal {
                attempts: row.attempts,
                sent_at: row.sent_at,
                retry_at: row.retry_at,
                failed_at: row.failed_at,
                error: row.error,
            }),
            profile: view.terms.map(|row| EnrollmentProfile {
                identifier: row.identifier,
                server_url: row.server_url,
                checkin_url: row.checkin_url,
                access_rights: row.access_rights,
            }),
        }
    }
}

impl From<IdentityView> for Identity {
    fn from(view: IdentityView) -> Self {
        Self {
            sha256: view.row.sha256,
            state: view.state.as_str(),
            serial: view.row.serial,
            subject: view.row.subject,
            expires_at: view.row.not_after,
            pinned_at: view.row.pinned_at,
            revoked_at: view.row.revoked_at,
        }
    }
}
