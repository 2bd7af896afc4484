//! The enrollment profile: where to get a certificate, and whom to obey.

use plist::{Dictionary, Value};
use url::Url;

use super::fault::Fault;
use super::profile::{MDM, ProfileFile, SCEP, flag, optional_text, text};
use crate::model::Secret;
use crate::pki;

/// A profile that enrolls the device.
#[derive(Clone, Debug)]
pub struct EnrollmentProfile {
    /// The profile itself.
    pub file: ProfileFile,
    /// How to obtain the identity.
    pub scep: ScepPayload,
    /// Whom to obey.
    pub mdm: MdmPayload,
    /// The certificates that it brings: the device trusts them from now on.
    pub roots: Vec<pki::Certificate>,
}

/// Source: Apple, "SCEP" (profile payload).
#[derive(Clone, Debug)]
pub struct ScepPayload {
    /// `URL`.
    pub url: Url,
    /// `Name`: goes into GetCACert.
    pub name: Option<String>,
    /// `Subject`: relative names in order, each of attributes and values.
    pub subject: Vec<(String, String)>,
    /// `Challenge`.
    pub challenge: Option<Secret<String>>,
    /// `Keysize`, bits.
    pub key_bits: u32,
    /// `CAFingerprint`.
    pub ca_fingerprint: Option<Vec<u8>>,
    /// `Retries`: how often to ask again while the answer is PENDING.
    pub retries: u32,
    /// `RetryDelay`, seconds.
    pub retry_delay: u32,
}

/// Source: Apple, "MDM" (profile payload).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MdmPayload {
    /// `ServerURL`.
    pub server: Url,
    /// `CheckInURL`; the server's URL where there is none.
    pub check_in: Url,
    /// `Topic`.
    pub topic: String,
    /// `SignMessage`.
    pub sign_message: bool,
    /// `CheckOutWhenRemoved`.
    pub check_out_when_removed: bool,
    /// `AccessRights`.
    pub access_rights: i64,
}

impl EnrollmentProfile {
    /// Takes the parts out of a profile.
    ///
    /// # Errors
    /// What a device would say: a payload missing, or a member of one; an identity that names another payload.
    pub fn of(file: ProfileFile) -> Result<Self, Fault> {
        let scep_payload = file.only(SCEP)?;
        let mdm_payload = file.only(MDM)?;
        let identity = text(&mdm_payload.members, "IdentityCertificateUUID")?;
        if !identity.eq_ignore_ascii_case(&scep_payload.uuid) {
            return Err(Fault::not_installed("IdentityCertificateUUID names no payload of the profile."));
        }
        let scep = scep(&scep_payload.members)?;
        let mdm = mdm(&mdm_payload.members)?;
        let roots = file.certificates()?;
        Ok(Self { scep, mdm, roots, file })
    }

    /// Checks that `newer` may take this profile's place. Source: Apple, "MDM" (profile payload): what an update may
    /// not change.
    ///
    /// # Errors
    /// What changed.
    pub fn check_update(&self, newer: &Self) -> Result<(), Fault> {
        let (old, new) = (&self.mdm, &newer.mdm);
        let changed = [
            ("ServerURL", old.server != new.server),
            ("CheckInURL", old.check_in != new.check_in),
            ("Topic", old.topic != new.topic),
        ];
        if let Some((key, _)) = changed.into_iter().find(|(_, changed)| *changed) {
            return Err(Fault::not_installed(format!("The new MDM payload changes {key}.")));
        }
        if new.access_rights & !old.access_rights != 0 {
            return Err(Fault::not_installed("The new MDM payload adds access rights."));
        }
        Ok(())
    }
}

