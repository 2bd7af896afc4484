//! Admins who ask, ask again, cancel and have delivered again, through a network that loses their answers.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use muster::cli::SystemClock;
use muster::model::Clock as _;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::Result;
use crate::device::{Device, Phase, World};
use crate::ledger::CommandRecord;
use crate::plan::Dice;
use crate::wire::{self, Answer};

/// A profile that can be installed.
const PROFILE: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">
<plist version="1.0"><dict>
<key>PayloadType</key><string>Configuration</string><key>PayloadVersion</key><integer>1</integer>
<key>PayloadIdentifier</key><string>org.example.chaos</string>
<key>PayloadUUID</key><string>6B1D5E0C-3B1E-4C8C-9B8D-0A4B7D8E1F22</string>
<key>PayloadDisplayName</key><string>Example</string><key>PayloadContent</key><array/>
</dict></plist>"#;

/// The API, as an admin reaches it.
#[derive(Clone)]
pub struct Api {
    pub address: SocketAddr,
    pub token: String,
}

impl Api {
    /// Asks once.
    pub async fn ask(&self, line: &str, key: Option<&str>, body: Option<&Value>) -> Result<Answer> {
        let bearer = format!("Bearer {}", self.token);
        let mut headers = vec![("Authorization", bearer.as_str())];
        if let Some(key) = key {
            headers.push(("Idempotency-Key", key));
        }
        let body = body.map(Value::to_string).unwrap_or_default();
        if !body.is_empty() {
            headers.push(("Content-Type", "application/json"));
        }
        wire::ask(self.address, &wire::request(line, &headers, body.as_bytes())).await
    }

    /// Asks until there is an answer that is no 5xx.
    pub async fn insist(&self, line: &str, key: Option<&str>, body: Option<&Value>) -> Answer {
        loop {
            match self.ask(line, key, body).await {
                Ok(answer) if answer.status < 500 && answer.status != 429 => return answer,
                _ => sleep(Duration::from_millis(30)).await,
            }
        }
    }

    /// What is shown at a path, which must be there.
    pub async fn get(&self, path: &str) -> Result<Value> {
        let answer = self.insist(&format!("GET {path}"), None, None).await;
        if answer.status == 200 {
            answer.json()
        } else {
            Err(format!("{path}: {} {}", answer.status, answer.text()).into())
        }
    }

    /// All items of a list.
    pub async fn all(&self, path: &str) -> Result<Vec<Value>> {
        let mut items = Vec::new();
        let mut cursor = String::new();
        loop {
            let separator = if path.contains('?') { '&' } else { '?' };
            let page = self.get(&format!("{path}{separator}limit=500{cursor}")).await?;
            items.extend(page["items"].as_array().ok_or_else(|| format!("{path} is no list: {page}"))?.iter().cloned());
            match page["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return Ok(items),
            }
        }
    }
}

/// Acts until the chaos is over; what was begun is brought to its end, so that its outcome is known.
pub async fn act(world: Arc<World>, api: Api, next: Arc<AtomicU64>) {
    while matches!(*world.phase.borrow(), Phase::Chaos | Phase::Load) {
        let number = next.fetch_add(1, Ordering::SeqCst);
        let dice = world.plan.dice("admin", number);
        match dice.below(100) {
            0..62 => command(&world, &api, &dice, number).await,
            62..82 => cancel(&world, &api, &dice).await,
            82..94 => deliver_again(&world, &api, &dice).await,
            _ => {
                let device = Device::udid(dice.index(world.ledger.generations().len()));
                api.insist(&format!("POST /api/v1/devices/udid:{device}/push"), None, None).await;
            }
        }
        sleep(Duration::from_millis(dice.below(50))).await;
    }
}

async fn command(world: &World, api: &Api, dice: &Dice, number: u64) {
    let fleet = world.ledger.generations().len();
    let (verb, is_by_admin_only, is_destructive, command) = verb(dice, number);
    let (targets, confirm, is_for_all) = match dice.below(100) {
        0..55 => (json!({"devices": [name(dice.index(fleet))]}), None, false),
        55..88 => {
            let chosen: BTreeSet<_> = (0..2 + dice.index(4)).map(|_| dice.index(fleet)).collect();
            let confirm = is_destructive.then_some(chosen.len());
            (json!({"devices": chosen.into_iter().map(name).collect::<Vec<_>>()}), confirm, false)
        }
        _ if is_destructive => (json!({"devices": [name(dice.index(fleet))]}), None, false),
        _ => (json!({"all": true}), None, true),
    };
    let mut body = json!({"targets": targets, "command": command});
    if let Some(confirm) = confirm {
        body["confirm"] = json!(confirm);
    }
    let expires = dice.one_in(12);
    if expires {
        let at = SystemClock.now().plus(Duration::from_millis(300 + dice.below(1500)));
        body["expires_at"] = json!(at.to_string());
    }
    let key = format!("chaos-{number}");
    let asked = Asked { verb, is_by_admin_only, is_for_all, expires };
    let Some(id) = ask_for(world, api, &key, &body, asked).await else { return };
    if dice.one_in(4) {
        // By the same key: it must be the same command, whatever has become of it.
        let again = api.insist("POST /api/v1/commands", Some(&key), Some(&body)).await;
        world.counts.add("commands asked for again by the same key");
        if again.status != 202 || again.json().is_ok_and(|json| json["id"] != id.as_str()) {
            let text = format!("{verb} {id} was asked for again by the same key: {} {}", again.status, again.text());
            world.ledger.violation(None, text);
        }
    }
}

