//! `muster token`: tokens for the API, for whoever can read the installation's files. Works beside a running server,
//! which sees each change at the next request.

use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::json;
use time::{Date, format_description::well_known::Iso8601};

use super::completions::write;
use super::{Error, SettingsFile, SystemClock, SystemRandomness, open, table};
use crate::model::{Role, Timestamp, TokenId};
use crate::service::tokens::{self, NewToken};
use crate::service::{Actor, App};
use crate::store::TokenRow;

/// Longest name, in characters.
const MAX_NAME: usize = 200;
/// How many tokens are read at once.
const PAGE: i64 = 500;

/// Options of `muster token`.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make a token. Its text alone goes to the standard output, this once.
    Create {
        #[command(flatten)]
        settings: SettingsFile,
        /// Whose it is, or what it is for.
        #[arg(long, value_parser = name)]
        name: String,
        /// What it may do: admin, operator or viewer.
        #[arg(long)]
        role: Role,
        /// When it ends: a duration (90d, 12h), a day (2027-01-31) or a time (2027-01-31T12:00:00Z). Without it, never.
        #[arg(long, value_name = "WHEN")]
        expires: Option<Expiry>,
    },
    /// List all tokens, newest first; those that ended too.
    List {
        #[command(flatten)]
        settings: SettingsFile,
        /// Write a JSON array.
        #[arg(long)]
        json: bool,
    },
    /// End a token at once.
    Revoke {
        #[command(flatten)]
        settings: SettingsFile,
        /// The token's id, as listed.
        id: TokenId,
    },
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Error> {
    match &arguments.verb {
        Verb::Create { settings, name, role, expires } => with_app(settings, async |app| {
            let now = app.clock.now();
            let expires_at = expires.map(|expires| expires.at(now));
            let new = NewToken { name: name.clone(), role: *role, expires_at };
            let made = tokens::create(app, &Actor::command_line(), new).await?;
            let end = expires_at.map_or_else(|| "never ends".to_owned(), |at| format!("ends {at}"));
            let id = made.row.id;
            let _ = writeln!(anstream::stderr(), "token {id}, {role}, {end}; its text is shown only now:");
            write(&mut std::io::stdout().lock(), format!("{}\n", made.text.expose()).as_bytes())
        }),
        Verb::List { settings, json } => with_app(settings, async |app| {
            let mut rows: Vec<TokenRow> = Vec::new();
            loop {
                let more = tokens::list(app, rows.last().map(|row| row.id), PAGE).await?;
                if more.is_empty() {
                    break;
                }
                rows.extend(more);
            }
            let text = if *json { as_json(&rows) } else { as_table(&rows, app.clock.now()) };
            write(&mut std::io::stdout().lock(), text.as_bytes())
        }),
        Verb::Revoke { settings, id } => with_app(settings, async |app| {
            tokens::revoke(app, &Actor::command_line(), *id).await?;
            write(&mut std::io::stdout().lock(), format!("token {id} is revoked\n").as_bytes())
        }),
    }
}

/// Does something with the domain, beside a server that may be running.
pub(super) fn with_app(file: &SettingsFile, work: impl AsyncFnOnce(&App) -> Result<(), Error>) -> Result<(), Error> {
    let settings = file.load()?;
    super::block_on(async move {
        let store = open::store(&settings, false).await?;
        let pending = store.pending_migrations().await?;
        if pending > 0 {
            return Err(Error::Refused(format!("the database lacks {pending} migrations; run `muster migrate`")));
        }
        let app = open::app(settings, store, Arc::new(SystemClock), Arc::new(SystemRandomness))?;
        let outcome = work(&app).await;
        app.store.close().await;
        outcome
    })
}

fn as_table(rows: &[TokenRow], now: Timestamp) -> String {
    if rows.is_empty() {
        return "there are no tokens\n".to_owned();
    }
    let mut table = table::with_header(["ID", "NAME", "ROLE", "STATE", "CREATED", "LAST USED"]);
    let second = |at: Timestamp| Timestamp::from_seconds(at.seconds()).to_string();
    for row in rows {
        let state = match (row.revoked_at, row.expires_at) {
            (Some(at), _) => format!("revoked {}", second(at)),
            (None, Some(at)) if at <= now => format!("ended {}", second(at)),
            (None, Some(at)) => format!("ends {}", second(at)),
            (None, None) => "holds".to_owned(),
        };
        table.add_row([
            row.id.to_string(),
            row.name.clone(),
            row.role.to_string(),
            state,
            second(row.created_at),
            row.last_used_at.map_or_else(|| "never".to_owned(), second),
        ]);
    }
    table::text(&table)
}

fn as_json(rows: &[TokenRow]) -> String {
    let rows: Vec<_> = rows
        .iter()
        .map(|row| {
            json!({
                "id": row.id, "name": row.name, "role": row.role, "created_at": row.created_at,
                "created_by": row.created_by, "expires_at": row.expires_at, "last_used_at": row.last_used_at,
                "revoked_at": row.revoked_at,
            })
        })
        .collect();
    let mut text = serde_json::to_string_pretty(&rows).unwrap_or_default();
    text.push('\n');
    text
}

/// What something that is made is called.
pub(super) fn name(text: &str) -> Result<String, String> {
    let text = text.trim();
    if text.is_empty() || text.chars().count() > MAX_NAME || text.chars().any(char::is_control) {
        return Err(format!("expected 1 to {MAX_NAME} characters, such as \"alice\" or \"inventory script\""));
    }
    Ok(text.to_owned())
}

/// When a token ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expiry {
    After(Duration),
    At(Timestamp),
}

impl Expiry {
    fn at(self, now: Timestamp) -> Timestamp {
        match self {
            Self::After(span) => now.plus(span),
            Self::At(at) => at,
        }
    }
}

impl std::str::FromStr for Expiry {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = "expected a duration (90d, 12h, 30m), a day (2027-01-31) or a time (2027-01-31T12:00:00Z)";
        if let Ok(at) = Timestamp::parse(text) {
            return Ok(Self::At(at));
        }
        if let Ok(date) = Date::parse(text, &Iso8601::DATE) {
            return Ok(Self::At(Timestamp::from_seconds(date.midnight().assume_utc().unix_timestamp())));
        }
        let units = [("d", 86_400), ("h", 3600), ("m", 60)];
        let seconds = units.iter().find_map(|(unit, seconds)| {
            text.strip_suffix(unit)?.parse::<u32>().ok().map(|number| u64::from(number) * seconds)
        });
        seconds.map(|seconds| Self::After(Duration::from_secs(seconds))).ok_or_else(|| expected.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_a_duration_a_day_or_a_time() {
        let day = Duration::from_secs(86_400);
        assert_eq!("90d".parse(), Ok(Expiry::After(day * 90)));
        assert_eq!("12h".parse(), Ok(Expiry::After(day / 2)));
        let midnight = Timestamp::parse("2027-01-31T00:00:00Z").unwrap();
        assert_eq!("2027-01-31".parse(), Ok(Expiry::At(midnight)));
        assert_eq!("2027-01-31T01:00:00+01:00".parse(), Ok(Expiry::At(midnight)));
        for wrong in ["", "d", "90", "-1d", "soon", "2027-13-01", "90 d"] {
            assert!(wrong.parse::<Expiry>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_name_is_short_and_visible() {
        assert_eq!(name(" alice ").unwrap(), "alice");
        for wrong in ["", "  ", "a\nb", &"x".repeat(201)] {
            assert!(name(wrong).is_err(), "{wrong:?}");
        }
    }
}
