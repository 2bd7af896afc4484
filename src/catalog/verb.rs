use std::fmt;

use plist::Dictionary;
use serde_json::{Map, Value};

use super::Fault;
use super::apple::REQUEST_TYPES;
use super::field::{Members, check_members};
use super::nearest::nearest;
use super::parameters::{SPECS, Spec, is_pin};
use crate::model::{AppId, ProfileId, Secret};
use crate::protocol::json::{from_json, pointer_step};
use crate::protocol::profile::{Mobileconfig, ProfileFault, is_signed};
use crate::protocol::wire::{self, Limits};

/// Where a command stands in a request's body.
const COMMAND: &str = "/command";

/// What an admin asks for, named alike for all platforms.
///
/// What [`Verb::parse`] gives is right in itself: kinds, ranges, and what is needed are checked there. Its `Debug` shows
/// the name only: payloads and configurations hold secrets.
#[derive(Clone, PartialEq)]
pub enum Verb {
    /// Locks the device.
    Lock {
        /// Six digits; a Mac asks for them before it starts again.
        pin: Option<Secret<String>>,
        /// Text for the lock screen.
        message: Option<String>,
        /// Phone number for the lock screen.
        phone_number: Option<String>,
    },
    /// Erases the device.
    Wipe(Wipe),
    /// Clears the passcode, with the escrowed unlock token.
    ClearPasscode,
    /// Installs a configuration profile.
    InstallProfile(Profile),
    /// Removes a configuration profile.
    RemoveProfile {
        /// Its `PayloadIdentifier`.
        identifier: String,
    },
    /// Installs an app.
    InstallApp(Box<InstallApp>),
    /// Removes an app.
    RemoveApp {
        /// Its bundle id.
        bundle_id: String,
    },
    /// Restarts the device.
    Restart {
        /// On a Mac: whether its user is asked first.
        notify_user: Option<bool>,
        /// On a Mac: whether the kernel cache is rebuilt.
        rebuild_kernel_cache: Option<bool>,
        /// On a Mac: kernel extensions for the new kernel cache.
        kext_paths: Vec<String>,
    },
    /// Shuts the device down.
    ShutDown,
    /// Removes the enrollment profile.
    Unenroll,
    /// Asks what the device is and how it is set.
    DeviceInformation {
        /// Apple's names; empty for an inventory.
        queries: Vec<String>,
        /// At most 32 bytes.
        attestation_nonce: Option<Vec<u8>>,
    },
    /// Asks how the device is protected.
    SecurityInfo,
    /// Asks which apps are installed.
    InstalledApps {
        /// Only these; empty for all.
        bundle_ids: Vec<String>,
        /// Only managed ones.
        managed_only: Option<bool>,
        /// Apple's names of what to tell of each; empty for all.
        items: Vec<String>,
    },
    /// Asks which profiles are installed.
    Profiles {
        /// Only managed ones.
        managed_only: Option<bool>,
    },
    /// Asks which certificates are installed.
    Certificates {
        /// Only managed ones.
        managed_only: Option<bool>,
    },
    /// Any request of Apple's MDM protocol.
    Apple {
        /// Apple's request type.
        request_type: String,
        /// The command's other members.
        payload: Dictionary,
    },
}

/// How the device is erased.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Wipe {
    /// Six digits that unlock an older Mac after the wipe.
    pub pin: Option<Secret<String>>,
    /// Whether an eSIM is kept.
    pub preserve_data_plan: Option<bool>,
    /// Whether set-up by a device nearby is prevented.
    pub disallow_proximity_setup: Option<bool>,
    /// What a Mac does when it cannot erase all content and settings.
    pub obliteration_behavior: Option<Obliteration>,
    /// Whether and how the device enrolls again by itself.
    pub return_to_service: Option<ReturnToService>,
}

/// What a Mac does when it cannot erase all content and settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Obliteration {
    /// What the system decides.
    Default,
    /// It reports an error.
    DoNotObliterate,
    /// It warns, and erases the whole volume.
    ObliterateWithWarning,
    /// It erases the whole volume in any case.
    Always,
}

/// How an erased device enrolls again by itself.
#[derive(Clone, Debug, PartialEq)]
pub struct ReturnToService {
    /// Whether it does.
    pub enabled: bool,
    /// The profile with the Wi-Fi network that it joins.
    pub wifi_profile: Option<Vec<u8>>,
    /// Whether it tries again when the enrollment fails (27.0 and later).
    pub should_retry_enrollment: Option<bool>,
}

/// Where a profile comes from.
#[derive(Clone, PartialEq)]
pub enum Profile {
    /// Kept by this server.
    Stored(ProfileId),
    /// In the request: a .mobileconfig, signed or not.
    Inline(Vec<u8>),
}