/// What an admin asks for.
#[derive(Clone, Copy)]
pub struct Asked {
    pub verb: &'static str,
    pub is_by_admin_only: bool,
    pub is_for_all: bool,
    pub expires: bool,
}

/// Asks for a command until it is answered, and keeps in mind what was accepted. Returns its id.
pub async fn ask_for(world: &World, api: &Api, key: &str, body: &Value, asked: Asked) -> Option<String> {
    let before = world.ledger.generations();
    let answer = api.insist("POST /api/v1/commands", Some(key), Some(body)).await;
    if answer.status != 202 {
        world.counts.add("commands refused");
        if !matches!(answer.status, 409 | 422) {
            let text = format!("{} was refused: {} {}", asked.verb, answer.status, answer.text());
            world.ledger.violation(None, text);
        }
        return None;
    }
    let accepted = answer.json().unwrap_or_default();
    let after = world.ledger.generations();
    let both = before.iter().zip(&after).enumerate();
    let certain = both.filter(|(_, (b, a))| b == a && b.1).map(|(device, (b, _))| (device, b.0)).collect();
    let id = accepted["id"].as_str().unwrap_or_default().to_owned();
    world.ledger.lock().commands.push(CommandRecord {
        id: id.clone(),
        verb: asked.verb,
        is_by_admin_only: asked.is_by_admin_only,
        targets: accepted["targets"].as_u64().unwrap_or(0),
        is_for_all: asked.is_for_all,
        generations: after.iter().map(|one| one.0).collect(),
        certain,
        expires: asked.expires,
        was_cancelled: false,
        again: 0,
    });
    world.counts.add("commands accepted");
    if asked.is_for_all {
        world.counts.add("commands accepted for all");
    }
    Some(id)
}

async fn cancel(world: &World, api: &Api, dice: &Dice) {
    // One of the last: what is long over cannot be cancelled.
    let Some(id) = recent(world, dice, |_| true) else { return };
    mark(world, &id, |command| command.was_cancelled = true);
    let answer = api.insist(&format!("DELETE /api/v1/commands/{id}"), None, None).await;
    let Ok(done) = answer.json() else { return };
    if done["cancelled"].as_u64().unwrap_or(0) > 0 {
        world.counts.add("cancelled before they were handed over");
    }
    if done["not_cancelled"].as_u64().unwrap_or(0) > 0 {
        world.counts.add("cancelled after they were handed over");
    }
}

async fn deliver_again(world: &World, api: &Api, dice: &Dice) {
    let Some(id) = recent(world, dice, |command| command.is_by_admin_only) else { return };
    // Each time that it is asked counts, as nobody knows which one arrived.
    let line = format!("POST /api/v1/commands/{id}/redeliver");
    loop {
        mark(world, &id, |command| command.again += 1);
        match api.ask(&line, None, None).await {
            Ok(answer) if answer.status == 200 => return world.counts.add("delivered again by an admin"),
            Ok(answer) if answer.status < 500 => return,
            _ => sleep(Duration::from_millis(30)).await,
        }
    }
}

fn recent(world: &World, dice: &Dice, wanted: impl Fn(&CommandRecord) -> bool) -> Option<String> {
    let inner = world.ledger.lock();
    let some: Vec<_> = inner.commands.iter().rev().filter(|one| wanted(one)).take(12).collect();
    some.get(dice.index(some.len())).map(|one| one.id.clone())
}

fn mark(world: &World, id: &str, change: impl Fn(&mut CommandRecord)) {
    world.ledger.lock().commands.iter_mut().filter(|one| one.id == id).for_each(change);
}

fn name(device: usize) -> String {
    format!("udid:{}", Device::udid(device))
}

/// A verb: its name, whether only an admin has it run twice, whether it destroys, and the command.
fn verb(dice: &Dice, number: u64) -> (&'static str, bool, bool, Value) {
    let simple = |verb: &'static str| (verb, false, false, json!({"type": verb}));
    match dice.below(100) {
        0..16 => simple("device_information"),
        16..22 => simple("security_info"),
        22..28 => simple("installed_apps"),
        28..34 => simple("profiles"),
        34..38 => simple("certificates"),
        38..44 => {
            ("lock", false, false, json!({"type": "lock", "message": format!("Please bring me back ({number}).")}))
        }
        44..60 => ("lock_with_pin", true, true, json!({"type": "lock", "pin": format!("{:06}", number % 1_000_000)})),
        60..70 => ("restart", true, false, json!({"type": "restart"})),
        70..73 => ("shut_down", true, false, json!({"type": "shut_down"})),
        73..77 => simple("clear_passcode"),
        77..81 => ("wipe", false, true, json!({"type": "wipe"})),
        81..87 => {
            ("install_profile", false, false, json!({"type": "install_profile", "profile": STANDARD.encode(PROFILE)}))
        }
        87..90 => {
            ("remove_profile", false, false, json!({"type": "remove_profile", "identifier": "org.example.chaos"}))
        }
        90..93 => ("install_app", false, false, json!({"type": "install_app", "store_id": 361_309_726})),
        93..95 => ("remove_app", false, false, json!({"type": "remove_app", "bundle_id": "org.example.chaos"})),
        95..97 => ("unenroll", false, true, json!({"type": "unenroll"})),
        _ => ("apple", false, false, json!({"type": "apple", "request_type": "ProvisioningProfileList"})),
    }
}
