//! Whether a device may enroll now: over an enrollment that is there, and by the link that its certificate comes from.

use super::super::device_identity::Presented;
use super::super::enrollment::HELD;
use super::super::enrollment_profile::LINK;
use super::super::{App, Error};
use super::authenticate::Origin;
use crate::config::Reenroll;
use crate::model::{ChallengeId, Timestamp};
use crate::store::{Device, Enrollment, Link, Write};

/// Why a device may not enroll, for the log and the audit log.
pub(super) struct Refusal(pub(super) String);

const ASKS: &str = "; approve it in the device's page or by POST /api/v1/devices/{id}/approve-reenrollment";

/// Whether an enrollment that is there may be replaced. None: it may.
pub(super) async fn refuse_again(
    app: &App,
    tx: &mut Write,
    existing: &Enrollment,
    presented: &Presented,
    origin: &Origin,
    now: Timestamp,
) -> Result<Option<Refusal>, Error> {
    let pin = tx.pin(existing.id, presented.sha256()).await?;
    // The same certificate again: the same device, beyond doubt.
    if pin.as_ref().is_some_and(|pin| pin.revoked_at.is_none())
        || origin.is_return_to_service(existing)
        || !existing.is_enabled()
        || existing.reenroll_approved_until.is_some_and(|until| now < until)
    {
        return Ok(None);
    }
    // Whoever had the device before may have its certificate still: it takes nothing from who has it now.
    if pin.is_some() || origin.is_of_earlier(existing) {
        return Ok(Some(Refusal(format!(
            "the client certificate belongs to an earlier enrollment of the device{ASKS}"
        ))));
    }
    let reason = match app.settings.devices.reenroll {
        Reenroll::Allow => return Ok(None),
        Reenroll::Approve => "the device is enrolled already, and another enrollment needs an approval",
        Reenroll::SameUser => {
            let device = tx.device(existing.device_id).await?;
            let before = device.as_ref().map(User::of_device).unwrap_or_default();
            let after = origin.link.as_ref().map(User::of_link).unwrap_or_default();
            if before.is_nobody() {
                return Ok(None);
            }
            if after.is_nobody() || before.is_same(&after) {
                return Ok(None);
            }
            "the device is enrolled for another user than the link is for"
        }
    };
    Ok(Some(Refusal(format!("{reason}{ASKS}"))))
}

/// Whether the link that the certificate comes of lets one more device in; if so, a use of it is held for this one. None:
/// it does, or none is needed.
///
/// A certificate holds longer than the use that was held when it was issued, and than the link itself.
pub(super) async fn refuse_by_link(
    tx: &mut Write,
    existing: Option<&Enrollment>,
    presented: &Presented,
    origin: &Origin,
    now: Timestamp,
) -> Result<Option<Refusal>, Error> {
    let Some(challenge) = origin.challenge.as_ref().filter(|c| c.purpose == LINK) else { return Ok(None) };
    if let Some(existing) = existing
        && is_pinned(tx, existing, presented).await?
    {
        // It was let in before; its use counts, or will.
        return Ok(None);
    }
    refuse_by_challenge(tx, challenge.id, now).await
}

/// As [`refuse_by_link`], for whoever enrolls by this challenge: also asked before the use is counted, since the hold of
/// a device that takes its time may be over by then.
pub(super) async fn refuse_by_challenge(
    tx: &mut Write,
    challenge: ChallengeId,
    now: Timestamp,
) -> Result<Option<Refusal>, Error> {
    // In the order of SCEP, which locks the challenge first.
    let challenge = tx.challenge_by_id_for_update(challenge).await?;
    let Some(challenge) = challenge.filter(|c| c.purpose == LINK && c.counted_at.is_none()) else { return Ok(None) };
    let gone = || Ok(Some(Refusal("the enrollment link is gone".to_owned())));
    let revoked = || Ok(Some(Refusal("the enrollment link was revoked".to_owned())));
    let Some(link_id) = challenge.link_id else { return gone() };
    let Some(link) = tx.link(link_id).await? else { return gone() };
    if link.revoked_at.is_some() {
        return revoked();
    }
    if link.uses_allowed.is_none() {
        // Nothing to count: the many devices of a link that has no limit do not wait for each other.
        tx.hold_link_use(challenge.id, now.plus(HELD)).await?;
        return Ok(None);
    }
    // From the count to the hold nobody else counts, neither in this transaction nor in another.
    let _alone = tx.exclusive(link_id.0).await;
    let Some(link) = tx.link_for_update(link_id).await? else { return gone() };
    if link.revoked_at.is_some() {
        return revoked();
    }
    let own = i64::from(challenge.reserved_until.is_some_and(|until| until > now));
    let taken = link.uses_count + tx.reserved_uses(link.id, now).await? - own;
    if link.uses_allowed.is_some_and(|allowed| taken >= allowed) {
        return Ok(Some(Refusal("the enrollment link has been used up".to_owned())));
    }
    tx.hold_link_use(challenge.id, now.plus(HELD)).await?;
    Ok(None)
}

async fn is_pinned(tx: &mut Write, existing: &Enrollment, presented: &Presented) -> Result<bool, Error> {
    Ok(tx.pin(existing.id, presented.sha256()).await?.is_some_and(|pin| pin.revoked_at.is_none()))
}

/// Whose device it is, as far as an admin said so.
#[derive(Clone, Copy, Debug, Default)]
struct User<'a> {
    name: Option<&'a str>,
    email: Option<&'a str>,
}

impl<'a> User<'a> {
    fn of(name: Option<&'a str>, email: Option<&'a str>) -> Self {
        let said = |text: Option<&'a str>| text.map(str::trim).filter(|text| !text.is_empty());
        Self { name: said(name), email: said(email) }
    }

    fn of_device(device: &'a Device) -> Self {
        Self::of(device.user_name.as_deref(), device.user_email.as_deref())
    }

    fn of_link(link: &'a Link) -> Self {
        Self::of(link.user_name.as_deref(), link.user_email.as_deref())
    }

    const fn is_nobody(&self) -> bool {
        self.name.is_none() && self.email.is_none()
    }

    /// The address tells users apart, and where one has none, the name.
    fn is_same(&self, other: &User<'_>) -> bool {
        match (self.email, other.email) {
            (Some(one), Some(other)) => one.eq_ignore_ascii_case(other),
            _ => match (self.name, other.name) {
                (Some(one), Some(other)) => one.to_lowercase() == other.to_lowercase(),
                _ => false,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_told_by_the_address_or_else_by_the_name() {
        let kim = User::of(Some("Kim"), Some("kim@example.org"));
        for (name, email, is_same) in [
            (Some("Kim"), Some("kim@example.org"), true),
            (Some("Somebody"), Some("KIM@example.org"), true),
            (Some("Kim"), Some("sam@example.org"), false),
            (Some("kim "), None, true),
            (Some("Sam"), None, false),
            (None, Some("sam@example.org"), false),
        ] {
            let other = User::of(name, email);
            assert_eq!((kim.is_same(&other), other.is_same(&kim)), (is_same, is_same), "{other:?}");
        }
        assert!(!User::of(None, Some("kim@example.org")).is_same(&User::of(Some("Kim"), None)), "nobody can tell");
        assert!(User::of(Some(" "), Some("")).is_nobody() && !User::of(Some("Kim"), None).is_nobody());
    }
}
