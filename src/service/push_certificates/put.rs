use serde_json::json;

use super::super::audit::Subject;
use super::super::{Actor, App, Error};
use super::request::{blocking, key_context};
use super::{Devices, Kept, KeptWithKey, WAKE_TOPIC, WakeTopic, are_enrolled, keep};
use crate::model::{JobId, Secret, Timestamp};
use crate::pki::PrivateKey;
use crate::pki::push::{PushCertificate, PushError, Upload};
use crate::store::{PushCertificateRow, Read, Write};

/// An uploaded push certificate.
#[derive(Clone, Debug)]
pub struct NewCertificate {
    /// PEM (certificate, and key unless it was requested here), .p12, or a bare certificate in DER.
    pub file: Secret<Vec<u8>>,
    /// The password of the .p12 file or of the key.
    pub password: Option<Secret<String>>,
    /// Whether new devices enroll by it. Where nothing is said: as its predecessor for the topic; without one, yes.
    pub default: Option<bool>,
    /// Store it even though devices lose by it.
    pub force: bool,
}

/// What became of it.
#[derive(Clone, Debug)]
pub struct Stored {
    /// The certificate as it is kept.
    pub certificate: Kept,
    /// Whether there was one for this topic before.
    pub replaced: bool,
}

/// Keeps a push certificate, in place of the one for its topic if there is one, and has those devices of the topic
/// woken for which something waits.
///
/// # Errors
/// [`Error::Invalid`] with a code for each thing that can be wrong with the upload; [`Error::Conflict`] `other_topic`
/// or `older_certificate` where enrolled devices would lose by it, saying how many; [`Error::Conflict`] `is_default`
/// where no default would be left.
pub async fn put(app: &App, actor: &Actor, new: NewCertificate) -> Result<Stored, Error> {
    let now = app.clock.now();
    let NewCertificate { file, password, default, force } = new;
    let read = move || Upload::read(file.expose(), password.as_ref());
    let upload = blocking(read).await?.map_err(|e| refused(&e))?;
    let requested = requested_keys(app, &mut app.store.begin_read().await?, &upload).await?;
    let certificate = upload.finish(&requested, now).map_err(|e| refused(&e))?;
    let mut tx = app.store.begin_write().await?;
    let kept = tx.push_certificates().await?;
    let devices = Devices::by_topic(&mut tx).await?;
    if !force {
        guard(&certificate, &kept, &devices, default, now)?;
    }
    let stored = store(app, tx, actor, &certificate, Beside { kept, devices, default, force, wake: true }).await?;
    app.signals.jobs.notify_one();
    Ok(stored)
}

/// Keeps a push certificate that comes with its key, whatever is wrong with it, as long as it says its topic; the log says
/// what is. The one by which new devices enroll stays that.
///
/// # Errors
/// [`Error::Invalid`] where it cannot be read, has no topic, or the key is missing or another's.
pub async fn put_as_it_is(app: &App, actor: &Actor, file: Secret<Vec<u8>>) -> Result<Kept, Error> {
    let now = app.clock.now();
    let upload = blocking(move || Upload::read(file.expose(), None)).await?.map_err(|e| refused(&e))?;
    let (certificate, faults) = upload.finish_as_it_is(now).map_err(|e| refused(&e))?;
    for fault in faults {
        tracing::warn!(topic = certificate.topic, %fault, "a push certificate was stored that APNs will hardly take");
    }
    let mut tx = app.store.begin_write().await?;
    let kept = tx.push_certificates().await?;
    let devices = Devices::by_topic(&mut tx).await?;
    let has_other_default = kept.iter().any(|row| row.is_default && row.topic != certificate.topic);
    let beside = Beside { kept, devices, default: has_other_default.then_some(false), force: true, wake: true };
    let stored = store(app, tx, actor, &certificate, beside).await?;
    app.signals.jobs.notify_one();
    Ok(stored.certificate)
}

/// What became of a certificate that another server had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TakenOver {
    /// There was none for its topic.
    Added,
    /// It is newer than the one there was.
    Updated,
    /// It was here.
    Unchanged,
    /// The one that is here is newer, and stays.
    Older,
}

