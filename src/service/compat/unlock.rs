use std::collections::BTreeMap;

use serde_json::json;

use super::super::audit::Subject;
use super::super::{Actor, App, Error, wakes};
use crate::remote::apns::Unlock;

/// What a tool asks for: the members of its form.
pub type Asked = BTreeMap<String, String>;

/// What Apple answered, to be passed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unlocked {
    /// The HTTP status.
    pub status: u16,
    /// The `Content-Type`, if Apple said one.
    pub content_type: Option<http::HeaderValue>,
    /// The body.
    pub body: bytes::Bytes,
}

/// Members of the form that say which device it is; those after the first two may be missing.
const DEVICE: [&str; 5] = ["serial", "productType", "imei", "imei2", "meid"];
const NEEDED_OF_DEVICE: usize = 2;
/// Members that say by what right, all needed.
const RIGHT: [&str; 3] = ["orgName", "guid", "escrowKey"];

/// Has Apple lift a device's activation lock by its bypass code, under the push certificate of a topic.
///
/// # Errors
/// [`Error::Invalid`] where something is missing; [`Error::NotFound`] without a valid push certificate for the topic;
/// [`Error::Unavailable`] where Apple cannot be reached.
pub async fn escrow_key_unlock(app: &App, actor: &Actor, asked: &Asked) -> Result<Unlocked, Error> {
    let get = |name: &str| asked.get(name).filter(|text| !text.is_empty());
    let needed = DEVICE.iter().take(NEEDED_OF_DEVICE).chain(&RIGHT);
    if needed.into_iter().any(|name| get(name).is_none()) {
        return Err(Error::invalid("unlock", "invalid or missing parameters"));
    }
    let topic = get("topic").ok_or_else(|| Error::invalid("unlock", "empty topic"))?;
    let identity = wakes::identity(app, topic)
        .await?
        .ok_or_else(|| Error::NotFound(format!("there is no valid push certificate for topic {topic:?}")))?;
    let members = |names: &[&'static str]| names.iter().filter_map(|name| Some((*name, get(name)?.clone()))).collect();
    let unlock = Unlock {
        endpoint: app.settings.compat.escrow_key_unlock_url.url().clone(),
        device: members(&DEVICE),
        form: members(&RIGHT),
    };

    // Before it is asked for: what Apple did cannot be taken back.
    let now = app.clock.now();
    let mut tx = app.store.begin_write().await?;
    let serial: String =
        get("serial").map(|text| text.chars().filter(|c| !c.is_control()).take(255).collect()).unwrap_or_default();
    let subject = Subject { kind: "serial", id: &serial };
    app.audit(&mut tx, actor, "activation_lock.bypass_asked", subject, &json!({"topic": topic}), now).await?;
    tx.commit().await?;

    let answer = app.pusher.unlock(&identity, &unlock).await.map_err(Error::Unavailable)?;
    tracing::info!(serial, status = answer.status, "Apple was asked to lift an activation lock");
    Ok(Unlocked { status: answer.status, content_type: answer.content_type, body: answer.body })
}