/// How an app is installed.
#[derive(Clone, PartialEq)]
pub struct InstallApp {
    /// Which app.
    pub app: App,
    /// 1: removed when the management ends; 4: not backed up; 5: both.
    pub management_flags: Option<i64>,
    /// Whether an app that its user installed becomes managed.
    pub take_over: bool,
    /// 0: free or paid by the user; 1: by volume purchase.
    pub purchase_method: Option<i64>,
    /// On a Mac: whether the app is managed.
    pub install_as_managed: Option<bool>,
    /// On a Mac: whether it is an app for iPhone or iPad.
    pub ios_app: Option<bool>,
    /// The app's managed configuration.
    pub configuration: Option<Dictionary>,
    /// What the system does for the app.
    pub attributes: Option<AppAttributes>,
}

/// Which app.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum App {
    /// In the App Store, by number.
    StoreId(i64),
    /// In the App Store, by bundle id.
    BundleId(String),
    /// Kept by this server.
    Own(AppId),
    /// An own app elsewhere: an https URL.
    Manifest(String),
}

/// What the system does for an app. Source: Apple, "InstallApplicationCommand.Command.Attributes".
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AppAttributes {
    /// The VPN that it uses.
    pub vpn_uuid: Option<String>,
    /// The content filter that it uses.
    pub content_filter_uuid: Option<String>,
    /// The DNS proxy that it uses.
    pub dns_proxy_uuid: Option<String>,
    /// The relay that it uses.
    pub relay_uuid: Option<String>,
    /// The 5G network slice that it uses.
    pub cellular_slice_uuid: Option<String>,
    /// Its associated domains.
    pub associated_domains: Vec<String>,
    /// Whether they are asked directly.
    pub associated_domains_enable_direct_downloads: Option<bool>,
    /// Whether its user can remove it.
    pub removable: Option<bool>,
    /// Whether Tap to Pay locks the screen.
    pub tap_to_pay_screen_lock: Option<bool>,
    /// Whether its user can hide it.
    pub hideable: Option<bool>,
    /// Whether its user can lock it.
    pub lockable: Option<bool>,
}

impl Verb {
    /// Reads the `command` of a request.
    ///
    /// # Errors
    /// All faults at once, each with its place in the request's body (`/command/pin`). Unknown fields are faults.
    pub fn parse(command: &Value) -> Result<Self, Vec<Fault>> {
        let names = || SPECS.iter().map(|spec| spec.name);
        let Some(members) = command.as_object() else {
            return Err(vec![Fault::new(COMMAND, "expected an object with a \"type\"")]);
        };
        let place = format!("{COMMAND}/type");
        let Some(name) = members.get("type").and_then(Value::as_str) else {
            let known = names().collect::<Vec<_>>().join(", ");
            return Err(vec![Fault::new(place, format!("is needed; expected one of {known}"))]);
        };
        let Some(spec) = SPECS.iter().find(|spec| spec.name == name) else {
            let hint = nearest(name, names()).map_or_else(
                || format!("known are {}", names().collect::<Vec<_>>().join(", ")),
                |meant| format!("did you mean {meant:?}?"),
            );
            return Err(vec![Fault::new(place, format!("unknown command type; {hint}"))]);
        };
        let mut faults = Vec::new();
        check_members(members, spec.fields, Some("type"), COMMAND, &mut faults);
        check_choices(members, spec, &mut faults);
        let verb = read(spec.name, members, &mut faults);
        match verb {
            Some(verb) if faults.is_empty() => Ok(verb),
            _ => Err(faults),
        }
    }

    /// Its name in the API.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Lock { .. } => "lock",
            Self::Wipe(_) => "wipe",
            Self::ClearPasscode => "clear_passcode",
            Self::InstallProfile(_) => "install_profile",
            Self::RemoveProfile { .. } => "remove_profile",
            Self::InstallApp(_) => "install_app",
            Self::RemoveApp { .. } => "remove_app",
            Self::Restart { .. } => "restart",
            Self::ShutDown => "shut_down",
            Self::Unenroll => "unenroll",
            Self::DeviceInformation { .. } => "device_information",
            Self::SecurityInfo => "security_info",
            Self::InstalledApps { .. } => "installed_apps",
            Self::Profiles { .. } => "profiles",
            Self::Certificates { .. } => "certificates",
            Self::Apple { .. } => "apple",
        }
    }
}

impl fmt::Debug for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Verb").field(&self.name()).finish()
    }
}