/// Keeps a push certificate of another server as it is, unless a newer one is here. Nobody is woken for it. Nothing is
/// changed where `dry_run` says so.
///
/// # Errors
/// As [`put_as_it_is`]; [`Error::Invalid`] for one of another topic than `topic`.
pub async fn take_over(
    app: &App,
    actor: &Actor,
    topic: &str,
    file: Secret<Vec<u8>>,
    dry_run: bool,
) -> Result<TakenOver, Error> {
    let now = app.clock.now();
    let upload = blocking(move || Upload::read(file.expose(), None)).await?.map_err(|e| refused(&e))?;
    let (certificate, _) = upload.finish_as_it_is(now).map_err(|e| refused(&e))?;
    if certificate.topic != topic {
        let why = format!("it is for topic {}", certificate.topic);
        return Err(Error::invalid("other_topic", why));
    }
    let mut tx = app.store.begin_write().await?;
    let kept = tx.push_certificates().await?;
    let new = &certificate.identity.certificate;
    let outcome = match kept.iter().find(|row| row.topic == topic) {
        None => TakenOver::Added,
        Some(row) if row.sha256 == new.sha256 => TakenOver::Unchanged,
        Some(row) if row.not_after >= new.not_after => TakenOver::Older,
        Some(_) => TakenOver::Updated,
    };
    if dry_run || !matches!(outcome, TakenOver::Added | TakenOver::Updated) {
        return Ok(outcome);
    }
    let devices = Devices::by_topic(&mut tx).await?;
    let has_other_default = kept.iter().any(|row| row.is_default && row.topic != topic);
    let beside = Beside { kept, devices, default: has_other_default.then_some(false), force: true, wake: false };
    store(app, tx, actor, &certificate, beside).await?;
    Ok(outcome)
}

/// What a new certificate is stored beside, and how.
struct Beside {
    kept: Vec<PushCertificateRow>,
    devices: Devices,
    default: Option<bool>,
    force: bool,
    /// Whether the devices of its topic are woken.
    wake: bool,
}

/// Keeps a certificate, and has the devices of its topic woken.
async fn store(
    app: &App,
    mut tx: Write,
    actor: &Actor,
    certificate: &PushCertificate,
    beside: Beside,
) -> Result<Stored, Error> {
    let now = app.clock.now();
    let Beside { kept, devices, default, force, wake } = beside;
    let topic = certificate.topic.as_str();
    let replaced = kept.iter().find(|row| row.topic == topic);
    let is_default = is_default(&kept, replaced, default)?;
    let row = keep(app, &mut tx, KeptWithKey { certificate, is_default, actor, now }).await?;
    if let Some(request) = tx.push_request_by_key(certificate.identity.certificate.public_key_sha256).await? {
        tx.answer_push_request(request.id, now).await?;
    }
    if wake {
        wake_topic(app, &mut tx, topic, now).await?;
    }
    let subject = Subject { kind: "push_certificate", id: topic };
    let detail = json!({
        "sha256": row.sha256,
        "not_after": row.not_after,
        "default": is_default,
        "replaced": replaced.map(|old| old.sha256),
        "devices": devices.under(topic),
        "forced": force,
    });
    app.audit(&mut tx, actor, "push_certificate.stored", subject, &detail, now).await?;
    tx.commit().await?;
    Ok(Stored { replaced: replaced.is_some(), certificate: devices.kept(row, now) })
}

/// Has those devices of a topic woken for which something waits.
async fn wake_topic(app: &App, tx: &mut Write, topic: &str, now: Timestamp) -> Result<(), Error> {
    let task = serde_json::to_string(&WakeTopic { topic: topic.to_owned(), after: None })
        .map_err(|e| Error::Internal(format!("the payload of a job: {e}")))?;
    Ok(tx.add_job(JobId::new(now, &*app.random), WAKE_TOPIC, &task, None, now, now).await?)
}

/// Has those devices woken for which something waits, under every topic that has some. Returns the topics.
///
/// # Errors
/// [`Error::Unavailable`].
pub async fn wake_all(app: &App) -> Result<Vec<String>, Error> {
    let now = app.clock.now();
    let mut tx = app.store.begin_write().await?;
    let mut topics = Vec::new();
    for (topic, _) in Devices::by_topic(&mut tx).await?.0 {
        wake_topic(app, &mut tx, &topic, now).await?;
        topics.push(topic);
    }
    tx.commit().await?;
    app.signals.jobs.notify_one();
    Ok(topics)
}

/// The keys of earlier requests that the uploaded certificates answer.
async fn requested_keys(app: &App, read: &mut Read, upload: &Upload) -> Result<Vec<PrivateKey>, Error> {
    let mut keys = Vec::new();
    for certificate in &upload.certificates {
        let Some(request) = read.push_request_by_key(certificate.public_key_sha256).await? else { continue };
        let key = app.open(&key_context(request.id), &request.key_sealed)?;
        let key = PrivateKey::from_der(key.expose())
            .map_err(|e| Error::Internal(format!("the key of request {}: {e}", request.id)))?;
        keys.push(key);
    }
    Ok(keys)
}

