use std::sync::Arc;

use futures_util::FutureExt;
use serde_json::json;

use super::super::audit::Subject;
use super::super::deliveries::{End, void_open};
use super::super::device_identity::{Presented, issuing_record};
use super::super::enrollment_profile::{RENEWAL, RETURN_TO_SERVICE};
use super::super::webhooks::{self, Message, Telling};
use super::super::{Actor, App, Error, terms};
use super::permission::{Refusal, refuse_again, refuse_by_link};
use super::{Arrived, raw_context};
use crate::model::{AppleId, DeviceId, EnrollmentId, Sha256, Timestamp};
use crate::protocol::checkin::Authenticate;
use crate::store::{Challenge, DeviceFacts, Enrollment, IssuedRow, Key, Link, StoreError, Write};

/// What the certificate of an `Authenticate` says about where it comes from.
pub(super) struct Origin {
    record: Option<IssuedRow>,
    pub(super) challenge: Option<Challenge>,
    pub(super) link: Option<Link>,
}

impl Origin {
    /// Whether the certificate was issued for this very enrollment, in its present generation.
    fn is_of(&self, existing: &Enrollment) -> bool {
        let record = self.record.as_ref();
        record.is_some_and(|row| row.enrollment_id == Some(existing.id) && row.generation == Some(existing.generation))
    }

    /// Whether the certificate was issued for this very enrollment, in a generation that has ended.
    pub(super) fn is_of_earlier(&self, existing: &Enrollment) -> bool {
        self.record.as_ref().is_some_and(|row| row.enrollment_id == Some(existing.id)) && !self.is_of(existing)
    }

    /// The server itself sent a renewal of the profile to this device, in this generation, and this is the answer.
    fn is_renewal(&self, existing: &Enrollment) -> bool {
        let bound = self.challenge.as_ref().filter(|c| c.purpose == RENEWAL && c.enrollment_id == Some(existing.id));
        existing.is_enabled() && bound.is_some_and(|c| c.generation == Some(existing.generation))
    }

    /// The server itself told this device to wipe itself and to come back, and here it is: out of the generation that
    /// was to be wiped, or once more, as nobody has enrolled it since.
    pub(super) fn is_return_to_service(&self, existing: &Enrollment) -> bool {
        let bound = self.challenge.as_ref().filter(|c| c.purpose == RETURN_TO_SERVICE);
        bound.is_some_and(|c| {
            let is_next = c.generation == Some(existing.generation) || existing.challenge_id == Some(c.id);
            c.enrollment_id == Some(existing.id) && is_next
        })
    }
}

/// What an `Authenticate` is.
enum Meaning {
    /// A device channel that is new to us.
    First,
    /// A new enrollment over an earlier one: everything of that one ends.
    Again,
    /// The answer to a renewal that this server itself sent: nothing ends.
    Renewal,
}

/// A device begins to enroll.
///
/// Creates the device and its device channel, or begins a new generation of it, and pins the certificate; all in one
/// transaction. What belonged to the earlier generation (commands, tokens, escrow, user channels) ends. A renewal
/// that this server sent to an enabled device only adds the certificate.
///
/// # Errors
/// [`Error::Denied`] where the certificate may not enroll this device.
pub async fn authenticate(app: &App, arrived: Arc<Arrived>, message: Authenticate) -> Result<(), Error> {
    let apple_id = &message.sender.apple_id;
    if !apple_id.kind.is_device_channel() {
        return Err(Error::invalid("bad_message", "a user channel sends no Authenticate"));
    }
    // Two devices with the same certificate come one after the other, too.
    let keys = vec![Key::of(&apple_id.id), Key::of(arrived.presented.sha256())];
    let telling = Arc::new(webhooks::of_check_in(app, Message::Authenticate, &arrived, &message.sender)?);
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
    Ok(())
}

