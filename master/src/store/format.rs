//! The bytes of the metadata store: one definition of each format, used by whoever writes and whoever reads it.
//!
//! What is defined here: the head that opens the identity file, the checkpoint marker, each log segment and each export
//! ([`Head`]); log records ([`encode_record`], [`decode_record`]); the blocks of an export. Pages have their own file,
//! `page.rs`. `docs/formats/{log,pages,export}.md` describe the same bytes for people.
//!
//! What always holds: numbers are little endian; every format carries a magic number, a version and a CRC-32C over
//! everything else in it; reserved bytes are zero and are refused otherwise; decoding checks every length before it is
//! used, never panics, and says what is wrong.

use super::{Change, Table};

/// The one version of each format that is written, but for the marker's.
pub(crate) const FORMAT_VERSION: u32 = 1;
/// The version of markers that say which bounds sled has.
pub(crate) const MARKER_VERSION: u32 = 2;

/// Longest key that is stored.
pub const KEY_BYTES_MAX: usize = 4096;
/// Longest value that is stored.
pub const VALUE_BYTES_MAX: usize = 256 * 1024;

/// Bytes of an encoded [`Head`].
pub(crate) const HEAD_BYTES: usize = 52;
/// Where the first record of a log segment stands.
pub(crate) const SEGMENT_HEAD_BYTES: usize = 4096;
/// Bytes of a record before its payload.
pub(crate) const RECORD_HEAD_BYTES: usize = 32;
/// Records start at multiples of this.
pub(crate) const RECORD_ALIGNMENT_BYTES: usize = 8;
/// Bytes of an export's block before its first key.
pub(crate) const BLOCK_HEAD_BYTES: usize = 20;
/// Bytes of an export's last part.
pub(crate) const TRAILER_BYTES: usize = 32;

const RECORD_MAGIC: u32 = u32::from_le_bytes(*b"RREC");
const BLOCK_MAGIC: u32 = u32::from_le_bytes(*b"RBLK");
const TRAILER_MAGIC: u32 = u32::from_le_bytes(*b"REND");

const PUT: u8 = 1;
const DELETE: u8 = 2;

const _: () = assert!(RECORD_HEAD_BYTES.is_multiple_of(RECORD_ALIGNMENT_BYTES));
const _: () = assert!(SEGMENT_HEAD_BYTES.is_multiple_of(RECORD_ALIGNMENT_BYTES));
const _: () = assert!(KEY_BYTES_MAX <= u16::MAX as usize);

/// What is wrong with bytes that should have decoded. Whoever reads them adds the file and the offset.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Damage(pub(crate) String);

impl Damage {
    pub(crate) fn new(what: impl Into<String>) -> Damage {
        Damage(what.into())
    }
}

/// Which file a [`Head`] opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HeadKind {
    /// The file that makes a folder a store.
    Identity,
    /// Up to where the log has been folded into pages.
    Marker,
    /// A segment of the log.
    Segment,
    /// A copy of the whole metadata.
    Export,
}

impl HeadKind {
    fn magic(self) -> &'static [u8; 8] {
        match self {
            HeadKind::Identity => b"RFSMSTOR",
            HeadKind::Marker => b"RFSMCKPT",
            HeadKind::Segment => b"RFSMLOGS",
            HeadKind::Export => b"RFSMEXPO",
        }
    }
}

/// What each file of the store begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) kind: HeadKind,
    pub(crate) cluster: [u8; 16],
    /// Marker and export: the last position they include. Segment: the position of its first record. Identity: 0.
    pub(crate) position: u64,
    /// Segment: the highest position known to be on disk when the segment was begun. Otherwise 0.
    pub(crate) durable: u64,
}

impl Head {
    pub(crate) fn encode(&self) -> [u8; HEAD_BYTES] {
        self.encode_as(FORMAT_VERSION)
    }

