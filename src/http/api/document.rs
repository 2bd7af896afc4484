//! The OpenAPI document: what the handlers say of themselves, and what is the same for all of them.

use serde_json::{Map, Value, json};
use utoipa::{PartialSchema, ToSchema};

use super::super::Problem;
use super::super::problem::{self, Pointed};
use super::roles::{RULES, Rule};
use super::{example, fault, routes};

const ABOUT: &str = "The API of Muster, an MDM server for Apple devices.

All requests carry a token: `Authorization: Bearer muster_…`. Bodies are JSON; errors are \
`application/problem+json` (RFC 9457) with a stable `code`. Lists come in pages: follow `next_cursor`. A POST that \
creates something may carry an `Idempotency-Key`: sent again within a day, the same request gets the same answer and \
creates nothing more. Every answer has an `X-Request-Id` that finds the request in the server's log.";

const TAGS: &[(&str, &str)] = &[
    ("Server", "The server itself"),
    ("Devices", "Managed devices and their enrollments"),
    ("Commands", "What devices are asked to do, and what came of it"),
    ("Enrollment", "Links and challenges by which devices enroll"),
    ("Profiles", "Configuration profiles kept for installing"),
    ("Apps", "Apps kept for installing"),
    ("Push", "Apple's push service: certificates and requests for them"),
    ("Certificates", "Certificates of devices, and the authorities that issue them"),
    ("Tokens", "Tokens for this API"),
    ("Webhooks", "Addresses that are told of what devices send"),
    ("Audit", "Who did what to what"),
];

/// The document of the API, OpenAPI 3.1.
#[must_use]
pub fn openapi() -> Value {
    let (_, made) = routes().split_for_parts();
    let mut document = serde_json::to_value(made).unwrap_or_default();
    let is_used = |tag: &str, document: &Value| {
        let text = document["paths"].to_string();
        text.contains(&format!("\"tags\":[\"{tag}\"]"))
    };
    let tags: Vec<_> = TAGS.iter().filter(|(name, _)| is_used(name, &document)).collect();
    let tags: Vec<_> = tags.into_iter().map(|(name, about)| json!({"name": name, "description": about})).collect();
    document["openapi"] = json!("3.1.0");
    document["info"] = json!({
        "title": "Muster",
        "version": env!("CARGO_PKG_VERSION"),
        "description": ABOUT,
        "license": {"name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0"},
    });
    document["servers"] = json!([{"url": "/", "description": "The admin listener"}]);
    document["tags"] = json!(tags);
    document["security"] = json!([{"token": []}]);
    document["components"]["securitySchemes"] = json!({
        "token": {"type": "http", "scheme": "bearer", "description": "A token of this server: `muster_…`"},
    });
    document["components"]["schemas"]["Problem"] = json!(Problem::schema());
    document["components"]["schemas"][Pointed::name().as_ref()] = json!(Pointed::schema());
    document["components"]["responses"] = responses();
    let components = document["components"].clone();
    for rule in RULES {
        let method = rule.method.to_lowercase();
        if let Some(operation) = document["paths"].get_mut(rule.path).and_then(|item| item.get_mut(method)) {
            complete(operation, rule);
            example::complete(operation, &components);
        }
    }
    document
}

/// The name of a status' response among the components.
fn response_name(status: u16) -> String {
    format!("Problem{status}")
}

/// One response for each status, with the codes that go with it.
fn responses() -> Value {
    let mut responses = Map::new();
    for (_, status, _) in fault::CODES {
        let codes: Vec<_> = fault::CODES.iter().filter(|(_, of, _)| of == status).collect();
        let about: Vec<_> = codes.iter().map(|(code, _, about)| format!("`{code}`: {about}")).collect();
        let mut examples = Map::new();
        for (code, status, about) in &codes {
            let status = http::StatusCode::from_u16(*status).unwrap_or_default();
            examples.insert((*code).to_owned(), json!({"value": Problem::new(status, code, *about)}));
        }
        let mut headers = Map::new();
        if matches!(status, 429 | 503) {
            headers.insert("Retry-After".to_owned(), json!({"schema": {"type": "integer"}, "description": "Seconds"}));
        }
        if *status == 401 {
            headers.insert("WWW-Authenticate".to_owned(), json!({"schema": {"type": "string"}}));
        }
        let mut response = json!({
            "description": about.join("; "),
            "content": {problem::CONTENT: {
                "schema": {"$ref": "#/components/schemas/Problem"},
                "examples": examples,
            }},
        });
        if !headers.is_empty() {
            response["headers"] = headers.into();
        }
        responses.insert(response_name(*status), response);
    }
    responses.into()
}

