//! Profiles that travel inside a command. They get the same look as those that are kept: opened where they are signed,
//! read, and refused where they would take the place of the enrollment profile. What counts is the request that goes out,
//! whichever verb made it.

use plist::{Dictionary, Value};

use super::super::profiles::{self, Refused};
use super::super::{App, Error, Fault};
use crate::catalog::{Built, Verb};

/// What is wrong with the profiles in a request, each with its place in what was asked. `command` is what was asked.
pub(super) async fn faults(
    app: &App,
    command: &serde_json::Value,
    verb: &Verb,
    built: &Built,
) -> Result<Vec<Fault>, Error> {
    let place =
        Place { is_apple: matches!(verb, Verb::Apple { .. }), is_plist: command.get("payload_plist").is_some() };
    let is = |name: &str| built.request_type.trim().eq_ignore_ascii_case(name);
    let mut faults = Vec::new();
    let taken = if is("InstallProfile") || is("EraseDevice") { profiles::taken(app).await? } else { Vec::new() };
    if is("InstallProfile") {
        // What the server keeps was looked at when it came, and is looked at again when it is put in.
        if built.fills.is_empty() {
            let at = place.of("/command/profile", "/Payload");
            data(&built.payload, "Payload", true, &at, &mut faults, |bytes| profiles::check(&taken, bytes));
        }
    } else if is("EraseDevice")
        && let Some(Value::Dictionary(back)) = built.payload.get("ReturnToService")
    {
        let at = place.of("/command/return_to_service/wifi_profile", "/ReturnToService/WiFiProfileData");
        data(back, "WiFiProfileData", false, &at, &mut faults, |bytes| profiles::check(&taken, bytes));
        // An enrollment profile: it may have the identifier that the others must not have, and has to bring management,
        // or the device comes back without.
        let at = place.of("/command", "/ReturnToService/MDMProfileData");
        data(back, "MDMProfileData", false, &at, &mut faults, profiles::check_enrolls);
    }
    Ok(faults)
}

/// How a member of the request is found in what was asked.
struct Place {
    is_apple: bool,
    is_plist: bool,
}

impl Place {
    /// `of_verb`: in a verb's own parameters; `of_apple`: in Apple's payload.
    fn of(&self, of_verb: &str, of_apple: &str) -> String {
        match (self.is_apple, self.is_plist) {
            (false, _) => of_verb.to_owned(),
            (true, false) => format!("/command/payload{of_apple}"),
            // A text: nothing inside it has a place of its own.
            (true, true) => "/command/payload_plist".to_owned(),
        }
    }
}

fn data<T>(
    members: &Dictionary,
    key: &str,
    is_needed: bool,
    at: &str,
    faults: &mut Vec<Fault>,
    look: impl FnOnce(&[u8]) -> Result<T, Refused>,
) {
    let mut add = |detail: String| faults.push(Fault { pointer: at.to_owned(), detail });
    match members.get(key) {
        None if is_needed => add(format!("{key} is needed: a profile, as data")),
        None => {}
        Some(Value::Data(bytes)) => {
            let Err(refused) = look(bytes) else { return };
            if refused.faults.is_empty() {
                add(format!("{key}: {}", refused.detail));
            }
            for inner in refused.faults {
                let inside = if inner.pointer.is_empty() { String::new() } else { format!(" at {}", inner.pointer) };
                add(format!("{key}: the profile{inside}: {}", inner.detail));
            }
        }
        Some(_) => add(format!("{key} must be data, in JSON {{\"$data\": \"…base64…\"}}")),
    }
}
