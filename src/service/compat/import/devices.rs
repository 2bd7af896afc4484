use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use super::super::super::Error;
use super::super::super::audit::Subject;
use super::super::super::check_in::{escrow_context, facts, raw_context};
use super::super::super::commands::{Internal, enqueue_internal};
use super::super::super::deliveries::{End, void_open};
use super::channels::{Push, Verdict, enroll, is_text, judge, seen, skip, token_update};
use super::tally::{Report, Tally};
use super::{ATTEMPTS, Run, passes};
use crate::model::{AppleId, DeviceId, EnrollmentId, EnrollmentKind, Secret, Sha256, Timestamp};
use crate::protocol::checkin::{self, Authenticate, CheckIn};
use crate::protocol::wire::Limits;
use crate::remote::nanomdm::{Device, Pin};
use crate::store::{DeviceFacts, Enrollment, PushFacts, Write};

/// Devices that are read and taken at once.
const PAGE: i64 = 100;
/// Certificates that are read at once.
const PINS: i64 = 1000;
/// Most certificates of one device that are taken: more than one means renewals.
const MAX_PINS: usize = 100;

/// Takes the device channels over, each with what it may authenticate with and what it entrusted.
pub(super) async fn take(run: &mut Run<'_>) -> Result<(), Error> {
    let (mut after, mut done) = (String::new(), 0);
    loop {
        let page = run.source.devices(&after, PAGE).await?;
        let (Some(first), Some(last)) = (page.first(), page.last()) else { return Ok(()) };
        let pins = pins(run, &first.id, &last.id).await?;
        after.clone_from(&last.id);
        done += page.len() as u64;
        let mut attempts = 0;
        let report = loop {
            attempts += 1;
            match take_page(run, &page, &pins).await {
                Err(error) if attempts < ATTEMPTS && passes(&error) => {}
                taken => break taken?,
            }
        };
        *run.report = report;
        run.watch.reach(done);
    }
}

/// The certificates of the devices from `first` to `last`.
async fn pins(run: &mut Run<'_>, first: &str, last: &str) -> Result<HashMap<String, Vec<String>>, Error> {
    let mut pins: HashMap<String, Vec<String>> = HashMap::new();
    let mut after = Pin { id: first.to_owned(), sha256: String::new() };
    loop {
        let page = run.source.pins(&after, last, PINS).await?;
        let Some(end) = page.last() else { return Ok(pins) };
        after = end.clone();
        for pin in page {
            let of_device = pins.entry(pin.id).or_default();
            if of_device.len() < MAX_PINS {
                of_device.push(pin.sha256);
            }
        }
    }
}

async fn take_page(run: &Run<'_>, page: &[Device], pins: &HashMap<String, Vec<String>>) -> Result<Report, Error> {
    let mut report = run.report.clone();
    let mut tx = run.app.store.begin_write().await?;
    for device in page {
        let pins = pins.get(&device.id).map(Vec::as_slice).unwrap_or_default();
        take_one(run, &mut tx, device, pins, &mut report).await?;
    }
    if !run.dry_run {
        tx.commit().await?;
    }
    Ok(report)
}

