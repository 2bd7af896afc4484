//! Push certificates by topic, and the identities of the devices themselves.

use std::sync::Arc;
use std::time::Duration;

use super::super::{named, open};
use super::finding::Report;
use super::{Patient, SystemClock, day, until};
use crate::pki::{Certificate, Identity, PrivateKey};
use crate::service::terms::Differing;
use crate::service::{outlook, push_certificates, wakes};
use crate::store::{PushCertificateRow, Read, StoreError};

/// Push certificates hold for a year; Apple's mail reminds a month before.
const SOON: Duration = Duration::from_secs(30 * 86_400);
const RENEW: &str = "renew it under the same Apple Account at https://identity.apple.com and upload it \
                     (PUT /api/v1/apns/certificate); one with another topic would strand the devices";

/// The files for pushes that the settings name: the roots of the push service, and the vendor's certificate.
pub(super) fn files(report: &mut Report, patient: &Patient<'_>) {
    if let Some(roots) = &patient.settings.push.roots {
        match open::pusher(patient.settings, Arc::new(SystemClock)) {
            Ok(_) => report.ok("push_roots", format!("{} is sound", roots.display())),
            Err(why) => {
                let action = "correct the file, or the setting; the server would not start";
                report.fail("push_roots", why.to_string(), action);
            }
        }
    }
    let check = "vendor";
    match named::vendor(patient.settings, patient.now) {
        Ok(None) => {}
        Ok(Some(certificate)) => {
            let end = certificate.not_after;
            let found = format!("{} holds until {} ({})", certificate.subject, day(end), until(end, patient.now));
            if end < patient.now.plus(SOON) {
                report.warn(check, found, "have the vendor certificate renewed at https://developer.apple.com");
            } else {
                report.ok(check, found);
            }
        }
        Err(faults) => {
            for fault in faults {
                let action = "correct the file, or the setting; until then requests for push certificates fail";
                report.fail(check, fault, action);
            }
        }
    }
}

/// Each topic's certificate, the default, and devices under a topic without one.
pub(super) async fn certificates(
    report: &mut Report,
    patient: &Patient<'_>,
    read: &mut Read,
) -> Result<(), StoreError> {
    let check = "push_certificate";
    let rows = read.push_certificates().await?;
    let enabled = read.enabled_by_topic().await?;
    let devices = |topic: &str| -> i64 {
        enabled.iter().filter(|(other, _)| other.as_deref() == Some(topic)).map(|(_, count)| count).sum()
    };
    if rows.is_empty() {
        let action = "ask for one (POST /api/v1/apns/requests; docs/operate/push-certificate.md)";
        report.warn(check, "there is none: no device can enroll or be woken", action);
    } else if !rows.iter().any(|row| row.is_default) {
        let action = "upload one as the default (PUT /api/v1/apns/certificate)";
        report.warn(check, "none is the default: no device can enroll", action);
    }
    for row in &rows {
        one(report, patient, row, devices(&row.topic));
    }
    let strayed = enabled.iter().filter(|(topic, _)| !rows.iter().any(|row| Some(&row.topic) == topic.as_ref()));
    for (topic, count) in strayed {
        let topic = topic.as_deref().unwrap_or("no topic");
        let action =
            "upload the certificate of that topic: until then they get commands only when they come by themselves";
        report.fail(check, format!("{count} enabled enrollments are under {topic}, which has no certificate"), action);
    }
    Ok(())
}

