//! Just enough ASN.1 for CMS and SCEP: a reader that keeps the original bytes, a writer, and a way from BER to DER.
//!
//! Why not a typed decoder: signatures must be checked over the signed attributes *as they were sent* (some clients
//! send them unsorted), and real clients send BER with indefinite lengths (ITU-T X.690, section 8.1.3.6), both of
//! which strict DER decoders refuse.

use std::borrow::Cow;

/// Deepest nesting that is read. SCEP and CMS need about twelve levels.
const MAX_DEPTH: usize = 32;

pub(super) const INTEGER: u8 = 0x02;
pub(super) const BIT_STRING: u8 = 0x03;
pub(super) const OCTET_STRING: u8 = 0x04;
pub(super) const NULL: u8 = 0x05;
pub(super) const OID: u8 = 0x06;
pub(super) const UTF8_STRING: u8 = 0x0c;
pub(super) const PRINTABLE_STRING: u8 = 0x13;
pub(super) const TELETEX_STRING: u8 = 0x14;
pub(super) const IA5_STRING: u8 = 0x16;
pub(super) const BMP_STRING: u8 = 0x1e;
pub(super) const UTC_TIME: u8 = 0x17;
pub(super) const GENERALIZED_TIME: u8 = 0x18;
pub(super) const SEQUENCE: u8 = 0x30;
pub(super) const SET: u8 = 0x31;
/// A primitive `[0] IMPLICIT`.
pub(super) const IMPLICIT_0: u8 = 0x80;
pub(super) const CONSTRUCTED_OCTET_STRING: u8 = 0x24;
const CONSTRUCTED: u8 = 0x20;

/// The tag of a constructed context-specific element, `[number]`.
pub(super) const fn context(number: u8) -> u8 {
    0xa0 | number
}

/// The bytes are no well-formed ASN.1, nested too deeply, or not of the expected kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed ASN.1")]
pub(super) struct Malformed;

/// One element: its tag, all its bytes, and its contents.
#[derive(Clone, Copy, Debug)]
pub(super) struct Element<'a> {
    pub tag: u8,
    pub whole: &'a [u8],
    pub value: &'a [u8],
}

impl<'a> Element<'a> {
    /// A reader over the contents.
    pub(super) const fn inside(&self) -> Reader<'a> {
        Reader(self.value)
    }
}

/// Reads elements one after the other. Definite lengths only: see [`to_definite`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    /// The next element; none at the end.
    pub(super) fn next(&mut self) -> Result<Option<Element<'a>>, Malformed> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let header = Header::read(self.0)?;
        let end = header.bytes.checked_add(header.length.ok_or(Malformed)?).ok_or(Malformed)?;
        let (whole, rest) = self.0.split_at_checked(end).ok_or(Malformed)?;
        self.0 = rest;
        Ok(Some(Element { tag: header.tag, whole, value: whole.get(header.bytes..).ok_or(Malformed)? }))
    }

    /// The next element, whatever it is.
    pub(super) fn any(&mut self) -> Result<Element<'a>, Malformed> {
        self.next()?.ok_or(Malformed)
    }

    /// The next element, which must have this tag.
    pub(super) fn expect(&mut self, tag: u8) -> Result<Element<'a>, Malformed> {
        self.any().and_then(|element| if element.tag == tag { Ok(element) } else { Err(Malformed) })
    }

    /// The next element if it has this tag; otherwise nothing is taken.
    pub(super) fn optional(&mut self, tag: u8) -> Result<Option<Element<'a>>, Malformed> {
        if self.0.first() == Some(&tag) { self.next() } else { Ok(None) }
    }

    /// Nothing may be left.
    pub(super) const fn end(&self) -> Result<(), Malformed> {
        if self.0.is_empty() { Ok(()) } else { Err(Malformed) }
    }
}

struct Header {
    tag: u8,
    /// How many bytes the header takes.
    bytes: usize,
    /// The length of the contents; none if it is indefinite.
    length: Option<usize>,
}

