//! A device without its connections: what is installed on it, whether it is locked, and what a command does to it.

use std::collections::BTreeMap;

use plist::{Dictionary, Value};

use super::app::App;
use super::facts::Facts;
use super::fault::Fault;
use super::profile::ProfileFile;
use super::{answers, app};
use crate::model::{Randomness, ReportStatus, Secret};
use crate::pki;
use crate::protocol::command::Command;

/// The state of a device that commands read and change.
#[derive(Clone, Debug)]
pub struct Handset {
    /// What it is.
    pub facts: Facts,
    /// Whether the screen is locked.
    pub locked: bool,
    /// Whether a passcode is set.
    pub passcode: bool,
    /// What clears the passcode; made when the device enrolls.
    pub unlock_token: Option<Secret<Vec<u8>>>,
    /// The profiles on it, in the order of their installation, without the enrollment profile.
    pub profiles: Vec<ProfileFile>,
    /// The enrollment profile.
    pub enrollment: Option<ProfileFile>,
    /// The identity that it enrolled with.
    pub identity: Option<pki::Certificate>,
    /// The apps on it, by bundle identifier.
    pub apps: BTreeMap<String, App>,
    /// How often it was restarted.
    pub restarts: u32,
    /// Whether it is switched off.
    pub off: bool,
    /// The message on the lock screen.
    pub lock_message: Option<String>,
}

/// What a device says to a command.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// The status of the report.
    pub status: ReportStatus,
    /// The other members of the report.
    pub members: Dictionary,
    /// What happens when the report is out.
    pub then: Then,
}

/// What a command sets going.
#[derive(Clone, Debug, PartialEq)]
pub enum Then {
    /// Nothing.
    Nothing,
    /// The device forgets everything, and enrolls again if it got a profile for that.
    Erase {
        /// The profile of "return to service".
        return_to_service: Option<Vec<u8>>,
    },
    /// The enrollment profile is gone.
    Unenroll,
    /// The enrollment profile is replaced: the device obtains a new identity before it reports.
    Renew(Box<ProfileFile>),
    /// It restarts.
    Restart,
    /// It switches itself off.
    ShutDown,
}

/// What a device does only while it is unlocked, because it needs protected data or its user's eyes.
const NEEDS_UNLOCK: [&str; 5] =
    ["CertificateList", "InstallApplication", "InstallProfile", "RemoveApplication", "RemoveProfile"];

impl Handset {
    /// A device as it comes out of its box, with a passcode set.
    #[must_use]
    pub fn new(facts: Facts) -> Self {
        Self {
            facts,
            locked: false,
            passcode: true,
            unlock_token: None,
            profiles: Vec::new(),
            enrollment: None,
            identity: None,
            apps: BTreeMap::new(),
            restarts: 0,
            off: false,
            lock_message: None,
        }
    }

    /// Forgets everything but what the hardware is.
    pub fn erase(&mut self) {
        *self = Self::new(self.facts.clone());
        self.passcode = false;
    }

    /// Forgets the management and what it brought.
    pub fn unenroll(&mut self) {
        self.profiles.clear();
        self.enrollment = None;
        self.identity = None;
        self.unlock_token = None;
        self.apps.retain(|_, app| !app.managed);
    }

    /// A new unlock token, as is made when a device with a passcode enrolls.
    pub fn make_unlock_token(&mut self, random: &dyn Randomness) -> Secret<Vec<u8>> {
        let mut token = vec![0; 64];
        random.fill(&mut token);
        let token = Secret::new(token);
        self.unlock_token = Some(token.clone());
        token
    }

    /// Carries out a command. `fetched` is the app that an `InstallApplication` with a manifest brought, or why it
    /// could not be fetched.
    pub fn execute(&mut self, command: &Command, fetched: Option<Result<App, Fault>>) -> Outcome {
        if self.locked && NEEDS_UNLOCK.contains(&command.request_type.as_str()) {
            return Outcome::of(ReportStatus::NotNow, Dictionary::new());
        }
        self.obey(command, fetched).unwrap_or_else(|fault| Outcome::of(ReportStatus::Error, fault.members()))
    }

