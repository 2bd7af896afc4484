use std::sync::Arc;

use http::HeaderMap;

use super::super::Metrics;
use super::super::identity::{Presented as Carried, Way, agree};
use crate::pki::PeerCertificate;
use crate::pki::signature::{Detached, SignatureError, SignaturePolicy, decode_header};
use crate::service::device_identity::{self, Presented};
use crate::service::{App, Error};

/// The header in which a device signs its message.
const SIGNATURE: &str = "Mdm-Signature";

/// The CMS in the header in which the message claims to be signed.
pub(super) fn signature(headers: &HeaderMap) -> Result<Option<Vec<u8>>, Error> {
    let mut values = headers.get_all(SIGNATURE).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Error::invalid("signature", "the Mdm-Signature header is repeated"));
    }
    let text = value.to_str().map_err(|_| Error::invalid("signature", "the Mdm-Signature header is no text"))?;
    decode_header(text).map(Some).map_err(|e| refused(&e))
}

/// Who claims to have signed.
pub(super) fn claimed(cms: &[u8]) -> Result<Detached<'_>, Error> {
    Detached::read(cms).map_err(|e| refused(&e))
}

/// The certificate that a message carries: by TLS or a trusted proxy (`carried`), by a signature over the body
/// (`signature`, to be compared with the body before it counts), or by both, if they agree. Its chain and validity hold;
/// its pin is looked at with the enrollment's row.
pub(super) fn present(
    app: &App,
    carried: Option<Carried>,
    signature: Option<&Detached<'_>>,
) -> Result<Presented, Error> {
    let claimed = signature.map(|signature| {
        let chain = signature.others().map(|certificate| certificate.der().to_vec()).collect();
        let certificate = Arc::new(PeerCertificate::new(signature.claimed_signer().der().to_vec(), chain));
        Carried { certificate, way: Way::Signature }
    });
    let one = agree(carried, claimed).map_err(|e| Error::invalid("identity", e.to_string()))?;
    let one =
        one.ok_or_else(|| Error::invalid("identity", "the request carries no client certificate and no signature"))?;
    device_identity::present(app, &one.certificate)
}

/// Whether the body is what was signed.
pub(super) fn compare(app: &App, metrics: &Metrics, signature: &Detached<'_>, body: &[u8]) -> Result<(), Error> {
    let policy = SignaturePolicy {
        allow_sha1: app.settings.devices.allow_sha1_signatures,
        skew: app.settings.devices.signing_time_skew,
    };
    if signature.verify(body, policy, app.clock.now()).map_err(|e| refused(&e))? {
        metrics.sha1_signature_accepted();
    }
    Ok(())
}

fn refused(why: &SignatureError) -> Error {
    Error::invalid("signature", format!("the Mdm-Signature header: {why}"))
}
