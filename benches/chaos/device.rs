//! A simulated device: enrolls from a link by SCEP, is woken, does what it is told, and reports; it repeats what it gets no
//! answer to, or goes away and comes again.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use muster::cli::SystemClock;
use muster::model::SeededRandomness;
use muster::pki::PrivateKey;
use muster::protocol::command;
use muster::simulator::apns::{FakeApns, Mailbox};
use muster::simulator::devices::{
    Authentication, Environment, HeaderForm, KeySource, Phone, PhoneOptions, Trust, WakeService,
};
use plist::Value;
use tokio::sync::watch;
use tokio::time::sleep;
use url::Url;

use crate::counts::Counts;
use crate::ledger::{Ledger, Outcome};
use crate::messages::{self, CHECK_IN, REPORT};
use crate::network::{DEVICE, Network};
use crate::plan::{Dice, Plan};
use crate::wire::{self, Answer};

/// The header of the proxy that the devices are behind.
pub const HEADER: &str = "Client-Cert";

/// What goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// All that can go wrong does.
    Chaos,
    /// Nothing goes wrong, and devices come when they are woken, or know that something of theirs is open.
    Calm,
    /// Nothing goes wrong, and devices come by themselves as well.
    Load,
    End,
}

/// What devices share.
pub struct World {
    pub plan: Plan,
    pub counts: Arc<Counts>,
    pub ledger: Ledger,
    pub network: Arc<Network>,
    /// Where the network begins for them.
    pub server: SocketAddr,
    pub apns: FakeApns,
    pub link: Url,
    pub phase: watch::Receiver<Phase>,
    /// Each message must be answered 200, at once.
    pub is_strict: AtomicBool,
}

/// A device.
pub struct Device {
    number: usize,
    world: Arc<World>,
    dice: Dice,
    phone: Phone,
    enrolled: Option<Enrolled>,
    /// It knows that it has something to ask for.
    wants_poll: bool,
}

struct Enrolled {
    /// The certificate as the header shows it.
    shown: String,
    topic: String,
    /// The identifier of the enrollment profile.
    profile: String,
    mailbox: Mailbox,
    magic: String,
}

/// What follows from a command beside the report.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    Stay,
    /// It is erased.
    Blank,
    /// Its enrollment profile is removed.
    Leave,
}

impl Device {
    pub fn new(number: usize, world: Arc<World>, key: PrivateKey) -> crate::Result<Self> {
        let options = PhoneOptions {
            page_trust: Trust::Anyone,
            authentication: Authentication::ProxyHeader { name: HEADER.to_owned(), form: HeaderForm::Rfc9440 },
            backend: Some(Url::parse(&format!("http://{}", world.server))?),
            ..PhoneOptions::default()
        };
        let environment = Environment {
            clock: Arc::new(SystemClock),
            random: Arc::new(SeededRandomness::new(world.plan.seed ^ (u64::try_from(number)? << 32))),
            keys: KeySource::Given(Arc::new([key])),
            wakes: WakeService::None,
        };
        let dice = world.plan.dice("device", u64::try_from(number)?);
        let phone = Phone::new(number, options, environment);
        Ok(Self { number, world, dice, phone, enrolled: None, wants_poll: false })
    }

    pub fn udid(number: usize) -> String {
        format!("00008140-{number:016X}")
    }

    /// Lives until the end.
    pub async fn live(mut self) {
        loop {
            let phase = self.phase();
            if phase == Phase::End {
                return;
            }
            let is_chaos = phase == Phase::Chaos;
            if self.enrolled.is_none() {
                if is_chaos {
                    sleep(Duration::from_millis(self.dice.below(600))).await;
                }
                self.enroll().await;
                continue;
            }
            let wait = Duration::from_millis(match phase {
                Phase::Chaos => 50 + self.dice.below(500),
                Phase::Load => self.dice.below(200),
                _ => 200,
            });
            let woken = self.is_woken(wait).await;
            let disturbed = self.world.network.take_disturbed(self.number);
            let by_itself = (is_chaos && self.dice.one_in(6)) || (phase == Phase::Load && self.dice.one_in(2));
            if woken || disturbed || by_itself || self.wants_poll {
                self.wants_poll = false;
                self.connection().await;
            }
            if is_chaos && self.enrolled.is_some() {
                match self.dice.below(150) {
                    0..4 => self.token_update(true).await,
                    4 => self.forget("it is restored").await,
                    5 => self.check_out().await,
                    _ => {}
                }
            }
        }
    }

    fn phase(&self) -> Phase {
        *self.world.phase.borrow()
    }

    fn tell(&self, what: impl Into<String>) {
        self.world.ledger.tell(self.number, what.into());
    }

    async fn is_woken(&self, wait: Duration) -> bool {
        let Some(enrolled) = &self.enrolled else { return false };
        let woken = enrolled.mailbox.next(wait).await.is_some_and(|wake| wake.magic == enrolled.magic);
        if woken {
            self.world.counts.add("wake-ups");
            self.tell("is woken");
        }
        woken
    }

