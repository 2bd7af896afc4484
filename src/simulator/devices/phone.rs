//! A simulated iPhone: a [`Handset`] with its connections. Each step of an enrollment can be taken by itself.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use reqwest::Method;
use reqwest::header::{HeaderValue, LOCATION, USER_AGENT};
use tokio::time::Instant;
use url::Url;

use super::behavior::{Manner, Quirks};
use super::enrollment::EnrollmentProfile;
use super::error::PhoneError;
use super::facts::{self, Facts};
use super::handset::Handset;
use super::keys::KeySource;
use super::line::{Answer, Authentication, Line};
use super::page;
use super::profile::ProfileFile;
use super::scep::{self, Applicant};
use super::wakes::{Receiver, WakeService};
use crate::model::{Clock, Randomness};
use crate::pki;
use crate::simulator::web::{self, Trust};

/// The media type of a profile.
pub(super) const PROFILE_TYPE: &str = "application/x-apple-aspen-config";

/// How a browser on an iPhone names itself.
const BROWSER: &str = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_1 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) \
                       Version/18.1 Mobile/15E148 Safari/604.1";

/// How many redirections a browser follows.
const MAX_REDIRECTIONS: usize = 5;

/// What devices share.
#[derive(Clone)]
pub struct Environment {
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Where ids, tokens and hesitation come from.
    pub random: Arc<dyn Randomness>,
    /// Where keys come from.
    pub keys: KeySource,
    /// How devices hear of pushes.
    pub wakes: WakeService,
}

/// How a device is set up.
#[derive(Clone, Debug)]
pub struct PhoneOptions {
    /// Whom it believes before it has a profile: when it opens the enrollment link.
    pub page_trust: Trust,
    /// How it proves who it is.
    pub authentication: Authentication,
    /// Send every request here, whatever host its URL names: a server behind a proxy that ends TLS.
    pub backend: Option<Url>,
    /// Connect to this address, whatever host name a URL has, and to this port where the URL names none. TLS and Host
    /// still go by the name: for a server whose name is in no DNS.
    pub connect_to: Option<SocketAddr>,
    /// What is odd about its messages.
    pub quirks: Quirks,
    /// What it does with commands.
    pub manner: Manner,
}

impl Default for PhoneOptions {
    fn default() -> Self {
        Self {
            page_trust: Trust::Roots(Vec::new()),
            authentication: Authentication::AsProfileSays,
            backend: None,
            connect_to: None,
            quirks: Quirks::default(),
            manner: Manner::PROMPT,
        }
    }
}

/// A simulated iPhone. A clone is a second device with the same memory, certificate and key included.
#[derive(Clone)]
pub struct Phone {
    /// What is on it.
    pub handset: Handset,
    /// How it is set up.
    pub options: PhoneOptions,
    pub(super) number: usize,
    pub(super) environment: Environment,
    pub(super) enrollment: Option<Enrollment>,
    /// How often it has said NotNow, by command.
    pub(super) put_off: BTreeMap<String, u32>,
}

/// What a device knows of its server.
#[derive(Clone)]
pub(super) struct Enrollment {
    pub(super) profile: EnrollmentProfile,
    /// Without a certificate: for SCEP, manifests and packages.
    pub(super) anonymous: Line,
    /// With the identity, once there is one.
    pub(super) own: Option<(Line, pki::Identity)>,
    pub(super) push: Option<Push>,
    pub(super) user_pushes: BTreeMap<String, Push>,
    /// iOS sends the unlock token once.
    pub(super) unlock_token_sent: bool,
}

/// One channel's connection to the push service.
#[derive(Clone)]
pub(super) struct Push {
    pub(super) receiver: Receiver,
    pub(super) magic: String,
}

impl Phone {
    /// An iPhone with random ids. `number` chooses its key and stands in its name.
    #[must_use]
    pub fn new(number: usize, options: PhoneOptions, environment: Environment) -> Self {
        let mut facts = Facts::iphone(number, environment.random.as_ref());
        if options.quirks.both_ids {
            facts.enrollment_id = Some(facts::uuid(environment.random.as_ref()));
        }
        let handset = Handset::new(facts);
        Self { handset, options, number, environment, enrollment: None, put_off: BTreeMap::new() }
    }

    /// Enrolls from a link: page, profile, certificate, Authenticate, TokenUpdate. An earlier enrollment is forgotten
    /// without a word, as when a device was restored.
    ///
    /// # Errors
    /// The first step that fails.
    pub async fn enroll(&mut self, link: &Url) -> Result<(), PhoneError> {
        let profile = self.fetch_profile(link).await?;
        self.enroll_by(&profile).await
    }

