//! All SQL, one text for SQLite and PostgreSQL.
//!
//! [`Store::begin_read`] gives a connection for reading, [`Store::begin_write`] a transaction; every function here is
//! a method of [`Read`] or [`Write`]. A text has `$1` placeholders, and the `on!` macro runs it on whichever database
//! is there. Where the two differ (`FOR UPDATE`, sequences, lists), the difference stands in this room and nowhere
//! else.
//!
//! What must hold: a change is one [`Write`]; it is done when [`Write::commit`] returned, and not at all when it was
//! dropped. Whoever changes an enrollment or its deliveries locks the row of the device channel first, then the row
//! of a user channel, so that two messages of one device never interleave and no two transactions wait for each other
//! in a ring.

#[macro_use]
mod on;

#[macro_use]
mod hot;

mod bind;
mod connect;
mod error;

mod apps;
mod audit;
mod authorities;
mod backup;
mod certificates;
mod commands;
mod compat;
mod deliveries;
mod device_list;
mod devices;
mod enrollments;
mod fleet;
mod held;
mod idempotency;
mod inspect;
mod jobs;
mod links;
mod outbox;
#[cfg(test)]
mod plans;
mod polls;
mod processes;
mod profiles;
mod push_certificates;
mod readers;
mod renewals;
mod reports;
mod retention;
mod sealed;
mod slice;
mod terms;
mod tokens;
mod wakes;
mod webhooks;

pub use apps::{AppFilter, AppRow, PackageRow};
pub use audit::{AuditFilter, AuditRow};
pub use authorities::{AuthorityRow, ServerCertificateRow};
pub use certificates::{CertificateFilter, CertificateRow, IdentityRow, IssuedRow, ListedCertificate, PinRow};
pub use commands::{CommandFilter, CommandHead, CommandKind, CommandRow, ListedCommand, NewCommand};
pub use compat::{Standing, TakenOver};
pub use connect::{Options, Read, Store, Write};
pub use deliveries::{Delivery, DeliveryRow, TransitionRow};
pub use device_list::DevicePlace;
pub use devices::{Device, DeviceFacts, DeviceFilter, DeviceOrder, ListedDevice};
pub use enrollments::{Enrollment, PushFacts};
pub use error::StoreError;
pub use hot::{Exclusive, Key};
pub use idempotency::Remembered;
pub use inspect::{IdentityCounts, JobCounts, SealedCount};
pub use jobs::JobRow;
pub use links::{Challenge, Link, NewChallenge};
pub use outbox::{DeadEvent, DueLine, NewEvent, Settled, WaitingEvent, WaitingEvents};
pub use polls::Poll;
pub use processes::{ALIVE, Lease};
pub use profiles::{ProfileFacts, ProfileFilter, ProfileRow};
pub use push_certificates::{PushCertificateRow, PushRequestRow};
pub use renewals::{RenewalCounts, RenewalRow};
pub use reports::{InventoryRow, NewReport, ReportRow};
pub use retention::{ForAll, OldReport, SEARCHES};
pub use sealed::{SealedColumn, SealedKey, SealedRecord};
pub use slice::Slice;
pub use terms::{EnabledUnder, TermsRow};
pub use tokens::TokenRow;
pub use wakes::{DueWake, PushResult, WakeRow};
pub use webhooks::WebhookRow;
