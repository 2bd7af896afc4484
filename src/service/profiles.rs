//! Configuration profiles kept for installing.
//!
//! Their content may hold passwords and keys, so it is encrypted at rest, and only an admin may read it again; everybody
//! else sees what kinds of payloads there are. Commands hold the profile as it was when they were accepted: replacing
//! or deleting one changes nothing of them.

use serde_json::json;

use super::audit::Subject;
use super::{Actor, App, Error, Fault, idempotency, signing};
use crate::model::{ProfileId, Secret, Sha256, Timestamp};
use crate::pki;
use crate::protocol::profile::{Mobileconfig, Scope, is_signed};
use crate::protocol::wire::Limits;
use crate::store::{ProfileFacts, ProfileFilter, ProfileRow, Read, Write};

/// Largest profile that is kept, signed or not, in bytes.
pub const MAX_PROFILE_BYTES: usize = Limits::PROFILE.bytes;
/// The payload that makes a profile an enrollment profile.
const MDM: &str = "com.apple.mdm";

/// Keeps a new profile: XML or binary, signed or not.
///
/// A signature is not judged, as whoever uploads it is trusted more than its signer; but a profile that was changed
/// after it was signed is refused, as devices would refuse it.
///
/// # Errors
/// [`Error::Invalid`] `invalid_profile` with all faults; [`Error::Conflict`] `identifier_taken` naming the profile that
/// has the same identifier.
pub async fn create(app: &App, actor: &Actor, file: &[u8]) -> Result<ProfileFacts, Error> {
    let read = check(&taken(app).await?, file)?;
    let now = app.clock.now();
    let mut tx = app.store.begin_write().await?;
    if let Some(facts) = idempotency::earlier(app, &mut tx, actor).await? {
        return Ok(facts);
    }
    if let Some(id) = tx.profile_by_identifier(&read.profile.identifier).await? {
        return Err(Error::conflict(
            "identifier_taken",
            format!(
                "the profile {id} has the identifier {} already, and on a device one takes the place of the other; \
                 replace that one",
                read.profile.identifier
            ),
        ));
    }
    let id = ProfileId::new(now, &*app.random);
    let row = read.into_row(app, file, id, actor, now)?;
    tx.insert_profile(&row).await?;
    audit(app, &mut tx, actor, "profile.created", &row.facts(), now).await?;
    idempotency::remember(app, &mut tx, actor, &row.facts()).await?;
    tx.commit().await?;
    Ok(row.facts())
}

/// Puts another content in the place of a profile's; the identifier stays. `revision` is the one that whoever asks has
/// seen; none: whatever is there.
///
/// # Errors
/// As [`create`]; [`Error::NotFound`]; [`Error::Conflict`] `revision_mismatch`.
pub async fn replace(
    app: &App,
    actor: &Actor,
    id: ProfileId,
    revision: Option<i64>,
    file: &[u8],
) -> Result<ProfileFacts, Error> {
    let read = check(&taken(app).await?, file)?;
    let now = app.clock.now();
    let mut tx = app.store.begin_write().await?;
    let old = tx.profile_facts_for_update(id).await?.ok_or_else(|| not_found(id))?;
    if old.identifier != read.profile.identifier {
        return Err(invalid(
            "the identifier of a profile stays: under another one devices would keep both",
            vec![fault("/PayloadIdentifier", format!("is {}; expected {}", read.profile.identifier, old.identifier))],
        ));
    }
    let row = read.into_row(app, file, id, actor, now)?;
    let seen = revision.unwrap_or(old.revision);
    let new = ProfileRow { revision: seen, created_at: old.created_at, created_by: old.created_by.clone(), ..row };
    if !tx.replace_profile(&new, now).await? {
        return Err(changed(id, old.revision));
    }
    let facts = ProfileFacts { revision: seen + 1, updated_at: now, ..new.facts() };
    audit(app, &mut tx, actor, "profile.replaced", &facts, now).await?;
    tx.commit().await?;
    Ok(facts)
}

