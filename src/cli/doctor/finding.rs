use std::fmt::Write as _;

use serde::Serialize;

/// How something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum State {
    /// As it should be.
    Ok,
    /// It works, or will do for a trial; somebody should look.
    Warn,
    /// It does not work, or is not safe.
    Fail,
}

/// What one check found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    /// The check: a stable word.
    pub(super) check: &'static str,
    /// How it is.
    pub(super) state: State,
    /// What was found.
    pub(super) found: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) action: Option<String>,
}

/// Everything that was found, in the order of the checks.
#[derive(Debug, Default)]
pub(super) struct Report {
    findings: Vec<Finding>,
}

#[derive(Serialize)]
struct Json<'a> {
    checks: &'a [Finding],
    ok: usize,
    warnings: usize,
    faults: usize,
}

impl Report {
    pub(super) fn ok(&mut self, check: &'static str, found: impl Into<String>) {
        self.findings.push(Finding { check, state: State::Ok, found: found.into(), action: None });
    }

    pub(super) fn warn(&mut self, check: &'static str, found: impl Into<String>, action: impl Into<String>) {
        self.findings.push(Finding { check, state: State::Warn, found: found.into(), action: Some(action.into()) });
    }

    pub(super) fn fail(&mut self, check: &'static str, found: impl Into<String>, action: impl Into<String>) {
        self.findings.push(Finding { check, state: State::Fail, found: found.into(), action: Some(action.into()) });
    }

    /// How many findings have this state.
    pub(super) fn count(&self, state: State) -> usize {
        self.findings.iter().filter(|finding| finding.state == state).count()
    }

    /// A line for each finding, and one that counts them.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        for finding in &self.findings {
            let state = match finding.state {
                State::Ok => "ok",
                State::Warn => "warn",
                State::Fail => "FAIL",
            };
            // Writing into a String cannot fail.
            let _ = write!(text, "{state:<5} {:<17} {}", finding.check, one_line(&finding.found));
            if let Some(action) = &finding.action {
                let _ = write!(text, "; {}", one_line(action));
            }
            text.push('\n');
        }
        let (warnings, faults) = (self.count(State::Warn), self.count(State::Fail));
        let _ = writeln!(text, "{} checks, {warnings} with a warning, {faults} failed", self.findings.len());
        text
    }

    /// The same as one JSON object.
    pub(super) fn json(&self) -> String {
        let json = Json {
            checks: &self.findings,
            ok: self.count(State::Ok),
            warnings: self.count(State::Warn),
            faults: self.count(State::Fail),
        };
        // Texts and numbers: nothing that could not be written.
        let mut text = serde_json::to_string_pretty(&json).unwrap_or_default();
        text.push('\n');
        text
    }
}

/// Names and errors come from files and the network: none may begin a line that looks like another finding.
fn one_line(text: &str) -> String {
    text.chars().map(|char| if char.is_control() { ' ' } else { char }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_one_line_whatever_it_quotes() {
        let mut report = Report::default();
        report.ok("database", "reachable\nok    admin  safe");
        report.fail("clock", "an hour behind", "set it");
        let text = report.text();
        assert_eq!(text.lines().count(), 3);
        assert!(text.contains("FAIL  clock             an hour behind; set it\n"), "{text}");
        assert!(text.ends_with("2 checks, 0 with a warning, 1 failed\n"), "{text}");
        let json: serde_json::Value = serde_json::from_str(&report.json()).unwrap();
        assert_eq!((&json["faults"], &json["checks"][1]["state"]), (&1.into(), &"fail".into()));
        assert_eq!(json["checks"][0].get("action"), None);
    }
}
