//! `muster webhook`: addresses that are told of what devices send. Works beside a running server, which knows of each change
//! two seconds later.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::completions::write;
use super::{Error, SettingsFile, table, token};
use crate::model::{EventId, Secret, Timestamp, WebhookForm, WebhookId};
use crate::service::webhooks::{self, Change, NewWebhook, View};
use crate::service::{Actor, App};
use crate::store::DeadEvent;

/// How many rows are read at once.
const PAGE: i64 = 500;

/// Options of `muster webhook`.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Args)]
struct One {
    #[command(flatten)]
    settings: SettingsFile,
    /// The webhook's id, as listed.
    id: WebhookId,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make a webhook. Its secret alone goes to the standard output, this once.
    Add {
        #[command(flatten)]
        settings: SettingsFile,
        /// What it is for.
        #[arg(long, value_parser = token::name)]
        name: String,
        /// Where it is: http or https. Private addresses have to be listed in `hooks.allow`.
        #[arg(long)]
        url: String,
        /// The form of its messages: nanomdm, or cloudevents.
        #[arg(long, default_value_t = WebhookForm::CloudEvents)]
        form: WebhookForm,
        /// A file with the secret that messages are signed with, in one line. Without it, one is made for cloudevents, and
        /// messages in the other form are not signed.
        #[arg(long, value_name = "FILE")]
        secret_file: Option<PathBuf>,
        /// What it is told of, in the words of its form; may be given several times. Without it, all.
        #[arg(long = "topic", value_name = "TOPIC")]
        topics: Vec<String>,
        /// Tell it of polls, too: as well as it goes, from memory, once.
        #[arg(long)]
        idle: bool,
        /// For cloudevents: let what the device sent ride along as it came, with the tokens in it.
        #[arg(long)]
        raw: bool,
    },
    /// List all webhooks, newest first, with how much waits for each.
    List {
        #[command(flatten)]
        settings: SettingsFile,
        /// Write a JSON array.
        #[arg(long)]
        json: bool,
    },
    /// Show a webhook, as JSON.
    Show(One),
    /// Remove a webhook, with all that waits for it.
    Remove(One),
    /// Send nothing to a webhook for now. What it is to be told waits.
    Pause(One),
    /// Go on with a webhook that was paused.
    Resume(One),
    /// Send a webhook a message about no device, now, and say what came of it.
    Test(One),
    /// List the events that a webhook did not take, oldest first.
    Dead {
        #[command(flatten)]
        one: One,
        /// Write a JSON array.
        #[arg(long)]
        json: bool,
    },
    /// Send events again that a webhook did not take.
    Replay {
        #[command(flatten)]
        one: One,
        /// The events' ids, as listed by `dead`.
        #[arg(required_unless_present = "all", conflicts_with = "all")]
        events: Vec<EventId>,
        /// All of them; at most 10,000 at once.
        #[arg(long)]
        all: bool,
    },
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Error> {
    match &arguments.verb {
        Verb::Add { settings, name, url, form, secret_file, topics, idle, raw } => {
            let secret = secret_file.as_deref().map(read_secret).transpose()?;
            let new = NewWebhook {
                name: name.clone(),
                url: Secret::new(url.clone()),
                form: *form,
                secret: secret.clone(),
                topics: topics.clone(),
                idle: *idle,
                raw: *raw,
            };
            token::with_app(settings, async |app| {
                let made = webhooks::create(app, &actor(), new).await.map_err(with_parts)?;
                let id = made.row.id;
                let made = made.secret.filter(|_| secret.is_none());
                let told = if made.is_some() { "; its secret is shown only now:" } else { "" };
                let _ = writeln!(anstream::stderr(), "webhook {id}, {form}{told}");
                made.map_or(Ok(()), |secret| say(&format!("{}\n", secret.expose())))
            })
        }
        Verb::List { settings, json } => token::with_app(settings, async |app| {
            let views = webhooks::list(app, None, PAGE).await?;
            say(&if *json { pretty(&views.iter().map(shown).collect::<Vec<_>>().into()) } else { as_table(&views) })
        }),
        Verb::Show(one) => {
            token::with_app(&one.settings, async |app| say(&pretty(&shown(&webhooks::get(app, one.id).await?))))
        }
        Verb::Remove(one) => token::with_app(&one.settings, async |app| {
            webhooks::remove(app, &actor(), one.id, None).await?;
            say(&format!("webhook {} is removed\n", one.id))
        }),
        Verb::Pause(one) => token::with_app(&one.settings, async |app| pause(app, one.id, true).await),
        Verb::Resume(one) => token::with_app(&one.settings, async |app| pause(app, one.id, false).await),
        Verb::Test(one) => token::with_app(&one.settings, async |app| {
            let tried = webhooks::try_out(app, one.id).await?;
            match tried.why {
                None => say(&format!("delivered within {} ms\n", tried.took.as_millis())),
                Some(why) => Err(Error::Refused(format!("not delivered: {why}"))),
            }
        }),
        Verb::Dead { one, json } => token::with_app(&one.settings, async |app| {
            let mut events: Vec<DeadEvent> = Vec::new();
            loop {
                let more = webhooks::dead(app, one.id, events.last().map(|event| event.id), PAGE).await?;
                if more.is_empty() {
                    break;
                }
                events.extend(more);
            }
            say(&if *json { pretty(&events.iter().map(dead).collect::<Vec<_>>().into()) } else { dead_table(&events) })
        }),
        Verb::Replay { one, events, all } => token::with_app(&one.settings, async |app| {
            let events = (!all).then(|| events.clone());
            let count = webhooks::replay(app, &actor(), one.id, events).await?;
            say(&format!("{count} events are sent again\n"))
        }),
    }
}

fn actor() -> Actor {
    Actor::command_line()
}

fn say(text: &str) -> Result<(), Error> {
    write(&mut std::io::stdout().lock(), text.as_bytes())
}

async fn pause(app: &App, id: WebhookId, paused: bool) -> Result<(), Error> {
    webhooks::change(app, &actor(), id, None, Change { paused: Some(paused), ..Change::default() }).await?;
    say(&format!("webhook {id} {}\n", if paused { "is paused" } else { "goes on" }))
}

/// Names each part that is wrong.
fn with_parts(error: crate::service::Error) -> Error {
    match &error {
        crate::service::Error::Invalid { detail, faults, .. } if !faults.is_empty() => {
            let parts: Vec<_> = faults.iter().map(|fault| format!("{}: {}", fault.pointer, fault.detail)).collect();
            Error::Refused(format!("{detail}: {}", parts.join("; ")))
        }
        _ => error.into(),
    }
}

fn read_secret(file: &Path) -> Result<Secret<String>, Error> {
    let text =
        std::fs::read_to_string(file).map_err(|why| Error::Files(format!("cannot read {}: {why}", file.display())))?;
    let text = Secret::new(text);
    Ok(Secret::new(text.expose().trim().to_owned()))
}

fn shown(view: &View) -> Value {
    let row = &view.row;
    json!({
        "id": row.id, "name": row.name, "url": row.url, "form": row.form, "signed": row.secret_sealed.is_some(),
        "topics": serde_json::from_str::<Value>(&row.topics).unwrap_or_default(), "idle": row.idle,
        "raw": row.raw || row.form == WebhookForm::NanoMdm, "paused_at": row.paused_at,
        "paused_reason": row.paused_reason, "created_at": row.created_at, "created_by": row.created_by,
        "updated_at": row.updated_at, "waiting": view.waiting, "waiting_since": view.waiting_since, "dead": view.dead,
    })
}

fn dead(event: &DeadEvent) -> Value {
    json!({
        "id": event.id, "device_id": event.device_id, "topic": event.topic, "created_at": event.created_at,
        "dead_at": event.dead_at, "attempts": event.attempts, "error": event.error,
    })
}

fn pretty(value: &Value) -> String {
    let mut text = serde_json::to_string_pretty(value).unwrap_or_default();
    text.push('\n');
    text
}

fn second(at: Timestamp) -> String {
    Timestamp::from_seconds(at.seconds()).to_string()
}

fn as_table(views: &[View]) -> String {
    if views.is_empty() {
        return "there are no webhooks\n".to_owned();
    }
    let mut table = table::with_header(["ID", "NAME", "FORM", "STATE", "WAITING", "GIVEN UP", "CREATED"]);
    for View { row, waiting, dead, .. } in views {
        let state = row.paused_at.map_or_else(|| "works".to_owned(), |at| format!("paused {}", second(at)));
        table.add_row([
            row.id.to_string(),
            row.name.clone(),
            row.form.to_string(),
            state,
            waiting.to_string(),
            dead.to_string(),
            second(row.created_at),
        ]);
    }
    table::text(&table)
}

fn dead_table(events: &[DeadEvent]) -> String {
    if events.is_empty() {
        return "no event was given up\n".to_owned();
    }
    let mut table = table::with_header(["ID", "DEVICE", "TOPIC", "GIVEN UP", "ATTEMPTS", "WHY"]);
    for event in events {
        table.add_row([
            event.id.to_string(),
            event.device_id.to_string(),
            event.topic.clone(),
            second(event.dead_at),
            event.attempts.to_string(),
            event.error.clone(),
        ]);
    }
    table::text(&table)
}
