use serde_json::json;

use super::super::audit::Subject;
use super::super::deliveries::{End, void_open};
use super::super::device_identity::require_pin;
use super::super::webhooks::{self, Message, Telling};
use super::super::{Actor, App, Error, compat};
use super::token_update::escrow_context;
use super::{Answer, Arrived};
use crate::model::Timestamp;
use crate::protocol::Sender;
use crate::protocol::checkin::{
    CheckOut, DeclarativeManagement, GetBootstrapToken, GetToken, SetBootstrapToken, UserAuthenticate,
    bootstrap_token_answer, digest_challenge_answer,
};
use crate::store::{Enrollment, Write};

/// The enrollment profile was removed: the enrollment ends. History stays; nothing is pushed to it any more.
///
/// # Errors
/// [`Error::Denied`] where the certificate does not belong to the enrollment.
pub async fn check_out(app: &App, arrived: &Arrived, message: CheckOut) -> Result<(), Error> {
    let now = app.clock.now();
    let telling = webhooks::of_check_in(app, Message::CheckOut, arrived, &message.sender)?;
    let mut tx = app.store.begin_write().await?;
    let Some((enrollment, is_device)) = channel(&mut tx, arrived, &message.sender, now).await? else {
        return Ok(());
    };
    if enrollment.state == "disabled" || enrollment.state == "removed" {
        return Ok(());
    }
    if is_device {
        for user in tx.user_channels_for_update(enrollment.id).await? {
            close(&mut tx, &user, now).await?;
        }
    }
    close(&mut tx, &enrollment, now).await?;
    let actor = Actor::device(&enrollment.apple_id).at(Some(arrived.address));
    let subject = Subject { kind: "device", id: &enrollment.device_id.to_string() };
    app.audit(&mut tx, &actor, "enrollment.checked_out", subject, &json!({"channel": enrollment.kind}), now).await?;
    tell_and_commit(app, tx, telling.as_ref(), &enrollment).await?;
    Ok(())
}

/// A Mac escrows its bootstrap token, or takes it back.
///
/// # Errors
/// [`Error::Denied`] where the certificate does not belong to the enrollment.
pub async fn set_bootstrap_token(app: &App, arrived: &Arrived, message: SetBootstrapToken) -> Result<(), Error> {
    let now = app.clock.now();
    let telling = webhooks::of_check_in(app, Message::SetBootstrapToken, arrived, &message.sender)?;
    let mut tx = app.store.begin_write().await?;
    let (enrollment, _) = open_channel(&mut tx, arrived, &message.sender, now).await?;
    let (id, generation) = (enrollment.id, enrollment.generation);
    match message.bootstrap_token.as_ref().filter(|token| !token.expose().is_empty()) {
        Some(token) => {
            let sealed = app.seal(&escrow_context(id, generation, "bootstrap_token"), token.expose())?;
            tx.put_escrow(id, generation, "bootstrap_token", &sealed, now).await?;
        }
        None => tx.clear_escrow(id, generation, "bootstrap_token").await?,
    }
    tell_and_commit(app, tx, telling.as_ref(), &enrollment).await?;
    Ok(())
}

/// A Mac asks for its bootstrap token; an empty body where none is escrowed.
///
/// # Errors
/// [`Error::Denied`] where the certificate does not belong to the enrollment.
pub async fn get_bootstrap_token(app: &App, arrived: &Arrived, message: GetBootstrapToken) -> Result<Answer, Error> {
    let now = app.clock.now();
    let telling = webhooks::of_check_in(app, Message::GetBootstrapToken, arrived, &message.sender)?;
    let mut tx = app.store.begin_write().await?;
    let (enrollment, _) = open_channel(&mut tx, arrived, &message.sender, now).await?;
    let (id, generation) = (enrollment.id, enrollment.generation);
    let sealed = tx.escrow(id, generation, "bootstrap_token").await?;
    tell_and_commit(app, tx, telling.as_ref(), &enrollment).await?;
    let Some(sealed) = sealed else { return Ok(Answer::Empty) };
    let token = app.open(&escrow_context(id, generation, "bootstrap_token"), &sealed)?;
    Ok(Answer::Plist(bootstrap_token_answer(Some(token.expose()))))
}