async fn take_one(
    run: &Run<'_>,
    tx: &mut Write,
    device: &Device,
    pins: &[String],
    report: &mut Report,
) -> Result<(), Error> {
    let now = run.app.clock.now();
    let told = match Told::read(device) {
        Ok(told) => told,
        Err(why) => {
            skip(report, |report| &mut report.devices, "device", why, &device.id);
            return Ok(());
        }
    };
    let existing = tx.enrollment_for_update(&told.apple_id.id).await?;
    match judge(tx, existing, device.enabled).await? {
        Verdict::Skip(why) => skip(report, |report| &mut report.devices, "device", why, &device.id),
        Verdict::End(row) => {
            report.devices.updated += 1;
            if !run.dry_run {
                end(tx, &row, now).await?;
            }
        }
        Verdict::Add => {
            report.devices.added += 1;
            let ids = match run.dry_run {
                true => None,
                false => Some(add(run, tx, device, &told, now).await?),
            };
            bind(run, tx, ids, device, pins, report, now).await?;
            entrust_all(run, tx, ids.map(|id| (id, 1)), device, &told, report, now).await?;
        }
        Verdict::Take(row) => {
            let before = report.clone();
            let changed = renew(run, tx, &row, device, &told, now).await?;
            let generation = if row.is_enabled() { row.generation } else { row.generation + 1 };
            bind(run, tx, Some(row.id), device, pins, report, now).await?;
            entrust_all(run, tx, Some((row.id, generation)), device, &told, report, now).await?;
            if changed || is_more(&before, report) {
                report.devices.updated += 1;
                if !run.dry_run {
                    // What was entrusted now is the other server's too.
                    tx.set_migrated(row.id, now).await?;
                }
            } else {
                report.devices.unchanged += 1;
            }
        }
    }
    Ok(())
}

/// Whether something of a device was added or changed.
fn is_more(before: &Report, after: &Report) -> bool {
    let changes = |tally: Tally| tally.added + tally.updated;
    let of = |report: &Report| changes(report.pins) + changes(report.unlock_tokens) + changes(report.bootstrap_tokens);
    of(before) != of(after)
}

/// What the other server knows of a device, read.
struct Told<'a> {
    apple_id: AppleId,
    facts: DeviceFacts,
    /// As it came, if it can be read.
    authenticate: Option<&'a str>,
    token_update: Option<&'a Secret<String>>,
    push: Push,
    awaiting_configuration: bool,
    unlock_token: Option<Secret<Vec<u8>>>,
}

