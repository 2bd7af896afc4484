use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use comfy_table::{Table, presets};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use url::Url;

use super::super::progress::Progress;
use super::super::{Error, SystemClock};
use super::package;
use super::stage::{Counts, PATIENCE, Stage};
use super::told::{self, Told};
use crate::model::{Clock as _, Timestamp};
use crate::simulator::devices::fleet::Summary;

/// The profile of the story.
const PROFILE: &str = include_str!("profile.mobileconfig");
const PROFILE_IDENTIFIER: &str = "org.example.muster.demo";
/// The media type of a profile.
const PROFILE_TYPE: &str = "application/x-apple-aspen-config";
/// The media type of a package.
const PACKAGE_TYPE: &str = "application/octet-stream";

/// How the story went, while the devices still live.
pub(super) struct Outcome {
    pub(super) results: Results,
    pub(super) fleet: JoinHandle<Summary>,
    /// A device that is still enrolled.
    pub(super) device: String,
}

/// What was verified.
pub(super) struct Results {
    count: usize,
    steps: Vec<Step>,
    counts: Arc<Counts>,
    /// What the devices told when they were asked, by their UDIDs, and since when that was.
    told: (BTreeMap<String, Told>, Timestamp),
    pushes: u64,
    seconds: f64,
}

/// One command of the story.
struct Step {
    name: &'static str,
    targets: i64,
    states: BTreeMap<String, i64>,
    seconds: f64,
}

