//! Checks a value against the schema that the document shows, so that what is documented and what is accepted cannot
//! differ, and so that all faults are told at once, each with its place.

use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::model::Timestamp;
use crate::service::Fault;

/// Most faults that are told at once.
const MAX_FAULTS: usize = 50;

/// A schema with those that it refers to.
pub(super) struct Shape {
    root: Value,
    named: Map<String, Value>,
}

impl Shape {
    /// The schema of `T`.
    pub(super) fn of<T: ToSchema>() -> Self {
        let mut schemas = Vec::new();
        T::schemas(&mut schemas);
        let named = schemas.into_iter().map(|(name, schema)| (name, written(&schema))).collect();
        Self { root: written(&T::schema()), named }
    }

    /// A schema of parameters, one member each.
    pub(super) fn of_parameters(parameters: Vec<utoipa::openapi::path::Parameter>) -> Self {
        let mut properties = Map::new();
        let mut required = Vec::new();
        for parameter in parameters {
            if written(&parameter.required) == true {
                required.push(Value::from(parameter.name.as_str()));
            }
            properties.insert(parameter.name, parameter.schema.as_ref().map_or(Value::Null, written));
        }
        let mut root = Map::new();
        root.insert("type".to_owned(), "object".into());
        root.insert("properties".to_owned(), properties.into());
        root.insert("required".to_owned(), required.into());
        root.insert("additionalProperties".to_owned(), false.into());
        Self { root: root.into(), named: Map::new() }
    }

    /// A schema of the document.
    #[cfg(test)]
    pub(super) fn in_document(schema: &Value, document: &Value) -> Self {
        let named = document["components"]["schemas"].as_object().cloned().unwrap_or_default();
        Self { root: schema.clone(), named }
    }

    /// The schema of one member of an object.
    pub(super) fn member(&self, name: &str) -> Option<&Value> {
        self.root.get("properties")?.get(name)
    }

    /// What is wrong with a value.
    pub(super) fn check(&self, value: &Value) -> Vec<Fault> {
        let mut found = Vec::new();
        self.value(&self.root, value, "", &mut found);
        found.truncate(MAX_FAULTS);
        found
    }

    /// What a reference leads to. What the catalog knows better is not looked at: its own check names the faults.
    fn resolve<'a>(&'a self, schema: &'a Value) -> Option<&'a Value> {
        match schema.get("$ref").and_then(Value::as_str) {
            None => Some(schema),
            Some(reference) => match reference.rsplit('/').next() {
                Some("Command") | None => None,
                Some(name) => self.named.get(name),
            },
        }
    }

    fn value(&self, schema: &Value, value: &Value, at: &str, found: &mut Vec<Fault>) {
        if found.len() >= MAX_FAULTS {
            return;
        }
        let Some(schema) = self.resolve(schema) else { return };
        if let Some(choices) = ["oneOf", "anyOf"].iter().find_map(|key| schema.get(*key)?.as_array()) {
            self.any_of(choices, value, at, found);
            return;
        }
        for part in schema.get("allOf").and_then(Value::as_array).into_iter().flatten() {
            self.value(part, value, at, found);
        }
        let kinds = kinds(schema);
        if !kinds.is_empty() && !kinds.iter().any(|kind| is_kind(kind, value)) {
            found.push(fault(at, format!("expected {}", expected(&kinds))));
            return;
        }
        if let Some(words) = schema.get("enum").and_then(Value::as_array)
            && !words.contains(value)
            && !value.is_null()
        {
            let words: Vec<_> =
                words.iter().map(|word| word.as_str().map_or(word.to_string(), str::to_owned)).collect();
            found.push(fault(at, format!("expected one of {}", words.join(", "))));
            return;
        }
        match value {
            Value::String(text) => self.text(schema, text, at, found),
            Value::Number(number) => {
                let number = number.as_f64().unwrap_or_default();
                if schema.get("minimum").and_then(Value::as_f64).is_some_and(|least| number < least) {
                    found.push(fault(at, format!("at least {}", schema["minimum"])));
                }
                if schema.get("maximum").and_then(Value::as_f64).is_some_and(|most| number > most) {
                    found.push(fault(at, format!("at most {}", schema["maximum"])));
                }
            }
            Value::Array(items) => self.list(schema, items, at, found),
            Value::Object(members) => self.members(schema, members, at, found),
            Value::Null | Value::Bool(_) => {}
        }
    }

    fn text(&self, schema: &Value, text: &str, at: &str, found: &mut Vec<Fault>) {
        let length = u64::try_from(text.chars().count()).unwrap_or(u64::MAX);
        let limit = |name: &str| schema.get(name).and_then(Value::as_u64);
        if limit("minLength").is_some_and(|least| length < least) {
            found.push(fault(at, "must not be empty"));
        }
        if let Some(most) = limit("maxLength").filter(|most| length > *most) {
            found.push(fault(at, format!("at most {most} characters")));
        }
        // PostgreSQL's texts cannot hold it, and no name needs it.
        if text.contains('\0') {
            found.push(fault(at, "must not hold U+0000"));
        }
        match schema.get("format").and_then(Value::as_str) {
            Some("uuid") if text.parse::<uuid::Uuid>().is_err() => {
                found.push(fault(at, "expected an id such as 0193f2a0-5b1c-7a11-9d0e-1f2a3b4c5d6e"));
            }
            Some("date-time") => {
                if let Err(why) = Timestamp::parse(text) {
                    found.push(fault(at, why));
                }
            }
            _ => {}
        }
    }

