//! The bytes of sled 0.34.7's files, as far as they must be read without it: to find out which of them is damaged, and where,
//! before sled meets it. Nothing here writes. `docs/formats/pages.md` describes the same bytes for people.
//!
//! What always holds: decoding checks every length before it is used and never panics; what is accepted here sled accepts
//! too, and the other way round.

use std::ops::Range;

use super::format::{Damage, u32_at, u64_at};

/// The folder of sled's blobs, in sled's folder: values of more than a quarter of a segment, each in a file whose name is its
/// number.
pub(crate) const SLED_BLOBS: &str = "blobs";
/// Bytes of a segment, where `conf` does not say otherwise.
pub(crate) const SLED_SEGMENT_BYTES: u64 = 512 * 1024;
/// Bytes of what a segment begins with.
pub(crate) const SLED_HEAD_BYTES: usize = 20;
/// No message begins nearer to the end of its segment.
pub(crate) const RED_ZONE_BYTES: u64 = 32;
/// Bytes of checksum and length at the end of a snapshot.
const SNAPSHOT_END_BYTES: usize = 12;
/// Files of settings up to this length are written anew by sled.
const SETTINGS_BYTES_MIN: usize = 9;
/// Above this sled takes no segment size.
const SEGMENT_BYTES_MAX: u64 = 1 << 24;

/// Where in sled's endless log something stands.
pub(crate) type LogNumber = i64;

fn crc32(parts: &[&[u8]]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    parts.iter().for_each(|part| hasher.update(part));
    hasher.finalize()
}

/// The segment size that `conf` says. None where sled would write the file anew.
pub(crate) fn decode_settings(bytes: &[u8]) -> Result<Option<u64>, Damage> {
    if bytes.len() < SETTINGS_BYTES_MIN {
        return Ok(None);
    }
    let (text, checksum) = bytes.split_at(bytes.len() - 4);
    if crc32(&[text]) != u32_at(checksum, 0) {
        return Err(Damage::new("the checksum of sled's settings does not match"));
    }
    let text = String::from_utf8_lossy(text);
    let size = text.lines().find_map(|line| line.strip_prefix("segment_size: ")).and_then(|size| size.parse().ok());
    match size {
        Some(size) if (256..=SEGMENT_BYTES_MAX).contains(&size) && u64::is_power_of_two(size) => Ok(Some(size)),
        _ => Err(Damage::new("sled's settings have no segment size")),
    }
}

/// A blob as sled keeps it in a file: checksum, kind, bytes.
pub(crate) fn check_blob(bytes: &[u8]) -> Result<(), Damage> {
    match bytes.split_at_checked(4) {
        Some((checksum, rest)) if !rest.is_empty() && crc32(&[rest]) == u32_at(checksum, 0) => Ok(()),
        Some(_) => Err(Damage::new("the checksum of sled's blob does not match")),
        None => Err(Damage::new("sled's blob is cut short")),
    }
}

/// One message that a page of sled's is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) number: LogNumber,
    /// Where in the file.
    pub(crate) offset: u64,
    /// Which blob it stands for, if it does.
    pub(crate) blob: Option<LogNumber>,
}

/// What sled knows of one of its pages.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) enum SledPage {
    /// Nothing. sled panics over it.
    #[default]
    Unknown,
    Free(Piece),
    Present(Vec<Piece>),
}

/// What sled has noted when it was opened, so that it does not read all of its log the next time.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Snapshot {
    /// Up to where it includes the log.
    pub(crate) stable: Option<LogNumber>,
    pub(crate) pages: Vec<SledPage>,
}

impl Snapshot {
    pub(crate) fn decode(bytes: &[u8]) -> Result<Snapshot, Damage> {
        let Some(end) = bytes.len().checked_sub(SNAPSHOT_END_BYTES).filter(|end| *end > 0) else {
            return Err(Damage::new("sled's snapshot is cut short"));
        };
        let (mut rest, ending) = bytes.split_at(end);
        if crc32(&[rest]) != u32_at(ending, 8) {
            return Err(Damage::new("the checksum of sled's snapshot does not match"));
        }
        decode_snapshot(&mut rest).ok_or_else(|| Damage::new("sled's snapshot makes no sense"))
    }
}

