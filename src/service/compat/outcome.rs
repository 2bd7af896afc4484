use std::collections::BTreeMap;

use serde::Serialize;

/// What became of a request, in the form of the interface: what is empty is left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Outcome {
    /// For each enrollment of which there is something to say, by Apple's id.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub status: BTreeMap<String, OfId>,
    /// Whether no push was wanted.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub no_push: bool,
    /// Why nobody could be pushed to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub push_error: Option<String>,
    /// Why the command was not taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command_error: Option<String>,
    /// The command's UUID, as the tool chose it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command_uuid: Option<String>,
    /// Its request type.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_type: Option<String>,
}

/// What became of it for one enrollment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct OfId {
    /// Why it was not pushed to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub push_error: Option<String>,
    /// The id that APNs gave the push.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub push_result: Option<String>,
    /// Why it does not get the command.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command_error: Option<String>,
}

/// How a request went on the whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Without any error.
    Good,
    /// With errors for some of the enrollments.
    Partly,
    /// With errors for all of them, or one that is of none in particular.
    Bad,
}

impl Outcome {
    /// A command that was not taken.
    pub(super) fn no_command(why: impl Into<String>) -> Self {
        Self { command_error: Some(why.into()), ..Self::default() }
    }

    /// What is said of an enrollment.
    pub(super) fn of(&mut self, id: &str) -> &mut OfId {
        self.status.entry(id.to_owned()).or_default()
    }

    /// The verdict, where `asked` enrollments were named.
    #[must_use]
    pub fn verdict(&self, asked: usize) -> Verdict {
        if self.push_error.is_some() || self.command_error.is_some() {
            return Verdict::Bad;
        }
        let failed = self.status.values().filter(|of| of.push_error.is_some() || of.command_error.is_some()).count();
        match failed {
            0 => Verdict::Good,
            some if some < asked => Verdict::Partly,
            _ => Verdict::Bad,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verdict_counts_what_failed() {
        let mut outcome = Outcome::default();
        assert_eq!(outcome.verdict(0), Verdict::Good);
        outcome.of("A").push_result = Some("1".to_owned());
        assert_eq!(outcome.verdict(2), Verdict::Good);
        outcome.of("B").push_error = Some("x".to_owned());
        assert_eq!((outcome.verdict(2), outcome.verdict(1)), (Verdict::Partly, Verdict::Bad));
        outcome.of("A").command_error = Some("x".to_owned());
        assert_eq!(outcome.verdict(2), Verdict::Bad);
        outcome.push_error = Some("x".to_owned());
        assert_eq!(outcome.verdict(3), Verdict::Bad);
    }

    #[test]
    fn what_is_empty_is_left_out() {
        let mut outcome = Outcome { no_push: true, ..Outcome::default() };
        assert_eq!(serde_json::to_string(&outcome).unwrap(), r#"{"no_push":true}"#);
        outcome.of("A").push_result = Some("1".to_owned());
        let expected = r#"{"status":{"A":{"push_result":"1"}},"no_push":true}"#;
        assert_eq!(serde_json::to_string(&outcome).unwrap(), expected);
    }
}
