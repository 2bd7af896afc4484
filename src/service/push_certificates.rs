//! The certificates by which devices are woken: asked for here, issued by Apple, kept by topic.
//!
//! What must hold: one of the kept certificates is the default, by which new devices enroll; and a device that is
//! enrolled under a topic does not lose the certificate for it, unless an admin says so knowing how many there are.

mod put;
mod request;

use futures_util::FutureExt;
use futures_util::future::try_join_all;
use serde_json::json;

use super::audit::Subject;
use super::{Actor, App, Error, wakes};
use crate::model::{EnrollmentId, Sha256, Timestamp};
use crate::pki::{Certificate, push};
use crate::store::{PushCertificateRow, Read, StoreError, Write};

pub use put::{NewCertificate, Stored, TakenOver, put, put_as_it_is, take_over, wake_all};
pub(super) use request::key_context as request_key_context;
pub use request::{NewRequest, Requested, remove_request, request, requested, requests};

/// The kind of the job that wakes the devices of a topic; its payload is [`WakeTopic`].
pub const WAKE_TOPIC: &str = "wake_topic";

/// What is longer is no topic, characters.
const MAX_TOPIC: usize = 255;
/// Devices that are woken in one transaction.
const BATCH: i64 = 500;

/// What the job [`WAKE_TOPIC`] needs to know.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct WakeTopic {
    /// The topic that has a certificate now.
    pub topic: String,
    /// The last device that the job has come to; none at its beginning.
    #[serde(default)]
    pub after: Option<EnrollmentId>,
}

/// A push certificate that is kept here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// The topic that it is for.
    pub topic: String,
    /// Its subject.
    pub subject: String,
    /// The digest of its DER.
    pub sha256: Sha256,
    /// When its validity begins.
    pub not_before: Timestamp,
    /// When it expires.
    pub not_after: Timestamp,
    /// What keeps it from being used, a sentence each; such are taken by the compatible interface.
    pub faults: Vec<String>,
    /// Whether new devices enroll under its topic.
    pub is_default: bool,
    /// How many devices are enrolled under its topic.
    pub devices: i64,
    /// When it was stored.
    pub created_at: Timestamp,
    /// By whom.
    pub created_by: String,
}

/// All push certificates, and who has none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overview {
    /// The default first.
    pub certificates: Vec<Kept>,
    /// Topics of enrolled devices for which there is no certificate, and how many devices each.
    pub without: Vec<(String, i64)>,
}

/// All push certificates.
///
/// # Errors
/// [`Error::Unavailable`].
pub async fn overview(app: &App) -> Result<Overview, Error> {
    let now = app.clock.now();
    let mut read = app.store.begin_read().await?;
    let devices = Devices::by_topic(&mut read).await?;
    let rows = read.push_certificates().await?;
    let without = devices.0.iter().filter(|(topic, _)| rows.iter().all(|row| row.topic != *topic)).cloned().collect();
    let certificates = rows.into_iter().map(|row| devices.kept(row, now)).collect();
    Ok(Overview { certificates, without })
}

/// One push certificate.
///
/// # Errors
/// [`Error::NotFound`].
pub async fn get(app: &App, topic: &str) -> Result<Kept, Error> {
    let topic = plausible(topic)?;
    let mut read = app.store.begin_read().await?;
    let row = read.push_certificate(topic).await?.ok_or_else(|| not_found(topic))?;
    Ok(Devices::by_topic(&mut read).await?.kept(row, app.clock.now()))
}

/// Makes a certificate the one by which new devices enroll. Those that are enrolled stay with theirs.
///
/// # Errors
/// [`Error::NotFound`]; [`Error::Conflict`] `default_expired`.
pub async fn make_default(app: &App, actor: &Actor, topic: &str) -> Result<Kept, Error> {
    let topic = plausible(topic)?;
    let now = app.clock.now();
    let mut tx = app.store.begin_write().await?;
    let mut row = tx.push_certificate_for_update(topic).await?.ok_or_else(|| not_found(topic))?;
    if row.not_after <= now {
        return Err(Error::conflict(
            "default_expired",
            format!("the push certificate for topic {topic} expired at {}; renew it first", row.not_after),
        ));
    }
    if !row.is_default {
        tx.set_default_push_certificate(topic).await?;
        let subject = Subject { kind: "push_certificate", id: topic };
        app.audit(&mut tx, actor, "push_certificate.made_default", subject, &json!({}), now).await?;
    }
    row.is_default = true;
    let kept = Devices::by_topic(&mut tx).await?.kept(row, now);
    tx.commit().await?;
    Ok(kept)
}

