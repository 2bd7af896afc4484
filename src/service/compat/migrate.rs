use std::net::IpAddr;

use serde_json::json;

use super::super::audit::Subject;
use super::super::check_in::{complete, escrow_context, facts, raw_context, user_channel};
use super::super::{Actor, App, Error};
use crate::model::{DeviceId, EnrollmentId, Timestamp};
use crate::protocol::checkin::{Authenticate, CheckIn, TokenUpdate};
use crate::store::{Enrollment, PushFacts, Write};

/// Takes an enrollment over from another server, by a check-in message that the device sent to that one: first its
/// `Authenticate`, then its `TokenUpdate`, and then those of its users. No certificate is pinned by it.
///
/// What is enrolled here goes on as it is: the same message again changes no generation, and a message for an enrollment
/// with a certificate of its own changes nothing that the device has told this server itself.
///
/// # Errors
/// [`Error::Invalid`] for another message; [`Error::Denied`] for a device that was removed here, a `TokenUpdate` before the
/// `Authenticate`, or a user before the device.
pub async fn migrate(app: &App, actor: &Actor, address: IpAddr, message: CheckIn, raw: &[u8]) -> Result<(), Error> {
    match message {
        CheckIn::Authenticate(message) => authenticate(app, actor, &message, raw).await,
        CheckIn::TokenUpdate(message) => token_update(app, actor, address, &message, raw).await,
        other => {
            let why = format!("{} cannot be taken over: only Authenticate and TokenUpdate", other.message_type());
            Err(Error::invalid("bad_message", why))
        }
    }
}

async fn authenticate(app: &App, actor: &Actor, message: &Authenticate, raw: &[u8]) -> Result<(), Error> {
    let apple_id = &message.sender.apple_id;
    if !apple_id.kind.is_device_channel() {
        return Err(Error::invalid("bad_message", "a user channel sends no Authenticate"));
    }
    let now = app.clock.now();
    let mut tx = app.store.begin_write().await?;
    let facts = facts(message);
    let (id, device) = match tx.enrollment_for_update(&apple_id.id).await? {
        None => {
            let (id, device) = (EnrollmentId::new(now, &*app.random), DeviceId::new(now, &*app.random));
            tx.insert_device(device, &facts, now).await?;
            tx.insert_enrollment(id, device, None, apple_id, now).await?;
            (id, device)
        }
        Some(e) if e.state == "removed" => return Err(removed()),
        // It enrolled here, or was taken over before: what it tells itself is newer.
        Some(e) if !tx.is_migrated_without_pin(e.id).await? => {
            tracing::info!(enrollment = %e.id, "an enrollment that is this server's own already was not taken over again");
            return Ok(());
        }
        Some(e) => {
            tx.update_device(e.device_id, &facts, now).await?;
            if e.state == "disabled" {
                tx.begin_generation(e.id, now).await?;
            }
            (e.id, e.device_id)
        }
    };
    tx.set_migrated(id, now).await?;
    let sealed = app.seal(&raw_context(&apple_id.id, "Authenticate"), raw)?;
    tx.put_check_in(id, "Authenticate", &sealed, now).await?;
    let subject = Subject { kind: "device", id: &device.to_string() };
    app.audit(&mut tx, actor, "enrollment.migrated", subject, &json!({"topic": message.topic}), now).await?;
    tx.commit().await?;
    Ok(())
}

async fn token_update(
    app: &App,
    actor: &Actor,
    address: IpAddr,
    message: &TokenUpdate,
    raw: &[u8],
) -> Result<(), Error> {
    let now = app.clock.now();
    let apple_id = &message.sender.apple_id;
    let mut tx = app.store.begin_write().await?;
    let device = tx
        .enrollment_for_update(apple_id.device_channel())
        .await?
        .ok_or_else(|| Error::Denied("TokenUpdate before any Authenticate".to_owned()))?;
    match device.state.as_str() {
        "removed" => return Err(removed()),
        "disabled" => return Err(Error::Denied("the enrollment has ended".to_owned())),
        _ => {}
    }
    if !tx.is_migrated_without_pin(device.id).await? {
        tracing::info!(enrollment = %device.id, "an enrollment that is this server's own already was not taken over again");
        return Ok(());
    }
    let is_user = apple_id.parent.is_some();
    let (id, generation) = match is_user {
        true => user_channel(app, &mut tx, &device, message, now).await?,
        false => (device.id, device.generation),
    };
    let sealed = app.seal(&raw_context(&apple_id.id, "TokenUpdate"), raw)?;
    tx.put_check_in(id, "TokenUpdate", &sealed, now).await?;
    let push = PushFacts {
        topic: &message.topic,
        token: &message.token,
        magic: &message.push_magic,
        awaiting_configuration: message.awaiting_configuration,
    };
    let tally = tx.set_push(id, &push, now).await?;
    // What was told before the device came is still the earlier server's.
    tx.set_migrated(id, now).await?;
    if let Some(token) = &message.unlock_token {
        let sealed = app.seal(&escrow_context(id, generation, "unlock_token"), token.expose())?;
        tx.put_escrow(id, generation, "unlock_token", &sealed, now).await?;
    }
    if is_user {
        note_user(app, &mut tx, actor, &device, id, now).await?;
    }
    if tally == 1 {
        complete(app, &mut tx, id, (!is_user).then_some(&device), address, now).await?;
    }
    tx.commit().await?;
    app.signals.push.notify_one();
    Ok(())
}

async fn note_user(
    app: &App,
    tx: &mut Write,
    actor: &Actor,
    device: &Enrollment,
    id: EnrollmentId,
    now: Timestamp,
) -> Result<(), Error> {
    let subject = Subject { kind: "device", id: &device.device_id.to_string() };
    app.audit(tx, actor, "enrollment.migrated", subject, &json!({"user_channel": id}), now).await
}

fn removed() -> Error {
    Error::Denied("the device was removed from management here".to_owned())
}
