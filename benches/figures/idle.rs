//! The idle poll: a device asks whether there is something to do, and there is not.

use std::time::Duration;

use bytes::Bytes;

use crate::Result;
use crate::bulk::Names;
use crate::context::{Context, Limits, Requests, Runs};
use crate::database::Kind;
use crate::fleet::Fleet;
use crate::load::{Until, drive};
use crate::messages::{Shown, idle, report};

/// How many times as much as the handler that does nothing a poll may cost.
const RATIO_SQLITE: f64 = 2.5;
const RATIO_POSTGRES: f64 = 3.0;
/// What PostgreSQL may use for one, microseconds, at so many connections.
const POSTGRES_MICROS: f64 = 10.0;
const POSTGRES_CONNECTIONS: usize = 256;
/// How many times as much it may cost in a large fleet as in a small one.
pub const FLAT: f64 = 1.25;

pub async fn measure(context: &mut Context<'_>) -> Result<()> {
    context.start_all().await?;
    for connections in [64, 256] {
        let work = format!("idle poll, {connections} connections");
        let mut runs: Vec<_> = context.fleets.iter().map(Runs::new).collect();
        let polls: Vec<_> = context.fleets.iter().map(polls).collect();
        for (fleet, polls) in context.fleets.iter().zip(&polls) {
            // The server checks the signature of a certificate once: not what is measured here.
            let until = Until::Count { warm: 0, counted: polls.len() + connections };
            drive(Requests::new(polls.clone(), 1), fleet.installation.devices, connections, until, fleet.meter()?)
                .await?;
        }
        for _ in 0..context.size.runs {
            for ((fleet, polls), runs) in context.fleets.iter().zip(&polls).zip(&mut runs) {
                runs.ceiling.push(context.ceiling(polls, 1, connections, context.a_while()).await?);
                let errand = Requests::new(polls.clone(), 1);
                let (address, meter) = (fleet.installation.devices, fleet.meter()?);
                runs.samples.push(drive(errand, address, connections, context.a_while(), meter).await?);
            }
        }
        for runs in &runs {
            let most = match context.kind {
                Kind::Sqlite => RATIO_SQLITE,
                Kind::Postgres => RATIO_POSTGRES,
            };
            let ratio = runs.ratio();
            let limit = Limits { text: format!("at most {most} times"), kept: ratio.median <= most };
            let note = format!("{} /s; {}", runs.rate(), runs.note());
            context.row(&work, &runs.fleet, format!("{ratio} times"), Some(limit), note);
            if context.kind == Kind::Postgres {
                let used = runs.database();
                let limit = (connections == POSTGRES_CONNECTIONS).then(|| Limits {
                    text: format!("below {POSTGRES_MICROS} us"),
                    kept: used.median < POSTGRES_MICROS,
                });
                let work = format!("PostgreSQL for an {work}");
                context.row(&work, &runs.fleet, format!("{used} us"), limit, String::new());
            }
            context.put(&work, &runs.fleet, runs.json());
        }
        context.flatness(&work, &runs, FLAT);
    }
    Ok(())
}

/// The polls of the driven devices.
pub fn polls(fleet: &Fleet) -> Vec<Bytes> {
    let poll = |one: &crate::bulk::Driven| report(&Shown::in_header(&one.certificate), &idle(&Names::udid(one.number)));
    fleet.driven.iter().map(poll).collect()
}

/// The resident memory of servers that have just started.
pub async fn memory(context: &mut Context<'_>) -> Result<()> {
    /// What a server may take, MB (2^20 bytes).
    const LIMIT: f64 = 200.0;
    context.stop_all().await?;
    context.start_all().await?;
    tokio::time::sleep(Duration::from_secs(4)).await;
    for number in 0..context.fleets.len() {
        let Some(fleet) = context.fleets.get(number) else { continue };
        let (memory, label) = (fleet.server()?.memory()?, fleet.shape.label.clone());
        let limit = Limits { text: format!("below {LIMIT} MB"), kept: memory.resident < LIMIT };
        let measured = format!("{:.1} MB", memory.resident);
        context.row("resident memory, idle", &label, measured, Some(limit), format!("at most {:.1} MB", memory.peak));
        let part = serde_json::json!({"resident_mb": memory.resident, "peak_mb": memory.peak});
        context.put("resident memory, idle", &label, part);
    }
    Ok(())
}
