//! How far a long piece of work is: a bar on a terminal, a line for each tenth elsewhere, so that a log shows it too.

use std::io::{IsTerminal as _, Write as _};

use indicatif::{ProgressBar, ProgressStyle};

/// A piece of work of known size.
pub(super) struct Progress {
    bar: ProgressBar,
    what: &'static str,
    is_terminal: bool,
}

impl Progress {
    /// Nothing is done yet of `count`.
    pub(super) fn of(count: usize, what: &'static str) -> Self {
        let bar = ProgressBar::new(u64::try_from(count).unwrap_or(u64::MAX));
        if let Ok(style) = ProgressStyle::with_template("{msg:22} {bar:40} {pos}/{len}  {elapsed}") {
            bar.set_style(style);
        }
        bar.set_message(what);
        Self { bar, what, is_terminal: std::io::stderr().is_terminal() }
    }

    /// One more is done.
    pub(super) fn step(&self) {
        self.reach(self.bar.position() + 1);
    }

    /// So many are done by now.
    pub(super) fn reach(&self, done: u64) {
        let (before, all) = (self.bar.position(), self.bar.length().unwrap_or(0));
        self.bar.set_position(done);
        if !self.is_terminal && is_worth_a_line(before, done, all) {
            self.say(&format!("{}: {done} of {all}", self.what));
        }
    }

    /// Says something beside the bar.
    pub(super) fn say(&self, text: &str) {
        if self.is_terminal {
            self.bar.println(text);
        } else {
            // Nobody to tell is no reason to stop.
            let _ = writeln!(anstream::stderr(), "{text}");
        }
    }

    /// Leaves the bar as it is.
    pub(super) fn finish(&self) {
        self.bar.finish();
    }

    /// Takes the bar away.
    pub(super) fn clear(&self) {
        self.bar.finish_and_clear();
    }
}

/// Whether another tenth was done in between.
fn is_worth_a_line(before: u64, done: u64, all: u64) -> bool {
    let tenths = |done: u64| (done * 10).checked_div(all).unwrap_or(0);
    tenths(done) > tenths(before)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_comes_with_each_tenth() {
        let lines = |all| (1..=all).filter(|done| is_worth_a_line(done - 1, *done, all)).collect::<Vec<_>>();
        assert_eq!(lines(1), [1]);
        assert_eq!(lines(3), [1, 2, 3]);
        assert_eq!(lines(100), [10, 20, 30, 40, 50, 60, 70, 80, 90, 100]);
        assert!(is_worth_a_line(0, 25, 25));
        assert!(!is_worth_a_line(3, 3, 25) && !is_worth_a_line(0, 1, 0));
    }
}
