use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use plist::Value;

use super::{date, is_xml_char};

const HEAD: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
    <!DOCTYPE plist PUBLIC \"-//Apple//DTD PLIST 1.0//EN\" \"http://www.apple.com/DTDs/PropertyList-1.0.dtd\">\n\
    <plist version=\"1.0\">\n";

/// Writes an XML property list.
///
/// It cannot fail: characters that XML forbids become U+FFFD, dates carry whole seconds, and what XML has no form for
/// (a UID of a keyed archive) is written as the dictionary that Apple's tools write for it.
#[must_use]
pub fn write(value: &Value) -> Vec<u8> {
    let mut out = String::with_capacity(1024);
    out.push_str(HEAD);
    write_value(&mut out, value, 0);
    out.push_str("</plist>\n");
    out.into_bytes()
}

fn write_value(out: &mut String, value: &Value, depth: usize) {
    match value {
        Value::Array(items) => {
            open(out, depth, "array");
            for item in items {
                write_value(out, item, depth + 1);
            }
            close(out, depth, "array");
        }
        Value::Dictionary(members) => {
            open(out, depth, "dict");
            for (key, member) in members {
                element(out, depth + 1, "key", key);
                write_value(out, member, depth + 1);
            }
            close(out, depth, "dict");
        }
        Value::Boolean(true) => line(out, depth, "<true/>"),
        Value::Boolean(false) => line(out, depth, "<false/>"),
        Value::Data(bytes) => element(out, depth, "data", &STANDARD.encode(bytes)),
        Value::Date(at) => element(out, depth, "date", &date::format(*at)),
        Value::Real(number) => element(out, depth, "real", &real(*number)),
        Value::Integer(number) => element(out, depth, "integer", &number.to_string()),
        Value::Uid(uid) => {
            open(out, depth, "dict");
            element(out, depth + 1, "key", "CF$UID");
            element(out, depth + 1, "integer", &uid.get().to_string());
            close(out, depth, "dict");
        }
        // `Value` may get new kinds; an empty string keeps the document whole.
        Value::String(text) => element(out, depth, "string", text),
        _ => element(out, depth, "string", ""),
    }
}

/// The words for what is no number are those of Apple's CoreFoundation.
fn real(number: f64) -> String {
    if number.is_nan() {
        "nan".to_owned()
    } else if number.is_infinite() {
        if number > 0.0 { "+infinity".to_owned() } else { "-infinity".to_owned() }
    } else {
        number.to_string()
    }
}

fn indent(out: &mut String, depth: usize) {
    out.extend(std::iter::repeat_n('\t', depth));
}

fn line(out: &mut String, depth: usize, text: &str) {
    indent(out, depth);
    out.push_str(text);
    out.push('\n');
}

fn open(out: &mut String, depth: usize, name: &str) {
    line(out, depth, &format!("<{name}>"));
}

fn close(out: &mut String, depth: usize, name: &str) {
    line(out, depth, &format!("</{name}>"));
}

fn element(out: &mut String, depth: usize, name: &str, text: &str) {
    indent(out, depth);
    out.push('<');
    out.push_str(name);
    out.push('>');
    for c in text.chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            // A bare carriage return would come back as a line feed (XML 1.0, section 2.11).
            '\r' => out.push_str("&#13;"),
            c if is_xml_char(c) => out.push(c),
            _ => out.push('\u{FFFD}'),
        }
    }
    out.push_str("</");
    out.push_str(name);
    out.push_str(">\n");
}
