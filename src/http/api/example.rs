//! Examples of the document: made from what the schemas say of their members, so that none is written twice and none
//! falls behind its schema.

use serde_json::{Map, Value, json};

/// How deep schemas are followed; none of ours nests deeper.
const MAX_DEPTH: usize = 12;

/// Gives each JSON body of an operation an example where neither it nor its schema has one.
pub(super) fn complete(operation: &mut Value, components: &Value) {
    if let Some(body) = operation.get_mut("requestBody") {
        body_example(body, components);
    }
    for (status, response) in operation["responses"].as_object_mut().into_iter().flatten() {
        if status.starts_with('2') {
            body_example(response, components);
        }
    }
}

fn body_example(body: &mut Value, components: &Value) {
    let Some(content) = body.pointer_mut("/content/application~1json").and_then(Value::as_object_mut) else { return };
    if content.contains_key("example") || content.contains_key("examples") {
        return;
    }
    if let Some(example) = content.get("schema").and_then(|schema| of(schema, components)) {
        content.insert("example".to_owned(), example);
    }
}

/// An example of what a schema describes: its own, or one made of those of its parts. A member that has none, and whose
/// kind tells nothing about it, is left out.
pub(super) fn of(schema: &Value, components: &Value) -> Option<Value> {
    made(schema, components, 0)
}

fn made(schema: &Value, components: &Value, depth: usize) -> Option<Value> {
    if depth > MAX_DEPTH {
        return None;
    }
    if let Some(reference) = schema.get("$ref").and_then(Value::as_str) {
        let name = reference.rsplit('/').next()?;
        return made(components["schemas"].get(name)?, components, depth + 1);
    }
    if let Some(example) = schema.get("example") {
        return Some(example.clone());
    }
    if let Some(example) = schema.get("examples").and_then(|examples| examples.get(0)) {
        return Some(example.clone());
    }
    if let Some(word) = schema.get("enum").and_then(|words| words.get(0)) {
        return Some(word.clone());
    }
    if let Some(choices) = ["oneOf", "anyOf"].iter().find_map(|key| schema.get(*key)?.as_array()) {
        return choices
            .iter()
            .find_map(|choice| made(choice, components, depth + 1).filter(|example| !example.is_null()));
    }
    if let Some(parts) = schema.get("allOf").and_then(Value::as_array) {
        let parts = parts.iter().filter_map(|part| made(part, components, depth + 1));
        return Some(parts.filter_map(|part| part.as_object().cloned()).flatten().collect::<Map<_, _>>().into());
    }
    let is = |kind: &str| {
        let kinds = &schema["type"];
        kinds == kind || kinds.as_array().is_some_and(|kinds| kinds.iter().any(|one| one == kind))
    };
    if let Some(properties) = schema.get("properties").and_then(Value::as_object) {
        let members = properties.iter();
        let members = members.filter_map(|(name, member)| Some((name.clone(), made(member, components, depth + 1)?)));
        return Some(members.collect::<Map<_, _>>().into());
    }
    if is("array") {
        return Some(made(&schema["items"], components, depth + 1).into_iter().collect::<Vec<_>>().into());
    }
    if is("integer") {
        return Some(schema.get("minimum").cloned().unwrap_or(json!(1)));
    }
    if is("boolean") {
        return Some(json!(false));
    }
    None
}
