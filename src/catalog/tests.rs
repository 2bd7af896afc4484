use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use plist::Dictionary;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::example::example;
use super::parameters::SPECS;
use super::*;
use crate::model::{AppId, ProfileId, Resend};
use crate::protocol::json::dictionary_to_json;

const ENROLLMENT: &str = "org.example.muster.enrollment";
const ID: &str = "0193f2a0-5b1c-7a11-9d0e-1f2a3b4c5d6e";

/// A profile, base64.
fn wifi() -> String {
    STANDARD.encode(include_bytes!("../../tests/fixtures/plists/profile-wifi.mobileconfig"))
}

/// A profile without its own UUID.
fn unfinished() -> String {
    let wifi = include_str!("../../tests/fixtures/plists/profile-wifi.mobileconfig");
    wifi.replace("3B1C9E7D-5F21-4D8F-8A7F-8A5F3E602C0B", "")
}

fn built(command: &Value) -> Built {
    let verb = Verb::parse(command).unwrap_or_else(|faults| panic!("{command}: {faults:?}"));
    build(&verb)
}

fn faults(command: &Value) -> Vec<(String, String)> {
    let mut faults: Vec<_> = Verb::parse(command).unwrap_err().into_iter().map(|f| (f.pointer, f.detail)).collect();
    faults.sort();
    faults
}