fn decode_snapshot(rest: &mut &[u8]) -> Option<Snapshot> {
    let stable = match signed(rest)? {
        0 => None,
        shifted if shifted < 0 => Some(shifted),
        shifted => Some(shifted - 1),
    };
    let _active_segment = varint(rest)?;
    let mut pages = Vec::new();
    while !rest.is_empty() {
        let pieces = take(rest, 1)?[0];
        pages.push(match pieces {
            0 => SledPage::Free(Piece { number: signed(rest)?, ..pointer(rest)? }),
            count => SledPage::Present((0..count).map(|_| piece(rest)).collect::<Option<_>>()?),
        });
    }
    Some(Snapshot { stable, pages })
}

fn piece(rest: &mut &[u8]) -> Option<Piece> {
    let number = signed(rest)?;
    let piece = Piece { number, ..pointer(rest)? };
    let _bytes = varint(rest)?;
    Some(piece)
}

fn pointer(rest: &mut &[u8]) -> Option<Piece> {
    let is_blob = take(rest, 1)?[0];
    let offset = varint(rest)?;
    let blob = match is_blob {
        0 => None,
        1 => Some(signed(rest)?),
        _ => return None,
    };
    Some(Piece { number: 0, offset, blob })
}

fn take<'a>(rest: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (taken, after) = rest.split_at_checked(count)?;
    *rest = after;
    Some(taken)
}

fn signed(rest: &mut &[u8]) -> Option<i64> {
    Some(u64_at(take(rest, 8)?, 0).cast_signed())
}

/// Numbers up to 240 are their own byte; longer ones begin with a byte that says how long.
fn varint(rest: &mut &[u8]) -> Option<u64> {
    let first = take(rest, 1)?[0];
    Some(match first {
        0..=240 => u64::from(first),
        241..=248 => 240 + 256 * (u64::from(first) - 241) + u64::from(take(rest, 1)?[0]),
        249 => {
            let bytes = take(rest, 2)?;
            2288 + 256 * u64::from(bytes[0]) + u64::from(bytes[1])
        }
        _ => {
            let bytes = take(rest, usize::from(first) - 247)?;
            bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
        }
    })
}

/// What a segment of sled's log begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SegmentHead {
    Whole {
        /// The segment's first log number.
        first: LogNumber,
        /// Everything below it was on disk when the segment was begun.
        stable: LogNumber,
    },
    /// Zeros: nothing is in the segment, or nothing that counts.
    Blank,
    Broken,
}

impl SegmentHead {
    pub(crate) fn decode(bytes: &[u8; SLED_HEAD_BYTES]) -> SegmentHead {
        if bytes.iter().all(|byte| *byte == 0) {
            return SegmentHead::Blank;
        }
        if crc32(&[&bytes[4..]]) != u32_at(bytes, 0) ^ u32::MAX {
            return SegmentHead::Broken;
        }
        let number = |at| u64_at(bytes, at).cast_signed() ^ LogNumber::MAX;
        SegmentHead::Whole { first: number(4), stable: number(12) }
    }
}

/// What a message is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MessageKind {
    /// Nothing that counts.
    Canceled,
    /// The rest of the segment is empty.
    Cap,
    /// What follows counts only if everything up to this number is there.
    Batch(LogNumber),
    Free,
    /// A page begins anew.
    Base(Option<LogNumber>),
    /// A change of a page.
    Change(Option<LogNumber>),
}

/// A message of sled's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) kind: MessageKind,
    pub(crate) page: u64,
    /// Bytes of all of it.
    pub(crate) bytes: u64,
}