    fn list(&self, schema: &Value, items: &[Value], at: &str, found: &mut Vec<Fault>) {
        let length = u64::try_from(items.len()).unwrap_or(u64::MAX);
        let limit = |name: &str| schema.get(name).and_then(Value::as_u64);
        if let Some(least) = limit("minItems").filter(|least| length < *least) {
            found.push(fault(at, format!("at least {least}")));
        }
        if let Some(most) = limit("maxItems").filter(|most| length > *most) {
            found.push(fault(at, format!("at most {most}")));
            return;
        }
        if let Some(item) = schema.get("items") {
            for (index, value) in items.iter().enumerate() {
                self.value(item, value, &format!("{at}/{index}"), found);
            }
        }
    }

    fn members(&self, schema: &Value, members: &Map<String, Value>, at: &str, found: &mut Vec<Fault>) {
        let empty = Map::new();
        let properties = schema.get("properties").and_then(Value::as_object).unwrap_or(&empty);
        for name in schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str) {
            if !members.contains_key(name) {
                found.push(fault(&format!("{at}/{}", step(name)), "is needed"));
            }
        }
        let is_closed = schema.get("additionalProperties") == Some(&Value::Bool(false));
        for (name, value) in members {
            let at = format!("{at}/{}", step(name));
            match properties.get(name) {
                Some(schema) => self.value(schema, value, &at, found),
                None if is_closed => {
                    let known: Vec<_> = properties.keys().map(String::as_str).collect();
                    found.push(fault(&at, format!("unknown; known are {}", known.join(", "))));
                }
                None => {}
            }
        }
    }

    /// One of several; the faults told are those of the one that comes nearest: the one of the right kind.
    fn any_of(&self, choices: &[Value], value: &Value, at: &str, found: &mut Vec<Fault>) {
        let mut nearest: Option<Vec<Fault>> = None;
        for choice in choices {
            let mut faults = Vec::new();
            self.value(choice, value, at, &mut faults);
            if faults.is_empty() {
                return;
            }
            let is_deeper = faults.iter().any(|fault| fault.pointer.len() > at.len());
            if nearest.is_none() || is_deeper {
                nearest = Some(faults);
            }
        }
        found.extend(nearest.unwrap_or_default());
    }
}

fn written<T: serde::Serialize>(part: &T) -> Value {
    serde_json::to_value(part).unwrap_or_default()
}

fn fault(pointer: &str, detail: impl Into<String>) -> Fault {
    Fault { pointer: pointer.to_owned(), detail: detail.into() }
}

/// A member's name in a JSON pointer (RFC 6901, section 3).
fn step(name: &str) -> String {
    name.chars().take(100).collect::<String>().replace('~', "~0").replace('/', "~1")
}

fn kinds(schema: &Value) -> Vec<&str> {
    match schema.get("type") {
        Some(Value::String(kind)) => vec![kind],
        Some(Value::Array(kinds)) => kinds.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}

fn is_kind(kind: &str, value: &Value) -> bool {
    match kind {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        _ => true,
    }
}

fn expected(kinds: &[&str]) -> String {
    let words: Vec<_> = kinds
        .iter()
        .filter(|kind| **kind != "null")
        .map(|kind| match *kind {
            "boolean" => "true or false",
            "integer" => "a whole number",
            "number" => "a number",
            "string" => "a text",
            "array" => "a list",
            "object" => "an object",
            _ => "nothing",
        })
        .collect();
    words.join(" or ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[derive(serde::Deserialize, utoipa::ToSchema)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only its schema is used")]
    struct Wanted {
        #[schema(min_length = 1, max_length = 5)]
        name: String,
        count: Option<i32>,
        #[schema(format = DateTime)]
        at: Option<String>,
        inner: Option<Inner>,
        #[schema(max_items = 2)]
        list: Option<Vec<uuid::Uuid>>,
    }

    #[derive(serde::Deserialize, utoipa::ToSchema)]
    #[expect(dead_code, reason = "only its schema is used")]
    struct Inner {
        #[schema(minimum = 1)]
        size: u32,
    }

    fn faults(value: &Value) -> Vec<String> {
        let mut found: Vec<_> = Shape::of::<Wanted>().check(value).iter().map(|f| f.pointer.clone()).collect();
        found.sort();
        found
    }

    #[test]
    fn what_the_schema_allows_passes() {
        assert_eq!(faults(&json!({"name": "a"})), [""; 0]);
        let all = json!({
            "name": "abcde", "count": null, "at": "2026-11-22T05:20:08Z", "inner": {"size": 1, "more": true},
            "list": ["0193f2a0-5b1c-7a11-9d0e-1f2a3b4c5d6e"],
        });
        assert_eq!(faults(&all), [""; 0]);
    }

    #[test]
    fn all_faults_are_told_with_their_places() {
        assert_eq!(faults(&json!([])), [""]);
        assert_eq!(faults(&json!({"nam/e": 1})), ["/name", "/nam~1e"]);
        let wrong = json!({
            "name": "abcdef", "count": "1", "at": "tomorrow", "inner": {"size": 0}, "list": ["x"], "name\u{0}": "",
        });
        assert_eq!(faults(&wrong), ["/at", "/count", "/inner/size", "/list/0", "/name", "/name\u{0}"]);
        assert_eq!(faults(&json!({"name": "a\u{0}", "inner": {}})), ["/inner/size", "/name"]);
    }
}
