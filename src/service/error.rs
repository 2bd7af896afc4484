use crate::pki::vault::VaultError;
use crate::store::StoreError;

pub use crate::catalog::Fault;

/// Why a verb was not carried out, by what the caller can do about it. The codes are stable words of the API.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such thing.
    #[error("{0}")]
    NotFound(String),
    /// It stands against what is there.
    #[error("{detail}")]
    Conflict {
        /// The stable code.
        code: &'static str,
        /// What stands against it, and what to do.
        detail: String,
    },
    /// Whoever asks may not.
    #[error("{0}")]
    Denied(String),
    /// The device must leave management: it was removed here.
    #[error("the device was removed from management")]
    Unrecognized,
    /// The request is at fault.
    #[error("{detail}")]
    Invalid {
        /// The stable code.
        code: &'static str,
        /// What is wrong, and what was expected.
        detail: String,
        /// The parts that are wrong, where it has several.
        faults: Vec<Fault>,
    },
    /// Something that is needed is away; the same request may succeed later.
    #[error("{0}")]
    Unavailable(String),
    /// A fault of ours. The text is for the log only.
    #[error("{0}")]
    Internal(String),
}

impl Error {
    /// An [`Error::Invalid`] without parts.
    pub fn invalid(code: &'static str, detail: impl Into<String>) -> Self {
        Self::Invalid { code, detail: detail.into(), faults: Vec::new() }
    }

    /// An [`Error::Conflict`].
    pub fn conflict(code: &'static str, detail: impl Into<String>) -> Self {
        Self::Conflict { code, detail: detail.into() }
    }
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable(_) => Self::Unavailable(error.to_string()),
            // Every conflict that a user can cause is looked for before; this one is a race that a repetition solves.
            StoreError::Conflict(what) => {
                Self::conflict("conflict", format!("changed by another request at the same time ({what}); try again"))
            }
            StoreError::Broken(_) | StoreError::Open(_) => Self::Internal(error.to_string()),
        }
    }
}

impl From<VaultError> for Error {
    fn from(error: VaultError) -> Self {
        Self::Internal(error.to_string())
    }
}
