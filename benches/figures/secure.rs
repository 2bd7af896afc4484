//! Beside the idle poll behind a proxy: signed messages, mutual TLS, and its handshakes. On SQLite, by the first fleet.

use std::sync::Arc;

use bytes::Bytes;
use muster::cli::SystemClock;
use muster::model::Clock as _;
use muster::model::{Secret, WebhookForm};
use muster::pki::identity::rustls_certificate;
use muster::pki::signature::{SigningQuirks, sign_header};
use muster::pki::{Certificate, Identity};
use muster::service::Actor;
use muster::service::authorities::tls_root;
use muster::service::webhooks::{self, NewWebhook};
use rustls::{ClientConfig, HandshakeKind, RootCertStore};
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::Result;
use crate::bulk::{Driven, Names};
use crate::context::{Context, Requests, Runs};
use crate::database::Kind;
use crate::fleet::Fleet;
use crate::installation::Front;
use crate::load::{Errand, Link, Turn, Until, drive};
use crate::messages::{Shown, idle, report};
use crate::parallel::on_all_cores;
use crate::wire::Wire;

const CONNECTIONS: usize = 64;
/// Devices that take part.
const DEVICES: usize = 1000;

pub async fn measure(context: &mut Context<'_>) -> Result<()> {
    if context.kind != Kind::Sqlite || context.fleets.is_empty() {
        return Ok(());
    }
    context.start_all().await?;
    let signed = context.fleets.first().map(signed).transpose()?.unwrap_or_default();
    let errand = || Ok(Requests::new(signed.clone(), 1));
    runs(context, "idle poll with Mdm-Signature, 64 connections", &signed, signed.len(), errand).await?;

    hooked(context).await?;

    let Some(fleet) = context.fleets.first_mut() else { return Ok(()) };
    fleet.stop().await?;
    let app = fleet.app().await?;
    let root = tls_root(&app).await;
    app.store.close().await;
    let devices = devices(fleet, &root?)?;
    fleet.front(Front::Own);
    fleet.start().await?;
    let plain: Vec<_> = devices.iter().map(|device| device.poll.clone()).collect();
    for (work, kind) in [
        ("idle poll with mutual TLS, 64 connections", Kept::Connection),
        ("full TLS handshake and a poll, 64 connections", Kept::Nothing),
        ("resumed TLS handshake and a poll, 64 connections", Kept::Session),
    ] {
        let errand = || Ok(Secure::new(Arc::clone(&devices), kind));
        runs(context, work, &plain, plain.len(), errand).await?;
    }
    let Some(fleet) = context.fleets.first_mut() else { return Ok(()) };
    fleet.stop().await?;
    fleet.front(Front::Proxy);
    fleet.start().await
}

/// The reference poll, while a webhook is told of each, as far as it keeps up.
async fn hooked(context: &mut Context<'_>) -> Result<()> {
    let receiver = context.baseline_at;
    let Some(fleet) = context.fleets.first_mut() else { return Ok(()) };
    fleet.stop().await?;
    fleet.installation.set_push("[hooks]\nallow = [\"127.0.0.1\"]\n");
    fleet.installation.settle(Front::Proxy)?;
    let app = fleet.app().await?;
    let new = NewWebhook {
        name: "receiver".to_owned(),
        url: Secret::new(format!("http://{receiver}/mdm")),
        form: WebhookForm::NanoMdm,
        secret: None,
        topics: Vec::new(),
        idle: true,
        raw: false,
    };
    let created = webhooks::create(&app, &Actor::command_line(), new).await;
    app.store.close().await;
    let id = created?.row.id;
    fleet.start().await?;
    let polls: Vec<_> = crate::idle::polls(fleet).into_iter().take(DEVICES).collect();
    let errand = || Ok(Requests::new(polls.clone(), 1));
    runs(context, "idle poll with a webhook that is told of it, 64 connections", &polls, polls.len(), errand).await?;

    let Some(fleet) = context.fleets.first_mut() else { return Ok(()) };
    fleet.stop().await?;
    let app = fleet.app().await?;
    let removed = webhooks::remove(&app, &Actor::command_line(), id, None).await;
    app.store.close().await;
    removed?;
    fleet.installation.set_push("");
    fleet.start().await
}

