//! PEM blocks (RFC 7468), read as leniently as the files that people have: bag attributes between the blocks, CRLF,
//! and blocks glued together without a newline (`-----END CERTIFICATE----------BEGIN …`).

use base64::alphabet;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};
use base64::engine::{DecodePaddingMode, Engine};
use zeroize::Zeroizing;

use super::Error;

/// Largest PEM text that is read, in bytes: hundreds of certificates.
pub const MAX_PEM_BYTES: usize = 1024 * 1024;

/// Base64 with or without padding.
pub(super) const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// One block.
pub(super) struct Block<'a> {
    /// What stands after `BEGIN`, such as `CERTIFICATE`.
    pub label: &'a str,
    /// The bytes; empty for an old encrypted key, whose text is not plain base64.
    pub der: Zeroizing<Vec<u8>>,
    /// The block as it stands, with its `BEGIN` and `END`.
    pub text: &'a str,
}

/// Whether the bytes look like PEM rather than DER.
pub(super) fn is_pem(bytes: &[u8]) -> bool {
    bytes.windows(10).take(64 * 1024).any(|window| window == b"-----BEGIN")
}

/// All blocks, in order.
///
/// # Errors
/// When the text is too large, a block has no end, or its contents are no base64.
pub(super) fn blocks(pem: &[u8]) -> Result<Vec<Block<'_>>, Error> {
    if pem.len() > MAX_PEM_BYTES {
        return Err(Error::invalid(format!("the PEM text is longer than {MAX_PEM_BYTES} bytes")));
    }
    let mut rest = std::str::from_utf8(pem).map_err(|_| Error::invalid("is no PEM text: it is not UTF-8"))?;
    let mut blocks = Vec::new();
    while let Some((_, from_label)) = rest.split_once("-----BEGIN ") {
        let (label, body) = from_label.split_once("-----").ok_or_else(|| unfinished("?"))?;
        let end = format!("-----END {label}-----");
        let (contents, after) = body.split_once(&end).ok_or_else(|| unfinished(label))?;
        let length = "-----BEGIN ".len() + from_label.len() - after.len();
        let start = rest.len() - from_label.len() - "-----BEGIN ".len();
        let text = rest.get(start..start + length).unwrap_or_default();
        let der = if contents.contains("Proc-Type:") {
            Zeroizing::default()
        } else {
            let packed = Zeroizing::new(contents.split_ascii_whitespace().collect::<String>());
            let der = LENIENT.decode(packed.as_bytes());
            Zeroizing::new(der.map_err(|_| {
                Error::invalid(format!("the PEM block {} holds something that is no base64", shown(label)))
            })?)
        };
        blocks.push(Block { label, der, text });
        rest = after;
    }
    Ok(blocks)
}

/// One block of PEM text, in lines of 64 characters.
pub(super) fn write(label: &str, der: &[u8]) -> String {
    let encoded = Zeroizing::new(STANDARD.encode(der));
    let mut pem = format!("-----BEGIN {label}-----\n");
    let mut rest = encoded.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at_checked(64).unwrap_or((rest, ""));
        pem.push_str(line);
        pem.push('\n');
        rest = after;
    }
    pem.push_str(&format!("-----END {label}-----\n"));
    pem
}

fn unfinished(label: &str) -> Error {
    Error::invalid(format!("the PEM block {} has no end line", shown(label)))
}

/// A label from a stranger's file, short enough for an error.
fn shown(label: &str) -> String {
    label.chars().filter(|char| !char.is_control()).take(40).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn glued_blocks_and_text_between_are_read() {
        let (one, two) = (write("A", b"one"), write("B C", &[7; 100]));
        let glued = format!("Bag Attributes\n  x: 1\n{}{}", one.trim_end(), two.replace('\n', "\r\n"));
        assert!(glued.contains("----------BEGIN"));
        let read = blocks(glued.as_bytes()).unwrap();
        let read: Vec<(&str, &[u8])> = read.iter().map(|block| (block.label, block.der.as_slice())).collect();
        assert_eq!(read, [("A", b"one".as_slice()), ("B C", &[7; 100])]);
        assert_eq!(blocks(one.as_bytes()).unwrap()[0].text, one.trim_end());
    }

    #[test]
    fn broken_blocks_are_named() {
        for (pem, expected) in [
            ("-----BEGIN A-----\nAAAA", "A has no end line"),
            ("-----BEGIN A", "? has no end line"),
            ("-----BEGIN A-----\n%%%\n-----END A-----", "A holds something that is no base64"),
        ] {
            let Err(error) = blocks(pem.as_bytes()) else { panic!("{pem}") };
            assert!(error.to_string().contains(expected), "{error}");
        }
        assert!(blocks(b"no pem at all").unwrap().is_empty());
    }

    proptest! {
        #[test]
        fn random_text_never_panics(text in "(-----BEGIN |-----END |-----|A|=|\n|\u{e9}){0,40}") {
            let _ = blocks(text.as_bytes());
        }
    }
}