    fn encode_as(&self, version: u32) -> [u8; HEAD_BYTES] {
        let mut bytes = [0; HEAD_BYTES];
        bytes[..8].copy_from_slice(self.kind.magic());
        bytes[8..12].copy_from_slice(&version.to_le_bytes());
        bytes[16..32].copy_from_slice(&self.cluster);
        bytes[32..40].copy_from_slice(&self.position.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.durable.to_le_bytes());
        let checksum = crc32c::crc32c(&bytes[..48]);
        bytes[48..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    pub(crate) fn decode(kind: HeadKind, bytes: &[u8]) -> Result<Head, Damage> {
        Head::decode_as(kind, bytes, FORMAT_VERSION)
    }

    fn decode_as(kind: HeadKind, bytes: &[u8], version: u32) -> Result<Head, Damage> {
        let Some(bytes) = bytes.get(..HEAD_BYTES) else {
            return Err(Damage::new(format!("the head is cut short: {} of {HEAD_BYTES} bytes", bytes.len())));
        };
        if &bytes[..8] != kind.magic() {
            return Err(Damage::new("the magic number is not that of this kind of file"));
        }
        if u32_at(bytes, 48) != crc32c::crc32c(&bytes[..48]) {
            return Err(Damage::new("the checksum of the head does not match"));
        }
        if u32_at(bytes, 8) != version {
            return Err(Damage::new(format!("format version {} is not known to this program", u32_at(bytes, 8))));
        }
        if u32_at(bytes, 12) != 0 {
            return Err(Damage::new("reserved bytes of the head are not zero"));
        }
        let mut cluster = [0; 16];
        cluster.copy_from_slice(&bytes[16..32]);
        Ok(Head { kind, cluster, position: u64_at(bytes, 32), durable: u64_at(bytes, 40) })
    }
}

/// What bounds sled may have.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Bounds {
    /// Their digests: as they were when a checkpoint began, after its new pages, and after all of it. Between checkpoints
    /// all three are the same.
    pub(crate) digests: [u64; 3],
    /// The keys that the checkpoint changes, with what they had before: a batch that meets an error can be written in part.
    pub(crate) before: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

impl Bounds {
    /// Those between checkpoints.
    pub(crate) fn at_rest(digest: u64) -> Bounds {
        Bounds { digests: [digest; 3], before: Vec::new() }
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes: Vec<u8> = self.digests.iter().flat_map(|digest| digest.to_le_bytes()).collect();
        for (key, value) in &self.before {
            bytes.extend_from_slice(&(key.len() as u16).to_le_bytes());
            // One more than its length; 0 where there was none.
            bytes.push(value.as_ref().map_or(0, |value| value.len() as u8 + 1));
            bytes.extend_from_slice(key);
            bytes.extend_from_slice(value.as_deref().unwrap_or_default());
        }
        let checksum = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&checksum.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Result<Bounds, Damage> {
        let Some(end) = bytes.len().checked_sub(4).filter(|end| *end >= 24) else {
            return Err(Damage::new(format!("it is cut short: {} bytes follow its head", bytes.len())));
        };
        let (mut rest, checksum) = bytes.split_at(end);
        if u32_at(checksum, 0) != crc32c::crc32c(rest) {
            return Err(Damage::new("the checksum of what follows the head does not match"));
        }
        let digests = [u64_at(rest, 0), u64_at(rest, 8), u64_at(rest, 16)];
        take(&mut rest, 24)?;
        let mut before = Vec::new();
        while !rest.is_empty() {
            let key_bytes = usize::from(u16_at(take(&mut rest, 2)?, 0));
            let value_bytes = take(&mut rest, 1)?[0];
            let key = take(&mut rest, key_bytes)?.to_vec();
            let value = match value_bytes.checked_sub(1) {
                Some(length) => Some(take(&mut rest, length.into())?.to_vec()),
                None => None,
            };
            before.push((key, value));
        }
        Ok(Bounds { digests, before })
    }
}

/// Up to where the log has been folded into pages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Marker {
    pub(crate) cluster: [u8; 16],
    pub(crate) position: u64,
    /// None in version 1.
    pub(crate) bounds: Option<Bounds>,
}

impl Marker {
    /// Version 2, which has the bounds; version 1 for a marker without, as tests write it.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let head = Head { kind: HeadKind::Marker, cluster: self.cluster, position: self.position, durable: 0 };
        let Some(bounds) = &self.bounds else { return head.encode().to_vec() };
        let mut bytes = head.encode_as(MARKER_VERSION).to_vec();
        bytes.extend(bounds.encode());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Marker, Damage> {
        let marker = |head: Head, bounds| Marker { cluster: head.cluster, position: head.position, bounds };
        let is_first_version = bytes.get(8..12) == Some(&FORMAT_VERSION.to_le_bytes());
        if is_first_version {
            return Ok(marker(Head::decode(HeadKind::Marker, bytes)?, None));
        }
        let head = Head::decode_as(HeadKind::Marker, bytes, MARKER_VERSION)?;
        Ok(marker(head, Some(Bounds::decode(&bytes[HEAD_BYTES..])?)))
    }
}

/// The head page of a log segment: its head, then zeros.
pub(crate) fn encode_segment_head(head: &Head) -> Vec<u8> {
    let mut page = head.encode().to_vec();
    page.resize(SEGMENT_HEAD_BYTES, 0);
    page
}

/// Reads the head page of a log segment.
pub(crate) fn decode_segment_head(bytes: &[u8]) -> Result<Head, Damage> {
    let Some(page) = bytes.get(..SEGMENT_HEAD_BYTES) else {
        return Err(Damage::new(format!("the head page is cut short: {} of {SEGMENT_HEAD_BYTES} bytes", bytes.len())));
    };
    let head = Head::decode(HeadKind::Segment, page)?;
    match page[HEAD_BYTES..].iter().position(|byte| *byte != 0) {
        None => Ok(head),
        Some(at) => Err(Damage::new(format!("byte {} of the head page should be zero", HEAD_BYTES + at))),
    }
}

/// A log record as found in a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) position: u64,
    /// The highest position known to be on disk when this record was written: what lies at or below it cannot have
    /// been torn by a crash, so damage there is damage.
    pub(crate) durable: u64,
    pub(crate) changes: Vec<Change>,
    /// Bytes the record takes, padding included.
    pub(crate) length: usize,
}

/// Encodes one record; `record` is overwritten. Keys and values must be within their limits.
pub(crate) fn encode_record(record: &mut Vec<u8>, position: u64, durable: u64, changes: &[Change]) {
    record.clear();
    record.resize(RECORD_HEAD_BYTES, 0);
    for change in changes {
        encode_change(record, change);
    }
    let payload_bytes = record.len() - RECORD_HEAD_BYTES;
    record[..4].copy_from_slice(&RECORD_MAGIC.to_le_bytes());
    record[4..8].copy_from_slice(&(payload_bytes as u32).to_le_bytes());
    record[8..16].copy_from_slice(&position.to_le_bytes());
    record[16..24].copy_from_slice(&durable.to_le_bytes());
    record[24..28].copy_from_slice(&(changes.len() as u32).to_le_bytes());
    let checksum = record_checksum(record);
    record[28..32].copy_from_slice(&checksum.to_le_bytes());
    record.resize(record.len().next_multiple_of(RECORD_ALIGNMENT_BYTES), 0);
}

fn record_checksum(record: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&record[..28]), &record[RECORD_HEAD_BYTES..])
}