/// Runs of the first fleet, beside the handler that does nothing, over plain HTTP.
async fn runs<E: Errand>(
    context: &mut Context<'_>,
    work: &str,
    plain: &[Bytes],
    once: usize,
    errand: impl Fn() -> Result<E>,
) -> Result<()> {
    let Some(fleet) = context.fleets.first() else { return Ok(()) };
    let mut runs = Runs::new(fleet);
    let (address, meter) = (fleet.installation.devices, fleet.meter()?);
    // What is checked once for each device does not count.
    drive(errand()?, address, CONNECTIONS, Until::Count { warm: 0, counted: once + CONNECTIONS }, meter).await?;
    for _ in 0..context.size.runs {
        runs.ceiling.push(context.ceiling(plain, 1, CONNECTIONS, context.a_while()).await?);
        runs.samples.push(drive(errand()?, address, CONNECTIONS, context.a_while(), meter).await?);
    }
    let note = format!("{} /s; {:.1} times the handler that does nothing", runs.rate(), runs.ratio().median);
    context.row(work, &runs.fleet, format!("{} us", runs.server()), None, note);
    context.put(work, &runs.fleet, runs.json());
    Ok(())
}

fn signed(fleet: &Fleet) -> Result<Vec<Bytes>> {
    let now = SystemClock.now();
    let devices: Vec<_> = fleet.driven.iter().take(DEVICES).collect();
    on_all_cores(&devices, |one| {
        let body = idle(&Names::udid(one.number));
        let header = sign_header(&body, &identity(fleet, one)?, SigningQuirks::default(), now)?;
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(report(&Shown::by_signature(header), &body))
    })
}

/// A device that speaks TLS itself.
struct Device {
    poll: Bytes,
    identity: Identity,
    roots: Arc<RootCertStore>,
}

fn devices(fleet: &Fleet, root: &Certificate) -> Result<Arc<[Device]>> {
    let mut roots = RootCertStore::empty();
    roots.add(rustls_certificate(root))?;
    let roots = Arc::new(roots);
    let device = |one: &Driven| {
        let poll = report(&Shown::by_tls(), &idle(&Names::udid(one.number)));
        Ok(Device { poll, identity: identity(fleet, one)?, roots: Arc::clone(&roots) })
    };
    fleet.driven.iter().take(DEVICES).map(device).collect()
}

impl Device {
    fn config(&self) -> Result<Arc<ClientConfig>> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(Arc::clone(&self.roots))
            .with_client_auth_cert(self.identity.rustls_chain(), self.identity.rustls_key())?;
        Ok(Arc::new(config))
    }
}

fn identity(fleet: &Fleet, one: &Driven) -> Result<Identity> {
    Ok(Identity::assemble(std::slice::from_ref(&one.certificate), fleet.key.clone())?)
}

/// What a device keeps from one poll to the next.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kept {
    Nothing,
    Session,
    Connection,
}

/// Polls over TLS. A connection is one device's.
struct Secure {
    devices: Arc<[Device]>,
    kept: Kept,
    lines: Vec<Mutex<Line>>,
}

/// What a connection keeps.
#[derive(Default)]
struct Line {
    config: Option<Arc<ClientConfig>>,
    wire: Option<Wire<TlsStream<TcpStream>>>,
}

impl Secure {
    fn new(devices: Arc<[Device]>, kept: Kept) -> Self {
        Self { devices, kept, lines: (0..CONNECTIONS).map(|_| Mutex::default()).collect() }
    }
}

impl Errand for Secure {
    const CONNECTED: bool = false;

    async fn run(&self, link: &mut Link, turn: Turn) -> Result<bool> {
        let number = if self.kept == Kept::Nothing { turn.number } else { turn.connection };
        let device = self.devices.get(number % self.devices.len().max(1)).ok_or("no devices")?;
        let mut line = self.lines.get(turn.connection).ok_or("a connection too many")?.lock().await;
        if self.kept == Kept::Nothing {
            line.config = None;
        }
        if self.kept != Kept::Connection {
            line.wire = None;
        }
        if line.wire.is_none() {
            let is_first = line.config.is_none();
            let config = match &line.config {
                Some(config) => Arc::clone(config),
                None => Arc::clone(line.config.insert(device.config()?)),
            };
            let socket = TcpStream::connect(link.address).await?;
            socket.set_nodelay(true)?;
            let stream = TlsConnector::from(config).connect(ServerName::try_from("localhost")?, socket).await?;
            let is_resumed = stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed);
            if is_resumed == is_first {
                return Err(format!("a handshake is of the wrong kind: resumed {is_resumed}").into());
            }
            line.wire = Some(Wire::new(stream));
        }
        line.wire.as_mut().ok_or("no connection")?.expect_nothing(&device.poll).await?;
        Ok(true)
    }
}
