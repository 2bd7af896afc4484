//! The decision on a request, and what it changes, in one transaction.

use serde_json::json;

use super::super::audit::Subject;
use super::super::enrollment::HELD;
use super::super::enrollment_profile::{LINK, RENEWAL, RETURN_TO_SERVICE};
use super::super::{Actor, App, Error};
use super::Outcome;
use crate::model::{CaId, EnrollmentId, Sha256, Timestamp};
use crate::pki::scep::server::Request;
use crate::pki::{Certificate, challenge};
use crate::store::{CertificateRow, Challenge, Link, Read, Write};

/// Why nothing is issued; for the log and the audit log, never for the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refusal(pub(super) &'static str);

/// What a request relies on.
pub(super) enum Entitlement {
    /// A challenge, by its hash.
    Challenge(Sha256),
    /// The certificate that signed it, by its hash.
    Certificate(Sha256),
}

impl Entitlement {
    pub(super) fn of(request: &Request) -> Result<Self, Refusal> {
        if request.message_type.is_renewal() {
            return Ok(Self::Certificate(request.signer.sha256));
        }
        match &request.csr.challenge {
            Some(text) if !text.expose().is_empty() => Ok(Self::Challenge(challenge::hash(text.expose()))),
            _ => Err(Refusal("no challenge")),
        }
    }
}

/// What is to be done.
pub(super) enum Decision {
    Refuse(Refusal),
    /// The key has its certificate already.
    Repeat(Box<CertificateRow>),
    /// Issue, for this device channel where it is known, on account of this challenge and link. The channel's generation
    /// is there where the certificate is let in without an `Authenticate`.
    Issue {
        enrollment: Option<EnrollmentId>,
        generation: Option<i64>,
        challenge: Option<Box<Challenge>>,
    },
}

impl From<Refusal> for Decision {
    fn from(refusal: Refusal) -> Self {
        Self::Refuse(refusal)
    }
}

/// Who asks, for the audit log: nothing is known but the subject that it wants.
pub(super) fn applicant(request: &Request) -> &str {
    if request.csr.subject.is_empty() { "unknown device" } else { &request.csr.subject }
}

/// What would be decided, without locks: to spare the work for those who have no chance.
pub(super) async fn look(
    app: &App,
    read: &mut Read,
    request: &Request,
    entitlement: &Entitlement,
    now: Timestamp,
) -> Result<Decision, Error> {
    match entitlement {
        Entitlement::Certificate(signer) => renewal(app, read, *signer, now).await,
        Entitlement::Challenge(hash) => {
            let Some(challenge) = read.challenge_by_hash(*hash).await? else {
                return Ok(Refusal("unknown challenge").into());
            };
            let link = match challenge.link_id {
                Some(id) => read.link(id).await?,
                None => None,
            };
            by_challenge(read, request, challenge, link, now).await
        }
    }
}

/// Decides for good and does it. `candidate` is the certificate to be recorded if that is the decision; when there is
/// none although one is needed, things changed since the first look, and the client has to ask again.
pub(super) async fn carry_out(
    app: &App,
    request: &Request,
    entitlement: &Entitlement,
    authority: CaId,
    candidate: Option<&Certificate>,
    actor: &Actor,
    now: Timestamp,
) -> Result<Result<(Certificate, Outcome), Refusal>, Error> {
    let mut tx = app.store.begin_write().await?;
    let decision = match entitlement {
        Entitlement::Certificate(signer) => renewal(app, &mut tx, *signer, now).await?,
        Entitlement::Challenge(hash) => match tx.challenge_for_update(*hash).await? {
            None => Refusal("unknown challenge").into(),
            Some(challenge) => {
                let link = match challenge.link_id {
                    Some(id) => tx.link_for_update(id).await?,
                    None => None,
                };
                by_challenge(&mut tx, request, challenge, link, now).await?
            }
        },
    };
    match decision {
        Decision::Refuse(refusal) => {
            refuse_in(app, tx, request, actor, refusal, now).await?;
            Ok(Err(refusal))
        }
        Decision::Repeat(row) => {
            let certificate = Certificate::from_der(&row.der)
                .map_err(|e| Error::Internal(format!("the recorded certificate {}: {e}", row.sha256)))?;
            Ok(Ok((certificate, Outcome::Repeated)))
        }
        Decision::Issue { enrollment, generation, challenge } => {
            let certificate = candidate.ok_or_else(|| {
                Error::Unavailable("what entitles to the certificate changed in the meantime".to_owned())
            })?;
            if let Some(challenge) = &challenge {
                let until = (challenge.purpose == LINK).then(|| now.plus(HELD));
                tx.use_challenge(challenge.id, until).await?;
            }
            let row = CertificateRow {
                sha256: certificate.sha256,
                authority_id: authority,
                serial: certificate.serial.clone(),
                subject: certificate.subject.clone(),
                public_key_sha256: certificate.public_key_sha256,
                der: certificate.der().to_vec(),
                challenge_id: challenge.as_ref().map(|challenge| challenge.id),
                enrollment_id: enrollment,
                generation,
                not_before: certificate.not_before,
                not_after: certificate.not_after,
                issued_at: now,
                revoked_at: None,
                revoked_reason: None,
            };
            tx.insert_certificate(&row).await?;
            let detail = json!({
                "serial": row.serial,
                "subject": row.subject,
                "authority": authority,
                "not_after": row.not_after,
                "challenge": challenge.as_ref().map(|challenge| challenge.id),
                "purpose": challenge.as_ref().map_or("scep_renewal", |challenge| challenge.purpose.as_str()),
                "renews": challenge.is_none().then_some(request.signer.sha256),
            });
            let subject = Subject { kind: "certificate", id: &row.sha256.hex() };
            app.audit(&mut tx, actor, "certificate.issued", subject, &detail, now).await?;
            tx.commit().await?;
            let outcome = if challenge.is_some() { Outcome::Issued } else { Outcome::Renewed };
            Ok(Ok((certificate.clone(), outcome)))
        }
    }
}

