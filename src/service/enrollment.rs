//! Enrollment links: URLs that people open on a phone to put it under management.
//!
//! The code in the URL is all that lets somebody in, so it is shown once and only its hash is kept. Opening a link uses
//! nothing up (scanners of mail open links, too): a use is held when a certificate is issued, and counts when the device
//! completes its enrollment.

mod open;
mod qr;

use std::time::Duration;

use serde_json::json;

use super::audit::Subject;
use super::{Actor, App, Error, Fault, idempotency};
use crate::model::{LinkId, Secret, Timestamp};
use crate::pki::challenge;
use crate::store::{Link, Read};

pub(super) use open::usable_push_certificate;
pub use open::{LinkError, LinkPage, normalized_code, open_link, profile_for_link};
pub use qr::{png, svg};

/// How long a use of a link is held for a device that has a certificate, and again from its `Authenticate` on: a device
/// that means to enroll does so within seconds, and the use of one that never does should come free again soon.
pub(super) const HELD: Duration = Duration::from_secs(15 * 60);
/// Longest name of a link and of a user, in characters.
const MAX_NAME: usize = 200;
/// Longest e-mail address, in bytes (RFC 5321, section 4.5.3.1.3, less the brackets).
const MAX_EMAIL: usize = 254;
/// Most uses of a link that has a number of them.
const MAX_USES: i64 = 1_000_000;
/// Most links that are read for one page of a list: one more than are shown.
const MAX_PAGE: i64 = 501;

/// What a new link is to be.
#[derive(Clone, Debug, Default)]
pub struct NewLink {
    /// What it is for, for admins.
    pub name: String,
    /// How many devices may enroll by it; none for any number.
    pub uses: Option<i64>,
    /// Until when it can be opened; none for ever. A profile that was fetched before can still be installed for
    /// `scep.challenge_lifetime`.
    pub expires_at: Option<Timestamp>,
    /// Whose devices they will be.
    pub user_name: Option<String>,
    /// The user's e-mail address; what `devices.reenroll` compares, or the name where there is none.
    pub user_email: Option<String>,
}

/// A link with the code that is shown this once.
#[derive(Clone, Debug)]
pub struct CreatedLink {
    /// The link.
    pub link: LinkView,
    /// Its URL, which holds the code.
    pub url: Secret<String>,
    /// The URL as a QR code, SVG.
    pub qr_svg: Secret<String>,
    /// The URL as a QR code, PNG.
    pub qr_png: Secret<Vec<u8>>,
}

/// A link for showing, without its code.
#[derive(Clone, Debug)]
pub struct LinkView {
    /// Its row.
    pub link: Link,
    /// How many uses are held by devices that have a certificate and are not enrolled yet.
    pub reserved: i64,
    /// Whether it lets anybody in.
    pub state: LinkState,
}

/// Whether a link lets anybody in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// It does.
    Open,
    /// All its uses have been used.
    UsedUp,
    /// Its time is over.
    Expired,
    /// An admin ended it.
    Revoked,
}

impl LinkState {
    /// The word used in the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::UsedUp => "used_up",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
        }
    }

    /// The state of a link now. Uses that are only held do not count.
    #[must_use]
    pub fn of(link: &Link, now: Timestamp) -> Self {
        if link.revoked_at.is_some() {
            Self::Revoked
        } else if link.uses_allowed.is_some_and(|allowed| link.uses_count >= allowed) {
            Self::UsedUp
        } else if link.expires_at.is_some_and(|at| at <= now) {
            Self::Expired
        } else {
            Self::Open
        }
    }
}

/// Makes a link. Its code has 160 random bits and is shown in this answer only.
///
/// # Errors
/// [`Error::Invalid`] with all faults at once.
pub async fn create_link(app: &App, actor: &Actor, new: NewLink) -> Result<CreatedLink, Error> {
    let now = app.clock.now();
    let mut tx = app.store.begin_write().await?;
    if let Some((link, url)) = idempotency::earlier::<(Link, String)>(app, &mut tx, actor).await? {
        return created(LinkView { link, reserved: 0, state: LinkState::Open }, url);
    }
    let new = checked(new, now)?;
    let code = challenge::code(&*app.random);
    let link = Link {
        id: LinkId::new(now, &*app.random),
        name: new.name,
        code_hash: challenge::hash(code.expose()),
        uses_allowed: new.uses,
        uses_count: 0,
        user_name: new.user_name,
        user_email: new.user_email,
        expires_at: new.expires_at,
        created_at: now,
        created_by: actor.name.clone(),
        revoked_at: None,
    };
    let url = app.settings.pages_url().at(&format!("/enroll/{}", code.expose()));
    tx.insert_link(&link).await?;
    let detail = json!({
        "name": link.name,
        "uses": link.uses_allowed,
        "expires_at": link.expires_at,
        "user_name": link.user_name,
        "user_email": link.user_email,
    });
    let subject = Subject { kind: "enrollment_link", id: &link.id.to_string() };
    app.audit(&mut tx, actor, "enrollment_link.created", subject, &detail, now).await?;
    idempotency::remember(app, &mut tx, actor, &(&link, &url)).await?;
    tx.commit().await?;
    created(LinkView { link, reserved: 0, state: LinkState::Open }, url)
}

