use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use super::Fault;
use super::nearest::nearest;
use crate::protocol::json::pointer_step;

/// A field of a verb, or of an object in one.
pub(super) struct Field {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) required: bool,
    /// For the API's document.
    pub(super) about: &'static str,
}

/// What a field may hold.
pub(super) enum Kind {
    Flag,
    Text(Rule),
    Integer {
        min: i64,
        max: i64,
    },
    IntegerOf(&'static [i64]),
    Choice(&'static [&'static str]),
    /// An id of ours.
    Id,
    /// Base64 of at most this many bytes.
    Base64(usize),
    Object(&'static [Field]),
    /// Any object; what is in it is checked where it is converted.
    Any,
    /// At least one of a kind, at most this many.
    List(&'static Kind, usize),
}

/// What a text may be. `pattern` says to the readers of the API's document what `ok` checks.
#[derive(Clone, Copy)]
pub(super) struct Rule {
    pub(super) expected: &'static str,
    pub(super) max: usize,
    pub(super) pattern: &'static str,
    pub(super) ok: fn(&str) -> bool,
}

/// Checks the members of an object against its fields; `tag` is a member that was looked at before.
pub(super) fn check_members(
    members: &Map<String, Value>,
    fields: &'static [Field],
    tag: Option<&str>,
    pointer: &str,
    faults: &mut Vec<Fault>,
) {
    for (name, value) in members {
        let place = format!("{pointer}{}", pointer_step(name));
        match fields.iter().find(|field| field.name == name) {
            Some(field) => check(value, &field.kind, &place, faults),
            None if tag == Some(name) => {}
            None => faults.push(Fault::new(place, unknown(name, fields))),
        }
    }
    for field in fields.iter().filter(|field| field.required && !members.contains_key(field.name)) {
        let place = format!("{pointer}{}", pointer_step(field.name));
        faults.push(Fault::new(place, format!("is needed; expected {}", expected(&field.kind))));
    }
}

fn unknown(name: &str, fields: &'static [Field]) -> String {
    let names = || fields.iter().map(|field| field.name);
    if let Some(meant) = nearest(name, names()) {
        return format!("unknown field; did you mean {meant:?}?");
    }
    match names().collect::<Vec<_>>() {
        names if names.is_empty() => "unknown field; there are none here".to_owned(),
        names => format!("unknown field; known are {}", names.join(", ")),
    }
}

fn check(value: &Value, kind: &'static Kind, pointer: &str, faults: &mut Vec<Fault>) {
    let ok = match (kind, value) {
        (Kind::Flag, Value::Bool(_)) => true,
        (Kind::Text(rule), Value::String(text)) => text.chars().count() <= rule.max && (rule.ok)(text),
        (Kind::Integer { min, max }, value) => value.as_i64().is_some_and(|n| (*min..=*max).contains(&n)),
        (Kind::IntegerOf(allowed), value) => value.as_i64().is_some_and(|n| allowed.contains(&n)),
        (Kind::Choice(words), Value::String(word)) => {
            if !words.contains(&word.as_str()) {
                let hint = nearest(word, words.iter().copied())
                    .map_or_else(|| expected(kind), |meant| format!("one of the known words; did you mean {meant:?}?"));
                faults.push(Fault::new(pointer, format!("expected {hint}")));
            }
            return;
        }
        // The parser takes other forms too; the API's document names this one.
        (Kind::Id, Value::String(id)) => id.len() == 36 && id.parse::<uuid::Uuid>().is_ok(),
        (Kind::Base64(max), Value::String(text)) => {
            // Four characters stand for three bytes.
            text.len() / 4 <= max.div_ceil(3) && STANDARD.decode(text).is_ok_and(|b| !b.is_empty() && b.len() <= *max)
        }
        (Kind::Object(fields), Value::Object(members)) => {
            check_members(members, fields, None, pointer, faults);
            return;
        }
        (Kind::Any, Value::Object(_)) => true,
        (Kind::List(of, max), Value::Array(items)) if (1..=*max).contains(&items.len()) => {
            for (index, item) in items.iter().enumerate() {
                check(item, of, &format!("{pointer}/{index}"), faults);
            }
            return;
        }
        _ => false,
    };
    if !ok {
        faults.push(Fault::new(pointer, format!("expected {}", expected(kind))));
    }
}

/// What a field should hold, in words.
pub(super) fn expected(kind: &Kind) -> String {
    match kind {
        Kind::Flag => "true or false".to_owned(),
        Kind::Text(rule) => rule.expected.to_owned(),
        Kind::Integer { min, max } => format!("a whole number from {min} to {max}"),
        Kind::IntegerOf(allowed) => {
            let allowed: Vec<_> = allowed.iter().map(ToString::to_string).collect();
            format!("one of {}", allowed.join(", "))
        }
        Kind::Choice(words) if words.len() > 8 => "one of the known words".to_owned(),
        Kind::Choice(words) => format!("one of {}", words.join(", ")),
        Kind::Id => "an id (UUID)".to_owned(),
        Kind::Base64(max) => format!("base64 of 1 to {max} bytes"),
        Kind::Object(_) | Kind::Any => "an object".to_owned(),
        Kind::List(of, max) => format!("a list of 1 to {max} items, each {}", expected(of)),
    }
}

/// The members of an object that was checked: what is there has the right kind.
pub(super) struct Members<'a>(pub(super) &'a Map<String, Value>);

impl<'a> Members<'a> {
    pub(super) fn flag(&self, name: &str) -> Option<bool> {
        self.0.get(name)?.as_bool()
    }

    pub(super) fn text(&self, name: &str) -> Option<String> {
        self.0.get(name)?.as_str().map(str::to_owned)
    }

    pub(super) fn integer(&self, name: &str) -> Option<i64> {
        self.0.get(name)?.as_i64()
    }

    pub(super) fn id(&self, name: &str) -> Option<uuid::Uuid> {
        self.0.get(name)?.as_str()?.parse().ok()
    }

    pub(super) fn bytes(&self, name: &str) -> Option<Vec<u8>> {
        STANDARD.decode(self.0.get(name)?.as_str()?).ok()
    }

    pub(super) fn texts(&self, name: &str) -> Vec<String> {
        let items = self.0.get(name).and_then(Value::as_array);
        items.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    }

    pub(super) fn object(&self, name: &str) -> Option<Members<'a>> {
        self.0.get(name)?.as_object().map(Members)
    }
}
