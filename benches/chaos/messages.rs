//! What devices send.

use muster::protocol::{command, wire as plists};
use plist::{Dictionary, Value};

use crate::ledger::Outcome;

pub const CHECK_IN: &str = "application/x-apple-aspen-mdm-checkin";
pub const REPORT: &str = "application/x-apple-aspen-mdm; charset=UTF-8";

/// The report on a command.
pub fn report(udid: &str, command: &command::Command, outcome: Outcome) -> Vec<u8> {
    let mut members =
        vec![("CommandUUID", command.uuid.clone().into()), ("Status", outcome.status().into()), ("UDID", udid.into())];
    if outcome == Outcome::Error {
        let error: Dictionary = [
            ("ErrorCode", Value::Integer(12_021.into())),
            ("ErrorDomain", "MCMDMErrorDomain".into()),
            ("LocalizedDescription", "It cannot be done.".into()),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
        members.push(("ErrorChain", Value::Array(vec![Value::Dictionary(error)])));
    }
    if outcome == Outcome::Acknowledged && command.request_type == "DeviceInformation" {
        let answers = Dictionary::from_iter([("OSVersion".to_owned(), Value::from("18.1"))]);
        members.push(("QueryResponses", Value::Dictionary(answers)));
    }
    plist(members)
}

/// A device asks for work.
pub fn idle(udid: &str) -> Vec<u8> {
    plist(vec![("Status", "Idle".into()), ("UDID", udid.into())])
}

/// A device begins to enroll.
pub fn authenticate(number: usize, udid: &str, topic: &str) -> Vec<u8> {
    plist(vec![
        ("BuildVersion", "22B83".into()),
        ("DeviceName", format!("iPhone {number}").into()),
        ("MessageType", "Authenticate".into()),
        ("Model", "MTP03".into()),
        ("ModelName", "iPhone".into()),
        ("OSVersion", "18.1".into()),
        ("ProductName", "iPhone15,4".into()),
        ("SerialNumber", format!("C{number:011}").into()),
        ("Topic", topic.into()),
        ("UDID", udid.into()),
    ])
}

/// Where a device can be woken.
pub fn token_update(udid: &str, topic: &str, magic: &str, token: &[u8]) -> Vec<u8> {
    plist(vec![
        ("AwaitingConfiguration", Value::Boolean(false)),
        ("MessageType", "TokenUpdate".into()),
        ("PushMagic", magic.into()),
        ("Token", Value::Data(token.to_vec())),
        ("Topic", topic.into()),
        ("UDID", udid.into()),
        ("UnlockToken", Value::Data(vec![9; 64])),
    ])
}

/// The enrollment profile is removed.
pub fn check_out(udid: &str, topic: &str) -> Vec<u8> {
    plist(vec![("MessageType", "CheckOut".into()), ("Topic", topic.into()), ("UDID", udid.into())])
}

fn plist(members: Vec<(&str, Value)>) -> Vec<u8> {
    let members: Dictionary = members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    plists::write(&Value::Dictionary(members))
}
