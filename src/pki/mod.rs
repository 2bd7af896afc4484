//! Certificates, CMS, SCEP: messages and state machines. Pure; the only room that knows openssl.

mod algorithm;
mod asn1;
pub mod authority;
pub mod certificate;
pub mod chain;
pub mod challenge;
mod cms;
mod error;
pub mod identity;
pub mod key;
pub mod legacy;
pub mod p12;
mod peer;
mod pem;
pub mod profile;
pub mod push;
pub mod request;
pub mod scep;
pub mod signature;
mod spki;
pub mod vault;

#[cfg(test)]
mod fixtures;

pub use authority::Authority;
pub use certificate::Certificate;
pub use error::Error;
pub use identity::Identity;
pub use key::PrivateKey;
pub use peer::PeerCertificate;
pub use request::CertificateRequest;
pub use spki::KeyKind;
