//! Accepting, cancelling and delivering again what admins ask for.

mod accept;
mod inline;
mod internal;
mod manage;

pub use accept::{Accepted, NewCommand, PushNote, Skipped, Targets, accept, accepted_before};
pub use internal::{Internal, RENEW};
pub use manage::{Cancelled, cancel, expire_deliveries, materialize_batch, redeliver};

pub(super) use accept::destruction_word;
pub(super) use internal::enqueue_internal;

/// Priorities: the smaller, the sooner.
pub const PRIORITY_NORMAL: i64 = 100;
/// What the server asks for by itself comes after what an admin asked for.
pub const PRIORITY_INTERNAL: i64 = 200;