async fn within(
    app: &App,
    mut tx: Write,
    arrived: &Arrived,
    message: &Authenticate,
    telling: Option<&Telling>,
) -> Result<(), Error> {
    let apple_id = &message.sender.apple_id;
    let now = app.clock.now();
    let existing = tx.enrollment_for_update(&apple_id.id).await?;
    let origin = origin(&mut tx, &arrived.presented).await?;
    refuse_foreign_certificate(&mut tx, &arrived.presented, &origin, existing.as_ref(), &apple_id.id).await?;
    let terms = known_terms(&mut tx, &arrived.presented, &origin, existing.as_ref()).await?;
    let actor = Actor::device(&apple_id.id).at(Some(arrived.address));
    if let Some(Refusal(reason)) = refusal(app, &mut tx, &arrived.presented, &origin, existing.as_ref(), now).await? {
        // The entry in the audit log is the only change of this transaction.
        let (kind, id) = match (&existing, &origin.link) {
            (None, Some(link)) => ("enrollment_link", link.id.to_string()),
            (None, None) => ("certificate", arrived.presented.sha256().hex()),
            (Some(e), _) => ("device", e.device_id.to_string()),
        };
        let detail = json!({"reason": reason});
        app.audit(&mut tx, &actor, "enrollment.refused", Subject { kind, id: &id }, &detail, now).await?;
        tx.commit().await?;
        return Err(Error::Denied(reason));
    }

    let facts = facts(message);
    let (id, device, meaning) = match &existing {
        None => {
            let (id, device) = insert(app, &mut tx, apple_id, &facts, now).await?;
            (id, device, Meaning::First)
        }
        Some(e) if origin.is_renewal(e) => (e.id, e.device_id, Meaning::Renewal),
        Some(e) => (e.id, e.device_id, Meaning::Again),
    };
    let terms = match meaning {
        Meaning::Again => terms::made_here(&mut tx, terms).await?,
        Meaning::First | Meaning::Renewal => terms,
    };

    let sealed = app.seal(&raw_context(&message.sender.apple_id.id, "Authenticate"), &arrived.raw)?;
    tx.put_check_in(id, "Authenticate", &sealed, now).await?;
    if existing.is_some() {
        tx.update_device(device, &facts, now).await?;
    }
    let presented = &arrived.presented;
    tx.put_pin(id, presented.sha256(), Some(presented.authority.id), Some(presented.certificate.not_after), now)
        .await?;

    let action = match meaning {
        Meaning::Renewal => "identity.renewed",
        Meaning::First => "enrollment.began",
        Meaning::Again if existing.as_ref().is_some_and(Enrollment::is_enabled) => "enrollment.replaced_active",
        Meaning::Again => "enrollment.began_again",
    };
    if !matches!(meaning, Meaning::Renewal) {
        if let (Meaning::Again, Some(e)) = (&meaning, &existing) {
            end_generation(&mut tx, e, presented, now).await?;
        }
        let challenge = origin.challenge.as_ref().map(|c| c.id);
        match existing.as_ref().filter(|e| origin.is_return_to_service(e)) {
            // It is the same device of the same user, whatever has become of the link.
            Some(e) => tx.set_enrollment_origin(id, e.link_id, challenge).await?,
            None => {
                let link = origin.link.as_ref();
                tx.set_enrollment_origin(id, link.map(|l| l.id), challenge).await?;
                let user = link.map(|l| (l.user_name.as_deref(), l.user_email.as_deref())).unwrap_or_default();
                tx.set_device_owner(device, link.map(|l| l.id), user.0, user.1, now).await?;
            }
        }
    }
    if origin.record.is_some() {
        tx.link_certificate(presented.sha256(), id).await?;
    }
    if existing.as_ref().and_then(|e| e.terms) != terms {
        tx.set_terms(id, terms).await?;
    }
    if existing.is_some() {
        tx.clear_renewal(id).await?;
    }
    let detail = json!({
        "certificate": presented.sha256(),
        "topic": message.topic,
        "link": origin.link.as_ref().map(|l| l.name.as_str()),
    });
    app.audit(&mut tx, &actor, action, Subject { kind: "device", id: &device.to_string() }, &detail, now).await?;
    if let Some(telling) = telling {
        telling.write(&mut tx, (device, id), None, false).await?;
    }
    tx.commit().await?;
    Ok(())
}

/// What a device says about itself.
pub(in crate::service) fn facts(message: &Authenticate) -> DeviceFacts {
    DeviceFacts {
        udid: message.sender.udid.clone(),
        apple_enrollment_id: message.sender.enrollment_id.clone().filter(|_| message.sender.udid.is_none()),
        serial: message.serial_number.clone(),
        name: message.device_name.clone(),
        model: message.model.clone(),
        model_name: message.model_name.clone(),
        product_name: message.product_name.clone(),
        os_version: message.os_version.clone(),
        build_version: message.build_version.clone(),
        imei: message.imei.clone(),
        supervised: None,
    }
}