    fn obey(&mut self, command: &Command, fetched: Option<Result<App, Fault>>) -> Result<Outcome, Fault> {
        let payload = &command.payload;
        match command.request_type.as_str() {
            "DeviceInformation" => Ok(Outcome::done_with("QueryResponses", self.device_information(payload)?)),
            "SecurityInfo" => Ok(Outcome::done_with("SecurityInfo", answers::security_info(self))),
            "ProfileList" => Ok(Outcome::done_with("ProfileList", self.profile_list())),
            "CertificateList" => Ok(Outcome::done_with("CertificateList", answers::certificate_list(self))),
            "InstalledApplicationList" => {
                Ok(Outcome::done_with("InstalledApplicationList", app::installed_list(&self.apps, payload)))
            }
            "ManagedApplicationList" => {
                Ok(Outcome::done_with("ManagedApplicationList", app::managed_list(&self.apps, payload)))
            }
            "InstallProfile" => self.install_profile(payload),
            "RemoveProfile" => self.remove_profile(payload),
            "InstallApplication" => app::install(&mut self.apps, payload, fetched).map(Outcome::done),
            "RemoveApplication" => app::remove(&mut self.apps, payload).map(|()| Outcome::done(Dictionary::new())),
            "DeviceLock" => Ok(self.lock(payload)),
            "ClearPasscode" => self.clear_passcode(payload),
            "EraseDevice" => erase(payload),
            "RestartDevice" => Ok(Outcome::done(Dictionary::new()).then(Then::Restart)),
            "ShutDownDevice" => Ok(Outcome::done(Dictionary::new()).then(Then::ShutDown)),
            other => Err(Fault::unknown_request(other)),
        }
    }

    fn device_information(&self, payload: &Dictionary) -> Result<Value, Fault> {
        let queries = payload.get("Queries").and_then(Value::as_array);
        let queries = queries.ok_or_else(|| Fault::bad_command("The command has no Queries."))?;
        let mut responses = Dictionary::new();
        for key in queries.iter().filter_map(Value::as_string) {
            if let Some(value) = answers::device_information(self, key) {
                responses.insert(key.to_owned(), value);
            }
        }
        Ok(Value::Dictionary(responses))
    }

    fn profile_list(&self) -> Value {
        Value::Array(self.enrollment.iter().chain(&self.profiles).map(ProfileFile::listed).collect())
    }

    fn install_profile(&mut self, payload: &Dictionary) -> Result<Outcome, Fault> {
        let bytes = payload.get("Payload").and_then(Value::as_data);
        let bytes = bytes.ok_or_else(|| Fault::bad_command("The command has no Payload."))?;
        let profile = ProfileFile::read(bytes)?;
        profile.certificates()?;
        if profile.enrolls() {
            if self.enrollment.as_ref().is_none_or(|own| own.identifier != profile.identifier) {
                return Err(Fault::not_installed("The device is already enrolled by another profile."));
            }
            return Ok(Outcome::done(Dictionary::new()).then(Then::Renew(Box::new(profile))));
        }
        match self.profiles.iter_mut().find(|own| own.identifier == profile.identifier) {
            Some(own) => *own = profile,
            None => self.profiles.push(profile),
        }
        Ok(Outcome::done(Dictionary::new()))
    }

    fn remove_profile(&mut self, payload: &Dictionary) -> Result<Outcome, Fault> {
        let identifier = payload.get("Identifier").and_then(Value::as_string);
        let identifier = identifier.ok_or_else(|| Fault::bad_command("The command has no Identifier."))?;
        if self.enrollment.as_ref().is_some_and(|own| own.identifier == identifier) {
            return Ok(Outcome::done(Dictionary::new()).then(Then::Unenroll));
        }
        let before = self.profiles.len();
        self.profiles.retain(|own| own.identifier != identifier);
        if self.profiles.len() == before {
            let text = format!("The profile “{identifier}” is not installed.");
            return Err(Fault::new("MCMDMErrorDomain", 12_075, text));
        }
        Ok(Outcome::done(Dictionary::new()))
    }

