//! The verbs behind the interface for tools that speak NanoMDM's: the same domain, told in that interface's words.
//!
//! What differs from our own: a tool names a command itself and sends it ready made, waits for the push, and hears about
//! each enrollment by Apple's id. What does not: commands, deliveries, audit, and the guard on destruction.

mod declarative;
mod enqueue;
pub mod import;
mod migrate;
mod outcome;
mod push;
mod unlock;

pub use super::push_certificates::put_as_it_is as put_certificate;
pub use enqueue::enqueue;
pub use migrate::migrate;
pub use outcome::{OfId, Outcome, Verdict};
pub use push::push;
pub use unlock::{Asked, Unlocked, escrow_key_unlock};

pub(super) use declarative::{ask, shown};
pub(super) use enqueue::wire_context;

use super::Error;

/// Most enrollments that one request names.
pub const MAX_IDS: usize = 1000;

/// What a tool reads of an error: faults of ours are for the log alone.
fn told(error: &Error) -> String {
    match error {
        Error::Internal(why) | Error::Unavailable(why) => {
            tracing::error!(why, "a request of the compatible interface failed");
            "the server could not do it; its log says why".to_owned()
        }
        other => other.to_string(),
    }
}
