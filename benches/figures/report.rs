//! The figures for people, and for programs.

use std::fs;
use std::io::Write as _;
use std::path::Path;

use comfy_table::{ContentArrangement, Table, presets};
use serde_json::{Map, Value, json};

use crate::Result;
use crate::machine::Machine;

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
}

impl Report {
    pub fn new(quick: bool) -> Result<Self> {
        Ok(Self { machine: Machine::describe()?, quick, rows: Vec::new(), parts: Map::new() })
    }

    pub fn add(&mut self, row: Row) {
        self.rows.push(row);
    }

    /// Adds a part for programs.
    pub fn put(&mut self, name: &str, part: Value) {
        self.parts.insert(name.to_owned(), part);
    }

    /// Shows the table, writes the JSON, and says whether all limits are kept.
    pub fn finish(self, json: &Path) -> Result<bool> {
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
        Ok(kept)
    }
}
