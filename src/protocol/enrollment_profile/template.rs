use plist::{Dictionary, Value};
use uuid::Uuid;

use super::{Values, read};
use crate::model::{Secret, Sha256};
use crate::protocol::json::pointer_step;
use crate::protocol::profile::{Mobileconfig, ProfileFault};
use crate::protocol::wire::{self, Limits};

/// The word whose payload is repeated for each root.
const ROOT: &str = "{{root_certificate}}";

/// A template of an enrollment profile.
#[derive(Clone, Debug, PartialEq)]
pub struct Template(Dictionary);

impl Template {
    /// The template that comes along: `enrollment-profiles/device.mobileconfig`.
    pub const STANDARD: &str = include_str!("../../../enrollment-profiles/device.mobileconfig");

    /// Reads a template, and tries it with sample values: what comes out must be an enrollment profile that carries
    /// them.
    ///
    /// # Errors
    /// All faults at once: unknown words with their place, or what is wrong with the profile that comes out.
    pub fn parse(text: &str) -> Result<Self, Vec<ProfileFault>> {
        let root = wire::read(text.as_bytes(), Limits::PROFILE).and_then(wire::dictionary);
        let root = root.map_err(|error| vec![ProfileFault::new("", error.to_string())])?;
        let mut faults = Vec::new();
        check_words(&Value::Dictionary(root.clone()), "", &mut faults);
        if !faults.is_empty() {
            return Err(faults);
        }
        let template = Self(root);
        let sample = sample();
        let made = read(&Mobileconfig::parse(&template.render(&sample))?)?;
        for (carried, what) in [
            (made.identifier == sample.identifier, "identifier"),
            (made.scep.url == sample.scep_url, "scep_url"),
            (made.scep.challenge.as_ref() == Some(&sample.challenge), "challenge"),
            (made.mdm.topic == sample.topic, "topic"),
            (made.mdm.server_url == sample.server_url, "server_url"),
            (made.mdm.checkin_url == sample.checkin_url, "checkin_url"),
            (made.mdm.sign_message == sample.sign_message, "sign_message"),
            (made.roots == sample.roots, "root_certificate"),
        ] {
            if !carried {
                faults.push(ProfileFault::new("", format!("does not use {{{{{what}}}}} where it belongs")));
            }
        }
        if faults.is_empty() { Ok(template) } else { Err(faults) }
    }

    /// Fills it in: an XML property list, not signed.
    #[must_use]
    pub fn render(&self, values: &Values) -> Vec<u8> {
        wire::write(&Value::Dictionary(Filler { values, root: None }.dictionary(&self.0)))
    }
}

/// What stands for a word.
enum Word {
    Text(String),
    /// Something else than text, for a word that stands alone.
    Value(Value),
    /// It has no value: the key is left out.
    Nothing,
    Unknown,
}

struct Filler<'a> {
    values: &'a Values,
    /// The number (from 1) and the certificate of the root whose payload is being filled in.
    root: Option<(usize, &'a [u8])>,
}

