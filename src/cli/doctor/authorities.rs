//! The server's own authorities, and the certificates of its listeners and of its profiles.

use std::time::Duration;

use super::finding::Report;
use super::{Patient, certificate, day, until};
use crate::config::{DeviceTls, ProfileSigning};
use crate::model::Timestamp;
use crate::pki::chain::{Purpose, verify_for};
use crate::pki::{Certificate, Identity, PrivateKey};
use crate::service::{authorities, outlook, signing};
use crate::store::{AuthorityRow, Read, ServerCertificateRow, StoreError};

const START: &str = "start the server: it makes what is missing";

/// The device CAs: one issues, with its key; the others are accepted.
pub(super) async fn device(report: &mut Report, patient: &Patient<'_>, read: &mut Read) -> Result<(), StoreError> {
    let check = "device_ca";
    let rows = read.authorities(authorities::DEVICE).await?;
    if !rows.iter().any(|row| row.slot.is_some()) {
        report.fail(check, "there is no device CA that issues", START);
    }
    for row in &rows {
        let Some(certificate) = parsed(report, check, row) else { continue };
        let (name, now, issues) = (&row.name, patient.now, row.slot.is_some());
        let role = if issues { "issues" } else { "is accepted" };
        let end = format!("{name:?} {role}, holds until {} ({})", day(row.not_after), until(row.not_after, now));
        if let Some(why) = key_fault(patient, row, &certificate) {
            report.fail(check, format!("{name:?}: {why}"), "restore a backup of the database and of its master key");
        } else if now < certificate.not_before {
            let found = format!("{name:?} does not hold before {}", certificate.not_before);
            report.fail(check, found, "look at the clock of this machine");
        } else if row.not_after < now && issues {
            report.fail(check, end, "import another device CA and activate it (POST /api/v1/authorities)");
        } else if row.not_after < now {
            report.warn(check, end, "retire it: no device can use its certificates any more");
        } else if let Some(action) = authorities::ends_soon(row, patient.settings, now) {
            report.warn(check, end, action);
        } else {
            report.ok(check, end);
        }
    }
    Ok(())
}

/// What each listener shows.
pub(super) async fn listeners(report: &mut Report, patient: &Patient<'_>, read: &mut Read) -> Result<(), StoreError> {
    let settings = patient.settings;
    let hosts = hosts(patient);
    match (settings.devices.tls, &settings.devices.tls_certificate, &settings.devices.tls_key) {
        (DeviceTls::Own, ..) => own(report, patient, read, &hosts).await?,
        (DeviceTls::Files, Some(chain), Some(key)) => {
            let own_pages = settings.pages.tls_certificate.is_some();
            let hosts = if own_pages { hosts.get(..1).unwrap_or_default() } else { hosts.as_slice() };
            files(report, "tls", (chain, key), hosts, patient.now);
        }
        (DeviceTls::Files, ..) => {}
        (DeviceTls::BehindProxy, ..) => {
            report.ok("tls", "a proxy speaks TLS for devices; its certificate is not looked at");
        }
    }
    if let (Some(chain), Some(key)) = (&settings.pages.tls_certificate, &settings.pages.tls_key) {
        files(report, "pages_tls", (chain, key), &[settings.pages_url().host()], patient.now);
    }
    Ok(())
}

async fn own(report: &mut Report, patient: &Patient<'_>, read: &mut Read, hosts: &[String]) -> Result<(), StoreError> {
    let check = "tls";
    let root = read.authorities(authorities::TLS).await?.into_iter().find(|row| row.slot.is_some());
    let (Some(row), Some(root)) = (read.server_certificate(authorities::SERVER).await?, root) else {
        report.fail(check, "the server has no certificate of its own yet", START);
        return Ok(());
    };
    let soon = authorities::ends_soon(&root, patient.settings, patient.now);
    let Some(root) = parsed(report, check, &root) else { return Ok(()) };
    let Some(identity) = identity(report, check, patient, &row) else { return Ok(()) };
    let leaf = &identity.certificate;
    certificate::check(report, check, leaf, hosts, patient.now, "the server makes a new one by itself: start it");
    // Whether it holds now was checked: here, whether it leads to the root, at a time when it did.
    let at = leaf.not_before.plus(Duration::from_secs(3600));
    match verify_for(Purpose::Server, leaf, &identity.chain, std::slice::from_ref(&root), at, Duration::ZERO) {
        Ok(_) => {
            let end = until(root.not_after, patient.now);
            let found = format!("under the own root {}, which ends {end}; enrollment profiles bring it", root.subject);
            match soon {
                Some(action) => report.warn(check, found, action),
                None => report.ok(check, found),
            }
        }
        Err(why) => {
            report.fail(check, format!("{} is not under the own root: {why}", leaf.subject), "restore a backup")
        }
    }
    Ok(())
}

