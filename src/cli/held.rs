//! `muster held`: commands that are held since the database was restored. Works beside a running server.

use std::fmt::Write as _;

use clap::{Args, Subcommand};
use serde_json::json;

use super::completions::write;
use super::{Error, SettingsFile, table, token};
use crate::model::{CommandId, Timestamp};
use crate::service::{Actor, commands, held};
use crate::store::ListedCommand;

/// How many commands are read at once.
const PAGE: i64 = 500;

/// Options of `muster held`.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List them, oldest first.
    List {
        #[command(flatten)]
        settings: SettingsFile,
        /// Write a JSON array.
        #[arg(long)]
        json: bool,
    },
    /// Let them go on: their devices are woken and get them.
    Release {
        #[command(flatten)]
        settings: SettingsFile,
        /// The commands' ids, as listed.
        #[arg(required_unless_present = "all", conflicts_with = "all")]
        ids: Vec<CommandId>,
        /// All that are held now.
        #[arg(long)]
        all: bool,
    },
    /// Withdraw them from all devices that do not have them.
    Cancel {
        #[command(flatten)]
        settings: SettingsFile,
        /// The commands' ids, as listed.
        #[arg(required = true)]
        ids: Vec<CommandId>,
    },
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Error> {
    match &arguments.verb {
        Verb::List { settings, json } => token::with_app(settings, async |app| {
            let mut rows: Vec<ListedCommand> = Vec::new();
            loop {
                let more = held::list(app, rows.last().map(|row| row.id), PAGE).await?;
                if more.is_empty() {
                    break;
                }
                rows.extend(more);
            }
            let text = if *json { as_json(&rows) } else { as_table(&rows) };
            write(&mut std::io::stdout().lock(), text.as_bytes())
        }),
        Verb::Release { settings, ids, all } => token::with_app(settings, async |app| {
            let actor = Actor::command_line();
            let released = if *all {
                let count = held::count(app).await?;
                held::release_all(app, &actor, Some(count)).await?
            } else {
                for id in ids {
                    held::release(app, &actor, *id).await?;
                }
                ids.len() as u64
            };
            write(&mut std::io::stdout().lock(), format!("{released} commands go on\n").as_bytes())
        }),
        Verb::Cancel { settings, ids } => token::with_app(settings, async |app| {
            let mut text = String::new();
            for id in ids {
                let done = commands::cancel(app, &Actor::command_line(), *id).await?;
                // Writing into a String cannot fail.
                let _ = writeln!(
                    text,
                    "{id}: withdrawn from {} devices; {} had it or have it still",
                    done.cancelled, done.not_cancelled
                );
            }
            write(&mut std::io::stdout().lock(), text.as_bytes())
        }),
    }
}

fn as_table(rows: &[ListedCommand]) -> String {
    if rows.is_empty() {
        return "nothing is held\n".to_owned();
    }
    let mut table = table::with_header(["ID", "COMMAND", "TARGETS", "ASKED FOR", "BY"]);
    for row in rows {
        table.add_row([
            row.id.to_string(),
            row.request_type.clone(),
            row.target_count.to_string(),
            Timestamp::from_seconds(row.created_at.seconds()).to_string(),
            row.created_by.clone(),
        ]);
    }
    table::text(&table)
}

fn as_json(rows: &[ListedCommand]) -> String {
    let rows: Vec<_> = rows
        .iter()
        .map(|row| {
            json!({
                "id": row.id, "type": row.verb, "request_type": row.request_type, "target": row.target,
                "targets": row.target_count, "created_at": row.created_at, "created_by": row.created_by,
                "expires_at": row.expires_at, "held_at": row.held_at,
            })
        })
        .collect();
    let mut text = serde_json::to_string_pretty(&rows).unwrap_or_default();
    text.push('\n');
    text
}
