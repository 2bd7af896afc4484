//! A run: rounds of chaos, each brought to rest and checked.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;

use muster::cli::{SystemClock, SystemRandomness};
use muster::model::Clock as _;
use muster::pki::PrivateKey;
use muster::pki::authority::make_tls_root;
use muster::pki::push;
use muster::simulator::apns::{FakeApns, Fault, FaultKind, Options};
use serde_json::json;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::admin::{self, Api, Asked};
use crate::check::{self, Seen};
use crate::cluster;
use crate::counts::Counts;
use crate::device::{Device, Phase, World};
use crate::haproxy::Haproxy;
use crate::ledger::Ledger;
use crate::network::Network;
use crate::plan::Plan;
use crate::site::{Making, Site};
use crate::{Arguments, Databases, Result, tell, wire};

/// Admins who act at once.
const ADMINS: u64 = 3;
/// The longest part of a round that is chaos, whatever was carried.
const ROUND: Duration = Duration::from_secs(40);
/// How long a push certificate holds.
const YEAR: Duration = Duration::from_secs(365 * 86_400);
const TOPIC: &str = "com.apple.mgmt.External.00000000-0000-4000-8000-000000000000";
/// A PostgreSQL server, by the URL of a user who may create databases. `scripts/postgres` sets it.
const POSTGRES_URL: &str = "MUSTER_TEST_POSTGRES_URL";

/// Runs on each database.
pub async fn all(arguments: &Arguments) -> Result<()> {
    if let Some(servers) = arguments.cluster {
        return cluster::run(arguments, usize::from(servers)).await;
    }
    let seed = arguments.seed.unwrap_or_else(|| u64::try_from(SystemClock.now().micros()).unwrap_or(0) % 1_000_000);
    let kinds: &[bool] = match arguments.database {
        Databases::Sqlite => &[false],
        Databases::Postgres => &[true],
        Databases::Both => &[false, true],
    };
    let each = Duration::from_secs(arguments.seconds) / u32::try_from(kinds.len())?;
    for is_postgres in kinds {
        let name = if *is_postgres { "PostgreSQL" } else { "SQLite" };
        tell(&format!("{name}: {} devices, {} s, seed {seed}", arguments.fleet, each.as_secs()));
        let counts = Arc::new(Counts::default());
        let outcome = one(arguments, seed, *is_postgres, each, &counts).await;
        for line in counts.lines() {
            tell(&line);
        }
        outcome.map_err(|why| format!("{why}\non {name}; again with --seed {seed}"))?;
        let missing = counts.missing(*is_postgres);
        if !missing.is_empty() {
            let missing = missing.join(", ");
            return Err(
                format!("{name}: the run says little, as it did not come to: {missing}; let it run longer").into()
            );
        }
        tell(&format!("{name}: nothing was lost"));
    }
    Ok(())
}

async fn one(arguments: &Arguments, seed: u64, is_postgres: bool, time: Duration, counts: &Arc<Counts>) -> Result<()> {
    let fleet = usize::from(arguments.fleet);
    let setup = Setup { seed, fleet, is_postgres, servers: 1, is_behind_haproxy: false, counts: Arc::clone(counts) };
    let mut run = Run::begin(setup).await?;
    let outcome = run.rounds(arguments, time).await;
    run.end(outcome).await
}

/// What a run is made of.
pub struct Setup {
    pub seed: u64,
    pub fleet: usize,
    pub is_postgres: bool,
    pub servers: usize,
    /// HAProxy is between devices and servers, and not the network that cuts.
    pub is_behind_haproxy: bool,
    pub counts: Arc<Counts>,
}

/// A run on one database.
pub struct Run {
    pub world: Arc<World>,
    pub site: Arc<Site>,
    /// The API without a network in between that cuts.
    pub direct: Api,
    pub admins: Api,
    pub phase: watch::Sender<Phase>,
    devices: JoinSet<()>,
    /// Ended with the run.
    _haproxy: Option<Haproxy>,
    /// Commands that nothing can happen to any more.
    over: BTreeSet<String>,
    seen: Seen,
}

