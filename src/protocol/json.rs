//! Property list values as JSON and back: what the API shows of a report, and how it takes a payload.
//!
//! JSON has no bytes and no dates: they are objects with the one member `$data` (base64) or `$date` (RFC 3339).
//! Integers go from -2^63 to 2^64-1.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use plist::{Dictionary, Value};
use serde_json::{Map, Number, json};

use super::wire::{self, MAX_DEPTH};
use crate::model::Timestamp;

/// Why a JSON value has no form as a property list.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{pointer}: {detail}")]
pub struct JsonFault {
    /// JSON Pointer (RFC 6901) from the value that was given to [`from_json`]; empty for that value itself.
    pub pointer: String,
    /// What is wrong.
    pub detail: String,
}

/// The JSON for a property list value. What is no number (NaN, infinity) becomes null.
#[must_use]
pub fn to_json(value: &Value) -> serde_json::Value {
    match value {
        Value::Array(items) => items.iter().map(to_json).collect(),
        Value::Dictionary(members) => dictionary_to_json(members),
        Value::Boolean(flag) => (*flag).into(),
        Value::Data(bytes) => json!({ "$data": STANDARD.encode(bytes) }),
        Value::Date(at) => json!({ "$date": Timestamp::from_seconds(wire::date_seconds(*at)) }),
        Value::Real(number) => Number::from_f64(*number).map_or(serde_json::Value::Null, serde_json::Value::Number),
        Value::Integer(number) => match (number.as_signed(), number.as_unsigned()) {
            (Some(number), _) => number.into(),
            (None, Some(number)) => number.into(),
            (None, None) => serde_json::Value::Null,
        },
        Value::String(text) => text.as_str().into(),
        _ => serde_json::Value::Null,
    }
}

/// The JSON object for a dictionary.
#[must_use]
pub fn dictionary_to_json(members: &Dictionary) -> serde_json::Value {
    members.iter().map(|(key, value)| (key.clone(), to_json(value))).collect::<Map<_, _>>().into()
}

/// The property list value for a JSON value.
///
/// # Errors
/// All faults at once: null, which property lists do not have; a `$data` or `$date` that is none; a control character in
/// a string; a nesting deeper than [`MAX_DEPTH`].
pub fn from_json(value: &serde_json::Value) -> Result<Value, Vec<JsonFault>> {
    let mut faults = Vec::new();
    let value = convert(value, &mut String::new(), 0, &mut faults);
    if faults.is_empty() { Ok(value) } else { Err(faults) }
}

/// A step of a JSON Pointer (RFC 6901, section 3).
#[must_use]
pub fn pointer_step(name: &str) -> String {
    format!("/{}", name.replace('~', "~0").replace('/', "~1"))
}

fn convert(value: &serde_json::Value, pointer: &mut String, depth: usize, faults: &mut Vec<JsonFault>) -> Value {
    let fault = |pointer: &str, detail: &str, faults: &mut Vec<JsonFault>| {
        faults.push(JsonFault { pointer: pointer.to_owned(), detail: detail.to_owned() });
        Value::Boolean(false)
    };
    if depth > MAX_DEPTH {
        return fault(pointer, "nested too deep", faults);
    }
    match value {
        serde_json::Value::Null => fault(pointer, "null has no form in a property list; leave the member out", faults),
        serde_json::Value::Bool(flag) => Value::Boolean(*flag),
        serde_json::Value::Number(number) => {
            if let Some(number) = number.as_i64() {
                Value::Integer(number.into())
            } else if let Some(number) = number.as_u64() {
                Value::Integer(number.into())
            } else {
                Value::Real(number.as_f64().unwrap_or(0.0))
            }
        }
        serde_json::Value::String(text) if text.chars().all(wire::is_xml_char) => Value::String(text.clone()),
        serde_json::Value::String(_) => fault(pointer, "a control character, which XML forbids", faults),
        serde_json::Value::Array(items) => {
            let mut out = Vec::with_capacity(items.len());
            for (index, item) in items.iter().enumerate() {
                out.push(inside(pointer, &index.to_string(), |pointer| convert(item, pointer, depth + 1, faults)));
            }
            Value::Array(out)
        }
        serde_json::Value::Object(members) => match special(members) {
            Some(Ok(value)) => value,
            Some(Err(detail)) => fault(pointer, detail, faults),
            None => {
                let mut out = Dictionary::new();
                for (key, member) in members {
                    let member = inside(pointer, key, |pointer| {
                        if !key.chars().all(wire::is_xml_char) {
                            fault(pointer, "a control character, which XML forbids", faults);
                        }
                        convert(member, pointer, depth + 1, faults)
                    });
                    out.insert(key.clone(), member);
                }
                Value::Dictionary(out)
            }
        },
    }
}

/// An object that stands for data or a date; none where it is a dictionary.
fn special(members: &Map<String, serde_json::Value>) -> Option<Result<Value, &'static str>> {
    if members.len() != 1 {
        return None;
    }
    let (key, value) = members.iter().next()?;
    match key.as_str() {
        "$data" => {
            let bytes = value.as_str().and_then(|text| STANDARD.decode(text).ok());
            Some(bytes.map(Value::Data).ok_or("$data is not base64"))
        }
        "$date" => {
            let at = value.as_str().and_then(|text| Timestamp::parse(text).ok());
            let date = at.and_then(|at| wire::date_from_seconds(at.seconds()));
            Some(date.map(Value::Date).ok_or("$date is not a time; expected RFC 3339, such as 2026-11-22T05:20:08Z"))
        }
        _ => None,
    }
}

fn inside<T>(pointer: &mut String, name: &str, work: impl FnOnce(&mut String) -> T) -> T {
    let length = pointer.len();
    pointer.push_str(&pointer_step(name));
    let out = work(pointer);
    pointer.truncate(length);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_survive_the_way_there_and_back() {
        let json = json!({
            "text": "a", "yes": true, "small": i64::MIN, "large": u64::MAX, "half": 0.5,
            "bytes": { "$data": "AP8=" }, "at": { "$date": "2026-11-22T05:20:08Z" }, "list": [1, [2], {}],
        });
        assert_eq!(to_json(&from_json(&json).unwrap()), json);
    }

    #[test]
    fn all_faults_are_named_with_their_place() {
        let json = json!({ "a/b": [1, null], "c": { "$data": "%" }, "d": { "$date": "soon" }, "e": "\u{0}" });
        let faults = from_json(&json).unwrap_err();
        let mut places: Vec<_> = faults.iter().map(|fault| fault.pointer.as_str()).collect();
        places.sort_unstable();
        assert_eq!(places, ["/a~1b/1", "/c", "/d", "/e"]);
    }

    #[test]
    fn deep_nesting_is_a_fault() {
        let deep = (0..100).fold(json!(1), |inner, _| json!([inner]));
        assert_eq!(from_json(&deep).unwrap_err().len(), 1);
    }

    #[test]
    fn what_is_no_number_becomes_null() {
        assert_eq!(to_json(&Value::Real(f64::NAN)), serde_json::Value::Null);
    }
}
