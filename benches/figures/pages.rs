//! First pages of what admins look at, through the API.

use std::time::Duration;

use bytes::Bytes;

use crate::Result;
use crate::bulk::Names;
use crate::context::{Context, Runs};
use crate::fleet::Fleet;
use crate::idle::FLAT;
use crate::load::{Errand, Link, Turn, Until, drive};

const CONNECTIONS: usize = 4;

pub async fn measure(context: &mut Context<'_>) -> Result<()> {
    context.start_all().await?;
    let millis = (context.size.millis / 5).max(100);
    let until = Until::Time { warm: Duration::from_millis(millis / 4), counted: Duration::from_millis(millis) };
    for (work, line) in PAGES {
        let mut runs: Vec<_> = context.fleets.iter().map(Runs::new).collect();
        for _ in 0..context.size.runs {
            for (fleet, runs) in context.fleets.iter().zip(&mut runs) {
                let errand = Get { request: fleet.request(&line(fleet)?, b"") };
                runs.samples.push(drive(errand, fleet.installation.admin, CONNECTIONS, until, fleet.meter()?).await?);
            }
        }
        for runs in &runs {
            let note = format!("{} /s; {}", runs.rate(), runs.note());
            context.row(work, &runs.fleet, format!("{} us", runs.server()), None, note);
            context.put(work, &runs.fleet, runs.json());
        }
        context.flatness(work, &runs, FLAT);
    }
    Ok(())
}

type Line = fn(&Fleet) -> Result<String>;

/// What is asked for, and how.
const PAGES: &[(&str, Line)] = &[
    ("page of devices", |_| Ok("GET /api/v1/devices".to_owned())),
    ("page of devices by state", |_| Ok("GET /api/v1/devices?state=enabled".to_owned())),
    ("page of devices by a text of all", |_| Ok("GET /api/v1/devices?q=iphone".to_owned())),
    ("page of devices by a text of one", |fleet| {
        Ok(format!("GET /api/v1/devices?q={}", Names::serial(fleet.shape.count / 2).to_lowercase()))
    }),
    ("page of devices by serial number", |fleet| {
        Ok(format!("GET /api/v1/devices?serial={}", Names::serial(fleet.shape.count / 2)))
    }),
    ("page of commands", |_| Ok("GET /api/v1/commands".to_owned())),
    ("page of commands by type", |_| Ok("GET /api/v1/commands?type=security_info".to_owned())),
    ("page of commands by a type of none", |_| Ok("GET /api/v1/commands?type=wipe".to_owned())),
    ("page of a device's history by state", |fleet| {
        let id = fleet.names.device((fleet.shape.count / 2).max(1))?;
        Ok(format!("GET /api/v1/devices/{id}/commands?state=acknowledged"))
    }),
];

/// Asks for a page again and again.
struct Get {
    request: Bytes,
}

impl Errand for Get {
    async fn run(&self, link: &mut Link, _: Turn) -> Result<bool> {
        let answer = link.wire().await?.ask(&self.request).await?;
        if answer.status == 200 { Ok(true) } else { Err(answer.unexpected()) }
    }
}