fn check_choices(members: &Map<String, Value>, spec: &Spec, faults: &mut Vec<Fault>) {
    for (names, needed) in [(spec.exactly_one, true), (spec.at_most_one, false)] {
        let given: Vec<_> = names.iter().filter(|name| members.contains_key(**name)).collect();
        let all = names.join(", ");
        if needed && given.is_empty() && !names.is_empty() {
            faults.push(Fault::new(COMMAND, format!("one of {all} is needed")));
        }
        for name in given.iter().skip(1) {
            let place = format!("{COMMAND}{}", pointer_step(name));
            faults.push(Fault::new(place, format!("only one of {all} may be given")));
        }
    }
}

/// The verb, once its members were checked; none only where a fault was found. Converts what the checks do not reach.
fn read(name: &str, members: &Map<String, Value>, faults: &mut Vec<Fault>) -> Option<Verb> {
    let m = Members(members);
    Some(match name {
        "lock" => Verb::Lock {
            pin: m.text("pin").map(Secret::new),
            message: m.text("message"),
            phone_number: m.text("phone_number"),
        },
        "wipe" => Verb::Wipe(wipe(&m, faults)),
        "clear_passcode" => Verb::ClearPasscode,
        "install_profile" => Verb::InstallProfile(match m.id("profile_id") {
            Some(id) => Profile::Stored(ProfileId(id)),
            None => Profile::Inline(profile(m.bytes("profile")?, "profile", faults)?),
        }),
        "remove_profile" => Verb::RemoveProfile { identifier: m.text("identifier")? },
        "install_app" => {
            let configuration = members.get("configuration").and_then(|json| dictionary(json, "configuration", faults));
            Verb::InstallApp(Box::new(install_app(&m, configuration)?))
        }
        "remove_app" => Verb::RemoveApp { bundle_id: m.text("bundle_id")? },
        "restart" => Verb::Restart {
            notify_user: m.flag("notify_user"),
            rebuild_kernel_cache: m.flag("rebuild_kernel_cache"),
            kext_paths: m.texts("kext_paths"),
        },
        "shut_down" => Verb::ShutDown,
        "unenroll" => Verb::Unenroll,
        "device_information" => {
            Verb::DeviceInformation { queries: m.texts("queries"), attestation_nonce: m.bytes("attestation_nonce") }
        }
        "security_info" => Verb::SecurityInfo,
        "installed_apps" => Verb::InstalledApps {
            bundle_ids: m.texts("bundle_ids"),
            managed_only: m.flag("managed_only"),
            items: m.texts("items"),
        },
        "profiles" => Verb::Profiles { managed_only: m.flag("managed_only") },
        "certificates" => Verb::Certificates { managed_only: m.flag("managed_only") },
        _ => apple(&m, members, faults)?,
    })
}

fn wipe(m: &Members<'_>, faults: &mut Vec<Fault>) -> Wipe {
    Wipe {
        pin: m.text("pin").map(Secret::new),
        preserve_data_plan: m.flag("preserve_data_plan"),
        disallow_proximity_setup: m.flag("disallow_proximity_setup"),
        obliteration_behavior: m.text("obliteration_behavior").and_then(|word| Obliteration::parse(&word)),
        return_to_service: m.object("return_to_service").map(|m| ReturnToService {
            enabled: m.flag("enabled").unwrap_or(false),
            wifi_profile: m
                .bytes("wifi_profile")
                .and_then(|bytes| profile(bytes, "return_to_service/wifi_profile", faults)),
            should_retry_enrollment: m.flag("should_retry_enrollment"),
        }),
    }
}

fn install_app(m: &Members<'_>, configuration: Option<Dictionary>) -> Option<InstallApp> {
    let app = (m.integer("store_id").map(App::StoreId))
        .or_else(|| m.text("bundle_id").map(App::BundleId))
        .or_else(|| m.id("app_id").map(|id| App::Own(AppId(id))))
        .or_else(|| m.text("manifest_url").map(App::Manifest))?;
    Some(InstallApp {
        app,
        management_flags: m.integer("management_flags"),
        take_over: m.flag("take_over").unwrap_or(false),
        purchase_method: m.integer("purchase_method"),
        install_as_managed: m.flag("install_as_managed"),
        ios_app: m.flag("ios_app"),
        configuration,
        attributes: m.object("attributes").map(|m| AppAttributes {
            vpn_uuid: m.text("vpn_uuid"),
            content_filter_uuid: m.text("content_filter_uuid"),
            dns_proxy_uuid: m.text("dns_proxy_uuid"),
            relay_uuid: m.text("relay_uuid"),
            cellular_slice_uuid: m.text("cellular_slice_uuid"),
            associated_domains: m.texts("associated_domains"),
            associated_domains_enable_direct_downloads: m.flag("associated_domains_enable_direct_downloads"),
            removable: m.flag("removable"),
            tap_to_pay_screen_lock: m.flag("tap_to_pay_screen_lock"),
            hideable: m.flag("hideable"),
            lockable: m.flag("lockable"),
        }),
    })
}