/// Notes a refusal for which nothing had to be looked up.
pub(super) async fn refuse(app: &App, request: &Request, actor: &Actor, refusal: Refusal) -> Result<Refusal, Error> {
    let tx = app.store.begin_write().await?;
    refuse_in(app, tx, request, actor, refusal, app.clock.now()).await?;
    Ok(refusal)
}

async fn refuse_in(
    app: &App,
    mut tx: Write,
    request: &Request,
    actor: &Actor,
    refusal: Refusal,
    now: Timestamp,
) -> Result<(), Error> {
    let detail =
        json!({"reason": refusal.0, "signer": request.signer.subject, "renewal": request.message_type.is_renewal()});
    let transaction: String = request.reply_to.transaction_id.chars().take(100).collect();
    let subject = Subject { kind: "scep_request", id: &transaction };
    app.audit(&mut tx, actor, "certificate.refused", subject, &detail, now).await?;
    tx.commit().await?;
    Ok(())
}

/// What a challenge entitles to now.
async fn by_challenge(
    read: &mut Read,
    request: &Request,
    challenge: Challenge,
    link: Option<Link>,
    now: Timestamp,
) -> Result<Decision, Error> {
    if challenge.expires_at <= now {
        return Ok(Refusal("the challenge has expired").into());
    }
    if let Some(row) = read.certificate_for_key(challenge.id, request.csr.public_key_sha256).await? {
        // The first answer may have been lost on its way.
        return Ok(if row.revoked_at.is_some() {
            Refusal("the certificate that this challenge gave is revoked").into()
        } else {
            Decision::Repeat(Box::new(row))
        });
    }
    if challenge.uses_count >= challenge.uses_allowed {
        return Ok(Refusal("the challenge has been used").into());
    }
    let (mut enrollment, mut generation) = (None, None);
    match challenge.purpose.as_str() {
        LINK => {
            let Some(link) = link else { return Ok(Refusal("the enrollment link is gone").into()) };
            if link.revoked_at.is_some() {
                return Ok(Refusal("the enrollment link was revoked").into());
            }
            let held = link.uses_count + read.reserved_uses(link.id, now).await?;
            if link.uses_allowed.is_some_and(|allowed| held >= allowed) {
                return Ok(Refusal("the enrollment link has been used up").into());
            }
        }
        purpose @ (RENEWAL | RETURN_TO_SERVICE) => {
            let bound = match challenge.enrollment_id {
                Some(id) => read.enrollment(id).await?,
                None => None,
            };
            let allowed = bound.filter(|e| if purpose == RENEWAL { e.is_enabled() } else { e.state != "removed" });
            let Some(bound) = allowed else {
                return Ok(Refusal("the device that the challenge is bound to has left").into());
            };
            if challenge.generation != Some(bound.generation) {
                return Ok(Refusal("the device that the challenge is bound to has enrolled anew since").into());
            }
            enrollment = Some(bound.id);
            // A device that was wiped begins anew in any case.
            generation = (purpose == RENEWAL).then_some(bound.generation);
        }
        _ => {}
    }
    Ok(Decision::Issue { enrollment, generation, challenge: Some(Box::new(challenge)) })
}

/// What a certificate entitles to: another one for the same device, as long as it would be let in with it.
async fn renewal(app: &App, read: &mut Read, signer: Sha256, now: Timestamp) -> Result<Decision, Error> {
    let Some(record) = read.certificate(signer).await? else {
        return Ok(Refusal("the signer's certificate was not issued here").into());
    };
    if record.revoked_at.is_some() {
        return Ok(Refusal("the signer's certificate is revoked").into());
    }
    if now > record.not_after.plus(app.settings.devices.identity_grace) {
        return Ok(Refusal("the signer's certificate has expired").into());
    }
    if read.authority(record.authority_id).await?.is_none_or(|authority| authority.retired_at.is_some()) {
        return Ok(Refusal("the authority of the signer's certificate is retired").into());
    }
    let enrollment = match record.enrollment_id {
        Some(id) => read.enrollment(id).await?,
        None => None,
    };
    let Some(enrollment) = enrollment.filter(crate::store::Enrollment::is_enabled) else {
        return Ok(Refusal("the signer's certificate belongs to no enrolled device").into());
    };
    if read.pin(enrollment.id, signer).await?.is_some_and(|pin| pin.revoked_at.is_some()) {
        return Ok(Refusal("the signer's certificate was replaced by a later enrollment").into());
    }
    if record.generation != Some(enrollment.generation) {
        return Ok(Refusal("the signer's certificate belongs to an earlier enrollment of the device").into());
    }
    Ok(Decision::Issue { enrollment: Some(enrollment.id), generation: record.generation, challenge: None })
}
