use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::Timestamp;

/// Something to do wrong. Faults form a script: each well-formed push takes the first fault that applies to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// Only for pushes to this token (hex); none: for any.
    #[serde(default)]
    pub token: Option<String>,
    /// How many pushes it hits; none: all, until the script is emptied.
    #[serde(default = "once")]
    pub times: Option<u32>,
    /// What happens.
    #[serde(rename = "fault")]
    pub kind: FaultKind,
}

/// What goes wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum FaultKind {
    /// 410 Unregistered.
    Unregistered {
        /// Since when, in milliseconds since the epoch; none: now.
        #[serde(default)]
        timestamp: Option<i64>,
    },
    /// 429 TooManyRequests.
    TooManyRequests {
        /// Seconds for Retry-After.
        #[serde(default)]
        retry_after: Option<u64>,
    },
    /// 500 InternalServerError.
    InternalServerError,
    /// 503 ServiceUnavailable.
    ServiceUnavailable {
        /// Seconds for Retry-After.
        #[serde(default)]
        retry_after: Option<u64>,
    },
    /// Any status with any body, as a proxy in between may answer.
    Answer {
        /// The status.
        status: u16,
        /// The body.
        #[serde(default)]
        body: String,
    },
    /// GOAWAY on the push's connection; what is in flight there is still answered, this push too.
    GoAway,
    /// GOAWAY, and a moment later the connection ends, with all that is in flight unanswered.
    GoAwayAbrupt,
    /// The connection ends without a word.
    HangUp,
    /// The push is treated as usual, later.
    Delay {
        /// Milliseconds.
        millis: u64,
    },
}

impl Fault {
    /// This once, for any token.
    #[must_use]
    pub fn once(kind: FaultKind) -> Self {
        Self { token: None, times: once(), kind }
    }

    /// This for `times` pushes.
    #[must_use]
    pub fn times(times: u32, kind: FaultKind) -> Self {
        Self { token: None, times: Some(times), kind }
    }

    /// This until the script is emptied.
    #[must_use]
    pub fn always(kind: FaultKind) -> Self {
        Self { token: None, times: None, kind }
    }

    /// The same, only for pushes to this token.
    #[must_use]
    pub fn for_token(mut self, token: &[u8]) -> Self {
        self.token = Some(hex::encode(token));
        self
    }

    pub(super) fn applies_to(&self, token: &[u8]) -> bool {
        self.token.as_ref().is_none_or(|wanted| wanted.eq_ignore_ascii_case(&hex::encode(token)))
    }
}

impl FaultKind {
    /// [`FaultKind::Unregistered`] since a time.
    #[must_use]
    pub fn unregistered(since: Timestamp) -> Self {
        Self::Unregistered { timestamp: Some(since.micros().div_euclid(1000)) }
    }

    /// [`FaultKind::Delay`].
    #[must_use]
    pub fn delay(by: Duration) -> Self {
        Self::Delay { millis: u64::try_from(by.as_millis()).unwrap_or(u64::MAX) }
    }
}

#[allow(clippy::unnecessary_wraps, reason = "it is the default of an optional field")]
fn once() -> Option<u32> {
    Some(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_written_as_people_would_write_them() {
        let fault: Fault = serde_json::from_str(r#"{"fault":{"kind":"too_many_requests","retry_after":7}}"#).unwrap();
        assert_eq!(fault, Fault::once(FaultKind::TooManyRequests { retry_after: Some(7) }));
        let fault: Fault = serde_json::from_str(r#"{"token":"AB01","times":null,"fault":{"kind":"go_away"}}"#).unwrap();
        assert_eq!(fault.times, None);
        assert!(fault.applies_to(&[0xab, 0x01]) && !fault.applies_to(&[0xab]));
        serde_json::from_str::<Fault>(r#"{"fault":{"kind":"explode"}}"#).unwrap_err();
    }
}
