//! Profiles that travel in a command: looked at like those that are kept, whichever verb brings them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use muster::model::Role;
use muster::service::Error;
use muster::service::profiles::create;
use serde_json::{Value, json};

use crate::profiles::{profile, signed};
use crate::support::app::actor;
use crate::support::edge::{Edge, Phone};
use crate::support::rows::terms;

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

/// A profile with one payload of this type.
pub fn with_payload(identifier: &str, payload: &str) -> Vec<u8> {
    let content = format!(
        "<array><dict><key>PayloadType</key><string>{payload}</string><key>PayloadVersion</key><integer>1</integer>\
         <key>PayloadIdentifier</key><string>{identifier}.1</string>\
         <key>PayloadUUID</key><string>5D9A2F3E-0000-4000-8000-000000000002</string></dict></array>"
    );
    String::from_utf8(profile(identifier, "One")).unwrap().replace("<array/>", &content).into_bytes()
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

    async fn a_device_comes_back_under_management_or_is_not_wiped(edge: Edge) {
        let phone = edge.enrolled("PHONE-1").await;
        let wipe = |bytes: &[u8]| {
            let back = json!({"Enabled": true, "MDMProfileData": {"$data": STANDARD.encode(bytes)}});
            json!({"type": "apple", "request_type": "EraseDevice", "payload": {"ReturnToService": back}})
        };
        let wifi = with_payload("org.example.wifi", "com.apple.wifi.managed");
        for bytes in [wifi.clone(), signed(&edge.t, &wifi), profile("org.example.empty", "Empty")] {
            let faults = faults(&phone, wipe(&bytes)).await;
            let expected = "/command/payload/ReturnToService/MDMProfileData: MDMProfileData: the profile at \
                            /PayloadContent: has no payload com.apple.mdm";
            assert!(faults.len() == 1 && faults[0].starts_with(expected), "{faults:?}");
        }
        let enrollment = with_payload("muster.enrollment", "com.apple.mdm");
        let encrypted = String::from_utf8(profile("org.example.sealed", "Sealed")).unwrap();
        let encrypted = encrypted.replace(
            "<key>PayloadContent</key><array/>",
            "<key>EncryptedPayloadContent</key><data>AAAA</data>",
        );
        for bytes in [enrollment.clone(), signed(&edge.t, &enrollment), encrypted.into_bytes()] {
            phone.ask(wipe(&bytes)).await;
            let offered = phone.idle().await.unwrap();
            assert_eq!(offered.request_type, "EraseDevice");
            assert!(phone.report_with("Error", Some(&offered.uuid), &[]).await.is_none());
        }
    }

    async fn a_kept_profile_is_looked_at_again_when_it_is_installed(edge: Edge) {
        let phone = edge.enrolled("PHONE-1").await;
        let file = signed(&edge.t, &profile("Other.Enrollment", "Wi-Fi"));
        let kept = create(&edge.t.app, &actor(Role::Admin), &file).await.unwrap().id;
        let install = json!({"type": "install_profile", "profile_id": kept});
        phone.ask(install.clone()).await;
        assert_eq!(phone.finish_all().await, ["InstallProfile"]);
        let tables = "[enrollment]\nprofile_identifier = \"other.enrollment\"\n";
        let edge = edge.restarted("https://mdm.example.org", tables);
        let phone = phone.on(&edge).await;
        let expected = "/command/profile_id: the identifier of the profile, \"Other.Enrollment\", is that of the";
        let refused = faults(&phone, install.clone()).await;
        assert!(refused.len() == 1 && refused[0].starts_with(expected), "{refused:?}");

        // Devices that enrolled by it keep it, whatever the settings say later.
        let mut tx = edge.t.db.write().await;
        tx.put_terms(&terms("other.enrollment"), edge.t.now()).await.unwrap();
        tx.commit().await.unwrap();
        let edge = edge.restarted("https://mdm.example.org", "");
        let phone = phone.on(&edge).await;
        assert_eq!(faults(&phone, install).await, refused);
        assert_eq!(phone.idle().await, None);
    }
}
