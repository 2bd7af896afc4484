use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// A point in time: microseconds since the Unix epoch, UTC. Stored as that integer in both databases, written in
/// JSON as RFC 3339 (`2026-11-22T05:20:08.123456Z`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The earliest time that RFC 3339 can write (year 0).
    const MIN_SECONDS: i64 = -62_167_219_200;
    /// The latest time that RFC 3339 can write (year 9999).
    const MAX_SECONDS: i64 = 253_402_300_799;

    /// From microseconds since the epoch.
    #[must_use]
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// From whole seconds since the epoch; saturates.
    #[must_use]
    pub const fn from_seconds(seconds: i64) -> Self {
        Self(seconds.saturating_mul(1_000_000))
    }

    /// Microseconds since the epoch.
    #[must_use]
    pub const fn micros(self) -> i64 {
        self.0
    }

    /// Whole seconds since the epoch, rounded down.
    #[must_use]
    pub const fn seconds(self) -> i64 {
        self.0.div_euclid(1_000_000)
    }

    /// This time and `by` more; saturates.
    #[must_use]
    pub fn plus(self, by: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(by.as_micros()).unwrap_or(i64::MAX)))
    }

    /// This time less `by`; saturates.
    #[must_use]
    pub fn minus(self, by: Duration) -> Self {
        Self(self.0.saturating_sub(i64::try_from(by.as_micros()).unwrap_or(i64::MAX)))
    }

    /// How long after `earlier` this is; zero if it is not after.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// The same time for the `time` crate, at most its year 9999.
    #[must_use]
    pub fn to_datetime(self) -> OffsetDateTime {
        let seconds = self.seconds().clamp(Self::MIN_SECONDS, Self::MAX_SECONDS);
        let start = OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH);
        start + time::Duration::microseconds(self.0.rem_euclid(1_000_000))
    }

    /// Reads RFC 3339, with any offset.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn parse(text: &str) -> Result<Self, String> {
        let at = OffsetDateTime::parse(text, &Rfc3339)
            .map_err(|_| format!("{text:?} is not a time; expected RFC 3339, such as 2026-11-22T05:20:08Z"))?;
        Ok(Self(i64::try_from(at.unix_timestamp_nanos() / 1000).unwrap_or(i64::MAX)))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.to_datetime().format(&Rfc3339) {
            Ok(text) => f.write_str(&text),
            Err(_) => write!(f, "{}us", self.0),
        }
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_survives_json() {
        let at = Timestamp::from_micros(1_795_324_808_123_456);
        let text = serde_json::to_string(&at).unwrap();
        assert_eq!(text, "\"2026-11-22T05:20:08.123456Z\"");
        assert_eq!(serde_json::from_str::<Timestamp>(&text).unwrap(), at);
    }

    #[test]
    fn an_offset_is_turned_into_utc() {
        assert_eq!(Timestamp::parse("1970-01-01T01:00:00+01:00").unwrap(), Timestamp::from_micros(0));
        assert!(Timestamp::parse("tomorrow").unwrap_err().contains("RFC 3339"));
    }

    #[test]
    fn extremes_are_written_and_never_panic() {
        for micros in [i64::MIN, -1, 0, i64::MAX] {
            assert!(!Timestamp::from_micros(micros).to_string().is_empty());
        }
    }
}
