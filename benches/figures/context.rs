//! What the measurements of one kind of database share.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};

use crate::database::Kind;
use crate::fleet::Fleet;
use crate::load::{Errand, Link, Meter, Sample, Turn, Until, drive};
use crate::plot::Point;
use crate::process::Process;
use crate::report::{Report, Row};
use crate::spread::Spread;
use crate::{Result, Size, tell};

/// The fleets on one kind of database, and the handler that does nothing.
pub struct Context<'a> {
    pub kind: Kind,
    pub fleets: Vec<Fleet>,
    pub baseline: &'a Process,
    pub baseline_at: SocketAddr,
    pub size: &'a Size,
    pub report: &'a mut Report,
}

/// The runs of one kind of work by one fleet, beside those of the handler that does nothing.
pub struct Runs {
    pub fleet: String,
    pub samples: Vec<Sample>,
    pub ceiling: Vec<Sample>,
}

/// What one kind of work may cost.
pub struct Limits {
    /// As it stands in the table.
    pub text: String,
    pub kept: bool,
}

impl Runs {
    pub fn new(fleet: &Fleet) -> Self {
        Self { fleet: fleet.shape.label.clone(), samples: Vec::new(), ceiling: Vec::new() }
    }

    pub fn server(&self) -> Spread {
        Spread::of(self.samples.iter().map(Sample::server_micros))
    }

    pub fn database(&self) -> Spread {
        Spread::of(self.samples.iter().map(Sample::database_micros))
    }

    pub fn rate(&self) -> Spread {
        Spread::of(self.samples.iter().map(Sample::rate))
    }

    /// How many times as much processor time of the server as the handler that does nothing takes.
    pub fn ratio(&self) -> Spread {
        Spread::ratio(&self.samples, &self.ceiling, Sample::server_micros)
    }

    /// The processor time of server and database, how many times as much as in the runs of another fleet beside them.
    pub fn beside(&self, other: &Self) -> Spread {
        Spread::ratio(&self.samples, &other.samples, |sample| sample.server_micros() + sample.database_micros())
    }

    pub fn note(&self) -> String {
        let mut note = format!("server {} us", self.server());
        if !self.ceiling.is_empty() {
            let ceiling = Spread::of(self.ceiling.iter().map(Sample::server_micros));
            note = format!("{note} beside {ceiling} us");
        }
        if self.samples.iter().any(|sample| !sample.database.is_zero()) {
            note = format!("{note}; PostgreSQL {} us", self.database());
        }
        let put_off: usize = self.samples.iter().map(|sample| sample.put_off).sum();
        if put_off > 0 {
            note = format!("{note}; {put_off} put off");
        }
        let load = Spread::of(self.samples.iter().map(Sample::load_micros));
        format!("{note}; load {:.0} us", load.median)
    }

    pub fn json(&self) -> Value {
        let spread = |value: fn(&Sample) -> f64| Spread::of(self.samples.iter().map(value)).json();
        let mut json = json!({
            "runs": self.samples.len(), "put_off": self.samples.iter().map(|sample| sample.put_off).sum::<usize>(),
            "per_second": spread(Sample::rate), "server_cpu_us": spread(Sample::server_micros),
            "postgres_cpu_us": spread(Sample::database_micros), "load_cpu_us": spread(Sample::load_micros),
        });
        if !self.ceiling.is_empty() {
            json["ceiling_cpu_us"] = Spread::of(self.ceiling.iter().map(Sample::server_micros)).json();
            json["ceiling_per_second"] = Spread::of(self.ceiling.iter().map(Sample::rate)).json();
            json["ratio"] = self.ratio().json();
        }
        json
    }
}

impl Context<'_> {
    /// The handler that does nothing, asked the same.
    pub async fn ceiling(&self, requests: &[Bytes], each: usize, connections: usize, until: Until) -> Result<Sample> {
        let meter = Meter { server: self.baseline.id(), postmaster: None };
        drive(Requests::new(requests.to_vec(), each), self.baseline_at, connections, until, meter).await
    }

    /// For so long, after a moment that does not count.
    pub fn a_while(&self) -> Until {
        Until::Time {
            warm: Duration::from_millis(self.size.millis / 10),
            counted: Duration::from_millis(self.size.millis),
        }
    }

    /// Starts the servers that do not run.
    pub async fn start_all(&mut self) -> Result<()> {
        for fleet in &mut self.fleets {
            fleet.start().await?;
        }
        Ok(())
    }

    /// Stops the servers that run.
    pub async fn stop_all(&mut self) -> Result<()> {
        for fleet in &mut self.fleets {
            fleet.stop().await?;
        }
        Ok(())
    }

    /// A row of the table.
    pub fn row(&mut self, work: &str, fleet: &str, measured: String, limit: Option<Limits>, note: String) {
        let figure = format!("{work}, {}, {fleet}", self.kind.name());
        tell(&format!("  {figure}: {measured}; {note}"));
        self.report.add(Row { figure, measured, limit: limit.map(|limit| (limit.text, limit.kept)), note });
    }

    /// A part for programs: under the work, the kind of database, and the fleet.
    pub fn put(&mut self, work: &str, fleet: &str, part: Value) {
        self.report.put(&[work, self.kind.key(), fleet], part);
    }

    /// How the cost grows with the fleet, beside the first.
    pub fn flatness(&mut self, work: &str, runs: &[Runs], most: f64) {
        for (fleet, runs) in self.fleets.iter().zip(runs).filter(|(fleet, _)| fleet.shape.commands == 1) {
            let micros = Spread::of(runs.samples.iter().map(|s| s.server_micros() + s.database_micros())).median;
            let line = format!("{work}, {}", self.kind.name());
            self.report.point(Point { line, devices: fleet.shape.count, micros });
        }
        let Some((first, others)) = runs.split_first() else { return };
        for other in others {
            let ratio = other.beside(first);
            let limit = Limits { text: format!("at most {most} times"), kept: ratio.median <= most };
            let what = format!("{work}, beside {}", first.fleet);
            self.row(
                &what,
                &other.fleet,
                format!("{ratio} times"),
                Some(limit),
                "server and database together".to_owned(),
            );
            self.report.put(&[work, self.kind.key(), &other.fleet, "beside_the_first"], ratio.json());
        }
    }
}

/// Prepared requests in turn, which are answered 200 without a body.
pub struct Requests {
    requests: Vec<Bytes>,
    /// How many make one step.
    each: usize,
}

impl Requests {
    pub const fn new(requests: Vec<Bytes>, each: usize) -> Self {
        Self { requests, each }
    }
}

impl Errand for Requests {
    async fn run(&self, link: &mut Link, turn: Turn) -> Result<bool> {
        let wire = link.wire().await?;
        for number in 0..self.each {
            let at = (turn.number * self.each + number) % self.requests.len().max(1);
            wire.expect_nothing(self.requests.get(at).ok_or("no requests")?).await?;
        }
        Ok(true)
    }
}
