use std::net::IpAddr;
use std::sync::Arc;

use futures_util::FutureExt;
use serde_json::json;

use super::super::audit::Subject;
use super::super::commands::{self, Internal};
use super::super::deliveries::{self, End, void_open};
use super::super::device_identity::require_pin;
use super::super::webhooks::{self, Message, Telling};
use super::super::{Actor, App, Error};
use super::permission::{Refusal, refuse_by_challenge};
use super::{Arrived, raw_context};
use crate::model::{EnrollmentId, Timestamp};
use crate::protocol::checkin::TokenUpdate;
use crate::store::{Enrollment, Key, PushFacts, StoreError, Write};

/// Records a `TokenUpdate`: the enrollment can be pushed to from now on.
///
/// Keeps a stored unlock token when the message brings none (iOS sends it once). The first update after an
/// `Authenticate` completes the enrollment: the use of the link is counted and the first inventory is asked for, in
/// the same transaction. On a user channel it is also what begins it. A later one that brings another token wakes the
/// device if anything waits for it: the push that should have may have gone to the old token, or to none.
///
/// # Errors
/// [`Error::Denied`] for a device that did not authenticate, or that presents another certificate.
pub async fn token_update(app: &App, arrived: Arc<Arrived>, message: TokenUpdate) -> Result<(), Error> {
    let keys = vec![Key::of(message.sender.apple_id.device_channel())];
    let telling = Arc::new(webhooks::of_check_in(app, Message::TokenUpdate, &arrived, &message.sender)?);
    let message = Arc::new(message);
    let work = {
        let (app, telling) = (app.clone(), Arc::clone(&telling));
        move |tx| {
            let (app, arrived, message) = (app.clone(), Arc::clone(&arrived), Arc::clone(&message));
            let telling = Arc::clone(&telling);
            async move { within(&app, tx, &arrived, &message, Option::as_ref(&telling)).await }.boxed()
        }
    };
    app.store.together(keys, work).await?;
    webhooks::told(app, Option::as_ref(&telling));
    app.signals.push.notify_one();
    Ok(())
}

async fn within(
    app: &App,
    mut tx: Write,
    arrived: &Arrived,
    message: &TokenUpdate,
    telling: Option<&Telling>,
) -> Result<(), Error> {
    let now = app.clock.now();
    let apple_id = &message.sender.apple_id;
    let device_channel = tx.enrollment_for_update(apple_id.device_channel()).await?.ok_or_else(not_authenticated)?;
    if device_channel.state == "removed" {
        return Err(Error::Unrecognized);
    }
    require_pin(&mut tx, &arrived.presented, device_channel.id, now).await?;
    if device_channel.state == "disabled" {
        return Err(Error::Denied("the enrollment has ended; the device must authenticate anew".to_owned()));
    }
    let is_user_channel = apple_id.parent.is_some();
    // Before anything is written: who is refused later makes all that share this transaction run again.
    if !is_user_channel
        && device_channel.token_tally == 0
        && let Some(challenge) = device_channel.challenge_id
        && let Some(Refusal(why)) = refuse_by_challenge(&mut tx, challenge, now).await?
    {
        return Err(Error::Denied(format!("the enrollment cannot be completed: {why}")));
    }
    let (id, generation) = if is_user_channel {
        user_channel(app, &mut tx, &device_channel, message, now).await?
    } else {
        (device_channel.id, device_channel.generation)
    };

    let sealed = app.seal(&raw_context(&message.sender.apple_id.id, "TokenUpdate"), &arrived.raw)?;
    tx.put_check_in(id, "TokenUpdate", &sealed, now).await?;
    let push = PushFacts {
        topic: &message.topic,
        token: &message.token,
        magic: &message.push_magic,
        awaiting_configuration: message.awaiting_configuration,
    };
    let before = tx.enrollment(id).await?.ok_or_else(|| Error::Internal("an enrollment row vanished".to_owned()))?;
    let tally = tx.set_push(id, &push, now).await?;
    if let Some(token) = &message.unlock_token
        && !token.expose().is_empty()
    {
        let sealed = app.seal(&escrow_context(id, generation, "unlock_token"), token.expose())?;
        tx.put_escrow(id, generation, "unlock_token", &sealed, now).await?;
    }
    if tally == 1 {
        complete(app, &mut tx, id, (!is_user_channel).then_some(&device_channel), arrived.address, now).await?;
    } else {
        // A renewal by InstallProfile ends here; some clients never report the command itself.
        deliveries::presume_renewal(&mut tx, id, now).await?;
        if is_reached_otherwise(&before, &push) {
            tx.end_wake_pause(id).await?;
            if deliveries::is_anything_waiting(&mut tx, &before).await? {
                tx.request_wake(id, now, now.plus(app.settings.push.sync_interval)).await?;
            }
        }
    }
    if let Some(telling) = telling {
        telling.write(&mut tx, (device_channel.device_id, id), Some(tally), false).await?;
    }
    tx.commit().await?;
    Ok(())
}

