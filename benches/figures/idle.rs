//! The idle poll of a device for which nothing waits, through the whole server, beside a handler that does nothing.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use muster::cli::SystemClock;
use muster::model::Clock as _;
use muster::pki::identity::rustls_certificate;
use muster::pki::signature::{SigningQuirks, sign_header};
use muster::pki::{Certificate, Identity, PrivateKey};
use muster::service::authorities::tls_root;
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use crate::bulk::{self, Fleet, on_all_cores};
use crate::installation::{Front, Installation, free_address};
use crate::load::{self, CONNECTIONS, Call, Crowd, Sample};
use crate::machine::{Processors, cpu_of};
use crate::process::Process;
use crate::report::{Report, Row};
use crate::{Result, Size, tell};

/// How many times as much as the handler that does nothing a poll may cost.
const LIMIT: f64 = 4.0;
/// A PostgreSQL server to measure on as well, by the URL of a user who may create databases.
const POSTGRES_URL: &str = "MUSTER_BENCH_POSTGRES_URL";

pub async fn measure(place: &Path, size: &Size, report: &mut Report) -> Result<()> {
    let processors = Processors::now()?;
    let mut parts = Parts { size, report, json: serde_json::Map::new(), ours: Duration::ZERO, memory: 0.0 };
    let before = cpu_of(std::process::id())?;
    parts.on_sqlite(place).await?;
    if let Ok(url) = std::env::var(POSTGRES_URL) {
        parts.on_postgres(place, &url).await?;
    }
    let ours = parts.ours + cpu_of(std::process::id())?.saturating_sub(before);
    let others = processors.others_since(ours)?;
    let (mut json, memory) = (parts.json, parts.memory);
    json.insert("processors_used_by_others".to_owned(), json!(others));
    json.insert("resident_mb_after".to_owned(), json!(memory));
    json.insert("devices".to_owned(), json!(size.devices));
    json.insert("connections".to_owned(), json!(CONNECTIONS));
    report.put("idle_poll", Value::Object(json));
    report.add(Row {
        figure: format!("resident memory after the polls of {} devices", size.devices),
        measured: format!("{memory:.1} MB"),
        limit: None,
        note: format!("others used {:.0} % of the machine during the polls", others * 100.0),
    });
    Ok(())
}

/// What gathers while polls are measured.
struct Parts<'a> {
    size: &'a Size,
    report: &'a mut Report,
    json: serde_json::Map<String, Value>,
    /// Processor time of servers that have ended.
    ours: Duration,
    memory: f64,
}

/// Runs of both servers, in turn.
struct Pairs {
    idle: Vec<Sample>,
    polls: Vec<Sample>,
    /// The first poll of each device after the server's start.
    first: Sample,
}