impl Header {
    fn read(bytes: &[u8]) -> Result<Self, Malformed> {
        let (&tag, rest) = bytes.split_first().ok_or(Malformed)?;
        if tag & 0x1f == 0x1f {
            return Err(Malformed); // A tag number of 31 or more: not used by anything read here.
        }
        let (&first, rest) = rest.split_first().ok_or(Malformed)?;
        match first {
            0..=0x7f => Ok(Self { tag, bytes: 2, length: Some(usize::from(first)) }),
            0x80 if tag & CONSTRUCTED != 0 => Ok(Self { tag, bytes: 2, length: None }),
            0x81..=0x84 => {
                let count = usize::from(first & 0x7f);
                let digits = rest.get(..count).ok_or(Malformed)?;
                let length = digits.iter().fold(0_usize, |sum, &digit| (sum << 8) | usize::from(digit));
                Ok(Self { tag, bytes: 2 + count, length: Some(length) })
            }
            _ => Err(Malformed),
        }
    }
}

/// The same single element with definite lengths, its octet strings in one piece and its order untouched. Bytes that
/// are already so are not copied.
///
/// # Errors
/// When the bytes are not exactly one well-formed element, or nested deeper than 32 levels.
pub(super) fn to_definite(bytes: &[u8]) -> Result<Cow<'_, [u8]>, Malformed> {
    let mut out = Vec::with_capacity(bytes.len());
    let rest = copy(bytes, &mut out, MAX_DEPTH)?;
    if !rest.is_empty() {
        return Err(Malformed);
    }
    Ok(if out == bytes { Cow::Borrowed(bytes) } else { Cow::Owned(out) })
}

/// Copies one element into `out`; returns what follows it.
fn copy<'a>(bytes: &'a [u8], out: &mut Vec<u8>, depth: usize) -> Result<&'a [u8], Malformed> {
    let header = Header::read(bytes)?;
    let body = bytes.get(header.bytes..).ok_or(Malformed)?;
    if header.tag & CONSTRUCTED == 0 {
        let (value, rest) = body.split_at_checked(header.length.ok_or(Malformed)?).ok_or(Malformed)?;
        push(out, header.tag, value);
        return Ok(rest);
    }
    let depth = depth.checked_sub(1).ok_or(Malformed)?;
    let mut inside = Vec::new();
    let rest = if let Some(length) = header.length {
        let (mut value, rest) = body.split_at_checked(length).ok_or(Malformed)?;
        while !value.is_empty() {
            value = copy(value, &mut inside, depth)?;
        }
        rest
    } else {
        let mut value = body;
        loop {
            if let Some(rest) = value.strip_prefix(&[0, 0]) {
                break rest;
            }
            value = copy(value, &mut inside, depth)?;
        }
    };
    if header.tag == CONSTRUCTED_OCTET_STRING {
        let mut pieces = Reader(&inside);
        let mut joined = Vec::with_capacity(inside.len());
        while let Some(piece) = pieces.next()? {
            if piece.tag != OCTET_STRING {
                return Err(Malformed);
            }
            joined.extend_from_slice(piece.value);
        }
        push(out, OCTET_STRING, &joined);
    } else {
        push(out, header.tag, &inside);
    }
    Ok(rest)
}

/// Appends one element in DER.
fn push(out: &mut Vec<u8>, tag: u8, value: &[u8]) {
    out.push(tag);
    let digits = value.len().to_be_bytes();
    match u8::try_from(value.len()) {
        Ok(short) if short < 0x80 => out.push(short),
        _ => {
            let used: Vec<u8> = digits.into_iter().skip_while(|digit| *digit == 0).collect();
            out.push(0x80 | u8::try_from(used.len()).unwrap_or(8));
            out.extend_from_slice(&used);
        }
    }
    out.extend_from_slice(value);
}

/// One element in DER.
pub(super) fn element(tag: u8, value: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(value.len() + 6);
    push(&mut out, tag, value);
    out
}

