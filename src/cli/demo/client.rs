use std::time::Duration;

use reqwest::Method;
use serde_json::Value;

use super::super::Error;
use crate::model::Secret;

/// The API, as an admin's script uses it.
#[derive(Clone)]
pub(super) struct Client {
    http: reqwest::Client,
    base: String,
    token: Secret<String>,
}

impl Client {
    pub(super) fn new(base: &str, token: Secret<String>) -> Result<Self, Error> {
        // The admin listener of the demo is plain HTTP on loopback; the client still wants to know about TLS.
        let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| Error::Demo(e.to_string()))?
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        let http = reqwest::Client::builder()
            .use_preconfigured_tls(tls)
            .no_proxy()
            .timeout(Duration::from_secs(60))
            .build()
            .map_err(|e| Error::Demo(e.to_string()))?;
        Ok(Self { http, base: base.to_owned(), token })
    }

    pub(super) async fn get(&self, path: &str) -> Result<Value, Error> {
        self.send(Method::GET, path, None, Vec::new()).await
    }

    pub(super) async fn post(&self, path: &str, body: &Value) -> Result<Value, Error> {
        self.send(Method::POST, path, Some("application/json"), body.to_string().into_bytes()).await
    }

    /// Sends a body of another type.
    pub(super) async fn send(
        &self,
        method: Method,
        path: &str,
        content_type: Option<&str>,
        body: Vec<u8>,
    ) -> Result<Value, Error> {
        let what = format!("{method} {path}");
        let mut request = self.http.request(method, format!("{}{path}", self.base)).bearer_auth(self.token.expose());
        if let Some(content_type) = content_type {
            request = request.header("Content-Type", content_type).body(body);
        }
        let answer = request.send().await.map_err(|e| Error::Demo(format!("{what}: {e}")))?;
        let status = answer.status();
        let text = answer.text().await.map_err(|e| Error::Demo(format!("{what}: {e}")))?;
        if !status.is_success() {
            return Err(Error::Demo(format!("{what}: {status}: {text}")));
        }
        if text.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_str(&text).map_err(|e| Error::Demo(format!("{what}: the answer is no JSON: {e}")))
    }
}
