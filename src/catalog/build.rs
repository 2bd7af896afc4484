use std::fmt;

use plist::{Dictionary, Value};
use serde_json::{Map, json};

use super::apple::DEFAULT_QUERIES;
use super::guard::{Destruction, destruction, removes_a_profile, resend};
use super::verb::{App, AppAttributes, InstallApp, Profile, Verb, Wipe};
use crate::model::{AppId, ProfileId, Resend, Secret};
use crate::protocol::json::to_json;

/// Apple's request for a verb. Its `Debug` shows the summary in place of the payload.
#[derive(Clone, PartialEq)]
pub struct Built {
    /// Apple's request type.
    pub request_type: String,
    /// The command's other members, without what is filled in at delivery.
    pub payload: Dictionary,
    /// What is filled in at delivery, for each device by itself.
    pub fills: Vec<Fill>,
    /// What may be done when no report came.
    pub resend: Resend,
    /// What was asked for, to be shown to everyone: without PINs, tokens, data, and configurations' texts.
    pub summary: serde_json::Value,
}

/// What is put into a request when a device takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fill {
    /// `UnlockToken`: the token that the device escrowed.
    UnlockToken,
    /// `Payload`: a stored profile.
    StoredProfile(ProfileId),
    /// `ManifestURL`: the manifest of an app kept by this server.
    App(AppId),
    /// `ReturnToService.MDMProfileData`: an enrollment profile made for this device.
    ReturnToServiceProfile,
    /// `Identifier`: that of the enrollment profile on this device.
    EnrollmentProfileIdentifier,
}

impl Built {
    /// Whether [`Built::destruction`] depends on the enrollment profiles of the devices that it is for.
    #[must_use]
    pub fn removes_a_profile(&self) -> bool {
        removes_a_profile(&self.request_type)
    }

    /// What it destroys on devices with these enrollment profiles; see [`destruction`].
    #[must_use]
    pub fn destruction(&self, enrollment_profiles: &[Option<String>]) -> Option<Destruction> {
        destruction(&self.request_type, &self.payload, enrollment_profiles)
    }
}

/// Makes Apple's request of a verb.
#[must_use]
pub fn build(verb: &Verb) -> Built {
    let mut request = Request::default();
    let request_type = request.fill(verb).to_owned();
    let Request { payload, fills, mut summary } = request;
    summary.insert("type".to_owned(), verb.name().into());
    Built { resend: resend(&request_type, &payload), request_type, payload, fills, summary: summary.into() }
}

impl fmt::Debug for Built {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { request_type, payload: _, fills, resend, summary } = self;
        f.debug_struct("Built")
            .field("request_type", request_type)
            .field("fills", fills)
            .field("resend", resend)
            .field("summary", summary)
            .finish_non_exhaustive()
    }
}

#[derive(Default)]
struct Request {
    payload: Dictionary,
    fills: Vec<Fill>,
    summary: Map<String, serde_json::Value>,
}

