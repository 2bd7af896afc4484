use std::sync::Arc;

use http::HeaderMap;

use super::super::Metrics;
use super::super::identity::{Presented as Carried, Way, agree};
use crate::pki::PeerCertificate;
use crate::pki::signature::{SignaturePolicy, verify_header};
use crate::service::device_identity::{self, Presented};
use crate::service::{App, Error};

/// The header in which a device signs its message.
const SIGNATURE: &str = "Mdm-Signature";

/// Whether the message claims to be signed.
pub(super) fn is_signed(headers: &HeaderMap) -> bool {
    headers.contains_key(SIGNATURE)
}

/// The certificate that a message carries: by TLS or a trusted proxy (`carried`), by a signature over the body, or by
/// both, if they agree. Its chain and validity hold; its pin is looked at with the enrollment's row.
pub(super) fn present(
    app: &App,
    metrics: &Metrics,
    carried: Option<Carried>,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<Presented, Error> {
    let signed = signer(app, metrics, headers, body)?;
    let one = agree(carried, signed).map_err(|e| Error::invalid("identity", e.to_string()))?;
    let one = one.ok_or_else(|| Error::invalid("identity", "the request carries no client certificate"))?;
    device_identity::present(app, &one.certificate)
}

fn signer(app: &App, metrics: &Metrics, headers: &HeaderMap, body: &[u8]) -> Result<Option<Carried>, Error> {
    let mut values = headers.get_all(SIGNATURE).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Error::invalid("signature", "the Mdm-Signature header is repeated"));
    }
    let policy = SignaturePolicy {
        allow_sha1: app.settings.devices.allow_sha1_signatures,
        skew: app.settings.devices.signing_time_skew,
    };
    let text = value.to_str().map_err(|_| Error::invalid("signature", "the Mdm-Signature header is no text"))?;
    let signed = verify_header(text, body, policy, app.clock.now())
        .map_err(|e| Error::invalid("signature", format!("the Mdm-Signature header: {e}")))?;
    if signed.uses_sha1 {
        metrics.sha1_signature_accepted();
    }
    let chain = signed.others.iter().map(|certificate| certificate.der().to_vec()).collect();
    let certificate = Arc::new(PeerCertificate::new(signed.signer.der().to_vec(), chain));
    Ok(Some(Carried { certificate, way: Way::Signature }))
}
