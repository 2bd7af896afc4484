//! Configuration profiles as a device reads them.

use std::fmt;

use plist::{Dictionary, Value};

use super::fault::Fault;
use crate::pki;
use crate::protocol::wire::{self, Limits};

/// The type of the payload that enrolls.
pub(super) const MDM: &str = "com.apple.mdm";
/// The type of the payload that obtains a certificate.
pub(super) const SCEP: &str = "com.apple.security.scep";

/// A configuration profile, signed or not.
#[derive(Clone, Debug, PartialEq)]
pub struct ProfileFile {
    /// `PayloadIdentifier`: a profile with the same one replaces it.
    pub identifier: String,
    /// `PayloadUUID`.
    pub uuid: String,
    /// `PayloadDisplayName`.
    pub display_name: Option<String>,
    /// `PayloadOrganization`.
    pub organization: Option<String>,
    /// `PayloadDescription`.
    pub description: Option<String>,
    /// `PayloadRemovalDisallowed`.
    pub removal_disallowed: bool,
    /// What it holds.
    pub payloads: Vec<Payload>,
    /// The certificates that came with the signature, DER, the signer's first; empty if it is not signed.
    pub signers: Vec<Vec<u8>>,
}

/// One payload of a profile. Its members may be secret and stay out of debug output.
#[derive(Clone, PartialEq)]
pub struct Payload {
    /// `PayloadType`.
    pub kind: String,
    /// `PayloadIdentifier`.
    pub identifier: String,
    /// `PayloadUUID`.
    pub uuid: String,
    /// `PayloadDisplayName`.
    pub display_name: Option<String>,
    /// All members.
    pub members: Dictionary,
}

impl ProfileFile {
    /// Reads a profile: takes off the signature, if there is one, and checks what every profile must have.
    ///
    /// # Errors
    /// What a device would report.
    pub fn read(bytes: &[u8]) -> Result<Self, Fault> {
        let (plist, signers) = if pki::profile::is_cms(bytes) {
            let opened = pki::profile::open(bytes).map_err(|error| Fault::bad_profile(error.to_string()))?;
            let signer = opened.signer.ok_or_else(|| Fault::bad_profile("The profile's signature has no signer."))?;
            let others = opened.certificates.iter().filter(|other| other.sha256 != signer.sha256);
            (opened.profile, std::iter::once(&signer).chain(others).map(|one| one.der().to_vec()).collect())
        } else {
            (bytes.to_vec(), Vec::new())
        };
        let broken = |error: wire::WireError| Fault::bad_profile(format!("The profile is malformed: {error}."));
        let top = wire::dictionary(wire::read_any(&plist, Limits::PROFILE).map_err(broken)?).map_err(broken)?;
        if text(&top, "PayloadType")? != "Configuration" {
            return Err(Fault::bad_profile("The profile is not of type Configuration."));
        }
        if top.get("PayloadVersion").and_then(Value::as_signed_integer) != Some(1) {
            return Err(Fault::bad_profile("The profile has no version 1."));
        }
        let payloads = top
            .get("PayloadContent")
            .and_then(Value::as_array)
            .ok_or_else(|| Fault::bad_profile("The profile has no content."))?
            .iter()
            .map(Payload::read)
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Self {
            identifier: text(&top, "PayloadIdentifier")?,
            uuid: text(&top, "PayloadUUID")?,
            display_name: optional_text(&top, "PayloadDisplayName"),
            organization: optional_text(&top, "PayloadOrganization"),
            description: optional_text(&top, "PayloadDescription"),
            removal_disallowed: flag(&top, "PayloadRemovalDisallowed"),
            payloads,
            signers,
        })
    }

    /// The payload of a type, if there is exactly one.
    ///
    /// # Errors
    /// None, or several.
    pub(super) fn only(&self, kind: &str) -> Result<&Payload, Fault> {
        let mut found = self.payloads.iter().filter(|payload| payload.kind == kind);
        match (found.next(), found.next()) {
            (Some(payload), None) => Ok(payload),
            (None, _) => Err(Fault::not_installed(format!("The profile has no payload of type {kind}."))),
            (Some(_), Some(_)) => {
                Err(Fault::not_installed(format!("The profile has several payloads of type {kind}.")))
            }
        }
    }

    /// Whether it enrolls the device.
    #[must_use]
    pub fn enrolls(&self) -> bool {
        self.payloads.iter().any(|payload| payload.kind == MDM)
    }

    /// The certificates that it brings, DER.
    ///
    /// # Errors
    /// A payload that should hold a certificate and does not.
    pub fn certificates(&self) -> Result<Vec<pki::Certificate>, Fault> {
        const KINDS: [&str; 3] = ["com.apple.security.root", "com.apple.security.pkcs1", "com.apple.security.pem"];
        let mut certificates = Vec::new();
        for payload in self.payloads.iter().filter(|payload| KINDS.contains(&payload.kind.as_str())) {
            let broken = |reason: &str| {
                Fault::not_installed(format!("The certificate of “{}” is invalid: {reason}.", payload.identifier))
            };
            let content = payload.members.get("PayloadContent").and_then(Value::as_data);
            let content = content.ok_or_else(|| broken("no data"))?;
            certificates.extend(pki::Certificate::from_file(content).map_err(|error| broken(&error.to_string()))?);
        }
        Ok(certificates)
    }

    /// The profile as `ProfileList` shows it.
    pub(super) fn listed(&self) -> Value {
        let mut item = Dictionary::new();
        item.insert("PayloadIdentifier".to_owned(), Value::from(self.identifier.as_str()));
        item.insert("PayloadUUID".to_owned(), Value::from(self.uuid.as_str()));
        item.insert("PayloadVersion".to_owned(), Value::from(1));
        item.insert("PayloadRemovalDisallowed".to_owned(), Value::from(self.removal_disallowed));
        item.insert("HasRemovalPasscode".to_owned(), Value::from(false));
        item.insert("IsEncrypted".to_owned(), Value::from(false));
        item.insert("IsManaged".to_owned(), Value::from(true));
        for (key, value) in [
            ("PayloadDisplayName", &self.display_name),
            ("PayloadOrganization", &self.organization),
            ("PayloadDescription", &self.description),
        ] {
            if let Some(value) = value {
                item.insert(key.to_owned(), Value::from(value.as_str()));
            }
        }
        let signers = self.signers.iter().map(|der| Value::Data(der.clone())).collect();
        item.insert("SignerCertificates".to_owned(), Value::Array(signers));
        let content = self.payloads.iter().map(Payload::listed).collect();
        item.insert("PayloadContent".to_owned(), Value::Array(content));
        Value::Dictionary(item)
    }
}

