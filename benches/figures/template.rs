//! What an enrollment leaves in the database, made once by the store's own functions.

use std::time::Duration;

use muster::model::{
    AppleId, CommandId, DeliveryState, DeviceId, EnrollmentId, EnrollmentKind, ReportId, Resend, Timestamp,
};
use muster::service::App;
use muster::store::{CertificateRow, Delivery, DeviceFacts, NewCommand, NewReport, PushFacts, Write};

use crate::Result;
use crate::messages::{TOPIC, enrollment};

/// When the server wakes devices by itself: after the measurement.
const NO_WAKE: Duration = Duration::from_secs(86_400);

/// What is kept of a check-in message, bytes.
const SHORT: usize = 200;

/// Puts an enrolled device into the database, with one command that it answered. It is the pattern of all others.
pub async fn put(app: &App, udid: &str, mut certificate: CertificateRow, now: Timestamp) -> Result<DeviceId> {
    let (device, id) = (DeviceId::new(now, &*app.random), EnrollmentId::new(now, &*app.random));
    let mut tx = app.store.begin_write().await?;
    certificate.enrollment_id = Some(id);
    certificate.generation = Some(1);
    let text = |text: &str| Some(text.to_owned());
    let facts = DeviceFacts {
        udid: text(udid),
        serial: text("F00000000000"),
        name: text("iPhone 0000000"),
        model: text("MTP03"),
        model_name: text("iPhone"),
        product_name: text("iPhone15,4"),
        os_version: text("18.1"),
        build_version: text("22B83"),
        ..DeviceFacts::default()
    };
    let apple_id = AppleId { id: udid.to_owned(), parent: None, kind: EnrollmentKind::Device };
    tx.insert_device(device, &facts, now).await?;
    tx.insert_enrollment(id, device, None, &apple_id, now).await?;
    tx.insert_certificate(&certificate).await?;
    tx.put_pin(id, certificate.sha256, Some(certificate.authority_id), Some(certificate.not_after), now).await?;
    for (kind, message) in ["Authenticate", "TokenUpdate"].into_iter().zip(enrollment(udid, 0)) {
        // Shortened: nothing that is measured reads them, and whole they would be half of the database.
        let message = message.get(..SHORT).unwrap_or(&message);
        tx.put_check_in(id, kind, &sealed_like(message), now).await?;
    }
    let push = PushFacts { topic: TOPIC, token: &[7; 32], magic: "magic", awaiting_configuration: false };
    tx.set_push(id, &push, now).await?;
    let number = tx.fleet_number_for_enrollment().await?;
    tx.set_fleet_cursor(id, number).await?;
    tx.request_wake(id, now, now.plus(NO_WAKE)).await?;
    tx.put_off_wake(id, None).await?;
    put_answered(app, &mut tx, id, now).await?;
    tx.commit().await?;
    Ok(device)
}

/// Nobody reads these: as long as what is encrypted, and as little compressible.
fn sealed_like(message: &[u8]) -> Vec<u8> {
    let mut state = 1_u32;
    let mut scramble = |byte: &u8| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        byte ^ state.to_be_bytes()[0]
    };
    message.iter().map(&mut scramble).chain([0; 40]).collect()
}

/// A command, long answered.
async fn put_answered(app: &App, tx: &mut Write, enrollment_id: EnrollmentId, now: Timestamp) -> Result<()> {
    let command_id = CommandId::new(now, &*app.random);
    let report_id = ReportId::new(now, &*app.random);
    let command = NewCommand {
        id: command_id,
        verb: "security_info",
        request_type: "SecurityInfo",
        payload_sealed: &sealed_like(&[0; 160]),
        fills: "[]",
        summary: "{}",
        resend: Resend::Freely,
        destruction: None,
        priority: 100,
        internal: false,
        target_count: 1,
        fleet_number: None,
        created_by: "benchmark",
        expires_at: None,
    };
    tx.insert_command(&command, now).await?;
    let mut delivery = Delivery {
        enrollment_id,
        command_id,
        generation: 1,
        state: DeliveryState::Queued,
        priority: 100,
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
    let report = NewReport {
        enrollment_id,
        id: report_id,
        command_id: Some(command_id),
        command_uuid: None,
        status: "acknowledged",
        size_bytes: 400,
        raw_sealed: &sealed_like(&[0; 400]),
    };
    tx.insert_report(&report, now).await?;
    for state in [DeliveryState::Sent, DeliveryState::Acknowledged] {
        delivery.state = state;
        delivery.revision += 1;
        delivery.report_id = (state == DeliveryState::Acknowledged).then_some(report_id);
        tx.update_delivery(&delivery, None).await?;
    }
    Ok(())
}
