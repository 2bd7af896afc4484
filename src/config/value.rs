//! How each kind of value is read: from TOML or from the text of an environment variable.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::HeaderName;

use crate::model::Secret;

/// The longest text that a setting may have, in bytes.
const MAX_TEXT: usize = 8 * 1024;

/// A value as it was found.
#[derive(Clone, Debug)]
pub(super) enum Raw {
    Text(String),
    Integer(i64),
    Boolean(bool),
    List(Vec<Raw>),
    /// TOML that no setting takes: a float, a date, a table.
    Other(&'static str),
    /// The text of an environment variable, which may stand for anything.
    Plain(String),
}

impl Raw {
    fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) | Self::Plain(text) => Some(text),
            _ => None,
        }
    }

    /// As shown in a fault, at most some 80 characters of it.
    pub(super) fn shown(&self) -> String {
        match self {
            Self::Text(text) | Self::Plain(text) if text.chars().count() > 80 => {
                format!("{:?}…", text.chars().take(80).collect::<String>())
            }
            Self::Text(text) | Self::Plain(text) => format!("{text:?}"),
            Self::Integer(number) => number.to_string(),
            Self::Boolean(value) => value.to_string(),
            Self::List(_) => "a list".to_owned(),
            Self::Other(kind) => format!("a {kind}"),
        }
    }

    fn no(&self, why: &str, expected: &str) -> Problem {
        Problem { problem: format!("{} {why}", self.shown()), expected: expected.to_owned() }
    }
}

/// What is wrong with a value, and what would be right.
pub(super) struct Problem {
    pub problem: String,
    pub expected: String,
}

/// What relative paths start from.
#[derive(Clone, Debug)]
pub(super) struct Base {
    /// The directory that holds the file.
    pub directory: PathBuf,
    /// The data directory, absolute or from where the program was started.
    pub data: PathBuf,
}

/// A kind of value.
pub(super) trait Value: Sized {
    fn read(raw: &Raw, base: &Base) -> Result<Self, Problem>;

    /// What stands in the place of a faulty value while the others are read. Never seen outside of this room, since no
    /// settings are returned where there are faults.
    fn stand_in() -> Self;
}

impl Value for String {
    fn read(raw: &Raw, _: &Base) -> Result<Self, Problem> {
        let expected = "text of at most 8 KiB without control characters";
        let text = raw.text().ok_or_else(|| raw.no("is no text", expected))?;
        if text.len() > MAX_TEXT || text.chars().any(|c| c.is_control() && c != '\n') {
            return Err(raw.no("is too long or holds control characters", expected));
        }
        Ok(text.to_owned())
    }

    fn stand_in() -> Self {
        Self::new()
    }
}

impl Value for Secret<String> {
    fn read(raw: &Raw, base: &Base) -> Result<Self, Problem> {
        String::read(raw, base).map(Secret::new).map_err(|problem| Problem {
            problem: "the value (not shown) will not do".to_owned(),
            expected: problem.expected,
        })
    }

    fn stand_in() -> Self {
        Self::new(String::new())
    }
}

impl Value for bool {
    fn read(raw: &Raw, _: &Base) -> Result<Self, Problem> {
        match raw {
            Raw::Boolean(value) => Ok(*value),
            Raw::Plain(text) if text == "true" => Ok(true),
            Raw::Plain(text) if text == "false" => Ok(false),
            _ => Err(raw.no("is neither true nor false", "true or false")),
        }
    }

    fn stand_in() -> Self {
        false
    }
}

impl Value for u32 {
    fn read(raw: &Raw, _: &Base) -> Result<Self, Problem> {
        match raw {
            Raw::Integer(number) => Self::try_from(*number).ok(),
            Raw::Plain(text) => text.parse().ok(),
            _ => None,
        }
        .ok_or_else(|| raw.no("is no number from 0 to 4294967295", "a whole number without quotes"))
    }

    fn stand_in() -> Self {
        0
    }
}

impl Value for Duration {
    fn read(raw: &Raw, _: &Base) -> Result<Self, Problem> {
        let expected = "a number with a unit (ms, s, m, h, d), such as \"90s\", \"3h\" or \"30d\"";
        let text = raw.text().ok_or_else(|| raw.no("has no unit", expected))?;
        let (number, unit) = split_number(text).ok_or_else(|| raw.no("is no duration", expected))?;
        let millis = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            "" => return Err(raw.no("has no unit", expected)),
            _ => return Err(raw.no("has an unknown unit", expected)),
        };
        // 100 years: beyond it, times would leave what a certificate can say.
        match number.checked_mul(millis) {
            Some(total) if total <= 100 * 365 * 86_400_000 => Ok(Self::from_millis(total)),
            _ => Err(raw.no("is more than 100 years", expected)),
        }
    }

    fn stand_in() -> Self {
        Self::ZERO
    }
}

