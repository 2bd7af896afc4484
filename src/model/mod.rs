//! Plain data that every room speaks: ids, times, secrets, enrollments, commands, roles. No I/O.
//!
//! Time and randomness are traits here ([`Clock`], [`Randomness`]); their real implementations are made once, in the
//! composition root (`cli`), so that every other room can be run with a clock and a seed of its own.

mod clock;
mod command;
mod digest;
mod enrollment;
mod id;
mod random;
mod role;
mod secret;
mod timestamp;
mod webhook;

pub use clock::{Clock, ManualClock};
pub use command::{DeliveryState, ReportStatus, Resend, Transition};
pub use digest::{Sha256, Sha256Pieces};
pub use enrollment::{AppleId, EnrollmentKind, Platform, SHARED_IPAD_USER};
pub use id::{
    AppId, AuditId, CaId, ChallengeId, CommandId, DeviceId, EnrollmentId, EventId, JobId, LinkId, PackageId, ProcessId,
    ProfileId, PushRequestId, ReportId, TokenId, WebhookId,
};
pub use random::{Randomness, SeededRandomness};
pub use role::Role;
pub use secret::Secret;
pub use timestamp::Timestamp;
pub use webhook::WebhookForm;