fn scep(members: &Dictionary) -> Result<ScepPayload, Fault> {
    let content = members.get("PayloadContent").and_then(Value::as_dictionary);
    let content = content.ok_or_else(|| Fault::bad_profile("The SCEP payload has no content."))?;
    let number = |key: &str, default: u32| {
        let value = content.get(key).and_then(Value::as_unsigned_integer);
        value.and_then(|value| u32::try_from(value).ok()).unwrap_or(default)
    };
    Ok(ScepPayload {
        url: url(content, "URL")?,
        name: optional_text(content, "Name"),
        subject: subject(content.get("Subject"))?,
        challenge: optional_text(content, "Challenge").map(Secret::new),
        key_bits: number("Keysize", 1024),
        ca_fingerprint: content.get("CAFingerprint").and_then(Value::as_data).map(<[u8]>::to_vec),
        retries: number("Retries", 3).min(10),
        retry_delay: number("RetryDelay", 10).min(60),
    })
}

/// `[[["CN", "…"]], [["O", "…"]]]`.
fn subject(value: Option<&Value>) -> Result<Vec<(String, String)>, Fault> {
    let wrong = || Fault::bad_profile("The Subject of the SCEP payload is no array of arrays of pairs.");
    let Some(value) = value else { return Ok(Vec::new()) };
    let mut pairs = Vec::new();
    for relative in value.as_array().ok_or_else(wrong)? {
        for pair in relative.as_array().ok_or_else(wrong)? {
            match pair.as_array().map(Vec::as_slice) {
                Some([Value::String(attribute), Value::String(value)]) => {
                    pairs.push((attribute.clone(), value.clone()));
                }
                _ => return Err(wrong()),
            }
        }
    }
    Ok(pairs)
}

fn mdm(members: &Dictionary) -> Result<MdmPayload, Fault> {
    let server = url(members, "ServerURL")?;
    let check_in = if members.contains_key("CheckInURL") { url(members, "CheckInURL")? } else { server.clone() };
    for url in [&server, &check_in] {
        if url.scheme() != "https" {
            return Err(Fault::not_installed(format!("{url} does not begin with https.")));
        }
    }
    let rights = members.get("AccessRights").and_then(Value::as_signed_integer);
    Ok(MdmPayload {
        server,
        check_in,
        topic: text(members, "Topic")?,
        sign_message: flag(members, "SignMessage"),
        check_out_when_removed: flag(members, "CheckOutWhenRemoved"),
        access_rights: rights.ok_or_else(|| Fault::bad_profile("The MDM payload has no AccessRights."))?,
    })
}

