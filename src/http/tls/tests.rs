use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::Duration;

use rustls::client::ResolvesClientCert;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, HandshakeKind, SignatureScheme};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::http::fixtures::{Authority, Pair, client, connect};

/// What the server saw of one connection.
#[derive(Debug, PartialEq)]
struct Seen {
    certificate: Option<CertificateDer<'static>>,
    resumed: bool,
}

/// Accepts connections for ever and writes one byte on each; tells what it saw, or the error.
async fn start(tls: Arc<Tls>) -> (SocketAddr, tokio::sync::mpsc::UnboundedReceiver<Result<Seen, String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (tell, told) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let (tls, tell) = (Arc::clone(&tls), tell.clone());
            tokio::spawn(async move {
                let seen = match tls.accept(socket).await {
                    Ok(mut stream) => {
                        let session = stream.get_ref().1;
                        let seen = Seen {
                            certificate: session.peer_certificates().and_then(|chain| chain.first().cloned()),
                            resumed: session.handshake_kind() == Some(HandshakeKind::Resumed),
                        };
                        let _ = stream.write_all(b"!").await;
                        let _ = stream.shutdown().await;
                        Ok(seen)
                    }
                    Err(why) => Err(why.to_string()),
                };
                let _ = tell.send(seen);
            });
        }
    });
    (address, told)
}

fn shown(pair: &Pair) -> Arc<ServerCertificate> {
    Arc::new(ServerCertificate::new(pair.chain(), pair.key()).unwrap())
}

/// Connects, reads to the end (so that the ticket arrives) and returns the server's certificate.
async fn visit(address: SocketAddr, name: &str, config: &Arc<ClientConfig>) -> CertificateDer<'static> {
    let mut stream = connect(address, name, config).await.unwrap();
    stream.read_to_end(&mut Vec::new()).await.unwrap();
    stream.get_ref().1.peer_certificates().unwrap()[0].clone()
}

/// Answers a request for a certificate with none, and keeps the issuers that were named in it.
#[derive(Debug, Default)]
struct Spy(Mutex<Option<Vec<Vec<u8>>>>);

impl ResolvesClientCert for Spy {
    fn resolve(&self, hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        *self.0.lock().unwrap() = Some(hints.iter().map(|hint| hint.to_vec()).collect());
        None
    }

    fn has_certs(&self) -> bool {
        true
    }
}

fn spying(root: &Authority) -> (Arc<ClientConfig>, Arc<Spy>) {
    let spy = Arc::new(Spy::default());
    let mut config = client(root, None);
    config.client_auth_cert_resolver = spy.clone();
    (Arc::new(config), spy)
}

#[tokio::test]
async fn a_client_may_show_a_certificate_or_none_in_both_versions_of_tls() {
    let (web, devices) = (Authority::new("Web"), Authority::new("Devices"));
    let tls = Tls::for_devices(shown(&web.server(&["localhost"])), &[devices.certificate()]).unwrap();
    let (address, mut told) = start(Arc::new(tls)).await;
    let phone = devices.device("phone");
    for versions in [&[&rustls::version::TLS12][..], &[&rustls::version::TLS13]] {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = || {
            let mut roots = RootCertStore::empty();
            roots.add(web.certificate()).unwrap();
            ClientConfig::builder_with_provider(Arc::clone(&provider))
                .with_protocol_versions(versions)
                .unwrap()
                .with_root_certificates(roots)
        };
        let without = Arc::new(builder().with_no_client_auth());
        visit(address, "localhost", &without).await;
        assert_eq!(told.recv().await.unwrap().unwrap().certificate, None);
        let with = Arc::new(builder().with_client_auth_cert(phone.chain(), phone.key()).unwrap());
        visit(address, "localhost", &with).await;
        assert_eq!(told.recv().await.unwrap().unwrap().certificate, Some(phone.certificate.clone()));
    }
}

#[tokio::test]
async fn a_foreign_certificate_passes_the_handshake_and_a_stolen_one_does_not() {
    let (web, devices, others) = (Authority::new("Web"), Authority::new("Devices"), Authority::new("Others"));
    let tls = Tls::for_devices(shown(&web.server(&["localhost"])), &[devices.certificate()]).unwrap();
    let (address, mut told) = start(Arc::new(tls)).await;

    let foreign = others.device("stranger");
    visit(address, "localhost", &Arc::new(client(&web, Some(&foreign)))).await;
    assert_eq!(told.recv().await.unwrap().unwrap().certificate, Some(foreign.certificate.clone()));

    // Somebody else's certificate, with an own key.
    let key = aws_lc_rs::default_provider().key_provider.load_private_key(foreign.key()).unwrap();
    let stolen = CertifiedKey::new(devices.device("victim").chain(), key);
    let mut config = client(&web, None);
    config.client_auth_cert_resolver = Arc::new(rustls::sign::SingleCertAndKey::from(stolen));
    let mut stream = connect(address, "localhost", &Arc::new(config)).await.unwrap();
    assert!(stream.read_to_end(&mut Vec::new()).await.is_err());
    assert!(told.recv().await.unwrap().is_err());
}

