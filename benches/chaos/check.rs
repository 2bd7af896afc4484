//! Compares what the server says with what devices and admins know.

use std::collections::{BTreeMap, BTreeSet};

use muster::model::{DeliveryState, Transition};
use serde_json::Value;

use crate::Result;
use crate::admin::Api;
use crate::device::{Device, World};
use crate::ledger::{CommandRecord, Outcome, Receipt, Violation};

/// What stands in the history of a delivery that waits since it could not be made ready: no step of the graph.
const NOT_READY: &str = "the server could not make it ready";
const TRANSITIONS: [Transition; 10] = [
    Transition::Offer,
    Transition::Acknowledge,
    Transition::Fail,
    Transition::Defer,
    Transition::Unconfirm,
    Transition::Redeliver,
    Transition::Cancel,
    Transition::Void,
    Transition::Expire,
    Transition::Presume,
];

/// Deliveries whose history was checked, with their last change.
#[derive(Default)]
pub struct Seen(BTreeMap<(String, String), String>);

/// Checks everything; what does not hold goes into the ledger.
pub async fn all(world: &World, api: &Api, seen: &mut Seen) -> Result<()> {
    let commands = world.ledger.lock().commands.clone();
    accepted(world, api, &commands).await?;
    let by_id: BTreeMap<_, _> = commands.iter().map(|command| (command.id.as_str(), command)).collect();
    let mut counted = BTreeMap::<String, u64>::new();
    let count = world.ledger.generations().len();
    for number in 0..count {
        device(world, api, number).await?;
        let mut there = BTreeSet::new();
        for delivery in api.all(&format!("/api/v1/devices/udid:{}/commands", Device::udid(number))).await? {
            let id = text(&delivery, "command_id");
            *counted.entry(id.clone()).or_default() += 1;
            there.insert(id.clone());
            let command = by_id.get(id.as_str()).copied();
            one(world, number, &delivery, command);
            history(world, api, number, &delivery, seen).await?;
        }
        made_for(world, number, &there, &commands);
    }
    for command in &commands {
        let made = counted.get(&command.id).copied().unwrap_or(0);
        let is_right = if command.is_for_all { made <= command.targets } else { made == command.targets };
        if !is_right {
            let (id, verb, targets) = (&command.id, command.verb, command.targets);
            complain(world, None, format!("{verb} {id} was accepted for {targets} and has {made} deliveries"));
        }
    }
    Ok(())
}

fn complain(world: &World, device: Option<usize>, text: String) {
    world.ledger.violation(device, text);
}

fn text(value: &Value, member: &str) -> String {
    value[member].as_str().unwrap_or_default().to_owned()
}

/// What the API accepted exists, and nothing else does.
async fn accepted(world: &World, api: &Api, commands: &[CommandRecord]) -> Result<()> {
    let there: Vec<_> = api.all("/api/v1/commands").await?.iter().map(|one| text(one, "id")).collect();
    let set: BTreeSet<_> = there.iter().cloned().collect();
    let known: BTreeSet<_> = commands.iter().map(|one| one.id.clone()).collect();
    for lost in known.difference(&set) {
        complain(world, None, format!("command {lost} was accepted and is not there"));
    }
    for more in set.difference(&known) {
        complain(world, None, format!("command {more} is there and was never accepted, or twice"));
    }
    Ok(())
}

/// No enrollment and no certificate is lost.
async fn device(world: &World, api: &Api, number: usize) -> Result<()> {
    let (completed, certificates) =
        world.ledger.device(number, |device| (device.completed, device.certificates.clone())).unwrap_or_default();
    let shown = api.get(&format!("/api/v1/devices/udid:{}", Device::udid(number))).await?;
    let channel = &shown["enrollments"][0];
    let state = text(channel, "state");
    if state != "enabled" || channel["generation"].as_u64().unwrap_or(0) < completed {
        let generation = &channel["generation"];
        complain(
            world,
            Some(number),
            format!("it has enrolled {completed} times, and the server says {state}, generation {generation}"),
        );
    }
    if channel["identity_state"] != "valid" {
        complain(world, Some(number), format!("its certificate is {}", channel["identity_state"]));
    }
    for digest in certificates {
        if api.get(&format!("/api/v1/certificates/{digest}")).await.is_err() {
            complain(world, Some(number), format!("the certificate {digest} was issued and is not there"));
        }
    }
    Ok(())
}

/// One delivery as it is now, beside what the device knows.
fn one(world: &World, number: usize, delivery: &Value, command: Option<&CommandRecord>) {
    let id = text(delivery, "command_id");
    let state = text(delivery, "state");
    let attempts = delivery["attempts"].as_u64().unwrap_or(0);
    let receipts =
        world.ledger.device(number, |device| device.receipts.get(&id).cloned().unwrap_or_default()).unwrap_or_default();
    let request = text(delivery, "request_type");
    let wrong = |what: String| complain(world, Some(number), format!("{request} {id} ({state}): {what}"));
    if matches!(state.as_str(), "queued" | "sent" | "not_now") {
        wrong("it is open, although all devices have come and gone".to_owned());
    }
    if u64::try_from(receipts.len()).unwrap_or(0) > attempts {
        wrong(format!("it came {} times, and its attempts are {attempts}", receipts.len()));
    }
    let done: Vec<_> = receipts.iter().filter(|one| one.outcome != Outcome::NotNow).collect();
    if let Some(command) = command {
        if command.is_by_admin_only && u64::try_from(done.len()).unwrap_or(0) > 1 + command.again {
            wrong(format!("it was done {} times, and asked for again {} times", done.len(), command.again));
        }
        let latest = command.generations.get(number).copied().unwrap_or(0);
        if receipts.iter().any(|one| one.generation > latest) {
            wrong("it came in a later enrollment than it was accepted for".to_owned());
        }
    }
    if done.windows(2).any(|two| two.iter().any(|one| one.generation != done.first().map_or(0, |f| f.generation))) {
        wrong("it was done in two enrollments".to_owned());
    }
    let reported: Vec<_> = done.iter().filter(|one| one.is_reported).collect();
    if let Some(last) = reported.last() {
        let expected = expected(last);
        let was_withdrawn = (state == "cancelled" && command.is_some_and(|one| one.was_cancelled))
            || (state == "expired" && command.is_some_and(|one| one.expires));
        if state != expected && !was_withdrawn {
            wrong(format!("the report {} was taken", last.outcome.status()));
        }
    }
    let was_done = |outcome: &[Outcome]| done.iter().any(|one| outcome.contains(&one.outcome));
    if state == "acknowledged" && !was_done(&[Outcome::Acknowledged]) {
        wrong("the device has not said so".to_owned());
    }
    if state == "error" && attempts > 0 && !was_done(&[Outcome::Error, Outcome::FormatError]) {
        wrong("the device has not said so".to_owned());
    }
}

