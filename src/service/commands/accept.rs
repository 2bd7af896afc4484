use std::collections::{BTreeMap, BTreeSet};

use plist::{Dictionary, Value};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::super::audit::Subject;
use super::super::deliveries::{self, AtDelivery, payload_context, queued};
use super::super::{Actor, App, Error, Fault, apps, idempotency, profiles, terms, wakes};
use super::{PRIORITY_NORMAL, inline};
use crate::catalog::{Built, Destruction, Fill, Verb, build};
use crate::model::{CommandId, DeviceId, EnrollmentId, JobId, Role, Timestamp};
use crate::protocol::wire;
use crate::store::{self, Enrollment, Write};

/// Most targets of one command that are named one by one.
pub const MAX_TARGETS: usize = 10_000;

/// What an admin asks for.
#[derive(Clone, Debug)]
pub struct NewCommand {
    /// For whom.
    pub targets: Targets,
    /// The verb and its parameters, as they came.
    pub command: serde_json::Value,
    /// For how many devices whoever asks believes it to be; needed for what destroys on more than one.
    pub confirm: Option<u64>,
    /// After this time it is not handed over any more.
    pub expires_at: Option<Timestamp>,
    /// The smaller, the sooner; 100 where nothing is said.
    pub priority: Option<i64>,
    /// Whether devices are not woken for it.
    pub no_push: bool,
}

/// For whom a command is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Targets {
    /// The device channels of these devices.
    Devices(Vec<DeviceId>),
    /// These channels, such as the one of a user on a Mac.
    Enrollments(Vec<EnrollmentId>),
    /// The device channels of all devices that are enrolled now.
    All,
}

/// What became of the request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// The command's id.
    pub id: CommandId,
    /// For how many enrollments it was accepted.
    pub targets: u64,
    /// Those that were named and do not get it.
    pub skipped: Vec<Skipped>,
    /// Whether devices are woken for it.
    pub push: PushNote,
}

/// A target that does not get the command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    /// The target's id, as it was named.
    pub target: String,
    /// Why.
    pub reason: String,
}

/// Whether devices are woken for a command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PushNote {
    /// They are.
    Scheduled,
    /// It was not wanted.
    NotWanted,
    /// They are not, or not all of them, and why; they get it when they come by themselves.
    NotPossible(String),
}

/// What the same request led to before: to be asked before its targets are looked for, which may be gone by now.
///
/// # Errors
/// [`Error::Invalid`] `idempotency_key_reused`.
pub async fn accepted_before(app: &App, actor: &Actor) -> Result<Option<Accepted>, Error> {
    idempotency::before(app, actor).await
}