impl Request {
    /// Puts a verb's parameters in; returns the request type.
    fn fill<'a>(&mut self, verb: &'a Verb) -> &'a str {
        match verb {
            Verb::Lock { pin, message, phone_number } => {
                self.text("Message", "message", message.as_deref());
                self.text("PhoneNumber", "phone_number", phone_number.as_deref());
                self.pin(pin.as_ref());
                "DeviceLock"
            }
            Verb::Wipe(wipe) => {
                self.wipe(wipe);
                "EraseDevice"
            }
            Verb::ClearPasscode => {
                self.fills.push(Fill::UnlockToken);
                "ClearPasscode"
            }
            Verb::InstallProfile(Profile::Stored(id)) => {
                self.fills.push(Fill::StoredProfile(*id));
                self.show("profile_id", id.to_string());
                "InstallProfile"
            }
            Verb::InstallProfile(Profile::Inline(bytes)) => {
                self.put("Payload", Value::Data(bytes.clone()));
                self.show("profile", hidden(bytes.len()));
                "InstallProfile"
            }
            Verb::RemoveProfile { identifier } => {
                self.text("Identifier", "identifier", Some(identifier));
                "RemoveProfile"
            }
            Verb::InstallApp(app) => {
                self.install_app(app);
                "InstallApplication"
            }
            Verb::RemoveApp { bundle_id } => {
                self.text("Identifier", "bundle_id", Some(bundle_id));
                "RemoveApplication"
            }
            Verb::Restart { notify_user, rebuild_kernel_cache, kext_paths } => {
                self.flag("NotifyUser", "notify_user", *notify_user);
                self.flag("RebuildKernelCache", "rebuild_kernel_cache", *rebuild_kernel_cache);
                self.texts("KextPaths", "kext_paths", kext_paths);
                "RestartDevice"
            }
            Verb::ShutDown => "ShutDownDevice",
            Verb::Unenroll => {
                self.fills.push(Fill::EnrollmentProfileIdentifier);
                "RemoveProfile"
            }
            Verb::DeviceInformation { queries, attestation_nonce } => {
                if queries.is_empty() {
                    self.put("Queries", Value::Array(DEFAULT_QUERIES.into_iter().map(Value::from).collect()));
                } else {
                    self.texts("Queries", "queries", queries);
                }
                self.data("DeviceAttestationNonce", "attestation_nonce", attestation_nonce.as_deref());
                "DeviceInformation"
            }
            Verb::SecurityInfo => "SecurityInfo",
            Verb::InstalledApps { bundle_ids, managed_only, items } => {
                self.texts("Identifiers", "bundle_ids", bundle_ids);
                self.flag("ManagedAppsOnly", "managed_only", *managed_only);
                self.texts("Items", "items", items);
                "InstalledApplicationList"
            }
            Verb::Profiles { managed_only } => {
                self.flag("ManagedOnly", "managed_only", *managed_only);
                "ProfileList"
            }
            Verb::Certificates { managed_only } => {
                self.flag("ManagedOnly", "managed_only", *managed_only);
                "CertificateList"
            }
            Verb::Apple { request_type, payload } => {
                self.payload = payload.clone();
                if request_type == "ClearPasscode" && !payload.contains_key("UnlockToken") {
                    self.fills.push(Fill::UnlockToken);
                }
                if request_type == "EraseDevice" && comes_back_unenrolled(payload) {
                    self.fills.push(Fill::ReturnToServiceProfile);
                }
                self.show("request_type", request_type.as_str());
                self.show("payload", redacted(&Value::Dictionary(payload.clone()), false));
                request_type
            }
        }
    }

    fn wipe(&mut self, wipe: &Wipe) {
        self.pin(wipe.pin.as_ref());
        self.flag("PreserveDataPlan", "preserve_data_plan", wipe.preserve_data_plan);
        self.flag("DisallowProximitySetup", "disallow_proximity_setup", wipe.disallow_proximity_setup);
        if let Some(behavior) = wipe.obliteration_behavior {
            self.put("ObliterationBehavior", Value::from(behavior.as_apple()));
            self.show("obliteration_behavior", behavior.as_str());
        }
        if let Some(back) = &wipe.return_to_service {
            let mut inner = Self::default();
            inner.put("Enabled", Value::Boolean(back.enabled));
            inner.show("enabled", back.enabled);
            inner.data("WiFiProfileData", "wifi_profile", back.wifi_profile.as_deref());
            inner.flag("ShouldRetryEnrollment", "should_retry_enrollment", back.should_retry_enrollment);
            self.put("ReturnToService", Value::Dictionary(inner.payload));
            self.show("return_to_service", inner.summary);
            if back.enabled {
                self.fills.push(Fill::ReturnToServiceProfile);
            }
        }
    }

    fn install_app(&mut self, install: &InstallApp) {
        match &install.app {
            App::StoreId(id) => {
                self.put("iTunesStoreID", Value::Integer((*id).into()));
                self.show("store_id", *id);
            }
            App::BundleId(id) => self.text("Identifier", "bundle_id", Some(id)),
            App::Own(id) => {
                self.fills.push(Fill::App(*id));
                self.show("app_id", id.to_string());
            }
            App::Manifest(url) => {
                self.put("ManifestURL", Value::from(url.as_str()));
                self.show("manifest_url", without_query(url));
            }
        }
        if let Some(flags) = install.management_flags {
            self.put("ManagementFlags", Value::Integer(flags.into()));
            self.show("management_flags", flags);
        }
        if install.take_over {
            self.put("ChangeManagementState", Value::from("Managed"));
            self.show("take_over", true);
        }
        if let Some(method) = install.purchase_method {
            self.put("Options", Value::Dictionary(Dictionary::from_iter([("PurchaseMethod", Value::from(method))])));
            self.show("purchase_method", method);
        }
        self.flag("InstallAsManaged", "install_as_managed", install.install_as_managed);
        self.flag("iOSApp", "ios_app", install.ios_app);
        if let Some(configuration) = &install.configuration {
            let configuration = Value::Dictionary(configuration.clone());
            self.show("configuration", redacted(&configuration, true));
            self.put("Configuration", configuration);
        }
        if let Some(attributes) = &install.attributes {
            let mut inner = Self::default();
            inner.attributes(attributes);
            self.put("Attributes", Value::Dictionary(inner.payload));
            self.show("attributes", inner.summary);
        }
    }

    fn attributes(&mut self, a: &AppAttributes) {
        self.text("VPNUUID", "vpn_uuid", a.vpn_uuid.as_deref());
        self.text("ContentFilterUUID", "content_filter_uuid", a.content_filter_uuid.as_deref());
        self.text("DNSProxyUUID", "dns_proxy_uuid", a.dns_proxy_uuid.as_deref());
        self.text("RelayUUID", "relay_uuid", a.relay_uuid.as_deref());
        self.text("CellularSliceUUID", "cellular_slice_uuid", a.cellular_slice_uuid.as_deref());
        self.texts("AssociatedDomains", "associated_domains", &a.associated_domains);
        self.flag(
            "AssociatedDomainsEnableDirectDownloads",
            "associated_domains_enable_direct_downloads",
            a.associated_domains_enable_direct_downloads,
        );
        self.flag("Removable", "removable", a.removable);
        self.flag("TapToPayScreenLock", "tap_to_pay_screen_lock", a.tap_to_pay_screen_lock);
        self.flag("Hideable", "hideable", a.hideable);
        self.flag("Lockable", "lockable", a.lockable);
    }

    fn put(&mut self, key: &str, value: Value) {
        self.payload.insert(key.to_owned(), value);
    }

    fn show(&mut self, name: &str, value: impl Into<serde_json::Value>) {
        self.summary.insert(name.to_owned(), value.into());
    }

    fn text(&mut self, key: &str, name: &str, text: Option<&str>) {
        if let Some(text) = text {
            self.put(key, Value::from(text));
            self.show(name, text);
        }
    }

    fn texts(&mut self, key: &str, name: &str, texts: &[String]) {
        if !texts.is_empty() {
            self.put(key, Value::Array(texts.iter().map(|text| Value::from(text.as_str())).collect()));
            self.show(name, texts);
        }
    }

    fn flag(&mut self, key: &str, name: &str, flag: Option<bool>) {
        if let Some(flag) = flag {
            self.put(key, Value::Boolean(flag));
            self.show(name, flag);
        }
    }

    fn data(&mut self, key: &str, name: &str, bytes: Option<&[u8]>) {
        if let Some(bytes) = bytes {
            self.put(key, Value::Data(bytes.to_vec()));
            self.show(name, hidden(bytes.len()));
        }
    }

    fn pin(&mut self, pin: Option<&Secret<String>>) {
        if let Some(pin) = pin {
            self.put("PIN", Value::from(pin.expose().as_str()));
            self.show("pin", REDACTED);
        }
    }
}

