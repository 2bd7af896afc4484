//! What happens when: by the number of a request or of an action, never by the clock, so that a seed stands for a plan.

use muster::model::{Randomness as _, SeededRandomness, Sha256};

/// What becomes of a request on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Pass,
    /// The connection ends before the server sees anything.
    CutBefore,
    /// The server sees a half of the request.
    CutHalf,
    /// The server answers, and nobody hears it.
    CutAnswer,
    /// A half of the answer arrives.
    CutMid,
    /// It is held up, milliseconds.
    Delay(u64),
    /// It is sent twice; what the second is answered arrives.
    Repeat,
    /// It is sent again after so many milliseconds, when the answer has long arrived.
    RepeatLate(u64),
    /// The server is killed so many microseconds after it has the request, or when it answers.
    Kill(u64),
    /// PostgreSQL is stopped at once, for so many milliseconds.
    StopDatabase(u64),
}

/// A sequence of its own for each thing and number.
pub struct Dice(SeededRandomness);

/// The plan of a run.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub seed: u64,
    /// Whether there is a PostgreSQL to stop.
    pub stops_database: bool,
}

impl Plan {
    pub fn dice(&self, what: &str, number: u64) -> Dice {
        let digest = Sha256::of(format!("{} {what} {number}", self.seed).as_bytes());
        let number = digest.hex().bytes().take(16).fold(0_u64, |sum, digit| (sum << 4) ^ u64::from(digit));
        Dice(SeededRandomness::new(number))
    }

    /// The fate of the request with this number.
    pub fn fate(&self, number: u64) -> Fate {
        let dice = self.dice("fate", number);
        match dice.below(1000) {
            0..12 => Fate::CutBefore,
            12..24 => Fate::CutHalf,
            24..54 => Fate::CutAnswer,
            54..74 => Fate::CutMid,
            74..104 => Fate::Delay(dice.below(120)),
            104..124 => Fate::Repeat,
            124..136 => Fate::RepeatLate(20 + dice.below(300)),
            136..140 => Fate::Kill(dice.below(6_000)),
            140..142 if self.stops_database => Fate::StopDatabase(50 + dice.below(600)),
            _ => Fate::Pass,
        }
    }
}

impl Dice {
    pub fn below(&self, bound: u64) -> u64 {
        self.0.below(bound)
    }

    pub fn one_in(&self, bound: u64) -> bool {
        self.below(bound) == 0
    }

    pub fn index(&self, length: usize) -> usize {
        usize::try_from(self.below(u64::try_from(length).unwrap_or(0))).unwrap_or(0)
    }
}