async fn origin(tx: &mut Write, presented: &Presented) -> Result<Origin, Error> {
    let record = issuing_record(tx, presented).await?;
    let challenge = match record.as_ref().and_then(|row| row.challenge_id) {
        Some(id) => tx.challenge(id).await?,
        None => None,
    };
    let link = match challenge.as_ref().and_then(|c| c.link_id) {
        Some(id) => tx.link(id).await?,
        None => None,
    };
    Ok(Origin { record, challenge, link })
}

/// Why this device may not enroll now. None: it may.
async fn refusal(
    app: &App,
    tx: &mut Write,
    presented: &Presented,
    origin: &Origin,
    existing: Option<&Enrollment>,
    now: Timestamp,
) -> Result<Option<Refusal>, Error> {
    if let Some(e) = existing.filter(|e| !origin.is_renewal(e))
        && let Some(refusal) = refuse_again(app, tx, e, presented, origin, now).await?
    {
        return Ok(Some(refusal));
    }
    refuse_by_link(tx, existing, presented, origin, now).await
}

/// A certificate belongs to one device: whoever presents another's is refused. `apple_id` is the device's own; where it
/// is not known yet and the certificate is its own already, another request of it came first, and it has to come again.
async fn refuse_foreign_certificate(
    tx: &mut Write,
    presented: &Presented,
    origin: &Origin,
    existing: Option<&Enrollment>,
    apple_id: &str,
) -> Result<(), Error> {
    let own = existing.map(|e| e.id);
    let bound = origin.record.as_ref().and_then(|row| row.enrollment_id).filter(|id| Some(*id) != own);
    let pins = tx.pins_of_certificate(presented.sha256()).await?;
    let pinned = pins.iter().map(|pin| pin.enrollment_id).filter(|id| Some(*id) != own);
    let Some(id) = bound.into_iter().chain(pinned).next() else { return Ok(()) };
    if existing.is_none() && tx.enrollment(id).await?.is_some_and(|found| found.apple_id == apple_id) {
        return Err(enrolled_meanwhile());
    }
    Err(Error::Denied("the client certificate belongs to another device".to_owned()))
}

fn enrolled_meanwhile() -> Error {
    Error::Unavailable("the device is being enrolled by another request".to_owned())
}

/// What the profile that this comes of lays down; none where it was made elsewhere.
///
/// A certificate that this enrollment has used before means the same profile as before.
async fn known_terms(
    tx: &mut Write,
    presented: &Presented,
    origin: &Origin,
    existing: Option<&Enrollment>,
) -> Result<Option<Sha256>, Error> {
    let Some(existing) = existing else { return Ok(origin.challenge.as_ref().and_then(|c| c.terms)) };
    if tx.pin(existing.id, presented.sha256()).await?.is_some() {
        return Ok(existing.terms);
    }
    Ok(match &origin.challenge {
        Some(challenge) => challenge.terms,
        // Renewed by SCEP alone, under the profile that is there.
        None if origin.is_of(existing) => existing.terms,
        None => None,
    })
}

async fn insert(
    app: &App,
    tx: &mut Write,
    apple_id: &AppleId,
    facts: &DeviceFacts,
    now: Timestamp,
) -> Result<(EnrollmentId, DeviceId), Error> {
    let device = DeviceId::new(now, &*app.random);
    let id = EnrollmentId::new(now, &*app.random);
    let inserted = async {
        tx.insert_device(device, facts, now).await?;
        tx.insert_enrollment(id, device, None, apple_id, now).await
    };
    // Two first Authenticates of one device at once: one of them comes too late. It is told to come again and then
    // finds the row.
    inserted.await.map_err(|e| match e {
        StoreError::Conflict(_) => enrolled_meanwhile(),
        other => other.into(),
    })?;
    Ok((id, device))
}

/// Ends the generation that was: nothing of it is ever delivered, and no other certificate of it is accepted.
///
/// A wipe that was handed over counts as done, since the device is here as new, unless it had left otherwise; the rest
/// is cancelled, so that a wiped device which comes back is not wiped again.
async fn end_generation(
    tx: &mut Write,
    ended: &Enrollment,
    presented: &Presented,
    now: Timestamp,
) -> Result<(), Error> {
    let id = ended.id;
    for user in tx.user_channels_for_update(id).await? {
        void_open(tx, &user, End::NewEnrollment, now).await?;
        if user.is_enabled() {
            tx.close_enrollment(user.id, "disabled", now).await?;
        }
    }
    void_open(tx, ended, End::NewEnrollment, now).await?;
    tx.begin_generation(id, now).await?;
    tx.revoke_pins(id, Some(presented.sha256()), now).await?;
    Ok(())
}