fn encode_change(out: &mut Vec<u8>, change: &Change) {
    let (operation, table, key, value) = match change {
        Change::Put { table, key, value } => (PUT, *table, key, Some(value)),
        Change::Delete { table, key } => (DELETE, *table, key, None),
    };
    out.extend_from_slice(&[operation, table as u8]);
    out.extend_from_slice(&(key.len() as u16).to_le_bytes());
    if let Some(value) = value {
        out.extend_from_slice(&(value.len() as u32).to_le_bytes());
    }
    out.extend_from_slice(key);
    if let Some(value) = value {
        out.extend_from_slice(value);
    }
}

/// Reads the record at the start of `bytes`, which reach to the end of the segment.
pub(crate) fn decode_record(bytes: &[u8]) -> Result<Record, Damage> {
    let Some(head) = bytes.get(..RECORD_HEAD_BYTES) else {
        return Err(Damage::new("the record's head reaches beyond the end of the segment"));
    };
    if u32_at(head, 0) != RECORD_MAGIC {
        return Err(Damage::new("no record begins here: the magic number does not match"));
    }
    let payload_bytes = u32_at(head, 4) as usize;
    let padded = (RECORD_HEAD_BYTES + payload_bytes).next_multiple_of(RECORD_ALIGNMENT_BYTES);
    let Some(record) = bytes.get(..padded) else {
        return Err(Damage::new(format!("the record's length, {payload_bytes} bytes, reaches beyond the segment")));
    };
    let (record, padding) = record.split_at(RECORD_HEAD_BYTES + payload_bytes);
    if record_checksum(record) != u32_at(head, 28) {
        return Err(Damage::new("the checksum of the record does not match"));
    }
    if padding.iter().any(|byte| *byte != 0) {
        return Err(Damage::new("the padding after the record is not zero"));
    }
    let changes = decode_changes(&record[RECORD_HEAD_BYTES..], u32_at(head, 24))?;
    Ok(Record { position: u64_at(head, 8), durable: u64_at(head, 16), changes, length: padded })
}

fn decode_changes(payload: &[u8], count: u32) -> Result<Vec<Change>, Damage> {
    let mut changes = Vec::new();
    let mut rest = payload;
    for _ in 0..count {
        changes.push(decode_change(&mut rest)?);
    }
    if rest.is_empty() {
        Ok(changes)
    } else {
        Err(Damage::new(format!("{} bytes follow the last change of the record", rest.len())))
    }
}

