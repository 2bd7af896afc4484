//! The figures for people, and for programs.

use std::fs;
use std::io::Write as _;
use std::path::Path;

use comfy_table::{ContentArrangement, Table, presets};
use serde_json::{Map, Value, json};

use crate::Result;
use crate::machine::Machine;
use crate::plot::{self, Point};

/// One figure.
pub struct Row {
    pub figure: String,
    pub measured: String,
    /// What it should be, and whether it is.
    pub limit: Option<(String, bool)>,
    pub note: String,
}

/// All figures of a run.
pub struct Report {
    machine: Machine,
    quick: bool,
    rows: Vec<Row>,
    parts: Map<String, Value>,
    points: Vec<Point>,
}

impl Report {
    pub fn new(quick: bool) -> Result<Self> {
        Ok(Self { machine: Machine::describe()?, quick, rows: Vec::new(), parts: Map::new(), points: Vec::new() })
    }

    pub fn add(&mut self, row: Row) {
        self.rows.push(row);
    }

    /// Adds a point to the plot.
    pub fn point(&mut self, point: Point) {
        self.points.push(point);
    }

    /// Adds a part for programs, at this path; what stands there already and is an object is kept beside it.
    pub fn put(&mut self, path: &[&str], part: Value) {
        let mut place = &mut self.parts;
        for name in path {
            if !place.get(*name).is_some_and(Value::is_object) {
                place.insert((*name).to_owned(), Value::Object(Map::new()));
            }
            match place.get_mut(*name).and_then(Value::as_object_mut) {
                Some(inner) => place = inner,
                None => return,
            }
        }
        if let Value::Object(members) = part {
            place.extend(members);
        }
    }

    /// Shows the table, writes the JSON, and says whether all limits are kept.
    pub fn finish(self, json: &Path, svg: &Path) -> Result<bool> {
        let mut table = Table::new();
        table.load_preset(presets::UTF8_BORDERS_ONLY).set_content_arrangement(ContentArrangement::Disabled);
        table.set_header(["figure", "measured", "limit", "", "note"]);
        for row in &self.rows {
            let (limit, verdict) = match &row.limit {
                None => ("", ""),
                Some((limit, true)) => (limit.as_str(), "kept"),
                Some((limit, false)) => (limit.as_str(), "MISSED"),
            };
            table.add_row([&row.figure, &row.measured, limit, verdict, &row.note]);
        }
        let profile = if cfg!(debug_assertions) { "a build for development" } else { "a release build" };
        let quick = if self.quick { ", a quick run: these figures say little" } else { "" };
        let mut out = anstream::stdout();
        writeln!(out, "\n{}\n{profile}{quick}\n\n{table}", self.machine.text())?;

        let kept = self.rows.iter().filter_map(|row| row.limit.as_ref()).all(|(_, kept)| *kept);
        let mut whole = json!({
            "machine": self.machine.json(), "release": !cfg!(debug_assertions), "quick": self.quick,
            "limits_kept": kept,
        });
        if let Some(members) = whole.as_object_mut() {
            members.extend(self.parts);
        }
        fs::write(json, format!("{whole:#}\n")).map_err(|why| format!("{}: {why}", json.display()))?;
        writeln!(out, "\nas JSON: {}", json.display())?;
        if !self.points.is_empty() {
            fs::write(svg, plot::draw(&self.points)).map_err(|why| format!("{}: {why}", svg.display()))?;
            writeln!(out, "as a plot: {}", svg.display())?;
        }
        Ok(kept)
    }
}