impl Filler<'_> {
    fn word(&self, word: &str) -> Word {
        let v = self.values;
        let text = |text: &str| Word::Text(text.to_owned());
        match word {
            "identifier" => text(&v.identifier),
            "display_name" => text(&v.display_name),
            "description" => text(&v.description),
            "organization" => text(&v.organization),
            "scep_url" => text(&v.scep_url),
            "challenge" => text(v.challenge.expose()),
            "topic" => text(&v.topic),
            "server_url" => text(&v.server_url),
            "checkin_url" => text(&v.checkin_url),
            "subject" => Word::Value(subject(&v.subject)),
            "ca_fingerprint" => v.ca_fingerprint.clone().map_or(Word::Nothing, |bytes| Word::Value(Value::Data(bytes))),
            "sign_message" => Word::Value(Value::Boolean(v.sign_message)),
            "access_rights" => Word::Value(Value::Integer(v.access_rights.into())),
            "root_number" => self.root.map_or(Word::Nothing, |(number, _)| Word::Text(number.to_string())),
            "root_certificate" => self.root.map_or(Word::Nothing, |(_, der)| Word::Value(Value::Data(der.to_vec()))),
            _ => match word.strip_prefix("uuid:") {
                Some(label) if !label.is_empty() => {
                    let number = self.root.map_or(0, |(number, _)| number);
                    Word::Text(derived(v.uuid, label, number).hyphenated().to_string().to_uppercase())
                }
                _ => Word::Unknown,
            },
        }
    }

    fn value(&self, value: &Value) -> Option<Value> {
        match value {
            Value::String(text) => self.text(text),
            Value::Dictionary(members) => Some(Value::Dictionary(self.dictionary(members))),
            Value::Array(items) => Some(Value::Array(items.iter().flat_map(|item| self.item(item)).collect())),
            other => Some(other.clone()),
        }
    }

    /// An item of an array: once, or as often as there are roots.
    fn item(&self, item: &Value) -> Vec<Value> {
        if self.root.is_some() || !mentions_root(item) {
            return self.value(item).into_iter().collect();
        }
        let roots = self.values.roots.iter().enumerate();
        roots
            .filter_map(|(index, der)| Filler { values: self.values, root: Some((index + 1, der)) }.value(item))
            .collect()
    }

    fn dictionary(&self, members: &Dictionary) -> Dictionary {
        members.iter().filter_map(|(key, member)| Some((key.clone(), self.value(member)?))).collect()
    }

    fn text(&self, text: &str) -> Option<Value> {
        if let Some(word) = alone(text) {
            match self.word(word) {
                Word::Value(value) => return Some(value),
                Word::Text(text) => return Some(Value::String(text)),
                Word::Nothing => return None,
                Word::Unknown => {}
            }
        }
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some((before, word, after)) = next_word(rest) {
            out.push_str(before);
            if let Word::Text(text) = self.word(word) {
                out.push_str(&text);
            }
            rest = after;
        }
        out.push_str(rest);
        Some(Value::String(out))
    }
}

/// The word of a string that is nothing but one word.
fn alone(text: &str) -> Option<&str> {
    match next_word(text)? {
        ("", word, "") => Some(word),
        _ => None,
    }
}

/// The text before the first word, the word, and the text after it.
fn next_word(text: &str) -> Option<(&str, &str, &str)> {
    let (before, rest) = text.split_once("{{")?;
    let (word, after) = rest.split_once("}}")?;
    Some((before, word, after))
}

fn mentions_root(item: &Value) -> bool {
    let Value::Dictionary(members) = item else { return false };
    members.values().any(|member| member.as_string() == Some(ROOT))
}

/// Apple's form: an array of arrays of pairs.
fn subject(names: &[(String, String)]) -> Value {
    let pair = |(kind, name): &(String, String)| Value::Array(vec![kind.as_str().into(), name.as_str().into()]);
    Value::Array(names.iter().map(|name| Value::Array(vec![pair(name)])).collect())
}

/// The same for the same label and number within one profile, so that a payload can refer to another (UUIDv8).
fn derived(uuid: Uuid, label: &str, number: usize) -> Uuid {
    let mut seed = uuid.as_bytes().to_vec();
    seed.extend(number.to_be_bytes());
    seed.extend(label.as_bytes());
    let mut bytes = [0; 16];
    for (to, from) in bytes.iter_mut().zip(Sha256::of(&seed).0) {
        *to = from;
    }
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}

/// Finds words that do not exist, and words for data, numbers and the like inside of a text.
fn check_words(value: &Value, pointer: &str, faults: &mut Vec<ProfileFault>) {
    match value {
        Value::Dictionary(members) => {
            for (key, member) in members {
                check_words(member, &format!("{pointer}{}", pointer_step(key)), faults);
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                check_words(item, &format!("{pointer}/{index}"), faults);
            }
        }
        Value::String(text) => {
            let sample = sample();
            let filler = Filler { values: &sample, root: Some((1, &[])) };
            let mut rest = text.as_str();
            while let Some((_, word, after)) = next_word(rest) {
                let shown: String = word.chars().take(40).collect();
                match filler.word(word) {
                    Word::Unknown => faults.push(ProfileFault::new(pointer, format!("unknown word {{{{{shown}}}}}"))),
                    Word::Value(_) if alone(text).is_none() => {
                        faults.push(ProfileFault::new(pointer, format!("{{{{{shown}}}}} must stand alone")));
                    }
                    _ => {}
                }
                rest = after;
            }
        }
        _ => {}
    }
}

