use serde::Serialize;

/// Most examples that are kept of what was skipped for one reason.
const MAX_EXAMPLES: usize = 20;

/// What became of the rows of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// They are new here.
    pub added: u64,
    /// They were here, and were changed.
    pub updated: u64,
    /// They were here as they are.
    pub unchanged: u64,
    /// They were not taken; the reasons stand in [`Report::skipped`].
    pub skipped: u64,
}

/// Rows that were not taken for one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Skipped {
    /// What they are.
    pub what: &'static str,
    /// Why they were not taken.
    pub why: String,
    /// How many there are.
    pub count: u64,
    /// Some of them.
    pub examples: Vec<String>,
}

/// What an import did, or would do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Whether nothing was changed.
    pub dry_run: bool,
    /// Authorities whose certificates are accepted.
    pub authorities: Tally,
    /// Push certificates.
    pub push_certificates: Tally,
    /// Device channels.
    pub devices: Tally,
    /// User channels.
    pub users: Tally,
    /// Certificates that device channels are pinned to.
    pub pins: Tally,
    /// Unlock tokens.
    pub unlock_tokens: Tally,
    /// Bootstrap tokens.
    pub bootstrap_tokens: Tally,
    /// Commands that wait, once for each enrollment. `updated`: withdrawn, since they do not wait there any more.
    pub queue: Tally,
    /// How many of the commands that were added are held until an admin releases them.
    pub held: u64,
    /// How many devices that were taken over have no certificate that they are pinned to.
    pub without_pin: u64,
    /// What was not taken, by reason.
    pub skipped: Vec<Skipped>,
}

impl Report {
    /// Notes what was not taken; the number is the caller's to count.
    pub(super) fn note(&mut self, what: &'static str, why: impl Into<String>, example: &str) {
        let why = why.into();
        let skipped = match self.skipped.iter_mut().find(|known| known.what == what && known.why == why) {
            Some(known) => known,
            None => {
                self.skipped.push(Skipped { what, why, count: 0, examples: Vec::new() });
                let Some(last) = self.skipped.last_mut() else { return };
                last
            }
        };
        skipped.count += 1;
        if skipped.examples.len() < MAX_EXAMPLES {
            skipped.examples.push(example.chars().take(255).collect());
        }
    }
}