/// How long something is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// It is never taken away.
    Forever,
    /// So long.
    For(Duration),
}

impl Value for Keep {
    fn read(raw: &Raw, base: &Base) -> Result<Self, Problem> {
        if raw.text() == Some("forever") {
            return Ok(Self::Forever);
        }
        Duration::read(raw, base).map(Self::For).map_err(|Problem { problem, expected }| Problem {
            problem,
            expected: format!("{expected}, or \"forever\""),
        })
    }

    fn stand_in() -> Self {
        Self::Forever
    }
}

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(u64);

impl Size {
    /// Of so many bytes.
    #[must_use]
    pub const fn of(bytes: u64) -> Self {
        Self(bytes)
    }

    /// In bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// In bytes, for lengths in memory.
    #[must_use]
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl Value for Size {
    fn read(raw: &Raw, _: &Base) -> Result<Self, Problem> {
        let expected = "a number with a unit (B, KiB, MiB, GiB, TiB), such as \"64KiB\" or \"2GiB\"";
        let text = raw.text().ok_or_else(|| raw.no("has no unit", expected))?;
        let (number, unit) = split_number(text).ok_or_else(|| raw.no("is no size", expected))?;
        let factor: u64 = match unit {
            "B" => 1,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            "TiB" => 1 << 40,
            "" => return Err(raw.no("has no unit", expected)),
            _ => return Err(raw.no("has an unknown unit", expected)),
        };
        // What both databases can hold in their integers.
        match number.checked_mul(factor) {
            Some(total) if i64::try_from(total).is_ok() => Ok(Self(total)),
            _ => Err(raw.no("is too large", expected)),
        }
    }

    fn stand_in() -> Self {
        Self(0)
    }
}

impl Value for SocketAddr {
    fn read(raw: &Raw, _: &Base) -> Result<Self, Problem> {
        let expected = "ADDRESS:PORT, such as 0.0.0.0:8443 or [::]:8443";
        let text = raw.text().ok_or_else(|| raw.no("is no address", expected))?;
        if let Ok(address) = text.parse() {
            return Ok(address);
        }
        Err(match text.rsplit_once(':') {
            None => raw.no("has no port", expected),
            Some((_, port)) if port.parse::<u16>().is_err() => raw.no("has no valid port", expected),
            Some((host, _)) if host.contains(':') && !host.starts_with('[') => {
                raw.no("is an IPv6 address without brackets, or has no port", expected)
            }
            Some(_) => raw.no("names no IP address", expected),
        })
    }

    fn stand_in() -> Self {
        Self::from(([0, 0, 0, 0], 0))
    }
}

impl Value for PathBuf {
    fn read(raw: &Raw, base: &Base) -> Result<Self, Problem> {
        path(raw, &base.directory)
    }

    fn stand_in() -> Self {
        Self::new()
    }
}

/// A path that starts, where it is relative, from the data directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataPath(PathBuf);

impl DataPath {
    /// The path, from where the program was started or absolute.
    #[must_use]
    pub fn as_path(&self) -> &Path {
        &self.0
    }
}

impl AsRef<Path> for DataPath {
    fn as_ref(&self) -> &Path {
        &self.0
    }
}

impl Value for DataPath {
    fn read(raw: &Raw, base: &Base) -> Result<Self, Problem> {
        path(raw, &base.data).map(Self)
    }

    fn stand_in() -> Self {
        Self(PathBuf::new())
    }
}

impl Value for HeaderName {
    fn read(raw: &Raw, _: &Base) -> Result<Self, Problem> {
        let expected = "the name of an HTTP header, such as Client-Cert";
        let text = raw.text().ok_or_else(|| raw.no("is no text", expected))?;
        // Lower case first: only then a name of any case is read the same.
        text.to_ascii_lowercase().parse().map_err(|_| raw.no("is no header name", expected))
    }

    fn stand_in() -> Self {
        Self::from_static("x")
    }
}

impl<T: Value> Value for Option<T> {
    fn read(raw: &Raw, base: &Base) -> Result<Self, Problem> {
        T::read(raw, base).map(Some)
    }

    fn stand_in() -> Self {
        None
    }
}

impl<T: Value> Value for Vec<T> {
    fn read(raw: &Raw, base: &Base) -> Result<Self, Problem> {
        match raw {
            Raw::List(items) => items.iter().map(|item| T::read(item, base)).collect(),
            Raw::Plain(text) => {
                let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
                items.map(|item| T::read(&Raw::Plain(item.to_owned()), base)).collect()
            }
            _ => Err(raw.no("is no list", "a list, such as [\"one\", \"two\"]")),
        }
    }