/// Forgets a profile. It stays on the devices that have it.
///
/// # Errors
/// [`Error::NotFound`]; [`Error::Conflict`] `revision_mismatch`.
pub async fn remove(app: &App, actor: &Actor, id: ProfileId, revision: Option<i64>) -> Result<(), Error> {
    let now = app.clock.now();
    let mut tx = app.store.begin_write().await?;
    let old = tx.profile_facts_for_update(id).await?.ok_or_else(|| not_found(id))?;
    if !tx.delete_profile(id, revision.unwrap_or(old.revision)).await? {
        return Err(changed(id, old.revision));
    }
    audit(app, &mut tx, actor, "profile.removed", &old, now).await?;
    tx.commit().await?;
    Ok(())
}

/// The profiles that pass the filter, newest first, those older than `after`.
///
/// # Errors
/// [`Error::Unavailable`].
pub async fn list(
    app: &App,
    filter: &ProfileFilter,
    after: Option<ProfileId>,
    limit: i64,
) -> Result<Vec<ProfileFacts>, Error> {
    Ok(app.store.begin_read().await?.profiles(filter, after, limit).await?)
}

/// One profile, without its content.
///
/// # Errors
/// [`Error::NotFound`].
pub async fn get(app: &App, id: ProfileId) -> Result<ProfileFacts, Error> {
    app.store.begin_read().await?.profile_facts(id).await?.ok_or_else(|| not_found(id))
}

/// A profile with its content, as it was uploaded. Who reads it stands in the audit log.
///
/// # Errors
/// [`Error::NotFound`].
pub async fn content(app: &App, actor: &Actor, id: ProfileId) -> Result<(ProfileFacts, Secret<Vec<u8>>), Error> {
    let now = app.clock.now();
    let mut tx = app.store.begin_write().await?;
    let row = tx.profile(id).await?.ok_or_else(|| not_found(id))?;
    let content = app.open(&content_context(id), &row.content_sealed)?;
    audit(app, &mut tx, actor, "profile.content_read", &row.facts(), now).await?;
    tx.commit().await?;
    Ok((row.facts(), content))
}

/// The bytes that go to a device: as they were uploaded if they were signed, else signed here.
///
/// # Errors
/// [`Error::NotFound`].
pub async fn for_install(app: &App, tx: &mut Write, id: ProfileId) -> Result<Vec<u8>, Error> {
    let row = tx.profile(id).await?.ok_or_else(|| not_found(id))?;
    let content = app.open(&content_context(id), &row.content_sealed)?;
    if row.signed { Ok(content.expose().clone()) } else { signing::sign(app, tx, content.expose()).await }
}

/// The place for which a profile's content is sealed.
#[must_use]
pub fn content_context(id: ProfileId) -> String {
    format!("profiles.content:{id}")
}

/// A profile that somebody handed in, read.
pub(super) struct Upload {
    profile: Mobileconfig,
    signed: bool,
}

/// Why a profile is not taken.
pub(super) struct Refused {
    /// What is wrong with the whole.
    pub detail: String,
    /// What is wrong inside, each with its place in the profile.
    pub faults: Vec<Fault>,
}

impl From<Refused> for Error {
    fn from(refused: Refused) -> Self {
        invalid(&refused.detail, refused.faults)
    }
}

/// Reads a profile, XML or binary, signed or not.
pub(super) fn read(file: &[u8]) -> Result<Upload, Refused> {
    let whole = |detail: String| Refused { detail, faults: Vec::new() };
    if file.len() > MAX_PROFILE_BYTES {
        return Err(whole(format!("the profile is larger than {MAX_PROFILE_BYTES} bytes")));
    }
    let signed = is_signed(file);
    let opened = if signed {
        let opened = pki::profile::open(file).map_err(|e| whole(e.to_string()))?;
        Some(Secret::new(opened.profile))
    } else {
        None
    };
    let content = opened.as_ref().map_or(file, |opened| opened.expose().as_slice());
    let profile = Mobileconfig::parse(content).map_err(|faults| Refused {
        detail: "the file is no configuration profile that devices take".to_owned(),
        faults: faults.into_iter().map(|found| fault(&found.pointer, found.detail)).collect(),
    })?;
    Ok(Upload { profile, signed })
}

/// The identifiers of the enrollment profiles that this server makes now or has handed out: what else has one of them
/// would, installed, be in the way of a device's own enrollment, and, removed, end it.
pub(super) async fn taken(app: &App) -> Result<Vec<String>, Error> {
    taken_by(app, &mut app.store.begin_read().await?).await
}

