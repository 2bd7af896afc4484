use plist::{Dictionary, Value};

/// Why a device refuses a command, as it goes into the report's `ErrorChain`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text} ({domain} {code})")]
pub struct Fault {
    /// `ErrorCode`.
    pub code: i64,
    /// `ErrorDomain`.
    pub domain: &'static str,
    /// `LocalizedDescription` and `USEnglishDescription`.
    pub text: String,
}

impl Fault {
    pub(super) fn new(domain: &'static str, code: i64, text: impl Into<String>) -> Self {
        Self { code, domain, text: text.into() }
    }

    /// A member of the command misses or is wrong.
    pub(super) fn bad_command(text: impl Into<String>) -> Self {
        Self::new("MCMDMErrorDomain", 12_023, text)
    }

    /// The request type is not one that the device knows.
    pub(super) fn unknown_request(request_type: &str) -> Self {
        Self::new("MCMDMErrorDomain", 12_021, format!("“{request_type}” is not a valid request type."))
    }

    /// A profile that is none.
    pub(super) fn bad_profile(text: impl Into<String>) -> Self {
        Self::new("MCProfileErrorDomain", 1000, text)
    }

    /// A profile that cannot be installed.
    pub(super) fn not_installed(text: impl Into<String>) -> Self {
        Self::new("MCInstallationErrorDomain", 4001, text)
    }

    /// The members of a report that tell it.
    pub(super) fn members(&self) -> Dictionary {
        let mut item = Dictionary::new();
        item.insert("ErrorCode".to_owned(), Value::from(self.code));
        item.insert("ErrorDomain".to_owned(), Value::from(self.domain));
        item.insert("LocalizedDescription".to_owned(), Value::from(self.text.as_str()));
        item.insert("USEnglishDescription".to_owned(), Value::from(self.text.as_str()));
        let mut members = Dictionary::new();
        members.insert("ErrorChain".to_owned(), Value::Array(vec![Value::Dictionary(item)]));
        members
    }
}
