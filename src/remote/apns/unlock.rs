//! Lifting the activation lock of a device by its bypass code. It is no push, but Apple knows who asks by the same
//! certificate.
//!
//! Source: Apple, "Creating and using bypass codes" (Device Management).

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST};
use http::{HeaderValue, Method, Request};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use url::{Url, form_urlencoded};

use super::{TimeOuts, target};

/// The largest answer that is read.
const MAX_BODY: usize = 64 * 1024;

/// What is asked of Apple.
#[derive(Clone)]
pub struct Unlock {
    /// The service, without a query.
    pub endpoint: Url,
    /// Which device: parameters of the URL.
    pub device: Vec<(&'static str, String)>,
    /// The bypass code and who asks: members of the form.
    pub form: Vec<(&'static str, String)>,
}

/// What Apple answered, to be passed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnlockAnswer {
    /// The HTTP status.
    pub status: u16,
    /// The `Content-Type`.
    pub content_type: Option<HeaderValue>,
    /// The body.
    pub body: Bytes,
}

impl fmt::Debug for Unlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { endpoint, device, form: _ } = self;
        f.debug_struct("Unlock").field("endpoint", &endpoint.as_str()).field("device", device).finish_non_exhaustive()
    }
}

/// Sends it over a connection of its own.
pub(super) async fn send(config: ClientConfig, unlock: &Unlock, time: TimeOuts) -> Result<UnlockAnswer, String> {
    let all = time.connect + time.answer;
    match timeout(all, exchange(config, unlock)).await {
        Ok(answer) => answer,
        Err(_) => Err(format!("no answer within {} seconds", all.as_secs_f32())),
    }
}

async fn exchange(mut config: ClientConfig, unlock: &Unlock) -> Result<UnlockAnswer, String> {
    let shown = |what: &str, error: &dyn std::error::Error| format!("{what}: {error}");
    let target = target(&unlock.endpoint).map_err(|e| e.to_string())?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let tcp =
        TcpStream::connect((target.address.as_str(), target.port)).await.map_err(|e| shown(&target.authority, &e))?;
    let tls = TlsConnector::from(Arc::new(config))
        .connect(target.name, tcp)
        .await
        .map_err(|e| shown(&target.authority, &e))?;
    let (mut sender, driver) = http1::handshake(TokioIo::new(tls)).await.map_err(|e| e.to_string())?;
    tokio::spawn(driver);
    let request = Request::builder()
        .method(Method::POST)
        .uri(format!("{}?{}", unlock.endpoint.path(), encoded(&unlock.device)))
        .header(HOST, &target.authority)
        .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
        .body(Full::new(Bytes::from(encoded(&unlock.form))))
        .map_err(|e| e.to_string())?;
    let response = sender.send_request(request).await.map_err(|e| shown(&target.authority, &e))?;
    let (head, body) = response.into_parts();
    let body = Limited::new(body, MAX_BODY).collect().await.map_err(|e| format!("the answer: {e}"))?.to_bytes();
    let content_type = head.headers.get(CONTENT_TYPE).cloned();
    Ok(UnlockAnswer { status: head.status.as_u16(), content_type, body })
}

fn encoded(pairs: &[(&'static str, String)]) -> String {
    form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish()
}

#[cfg(test)]
mod tests {
    use rustls::server::WebPkiClientVerifier;
    use rustls::{RootCertStore, ServerConfig};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    use super::super::{ApnsClient, ApnsIdentity, Pusher, Roots};
    use super::*;
    use crate::model::{ManualClock, SeededRandomness, Timestamp};
    use crate::pki::authority::{issue_server_certificate, make_tls_root};
    use crate::pki::identity::rustls_certificate;
    use crate::pki::push::issue_fake;
    use crate::pki::{Identity, PrivateKey};

    const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);
    const DAY: std::time::Duration = std::time::Duration::from_secs(86_400);

    /// A server that demands a client certificate, answers one request and gives what it read.
    async fn apple(root: &crate::pki::Authority) -> (u16, tokio::task::JoinHandle<String>) {
        let random = SeededRandomness::new(3);
        let own = issue_server_certificate(root, &["127.0.0.1".to_owned()], NOW, DAY, &random).unwrap();
        let own = Identity { certificate: own.certificate, chain: Vec::new(), key: own.key };
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(rustls_certificate(&root.certificate)).unwrap();
        let time = Arc::new(super::super::super::tls::ModelTime(Arc::new(ManualClock::new(NOW))));
        let clients =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build().unwrap();
        let config = ServerConfig::builder_with_details(provider, time)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(clients)
            .with_single_cert(own.rustls_chain(), own.rustls_key())
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let serving = tokio::spawn(async move {
            let (tcp, _) = listener.accept().await.unwrap();
            let mut tls = TlsAcceptor::from(Arc::new(config)).accept(tcp).await.unwrap();
            let mut read = Vec::new();
            while !String::from_utf8_lossy(&read).contains("escrowKey=") {
                let mut piece = [0; 4096];
                let count = tls.read(&mut piece).await.unwrap();
                assert_ne!(count, 0, "the request ended early");
                read.extend_from_slice(&piece[..count]);
            }
            tls.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 4\r\n\r\ndone")
                .await
                .unwrap();
            tls.shutdown().await.unwrap();
            String::from_utf8(read).unwrap()
        });
        (port, serving)
    }

    #[tokio::test]
    async fn apple_is_asked_with_the_push_certificate() {
        let random = SeededRandomness::new(4);
        let root = make_tls_root("Fake Apple", "", NOW, &random).unwrap();
        let (port, serving) = apple(&root).await;
        let endpoint: Url = format!("https://127.0.0.1:{port}/deviceservicesworkers/escrowKeyUnlock").parse().unwrap();
        let topic = "com.apple.mgmt.External.a";
        let made = issue_fake(&root, PrivateKey::generate_p256().unwrap(), topic, NOW, DAY, &random).unwrap().identity;
        let key = made.key.pkcs8_der().clone();
        let identity = ApnsIdentity::new(topic.to_owned(), vec![made.certificate.der().to_vec()], key);
        let roots = Roots::Only(vec![root.certificate.der().to_vec()]);
        let client = ApnsClient::new(&endpoint, &roots, Arc::new(ManualClock::new(NOW))).unwrap();
        let unlock = Unlock {
            endpoint,
            device: vec![("serial", "A 1".to_owned()), ("productType", "iPad4,1".to_owned())],
            form: vec![("orgName", "Example & School".to_owned()), ("escrowKey", "AAAA-BBBB".to_owned())],
        };
        let answer = client.unlock(&identity, &unlock).await.unwrap();
        let content_type = Some(HeaderValue::from_static("text/plain"));
        assert_eq!(answer, UnlockAnswer { status: 200, content_type, body: Bytes::from_static(b"done") });
        let request = serving.await.unwrap();
        assert!(
            request.starts_with(
                "POST /deviceservicesworkers/escrowKeyUnlock?serial=A+1&productType=iPad4%2C1 HTTP/1.1\r\n"
            ),
            "{request}"
        );
        assert!(request.ends_with("\r\n\r\norgName=Example+%26+School&escrowKey=AAAA-BBBB"), "{request}");
        assert!(client.unlock(&identity, &unlock).await.is_err(), "nobody is there any more");
    }
}
