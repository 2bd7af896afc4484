//! An inventory report of 100 KB: the list of installed apps, parsed and stored.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use crate::Result;
use crate::bulk::{Driven, Names};
use crate::context::{Context, Limits, Runs};
use crate::idle::FLAT;
use crate::load::{Errand, Link, Turn, Until, drive};
use crate::messages::{Shown, command_in, idle, installed_apps, place_of_command, report, with_command};

const CONNECTIONS: usize = 64;
/// The size of a report, bytes.
const BYTES: usize = 100_000;
/// What one may cost the server, microseconds.
const LIMIT: f64 = 1_000.0;
const WORK: &str = "report of 100 KB, 64 connections";

pub async fn measure(context: &mut Context<'_>) -> Result<()> {
    context.start_all().await?;
    let mut runs: Vec<_> = context.fleets.iter().map(Runs::new).collect();
    for run in 0..=context.size.runs {
        for (fleet, runs) in context.fleets.iter().zip(&mut runs) {
            let these = fleet.driven.get(..context.size.reports.min(fleet.driven.len())).unwrap_or_default();
            fleet.send("installed_apps", these).await?;
            let until = Until::Count { warm: 0, counted: these.len() };
            let (address, meter) = (fleet.installation.devices, fleet.meter()?);
            // First all ask for the command, which does not count here; then all answer.
            let (polls, reports) = messages(these)?;
            let got = Arc::new(Mutex::new(vec![None; these.len()]));
            drive(Ask { polls, got: Arc::clone(&got) }, address, CONNECTIONS, until, meter).await?;
            let got = std::mem::take(&mut *got.lock().unwrap_or_else(PoisonError::into_inner));
            let filled = reports
                .iter()
                .zip(got)
                .map(|((report, place), command)| {
                    Ok(with_command(report, *place, &command.ok_or("a device got no command")?)?.freeze())
                })
                .collect::<Result<Vec<_>>>()?;
            let ceiling = context.ceiling(&filled, 1, CONNECTIONS, until).await?;
            let sample = drive(Tell { reports: filled }, address, CONNECTIONS, until, meter).await?;
            // The first run reads the certificates.
            if run > 0 {
                runs.ceiling.push(ceiling);
                runs.samples.push(sample);
            }
        }
    }
    for runs in &runs {
        let used = runs.server();
        let limit = Limits { text: format!("at most {LIMIT} us"), kept: used.median <= LIMIT };
        let note = format!("{} /s; {}", runs.rate(), runs.note());
        context.row(WORK, &runs.fleet, format!("{used} us"), Some(limit), note);
        context.put(WORK, &runs.fleet, runs.json());
    }
    context.flatness(WORK, &runs, FLAT);
    Ok(())
}

type Reports = Vec<(Bytes, usize)>;

fn messages(devices: &[Driven]) -> Result<(Vec<Bytes>, Reports)> {
    let mut messages = (Vec::new(), Vec::new());
    for one in devices {
        let (shown, udid) = (Shown::in_header(&one.certificate), Names::udid(one.number));
        let answer = report(&shown, &installed_apps(&udid, BYTES));
        let place = place_of_command(&answer)?;
        messages.0.push(report(&shown, &idle(&udid)));
        messages.1.push((answer, place));
    }
    Ok(messages)
}

/// Asks for the command.
struct Ask {
    polls: Vec<Bytes>,
    got: Arc<Mutex<Vec<Option<Bytes>>>>,
}

impl Errand for Ask {
    async fn run(&self, link: &mut Link, turn: Turn) -> Result<bool> {
        let Some(poll) = self.polls.get(turn.number) else { return Ok(false) };
        let offered = link.wire().await?.ask_again(poll).await?;
        let command = command_in(&offered.body).map(Bytes::copy_from_slice);
        if command.is_none() {
            return Err(format!("no command where one waits: {}", offered.unexpected()).into());
        }
        if let Some(place) = self.got.lock().unwrap_or_else(PoisonError::into_inner).get_mut(turn.number) {
            *place = command;
        }
        Ok(true)
    }
}

/// Answers it.
struct Tell {
    reports: Vec<Bytes>,
}

impl Errand for Tell {
    async fn run(&self, link: &mut Link, turn: Turn) -> Result<bool> {
        let Some(report) = self.reports.get(turn.number) else { return Ok(false) };
        link.wire().await?.expect_nothing(report).await?;
        Ok(true)
    }
}
