//! How a device's requests travel: straight, or as if through a proxy; with which proof of its identity; and what an
//! answer must look like.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderMap};
use reqwest::{Method, RequestBuilder};
use url::Url;

use super::error::PhoneError;
use super::page;
use crate::pki::{Certificate, Identity};
use crate::protocol::unrecognized;

/// The largest answer that is read, in bytes.
const MAX_ANSWER: usize = 16 * 1024 * 1024;

/// How much of an unexpected answer is shown, in characters.
const SHOWN: usize = 500;

/// How a device proves who it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Authentication {
    /// As an iPhone: the certificate in TLS, and `Mdm-Signature` where the profile's `SignMessage` says so.
    AsProfileSays,
    /// The certificate in TLS alone.
    TlsOnly,
    /// `Mdm-Signature` alone, as a server behind a proxy that ends TLS sees it.
    SignatureOnly,
    /// The header of a proxy that ends TLS and asks for the certificate.
    ProxyHeader {
        /// The header's name.
        name: String,
        /// How the certificate stands in it.
        form: HeaderForm,
    },
}

/// How a proxy writes a certificate into a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderForm {
    /// `:base64 of DER:`. Source: RFC 9440.
    Rfc9440,
    /// URL-escaped PEM, as nginx and others do.
    Pem,
}

impl Authentication {
    pub(super) fn shows_certificate(&self) -> bool {
        matches!(self, Self::AsProfileSays | Self::TlsOnly)
    }

    pub(super) fn signs(&self, sign_message: bool) -> bool {
        match self {
            Self::AsProfileSays => sign_message,
            Self::SignatureOnly => true,
            Self::TlsOnly | Self::ProxyHeader { .. } => false,
        }
    }

    /// The proxy's header for this identity.
    pub(super) fn proxy_header(&self, identity: &Identity) -> Option<(String, String)> {
        let Self::ProxyHeader { name, form } = self else { return None };
        Some((name.clone(), form.write(&identity.certificate)))
    }
}

impl HeaderForm {
    /// The header's value for a certificate.
    #[must_use]
    pub fn write(self, certificate: &Certificate) -> String {
        match self {
            Self::Rfc9440 => format!(":{}:", STANDARD.encode(certificate.der())),
            Self::Pem => percent_encode(certificate.to_pem().as_bytes()),
        }
    }
}

/// An answer, read to its end.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Vec<u8>,
}

impl Answer {
    /// The media type without its parameters, in lower case; empty if there is none.
    #[must_use]
    pub fn media_type(&self) -> String {
        let value = self.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
    }

    /// The body as text, cut to what can be shown; of a page what a person would read.
    #[must_use]
    pub fn text(&self) -> String {
        if self.media_type() == "text/html" {
            return page::reason(&String::from_utf8_lossy(&self.body));
        }
        String::from_utf8_lossy(&self.body).chars().take(SHOWN).collect()
    }

    /// This answer, if its status is 200.
    ///
    /// # Errors
    /// [`PhoneError::Status`].
    pub fn expect_ok(self, step: &'static str) -> Result<Self, PhoneError> {
        if self.status == 200 {
            return Ok(self);
        }
        Err(PhoneError::Status { step, status: self.status, body: self.text() })
    }

    /// The same for what a device gets from `/mdm`: an empty body must say so, since clients wait for the end of a
    /// chunked one.
    ///
    /// # Errors
    /// [`PhoneError::Unrecognized`], [`PhoneError::Status`] and [`PhoneError::Protocol`].
    pub fn expect_device_answer(self, step: &'static str) -> Result<Self, PhoneError> {
        // Under another media type a device does not read the body, and stays.
        let is_read = self.status == 403 && self.media_type() == unrecognized::CONTENT_TYPE;
        if is_read && unrecognized::is_unrecognized_device(&self.body) {
            return Err(PhoneError::Unrecognized { step });
        }
        let answer = self.expect_ok(step)?;
        let says_empty = answer.headers.get(CONTENT_LENGTH).is_some_and(|length| length == "0");
        if answer.body.is_empty() && !says_empty {
            return Err(PhoneError::protocol(step, "the answer is empty, without Content-Length: 0"));
        }
        Ok(answer)
    }
}

