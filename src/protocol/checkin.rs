//! Check-in messages. Source: Apple, "Check-in" (MDM protocol).

use plist::{Dictionary, Value};

use super::field::{data, flag, name, needed_id, needed_text, secret, text};
use super::wire::{self, Limits};
use super::{DecodeError, Sender};
use crate::model::Secret;

/// A check-in message, decoded.
///
/// Unknown keys are ignored; an unknown message type is an error, because answering 200 to something unread would tell
/// the device that it was handled.
#[derive(Clone, Debug, PartialEq)]
pub enum CheckIn {
    /// The device wants to enroll, or renews its identity.
    Authenticate(Authenticate),
    /// The enrollment can be pushed to.
    TokenUpdate(TokenUpdate),
    /// The enrollment profile was removed.
    CheckOut(CheckOut),
    /// A Mac escrows its bootstrap token.
    SetBootstrapToken(SetBootstrapToken),
    /// A Mac asks for its bootstrap token.
    GetBootstrapToken(GetBootstrapToken),
    /// The device asks for a token of another service.
    GetToken(GetToken),
    /// A Mac's network user logs in.
    UserAuthenticate(UserAuthenticate),
    /// Declarative management.
    DeclarativeManagement(DeclarativeManagement),
}

/// The device wants to enroll, or renews its identity. Only the topic is demanded of what it says about itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Authenticate {
    /// Who sent it.
    pub sender: Sender,
    /// The push topic of its enrollment profile.
    pub topic: String,
    /// `SerialNumber`; a User Enrollment has none.
    pub serial_number: Option<String>,
    /// `DeviceName`, set by its user.
    pub device_name: Option<String>,
    /// `Model`: the part number.
    pub model: Option<String>,
    /// `ModelName`, such as `iPhone`.
    pub model_name: Option<String>,
    /// `ProductName`, such as `iPhone16,1`.
    pub product_name: Option<String>,
    /// `OSVersion`.
    pub os_version: Option<String>,
    /// `BuildVersion`.
    pub build_version: Option<String>,
    /// `IMEI`.
    pub imei: Option<String>,
    /// `MEID`.
    pub meid: Option<String>,
}

/// The enrollment can be pushed to.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenUpdate {
    /// Who sent it.
    pub sender: Sender,
    /// The push topic.
    pub topic: String,
    /// The push token.
    pub token: Vec<u8>,
    /// The string that the push must carry.
    pub push_magic: String,
    /// The token that clears the passcode. iOS sends it once: absence never means removal.
    pub unlock_token: Option<Secret<Vec<u8>>>,
    /// Whether Setup Assistant waits for `DeviceConfigured`.
    pub awaiting_configuration: bool,
    /// On a Mac's user channel: whether the user is not at the console.
    pub not_on_console: Option<bool>,
}

/// The enrollment profile was removed.
#[derive(Clone, Debug, PartialEq)]
pub struct CheckOut {
    /// Who sent it.
    pub sender: Sender,
    /// The push topic.
    pub topic: Option<String>,
}

/// A Mac escrows its bootstrap token.
#[derive(Clone, Debug, PartialEq)]
pub struct SetBootstrapToken {
    /// Who sent it.
    pub sender: Sender,
    /// The token; none takes the escrowed one back.
    pub bootstrap_token: Option<Secret<Vec<u8>>>,
    /// Whether Setup Assistant waits for `DeviceConfigured`.
    pub awaiting_configuration: bool,
}

/// A Mac asks for its bootstrap token.
#[derive(Clone, Debug, PartialEq)]
pub struct GetBootstrapToken {
    /// Who sent it.
    pub sender: Sender,
    /// Whether Setup Assistant waits for `DeviceConfigured`.
    pub awaiting_configuration: bool,
}

/// The device asks for a token of another service.
#[derive(Clone, Debug, PartialEq)]
pub struct GetToken {
    /// Who sent it.
    pub sender: Sender,
    /// `TokenServiceType`: `com.apple.maid` or `com.apple.watch.pairing`.
    pub service_type: String,
    /// `TokenParameters`, empty where there are none.
    pub parameters: Dictionary,
}

/// A Mac's network user logs in.
#[derive(Clone, Debug, PartialEq)]
pub struct UserAuthenticate {
    /// Who sent it.
    pub sender: Sender,
    /// The answer to the server's challenge; none in the first message.
    pub digest_response: Option<Secret<String>>,
}

