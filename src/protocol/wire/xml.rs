use std::borrow::Cow;

use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use base64::{Engine as _, alphabet};
use plist::{Dictionary, Integer, Value};
use quick_xml::Reader;
use quick_xml::escape::resolve_xml_entity;
use quick_xml::events::Event;

use super::shown::Shown;
use super::{Budget, Limits, MAX_DEPTH, ReadReport, Text, WireError, date, is_xml_char};

/// Reads one XML property list. Entities of a DTD are never expanded; CDATA counts as text.
pub(super) fn read(text: &str, limits: Limits, mode: Text) -> Result<Value, WireError> {
    Ok(read_showing(text, limits, mode, &[])?.0)
}

/// As [`read`]; but of the members of the outermost dictionary that are named in `shown`, arrays and dictionaries are left
/// out, and given as JSON: see [`super::shown`].
pub(super) fn read_showing(
    text: &str,
    limits: Limits,
    mode: Text,
    shown: &'static [&'static str],
) -> Result<ReadReport, WireError> {
    let text = text.strip_prefix('\u{FEFF}').unwrap_or(text);
    let mut reader = Reader::from_str(text);
    let config = reader.config_mut();
    config.expand_empty_elements = true;
    config.allow_dangling_amp = mode == Text::Lenient;
    let mut source = Source { reader, mode };
    let mut builder = Builder::new(limits, mode, shown);
    let mut content = String::new();
    loop {
        match source.next()? {
            Event::Start(tag) => match Element::of(tag.local_name().as_ref()) {
                Some(Element::Plist) => builder.plist().map_err(|problem| source.malformed(problem))?,
                Some(Element::Array) => builder.open(Container::Array, &source)?,
                Some(Element::Dict) => builder.open(Container::Dict, &source)?,
                Some(Element::Key) => {
                    source.content(&mut content)?;
                    builder.key(&content, &source)?;
                }
                Some(Element::Scalar(kind)) => {
                    source.content(&mut content)?;
                    builder.scalar(kind, &content, &source)?;
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

    /// The text up to the end of the element that was just opened, in place of what is in `content`.
    fn content(&mut self, content: &mut String) -> Result<(), WireError> {
        content.clear();
        loop {
            match self.next()? {
                Event::Text(text) => self.push(content, text.xml10_content())?,
                Event::CData(text) => self.push(content, text.xml10_content())?,
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
                Event::End(_) => return Ok(()),
                Event::Eof => return Err(self.malformed("it ends inside of an element")),
                _ => {}
            }
        }
    }

    fn push<E>(&self, content: &mut String, text: Result<Cow<'_, str>, E>) -> Result<(), WireError> {
        let text = text.map_err(|_| WireError::NotText)?;
        // Nearly all text is ASCII, which is told by the bytes, several at a time.
        let is_plain = text.bytes().all(|byte| byte.is_ascii_graphic() || matches!(byte, b' ' | b'\t' | b'\n' | b'\r'));
        if is_plain || text.chars().all(is_xml_char) {
            content.push_str(&text);
        } else if self.mode == Text::Lenient {
            content.extend(text.chars().map(|c| if is_xml_char(c) { c } else { '\u{FFFD}' }));
        } else {
            return Err(self.malformed("a control character"));
        }
        Ok(())
    }

    fn scalar(&self, kind: Scalar, content: &str) -> Result<Value, WireError> {
        let (value, what) = match kind {
            Scalar::String => return Ok(Value::String(content.to_owned())),
            Scalar::True => return Ok(Value::Boolean(true)),
            Scalar::False => return Ok(Value::Boolean(false)),
            Scalar::Data => (data(content).map(Value::Data), "base64 data"),
            Scalar::Date => (date::parse(content).map(Value::Date), "date"),
            Scalar::Integer => (integer(content).map(Value::Integer), "integer"),
            Scalar::Real => (content.trim().parse().ok().map(Value::Real), "real number"),
        };
        match value {
            Some(value) => Ok(value),
            None if self.mode == Text::Lenient => Ok(Value::String(content.to_owned())),
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

#[derive(Clone, Copy, PartialEq, Eq)]
enum Container {
    Array,
    Dict,
}

enum Frame {
    Array(Vec<Value>),
    /// The members, and the key that waits for its value.
    Dict(Dictionary, Option<String>),
    /// One that is written as JSON; whether a key waits for its value.
    Shown(Container, bool),
}

/// Puts values together on a stack of its own, so that no input decides how deep the program's stack goes.
struct Builder {
    frames: Vec<Frame>,
    root: Option<Value>,
    in_plist: bool,
    budget: Budget,
    mode: Text,
    /// The members that are written as JSON.
    names: &'static [&'static str],
    /// The one that is being written.
    current: Option<(&'static str, Shown)>,
    shown: Vec<(&'static str, String)>,
}

impl Builder {
    const fn new(limits: Limits, mode: Text, names: &'static [&'static str]) -> Self {
        Self {
            frames: Vec::new(),
            root: None,
            in_plist: false,
            budget: Budget::new(limits),
            mode,
            names,
            current: None,
            shown: Vec::new(),
        }
    }

    fn plist(&mut self) -> Result<(), &'static str> {
        if self.in_plist || self.root.is_some() || !self.frames.is_empty() {
            return Err("<plist> inside of another element");
        }
        self.in_plist = true;
        Ok(())
    }

    fn open(&mut self, container: Container, source: &Source<'_>) -> Result<(), WireError> {
        if self.frames.len() >= MAX_DEPTH {
            return Err(WireError::TooDeep);
        }
        self.expect_value(source)?;
        if self.current.is_none() {
            self.current = self.begins_shown().map(|name| (name, Shown::default()));
        }
        self.frames.push(match (&mut self.current, container) {
            (Some((_, shown)), container) => {
                shown.open(container == Container::Array);
                Frame::Shown(container, false)
            }
            (None, Container::Array) => Frame::Array(Vec::new()),
            (None, Container::Dict) => Frame::Dict(Dictionary::new(), None),
        });
        Ok(())
    }

    /// The name of the member that is written as JSON, if the value that comes now is one.
    fn begins_shown(&self) -> Option<&'static str> {
        let [Frame::Dict(_, Some(key))] = self.frames.as_slice() else { return None };
        self.names.iter().copied().find(|name| name == key)
    }

    fn close(&mut self, source: &Source<'_>) -> Result<(), WireError> {
        let value = match self.frames.pop() {
            Some(Frame::Array(items)) => Value::Array(items),
            Some(Frame::Dict(members, None)) => Value::Dictionary(members),
            Some(Frame::Dict(members, Some(_))) if self.mode == Text::Lenient => Value::Dictionary(members),
            Some(Frame::Shown(_, true)) if self.mode == Text::Strict => {
                return Err(source.malformed("a key without a value"));
            }
            Some(Frame::Shown(container, _)) => {
                self.close_shown(container);
                return Ok(());
            }
            Some(Frame::Dict(_, Some(_))) => return Err(source.malformed("a key without a value")),
            None => return Err(source.malformed("an end without a start")),
        };
        self.put(value);
        Ok(())
    }

    fn close_shown(&mut self, container: Container) {
        let Some((name, shown)) = &mut self.current else { return };
        shown.close(container == Container::Array);
        if matches!(self.frames.last(), Some(Frame::Shown(..))) {
            self.value_is_there();
            return;
        }
        self.shown.push((*name, shown.take()));
        self.current = None;
        if let Some(Frame::Dict(_, key)) = self.frames.last_mut() {
            *key = None;
        }
    }

    fn key(&mut self, key: &str, source: &Source<'_>) -> Result<(), WireError> {
        self.budget.spend()?;
        match (self.frames.last_mut(), &mut self.current) {
            (Some(Frame::Shown(Container::Dict, waiting)), Some((_, shown))) => {
                if *waiting && self.mode == Text::Strict {
                    return Err(source.malformed("a key without a value"));
                }
                *waiting = true;
                shown.key(key);
                return Ok(());
            }
            (frame, _) => match frame {
                Some(Frame::Dict(_, waiting @ None)) => *waiting = Some(key.to_owned()),
                Some(Frame::Dict(_, waiting)) if self.mode == Text::Lenient => *waiting = Some(key.to_owned()),
                Some(Frame::Dict(..)) => return Err(source.malformed("a key without a value")),
                _ => return Err(source.malformed("a key outside of a dictionary")),
            },
        }
        Ok(())
    }

    fn scalar(&mut self, kind: Scalar, content: &str, source: &Source<'_>) -> Result<(), WireError> {
        if matches!(self.frames.last(), Some(Frame::Shown(..))) {
            self.expect_value(source)?;
            self.value_is_there();
            let Some((_, shown)) = &mut self.current else { return Ok(()) };
            // Strings are most of what there is, and are written without a copy.
            if matches!(kind, Scalar::String) {
                shown.string(content);
            } else {
                shown.value(&source.scalar(kind, content)?);
            }
            return Ok(());
        }
        let value = source.scalar(kind, content)?;
        self.expect_value(source)?;
        self.put(value);
        Ok(())
    }

    /// In a container that is written as JSON.
    fn value_is_there(&mut self) {
        if let Some(Frame::Shown(_, waiting)) = self.frames.last_mut() {
            *waiting = false;
        }
    }

    /// Whether a value may stand here; pays for it.
    fn expect_value(&mut self, source: &Source<'_>) -> Result<(), WireError> {
        self.budget.spend()?;
        match self.frames.last() {
            Some(Frame::Dict(_, None) | Frame::Shown(Container::Dict, false)) => {
                Err(source.malformed("a value without a key"))
            }
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
            // Such values are written, and never made.
            Some(Frame::Shown(..)) => {}
            None => self.root = Some(value),
        }
    }

    fn finish(self, source: &Source<'_>) -> Result<ReadReport, WireError> {
        if !self.frames.is_empty() {
            return Err(source.malformed("it ends inside of an element"));
        }
        let root = self.root.ok_or_else(|| source.malformed("there is no value in it"))?;
        Ok((root, self.shown))
    }
}
