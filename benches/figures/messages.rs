//! What devices send, as prepared requests.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use muster::pki::Certificate;
use muster::protocol::wire;
use plist::{Dictionary, Value};

use crate::Result;
use crate::wire::{find, request};

/// The topic that all are enrolled under.
pub const TOPIC: &str = "com.apple.mgmt.External.00000000-0000-4000-8000-000000000000";
/// The size of a poll's body, bytes.
const POLL: usize = 500;
/// In the place of a command's id, which has as many characters.
const NO_COMMAND: &str = "00000000-0000-0000-0000-000000000000";

/// How a device shows its certificate.
#[derive(Clone, Debug)]
pub struct Shown(Option<(&'static str, String)>);

impl Shown {
    /// In the header of a proxy (RFC 9440).
    pub fn in_header(certificate: &Certificate) -> Self {
        Self(Some(("Client-Cert", format!(":{}:", STANDARD.encode(certificate.der())))))
    }

    /// By a signature over the body.
    pub const fn by_signature(header: String) -> Self {
        Self(Some(("Mdm-Signature", header)))
    }

    /// By TLS.
    pub const fn by_tls() -> Self {
        Self(None)
    }
}

/// A report of a device as a request.
pub fn report(shown: &Shown, body: &[u8]) -> Bytes {
    put(shown, "application/x-apple-aspen-mdm; charset=UTF-8", body)
}

/// A check-in message of a device as a request.
pub fn check_in(shown: &Shown, body: &[u8]) -> Bytes {
    put(shown, "application/x-apple-aspen-mdm-checkin", body)
}

fn put(shown: &Shown, kind: &str, body: &[u8]) -> Bytes {
    let mut headers = vec![("Content-Type", kind)];
    if let Shown(Some((name, value))) = shown {
        headers.push((name, value));
    }
    request("PUT /mdm", &headers, body)
}

/// The body of an idle poll.
pub fn idle(udid: &str) -> Vec<u8> {
    let mut body = write(vec![("Status", "Idle".into()), ("UDID", udid.into())]);
    // White space may stand there, and a device's poll has some more text than ours.
    body.resize(body.len().max(POLL), b'\n');
    body
}

/// The body of an answer without content; the command's id is to be put in by [`with_command`].
pub fn acknowledged(udid: &str) -> Vec<u8> {
    write(vec![("CommandUUID", NO_COMMAND.into()), ("Status", "Acknowledged".into()), ("UDID", udid.into())])
}

/// The body of a list of installed apps of at least so many bytes, as an iPhone writes it.
pub fn installed_apps(udid: &str, bytes: usize) -> Vec<u8> {
    let app = |number: usize| {
        let app: Dictionary = [
            ("AdHocCodeSigned", Value::Boolean(false)),
            ("AppStoreVendable", Value::Boolean(true)),
            ("BetaApp", Value::Boolean(false)),
            ("BundleSize", Value::Integer((30_000_000 + 1013 * number as u64).into())),
            ("DeviceBasedVPP", Value::Boolean(false)),
            ("DynamicSize", Value::Integer((4096 * number as u64).into())),
            ("ExternalVersionIdentifier", Value::Integer((850_000_000 + number as u64).into())),
            ("HasUpdateAvailable", Value::Boolean(number.is_multiple_of(7))),
            ("Identifier", format!("org.example.app{number}").into()),
            ("Installing", Value::Boolean(false)),
            ("IsAppClip", Value::Boolean(false)),
            ("IsValidated", Value::Boolean(true)),
            ("Name", format!("Reading & writing {number}").into()),
            ("ShortVersion", format!("{}.{}.1", number % 20, number % 7).into()),
            ("Version", format!("{}.{number}", number % 20).into()),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
        Value::Dictionary(app)
    };
    let list = |count: usize| {
        write(vec![
            ("CommandUUID", NO_COMMAND.into()),
            ("InstalledApplicationList", Value::Array((0..count).map(app).collect())),
            ("Status", "Acknowledged".into()),
            ("UDID", udid.into()),
        ])
    };
    let each = (list(20).len() - list(10).len()) / 10;
    list(bytes / each.max(1) + 1)
}

/// The check-in messages of an enrollment.
pub fn enrollment(udid: &str, number: usize) -> [Vec<u8>; 2] {
    let authenticate = vec![
        ("BuildVersion", "22B83".into()),
        ("DeviceName", format!("iPhone {number}").into()),
        ("IMEI", "35 000000 000000 0".into()),
        ("MessageType", "Authenticate".into()),
        ("Model", "MTP03".into()),
        ("ModelName", "iPhone".into()),
        ("OSVersion", "18.1".into()),
        ("ProductName", "iPhone15,4".into()),
        ("SerialNumber", format!("G{number:011}").into()),
        ("Topic", TOPIC.into()),
        ("UDID", udid.into()),
    ];
    let mut token = vec![7; 32];
    token.splice(24.., (number as u64).to_be_bytes());
    let token_update = vec![
        ("AwaitingConfiguration", Value::Boolean(false)),
        ("MessageType", "TokenUpdate".into()),
        ("PushMagic", "3F0D1A36-6D29-4B0C-8F2A-0C8E6F7B9A11".into()),
        ("Token", Value::Data(token)),
        ("Topic", TOPIC.into()),
        ("UDID", udid.into()),
        ("UnlockToken", Value::Data(vec![9; 600])),
    ];
    [write(authenticate), write(token_update)]
}

/// Where in a request the command's id is to stand.
pub fn place_of_command(request: &[u8]) -> Result<usize> {
    find(request, NO_COMMAND.as_bytes()).ok_or_else(|| "a request has no place for a command".into())
}

/// The request with the command's id in its place.
pub fn with_command(request: &[u8], place: usize, command: &[u8]) -> Result<BytesMut> {
    let mut whole = BytesMut::from(request);
    whole.get_mut(place..place + command.len()).ok_or("a command's id is too long")?.copy_from_slice(command);
    Ok(whole)
}

/// The command's id in a server's answer.
pub fn command_in(answer: &[u8]) -> Option<&[u8]> {
    const KEY: &[u8] = b"<key>CommandUUID</key>";
    const OPEN: &[u8] = b"<string>";
    let after = answer.get(find(answer, KEY)? + KEY.len()..)?;
    let from = find(after, OPEN)? + OPEN.len();
    after.get(from..from + NO_COMMAND.len())
}

fn write(members: Vec<(&str, Value)>) -> Vec<u8> {
    let members: Dictionary = members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    wire::write(&Value::Dictionary(members))
}