/// Accepts a command: from here on it cannot be lost. One transaction holds the command, its deliveries, the wake-ups
/// and the audit row.
///
/// A command for all is one row with a number that orders it against enrollments; its deliveries are made later, by
/// the device's next poll or by a job, for exactly those that were enrolled now.
///
/// # Errors
/// [`Error::Invalid`] with all faults of the command; [`Error::Conflict`] `confirmation_needed` where something is
/// destroyed on more devices than `confirm` says; [`Error::Denied`] where the role does not allow it.
pub async fn accept(app: &App, actor: &Actor, new: NewCommand) -> Result<Accepted, Error> {
    let now = app.clock.now();
    let verb = Verb::parse(&new.command).map_err(|faults| invalid("the command cannot be sent as it is", faults))?;
    let built = build(&verb);
    let faults = inline::faults(app, &new.command, &verb, &built).await?;
    if !faults.is_empty() {
        return Err(invalid("the command cannot be sent as it is", faults));
    }
    let mut tx = app.store.begin_write().await?;
    if let Some(earlier) = idempotency::earlier(app, &mut tx, actor).await? {
        return Ok(earlier);
    }
    if new.expires_at.is_some_and(|at| at <= now) {
        return Err(Error::invalid("invalid_command", "expires_at lies in the past"));
    }
    let (payload, fills) = fill_for_all(app, &mut tx, &built).await?;
    let id = CommandId::new(now, &*app.random);
    let sealed = app.seal(&payload_context(id), &wire::write(&Value::Dictionary(payload)))?;
    let row = |target_count: u64, destruction: Option<Destruction>, fleet_number: Option<i64>| Row {
        id,
        verb: verb.name(),
        built: &built,
        sealed: &sealed,
        fills: &fills,
        destruction,
        priority: new.priority.unwrap_or(PRIORITY_NORMAL),
        target_count,
        fleet_number,
        created_by: &actor.name,
        expires_at: new.expires_at,
    };

    let accepted = match &new.targets {
        Targets::All => {
            // First the number: commands for all are accepted one after the other, so that it orders them.
            let number = tx.fleet_number_for_command().await?;
            let counted = tx.count_enabled().await?;
            let count = u64::try_from(counted.iter().map(|(_, enabled)| enabled).sum::<i64>()).unwrap_or(0);
            let profiles = match built.removes_a_profile() {
                true => tx.enabled_by_terms().await?.into_iter().map(|under| under.identifier).collect(),
                false => Vec::new(),
            };
            let destruction = built.destruction(&profiles);
            guard(actor, destruction, count, new.confirm)?;
            row(count, destruction, Some(number)).insert(&mut tx, now).await?;
            let payload = json!({"command": id, "push": !new.no_push}).to_string();
            tx.add_job(JobId::new(now, &*app.random), "materialize", &payload, None, now, now).await?;
            let ways = Ways {
                topics: counted.into_iter().filter_map(|(topic, _)| topic).collect(),
                without_token: u64::try_from(tx.count_enabled_without_token().await?).unwrap_or(0),
            };
            let push = push_note(&mut tx, &new, count, ways, now).await?;
            Accepted { id, targets: count, skipped: Vec::new(), push }
        }
        named => {
            let (enrollments, skipped) = lock_named(&mut tx, named).await?;
            let count = enrollments.len() as u64;
            if count == 0 {
                return Err(Error::conflict("no_target", nobody(&skipped)));
            }
            let profiles = match built.removes_a_profile() {
                true => terms::profile_identifiers(&mut tx, &enrollments).await?,
                false => Vec::new(),
            };
            let destruction = built.destruction(&profiles);
            guard(actor, destruction, count, new.confirm)?;
            row(count, destruction, None).insert(&mut tx, now).await?;
            let command = tx.command(id).await?.ok_or_else(|| Error::Internal("a command row vanished".to_owned()))?;
            let command = command.head();
            for enrollment in &enrollments {
                tx.insert_delivery(&queued(&command, enrollment.id, enrollment.generation, now)).await?;
                if !new.no_push {
                    tx.request_wake(enrollment.id, now, now.plus(app.settings.push.sync_interval)).await?;
                }
            }
            let ways = Ways {
                topics: enrollments.iter().filter_map(|e| e.topic.clone()).collect(),
                without_token: enrollments.iter().filter(|e| e.push_token.is_none()).count() as u64,
            };
            let push = push_note(&mut tx, &new, count, ways, now).await?;
            Accepted { id, targets: count, skipped, push }
        }
    };

    let detail = json!({
        "command": built.summary,
        "request_type": built.request_type,
        "targets": accepted.targets,
        "all": new.targets == Targets::All,
    });
    let subject = Subject { kind: "command", id: &id.to_string() };
    app.audit(&mut tx, actor, "command.accepted", subject, &detail, now).await?;
    idempotency::remember(app, &mut tx, actor, &accepted).await?;
    tx.commit().await?;
    app.signals.push.notify_one();
    app.signals.jobs.notify_one();
    Ok(accepted)
}

/// The command's row, to be written once the number of targets is known.
struct Row<'a> {
    id: CommandId,
    verb: &'a str,
    built: &'a Built,
    sealed: &'a [u8],
    fills: &'a str,
    destruction: Option<Destruction>,
    priority: i64,
    target_count: u64,
    fleet_number: Option<i64>,
    created_by: &'a str,
    expires_at: Option<Timestamp>,
}