fn url(members: &Dictionary, key: &str) -> Result<Url, Fault> {
    let text = text(members, key)?;
    Url::parse(&text).map_err(|_| Fault::bad_profile(format!("{key} of the profile is no URL.")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::wire;

    fn dictionary(pairs: Vec<(&str, Value)>) -> Value {
        Value::Dictionary(pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
    }

    fn payload(kind: &str, uuid: &str, more: Vec<(&str, Value)>) -> Value {
        let head = vec![
            ("PayloadType", Value::from(kind)),
            ("PayloadVersion", Value::from(1)),
            ("PayloadIdentifier", Value::from(format!("org.example.{uuid}"))),
            ("PayloadUUID", Value::from(uuid)),
        ];
        dictionary(head.into_iter().chain(more).collect())
    }

    fn profile(server: &str, identity: &str, rights: i64) -> Vec<u8> {
        let cn = Value::Array(vec![Value::Array(vec![Value::from("CN"), Value::from("device")])]);
        let scep = dictionary(vec![
            ("URL", Value::from("https://mdm.example.org/scep")),
            ("Subject", Value::Array(vec![cn])),
            ("Challenge", Value::from("secret")),
            ("Keysize", Value::from(2048)),
            ("CAFingerprint", Value::Data(vec![7; 20])),
        ]);
        let mdm = vec![
            ("ServerURL", Value::from(server)),
            ("Topic", Value::from("com.apple.mgmt.External.1")),
            ("IdentityCertificateUUID", Value::from(identity)),
            ("AccessRights", Value::from(rights)),
            ("SignMessage", Value::from(true)),
        ];
        let content = vec![payload(SCEP, "SCEP-1", vec![("PayloadContent", scep)]), payload(MDM, "MDM-1", mdm)];
        wire::write(&payload("Configuration", "TOP-1", vec![("PayloadContent", Value::Array(content))]))
    }

    fn read(bytes: &[u8]) -> Result<EnrollmentProfile, Fault> {
        EnrollmentProfile::of(ProfileFile::read(bytes)?)
    }

    #[test]
    fn the_parts_are_found() {
        let enrollment = read(&profile("https://mdm.example.org/mdm", "scep-1", 8191)).unwrap();
        assert!(enrollment.file.enrolls());
        assert_eq!(enrollment.scep.subject, [("CN".to_owned(), "device".to_owned())]);
        assert_eq!((enrollment.scep.key_bits, enrollment.scep.retries), (2048, 3));
        assert_eq!(enrollment.mdm.check_in, enrollment.mdm.server);
        assert!(enrollment.mdm.sign_message && !enrollment.mdm.check_out_when_removed);
        assert!(!format!("{enrollment:?}").contains("secret"));
    }

    #[test]
    fn what_a_device_would_refuse_is_refused() {
        let reason = |bytes: &[u8]| read(bytes).unwrap_err().text;
        assert!(reason(b"no profile").contains("malformed"));
        assert!(reason(&profile("http://mdm.example.org/mdm", "SCEP-1", 1)).contains("https"));
        assert!(reason(&profile("https://mdm.example.org/mdm", "MDM-1", 1)).contains("IdentityCertificateUUID"));
        let plain = wire::write(&payload("Configuration", "1", vec![("PayloadContent", Value::Array(Vec::new()))]));
        assert!(reason(&plain).contains("no payload of type com.apple.security.scep"));
        assert!(reason(&wire::write(&payload("com.apple.mdm", "1", Vec::new()))).contains("Configuration"));
    }

    #[test]
    fn an_update_may_neither_move_the_server_nor_add_rights() {
        let first = read(&profile("https://mdm.example.org/mdm", "SCEP-1", 3)).unwrap();
        let less = read(&profile("https://mdm.example.org/mdm", "SCEP-1", 1)).unwrap();
        let more = read(&profile("https://mdm.example.org/mdm", "SCEP-1", 7)).unwrap();
        let moved = read(&profile("https://mdm.example.org/mdm2", "SCEP-1", 3)).unwrap();
        first.check_update(&less).unwrap();
        assert!(first.check_update(&more).unwrap_err().text.contains("rights"));
        assert!(first.check_update(&moved).unwrap_err().text.contains("ServerURL"));
    }

    #[test]
    fn the_servers_template_is_one() {
        use crate::protocol::enrollment_profile::{Template, Values};
        let url = |path: &str| format!("https://mdm.example.org{path}");
        let values = Values {
            identifier: "org.example.enrollment".to_owned(),
            display_name: "Example".to_owned(),
            description: "Example".to_owned(),
            organization: "Example".to_owned(),
            uuid: uuid::Uuid::nil(),
            scep_url: url("/scep"),
            challenge: Secret::new("challenge".to_owned()),
            subject: vec![("CN".to_owned(), "device".to_owned()), ("O".to_owned(), "Example".to_owned())],
            ca_fingerprint: Some(vec![7; 20]),
            topic: "com.apple.mgmt.External.1".to_owned(),
            server_url: url("/mdm"),
            checkin_url: url("/checkin"),
            sign_message: true,
            access_rights: 8191,
            roots: Vec::new(),
        };
        let enrollment = read(&Template::parse(Template::STANDARD).unwrap().render(&values)).unwrap();
        assert_eq!(enrollment.scep.subject, values.subject);
        assert_eq!(enrollment.scep.challenge, Some(values.challenge));
        assert_eq!(enrollment.mdm.check_in.as_str(), values.checkin_url);
        assert_eq!((enrollment.mdm.sign_message, enrollment.mdm.access_rights), (true, 8191));
    }
}
