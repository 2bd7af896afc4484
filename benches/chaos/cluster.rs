//! Several servers on one PostgreSQL behind HAProxy: restarted in turn under load, and killed while they hold leases.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use muster::model::Clock as _;
use muster::simulator::apns::{Fault, FaultKind};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::counts::Counts;
use crate::device::Phase;
use crate::run::{Run, Setup};
use crate::{Arguments, Result, admin, tell};

/// Within which time another server takes over what a dead one was at.
const TAKEOVER: Duration = Duration::from_secs(10);
/// How long a device may be on its way to the new server beside that.
const ALLOWANCE: Duration = Duration::from_secs(3);
/// Until HAProxy has seen that a server is there again.
const SEEN: Duration = Duration::from_millis(700);
/// How often all servers are restarted.
const TURNS: usize = 2;

/// Runs it all.
pub async fn run(arguments: &Arguments, servers: usize) -> Result<()> {
    let counts = Arc::new(Counts::default());
    let now = u64::try_from(muster::cli::SystemClock.now().micros()).unwrap_or(0);
    let seed = arguments.seed.unwrap_or(now % 1_000_000);
    tell(&format!("{servers} servers behind HAProxy, {} devices, seed {seed}", arguments.fleet));
    let setup = Setup {
        seed,
        fleet: usize::from(arguments.fleet),
        is_postgres: true,
        servers,
        is_behind_haproxy: true,
        counts: Arc::clone(&counts),
    };
    let mut run = Run::begin(setup).await?;
    let outcome = all(&mut run, Duration::from_secs(arguments.patience)).await;
    for line in counts.lines() {
        tell(&line);
    }
    run.end(outcome).await
}

async fn all(run: &mut Run, patience: Duration) -> Result<()> {
    run.rest(patience).await?;
    rolling_restart(run, patience).await?;
    restart_with_pushes(run, patience).await?;
    let mut late = Vec::new();
    for (what, delay) in [("pushes", Duration::from_secs(2)), ("a job", Duration::ZERO)] {
        let took = take_over(run, what, delay, patience).await?;
        tell(&format!("  {what} of a server that was killed: taken over after {:.1} s", took.as_secs_f64()));
        if took > TAKEOVER + ALLOWANCE {
            late.push(format!("{what} of a server that was killed were taken over after {:.1} s", took.as_secs_f64()));
        }
    }
    run.check().await?;
    if late.is_empty() { Ok(()) } else { Err(late.join("; ").into()) }
}

/// All servers are restarted in turn, while devices and admins are at work: no message of a device fails.
async fn rolling_restart(run: &mut Run, patience: Duration) -> Result<()> {
    let answered = "messages of devices that were answered";
    let before = run.world.counts.get(answered);
    run.world.is_strict.store(true, Ordering::SeqCst);
    run.phase.send(Phase::Load)?;
    let actions = Arc::new(AtomicU64::new(0));
    let mut admins = JoinSet::new();
    for _ in 0..2 {
        admins.spawn(admin::act(Arc::clone(&run.world), run.admins.clone(), Arc::clone(&actions)));
    }
    for _ in 0..TURNS {
        for server in &run.site.servers {
            server.stop().await?;
            run.site.ready().await?;
            sleep(SEEN).await;
            run.judge()?;
        }
    }
    run.phase.send(Phase::Calm)?;
    while admins.join_next().await.is_some() {}
    run.rest(patience).await?;
    run.world.is_strict.store(false, Ordering::SeqCst);
    let messages = run.world.counts.get(answered) - before;
    run.check().await?;
    if messages < 200 {
        return Err(format!("only {messages} messages of devices came while the servers were restarted").into());
    }
    tell(&format!("  {TURNS} rolling restarts under load: {messages} messages of devices, none failed"));
    Ok(())
}

/// All servers are restarted while pushes are under way: none is lost, and none is sent twice.
async fn restart_with_pushes(run: &mut Run, patience: Duration) -> Result<()> {
    let before = run.pushes();
    begin_wave(run, "restart", Duration::from_millis(500)).await;
    for server in &run.site.servers {
        server.stop().await?;
        run.site.ready().await?;
    }
    run.world.apns.clear_faults();
    run.rest(patience).await?;
    for (number, (before, after)) in before.iter().zip(run.pushes()).enumerate() {
        if after - before != 1 {
            let text = format!("{} pushes for one command, while all servers were restarted", after - before);
            run.world.ledger.violation(Some(number), text);
        }
    }
    run.judge()?;
    tell("  a restart of all with pushes under way: each was sent once");
    Ok(())
}

/// One server alone takes a command for all and is killed at once; another has just come up. How long until every device
/// has done as it was told.
async fn take_over(run: &mut Run, what: &str, delay: Duration, patience: Duration) -> Result<Duration> {
    let before = run.pushes();
    let site = Arc::clone(&run.site);
    let (first, others) = site.servers.split_first().ok_or("no servers")?;
    for server in others {
        server.hold(true);
        server.stop().await?;
    }
    sleep(SEEN).await;
    if delay.is_zero() {
        run.ask_all(what).await;
    } else {
        begin_wave(run, what, delay).await;
    }
    for server in others {
        server.hold(false);
    }
    first.hold(true);
    if delay.is_zero() {
        first.kill();
    }
    for server in others {
        while !server.is_ready().await {
            run.site.check()?;
            sleep(Duration::from_millis(10)).await;
        }
    }
    first.kill();
    run.world.apns.clear_faults();
    let killed = Instant::now();
    run.rest(patience).await?;
    let took = killed.elapsed();
    first.hold(false);
    run.site.ready().await?;
    for (number, (before, after)) in before.iter().zip(run.pushes()).enumerate() {
        if !(1..=2).contains(&(after - before)) {
            let text = format!("{} pushes for one command and one kill", after - before);
            run.world.ledger.violation(Some(number), text);
        }
    }
    run.judge()?;
    Ok(took)
}

/// A command for all; returns when its first push is under way, which APNs takes after a while.
async fn begin_wave(run: &Run, key: &str, delay: Duration) {
    let requests = run.world.apns.counters().requests;
    run.world.apns.inject(Fault::always(FaultKind::delay(delay)));
    run.ask_all(key).await;
    let limit = Instant::now() + Duration::from_secs(10);
    while run.world.apns.counters().requests == requests && Instant::now() < limit {
        sleep(Duration::from_millis(1)).await;
    }
}
