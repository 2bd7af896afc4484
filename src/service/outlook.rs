//! What will fail one day if nobody acts: for the server's log, at the start and once a day. `muster doctor` says the
//! same with more around it.

use std::time::Duration;

use super::authorities::{DEVICE, TLS, ends_soon, pages_identity, tls_identity};
use super::signing::PROFILE_SIGNER;
use super::terms::Differing;
use super::{App, Error};
use crate::config::{DeviceTls, ProfileSigning};
use crate::model::Timestamp;
use crate::pki::Identity;

/// How long before its end a device's certificate that the server does not renew is worth a word: finding out how, and
/// reaching people, takes a while.
pub const NOT_RENEWED_SOON: Duration = Duration::from_secs(90 * 86_400);
/// A profile signer that ends so soon should have been replaced long ago.
pub const SIGNER_SOON: Duration = Duration::from_secs(14 * 86_400);

/// A TLS certificate that ends so soon should have been renewed.
pub const FILES_SOON: Duration = Duration::from_secs(14 * 86_400);

/// Something that will fail one day if nobody acts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Concern {
    /// What was found.
    pub found: String,
    /// What to do about it, or what it means.
    pub action: &'static str,
}

/// All that will fail one day if nobody acts.
///
/// # Errors
/// [`Error::Unavailable`].
pub async fn concerns(app: &App) -> Result<Vec<Concern>, Error> {
    let now = app.clock.now();
    let mut read = app.store.begin_read().await?;
    let mut concerns = Vec::new();
    for purpose in [DEVICE, TLS] {
        for row in read.authorities(purpose).await? {
            if let Some(action) = ends_soon(&row, &app.settings, now) {
                concerns
                    .push(Concern { found: format!("the authority {:?} ends at {}", row.name, row.not_after), action });
            }
        }
    }
    if app.settings.profiles.signing != ProfileSigning::Tls
        && let Some(row) = read.server_certificate(PROFILE_SIGNER).await?
        && row.not_after < now.plus(SIGNER_SOON)
    {
        let found = format!("the certificate that signs profiles ends at {}", row.not_after);
        concerns.push(Concern { found, action: "the server should have replaced it: look for the reason in its log" });
    }
    // An open connection is not held while files are read.
    drop(read);
    concerns.extend(shown_certificates(app, now).await);
    let mut read = app.store.begin_read().await?;
    let differing = Differing::between(&read.enabled_by_terms().await?, &app.settings);
    concerns.extend(differing.sentences().into_iter().map(|(found, action)| Concern { found, action }));
    let held = read.count_held_commands().await?;
    if held > 0 {
        concerns
            .push(Concern { found: format!("{held} commands are held since the database was restored"), action: HELD });
    }
    let identities = read.ending_identities(now, NOT_RENEWED_SOON).await?;
    if identities.not_renewed > 0 {
        let found = format!(
            "the certificates of {} enabled devices have ended or end within 90 days, and the server does not renew them",
            identities.not_renewed
        );
        concerns.push(Concern { found, action: NOT_RENEWED });
    }
    let renewals = read.failed_renewals().await?;
    if renewals.failed > 0 {
        let why = renewals.last_error.unwrap_or_default();
        let found =
            format!("{} enabled devices refused the renewal of their certificate, the latest: {why}", renewals.failed);
        concerns.push(Concern { found, action: REFUSED });
    }
    Ok(concerns)
}

/// What is wrong with certificates that listeners show and somebody else renews: those in files.
async fn shown_certificates(app: &App, now: Timestamp) -> Vec<Concern> {
    let settings = &app.settings;
    if settings.devices.tls != DeviceTls::Files {
        return Vec::new();
    }
    let shown = [
        ("devices", settings.public_url.host(), tls_identity(app).await),
        ("people", settings.pages_url().host(), pages_identity(app).await),
    ];
    let mut concerns: Vec<Concern> = Vec::new();
    for (who, host, identity) in shown {
        // What cannot be read keeps the server from starting, and is told where it is taken over.
        let Ok(Some(Identity { certificate, .. })) = identity else { continue };
        let subject = &certificate.subject;
        let mut found = Vec::new();
        if !certificate.covers(&host) {
            found.push(format!("the TLS certificate {subject} is not for {host}, by which {who} reach this server"));
        }
        if !certificate.valid_at(now) {
            let (from, to) = (certificate.not_before, certificate.not_after);
            found.push(format!("the TLS certificate {subject} holds from {from} to {to} only"));
        } else if certificate.not_after < now.plus(FILES_SOON) {
            found.push(format!("the TLS certificate {subject} ends at {}", certificate.not_after));
        }
        let action = "devices refuse it, or will: put another one in its files (devices.tls_certificate, \
                      pages.tls_certificate); the server takes it over by itself";
        concerns.extend(found.into_iter().map(|found| Concern { found, action }));
    }
    concerns.dedup();
    concerns
}

/// What to do about devices that the server does not renew.
pub const NOT_RENEWED: &str = "their profiles were made elsewhere, and none of this server can take their place: renew the \
                               certificates where they are issued, or enroll the devices anew by a link";

/// What to do about devices that refuse a renewal.
pub const REFUSED: &str = "the server asks again ever less often, at last once a week; see renewal in the answer of \
                           GET /api/v1/devices/ID, and enroll the device anew if it goes on to refuse";

/// What to do about commands that are held.
pub const HELD: &str =
    "look through them and release or cancel each: `muster held list`, or GET /api/v1/commands?held=true";

/// Writes them to the log.
///
/// # Errors
/// As [`concerns`].
pub async fn log(app: &App) -> Result<(), Error> {
    for Concern { found, action } in concerns(app).await? {
        tracing::warn!(action, "{found}");
    }
    Ok(())
}
