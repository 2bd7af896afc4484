//! Configuration profiles (.mobileconfig): what is in one, and what is wrong with it. Source: Apple, "Profile-Specific
//! Payload Keys" (TopLevel, CommonPayloadKeys).

use std::collections::HashSet;

use plist::{Dictionary, Value};

use super::wire::{self, Limits};

/// Longest identifier, UUID or name, characters.
const MAX_TEXT: usize = 255;
/// Most payloads in one profile.
const MAX_PAYLOADS: usize = 500;
/// Most faults that are named; the rest of a file that is wrong all over helps nobody.
const MAX_FAULTS: usize = 50;

/// A configuration profile without its signature.
#[derive(Clone, Debug, PartialEq)]
pub struct Mobileconfig {
    /// `PayloadIdentifier`: a profile replaces the installed one with the same.
    pub identifier: String,
    /// `PayloadUUID`.
    pub uuid: String,
    /// `PayloadDisplayName`.
    pub display_name: Option<String>,
    /// `PayloadDescription`.
    pub description: Option<String>,
    /// `PayloadOrganization`.
    pub organization: Option<String>,
    /// `PayloadScope`: on a Mac, for whom it is.
    pub scope: Option<Scope>,
    /// `PayloadRemovalDisallowed`.
    pub removal_disallowed: bool,
    /// Whether the payloads are encrypted for one device, so that none can be seen.
    pub encrypted: bool,
    /// The payloads, in their order.
    pub payloads: Vec<Payload>,
}

/// `PayloadScope`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The device.
    System,
    /// One user of it.
    User,
}

/// One payload of a profile.
#[derive(Clone, PartialEq)]
pub struct Payload {
    /// `PayloadType`, such as `com.apple.wifi.managed`.
    pub payload_type: String,
    /// `PayloadIdentifier`.
    pub identifier: String,
    /// `PayloadUUID`.
    pub uuid: String,
    /// `PayloadDisplayName`.
    pub display_name: Option<String>,
    /// All of it; passwords, too, which is why `Debug` leaves it out.
    pub content: Dictionary,
}

/// What is wrong with a profile, and where.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, thiserror::Error)]
#[error("{pointer}: {detail}")]
pub struct ProfileFault {
    /// JSON Pointer (RFC 6901) into the profile, such as `/PayloadContent/0/PayloadUUID`; empty for the whole.
    pub pointer: String,
    /// What is wrong.
    pub detail: String,
}

impl ProfileFault {
    pub(super) fn new(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { pointer: pointer.into(), detail: detail.into() }
    }
}

impl Mobileconfig {
    /// Reads a profile that is not signed (or was opened), XML or binary, within [`Limits::PROFILE`].
    ///
    /// # Errors
    /// All faults at once.
    pub fn parse(bytes: &[u8]) -> Result<Self, Vec<ProfileFault>> {
        let whole = |detail: String| vec![ProfileFault::new("", detail)];
        if is_signed(bytes) {
            return Err(whole("is signed, and what is inside was not taken out".to_owned()));
        }
        let root = wire::read_any(bytes, Limits::PROFILE).and_then(wire::dictionary);
        let root = root.map_err(|error| whole(error.to_string()))?;
        let mut check = Check { faults: Vec::new() };
        let profile = check.profile(root);
        if check.faults.is_empty() { Ok(profile) } else { Err(check.faults) }
    }

    /// The types of the payloads, each once, in their order.
    #[must_use]
    pub fn payload_types(&self) -> Vec<&str> {
        let mut seen = HashSet::new();
        self.payloads.iter().map(|payload| payload.payload_type.as_str()).filter(|name| seen.insert(*name)).collect()
    }
}

/// Whether this is CMS (a signed profile) by its first bytes: a DER or BER sequence.
#[must_use]
pub fn is_signed(bytes: &[u8]) -> bool {
    matches!(bytes, [0x30, 0x80..=0x84, ..])
}

