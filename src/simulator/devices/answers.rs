//! What a device says about itself. Source: Apple, "DeviceInformation", "SecurityInfo", "CertificateList".

use plist::{Dictionary, Value};

use super::handset::Handset;
use crate::pki;

/// The value of one key of `DeviceInformation`; none for what an iPhone does not have.
pub(super) fn device_information(handset: &Handset, key: &str) -> Option<Value> {
    let facts = &handset.facts;
    Some(match key {
        "UDID" => Value::from(facts.udid.as_str()),
        "DeviceName" => Value::from(facts.name.as_str()),
        "OSVersion" => Value::from(facts.os_version.as_str()),
        "BuildVersion" => Value::from(facts.build_version.as_str()),
        "ModelName" => Value::from(facts.model_name.as_str()),
        "Model" => Value::from(facts.model.as_str()),
        "ModelNumber" => Value::from(format!("{}LL/A", facts.model)),
        "ProductName" => Value::from(facts.product_name.as_str()),
        "SerialNumber" => Value::from(facts.serial_number.as_str()),
        "IMEI" => Value::from(facts.imei.as_str()),
        "DeviceCapacity" => Value::from(128.0),
        "AvailableDeviceCapacity" => Value::from(87.5),
        "BatteryLevel" => Value::from(0.82),
        "CellularTechnology" => Value::from(1),
        "WiFiMAC" => Value::from(mac(&facts.udid, 0)),
        "BluetoothMAC" => Value::from(mac(&facts.udid, 1)),
        "TimeZone" => Value::from("Europe/Berlin"),
        "iTunesStoreAccountIsActive" | "IsActivationLockSupported" | "HasBattery" => Value::from(true),
        "AwaitingConfiguration"
        | "IsActivationLockEnabled"
        | "IsCloudBackupEnabled"
        | "IsDeviceLocatorServiceEnabled"
        | "IsDoNotDisturbInEffect"
        | "IsMDMLostModeEnabled"
        | "IsMultiUser"
        | "IsNetworkTethered"
        | "IsRoaming"
        | "IsSupervised" => Value::from(false),
        _ => return None,
    })
}

pub(super) fn security_info(handset: &Handset) -> Value {
    let mut management = Dictionary::new();
    management.insert("EnrolledViaDEP".to_owned(), Value::from(false));
    management.insert("UserApprovedEnrollment".to_owned(), Value::from(true));
    management.insert("IsUserEnrollment".to_owned(), Value::from(false));
    let mut info = Dictionary::new();
    info.insert("HardwareEncryptionCaps".to_owned(), Value::from(3));
    info.insert("PasscodePresent".to_owned(), Value::from(handset.passcode));
    info.insert("PasscodeCompliant".to_owned(), Value::from(true));
    info.insert("PasscodeCompliantWithProfiles".to_owned(), Value::from(true));
    info.insert("PasscodeLockGracePeriod".to_owned(), Value::from(0));
    info.insert("PasscodeLockGracePeriodEnforced".to_owned(), Value::from(0));
    info.insert("AutoLockTime".to_owned(), Value::from(60));
    info.insert("ManagementStatus".to_owned(), Value::Dictionary(management));
    Value::Dictionary(info)
}

pub(super) fn certificate_list(handset: &Handset) -> Value {
    let installed = handset.enrollment.iter().chain(&handset.profiles);
    let certificates = installed.flat_map(|profile| profile.certificates().unwrap_or_default());
    let identity = handset.identity.iter().map(|certificate| listed(certificate, true));
    Value::Array(identity.chain(certificates.map(|certificate| listed(&certificate, false))).collect())
}

fn listed(certificate: &pki::Certificate, is_identity: bool) -> Value {
    let name = certificate.common_name.as_deref().unwrap_or(&certificate.subject);
    let mut item = Dictionary::new();
    item.insert("CommonName".to_owned(), Value::from(name));
    item.insert("IsIdentity".to_owned(), Value::from(is_identity));
    item.insert("Data".to_owned(), Value::Data(certificate.der().to_vec()));
    Value::Dictionary(item)
}

/// An address that stays the same for a device.
fn mac(udid: &str, which: u8) -> String {
    let digits: Vec<u8> = udid.bytes().filter(u8::is_ascii_hexdigit).rev().take(8).collect();
    let pairs: Vec<String> = digits.chunks(2).map(|pair| String::from_utf8_lossy(pair).to_lowercase()).collect();
    format!("f0:{which:02x}:{}", pairs.join(":"))
}
