//! Whether the master keys open what is sealed in the database, and whether a rotation is finished.

use std::collections::BTreeMap;

use super::Patient;
use super::finding::Report;
use crate::pki::vault::Vault;
use crate::service::{authorities, signing, wakes};
use crate::store::{Read, StoreError};

/// Opens the keys of authorities, listeners and pushes; counts the other records by the key that they name.
pub(super) async fn check(report: &mut Report, patient: &Patient<'_>, read: &mut Read) -> Result<(), StoreError> {
    let check = "secrets";
    let Some(vault) = patient.vault else { return Ok(()) };
    let mut is_sound = true;
    for fault in unopened(vault, read).await? {
        is_sound = false;
        let action =
            "name the key that it was sealed under in master_key.file or master_key.older, or restore a backup";
        report.fail(check, fault, action);
    }
    let (mut current, mut older, mut unknown) = (0, 0, BTreeMap::new());
    for count in read.sealed_counts().await? {
        if count.key_id == vault.active_key_id() {
            current += count.records;
        } else if vault.knows(&count.key_id) {
            older += count.records;
        } else {
            *unknown.entry(hex::encode(&count.key_id)).or_insert(0) += count.records;
        }
    }
    for (key, records) in unknown {
        is_sound = false;
        let found = format!("{records} records are sealed under the master key {key}, which is not configured");
        report.fail(check, found, "name the file of that key in master_key.older");
    }
    if older > 0 {
        let found =
            format!("at least {older} records are sealed under an older master key, {current} under the active one");
        report.warn(check, found, "run `muster rotate-key`, and then take the older key out of the settings");
    } else if is_sound {
        report.ok(check, format!("the master key opens them ({current} looked at)"));
    }
    Ok(())
}

/// Which keys of authorities, listeners and pushes do not open, and why.
pub(in crate::cli) async fn unopened(vault: &Vault, read: &mut Read) -> Result<Vec<String>, StoreError> {
    let mut places: Vec<(String, String, Vec<u8>)> = Vec::new();
    for purpose in [authorities::DEVICE, authorities::TLS] {
        for row in read.authorities(purpose).await? {
            let what = format!("the key of the authority {:?}", row.name);
            places.extend(row.key_sealed.map(|sealed| (what, authorities::key_context(row.id), sealed)));
        }
    }
    for name in [authorities::SERVER, signing::PROFILE_SIGNER] {
        if let Some(row) = read.server_certificate(name).await? {
            places.push((
                format!("the key of the certificate {name:?}"),
                signing::own_key_context(name),
                row.key_sealed,
            ));
        }
    }
    for row in read.push_certificates().await? {
        let what = format!("the key of the push certificate {}", row.topic);
        places.push((what, wakes::key_context(&row.topic), row.key_sealed));
    }
    let faults = places.iter().filter_map(|(what, context, sealed)| {
        vault.open(context, sealed).err().map(|why| format!("{what} does not open: {why}"))
    });
    Ok(faults.collect())
}