/// Each verb with all that it can carry, and the request that comes out.
#[test]
fn verbs_become_apples_requests() {
    let table = [
        (
            json!({ "type": "lock", "pin": "012345", "message": "Hi", "phone_number": "+1 (555) 010-0" }),
            "DeviceLock",
            json!({ "PIN": "012345", "Message": "Hi", "PhoneNumber": "+1 (555) 010-0" }),
        ),
        (json!({ "type": "lock" }), "DeviceLock", json!({})),
        (
            json!({
                "type": "wipe", "pin": "012345", "preserve_data_plan": true, "disallow_proximity_setup": false,
                "obliteration_behavior": "obliterate_with_warning",
                "return_to_service": { "enabled": true, "wifi_profile": wifi(), "should_retry_enrollment": true },
            }),
            "EraseDevice",
            json!({
                "PIN": "012345", "PreserveDataPlan": true, "DisallowProximitySetup": false,
                "ObliterationBehavior": "ObliterateWithWarning",
                "ReturnToService":
                    { "Enabled": true, "WiFiProfileData": { "$data": wifi() }, "ShouldRetryEnrollment": true },
            }),
        ),
        (json!({ "type": "clear_passcode" }), "ClearPasscode", json!({})),
        (
            json!({ "type": "install_profile", "profile": wifi() }),
            "InstallProfile",
            json!({ "Payload": { "$data": wifi() } }),
        ),
        (json!({ "type": "install_profile", "profile_id": ID }), "InstallProfile", json!({})),
        (
            json!({ "type": "remove_profile", "identifier": "org.example.wifi" }),
            "RemoveProfile",
            json!({ "Identifier": "org.example.wifi" }),
        ),
        (
            json!({
                "type": "install_app", "store_id": 361_309_726, "management_flags": 5, "take_over": true,
                "purchase_method": 1, "install_as_managed": true, "ios_app": false,
                "configuration": { "server": "https://notes.example.org", "ports": [1, 2.5] },
                "attributes": {
                    "vpn_uuid": "v", "content_filter_uuid": "c", "dns_proxy_uuid": "d", "relay_uuid": "r",
                    "cellular_slice_uuid": "s", "associated_domains": ["applinks:www.example.org"],
                    "associated_domains_enable_direct_downloads": true, "removable": false,
                    "tap_to_pay_screen_lock": true, "hideable": false, "lockable": false,
                },
            }),
            "InstallApplication",
            json!({
                "iTunesStoreID": 361_309_726, "ManagementFlags": 5, "ChangeManagementState": "Managed",
                "Options": { "PurchaseMethod": 1 }, "InstallAsManaged": true, "iOSApp": false,
                "Configuration": { "server": "https://notes.example.org", "ports": [1, 2.5] },
                "Attributes": {
                    "VPNUUID": "v", "ContentFilterUUID": "c", "DNSProxyUUID": "d", "RelayUUID": "r",
                    "CellularSliceUUID": "s", "AssociatedDomains": ["applinks:www.example.org"],
                    "AssociatedDomainsEnableDirectDownloads": true, "Removable": false,
                    "TapToPayScreenLock": true, "Hideable": false, "Lockable": false,
                },
            }),
        ),
        (
            json!({ "type": "install_app", "bundle_id": "org.example.notes", "take_over": false }),
            "InstallApplication",
            json!({ "Identifier": "org.example.notes" }),
        ),
        (json!({ "type": "install_app", "app_id": ID }), "InstallApplication", json!({})),
        (
            json!({ "type": "install_app", "manifest_url": "https://apps.example.org/notes.plist" }),
            "InstallApplication",
            json!({ "ManifestURL": "https://apps.example.org/notes.plist" }),
        ),
        (
            json!({ "type": "remove_app", "bundle_id": "org.example.notes" }),
            "RemoveApplication",
            json!({ "Identifier": "org.example.notes" }),
        ),
        (
            json!({
                "type": "restart", "notify_user": true, "rebuild_kernel_cache": true,
                "kext_paths": ["/Library/Extensions/Example.kext"],
            }),
            "RestartDevice",
            json!({
                "NotifyUser": true, "RebuildKernelCache": true, "KextPaths": ["/Library/Extensions/Example.kext"],
            }),
        ),
        (json!({ "type": "shut_down" }), "ShutDownDevice", json!({})),
        (json!({ "type": "unenroll" }), "RemoveProfile", json!({})),
        (
            json!({
                "type": "device_information", "queries": ["OSVersion", "DevicePropertiesAttestation"],
                "attestation_nonce": "AQID",
            }),
            "DeviceInformation",
            json!({
                "Queries": ["OSVersion", "DevicePropertiesAttestation"],
                "DeviceAttestationNonce": { "$data": "AQID" },
            }),
        ),
        (json!({ "type": "security_info" }), "SecurityInfo", json!({})),
        (
            json!({
                "type": "installed_apps", "bundle_ids": ["org.example.notes"], "managed_only": true,
                "items": ["Identifier"],
            }),
            "InstalledApplicationList",
            json!({ "Identifiers": ["org.example.notes"], "ManagedAppsOnly": true, "Items": ["Identifier"] }),
        ),
        (json!({ "type": "profiles", "managed_only": false }), "ProfileList", json!({ "ManagedOnly": false })),
        (json!({ "type": "certificates", "managed_only": true }), "CertificateList", json!({ "ManagedOnly": true })),
        (
            json!({ "type": "apple", "request_type": "EnableLostMode", "payload": { "Message": "Lost" } }),
            "EnableLostMode",
            json!({ "Message": "Lost" }),
        ),
        (
            json!({
                "type": "apple", "request_type": "Brandnew", "allow_unknown": true,
                "payload_plist": "<plist><dict><key>Bytes</key><data>AQID</data></dict></plist>",
            }),
            "Brandnew",
            json!({ "Bytes": { "$data": "AQID" } }),
        ),
    ];
    for (command, request_type, payload) in table {
        let built = built(&command);
        assert_eq!(built.request_type, request_type);
        assert_eq!(dictionary_to_json(&built.payload), payload, "{command}");
        assert_eq!(built.summary["type"], command["type"]);
    }
}

#[test]
fn an_inventory_is_asked_for_where_nobody_says_what() {
    let payload = built(&json!({ "type": "device_information" })).payload;
    let queries = payload.get("Queries").and_then(plist::Value::as_array).unwrap();
    assert!(queries.len() > 20);
    assert!(!queries.contains(&plist::Value::from("DevicePropertiesAttestation")));
}

