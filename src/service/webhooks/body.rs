//! The messages that webhooks get, in both forms.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue};
use serde::Serialize;
use url::form_urlencoded;

use super::super::compat::shown;
use super::super::{App, Error};
use super::known::Webhook;
use super::secret::key_of;
use super::tell::Head;
use crate::model::{DeviceId, EnrollmentId, EventId, Timestamp, WebhookForm};
use crate::protocol::report::ErrorItem;
use crate::remote::hooks::{HEADER, sign, sign_standard};

/// What a webhook is told of.
#[derive(Debug)]
pub(super) struct Event<'a> {
    pub(super) id: EventId,
    pub(super) topic: &'a str,
    pub(super) created_at: Timestamp,
    /// None where it is about no device.
    pub(super) about: Option<(DeviceId, EnrollmentId)>,
    pub(super) tally: Option<i64>,
    pub(super) head: Option<&'a Head>,
    pub(super) raw: &'a [u8],
}

/// A message with its headers, signed as the form has it.
pub(super) fn write(
    app: &App,
    webhook: &Webhook,
    event: &Event<'_>,
    now: Timestamp,
) -> Result<(HeaderMap, Vec<u8>), Error> {
    let broken = |e: serde_json::Error| Error::Internal(format!("an event cannot be written: {e}"));
    let mut headers = HeaderMap::new();
    let body = match webhook.form {
        WebhookForm::NanoMdm => {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            let body = serde_json::to_vec(&NanoMdm::of(event)).map_err(broken)?;
            if let Some(secret) = &webhook.secret {
                insert(&mut headers, HEADER, &sign(secret, &body))?;
            }
            body
        }
        WebhookForm::CloudEvents => {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/cloudevents+json"));
            let source = app.settings.public_url.as_str();
            let body = serde_json::to_vec(&CloudEvent::of(event, source, webhook.takes_raw())).map_err(broken)?;
            let key = webhook.secret.as_ref().and_then(key_of);
            let key = key.ok_or_else(|| Error::Internal("a webhook has no usable secret".to_owned()))?;
            let id = event.id.to_string();
            insert(&mut headers, "webhook-id", &id)?;
            insert(&mut headers, "webhook-timestamp", &now.seconds().to_string())?;
            insert(&mut headers, "webhook-signature", &sign_standard(&key, &id, now.seconds(), &body))?;
            body
        }
    };
    Ok((headers, body))
}

fn insert(headers: &mut HeaderMap, name: &str, value: &str) -> Result<(), Error> {
    let name = HeaderName::from_bytes(name.as_bytes()).map_err(|e| Error::Internal(e.to_string()))?;
    headers.insert(name, HeaderValue::from_str(value).map_err(|e| Error::Internal(e.to_string()))?);
    Ok(())
}

/// Source: NanoMDM, `service/webhook/event.json`.
#[derive(Serialize)]
struct NanoMdm<'a> {
    topic: &'a str,
    event_id: EventId,
    created_at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    acknowledge_event: Option<Acknowledge<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    checkin_event: Option<CheckIn<'a>>,
}

#[derive(Serialize)]
struct Ids<'a> {
    id: &'a str,
    r#type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent_id: Option<&'a str>,
}

#[derive(Serialize)]
struct Acknowledge<'a> {
    ids: Ids<'a>,
    status: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    udid: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    enrollment_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    command_uuid: Option<&'a str>,
    raw_payload: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    url_params: BTreeMap<String, String>,
}

#[derive(Serialize)]
struct CheckIn<'a> {
    ids: Ids<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    udid: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    enrollment_id: Option<&'a str>,
    raw_payload: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    url_params: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_update_tally: Option<i64>,
}

impl<'a> NanoMdm<'a> {
    fn of(event: &Event<'a>) -> Self {
        let mut made = Self {
            topic: event.topic,
            event_id: event.id,
            created_at: event.created_at,
            acknowledge_event: None,
            checkin_event: None,
        };
        let Some(head) = event.head else { return made };
        let ids = Ids { id: &head.apple_id, r#type: shown(head.kind), parent_id: head.parent.as_deref() };
        let (udid, enrollment_id) = (head.udid.as_deref(), head.apple_enrollment_id.as_deref());
        let raw_payload = STANDARD.encode(event.raw);
        let url_params = parameters(head.query.as_deref());
        if head.message.is_report() {
            let status = head.status.as_deref().unwrap_or_default();
            let command_uuid = head.command_uuid.as_deref();
            let told = Acknowledge { ids, status, udid, enrollment_id, command_uuid, raw_payload, url_params };
            made.acknowledge_event = Some(told);
        } else {
            let token_update_tally = event.tally;
            made.checkin_event =
                Some(CheckIn { ids, udid, enrollment_id, raw_payload, url_params, token_update_tally });
        }
        made
    }
}

/// Of a parameter that is there several times, the first.
fn parameters(query: Option<&str>) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for (name, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
        found.entry(name.into_owned()).or_insert_with(|| value.into_owned());
    }
    found
}

/// Source: CloudEvents 1.0, "JSON Event Format".
#[derive(Serialize)]
struct CloudEvent<'a> {
    specversion: &'static str,
    id: EventId,
    source: &'a str,
    r#type: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<DeviceId>,
    time: Timestamp,
    datacontenttype: &'static str,
    data: Data<'a>,
}

#[derive(Serialize, Default)]
struct Data<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    device_id: Option<DeviceId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    enrollment_id: Option<EnrollmentId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    channel: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    apple_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_update_tally: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    command_uuid: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_type: Option<&'a str>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    errors: &'a [ErrorItem],
    #[serde(skip_serializing_if = "Option::is_none")]
    raw: Option<String>,
}

impl<'a> CloudEvent<'a> {
    fn of(event: &Event<'a>, source: &'a str, with_raw: bool) -> Self {
        let mut data = Data {
            device_id: event.about.map(|(device, _)| device),
            enrollment_id: event.about.map(|(_, enrollment)| enrollment),
            token_update_tally: event.tally,
            ..Data::default()
        };
        if let Some(head) = event.head {
            data.channel = Some(head.kind.as_str());
            data.apple_id = Some(&head.apple_id);
            data.status = head.status.as_deref();
            data.command_uuid = head.command_uuid.as_deref();
            data.request_type = head.request_type.as_deref();
            data.errors = &head.errors;
            data.raw = with_raw.then(|| STANDARD.encode(event.raw));
        }
        Self {
            specversion: "1.0",
            id: event.id,
            source,
            r#type: event.topic,
            subject: data.device_id,
            time: event.created_at,
            datacontenttype: "application/json",
            data,
        }
    }
}
