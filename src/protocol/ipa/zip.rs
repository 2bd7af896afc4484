//! As much of a zip archive as is needed to take one file out of it, with a bound on everything that the archive
//! claims. Source: PKWARE, "APPNOTE.TXT - .ZIP File Format Specification", sections 4.3 to 4.5.

use std::io::{BufReader, Read, Seek, SeekFrom};

use flate2::Crc;
use flate2::read::DeflateDecoder;

use super::IpaError;

/// Most files in an archive. Large apps have tens of thousands.
const MAX_ENTRIES: u64 = 200_000;
/// Largest directory, bytes.
const MAX_DIRECTORY: u64 = 64 << 20;
/// How many times larger a file may be than it is packed.
const MAX_RATIO: u64 = 200;
/// Size of the end record, bytes, and of the longest comment after it.
const END: usize = 22;
const MAX_COMMENT: u64 = 65_535;
/// Size of the locator of the zip64 end record, bytes; it stands right before the end record.
const LOCATOR: usize = 20;

/// Takes the only file out whose name is `wanted`, at most `limit` bytes.
pub(super) fn read_only<R: Read + Seek>(
    archive: &mut R,
    wanted: impl Fn(&[u8]) -> bool,
    limit: u64,
) -> Result<Vec<u8>, IpaError> {
    let directory = find_directory(archive)?;
    archive.seek(SeekFrom::Start(directory.start))?;
    let mut entries = BufReader::new(Read::by_ref(archive).take(directory.size));
    let mut found = None;
    for _ in 0..directory.count {
        let (name, entry) = read_entry(&mut entries)?;
        if wanted(&name) && found.replace(entry).is_some() {
            return Err(IpaError::SeveralApps);
        }
    }
    drop(entries);
    inflate(archive, &directory, &found.ok_or(IpaError::NoApp)?, limit)
}

struct Directory {
    start: u64,
    size: u64,
    count: u64,
}

/// A file, as the directory has it.
struct Entry {
    flags: u16,
    method: u16,
    crc: u32,
    packed: u64,
    size: u64,
    start: u64,
}

const NO_END: IpaError = IpaError::NotAPackage("no zip archive (it has no end record)");
const DAMAGED: IpaError = IpaError::NotAPackage("a damaged zip archive");

fn find_directory<R: Read + Seek>(archive: &mut R) -> Result<Directory, IpaError> {
    let length = archive.seek(SeekFrom::End(0))?;
    let tail_length = length.min(MAX_COMMENT + (END + LOCATOR) as u64);
    archive.seek(SeekFrom::Start(length - tail_length))?;
    let mut tail = Vec::new();
    Read::by_ref(archive).take(tail_length).read_to_end(&mut tail)?;
    // The last record whose comment ends with the file.
    let fits = |at: &usize| {
        let record = tail.get(*at..).unwrap_or_default();
        record.starts_with(b"PK\x05\x06") && record.len() == END + usize::from(u16_at(record, 20))
    };
    let at = (0..tail.len().saturating_sub(END - 1)).rev().find(fits).ok_or(NO_END)?;
    let end = tail.get(at..).unwrap_or_default();
    let before = at.checked_sub(LOCATOR).and_then(|start| tail.get(start..at));
    let mut directory = Directory {
        count: u64::from(u16_at(end, 10)),
        size: u64::from(u32_at(end, 12)),
        start: u64::from(u32_at(end, 16)),
    };
    if let Some(locator) = before.filter(|locator| locator.starts_with(b"PK\x06\x07")) {
        let start = Some(u64_at(locator, 8)).filter(|start| *start < length).ok_or(DAMAGED)?;
        archive.seek(SeekFrom::Start(start))?;
        let record = read_bytes(archive, 56)?;
        if !record.starts_with(b"PK\x06\x06") {
            return Err(DAMAGED);
        }
        directory = Directory { count: u64_at(&record, 32), size: u64_at(&record, 40), start: u64_at(&record, 48) };
    }
    if directory.count > MAX_ENTRIES || directory.size > MAX_DIRECTORY {
        return Err(IpaError::TooCostly("too many files"));
    }
    match directory.start.checked_add(directory.size) {
        Some(end) if end <= length => Ok(directory),
        _ => Err(DAMAGED),
    }
}

