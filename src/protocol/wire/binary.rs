use plist::{Dictionary, Value};

use super::{Budget, Limits, MAX_DEPTH, WireError, date};

/// Size of the trailer, bytes.
const TRAILER: usize = 32;
/// Seconds from the Unix epoch to 2001-01-01, where binary dates begin.
const APPLE_EPOCH: f64 = 978_307_200.0;

/// Reads a binary property list (`bplist00`). Source: Apple, CFBinaryPList.c (the comment on the file format).
///
/// Objects may be referenced any number of times, so that a file of a kilobyte can stand for gigabytes: each visit of
/// an object is paid for, as is each byte copied, and a reference to an enclosing object ends at [`MAX_DEPTH`].
pub(super) fn read(bytes: &[u8], limits: Limits) -> Result<Value, WireError> {
    let body = bytes.len().checked_sub(TRAILER).ok_or_else(|| malformed(0, "shorter than its trailer"))?;
    let number = |at: usize, size: usize| bytes.get(at..at + size).map_or(0, big_endian);
    let offset_size = usize::from(bytes.get(body + 6).copied().unwrap_or(0));
    let reference_size = usize::from(bytes.get(body + 7).copied().unwrap_or(0));
    if !(1..=8).contains(&offset_size) || !(1..=8).contains(&reference_size) {
        return Err(malformed(body, "a trailer with impossible sizes"));
    }
    let (count, top, table) = (number(body + 8, 8), number(body + 16, 8), number(body + 24, 8));
    let (Ok(count), Ok(top), Ok(table)) = (usize::try_from(count), usize::try_from(top), usize::try_from(table)) else {
        return Err(malformed(body, "a trailer with impossible sizes"));
    };
    let end = count.checked_mul(offset_size).and_then(|size| size.checked_add(table));
    let offsets = match end {
        Some(end) if end <= body => bytes.get(table..end).unwrap_or_default(),
        _ => return Err(malformed(body, "an offset table outside of the file")),
    };
    let objects = bytes.get(..table).unwrap_or_default();
    Reader { objects, offsets, offset_size, reference_size, budget: Budget::new(limits), copy: limits.bytes, limits }
        .object(top, 0)
}

struct Reader<'a> {
    objects: &'a [u8],
    offsets: &'a [u8],
    offset_size: usize,
    reference_size: usize,
    budget: Budget,
    /// Bytes that may still be copied into strings and data.
    copy: usize,
    limits: Limits,
}

impl<'a> Reader<'a> {
    fn object(&mut self, index: usize, depth: usize) -> Result<Value, WireError> {
        if depth > MAX_DEPTH {
            return Err(WireError::TooDeep);
        }
        self.budget.spend()?;
        let at = self.offset(index)?;
        let marker = self.bytes(at, 1)?.first().copied().unwrap_or(0);
        let low = usize::from(marker & 0x0F);
        match marker >> 4 {
            0x0 if marker == 0x08 => Ok(Value::Boolean(false)),
            0x0 if marker == 0x09 => Ok(Value::Boolean(true)),
            0x1 => self.integer(at + 1, low),
            0x2 => self.real(at + 1, low).map(Value::Real),
            0x3 => {
                let seconds = self.real(at + 1, low)? + APPLE_EPOCH;
                whole(seconds)
                    .and_then(date::date_from_seconds)
                    .map(Value::Date)
                    .ok_or_else(|| malformed(at, "a date out of range"))
            }
            0x4 => {
                let (start, length) = self.length(at, low)?;
                Ok(Value::Data(self.copied(start, length)?.to_vec()))
            }
            0x5 => {
                let (start, length) = self.length(at, low)?;
                let text = self.copied(start, length)?;
                std::str::from_utf8(text).map(|text| Value::String(text.to_owned())).map_err(|_| WireError::NotText)
            }
            0x6 => {
                let (start, length) = self.length(at, low)?;
                let size = length.checked_mul(2).ok_or_else(|| malformed(at, "a string outside of the file"))?;
                let text = self.copied(start, size)?;
                let units = text.chunks_exact(2).filter_map(|pair| pair.try_into().ok()).map(u16::from_be_bytes);
                char::decode_utf16(units)
                    .collect::<Result<String, _>>()
                    .map(Value::String)
                    .map_err(|_| WireError::NotText)
            }
            // Sets (0xC) have no form in XML; they read as arrays.
            0xA | 0xC => {
                let (start, length) = self.length(at, low)?;
                let mut items = Vec::new();
                for reference in self.references(start, length)? {
                    items.push(self.object(reference, depth + 1)?);
                }
                Ok(Value::Array(items))
            }
            0xD => {
                let (start, length) = self.length(at, low)?;
                let both = length.checked_mul(2).ok_or_else(|| malformed(at, "a dictionary outside of the file"))?;
                let references = self.references(start, both)?;
                let (keys, values) = references.split_at(length.min(references.len()));
                let mut members = Dictionary::new();
                for (key, value) in keys.iter().zip(values) {
                    let Value::String(key) = self.object(*key, depth + 1)? else {
                        return Err(malformed(at, "a key that is no string"));
                    };
                    let value = self.object(*value, depth + 1)?;
                    members.insert(key, value);
                }
                Ok(Value::Dictionary(members))
            }
            _ => Err(malformed(at, "an object of unknown kind")),
        }
    }

