use base64::Engine as _;

use super::MAX_MESSAGE_BYTES;
use crate::pki::Error;
use crate::pki::pem::LENIENT;

/// What a client wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// What the server can do.
    GetCaCaps,
    /// The CA's certificate.
    GetCaCert,
    /// A message.
    PkiOperation,
}

/// The query of a SCEP URL, still escaped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Query<'a> {
    /// What the client wants.
    pub operation: Operation,
    message: Option<&'a str>,
}

impl<'a> Query<'a> {
    /// Reads the part of a URL behind the `?`. None if no known operation stands there.
    ///
    /// On a POST only the operation matters: some clients also put the message, escaped, into the query.
    #[must_use]
    pub fn parse(raw: &'a str) -> Option<Self> {
        let field = |name: &str| raw.split('&').filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name);
        let operation = match field("operation")?.1 {
            name if name.eq_ignore_ascii_case("GetCACaps") => Operation::GetCaCaps,
            name if name.eq_ignore_ascii_case("GetCACert") => Operation::GetCaCert,
            name if name.eq_ignore_ascii_case("PKIOperation") => Operation::PkiOperation,
            _ => return None,
        };
        Some(Self { operation, message: field("message").map(|(_, value)| value) })
    }

    /// The message of a GET: base64, escaped or not, of either alphabet. Some versions of macOS leave `+` and `/` as
    /// they are, and what stands between turns `+` into a space.
    ///
    /// # Errors
    /// [`Error::Invalid`] when it is missing, too long or no base64.
    pub fn message(&self) -> Result<Vec<u8>, Error> {
        let raw = self.message.filter(|raw| !raw.is_empty());
        let raw = raw.ok_or_else(|| Error::invalid("the query has no message"))?;
        // Each byte is 4/3 characters, each of these up to three when escaped.
        if raw.len() > MAX_MESSAGE_BYTES * 4 {
            return Err(Error::invalid(format!("the message is longer than {MAX_MESSAGE_BYTES} bytes")));
        }
        let mut text = Vec::with_capacity(raw.len());
        let mut bytes = raw.bytes();
        while let Some(byte) = bytes.next() {
            let byte = if byte == b'%' { unescape(bytes.next(), bytes.next())? } else { byte };
            match byte {
                b' ' => text.push(b'+'),
                b'-' => text.push(b'+'),
                b'_' => text.push(b'/'),
                b'\r' | b'\n' => {}
                other => text.push(other),
            }
        }
        LENIENT.decode(text).map_err(|_| Error::invalid("the message is no base64"))
    }
}

fn unescape(high: Option<u8>, low: Option<u8>) -> Result<u8, Error> {
    let digit = |byte: Option<u8>| {
        byte.and_then(|byte| char::from(byte).to_digit(16)).and_then(|digit| u8::try_from(digit).ok())
    };
    match (digit(high), digit(low)) {
        (Some(high), Some(low)) => Ok(high << 4 | low),
        _ => Err(Error::invalid("the query holds a broken escape")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn all_forms_of_base64_in_a_query_are_read() {
        // 0xfb 0xff 0xbf is "+/+/" in base64.
        for raw in [
            "operation=PKIOperation&message=+/+/",
            "operation=PKIOperation&message=%2B%2F%2b%2f",
            "operation=PKIOperation&message=-_-_",
            "message= / /&operation=pkioperation",
            "operation=PKIOperation&message=%20/%0A+/",
        ] {
            let query = Query::parse(raw).unwrap();
            assert_eq!(query.operation, Operation::PkiOperation);
            assert_eq!(query.message().unwrap(), [0xfb, 0xff, 0xbf], "{raw}");
        }
        assert_eq!(Query::parse("operation=PKIOperation&message=AQ").unwrap().message().unwrap(), [1]);
        assert_eq!(Query::parse("operation=PKIOperation&message=AQ==").unwrap().message().unwrap(), [1]);
    }

    #[test]
    fn operations_are_told_apart_and_a_message_may_be_a_name_or_missing() {
        for (raw, operation) in [
            ("operation=GetCACaps", Some(Operation::GetCaCaps)),
            ("operation=GetCACert&message=My%20CA", Some(Operation::GetCaCert)),
            ("operation=GetCACert&message=", Some(Operation::GetCaCert)),
            ("operation=GetNextCACert", None),
            ("", None),
            ("operation", None),
        ] {
            assert_eq!(Query::parse(raw).map(|query| query.operation), operation, "{raw}");
        }
        for raw in ["", "&message=", "&message=%", "&message=%4", "&message=%zz", "&message=***"] {
            let query = format!("operation=PKIOperation{raw}");
            assert!(Query::parse(&query).unwrap().message().is_err(), "{raw}");
        }
    }

    proptest! {
        #[test]
        fn random_queries_never_panic(raw in "(operation=|PKIOperation|&|message=|%|[+/ _=A-Za-z0-9\u{e9}]){0,20}") {
            if let Some(query) = Query::parse(&raw) {
                let _ = query.message();
            }
        }
    }
}
