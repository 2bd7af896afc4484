//! SCEP (RFC 8894): messages of server and client. Who may have a certificate is not decided here.
//!
//! Requests and answers are signed data around enveloped data. The envelope's key opens PKCS#1 v1.5 for anyone who
//! asks, so every failure behind it gives one and the same answer.

pub mod client;
mod envelope;
mod message;
mod query;
pub mod server;

pub use envelope::Cipher;
pub use message::{FailInfo, MAX_MESSAGE_BYTES, MessageType};
pub use query::{Operation, Query};

/// What `GetCACaps` answers: one capability a line (RFC 8894, section 3.5.2).
#[must_use]
pub const fn capabilities(allow_legacy: bool) -> &'static str {
    if allow_legacy {
        "Renewal\nSHA-1\nSHA-256\nAES\nDES3\nSCEPStandard\nPOSTPKIOperation"
    } else {
        "Renewal\nSHA-256\nAES\nDES3\nSCEPStandard\nPOSTPKIOperation"
    }
}

/// The content type of `GetCACert` with one certificate. Exactly this: another one makes Apple's client look for
/// separate registration authorities and stop.
pub const CA_CERT_TYPE: &str = "application/x-x509-ca-cert";

/// The content type of an answer to `PKIOperation`.
pub const MESSAGE_TYPE: &str = "application/x-pki-message";

#[cfg(test)]
mod tests;