fn expected(receipt: &Receipt) -> &'static str {
    match receipt.outcome {
        Outcome::Acknowledged => "acknowledged",
        _ => "error",
    }
}

/// A command for all is for each device that was enrolled from before it was accepted until now; and what reached a device
/// has a delivery.
fn made_for(world: &World, number: usize, there: &BTreeSet<String>, commands: &[CommandRecord]) {
    let mut inner = world.ledger.lock();
    let Some(device) = inner.devices.get(number) else { return };
    let mut wrong = Vec::new();
    let is_still = |generation| device.is_enrolled && device.generation == generation;
    for command in commands.iter().filter(|one| one.is_for_all && !one.was_cancelled && !one.expires) {
        let is_for_it = command.certain.iter().any(|(one, generation)| *one == number && is_still(*generation));
        if is_for_it && !there.contains(&command.id) {
            wrong.push(format!("{} {} for all has no delivery for it", command.verb, command.id));
        }
    }
    for id in device.receipts.keys().filter(|id| !there.contains(*id)) {
        wrong.push(format!("it got command {id}, of which there is no delivery"));
    }
    inner.violations.extend(wrong.into_iter().map(|text| Violation { device: Some(number), text }));
}

/// The history of a delivery keeps to the graph.
async fn history(world: &World, api: &Api, number: usize, delivery: &Value, seen: &mut Seen) -> Result<()> {
    let (command, enrollment) = (text(delivery, "command_id"), text(delivery, "enrollment_id"));
    let key = (command.clone(), enrollment.clone());
    let updated = text(delivery, "updated_at");
    if seen.0.get(&key) == Some(&updated) {
        return Ok(());
    }
    let detail = api.get(&format!("/api/v1/commands/{command}/deliveries/{enrollment}")).await?;
    let steps: Vec<(String, String)> = detail["transitions"]
        .as_array()
        .map(|steps| steps.iter().map(|step| (text(step, "state"), text(step, "detail"))).collect())
        .unwrap_or_default();
    let words: Vec<_> = steps.iter().map(|(state, _)| state.as_str()).collect();
    let story = words.join(" > ");
    let mut sent = 0;
    let mut before: Option<DeliveryState> = None;
    for (word, why) in &steps {
        let state: DeliveryState = word.parse()?;
        let is_arrow = match before {
            None => state == DeliveryState::Queued,
            Some(from) => TRANSITIONS.iter().any(|arrow| from.after(*arrow) == Some(state)),
        };
        let waits = before == Some(state) && why.starts_with(NOT_READY);
        if !is_arrow && !waits {
            complain(world, Some(number), format!("{command}: the graph has no such way: {story}"));
        }
        sent += u64::from(state == DeliveryState::Sent);
        before = Some(state);
    }
    if before.map(DeliveryState::as_str) != Some(text(&detail, "state").as_str()) {
        complain(world, Some(number), format!("{command} is {}, and its history says {story}", detail["state"]));
    }
    if detail["attempts"].as_u64() != Some(sent) {
        complain(world, Some(number), format!("{command}: {} attempts, and {story}", detail["attempts"]));
    }
    if before == Some(DeliveryState::Expired) {
        world.counts.add("deliveries that ran out of time");
    }
    if words.contains(&"unconfirmed") {
        world.counts.add("deliveries that became unconfirmed");
    }
    seen.0.insert(key, updated);
    Ok(())
}

/// Deliveries that are open still, of commands that are not over; for all that is not made yet, the command.
pub async fn open(world: &World, api: &Api, over: &mut BTreeSet<String>) -> Result<Vec<String>> {
    let mut open = Vec::new();
    for (number, (_, is_enrolled)) in world.ledger.generations().iter().enumerate() {
        if !is_enrolled {
            open.push(format!("device {number} is not enrolled"));
        }
    }
    for command in api.all("/api/v1/commands?internal=true").await? {
        let id = text(&command, "id");
        if over.contains(&id) {
            continue;
        }
        let shown = api.get(&format!("/api/v1/commands/{id}?limit=1")).await?;
        let count = |state: &str| shown["states"][state].as_i64().unwrap_or(0);
        let waiting = count("queued") + count("sent") + count("not_now") + shown["to_come"].as_i64().unwrap_or(0);
        if waiting > 0 {
            open.push(format!("{} {id}: {}, {} to come", text(&shown, "type"), shown["states"], shown["to_come"]));
        } else {
            over.insert(id);
        }
    }
    Ok(open)
}