    /// Enrolls by a profile that came some other way.
    ///
    /// # Errors
    /// The first step that fails.
    pub async fn enroll_by(&mut self, profile: &[u8]) -> Result<(), PhoneError> {
        self.accept_profile(profile)?;
        self.obtain_certificate().await?;
        self.authenticate().await?;
        self.token_update().await
    }

    /// Opens a page as a browser does; follows redirections.
    ///
    /// # Errors
    /// [`PhoneError::Unreachable`]; every status is an answer.
    pub async fn open_page(&self, link: &Url) -> Result<Answer, PhoneError> {
        let browser = self.line(&self.options.page_trust, None)?;
        browse(&browser, link).await.map(|(_, answer)| answer)
    }

    /// Fetches the profile behind an enrollment link: the link's own answer, or what its page points to.
    ///
    /// # Errors
    /// A status other than 200, a page without a link to a profile, a profile under another media type.
    pub async fn fetch_profile(&self, link: &Url) -> Result<Vec<u8>, PhoneError> {
        let browser = self.line(&self.options.page_trust, None)?;
        let (place, page) = browse(&browser, link).await?;
        let page = page.expect_ok("open the enrollment link")?;
        if page.media_type() == PROFILE_TYPE {
            return Ok(page.body);
        }
        let target =
            page::profile_link(&place, &String::from_utf8_lossy(&page.body)).ok_or_else(|| no_profile(&page))?;
        let (_, answer) = browse(&browser, &target).await?;
        let answer = answer.expect_ok("fetch the profile")?;
        if answer.media_type() != PROFILE_TYPE {
            let reason = format!("the media type is {:?}; expected {PROFILE_TYPE}", answer.media_type());
            return Err(PhoneError::protocol("fetch the profile", reason));
        }
        Ok(answer.body)
    }

    /// Installs an enrollment profile, up to the point where the network is needed.
    ///
    /// # Errors
    /// [`PhoneError::Profile`].
    pub fn accept_profile(&mut self, profile: &[u8]) -> Result<(), PhoneError> {
        let profile = EnrollmentProfile::of(ProfileFile::read(profile)?)?;
        self.handset.unenroll();
        self.handset.enrollment = Some(profile.file.clone());
        self.put_off.clear();
        let anonymous = self.line(&self.trust_of(&profile), None)?;
        self.enrollment = Some(Enrollment {
            profile,
            anonymous,
            own: None,
            push: None,
            user_pushes: BTreeMap::new(),
            unlock_token_sent: false,
        });
        Ok(())
    }

    /// Obtains the identity by SCEP, with the profile's challenge.
    ///
    /// # Errors
    /// [`PhoneError::Scep`], or what is wrong with an answer.
    pub async fn obtain_certificate(&mut self) -> Result<(), PhoneError> {
        let identity = self.scep(None).await?;
        self.use_identity(identity)
    }

    /// Renews the identity by SCEP (RenewalReq), without a word to the MDM server.
    ///
    /// # Errors
    /// [`PhoneError::Scep`], or what is wrong with an answer.
    pub async fn renew_certificate(&mut self) -> Result<(), PhoneError> {
        let current = self.identity().cloned().ok_or(PhoneError::NotReady("there is no certificate to renew"))?;
        let identity = self.scep(Some(current)).await?;
        self.use_identity(identity)
    }

    /// Takes another identity into use: one from elsewhere, for instance another device's.
    ///
    /// # Errors
    /// [`PhoneError::NotReady`] without a profile.
    pub fn use_identity(&mut self, identity: pki::Identity) -> Result<(), PhoneError> {
        let shown = self.options.authentication.shows_certificate().then_some(&identity);
        let enrollment = self.enrolled()?;
        let line = self.line(&self.trust_of(&enrollment.profile), shown)?;
        self.handset.identity = Some(identity.certificate.clone());
        if let Some(enrollment) = &mut self.enrollment {
            enrollment.own = Some((line, identity));
        }
        Ok(())
    }

    /// The enrollment profile, if there is one.
    #[must_use]
    pub fn profile(&self) -> Option<&EnrollmentProfile> {
        self.enrollment.as_ref().map(|enrollment| &enrollment.profile)
    }

    /// The identity, if there is one.
    #[must_use]
    pub fn identity(&self) -> Option<&pki::Identity> {
        self.enrollment.as_ref()?.own.as_ref().map(|(_, identity)| identity)
    }

