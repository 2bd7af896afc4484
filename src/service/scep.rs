//! SCEP: who gets a certificate.
//!
//! Two things entitle: a challenge, and for a renewal the certificate that is to be renewed. A certificate is recorded
//! before the answer leaves; a client that lost the answer asks again with the same key and gets the same certificate.

mod decide;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::audit::Subject;
use super::{Actor, App, Error, Fault, authorities, enrollment_profile, idempotency};
use crate::model::{CaId, ChallengeId, Secret, Sha256, Timestamp};
use crate::pki::authority::issue_device_certificate;
use crate::pki::request::Subject as Name;
use crate::pki::scep::server::{self, ReplyTo, Request, RequestError};
use crate::pki::scep::{FailInfo, capabilities};
use crate::pki::{self, Authority, Certificate, challenge};
use crate::store::NewChallenge;
use decide::{Decision, Entitlement, Refusal};

/// Longest name of a challenge, in characters.
const MAX_NAME: usize = 200;
/// Most uses of a challenge that was made for tools.
const MAX_USES: i64 = 100_000;
/// Longest life of a challenge that was made for tools.
const MAX_LIFETIME: Duration = Duration::from_secs(366 * 86_400);

/// What is answered to a message, and what it was, for the metrics.
#[derive(Clone, Debug)]
pub struct Answered {
    /// The answer in DER.
    pub message: Vec<u8>,
    /// What it says.
    pub outcome: Outcome,
}

/// What a message led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A new certificate.
    Issued,
    /// The certificate that the same key got before by the same challenge.
    Repeated,
    /// A new certificate in place of the signer's.
    Renewed,
    /// Refused.
    Refused,
}

impl Outcome {
    /// The word in the metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Issued => "issued",
            Self::Repeated => "repeated",
            Self::Renewed => "renewed",
            Self::Refused => "refused",
        }
    }
}

/// What `GetCACaps` answers.
#[must_use]
pub fn ca_capabilities(app: &App) -> &'static str {
    capabilities(app.settings.scep.allow_legacy_algorithms)
}

/// What `GetCACert` answers: the certificate of the device CA that issues.
///
/// # Errors
/// [`Error::Unavailable`].
pub async fn ca_certificate(app: &App) -> Result<Certificate, Error> {
    let mut read = app.store.begin_read().await?;
    Ok(authorities::issuing_certificate(&mut read).await?.1)
}

/// Answers a message: a certificate, or a refusal in SCEP's own form.
///
/// All refusals of what stands in the envelope look the same from outside; the audit log says why.
///
/// # Errors
/// [`Error::Invalid`] for what is no SCEP message, so that there is nobody to answer to; [`Error::Unavailable`] when the
/// database is away: the client asks again.
pub async fn pki_operation(app: &App, bytes: Vec<u8>, address: Option<IpAddr>) -> Result<Answered, Error> {
    let keys = authorities::with_keys(app).await?;
    let allow_legacy = app.settings.scep.allow_legacy_algorithms;
    let (keys, read) = off_thread(move || {
        let authorities: Vec<&Authority> = keys.iter().map(|(_, authority)| authority.as_ref()).collect();
        let read = server::read(&bytes, &authorities, allow_legacy);
        (keys, read)
    })
    .await?;
    let request = match read {
        Ok(request) => request,
        Err(RequestError::Malformed(why)) => {
            return Err(Error::invalid("bad_scep_message", format!("no SCEP request: {why}")));
        }
        Err(RequestError::Refused { fail, reason, reply_to }) => {
            tracing::info!(reason, "a SCEP request was refused");
            let authority = Arc::clone(&first(&keys)?.1);
            return refusal(app, authority, *reply_to, fail).await;
        }
    };
    if request.is_legacy {
        tracing::debug!(subject = request.csr.subject, "a SCEP request with old algorithms");
    }
    let addressed = keys.get(request.authority).map_or_else(|| first(&keys), Ok)?;
    let addressed = Arc::clone(&addressed.1);
    match certificate_for(app, &request, first(&keys)?, address).await? {
        Ok((certificate, outcome)) => {
            let (now, random) = (app.clock.now(), app.random.clone());
            let message =
                off_thread(move || server::success(&addressed, &request.reply_to, &certificate, now, &*random))
                    .await?
                    .map_err(|e| failed(&e))?;
            Ok(Answered { message, outcome })
        }
        Err(Refusal(reason)) => {
            tracing::info!(reason, subject = request.csr.subject, "a SCEP request was refused");
            refusal(app, addressed, request.reply_to, FailInfo::BadRequest).await
        }
    }
}

/// Decides, issues and records. RSA is done outside of the transaction: after a first look that spares the work for
/// those who have no chance, and before the one that counts.
async fn certificate_for(
    app: &App,
    request: &Request,
    issuer: &(CaId, Arc<Authority>),
    address: Option<IpAddr>,
) -> Result<Result<(Certificate, Outcome), Refusal>, Error> {
    let actor = Actor::device(decide::applicant(request)).at(address);
    let entitlement = match Entitlement::of(request) {
        Ok(entitlement) => entitlement,
        Err(refusal) => return decide::refuse(app, request, &actor, refusal).await.map(Err),
    };
    let mut read = app.store.begin_read().await?;
    let now = app.clock.now();
    let first_look = decide::look(app, &mut read, request, &entitlement, now).await?;
    drop(read);
    let candidate = match first_look {
        Decision::Refuse(_) | Decision::Repeat(_) => None,
        Decision::Issue { .. } => Some(issue(app, request, Arc::clone(&issuer.1), now).await?),
    };
    decide::carry_out(app, request, &entitlement, issuer.0, candidate.as_ref(), &actor, now).await
}