/// Refuses what enrolled devices would lose by, unless it is forced.
fn guard(
    new: &PushCertificate,
    kept: &[PushCertificateRow],
    devices: &Devices,
    default: Option<bool>,
    now: Timestamp,
) -> Result<(), Error> {
    let topic = new.topic.as_str();
    let not_after = new.identity.certificate.not_after;
    match kept.iter().find(|row| row.topic == topic) {
        Some(old) if not_after < old.not_after && devices.under(topic) > 0 => Err(Error::conflict(
            "older_certificate",
            format!(
                "{} under topic {topic}, whose present certificate is valid until {}, the uploaded one only until \
                 {not_after}; send force=true to use it nevertheless",
                are_enrolled(devices.under(topic)),
                old.not_after,
            ),
        )),
        // Meant as a renewal, it strands every device; meant as another one beside it, it says so by `default`.
        None if default.is_none() && devices.under(topic) == 0 => match others(devices, topic) {
            None => Ok(()),
            Some(others) => Err(Error::conflict(
                "other_topic",
                format!(
                    "the push certificate is for topic {topic}, but {others}; renew the old certificate under the \
                     same Apple Account, or say with default=true or default=false that this one stands beside it, \
                     or send force=true"
                ),
            )),
        },
        // In place of one that has ended, it leaves those devices without any, whatever it is called. Beside one that
        // holds it harms nobody: enrolled devices keep their topic, and the default is for new ones.
        None if default == Some(true) && devices.under(topic) == 0 => match without_certificate(devices, kept, now) {
            None => Ok(()),
            Some(stranded) => Err(Error::conflict(
                "other_topic",
                format!(
                    "the push certificate is for topic {topic}, but {stranded}, which has no valid certificate, so that \
                     they cannot be woken; renew that one under the same Apple Account, or send force=true to leave \
                     them and enroll new devices by this one"
                ),
            )),
        },
        _ => Ok(()),
    }
}

/// As [`others`], for the topics that have no certificate which is valid now.
fn without_certificate(devices: &Devices, kept: &[PushCertificateRow], now: Timestamp) -> Option<String> {
    let is_valid = |topic: &str| kept.iter().any(|row| row.topic == topic && row.not_after > now);
    listed(devices.0.iter().filter(|(topic, count)| *count > 0 && !is_valid(topic)))
}

/// `1204 devices are enrolled under com.apple.mgmt.External.a`, and so on for each other topic.
fn others(devices: &Devices, topic: &str) -> Option<String> {
    listed(devices.0.iter().filter(|(other, devices)| other != topic && *devices > 0))
}

fn listed<'a>(topics: impl Iterator<Item = &'a (String, i64)>) -> Option<String> {
    let topics: Vec<_> = topics.map(|(topic, devices)| format!("{} under {topic}", are_enrolled(*devices))).collect();
    (!topics.is_empty()).then(|| topics.join(", "))
}

fn is_default(
    kept: &[PushCertificateRow],
    replaced: Option<&PushCertificateRow>,
    wanted: Option<bool>,
) -> Result<bool, Error> {
    let other_default = kept.iter().any(|row| row.is_default && replaced.is_none_or(|old| old.topic != row.topic));
    match wanted {
        Some(false) if !other_default => Err(Error::conflict(
            "is_default",
            "one certificate must be the one by which new devices enroll; make another the default first",
        )),
        Some(wanted) => Ok(wanted),
        None => Ok(!other_default || replaced.is_none_or(|old| old.is_default)),
    }
}

fn refused(error: &PushError) -> Error {
    let code = match error {
        PushError::Unreadable(_) => "unreadable_certificate",
        PushError::WrongPassword(_) => "wrong_password",
        PushError::LegacyMissing(_) => "legacy_encryption",
        PushError::NoCertificate => "no_certificate",
        PushError::NoKey { .. } => "no_key",
        PushError::KeyMismatch { .. } => "key_mismatch",
        PushError::WrongKind { .. } => "wrong_kind_of_certificate",
        PushError::Expired { .. } => "certificate_expired",
        PushError::NotYetValid { .. } => "certificate_not_yet_valid",
    };
    Error::invalid(code, error.to_string())
}