async fn taken_by(app: &App, read: &mut Read) -> Result<Vec<String>, Error> {
    let mut taken = read.enrollment_profile_identifiers().await?;
    taken.push(app.settings.enrollment.profile_identifier.clone());
    Ok(taken)
}

/// As [`read`], and refuses what has one of the identifiers that are [`taken`].
pub(super) fn check(taken: &[String], file: &[u8]) -> Result<Upload, Refused> {
    let read = read(file)?;
    if is_taken(taken, &read.profile.identifier) {
        return Err(Refused {
            detail: "the identifier is taken by the server".to_owned(),
            faults: vec![fault("/PayloadIdentifier", TAKEN.to_owned())],
        });
    }
    Ok(read)
}

/// What is wrong with an identifier that is taken.
const TAKEN: &str = "is that of the enrollment profile, now or once (setting enrollment.profile_identifier)";

fn is_taken(taken: &[String], identifier: &str) -> bool {
    taken.iter().any(|taken| taken.trim().eq_ignore_ascii_case(identifier.trim()))
}

/// What is wrong with installing a profile that is kept, if anything: its identifier was free when it was uploaded, and
/// may have become that of the enrollment profile since.
pub(super) async fn kept_fault(app: &App, tx: &mut Write, id: ProfileId) -> Result<Option<String>, Error> {
    let facts = tx.profile_facts(id).await?.ok_or_else(|| not_found(id))?;
    let taken = taken_by(app, tx).await?;
    Ok(is_taken(&taken, &facts.identifier)
        .then(|| format!("the identifier of the profile, {:?}, {TAKEN}", facts.identifier)))
}

/// As [`read`], and refuses what brings no management. An encrypted profile cannot be judged, and is taken.
pub(super) fn check_enrolls(file: &[u8]) -> Result<Upload, Refused> {
    let read = read(file)?;
    if read.profile.encrypted || read.profile.payload_types().contains(&MDM) {
        return Ok(read);
    }
    let detail = format!("has no payload {MDM}: the device would come back without management");
    Err(Refused {
        detail: "the profile is no enrollment profile".to_owned(),
        faults: vec![fault("/PayloadContent", detail)],
    })
}

impl Upload {
    fn into_row(
        self,
        app: &App,
        file: &[u8],
        id: ProfileId,
        actor: &Actor,
        now: Timestamp,
    ) -> Result<ProfileRow, Error> {
        let profile = self.profile;
        let scope = match profile.scope {
            Some(Scope::User) => "user",
            Some(Scope::System) | None => "system",
        };
        Ok(ProfileRow {
            id,
            payload_types: json!(profile.payload_types()).to_string(),
            name: profile
                .display_name
                .filter(|name| !name.trim().is_empty())
                .unwrap_or_else(|| profile.identifier.clone()),
            identifier: profile.identifier,
            payload_uuid: profile.uuid,
            organization: profile.organization,
            scope: scope.to_owned(),
            content_sealed: app.seal(&content_context(id), file)?,
            sha256: Sha256::of(file),
            size_bytes: i64::try_from(file.len()).unwrap_or(i64::MAX),
            signed: self.signed,
            revision: 1,
            created_at: now,
            created_by: actor.name.clone(),
            updated_at: now,
        })
    }
}

async fn audit(
    app: &App,
    tx: &mut Write,
    actor: &Actor,
    action: &str,
    facts: &ProfileFacts,
    now: Timestamp,
) -> Result<(), Error> {
    let detail = json!({ "identifier": facts.identifier, "name": facts.name, "sha256": facts.sha256 });
    app.audit(tx, actor, action, Subject { kind: "profile", id: &facts.id.to_string() }, &detail, now).await
}

fn not_found(id: ProfileId) -> Error {
    Error::NotFound(format!("there is no profile {id}"))
}

fn changed(id: ProfileId, revision: i64) -> Error {
    Error::conflict("revision_mismatch", format!("the profile {id} was changed meanwhile: it has revision {revision}"))
}

fn invalid(detail: &str, faults: Vec<Fault>) -> Error {
    Error::Invalid { code: "invalid_profile", detail: detail.to_owned(), faults }
}

fn fault(pointer: &str, detail: String) -> Fault {
    Fault { pointer: pointer.to_owned(), detail }
}
