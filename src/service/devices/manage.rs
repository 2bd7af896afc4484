use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::json;

use super::super::audit::Subject;
use super::super::deliveries::{End, void_open};
use super::super::{Actor, App, Error, wakes};
use crate::model::{DeviceId, Timestamp};
use crate::store::{Enrollment, Write};

/// Longest approval of another enrollment.
const MAX_APPROVAL: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// Removes a device from management.
///
/// Its certificates and pins are revoked, all that is open for it is cancelled, and its enrollments are closed as
/// `removed`: when it comes the next time, it is told to leave. Its history stays. By a fresh link it may enroll anew.
/// A device that was removed before stays as it is.
///
/// # Errors
/// [`Error::NotFound`].
pub async fn remove(app: &App, actor: &Actor, id: DeviceId) -> Result<(), Error> {
    let now = app.clock.now();
    let mut tx = app.store.begin_write().await?;
    let device = tx.device(id).await?.ok_or_else(|| not_found(id))?;
    let mut closed = 0;
    for channel in locked_channels(&mut tx, id).await? {
        void_open(&mut tx, &channel, End::Removed, now).await?;
        tx.revoke_pins(channel.id, None, now).await?;
        tx.revoke_certificates(channel.id, "the device was removed", now).await?;
        if channel.state != "removed" {
            tx.close_enrollment(channel.id, "removed", now).await?;
            closed += 1;
        }
    }
    if tx.remove_device(id, now).await? || closed > 0 {
        let detail = json!({"name": device.name, "serial": device.serial, "enrollments": closed});
        app.audit(&mut tx, actor, "device.removed", Subject { kind: "device", id: &id.to_string() }, &detail, now)
            .await?;
        tx.commit().await?;
    }
    Ok(())
}

/// Lets another certificate or user take over the device's enrollment within `time` from now. Returns until when.
///
/// # Errors
/// [`Error::NotFound`]; [`Error::Conflict`] `not_enrolled` where nothing stands in the way of enrolling;
/// [`Error::Invalid`] for a time that is too long.
pub async fn approve_reenrollment(app: &App, actor: &Actor, id: DeviceId, time: Duration) -> Result<Timestamp, Error> {
    if time.is_zero() || time > MAX_APPROVAL {
        return Err(Error::invalid("invalid_request", "an approval holds for at least a second and at most 30 days"));
    }
    let now = app.clock.now();
    let mut tx = app.store.begin_write().await?;
    let channel = device_channel(&mut tx, id).await?;
    if !channel.is_enabled() {
        let detail = format!("the enrollment is {}, so the device may enroll without an approval", channel.state);
        return Err(Error::conflict("not_enrolled", detail));
    }
    let until = now.plus(time);
    tx.approve_reenrollment(channel.id, until).await?;
    let subject = Subject { kind: "device", id: &id.to_string() };
    app.audit(&mut tx, actor, "device.reenrollment_approved", subject, &json!({"until": until}), now).await?;
    tx.commit().await?;
    Ok(until)
}

/// What came of a wish to wake a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Woken {
    /// Why no push can be sent now; none where one is on its way.
    pub not_possible: Option<String>,
}

/// Wakes a device: it comes and asks for commands.
///
/// # Errors
/// [`Error::NotFound`]; [`Error::Conflict`] `not_enrolled`.
pub async fn wake(app: &App, actor: &Actor, id: DeviceId) -> Result<Woken, Error> {
    let now = app.clock.now();
    let mut tx = app.store.begin_write().await?;
    let channel = device_channel(&mut tx, id).await?;
    if !channel.is_enabled() {
        let detail = format!("the enrollment is {}: there is nothing to push to", channel.state);
        return Err(Error::conflict("not_enrolled", detail));
    }
    tx.request_wake(channel.id, now, now.plus(app.settings.push.sync_interval)).await?;
    let not_possible = if channel.push_token.is_none() {
        Some("Apple says that the device's push token is no longer valid".to_owned())
    } else {
        let topics: BTreeSet<_> = channel.topic.into_iter().collect();
        let problems = wakes::topics_without_certificate(&mut tx, &topics, now).await?;
        (!problems.is_empty()).then(|| problems.join("; "))
    };
    let subject = Subject { kind: "device", id: &id.to_string() };
    app.audit(&mut tx, actor, "device.woken", subject, &json!({}), now).await?;
    tx.commit().await?;
    app.signals.push.notify_one();
    Ok(Woken { not_possible })
}

/// The device channel, locked.
async fn device_channel(tx: &mut Write, id: DeviceId) -> Result<Enrollment, Error> {
    tx.device(id).await?.ok_or_else(|| not_found(id))?;
    let channels = tx.enrollments_of_device(id).await?;
    let never = || Error::conflict("not_enrolled", "the device never enrolled");
    let channel = channels.into_iter().find(|channel| channel.parent_id.is_none()).ok_or_else(never)?;
    tx.enrollment_by_id_for_update(channel.id).await?.ok_or_else(never)
}

/// All channels, locked: the device channel first, then those of users in the order of their ids.
async fn locked_channels(tx: &mut Write, id: DeviceId) -> Result<Vec<Enrollment>, Error> {
    let mut locked = Vec::new();
    for channel in tx.enrollments_of_device(id).await? {
        if channel.parent_id.is_none()
            && let Some(channel) = tx.enrollment_by_id_for_update(channel.id).await?
        {
            let users = tx.user_channels_for_update(channel.id).await?;
            locked.push(channel);
            locked.extend(users);
        }
    }
    Ok(locked)
}

fn not_found(id: DeviceId) -> Error {
    Error::NotFound(format!("there is no device {id}"))
}