    /// Whether it has sent a TokenUpdate since it enrolled, and can be pushed to.
    #[must_use]
    pub fn is_enrolled(&self) -> bool {
        self.enrollment.as_ref().is_some_and(|enrollment| enrollment.push.is_some())
    }

    /// Waits for a push to the device channel. One with another magic than the device's own is ignored.
    ///
    /// # Errors
    /// [`PhoneError::Push`], and [`PhoneError::NotReady`] before the TokenUpdate.
    pub async fn wait_for_wake(&self, wait: Duration) -> Result<bool, PhoneError> {
        let push = self.enrolled()?.push.as_ref().ok_or(PhoneError::NotReady("there is no push token yet"))?;
        let deadline = Instant::now() + wait;
        loop {
            match push.receiver.next(deadline.saturating_duration_since(Instant::now())).await? {
                Some(wake) if wake.magic == push.magic => return Ok(true),
                Some(_) => (),
                None => return Ok(false),
            }
        }
    }

    /// An HTTP client that shows the device's identity in TLS, where the options say so: for requests that no device
    /// would send.
    ///
    /// # Errors
    /// [`PhoneError::NotReady`] without a certificate.
    pub fn http_client(&self) -> Result<reqwest::Client, PhoneError> {
        let own = self.enrolled()?.own.as_ref().ok_or(PhoneError::NotReady("there is no certificate yet"))?;
        Ok(own.0.client().clone())
    }

    /// Closes all connections: the next request makes a new one.
    ///
    /// # Errors
    /// [`PhoneError::Internal`].
    pub fn hang_up(&mut self) -> Result<(), PhoneError> {
        match self.identity().cloned() {
            Some(identity) => self.use_identity(identity),
            None => Ok(()),
        }
    }

    pub(super) fn enrolled(&self) -> Result<&Enrollment, PhoneError> {
        self.enrollment.as_ref().ok_or(PhoneError::NotReady("the device has no enrollment profile"))
    }

    pub(super) fn random(&self) -> &dyn Randomness {
        self.environment.random.as_ref()
    }

    async fn scep(&self, renew: Option<pki::Identity>) -> Result<pki::Identity, PhoneError> {
        let enrollment = self.enrolled()?;
        let payload = &enrollment.profile.scep;
        let keys = &self.environment.keys;
        let key = keys.key(self.number, payload.key_bits).await?;
        let signer_key = if self.options.quirks.other_signer_key {
            keys.key(self.number.saturating_add(1), payload.key_bits).await?
        } else {
            key.clone()
        };
        let applicant = Applicant { key, signer_key, renew, quirks: self.options.quirks };
        scep::obtain(&enrollment.anonymous, payload, applicant, &self.environment).await
    }

    fn line(&self, trust: &Trust, identity: Option<&pki::Identity>) -> Result<Line, PhoneError> {
        let client = web::client(trust, identity, self.options.connect_to, &self.environment.clock)
            .map_err(PhoneError::Internal)?;
        Ok(Line::new(client, self.options.backend.clone()))
    }

    /// Once there is a profile, what it brings is trusted, and a warning can no longer be tapped away.
    fn trust_of(&self, profile: &EnrollmentProfile) -> Trust {
        let before = match &self.options.page_trust {
            Trust::Roots(roots) => roots.as_slice(),
            Trust::Anyone => &[],
        };
        Trust::Roots(before.iter().chain(&profile.roots).cloned().collect())
    }
}

/// A page without a link to a profile says why.
fn no_profile(page: &Answer) -> PhoneError {
    let said = page::reason(&String::from_utf8_lossy(&page.body));
    PhoneError::protocol("open the enrollment link", format!("the page has no link to a profile; it says: {said:?}"))
}

/// Opens a page and follows redirections; tells where it ended.
async fn browse(browser: &Line, link: &Url) -> Result<(Url, Answer), PhoneError> {
    const STEP: &str = "open a page";
    let mut place = link.clone();
    for _ in 0..=MAX_REDIRECTIONS {
        let request = browser.request(Method::GET, &place)?.header(USER_AGENT, BROWSER);
        let answer = browser.send(STEP, request).await?;
        let target = answer.headers.get(LOCATION).map(HeaderValue::to_str);
        match (answer.status, target) {
            (301 | 302 | 303 | 307 | 308, Some(Ok(target))) => {
                let joined = place.join(target);
                place = joined.map_err(|_| PhoneError::protocol(STEP, "redirected to what is no URL"))?;
            }
            _ => return Ok((place, answer)),
        }
    }
    Err(PhoneError::protocol(STEP, "redirected too often"))
}
