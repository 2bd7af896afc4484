//! Commands as a device gets them. Source: Apple, "Commands" (MDM protocol).

use plist::{Dictionary, Value};

use super::DecodeError;
use super::field::needed_text;
use super::wire::{self, Limits};

/// Longest UUID and request type that a tool may choose, bytes.
const MAX_NAME: usize = 255;

/// A command, as a device reads it.
#[derive(Clone, Debug, PartialEq)]
pub struct Command {
    /// `CommandUUID`, which the report repeats.
    pub uuid: String,
    /// `RequestType`.
    pub request_type: String,
    /// The other members of `Command`.
    pub payload: Dictionary,
}

/// Writes a command. A `RequestType` inside of `payload` does not count.
#[must_use]
pub fn encode(command_uuid: &str, request_type: &str, mut payload: Dictionary) -> Vec<u8> {
    payload.insert("RequestType".to_owned(), Value::from(request_type));
    let mut message = Dictionary::new();
    message.insert("Command".to_owned(), Value::Dictionary(payload));
    message.insert("CommandUUID".to_owned(), Value::from(command_uuid));
    wire::write(&Value::Dictionary(message))
}

/// Reads a command, as a device does.
///
/// # Errors
/// [`DecodeError::Wire`] when it is no property list, and what misses.
pub fn decode(body: &[u8]) -> Result<Command, DecodeError> {
    read(wire::dictionary(wire::read(body, Limits::COMMAND)?)?)
}

/// Reads a command that a tool has made, in either form of property list. What is beside it in the message is left out.
///
/// # Errors
/// As [`decode`]; [`DecodeError::TooLong`] for names that cannot be kept.
pub fn decode_any(body: &[u8]) -> Result<Command, DecodeError> {
    let command = read(wire::dictionary(wire::read_any(body, Limits::COMMAND)?)?)?;
    for (key, name) in [("CommandUUID", &command.uuid), ("RequestType", &command.request_type)] {
        if name.len() > MAX_NAME {
            return Err(DecodeError::TooLong { key, limit: MAX_NAME });
        }
        if name.chars().any(char::is_control) {
            return Err(DecodeError::BadId(key));
        }
    }
    Ok(command)
}

fn read(mut message: Dictionary) -> Result<Command, DecodeError> {
    let uuid = needed_text(&message, "CommandUUID")?;
    let Some(Value::Dictionary(mut payload)) = message.remove("Command") else {
        return Err(DecodeError::Missing("Command"));
    };
    let request_type = needed_text(&payload, "RequestType")?;
    payload.remove("RequestType");
    Ok(Command { uuid, request_type, payload })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_reads_back() {
        let mut payload = Dictionary::new();
        payload.insert("Message".to_owned(), Value::from("Lost & found <here>\r\n\"now\""));
        payload.insert("Token".to_owned(), Value::Data(vec![0, 255, 7]));
        payload.insert("RequestType".to_owned(), Value::from("EraseDevice"));
        let body = encode("0194-A", "DeviceLock", payload.clone());
        payload.remove("RequestType");
        let expected = Command { uuid: "0194-A".to_owned(), request_type: "DeviceLock".to_owned(), payload };
        assert_eq!(decode(&body).unwrap(), expected);
    }

    #[test]
    fn a_tool_may_choose_any_name_that_can_be_kept() {
        let body = encode("CMD1", "SomethingNew", Dictionary::new());
        let mut binary = Vec::new();
        plist::from_bytes::<Value>(&body).unwrap().to_writer_binary(&mut binary).unwrap();
        for body in [body, binary] {
            assert_eq!(decode_any(&body).unwrap().uuid, "CMD1");
        }
        let long = encode(&"a".repeat(256), "X", Dictionary::new());
        assert_eq!(decode_any(&long), Err(DecodeError::TooLong { key: "CommandUUID", limit: 255 }));
        let odd = encode("a\nb", "X", Dictionary::new());
        assert_eq!(decode_any(&odd), Err(DecodeError::BadId("CommandUUID")));
    }

    #[test]
    fn a_command_without_its_parts_is_refused() {
        assert_eq!(decode(b"<plist><dict/></plist>"), Err(DecodeError::Missing("CommandUUID")));
        let body = b"<plist><dict><key>CommandUUID</key><string>1</string></dict></plist>";
        assert_eq!(decode(body), Err(DecodeError::Missing("Command")));
    }
}
