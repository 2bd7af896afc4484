//! Listeners and routes: extract, authenticate, bound, call one verb, map the error.

pub mod address;
pub mod body;
pub mod identity;
pub mod limit;
pub mod listener;
pub mod metrics;
pub mod tls;

mod shutdown;

pub use address::Proxies;
pub use listener::{Connection, Limits, Listener, PeerCertificate, serve};
pub use metrics::Metrics;
pub use shutdown::Shutdown;

#[cfg(test)]
mod fixtures;
