//! The domain: [`App`] and one function per verb. Each verb owns its transaction and says what must hold; none knows
//! HTTP.

mod actor;
mod app;
mod audit;
mod error;
mod seen;
mod trust;

pub mod apps;
pub mod authorities;
pub mod certificates;
pub mod check_in;
pub mod commands;
pub mod compat;
pub mod deliveries;
pub mod device_identity;
pub mod devices;
pub mod enrollment;
pub mod enrollment_profile;
pub mod held;
pub mod history;
pub mod idempotency;
pub mod outlook;
pub mod profiles;
pub mod push_certificates;
pub mod renewal;
pub mod reports;
pub mod retention;
pub mod rotation;
pub mod scep;
pub mod server;
pub mod signing;
pub mod terms;
pub mod tokens;
pub mod wakes;
pub mod webhooks;

pub use actor::{Actor, ActorKind};
pub use app::{App, Parts, Signals};
pub use error::{Error, Fault};
pub use trust::{Trust, TrustedAuthority};