#[test]
fn what_differs_by_device_is_filled_in_at_delivery() {
    let id: uuid::Uuid = ID.parse().unwrap();
    let table = [
        (json!({ "type": "clear_passcode" }), vec![Fill::UnlockToken]),
        (json!({ "type": "install_profile", "profile_id": ID }), vec![Fill::StoredProfile(ProfileId(id))]),
        (json!({ "type": "install_app", "app_id": ID }), vec![Fill::App(AppId(id))]),
        (json!({ "type": "wipe", "return_to_service": { "enabled": true } }), vec![Fill::ReturnToServiceProfile]),
        (json!({ "type": "wipe", "return_to_service": { "enabled": false } }), vec![]),
        (json!({ "type": "unenroll" }), vec![Fill::EnrollmentProfileIdentifier]),
        (json!({ "type": "apple", "request_type": "ClearPasscode" }), vec![Fill::UnlockToken]),
        (json!({ "type": "security_info" }), vec![]),
    ];
    for (command, fills) in table {
        assert_eq!(built(&command).fills, fills, "{command}");
    }
}

#[test]
fn destruction_is_found_whatever_the_verb() {
    let plist = "<plist><dict><key>PIN</key><string>123456</string></dict></plist>";
    let remove = json!({ "Identifier": ENROLLMENT });
    let table = [
        (json!({ "type": "wipe" }), Some(Destruction::Erase), Resend::SameGeneration),
        (json!({ "type": "apple", "request_type": "EraseDevice" }), Some(Destruction::Erase), Resend::SameGeneration),
        (json!({ "type": "lock", "pin": "123456" }), Some(Destruction::LockWithPin), Resend::ByAdminOnly),
        (
            json!({ "type": "apple", "request_type": "DeviceLock", "payload_plist": plist }),
            Some(Destruction::LockWithPin),
            Resend::ByAdminOnly,
        ),
        (json!({ "type": "unenroll" }), Some(Destruction::Unenroll), Resend::Freely),
        (json!({ "type": "remove_profile", "identifier": ENROLLMENT }), Some(Destruction::Unenroll), Resend::Freely),
        (
            json!({ "type": "apple", "request_type": "RemoveProfile", "payload": remove }),
            Some(Destruction::Unenroll),
            Resend::Freely,
        ),
        (json!({ "type": "lock", "message": "Hi" }), None, Resend::Freely),
        (json!({ "type": "restart" }), None, Resend::ByAdminOnly),
    ];
    for (command, destruction, resend) in table {
        let built = built(&command);
        let found = built.destruction(&[Some(ENROLLMENT.to_owned())]);
        assert_eq!((found, built.resend), (destruction, resend), "{command}");
    }
}

