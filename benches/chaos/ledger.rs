//! What must be true, as far as devices and admins know: kept beside the server, and compared with what it says.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use muster::simulator::apns::Mailbox;

/// What a device does with a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Acknowledged,
    Error,
    FormatError,
    NotNow,
}

impl Outcome {
    /// Apple's word.
    pub const fn status(self) -> &'static str {
        match self {
            Self::Acknowledged => "Acknowledged",
            Self::Error => "Error",
            Self::FormatError => "CommandFormatError",
            Self::NotNow => "NotNow",
        }
    }
}

/// A command that reached a device.
#[derive(Clone, Debug)]
pub struct Receipt {
    /// The device's enrollment: how many it had begun.
    pub generation: u64,
    pub outcome: Outcome,
    /// The server took the report on it.
    pub is_reported: bool,
}

/// What is known of a device.
#[derive(Default)]
pub struct DeviceRecord {
    /// How many enrollments it has begun.
    pub generation: u64,
    /// How many of them the server took: Authenticate and TokenUpdate answered 200.
    pub completed: u64,
    /// Whether it believes to be enrolled.
    pub is_enrolled: bool,
    /// Digests of the certificates that it was issued.
    pub certificates: Vec<String>,
    /// By the command's id.
    pub receipts: BTreeMap<String, Vec<Receipt>>,
    /// What happened to it, for people.
    pub story: Vec<String>,
    /// What came to tokens that it had before.
    pub earlier_pushes: u64,
    /// Where what comes to its token arrives.
    pub mailbox: Option<Mailbox>,
}

impl DeviceRecord {
    /// How many pushes have come to its token.
    pub fn pushes(&self) -> u64 {
        self.mailbox.as_ref().map_or(0, Mailbox::taken)
    }
}

/// What an admin asked for, and the API accepted.
#[derive(Clone, Debug)]
pub struct CommandRecord {
    pub id: String,
    pub verb: &'static str,
    /// Running it twice would hurt: never again by itself.
    pub is_by_admin_only: bool,
    pub targets: u64,
    pub is_for_all: bool,
    /// The enrollments of all devices when the answer came: none of a later one is to get it.
    pub generations: Vec<u64>,
    /// Which devices believed to be enrolled from before it was asked for until it was accepted, in which enrollment.
    pub certain: Vec<(usize, u64)>,
    pub expires: bool,
    pub was_cancelled: bool,
    /// How often an admin asked for another delivery.
    pub again: u64,
}

/// What devices and admins know.
pub struct Ledger(Mutex<Inner>);

/// The inside.
#[derive(Default)]
pub struct Inner {
    pub devices: Vec<DeviceRecord>,
    pub commands: Vec<CommandRecord>,
    /// What must not be.
    pub violations: Vec<Violation>,
}

/// An invariant that does not hold.
#[derive(Clone, Debug)]
pub struct Violation {
    pub device: Option<usize>,
    pub text: String,
}

impl Ledger {
    pub fn new(devices: usize) -> Self {
        let devices = (0..devices).map(|_| DeviceRecord::default()).collect();
        Self(Mutex::new(Inner { devices, ..Inner::default() }))
    }

    pub fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn violation(&self, device: Option<usize>, text: String) {
        self.lock().violations.push(Violation { device, text });
    }

    /// Changes what is known of a device.
    pub fn device<T>(&self, number: usize, change: impl FnOnce(&mut DeviceRecord) -> T) -> Option<T> {
        self.lock().devices.get_mut(number).map(change)
    }

    /// Adds to a device's story.
    pub fn tell(&self, number: usize, what: String) {
        self.device(number, |device| device.story.push(what));
    }

    /// A command reached a device. Checks at once that it was not told before that the device had done it.
    pub fn receive(&self, number: usize, command: &str, request_type: &str, outcome: Outcome) -> bool {
        let mut inner = self.lock();
        let Some(device) = inner.devices.get_mut(number) else { return false };
        let generation = device.generation;
        device.story.push(format!("gets {request_type} {command}, does {}", outcome.status()));
        let receipts = device.receipts.entry(command.to_owned()).or_default();
        let was_reported = receipts.iter().any(|one| one.outcome != Outcome::NotNow && one.is_reported);
        let is_again = receipts.iter().any(|one| one.outcome != Outcome::NotNow);
        receipts.push(Receipt { generation, outcome, is_reported: false });
        if was_reported {
            let text = format!("command {command} came again after the report on it had been taken");
            inner.violations.push(Violation { device: Some(number), text });
        }
        is_again
    }

    /// The server took the report on what came last.
    pub fn reported(&self, number: usize, command: &str) {
        self.device(number, |device| {
            device.story.push(format!("the report on {command} was taken"));
            if let Some(last) = device.receipts.get_mut(command).and_then(|receipts| receipts.last_mut()) {
                last.is_reported = true;
            }
        });
    }

    /// How often a device has said NotNow to a command.
    pub fn put_off(&self, number: usize, command: &str) -> usize {
        let count = |device: &mut DeviceRecord| {
            let receipts = device.receipts.get(command).map_or(&[][..], Vec::as_slice);
            receipts.iter().filter(|one| one.outcome == Outcome::NotNow).count()
        };
        self.device(number, count).unwrap_or(0)
    }

    /// The enrollments of all devices, and whether each believes to be enrolled.
    pub fn generations(&self) -> Vec<(u64, bool)> {
        self.lock().devices.iter().map(|device| (device.generation, device.is_enrolled)).collect()
    }
}