    fn offset(&self, index: usize) -> Result<usize, WireError> {
        index
            .checked_mul(self.offset_size)
            .and_then(|start| self.offsets.get(start..start.checked_add(self.offset_size)?))
            .and_then(|bytes| usize::try_from(big_endian(bytes)).ok())
            .ok_or_else(|| malformed(0, "a reference to no object"))
    }

    fn bytes(&self, at: usize, size: usize) -> Result<&'a [u8], WireError> {
        at.checked_add(size)
            .and_then(|end| self.objects.get(at..end))
            .ok_or_else(|| malformed(at, "an object outside of the file"))
    }

    /// Bytes that the caller copies.
    fn copied(&mut self, at: usize, size: usize) -> Result<&'a [u8], WireError> {
        let bytes = self.bytes(at, size)?;
        self.copy = self.copy.checked_sub(size).ok_or(WireError::TooLarge { limit: self.limits.bytes })?;
        Ok(bytes)
    }

    /// Where the content of the object at `at` begins and how many units it has: in the marker, or after it.
    fn length(&self, at: usize, low: usize) -> Result<(usize, usize), WireError> {
        if low != 0x0F {
            return Ok((at + 1, low));
        }
        let marker = self.bytes(at + 1, 1)?.first().copied().unwrap_or(0);
        let power = usize::from(marker & 0x0F);
        if marker >> 4 != 0x1 || power > 3 {
            return Err(malformed(at, "a length that is no integer"));
        }
        let size = 1 << power;
        let length = usize::try_from(big_endian(self.bytes(at + 2, size)?));
        Ok((at + 2 + size, length.map_err(|_| malformed(at, "an object outside of the file"))?))
    }

    /// References to the members of a container; they are in the file, so their number is bounded by its size.
    fn references(&mut self, at: usize, count: usize) -> Result<Vec<usize>, WireError> {
        let size = count.checked_mul(self.reference_size);
        let bytes = self.bytes(at, size.ok_or_else(|| malformed(at, "an object outside of the file"))?)?;
        if count > self.budget.left {
            return Err(WireError::TooMany { limit: self.limits.items });
        }
        Ok(bytes
            .chunks_exact(self.reference_size)
            .map(|r| usize::try_from(big_endian(r)).unwrap_or(usize::MAX))
            .collect())
    }

    /// One, two and four bytes are unsigned, eight are signed, sixteen hold what is above 2^63.
    fn integer(&self, at: usize, power: usize) -> Result<Value, WireError> {
        let out_of_range = || malformed(at, "an integer out of range");
        match power {
            0..=2 => Ok(Value::Integer(big_endian(self.bytes(at, 1 << power)?).into())),
            3 => Ok(Value::Integer(big_endian(self.bytes(at, 8)?).cast_signed().into())),
            4 => {
                let (high, low) = (big_endian(self.bytes(at, 8)?), big_endian(self.bytes(at + 8, 8)?));
                match high {
                    0 => Ok(Value::Integer(low.into())),
                    u64::MAX if low.cast_signed() < 0 => Ok(Value::Integer(low.cast_signed().into())),
                    _ => Err(out_of_range()),
                }
            }
            _ => Err(out_of_range()),
        }
    }

    fn real(&self, at: usize, power: usize) -> Result<f64, WireError> {
        match power {
            2 => {
                let bits = u32::try_from(big_endian(self.bytes(at, 4)?)).unwrap_or(0);
                Ok(f64::from(f32::from_bits(bits)))
            }
            3 => Ok(f64::from_bits(big_endian(self.bytes(at, 8)?))),
            _ => Err(malformed(at, "a real number of impossible size")),
        }
    }
}

/// The number in at most eight bytes.
fn big_endian(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |number, byte| (number << 8) | u64::from(*byte))
}

/// The whole number below; none where 64 bits cannot hold it.
fn whole(number: f64) -> Option<i64> {
    let floor = number.floor();
    // Within +-2^53 the conversion is exact.
    #[allow(clippy::cast_possible_truncation)]
    (floor.abs() < 9_007_199_254_740_992.0).then_some(floor as i64)
}

fn malformed(at: usize, problem: &str) -> WireError {
    WireError::Malformed { at: u64::try_from(at).unwrap_or(u64::MAX), problem: problem.to_owned() }
}
