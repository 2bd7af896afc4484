//! Which part of a package is asked for. Source: RFC 9110, section 14.

use http::HeaderMap;
use http::header::{IF_RANGE, RANGE};

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// All of it: no range, several of them, or one that is none. A server may ignore the header.
    All,
    /// The bytes from `start` to before `end`; at least one.
    Part { start: u64, end: u64 },
    /// Bytes that are not there.
    Nothing,
}

/// What the headers ask for, of something with this strong entity tag and this size in bytes.
pub(super) fn wanted(headers: &HeaderMap, tag: &str, size: u64) -> Wanted {
    let mut values = headers.get_all(RANGE).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return Wanted::All };
    // With another version of it at hand, a part of this one is of no use. A date is none that we gave.
    if headers.get(IF_RANGE).is_some_and(|known| known.as_bytes() != tag.as_bytes()) {
        return Wanted::All;
    }
    value.to_str().ok().and_then(|text| parse(text, size)).unwrap_or(Wanted::All)
}

/// One range of bytes; none where it is something else.
fn parse(text: &str, size: u64) -> Option<Wanted> {
    let (unit, range) = text.split_once('=')?;
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return None;
    }
    let (first, last) = range.trim().split_once('-')?;
    let (first, last) = (first.trim(), last.trim());
    if first.is_empty() {
        // The last so many bytes.
        let count = number(last)?.min(size);
        return Some(if count == 0 { Wanted::Nothing } else { Wanted::Part { start: size - count, end: size } });
    }
    let start = number(first)?;
    let last = if last.is_empty() { u64::MAX } else { number(last)? };
    if last < start {
        return None;
    }
    Some(if start >= size { Wanted::Nothing } else { Wanted::Part { start, end: size.min(last.saturating_add(1)) } })
}

/// Digits only; a number that is too large for any file is the largest.
fn number(text: &str) -> Option<u64> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    const TAG: &str = "\"abc\"";

    fn of(range: &str) -> Wanted {
        wanted(&HeaderMap::from_iter([(RANGE, HeaderValue::from_str(range).unwrap())]), TAG, 10)
    }

    #[test]
    fn one_range_is_a_part() {
        for (range, start, end) in [
            ("bytes=0-0", 0, 1),
            ("bytes=2-4", 2, 5),
            ("bytes=2-", 2, 10),
            ("bytes=9-", 9, 10),
            ("bytes=2-400", 2, 10),
            ("bytes=0-99999999999999999999999", 0, 10),
            ("bytes=-3", 7, 10),
            ("bytes=-300", 0, 10),
            ("Bytes= 2 - 4 ", 2, 5),
        ] {
            assert_eq!(of(range), Wanted::Part { start, end }, "{range}");
        }
    }

    #[test]
    fn what_is_not_there_is_nothing() {
        for range in ["bytes=10-", "bytes=10-20", "bytes=99999999999999999999999-", "bytes=-0"] {
            assert_eq!(of(range), Wanted::Nothing, "{range}");
        }
        assert_eq!(parse("bytes=-5", 0), Some(Wanted::Nothing));
        assert_eq!(parse("bytes=0-", 0), Some(Wanted::Nothing));
    }

    #[test]
    fn what_is_no_single_range_is_ignored() {
        for range in
            ["", "bytes", "bytes=", "bytes=-", "bytes=4-2", "bytes=a-b", "bytes=0-1,3-4", "items=0-1", "bytes=+1-2"]
        {
            assert_eq!(of(range), Wanted::All, "{range}");
        }
        assert_eq!(wanted(&HeaderMap::new(), TAG, 10), Wanted::All);
        let twice = [(RANGE, HeaderValue::from_static("bytes=0-1")), (RANGE, HeaderValue::from_static("bytes=2-3"))];
        let mut headers = HeaderMap::new();
        for (name, value) in twice {
            headers.append(name, value);
        }
        assert_eq!(wanted(&headers, TAG, 10), Wanted::All);
    }

    #[test]
    fn a_part_of_another_version_is_not_given() {
        let with = |known: &'static str| {
            let headers = [(RANGE, HeaderValue::from_static("bytes=1-2")), (IF_RANGE, HeaderValue::from_static(known))];
            wanted(&HeaderMap::from_iter(headers), TAG, 10)
        };
        assert_eq!(with("\"abc\""), Wanted::Part { start: 1, end: 3 });
        for other in ["\"abd\"", "W/\"abc\"", "Sun, 22 Nov 2026 05:20:00 GMT"] {
            assert_eq!(with(other), Wanted::All, "{other}");
        }
    }
}