impl Parts<'_> {
    async fn on_sqlite(&mut self, place: &Path) -> Result<()> {
        let installation = Installation::make(place, None)?;
        let fleet = fill(&installation, self.size.devices).await?;
        let baseline_address = free_address()?;
        let baseline = Process::baseline(installation.path(), baseline_address).await?;

        let server = Process::muster(&installation.settle(Front::Proxy)?, installation.admin).await?;
        let calls = by_header(&fleet)?;
        let pairs =
            self.pairs("header", &calls, (&calls, &installation, &server), (&baseline, baseline_address)).await?;
        self.tell("idle poll, SQLite, certificate in the proxy's header", "sqlite_header", &pairs, Some(LIMIT));
        self.memory = server.memory()?.resident;

        let calls = by_signature(&fleet, self.size.signing)?;
        let pairs =
            self.pairs("signature", &calls, (&calls, &installation, &server), (&baseline, baseline_address)).await?;
        self.tell("the same, with Mdm-Signature", "sqlite_signature", &pairs, None);
        self.end(server).await?;

        let settings = installation.settle(Front::Own)?;
        let app = installation.open(Front::Own).await?;
        let root = tls_root(&app).await?;
        app.store.close().await;
        let server = Process::muster(&settings, installation.admin).await?;
        let secure = by_tls(&fleet, &root)?;
        let plain = Crowd { tls: None, ..secure.clone() };
        let pairs =
            self.pairs("mutual TLS", &plain, (&secure, &installation, &server), (&baseline, baseline_address)).await?;
        self.tell("the same, with mutual TLS", "sqlite_mutual_tls", &pairs, None);
        self.end(server).await?;
        self.end(baseline).await
    }

    async fn on_postgres(&mut self, place: &Path, url: &str) -> Result<()> {
        let database = Database::make(url).await?;
        let outcome = self.on_database(place, &database.url).await;
        database.drop().await?;
        outcome
    }

    async fn on_database(&mut self, place: &Path, url: &str) -> Result<()> {
        let installation = Installation::make(place, Some(url))?;
        let fleet = fill(&installation, self.size.devices).await?;
        let baseline_address = free_address()?;
        let baseline = Process::baseline(installation.path(), baseline_address).await?;
        let server = Process::muster(&installation.settle(Front::Proxy)?, installation.admin).await?;
        let calls = by_header(&fleet)?;
        let pairs =
            self.pairs("PostgreSQL", &calls, (&calls, &installation, &server), (&baseline, baseline_address)).await?;
        let figure = "idle poll, PostgreSQL, certificate in the proxy's header";
        self.tell(figure, "postgres_header", &pairs, None);
        self.end(server).await?;
        self.end(baseline).await
    }

    /// Lets both servers work in turn, so that what else the machine does meets both alike.
    async fn pairs(
        &self,
        name: &str,
        of_baseline: &Crowd,
        (of_server, installation, server): (&Crowd, &Installation, &Process),
        (baseline, address): (&Process, std::net::SocketAddr),
    ) -> Result<Pairs> {
        let time = Duration::from_secs(self.size.seconds);
        let count = if name == "header" { self.size.pairs } else { self.size.reported_pairs };
        let (mut idle, mut polls, mut first) = (Vec::new(), Vec::new(), None);
        for number in 1..=count {
            let (_, sample) = load::measure(of_baseline, address, baseline, time).await?;
            idle.push(sample);
            let (warm_up, sample) = load::measure(of_server, installation.devices, server, time).await?;
            first.get_or_insert(warm_up);
            polls.push(sample);
            let (b, s) = (idle.last().map_or(0.0, Sample::cpu_micros), sample.cpu_micros());
            tell(&format!("idle poll ({name}) {number}/{count}: {s:.1} us, beside {b:.1} us"));
        }
        Ok(Pairs { idle, polls, first: first.ok_or("no runs")? })
    }

    fn tell(&mut self, figure: &str, key: &str, pairs: &Pairs, limit: Option<f64>) {
        let micros = |samples: &[Sample]| samples.iter().map(Sample::cpu_micros).collect::<Vec<_>>();
        let ratios: Vec<f64> =
            pairs.polls.iter().zip(&pairs.idle).map(|(p, i)| p.cpu_micros() / i.cpu_micros().max(0.001)).collect();
        let (idle, polls) = (Spread::of(micros(&pairs.idle)), Spread::of(micros(&pairs.polls)));
        let ratio = Spread::of(ratios);
        let rate = Spread::of(pairs.polls.iter().map(Sample::rate).collect());
        let first = pairs.first.cpu_micros();
        self.report.add(Row {
            figure: figure.to_owned(),
            measured: format!("{:.2} times ({:.2}-{:.2})", ratio.median, ratio.least, ratio.most),
            limit: limit.map(|limit| (format!("at most {limit} times"), ratio.median <= limit)),
            note: format!(
                "{:.1} us ({:.1}-{:.1}) beside {:.1} us ({:.1}-{:.1}); {:.0} requests/s; first poll {first:.0} us",
                polls.median, polls.least, polls.most, idle.median, idle.least, idle.most, rate.median
            ),
        });
        self.json.insert(
            key.to_owned(),
            json!({
                "runs": pairs.polls.len(), "ratio": ratio.json(), "limit": limit, "cpu_us": polls.json(),
                "baseline_cpu_us": idle.json(), "requests_per_second": rate.json(), "first_poll_cpu_us": first,
            }),
        );
    }

    async fn end(&mut self, process: Process) -> Result<()> {
        self.ours += process.cpu()?;
        process.stop().await
    }
}

