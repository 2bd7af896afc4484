//! What several runs say together.

use std::fmt;

use serde_json::{Value, json};

use crate::load::Sample;

/// The middle and the ends of some values.
#[derive(Clone, Copy, Debug)]
pub struct Spread {
    pub least: f64,
    pub median: f64,
    pub most: f64,
}

impl Spread {
    pub fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut values: Vec<_> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let at = |index: usize| values.get(index).copied().unwrap_or(0.0);
        let middle = values.len() / 2;
        let median = if values.len() % 2 == 1 { at(middle) } else { (at(middle.saturating_sub(1)) + at(middle)) / 2.0 };
        Self { least: at(0), median, most: at(values.len().saturating_sub(1)) }
    }

    /// Of neighboring runs, how many times as much the first is.
    pub fn ratio(these: &[Sample], those: &[Sample], value: impl Fn(&Sample) -> f64) -> Self {
        Self::of(these.iter().zip(those).map(|(this, that)| value(this) / value(that).max(0.001)))
    }

    pub fn json(&self) -> Value {
        json!({"median": self.median, "least": self.least, "most": self.most})
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = if self.median >= 1000.0 {
            0
        } else if self.median >= 20.0 {
            1
        } else {
            2
        };
        write!(f, "{:.digits$} ({:.digits$}-{:.digits$})", self.median, self.least, self.most)
    }
}
