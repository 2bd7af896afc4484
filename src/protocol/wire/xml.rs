use std::borrow::Cow;

use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use base64::{Engine as _, alphabet};
use plist::{Dictionary, Integer, Value};
use quick_xml::Reader;
use quick_xml::escape::resolve_xml_entity;
use quick_xml::events::Event;

use super::{Budget, Limits, MAX_DEPTH, Text, WireError, date, is_xml_char};

/// Reads one XML property list. Entities of a DTD are never expanded; CDATA counts as text.
pub(super) fn read(text: &str, limits: Limits, mode: Text) -> Result<Value, WireError> {
    let text = text.strip_prefix('\u{FEFF}').unwrap_or(text);
    let mut reader = Reader::from_str(text);
    let config = reader.config_mut();
    config.expand_empty_elements = true;
    config.allow_dangling_amp = mode == Text::Lenient;
    let mut source = Source { reader, mode };
    let mut builder = Builder::new(limits, mode);
    loop {
        match source.next()? {
            Event::Start(tag) => match Element::of(tag.local_name().as_ref()) {
                Some(Element::Plist) => builder.plist().map_err(|problem| source.malformed(problem))?,
                Some(Element::Array) => builder.open(Frame::Array(Vec::new()), &source)?,
                Some(Element::Dict) => builder.open(Frame::Dict(Dictionary::new(), None), &source)?,
                Some(Element::Key) => {
                    let key = source.content()?;
                    builder.key(key, &source)?;
                }
                Some(Element::Scalar(kind)) => {
                    let content = source.content()?;
                    let value = source.scalar(kind, content)?;
                    builder.value(value, &source)?;
                }
                None => {
                    let name = String::from_utf8_lossy(tag.local_name().as_ref()).chars().take(40).collect::<String>();
                    return Err(source.malformed(&format!("unknown element <{name}>")));
                }
            },
            Event::End(tag) => {
                if matches!(Element::of(tag.local_name().as_ref()), Some(Element::Array | Element::Dict)) {
                    builder.close(&source)?;
                }
            }
            Event::Text(content) if !content.iter().all(u8::is_ascii_whitespace) => {
                return Err(source.malformed("text outside of an element"));
            }
            Event::CData(_) | Event::GeneralRef(_) => return Err(source.malformed("text outside of an element")),
            Event::Eof => return builder.finish(&source),
            _ => {}
        }
    }
}

/// The elements of Apple's property list DTD.
#[derive(Clone, Copy)]
enum Element {
    Plist,
    Array,
    Dict,
    Key,
    Scalar(Scalar),
}

#[derive(Clone, Copy)]
enum Scalar {
    String,
    Data,
    Date,
    Integer,
    Real,
    True,
    False,
}

impl Element {
    fn of(name: &[u8]) -> Option<Self> {
        Some(match name {
            b"plist" => Self::Plist,
            b"array" => Self::Array,
            b"dict" => Self::Dict,
            b"key" => Self::Key,
            b"string" => Self::Scalar(Scalar::String),
            b"data" => Self::Scalar(Scalar::Data),
            b"date" => Self::Scalar(Scalar::Date),
            b"integer" => Self::Scalar(Scalar::Integer),
            b"real" => Self::Scalar(Scalar::Real),
            b"true" => Self::Scalar(Scalar::True),
            b"false" => Self::Scalar(Scalar::False),
            _ => return None,
        })
    }
}

struct Source<'a> {
    reader: Reader<&'a [u8]>,
    mode: Text,
}

impl<'a> Source<'a> {
    fn next(&mut self) -> Result<Event<'a>, WireError> {
        let event = self.reader.read_event();
        event.map_err(|error| self.malformed(&error.to_string()))
    }

    fn malformed(&self, problem: &str) -> WireError {
        // The parser's own texts quote the input.
        let problem = problem.chars().take(120).collect();
        WireError::Malformed { at: self.reader.buffer_position(), problem }
    }

    /// The text up to the end of the element that was just opened.
    fn content(&mut self) -> Result<String, WireError> {
        let mut content = String::new();
        loop {
            match self.next()? {
                Event::Text(text) => self.push(&mut content, text.xml10_content())?,
                Event::CData(text) => self.push(&mut content, text.xml10_content())?,
                Event::GeneralRef(name) => {
                    let c = match name.resolve_char_ref() {
                        Ok(Some(c)) => Some(c),
                        Ok(None) => {
                            let name = std::str::from_utf8(&name).unwrap_or_default();
                            resolve_xml_entity(name).and_then(|text| text.chars().next())
                        }
                        Err(_) => None,
                    };
                    match c.filter(|c| is_xml_char(*c)) {
                        Some(c) => content.push(c),
                        None if self.mode == Text::Lenient => content.push('\u{FFFD}'),
                        None => return Err(self.malformed("a reference to an unknown entity or character")),
                    }
                }
                Event::Start(_) => return Err(self.malformed("an element inside of a scalar")),
                Event::End(_) => return Ok(content),
                Event::Eof => return Err(self.malformed("it ends inside of an element")),
                _ => {}
            }
        }
    }

    fn push<E>(&self, content: &mut String, text: Result<Cow<'_, str>, E>) -> Result<(), WireError> {
        let text = text.map_err(|_| WireError::NotText)?;
        if text.chars().all(is_xml_char) {
            content.push_str(&text);
        } else if self.mode == Text::Lenient {
            content.extend(text.chars().map(|c| if is_xml_char(c) { c } else { '\u{FFFD}' }));
        } else {
            return Err(self.malformed("a control character"));
        }
        Ok(())
    }

    fn scalar(&self, kind: Scalar, content: String) -> Result<Value, WireError> {
        let (value, what) = match kind {
            Scalar::String => return Ok(Value::String(content)),
            Scalar::True => return Ok(Value::Boolean(true)),
            Scalar::False => return Ok(Value::Boolean(false)),
            Scalar::Data => (data(&content).map(Value::Data), "base64 data"),
            Scalar::Date => (date::parse(&content).map(Value::Date), "date"),
            Scalar::Integer => (integer(&content).map(Value::Integer), "integer"),
            Scalar::Real => (content.trim().parse().ok().map(Value::Real), "real number"),
        };
        match value {
            Some(value) => Ok(value),
            None if self.mode == Text::Lenient => Ok(Value::String(content)),
            None => Err(self.malformed(&format!("a {what} that is none"))),
        }
    }
}

