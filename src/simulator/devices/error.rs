use super::fault::Fault;
use crate::simulator::apns::control::ControlError;

/// Why a simulated device cannot go on. Nothing is tried again in silence: what the server did wrong shows here.
#[derive(Debug, thiserror::Error)]
pub enum PhoneError {
    /// There was no answer.
    #[error("{step}: {url} does not answer: {reason}")]
    Unreachable {
        /// What the device was doing.
        step: &'static str,
        /// Where.
        url: String,
        /// What went wrong.
        reason: String,
    },
    /// The answer has another status than the protocol wants.
    #[error("{step}: unexpected status {status}: {body}")]
    Status {
        /// What the device was doing.
        step: &'static str,
        /// The status.
        status: u16,
        /// The beginning of the body, as text.
        body: String,
    },
    /// The server does not know the device: 403 with Apple's code `com.apple.unrecognized.device`. The device leaves.
    #[error("{step}: the server does not know this device (403 com.apple.unrecognized.device)")]
    Unrecognized {
        /// What the device was doing.
        step: &'static str,
    },
    /// The answer cannot be understood, or breaks a rule of the protocol.
    #[error("{step}: {reason}")]
    Protocol {
        /// What the device was doing.
        step: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// SCEP ended with FAILURE, or with PENDING too often.
    #[error("SCEP: {0}")]
    Scep(String),
    /// The profile cannot be installed.
    #[error("the profile cannot be installed: {0}")]
    Profile(#[from] Fault),
    /// The step needs another one before it.
    #[error("{0}")]
    NotReady(&'static str),
    /// The fake APNs cannot be reached.
    #[error(transparent)]
    Push(#[from] ControlError),
    /// Something in this program failed.
    #[error("the simulator failed: {0}")]
    Internal(String),
}

impl PhoneError {
    /// The status of an answer that was not expected.
    #[must_use]
    pub const fn status(&self) -> Option<u16> {
        match self {
            Self::Status { status, .. } => Some(*status),
            Self::Unrecognized { .. } => Some(403),
            _ => None,
        }
    }

    pub(super) fn protocol(step: &'static str, reason: impl Into<String>) -> Self {
        Self::Protocol { step, reason: reason.into() }
    }
}

impl From<crate::pki::Error> for PhoneError {
    fn from(error: crate::pki::Error) -> Self {
        Self::Internal(error.to_string())
    }
}
