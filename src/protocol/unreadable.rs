//! What can still be told of a report that cannot be read ([`super::report::decode`]): who sent it, and on which command.
//! A device that answers a command in a way that we do not understand is then asked for the next one, and not for the
//! same again in each connection.

use std::borrow::Cow;

use plist::{Dictionary, Value};

use super::Sender;

/// What is looked for, at the top of the message.
const WANTED: [&str; 7] =
    ["CommandUUID", "EnrollmentID", "EnrollmentUserID", "UDID", "UserID", "UserLongName", "UserShortName"];
/// What is longer is no id, bytes.
const MAX_LENGTH: usize = 255;

/// A report of which no more is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// Who sent it.
    pub sender: Sender,
    /// The command that it is about; any string.
    pub command_uuid: String,
}

/// Looks for the ids in a report. Tags are taken as they come, whatever is wrong with them; UTF-16 is read too. The time
/// grows with the length alone, and nothing is kept but the ids.
#[must_use]
pub fn look(body: &[u8]) -> Option<Unreadable> {
    let mut ids = ids(&text(body));
    let command_uuid = ids.remove("CommandUUID")?.into_string()?;
    Some(Unreadable { sender: Sender::of(&ids).ok()?, command_uuid })
}

fn text(body: &[u8]) -> Cow<'_, str> {
    let unit: fn([u8; 2]) -> u16 = match body {
        [0xFE, 0xFF, ..] | [0, b'<', ..] => u16::from_be_bytes,
        [0xFF, 0xFE, ..] | [b'<', 0, ..] => u16::from_le_bytes,
        _ => return String::from_utf8_lossy(body),
    };
    let units = body.as_chunks().0.iter().map(|pair| unit(*pair));
    char::decode_utf16(units).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)).collect()
}

/// The members of the outermost dictionary that are wanted, where they are strings.
fn ids(text: &str) -> Dictionary {
    let mut found = Dictionary::new();
    let mut depth = 0_usize;
    let mut key = None;
    let mut rest = text;
    while let Some((_, tag)) = rest.split_once('<') {
        let aside = [("!--", "-->"), ("![CDATA[", "]]>")].into_iter().find(|(start, _)| tag.starts_with(start));
        let Some((tag, after)) = tag.split_once(aside.map_or(">", |(_, end)| end)) else { break };
        rest = after;
        if aside.is_some() {
            continue;
        }
        let name = tag.split(|c: char| c.is_ascii_whitespace()).next().unwrap_or_default();
        match name {
            "dict" | "array" => depth = depth.saturating_add(1),
            "/dict" | "/array" => depth = depth.saturating_sub(1),
            "key" | "string" => {
                let Some((content, after)) = rest.split_once(if name == "key" { "</key>" } else { "</string>" }) else {
                    break;
                };
                rest = after;
                if depth == 1 {
                    key = take(&mut found, key, name == "key", content);
                }
                continue;
            }
            _ => {}
        }
        if !name.starts_with('/') || depth == 1 {
            // A value of another kind.
            key = None;
        }
    }
    found
}

/// Notes a key that is wanted, or the string that belongs to the one before. Returns the key that waits.
fn take(found: &mut Dictionary, key: Option<&'static str>, is_key: bool, content: &str) -> Option<&'static str> {
    let content = content.trim();
    if is_key {
        return WANTED.into_iter().find(|wanted| *wanted == content);
    }
    let is_plain = !content.is_empty() && content.len() <= MAX_LENGTH && !content.contains(['<', '&']);
    if let Some(key) = key.filter(|_| is_plain) {
        found.insert(key.to_owned(), Value::from(content));
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const IDS: &str = "<key>CommandUUID</key><string>C-1</string><key>UDID</key> <string>A</string>";

    fn found(body: &str) -> Option<(String, String)> {
        look(body.as_bytes()).map(|found| (found.sender.apple_id.id, found.command_uuid))
    }

    #[test]
    fn ids_are_found_whatever_else_is_wrong() {
        let deep = format!("{}{}", "<array>".repeat(10_000), "</array>".repeat(10_000));
        for other in [
            "",
            "<key>Status</key><string>Maybe</string>",
            "<key>QueryResponses</key><null/>",
            "<key>A</key><dict><key>UDID</key><string>B</string></dict>",
            "<key>A</key><!-- <dict> --><string>x & < y</string>",
            "<key>A</key><string><![CDATA[ </dict> ]]></string>",
            "<key>A</key><data>%</data></b>",
            &format!("<key>A</key>{deep}"),
        ] {
            let body = format!("<?xml version=\"1.0\"?><plist><dict>{other}{IDS}{other}</dict></plist>");
            assert_eq!(found(&body), Some(("A".to_owned(), "C-1".to_owned())), "{other}");
        }
        let cut = format!("<plist><dict>{IDS}<key>Apps</key><array><dict><key>Na");
        assert!(found(&cut).is_some());
    }

    #[test]
    fn utf_16_is_read() {
        let body = format!("<plist><dict>{IDS}</dict></plist>");
        for mark in ["", "\u{FEFF}"] {
            let units: Vec<u16> = format!("{mark}{body}").encode_utf16().collect();
            let little: Vec<u8> = units.iter().flat_map(|unit| unit.to_le_bytes()).collect();
            let big: Vec<u8> = units.iter().flat_map(|unit| unit.to_be_bytes()).collect();
            assert!(look(&little).is_some() && look(&big).is_some());
        }
    }

    #[test]
    fn without_both_ids_nothing_is_known() {
        for body in [
            "",
            "hello",
            "<plist><dict><key>UDID</key><string>A</string></dict></plist>",
            "<plist><dict><key>CommandUUID</key><string>C</string></dict></plist>",
            "<plist><dict><key>CommandUUID</key><true/><string>C</string><key>UDID</key><string>A</string></dict></plist>",
            "<plist><dict><key>CommandUUID</key><string>C</string><key>UDID</key><string>A&amp;</string></dict></plist>",
            "<plist><dict><key>CommandUUID</key><string>C</string><key>UDID</key><string>A:B</string></dict></plist>",
            "<plist><array><dict><key>CommandUUID</key><string>C</string><key>UDID</key><string>A</string></dict></array>",
        ] {
            assert_eq!(found(body), None, "{body}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(body in proptest::collection::vec(any::<u8>(), 0..512)) {
            let _ = look(&body);
        }

        #[test]
        fn damaged_reports_never_panic(at in 0_usize..1_500, byte in any::<u8>()) {
            let mut body = include_bytes!("../../tests/fixtures/plists/report-odd-text.plist").to_vec();
            if let Some(place) = body.get_mut(at) {
                *place = byte;
            }
            let _ = look(&body);
        }
    }
}
