//! What reports tell about a device.

use plist::{Dictionary, Value};
use serde_json::Value as Json;

use super::super::{Error, terms};
use crate::model::{ReportStatus, Timestamp};
use crate::protocol::json::to_json;
use crate::protocol::name;
use crate::protocol::report::Report;
use crate::protocol::wire;
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

/// What the answer to a command tells of the device, as it is kept.
pub(super) struct Told {
    /// The command that is answered so.
    pub(super) request_type: &'static str,
    member: &'static str,
    kind: &'static str,
    json: String,
}

impl Told {
    /// What a report tells, if it answers the command that it looks like.
    pub(super) fn of(report: &Report) -> Option<Self> {
        if report.status != ReportStatus::Acknowledged {
            return None;
        }
        // Inventory is read by everybody and lies open in the database; the report is sealed, and has it all.
        KEPT.iter().find_map(|(request_type, member, kind)| {
            let list = report.lists.iter().find(|(name, _)| name == member).map(|(_, json)| json.clone());
            let json = list.or_else(|| {
                let mut shown = to_json(report.body.get(member)?);
                hide_secrets(&mut shown);
                Some(shown.to_string())
            });
            Some(Self { request_type, member, kind, json: json? })
        })
    }
}

/// Takes over what an acknowledged command told. Only the device channel speaks for the device. True: the enrollment's row
/// may be another now.
pub(super) async fn take_over(
    tx: &mut Write,
    enrollment: &Enrollment,
    told: &Told,
    body: &Dictionary,
    now: Timestamp,
) -> Result<bool, Error> {
    if enrollment.parent_id.is_some() {
        return Ok(false);
    }
    tx.put_inventory(enrollment.device_id, told.kind, &told.json, now).await?;
    let Some(value) = body.get(told.member) else { return Ok(false) };
    if let ("device_information", Value::Dictionary(answers)) = (told.kind, value) {
        tx.update_device(enrollment.device_id, &facts(answers), now).await?;
    }
    if told.kind == "profiles" {
        terms::learn(tx, enrollment, value, now).await?;
    }
    Ok(told.kind == "profiles")
}

fn facts(answers: &Dictionary) -> DeviceFacts {
    let text = |key: &str| name(answers, key);
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

/// Takes out what stands under a name of a secret. Flags and numbers stay: they only say that there is one.
fn hide_secrets(value: &mut Json) {
    match value {
        Json::Object(members) => {
            for (name, value) in members {
                match value {
                    Json::Bool(_) | Json::Number(_) | Json::Null => {}
                    value if wire::is_secret(name) => *value = Json::from(wire::HIDDEN),
                    value => hide_secrets(value),
                }
            }
        }
        Json::Array(items) => items.iter_mut().for_each(hide_secrets),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_secret_is_hidden_and_that_there_is_one_is_not() {
        let mut data = json!({
            "FDE_Enabled": true, "FDE_HasPersonalRecoveryKey": true, "FDE_PersonalRecoveryKeyCMS": {"$data": "AQID"},
            "PasscodePresent": true, "List": [{"PushToken": "abc", "Name": "x"}],
        });
        hide_secrets(&mut data);
        let shown = json!({
            "FDE_Enabled": true, "FDE_HasPersonalRecoveryKey": true, "FDE_PersonalRecoveryKeyCMS": "[redacted]",
            "PasscodePresent": true, "List": [{"PushToken": "[redacted]", "Name": "x"}],
        });
        assert_eq!(data, shown);
    }
}