#[tokio::test]
async fn a_session_is_resumed_together_with_its_client_certificate() {
    let (web, devices) = (Authority::new("Web"), Authority::new("Devices"));
    let tls = Tls::for_devices(shown(&web.server(&["localhost"])), &[devices.certificate()]).unwrap();
    let (address, mut told) = start(Arc::new(tls)).await;
    let phone = devices.device("phone");
    let config = Arc::new(client(&web, Some(&phone)));
    for resumed in [false, true, true] {
        visit(address, "localhost", &config).await;
        let seen = told.recv().await.unwrap().unwrap();
        assert_eq!(seen, Seen { certificate: Some(phone.certificate.clone()), resumed });
    }
}

#[tokio::test]
async fn only_the_name_of_the_pages_asks_for_no_certificate() {
    let (web, devices) = (Authority::new("Web"), Authority::new("Devices"));
    let pages = web.server(&["pages.example.org"]);
    let tls = Tls::for_devices(shown(&web.server(&["mdm.example.org"])), &[devices.certificate()])
        .unwrap()
        .with_pages(&["Pages.example.org".to_owned()], shown(&pages))
        .unwrap();
    let (address, mut told) = start(Arc::new(tls)).await;

    let (config, spy) = spying(&web);
    assert_eq!(visit(address, "pages.example.org", &config).await, pages.certificate);
    told.recv().await.unwrap().unwrap();
    assert_eq!(*spy.0.lock().unwrap(), None, "nobody may be asked here");
    visit(address, "mdm.example.org", &config).await;
    told.recv().await.unwrap().unwrap();
    let mut subjects = RootCertStore::empty();
    subjects.add(devices.certificate()).unwrap();
    let expected: Vec<Vec<u8>> = subjects.subjects().iter().map(|name| name.as_ref().to_vec()).collect();
    assert_eq!(*spy.0.lock().unwrap(), Some(expected));
}

#[tokio::test]
async fn other_device_cas_are_named_from_the_next_connection_on() {
    let (web, old, new) = (Authority::new("Web"), Authority::new("Old"), Authority::new("New"));
    let tls = Arc::new(Tls::for_devices(shown(&web.server(&["localhost"])), &[old.certificate()]).unwrap());
    let (address, _told) = start(Arc::clone(&tls)).await;
    assert!(tls.set_device_cas(&[CertificateDer::from(&b"no certificate"[..])]).is_err());
    tls.set_device_cas(&[old.certificate(), new.certificate()]).unwrap();
    let (config, spy) = spying(&web);
    visit(address, "localhost", &config).await;
    assert_eq!(spy.0.lock().unwrap().as_ref().map(Vec::len), Some(2));
}

#[tokio::test]
async fn a_changed_certificate_file_is_shown_and_a_broken_one_is_not() {
    let web = Authority::new("Web");
    let (first, second) = (web.server(&["localhost"]), web.server(&["localhost"]));
    let directory = tempfile::tempdir().unwrap();
    let files = CertificateFiles { chain: directory.path().join("tls.pem"), key: directory.path().join("tls.key") };
    let pem = |pair: &Pair| {
        use base64::Engine;
        let body = base64::engine::general_purpose::STANDARD.encode(&pair.certificate);
        format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n")
    };
    assert!(matches!(files.load(), Err(TlsError::Unreadable { .. })));
    std::fs::write(&files.chain, pem(&first)).unwrap();
    std::fs::write(&files.key, "nothing").unwrap();
    assert!(matches!(files.load(), Err(TlsError::NoKey(_))));
    std::fs::write(&files.key, second.key.serialize_pem()).unwrap();
    assert!(matches!(files.load(), Err(TlsError::KeyMismatch)));
    std::fs::write(&files.key, first.key.serialize_pem()).unwrap();
    let certificate = Arc::new(files.load().unwrap());

    let tls = Arc::new(Tls::without_client_certificates(Arc::clone(&certificate)).unwrap());
    let (address, _told) = start(tls).await;
    let config = Arc::new(client(&web, None));
    let stop = CancellationToken::new();
    let watcher =
        tokio::spawn(files.clone().keep_fresh(Arc::clone(&certificate), Duration::from_millis(10), stop.clone()));
    tokio::time::sleep(Duration::from_millis(50)).await;
    std::fs::write(&files.chain, pem(&second)).unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(visit(address, "localhost", &config).await, first.certificate, "certificate and key do not fit yet");
    std::fs::write(&files.key, second.key.serialize_pem()).unwrap();
    for _ in 0..500 {
        if certificate.chain() == second.chain() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // A new client, which has no session to resume.
    assert_eq!(visit(address, "localhost", &Arc::new(client(&web, None))).await, second.certificate);
    stop.cancel();
    watcher.await.unwrap();
}
