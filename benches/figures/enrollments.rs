//! Enrollments as the server sees them: Authenticate and TokenUpdate of new devices, whose certificates were issued by a
//! link that any number may use.

use std::sync::Arc;

use bytes::Bytes;

use crate::Result;
use crate::bulk::Names;
use crate::context::{Context, Limits, Runs};
use crate::database::Kind;
use crate::fleet::{Enrollee, Fleet};
use crate::idle::FLAT;
use crate::load::{Errand, Link, Turn, Until, drive, whole};
use crate::messages::{Shown, check_in, enrollment};

const CONNECTIONS: usize = 256;
/// How many in a second there must be, each written to the disk.
const LIMIT_SQLITE: f64 = 8_000.0;
const LIMIT_POSTGRES: f64 = 3_000.0;
const WORK: &str = "enrollment, 256 connections";

pub async fn measure(context: &mut Context<'_>) -> Result<()> {
    let mut newcomers = Vec::new();
    for fleet in &mut context.fleets {
        crate::tell(&format!("  certificates for enrollments, {}", fleet.shape.label));
        // A few, to see how many can be waited for.
        let few = (2 * CONNECTIONS).min(context.size.enrollments);
        let devices = prepare(fleet, few).await?;
        let (address, until) = (fleet.installation.devices, Until::Count { warm: 0, counted: few });
        let rate =
            drive(Enrollment { devices: devices.into() }, address, CONNECTIONS, until, fleet.meter()?).await?.rate();
        let each = context.size.enrollments.min(whole(rate * context.size.seconds()).max(few));
        newcomers.push((prepare(fleet, each * context.size.runs).await?, each));
    }
    let mut runs: Vec<_> = context.fleets.iter().map(Runs::new).collect();
    for run in 0..context.size.runs {
        for ((fleet, (newcomers, each)), runs) in context.fleets.iter().zip(&newcomers).zip(&mut runs) {
            let until = Until::Count { warm: each / 10, counted: each - each / 10 };
            let these = newcomers.chunks(*each).nth(run).ok_or("too few devices enroll")?;
            let plain: Vec<_> = these.iter().flatten().cloned().collect();
            runs.ceiling.push(context.ceiling(&plain, 2, CONNECTIONS, until).await?);
            let errand = Enrollment { devices: these.into() };
            let (address, meter) = (fleet.installation.devices, fleet.meter()?);
            runs.samples.push(drive(errand, address, CONNECTIONS, until, meter).await?);
        }
    }
    for runs in &runs {
        let least = match context.kind {
            Kind::Sqlite => LIMIT_SQLITE,
            Kind::Postgres => LIMIT_POSTGRES,
        };
        let rate = runs.rate();
        let limit = Limits { text: format!("at least {least:.0} /s"), kept: rate.median >= least };
        context.row(WORK, &runs.fleet, format!("{rate} /s"), Some(limit), runs.note());
        context.put(WORK, &runs.fleet, runs.json());
    }
    context.flatness(WORK, &runs, FLAT);
    Ok(())
}

/// The messages of new devices, to a server that has just started.
async fn prepare(fleet: &mut Fleet, count: usize) -> Result<Vec<[Bytes; 2]>> {
    fleet.stop().await?;
    let enrollees = fleet.enrollees(count).await?;
    fleet.start().await?;
    Ok(enrollees.iter().map(messages).collect())
}

fn messages(one: &Enrollee) -> [Bytes; 2] {
    let shown = Shown::in_header(&one.certificate);
    enrollment(&Names::udid(one.number), one.number).map(|body| check_in(&shown, &body))
}

struct Enrollment {
    devices: Arc<[[Bytes; 2]]>,
}

impl Errand for Enrollment {
    async fn run(&self, link: &mut Link, turn: Turn) -> Result<bool> {
        let Some(messages) = self.devices.get(turn.number) else { return Ok(false) };
        let wire = link.wire().await?;
        for message in messages {
            wire.expect_nothing(message).await?;
        }
        Ok(true)
    }
}
