//! Members of a message's dictionary, taken out by name and kind.

use plist::{Dictionary, Value};

use super::DecodeError;
use crate::model::Secret;

/// Longest name, model or version that is kept, characters; they are for people, so the rest is cut.
const MAX_NAME: usize = 255;

/// Longest push topic or magic, bytes: real ones have 36 to 60. Longer ones would fit into no index.
const MAX_ID: usize = 255;

/// A string, where there is one.
pub(super) fn text(message: &Dictionary, key: &'static str) -> Result<Option<String>, DecodeError> {
    match message.get(key) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(DecodeError::WrongKind { key, expected: "a string" }),
    }
}

/// A string that must be there and not be empty.
pub(super) fn needed_text(message: &Dictionary, key: &'static str) -> Result<String, DecodeError> {
    text(message, key)?.filter(|text| !text.is_empty()).ok_or(DecodeError::Missing(key))
}

/// An id that Apple's services gave out, which is kept and handed back as it is: it must be there and not be empty.
pub(super) fn needed_id(message: &Dictionary, key: &'static str) -> Result<String, DecodeError> {
    let id = needed_text(message, key)?;
    if id.len() > MAX_ID { Err(DecodeError::TooLong { key, limit: MAX_ID }) } else { Ok(id) }
}

/// A name for people to read, cut to what is kept: anything that is not a string, or empty, is as good as absent.
pub fn name(message: &Dictionary, key: &str) -> Option<String> {
    let text = message.get(key)?.as_string()?.trim();
    (!text.is_empty()).then(|| text.chars().take(MAX_NAME).collect())
}

/// Data, where there is some.
pub(super) fn data(message: &Dictionary, key: &'static str) -> Result<Option<Vec<u8>>, DecodeError> {
    match message.get(key) {
        None => Ok(None),
        Some(Value::Data(bytes)) => Ok(Some(bytes.clone())),
        Some(_) => Err(DecodeError::WrongKind { key, expected: "data" }),
    }
}

/// Secret data; empty counts as absent, so that it never overwrites what is kept.
pub(super) fn secret(message: &Dictionary, key: &'static str) -> Result<Option<Secret<Vec<u8>>>, DecodeError> {
    Ok(data(message, key)?.filter(|bytes| !bytes.is_empty()).map(Secret::new))
}

/// A truth value, where there is one; 0 and 1 are taken too.
pub(super) fn flag(message: &Dictionary, key: &str) -> Option<bool> {
    match message.get(key)? {
        Value::Boolean(flag) => Some(*flag),
        Value::Integer(number) => number.as_signed().map(|number| number != 0),
        _ => None,
    }
}
