//! What a person who opens a link gets.

use std::time::Duration;

use super::super::terms::Terms;
use super::super::{App, Error, enrollment_profile, signing};
use super::LinkState;
use crate::model::{Secret, Timestamp};
use crate::pki::challenge;
use crate::store::{Link, PushCertificateRow, Read};

/// Open challenges per remaining use of a link: people fetch a profile twice, scanners fetch it for them.
const CHALLENGES_PER_USE: i64 = 5;
/// Open challenges of a link that has no number of uses.
const MAX_CHALLENGES: i64 = 10_000;
/// Longest code that is looked up, in bytes.
const MAX_CODE: usize = 128;

/// What the page of a link shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkPage {
    /// The organization that manages the device.
    pub organization: String,
    /// Whom to ask for help; may be empty.
    pub support: String,
    /// The profile's name on the device, which the person has to find in Settings.
    pub profile_name: String,
    /// Whose device it will be, if the link says so.
    pub user_name: Option<String>,
    /// Until when the link can be opened.
    pub expires_at: Option<Timestamp>,
    /// Apple's bits of what the server may do with the device.
    pub access_rights: u32,
    /// How long a profile can be installed after it was fetched.
    pub profile_lifetime: Duration,
    /// Whether devices can enroll now: not before the server has a push certificate.
    pub ready: bool,
}

/// Why a link lets nobody in.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// There is no such link.
    #[error("there is no such enrollment link")]
    Unknown,
    /// All its uses have been used.
    #[error("the enrollment link has been used up")]
    UsedUp,
    /// Its time is over.
    #[error("the enrollment link has expired")]
    Expired,
    /// An admin ended it.
    #[error("the enrollment link was revoked")]
    Revoked,
    /// The server has no valid push certificate, without which a device would be stranded.
    #[error("the server has no valid push certificate, so no device can enroll")]
    NotReady,
    /// Its last uses are held by devices that are enrolling, or its profile was fetched too often lately.
    #[error("the enrollment link is in use for {} seconds more", wait.as_secs())]
    Busy {
        /// After which time one of them may come free.
        wait: Duration,
    },
    /// Something else.
    #[error(transparent)]
    Other(#[from] Error),
}

impl From<crate::store::StoreError> for LinkError {
    fn from(error: crate::store::StoreError) -> Self {
        Self::Other(error.into())
    }
}

/// What the page of a link shows. Changes nothing.
///
/// # Errors
/// Why the link is dead. A server that is not ready is no error here: the page tells.
pub async fn open_link(app: &App, code: &str) -> Result<LinkPage, LinkError> {
    let now = app.clock.now();
    let mut read = app.store.begin_read().await?;
    let link = find(&mut read, code).await?;
    require_open(&link, now)?;
    let settings = &app.settings;
    Ok(LinkPage {
        organization: settings.organization.name.clone(),
        support: settings.organization.support.clone(),
        profile_name: settings.enrollment.display_name.clone(),
        user_name: link.user_name,
        expires_at: link.expires_at,
        access_rights: settings.enrollment.access_rights,
        profile_lifetime: settings.scep.challenge_lifetime,
        ready: usable_push_certificate(&mut read, now).await?.is_some(),
    })
}

/// The signed enrollment profile, with a challenge of its own that is bound to the link.
///
/// # Errors
/// Why the link is dead; [`LinkError::NotReady`] without a push certificate, and then no challenge is made;
/// [`LinkError::Busy`] while there are too many open challenges, or the last uses are held.
pub async fn profile_for_link(app: &App, code: &str) -> Result<Vec<u8>, LinkError> {
    let now = app.clock.now();
    let mut read = app.store.begin_read().await?;
    let link = find(&mut read, code).await?;
    require_open(&link, now)?;
    let push = usable_push_certificate(&mut read, now).await?.ok_or(LinkError::NotReady)?;
    // All that can be missing is asked for before a challenge is made.
    let signer = signing::signer(app, &mut read).await?;
    let prepared = enrollment_profile::prepare(app, &mut read).await?;
    drop(read);
    let terms = Terms::of(&app.settings);
    let challenge = open_challenge(app, &link, &terms, now).await?;
    let content = prepared.render(app, challenge, &terms, &push.topic);
    Ok(signer.sign(&content, now)?)
}

/// The code as it was made, from what somebody typed: in any case of letters, with spaces or hyphens between groups.
#[must_use]
pub fn normalized_code(code: &str) -> Option<Secret<String>> {
    if code.len() > MAX_CODE {
        return None;
    }
    let kept = code.chars().filter(|char| !char.is_whitespace() && *char != '-');
    let code: String = kept.map(|char| char.to_ascii_lowercase()).collect();
    (!code.is_empty()).then(|| Secret::new(code))
}

/// The default push certificate, if devices can be pushed to with it now.
pub(in crate::service) async fn usable_push_certificate(
    read: &mut Read,
    now: Timestamp,
) -> Result<Option<PushCertificateRow>, Error> {
    let certificates = read.push_certificates().await?;
    Ok(certificates.into_iter().find(|row| row.is_default && row.not_before <= now && now < row.not_after))
}

async fn open_challenge(app: &App, link: &Link, terms: &Terms, now: Timestamp) -> Result<Secret<String>, LinkError> {
    let mut tx = app.store.begin_write().await?;
    // Locked, so that of many requests at once no more than allowed get a challenge.
    let link = tx.link_for_update(link.id).await?.ok_or(LinkError::Unknown)?;
    require_open(&link, now)?;
    let remaining = match link.uses_allowed {
        Some(allowed) => allowed - link.uses_count - tx.reserved_uses(link.id, now).await?,
        None => MAX_CHALLENGES / CHALLENGES_PER_USE,
    };
    if remaining <= 0 {
        return Err(busy(tx.first_reserved_until(link.id, now).await?, now));
    }
    if tx.open_challenges(link.id, now).await? >= remaining.saturating_mul(CHALLENGES_PER_USE) {
        return Err(busy(tx.first_challenge_expires(link.id, now).await?, now));
    }
    let lifetime = app.settings.scep.challenge_lifetime;
    let new = enrollment_profile::NewChallengeFor::Link(&link);
    let challenge = enrollment_profile::make_challenge(app, &mut tx, new, terms, lifetime, now).await?;
    tx.commit().await?;
    Ok(challenge)
}

fn busy(until: Option<Timestamp>, now: Timestamp) -> LinkError {
    LinkError::Busy { wait: until.map_or(Duration::ZERO, |until| until.since(now)) }
}

async fn find(read: &mut Read, code: &str) -> Result<Link, LinkError> {
    let code = normalized_code(code).ok_or(LinkError::Unknown)?;
    read.link_by_code(challenge::hash(code.expose())).await?.ok_or(LinkError::Unknown)
}

fn require_open(link: &Link, now: Timestamp) -> Result<(), LinkError> {
    match LinkState::of(link, now) {
        LinkState::Open => Ok(()),
        LinkState::UsedUp => Err(LinkError::UsedUp),
        LinkState::Expired => Err(LinkError::Expired),
        LinkState::Revoked => Err(LinkError::Revoked),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_read_however_it_was_typed() {
        for typed in ["abcd2345", "ABCD2345", " abcd-2345 ", "ab cd 23 45"] {
            assert_eq!(normalized_code(typed).unwrap().expose(), "abcd2345");
        }
        assert!(
            normalized_code("").is_none()
                && normalized_code(" - ").is_none()
                && normalized_code(&"a".repeat(200)).is_none()
        );
    }
}
