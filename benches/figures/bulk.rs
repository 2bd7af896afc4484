//! Many enrolled devices, made in the database: what an enrollment leaves there, without its messages.

use std::time::Duration;

use bytes::Bytes;
use muster::cli::SystemRandomness;
use muster::model::{AppleId, CommandId, DeliveryState, DeviceId, EnrollmentId, EnrollmentKind, Resend, Timestamp};
use muster::pki::authority::issue_device_certificate;
use muster::pki::request::Subject;
use muster::pki::{Authority, Certificate, CertificateRequest, PrivateKey};
use muster::protocol::wire;
use muster::service::App;
use muster::service::authorities::issuing_authority;
use muster::store::{CertificateRow, Delivery, DeviceFacts, NewCommand, PushFacts, Write};
use plist::{Dictionary, Value};

use crate::Result;

/// The topic that all are enrolled under.
const TOPIC: &str = "com.apple.mgmt.External.00000000-0000-4000-8000-000000000000";
/// How long the certificates hold.
const VALIDITY: Duration = Duration::from_secs(365 * 86_400);
/// When the server wakes them by itself: after the measurement.
const NO_WAKE: Duration = Duration::from_secs(86_400);
/// Devices in one transaction.
const BATCH: usize = 500;

/// An enrolled device.
pub struct Member {
    pub certificate: Certificate,
    /// Its idle poll.
    pub poll: Bytes,
}

/// Enrolled devices.
pub struct Fleet {
    /// The key of all of them: what tells devices apart is the certificate.
    pub key: PrivateKey,
    pub members: Vec<Member>,
}

/// Makes enrolled devices with issuing records and pins.
pub async fn enroll(app: &App, count: usize) -> Result<Fleet> {
    let now = app.clock.now();
    let (ca_id, ca) = issuing_authority(app).await?;
    let key = PrivateKey::generate_rsa(2048)?;
    let udids: Vec<_> = (1..=count).map(|number| format!("00008140-{number:016X}")).collect();
    let certificates = issue(&ca, &key, &udids, now)?;
    for batch in udids.iter().zip(&certificates).collect::<Vec<_>>().chunks(BATCH) {
        let mut tx = app.store.begin_write().await?;
        for (udid, certificate) in batch {
            let row = CertificateRow {
                sha256: certificate.sha256,
                authority_id: ca_id,
                serial: certificate.serial.clone(),
                subject: certificate.subject.clone(),
                public_key_sha256: certificate.public_key_sha256,
                der: certificate.der().to_vec(),
                challenge_id: None,
                enrollment_id: None,
                generation: None,
                not_before: certificate.not_before,
                not_after: certificate.not_after,
                issued_at: now,
                revoked_at: None,
                revoked_reason: None,
            };
            put(app, &mut tx, udid, row, now).await?;
        }
        tx.commit().await?;
    }
    let poll = |udid: &str| {
        let members = [("Status", "Idle"), ("UDID", udid)];
        let members: Dictionary =
            members.map(|(name, text)| (name.to_owned(), Value::from(text))).into_iter().collect();
        Bytes::from(wire::write(&Value::Dictionary(members)))
    };
    let members = udids.iter().zip(certificates).map(|(udid, certificate)| Member { certificate, poll: poll(udid) });
    Ok(Fleet { key, members: members.collect() })
}

/// What Authenticate and TokenUpdate leave.
async fn put(app: &App, tx: &mut Write, udid: &str, mut certificate: CertificateRow, now: Timestamp) -> Result<()> {
    let (device, id) = (DeviceId::new(now, &*app.random), EnrollmentId::new(now, &*app.random));
    certificate.enrollment_id = Some(id);
    let facts = DeviceFacts { udid: Some(udid.to_owned()), ..DeviceFacts::default() };
    let apple_id = AppleId { id: udid.to_owned(), parent: None, kind: EnrollmentKind::Device };
    tx.insert_device(device, &facts, now).await?;
    tx.insert_enrollment(id, device, None, &apple_id, now).await?;
    tx.insert_certificate(&certificate).await?;
    tx.put_pin(id, certificate.sha256, Some(certificate.authority_id), Some(certificate.not_after), now).await?;
    let push = PushFacts { topic: TOPIC, token: &[7; 32], magic: "magic", awaiting_configuration: false };
    tx.set_push(id, &push, now).await?;
    let number = tx.fleet_number_for_enrollment().await?;
    tx.set_fleet_cursor(id, number).await?;
    tx.request_wake(id, now, now.plus(NO_WAKE)).await?;
    tx.put_off_wake(id, None).await?;
    for request_type in ["DeviceInformation", "SecurityInfo"] {
        put_answered(app, tx, id, request_type, now).await?;
    }
    Ok(())
}

/// A command that the server itself gave at the enrollment, long answered.
async fn put_answered(
    app: &App,
    tx: &mut Write,
    enrollment_id: EnrollmentId,
    request_type: &str,
    now: Timestamp,
) -> Result<()> {
    let command_id = CommandId::new(now, &*app.random);
    let command = NewCommand {
        id: command_id,
        verb: "apple",
        request_type,
        payload_sealed: &[0; 200],
        fills: "[]",
        summary: "{}",
        resend: Resend::Freely,
        destruction: None,
        priority: 0,
        internal: true,
        target_count: 1,
        fleet_number: None,
        created_by: "muster",
        expires_at: None,
    };
    tx.insert_command(&command, now).await?;
    let mut delivery = Delivery {
        enrollment_id,
        command_id,
        generation: 1,
        state: DeliveryState::Queued,
        priority: 0,
        resend: Resend::Freely,
        connection: 1,
        attempts: 1,
        revision: 1,
        queued_at: now,
        sent_at: Some(now),
        answered_at: Some(now),
        updated_at: now,
        expires_at: None,
        error: None,
        report_id: None,
    };
    tx.insert_delivery(&delivery).await?;
    for state in [DeliveryState::Sent, DeliveryState::Acknowledged] {
        delivery.state = state;
        delivery.revision += 1;
        tx.update_delivery(&delivery, None).await?;
    }
    Ok(())
}

/// Issues a certificate for each name, on all cores.
fn issue(ca: &Authority, key: &PrivateKey, names: &[String], now: Timestamp) -> Result<Vec<Certificate>> {
    let request = CertificateRequest::make(key, &Subject::common_name("device"), None)?;
    let one = |name: &String| {
        let subject = Subject::common_name(name);
        issue_device_certificate(ca, &request, Some(&subject), now, VALIDITY, &SystemRandomness)
    };
    on_all_cores(names, one)
}

/// The results of `work` on each of `items`, in their order.
pub fn on_all_cores<T, R, E>(items: &[T], work: impl Fn(&T) -> std::result::Result<R, E> + Sync) -> Result<Vec<R>>
where
    T: Sync,
    R: Send,
    E: Into<Box<dyn std::error::Error + Send + Sync>> + Send,
{
    let cores = std::thread::available_parallelism()?.get();
    let share = items.len().div_ceil(cores).max(1);
    std::thread::scope(|scope| {
        let work = &work;
        let running: Vec<_> = items
            .chunks(share)
            .map(|chunk| scope.spawn(move || chunk.iter().map(work).collect::<std::result::Result<Vec<_>, E>>()))
            .collect();
        let mut all = Vec::with_capacity(items.len());
        for thread in running {
            let part = thread.join().map_err(|_| "a thread ended by a fault")?;
            all.extend(part.map_err(Into::into)?);
        }
        Ok(all)
    })
}
