use plist::Value;
use serde_json::json;

use super::super::audit::Subject;
use super::super::commands::PRIORITY_NORMAL;
use super::super::deliveries::{payload_context, queued};
use super::super::{Actor, App, Error, terms};
use super::outcome::Outcome;
use super::push::{Wanted, lock, push, watch, wrong_count};
use super::told;
use crate::catalog::{Built, Verb, build};
use crate::model::{CommandId, Sha256, Timestamp};
use crate::protocol::command::{self, Command};
use crate::protocol::wire;
use crate::store::{CommandRow, Enrollment, NewCommand, Write};

/// How often a command is begun anew that another request took up at the same time.
const ATTEMPTS: usize = 3;

/// Takes a ready-made command for the enrollments that Apple's ids name, wakes them unless `no_push`, and waits for what
/// becomes of that, for at most ten seconds. Without a body it is a push alone.
///
/// The same `CommandUUID` with the same bytes adds enrollments to the command; other bytes are refused. What the tool made
/// goes to the device as it is: nothing is filled in. From the answer on the command cannot be lost, whatever became of the
/// push. An id that names nobody is passed over without an error, as the interface has it.
pub async fn enqueue(app: &App, actor: &Actor, ids: &[String], body: &[u8], no_push: bool) -> Outcome {
    if body.is_empty() {
        if no_push {
            return Outcome { no_push, ..Outcome::no_command("must enqueue or push") };
        }
        return push(app, ids).await;
    }
    let command = match command::decode_any(body) {
        Ok(command) => command,
        Err(why) => return Outcome::no_command(format!("decoding command: {why}")),
    };
    let named = Outcome {
        no_push,
        command_uuid: Some(command.uuid.clone()),
        request_type: Some(command.request_type.clone()),
        ..Outcome::default()
    };
    if let Some(why) = wrong_count(ids) {
        return Outcome { command_error: Some(why), ..named };
    }
    let request = Request { actor, ids, command: &command, digest: Sha256::of(body), no_push };
    match accept(app, &request, &named).await {
        Ok((mut outcome, wanted)) => {
            watch(app, wanted, &mut outcome).await;
            outcome
        }
        Err(error) => Outcome { command_error: Some(told(&error)), ..named },
    }
}

pub(super) struct Request<'a> {
    pub(super) actor: &'a Actor,
    pub(super) ids: &'a [String],
    pub(super) command: &'a Command,
    pub(super) digest: Sha256,
    pub(super) no_push: bool,
}

async fn accept(app: &App, request: &Request<'_>, named: &Outcome) -> Result<(Outcome, Wanted), Error> {
    let mut attempts = 0;
    loop {
        attempts += 1;
        match accept_once(app, request, named).await {
            // Another request has just taken up a command of this name: it is there now.
            Err(Error::Conflict { code: "conflict", .. }) if attempts < ATTEMPTS => {}
            done => return done,
        }
    }
}

async fn accept_once(app: &App, request: &Request<'_>, named: &Outcome) -> Result<(Outcome, Wanted), Error> {
    let now = app.clock.now();
    let built = built(request.command);
    let mut outcome = named.clone();
    let mut wanted = Wanted::default();
    let mut tx = app.store.begin_write().await?;
    // The command's row first, as by whoever cancels it or hands it over again.
    let known = tx.command_by_wire_uuid_for_update(&request.command.uuid).await?;
    let (channels, _) = lock(&mut tx, request.ids).await?;
    guard(app, &mut tx, &built, request.ids.len(), &channels).await?;
    let row = match known {
        Some(row) => same(app, row, request.digest)?,
        None => insert(app, &mut tx, request, &built, &channels, now).await?,
    };
    let mut added = 0;
    for channel in &channels {
        if !is_open(channel) {
            outcome.of(&channel.apple_id).command_error = Some(format!("the enrollment is {}", channel.state));
            continue;
        }
        added += i64::from(tx.insert_delivery(&queued(&row.head(), channel.id, channel.generation, now)).await?);
        if !request.no_push {
            wanted.add(app, &mut tx, channel, &mut outcome, now).await?;
        }
    }
    tx.add_targets(row.id, added).await?;
    outcome.push_error = wanted.without_certificate(&mut tx, now).await?;
    let detail = json!({
        "command": built.summary,
        "request_type": built.request_type,
        "command_uuid": request.command.uuid,
        "targets": added,
        "all": false,
    });
    let subject = Subject { kind: "command", id: &row.id.to_string() };
    app.audit(&mut tx, request.actor, "command.accepted", subject, &detail, now).await?;
    tx.commit().await?;
    app.signals.push.notify_one();
    Ok((outcome, wanted))
}

