//! What a TLS certificate needs so that Apple's devices accept it.

use std::fs;
use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

use super::super::named::mode;
use super::finding::Report;
use super::{day, until};
use crate::model::Timestamp;
use crate::pki::{Certificate, Identity};
use crate::service::outlook::FILES_SOON;
use crate::service::signing;

const DAY: Duration = Duration::from_secs(86_400);
/// The longest life that Apple's devices accept of a TLS certificate under a root that a profile or a person
/// installed. Source: Apple, "Requirements for trusted certificates in iOS 13 and macOS 10.15".
const MAX_LIFE: Duration = Duration::from_secs(825 * 86_400);
/// A PEM file of more bytes than this is none.
const MAX_FILE: u64 = 1 << 20;

/// Reads a certificate and its key from files.
///
/// # Errors
/// Which file is at fault, and how.
pub(super) fn from_files(chain: &Path, key: &Path) -> Result<Identity, String> {
    let (certificates, key_text) = (read(chain)?, read(key)?);
    Identity::from_files(&certificates, &key_text, None)
        .map_err(|why| format!("{} and {}: {why}", chain.display(), key.display()))
}

fn read(path: &Path) -> Result<zeroize::Zeroizing<Vec<u8>>, String> {
    let mut bytes = zeroize::Zeroizing::new(Vec::new());
    fs::File::open(path)
        .and_then(|file| file.take(MAX_FILE).read_to_end(&mut bytes))
        .map_err(|why| format!("{}: {why}", path.display()))?;
    Ok(bytes)
}

/// Whether a listener's certificate is for these hosts and holds now. `renewal` says who renews it.
pub(super) fn check(
    report: &mut Report,
    check: &'static str,
    certificate: &Certificate,
    hosts: &[String],
    now: Timestamp,
    renewal: &str,
) {
    let subject = &certificate.subject;
    let uncovered: Vec<_> = hosts.iter().filter(|host| !certificate.covers(host)).map(String::as_str).collect();
    if !uncovered.is_empty() {
        let names: Vec<_> = certificate
            .dns_names
            .iter()
            .cloned()
            .chain(certificate.ip_addresses.iter().map(ToString::to_string))
            .collect();
        let found = format!("{subject} is for {}, not for {}", list(&names), uncovered.join(", "));
        report.fail(check, found, format!("devices refuse it: {renewal}"));
    }
    if !certificate.for_servers {
        let action = "have one issued with extendedKeyUsage serverAuth";
        report.fail(check, format!("{subject} is not for TLS servers"), action);
    }
    if now < certificate.not_before {
        let found = format!("{subject} does not hold before {}", certificate.not_before);
        report.fail(check, found, "look at the clock of this machine");
    } else if now > certificate.not_after {
        let found = format!("{subject} ended {}", until(certificate.not_after, now));
        report.fail(check, found, format!("devices refuse it: {renewal}"));
    } else if certificate.not_after < now.plus(FILES_SOON) {
        let found = format!("{subject} ends {}", until(certificate.not_after, now));
        report.warn(check, found, renewal);
    } else {
        let found =
            format!("{subject} holds until {} ({})", day(certificate.not_after), until(certificate.not_after, now));
        report.ok(check, found);
    }
}

/// Whether devices trust it without anything installed; if not, whether it is short-lived enough for a root that is.
pub(super) fn trust(report: &mut Report, check: &'static str, identity: &Identity, now: Timestamp) {
    if signing::is_publicly_trusted(identity, now) {
        report.ok(check, "publicly trusted");
        return;
    }
    let certificate = &identity.certificate;
    let life = certificate.not_after.since(certificate.not_before);
    if life > MAX_LIFE {
        let found = format!("holds for {} days; devices accept 825 at most", life.as_secs() / DAY.as_secs());
        report.fail(check, found, "have one issued that holds for 397 days or less");
    }
    let top = identity.chain.last().unwrap_or(certificate);
    let found = format!("not publicly trusted: issued by {}", top.issuer);
    let action = "if that is meant, the root must be on the devices already; otherwise add the missing intermediate \
                  certificates to the file, or use a publicly trusted certificate";
    report.warn(check, found, action);
}

/// That others on this machine cannot read a listener's key.
pub(super) fn key_file(report: &mut Report, check: &'static str, key: &Path) {
    if let Ok(mode) = mode(key)
        && mode & 0o007 != 0
    {
        let found = format!("the key {} can be read by everyone on this machine (mode {mode:04o})", key.display());
        report.fail(check, found, format!("chmod o= {}", key.display()));
    }
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "no host (it has no subjectAltName)".to_owned() } else { names.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::super::finding::State;
    use super::*;
    use crate::model::SeededRandomness;
    use crate::pki::authority::{issue_server_certificate, make_tls_root};

    const NOW: Timestamp = Timestamp::from_seconds(1_795_324_800);

    fn identity() -> Identity {
        let random = SeededRandomness::new(3);
        let root = make_tls_root("Root", "Example", NOW, &random).unwrap();
        issue_server_certificate(&root, &["mdm.example.org".to_owned()], NOW, DAY * 90, &random).unwrap().into()
    }

    #[test]
    fn names_and_times_are_checked() {
        let certificate = identity().certificate;
        for (host, now, expected) in [
            ("mdm.example.org", NOW, State::Ok),
            ("mdm.example.com", NOW, State::Fail),
            ("mdm.example.org", NOW.plus(DAY * 80), State::Warn),
            ("mdm.example.org", NOW.plus(DAY * 91), State::Fail),
            ("mdm.example.org", NOW.minus(DAY * 30), State::Fail),
        ] {
            let mut report = Report::default();
            check(&mut report, "tls", &certificate, &[host.to_owned()], now, "renew it");
            assert_eq!(report.count(expected), 1, "{}", report.text());
        }
    }

    #[test]
    fn an_own_root_is_told_from_a_public_one() {
        let mut report = Report::default();
        trust(&mut report, "tls", &identity(), NOW);
        assert!(report.text().contains("not publicly trusted: issued by CN=Root, O=Example"), "{}", report.text());
    }
}
