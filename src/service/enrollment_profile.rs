//! Enrollment profiles: for a link, for a renewal, for a device that is wiped and returns to service.
//!
//! Each holds a challenge of its own. What the challenge is bound to decides later what its certificate may do: one of a
//! link enrolls any device while the link has uses left, the others nothing but the one device that they were made for,
//! and that only until it enrolls anew: whoever had it before has no part in what comes after.

use std::sync::OnceLock;
use std::time::Duration;

use super::terms::Terms;
use super::{App, Error, authorities, enrollment, signing};
use crate::config::DeviceTls;
use crate::model::{ChallengeId, Secret, Timestamp};
use crate::pki::{Certificate, challenge};
use crate::protocol::enrollment_profile::{Template, Values};
use crate::store::{Enrollment, Link, NewChallenge, Read, Write};

/// The purpose of a challenge in the profile of a link.
pub const LINK: &str = "link";
/// The purpose of a challenge that renews the identity of one enrolled device.
pub const RENEWAL: &str = "renewal";
/// The purpose of a challenge by which one wiped device enrolls again by itself.
pub const RETURN_TO_SERVICE: &str = "return_to_service";
/// The purpose of a challenge that was made for profiles and tools from elsewhere.
pub const API: &str = "api";

/// How long a device that was told to wipe itself has for coming back, in days: it may be without a network for a while.
const RETURN_DAYS: u64 = 30;

