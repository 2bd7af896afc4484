//! The fields of each verb. Source: Apple, "Commands" (MDM protocol), and its schema: the names differ, the values and
//! what is needed are Apple's.

use super::apple::{APP_ITEMS, QUERIES};
use super::field::{Field, Kind, Rule};
use crate::protocol::wire::{Limits, is_xml_char};

/// A verb: its fields, and which of them stand for the same thing.
pub(super) struct Spec {
    pub(super) name: &'static str,
    pub(super) about: &'static str,
    pub(super) fields: &'static [Field],
    /// Exactly one of these is needed; empty where there is no such choice.
    pub(super) exactly_one: &'static [&'static str],
    /// At most one of these may be given.
    pub(super) at_most_one: &'static [&'static str],
}

/// All verbs, in the order of the documentation.
pub(super) const SPECS: [Spec; 16] = [
    spec("lock", "Locks the device.", LOCK),
    spec("wipe", "Erases the device.", WIPE),
    spec("clear_passcode", "Clears the passcode, with the unlock token that the device escrowed.", &[]),
    Spec {
        exactly_one: &["profile_id", "profile"],
        ..spec("install_profile", "Installs a configuration profile.", INSTALL_PROFILE)
    },
    spec("remove_profile", "Removes a configuration profile that was installed by this server.", REMOVE_PROFILE),
    Spec {
        exactly_one: &["store_id", "bundle_id", "app_id", "manifest_url"],
        ..spec("install_app", "Installs an app.", INSTALL_APP)
    },
    spec("remove_app", "Removes an app that was installed by this server.", REMOVE_APP),
    spec("restart", "Restarts the device.", RESTART),
    spec("shut_down", "Shuts the device down.", &[]),
    spec("unenroll", "Ends the management of the device by removing its enrollment profile.", &[]),
    spec("device_information", "Asks what the device is and how it is set.", DEVICE_INFORMATION),
    spec("security_info", "Asks how the device is protected.", &[]),
    spec("installed_apps", "Asks which apps are installed.", INSTALLED_APPS),
    spec("profiles", "Asks which profiles are installed.", MANAGED_ONLY),
    spec("certificates", "Asks which certificates are installed.", MANAGED_ONLY),
    Spec {
        at_most_one: &["payload", "payload_plist"],
        ..spec("apple", "Any request of Apple's MDM protocol, with its payload as it goes to the device.", APPLE)
    },
];

const fn spec(name: &'static str, about: &'static str, fields: &'static [Field]) -> Spec {
    Spec { name, about, fields, exactly_one: &[], at_most_one: &[] }
}

const fn optional(name: &'static str, kind: Kind, about: &'static str) -> Field {
    Field { name, kind, required: false, about }
}

const fn needed(name: &'static str, kind: Kind, about: &'static str) -> Field {
    Field { name, kind, required: true, about }
}

const PIN: Kind = Kind::Text(Rule { expected: "6 digits", max: 6, pattern: "^[0-9]{6}$", ok: is_pin });
const MESSAGE: Kind = Kind::Text(Rule {
    expected: "1 to 1000 characters without control characters",
    max: 1_000,
    pattern: r"^[^\x00-\x08\x0B\x0C\x0E-\x1F\x7F]+$",
    ok: is_message,
});
const PHONE_NUMBER: Kind = Kind::Text(Rule {
    expected: "a phone number: a digit or a plus sign, then digits, spaces and ()./*#- (2 to 40 characters)",
    max: 40,
    pattern: r"^[+0-9][0-9 ()./*#-]{1,39}$",
    ok: is_phone_number,
});
const BUNDLE_ID: Kind = Kind::Text(Rule {
    expected: "a bundle id, such as org.example.notes",
    max: 155,
    pattern: r"^[A-Za-z0-9][A-Za-z0-9._-]{0,154}$",
    ok: is_bundle_id,
});
const NAME: Kind = Kind::Text(Rule {
    expected: "1 to 255 characters without control characters",
    max: 255,
    pattern: r"^[^\x00-\x1F\x7F]{1,255}$",
    ok: is_name,
});
const HTTPS_URL: Kind = Kind::Text(Rule {
    expected: "an https URL of at most 2000 characters",
    max: 2_000,
    pattern: "^https://.{1,1992}$",
    ok: is_https_url,
});
const REQUEST_TYPE: Kind = Kind::Text(Rule {
    expected: "letters only, such as DeviceLock",
    max: 64,
    pattern: "^[A-Za-z]{1,64}$",
    ok: is_request_type,
});
const XML: Kind = Kind::Text(Rule {
    expected: "an XML property list whose outermost value is a dictionary",
    max: Limits::COMMAND.bytes,
    pattern: "<",
    ok: |text| text.contains('<'),
});
const PROFILE: Kind = Kind::Base64(Limits::PROFILE.bytes);

