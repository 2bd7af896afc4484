//! The enrollment of many simulated devices: page, profile, SCEP, and check-in over mutual TLS.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use muster::cli::{SystemClock, SystemRandomness};
use muster::model::{Clock as _, Secret};
use muster::pki::authority::make_tls_root;
use muster::pki::{PrivateKey, push};
use muster::service::enrollment::{NewLink, create_link};
use muster::service::push_certificates::{self, NewCertificate};
use muster::service::{Actor, App};
use muster::simulator::apns::{FakeApns, Options};
use muster::simulator::devices::fleet::{self, Event, FleetOptions, Summary, What};
use muster::simulator::devices::{Environment, KeySource, PhoneOptions, Trust, WakeService};
use serde_json::json;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::installation::{Front, Installation};
use crate::machine::{Processors, cpu_of};
use crate::process::Process;
use crate::report::{Report, Row};
use crate::{Result, tell};

/// How long the whole measure may take.
const LIMIT: Duration = Duration::from_secs(60);
/// The number of devices that the limit is for.
const LIMIT_FOR: usize = 1000;
/// When it is given up.
const PATIENCE: Duration = Duration::from_secs(600);
/// The size of a device's key, in bits.
const KEY_BITS: u32 = 2048;
/// The topic of the push certificate.
const TOPIC: &str = "com.apple.mgmt.External.00000000-0000-4000-8000-000000000000";
const YEAR: Duration = Duration::from_secs(365 * 86_400);

pub async fn measure(place: &Path, count: usize, report: &mut Report) -> Result<()> {
    let keys = KeySource::Directory(place.join("bench-keys"));
    tell(&format!("enrollment: the keys of {count} devices (made once, then kept in target/tmp/bench-keys)"));
    keys.prepare(count, KEY_BITS, |_| {}).await?;

    let apns = FakeApns::start(Options::default(), Arc::new(SystemClock), Arc::new(SystemRandomness)).await?;
    // Devices of one school behind one address: the limits per address are not what is measured.
    let installation = Installation::make(place, None)?.with(&format!(
        "[push]\nendpoint = \"{}\"\nroots = \"push-root.pem\"\n\
         [enrollment]\nrequests_per_minute = 1000000\n\
         [scep]\nrequests_per_minute = 1000000\n",
        apns.endpoint()
    ));
    fs::write(installation.path().join("push-root.pem"), apns.root_pem())?;
    let settings = installation.settle(Front::Own)?;
    let app = installation.open(Front::Own).await?;
    let link = prepare(&app).await;
    app.store.close().await;
    let link = link?;
    let server = Process::muster(&settings, installation.admin).await?;

    tell(&format!("enrollment: {count} devices enroll"));
    let processors = Processors::now()?;
    let (own_before, server_before) = (cpu_of(std::process::id())?, server.cpu()?);
    let environment = Environment {
        clock: Arc::new(SystemClock),
        random: Arc::new(SystemRandomness),
        keys,
        wakes: WakeService::Local(apns.clone()),
    };
    let (took, summary) = enroll(count, environment, link).await?;
    let (own, served) = (cpu_of(std::process::id())? - own_before, server.cpu()? - server_before);
    let others = processors.others_since(own + served)?;
    let memory = server.memory()?;
    server.stop().await?;
    apns.shut_down().await;
    if summary.enrolled != count {
        let errors = summary.errors.join("\n");
        return Err(format!("{} of {count} devices enrolled\n{errors}", summary.enrolled).into());
    }

    let each = |time: Duration| time.as_secs_f64() * 1000.0 / f64::from(u32::try_from(count).unwrap_or(u32::MAX));
    report.add(Row {
        figure: format!("enrollment of {count} simulated devices, SCEP and TLS"),
        measured: format!("{:.1} s", took.as_secs_f64()),
        limit: (count == LIMIT_FOR).then(|| (format!("below {} s", LIMIT.as_secs()), took < LIMIT)),
        note: format!(
            "each: server {:.1} ms, simulator {:.1} ms; server {:.1} MB; others used {:.0} % of the machine",
            each(served),
            each(own),
            memory.resident,
            others * 100.0
        ),
    });
    report.put(
        &["simulated enrollment"],
        json!({
            "devices": count, "seconds": took.as_secs_f64(), "limit_seconds": LIMIT.as_secs(), "limit_for": LIMIT_FOR,
            "server_cpu_ms_each": each(served), "simulator_cpu_ms_each": each(own),
            "server_resident_mb": memory.resident, "processors_used_by_others": others,
        }),
    );
    Ok(())
}

/// Gives the server what it needs for enrollments, and makes a link.
async fn prepare(app: &App) -> Result<Url> {
    let now = SystemClock.now();
    let root = make_tls_root("Simulated push authority", "Example", now, &SystemRandomness)?;
    let certificate =
        push::issue_fake(&root, PrivateKey::generate_rsa(2048)?, TOPIC, now, YEAR, &SystemRandomness)?.identity;
    let pem = format!("{}{}", certificate.chain_pem(), certificate.key.to_pem().expose());
    let new = NewCertificate { file: Secret::new(pem.into_bytes()), password: None, default: Some(true), force: false };
    let actor = Actor::command_line();
    push_certificates::put(app, &actor, new).await?;
    let link = create_link(app, &actor, NewLink { name: "benchmark".to_owned(), ..NewLink::default() }).await?;
    Ok(link.url.expose().parse()?)
}

/// Enrolls them, and says how long it took until the last was enrolled.
async fn enroll(count: usize, environment: Environment, link: Url) -> Result<(Duration, Summary)> {
    let options = FleetOptions {
        count,
        phone: PhoneOptions { page_trust: Trust::Anyone, ..PhoneOptions::default() },
        ..FleetOptions::default()
    };
    let (stop, settled) = (CancellationToken::new(), AtomicUsize::new(0));
    let all = stop.clone();
    let progress = Arc::new(move |event: &Event| {
        let is_settled = matches!(event.what, What::Enrolled | What::EnrollmentFailed(_));
        if is_settled && settled.fetch_add(1, Ordering::SeqCst) + 1 == count {
            all.cancel();
        }
    });
    let begin = Instant::now();
    let fleet = tokio::spawn(fleet::run(options, environment, link, progress, stop.clone()));
    let in_time = timeout(PATIENCE, stop.cancelled()).await;
    let took = begin.elapsed();
    stop.cancel();
    let summary = fleet.await?;
    in_time.map_err(|_| format!("the enrollment was given up after {} s", PATIENCE.as_secs()))?;
    Ok((took, summary))
}