impl Row<'_> {
    async fn insert(self, tx: &mut Write, now: Timestamp) -> Result<(), Error> {
        let new = store::NewCommand {
            id: self.id,
            verb: self.verb,
            request_type: &self.built.request_type,
            payload_sealed: self.sealed,
            fills: self.fills,
            summary: &self.built.summary.to_string(),
            resend: self.built.resend,
            destruction: self.destruction.map(destruction_word),
            priority: self.priority,
            internal: false,
            target_count: i64::try_from(self.target_count).unwrap_or(i64::MAX),
            fleet_number: self.fleet_number,
            created_by: self.created_by,
            expires_at: self.expires_at,
        };
        tx.insert_command(&new, now).await?;
        Ok(())
    }
}

/// The word in the database.
pub(in crate::service) const fn destruction_word(destruction: Destruction) -> &'static str {
    match destruction {
        Destruction::Erase => "erase",
        Destruction::LockWithPin => "lock_with_pin",
        Destruction::Unenroll => "unenroll",
    }
}

/// What the word in the database means.
pub(super) fn destruction_of(word: &str) -> Option<Destruction> {
    [Destruction::Erase, Destruction::LockWithPin, Destruction::Unenroll]
        .into_iter()
        .find(|destruction| destruction_word(*destruction) == word)
}

/// Faults of a request as an error.
fn invalid(detail: &str, faults: Vec<Fault>) -> Error {
    Error::Invalid { code: "invalid_command", detail: detail.to_owned(), faults }
}

/// Fills in what is the same for all targets, so that what was accepted does not change when a stored profile or app
/// does. Returns the payload and, as JSON, what is left for the delivery.
async fn fill_for_all(app: &App, tx: &mut Write, built: &Built) -> Result<(Dictionary, String), Error> {
    let mut payload = built.payload.clone();
    let mut left = Vec::new();
    for fill in &built.fills {
        match fill {
            Fill::UnlockToken => left.push(AtDelivery::UnlockToken),
            Fill::ReturnToServiceProfile => left.push(AtDelivery::ReturnToServiceProfile),
            Fill::StoredProfile(id) => {
                let at = "/command/profile_id";
                let found = profiles::kept_fault(app, tx, *id).await.map_err(|error| missing(at, error))?;
                if let Some(detail) = found {
                    let fault = Fault { pointer: at.to_owned(), detail };
                    return Err(invalid("the command cannot be sent as it is", vec![fault]));
                }
                let bytes = profiles::for_install(app, tx, *id).await?;
                payload.insert("Payload".to_owned(), Value::Data(bytes));
            }
            Fill::App(id) => {
                let reference =
                    apps::reference(app, tx, *id).await.map_err(|error| missing("/command/app_id", error))?;
                reference.put_into(&mut payload);
            }
            Fill::EnrollmentProfileIdentifier => left.push(AtDelivery::EnrollmentProfileIdentifier),
        }
    }
    Ok((payload, deliveries::fills_to_json(&left)))
}

/// What a command names and is not there is a fault of the command: only the path of a request is not found.
fn missing(pointer: &str, error: Error) -> Error {
    match error {
        Error::NotFound(detail) => {
            invalid("the command cannot be sent as it is", vec![Fault { pointer: pointer.to_owned(), detail }])
        }
        other => other,
    }
}

/// The guard on destruction. It looks at the request that goes out, whatever verb made it.
pub(super) fn guard(
    actor: &Actor,
    destruction: Option<Destruction>,
    count: u64,
    confirm: Option<u64>,
) -> Result<(), Error> {
    if let Some(said) = confirm
        && said != count
    {
        return Err(Error::conflict(
            "confirmation_needed",
            format!("the command is for {count} devices, and the confirmation says {said}; send \"confirm\": {count}"),
        ));
    }
    let Some(destruction) = destruction.filter(|_| count > 1) else { return Ok(()) };
    if actor.role < Role::Admin {
        return Err(Error::Denied(format!(
            "this {} {count} devices, which takes the role admin; an operator may do it one device at a time",
            destruction.verb()
        )));
    }
    if confirm.is_none() {
        return Err(Error::conflict(
            "confirmation_needed",
            format!("this {} {count} devices; send \"confirm\": {count} if that is meant", destruction.verb()),
        ));
    }
    Ok(())
}

