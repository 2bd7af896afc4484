//! Pages for people: HTML with headers that let a browser do no more than show it.

use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use http::{HeaderMap, HeaderValue, StatusCode};

use crate::model::Sha256;

/// A page. `style` is the exact text between its `<style>` tags, the only style that the browser may apply; scripts may
/// not run at all.
#[must_use]
pub fn page(status: StatusCode, html: String, style: &str) -> Response {
    let mut response = (status, html).into_response();
    let headers = response.headers_mut();
    secure(headers);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    if let Ok(policy) = HeaderValue::from_str(&content_policy(style)) {
        headers.insert(CONTENT_SECURITY_POLICY, policy);
    }
    response
}

/// Keeps an answer out of caches, its address out of the logs of others, and itself out of frames. For pages and for
/// whatever lies under an address with a secret in it.
pub fn secure(headers: &mut HeaderMap) {
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    headers
        .entry(CONTENT_SECURITY_POLICY)
        .or_insert(HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'"));
}

/// Nothing is loaded from anywhere else, nothing runs, no other site may frame the page or get its forms.
fn content_policy(style: &str) -> String {
    let style = STANDARD.encode(Sha256::of(style.as_bytes()).0);
    format!(
        "default-src 'none'; style-src 'sha256-{style}'; img-src 'self' data:; form-action 'self'; base-uri 'none'; \
         frame-ancestors 'none'"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_runs_nothing_and_is_kept_nowhere() {
        let response = page(StatusCode::GONE, "<p>".to_owned(), "p{color:red}");
        let header = |name| response.headers().get(name).unwrap().to_str().unwrap();
        assert_eq!(response.status(), 410);
        assert_eq!(header(CONTENT_TYPE), "text/html; charset=utf-8");
        assert_eq!(header(CACHE_CONTROL), "no-store");
        assert_eq!(header(REFERRER_POLICY), "no-referrer");
        // printf 'p{color:red}' | openssl dgst -sha256 -binary | base64
        let policy = header(CONTENT_SECURITY_POLICY);
        assert!(policy.contains("style-src 'sha256-p0bF+un5yUb9MBO6xRb8kPHlY2BdpHVtLiFkDrZPF64='"), "{policy}");
        assert!(policy.starts_with("default-src 'none';") && !policy.contains("script-src"), "{policy}");
    }
}