fn sample() -> Values {
    Values {
        identifier: "org.example.sample".to_owned(),
        display_name: "Sample".to_owned(),
        description: "Sample".to_owned(),
        organization: "Sample".to_owned(),
        uuid: Uuid::nil(),
        scep_url: "https://sample.example.org/scep".to_owned(),
        challenge: Secret::new("sample challenge".to_owned()),
        subject: vec![("CN".to_owned(), "sample".to_owned())],
        ca_fingerprint: Some(vec![1; 20]),
        topic: "com.apple.mgmt.External.sample".to_owned(),
        server_url: "https://sample.example.org/mdm".to_owned(),
        checkin_url: "https://sample.example.org/checkin".to_owned(),
        sign_message: true,
        access_rights: 1,
        roots: vec![b"first root".to_vec(), b"second root".to_vec()],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(text: &str) -> Vec<String> {
        Template::parse(text).unwrap_err().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_standard_template_makes_an_enrollment_profile() {
        let template = Template::parse(Template::STANDARD).unwrap();
        let values = Values {
            organization: "Kim & Sons <Ltd> {{topic}}".to_owned(),
            sign_message: false,
            access_rights: 8191,
            subject: vec![("CN".to_owned(), "a".to_owned()), ("O".to_owned(), "b & c".to_owned())],
            ..sample()
        };
        let profile = Mobileconfig::parse(&template.render(&values)).unwrap();
        assert_eq!(profile.organization.as_deref(), Some("Kim & Sons <Ltd> {{topic}}"));
        let types: Vec<_> = profile.payloads.iter().map(|payload| payload.payload_type.as_str()).collect();
        let root = "com.apple.security.root";
        assert_eq!(types, ["com.apple.security.scep", "com.apple.mdm", root, root]);
        assert_ne!(profile.payloads[2].identifier, profile.payloads[3].identifier);
        let made = read(&profile).unwrap();
        assert_eq!(made.scep.subject, [("CN".to_owned(), "a".to_owned()), ("O".to_owned(), "b & c".to_owned())]);
        assert_eq!((made.scep.key_bits, made.scep.key_usage), (2048, 5));
        assert_eq!(made.scep.ca_fingerprint, Some(vec![1; 20]));
        assert_eq!((made.mdm.sign_message, made.mdm.access_rights), (false, 8191));
        assert_eq!(made.roots, values.roots);
    }

    #[test]
    fn what_has_no_value_is_left_out() {
        let template = Template::parse(Template::STANDARD).unwrap();
        let values = Values { ca_fingerprint: None, roots: Vec::new(), ..sample() };
        let made = Mobileconfig::parse(&template.render(&values)).unwrap();
        assert_eq!(made.payloads.len(), 2);
        assert_eq!(read(&made).unwrap().scep.ca_fingerprint, None);
    }

    #[test]
    fn uuids_differ_by_profile_and_refer_to_each_other_within_one() {
        let template = Template::parse(Template::STANDARD).unwrap();
        let first = template.render(&sample());
        assert_eq!(first, template.render(&sample()));
        let other = Values { uuid: Uuid::max(), ..sample() };
        let uuids = |bytes: &[u8]| {
            let profile = Mobileconfig::parse(bytes).unwrap();
            profile.payloads.into_iter().map(|payload| payload.uuid).chain([profile.uuid]).collect::<Vec<_>>()
        };
        let (first, other) = (uuids(&first), uuids(&template.render(&other)));
        assert!(first.iter().all(|uuid| !other.contains(uuid)));
    }

    #[test]
    fn faults_of_a_template_are_named() {
        assert!(faults("hello")[0].contains("not a property list"));
        let wrong = Template::STANDARD.replace("{{topic}}", "{{topik}}");
        assert_eq!(faults(&wrong), ["/PayloadContent/1/Topic: unknown word {{topik}}"]);
        let wrong = Template::STANDARD.replace("{{sign_message}}", "is {{sign_message}}");
        assert_eq!(faults(&wrong), ["/PayloadContent/1/SignMessage: {{sign_message}} must stand alone"]);
        let wrong = Template::STANDARD.replace("{{challenge}}", "secret");
        assert_eq!(faults(&wrong), [": does not use {{challenge}} where it belongs"]);
        let wrong = Template::STANDARD.replace("com.apple.security.scep", "com.apple.security.acme");
        assert!(faults(&wrong)[0].contains("com.apple.security.scep"), "{wrong}");
    }
}
