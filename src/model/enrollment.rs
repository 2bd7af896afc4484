use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The UserID that a Shared iPad sends for whoever is signed in; the short name tells who.
/// Source: Apple, "Shared iPad" (MDM check-in messages).
pub const SHARED_IPAD_USER: &str = "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF";

/// The platform of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Platform {
    /// iPhone, iPad, Mac, Apple TV, Apple Watch, Vision: they speak Apple's MDM protocol.
    Apple,
}

impl Platform {
    /// The word used in the API and in the database.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Apple => "apple",
        }
    }
}

/// What kind of management channel an enrollment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EnrollmentKind {
    /// The device channel, known by UDID.
    Device,
    /// A user's channel on a Mac.
    User,
    /// The device channel of a User Enrollment, known by EnrollmentID only.
    UserEnrollmentDevice,
    /// The user channel of a User Enrollment.
    UserEnrollment,
    /// A user's channel on a Shared iPad.
    SharedIpad,
}

impl EnrollmentKind {
    const ALL: [Self; 5] =
        [Self::Device, Self::User, Self::UserEnrollmentDevice, Self::UserEnrollment, Self::SharedIpad];

    /// The word used in the API and in the database.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Device => "device",
            Self::User => "user",
            Self::UserEnrollmentDevice => "user_enrollment_device",
            Self::UserEnrollment => "user_enrollment",
            Self::SharedIpad => "shared_ipad",
        }
    }

    /// Whether this is the device's own channel (and not a user's on it).
    #[must_use]
    pub const fn is_device_channel(self) -> bool {
        matches!(self, Self::Device | Self::UserEnrollmentDevice)
    }
}

impl fmt::Display for EnrollmentKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for EnrollmentKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.as_str() == text)
            .ok_or_else(|| format!("{text:?} is no enrollment kind"))
    }
}

/// How a message names its enrollment on the wire: Apple's ids, resolved. Kept beside our own ids, never as a key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AppleId {
    /// The enrollment's id: `UDID`, `UDID:UserID`, `UDID:ShortName`, `EnrollmentID` or
    /// `EnrollmentID:EnrollmentUserID`.
    pub id: String,
    /// The id of the device channel that a user channel belongs to; none for a device channel.
    pub parent: Option<String>,
    /// The kind of channel.
    pub kind: EnrollmentKind,
}

impl AppleId {
    /// The id of the device channel: the parent's for a user channel, else its own.
    #[must_use]
    pub fn device_channel(&self) -> &str {
        self.parent.as_deref().unwrap_or(&self.id)
    }
}