/// Why there is no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoMessage {
    /// Zeros, as behind the last one.
    Empty,
    /// It does not match its checksum, or belongs elsewhere.
    Broken,
    /// The file ends in it.
    CutShort,
}

/// Reads the message at the start of `rest`, which is what is known of a segment with this number from `at` on.
pub(crate) fn decode_message(rest: &[u8], at: u64, segment_bytes: u64, number: u64) -> Result<Message, NoMessage> {
    if rest.is_empty() {
        return Err(NoMessage::CutShort);
    }
    // Like sled, with zeros where the file ends.
    let mut head = [0; RED_ZONE_BYTES as usize];
    let known = rest.len().min(head.len());
    head[..known].copy_from_slice(&rest[..known]);
    let (kind, mut fields) = (head[4], &head[5..]);
    let read = (varint(&mut fields), varint(&mut fields), varint(&mut fields));
    let (Some(length), Some(found_number), Some(page)) = read else { return Err(NoMessage::Broken) };
    if kind == 0 || kind > 11 {
        return Err(if head.iter().all(|byte| *byte == 0) { NoMessage::Empty } else { NoMessage::Broken });
    }
    let head_bytes = head.len() - fields.len();
    if length > segment_bytes.saturating_sub(at + head_bytes as u64) || found_number != number {
        return Err(NoMessage::Broken);
    }
    let Some(body) = rest.get(head_bytes..head_bytes + length as usize) else { return Err(NoMessage::CutShort) };
    if crc32(&[body, &head[4..head_bytes]]) ^ u32::MAX != u32_at(&head, 0) {
        return Err(NoMessage::Broken);
    }
    let kind = kind_of(kind, body).ok_or(NoMessage::Broken)?;
    Ok(Message { kind, page, bytes: head_bytes as u64 + length })
}

fn kind_of(kind: u8, body: &[u8]) -> Option<MessageKind> {
    let number = || (body.len() == 8).then(|| u64_at(body, 0).cast_signed());
    Some(match kind {
        1 => MessageKind::Canceled,
        2 => MessageKind::Cap,
        3 => MessageKind::Batch(number()?),
        4 => MessageKind::Free,
        5 | 6 | 8 => MessageKind::Base(None),
        7 | 9 => MessageKind::Base(Some(number()?)),
        10 => MessageKind::Change(None),
        11 => MessageKind::Change(Some(number()?)),
        _ => return None,
    })
}

/// Which blobs the messages name that were just written to sled's log in one piece, which begins `at` bytes from the start
/// of its segment. None if it cannot be said for all of them.
pub(crate) fn blobs_named(written: &[u8], at: u64) -> Option<Vec<LogNumber>> {
    let end = at + written.len() as u64;
    let head_bytes = if at == 0 { SLED_HEAD_BYTES } else { 0 };
    let mut rest = written.get(head_bytes..)?;
    let number = segment_number_of(rest)?;
    let mut blobs = Vec::new();
    while !rest.is_empty() {
        match decode_message(rest, end - rest.len() as u64, end, number) {
            Ok(Message { kind, bytes, .. }) => {
                if let MessageKind::Base(Some(blob)) | MessageKind::Change(Some(blob)) = kind {
                    blobs.push(blob);
                }
                rest = rest.get(bytes as usize..)?;
            }
            // The last bytes of a segment are not used.
            Err(_) if (rest.len() as u64) < RED_ZONE_BYTES => break,
            Err(_) => return None,
        }
    }
    Some(blobs)
}

/// The number of the segment that the message at the start of `rest` says it belongs to.
fn segment_number_of(rest: &[u8]) -> Option<u64> {
    let mut fields = rest.get(5..)?;
    let _length = varint(&mut fields)?;
    varint(&mut fields)
}

/// Where the bytes of an absent message would stand, for who looks whether anything whole follows it.
pub(crate) fn places_after(at: usize, segment: &[u8]) -> Range<usize> {
    at + 1..segment.len().saturating_sub(RED_ZONE_BYTES as usize)
}
