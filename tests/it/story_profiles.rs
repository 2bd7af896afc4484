//! Profiles that travel in a command: looked at like those that are kept, whichever verb brings them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use muster::service::Error;
use serde_json::{Value, json};

use crate::profiles::{profile, signed};
use crate::support::edge::{Edge, Phone};

/// The faults of a command that is refused, `place: what` each.
async fn faults(phone: &Phone, command: Value) -> Vec<String> {
    let target = phone.target().await;
    match phone.edge.command(target, command.clone()).await.expect_err(&command.to_string()) {
        Error::Invalid { code: "invalid_command", faults, .. } => {
            faults.into_iter().map(|fault| format!("{}: {}", fault.pointer, fault.detail)).collect()
        }
        other => panic!("{command}: {other:?}"),
    }
}

/// The ways by which a profile can be asked to be installed, and the place of it in each.
fn ways(bytes: &[u8]) -> [(Value, &'static str); 5] {
    let data = STANDARD.encode(bytes);
    let apple = |request: &str, payload: Value| json!({"type": "apple", "request_type": request, "payload": payload});
    let xml = format!("<plist version=\"1.0\"><dict><key>Payload</key><data>{data}</data></dict></plist>");
    [
        (json!({"type": "install_profile", "profile": data}), "/command/profile"),
        (apple("InstallProfile", json!({"Payload": {"$data": data}})), "/command/payload/Payload"),
        (json!({"type": "apple", "request_type": "InstallProfile", "payload_plist": xml}), "/command/payload_plist"),
        (
            json!({"type": "wipe", "return_to_service": {"enabled": true, "wifi_profile": data}}),
            "/command/return_to_service/wifi_profile",
        ),
        (
            apple("EraseDevice", json!({"ReturnToService": {"Enabled": true, "WiFiProfileData": {"$data": data}}})),
            "/command/payload/ReturnToService/WiFiProfileData",
        ),
    ]
}

both_databases! {
    async fn a_profile_in_a_command_is_opened_and_read(edge: Edge) {
        let phone = edge.enrolled("PHONE-1").await;
        let good = signed(&edge.t, &profile("org.example.wifi", "Wi-Fi"));
        let mut changed = good.clone();
        let at = changed.windows(5).position(|window| window == b"Wi-Fi").unwrap();
        changed[at] = b'w';
        let own = profile("muster.enrollment", "Enrollment");
        let table: [(Vec<u8>, &str); 6] = [
            (signed(&edge.t, b"<plist version=\"1.0\"><dict/></plist>"), "at /PayloadType"),
            (signed(&edge.t, b"hello"), "the profile: "),
            (b"\x30\x82\x01\x01nonsense".to_vec(), "damaged"),
            (changed, "changed after it was signed"),
            (signed(&edge.t, &own), "at /PayloadIdentifier: is that of the enrollment profile"),
            (own, "at /PayloadIdentifier: is that of the enrollment profile"),
        ];
        for (bytes, expected) in table {
            for (command, place) in ways(&bytes) {
                let faults = faults(&phone, command).await;
                let is_named = faults.iter().any(|fault| fault.starts_with(&format!("{place}: ")) && fault.contains(expected));
                assert!(is_named, "{place}: {expected:?} in {faults:?}");
            }
        }
        assert_eq!(phone.idle().await, None, "nothing was sent");
        for (command, _) in &ways(&good)[..3] {
            phone.ask(command.clone()).await;
            let offered = phone.idle().await.unwrap();
            assert_eq!(offered.payload.get("Payload").and_then(plist::Value::as_data), Some(&good[..]), "as it was signed");
            phone.acknowledge(&offered).await;
        }
    }

    async fn a_profile_that_is_missing_or_no_data_is_a_fault(edge: Edge) {
        let phone = edge.enrolled("PHONE-1").await;
        for (payload, expected) in [(json!({}), "is needed"), (json!({"Payload": "text"}), "must be data")] {
            let command = json!({"type": "apple", "request_type": "InstallProfile", "payload": payload});
            let faults = faults(&phone, command).await;
            assert!(faults[0].starts_with("/command/payload/Payload: ") && faults[0].contains(expected), "{faults:?}");
        }
        let back = json!({"ReturnToService": {"Enabled": true, "MDMProfileData": {"$data": STANDARD.encode("hello")}}});
        let faults = faults(&phone, json!({"type": "apple", "request_type": "EraseDevice", "payload": back})).await;
        assert!(faults[0].starts_with("/command/payload/ReturnToService/MDMProfileData: "), "{faults:?}");
    }
}