/// One constructed element in DER of parts that are encoded already.
pub(super) fn of(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    element(tag, &parts.concat())
}

/// One constructed element in BER with an indefinite length, of parts that are encoded already.
pub(super) fn indefinite(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    [&[tag, 0x80], parts.concat().as_slice(), &[0, 0]].concat()
}

/// An octet string in pieces, in BER with indefinite length, as streaming writers make it. `tag` is that of the
/// constructed form.
pub(super) fn pieces(tag: u8, value: &[u8], size: usize) -> Vec<u8> {
    let pieces: Vec<u8> = value.chunks(size.max(1)).flat_map(|piece| element(OCTET_STRING, piece)).collect();
    indefinite(tag, &[&pieces])
}

/// The same element under another tag: for implicit tagging.
pub(super) fn retag(mut encoded: Vec<u8>, tag: u8) -> Vec<u8> {
    if let Some(first) = encoded.first_mut() {
        *first = tag;
    }
    encoded
}

/// A SET OF in DER: the parts sorted by their encoding (X.690, section 11.6).
pub(super) fn set_of(mut parts: Vec<Vec<u8>>) -> Vec<u8> {
    parts.sort();
    element(SET, &parts.concat())
}

/// An object identifier in DER.
pub(super) fn oid(oid: const_oid::ObjectIdentifier) -> Vec<u8> {
    element(OID, oid.as_bytes())
}

/// A small non-negative INTEGER.
pub(super) fn small(number: u8) -> Vec<u8> {
    if number < 0x80 { vec![INTEGER, 1, number] } else { vec![INTEGER, 2, 0, number] }
}

/// NULL.
pub(super) fn null() -> Vec<u8> {
    vec![NULL, 0]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn indefinite_lengths_become_definite_and_octet_strings_one_piece() {
        let ber = [0x30, 0x80, 0x24, 0x80, 0x04, 1, 7, 0x04, 2, 8, 9, 0, 0, 0x02, 0x81, 1, 5, 0, 0];
        assert_eq!(to_definite(&ber).unwrap().as_ref(), [0x30, 8, 0x04, 3, 7, 8, 9, 0x02, 1, 5]);
    }

    #[test]
    fn definite_bytes_are_borrowed_and_order_is_kept() {
        let der = of(SET, &[&small(200), &small(1)]);
        assert!(matches!(to_definite(&der).unwrap(), Cow::Borrowed(_)));
        assert_eq!(set_of(vec![small(200), small(1)]), of(SET, &[&small(1), &small(200)]));
    }

    #[test]
    fn wild_forms_are_refused() {
        for bytes in [
            &[][..],
            &[0x30],
            &[0x30, 0x80],
            &[0x04, 0x80, 0, 0],
            &[0x1f, 0x85, 1, 0],
            &[0x30, 0x85, 0, 0, 0, 0, 0],
            &[0x30, 0x84, 0xff, 0xff, 0xff, 0xff],
            &[0x05, 0, 0],
            &[0x24, 3, 0x02, 1, 1],
        ] {
            assert_eq!(to_definite(bytes), Err(Malformed), "{bytes:02x?}");
        }
        assert_eq!(to_definite(&[0x30, 0x80].repeat(20_000)), Err(Malformed), "deep nesting must not use up the stack");
    }

    #[test]
    fn long_lengths_read_back() {
        for length in [0, 1, 127, 128, 255, 256, 65_535, 65_536] {
            let encoded = element(OCTET_STRING, &vec![1; length]);
            let mut reader = Reader(&encoded);
            assert_eq!(reader.expect(OCTET_STRING).unwrap().value.len(), length);
            reader.end().unwrap();
        }
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            if let Ok(definite) = to_definite(&bytes) {
                prop_assert!(matches!(to_definite(&definite), Ok(Cow::Borrowed(_))));
            }
            let mut reader = Reader(&bytes);
            while let Ok(Some(_)) = reader.next() {}
        }
    }
}
