//! Commands as a device gets them. Source: Apple, "Commands" (MDM protocol).

use plist::{Dictionary, Value};

use super::DecodeError;
use super::field::needed_text;
use super::wire::{self, Limits};

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
    let mut message = wire::dictionary(wire::read(body, Limits::COMMAND)?)?;
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
    fn a_command_without_its_parts_is_refused() {
        assert_eq!(decode(b"<plist><dict/></plist>"), Err(DecodeError::Missing("CommandUUID")));
        let body = b"<plist><dict><key>CommandUUID</key><string>1</string></dict></plist>";
        assert_eq!(decode(body), Err(DecodeError::Missing("Command")));
    }
}