/// Declarative management.
#[derive(Clone, Debug, PartialEq)]
pub struct DeclarativeManagement {
    /// Who sent it.
    pub sender: Sender,
    /// What it asks for.
    pub endpoint: Endpoint,
    /// The JSON that came along, not parsed.
    pub data: Option<Vec<u8>>,
}

/// What a `DeclarativeManagement` message asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// The token of all declarations.
    Tokens,
    /// The list of declarations.
    DeclarationItems,
    /// A status report.
    Status,
    /// One declaration.
    Declaration {
        /// `activation`, `asset`, `configuration` or `management`.
        kind: String,
        /// Its identifier.
        identifier: String,
    },
    /// Something that later systems ask for.
    Other(String),
}

/// Reads a check-in body: XML only, within `limits` ([`Limits::CHECK_IN`], unless the settings say otherwise), nested at
/// most [`wire::MAX_DEPTH`].
///
/// # Errors
/// [`DecodeError::Wire`] when it is no property list that we read, [`DecodeError::UnknownMessage`], and what misses, has
/// the wrong kind, or is too long to be kept.
pub fn decode(body: &[u8], limits: Limits) -> Result<CheckIn, DecodeError> {
    let message = wire::dictionary(wire::read_lenient(body, limits)?)?;
    let kind = needed_text(&message, "MessageType")?;
    if !KNOWN.contains(&kind.as_str()) {
        return Err(DecodeError::UnknownMessage(kind.chars().take(60).collect()));
    }
    let sender = Sender::of(&message)?;
    let awaiting_configuration = flag(&message, "AwaitingConfiguration").unwrap_or(false);
    Ok(match kind.as_str() {
        "Authenticate" => CheckIn::Authenticate(Authenticate {
            sender,
            topic: needed_id(&message, "Topic")?,
            serial_number: name(&message, "SerialNumber"),
            device_name: name(&message, "DeviceName"),
            model: name(&message, "Model"),
            model_name: name(&message, "ModelName"),
            product_name: name(&message, "ProductName"),
            os_version: name(&message, "OSVersion"),
            build_version: name(&message, "BuildVersion"),
            imei: name(&message, "IMEI"),
            meid: name(&message, "MEID"),
        }),
        "TokenUpdate" => CheckIn::TokenUpdate(TokenUpdate {
            sender,
            topic: needed_id(&message, "Topic")?,
            token: data(&message, "Token")?.filter(|token| !token.is_empty()).ok_or(DecodeError::Missing("Token"))?,
            push_magic: needed_id(&message, "PushMagic")?,
            unlock_token: secret(&message, "UnlockToken")?,
            awaiting_configuration,
            not_on_console: flag(&message, "NotOnConsole"),
        }),
        "CheckOut" => CheckIn::CheckOut(CheckOut { sender, topic: text(&message, "Topic")? }),
        "SetBootstrapToken" => CheckIn::SetBootstrapToken(SetBootstrapToken {
            sender,
            bootstrap_token: secret(&message, "BootstrapToken")?,
            awaiting_configuration,
        }),
        "GetBootstrapToken" => CheckIn::GetBootstrapToken(GetBootstrapToken { sender, awaiting_configuration }),
        "GetToken" => CheckIn::GetToken(GetToken {
            sender,
            service_type: needed_text(&message, "TokenServiceType")?,
            parameters: message.get("TokenParameters").and_then(Value::as_dictionary).cloned().unwrap_or_default(),
        }),
        "UserAuthenticate" => CheckIn::UserAuthenticate(UserAuthenticate {
            sender,
            digest_response: text(&message, "DigestResponse")?.filter(|answer| !answer.is_empty()).map(Secret::new),
        }),
        _ => CheckIn::DeclarativeManagement(DeclarativeManagement {
            sender,
            endpoint: Endpoint::parse(&needed_text(&message, "Endpoint")?),
            data: data(&message, "Data")?,
        }),
    })
}

/// The message types that [`decode`] reads.
const KNOWN: [&str; 8] = [
    "Authenticate",
    "TokenUpdate",
    "CheckOut",
    "SetBootstrapToken",
    "GetBootstrapToken",
    "GetToken",
    "UserAuthenticate",
    "DeclarativeManagement",
];

impl CheckIn {
    /// Who sent it.
    #[must_use]
    pub const fn sender(&self) -> &Sender {
        match self {
            Self::Authenticate(message) => &message.sender,
            Self::TokenUpdate(message) => &message.sender,
            Self::CheckOut(message) => &message.sender,
            Self::SetBootstrapToken(message) => &message.sender,
            Self::GetBootstrapToken(message) => &message.sender,
            Self::GetToken(message) => &message.sender,
            Self::UserAuthenticate(message) => &message.sender,
            Self::DeclarativeManagement(message) => &message.sender,
        }
    }