/// What a challenge is bound to.
#[derive(Clone, Copy, Debug)]
pub(super) enum NewChallengeFor<'a> {
    /// Any device that enrolls by this link.
    Link(&'a Link),
    /// A renewal of this enrollment's identity.
    Renewal(&'a Enrollment),
    /// A new enrollment of the device that has this enrollment now.
    ReturnToService(&'a Enrollment),
}

/// The profile that renews the identity of an enrolled device. It says what the one on the device says, whatever the
/// settings say now, since a device takes no other in its place: the identifier, the URLs, the topic, and no more rights.
/// None where the one on the device was made elsewhere.
///
/// # Errors
/// [`Error::Unavailable`].
pub async fn for_renewal(
    app: &App,
    tx: &mut Write,
    enrollment: &Enrollment,
    now: Timestamp,
) -> Result<Option<Vec<u8>>, Error> {
    let row = match enrollment.terms {
        Some(hash) => tx.terms(hash).await?,
        None => None,
    };
    let Some(terms) = row.and_then(|row| Terms::renewing(&row, &app.settings)) else { return Ok(None) };
    let topic = enrollment.topic.clone();
    let topic = topic.ok_or_else(|| Error::Unavailable("the device is not enrolled under any topic".to_owned()))?;
    let lifetime = app.settings.scep.challenge_lifetime;
    signed(app, tx, NewChallengeFor::Renewal(enrollment), &terms, &topic, lifetime, now).await.map(Some)
}

/// The profile by which a wiped device enrolls again by itself, for the same user as before, whatever has become of the
/// link that it once enrolled by.
///
/// # Errors
/// [`Error::Unavailable`].
pub async fn for_return_to_service(
    app: &App,
    tx: &mut Write,
    enrollment: &Enrollment,
    now: Timestamp,
) -> Result<Vec<u8>, Error> {
    let default = enrollment::usable_push_certificate(tx, now).await?.map(|row| row.topic);
    let topic = default.or_else(|| enrollment.topic.clone());
    let topic = topic.ok_or_else(|| Error::Unavailable("there is no push certificate to enroll under".to_owned()))?;
    let lifetime = app.settings.scep.challenge_lifetime.max(Duration::from_secs(RETURN_DAYS * 86_400));
    let terms = Terms::of(&app.settings);
    signed(app, tx, NewChallengeFor::ReturnToService(enrollment), &terms, &topic, lifetime, now).await
}

async fn signed(
    app: &App,
    tx: &mut Write,
    bound_to: NewChallengeFor<'_>,
    terms: &Terms,
    topic: &str,
    lifetime: Duration,
    now: Timestamp,
) -> Result<Vec<u8>, Error> {
    // All that may be missing first: then nothing is written for a profile that cannot be signed.
    let prepared = prepare(app, tx).await?;
    let signer = signing::signer(app, tx).await?;
    let challenge = make_challenge(app, tx, bound_to, terms, lifetime, now).await?;
    signer.sign(&prepared.render(app, challenge, terms, topic), now)
}

/// Makes a challenge for one certificate, to stand in a profile with these terms: the enrollment that comes of it keeps
/// them.
pub(super) async fn make_challenge(
    app: &App,
    tx: &mut Write,
    bound_to: NewChallengeFor<'_>,
    terms: &Terms,
    lifetime: Duration,
    now: Timestamp,
) -> Result<Secret<String>, Error> {
    let code = challenge::code(&*app.random);
    let (purpose, name, link, enrollment) = match bound_to {
        NewChallengeFor::Link(link) => (LINK, link.name.as_str(), Some(link.id), None),
        NewChallengeFor::Renewal(enrollment) => (RENEWAL, enrollment.apple_id.as_str(), None, Some(enrollment)),
        NewChallengeFor::ReturnToService(enrollment) => {
            (RETURN_TO_SERVICE, enrollment.apple_id.as_str(), None, Some(enrollment))
        }
    };
    let new = NewChallenge {
        id: ChallengeId::new(now, &*app.random),
        hash: challenge::hash(code.expose()),
        purpose,
        name,
        link_id: link,
        enrollment_id: enrollment.map(|e| e.id),
        generation: enrollment.map(|e| e.generation),
        terms: Some(terms.keep(tx, now).await?),
        uses_allowed: 1,
        created_by: "server",
        expires_at: now.plus(lifetime),
    };
    tx.insert_challenge(&new, now).await?;
    Ok(code)
}

/// What every enrollment profile of this server has in common.
#[derive(Clone, Debug)]
pub(super) struct Prepared {
    /// The certificate that SCEP answers are signed with.
    authority: Certificate,
    /// What the device has to trust besides the public roots.
    roots: Vec<Certificate>,
}

pub(super) async fn prepare(app: &App, read: &mut Read) -> Result<Prepared, Error> {
    let (_, authority) = authorities::issuing_certificate(read).await?;
    let roots = match app.settings.devices.tls {
        DeviceTls::Own => vec![authorities::tls_root_on(read).await?],
        DeviceTls::Files | DeviceTls::BehindProxy => Vec::new(),
    };
    Ok(Prepared { authority, roots })
}

impl Prepared {
    /// An XML property list, not signed.
    pub(super) fn render(&self, app: &App, challenge: Secret<String>, terms: &Terms, topic: &str) -> Vec<u8> {
        let settings = &app.settings;
        let mut uuid = [0; 16];
        app.random.fill(&mut uuid);
        let organization: String = settings.organization.name.chars().take(64).collect();
        let values = Values {
            identifier: terms.identifier.clone(),
            display_name: settings.enrollment.display_name.clone(),
            description: settings.enrollment.description.clone(),
            organization: settings.organization.name.clone(),
            uuid: uuid::Builder::from_random_bytes(uuid).into_uuid(),
            scep_url: settings.pages_url().at("/scep"),
            challenge,
            subject: vec![("O".to_owned(), organization), ("CN".to_owned(), format!("Device {}", hex::encode(uuid)))],
            ca_fingerprint: Some(self.authority.sha1().to_vec()),
            topic: topic.to_owned(),
            server_url: terms.server_url.clone(),
            checkin_url: terms.checkin_url.clone(),
            sign_message: settings.enrollment.sign_message,
            access_rights: terms.access_rights,
            roots: self.roots.iter().map(|root| root.der().to_vec()).collect(),
        };
        template().render(&values)
    }
}

/// The template that comes along, which a test reads.
fn template() -> &'static Template {
    static TEMPLATE: OnceLock<Template> = OnceLock::new();
    TEMPLATE.get_or_init(|| {
        #[expect(clippy::expect_used, reason = "a constant, and a test reads it")]
        Template::parse(Template::STANDARD).expect("the template that comes along is one")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_template_that_comes_along_can_be_read() {
        assert_eq!(*template(), Template::parse(Template::STANDARD).unwrap());
    }
}
