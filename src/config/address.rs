use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use url::{Host, Url};

use super::value::{Base, Problem, Raw, Value};
use crate::model::Secret;

/// An https URL that others reach this server by: scheme, host and port, nothing after it.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicUrl(Url);

impl PublicUrl {
    /// Without a slash at the end: `https://mdm.example.org`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_str().trim_end_matches('/')
    }

    /// The host: a name in lower case, or an IP address (IPv6 without brackets).
    #[must_use]
    pub fn host(&self) -> String {
        match self.0.host() {
            Some(Host::Domain(name)) => name.to_owned(),
            Some(Host::Ipv4(address)) => address.to_string(),
            Some(Host::Ipv6(address)) => address.to_string(),
            None => String::new(),
        }
    }

    /// The port; 443 where none is named.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.0.port_or_known_default().unwrap_or(443)
    }

    /// The URL of a path, which begins with a slash and is already escaped.
    #[must_use]
    pub fn at(&self, path: &str) -> String {
        format!("{}{path}", self.as_str())
    }
}

impl fmt::Display for PublicUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for PublicUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for PublicUrl {
    type Err = String;

    /// Reads what the setting takes; the error says what was wrong and what was expected.
    fn from_str(text: &str) -> Result<Self, String> {
        Self::of(&Raw::Text(text.to_owned()))
            .map_err(|Problem { problem, expected }| format!("{problem}; expected {expected}"))
    }
}

impl PublicUrl {
    fn of(raw: &Raw) -> Result<Self, Problem> {
        let url = https(raw, EXPECTED, "is not https, which devices demand")?;
        if url.path() == "/" && url.query().is_none() && url.fragment().is_none() {
            return Ok(Self(url));
        }
        Err(Problem { problem: format!("{} has something after the host", raw.shown()), expected: EXPECTED.to_owned() })
    }
}

impl Value for PublicUrl {
    fn read(raw: &Raw, _: &Base) -> Result<Self, Problem> {
        Self::of(raw)
    }

    fn stand_in() -> Self {
        Self(nowhere())
    }
}

/// The URL of a service that this server calls, https.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint(Url);

impl Endpoint {
    /// The URL.
    #[must_use]
    pub const fn url(&self) -> &Url {
        &self.0
    }
}

impl Value for Endpoint {
    fn read(raw: &Raw, _: &Base) -> Result<Self, Problem> {
        https(raw, SERVICE, "is not https").map(Self)
    }

    fn stand_in() -> Self {
        Self(nowhere())
    }
}

/// The URL of a hook: http or https. What it may lead to is judged when it is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookUrl(Url);

impl HookUrl {
    /// The URL.
    #[must_use]
    pub const fn url(&self) -> &Url {
        &self.0
    }
}

impl Value for HookUrl {
    fn read(raw: &Raw, _: &Base) -> Result<Self, Problem> {
        let no = |why: &str| Problem { problem: format!("{} {why}", raw.shown()), expected: HOOK.to_owned() };
        let (Raw::Text(text) | Raw::Plain(text)) = raw else { return Err(no("is no URL")) };
        let url = Url::parse(text).map_err(|why| no(&format!("is no URL ({why})")))?;
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
            return Err(no("is neither http nor https"));
        }
        if !url.username().is_empty() || url.password().is_some() || url.fragment().is_some() {
            return Err(no("holds a user name, a password or a fragment"));
        }
        Ok(Self(url))
    }

    fn stand_in() -> Self {
        Self(nowhere())
    }
}

/// Which database, and where. Its `Debug` shows no password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DatabaseUrl {
    /// A SQLite file.
    Sqlite(PathBuf),
    /// PostgreSQL: the URL as given, which may hold a password.
    Postgres(Secret<String>),
}

