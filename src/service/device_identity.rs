//! Who a device is: the certificate that it presents, its chain, and its pin.
//!
//! The chain to an accepted authority and the validity are checked on every request; the costly part (signatures) is
//! remembered by the certificate's hash. Whether the certificate is revoked or pinned elsewhere is never remembered: it
//! is read from the store with the request's own row, so that a revocation holds at once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::{App, Error, TrustedAuthority};
use crate::model::{EnrollmentId, Sha256, Timestamp};
use crate::pki::chain::{self, ChainError};
use crate::pki::{Certificate, PeerCertificate};
use crate::store::{IssuedRow, Write};

/// Most certificates that are remembered as verified; past it the memory starts anew.
const MAX_REMEMBERED: usize = 200_000;

/// A certificate whose possession was proved (by TLS, a signature, or a trusted proxy) and that chains to an accepted
/// authority.
#[derive(Clone, Debug)]
pub struct Presented {
    /// The certificate.
    pub certificate: Arc<Certificate>,
    /// The authority that it chains to.
    pub authority: TrustedAuthority,
    /// Whether it may be pinned to an enrollment that was taken over from another server and has no pin yet.
    pub may_be_first: bool,
}

impl Presented {
    /// The hash that enrollments are pinned to.
    #[must_use]
    pub fn sha256(&self) -> Sha256 {
        self.certificate.sha256
    }
}

/// Certificates whose chain was verified, by hash.
#[derive(Debug, Default)]
pub struct VerifiedCertificates(Mutex<HashMap<Sha256, Remembered>>);

#[derive(Clone, Debug)]
struct Remembered {
    trust_version: u64,
    presented: Presented,
}

/// Checks chain and validity of a certificate.
///
/// # Errors
/// [`Error::Denied`] with what is wrong.
pub fn present(app: &App, shown: &PeerCertificate) -> Result<Presented, Error> {
    let now = app.clock.now();
    let trust = app.trust();
    let sha256 = shown.sha256();
    let grace = app.settings.devices.identity_grace;
    let remembered = app.verified.0.lock().unwrap_or_else(PoisonError::into_inner).get(&sha256).cloned();
    if let Some(found) = remembered
        && found.trust_version == trust.version
    {
        let certificate = &found.presented.certificate;
        return if now < certificate.not_before || now > certificate.not_after.plus(grace) {
            Err(expired(certificate))
        } else {
            Ok(found.presented)
        };
    }
    let certificate = Certificate::from_der(shown.der())
        .map_err(|e| Error::invalid("bad_certificate", format!("the client certificate cannot be read: {e}")))?;
    let intermediates: Vec<Certificate> =
        shown.chain().iter().filter_map(|der| Certificate::from_der(der).ok()).collect();
    let root = chain::verify(&certificate, &intermediates, &trust.roots, now, grace).map_err(|e| match e {
        ChainError::Expired { .. } => expired(&certificate),
        other => Error::Denied(format!("the client certificate ({}) is not accepted: {other}", certificate.subject)),
    })?;
    let authority = trust
        .authorities
        .get(root)
        .cloned()
        .ok_or_else(|| Error::Internal("the list of authorities and their certificates differ".to_owned()))?;
    let may_be_first = app.settings.devices.pin_on_first_use;
    let presented = Presented { certificate: Arc::new(certificate), authority, may_be_first };
    let mut memory = app.verified.0.lock().unwrap_or_else(PoisonError::into_inner);
    if memory.len() >= MAX_REMEMBERED {
        memory.clear();
    }
    memory.insert(sha256, Remembered { trust_version: trust.version, presented: presented.clone() });
    Ok(presented)
}

fn expired(certificate: &Certificate) -> Error {
    Error::Denied(format!(
        "identity expired: the client certificate ({}) held until {}; the device must enroll again",
        certificate.subject, certificate.not_after
    ))
}

/// The issuing record of a presented certificate; none where the authority issues elsewhere.
///
/// # Errors
/// [`Error::Denied`] for a certificate of our own authority that was never issued here, and for a revoked one.
pub(super) async fn issuing_record(tx: &mut Write, presented: &Presented) -> Result<Option<IssuedRow>, Error> {
    match tx.issued(presented.sha256()).await? {
        Some(row) if row.revoked_at.is_some() => {
            Err(Error::Denied(format!("the client certificate ({}) is revoked", row.subject)))
        }
        Some(row) => Ok(Some(row)),
        None if presented.authority.issues_elsewhere => Ok(None),
        None => Err(Error::Denied(format!(
            "the client certificate ({}) stands in no issuing record",
            presented.certificate.subject
        ))),
    }
}

/// Whether the certificate is pinned to the device channel `channel`. A certificate that was issued for this very
/// device by a SCEP renewal is pinned now: such a renewal sends no MDM message of its own. One that was issued in an
/// earlier generation is not: whoever had the device then may have it still.
///
/// The channel's row must be locked, or its generation could end meanwhile.
///
/// # Errors
/// [`Error::Denied`].
pub(super) async fn require_pin(
    tx: &mut Write,
    presented: &Presented,
    channel: EnrollmentId,
    now: Timestamp,
) -> Result<(), Error> {
    let record = issuing_record(tx, presented).await?;
    match tx.pin(channel, presented.sha256()).await? {
        Some(pin) if pin.revoked_at.is_none() => Ok(()),
        Some(_) => Err(Error::Denied("the client certificate was replaced by a later enrollment".to_owned())),
        None if record.as_ref().is_some_and(|row| row.enrollment_id == Some(channel)) => {
            let present = tx.enrollment(channel).await?.map(|enrollment| enrollment.generation);
            if present.is_none() || record.as_ref().and_then(|row| row.generation) != present {
                return Err(Error::Denied(
                    "the client certificate belongs to no present enrollment of the device".to_owned(),
                ));
            }
            tx.put_pin(
                channel,
                presented.sha256(),
                Some(presented.authority.id),
                Some(presented.certificate.not_after),
                now,
            )
            .await?;
            if let Some(challenge) = record.and_then(|row| row.challenge_id) {
                tx.take_over_terms(channel, challenge).await?;
            }
            tx.clear_renewal(channel).await?;
            Ok(())
        }
        None if presented.may_be_first && is_first(tx, presented, record.as_ref(), channel).await? => {
            let (authority, not_after) = (presented.authority.id, presented.certificate.not_after);
            tx.put_pin(channel, presented.sha256(), Some(authority), Some(not_after), now).await?;
            tracing::info!(enrollment = %channel, "a device that was taken over was bound to the certificate that it came with");
            Ok(())
        }
        None => Err(Error::Denied("the client certificate does not belong to this enrollment".to_owned())),
    }
}

/// Whether a certificate may be the first of an enrollment that was taken over without one: it is nobody else's.
async fn is_first(
    tx: &mut Write,
    presented: &Presented,
    record: Option<&IssuedRow>,
    channel: EnrollmentId,
) -> Result<bool, Error> {
    let is_free = record.is_none_or(|row| row.enrollment_id.is_none() && row.challenge_id.is_none())
        && tx.pins_of_certificate(presented.sha256()).await?.is_empty();
    Ok(is_free && tx.is_migrated_without_pin(channel).await?)
}