/// Base64 as clients write it: broken into lines, padded or not.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

fn data(text: &str) -> Option<Vec<u8>> {
    let packed: String = text.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    BASE64.decode(packed).ok()
}

/// An integer from -2^63 to 2^64-1, decimal or (as some writers do) `0x…`.
fn integer(text: &str) -> Option<Integer> {
    let text = text.trim();
    if let Some(hex) = text.strip_prefix("0x") {
        return u64::from_str_radix(hex, 16).ok().map(Integer::from);
    }
    text.parse::<i64>().map(Integer::from).or_else(|_| text.parse::<u64>().map(Integer::from)).ok()
}

enum Frame {
    Array(Vec<Value>),
    /// The members, and the key that waits for its value.
    Dict(Dictionary, Option<String>),
}

/// Puts values together on a stack of its own, so that no input decides how deep the program's stack goes.
struct Builder {
    frames: Vec<Frame>,
    root: Option<Value>,
    in_plist: bool,
    budget: Budget,
    mode: Text,
}

impl Builder {
    const fn new(limits: Limits, mode: Text) -> Self {
        Self { frames: Vec::new(), root: None, in_plist: false, budget: Budget::new(limits), mode }
    }

    fn plist(&mut self) -> Result<(), &'static str> {
        if self.in_plist || self.root.is_some() || !self.frames.is_empty() {
            return Err("<plist> inside of another element");
        }
        self.in_plist = true;
        Ok(())
    }

    fn open(&mut self, frame: Frame, source: &Source<'_>) -> Result<(), WireError> {
        if self.frames.len() >= MAX_DEPTH {
            return Err(WireError::TooDeep);
        }
        self.expect_value(source)?;
        self.frames.push(frame);
        Ok(())
    }

    fn close(&mut self, source: &Source<'_>) -> Result<(), WireError> {
        let value = match self.frames.pop() {
            Some(Frame::Array(items)) => Value::Array(items),
            Some(Frame::Dict(members, None)) => Value::Dictionary(members),
            Some(Frame::Dict(members, Some(_))) if self.mode == Text::Lenient => Value::Dictionary(members),
            Some(Frame::Dict(_, Some(_))) => return Err(source.malformed("a key without a value")),
            None => return Err(source.malformed("an end without a start")),
        };
        self.put(value);
        Ok(())
    }

    fn key(&mut self, key: String, source: &Source<'_>) -> Result<(), WireError> {
        self.budget.spend()?;
        match self.frames.last_mut() {
            Some(Frame::Dict(_, waiting @ None)) => *waiting = Some(key),
            Some(Frame::Dict(_, waiting)) if self.mode == Text::Lenient => *waiting = Some(key),
            Some(Frame::Dict(..)) => return Err(source.malformed("a key without a value")),
            _ => return Err(source.malformed("a key outside of a dictionary")),
        }
        Ok(())
    }

    fn value(&mut self, value: Value, source: &Source<'_>) -> Result<(), WireError> {
        self.expect_value(source)?;
        self.put(value);
        Ok(())
    }

    /// Whether a value may stand here; pays for it.
    fn expect_value(&mut self, source: &Source<'_>) -> Result<(), WireError> {
        self.budget.spend()?;
        match self.frames.last() {
            Some(Frame::Dict(_, None)) => Err(source.malformed("a value without a key")),
            None if self.root.is_some() => Err(source.malformed("a second outermost value")),
            _ => Ok(()),
        }
    }

    fn put(&mut self, value: Value) {
        match self.frames.last_mut() {
            Some(Frame::Array(items)) => items.push(value),
            Some(Frame::Dict(members, key)) => {
                if let Some(key) = key.take() {
                    members.insert(key, value);
                }
            }
            None => self.root = Some(value),
        }
    }

    fn finish(self, source: &Source<'_>) -> Result<Value, WireError> {
        if !self.frames.is_empty() {
            return Err(source.malformed("it ends inside of an element"));
        }
        self.root.ok_or_else(|| source.malformed("there is no value in it"))
    }
}
