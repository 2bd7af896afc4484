//! Listeners and routes: extract, authenticate, bound, call one verb, map the error.

pub mod address;
pub mod api;
pub mod body;
pub mod compat;
pub mod health;
pub mod identity;
pub mod limit;
pub mod listener;
pub mod mdm;
pub mod metrics;
pub mod observe;
pub mod packages;
pub mod page;
pub mod pages;
pub mod pki;
pub mod problem;
pub mod request_id;
pub mod tls;

mod shutdown;

pub use address::Proxies;
pub use listener::{Connection, Limits, Listener, serve};
pub use metrics::Metrics;
pub use observe::{ClientAddress, Observer};
pub use problem::Problem;
pub use shutdown::Shutdown;

#[cfg(test)]
mod fixtures;
#[cfg(test)]
mod tests;
