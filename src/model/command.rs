use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The state of a delivery: one command for one enrollment.
///
/// The graph (`ARCHITECTURE.md` draws it) is [`DeliveryState::after`]; a terminal state is never left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeliveryState {
    /// Accepted, not yet handed to the device.
    Queued,
    /// Handed to the device, no report yet.
    Sent,
    /// The device said NotNow; offered again at its next connection.
    NotNow,
    /// Handed over and no report: running it twice would hurt, so that an admin may deliver it again, or the device has
    /// left since, so that nobody knows.
    Unconfirmed,
    /// The device did it. Terminal.
    Acknowledged,
    /// The device refused it or failed. Terminal.
    Error,
    /// Withdrawn before the device had it, or made void by a new enrollment. Terminal.
    Cancelled,
    /// Its time ran out before the device had it. Terminal.
    Expired,
    /// No report came, but what the device did afterwards shows that it was done (a wipe, a renewal). Terminal.
    PresumedDone,
}

/// What can happen to a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transition {
    /// The server hands it to the device: for the first time, or again after a NotNow or a lost report.
    Offer,
    /// The device reported Acknowledged.
    Acknowledge,
    /// The device reported Error or CommandFormatError.
    Fail,
    /// The device reported NotNow.
    Defer,
    /// An Idle came without a report, and the command must not be run twice by itself; or the enrollment ended.
    Unconfirm,
    /// An admin asks for another delivery of an unconfirmed command.
    Redeliver,
    /// An admin withdraws it.
    Cancel,
    /// A new enrollment makes it void, whether or not it had been handed over; the end of one, where it had not.
    Void,
    /// Its expiry passed.
    Expire,
    /// The device's later messages show that it was done.
    Presume,
}

/// What may be done when a command was handed over and no report came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Resend {
    /// Offer it again at the next Idle.
    Freely,
    /// Offer it again, but only within the same enrollment generation (EraseDevice).
    SameGeneration,
    /// Never by itself (DeviceLock with a PIN, RestartDevice, ShutDownDevice).
    ByAdminOnly,
}

impl Resend {
    /// The word used in the database.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Freely => "freely",
            Self::SameGeneration => "same_generation",
            Self::ByAdminOnly => "by_admin_only",
        }
    }
}

impl FromStr for Resend {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::Freely, Self::SameGeneration, Self::ByAdminOnly]
            .into_iter()
            .find(|resend| resend.as_str() == text)
            .ok_or_else(|| format!("{text:?} is no resend rule"))
    }
}

impl DeliveryState {
    /// All states, in the order of the documentation.
    pub const ALL: [Self; 9] = [
        Self::Queued,
        Self::Sent,
        Self::NotNow,
        Self::Unconfirmed,
        Self::Acknowledged,
        Self::Error,
        Self::Cancelled,
        Self::Expired,
        Self::PresumedDone,
    ];

    /// The word used in the API and in the database.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Sent => "sent",
            Self::NotNow => "not_now",
            Self::Unconfirmed => "unconfirmed",
            Self::Acknowledged => "acknowledged",
            Self::Error => "error",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
            Self::PresumedDone => "presumed_done",
        }
    }

    /// Whether nothing can happen to it any more.
    #[must_use]
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Acknowledged | Self::Error | Self::Cancelled | Self::Expired | Self::PresumedDone)
    }

    /// The state after `transition`, or none where the graph has no such arrow.
    ///
    /// Reports are taken in every open state, `Queued` included: a report proves that the device had the command
    /// (a restored database may not know that it was sent). Only what the device never had can be cancelled or
    /// expire.
    #[must_use]
    pub const fn after(self, transition: Transition) -> Option<Self> {
        use Transition as T;
        match (self, transition) {
            (Self::Queued | Self::Sent | Self::NotNow, T::Offer) => Some(Self::Sent),
            (Self::Queued | Self::Sent | Self::NotNow | Self::Unconfirmed, T::Acknowledge) => Some(Self::Acknowledged),
            (Self::Queued | Self::Sent | Self::NotNow | Self::Unconfirmed, T::Fail) => Some(Self::Error),
            (Self::Queued | Self::Sent | Self::NotNow | Self::Unconfirmed, T::Defer) => Some(Self::NotNow),
            (Self::Sent, T::Unconfirm) => Some(Self::Unconfirmed),
            (Self::Unconfirmed, T::Redeliver) => Some(Self::Queued),
            (Self::Queued | Self::NotNow | Self::Unconfirmed, T::Cancel) => Some(Self::Cancelled),
            (Self::Queued | Self::Sent | Self::NotNow | Self::Unconfirmed, T::Void) => Some(Self::Cancelled),
            (Self::Queued | Self::NotNow, T::Expire) => Some(Self::Expired),
            (Self::Sent | Self::NotNow | Self::Unconfirmed, T::Presume) => Some(Self::PresumedDone),
            _ => None,
        }
    }
}

impl fmt::Display for DeliveryState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for DeliveryState {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|state| state.as_str() == text)
            .ok_or_else(|| format!("{text:?} is no delivery state"))
    }
}

/// The `Status` of a command report. Source: Apple, "Command response" (MDM protocol).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReportStatus {
    /// The device asks for work.
    Idle,
    /// Done.
    Acknowledged,
    /// Failed; the error chain says why.
    Error,
    /// The device could not read the command.
    CommandFormatError,
    /// Not while the device is locked or busy.
    NotNow,
}

impl ReportStatus {
    /// Reads Apple's word.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "Idle" => Self::Idle,
            "Acknowledged" => Self::Acknowledged,
            "Error" => Self::Error,
            "CommandFormatError" => Self::CommandFormatError,
            "NotNow" => Self::NotNow,
            _ => return None,
        })
    }

    /// Apple's word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "Idle",
            Self::Acknowledged => "Acknowledged",
            Self::Error => "Error",
            Self::CommandFormatError => "CommandFormatError",
            Self::NotNow => "NotNow",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRANSITIONS: [Transition; 10] = [
        Transition::Offer,
        Transition::Acknowledge,
        Transition::Fail,
        Transition::Defer,
        Transition::Unconfirm,
        Transition::Redeliver,
        Transition::Cancel,
        Transition::Void,
        Transition::Expire,
        Transition::Presume,
    ];

    #[test]
    fn a_terminal_state_is_never_left() {
        for state in DeliveryState::ALL {
            let ways_out = TRANSITIONS.iter().filter(|t| state.after(**t).is_some()).count();
            assert_eq!(state.is_terminal(), ways_out == 0, "{state}");
        }
    }

    #[test]
    fn what_a_device_may_have_is_not_cancelled_by_an_admin() {
        assert_eq!(DeliveryState::Sent.after(Transition::Cancel), None);
        assert_eq!(DeliveryState::Queued.after(Transition::Cancel), Some(DeliveryState::Cancelled));
    }

    #[test]
    fn words_read_back() {
        for state in DeliveryState::ALL {
            assert_eq!(state.as_str().parse::<DeliveryState>().unwrap(), state);
        }
    }
}
