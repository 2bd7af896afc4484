//! Apple's wire messages to and from typed values. Pure: no I/O, no clock, no async.
//!
//! Everything here is reachable by whoever finds the server, so every reader is bounded in size, depth and number of
//! values ([`wire::Limits`]), and none of them panics.

pub mod checkin;
pub mod command;
pub mod enrollment_profile;
mod field;
pub mod ipa;
pub mod json;
pub mod manifest;
pub mod profile;
pub mod report;
mod sender;
pub mod unreadable;
pub mod unrecognized;
pub mod wire;

pub use field::name;
pub use sender::Sender;
pub use wire::WireError;

/// Why a message cannot be read. The sender made a mistake: answer 400.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// It is not a property list within the bounds.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// A member misses, or is empty.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// A member has the wrong kind.
    #[error("{key} is not {expected}")]
    WrongKind {
        /// The member.
        key: &'static str,
        /// What it should be.
        expected: &'static str,
    },
    /// An id that is too long, holds a control character, or (a device's) a colon.
    #[error("{0} is not an id that can be kept")]
    BadId(&'static str),
    /// An id that is longer than any of Apple's.
    #[error("{key} is longer than {limit} bytes")]
    TooLong {
        /// The member.
        key: &'static str,
        /// The most that is kept, bytes.
        limit: usize,
    },
    /// A check-in message of a type that we do not know.
    #[error("unknown message type {0:?}")]
    UnknownMessage(String),
    /// A report with a status that we do not know.
    #[error("unknown status {0:?}")]
    UnknownStatus(String),
}
