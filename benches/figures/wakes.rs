//! Wake-ups of the whole fleet through the fake APNs, beside a client that does nothing else.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use muster::cli::{SystemClock, SystemRandomness};
use muster::model::{Clock as _, Secret};
use muster::pki::authority::make_tls_root;
use muster::pki::identity::rustls_certificate;
use muster::pki::{Certificate, Identity, PrivateKey, push};
use muster::service::Actor;
use muster::service::push_certificates::{self, NewCertificate};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::ServerName;
use serde_json::json;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_rustls::TlsConnector;

use crate::bulk::literal;
use crate::context::{Context, Limits};
use crate::fleet::Fleet;
use crate::load::count;
use crate::messages::TOPIC;
use crate::peer::{Peer, token};
use crate::spread::Spread;
use crate::{Result, tell};

/// Which part of the rate of a bare client there must be, percent.
const LEAST: f64 = 60.0;
/// By how much the server's memory may grow meanwhile, MB (2^20 bytes).
const GROWTH: f64 = 50.0;
/// Pushes under way at once: as many as the server's setting has.
const AT_ONCE: usize = 500;
/// How long a certificate holds.
const YEAR: Duration = Duration::from_secs(365 * 86_400);
/// When no first push comes.
const PATIENCE: Duration = Duration::from_secs(60);

pub async fn measure(context: &mut Context<'_>) -> Result<()> {
    let identity = push_identity()?;
    for number in 0..context.fleets.len() {
        for delay in [0, 20] {
            let (size, Some(fleet)) = (context.size, context.fleets.get_mut(number)) else { continue };
            fleet.stop().await?;
            let (label, tokens) = (fleet.shape.label.clone(), fleet.shape.count);
            let peer = Peer::start(fleet.installation.path(), tokens, Duration::from_millis(delay)).await?;
            let outcome = waves(fleet, &peer, &identity, size.runs, Duration::from_millis(size.wave)).await;
            fleet.stop().await?;
            peer.stop().await?;
            let outcome = outcome?;

            let work = match delay {
                0 => "wake-ups, answered at once".to_owned(),
                _ => format!("wake-ups, answered after {delay} ms"),
            };
            let part =
                Spread::of(outcome.server.iter().zip(&outcome.bare).map(|(ours, bare)| 100.0 * ours / bare.max(0.001)));
            let (server, bare) = (Spread::of(outcome.server), Spread::of(outcome.bare));
            let cpu = Spread::of(outcome.cpu);
            let limit = Limits { text: format!("at least {LEAST} %"), kept: part.median >= LEAST };
            let note = format!("{server} /s beside {bare} /s; server {cpu} us");
            context.row(&work, &label, format!("{part} %"), Some(limit), note);
            let growth = outcome.peak - outcome.before;
            let limit = Limits { text: format!("at most {GROWTH} MB more"), kept: growth <= GROWTH };
            let measured = format!("{growth:+.1} MB");
            context.row(
                &format!("{work}: memory"),
                &label,
                measured,
                Some(limit),
                format!("from {:.1} MB", outcome.before),
            );
            let json = json!({
                "per_second": server.json(), "ceiling_per_second": bare.json(), "percent": part.json(),
                "server_cpu_us": cpu.json(), "resident_mb_before": outcome.before, "peak_mb": outcome.peak,
            });
            context.put(&work, &label, json);
        }
    }
    Ok(())
}

/// A wave of which nothing came for so long is over.
const QUIET: Duration = Duration::from_millis(500);

/// What waves came to.
struct Outcome {
    /// Pushes in a second, of the server and of the bare client.
    server: Vec<f64>,
    bare: Vec<f64>,
    /// Processor time of the server for each, microseconds.
    cpu: Vec<f64>,
    before: f64,
    peak: f64,
}

async fn waves(fleet: &mut Fleet, peer: &Peer, identity: &Identity, runs: usize, time: Duration) -> Result<Outcome> {
    let root = fs::read(&peer.root)?;
    fleet.installation.set_push(&format!(
        "[push]\nendpoint = \"https://localhost:{}\"\nroots = \"push-root.pem\"\n",
        peer.address.port()
    ));
    put_certificate(fleet, identity).await?;
    let mut outcome = Outcome { server: Vec::new(), bare: Vec::new(), cpu: Vec::new(), before: 0.0, peak: 0.0 };
    for number in 1..=runs {
        let bare = bare(peer, &root, identity, fleet.shape.count, time).await?;
        if due(fleet).await? < fleet.shape.count / 2 + 1 {
            set_due(fleet, true).await?;
        }
        let due = due(fleet).await?;
        let all = peer.accepted().await? + u64::try_from(due)?;
        fleet.start().await?;
        let (rate, cpu) = wave(fleet, all, peer, time).await?;
        let memory = fleet.server()?.memory()?;
        fleet.stop().await?;
        tell(&format!("    wave {number}/{runs}: {rate:.0} /s, bare {bare:.0} /s"));
        outcome.server.push(rate);
        outcome.bare.push(bare);
        outcome.cpu.push(cpu);
        outcome.peak = outcome.peak.max(memory.peak);
    }
    set_due(fleet, false).await?;
    fleet.start().await?;
    sleep(Duration::from_secs(2)).await;
    outcome.before = fleet.server()?.memory()?.resident;
    Ok(outcome)
}