impl std::fmt::Debug for Payload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { payload_type, identifier, uuid, display_name, content: _ } = self;
        f.debug_struct("Payload")
            .field("payload_type", payload_type)
            .field("identifier", identifier)
            .field("uuid", uuid)
            .field("display_name", display_name)
            .finish_non_exhaustive()
    }
}

struct Check {
    faults: Vec<ProfileFault>,
}

impl Check {
    fn fault(&mut self, pointer: impl Into<String>, detail: impl Into<String>) {
        if self.faults.len() < MAX_FAULTS {
            self.faults.push(ProfileFault::new(pointer, detail));
        }
    }

    fn profile(&mut self, mut root: Dictionary) -> Mobileconfig {
        match root.get("PayloadType").and_then(Value::as_string) {
            Some("Configuration") => {}
            Some(other) => self.fault("/PayloadType", format!("is {:?}; expected Configuration", cut(other))),
            None => self.fault("/PayloadType", "is needed; expected Configuration"),
        }
        self.version(&root, "");
        let scope = match root.get("PayloadScope") {
            None => None,
            Some(Value::String(scope)) if scope == "System" => Some(Scope::System),
            Some(Value::String(scope)) if scope == "User" => Some(Scope::User),
            Some(_) => {
                self.fault("/PayloadScope", "expected System or User");
                None
            }
        };
        let encrypted = root.get("EncryptedPayloadContent").is_some_and(|content| content.as_data().is_some());
        let content = root.remove("PayloadContent");
        Mobileconfig {
            identifier: self.needed(&root, "", "PayloadIdentifier"),
            uuid: self.needed(&root, "", "PayloadUUID"),
            display_name: self.name(&root, "", "PayloadDisplayName"),
            description: self.name(&root, "", "PayloadDescription"),
            organization: self.name(&root, "", "PayloadOrganization"),
            scope,
            removal_disallowed: self.flag(&root, "PayloadRemovalDisallowed"),
            encrypted,
            payloads: if encrypted { Vec::new() } else { self.payloads(content) },
        }
    }

    fn payloads(&mut self, content: Option<Value>) -> Vec<Payload> {
        let Some(Value::Array(items)) = content else {
            self.fault("/PayloadContent", "is needed; expected an array of payloads");
            return Vec::new();
        };
        if items.len() > MAX_PAYLOADS {
            self.fault("/PayloadContent", format!("more than {MAX_PAYLOADS} payloads"));
            return Vec::new();
        }
        let mut uuids = HashSet::new();
        let mut payloads = Vec::with_capacity(items.len());
        for (index, item) in items.into_iter().enumerate() {
            let place = format!("/PayloadContent/{index}");
            let Value::Dictionary(content) = item else {
                self.fault(place, "expected a dictionary");
                continue;
            };
            self.version(&content, &place);
            let payload = Payload {
                payload_type: self.needed(&content, &place, "PayloadType"),
                identifier: self.needed(&content, &place, "PayloadIdentifier"),
                uuid: self.needed(&content, &place, "PayloadUUID"),
                display_name: self.name(&content, &place, "PayloadDisplayName"),
                content,
            };
            if !payload.uuid.is_empty() && !uuids.insert(payload.uuid.to_uppercase()) {
                self.fault(format!("{place}/PayloadUUID"), "is the same as another payload's");
            }
            payloads.push(payload);
        }
        payloads
    }

    fn version(&mut self, from: &Dictionary, place: &str) {
        if from.get("PayloadVersion").and_then(Value::as_signed_integer) != Some(1) {
            self.fault(format!("{place}/PayloadVersion"), "is needed; expected the integer 1");
        }
    }

    fn needed(&mut self, from: &Dictionary, place: &str, key: &str) -> String {
        let text = from.get(key).and_then(Value::as_string).unwrap_or_default();
        if text.trim().is_empty() || text.chars().count() > MAX_TEXT || text.chars().any(char::is_control) {
            let detail = format!("is needed; expected 1 to {MAX_TEXT} characters without control characters");
            self.fault(format!("{place}/{key}"), detail);
        }
        cut(text)
    }