fn decode_change(rest: &mut &[u8]) -> Result<Change, Damage> {
    let operation = take(rest, 1)?[0];
    let number = take(rest, 1)?[0];
    let table = Table::from_number(number).ok_or_else(|| Damage::new(format!("there is no table {number}")))?;
    let key_bytes = usize::from(u16_at(take(rest, 2)?, 0));
    match operation {
        PUT => {
            let value_bytes = u32_at(take(rest, 4)?, 0) as usize;
            let key = take(rest, key_bytes)?.to_vec();
            Ok(Change::Put { table, key, value: take(rest, value_bytes)?.to_vec() })
        }
        DELETE => Ok(Change::Delete { table, key: take(rest, key_bytes)?.to_vec() }),
        other => Err(Damage::new(format!("there is no kind of change {other}"))),
    }
}

fn take<'a>(rest: &mut &'a [u8], count: usize) -> Result<&'a [u8], Damage> {
    match rest.split_at_checked(count) {
        Some((taken, after)) => {
            *rest = after;
            Ok(taken)
        }
        None => Err(Damage::new(format!("{count} bytes are wanted where {} are left", rest.len()))),
    }
}

/// What precedes one page in an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BlockHead {
    pub(crate) table: Table,
    pub(crate) first_key_bytes: u32,
    pub(crate) page_bytes: u32,
}

/// Encodes an export's block up to where its page begins: its head and its first key.
pub(crate) fn encode_block(table: Table, first_key: &[u8], page_bytes: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(BLOCK_HEAD_BYTES + first_key.len());
    bytes.extend_from_slice(&BLOCK_MAGIC.to_le_bytes());
    bytes.extend_from_slice(&[table as u8, 0, 0, 0]);
    bytes.extend_from_slice(&(first_key.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&(page_bytes as u32).to_le_bytes());
    let checksum = crc32c::crc32c(&bytes);
    bytes.extend_from_slice(&checksum.to_le_bytes());
    bytes.extend_from_slice(first_key);
    bytes
}

/// Reads a block's head; `None` means that the trailer stands here.
pub(crate) fn decode_block_head(bytes: &[u8; BLOCK_HEAD_BYTES]) -> Result<Option<BlockHead>, Damage> {
    if u32_at(bytes, 0) == TRAILER_MAGIC {
        return Ok(None);
    }
    if u32_at(bytes, 0) != BLOCK_MAGIC {
        return Err(Damage::new("no block begins here: the magic number does not match"));
    }
    if u32_at(bytes, 16) != crc32c::crc32c(&bytes[..16]) {
        return Err(Damage::new("the checksum of the block's head does not match"));
    }
    let table = Table::from_number(bytes[4]).ok_or_else(|| Damage::new(format!("there is no table {}", bytes[4])))?;
    let head = BlockHead { table, first_key_bytes: u32_at(bytes, 8), page_bytes: u32_at(bytes, 12) };
    let page_bytes_max = super::page::PAGE_BYTES_MAX;
    if bytes[5..8] != [0; 3]
        || head.first_key_bytes as usize > KEY_BYTES_MAX
        || head.page_bytes as usize > page_bytes_max
    {
        return Err(Damage::new("the block's head is out of bounds"));
    }
    Ok(Some(head))
}

/// What ends an export: without it the export is not whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Trailer {
    pub(crate) blocks: u64,
    pub(crate) records: u64,
    /// CRC-32C of everything before the trailer.
    pub(crate) content: u32,
}

impl Trailer {
    pub(crate) fn encode(&self) -> [u8; TRAILER_BYTES] {
        let mut bytes = [0; TRAILER_BYTES];
        bytes[..4].copy_from_slice(&TRAILER_MAGIC.to_le_bytes());
        bytes[4..12].copy_from_slice(&self.blocks.to_le_bytes());
        bytes[12..20].copy_from_slice(&self.records.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.content.to_le_bytes());
        let checksum = crc32c::crc32c(&bytes[..28]);
        bytes[28..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8; TRAILER_BYTES]) -> Result<Trailer, Damage> {
        if u32_at(bytes, 0) != TRAILER_MAGIC || u32_at(bytes, 28) != crc32c::crc32c(&bytes[..28]) {
            return Err(Damage::new("the checksum of the trailer does not match"));
        }
        if u32_at(bytes, 24) != 0 {
            return Err(Damage::new("reserved bytes of the trailer are not zero"));
        }
        Ok(Trailer { blocks: u64_at(bytes, 4), records: u64_at(bytes, 12), content: u32_at(bytes, 20) })
    }
}

/// The number at this place of a slice known to be long enough.
pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

/// The number at this place of a slice known to be long enough.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// The number at this place of a slice known to be long enough.
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}
