//! Simulated iPhones, which manage themselves by any server that follows the protocol.

mod answers;
mod app;
mod behavior;
mod channel;
mod connection;
mod enrollment;
mod error;
mod facts;
mod fault;
pub mod fleet;
mod handset;
mod keys;
mod line;
mod package;
mod page;
mod phone;
mod profile;
mod scep;
mod wakes;

pub use super::web::Trust;
pub use app::App;
pub use behavior::{Behavior, Manner, Quirks};
pub use channel::{MessageKind, User};
pub use connection::{Connection, Done};
pub use enrollment::{EnrollmentProfile, MdmPayload, ScepPayload};
pub use error::PhoneError;
pub use facts::Facts;
pub use fault::Fault;
pub use handset::{Handset, Outcome, Then};
pub use keys::KeySource;
pub use line::{Answer, Authentication, HeaderForm};
pub use phone::{Environment, Phone, PhoneOptions};
pub use profile::{Payload, ProfileFile};
pub use wakes::WakeService;

#[cfg(test)]
mod tests;
