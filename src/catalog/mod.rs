//! Apple's commands: building and checking them. Pure.
//!
//! A [`Verb`] is what an admin asks for, named alike for all platforms; [`build`] makes Apple's request of it. What is
//! dangerous is judged on the request that comes out ([`destruction`], [`resend`]), never on the verb, so that the
//! `apple` verb cannot get around the guard.
//!
//! One table per verb (`parameters`) says what its fields are. The checks, the nearest known name in a fault, and the
//! API's schema all read that table.

mod apple;
mod build;
mod example;
mod field;
mod guard;
mod nearest;
mod parameters;
mod schema;
#[cfg(test)]
mod tests;
mod verb;

pub use build::{Built, Fill, build, without_query};
pub use guard::{Destruction, HELD_AFTER_RESTORE, destruction, removes_a_profile, resend};
pub use verb::{App, AppAttributes, InstallApp, Obliteration, Profile, ReturnToService, Verb, Wipe};

/// What is wrong with a command, and where.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, thiserror::Error)]
#[error("{pointer}: {detail}")]
pub struct Fault {
    /// JSON Pointer (RFC 6901) into the request's body, such as `/command/pin`.
    pub pointer: String,
    /// What is wrong, and what was expected.
    pub detail: String,
}

impl Fault {
    fn new(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { pointer: pointer.into(), detail: detail.into() }
    }
}