fn apple(m: &Members<'_>, members: &Map<String, Value>, faults: &mut Vec<Fault>) -> Option<Verb> {
    let request_type = m.text("request_type");
    let allowed = m.flag("allow_unknown").unwrap_or(false);
    if let Some(name) = request_type.as_deref().filter(|name| !allowed && !REQUEST_TYPES.contains(name)) {
        let hint = nearest(name, REQUEST_TYPES).map(|meant| format!("did you mean {meant:?}? ")).unwrap_or_default();
        let detail = format!("unknown request type; {hint}send it all the same with \"allow_unknown\": true");
        faults.push(Fault::new(format!("{COMMAND}/request_type"), detail));
    }
    let (place, payload) = match (members.get("payload"), m.text("payload_plist")) {
        (Some(json), _) => ("payload", dictionary(json, "payload", faults)),
        (None, Some(xml)) => ("payload_plist", plist_dictionary(&xml, faults)),
        (None, None) => ("payload", Some(Dictionary::new())),
    };
    if payload.as_ref().is_some_and(|payload| payload.contains_key("RequestType")) {
        let detail = "RequestType belongs into request_type";
        faults.push(Fault::new(format!("{COMMAND}/{place}/RequestType"), detail));
    }
    // A Mac that is locked with another PIN than its firmware can take is locked for good.
    let takes_pin = matches!(request_type.as_deref(), Some("DeviceLock" | "EraseDevice"));
    if let Some(pin) = payload.as_ref().and_then(|payload| payload.get("PIN")).filter(|_| takes_pin)
        && !pin.as_string().is_some_and(is_pin)
    {
        faults.push(Fault::new(format!("{COMMAND}/{place}/PIN"), "expected 6 digits".to_owned()));
    }
    Some(Verb::Apple { request_type: request_type?, payload: payload? })
}

/// A profile whose content was looked at, unless it is signed: opening it takes the `pki` room, so whoever takes the
/// command does that.
fn profile(bytes: Vec<u8>, name: &str, faults: &mut Vec<Fault>) -> Option<Vec<u8>> {
    if is_signed(&bytes) {
        return Some(bytes);
    }
    match Mobileconfig::parse(&bytes) {
        Ok(_) => Some(bytes),
        Err(inner) => {
            let at = |pointer: &str| if pointer.is_empty() { String::new() } else { format!(" at {pointer}") };
            let detail = |f: ProfileFault| format!("the profile{}: {}", at(&f.pointer), f.detail);
            faults.extend(inner.into_iter().map(|f| Fault::new(format!("{COMMAND}/{name}"), detail(f))));
            None
        }
    }
}

fn dictionary(json: &Value, name: &str, faults: &mut Vec<Fault>) -> Option<Dictionary> {
    // Anything but an object was found by the checks.
    if !json.is_object() {
        return None;
    }
    match from_json(json) {
        Ok(plist::Value::Dictionary(dictionary)) => Some(dictionary),
        Ok(_) => {
            faults.push(Fault::new(format!("{COMMAND}/{name}"), "expected an object that is no date and no data"));
            None
        }
        Err(inner) => {
            faults.extend(inner.into_iter().map(|f| Fault::new(format!("{COMMAND}/{name}{}", f.pointer), f.detail)));
            None
        }
    }
}

fn plist_dictionary(xml: &str, faults: &mut Vec<Fault>) -> Option<Dictionary> {
    match wire::read(xml.as_bytes(), Limits::COMMAND).and_then(wire::dictionary) {
        Ok(dictionary) => Some(dictionary),
        Err(error) => {
            faults.push(Fault::new(format!("{COMMAND}/payload_plist"), error.to_string()));
            None
        }
    }
}

impl Obliteration {
    const ALL: [Self; 4] = [Self::Default, Self::DoNotObliterate, Self::ObliterateWithWarning, Self::Always];

    fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|behavior| behavior.as_str() == word)
    }

    /// The word used in the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::DoNotObliterate => "do_not_obliterate",
            Self::ObliterateWithWarning => "obliterate_with_warning",
            Self::Always => "always",
        }
    }

    /// Apple's word.
    #[must_use]
    pub const fn as_apple(self) -> &'static str {
        match self {
            Self::Default => "Default",
            Self::DoNotObliterate => "DoNotObliterate",
            Self::ObliterateWithWarning => "ObliterateWithWarning",
            Self::Always => "Always",
        }
    }
}