impl Value for DatabaseUrl {
    fn read(raw: &Raw, base: &Base) -> Result<Self, Problem> {
        let expected = "sqlite:FILE (relative to data_dir) or postgres://USER@HOST/DATABASE";
        let no = |problem: &str| Problem { problem: problem.to_owned(), expected: expected.to_owned() };
        let (Raw::Text(text) | Raw::Plain(text)) = raw else {
            return Err(no("is no text"));
        };
        if let Some(file) = text.strip_prefix("sqlite:") {
            let file = file.strip_prefix("//").unwrap_or(file);
            if file.is_empty() || file.contains(['\0', '?']) || file == ":memory:" {
                return Err(no("the SQLite URL names no file"));
            }
            return Ok(Self::Sqlite(base.data.join(file)));
        }
        match Url::parse(text) {
            Ok(url) if !matches!(url.scheme(), "postgres" | "postgresql") => {
                Err(no(&format!("the scheme {:?} is unknown", url.scheme())))
            }
            Ok(url) if url.path().len() < 2 => Err(no("the URL (not shown) names no database")),
            Ok(_) => Ok(Self::Postgres(Secret::new(text.clone()))),
            Err(why) => Err(no(&format!("the URL (not shown) cannot be read: {why}"))),
        }
    }

    fn stand_in() -> Self {
        Self::Sqlite(PathBuf::new())
    }
}

const EXPECTED: &str = "an https URL of nothing but a host and perhaps a port, such as https://mdm.example.org";

const HOOK: &str = "an http or https URL, such as https://ddm.example.org/";

const SERVICE: &str = "the https URL of a service, such as https://api.push.apple.com";

fn https(raw: &Raw, expected: &str, not_https: &str) -> Result<Url, Problem> {
    let no = |why: &str| Problem { problem: format!("{} {why}", raw.shown()), expected: expected.to_owned() };
    let (Raw::Text(text) | Raw::Plain(text)) = raw else {
        return Err(no("is no URL"));
    };
    let url = Url::parse(text).map_err(|why| no(&format!("is no URL ({why})")))?;
    if url.scheme() != "https" {
        return Err(no(not_https));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(no("holds a user name or a password"));
    }
    Ok(url)
}

/// The stand-in for a URL that was faulty.
fn nowhere() -> Url {
    // An address that is known to parse: the reader never gives it out.
    #[expect(clippy::unwrap_used, reason = "a constant, and a test reads it")]
    Url::parse("https://invalid.").unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read<T: Value>(text: &str) -> Result<T, String> {
        let base = Base { directory: "/etc/muster".into(), data: "/var/lib/muster".into() };
        T::read(&Raw::Text(text.to_owned()), &base).map_err(|problem| problem.problem)
    }

    #[test]
    fn a_public_url_is_an_origin() {
        let url: PublicUrl = read("https://MDM.example.org/").unwrap();
        assert_eq!(url.as_str(), "https://mdm.example.org");
        assert_eq!((url.host().as_str(), url.port()), ("mdm.example.org", 443));
        assert_eq!(url.at("/mdm"), "https://mdm.example.org/mdm");
        assert_eq!(read::<PublicUrl>("https://[::1]:8443").unwrap().host(), "::1");
        for wrong in [
            "http://mdm.example.org",
            "mdm.example.org",
            "https://mdm.example.org/path",
            "https://mdm.example.org/?query",
            "https://user@mdm.example.org",
            "https://",
            "",
        ] {
            assert!(read::<PublicUrl>(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_hook_is_http_or_https_and_holds_no_password() {
        let url: HookUrl = read("http://10.0.0.7:9002/ddm/").unwrap();
        assert_eq!(url.url().as_str(), "http://10.0.0.7:9002/ddm/");
        for wrong in ["ftp://ddm.example.org/", "ddm.example.org", "https://u:p@ddm.example.org/", "https://a/#b", ""] {
            assert!(read::<HookUrl>(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_stand_in_can_be_made() {
        assert_eq!(PublicUrl::stand_in().host(), "invalid.");
    }

    #[test]
    fn database_urls_show_no_password() {
        assert_eq!(read("sqlite:muster.db"), Ok(DatabaseUrl::Sqlite("/var/lib/muster/muster.db".into())));
        assert_eq!(read("sqlite:///srv/muster.db"), Ok(DatabaseUrl::Sqlite("/srv/muster.db".into())));
        let url = read::<DatabaseUrl>("postgres://muster:hunter2@db.example.org/muster").unwrap();
        assert!(!format!("{url:?}").contains("hunter2"));
        for wrong in ["sqlite:", "sqlite::memory:", "mysql://u:hunter2@h/d", "postgres://u:hunter2@h", "hunter2"] {
            assert!(!read::<DatabaseUrl>(wrong).unwrap_err().contains("hunter2"), "{wrong}");
        }
    }
}
