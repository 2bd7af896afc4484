//! Reports as they are kept. A list of apps says the same over and over: LZ4 makes a fifth of it in less time than it takes
//! to seal and to write the rest.

use lz4_flex::block::{compress_prepend_size, decompress_size_prepended};

/// What stands before a report that is kept as it came.
const PLAIN: u8 = 0;
/// What stands before one that is compressed: an LZ4 block, its size before that.
const LZ4: u8 = 1;
/// Smaller ones are not worth it.
const WORTH_IT: usize = 1 << 10;
/// No report is larger, whatever the settings say. A damaged size must not take the memory of the server.
const LARGEST: usize = 1 << 30;

pub(super) fn pack(raw: &[u8]) -> Vec<u8> {
    let (kind, content) = if raw.len() < WORTH_IT { (PLAIN, raw.to_vec()) } else { (LZ4, compress_prepend_size(raw)) };
    let mut packed = Vec::with_capacity(content.len() + 1);
    packed.push(kind);
    packed.extend_from_slice(&content);
    packed
}

/// None: it is damaged.
pub(super) fn unpack(packed: &[u8]) -> Option<Vec<u8>> {
    match packed.split_first()? {
        (&PLAIN, raw) => Some(raw.to_vec()),
        (&LZ4, block) => {
            let size = u32::from_le_bytes(*block.first_chunk()?);
            (usize::try_from(size).ok()? <= LARGEST).then(|| decompress_size_prepended(block).ok())?
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_long_list_becomes_short_and_a_short_message_stays() {
        let list = "<dict><key>Identifier</key><string>com.example.app</string></dict>\n".repeat(1_000);
        let packed = pack(list.as_bytes());
        assert!(packed.len() * 5 < list.len(), "{} of {}", packed.len(), list.len());
        assert_eq!(unpack(&packed).unwrap(), list.as_bytes());
        assert_eq!(pack(b"short"), b"\0short");
    }

    #[test]
    fn what_is_damaged_is_told() {
        assert_eq!(unpack(b""), None);
        assert_eq!(unpack(b"\x02abc"), None);
        assert_eq!(unpack(b"\x01ab"), None);
        assert_eq!(unpack(b"\x01\xff\xff\xff\xffabc"), None);
    }

    proptest! {
        #[test]
        fn what_is_packed_unpacks(raw in proptest::collection::vec(any::<u8>(), 0..4_000)) {
            prop_assert_eq!(unpack(&pack(&raw)), Some(raw));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = unpack(&bytes);
            let _ = unpack(&[b"\x01\x10\x01\0\0", &bytes[..]].concat());
        }
    }
}