/// One connection to a server.
#[derive(Clone, Debug)]
pub(super) struct Line {
    client: reqwest::Client,
    /// Where every request goes, whatever host its URL names: the server behind a proxy.
    backend: Option<Url>,
}

impl Line {
    pub(super) fn new(client: reqwest::Client, backend: Option<Url>) -> Self {
        Self { client, backend }
    }

    pub(super) const fn client(&self) -> &reqwest::Client {
        &self.client
    }

    /// Begins a request.
    pub(super) fn request(&self, method: Method, url: &Url) -> Result<RequestBuilder, PhoneError> {
        let Some(backend) = &self.backend else { return Ok(self.client.request(method, url.clone())) };
        let mut target = backend.clone();
        target.set_path(url.path());
        target.set_query(url.query());
        Ok(self.client.request(method, target).header(HOST, url.authority()))
    }

    /// Sends it and reads the answer.
    pub(super) async fn send(&self, step: &'static str, request: RequestBuilder) -> Result<Answer, PhoneError> {
        let request = request.build().map_err(|error| PhoneError::Internal(error.to_string()))?;
        let url = request.url().to_string();
        let failed = |error: reqwest::Error| PhoneError::Unreachable { step, url: url.clone(), reason: chain(&error) };
        let mut response = self.client.execute(request).await.map_err(failed)?;
        let mut body = Vec::new();
        while let Some(piece) = response.chunk().await.map_err(failed)? {
            if body.len() + piece.len() > MAX_ANSWER {
                return Err(PhoneError::protocol(step, format!("the answer is longer than {MAX_ANSWER} bytes")));
            }
            body.extend_from_slice(&piece);
        }
        Ok(Answer { status: response.status().as_u16(), headers: response.headers().clone(), body })
    }
}

/// Escapes all but what never needs it. Source: RFC 3986, section 2.3.
pub(super) fn percent_encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(byte) {
            text.push(char::from(*byte));
        } else {
            let _ = write!(text, "%{byte:02X}");
        }
    }
    text
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let _ = write!(text, ": {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, headers: &[(&'static str, &'static str)], body: &[u8]) -> Answer {
        let headers = headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
        Answer { status, headers, body: body.to_vec() }
    }

    #[test]
    fn answers_are_judged() {
        let error = answer(404, &[], b"no such thing").expect_ok("poll").unwrap_err();
        assert_eq!((error.status(), error.to_string().contains("no such thing")), (Some(404), true));
        let page = answer(410, &[("content-type", "text/html; charset=utf-8")], b"<body><h1>Expired</h1>");
        assert_eq!(page.expect_ok("open").unwrap_err().to_string(), "open: unexpected status 410: Expired");
        answer(200, &[("content-length", "0")], b"").expect_device_answer("poll").unwrap();
        answer(200, &[], b"").expect_device_answer("poll").unwrap_err();
        answer(204, &[("content-length", "0")], b"").expect_device_answer("poll").unwrap_err();
        let leave = unrecognized::unrecognized_device("gone");
        let json = answer(403, &[("content-type", "application/json")], &leave);
        assert!(matches!(json.expect_device_answer("poll"), Err(PhoneError::Unrecognized { .. })));
        let plain = answer(403, &[("content-type", "text/plain")], &leave);
        assert!(matches!(plain.expect_device_answer("poll"), Err(PhoneError::Status { status: 403, .. })));
        assert_eq!(answer(200, &[("content-type", "Text/HTML; charset=utf-8")], b"").media_type(), "text/html");
    }

    #[test]
    fn escaping_leaves_only_what_is_harmless() {
        assert_eq!(percent_encode(b"a+b/c =\n"), "a%2Bb%2Fc%20%3D%0A");
    }
}
