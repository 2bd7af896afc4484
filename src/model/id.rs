use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Randomness, Timestamp};

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {$(
        $(#[$doc])*
        ///
        /// A UUIDv7 (RFC 9562, section 5.7): it sorts by the time it was made.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl $name {
            /// A new id.
            pub fn new(now: Timestamp, random: &dyn Randomness) -> Self {
                let mut bytes = [0; 10];
                random.fill(&mut bytes);
                let millis = u64::try_from(now.micros() / 1000).unwrap_or(0);
                Self(uuid::Builder::from_unix_timestamp_millis(millis, &bytes).into_uuid())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.hyphenated().fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.0.hyphenated())
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self)
            }
        }
    )*};
}

ids! {
    /// A physical device, of any platform.
    DeviceId,
    /// One management channel of a device.
    EnrollmentId,
    /// What an admin asked for; also the CommandUUID on the wire (upper case there, as Apple's tools write it).
    CommandId,
    /// What a device answered.
    ReportId,
    /// An enrollment link.
    LinkId,
    /// A SCEP challenge.
    ChallengeId,
    /// A certificate authority that Muster keeps.
    CaId,
    /// An API token.
    TokenId,
    /// A configuration profile kept for installing.
    ProfileId,
    /// An app kept for installing.
    AppId,
    /// The stored bytes of an app's package.
    PackageId,
    /// A request for a push certificate.
    PushRequestId,
    /// A row of the audit log.
    AuditId,
    /// Work of the server itself.
    JobId,
    /// A server process, from its start to its end.
    ProcessId,
    /// A webhook: an address that is told of what devices send.
    WebhookId,
    /// Something that webhooks are told of; the same however often it is sent.
    EventId,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::SeededRandomness;

    #[test]
    fn ids_sort_by_time_and_read_back() {
        let random = SeededRandomness::new(1);
        let early = DeviceId::new(Timestamp::from_seconds(1_000), &random);
        let late = DeviceId::new(Timestamp::from_seconds(1_001), &random);
        assert!(early < late);
        assert_eq!(early.0.get_version_num(), 7);
        assert_eq!(early.to_string().parse::<DeviceId>().unwrap(), early);
    }
}
