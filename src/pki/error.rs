use openssl::error::ErrorStack;

/// What went wrong with a certificate, a key or a request for a certificate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The input is at fault: what is wrong with it and what was expected.
    #[error("{0}")]
    Invalid(String),
    /// The cryptography library failed on input that should work: a fault of the installation.
    #[error("the cryptography library failed: {0}")]
    Library(String),
}

impl Error {
    pub(super) fn invalid(text: impl Into<String>) -> Self {
        Self::Invalid(text.into())
    }
}

impl From<ErrorStack> for Error {
    fn from(stack: ErrorStack) -> Self {
        Self::Library(reasons(&stack))
    }
}

impl From<rcgen::Error> for Error {
    fn from(error: rcgen::Error) -> Self {
        Self::Library(error.to_string())
    }
}

/// OpenSSL's reasons in short, without its file names and line numbers.
pub(super) fn reasons(stack: &ErrorStack) -> String {
    let reasons: Vec<&str> = stack.errors().iter().filter_map(openssl::error::Error::reason).collect();
    if reasons.is_empty() { "no reason given".to_owned() } else { reasons.join("; ") }
}