    /// Something of the network or the server went wrong.
    fn failed(&self, what: String) {
        self.tell(what.clone());
        if self.world.is_strict.load(Ordering::SeqCst) {
            self.world.ledger.violation(Some(self.number), what);
        }
    }

    /// All that it knew of the server is gone, without a word to it.
    async fn forget(&mut self, why: &str) {
        self.tell(why);
        if let Some(enrolled) = self.enrolled.take() {
            let pushes = enrolled.mailbox.taken();
            self.world.ledger.device(self.number, |device| {
                device.is_enrolled = false;
                device.earlier_pushes += pushes;
                device.mailbox = None;
            });
        }
        self.wants_poll = false;
    }

    /// Enrolls, from the link on. What fails is tried again from the beginning.
    async fn enroll(&mut self) {
        let before = self.world.ledger.device(self.number, |device| device.completed).unwrap_or(0);
        let obtained = async {
            let profile = self.phone.fetch_profile(&self.world.link).await?;
            self.phone.accept_profile(&profile)?;
            self.phone.obtain_certificate().await
        };
        if let Err(why) = obtained.await {
            self.failed(format!("obtains no certificate: {why}"));
            self.world.counts.add("enrollments that began anew");
            sleep(Duration::from_millis(50 + self.dice.below(100))).await;
            return;
        }
        let (Some(identity), Some(profile)) = (self.phone.identity(), self.phone.profile()) else { return };
        let certificate = &identity.certificate;
        let mailbox = self.world.apns.register(Some(&profile.mdm.topic));
        self.enrolled = Some(Enrolled {
            shown: HeaderForm::Rfc9440.write(certificate),
            topic: profile.mdm.topic.clone(),
            profile: profile.file.identifier.clone(),
            mailbox,
            magic: format!("magic-{}-{}", self.number, self.dice.below(u64::MAX)),
        });
        let digest = certificate.sha256.hex();
        let mailbox = self.enrolled.as_ref().map(|enrolled| enrolled.mailbox.clone());
        self.world.ledger.device(self.number, |device| {
            device.mailbox = mailbox;
            device.certificates.push(digest);
            device.generation += 1;
            device.story.push(format!("begins enrollment {}", device.generation));
        });
        let topic = self.enrolled.as_ref().map(|one| one.topic.clone()).unwrap_or_default();
        let authenticate = messages::authenticate(self.number, &Self::udid(self.number), &topic);
        if self.exchange(CHECK_IN, &authenticate, None, "Authenticate").await.is_none() {
            self.forget("does not enroll").await;
            return;
        }
        self.token_update(false).await;
        self.world.ledger.device(self.number, |device| {
            device.completed += 1;
            device.is_enrolled = true;
            device.story.push("is enrolled".to_owned());
        });
        self.world.counts.add(if before == 0 { "enrollments" } else { "enrollments anew" });
    }

    /// Sends its push token; another one, where it is to change.
    async fn token_update(&mut self, anew: bool) {
        let Some(enrolled) = &mut self.enrolled else { return };
        let before = anew.then(|| {
            let mailbox = self.world.apns.register(Some(&enrolled.topic));
            std::mem::replace(&mut enrolled.mailbox, mailbox)
        });
        let udid = Self::udid(self.number);
        let body = messages::token_update(&udid, &enrolled.topic, &enrolled.magic, enrolled.mailbox.token());
        if anew {
            self.tell("has another push token");
            self.world.counts.add("other push tokens");
        }
        // Without an answer a device goes on until it has one: it could not be woken.
        let _ = self.exchange(CHECK_IN, &body, None, "TokenUpdate").await;
        if let Some(before) = before {
            let pushes = before.taken();
            let mailbox = self.enrolled.as_ref().map(|enrolled| enrolled.mailbox.clone());
            self.world.ledger.device(self.number, |device| {
                device.earlier_pushes += pushes;
                device.mailbox = mailbox;
            });
            // What came to the old token meanwhile was for it all the same.
            self.wants_poll |= before.next(Duration::ZERO).await.is_some();
        }
    }

    async fn check_out(&mut self) {
        let Some(enrolled) = &self.enrolled else { return };
        let body = messages::check_out(&Self::udid(self.number), &enrolled.topic);
        self.world.counts.add("check-outs");
        self.world.ledger.device(self.number, |device| device.is_enrolled = false);
        // It is said once; nobody asks whether it was heard.
        let _ = self.exchange(CHECK_IN, &body, Some(1), "CheckOut").await;
        self.forget("checks out").await;
    }