    fn name(&mut self, from: &Dictionary, place: &str, key: &str) -> Option<String> {
        match from.get(key)? {
            Value::String(text) => Some(text.chars().take(MAX_TEXT).collect()),
            _ => {
                self.fault(format!("{place}/{key}"), "expected a string");
                None
            }
        }
    }

    fn flag(&mut self, from: &Dictionary, key: &str) -> bool {
        match from.get(key) {
            None => false,
            Some(Value::Boolean(flag)) => *flag,
            Some(_) => {
                self.fault(format!("/{key}"), "expected true or false");
                false
            }
        }
    }
}

fn cut(text: &str) -> String {
    text.chars().take(MAX_TEXT).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WIFI: &[u8] = include_bytes!("../../tests/fixtures/plists/profile-wifi.mobileconfig");

    fn faults(profile: &str) -> Vec<(String, String)> {
        let body = format!("<plist><dict>{profile}</dict></plist>");
        Mobileconfig::parse(body.as_bytes()).unwrap_err().into_iter().map(|f| (f.pointer, f.detail)).collect()
    }

    #[test]
    fn a_profile_says_what_is_in_it() {
        let profile = Mobileconfig::parse(WIFI).unwrap();
        assert_eq!(profile.identifier, "org.example.wifi");
        assert_eq!(profile.display_name.as_deref(), Some("Wi-Fi & certificates"));
        assert_eq!(profile.scope, Some(Scope::System));
        assert_eq!(profile.payload_types(), ["com.apple.wifi.managed", "com.apple.security.root"]);
        assert!(!format!("{profile:?}").contains("correct horse"), "Debug shows a password");
    }

    #[test]
    fn a_binary_profile_is_read_too() {
        let mut binary = Vec::new();
        wire::read(WIFI, Limits::PROFILE).unwrap().to_writer_binary(&mut binary).unwrap();
        assert_eq!(Mobileconfig::parse(&binary).unwrap(), Mobileconfig::parse(WIFI).unwrap());
    }

    #[test]
    fn all_faults_are_named_with_their_place() {
        let payload = "<dict><key>PayloadType</key><string>a</string><key>PayloadVersion</key><integer>2</integer>\
            <key>PayloadUUID</key><string>u</string></dict>";
        let places: Vec<_> = faults(&format!(
            "<key>PayloadType</key><string>Config</string><key>PayloadScope</key><string>All</string>\
             <key>PayloadUUID</key><string>u</string><key>PayloadDisplayName</key><true/>\
             <key>PayloadContent</key><array>{payload}{payload}<string/></array>"
        ))
        .into_iter()
        .map(|(pointer, _)| pointer)
        .collect();
        let expected = [
            "/PayloadType",
            "/PayloadVersion",
            "/PayloadScope",
            "/PayloadIdentifier",
            "/PayloadDisplayName",
            "/PayloadContent/0/PayloadVersion",
            "/PayloadContent/0/PayloadIdentifier",
            "/PayloadContent/1/PayloadVersion",
            "/PayloadContent/1/PayloadIdentifier",
            "/PayloadContent/1/PayloadUUID",
            "/PayloadContent/2",
        ];
        assert_eq!(places, expected);
    }

    #[test]
    fn what_is_no_profile_is_called_so() {
        let fault = |bytes: &[u8]| Mobileconfig::parse(bytes).unwrap_err()[0].to_string();
        assert!(fault(b"hello").contains("not a property list"));
        assert!(fault(b"<plist><array/></plist>").contains("not a dictionary"));
        assert!(fault(&[0x30, 0x82, 1, 0]).contains("signed"));
        let body = format!("<plist>{}</plist>", "<array>".repeat(10_000));
        assert!(fault(body.as_bytes()).contains("nested deeper"));
    }

    proptest! {
        #[test]
        fn damaged_profiles_never_panic(at in any::<proptest::sample::Index>(), byte: u8) {
            let mut bytes = WIFI.to_vec();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            let _ = Mobileconfig::parse(&bytes);
        }
    }
}