/// Whether an erased device is to come back by itself and was not given the profile to enroll by.
fn comes_back_unenrolled(erase: &Dictionary) -> bool {
    let Some(Value::Dictionary(back)) = erase.get("ReturnToService") else { return false };
    back.get("Enabled").and_then(Value::as_boolean) == Some(true) && !back.contains_key("MDMProfileData")
}

const REDACTED: &str = "[redacted]";

/// Parts of the names of members that hold secrets in Apple's commands: PIN, UnlockToken, NewPassword, PasswordHash,
/// BypassCode, and more.
const SECRET_NAMES: [&str; 8] = ["pin", "password", "passcode", "token", "secret", "code", "hash", "key"];
/// The member that holds an app's configuration (InstallApplication, Settings): nobody knows which of it is secret.
const CONFIGURATION: &str = "configuration";

fn hidden(bytes: usize) -> String {
    format!("[{bytes} bytes]")
}

/// A text for everyone's eyes: of a URL without its query, which may be what lets one in.
#[must_use]
pub fn without_query(text: &str) -> &str {
    if text.contains("://") { text.split_once(['?', '#']).map_or(text, |(plain, _)| plain) } else { text }
}

/// A payload for everyone's eyes: its shape, without data and without what may be secret. `all` hides every text and
/// number (an app's configuration: who can tell which of them is a password).
fn redacted(value: &Value, all: bool) -> serde_json::Value {
    match value {
        Value::Dictionary(members) => {
            let show = |key: &str, member: &Value| {
                let key = key.to_lowercase();
                let is_secret = key == CONFIGURATION || SECRET_NAMES.iter().any(|name| key.contains(name));
                redacted(member, all || is_secret)
            };
            members.iter().map(|(key, member)| (key.clone(), show(key, member))).collect::<Map<_, _>>().into()
        }
        Value::Array(items) => items.iter().map(|item| redacted(item, all)).collect(),
        Value::Data(bytes) => hidden(bytes.len()).into(),
        Value::Boolean(flag) => json!(flag),
        _ if all => REDACTED.into(),
        Value::String(text) => without_query(text).into(),
        other => to_json(other),
    }
}
