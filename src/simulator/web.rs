//! HTTP clients for simulated devices.

use std::sync::Arc;
use std::time::Duration;

use rustls::{ClientConfig, RootCertStore};

/// How long a server may take for one answer.
const TIME_OUT: Duration = Duration::from_secs(60);

/// A client that trusts no certificate: for plain HTTP.
pub(super) fn plain_client() -> Result<reqwest::Client, String> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    reqwest::Client::builder()
        .use_preconfigured_tls(config)
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(TIME_OUT)
        .build()
        .map_err(|error| error.to_string())
}