    /// Apple's name of the message.
    #[must_use]
    pub const fn message_type(&self) -> &'static str {
        match self {
            Self::Authenticate(_) => "Authenticate",
            Self::TokenUpdate(_) => "TokenUpdate",
            Self::CheckOut(_) => "CheckOut",
            Self::SetBootstrapToken(_) => "SetBootstrapToken",
            Self::GetBootstrapToken(_) => "GetBootstrapToken",
            Self::GetToken(_) => "GetToken",
            Self::UserAuthenticate(_) => "UserAuthenticate",
            Self::DeclarativeManagement(_) => "DeclarativeManagement",
        }
    }
}

impl Endpoint {
    fn parse(text: &str) -> Self {
        match text {
            "tokens" => Self::Tokens,
            "declaration-items" => Self::DeclarationItems,
            "status" => Self::Status,
            _ => match text.strip_prefix("declaration/").and_then(|rest| rest.split_once('/')) {
                Some((kind, identifier)) if !kind.is_empty() && !identifier.is_empty() => {
                    Self::Declaration { kind: kind.to_owned(), identifier: identifier.to_owned() }
                }
                _ => Self::Other(text.to_owned()),
            },
        }
    }
}

/// The answer to `GetBootstrapToken`: an empty body where none is escrowed (Apple's clients expect it so).
#[must_use]
pub fn bootstrap_token_answer(token: Option<&[u8]>) -> Vec<u8> {
    token.map_or_else(Vec::new, |token| single("BootstrapToken", Value::Data(token.to_vec())))
}

/// The answer to `GetToken`.
#[must_use]
pub fn token_answer(token: &[u8]) -> Vec<u8> {
    single("TokenData", Value::Data(token.to_vec()))
}

/// The first answer to `UserAuthenticate`: a challenge of no length means that no password is asked for.
#[must_use]
pub fn digest_challenge_answer() -> Vec<u8> {
    single("DigestChallenge", Value::String(String::new()))
}

