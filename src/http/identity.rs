//! Which client certificate a request carries: by TLS, or in the header of a proxy that is trusted.
//!
//! Nothing here says that the certificate is good. It says that whoever sent the request has the key (TLS), or that a
//! trusted proxy says so. Identity is decided anew at each request, since one connection may carry many devices.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http::{HeaderMap, HeaderName};

use super::listener::Connection;
use super::{Metrics, Proxies};
use crate::config::{IdentityForm, Proxy};
use crate::pki::PeerCertificate;

/// A certificate of a device has about 1 KiB.
const MAX_CERTIFICATE_BYTES: usize = 16 * 1024;
/// What a proxy may hand on of the chain.
const MAX_CHAIN: usize = 6;
/// Structured fields ask for padding but tell readers to do without (RFC 8941, section 4.2.7).
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// How a request came by its certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// The peer has proven in the TLS handshake that it has the key.
    Tls,
    /// A trusted proxy says that its peer has.
    ProxyHeader,
    /// The body is signed with the key (`Mdm-Signature`).
    Signature,
}

impl Way {
    const fn shown(self) -> &'static str {
        match self {
            Self::Tls => "the TLS connection",
            Self::ProxyHeader => "the proxy's header",
            Self::Signature => "the signature",
        }
    }
}

/// A certificate that a request carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Presented {
    /// The certificate, not judged yet.
    pub certificate: Arc<PeerCertificate>,
    /// How it came.
    pub way: Way,
}

/// Why it cannot be said which certificate a request carries. All of them are answered with 400.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// The proxy's header is there more than once: one of them may be the client's own.
    #[error("the client certificate header is repeated")]
    Repeated,
    /// The proxy's header cannot be read.
    #[error("the client certificate header is malformed: {0}")]
    Malformed(&'static str),
    /// Two ways lead to different certificates.
    #[error("{} and {} name different certificates", .0.shown(), .1.shown())]
    Different(Way, Way),
}

/// Reads the certificate of requests, by the settings for proxies.
#[derive(Debug)]
pub struct IdentityReader {
    proxies: Proxies,
    header: HeaderName,
    form: IdentityForm,
    metrics: Metrics,
    told: AtomicBool,
}

impl IdentityReader {
    /// A reader for these settings.
    #[must_use]
    pub fn new(settings: &Proxy, metrics: Metrics) -> Self {
        Self {
            proxies: Proxies::from(settings),
            header: settings.identity_header.clone(),
            form: settings.identity_form,
            metrics,
            told: AtomicBool::new(false),
        }
    }

    /// The certificate of a request, if it carries one by TLS or by the header. Without a connection (the request came
    /// through no listener) the header is not believed.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub fn read(
        &self,
        connection: Option<&Connection>,
        headers: &HeaderMap,
    ) -> Result<Option<Presented>, IdentityError> {
        let shown = connection.and_then(|connection| connection.certificate.clone());
        let shown = shown.map(|certificate| Presented { certificate, way: Way::Tls });
        agree(shown, self.in_header(connection.map(|connection| connection.peer.ip()), headers)?)
    }

    fn in_header(&self, peer: Option<IpAddr>, headers: &HeaderMap) -> Result<Option<Presented>, IdentityError> {
        let mut values = headers.get_all(&self.header).iter();
        let Some(value) = values.next() else {
            return Ok(None);
        };
        if !peer.is_some_and(|peer| self.proxies.trust(peer)) {
            self.metrics.proxy_header_ignored();
            if !self.told.swap(true, Ordering::Relaxed) {
                tracing::warn!(header = %self.header, peer = ?peer,
                    "a client certificate header from an address that proxy.trusted does not list is ignored; \
                     further ones are only counted (muster_proxy_headers_ignored_total)");
            }
            return Ok(None);
        }
        if values.next().is_some() {
            return Err(IdentityError::Repeated);
        }
        let value = value.to_str().map_err(|_| IdentityError::Malformed("it is no ASCII text"))?;
        let certificates = match self.form {
            IdentityForm::Rfc9440 => structured(value.trim())?,
            IdentityForm::Pem => escaped_pem(value.trim())?,
        };
        let mut certificates = certificates.into_iter();
        let Some(leaf) = certificates.next() else {
            return Ok(None);
        };
        let certificate = Arc::new(PeerCertificate::new(leaf, certificates.collect()));
        Ok(Some(Presented { certificate, way: Way::ProxyHeader }))
    }
}