#[test]
fn faults_name_their_place_and_what_was_expected() {
    let table = [
        (json!({ "type": "lock", "pin": "12345" }), "/command/pin", "expected 6 digits"),
        (json!({ "type": "lock", "pin": "12345６" }), "/command/pin", "expected 6 digits"),
        (json!({ "type": "lock", "pin": 123_456 }), "/command/pin", "expected 6 digits"),
        (json!({ "type": "lock", "pin": null }), "/command/pin", "expected 6 digits"),
        (json!({ "type": "lock", "phoneNumber": "1" }), "/command/phoneNumber", "did you mean \"phone_number\"?"),
        (json!({ "type": "lock", "colour": "1" }), "/command/colour", "known are pin, message, phone_number"),
        (json!({ "type": "lock", "message": "a\u{0}" }), "/command/message", "without control characters"),
        (json!({ "type": "lock", "phone_number": "call me" }), "/command/phone_number", "expected a phone number"),
        (json!({ "type": "shut_down", "now": true }), "/command/now", "unknown field; there are none here"),
        (json!({ "type": "wipe", "preserve_data_plan": "yes" }), "/command/preserve_data_plan", "true or false"),
        (
            json!({ "type": "wipe", "obliteration_behavior": "DoNotObliterate" }),
            "/command/obliteration_behavior",
            "did you mean \"do_not_obliterate\"?",
        ),
        (json!({ "type": "wipe", "return_to_service": {} }), "/command/return_to_service/enabled", "is needed"),
        (
            json!({ "type": "wipe", "return_to_service": { "enabled": true, "wifi": "" } }),
            "/command/return_to_service/wifi",
            "unknown field",
        ),
        (json!({ "type": "install_profile" }), "/command", "one of profile_id, profile is needed"),
        (json!({ "type": "install_profile", "profile": "%" }), "/command/profile", "expected base64"),
        (
            json!({ "type": "install_profile", "profile": "AQID" }),
            "/command/profile",
            "the profile: not a property list",
        ),
        (
            json!({ "type": "install_profile", "profile": STANDARD.encode(unfinished()) }),
            "/command/profile",
            "the profile at /PayloadUUID: is needed",
        ),
        (
            json!({ "type": "wipe", "return_to_service": { "enabled": true, "wifi_profile": "AQID" } }),
            "/command/return_to_service/wifi_profile",
            "the profile: not",
        ),
        (json!({ "type": "install_profile", "profile_id": "1" }), "/command/profile_id", "an id (UUID)"),
        (
            json!({ "type": "install_profile", "profile": wifi(), "profile_id": ID }),
            "/command/profile",
            "only one of profile_id, profile may be given",
        ),
        (json!({ "type": "remove_profile" }), "/command/identifier", "is needed"),
        (json!({ "type": "remove_profile", "identifier": "" }), "/command/identifier", "1 to 255 characters"),
        (json!({ "type": "install_app", "store_id": 0 }), "/command/store_id", "a whole number from 1"),
        (json!({ "type": "install_app", "store_id": "361309726" }), "/command/store_id", "a whole number from 1"),
        (json!({ "type": "install_app", "bundle_id": "a b" }), "/command/bundle_id", "expected a bundle id"),
        (
            json!({ "type": "install_app", "manifest_url": "http://apps.example.org/" }),
            "/command/manifest_url",
            "expected an https URL",
        ),
        (
            json!({ "type": "install_app", "store_id": 1, "management_flags": 2 }),
            "/command/management_flags",
            "one of 1, 4, 5",
        ),
        (
            json!({ "type": "install_app", "store_id": 1, "configuration": { "a": [null] } }),
            "/command/configuration/a/0",
            "null has no form",
        ),
        (
            json!({ "type": "install_app", "store_id": 1, "configuration": { "$data": "AQID" } }),
            "/command/configuration",
            "no date and no data",
        ),
        (
            json!({ "type": "device_information", "queries": ["OSVersion", "SerialNo"] }),
            "/command/queries/1",
            "expected one of the known words",
        ),
        (json!({ "type": "device_information", "queries": [] }), "/command/queries", "a list of 1 to"),
        (json!({ "type": "apple" }), "/command/request_type", "is needed"),
        (
            json!({ "type": "apple", "request_type": "devicelock" }),
            "/command/request_type",
            "did you mean \"DeviceLock\"?",
        ),
        (
            json!({ "type": "apple", "request_type": "Device Lock", "allow_unknown": true }),
            "/command/request_type",
            "letters only",
        ),
        (
            json!({ "type": "apple", "request_type": "DeviceLock", "payload": { "RequestType": "EraseDevice" } }),
            "/command/payload/RequestType",
            "belongs into request_type",
        ),
        (
            json!({ "type": "apple", "request_type": "DeviceLock", "payload_plist": "<plist><array/></plist>" }),
            "/command/payload_plist",
            "not a dictionary",
        ),
        (json!({ "type": "lok" }), "/command/type", "did you mean \"lock\"?"),
        (json!({ "type": 7 }), "/command/type", "expected one of lock, wipe,"),
        (json!("lock"), "/command", "expected an object"),
    ];
    for (command, pointer, detail) in table {
        let faults = faults(&command);
        assert_eq!(faults.len(), 1, "{command}: {faults:?}");
        assert_eq!(faults[0].0, pointer, "{command}");
        assert!(faults[0].1.contains(detail), "{command}: {}", faults[0].1);
    }
}

