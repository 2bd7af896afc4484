//! The files that settings name: whether the server can use them. Looked at together, so that one start, or one run of
//! `doctor`, tells of all that is wrong.

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;

use zeroize::Zeroizing;

use super::{Error, SystemClock, open};
use crate::config::{DeviceTls, Settings};
use crate::http::tls::CertificateFiles;
use crate::model::Timestamp;
use crate::pki::push::Vendor;
use crate::pki::{Certificate, Identity};

/// A file of a certificate or of its key has fewer bytes than this.
const MAX_FILE: u64 = 1 << 20;

/// That the files without which the server would not start are there, and sound.
///
/// # Errors
/// [`Error::NamedFiles`]: a line for each, with the setting, the file and what was expected.
pub(super) fn check(settings: &Settings) -> Result<(), Error> {
    let mut faults = Vec::new();
    if let Err(why) = open::vault(settings) {
        faults.push(why.to_string());
    }
    if let Err(why) = open::pusher(settings, Arc::new(SystemClock)) {
        faults.push(why.to_string());
    }
    let listeners = [
        ("devices", &settings.devices.tls_certificate, &settings.devices.tls_key),
        ("pages", &settings.pages.tls_certificate, &settings.pages.tls_key),
        ("admin", &settings.admin.tls_certificate, &settings.admin.tls_key),
    ];
    for (section, certificate, key) in listeners {
        let (Some(certificate), Some(key)) = (certificate, key) else { continue };
        if section != "admin" && settings.devices.tls != DeviceTls::Files {
            continue;
        }
        let usable = |chain: &[u8], key_text: &[u8]| match section {
            // As the listener reads it.
            "admin" => CertificateFiles { chain: certificate.clone(), key: key.clone() }
                .load()
                .map(drop)
                .map_err(|why| why.to_string()),
            _ => Identity::from_files(chain, key_text, None).map(drop).map_err(|why| why.to_string()),
        };
        let names = [format!("{section}.tls_certificate"), format!("{section}.tls_key")];
        if let Err(found) = pair([&names[0], &names[1]], [certificate, key], usable) {
            faults.extend(found);
        }
    }
    if faults.is_empty() { Ok(()) } else { Err(Error::NamedFiles(faults.join("\n"))) }
}

/// The vendor's certificate, where the settings name one.
///
/// # Errors
/// What is wrong with it or its key: a line for each, with the setting and the file.
pub(super) fn vendor(settings: &Settings, now: Timestamp) -> Result<Option<Certificate>, Vec<String>> {
    let (Some(chain), Some(key)) = (&settings.vendor.certificate, &settings.vendor.key) else { return Ok(None) };
    let certificate = pair(["vendor.certificate", "vendor.key"], [chain, key], |chain, key| {
        let vendor = Vendor::from_files(chain, key, None).map_err(|why| why.to_string())?;
        vendor.certificates.into_iter().next().ok_or_else(|| "there is no certificate".to_owned())
    })?;
    if certificate.valid_at(now) {
        return Ok(Some(certificate));
    }
    let (from, to) = (certificate.not_before, certificate.not_after);
    Err(vec![format!("vendor.certificate: {}: valid from {from} to {to} only", chain.display())])
}

/// The files of master keys that other users of this machine can read.
pub(super) fn exposed_keys(settings: &Settings) -> Vec<&Path> {
    let active = Some(settings.master_key.file.as_path()).filter(|_| settings.master_key_text.is_none());
    let files = active.into_iter().chain(settings.master_key.older.iter().map(|file| file.as_path()));
    files.filter(|file| mode(file).is_ok_and(|mode| mode & 0o077 != 0)).collect()
}

/// The permission bits of a file.
pub(super) fn mode(path: &Path) -> Result<u32, std::io::Error> {
    Ok(fs::metadata(path)?.mode() & 0o777)
}

/// Reads a certificate and its key, and makes something of both.
fn pair<T>(
    names: [&str; 2],
    paths: [&Path; 2],
    make: impl FnOnce(&[u8], &[u8]) -> Result<T, String>,
) -> Result<T, Vec<String>> {
    let ([chain_name, key_name], [chain_path, key_path]) = (names, paths);
    let both = (
        read(chain_name, chain_path, "certificates in PEM, the one of the key first"),
        read(key_name, key_path, "the certificate's private key in PEM, not encrypted"),
    );
    match both {
        (Ok(chain), Ok(key)) => make(&chain, &key).map_err(|why| {
            let (chain, key) = (chain_path.display(), key_path.display());
            vec![format!("{chain_name}, {key_name}: {chain} and {key}: {why}")]
        }),
        (chain, key) => Err(chain.err().into_iter().chain(key.err()).collect()),
    }
}

fn read(name: &str, path: &Path, expected: &str) -> Result<Zeroizing<Vec<u8>>, String> {
    let mut bytes = Zeroizing::new(Vec::new());
    fs::File::open(path)
        .and_then(|file| file.take(MAX_FILE).read_to_end(&mut bytes))
        .map_err(|why| format!("{name}: {} cannot be read: {why}; expected {expected}", path.display()))?;
    Ok(bytes)
}
