//! What was exercised.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// What every run must have done; on PostgreSQL the last one, too.
const NEEDED: &[&str] = &[
    "kills with a request in flight",
    "kills with a push in flight",
    "answers that were lost",
    "answers that were cut in the middle",
    "requests that were repeated",
    "requests that were repeated late",
    "commands accepted",
    "commands accepted for all",
    "commands asked for again by the same key",
    "cancelled before they were handed over",
    "cancelled after they were handed over",
    "commands executed",
    "commands executed again after a lost report",
    "reports of an error",
    "reports of NotNow",
    "wipes executed",
    "locks with a PIN executed",
    "restarts executed",
    "enrollments",
    "enrollments anew",
    "wake-ups",
];
const NEEDED_OF_POSTGRES: &[&str] = &["stops of PostgreSQL"];

/// How often each thing was done.
#[derive(Default)]
pub struct Counts(Mutex<BTreeMap<&'static str, u64>>);

impl Counts {
    pub fn add(&self, what: &'static str) {
        self.add_many(what, 1);
    }

    pub fn add_many(&self, what: &'static str, count: u64) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(what).or_default() += count;
    }

    pub fn get(&self, what: &str) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(what).copied().unwrap_or(0)
    }

    /// All, as lines.
    pub fn lines(&self) -> Vec<String> {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.iter().map(|(what, count)| format!("{count:>8} {what}")).collect()
    }

    /// What should have been done and was not.
    pub fn missing(&self, is_postgres: bool) -> Vec<&'static str> {
        let more: &[_] = if is_postgres { NEEDED_OF_POSTGRES } else { &[] };
        NEEDED.iter().chain(more).copied().filter(|what| self.get(what) == 0).collect()
    }
}