impl Run {
    /// Starts everything; devices begin to enroll.
    pub async fn begin(setup: Setup) -> Result<Self> {
        let place = Path::new(env!("CARGO_TARGET_TMPDIR"));
        std::fs::create_dir_all(place)?;
        let database = if setup.is_postgres { Some(make_database(setup.seed).await?) } else { None };
        let (push_pem, authority) = push_certificate()?;
        let options = Options { client_authorities: vec![authority], ..Options::default() };
        let apns = FakeApns::start(options, Arc::new(SystemClock), Arc::new(SystemRandomness)).await?;
        let push = (apns.endpoint(), apns.root_pem());
        let making = Making { place, database: database.as_deref(), push, servers: setup.servers };
        let counts = setup.counts;
        let site = Arc::new(Site::make(&making, Arc::clone(&counts))?);
        site.keep();
        site.ready().await?;
        let plan = Plan { seed: setup.seed, stops_database: setup.is_postgres };
        let network = Network::new(plan, Arc::clone(&site), Arc::clone(&counts), setup.fleet);
        let haproxy = if setup.is_behind_haproxy { Some(Haproxy::start(&site)?) } else { None };
        let server = site.servers.first().ok_or("no server")?;
        let (devices_at, direct_at, admins_at) = match &haproxy {
            Some(haproxy) => (haproxy.devices, haproxy.admin, haproxy.admin),
            None => (network.open(server.devices).await?, server.admin, network.open(server.admin).await?),
        };
        let api = |address| Api { address, token: site.token.clone() };
        let (direct, admins) = (api(direct_at), api(admins_at));
        put_push_certificate(&api(server.admin), &push_pem).await?;
        let link = direct.insist("POST /api/v1/enrollment-links", None, Some(&json!({"name": "chaos"}))).await;
        let link = link.json()?["url"].as_str().ok_or("no link")?.parse()?;
        let (phase, phases) = watch::channel(Phase::Calm);
        let world = Arc::new(World {
            plan,
            counts,
            ledger: Ledger::new(setup.fleet),
            network,
            server: devices_at,
            apns,
            link,
            phase: phases,
            is_strict: AtomicBool::new(false),
        });
        let key = PrivateKey::generate_rsa(2048)?;
        let mut devices = JoinSet::new();
        for number in 0..setup.fleet {
            devices.spawn(Device::new(number, Arc::clone(&world), key.clone())?.live());
        }
        Ok(Self {
            world,
            site,
            direct,
            admins,
            phase,
            devices,
            _haproxy: haproxy,
            over: BTreeSet::new(),
            seen: Seen::default(),
        })
    }

    /// Ends everything; says what went wrong.
    pub async fn end(mut self, outcome: Result<()>) -> Result<()> {
        let _ = self.phase.send(Phase::End);
        let outcome = match outcome {
            Ok(()) => Ok(()),
            Err(why) => Err(self.explain(&why.to_string()).await),
        };
        while self.devices.join_next().await.is_some() {}
        self.site.end();
        outcome.map_err(Into::into)
    }

    /// Compares everything.
    pub async fn check(&mut self) -> Result<()> {
        check::all(&self.world, &self.direct, &mut self.seen).await?;
        self.judge()
    }

    /// Asks for a command for all that does no harm.
    pub async fn ask_all(&self, key: &str) {
        let asked = Asked { verb: "device_information", is_by_admin_only: false, is_for_all: true, expires: false };
        let body = json!({"targets": {"all": true}, "command": {"type": "device_information"}});
        admin::ask_for(&self.world, &self.direct, key, &body, asked).await;
    }

    async fn rounds(&mut self, arguments: &Arguments, time: Duration) -> Result<()> {
        let patience = Duration::from_secs(arguments.patience);
        let begin = Instant::now();
        let actions = Arc::new(AtomicU64::new(0));
        self.rest(patience).await?;
        let mut round = 0;
        while round == 0 || begin.elapsed() < time || (self.says_little() && begin.elapsed() < time * 2) {
            round += 1;
            self.chaos(&actions, arguments.requests).await?;
            let waited = self.rest(patience).await?;
            self.wave(round, patience).await?;
            self.check().await?;
            let carried = self.world.network.carried();
            tell(&format!(
                "  round {round}: {:.0} s, {carried} requests; at rest after {:.1} s",
                begin.elapsed().as_secs_f64(),
                waited.as_secs_f64()
            ));
        }
        Ok(())
    }

    /// Whether something has not been exercised yet: a slow machine gets more time for it.
    fn says_little(&self) -> bool {
        !self.world.counts.missing(self.world.plan.stops_database).is_empty()
    }

    /// Lets everything go wrong for so many requests.
    async fn chaos(&self, actions: &Arc<AtomicU64>, requests: u64) -> Result<()> {
        self.phase.send(Phase::Chaos)?;
        self.world.network.calm(false);
        let until = self.world.network.carried() + requests;
        let limit = Instant::now() + ROUND;
        let mut admins = JoinSet::new();
        for _ in 0..ADMINS {
            admins.spawn(admin::act(Arc::clone(&self.world), self.admins.clone(), Arc::clone(actions)));
        }
        while self.world.network.carried() < until && Instant::now() < limit {
            sleep(Duration::from_millis(20)).await;
            self.site.check()?;
        }
        self.world.network.calm(true);
        self.phase.send(Phase::Calm)?;
        self.site.ready().await?;
        // What they have begun is brought to its end.
        while admins.join_next().await.is_some() {}
        Ok(())
    }

    /// Waits until nothing is open any more. Devices come when they are woken, and where they know why.
    pub async fn rest(&mut self, patience: Duration) -> Result<Duration> {
        self.site.ready().await?;
        let begin = Instant::now();
        loop {
            let open = check::open(&self.world, &self.direct, &mut self.over).await?;
            if open.is_empty() {
                return Ok(begin.elapsed());
            }
            self.judge()?;
            self.site.check()?;
            if begin.elapsed() > patience {
                let open = open.join("\n  ");
                return Err(format!("after {} s there is open still:\n  {open}", patience.as_secs()).into());
            }
            sleep(Duration::from_millis(200)).await;
        }
    }