/// Adds to an operation what follows from its route: the role, and what can go wrong.
fn complete(operation: &mut Value, rule: &Rule) {
    let has_body = operation.get("requestBody").is_some();
    let parameters = operation.get("parameters").and_then(Value::as_array).cloned().unwrap_or_default();
    let has = |place: &str| parameters.iter().any(|parameter| parameter["in"] == place);
    let mut statuses = vec![401, 403, 500, 503];
    if has("query") || has_body || rule.method == "POST" {
        statuses.push(400);
    }
    if has("path") {
        statuses.push(404);
    }
    if has_body {
        statuses.extend([408, 413, 415, 422]);
    }
    if rule.is_upload {
        statuses.push(429);
    }
    // Also where a device is named by a serial number that several have.
    if rule.method != "GET" || rule.path.contains("/devices/{id}") {
        statuses.push(409);
    }
    if let Some(condition) = parameters.iter().find(|parameter| parameter["name"] == "If-Match") {
        statuses.extend([400, 412]);
        statuses.extend((condition["required"] == true).then_some(428));
    }
    // What makes something (201), or takes it on (202), can be sent again safely.
    let mut makes_something = false;
    if let Some(responses) = operation.get_mut("responses").and_then(Value::as_object_mut) {
        for (status, response) in responses.iter_mut() {
            // Required of a response, even where the summary of the operation says it all.
            let reason = status.parse().ok().and_then(|status| http::StatusCode::from_u16(status).ok());
            let about = reason.and_then(|status| status.canonical_reason()).unwrap_or("An answer");
            if let Some(response) = response.as_object_mut() {
                response.entry("description").or_insert_with(|| about.into());
            }
        }
        makes_something = rule.method == "POST" && (responses.contains_key("201") || responses.contains_key("202"));
        for status in statuses {
            let reference = format!("#/components/responses/{}", response_name(status));
            responses.entry(status.to_string()).or_insert_with(|| json!({"$ref": reference}));
        }
    }
    if makes_something && has_body {
        let key = json!({
            "name": "Idempotency-Key", "in": "header", "required": false,
            "description": "Makes the request safe to send again: the same key with the same request gets the same \
                            answer for a day and creates nothing more.",
            "schema": {"type": "string", "minLength": 1, "maxLength": 200},
        });
        if let Some(operation) = operation.as_object_mut() {
            let parameters = operation.entry("parameters").or_insert_with(|| json!([]));
            if let Some(parameters) = parameters.as_array_mut() {
                parameters.push(key);
            }
        }
    }
    let about = operation.get("description").and_then(Value::as_str).unwrap_or_default();
    let about = format!("{about}\n\nRole: {}", rule.role);
    operation["description"] = json!(about.trim());
    operation["x-role"] = json!(rule.role);
}

#[cfg(test)]
mod tests {
    use super::super::check::Shape;
    use super::*;

    #[test]
    fn every_operation_is_described_and_every_reference_leads_somewhere() {
        let document = openapi();
        for (path, item) in document["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                let name = format!("{method} {path}");
                assert!(operation["summary"].as_str().is_some_and(|text| !text.is_empty()), "{name}: no summary");
                let tag = operation["tags"][0].as_str().unwrap_or_default();
                assert!(TAGS.iter().any(|(known, _)| *known == tag), "{name}: no tag");
                assert!(operation["responses"].as_object().unwrap().keys().any(|s| s.starts_with('2')), "{name}");
            }
        }
        let text = document.to_string();
        for reference in text.split("\"$ref\":\"#").skip(1) {
            let pointer = reference.split('"').next().unwrap();
            assert!(document.pointer(pointer).is_some(), "{pointer} leads nowhere");
        }
    }

    #[test]
    fn every_json_body_has_an_example_that_is_right() {
        let document = openapi();
        let (mut seen, mut faults) = (0, Vec::new());
        for (path, item) in document["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                let answers = operation["responses"].as_object().unwrap().iter();
                let answers = answers.filter(|(status, _)| status.starts_with('2')).map(|(_, answer)| answer);
                for body in answers.chain(operation.get("requestBody")) {
                    let Some(content) = body.pointer("/content/application~1json") else { continue };
                    let schema = &content["schema"];
                    let found = example::of(schema, &document["components"]);
                    let found = content.get("example").cloned().or(found).unwrap_or_default();
                    assert!(!found.is_null() && found != json!({}), "{method} {path}: no example");
                    for fault in Shape::in_document(schema, &document).check(&found) {
                        faults.push(format!("{method} {path}: {}: {}", fault.pointer, fault.detail));
                    }
                    seen += 1;
                }
            }
        }
        assert!(faults.is_empty(), "{faults:#?}");
        assert!(seen > 40, "the search finds what it is for: {seen}");
    }

    #[test]
    fn each_code_stands_once() {
        let mut codes: Vec<_> = fault::CODES.iter().map(|(code, ..)| code).collect();
        codes.sort_unstable();
        assert!(codes.windows(2).all(|two| two[0] != two[1]));
    }
}
