//! Property lists on the wire: reading them within bounds, writing them so that every reader takes them.
//!
//! The `plist` crate gives the values ([`plist::Value`]); reading and writing are done here, because all of it is
//! reachable before a device has proved who it is and three things must not be: a nesting that overflows the stack, a
//! binary file whose shared references expand without end, and a date that is outside what can be formatted, each of
//! which ends the process elsewhere. Here nesting is counted on a stack of our own, every value and every copied byte
//! is paid for from a budget, and dates are checked as they come in.

mod binary;
mod date;
mod shown;
mod write;
mod xml;

use std::borrow::Cow;

use plist::{Dictionary, Value};

pub use date::{date_from_seconds, date_seconds};
pub use shown::{HIDDEN, is_secret};
pub use write::write;

/// How deep arrays and dictionaries may be nested. Apple's own messages stay below 10.
pub const MAX_DEPTH: usize = 64;

/// What a reader spends at most on one property list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Size of the file, and of all strings and data read from it together; bytes.
    pub bytes: usize,
    /// Number of values, containers and keys together.
    pub items: usize,
}

impl Limits {
    /// A check-in message: the largest carries a declarative status report.
    pub const CHECK_IN: Self = Self { bytes: 1 << 20, items: 20_000 };
    /// A command report: lists of hundreds of apps or certificates pass 100 KB.
    pub const REPORT: Self = Self { bytes: 8 << 20, items: 200_000 };
    /// A command, with a profile in it.
    pub const COMMAND: Self = Self { bytes: 8 << 20, items: 50_000 };
    /// A configuration profile, or an app's manifest.
    pub const PROFILE: Self = Self { bytes: 4 << 20, items: 50_000 };
    /// An app's `Info.plist`.
    pub const INFO: Self = Self { bytes: 1 << 20, items: 20_000 };

    /// The same for files of up to `bytes`: as many values for each byte where that is more, and never fewer values.
    #[must_use]
    pub const fn sized(self, bytes: usize) -> Self {
        let items = self.items.saturating_mul(bytes / (1 << 10)) / (self.bytes / (1 << 10));
        Self { bytes, items: if items > self.items { items } else { self.items } }
    }
}

/// Why something is not a property list that we read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Larger than allowed.
    #[error("larger than {limit} bytes")]
    TooLarge {
        /// The limit in bytes.
        limit: usize,
    },
    /// Nested deeper than [`MAX_DEPTH`].
    #[error("nested deeper than {MAX_DEPTH} levels")]
    TooDeep,
    /// More values than allowed.
    #[error("more than {limit} values")]
    TooMany {
        /// The limit.
        limit: usize,
    },
    /// A binary property list where only XML is taken.
    #[error("a binary property list; expected XML")]
    Binary,
    /// Not UTF-8.
    #[error("not UTF-8 text")]
    NotText,
    /// Not a property list.
    #[error("not a property list: {problem} (at byte {at})")]
    Malformed {
        /// Where, in bytes from the start.
        at: u64,
        /// What is wrong.
        problem: String,
    },
    /// The outermost value is no dictionary.
    #[error("the outermost value is not a dictionary")]
    NotADictionary,
}

/// How to treat text that XML does not allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Text {
    /// It is an error: someone can correct the file.
    Strict,
    /// Invalid UTF-8 and forbidden characters (NUL above all, which databases refuse) become U+FFFD, a scalar that does
    /// not parse becomes a string: one odd app name must not lose a report.
    Lenient,
}

/// Reads an XML property list and refuses everything that is not exactly one.
///
/// # Errors
/// Every [`WireError`].
pub fn read(bytes: &[u8], limits: Limits) -> Result<Value, WireError> {
    check_size(bytes, limits)?;
    refuse_binary(bytes)?;
    let text = std::str::from_utf8(bytes).map_err(|_| WireError::NotText)?;
    xml::read(text, limits, Text::Strict)
}

/// Reads what a device sends: an XML property list whose strings may hold NUL or invalid UTF-8 (they become U+FFFD) and
/// whose numbers, dates and data may be odd (they stay strings).
///
/// # Errors
/// Every [`WireError`] but [`WireError::NotText`].
pub fn read_lenient(bytes: &[u8], limits: Limits) -> Result<Value, WireError> {
    check_size(bytes, limits)?;
    refuse_binary(bytes)?;
    let text: Cow<'_, str> = String::from_utf8_lossy(bytes);
    xml::read(&text, limits, Text::Lenient)
}

