use std::str::FromStr;
use std::time::Duration;

/// How a simulated device behaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Behavior {
    /// At once and by the book.
    #[default]
    Happy,
    /// Loses connections: commands and reports get lost, reports come twice, wakes are missed.
    Flaky,
    /// Thinks before it does anything.
    Slow,
    /// Says NotNow first.
    Busy,
    /// Sends what real clients send that is not by the book.
    Awkward,
}

impl Behavior {
    /// All of them, in the order of the documentation.
    pub const ALL: [Self; 5] = [Self::Happy, Self::Flaky, Self::Slow, Self::Busy, Self::Awkward];

    /// The word on the command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Happy => "happy",
            Self::Flaky => "flaky",
            Self::Slow => "slow",
            Self::Busy => "busy",
            Self::Awkward => "awkward",
        }
    }

    /// What device `number` does when it has a command.
    #[must_use]
    pub const fn manner(self) -> Manner {
        match self {
            Self::Happy | Self::Awkward => Manner::PROMPT,
            Self::Flaky => {
                Manner { lost_percent: 20, repeated_percent: 20, missed_wakes_percent: 25, ..Manner::PROMPT }
            }
            Self::Slow => Manner { thinks: Duration::from_secs(3), ..Manner::PROMPT },
            Self::Busy => Manner { not_now_first: 2, ..Manner::PROMPT },
        }
    }

    /// What is odd about the messages of device `number`.
    #[must_use]
    pub fn quirks(self, number: usize) -> Quirks {
        if self == Self::Awkward { Quirks::awkward(number) } else { Quirks::default() }
    }
}

impl FromStr for Behavior {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|behavior| behavior.as_str() == text)
            .ok_or_else(|| format!("{text:?} is no behavior; expected happy, flaky, slow, busy or awkward"))
    }
}

/// What a device does when it has a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Manner {
    /// The longest time that it thinks before it reports.
    pub thinks: Duration,
    /// How often it says NotNow to each command before it carries it out.
    pub not_now_first: u32,
    /// How many commands of a hundred are lost, half of them before they are carried out, half with their report.
    pub lost_percent: u64,
    /// How many reports of a hundred are sent twice.
    pub repeated_percent: u64,
    /// How many wakes of a hundred are not heard.
    pub missed_wakes_percent: u64,
}

impl Manner {
    /// At once, once.
    pub const PROMPT: Self = Self {
        thinks: Duration::ZERO,
        not_now_first: 0,
        lost_percent: 0,
        repeated_percent: 0,
        missed_wakes_percent: 0,
    };
}

/// What a client sends that is not by the book. Each was seen in the field.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quirks {
    /// SCEP: BER with indefinite lengths.
    pub indefinite_lengths: bool,
    /// SCEP: the content encrypted with 3DES.
    pub triple_des: bool,
    /// SCEP: signed with another key than the request's, of another certificate.
    pub other_signer_key: bool,
    /// SCEP: GET, the base64 in the query not escaped.
    pub scep_by_get: bool,
    /// SCEP: POST, and the DER in the query too.
    pub scep_query_with_post: bool,
    /// CMS: signed attributes not in DER's order.
    pub unsorted_attributes: bool,
    /// `Mdm-Signature` with SHA-1.
    pub sha1_signatures: bool,
    /// UDID and EnrollmentID in one message.
    pub both_ids: bool,
    /// Optional members of check-ins left out.
    pub few_keys: bool,
    /// Reports without a Content-Type.
    pub no_content_type: bool,
    /// Reports with an empty Content-Type.
    pub empty_content_type: bool,
    /// Reports with an empty RequestType.
    pub empty_request_type: bool,
    /// A renewal by InstallProfile is not reported: the new Authenticate and TokenUpdate are all.
    pub silent_renewal: bool,
}

impl Quirks {
    /// A different mixture for each number; any six devices in a row show all of them.
    #[must_use]
    pub fn awkward(number: usize) -> Self {
        let none = Self::default();
        match number % 6 {
            0 => Self { indefinite_lengths: true, no_content_type: true, ..none },
            1 => Self { triple_des: true, both_ids: true, unsorted_attributes: true, ..none },
            2 => Self { scep_by_get: true, few_keys: true, ..none },
            3 => Self { scep_query_with_post: true, sha1_signatures: true, ..none },
            4 => Self { other_signer_key: true, empty_content_type: true, silent_renewal: true, ..none },
            _ => Self { indefinite_lengths: true, triple_des: true, empty_request_type: true, few_keys: true, ..none },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn behaviors_are_read_as_they_are_written() {
        for behavior in Behavior::ALL {
            assert_eq!(behavior.as_str().parse(), Ok(behavior));
        }
        assert!("angry".parse::<Behavior>().unwrap_err().contains("expected happy"));
    }

    #[test]
    fn six_awkward_devices_show_everything() {
        let debug: String = (0..6).map(|number| format!("{:?}", Quirks::awkward(number))).collect();
        for name in format!("{:?}", Quirks::default()).split(['{', ',', '}']).filter_map(|part| part.split_once(": ")) {
            assert!(debug.contains(&format!("{}: true", name.0.trim())), "{}", name.0);
        }
        assert_eq!(Behavior::Busy.quirks(3), Quirks::default());
    }
}
