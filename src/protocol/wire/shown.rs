//! A value written as JSON while it is read, without what is secret in it: what is kept of long lists that devices report.
//!
//! The JSON is that of [`to_json`](crate::protocol::json::to_json); a member that stands there twice is written twice, and
//! readers take the last, as they do of the property list.

use plist::Value;

use crate::protocol::json::to_json;

/// What stands in place of a secret.
pub const HIDDEN: &str = "[redacted]";

/// Parts of names under which devices tell secrets: push tokens, recovery keys, bypass and redemption codes.
const SECRET_NAMES: [&str; 6] = ["Token", "RecoveryKey", "BypassCode", "RedemptionCode", "Password", "PIN"];

/// Whether a member of this name may be a secret. A flag or a number is none: it says that there is one.
#[must_use]
pub fn is_secret(name: &str) -> bool {
    let name = name.as_bytes();
    (0..name.len()).any(|at| {
        let rest = name.get(at..).unwrap_or_default();
        matches!(rest.first(), Some(b'T' | b'R' | b'B' | b'P'))
            && SECRET_NAMES.iter().any(|secret| rest.starts_with(secret.as_bytes()))
    })
}

/// A value that is being written.
#[derive(Debug, Default)]
pub(super) struct Shown {
    json: Vec<u8>,
    /// Whether something stands before what comes next.
    follows: bool,
    /// The key that waits for its value: written with it, since some have none.
    key: String,
    has_key: bool,
    /// How deep inside of a secret it is.
    hidden: usize,
}

impl Shown {
    pub(super) fn key(&mut self, key: &str) {
        if self.hidden == 0 {
            self.key.clear();
            self.key.push_str(key);
            self.has_key = true;
        }
    }

    pub(super) fn string(&mut self, text: &str) {
        if self.hidden == 0 {
            let text = if self.is_secret() { HIDDEN } else { text };
            self.begin();
            self.text(text);
        }
    }

    pub(super) fn value(&mut self, value: &Value) {
        if self.hidden > 0 {
            return;
        }
        if self.is_secret() && !matches!(value, Value::Boolean(_) | Value::Integer(_) | Value::Real(_)) {
            self.string(HIDDEN);
            return;
        }
        self.begin();
        // Nothing can fail in memory.
        let _ = serde_json::to_writer(&mut self.json, &to_json(value));
    }

    pub(super) fn open(&mut self, is_array: bool) {
        if self.hidden > 0 || self.is_secret() {
            self.hidden += 1;
            return;
        }
        self.begin();
        self.json.push(if is_array { b'[' } else { b'{' });
        self.follows = false;
    }

    pub(super) fn close(&mut self, is_array: bool) {
        if self.hidden > 0 {
            self.hidden -= 1;
            if self.hidden == 0 {
                self.string(HIDDEN);
            }
            return;
        }
        self.has_key = false;
        self.json.push(if is_array { b']' } else { b'}' });
        self.follows = true;
    }

    /// What was written.
    pub(super) fn take(&mut self) -> String {
        String::from_utf8(std::mem::take(&mut self.json)).unwrap_or_default()
    }

    fn is_secret(&self) -> bool {
        self.has_key && is_secret(&self.key)
    }

    /// What stands before a value.
    fn begin(&mut self) {
        if self.follows {
            self.json.push(b',');
        }
        self.follows = true;
        if std::mem::take(&mut self.has_key) {
            let key = std::mem::take(&mut self.key);
            self.text(&key);
            self.key = key;
            self.json.push(b':');
        }
    }

    fn text(&mut self, text: &str) {
        let _ = serde_json::to_writer(&mut self.json, text);
    }
}