impl Payload {
    fn read(value: &Value) -> Result<Self, Fault> {
        let members =
            value.as_dictionary().ok_or_else(|| Fault::bad_profile("A payload of the profile is no dictionary."))?;
        Ok(Self {
            kind: text(members, "PayloadType")?,
            identifier: text(members, "PayloadIdentifier")?,
            uuid: text(members, "PayloadUUID")?,
            display_name: optional_text(members, "PayloadDisplayName"),
            members: members.clone(),
        })
    }

    fn listed(&self) -> Value {
        let mut item = Dictionary::new();
        item.insert("PayloadType".to_owned(), Value::from(self.kind.as_str()));
        item.insert("PayloadIdentifier".to_owned(), Value::from(self.identifier.as_str()));
        item.insert("PayloadVersion".to_owned(), Value::from(1));
        if let Some(name) = &self.display_name {
            item.insert("PayloadDisplayName".to_owned(), Value::from(name.as_str()));
        }
        Value::Dictionary(item)
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Payload").field("kind", &self.kind).field("uuid", &self.uuid).finish_non_exhaustive()
    }
}

/// A member that must be a string with something in it.
pub(super) fn text(members: &Dictionary, key: &str) -> Result<String, Fault> {
    optional_text(members, key).ok_or_else(|| Fault::bad_profile(format!("The key {key} is missing in the profile.")))
}

/// A member that is a string with something in it, if it is.
pub(super) fn optional_text(members: &Dictionary, key: &str) -> Option<String> {
    members.get(key).and_then(Value::as_string).filter(|text| !text.is_empty()).map(str::to_owned)
}

pub(super) fn flag(members: &Dictionary, key: &str) -> bool {
    members.get(key).and_then(Value::as_boolean).unwrap_or(false)
}
