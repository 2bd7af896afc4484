use std::time::{Duration, SystemTime, UNIX_EPOCH};

use plist::Date;

use crate::model::Timestamp;

/// Seconds from the Unix epoch to the years 0 and 9999, which is what RFC 3339 can write.
const YEARS: std::ops::RangeInclusive<i64> = -62_167_219_200..=253_402_300_799;

/// A date from whole seconds since the Unix epoch; none outside the years 0 to 9999, which no text form can carry.
#[must_use]
pub fn date_from_seconds(seconds: i64) -> Option<Date> {
    if !YEARS.contains(&seconds) {
        return None;
    }
    let distance = Duration::from_secs(seconds.unsigned_abs());
    let at: Option<SystemTime> =
        if seconds < 0 { UNIX_EPOCH.checked_sub(distance) } else { UNIX_EPOCH.checked_add(distance) };
    at.map(Date::from)
}

/// Whole seconds since the Unix epoch, rounded towards it.
#[must_use]
pub fn date_seconds(date: Date) -> i64 {
    match SystemTime::from(date).duration_since(UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_secs()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_secs()).map_or(i64::MIN, |seconds| -seconds),
    }
}

/// Reads the text of a `<date>`: RFC 3339; fractions of a second are dropped, as Apple writes none.
pub(super) fn parse(text: &str) -> Option<Date> {
    date_from_seconds(Timestamp::parse(text.trim()).ok()?.seconds())
}

/// The text of a `<date>`, such as `2026-11-22T05:20:08Z`.
pub(crate) fn format(date: Date) -> String {
    Timestamp::from_seconds(date_seconds(date)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_read_back_and_extremes_do_not_panic() {
        for text in ["2026-11-22T05:20:08Z", "1969-12-31T23:59:59Z", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z"] {
            assert_eq!(format(parse(text).unwrap()), text);
        }
        assert_eq!(format(parse("2026-11-22T05:20:08.75+01:00").unwrap()), "2026-11-22T04:20:08Z");
        assert_eq!(parse("9999-12-31T23:59:59-23:59"), None);
        assert_eq!(date_from_seconds(i64::MIN), None);
    }
}