/// What [`read_report`] gives: the value, and each member that was left out of it, by its name, as JSON.
pub type ReadReport = (Value, Vec<(&'static str, String)>);

/// As [`read_lenient`]; but of the members of the outermost dictionary that are named in `shown`, arrays and dictionaries are
/// left out, and given as JSON without what is secret in it. To make values of the lists of hundreds of apps takes several
/// times as long as to read them.
///
/// # Errors
/// As [`read_lenient`].
pub fn read_report(bytes: &[u8], limits: Limits, shown: &'static [&'static str]) -> Result<ReadReport, WireError> {
    check_size(bytes, limits)?;
    refuse_binary(bytes)?;
    let text: Cow<'_, str> = String::from_utf8_lossy(bytes);
    xml::read_showing(&text, limits, Text::Lenient, shown)
}

/// Reads a file in either form, XML or binary: for what people upload, never for what a device sends.
///
/// # Errors
/// Every [`WireError`] but [`WireError::Binary`].
pub fn read_any(bytes: &[u8], limits: Limits) -> Result<Value, WireError> {
    if is_binary(bytes) {
        check_size(bytes, limits)?;
        return binary::read(bytes, limits);
    }
    read(bytes, limits)
}

/// The dictionary that a value is.
///
/// # Errors
/// [`WireError::NotADictionary`].
pub fn dictionary(value: Value) -> Result<Dictionary, WireError> {
    value.into_dictionary().ok_or(WireError::NotADictionary)
}

/// Whether XML 1.0 (section 2.2) allows the character.
pub(crate) const fn is_xml_char(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r' | ' '..='\u{FFFD}' | '\u{10000}'..)
}

fn check_size(bytes: &[u8], limits: Limits) -> Result<(), WireError> {
    if bytes.len() > limits.bytes { Err(WireError::TooLarge { limit: limits.bytes }) } else { Ok(()) }
}

fn is_binary(bytes: &[u8]) -> bool {
    bytes.starts_with(b"bplist")
}

fn refuse_binary(bytes: &[u8]) -> Result<(), WireError> {
    if is_binary(bytes) { Err(WireError::Binary) } else { Ok(()) }
}

/// Counts down the values that one file may still have.
struct Budget {
    left: usize,
    limit: usize,
}

impl Budget {
    const fn new(limits: Limits) -> Self {
        Self { left: limits.items, limit: limits.items }
    }

    fn spend(&mut self) -> Result<(), WireError> {
        self.left = self.left.checked_sub(1).ok_or(WireError::TooMany { limit: self.limit })?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: Limits = Limits { bytes: 1 << 20, items: 1_000 };

    fn plist(content: &str) -> Vec<u8> {
        format!("<?xml version=\"1.0\"?>\n<!DOCTYPE plist>\n<plist version=\"1.0\">\n{content}\n</plist>\n")
            .into_bytes()
    }

    fn string(text: &str) -> Result<Value, WireError> {
        Ok(Value::String(text.to_owned()))
    }

    fn is_malformed(result: &Result<Value, WireError>) -> bool {
        matches!(result, Err(WireError::Malformed { .. }))
    }

    #[test]
    fn ten_thousand_levels_are_refused_in_either_mode() {
        for (open, close) in
            [("<array>", "</array>"), ("<dict><key>a</key>", "</dict>"), ("<array><!-- </array> -->", "")]
        {
            let body = plist(&format!("{}{}", open.repeat(10_000), close.repeat(10_000)));
            assert_eq!(read(&body, LIMITS), Err(WireError::TooDeep), "{open}");
            assert_eq!(read_lenient(&body, LIMITS), Err(WireError::TooDeep), "{open}");
        }
        let at_limit = plist(&format!("{}{}", "<array>".repeat(MAX_DEPTH), "</array>".repeat(MAX_DEPTH)));
        assert!(read(&at_limit, LIMITS).is_ok());
    }

    #[test]
    fn size_and_number_of_values_are_bounded() {
        assert_eq!(read(&plist(&"a".repeat(1 << 20)), LIMITS), Err(WireError::TooLarge { limit: 1 << 20 }));
        let many = plist(&format!("<array>{}</array>", "<true/>".repeat(1_000)));
        assert_eq!(read(&many, LIMITS), Err(WireError::TooMany { limit: 1_000 }));
    }

    #[test]
    fn only_one_well_formed_document_is_taken() {
        for content in [
            "",
            "text",
            "<true/><true/>",
            "<array>",
            "<array></dict>",
            "</array>",
            "<dict><true/></dict>",
            "<dict><key>a</key></dict>",
            "<array><key>a</key></array>",
            "<string><true/></string>",
            "<string>a",
            "<set/>",
            "<integer>one</integer>",
            "<date>9999-12-31T23:59:59-23:59</date>",
            "<data>%</data>",
            "<string>\u{1}</string>",
            "<string>&#1;</string>",
            "<string>&x;</string>",
            "<plist><true/></plist>",
        ] {
            let result = read(&plist(content), LIMITS);
            assert!(is_malformed(&result), "{content}: {result:?}");
        }
        assert_eq!(read(b"<plist><string>\xFF</string></plist>", LIMITS), Err(WireError::NotText));
        assert_eq!(read(b"bplist00", LIMITS), Err(WireError::Binary));
    }

    #[test]
    fn text_is_read_as_xml_means_it() {
        let read = |content: &str| read(&plist(content), LIMITS);
        assert_eq!(read("<string>a &lt;&amp;&gt; &#x41;&quot;&apos;</string>"), string("a <&> A\"'"));
        assert_eq!(read("<string>a<![CDATA[<b> & ]]>c<!-- no -->d</string>"), string("a<b> & cd"));
        assert_eq!(read("<string>one\r\ntwo</string>"), string("one\ntwo"));
        assert_eq!(read("<string/>"), string(""));
        assert_eq!(read("<data> AP\n8 </data>"), Ok(Value::Data(vec![0, 255])));
        assert_eq!(read("<integer> 18446744073709551615 </integer>"), Ok(Value::Integer(u64::MAX.into())));
        assert_eq!(read("<integer>-9223372036854775808</integer>"), Ok(Value::Integer(i64::MIN.into())));
        assert_eq!(read("<integer>0x1F</integer>"), Ok(Value::Integer(31.into())));
        assert_eq!(read("<real>0.5</real>"), Ok(Value::Real(0.5)));
    }

    #[test]
    fn entities_of_a_dtd_are_not_expanded() {
        let body = b"<!DOCTYPE plist [<!ENTITY a \"boom\">]><plist><string>&a;</string></plist>";
        assert!(is_malformed(&read(body, LIMITS)));
        assert_eq!(read_lenient(body, LIMITS), string("\u{FFFD}"));
    }

    #[test]
    fn what_is_written_holds_no_forbidden_character() {
        let body = write(&Value::String("a\u{0}\u{1F}\u{FFFE}<&>\r".to_owned()));
        assert_eq!(read(&body, LIMITS), string("a\u{FFFD}\u{FFFD}\u{FFFD}<&>\r"));
    }

    fn binary(value: &Value) -> Vec<u8> {
        let mut bytes = Vec::new();
        value.to_writer_binary(&mut bytes).unwrap();
        bytes
    }

    /// A file in which each of `levels` arrays holds the one below `width` times: 2^30 values from 300 bytes.
    fn bomb(levels: u8, width: u8) -> Vec<u8> {
        let mut bytes = b"bplist00".to_vec();
        let mut offsets = Vec::new();
        for level in 0..levels {
            offsets.push(u8::try_from(bytes.len()).unwrap());
            bytes.push(0xA0 | width);
            bytes.extend(std::iter::repeat_n(level + 1, usize::from(width)));
        }
        offsets.push(u8::try_from(bytes.len()).unwrap());
        bytes.push(0x09);
        let table = u8::try_from(bytes.len()).unwrap();
        bytes.extend(&offsets);
        bytes.extend([0, 0, 0, 0, 0, 0, 1, 1]);
        bytes.extend([0, 0, 0, 0, 0, 0, 0, levels + 1]);
        bytes.extend([0; 8]);
        bytes.extend([0, 0, 0, 0, 0, 0, 0, table]);
        bytes
    }

    #[test]
    fn a_binary_file_that_expands_without_end_is_refused() {
        assert!(read_any(&bomb(2, 2), LIMITS).is_ok());
        assert_eq!(read_any(&bomb(30, 2), LIMITS), Err(WireError::TooMany { limit: 1_000 }));
        let mut cycle = bomb(1, 1);
        cycle[9] = 0;
        assert_eq!(read_any(&cycle, LIMITS), Err(WireError::TooDeep));
        let text = Value::Array(vec![Value::String("x".repeat(5_000)); 300]);
        let small = Limits { bytes: 100_000, items: 1_000 };
        assert_eq!(read_any(&binary(&text), small), Err(WireError::TooLarge { limit: 100_000 }));
    }

    fn values() -> impl Strategy<Value = Value> {
        let scalar = prop_oneof![
            any::<bool>().prop_map(Value::Boolean),
            any::<i64>().prop_map(|n| Value::Integer(n.into())),
            any::<u64>().prop_map(|n| Value::Integer(n.into())),
            (-1e15..1e15).prop_map(Value::Real),
            "\\PC*".prop_map(Value::String),
            proptest::collection::vec(any::<u8>(), 0..40).prop_map(Value::Data),
            (-1_000_000_000_i64..4_000_000_000).prop_filter_map("date", date_from_seconds).prop_map(Value::Date),
        ];
        scalar.prop_recursive(4, 40, 6, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::Array),
                proptest::collection::btree_map("\\PC{0,8}", inner, 0..6)
                    .prop_map(|members| Value::Dictionary(members.into_iter().collect())),
            ]
        })
    }

    /// What is shown of a value that stands in a list.
    fn without_secrets(value: &Value) -> serde_json::Value {
        fn hide(value: &mut serde_json::Value) {
            match value {
                serde_json::Value::Object(members) => {
                    for (name, value) in members {
                        if is_secret(name) && !(value.is_boolean() || value.is_number()) {
                            *value = HIDDEN.into();
                        } else {
                            hide(value);
                        }
                    }
                }
                serde_json::Value::Array(items) => items.iter_mut().for_each(hide),
                _ => {}
            }
        }
        let mut shown = crate::protocol::json::to_json(value);
        hide(&mut shown);
        shown
    }

    #[test]
    fn a_list_is_shown_without_secrets_and_left_out() {
        let body = plist(
            "<dict><key>List</key><array><dict><key>Name</key><string>a \"b\"</string><key>PushToken</key><data>AQID</data>
             <key>HasToken</key><true/><key>Tokens</key><array><string>x</string><dict/></array><key>Size</key>
             <integer>7</integer></dict><array/></array><key>Other</key><array><true/></array></dict>",
        );
        let (value, shown) = read_report(&body, LIMITS, &["List"]).unwrap();
        let expected = "[{\"Name\":\"a \\\"b\\\"\",\"PushToken\":\"[redacted]\",\"HasToken\":true,\
                        \"Tokens\":\"[redacted]\",\"Size\":7},[]]";
        assert_eq!(shown, [("List", expected.to_owned())]);
        let left: Vec<_> = value.as_dictionary().unwrap().keys().collect();
        assert_eq!(left, ["Other"]);
        let inside = plist("<dict><key>Other</key><dict><key>List</key><array/></dict></dict>");
        assert_eq!(read_report(&inside, LIMITS, &["List"]).unwrap(), (read(&inside, LIMITS).unwrap(), Vec::new()));
    }

    #[test]
    fn a_shown_list_may_lack_values_where_that_is_put_up_with() {
        let shown = |content: &str| {
            let body = plist(&format!("<dict><key>List</key>{content}</dict>"));
            read_report(&body, LIMITS, &["List"])
                .map(|(_, shown)| shown.into_iter().map(|(_, json)| json).collect::<Vec<_>>())
        };
        let json = |text: &str| Ok(vec![text.to_owned()]);
        assert_eq!(shown("<dict><key>a</key><key>b</key><true/><key>c</key></dict>"), json("{\"b\":true}"));
        assert_eq!(shown("<dict><key>Token</key></dict>"), json("{}"));
        assert!(shown("<dict><true/></dict>").is_err());
        assert!(shown("<array><key>a</key></array>").is_err());
        assert_eq!(
            shown(&format!("{}{}", "<array>".repeat(MAX_DEPTH), "</array>".repeat(MAX_DEPTH))),
            Err(WireError::TooDeep)
        );
    }

    proptest! {
        #[test]
        fn what_is_shown_is_the_json_of_the_value(value in values()) {
            let members = [("List".to_owned(), value.clone()), ("Name".to_owned(), Value::Boolean(true))];
            let body = write(&Value::Dictionary(members.into_iter().collect()));
            let (left, shown) = read_report(&body, Limits::REPORT, &["List"]).unwrap();
            match shown.as_slice() {
                [(_, json)] => {
                    // Both through the text: reading a number back may change its last digit.
                    let parse = |json: &str| serde_json::from_str::<serde_json::Value>(json).unwrap();
                    prop_assert_eq!(parse(json), parse(&without_secrets(&value).to_string()));
                    prop_assert_eq!(left.as_dictionary().unwrap().len(), 1);
                }
                _ => prop_assert_eq!(left.as_dictionary().unwrap().get("List"), Some(&value)),
            }
        }

        #[test]
        fn xml_reads_back(value in values()) {
            prop_assert_eq!(read(&write(&value), Limits::REPORT), Ok(value));
        }

        #[test]
        fn binary_reads_back(value in values()) {
            prop_assert_eq!(read_any(&binary(&value), Limits::REPORT), Ok(value));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = read_any(&bytes, LIMITS);
            let _ = read_lenient(&bytes, LIMITS);
            let _ = read_any(&[b"bplist00", &bytes[..]].concat(), LIMITS);
        }

        #[test]
        fn damaged_binary_files_never_panic(value in values(), at in any::<proptest::sample::Index>(), byte: u8) {
            let mut bytes = binary(&value);
            let at = at.index(bytes.len());
            bytes[at] = byte;
            let _ = read_any(&bytes, LIMITS);
        }
    }
}
