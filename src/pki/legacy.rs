//! OpenSSL's legacy provider: old .p12 files (RC2-40) and SCEP clients that know nothing but single DES.

use std::sync::OnceLock;

use openssl::provider::Provider;

use super::Error;

/// Makes the old algorithms available, once for the whole process (OpenSSL's library context is one for all). Callers
/// decide *before* whether they want them: having the provider must not mean that old algorithms are accepted.
///
/// # Errors
/// [`Error::Invalid`] with what to do, when the provider is not installed.
pub fn load() -> Result<(), Error> {
    static PROVIDER: OnceLock<Option<Provider>> = OnceLock::new();
    let provider = PROVIDER.get_or_init(|| Provider::try_load(None, "legacy", true).ok());
    if provider.is_some() { Ok(()) } else { Err(missing()) }
}

fn missing() -> Error {
    Error::invalid(
        "this needs an old algorithm, and OpenSSL's legacy provider is not installed on this machine: install it \
         (Debian and Ubuntu: package libssl3 or openssl-provider-legacy; the variable OPENSSL_MODULES names another \
         directory for legacy.so), or convert the file with a current tool",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loading_keeps_the_current_algorithms_and_a_missing_provider_says_what_to_do() {
        for _ in 0..2 {
            match load() {
                Ok(()) => assert!(openssl::cipher::Cipher::fetch(None, "DES-CBC", None).is_ok()),
                Err(error) => assert!(error.to_string().contains("legacy.so"), "{error}"),
            }
        }
        assert!(openssl::cipher::Cipher::fetch(None, "AES-256-CBC", None).is_ok());
        assert!(missing().to_string().contains("OPENSSL_MODULES"));
    }
}