/// The place for which the digest of what a tool sent is sealed. It is no secret by itself, but a PIN of six digits could be
/// found by it.
#[must_use]
pub(in crate::service) fn wire_context(id: CommandId) -> String {
    format!("commands.wire:{id}")
}

/// Whether an enrollment can get commands, now or when it is complete.
fn is_open(channel: &Enrollment) -> bool {
    matches!(channel.state.as_str(), "enabled" | "authenticated")
}

/// The request as it came. Its summary is for everyone: what may be secret is not in it.
pub(super) fn built(command: &Command) -> Built {
    let Command { uuid, request_type, payload } = command;
    let mut built = build(&Verb::Apple { request_type: request_type.clone(), payload: payload.clone() });
    if let Some(summary) = built.summary.as_object_mut() {
        summary.insert("command_uuid".to_owned(), uuid.as_str().into());
    }
    built
}

/// The guard on destruction: it looks at what goes out and at all that one request names.
async fn guard(app: &App, tx: &mut Write, built: &Built, named: usize, channels: &[Enrollment]) -> Result<(), Error> {
    let most = usize::try_from(app.settings.compat.max_destructive_targets).unwrap_or(usize::MAX);
    if named <= most {
        return Ok(());
    }
    let Some(destruction) = destruction(tx, built, channels).await? else { return Ok(()) };
    Err(Error::Denied(format!(
        "this {} {named} devices; one request may do so to {most} at most (compat.max_destructive_targets)",
        destruction.verb()
    )))
}

async fn destruction(
    tx: &mut Write,
    built: &Built,
    channels: &[Enrollment],
) -> Result<Option<crate::catalog::Destruction>, Error> {
    let profiles = match built.removes_a_profile() {
        true => terms::profile_identifiers(tx, channels).await?,
        false => Vec::new(),
    };
    Ok(built.destruction(&profiles))
}

/// The command that is there, if it is the same.
fn same(app: &App, row: CommandRow, digest: Sha256) -> Result<CommandRow, Error> {
    let refused = |why: &str| Err(Error::conflict("command_uuid", why));
    if row.cancelled_at.is_some() {
        return refused("the command with this CommandUUID was cancelled");
    }
    let sealed = row.wire_sealed.as_deref().unwrap_or_default();
    if app.open(&wire_context(row.id), sealed)?.expose().as_slice() != digest.0.as_slice() {
        return refused("this CommandUUID stands for another command already");
    }
    Ok(row)
}

pub(super) async fn insert(
    app: &App,
    tx: &mut Write,
    request: &Request<'_>,
    built: &Built,
    channels: &[Enrollment],
    now: Timestamp,
) -> Result<CommandRow, Error> {
    let uuid = request.command.uuid.as_str();
    if let Ok(own) = uuid.parse::<CommandId>()
        && tx.command_facts(own).await?.is_some()
    {
        return Err(Error::conflict("command_uuid", "this CommandUUID is the id of a command of this server"));
    }
    let id = CommandId::new(now, &*app.random);
    let payload = wire::write(&Value::Dictionary(built.payload.clone()));
    let sealed = app.seal(&payload_context(id), &payload)?;
    let destruction = destruction(tx, built, channels).await?;
    let new = NewCommand {
        id,
        verb: "apple",
        request_type: &built.request_type,
        payload_sealed: &sealed,
        fills: "[]",
        summary: &built.summary.to_string(),
        resend: built.resend,
        destruction: destruction.map(super::super::commands::destruction_word),
        priority: PRIORITY_NORMAL,
        internal: false,
        target_count: 0,
        fleet_number: None,
        created_by: &request.actor.name,
        expires_at: None,
    };
    tx.insert_command(&new, now).await?;
    let digest = app.seal(&wire_context(id), &request.digest.0)?;
    tx.set_wire_uuid(id, uuid, &digest).await?;
    tx.command(id).await?.ok_or_else(|| Error::Internal("a command row vanished".to_owned()))
}