/// Plays the story: uploads the push certificate, makes a link, lets the devices enroll, and sends the commands.
pub(super) async fn play(stage: &Stage, stop: CancellationToken) -> Result<Outcome, Error> {
    let started = Instant::now();
    let client = &stage.client;
    client
        .send(
            Method::PUT,
            "/api/v1/apns/certificate",
            Some("application/x-pem-file"),
            stage.push_pem.clone().into_bytes(),
        )
        .await?;
    let link = json!({"name": "demo", "uses": stage.count});
    let link = client.post("/api/v1/enrollment-links", &link).await?;
    let url = link.get("url").and_then(Value::as_str).ok_or_else(|| Error::Demo("the link has no URL".to_owned()))?;
    let url = Url::parse(url).map_err(|e| Error::Demo(format!("the link {url:?}: {e}")))?;
    let (fleet, counts) = stage.enroll(url, stop).await?;

    let listed = client.get("/api/v1/devices?limit=500&sort=created_at").await?;
    let device = listed
        .pointer("/items/0/id")
        .and_then(Value::as_str)
        .ok_or_else(|| Error::Demo("no device is listed".to_owned()))?
        .to_owned();
    let last = listed
        .get("items")
        .and_then(Value::as_array)
        .and_then(|items| items.last())
        .and_then(|item| item.get("id"))
        .and_then(Value::as_str)
        .unwrap_or(&device)
        .to_owned();

    let profile = client.send(Method::POST, "/api/v1/profiles", Some(PROFILE_TYPE), PROFILE.into()).await?;
    let app = client.send(Method::POST, "/api/v1/apps/package", Some(PACKAGE_TYPE), package::make()?).await?;
    let (profile, app) = (id_of(&profile)?, id_of(&app)?);

    let all = json!({"all": true});
    let script: [(&'static str, Value, Value); 8] = [
        ("device_information", all.clone(), json!({"type": "device_information"})),
        ("install_profile", all.clone(), json!({"type": "install_profile", "profile_id": profile})),
        ("lock", all.clone(), json!({"type": "lock", "message": "Please bring me back."})),
        ("clear_passcode", all.clone(), json!({"type": "clear_passcode"})),
        ("install_app", all.clone(), json!({"type": "install_app", "app_id": app})),
        ("remove_profile", all.clone(), json!({"type": "remove_profile", "identifier": PROFILE_IDENTIFIER})),
        ("remove_app", all, json!({"type": "remove_app", "bundle_id": package::BUNDLE_ID})),
        ("wipe", json!({"devices": [last]}), json!({"type": "wipe"})),
    ];
    let mut steps = Vec::new();
    let asked_at = SystemClock.now();
    let mut told = BTreeMap::new();
    for (name, targets, command) in script {
        steps.push(step(stage, name, &targets, &command).await?);
        if name == "device_information" {
            told = told::read(client).await?;
        }
    }
    let pushes = stage.apns.counters().accepted;
    let seconds = started.elapsed().as_secs_f64();
    let results = Results { count: stage.count, steps, counts, told: (told, asked_at), pushes, seconds };
    Ok(Outcome { results, fleet, device })
}

/// Sends one command and waits until every target has done with it.
async fn step(stage: &Stage, name: &'static str, targets: &Value, command: &Value) -> Result<Step, Error> {
    let started = Instant::now();
    let accepted = stage.client.post("/api/v1/commands", &json!({"targets": targets, "command": command})).await?;
    let id = id_of(&accepted)?;
    let targets = accepted.get("targets").and_then(Value::as_i64).unwrap_or(0);
    let bar = Progress::of(usize::try_from(targets).unwrap_or(0), name);
    let until = started + PATIENCE;
    loop {
        let shown = stage.client.get(&format!("/api/v1/commands/{id}?limit=1")).await?;
        let states: BTreeMap<String, i64> =
            shown.get("states").cloned().map(serde_json::from_value).transpose().ok().flatten().unwrap_or_default();
        let settled = states.get("acknowledged").copied().unwrap_or(0) + states.get("error").copied().unwrap_or(0);
        bar.reach(u64::try_from(settled).unwrap_or(0));
        if shown.get("done").and_then(Value::as_bool) == Some(true) || Instant::now() > until {
            bar.finish();
            return Ok(Step { name, targets, states, seconds: started.elapsed().as_secs_f64() });
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// The id of what an answer shows.
fn id_of(answer: &Value) -> Result<&str, Error> {
    answer.get("id").and_then(Value::as_str).ok_or_else(|| Error::Demo(format!("an answer has no id: {answer}")))
}

impl Outcome {
    pub(super) fn table(&self) -> Table {
        let mut table = Table::new();
        table.load_preset(presets::UTF8_BORDERS_ONLY);
        table.set_header(["command", "devices", "acknowledged", "other", "seconds"]);
        for step in &self.results.steps {
            let acknowledged = step.acknowledged();
            table.add_row([
                step.name.to_owned(),
                step.targets.to_string(),
                acknowledged.to_string(),
                step.states.values().sum::<i64>().saturating_sub(acknowledged).to_string(),
                format!("{:.1}", step.seconds),
            ]);
        }
        table
    }
}

impl Step {
    fn acknowledged(&self) -> i64 {
        self.states.get("acknowledged").copied().unwrap_or(0)
    }
}

impl Results {
    /// The summary as one line of JSON.
    pub(super) fn summary(&self, ended: &Summary, verified: bool) -> Value {
        let mut states = BTreeMap::<&str, i64>::new();
        for step in &self.steps {
            for (state, count) in &step.states {
                *states.entry(state).or_default() += count;
            }
        }
        json!({
            "devices_enrolled": ended.enrolled,
            "commands": states,
            "pushes": self.pushes,
            "seconds": (self.seconds * 10.0).round() / 10.0,
            "verified": verified,
        })
    }
}

/// What does not hold of what the story promises: by the server's account and by the devices' own.
pub(super) fn problems(results: &Results, ended: &Summary, stopped_late: bool) -> Vec<String> {
    let mut problems = Vec::new();
    let mut check = |holds: bool, what: String| {
        if !holds {
            problems.push(what);
        }
    };
    check(ended.enrolled == results.count, format!("{} of {} devices enrolled", ended.enrolled, results.count));
    for step in &results.steps {
        let all = step.targets > 0 && step.acknowledged() == step.targets;
        check(all, format!("{}: {} targets, {:?}", step.name, step.targets, step.states));
    }
    let woken = results.counts.woken();
    let (told, asked_at) = &results.told;
    for (number, handset) in &ended.devices {
        check(woken.contains(number), format!("no wake-up reached device {number}"));
        let is_known = told.get(&handset.facts.udid).is_some_and(|told| told.is_of(&handset.facts, *asked_at));
        check(is_known, format!("the server does not know what device {number} told of itself"));
    }
    check(ended.devices.len() == results.count, format!("{} devices lived to the end", ended.devices.len()));
    check(ended.troubles == 0, format!("{} connections failed: {:?}", ended.troubles, ended.errors));
    check(ended.erased == 1, format!("{} devices were erased instead of one", ended.erased));
    let left = ended.devices.values().filter(|handset| handset.enrollment.is_some()).count();
    check(left + 1 == results.count, format!("{left} devices are still managed"));
    for (number, handset) in ended.devices.iter().filter(|(_, handset)| handset.enrollment.is_some()) {
        check(handset.profiles.is_empty(), format!("device {number} still has a profile"));
        check(handset.apps.values().all(|app| !app.managed), format!("device {number} still has a managed app"));
        check(!handset.passcode, format!("device {number} still has a passcode"));
        check(handset.lock_message.is_some(), format!("device {number} was never locked with the message"));
    }
    check(!stopped_late, "the server did not stop in time".to_owned());
    problems
}