const LOCK: &[Field] = &[
    optional("pin", PIN, "The PIN that unlocks a Mac again; a Mac restarts and asks for it. Counts as destructive."),
    optional("message", MESSAGE, "Text for the lock screen."),
    optional("phone_number", PHONE_NUMBER, "Phone number for the lock screen."),
];

const WIPE: &[Field] = &[
    optional("pin", PIN, "The PIN that unlocks an older Mac after the wipe."),
    optional("preserve_data_plan", Kind::Flag, "Whether an eSIM is kept."),
    optional("disallow_proximity_setup", Kind::Flag, "Whether set-up by a device nearby is prevented."),
    optional(
        "obliteration_behavior",
        Kind::Choice(&["default", "do_not_obliterate", "obliterate_with_warning", "always"]),
        "What a Mac does when it cannot erase all content and settings.",
    ),
    optional(
        "return_to_service",
        Kind::Object(RETURN_TO_SERVICE),
        "Erases the device and enrolls it again by itself; the enrollment profile is made when the device takes the command.",
    ),
];

const RETURN_TO_SERVICE: &[Field] = &[
    needed("enabled", Kind::Flag, "Whether the device returns to service."),
    optional("wifi_profile", PROFILE, "A .mobileconfig with the Wi-Fi network that the erased device joins, base64."),
    optional("should_retry_enrollment", Kind::Flag, "Whether the device tries again when the enrollment fails."),
];

const INSTALL_PROFILE: &[Field] = &[
    optional("profile_id", Kind::Id, "A profile kept by this server."),
    optional("profile", PROFILE, "A .mobileconfig, signed or not, base64."),
];

const REMOVE_PROFILE: &[Field] = &[needed("identifier", NAME, "The profile's PayloadIdentifier.")];

const INSTALL_APP: &[Field] = &[
    optional("store_id", Kind::Integer { min: 1, max: i64::MAX }, "The app's number in the App Store."),
    optional("bundle_id", BUNDLE_ID, "The bundle id of an app in the App Store."),
    optional("app_id", Kind::Id, "An app kept by this server."),
    optional("manifest_url", HTTPS_URL, "Where the manifest of an own app is."),
    optional(
        "management_flags",
        Kind::IntegerOf(&[1, 4, 5]),
        "1: removed when the management ends; 4: not backed up; 5: both.",
    ),
    optional("take_over", Kind::Flag, "Whether an app that its user installed becomes managed."),
    optional("purchase_method", Kind::IntegerOf(&[0, 1]), "0: free or paid by the user; 1: by volume purchase."),
    optional("install_as_managed", Kind::Flag, "On a Mac: whether the app is managed."),
    optional("ios_app", Kind::Flag, "On a Mac: whether it is an app for iPhone or iPad."),
    optional("configuration", Kind::Any, "The app's managed configuration; data as {\"$data\": base64}."),
    optional("attributes", Kind::Object(ATTRIBUTES), "What the system does for the app."),
];

