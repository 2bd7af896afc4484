use std::time::Duration;

use a2::ErrorReason;
use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};
use serde::Deserialize;
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;

use super::PushOutcome;
use crate::model::Timestamp;

/// The longest text of a reason that is kept, in characters: the endpoint may be a proxy that answers with pages.
const MAX_REASON: usize = 200;

/// The longest wait that is believed.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

/// What came back from APNs.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    /// Empty where it could not be read: the status is what counts.
    pub(super) body: Bytes,
}

/// What one of Apple's reasons means, as a sentence; none for a word that is not known.
#[must_use]
pub fn explain(reason: &str) -> Option<String> {
    ErrorReason::deserialize(Value::from(reason)).ok().map(|known| known.to_string())
}

/// Reads an answer. The status decides; the body only explains, and may be anything.
pub(super) fn outcome(answer: &Answer, now: Timestamp) -> PushOutcome {
    let body = serde_json::from_slice::<Value>(&answer.body).unwrap_or(Value::Null);
    let reason = match body.get("reason").and_then(Value::as_str) {
        Some(word) => shorten(word),
        None => plain_reason(answer),
    };
    match answer.status.as_u16() {
        200 => PushOutcome::Accepted { apns_id: header(&answer.headers, "apns-id").map(str::to_owned) },
        429 | 500..=599 => PushOutcome::Later { after: retry_after(&answer.headers, now), reason },
        // The connection had idled away; says nothing about the push.
        400 if reason == "IdleTimeout" => PushOutcome::Later { after: None, reason },
        status => {
            let millis = body.get("timestamp").and_then(Value::as_i64);
            let at = millis.and_then(|millis| millis.checked_mul(1000)).map(Timestamp::from_micros);
            PushOutcome::Refused { status, reason, at }
        }
    }
}

fn plain_reason(answer: &Answer) -> String {
    let text = shorten(String::from_utf8_lossy(&answer.body).trim());
    if text.is_empty() { format!("HTTP {}", answer.status) } else { text }
}

fn shorten(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_REASON).collect()
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// Seconds or a date. Source: RFC 9110, section 10.2.3.
pub(in crate::remote) fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let value = header(headers, header::RETRY_AFTER.as_str())?.trim();
    let wait = match value.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let at = OffsetDateTime::parse(value, &Rfc2822).ok()?;
            Timestamp::from_seconds(at.unix_timestamp()).since(now)
        }
    };
    Some(wait.min(MAX_RETRY_AFTER))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_seconds(784_111_777 - 60);

    fn read(status: u16, headers: &[(&'static str, &str)], body: &str) -> PushOutcome {
        let headers = headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
        let answer = Answer {
            status: StatusCode::from_u16(status).unwrap(),
            headers,
            body: Bytes::copy_from_slice(body.as_bytes()),
        };
        outcome(&answer, NOW)
    }

    #[test]
    fn the_status_decides_whatever_the_body_is() {
        assert_eq!(
            read(200, &[("apns-id", "EC1BF194")], "<html>"),
            PushOutcome::Accepted { apns_id: Some("EC1BF194".to_owned()) }
        );
        assert_eq!(
            read(400, &[], r#"{"reason":"SomethingOfNextYear"}"#),
            PushOutcome::Refused { status: 400, reason: "SomethingOfNextYear".to_owned(), at: None }
        );
        assert_eq!(
            read(502, &[], "<html>\nBad gateway"),
            PushOutcome::Later { after: None, reason: "<html> Bad gateway".to_owned() }
        );
        assert_eq!(
            read(403, &[], ""),
            PushOutcome::Refused { status: 403, reason: "HTTP 403 Forbidden".to_owned(), at: None }
        );
        assert!(matches!(read(400, &[], r#"{"reason":"IdleTimeout"}"#), PushOutcome::Later { .. }));
    }

    #[test]
    fn a_410_brings_its_time() {
        let gone = read(410, &[], r#"{"reason":"Unregistered","timestamp":1508249865488}"#);
        let at = Some(Timestamp::from_micros(1_508_249_865_488_000));
        assert_eq!(gone, PushOutcome::Refused { status: 410, reason: "Unregistered".to_owned(), at });
        let odd = read(410, &[], r#"{"reason":"Unregistered","timestamp":9223372036854775807}"#);
        assert!(matches!(odd, PushOutcome::Refused { at: None, .. }));
    }

    #[test]
    fn retry_after_is_seconds_or_a_date_and_bounded() {
        let after = |value| match read(429, &[("retry-after", value)], r#"{"reason":"TooManyRequests"}"#) {
            PushOutcome::Later { after, .. } => after,
            other => panic!("{other:?}"),
        };
        assert_eq!(after("120"), Some(Duration::from_secs(120)));
        assert_eq!(after("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::from_secs(60)));
        assert_eq!(after("99999999999"), Some(MAX_RETRY_AFTER));
        assert_eq!(after("soon"), None);
    }

    #[test]
    fn long_bodies_are_cut_and_known_words_explained() {
        let PushOutcome::Later { reason, .. } = read(500, &[], &"x".repeat(5000)) else { panic!() };
        assert_eq!(reason.len(), MAX_REASON);
        assert!(explain("Unregistered").unwrap().contains("inactive"));
        assert_eq!(explain("SomethingOfNextYear"), None);
    }
}