    /// One command for all, and a kill while its wake-ups are under way: each device is woken all the same, and at most
    /// twice.
    async fn wave(&mut self, round: u64, patience: Duration) -> Result<()> {
        let counters = self.world.apns.counters();
        let before = self.pushes();
        // In every other round the server dies before the pushes are taken, else after some were.
        let is_slow = round % 2 == 1;
        if is_slow {
            self.world.apns.inject(Fault::always(FaultKind::delay(Duration::from_millis(400))));
        }
        self.ask_all(&format!("wave-{round}")).await;
        let limit = Instant::now() + Duration::from_secs(10);
        loop {
            let now = self.world.apns.counters();
            let has_begun = if is_slow { now.requests > counters.requests } else { now.accepted > counters.accepted };
            if has_begun || Instant::now() > limit {
                break;
            }
            sleep(Duration::from_millis(1)).await;
        }
        if self.site.kill(round) {
            self.world.counts.add("kills with a push in flight");
        }
        self.world.apns.clear_faults();
        let waited = self.rest(patience).await?;
        for (number, (before, after)) in before.iter().zip(self.pushes()).enumerate() {
            let pushes = after - before;
            if !(1..=2).contains(&pushes) {
                let text = format!("{pushes} pushes for one command and one kill");
                self.world.ledger.violation(Some(number), text);
            }
            if pushes == 2 {
                self.world.counts.add("wake-ups repeated by a kill");
            }
        }
        tell(&format!("  a wave with a kill: at rest after {:.1} s", waited.as_secs_f64()));
        Ok(())
    }

    /// How many pushes each device has got.
    pub fn pushes(&self) -> Vec<u64> {
        let inner = self.world.ledger.lock();
        inner.devices.iter().map(|device| device.earlier_pushes + device.pushes()).collect()
    }

    pub fn judge(&self) -> Result<()> {
        let inner = self.world.ledger.lock();
        match inner.violations.first() {
            None => Ok(()),
            Some(first) => Err(format!("{} violations, the first: {}", inner.violations.len(), first.text).into()),
        }
    }

    /// What went wrong, with the story of the device and of its deliveries.
    async fn explain(&self, why: &str) -> String {
        let violations: Vec<_> = self.world.ledger.lock().violations.iter().take(10).cloned().collect();
        let mut lines = vec![why.to_owned()];
        for violation in &violations {
            let device = violation.device.map(|number| format!("device {number}: ")).unwrap_or_default();
            lines.push(format!("  violated: {device}{}", violation.text));
        }
        if let Some(number) = violations.iter().find_map(|violation| violation.device) {
            let story = self.world.ledger.device(number, |device| device.story.clone()).unwrap_or_default();
            lines.push(format!("the story of device {number}, its end:"));
            lines.extend(story.iter().rev().take(80).rev().map(|line| format!("    {line}")));
            let path = format!("/api/v1/devices/udid:{}/commands", Device::udid(number));
            let history = self.direct.all(&path);
            if let Ok(Ok(history)) = tokio::time::timeout(Duration::from_secs(10), history).await {
                lines.push("what the server says of it, the newest first:".to_owned());
                lines.extend(history.iter().take(40).map(|one| format!("    {one}")));
            }
        }
        lines.push(format!("the server's log, its end:\n{}", self.site.log()));
        lines.join("\n")
    }
}

async fn put_push_certificate(api: &Api, pem: &str) -> Result<()> {
    let bearer = format!("Bearer {}", api.token);
    let headers = [("Authorization", bearer.as_str()), ("Content-Type", "application/x-pem-file")];
    let put = wire::request("PUT /api/v1/apns/certificate", &headers, pem.as_bytes());
    let answer = wire::ask(api.address, &put).await?;
    if answer.status >= 300 {
        return Err(format!("the push certificate: {} {}", answer.status, answer.text()).into());
    }
    Ok(())
}

/// A push certificate with its key, PEM, and its authority, DER.
fn push_certificate() -> Result<(String, Vec<u8>)> {
    let now = SystemClock.now();
    let root = make_tls_root("Simulated push authority", "Example", now, &SystemRandomness)?;
    let made = push::issue_fake(&root, PrivateKey::generate_rsa(2048)?, TOPIC, now, YEAR, &SystemRandomness)?;
    let pem = format!("{}{}", made.identity.chain_pem(), made.identity.key.to_pem().expose());
    Ok((pem, root.certificate.der().to_vec()))
}

async fn make_database(seed: u64) -> Result<String> {
    let server = std::env::var(POSTGRES_URL).map_err(|_| format!("{POSTGRES_URL} is not set: run scripts/chaos"))?;
    let name = format!("muster_chaos_{}_{seed}", std::process::id());
    let mut connection = PgConnection::connect(&server).await?;
    for verb in ["DROP DATABASE IF EXISTS", "CREATE DATABASE"] {
        sqlx::raw_sql(AssertSqlSafe(format!("{verb} {name}"))).execute(&mut connection).await?;
    }
    connection.close().await?;
    let mut url: url::Url = server.parse()?;
    url.set_path(&name);
    Ok(url.to_string())
}
