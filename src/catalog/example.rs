//! One example of each verb: for the API's document, and for the tests, which see to it that they are right.

use serde_json::{Value, json};

/// An example of the verb, without its `type`; empty for a verb without fields.
pub(super) fn example(name: &str) -> Value {
    match name {
        "lock" => json!({ "message": "Please bring me back to the front desk.", "phone_number": "+1 555 0100" }),
        "wipe" => json!({
            "preserve_data_plan": true,
            "disallow_proximity_setup": false,
            "obliteration_behavior": "do_not_obliterate",
            "return_to_service": { "enabled": true },
        }),
        "install_profile" => json!({ "profile_id": "0193f2a0-5b1c-7a11-9d0e-1f2a3b4c5d6e" }),
        "remove_profile" => json!({ "identifier": "org.example.wifi" }),
        "install_app" => json!({
            "bundle_id": "org.example.notes",
            "management_flags": 1,
            "take_over": true,
            "configuration": { "server": "https://notes.example.org", "certificate": { "$data": "AQID" } },
            "attributes": { "associated_domains": ["applinks:www.example.org"], "removable": false },
        }),
        "remove_app" => json!({ "bundle_id": "org.example.notes" }),
        "restart" => json!({ "notify_user": true }),
        "device_information" => json!({ "queries": ["DeviceName", "OSVersion", "SerialNumber"] }),
        "installed_apps" => json!({ "managed_only": true, "items": ["Identifier", "Name", "Version"] }),
        "profiles" | "certificates" => json!({ "managed_only": true }),
        "apple" => json!({ "request_type": "PlayLostModeSound", "payload": {} }),
        _ => json!({}),
    }
}