/// Forgets a certificate and its key. With `force` even though devices are enrolled under its topic: they cannot be
/// woken from then on.
///
/// # Errors
/// [`Error::NotFound`]; [`Error::Conflict`] `devices_enrolled`, saying how many; [`Error::Conflict`] `is_default` while
/// there are others that could be the default.
pub async fn remove(app: &App, actor: &Actor, topic: &str, force: bool) -> Result<(), Error> {
    let topic = plausible(topic)?;
    let now = app.clock.now();
    let mut tx = app.store.begin_write().await?;
    let row = tx.push_certificate_for_update(topic).await?.ok_or_else(|| not_found(topic))?;
    let devices = Devices::by_topic(&mut tx).await?.under(topic);
    if devices > 0 && !force {
        return Err(Error::conflict(
            "devices_enrolled",
            format!(
                "{} under topic {topic} and could not be woken any more; send force=true to strand them",
                are_enrolled(devices)
            ),
        ));
    }
    if row.is_default && tx.push_certificates().await?.len() > 1 {
        return Err(Error::conflict(
            "is_default",
            format!("new devices enroll under topic {topic}; make another certificate the default first"),
        ));
    }
    tx.delete_push_certificate(topic).await?;
    let subject = Subject { kind: "push_certificate", id: topic };
    let detail = json!({ "devices": devices, "forced": force });
    app.audit(&mut tx, actor, "push_certificate.removed", subject, &detail, now).await?;
    tx.commit().await?;
    Ok(())
}

/// Wakes the next devices of a topic that have something open, in the order of their ids. Some: from where to go on;
/// none: all were woken. Pauses that the earlier certificate brought are over. For the job [`WAKE_TOPIC`]; idempotent.
///
/// # Errors
/// [`Error::Unavailable`].
pub async fn wake_batch(app: &App, topic: &str, after: EnrollmentId) -> Result<Option<EnrollmentId>, Error> {
    let now = app.clock.now();
    let batch = app.store.begin_read().await?.enrollments_to_wake(topic, after, now, BATCH).await?;
    let next_sync = now.plus(app.settings.push.sync_interval);
    let each = batch.iter().map(|id| {
        let id = *id;
        let wake = move |mut tx: Write| {
            async move {
                tx.end_wake_pause(id).await?;
                tx.request_wake(id, now, next_sync).await?;
                tx.commit().await
            }
            .boxed()
        };
        app.store.together::<(), StoreError, _>(Vec::new(), wake)
    });
    try_join_all(each).await?;
    app.signals.push.notify_one();
    Ok(batch.last().copied())
}

/// How many devices are enrolled under each topic.
struct Devices(Vec<(String, i64)>);

impl Devices {
    async fn by_topic(read: &mut Read) -> Result<Self, Error> {
        Ok(Self(read.enabled_devices_by_topic().await?))
    }

    fn under(&self, topic: &str) -> i64 {
        self.0.iter().find(|(known, _)| known == topic).map_or(0, |(_, devices)| *devices)
    }

    fn kept(&self, row: PushCertificateRow, now: Timestamp) -> Kept {
        Kept {
            faults: faults(&row, now),
            devices: self.under(&row.topic),
            topic: row.topic,
            subject: row.subject,
            sha256: row.sha256,
            not_before: row.not_before,
            not_after: row.not_after,
            is_default: row.is_default,
            created_at: row.created_at,
            created_by: row.created_by,
        }
    }
}

/// What keeps a certificate from being used, as it is stored; nothing of one that cannot be read, which the check of its key
/// finds.
#[must_use]
pub fn faults(row: &PushCertificateRow, now: Timestamp) -> Vec<String> {
    let chain = Certificate::from_pem_many(row.chain_pem.as_bytes()).unwrap_or_default();
    let found = chain.first().map(|leaf| push::faults(leaf, now)).unwrap_or_default();
    found.iter().map(ToString::to_string).collect()
}

/// What can be no topic is not looked up: PostgreSQL refuses some characters.
fn plausible(topic: &str) -> Result<&str, Error> {
    let is_plausible = topic.len() <= MAX_TOPIC && topic.chars().all(|c| c.is_ascii_graphic());
    is_plausible
        .then_some(topic)
        .ok_or_else(|| Error::NotFound("there is no push certificate for such a topic".to_owned()))
}

fn not_found(topic: &str) -> Error {
    Error::NotFound(format!("there is no push certificate for topic {topic:?}"))
}

fn are_enrolled(devices: i64) -> String {
    if devices == 1 { "1 device is enrolled".to_owned() } else { format!("{devices} devices are enrolled") }
}

/// Keeps a certificate with its key.
async fn keep(app: &App, tx: &mut Write, row: KeptWithKey<'_>) -> Result<PushCertificateRow, Error> {
    let identity = &row.certificate.identity;
    let topic = &row.certificate.topic;
    let stored = PushCertificateRow {
        topic: topic.clone(),
        chain_pem: identity.chain_pem(),
        key_sealed: app.seal(&wakes::key_context(topic), identity.key.pkcs8_der().expose())?,
        sha256: identity.certificate.sha256,
        subject: identity.certificate.subject.clone(),
        not_before: identity.certificate.not_before,
        not_after: identity.certificate.not_after,
        is_default: row.is_default,
        created_at: row.now,
        created_by: row.actor.name.clone(),
    };
    tx.put_push_certificate(&stored).await?;
    Ok(stored)
}

struct KeptWithKey<'a> {
    certificate: &'a crate::pki::push::PushCertificate,
    is_default: bool,
    actor: &'a Actor,
    now: Timestamp,
}