/// The device asks for a token of another service of Apple's; none is kept here yet.
pub(super) async fn get_token(app: &App, arrived: &Arrived, message: GetToken) -> Result<Answer, Error> {
    require_known(app, arrived, &message.sender, Message::GetToken).await?;
    Err(Error::NotFound(format!("there is no token for the service {}", message.service_type)))
}

/// A network user of a Mac logs in. Users are not known here: 410 tells the Mac that this one gets no channel; with
/// `devices.network_users` an empty challenge, and then an empty answer, that it gets one without a password.
pub(super) async fn user_authenticate(
    app: &App,
    arrived: &Arrived,
    message: UserAuthenticate,
) -> Result<Answer, Error> {
    require_known(app, arrived, &message.sender, Message::UserAuthenticate).await?;
    Ok(match (app.settings.devices.network_users, message.digest_response) {
        (false, _) => Answer::Gone,
        (true, None) => Answer::Plist(digest_challenge_answer()),
        (true, Some(_)) => Answer::Empty,
    })
}

/// Declarative management is a hook's affair; without one nothing is declared for any device: 404, on every endpoint.
pub(super) async fn declarative_management(
    app: &App,
    arrived: &Arrived,
    message: DeclarativeManagement,
) -> Result<Answer, Error> {
    require_known(app, arrived, &message.sender, Message::DeclarativeManagement).await?;
    compat::ask(app, &message).await
}

/// Refuses a message from a device that is not known or presents another certificate. Webhooks are told of one that is let
/// in, which is all that is written for it.
async fn require_known(app: &App, arrived: &Arrived, sender: &Sender, message: Message) -> Result<(), Error> {
    let now = app.clock.now();
    let telling = webhooks::of_check_in(app, message, arrived, sender)?;
    let mut tx = app.store.begin_write().await?;
    let device = tx.enrollment_for_update(sender.apple_id.device_channel()).await?.ok_or_else(unknown)?;
    if device.state == "removed" {
        return Err(Error::Unrecognized);
    }
    require_pin(&mut tx, &arrived.presented, device.id, now).await?;
    tell_and_commit(app, tx, telling.as_ref(), &device).await
}

/// Ends the transaction of a message, with what webhooks are to be told of it.
async fn tell_and_commit(
    app: &App,
    mut tx: Write,
    telling: Option<&Telling>,
    enrollment: &Enrollment,
) -> Result<(), Error> {
    if let Some(telling) = telling {
        telling.write(&mut tx, (enrollment.device_id, enrollment.id), None, false).await?;
    }
    tx.commit().await?;
    webhooks::told(app, telling);
    Ok(())
}

fn unknown() -> Error {
    Error::Denied("the device is not enrolled here".to_owned())
}

/// The channel that a message is from, locked, and whether it is the device channel. None: a user channel that never
/// was.
async fn channel(
    tx: &mut Write,
    arrived: &Arrived,
    sender: &Sender,
    now: Timestamp,
) -> Result<Option<(Enrollment, bool)>, Error> {
    let device = tx.enrollment_for_update(sender.apple_id.device_channel()).await?.ok_or_else(unknown)?;
    require_pin(tx, &arrived.presented, device.id, now).await?;
    if sender.apple_id.parent.is_none() {
        return Ok(Some((device, true)));
    }
    Ok(tx.enrollment_for_update(&sender.apple_id.id).await?.map(|user| (user, false)))
}

/// As [`channel`], but it must be there and not have ended.
async fn open_channel(
    tx: &mut Write,
    arrived: &Arrived,
    sender: &Sender,
    now: Timestamp,
) -> Result<(Enrollment, bool), Error> {
    let found = channel(tx, arrived, sender, now).await?.ok_or_else(unknown)?;
    match found.0.state.as_str() {
        "removed" => Err(Error::Unrecognized),
        "disabled" => Err(Error::Denied("the enrollment has ended".to_owned())),
        _ => Ok(found),
    }
}

async fn close(tx: &mut Write, enrollment: &Enrollment, now: Timestamp) -> Result<(), Error> {
    void_open(tx, enrollment, End::CheckOut, now).await?;
    tx.close_enrollment(enrollment.id, "disabled", now).await?;
    Ok(())
}
