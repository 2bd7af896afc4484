use plist::{Dictionary, Value};

use crate::model::Secret;
use crate::protocol::profile::{Mobileconfig, Payload, ProfileFault};

const SCEP: &str = "com.apple.security.scep";
const MDM: &str = "com.apple.mdm";
const ROOT: &str = "com.apple.security.root";

/// What a device takes out of an enrollment profile.
#[derive(Clone, Debug, PartialEq)]
pub struct EnrollmentProfile {
    /// The profile's `PayloadIdentifier`.
    pub identifier: String,
    /// How it obtains its identity.
    pub scep: Scep,
    /// Where and how it is managed.
    pub mdm: Mdm,
    /// DER of the certificates that it trusts from now on.
    pub roots: Vec<Vec<u8>>,
}

/// The SCEP payload. Source: Apple's schema, `com.apple.security.scep`.
#[derive(Clone, Debug, PartialEq)]
pub struct Scep {
    /// Where the CA is.
    pub url: String,
    /// What the CA is called in requests.
    pub name: Option<String>,
    /// The subject to ask for, such as `("CN", …)`, outermost first.
    pub subject: Vec<(String, String)>,
    /// What lets the request through.
    pub challenge: Option<Secret<String>>,
    /// Size of the RSA key, bits.
    pub key_bits: u32,
    /// 1: signing, 4: encryption.
    pub key_usage: u32,
    /// SHA-1 of the CA's certificate, where it must be that one.
    pub ca_fingerprint: Option<Vec<u8>>,
}

/// The MDM payload. Source: Apple's schema, `com.apple.mdm`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mdm {
    /// The push topic.
    pub topic: String,
    /// Where commands are.
    pub server_url: String,
    /// Where check-ins go; the server URL where the profile names no other.
    pub checkin_url: String,
    /// Whether messages are signed.
    pub sign_message: bool,
    /// Apple's bits.
    pub access_rights: u32,
    /// Whether the device says so when the profile is removed.
    pub check_out_when_removed: bool,
    /// What the server understands.
    pub server_capabilities: Vec<String>,
}

/// Reads an enrollment profile, as a device does.
///
/// # Errors
/// All faults at once: a payload that misses, or a member of one.
pub fn read(profile: &Mobileconfig) -> Result<EnrollmentProfile, Vec<ProfileFault>> {
    let mut faults = Vec::new();
    let found = |name: &str| {
        let place = profile.payloads.iter().position(|payload| payload.payload_type == name);
        place.and_then(|index| Some((index, profile.payloads.get(index)?)))
    };
    for (name, expected) in [(SCEP, 0), (MDM, 1)] {
        match found(name) {
            Some((index, _)) if index == expected => {}
            // Apple's devices do not care; simulators and other clients read by position.
            Some(_) => faults.push(fault("/PayloadContent", format!("the payload {name} must be number {expected}"))),
            None => faults.push(fault("/PayloadContent", format!("a payload {name} is needed"))),
        }
    }
    let (Some((_, scep)), Some((_, mdm))) = (found(SCEP), found(MDM)) else { return Err(faults) };
    if text(&mdm.content, "IdentityCertificateUUID").as_deref() != Some(scep.uuid.as_str()) {
        faults.push(fault("/PayloadContent/1/IdentityCertificateUUID", "expected the PayloadUUID of the SCEP payload"));
    }
    let made = EnrollmentProfile {
        identifier: profile.identifier.clone(),
        scep: read_scep(scep, &mut faults),
        mdm: read_mdm(mdm, &mut faults),
        roots: roots(profile),
    };
    if faults.is_empty() { Ok(made) } else { Err(faults) }
}

fn read_scep(payload: &Payload, faults: &mut Vec<ProfileFault>) -> Scep {
    let empty = Dictionary::new();
    let content = payload.content.get("PayloadContent").and_then(Value::as_dictionary).unwrap_or(&empty);
    let url = text(content, "URL").unwrap_or_default();
    if !url.starts_with("https://") && !url.starts_with("http://") {
        faults.push(fault("/PayloadContent/0/PayloadContent/URL", "expected a URL"));
    }
    Scep {
        url,
        name: text(content, "Name"),
        subject: content.get("Subject").map(subject).unwrap_or_default(),
        challenge: text(content, "Challenge").map(Secret::new),
        key_bits: number(content, "Keysize").unwrap_or(1024),
        key_usage: number(content, "Key Usage").unwrap_or(0),
        ca_fingerprint: content.get("CAFingerprint").and_then(Value::as_data).map(<[u8]>::to_vec),
    }
}

fn read_mdm(payload: &Payload, faults: &mut Vec<ProfileFault>) -> Mdm {
    let content = &payload.content;
    let server_url = text(content, "ServerURL").unwrap_or_default();
    let checkin_url = text(content, "CheckInURL").unwrap_or_else(|| server_url.clone());
    for (key, url) in [("ServerURL", &server_url), ("CheckInURL", &checkin_url)] {
        if !url.starts_with("https://") {
            faults.push(fault(&format!("/PayloadContent/1/{key}"), "expected an https URL"));
        }
    }
    let topic = text(content, "Topic").unwrap_or_default();
    if topic.is_empty() {
        faults.push(fault("/PayloadContent/1/Topic", "is needed"));
    }
    let capabilities = content.get("ServerCapabilities").and_then(Value::as_array);
    Mdm {
        topic,
        server_url,
        checkin_url,
        sign_message: flag(content, "SignMessage"),
        access_rights: number(content, "AccessRights").unwrap_or(0),
        check_out_when_removed: flag(content, "CheckOutWhenRemoved"),
        server_capabilities: capabilities
            .into_iter()
            .flatten()
            .filter_map(Value::as_string)
            .map(str::to_owned)
            .collect(),
    }
}

/// The pairs in Apple's array of arrays of pairs.
fn subject(value: &Value) -> Vec<(String, String)> {
    let sets = value.as_array().into_iter().flatten().filter_map(Value::as_array);
    let pairs = sets.flatten().filter_map(Value::as_array);
    pairs
        .filter_map(|pair| match pair.as_slice() {
            [Value::String(kind), Value::String(name)] => Some((kind.clone(), name.clone())),
            _ => None,
        })
        .collect()
}

fn roots(profile: &Mobileconfig) -> Vec<Vec<u8>> {
    let payloads = profile.payloads.iter().filter(|payload| payload.payload_type == ROOT);
    payloads.filter_map(|payload| payload.content.get("PayloadContent")?.as_data().map(<[u8]>::to_vec)).collect()
}

fn text(from: &Dictionary, key: &str) -> Option<String> {
    from.get(key)?.as_string().map(str::to_owned)
}

fn flag(from: &Dictionary, key: &str) -> bool {
    from.get(key).and_then(Value::as_boolean).unwrap_or(false)
}

fn number(from: &Dictionary, key: &str) -> Option<u32> {
    from.get(key)?.as_unsigned_integer()?.try_into().ok()
}

fn fault(pointer: &str, detail: impl Into<String>) -> ProfileFault {
    ProfileFault { pointer: pointer.to_owned(), detail: detail.into() }
}