    /// The PIN of the command concerns Macs only.
    fn lock(&mut self, payload: &Dictionary) -> Outcome {
        self.locked = true;
        self.lock_message = payload.get("Message").and_then(Value::as_string).map(str::to_owned);
        let mut members = Dictionary::new();
        if payload.contains_key("Message") || payload.contains_key("PhoneNumber") {
            let shown = if self.passcode { "Success" } else { "NoPasscodeSet" };
            members.insert("MessageResult".to_owned(), Value::from(shown));
        }
        Outcome::done(members)
    }

    fn clear_passcode(&mut self, payload: &Dictionary) -> Result<Outcome, Fault> {
        let token = payload.get("UnlockToken").and_then(Value::as_data);
        let token = token.ok_or_else(|| Fault::bad_command("The command has no UnlockToken."))?;
        if self.unlock_token.as_ref().is_none_or(|own| own.expose() != token) {
            return Err(Fault::new("MCPasscodeErrorDomain", 5013, "The unlock token is not this device's."));
        }
        self.passcode = false;
        self.locked = false;
        Ok(Outcome::done(Dictionary::new()))
    }
}

fn erase(payload: &Dictionary) -> Result<Outcome, Fault> {
    let return_to_service = match payload.get("ReturnToService").and_then(Value::as_dictionary) {
        Some(members) if super::profile::flag(members, "Enabled") => {
            let profile = members.get("MDMProfileData").and_then(Value::as_data);
            let profile = profile.ok_or_else(|| Fault::bad_command("ReturnToService has no MDMProfileData."))?;
            Some(profile.to_vec())
        }
        _ => None,
    };
    Ok(Outcome::done(Dictionary::new()).then(Then::Erase { return_to_service }))
}

impl Outcome {
    fn of(status: ReportStatus, members: Dictionary) -> Self {
        Self { status, members, then: Then::Nothing }
    }

    fn done(members: Dictionary) -> Self {
        Self::of(ReportStatus::Acknowledged, members)
    }

    fn done_with(key: &str, value: Value) -> Self {
        let mut members = Dictionary::new();
        members.insert(key.to_owned(), value);
        Self::done(members)
    }

    fn then(self, then: Then) -> Self {
        Self { then, ..self }
    }

    /// An error report.
    #[must_use]
    pub fn failed(fault: &Fault) -> Self {
        Self::of(ReportStatus::Error, fault.members())
    }