/// The middle and the ends of some values.
struct Spread {
    least: f64,
    median: f64,
    most: f64,
}

impl Spread {
    fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let at = |index: usize| values.get(index).copied().unwrap_or(0.0);
        let middle = values.len() / 2;
        let median = if values.len() % 2 == 1 { at(middle) } else { (at(middle.saturating_sub(1)) + at(middle)) / 2.0 };
        Self { least: at(0), median, most: at(values.len().saturating_sub(1)) }
    }

    fn json(&self) -> Value {
        json!({"median": self.median, "least": self.least, "most": self.most})
    }
}

async fn fill(installation: &Installation, devices: usize) -> Result<Fleet> {
    tell(&format!("idle poll: {devices} devices are put into the database"));
    let app = installation.open(Front::Proxy).await?;
    let fleet = bulk::enroll(&app, devices).await;
    app.store.close().await;
    fleet
}

fn by_header(fleet: &Fleet) -> Result<Crowd> {
    let call = |member: &bulk::Member| {
        let header = format!(":{}:", STANDARD.encode(member.certificate.der()));
        Call::report(member.poll.clone(), Some(("client-cert", header)))
    };
    Ok(Crowd { calls: fleet.members.iter().map(call).collect::<Result<_>>()?, tls: None })
}

fn by_signature(fleet: &Fleet, count: usize) -> Result<Crowd> {
    let members: Vec<_> = fleet.members.iter().take(count).collect();
    let now = SystemClock.now();
    let calls = on_all_cores(&members, |member| {
        let by = identity(&member.certificate, &fleet.key)?;
        let header = sign_header(&member.poll, &by, SigningQuirks::default(), now)?;
        Call::report(member.poll.clone(), Some(("mdm-signature", header)))
    });
    Ok(Crowd { calls: calls?.into(), tls: None })
}

fn by_tls(fleet: &Fleet, root: &Certificate) -> Result<Crowd> {
    let mut roots = RootCertStore::empty();
    roots.add(rustls_certificate(root))?;
    let roots = Arc::new(roots);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let (mut calls, mut settings) = (Vec::new(), Vec::new());
    for member in fleet.members.iter().take(CONNECTIONS) {
        let by = identity(&member.certificate, &fleet.key)?;
        let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(Arc::clone(&roots))
            .with_client_auth_cert(by.rustls_chain(), by.rustls_key())?;
        settings.push(Arc::new(config));
        calls.push(Call::report(member.poll.clone(), None)?);
    }
    Ok(Crowd { calls: calls.into(), tls: Some(settings.into()) })
}

fn identity(certificate: &Certificate, key: &PrivateKey) -> Result<Identity> {
    Ok(Identity::assemble(std::slice::from_ref(certificate), key.clone())?)
}

/// A database on PostgreSQL for this run alone.
struct Database {
    server: String,
    name: String,
    url: String,
}

impl Database {
    async fn make(server: &str) -> Result<Self> {
        let name = format!("muster_bench_{}", std::process::id());
        let mut url: url::Url = server.parse().map_err(|_| format!("{POSTGRES_URL} is no URL"))?;
        url.set_path(&name);
        let made = Self { server: server.to_owned(), url: url.to_string(), name };
        made.command("CREATE DATABASE").await?;
        Ok(made)
    }

    async fn drop(self) -> Result<()> {
        self.command("DROP DATABASE IF EXISTS").await
    }

    async fn command(&self, verb: &str) -> Result<()> {
        let mut connection = PgConnection::connect(&self.server).await?;
        sqlx::raw_sql(AssertSqlSafe(format!("{verb} {}", self.name))).execute(&mut connection).await?;
        Ok(connection.close().await?)
    }
}