fn read_entry(entries: &mut impl Read) -> Result<(Vec<u8>, Entry), IpaError> {
    let header = read_bytes(entries, 46)?;
    if !header.starts_with(b"PK\x01\x02") {
        return Err(DAMAGED);
    }
    let name = read_bytes(entries, usize::from(u16_at(&header, 28)))?;
    let extra = read_bytes(entries, usize::from(u16_at(&header, 30)))?;
    read_bytes(entries, usize::from(u16_at(&header, 32)))?;
    let mut entry = Entry {
        flags: u16_at(&header, 8),
        method: u16_at(&header, 10),
        crc: u32_at(&header, 16),
        packed: u64::from(u32_at(&header, 20)),
        size: u64::from(u32_at(&header, 24)),
        start: u64::from(u32_at(&header, 42)),
    };
    let mut wide = zip64(&extra).unwrap_or_default().chunks_exact(8);
    for field in [&mut entry.size, &mut entry.packed, &mut entry.start] {
        if *field == u64::from(u32::MAX) {
            *field = u64_at(wide.next().ok_or(DAMAGED)?, 0);
        }
    }
    Ok((name, entry))
}

/// The extra field with what does not fit into 32 bits.
fn zip64(mut extra: &[u8]) -> Option<&[u8]> {
    while extra.len() >= 4 {
        let end = 4 + usize::from(u16_at(extra, 2));
        let content = extra.get(4..end)?;
        if u16_at(extra, 0) == 1 {
            return Some(content);
        }
        extra = extra.get(end..)?;
    }
    None
}

fn inflate<R: Read + Seek>(
    archive: &mut R,
    directory: &Directory,
    entry: &Entry,
    limit: u64,
) -> Result<Vec<u8>, IpaError> {
    if entry.flags & 1 != 0 {
        return Err(IpaError::NotAPackage("its Info.plist is encrypted"));
    }
    if entry.size > limit || entry.packed > limit {
        return Err(IpaError::TooCostly("its Info.plist is too large"));
    }
    if entry.size > 65_536 && entry.size / entry.packed.max(1) > MAX_RATIO {
        return Err(IpaError::TooCostly("its Info.plist is packed too well to be one"));
    }
    if entry.start >= directory.start {
        return Err(DAMAGED);
    }
    archive.seek(SeekFrom::Start(entry.start))?;
    let header = read_bytes(archive, 30)?;
    if !header.starts_with(b"PK\x03\x04") {
        return Err(DAMAGED);
    }
    let skip = i64::from(u16_at(&header, 26)) + i64::from(u16_at(&header, 28));
    archive.seek(SeekFrom::Current(skip))?;
    let packed = Read::by_ref(archive).take(entry.packed);
    let mut content = Vec::new();
    // One byte more than it claims tells a file that is longer than it claims.
    let most = entry.size + 1;
    let read = match entry.method {
        0 => packed.take(most).read_to_end(&mut content),
        8 => DeflateDecoder::new(packed).take(most).read_to_end(&mut content),
        _ => return Err(IpaError::NotAPackage("its Info.plist is packed in an unusual way")),
    };
    match read {
        Ok(_) => {}
        Err(error) if matches!(error.kind(), std::io::ErrorKind::InvalidInput | std::io::ErrorKind::InvalidData) => {
            return Err(DAMAGED);
        }
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Err(DAMAGED),
        Err(error) => return Err(error.into()),
    }
    let mut crc = Crc::new();
    crc.update(&content);
    if u64::try_from(content.len()) != Ok(entry.size) || crc.sum() != entry.crc {
        return Err(DAMAGED);
    }
    Ok(content)
}

/// Exactly `size` bytes (at most 64 KiB by what calls it).
fn read_bytes(from: &mut impl Read, size: usize) -> Result<Vec<u8>, IpaError> {
    let mut bytes = vec![0; size];
    match from.read_exact(&mut bytes) {
        Ok(()) => Ok(bytes),
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Err(DAMAGED),
        Err(error) => Err(error.into()),
    }
}

/// The little-endian number at a place; zero where there is none.
fn number_at(bytes: &[u8], at: usize, size: usize) -> u64 {
    let bytes = bytes.get(at..at + size).unwrap_or_default();
    bytes.iter().rev().fold(0, |number, byte| (number << 8) | u64::from(*byte))
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::try_from(number_at(bytes, at, 2)).unwrap_or(0)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::try_from(number_at(bytes, at, 4)).unwrap_or(0)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    number_at(bytes, at, 8)
}
