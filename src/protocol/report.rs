//! Command reports: what a device says about a command, or that it wants one. Source: Apple, "Command response" (MDM
//! protocol).

use plist::{Dictionary, Value};

use super::field::{flag, name, needed_text, text};
use super::wire::{self, Limits};
use super::{DecodeError, Sender};
use crate::model::ReportStatus;

/// Most items of an error chain that are kept.
const MAX_CHAIN: usize = 32;
/// Longest description in an error chain that is kept, characters.
const MAX_DESCRIPTION: usize = 2_000;

/// A command report, decoded.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// Who sent it.
    pub sender: Sender,
    /// What it says.
    pub status: ReportStatus,
    /// The command that it is about; any string, as some clients send. None with Idle.
    pub command_uuid: Option<String>,
    /// The command's request type, where the client sends one that is not empty.
    pub request_type: Option<String>,
    /// Why the command failed, outermost first; empty where it did not.
    pub error_chain: Vec<ErrorItem>,
    /// On a Mac's user channel: whether the user is not at the console.
    pub not_on_console: Option<bool>,
    /// The whole message, with the answer in it, but for the lists in `lists`. Strings hold no NUL.
    pub body: Dictionary,
    /// The lists in it, by the name of the member, as JSON without what is secret in it.
    pub lists: Vec<(&'static str, String)>,
}

/// The members that hold long lists.
const LISTS: &[&str] = &["InstalledApplicationList", "ManagedApplicationList", "CertificateList"];

/// One link of an `ErrorChain`.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ErrorItem {
    /// `ErrorCode`.
    pub code: i64,
    /// `ErrorDomain`, such as `MCMDMErrorDomain`.
    pub domain: String,
    /// `LocalizedDescription`, in the device's language.
    pub description: String,
    /// `USEnglishDescription`, where there is one.
    pub us_english: Option<String>,
}

/// Reads a report: XML only, within `limits` ([`Limits::REPORT`], unless the settings say otherwise); odd text in it is kept as well as possible.
///
/// # Errors
/// [`DecodeError::Wire`] when it is no property list that we read, [`DecodeError::UnknownStatus`], and
/// [`DecodeError::Missing`] for the sender, the status, or the command of anything but Idle.
pub fn decode(body: &[u8], limits: Limits) -> Result<Report, DecodeError> {
    let (body, lists) = wire::read_report(body, limits, LISTS)?;
    let body = wire::dictionary(body)?;
    let word = needed_text(&body, "Status")?;
    let status =
        ReportStatus::parse(&word).ok_or_else(|| DecodeError::UnknownStatus(word.chars().take(60).collect()))?;
    let command_uuid = text(&body, "CommandUUID")?.filter(|uuid| !uuid.is_empty());
    if command_uuid.is_none() && status != ReportStatus::Idle {
        return Err(DecodeError::Missing("CommandUUID"));
    }
    Ok(Report {
        sender: Sender::of(&body)?,
        status,
        command_uuid,
        request_type: name(&body, "RequestType"),
        error_chain: error_chain(&body),
        not_on_console: flag(&body, "NotOnConsole"),
        body,
        lists,
    })
}

fn error_chain(body: &Dictionary) -> Vec<ErrorItem> {
    let chain = body.get("ErrorChain").and_then(Value::as_array);
    chain.into_iter().flatten().filter_map(Value::as_dictionary).take(MAX_CHAIN).map(error_item).collect()
}

fn error_item(item: &Dictionary) -> ErrorItem {
    let description = |key| {
        let text = item.get(key).and_then(Value::as_string);
        text.map(|text| text.chars().take(MAX_DESCRIPTION).collect::<String>())
    };
    let code = match item.get("ErrorCode") {
        Some(Value::Integer(code)) => code.as_signed(),
        Some(Value::String(code)) => code.trim().parse().ok(),
        _ => None,
    };
    ErrorItem {
        code: code.unwrap_or(0),
        domain: name(item, "ErrorDomain").unwrap_or_default(),
        description: description("LocalizedDescription").unwrap_or_default(),
        us_english: description("USEnglishDescription"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decode(body: &[u8]) -> Result<Report, DecodeError> {
        super::decode(body, Limits::REPORT)
    }
    use crate::model::EnrollmentKind;

    macro_rules! fixture {
        ($name:literal) => {
            include_bytes!(concat!("../../tests/fixtures/plists/", $name, ".plist"))
        };
    }

    #[test]
    fn an_idle_device_names_no_command() {
        let report = decode(fixture!("report-idle")).unwrap();
        assert_eq!((report.status, report.command_uuid), (ReportStatus::Idle, None));
        let report = decode(fixture!("report-mac-user-idle")).unwrap();
        assert_eq!(report.sender.apple_id.kind, EnrollmentKind::User);
        assert_eq!(report.not_on_console, Some(true));
    }

    #[test]
    fn an_error_brings_its_chain() {
        let report = decode(fixture!("report-error")).unwrap();
        assert_eq!(report.status, ReportStatus::Error);
        assert_eq!(report.error_chain.len(), 2);
        assert_eq!(report.error_chain[0].code, 4001);
        assert_eq!(report.error_chain[0].domain, "MCInstallationErrorDomain");
        assert_eq!(report.error_chain[1].us_english.as_deref(), Some("The profile “Wi-Fi” is invalid."));
    }

    #[test]
    fn an_answer_is_kept_whole() {
        let report = decode(fixture!("report-device-information")).unwrap();
        let answers = report.body.get("QueryResponses").and_then(Value::as_dictionary).unwrap();
        assert_eq!(answers.get("OSVersion").and_then(Value::as_string), Some("18.1"));
        assert_eq!(decode(fixture!("report-not-now")).unwrap().status, ReportStatus::NotNow);
    }

    #[test]
    fn odd_text_does_not_lose_a_report() {
        let report = decode(fixture!("report-odd-text")).unwrap();
        assert_eq!(report.request_type, None);
        let [("InstalledApplicationList", apps)] = report.lists.as_slice() else { panic!("{:?}", report.lists) };
        let apps: serde_json::Value = serde_json::from_str(apps).unwrap();
        assert_eq!(apps[0]["Name"], "Notes\u{FFFD} & more \u{FFFD} \u{FFFD}");
        assert_eq!(apps[1]["Name"], "M\u{FFFD}ps \u{FFFD}");
        assert_eq!(apps[1]["BundleSize"], "four");
        assert!(report.body.get("InstalledApplicationList").is_none());
    }

    #[test]
    fn what_cannot_be_used_is_refused() {
        let report = |members: &str| format!("<plist><dict>{members}</dict></plist>").into_bytes();
        assert_eq!(decode(&report("")), Err(DecodeError::Missing("Status")));
        assert_eq!(
            decode(&report("<key>Status</key><string>Maybe</string>")),
            Err(DecodeError::UnknownStatus("Maybe".to_owned()))
        );
        assert_eq!(
            decode(&report("<key>Status</key><string>Acknowledged</string><key>UDID</key><string>A</string>")),
            Err(DecodeError::Missing("CommandUUID"))
        );
        assert_eq!(decode(b"bplist00"), Err(DecodeError::Wire(wire::WireError::Binary)));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(body in proptest::collection::vec(any::<u8>(), 0..512)) {
            let _ = decode(&body);
        }

        #[test]
        fn damaged_reports_never_panic(at in 0_usize..1_500, byte in any::<u8>()) {
            let mut body = fixture!("report-odd-text").to_vec();
            if let Some(place) = body.get_mut(at) {
                *place = byte;
            }
            let _ = decode(&body);
        }
    }
}
