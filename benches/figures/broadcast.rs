//! One command to the whole fleet, through the API.

use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::Result;
use crate::bulk::Names;
use crate::context::{Context, Limits};
use crate::fleet::Fleet;
use crate::messages::{Shown, command_in, idle, report};
use crate::wire::Wire;

/// How long it may take until the command is accepted.
const ACCEPTED: Duration = Duration::from_secs(1);
/// By how much the server's memory may grow meanwhile, MB (2^20 bytes).
const GROWTH: f64 = 50.0;
/// When the work behind it is given up.
const PATIENCE: Duration = Duration::from_secs(600);
const WORK: &str = "command to the whole fleet";

pub async fn measure(context: &mut Context<'_>) -> Result<()> {
    for number in 0..context.fleets.len() {
        let Some(fleet) = context.fleets.get_mut(number) else { continue };
        fleet.stop().await?;
        fleet.start().await?;
        let (label, outcome) = (fleet.shape.label.clone(), send(fleet).await?);
        let rows = [
            (
                "accepted",
                format!("{:.1} ms", outcome.accepted.as_secs_f64() * 1000.0),
                Some(Limits { text: format!("under {} s", ACCEPTED.as_secs()), kept: outcome.accepted < ACCEPTED }),
                String::new(),
            ),
            (
                "the last device has it",
                format!("{:.1} ms", outcome.fetched.as_secs_f64() * 1000.0),
                None,
                "since it was sent; asked for as soon as it was accepted".to_owned(),
            ),
            (
                "each device has a delivery",
                format!("{:.2} s", outcome.all.as_secs_f64()),
                None,
                format!(
                    "server {:.1} us and database {:.1} us for each",
                    outcome.server.as_secs_f64() * 1e6 / crate::load::count(fleet.shape.count),
                    outcome.database.as_secs_f64() * 1e6 / crate::load::count(fleet.shape.count)
                ),
            ),
            (
                "memory meanwhile",
                format!("{:+.1} MB", outcome.peak - outcome.before),
                Some(Limits {
                    text: format!("at most {GROWTH} MB more"),
                    kept: outcome.peak - outcome.before <= GROWTH,
                }),
                format!("from {:.1} MB", outcome.before),
            ),
        ];
        let part = json!({
            "accepted_seconds": outcome.accepted.as_secs_f64(), "last_device_seconds": outcome.fetched.as_secs_f64(),
            "all_seconds": outcome.all.as_secs_f64(), "resident_mb_before": outcome.before, "peak_mb": outcome.peak,
            "server_cpu_seconds": outcome.server.as_secs_f64(), "postgres_cpu_seconds": outcome.database.as_secs_f64(),
        });
        for (what, measured, limit, note) in rows {
            context.row(&format!("{WORK}: {what}"), &label, measured, limit, note);
        }
        context.put(WORK, &label, part);
    }
    Ok(())
}

struct Outcome {
    accepted: Duration,
    fetched: Duration,
    all: Duration,
    server: Duration,
    database: Duration,
    before: f64,
    peak: f64,
}

async fn send(fleet: &Fleet) -> Result<Outcome> {
    let last = fleet.driven.last().ok_or("no device")?;
    let poll = report(&Shown::in_header(&last.certificate), &idle(&Names::udid(last.number)));
    // What is read once is read before: its certificate, and what other commands wait for it.
    let mut wire = Wire::connect(fleet.installation.devices).await?;
    wire.expect_nothing(&poll).await?;
    let mut sql = fleet.sql().await?;

    let server = fleet.server()?;
    server.forget_peak()?;
    let (memory, meter) = (server.memory()?, fleet.meter()?);
    let before = meter.cpu()?;
    let begin = Instant::now();
    let body = json!({"targets": {"all": true}, "command": {"type": "security_info"}, "no_push": true}).to_string();
    let answer = fleet.call("POST /api/v1/commands", body.as_bytes()).await?;
    let accepted = begin.elapsed();
    if answer.status != 202 {
        return Err(answer.unexpected());
    }
    let offered = loop {
        let offered = wire.ask(&poll).await?;
        if offered.status != 200 || begin.elapsed() > PATIENCE {
            return Err(offered.unexpected());
        }
        if command_in(&offered.body).is_some() {
            break begin.elapsed();
        }
        sleep(Duration::from_millis(5)).await;
    };
    let open = "SELECT COUNT(*) FROM commands WHERE fleet_number IS NOT NULL AND materialized = FALSE";
    while sql.number(open).await? > 0 {
        if begin.elapsed() > PATIENCE {
            return Err("the deliveries of a command to all were not made in time".into());
        }
        sleep(Duration::from_millis(20)).await;
    }
    let all = begin.elapsed();
    sql.close().await?;
    let after = meter.cpu()?;
    Ok(Outcome {
        accepted,
        fetched: offered,
        all,
        server: after.0.saturating_sub(before.0),
        database: after.1.saturating_sub(before.1),
        before: memory.resident,
        peak: server.memory()?.peak,
    })
}