fn single(key: &str, value: Value) -> Vec<u8> {
    let mut answer = Dictionary::new();
    answer.insert(key.to_owned(), value);
    wire::write(&Value::Dictionary(answer))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decode(body: &[u8]) -> Result<CheckIn, DecodeError> {
        super::decode(body, Limits::CHECK_IN)
    }
    use crate::model::EnrollmentKind;

    const UDID: &str = "00008110-000A1B2C3D4E801E";

    macro_rules! fixture {
        ($name:literal) => {
            include_bytes!(concat!("../../tests/fixtures/plists/", $name, ".plist"))
        };
    }

    #[test]
    fn every_message_is_read() {
        let table: [(&[u8], &str, EnrollmentKind); 14] = [
            (fixture!("authenticate-iphone"), "Authenticate", EnrollmentKind::Device),
            (fixture!("authenticate-minimal"), "Authenticate", EnrollmentKind::Device),
            (fixture!("authenticate-user-enrollment"), "Authenticate", EnrollmentKind::UserEnrollmentDevice),
            (fixture!("token-update-device"), "TokenUpdate", EnrollmentKind::Device),
            (fixture!("token-update-both-ids"), "TokenUpdate", EnrollmentKind::Device),
            (fixture!("token-update-mac-user"), "TokenUpdate", EnrollmentKind::User),
            (fixture!("token-update-shared-ipad"), "TokenUpdate", EnrollmentKind::SharedIpad),
            (fixture!("check-out"), "CheckOut", EnrollmentKind::Device),
            (fixture!("set-bootstrap-token"), "SetBootstrapToken", EnrollmentKind::Device),
            (fixture!("get-bootstrap-token"), "GetBootstrapToken", EnrollmentKind::Device),
            (fixture!("get-token"), "GetToken", EnrollmentKind::Device),
            (fixture!("user-authenticate"), "UserAuthenticate", EnrollmentKind::User),
            (fixture!("declarative-management-tokens"), "DeclarativeManagement", EnrollmentKind::Device),
            (fixture!("declarative-management-status"), "DeclarativeManagement", EnrollmentKind::Device),
        ];
        for (body, message_type, kind) in table {
            let message = decode(body).unwrap();
            assert_eq!(message.message_type(), message_type);
            assert_eq!(message.sender().apple_id.kind, kind, "{message_type}");
        }
    }

    #[test]
    fn an_authenticate_says_what_the_device_is() {
        let CheckIn::Authenticate(message) = decode(fixture!("authenticate-iphone")).unwrap() else { panic!() };
        assert_eq!(message.sender.apple_id.id, UDID);
        assert_eq!(message.serial_number.as_deref(), Some("F2LXEXAMPLE1"));
        assert_eq!(message.device_name.as_deref(), Some("Front desk iPhone"));
        assert_eq!(message.product_name.as_deref(), Some("iPhone15,4"));
        let CheckIn::Authenticate(message) = decode(fixture!("authenticate-minimal")).unwrap() else { panic!() };
        assert_eq!((message.serial_number, message.model, message.os_version), (None, None, None));
    }

    #[test]
    fn a_token_update_brings_push_data_and_its_unlock_token_stays_secret() {
        let CheckIn::TokenUpdate(message) = decode(fixture!("token-update-device")).unwrap() else { panic!() };
        assert_eq!(message.token, (0..32).collect::<Vec<u8>>());
        assert!(message.unlock_token.as_ref().unwrap().expose().starts_with(b"<example unlock token"));
        assert!(!format!("{message:?}").contains("60, 101"), "Debug shows the unlock token");
        let CheckIn::TokenUpdate(message) = decode(fixture!("token-update-mac-user")).unwrap() else { panic!() };
        assert_eq!((message.unlock_token, message.not_on_console), (None, Some(false)));
        assert_eq!(message.sender.user_short_name.as_deref(), Some("kim"));
    }

    #[test]
    fn a_declarative_message_names_its_endpoint() {
        let CheckIn::DeclarativeManagement(message) = decode(fixture!("declarative-management-status")).unwrap() else {
            panic!()
        };
        assert_eq!(message.endpoint, Endpoint::Status);
        assert!(message.data.unwrap().starts_with(b"{\"StatusItems\""));
        let declaration =
            Endpoint::Declaration { kind: "configuration".to_owned(), identifier: "org.example/a".to_owned() };
        assert_eq!(Endpoint::parse("declaration/configuration/org.example/a"), declaration);
        assert_eq!(Endpoint::parse("declaration/"), Endpoint::Other("declaration/".to_owned()));
    }

    #[test]
    fn bad_messages_say_what_is_wrong() {
        let message = |members: &str| format!("<plist><dict>{members}</dict></plist>").into_bytes();
        let authenticate = "<key>MessageType</key><string>Authenticate</string>";
        let update = "<key>MessageType</key><string>TokenUpdate</string><key>UDID</key><string>A</string>\
            <key>Topic</key><string>t</string><key>PushMagic</key><string>m</string>";
        let table = [
            (message(""), DecodeError::Missing("MessageType")),
            (message("<key>MessageType</key><string>Sing</string>"), DecodeError::UnknownMessage("Sing".to_owned())),
            (message(authenticate), DecodeError::Missing("UDID")),
            (message(&format!("{authenticate}<key>UDID</key><string>A</string>")), DecodeError::Missing("Topic")),
            (message(update), DecodeError::Missing("Token")),
            (
                message(&format!("{update}<key>Token</key><string>x</string>")),
                DecodeError::WrongKind { key: "Token", expected: "data" },
            ),
            (
                message(&format!("{update}<key>Token</key><data>%</data>")),
                DecodeError::WrongKind { key: "Token", expected: "data" },
            ),
            (b"bplist00 and so on".to_vec(), DecodeError::Wire(wire::WireError::Binary)),
            (vec![b' '; 2 << 20], DecodeError::Wire(wire::WireError::TooLarge { limit: 1 << 20 })),
        ];
        for (body, error) in table {
            assert_eq!(decode(&body), Err(error));
        }
    }

    #[test]
    fn no_bootstrap_token_is_an_empty_body() {
        assert!(bootstrap_token_answer(None).is_empty());
        let answer = wire::read(&bootstrap_token_answer(Some(b"token")), Limits::COMMAND).unwrap();
        assert_eq!(answer.as_dictionary().unwrap().get("BootstrapToken").unwrap().as_data(), Some(&b"token"[..]));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(body in proptest::collection::vec(any::<u8>(), 0..512)) {
            let _ = decode(&body);
        }

        #[test]
        fn damaged_messages_never_panic(at in 0_usize..900, byte in any::<u8>()) {
            let mut body = fixture!("authenticate-iphone").to_vec();
            if let Some(place) = body.get_mut(at) {
                *place = byte;
            }
            let _ = decode(&body);
        }
    }
}
