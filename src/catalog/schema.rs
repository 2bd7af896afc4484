//! The schema of a command in the API's document, made of the same tables that check one.

use serde_json::Value;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{
    AdditionalProperties, AllOf, Array, KnownFormat, Object, ObjectBuilder, OneOf, Schema, SchemaFormat, Type,
};
use utoipa::{PartialSchema, ToSchema};

use super::Verb;
use super::example::example;
use super::field::{Field, Kind};
use super::parameters::{SPECS, Spec};

impl ToSchema for Verb {
    fn name() -> std::borrow::Cow<'static, str> {
        "Command".into()
    }
}

impl PartialSchema for Verb {
    fn schema() -> RefOr<Schema> {
        let mut verbs = OneOf::with_capacity(SPECS.len());
        verbs.description = Some("What to do; `type` says which of these it is.".to_owned());
        verbs.items = SPECS.iter().map(|spec| RefOr::T(verb(spec))).collect();
        RefOr::T(Schema::OneOf(verbs))
    }
}

fn verb(spec: &Spec) -> Schema {
    let tag = ObjectBuilder::new().schema_type(Type::String).enum_values(Some([spec.name])).build();
    let mut object = members(ObjectBuilder::new().property("type", tag).required("type"), spec.fields)
        .title(Some(spec.name))
        .description(Some(spec.about));
    let mut shown = example(spec.name);
    if let Value::Object(members) = &mut shown {
        members.insert("type".to_owned(), spec.name.into());
    }
    object = object.examples([shown]);
    if spec.exactly_one.is_empty() {
        return Schema::Object(object.build());
    }
    let mut choice = OneOf::with_capacity(spec.exactly_one.len());
    choice.items = spec.exactly_one.iter().map(|name| ObjectBuilder::new().required(*name).build().into()).collect();
    let mut both = AllOf::with_capacity(2);
    both.title = Some(spec.name.to_owned());
    both.items = vec![object.build().into(), RefOr::T(Schema::OneOf(choice))];
    Schema::AllOf(both)
}

fn members(object: ObjectBuilder, fields: &'static [Field]) -> ObjectBuilder {
    let object = object.additional_properties(Some(AdditionalProperties::<Schema>::FreeForm(false)));
    fields.iter().fold(object, |object, field| {
        let object = object.property(field.name, kind(&field.kind, Some(field.about)));
        if field.required { object.required(field.name) } else { object }
    })
}

fn kind(kind: &'static Kind, about: Option<&str>) -> Schema {
    let of = |schema_type: Type| ObjectBuilder::new().schema_type(schema_type).description(about);
    let object: Object = match kind {
        Kind::Flag => of(Type::Boolean).build(),
        Kind::Text(rule) => {
            let about =
                about.map_or_else(|| rule.expected.to_owned(), |about| format!("{about} {}", sentence(rule.expected)));
            let text = of(Type::String).description(Some(about)).min_length(Some(1)).max_length(Some(rule.max));
            text.pattern(Some(rule.pattern)).build()
        }
        // Numbers of the schema are floating point; 2^63 is written as a limit nowhere.
        Kind::Integer { min, .. } => of(Type::Integer)
            .format(Some(SchemaFormat::KnownFormat(KnownFormat::Int64)))
            .minimum(i32::try_from(*min).ok().map(f64::from))
            .build(),
        Kind::IntegerOf(allowed) => of(Type::Integer).enum_values(Some(allowed.iter().copied())).build(),
        Kind::Choice(words) => of(Type::String).enum_values(Some(words.iter().copied())).build(),
        Kind::Id => of(Type::String).format(Some(SchemaFormat::KnownFormat(KnownFormat::Uuid))).build(),
        Kind::Base64(max) => {
            let about = format!("{} At most {max} bytes.", about.unwrap_or_default());
            let text = of(Type::String).description(Some(about)).min_length(Some(4)).content_encoding("base64");
            text.pattern(Some("^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$")).build()
        }
        Kind::Object(fields) => members(of(Type::Object), fields).build(),
        Kind::Any => {
            let any = AdditionalProperties::<Schema>::FreeForm(true);
            of(Type::Object).additional_properties(Some(any)).build()
        }
        Kind::List(item, max) => {
            let mut list = Array::new(self::kind(item, None));
            list.description = about.map(str::to_owned);
            (list.min_items, list.max_items) = (Some(1), Some(*max));
            return Schema::Array(list);
        }
    };
    Schema::Object(object)
}

fn sentence(expected: &str) -> String {
    let mut chars = expected.chars();
    let first: String = chars.next().map(|c| c.to_uppercase().collect()).unwrap_or_default();
    format!("{first}{}.", chars.as_str())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_verb_and_field_is_in_the_schema() {
        let schema = serde_json::to_value(Verb::schema()).unwrap();
        let verbs = schema["oneOf"].as_array().unwrap();
        assert_eq!(verbs.len(), SPECS.len());
        for (spec, verb) in SPECS.iter().zip(verbs) {
            let object = verb.get("allOf").map_or(verb, |all| &all[0]);
            assert_eq!(object["properties"]["type"]["enum"], json!([spec.name]));
            assert_eq!(object["additionalProperties"], json!(false));
            for field in spec.fields {
                let property = &object["properties"][field.name];
                assert!(
                    property["description"].as_str().is_some_and(|about| about.contains(field.about)),
                    "{}",
                    field.name
                );
            }
        }
        assert_eq!(verbs[0]["properties"]["pin"]["pattern"], "^[0-9]{6}$");
    }
}