    /// A NotNow.
    #[must_use]
    pub fn not_now() -> Self {
        Self::of(ReportStatus::NotNow, Dictionary::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::SeededRandomness;
    use crate::protocol::wire;

    fn handset() -> Handset {
        let random = SeededRandomness::new(1);
        let mut handset = Handset::new(Facts::iphone(1, &random));
        handset.make_unlock_token(&random);
        handset
    }

    fn dictionary(pairs: Vec<(&str, Value)>) -> Dictionary {
        pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
    }

    fn run(handset: &mut Handset, request_type: &str, payload: Vec<(&str, Value)>) -> Outcome {
        let payload = dictionary(payload);
        handset.execute(&Command { uuid: "1".to_owned(), request_type: request_type.to_owned(), payload }, None)
    }

    #[track_caller]
    fn code(outcome: &Outcome) -> i64 {
        let chain = outcome.members.get("ErrorChain").unwrap().as_array().unwrap();
        chain[0].as_dictionary().unwrap().get("ErrorCode").unwrap().as_signed_integer().unwrap()
    }

    fn profile(identifier: &str, name: &str) -> Value {
        let top = dictionary(vec![
            ("PayloadType", Value::from("Configuration")),
            ("PayloadVersion", Value::from(1)),
            ("PayloadIdentifier", Value::from(identifier)),
            ("PayloadUUID", Value::from("U")),
            ("PayloadDisplayName", Value::from(name)),
            ("PayloadContent", Value::Array(Vec::new())),
        ]);
        Value::Data(wire::write(&Value::Dictionary(top)))
    }

    fn listed(handset: &mut Handset) -> Vec<String> {
        let outcome = run(handset, "ProfileList", vec![]);
        let list = outcome.members.get("ProfileList").unwrap().as_array().unwrap();
        let name = |item: &Value| {
            let name = item.as_dictionary().unwrap().get("PayloadDisplayName").unwrap();
            name.as_string().unwrap().to_owned()
        };
        list.iter().map(name).collect()
    }

    #[test]
    fn profiles_come_are_replaced_and_go() {
        let mut handset = handset();
        run(&mut handset, "InstallProfile", vec![("Payload", profile("a", "first"))]);
        run(&mut handset, "InstallProfile", vec![("Payload", profile("b", "other"))]);
        run(&mut handset, "InstallProfile", vec![("Payload", profile("a", "second"))]);
        assert_eq!(listed(&mut handset), ["second", "other"]);
        let removed = run(&mut handset, "RemoveProfile", vec![("Identifier", Value::from("a"))]);
        assert_eq!(removed.status, ReportStatus::Acknowledged);
        assert_eq!(code(&run(&mut handset, "RemoveProfile", vec![("Identifier", Value::from("a"))])), 12_075);
        assert_eq!(code(&run(&mut handset, "InstallProfile", vec![("Payload", Value::Data(vec![1]))])), 1000);
        assert_eq!(listed(&mut handset), ["other"]);
    }

    #[test]
    fn a_locked_device_says_not_now_until_the_passcode_is_cleared() {
        let mut handset = handset();
        let locked = run(&mut handset, "DeviceLock", vec![("Message", Value::from("Found me?"))]);
        assert_eq!(locked.members.get("MessageResult"), Some(&Value::from("Success")));
        let install = vec![("Payload", profile("a", "first"))];
        assert_eq!(run(&mut handset, "InstallProfile", install.clone()).status, ReportStatus::NotNow);
        assert_eq!(run(&mut handset, "SecurityInfo", vec![]).status, ReportStatus::Acknowledged);

        let foreign = vec![("UnlockToken", Value::Data(vec![0; 64]))];
        assert_eq!(code(&run(&mut handset, "ClearPasscode", foreign)), 5013);
        let own = handset.unlock_token.clone().unwrap();
        let cleared = run(&mut handset, "ClearPasscode", vec![("UnlockToken", Value::Data(own.expose().clone()))]);
        assert_eq!((cleared.status, handset.locked, handset.passcode), (ReportStatus::Acknowledged, false, false));
        assert_eq!(run(&mut handset, "InstallProfile", install).status, ReportStatus::Acknowledged);
    }

    #[test]
    fn information_is_given_as_asked() {
        let mut handset = handset();
        let queries = ["UDID", "BatteryLevel", "NoSuchKey"].map(Value::from).to_vec();
        let outcome = run(&mut handset, "DeviceInformation", vec![("Queries", Value::Array(queries))]);
        let responses = outcome.members.get("QueryResponses").unwrap().as_dictionary().unwrap();
        assert_eq!(responses.get("UDID"), Some(&Value::from(handset.facts.udid.as_str())));
        assert_eq!(responses.len(), 2);
        assert_eq!(code(&run(&mut handset, "DeviceInformation", vec![])), 12_023);
    }

    #[test]
    fn unknown_requests_and_erasing_end_as_they_should() {
        let mut handset = handset();
        assert_eq!(code(&run(&mut handset, "MakeCoffee", vec![])), 12_021);
        run(&mut handset, "InstallProfile", vec![("Payload", profile("a", "first"))]);
        assert_eq!(run(&mut handset, "EraseDevice", vec![]).then, Then::Erase { return_to_service: None });
        let service = dictionary(vec![("Enabled", Value::from(true)), ("MDMProfileData", Value::Data(vec![7]))]);
        let outcome = run(&mut handset, "EraseDevice", vec![("ReturnToService", Value::Dictionary(service))]);
        assert_eq!(outcome.then, Then::Erase { return_to_service: Some(vec![7]) });
        handset.erase();
        assert!(handset.profiles.is_empty() && handset.unlock_token.is_none());
    }
}