    /// From Idle to the empty answer.
    async fn connection(&mut self) {
        let udid = Self::udid(self.number);
        let mut body = messages::idle(&udid);
        let mut about: Option<String> = None;
        let mut said_not_now = false;
        self.tell("Idle");
        loop {
            let Some(answer) = self.exchange(REPORT, &body, Some(10), "a report").await else {
                // It went away in the middle, and comes again.
                self.wants_poll = self.enrolled.is_some();
                return;
            };
            if let Some(command) = about.take() {
                self.world.ledger.reported(self.number, &command);
            }
            if answer.body.is_empty() {
                self.wants_poll |= said_not_now;
                return;
            }
            let Ok(command) = command::decode(&answer.body) else {
                let text = format!("an answer is no command: {}", answer.text());
                self.world.ledger.violation(Some(self.number), text);
                return;
            };
            let id = command.uuid.to_ascii_lowercase();
            let outcome = self.outcome(&id, &command.request_type);
            let is_again = self.world.ledger.receive(self.number, &id, &command.request_type, outcome);
            let then = self.perform(&command, outcome, is_again);
            said_not_now |= outcome == Outcome::NotNow;
            if self.phase() == Phase::Chaos && self.dice.one_in(25) {
                // Switched off after it did as it was told, before it could say so.
                self.tell("does not report");
                self.world.counts.add("reports that were never sent");
                self.wants_poll = true;
                if then != Then::Stay {
                    self.forget("is as new").await;
                }
                return;
            }
            body = messages::report(&udid, &command, outcome);
            if then != Then::Stay {
                if self.exchange(REPORT, &body, Some(6), "a report").await.is_some() {
                    self.world.ledger.reported(self.number, &id);
                }
                match then {
                    Then::Leave => self.check_out().await,
                    _ => self.forget("is erased").await,
                }
                return;
            }
            about = Some(id);
        }
    }

    /// What a device does with a command: always the same, but for what it puts off.
    fn outcome(&self, id: &str, request_type: &str) -> Outcome {
        let dice = self.world.plan.dice(&format!("outcome {id}"), u64::try_from(self.number).unwrap_or(0));
        if matches!(request_type, "EraseDevice" | "DeviceLock") {
            return Outcome::Acknowledged;
        }
        match dice.below(20) {
            0 => Outcome::Error,
            1 if dice.one_in(3) => Outcome::FormatError,
            2 | 3 if self.world.ledger.put_off(self.number, id) <= dice.index(2) => Outcome::NotNow,
            _ => Outcome::Acknowledged,
        }
    }

    fn perform(&self, command: &command::Command, outcome: Outcome, is_again: bool) -> Then {
        let counts = &self.world.counts;
        match outcome {
            Outcome::NotNow => {
                counts.add("reports of NotNow");
                return Then::Stay;
            }
            Outcome::Error | Outcome::FormatError => counts.add("reports of an error"),
            Outcome::Acknowledged => {}
        }
        counts.add("commands executed");
        if is_again {
            counts.add("commands executed again after a lost report");
        }
        let identifier = command.payload.get("Identifier").and_then(Value::as_string);
        let profile = self.enrolled.as_ref().map(|one| one.profile.as_str());
        match command.request_type.as_str() {
            "EraseDevice" => {
                counts.add("wipes executed");
                return Then::Blank;
            }
            "RemoveProfile" if outcome == Outcome::Acknowledged && profile == identifier => {
                counts.add("enrollment profiles removed");
                return Then::Leave;
            }
            "DeviceLock" if command.payload.contains_key("PIN") => counts.add("locks with a PIN executed"),
            "RestartDevice" | "ShutDownDevice" => counts.add("restarts executed"),
            _ => {}
        }
        Then::Stay
    }

    /// Sends a message until it is answered. None: the device goes away before, by one in `patience`; or it is refused.
    async fn exchange(&self, kind: &str, body: &[u8], patience: Option<u64>, what: &str) -> Option<Answer> {
        let number = self.number.to_string();
        let shown = self.enrolled.as_ref()?.shown.clone();
        let headers = [("Content-Type", kind), (HEADER, shown.as_str()), (DEVICE, number.as_str())];
        let request = wire::request("PUT /mdm", &headers, body);
        let mut attempt = 0;
        loop {
            match wire::ask(self.world.server, &request).await {
                Ok(answer) if answer.status == 200 => {
                    self.world.counts.add("messages of devices that were answered");
                    return Some(answer);
                }
                Ok(answer) if answer.status >= 500 || matches!(answer.status, 408 | 429) => {
                    self.world.counts.add("messages that were put off");
                    self.failed(format!("{what} was answered {} {}", answer.status, answer.text()));
                }
                Ok(answer) => {
                    // A device that leaves may be gone already as the server sees it.
                    if what != "CheckOut" {
                        let text = format!("{what} was refused: {} {}", answer.status, answer.text());
                        self.tell(text.clone());
                        self.world.ledger.violation(Some(self.number), text);
                    }
                    return None;
                }
                Err(why) => {
                    self.world.counts.add("messages without an answer");
                    self.failed(format!("{what} was not answered: {why}"));
                }
            }
            let phase = self.phase();
            let goes = patience.is_some_and(|one_in| self.dice.one_in(one_in));
            if phase == Phase::End || (phase == Phase::Chaos && goes) {
                self.tell(format!("gives up {what}"));
                return None;
            }
            attempt = 10.min(attempt + 1);
            sleep(Duration::from_millis(10 * attempt + self.dice.below(30))).await;
        }
    }
}