fn created(link: LinkView, url: String) -> Result<CreatedLink, Error> {
    let (qr_svg, qr_png) = (Secret::new(qr::svg(&url)?), Secret::new(qr::png(&url)?));
    Ok(CreatedLink { link, url: Secret::new(url), qr_svg, qr_png })
}

/// Links, newest first: at most `limit` of those that were made before `before`.
///
/// # Errors
/// [`Error::Unavailable`].
pub async fn list_links(app: &App, before: Option<LinkId>, limit: i64) -> Result<Vec<LinkView>, Error> {
    let now = app.clock.now();
    let mut read = app.store.begin_read().await?;
    let mut views = Vec::new();
    for link in read.links(before, limit.clamp(1, MAX_PAGE)).await? {
        views.push(view(&mut read, link, now).await?);
    }
    Ok(views)
}

/// One link.
///
/// # Errors
/// [`Error::NotFound`].
pub async fn get_link(app: &App, id: LinkId) -> Result<LinkView, Error> {
    let mut read = app.store.begin_read().await?;
    let link = read.link(id).await?.ok_or_else(|| unknown(id))?;
    view(&mut read, link, app.clock.now()).await
}

/// Ends a link: nobody gets a certificate by it any more, not even with a profile that was fetched before. Devices that
/// enrolled by it stay. Ending it again does nothing.
///
/// # Errors
/// [`Error::NotFound`].
pub async fn revoke_link(app: &App, actor: &Actor, id: LinkId) -> Result<LinkView, Error> {
    let now = app.clock.now();
    let mut tx = app.store.begin_write().await?;
    let link = tx.link_for_update(id).await?.ok_or_else(|| unknown(id))?;
    if tx.revoke_link(id, now).await? {
        let subject = Subject { kind: "enrollment_link", id: &id.to_string() };
        let detail = json!({"name": link.name, "uses_count": link.uses_count});
        app.audit(&mut tx, actor, "enrollment_link.revoked", subject, &detail, now).await?;
        tx.commit().await?;
    } else {
        drop(tx);
    }
    get_link(app, id).await
}

async fn view(read: &mut Read, link: Link, now: Timestamp) -> Result<LinkView, Error> {
    let reserved = read.reserved_uses(link.id, now).await?;
    Ok(LinkView { reserved, state: LinkState::of(&link, now), link })
}

fn unknown(id: LinkId) -> Error {
    Error::NotFound(format!("there is no enrollment link {id}"))
}

fn checked(new: NewLink, now: Timestamp) -> Result<NewLink, Error> {
    let mut faults = Vec::new();
    let mut fault = |pointer: &str, detail: String| faults.push(Fault { pointer: pointer.to_owned(), detail });
    let trimmed = |text: Option<String>| text.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
    let new = NewLink {
        name: new.name.trim().to_owned(),
        user_name: trimmed(new.user_name),
        user_email: trimmed(new.user_email),
        ..new
    };
    let too_long = |text: &str| text.chars().count() > MAX_NAME || text.chars().any(char::is_control);
    if new.name.is_empty() || too_long(&new.name) {
        fault("/name", format!("expected a text of 1 to {MAX_NAME} characters, without control characters"));
    }
    if new.user_name.as_deref().is_some_and(too_long) {
        fault("/user_name", format!("expected a text of at most {MAX_NAME} characters, without control characters"));
    }
    if new.user_email.as_deref().is_some_and(|email| !is_email(email)) {
        fault("/user_email", "expected an e-mail address, such as name@example.org".to_owned());
    }
    if new.uses.is_some_and(|uses| !(1..=MAX_USES).contains(&uses)) {
        fault("/uses", format!("expected a number from 1 to {MAX_USES}, or none for any number of devices"));
    }
    if new.expires_at.is_some_and(|at| at <= now) {
        fault("/expires_at", format!("is over already; it is {now}"));
    }
    if faults.is_empty() {
        Ok(new)
    } else {
        let detail = "the enrollment link cannot be made as it was asked for".to_owned();
        Err(Error::Invalid { code: "invalid_enrollment_link", detail, faults })
    }
}

/// Whether it looks like an address. Whether it is one, only a mail would tell.
fn is_email(text: &str) -> bool {
    let sane = text.len() <= MAX_EMAIL && !text.chars().any(|char| char.is_whitespace() || char.is_control());
    sane && text.rsplit_once('@').is_some_and(|(user, host)| !user.is_empty() && !host.is_empty())
}