async fn issue(app: &App, request: &Request, issuer: Arc<Authority>, now: Timestamp) -> Result<Certificate, Error> {
    let csr = request.csr.clone();
    let (random, validity) = (app.random.clone(), app.settings.scep.certificate_lifetime);
    off_thread(move || {
        // An empty subject makes macOS refuse the certificate.
        let default =
            Name::common_name(&format!("Device {}", csr.public_key_sha256.hex().get(..32).unwrap_or_default()));
        let subject = csr.subject_is_empty().then_some(&default);
        issue_device_certificate(&issuer, &csr, subject, now, validity, &*random)
    })
    .await?
    .map_err(|e| failed(&e))
}

async fn refusal(app: &App, authority: Arc<Authority>, to: ReplyTo, fail: FailInfo) -> Result<Answered, Error> {
    let (now, random) = (app.clock.now(), app.random.clone());
    let message =
        off_thread(move || server::failure(&authority, &to, fail, now, &*random)).await?.map_err(|e| failed(&e))?;
    Ok(Answered { message, outcome: Outcome::Refused })
}

fn first(keys: &[(CaId, Arc<Authority>)]) -> Result<&(CaId, Arc<Authority>), Error> {
    keys.first().ok_or_else(|| Error::Unavailable("there is no device CA that issues".to_owned()))
}

/// RSA takes milliseconds, in which the other requests of this thread would wait.
async fn off_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Error> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| Error::Internal(format!("the work on a SCEP request was interrupted: {e}")))
}

fn failed(error: &pki::Error) -> Error {
    Error::Internal(format!("SCEP: {error}"))
}

/// What a challenge for profiles and tools from elsewhere is to be.
#[derive(Clone, Debug, Default)]
pub struct NewApiChallenge {
    /// What it is for, for admins.
    pub name: String,
    /// How many certificates it gives; one when none is given.
    pub uses: Option<i64>,
    /// Until when; `scep.challenge_lifetime` from now when none is given.
    pub expires_at: Option<Timestamp>,
}

/// A challenge, shown this once.
#[derive(Clone, Debug)]
pub struct Minted {
    /// Its id, which stands in the audit log.
    pub id: ChallengeId,
    /// The challenge itself.
    pub challenge: Secret<String>,
    /// Where it is to be used: the URL of SCEP.
    pub url: String,
    /// SHA-256 of the CA's certificate, for clients that check it.
    pub ca_sha256: crate::model::Sha256,
    /// How many certificates it gives.
    pub uses: i64,
    /// Until when.
    pub expires_at: Timestamp,
}

/// Makes a challenge for profiles and tools that were made elsewhere. Whoever has it gets as many certificates as it
/// has uses, and can enroll a device with each.
///
/// # Errors
/// [`Error::Invalid`] with all faults at once.
pub async fn mint_challenge(app: &App, actor: &Actor, new: NewApiChallenge) -> Result<Minted, Error> {
    let now = app.clock.now();
    let url = app.settings.pages_url().at("/scep");
    let mut tx = app.store.begin_write().await?;
    let (_, authority) = authorities::issuing_certificate(&mut tx).await?;
    let ca_sha256 = authority.sha256;
    if let Some((id, code, ca_sha256, uses, expires_at)) =
        idempotency::earlier::<(ChallengeId, String, Sha256, i64, Timestamp)>(app, &mut tx, actor).await?
    {
        return Ok(Minted { id, challenge: Secret::new(code), url, ca_sha256, uses, expires_at });
    }
    let uses = new.uses.unwrap_or(1);
    let expires_at = new.expires_at.unwrap_or_else(|| now.plus(app.settings.scep.challenge_lifetime));
    let name = new.name.trim();
    let mut faults = Vec::new();
    let mut fault = |pointer: &str, detail: String| faults.push(Fault { pointer: pointer.to_owned(), detail });
    if name.chars().count() > MAX_NAME || name.chars().any(char::is_control) {
        fault("/name", format!("expected a text of at most {MAX_NAME} characters, without control characters"));
    }
    if !(1..=MAX_USES).contains(&uses) {
        fault("/uses", format!("expected a number from 1 to {MAX_USES}"));
    }
    if expires_at <= now || expires_at > now.plus(MAX_LIFETIME) {
        fault("/expires_at", format!("expected a time in the coming {} days", MAX_LIFETIME.as_secs() / 86_400));
    }
    if !faults.is_empty() {
        let detail = "the challenge cannot be made as it was asked for".to_owned();
        return Err(Error::Invalid { code: "invalid_challenge", detail, faults });
    }
    let code = challenge::code(&*app.random);
    let id = ChallengeId::new(now, &*app.random);
    let row = NewChallenge {
        id,
        hash: challenge::hash(code.expose()),
        purpose: enrollment_profile::API,
        name,
        link_id: None,
        enrollment_id: None,
        generation: None,
        terms: None,
        uses_allowed: uses,
        created_by: &actor.name,
        expires_at,
    };
    tx.insert_challenge(&row, now).await?;
    let detail = json!({"name": name, "uses": uses, "expires_at": expires_at});
    let subject = Subject { kind: "challenge", id: &id.to_string() };
    app.audit(&mut tx, actor, "challenge.minted", subject, &detail, now).await?;
    idempotency::remember(app, &mut tx, actor, &(id, code.expose(), ca_sha256, uses, expires_at)).await?;
    tx.commit().await?;
    Ok(Minted { id, challenge: code, url, ca_sha256, uses, expires_at })
}