#[test]
fn all_faults_come_at_once() {
    let command = json!({ "type": "lock", "pin": "1", "message": "", "fone": "1", "phone_number": [] });
    let places: Vec<_> = faults(&command).into_iter().map(|(pointer, _)| pointer).collect();
    assert_eq!(places, ["/command/fone", "/command/message", "/command/phone_number", "/command/pin"]);
    let command =
        json!({ "type": "apple", "request_type": "Lock", "payload": { "a": null, "b": { "$data": "%" } }, "x": 1 });
    let places: Vec<_> = faults(&command).into_iter().map(|(pointer, _)| pointer).collect();
    assert_eq!(places, ["/command/payload/a", "/command/payload/b", "/command/request_type", "/command/x"]);
}

#[test]
fn the_summary_holds_no_secret() {
    let secrets = [
        json!({ "type": "lock", "pin": "987654" }),
        json!({ "type": "wipe", "pin": "987654", "return_to_service": { "enabled": true, "wifi_profile": "MIID987654Aa" } }),
        json!({ "type": "install_profile", "profile": "MIID987654Aa" }),
        json!({ "type": "install_app", "store_id": 1, "configuration": { "a": { "b": ["987654"], "c": 987_654 } } }),
        json!({ "type": "install_app", "manifest_url": "https://apps.example.org/a.plist?ticket=987654" }),
        json!({ "type": "apple", "request_type": "DeviceLock", "payload": { "PIN": "987654" } }),
        json!({ "type": "apple", "request_type": "InstallApplication", "payload": {
            "ManifestURL": "https://apps.example.org/a.plist?ticket=987654", "Configuration": { "Login": "987654" } } }),
        json!({ "type": "apple", "request_type": "SetRecoveryLock", "payload": { "NewPassword": "987654" } }),
        json!({ "type": "apple", "request_type": "ClearPasscode", "payload": { "UnlockToken": { "$data": "987654Aa" } } }),
        json!({ "type": "apple", "request_type": "Settings", "payload": { "Settings": [{ "adminPassword": { "x": "987654" } }] } }),
    ];
    for command in secrets {
        let built = built(&command);
        let summary = built.summary.to_string();
        assert!(!summary.contains("987654"), "{summary}");
        assert!(!format!("{built:?} {:?}", Verb::parse(&command)).contains("987654"), "{command}");
    }
    let summary = built(&json!({ "type": "lock", "pin": "987654", "message": "Hi" })).summary;
    assert_eq!(summary, json!({ "type": "lock", "pin": "[redacted]", "message": "Hi" }));
}

#[test]
fn every_verb_has_an_example_that_is_right() {
    for spec in &SPECS {
        let mut command = example(spec.name);
        command.as_object_mut().unwrap().insert("type".to_owned(), spec.name.into());
        assert_eq!(Verb::parse(&command).unwrap().name(), spec.name);
        assert!(build(&Verb::parse(&command).unwrap()).payload.keys().all(|key| key != "RequestType"));
    }
}

#[test]
fn a_request_that_is_known_needs_no_permission() {
    assert!(super::apple::REQUEST_TYPES.is_sorted());
    for name in super::apple::REQUEST_TYPES {
        assert_eq!(built(&json!({ "type": "apple", "request_type": name })).payload, Dictionary::new());
    }
}

fn json_value() -> impl Strategy<Value = Value> {
    let scalar = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    scalar.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map("[a-z$]{0,6}", inner, 0..4).prop_map(|m| m.into_iter().collect()),
        ]
    })
}

proptest! {
    #[test]
    fn no_value_makes_it_panic(spec in 0..SPECS.len(), members in proptest::collection::vec((0_usize..12, json_value()), 0..5)) {
        let spec = &SPECS[spec];
        let mut command = json!({ "type": spec.name });
        for (field, value) in members {
            let name = spec.fields.get(field).map_or("other", |field| field.name);
            command[name] = value;
        }
        if let Ok(verb) = Verb::parse(&command) {
            let _ = build(&verb);
        }
    }
}
