//! A command that reaches a device: the device asks, gets it, answers, and there is no other.

use std::sync::Arc;

use bytes::Bytes;

use crate::Result;
use crate::bulk::{Driven, Names};
use crate::context::{Context, Limits, Requests, Runs};
use crate::database::Kind;
use crate::fleet::Fleet;
use crate::idle::FLAT;
use crate::load::{Errand, Link, Sample, Turn, Until, drive, whole};
use crate::messages::{Shown, acknowledged, command_in, idle, place_of_command, report, with_command};

const CONNECTIONS: usize = 256;
/// How many in a second there must be, each written to the disk.
const LIMIT_SQLITE: f64 = 10_000.0;
const LIMIT_POSTGRES: f64 = 5_000.0;
const WORK: &str = "durable command cycle, 256 connections";

pub async fn measure(context: &mut Context<'_>) -> Result<()> {
    context.start_all().await?;
    let mut cycles = Vec::new();
    for fleet in &context.fleets {
        let all = Cycle::of(fleet)?;
        // What is checked once for each device does not count.
        let (polls, until) = (all.polls(), Until::Count { warm: 0, counted: fleet.driven.len() });
        let (address, meter) = (fleet.installation.devices, fleet.meter()?);
        drive(Requests::new(polls, 1), address, CONNECTIONS, until, meter).await?;
        let few = fleet.driven.len().min(2 * CONNECTIONS);
        let rate = burst(fleet, &all, few).await?.rate();
        let most = context.size.cycles.min(whole(rate * context.size.seconds()).max(few));
        cycles.push((all, most));
    }
    let mut runs: Vec<_> = context.fleets.iter().map(Runs::new).collect();
    for _ in 0..context.size.runs {
        for ((fleet, (cycle, most)), runs) in context.fleets.iter().zip(&cycles).zip(&mut runs) {
            let mut sample = burst(fleet, cycle, *most).await?;
            while sample.done < *most {
                sample = sample.plus(burst(fleet, cycle, *most).await?);
            }
            let until = Until::Count { warm: CONNECTIONS, counted: context.size.cycles };
            runs.ceiling.push(context.ceiling(&cycle.plain(), 2, CONNECTIONS, until).await?);
            runs.samples.push(sample);
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

/// One cycle of each of at most so many devices. One command for each at a time: otherwise the next one would come with
/// the answer.
async fn burst(fleet: &Fleet, cycle: &Cycle, most: usize) -> Result<Sample> {
    let devices = fleet.driven.get(..most.min(fleet.driven.len())).unwrap_or_default();
    fleet.send("restart", devices).await?;
    let until = Until::Count { warm: 0, counted: devices.len() };
    drive(cycle.clone(), fleet.installation.devices, CONNECTIONS, until, fleet.meter()?).await
}

/// The two requests of each device.
#[derive(Clone)]
struct Cycle {
    devices: Arc<[(Bytes, Bytes, usize)]>,
}

impl Cycle {
    fn of(fleet: &Fleet) -> Result<Self> {
        let device = |one: &Driven| {
            let (shown, udid) = (Shown::in_header(&one.certificate), Names::udid(one.number));
            let answer = report(&shown, &acknowledged(&udid));
            let place = place_of_command(&answer)?;
            Ok((report(&shown, &idle(&udid)), answer, place))
        };
        Ok(Self { devices: fleet.driven.iter().map(device).collect::<Result<_>>()? })
    }

    fn polls(&self) -> Vec<Bytes> {
        self.devices.iter().map(|(poll, ..)| poll.clone()).collect()
    }

    /// The same requests, for the handler that does nothing.
    fn plain(&self) -> Vec<Bytes> {
        self.devices.iter().flat_map(|(poll, answer, _)| [poll.clone(), answer.clone()]).collect()
    }
}

impl Errand for Cycle {
    async fn run(&self, link: &mut Link, turn: Turn) -> Result<bool> {
        let Some((poll, answer, at)) = self.devices.get(turn.number) else { return Ok(false) };
        let wire = link.wire().await?;
        let offered = wire.ask_again(poll).await?;
        let Some(command) = command_in(&offered.body).filter(|_| offered.status == 200) else {
            return Err(format!("no command where one waits: {}", offered.unexpected()).into());
        };
        wire.expect_nothing(&with_command(answer, *at, command)?).await?;
        Ok(true)
    }
}