/// A listener's certificate from files.
pub(super) fn files(
    report: &mut Report,
    check: &'static str,
    (chain, key): (&std::path::Path, &std::path::Path),
    hosts: &[String],
    now: Timestamp,
) {
    let identity = match certificate::from_files(chain, key) {
        Ok(identity) => identity,
        Err(why) => {
            report.fail(check, why, "correct the files or the settings that name them; the server would not start");
            return;
        }
    };
    certificate::key_file(report, check, key);
    let renewal = format!("renew {}; the server takes it over by itself", chain.display());
    certificate::check(report, check, &identity.certificate, hosts, now, &renewal);
    // Devices trust what listens for them, or not; admins' tools have their own ways.
    if !hosts.is_empty() {
        certificate::trust(report, check, &identity, now);
    }
}

/// The certificate that signs profiles.
pub(super) async fn signer(report: &mut Report, patient: &Patient<'_>, read: &mut Read) -> Result<(), StoreError> {
    let check = "profile_signer";
    let signing = patient.settings.profiles.signing;
    if signing == ProfileSigning::Tls {
        let found = "the TLS certificate signs profiles";
        report.ok(check, found);
        return Ok(());
    }
    let Some(row) = read.server_certificate(signing::PROFILE_SIGNER).await? else {
        report.fail(check, "there is no certificate that signs profiles yet", START);
        return Ok(());
    };
    let Some(identity) = identity(report, check, patient, &row) else { return Ok(()) };
    let certificate = &identity.certificate;
    let found = format!("{} ends {}", certificate.subject, until(certificate.not_after, patient.now));
    if certificate.valid_at(patient.now) && certificate.not_after < patient.now.plus(outlook::SIGNER_SOON) {
        report.warn(check, found, "the server should have replaced it: start it, or look for the reason in its log");
    } else if certificate.valid_at(patient.now) {
        report.ok(check, found);
    } else {
        report.fail(check, found, "start the server: it makes a new one by itself");
    }
    Ok(())
}

/// The hosts by which devices and people reach the server: that of devices first.
fn hosts(patient: &Patient<'_>) -> Vec<String> {
    let mut hosts = vec![patient.settings.public_url.host(), patient.settings.pages_url().host()];
    hosts.dedup();
    hosts
}

fn parsed(report: &mut Report, check: &'static str, row: &AuthorityRow) -> Option<Certificate> {
    Certificate::from_der(&row.certificate)
        .map_err(|why| report.fail(check, format!("{:?}: {why}", row.name), "restore a backup of the database"))
        .ok()
}

/// A certificate of the server's own with its key. That the key does not open is another check's finding.
fn identity(
    report: &mut Report,
    check: &'static str,
    patient: &Patient<'_>,
    row: &ServerCertificateRow,
) -> Option<Identity> {
    let key = patient.vault?.open(&signing::own_key_context(&row.name), &row.key_sealed).ok()?;
    let identity = PrivateKey::from_der(key.expose())
        .and_then(|key| Identity::assemble(&Certificate::from_pem_many(row.chain_pem.as_bytes())?, key));
    identity.map_err(|why| report.fail(check, why.to_string(), "restore a backup of the database")).ok()
}

/// Whether the key of an authority is another's. That it does not open is another check's finding.
fn key_fault(patient: &Patient<'_>, row: &AuthorityRow, certificate: &Certificate) -> Option<String> {
    let sealed = match &row.key_sealed {
        Some(sealed) => sealed,
        None if row.slot.is_some() => return Some("its key is not here, so it cannot issue".to_owned()),
        None => return None,
    };
    let key = patient.vault?.open(&authorities::key_context(row.id), sealed).ok()?;
    match PrivateKey::from_der(key.expose()).and_then(|key| key.public_key_sha256()) {
        Ok(public) if public == certificate.public_key_sha256 => None,
        Ok(_) => Some("its key belongs to another certificate".to_owned()),
        Err(why) => Some(why.to_string()),
    }
}