/// Either of two ways, if they do not contradict each other.
///
/// # Errors
/// [`IdentityError::Different`] if both are there and name different certificates.
pub fn agree(first: Option<Presented>, second: Option<Presented>) -> Result<Option<Presented>, IdentityError> {
    match (first, second) {
        (Some(first), Some(second)) if first.certificate.sha256() != second.certificate.sha256() => {
            Err(IdentityError::Different(first.way, second.way))
        }
        (first, second) => Ok(first.or(second)),
    }
}

/// `:base64:` (RFC 9440, section 2.1). No certificate if there is nothing between the colons, which some proxies write
/// for a client without one.
fn structured(value: &str) -> Result<Vec<Vec<u8>>, IdentityError> {
    if value.is_empty() {
        return Ok(Vec::new());
    }
    let inner = value.strip_prefix(':').and_then(|rest| rest.split_once(':'));
    let (inner, rest) = inner.ok_or(IdentityError::Malformed("expected base64 between colons"))?;
    match rest.trim_start().chars().next() {
        // Parameters of a structured item mean nothing here.
        None | Some(';') => {}
        Some(',') => return Err(IdentityError::Repeated),
        Some(_) => return Err(IdentityError::Malformed("something follows the certificate")),
    }
    if inner.is_empty() { Ok(Vec::new()) } else { certificate(inner).map(|der| vec![der]) }
}

/// PEM with `%XX` for what cannot stand in a header, as nginx (`$ssl_client_escaped_cert`) and others write it; or with
/// spaces for the line ends, as Apache does. Several certificates are a chain, the client's own first.
fn escaped_pem(value: &str) -> Result<Vec<Vec<u8>>, IdentityError> {
    const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
    const END: &str = "-----END CERTIFICATE-----";
    if value.is_empty() || value == "(null)" {
        return Ok(Vec::new());
    }
    let text = unescape(value)?;
    let mut certificates = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        let (body, after) = rest
            .strip_prefix(BEGIN)
            .and_then(|rest| rest.split_once(END))
            .ok_or(IdentityError::Malformed("expected an escaped PEM certificate"))?;
        if certificates.len() > MAX_CHAIN {
            return Err(IdentityError::Malformed("the chain is too long"));
        }
        let body: String = body.split_ascii_whitespace().collect();
        certificates.push(certificate(&body)?);
        rest = after.trim_start();
    }
    Ok(certificates)
}

/// Replaces `%XX`. A plus sign stays one: it belongs to base64.
fn unescape(value: &str) -> Result<String, IdentityError> {
    let malformed = IdentityError::Malformed("a percent sign is followed by no hexadecimal digits");
    let mut bytes = Vec::with_capacity(value.len());
    let mut parts = value.split('%');
    bytes.extend_from_slice(parts.next().unwrap_or_default().as_bytes());
    for part in parts {
        let (digits, rest) = part.split_at_checked(2).ok_or(malformed)?;
        bytes.extend(hex::decode(digits).map_err(|_| malformed)?);
        bytes.extend_from_slice(rest.as_bytes());
    }
    String::from_utf8(bytes).map_err(|_| IdentityError::Malformed("it is no text"))
}

/// The DER in base64. That it is a certificate is left to those who read it; that it is one DER value is not, so that no
/// two texts name the same certificate with different digests.
fn certificate(base64: &str) -> Result<Vec<u8>, IdentityError> {
    let der = BASE64.decode(base64).map_err(|_| IdentityError::Malformed("it is no base64"))?;
    if der.len() > MAX_CERTIFICATE_BYTES {
        return Err(IdentityError::Malformed("the certificate is too large"));
    }
    if !is_one_sequence(&der) {
        return Err(IdentityError::Malformed("it is no certificate"));
    }
    Ok(der)
}

/// Whether the bytes are a DER SEQUENCE of two bytes of length, from its first to its last byte. Shorter or longer ones
/// are no certificates.
fn is_one_sequence(der: &[u8]) -> bool {
    match der {
        [0x30, 0x82, high, low, content @ ..] => content.len() == usize::from(u16::from_be_bytes([*high, *low])),
        _ => false,
    }
}

#[cfg(test)]
mod tests;