impl<'a> Told<'a> {
    fn read(device: &'a Device) -> Result<Self, &'static str> {
        let kind = match device.kind.as_str() {
            "Device" => EnrollmentKind::Device,
            "User Enrollment (Device)" => EnrollmentKind::UserEnrollmentDevice,
            _ => return Err("its type is none of a device channel"),
        };
        if !is_text(&device.id) || device.id.contains(':') {
            return Err("its id cannot be kept");
        }
        let push = Push::read(&device.token_hex, &device.push_magic, &device.topic)?;
        let apple_id = AppleId { id: device.id.clone(), parent: None, kind };
        let message = authenticate(device.authenticate.as_deref(), &apple_id);
        let update = token_update(device.token_update.as_ref().map(|raw| raw.expose().as_str()), &device.id);
        let facts = match &message {
            Some(message) => facts(message),
            None => plain_facts(device, kind),
        };
        let unlock_token = device.unlock_token.clone().filter(|token| !token.expose().is_empty());
        Ok(Self {
            authenticate: device.authenticate.as_deref().filter(|_| message.is_some()),
            token_update: device.token_update.as_ref().filter(|_| update.is_some()),
            awaiting_configuration: update.as_ref().is_some_and(|update| update.awaiting_configuration),
            unlock_token: unlock_token.or_else(|| update.and_then(|update| update.unlock_token)),
            apple_id,
            facts,
            push,
        })
    }
}

/// The `Authenticate` that the other server keeps, if it can be read and is the device's own.
fn authenticate(raw: Option<&str>, apple_id: &AppleId) -> Option<Authenticate> {
    match checkin::decode(raw?.as_bytes(), Limits::CHECK_IN) {
        Ok(CheckIn::Authenticate(message)) if message.sender.apple_id == *apple_id => Some(message),
        _ => None,
    }
}

/// What is known of a device without its `Authenticate`.
fn plain_facts(device: &Device, kind: EnrollmentKind) -> DeviceFacts {
    let id = Some(device.id.clone());
    let (udid, apple_enrollment_id) = if kind == EnrollmentKind::Device { (id, None) } else { (None, id) };
    DeviceFacts {
        udid,
        apple_enrollment_id,
        serial: device.serial.clone().filter(|serial| is_text(serial)),
        name: None,
        model: None,
        model_name: None,
        product_name: None,
        os_version: None,
        build_version: None,
        imei: None,
        supervised: None,
    }
}

async fn add(
    run: &Run<'_>,
    tx: &mut Write,
    device: &Device,
    told: &Told<'_>,
    now: Timestamp,
) -> Result<EnrollmentId, Error> {
    let (id, device_id) = (EnrollmentId::new(now, &*run.app.random), DeviceId::new(now, &*run.app.random));
    tx.insert_device(device_id, &told.facts, now).await?;
    tx.insert_enrollment(id, device_id, None, &told.apple_id, now).await?;
    keep(run, tx, id, device, told, now).await?;
    begin(run, tx, id, 1, now).await?;
    let subject = Subject { kind: "device", id: &device_id.to_string() };
    let detail = json!({"topic": told.push.topic});
    run.app.audit(tx, run.actor, "enrollment.migrated", subject, &detail, now).await?;
    Ok(id)
}

/// Brings an enrollment that was taken over before to what the other server says now. Returns whether that is something
/// else.
async fn renew(
    run: &Run<'_>,
    tx: &mut Write,
    row: &Enrollment,
    device: &Device,
    told: &Told<'_>,
    now: Timestamp,
) -> Result<bool, Error> {
    let is_new = !row.is_enabled();
    let known = match tx.check_in(row.id, "Authenticate").await? {
        Some((sealed, _)) => Some(run.app.open(&raw_context(&row.apple_id, "Authenticate"), &sealed)?),
        None => None,
    };
    let is_same = known.as_ref().map(|raw| raw.expose().as_slice()) == told.authenticate.map(str::as_bytes);
    if !is_new && is_same && told.push.is_of(row) {
        return Ok(false);
    }
    if run.dry_run {
        return Ok(true);
    }
    tx.update_device(row.device_id, &told.facts, now).await?;
    if is_new {
        tx.begin_generation(row.id, now).await?;
    }
    keep(run, tx, row.id, device, told, now).await?;
    if is_new {
        begin(run, tx, row.id, row.generation + 1, now).await?;
    }
    Ok(true)
}

/// Keeps what a device told the other server, and how it is pushed to.
async fn keep(
    run: &Run<'_>,
    tx: &mut Write,
    id: EnrollmentId,
    device: &Device,
    told: &Told<'_>,
    now: Timestamp,
) -> Result<(), Error> {
    let apple_id = &told.apple_id.id;
    if let Some(raw) = told.authenticate {
        let sealed = run.app.seal(&raw_context(apple_id, "Authenticate"), raw.as_bytes())?;
        tx.put_check_in(id, "Authenticate", &sealed, now).await?;
    }
    if let Some(raw) = told.token_update {
        let sealed = run.app.seal(&raw_context(apple_id, "TokenUpdate"), raw.expose().as_bytes())?;
        tx.put_check_in(id, "TokenUpdate", &sealed, now).await?;
    }
    let push = PushFacts {
        topic: &told.push.topic,
        token: &told.push.token,
        magic: &told.push.magic,
        awaiting_configuration: told.awaiting_configuration,
    };
    tx.set_push(id, &push, now).await?;
    tx.set_migrated_seen(id, seen(device.last_seen, now), now).await?;
    Ok(())
}

/// What a device that enrolls here is asked first, too.
async fn begin(run: &Run<'_>, tx: &mut Write, id: EnrollmentId, generation: i64, now: Timestamp) -> Result<(), Error> {
    enroll(run.app, tx, id, now).await?;
    // A moment apart, since commands of one priority come in the order of their age. The list of profiles tells the
    // identifier of the enrollment profile, which was made elsewhere.
    for (micros, what) in [(0, Internal::DeviceInformation), (1, Internal::SecurityInfo), (2, Internal::Profiles)] {
        let at = now.plus(std::time::Duration::from_micros(micros));
        enqueue_internal(run.app, tx, (id, generation), what, at).await?;
    }
    Ok(())
}

/// Ends an enrollment that has ended there.
async fn end(tx: &mut Write, row: &Enrollment, now: Timestamp) -> Result<(), Error> {
    for user in tx.user_channels_for_update(row.id).await? {
        void_open(tx, &user, End::CheckOut, now).await?;
        tx.close_enrollment(user.id, "disabled", now).await?;
        tx.set_migrated(user.id, now).await?;
    }
    void_open(tx, row, End::CheckOut, now).await?;
    tx.close_enrollment(row.id, "disabled", now).await?;
    // It has not ended here: it may come back there.
    tx.set_migrated(row.id, now).await?;
    Ok(())
}

/// Pins a device to its certificates, which are known by their digests alone. `id` is none where nothing is there yet.
async fn bind(
    run: &Run<'_>,
    tx: &mut Write,
    id: Option<EnrollmentId>,
    device: &Device,
    pins: &[String],
    report: &mut Report,
    now: Timestamp,
) -> Result<(), Error> {
    let mut bound = 0;
    for text in pins {
        let digest = hex::decode(text).ok().and_then(|bytes| Sha256::from_slice(&bytes));
        let Some(sha256) = digest else {
            skip(report, |report| &mut report.pins, "pin", "it is no SHA-256 digest", &device.id);
            continue;
        };
        let others = tx.pins_of_certificate(sha256).await?;
        if others.iter().any(|pin| Some(pin.enrollment_id) != id) {
            skip(report, |report| &mut report.pins, "pin", "the certificate belongs to another device", &device.id);
            continue;
        }
        bound += 1;
        let is_there = match id {
            Some(id) => tx.pin(id, sha256).await?.is_some(),
            None => false,
        };
        if is_there {
            report.pins.unchanged += 1;
            continue;
        }
        report.pins.added += 1;
        if let Some(id) = id.filter(|_| !run.dry_run) {
            tx.put_pin(id, sha256, None, None, now).await?;
        }
    }
    report.without_pin += u64::from(bound == 0);
    Ok(())
}

/// Keeps what a device entrusted to the other server.
async fn entrust_all(
    run: &Run<'_>,
    tx: &mut Write,
    to: Option<(EnrollmentId, i64)>,
    device: &Device,
    told: &Told<'_>,
    report: &mut Report,
    now: Timestamp,
) -> Result<(), Error> {
    if let Some(token) = &told.unlock_token {
        entrust(run, tx, to, "unlock_token", token, &mut report.unlock_tokens, now).await?;
    }
    let Some(text) = device.bootstrap_token.as_ref().filter(|text| !text.expose().trim().is_empty()) else {
        return Ok(());
    };
    match STANDARD.decode(text.expose().trim()).map(Secret::new) {
        Ok(token) => entrust(run, tx, to, "bootstrap_token", &token, &mut report.bootstrap_tokens, now).await,
        Err(_) => {
            skip(report, |report| &mut report.bootstrap_tokens, "bootstrap token", "it is no Base64", &device.id);
            Ok(())
        }
    }
}

async fn entrust(
    run: &Run<'_>,
    tx: &mut Write,
    to: Option<(EnrollmentId, i64)>,
    kind: &'static str,
    value: &Secret<Vec<u8>>,
    tally: &mut Tally,
    now: Timestamp,
) -> Result<(), Error> {
    let Some((id, generation)) = to else {
        tally.added += 1;
        return Ok(());
    };
    let context = escrow_context(id, generation, kind);
    match tx.escrow(id, generation, kind).await? {
        Some(sealed) if run.app.open(&context, &sealed)? == *value => {
            tally.unchanged += 1;
            return Ok(());
        }
        Some(_) => tally.updated += 1,
        None => tally.added += 1,
    }
    if !run.dry_run {
        let sealed = run.app.seal(&context, value.expose())?;
        tx.put_escrow(id, generation, kind, &sealed, now).await?;
    }
    Ok(())
}