fn one(report: &mut Report, patient: &Patient<'_>, row: &PushCertificateRow, devices: i64) {
    let check = "push_certificate";
    let (now, topic) = (patient.now, &row.topic);
    let default = if row.is_default { ", the default" } else { "" };
    let end = until(row.not_after, now);
    let found = format!("{topic}{default}: {devices} enabled enrollments, holds until {} ({end})", day(row.not_after));
    if let Some(why) = key_fault(patient, row) {
        report.fail(check, format!("{topic}: {why}"), "upload the certificate again, with its key");
    } else if now < row.not_before {
        report.fail(check, format!("{topic} does not hold before {}", row.not_before), "look at the clock");
    } else if row.not_after < now && (devices > 0 || row.is_default) {
        report.fail(check, format!("{topic}{default}: {devices} enabled enrollments, ended {end}"), RENEW);
    } else if row.not_after < now.plus(SOON) && (devices > 0 || row.is_default) {
        report.warn(check, found, RENEW);
    } else if let Some(why) = push_certificates::faults(row, now).first() {
        report.warn(check, format!("{topic}: {why}"), "upload one that Apple issued");
    } else {
        report.ok(check, found);
    }
}

/// Whether the certificate is for another topic or the key another's. That it does not open is another check's finding.
fn key_fault(patient: &Patient<'_>, row: &PushCertificateRow) -> Option<String> {
    let key = patient.vault?.open(&wakes::key_context(&row.topic), &row.key_sealed).ok()?;
    let identity = PrivateKey::from_der(key.expose())
        .and_then(|key| Identity::assemble(&Certificate::from_pem_many(row.chain_pem.as_bytes())?, key));
    match identity {
        Ok(identity) if identity.certificate.push_topic.as_ref() == Some(&row.topic) => None,
        Ok(identity) => {
            let other = identity.certificate.push_topic.unwrap_or_else(|| "none".to_owned());
            Some(format!("the certificate's topic is {other}"))
        }
        Err(why) => Some(why.to_string()),
    }
}

/// How many devices authenticate with a certificate that has ended or will soon.
pub(super) async fn identities(report: &mut Report, patient: &Patient<'_>, read: &mut Read) -> Result<(), StoreError> {
    let check = "identities";
    let counts = read.ending_identities(patient.now, SOON).await?;
    if counts.expired > 0 {
        let found = format!("the certificates of {} enabled devices have ended", counts.expired);
        let action =
            "they can still come back within devices.identity_grace; find out why they were not seen for so long";
        report.warn(check, found, action);
    }
    if counts.expiring > 0 {
        let found = format!("the certificates of {} enabled devices end within 30 days", counts.expiring);
        let action = "the server has sent them a renewal; find out why they do not answer";
        report.warn(check, found, action);
    }
    let later = read.ending_identities(patient.now, outlook::NOT_RENEWED_SOON).await?;
    if later.not_renewed > 0 {
        let found = format!(
            "the certificates of {} enabled devices have ended or end within 90 days, and the server does not renew them",
            later.not_renewed
        );
        report.warn(check, found, outlook::NOT_RENEWED);
    }
    let renewals = read.failed_renewals().await?;
    if renewals.failed > 0 {
        let why = renewals.last_error.unwrap_or_default();
        let found =
            format!("{} enabled devices refused the renewal of their certificate, the latest: {why}", renewals.failed);
        report.warn(check, found, outlook::REFUSED);
    }
    if counts.expired == 0 && counts.expiring == 0 && later.not_renewed == 0 && renewals.failed == 0 {
        report.ok(check, "no certificate of an enabled device ends within 30 days");
    }
    Ok(())
}

/// How the profiles of enabled devices differ from what the settings say now.
pub(super) async fn terms(report: &mut Report, patient: &Patient<'_>, read: &mut Read) -> Result<(), StoreError> {
    let check = "profiles";
    let differing = Differing::between(&read.enabled_by_terms().await?, patient.settings);
    let sentences = differing.sentences();
    if sentences.is_empty() {
        let elsewhere = match differing.elsewhere {
            0 => String::new(),
            count => format!("; those of {count} were made elsewhere, and unenroll needs their identifier"),
        };
        report.ok(check, format!("those of {} enabled devices agree with the settings{elsewhere}", differing.devices));
    }
    for (found, action) in sentences {
        report.warn(check, found, action);
    }
    Ok(())
}