/// The enrollments that are named, and those that do not get the command. They are locked in the order of Apple's ids, as by
/// messages of devices, so that neither waits for the other and is waited for.
async fn lock_named(tx: &mut Write, named: &Targets) -> Result<(Vec<Enrollment>, Vec<Skipped>), Error> {
    let mut wanted: BTreeMap<String, String> = BTreeMap::new();
    let mut faults = Vec::new();
    let mut skipped = Vec::new();
    let count = match named {
        Targets::Devices(ids) => ids.len(),
        Targets::Enrollments(ids) => ids.len(),
        Targets::All => 0,
    };
    if count == 0 || count > MAX_TARGETS {
        let detail = format!("expected 1 to {MAX_TARGETS} targets, or \"all\": true");
        return Err(invalid(&detail.clone(), vec![Fault { pointer: "/targets".to_owned(), detail }]));
    }
    match named {
        Targets::Devices(ids) => {
            for (index, id) in ids.iter().enumerate() {
                let channels = tx.enrollments_of_device(*id).await?;
                if let Some(channel) = channels.into_iter().find(|e| e.parent_id.is_none()) {
                    wanted.insert(channel.apple_id, id.to_string());
                } else if tx.device(*id).await?.is_some() {
                    skipped.push(Skipped { target: id.to_string(), reason: "never enrolled".to_owned() });
                } else {
                    let pointer = format!("/targets/devices/{index}");
                    faults.push(Fault { pointer, detail: format!("there is no device {id}") });
                }
            }
        }
        Targets::Enrollments(ids) => {
            for (index, id) in ids.iter().enumerate() {
                if let Some(channel) = tx.enrollment(*id).await? {
                    wanted.insert(channel.apple_id, id.to_string());
                } else {
                    let pointer = format!("/targets/enrollments/{index}");
                    faults.push(Fault { pointer, detail: format!("there is no enrollment {id}") });
                }
            }
        }
        Targets::All => {}
    }
    if !faults.is_empty() {
        return Err(invalid("some targets do not exist", faults));
    }
    let mut enabled = Vec::with_capacity(wanted.len());
    for (apple_id, target) in wanted {
        match tx.enrollment_for_update(&apple_id).await? {
            Some(e) if e.is_enabled() => enabled.push(e),
            Some(e) => skipped.push(Skipped { target, reason: format!("the enrollment is {}", e.state) }),
            None => {}
        }
    }
    // What belongs to them is locked by their ids everywhere.
    enabled.sort_by_key(|enrollment| enrollment.id);
    Ok((enabled, skipped))
}

fn nobody(skipped: &[Skipped]) -> String {
    match skipped {
        [one] => format!("{} does not get the command: {}", one.target, one.reason),
        _ => format!("none of the {} targets is enrolled", skipped.len()),
    }
}

/// How the targets of a command are reached.
struct Ways {
    topics: BTreeSet<String>,
    /// How many have no push token that is valid.
    without_token: u64,
}

/// Whether the devices can be woken.
async fn push_note(
    tx: &mut Write,
    new: &NewCommand,
    targets: u64,
    ways: Ways,
    now: Timestamp,
) -> Result<PushNote, Error> {
    if new.no_push {
        return Ok(PushNote::NotWanted);
    }
    if targets == 0 {
        return Ok(PushNote::NotPossible("no device is enrolled: there is none to wake".to_owned()));
    }
    let Ways { topics, without_token } = ways;
    let mut problems = wakes::topics_without_certificate(tx, &topics, now).await?;
    if topics.is_empty() {
        problems.push("the devices have no push topic".to_owned());
    }
    if without_token > 0 {
        problems.push(format!(
            "{without_token} of {targets} devices cannot be woken: APNs no longer knows their push token, and they have \
             not sent another"
        ));
    }
    Ok(if problems.is_empty() { PushNote::Scheduled } else { PushNote::NotPossible(problems.join("; ")) })
}