/// The rate of the server's pushes until there were `all`, and what each costs it. Those that came while it started do
/// not count.
async fn wave(fleet: &Fleet, all: u64, peer: &Peer, time: Duration) -> Result<(f64, f64)> {
    let begin = peer.accepted().await?;
    let limit = Instant::now() + PATIENCE;
    let meter = fleet.meter()?;
    // From the last moment on at which there was none yet.
    let (mut from, mut cpu) = (Instant::now(), meter.cpu()?.0);
    let mut now = peer.accepted().await?;
    while now <= begin && now < all {
        if Instant::now() > limit {
            return Err("the server sends no push".into());
        }
        sleep(Duration::from_millis(2)).await;
        (from, cpu) = (Instant::now(), meter.cpu()?.0);
        now = peer.accepted().await?;
    }
    // Some may have been sent before it was looked: the wave is over as well when no more come.
    let (mut last, mut took) = (now, from.elapsed());
    while now < all && from.elapsed() < time && from.elapsed() < took + QUIET {
        sleep(Duration::from_millis(5)).await;
        now = peer.accepted().await?;
        if now != last {
            (last, took) = (now, from.elapsed());
        }
    }
    let cpu = meter.cpu()?.0.saturating_sub(cpu);
    let sent = count(usize::try_from(now - begin)?).max(1.0);
    Ok((sent / took.as_secs_f64(), cpu.as_secs_f64() * 1e6 / sent))
}

/// Makes a wake-up of each device due, or of none.
async fn set_due(fleet: &Fleet, is_due: bool) -> Result<()> {
    let mut sql = fleet.sql().await?;
    let is_postgres = sql.is_postgres();
    let first = literal(&fleet.names.enrollment(1)?, is_postgres);
    let last = literal(&fleet.names.enrollment(fleet.shape.count)?, is_postgres);
    let (due, only) = if is_due { ("1", "") } else { ("NULL", "AND due_at IS NOT NULL") };
    sql.run(&format!(
        "UPDATE wakes SET due_at = {due}, leased_until = NULL, not_before = NULL, attempts = 0
          WHERE enrollment_id BETWEEN {first} AND {last} {only}"
    ))
    .await?;
    if is_postgres {
        sql.run("VACUUM ANALYZE wakes").await?;
    }
    sql.close().await
}

/// How many are due.
async fn due(fleet: &Fleet) -> Result<usize> {
    let mut sql = fleet.sql().await?;
    let due = sql.number("SELECT COUNT(*) FROM wakes WHERE due_at IS NOT NULL AND due_at < 2").await?;
    sql.close().await?;
    Ok(usize::try_from(due)?)
}

fn push_identity() -> Result<Identity> {
    let now = SystemClock.now();
    let root = make_tls_root("Simulated push authority", "Example", now, &SystemRandomness)?;
    Ok(push::issue_fake(&root, PrivateKey::generate_rsa(2048)?, TOPIC, now, YEAR, &SystemRandomness)?.identity)
}

async fn put_certificate(fleet: &Fleet, identity: &Identity) -> Result<()> {
    let app = fleet.app().await?;
    let pem = format!("{}{}", identity.chain_pem(), identity.key.to_pem().expose());
    let new = NewCertificate { file: Secret::new(pem.into_bytes()), password: None, default: Some(true), force: false };
    let outcome = push_certificates::put(&app, &Actor::command_line(), new).await;
    app.store.close().await;
    outcome?;
    Ok(())
}

/// The rate of a client that only pushes, by one connection, to as many devices.
async fn bare(peer: &Peer, root: &[u8], identity: &Identity, devices: usize, time: Duration) -> Result<f64> {
    let mut roots = RootCertStore::empty();
    for certificate in Certificate::from_file(root)? {
        roots.add(rustls_certificate(&certificate))?;
    }
    let mut config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_client_auth_cert(identity.rustls_chain(), identity.rustls_key())?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    let socket = TcpStream::connect(peer.address).await?;
    socket.set_nodelay(true)?;
    let stream = TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("localhost")?, socket).await?;
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let next = Arc::new(AtomicUsize::new(0));
    let authority = format!("https://localhost:{}/3/device/", peer.address.port());
    let begin = Instant::now();
    let mut pushes = JoinSet::new();
    for _ in 0..AT_ONCE {
        let (mut sender, next, authority) = (sender.clone(), Arc::clone(&next), authority.clone());
        pushes.spawn(async move {
            let mut done = 0_usize;
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed) + 1;
                if number > devices || begin.elapsed() > time {
                    return Ok::<_, Box<dyn std::error::Error + Send + Sync>>(done);
                }
                let request = Request::post(format!("{authority}{}", hex::encode(token(number))))
                    .header("apns-topic", TOPIC)
                    .header("apns-push-type", "mdm")
                    .header("apns-priority", "10")
                    .header("apns-expiration", "4000000000")
                    .body(Full::new(Bytes::from_static(b"{\"mdm\":\"magic\"}")))?;
                sender.ready().await?;
                let answer = sender.send_request(request).await?;
                let status = answer.status();
                let body = answer.into_body().collect().await?.to_bytes();
                if status != http::StatusCode::OK {
                    return Err(format!("a push was answered {status}: {}", String::from_utf8_lossy(&body)).into());
                }
                done += 1;
            }
        });
    }
    let mut done = 0;
    while let Some(ended) = pushes.join_next().await {
        done += ended??;
    }
    let took = begin.elapsed();
    drop(sender);
    connection.abort();
    Ok(count(done) / took.as_secs_f64())
}