const ATTRIBUTES: &[Field] = &[
    optional("vpn_uuid", NAME, "VPNUUID of the VPN payload that the app uses."),
    optional("content_filter_uuid", NAME, "ContentFilterUUID of the content filter that the app uses."),
    optional("dns_proxy_uuid", NAME, "DNSProxyUUID of the DNS proxy that the app uses."),
    optional("relay_uuid", NAME, "RelayUUID of the relay that the app uses."),
    optional("cellular_slice_uuid", NAME, "The 5G network slice that the app uses."),
    optional("associated_domains", Kind::List(&NAME, 100), "Associated domains, such as applinks:www.example.org."),
    optional("associated_domains_enable_direct_downloads", Kind::Flag, "Whether they are asked directly."),
    optional("removable", Kind::Flag, "Whether its user can remove the app."),
    optional("tap_to_pay_screen_lock", Kind::Flag, "Whether Tap to Pay locks the screen."),
    optional("hideable", Kind::Flag, "Whether its user can hide the app."),
    optional("lockable", Kind::Flag, "Whether its user can lock the app."),
];

const REMOVE_APP: &[Field] = &[needed("bundle_id", BUNDLE_ID, "The app's bundle id.")];

const RESTART: &[Field] = &[
    optional("notify_user", Kind::Flag, "On a Mac: whether its user is asked first."),
    optional("rebuild_kernel_cache", Kind::Flag, "On a Mac: whether the kernel cache is rebuilt."),
    optional("kext_paths", Kind::List(&NAME, 100), "On a Mac: kernel extensions for the new kernel cache."),
];

const DEVICE_INFORMATION: &[Field] = &[
    optional("queries", Kind::List(&Kind::Choice(&QUERIES), QUERIES.len()), "What to ask for; an inventory if absent."),
    optional(
        "attestation_nonce",
        Kind::Base64(32),
        "The nonce in the attestation that DevicePropertiesAttestation gives.",
    ),
];

const INSTALLED_APPS: &[Field] = &[
    optional("bundle_ids", Kind::List(&BUNDLE_ID, 1_000), "Only these apps."),
    optional("managed_only", Kind::Flag, "Only managed apps."),
    optional("items", Kind::List(&Kind::Choice(&APP_ITEMS), APP_ITEMS.len()), "What to ask for of each app."),
];

const MANAGED_ONLY: &[Field] = &[optional("managed_only", Kind::Flag, "Only those that this server installed.")];

const APPLE: &[Field] = &[
    needed("request_type", REQUEST_TYPE, "Apple's request type."),
    optional(
        "payload",
        Kind::Any,
        "The command's other members as JSON; data as {\"$data\": base64}, dates as {\"$date\": RFC 3339}.",
    ),
    optional("payload_plist", XML, "The command's other members as an XML property list."),
    optional("allow_unknown", Kind::Flag, "Whether a request type that Muster does not know is sent all the same."),
];

/// Whether it is a PIN that a Mac can be locked with: 6 digits.
pub(super) fn is_pin(text: &str) -> bool {
    text.len() == 6 && text.bytes().all(|b| b.is_ascii_digit())
}

fn is_message(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| is_xml_char(c) && c != '\u{7F}')
}

fn is_phone_number(text: &str) -> bool {
    let mut chars = text.chars();
    chars.next().is_some_and(|c| c == '+' || c.is_ascii_digit())
        && text.len() >= 2
        && chars.all(|c| c.is_ascii_digit() || " ()./*#-".contains(c))
}

fn is_bundle_id(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| is_xml_char(c) && !c.is_ascii_control())
}

fn is_https_url(text: &str) -> bool {
    // The devices fetch it, so a URL that only a lenient parser mends is refused.
    text.starts_with("https://")
        && text.chars().all(|c| c.is_ascii_graphic())
        && url::Url::parse(text).is_ok_and(|url| url.host().is_some())
}

fn is_request_type(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphabetic())
}