/// The place for which an escrowed value is sealed.
pub(in crate::service) fn escrow_context(id: EnrollmentId, generation: i64, kind: &str) -> String {
    format!("escrow:{id}:{generation}:{kind}")
}

/// Whether pushes go elsewhere from now on than those before did.
fn is_reached_otherwise(before: &Enrollment, now: &PushFacts<'_>) -> bool {
    before.push_token.as_deref() != Some(now.token)
        || before.push_magic.as_deref() != Some(now.magic)
        || before.topic.as_deref() != Some(now.topic)
}

fn not_authenticated() -> Error {
    Error::Denied("TokenUpdate before any Authenticate".to_owned())
}

/// The user channel that the message is about; made when it is new, begun again when it had ended.
pub(in crate::service) async fn user_channel(
    app: &App,
    tx: &mut Write,
    device_channel: &Enrollment,
    message: &TokenUpdate,
    now: Timestamp,
) -> Result<(EnrollmentId, i64), Error> {
    if !device_channel.is_enabled() {
        return Err(Error::Denied("the device channel is not enrolled yet".to_owned()));
    }
    let apple_id = &message.sender.apple_id;
    let channel = match tx.enrollment_for_update(&apple_id.id).await? {
        Some(e) if e.state == "removed" => return Err(Error::Unrecognized),
        Some(e) => {
            if e.is_enabled() {
                (e.id, e.generation)
            } else {
                // What the user had when they checked out, and did not report on.
                void_open(tx, &e, End::NewEnrollment, now).await?;
                tx.begin_generation(e.id, now).await?;
                (e.id, e.generation + 1)
            }
        }
        None => {
            let id = EnrollmentId::new(now, &*app.random);
            tx.insert_enrollment(id, device_channel.device_id, Some(device_channel.id), apple_id, now).await.map_err(
                |e| match e {
                    StoreError::Conflict(_) => {
                        Error::Unavailable("the user channel is being enrolled by another request".to_owned())
                    }
                    other => other.into(),
                },
            )?;
            (id, 1)
        }
    };
    let sender = &message.sender;
    tx.set_channel_user(channel.0, sender.user_short_name.as_deref(), sender.user_long_name.as_deref()).await?;
    Ok(channel)
}

/// The first TokenUpdate of a generation. `device_channel` is none for a user channel.
pub(in crate::service) async fn complete(
    app: &App,
    tx: &mut Write,
    id: EnrollmentId,
    device_channel: Option<&Enrollment>,
    address: IpAddr,
    now: Timestamp,
) -> Result<(), Error> {
    let number = tx.fleet_number_for_enrollment().await?;
    tx.set_fleet_cursor(id, number).await?;
    let interval = u64::try_from(app.settings.push.sync_interval.as_micros()).unwrap_or(u64::MAX);
    // Spread over one interval, so that a fleet that enrolled together is not woken together for ever.
    let spread = std::time::Duration::from_micros(app.random.below(interval));
    tx.request_wake(id, now, now.plus(app.settings.push.sync_interval).plus(spread)).await?;
    let Some(channel) = device_channel else { return Ok(()) };
    commands::enqueue_internal(app, tx, (id, channel.generation), Internal::DeviceInformation, now).await?;
    // A moment later, since commands of one priority come in the order of their age.
    let after = now.plus(std::time::Duration::from_micros(1));
    commands::enqueue_internal(app, tx, (id, channel.generation), Internal::SecurityInfo, after).await?;
    if channel.terms.is_none() {
        // Its profile was made elsewhere: the list of profiles tells its identifier.
        let last = after.plus(std::time::Duration::from_micros(1));
        commands::enqueue_internal(app, tx, (id, channel.generation), Internal::Profiles, last).await?;
    }
    let actor = Actor::device(&channel.apple_id).at(Some(address));
    let subject = Subject { kind: "device", id: &channel.device_id.to_string() };
    app.audit(tx, &actor, "enrollment.completed", subject, &json!({"generation": channel.generation}), now).await?;
    // Last: many enroll by the same link, and whoever has counted holds its row until the commit.
    if let Some(challenge) = channel.challenge_id {
        tx.count_link_use(challenge, now).await?;
    }
    Ok(())
}
