//! What reports tell about a device.

use plist::{Dictionary, Value};

use super::super::{Error, terms};
use crate::model::Timestamp;
use crate::protocol::json::to_json;
use crate::store::{DeviceFacts, Enrollment, Write};

/// Request types whose answer is kept, the member that holds it, and the kind that it is kept as.
const KEPT: [(&str, &str, &str); 6] = [
    ("DeviceInformation", "QueryResponses", "device_information"),
    ("SecurityInfo", "SecurityInfo", "security_info"),
    ("InstalledApplicationList", "InstalledApplicationList", "installed_apps"),
    ("ManagedApplicationList", "ManagedApplicationList", "managed_apps"),
    ("ProfileList", "ProfileList", "profiles"),
    ("CertificateList", "CertificateList", "certificates"),
];

/// Takes over what an acknowledged command told. Only the device channel speaks for the device.
pub(super) async fn take_over(
    tx: &mut Write,
    enrollment: &Enrollment,
    request_type: &str,
    body: &Dictionary,
    now: Timestamp,
) -> Result<(), Error> {
    if enrollment.parent_id.is_some() {
        return Ok(());
    }
    let Some((_, member, kind)) = KEPT.iter().find(|(known, _, _)| *known == request_type) else { return Ok(()) };
    let Some(value) = body.get(member) else { return Ok(()) };
    tx.put_inventory(enrollment.device_id, kind, &to_json(value).to_string(), now).await?;
    if let (&"device_information", Value::Dictionary(answers)) = (kind, value) {
        tx.update_device(enrollment.device_id, &facts(answers), now).await?;
    }
    if *kind == "profiles" {
        terms::learn(tx, enrollment, value, now).await?;
    }
    Ok(())
}

fn facts(answers: &Dictionary) -> DeviceFacts {
    let text = |key: &str| answers.get(key).and_then(Value::as_string).map(|text| text.replace('\0', "\u{fffd}"));
    DeviceFacts {
        serial: text("SerialNumber"),
        name: text("DeviceName"),
        model: text("Model"),
        model_name: text("ModelName"),
        product_name: text("ProductName"),
        os_version: text("OSVersion"),
        build_version: text("BuildVersion"),
        imei: text("IMEI"),
        supervised: answers.get("IsSupervised").and_then(Value::as_boolean),
        ..DeviceFacts::default()
    }
}