    fn stand_in() -> Self {
        Self::new()
    }
}

/// Makes an enum of words a kind of value.
macro_rules! words {
    ($(#[$about:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($(#[$doc])* $variant),+ }

        impl $name {
            const WORDS: &[(&str, Self)] = &[$(($word, Self::$variant)),+];
        }

        impl $crate::config::value::Value for $name {
            fn read(
                raw: &$crate::config::value::Raw,
                _: &$crate::config::value::Base,
            ) -> Result<Self, $crate::config::value::Problem> {
                $crate::config::value::word(raw, Self::WORDS)
            }

            fn stand_in() -> Self {
                [$(Self::$variant),+][0]
            }
        }
    };
}
pub(super) use words;

/// Finds the word of `raw` among `words`.
pub(super) fn word<T: Copy>(raw: &Raw, words: &[(&str, T)]) -> Result<T, Problem> {
    let found = words.iter().find(|(word, _)| raw.text() == Some(word));
    found.map(|(_, value)| *value).ok_or_else(|| {
        let known: Vec<_> = words.iter().map(|(word, _)| format!("{word:?}")).collect();
        raw.no("is not among the choices", &known.join(" or "))
    })
}

fn path(raw: &Raw, base: &Path) -> Result<PathBuf, Problem> {
    let expected = "a path";
    let text = raw.text().ok_or_else(|| raw.no("is no path", expected))?;
    if text.is_empty() || text.len() > 4096 || text.contains('\0') {
        return Err(raw.no("is no path", expected));
    }
    Ok(base.join(text))
}

fn split_number(text: &str) -> Option<(u64, &str)> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(digits)?;
    Some((number.parse().ok()?, unit.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain<T: Value>(text: &str) -> Result<T, String> {
        let base = Base { directory: "/etc/muster".into(), data: "/var/lib/muster".into() };
        T::read(&Raw::Plain(text.to_owned()), &base).map_err(|problem| problem.problem)
    }

    #[test]
    fn durations_need_a_unit() {
        assert_eq!(plain("3h"), Ok(Duration::from_secs(3 * 3600)));
        assert_eq!(plain("90 d"), Ok(Duration::from_secs(90 * 86_400)));
        assert_eq!(plain("250ms"), Ok(Duration::from_millis(250)));
        for wrong in ["", "h", "3", "3w", "-1s", "99999999999999999999s", "200000000000000000d", "4000000d"] {
            assert!(plain::<Duration>(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_kept_is_kept_for_ever_or_for_a_time() {
        assert_eq!(plain("forever"), Ok(Keep::Forever));
        assert_eq!(plain("90d"), Ok(Keep::For(Duration::from_secs(90 * 86_400))));
        for wrong in ["", "Forever", "never", "90"] {
            assert!(plain::<Keep>(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn sizes_need_a_unit() {
        assert_eq!(plain::<Size>("2GiB").map(Size::bytes), Ok(2 << 30));
        for wrong in ["2", "2GB", "GiB", "99999999999TiB"] {
            assert!(plain::<Size>(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_address_says_what_it_lacks() {
        assert_eq!(plain("[::1]:8443"), Ok(SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], 8443))));
        assert_eq!(plain::<SocketAddr>("localhost"), Err("\"localhost\" has no port".to_owned()));
        assert!(plain::<SocketAddr>("localhost:8443").unwrap_err().ends_with("names no IP address"));
        assert!(plain::<SocketAddr>("0.0.0.0:http").unwrap_err().ends_with("has no valid port"));
        assert!(plain::<SocketAddr>("::1").unwrap_err().contains("brackets"));
    }

    #[test]
    fn relative_paths_start_from_their_base() {
        assert_eq!(plain("tls/server.pem"), Ok(PathBuf::from("/etc/muster/tls/server.pem")));
        assert_eq!(plain("/srv/server.pem"), Ok(PathBuf::from("/srv/server.pem")));
        assert_eq!(plain("master.key"), Ok(DataPath(PathBuf::from("/var/lib/muster/master.key"))));
    }

    #[test]
    fn lists_in_the_environment_are_separated_by_commas() {
        assert_eq!(plain::<Vec<u32>>("1, 2,3"), Ok(vec![1, 2, 3]));
        assert!(plain::<Vec<u32>>("1, two").is_err());
    }

    #[test]
    fn long_values_are_cut_in_faults() {
        assert!(Raw::Text("é".repeat(500)).shown().chars().count() < 100);
    }
}
