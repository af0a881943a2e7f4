//! Reads the log back: after a restart to replay it, and offline to check it.
//!
//! Records are read in order until one is not there. What then stands behind that place decides what happened. Zeros and
//! nothing else: the end. Anything else: a tear or damage. Each record and each segment's head says how far the log was
//! known to be on disk when it was written; if any that follows vouches for the missing position, or the checkpoint
//! does, then a synced record is gone, which no crash can cause: damage, and the store does not open. Otherwise the crash
//! took what was never promised, in whatever order the disk wrote it, and the rest is dropped with a warning.
//!
//! What always holds: no input makes this panic; damage is named by file and offset.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use super::anchor::shown;
use super::format::{
    RECORD_ALIGNMENT_BYTES, RECORD_HEAD_BYTES, Record, SEGMENT_HEAD_BYTES, decode_record, decode_segment_head,
};
use super::log::{LogEnd, PREPARED_NAME, Segment, claim};
use super::{Finding, OpenError};

/// Finds the segments, in order. A folder that is not there is an empty log.
pub(crate) fn list_segments(folder: &Path) -> Result<Vec<Segment>, OpenError> {
    let read = |error| OpenError::io("reading the folder", folder, error);
    let mut segments = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(read)? {
        let entry = entry.map_err(read)?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let first =
            name.strip_suffix(".log").filter(|digits| digits.len() == 20).and_then(|digits| digits.parse().ok());
        match first {
            Some(first) => {
                let bytes = entry.metadata().map_err(read)?.len();
                segments.push(Segment { first, path: entry.path(), bytes });
            }
            None if name == PREPARED_NAME => {}
            None => {
                tracing::warn!(file = %shown(&entry.path()), "a file that is no log segment lies in the log; it is ignored");
            }
        }
    }
    segments.sort_by_key(|segment| segment.first);
    Ok(segments)
}

/// The segments with nothing above the marker, which are only to be deleted, and the others.
fn list_unfolded(folder: &Path, marker: u64) -> Result<(Vec<Segment>, Vec<Segment>), OpenError> {
    let mut segments = list_segments(folder)?;
    let below = segments.partition_point(|segment| segment.first <= marker + 1).saturating_sub(1);
    let rest = segments.split_off(below);
    Ok((segments, rest))
}

/// Where and why reading stopped before the end.
struct Stop {
    segment: usize,
    offset: u64,
    what: String,
}

/// Replays every record above the marker into `apply`, repairs a torn end, and says where the log goes on.
pub(crate) fn recover(
    folder: &Path,
    cluster: [u8; 16],
    marker: u64,
    apply: &mut dyn FnMut(Record) -> Result<(), OpenError>,
) -> Result<LogEnd, OpenError> {
    let (folded, mut segments) = list_unfolded(folder, marker)?;
    for folded in folded {
        remove(&folded.path)?;
    }
    if let Some(segment) = segments.first().filter(|segment| segment.first > marker + 1) {
        let what = format!("the log begins at position {} but was folded only up to {marker}", segment.first);
        return Err(OpenError::Damaged { file: segment.path.clone(), offset: 0, what });
    }
    let (end, stop) = read_segments(&segments, cluster, marker, apply)?;
    let Some(stop) = stop else {
        let (position, offset) = end;
        return end_of_log(segments, position.max(marker), offset, marker);
    };
    let position = end.0;
    if durable_beyond(&segments, &stop, marker, position)? > position {
        let file = segments[stop.segment].path.clone();
        return Err(OpenError::Damaged { file, offset: stop.offset, what: stop.what });
    }
    drop_tail(&mut segments, &stop)?;
    let offset = if segments.len() > stop.segment { stop.offset } else { segments.last().map_or(0, |last| last.bytes) };
    end_of_log(segments, position, offset, marker)
}

/// The log may end below the marker only if it has no segment at all, as after a restore.
fn end_of_log(segments: Vec<Segment>, position: u64, offset: u64, marker: u64) -> Result<LogEnd, OpenError> {
    match segments.last() {
        Some(last) if position < marker => {
            let what = format!("the log ends at position {position} but was folded up to {marker}");
            Err(OpenError::Damaged { file: last.path.clone(), offset, what })
        }
        _ => Ok(LogEnd { segments, position: position.max(marker), offset }),
    }
}

type End = (u64, u64);

fn read_segments(
    segments: &[Segment],
    cluster: [u8; 16],
    marker: u64,
    apply: &mut dyn FnMut(Record) -> Result<(), OpenError>,
) -> Result<(End, Option<Stop>), OpenError> {
    let mut position = segments.first().map_or(marker, |segment| segment.first - 1);
    let mut offset = 0;
    for (index, segment) in segments.iter().enumerate() {
        let bytes = read_file(&segment.path)?;
        let stop = |offset: u64, what: String| Some(Stop { segment: index, offset, what });
        match decode_segment_head(&bytes) {
            Err(damage) => return Ok(((position, 0), stop(0, damage.to_string()))),
            Ok(head) if head.cluster != cluster => {
                let what = "the segment belongs to another cluster".to_owned();
                return Err(OpenError::Damaged { file: segment.path.clone(), offset: 16, what });
            }
            Ok(head) if head.position != segment.first || head.position != position + 1 => {
                let what = format!("the segment begins with position {}, not with {}", head.position, position + 1);
                return Err(OpenError::Damaged { file: segment.path.clone(), offset: 32, what });
            }
            Ok(_) => {}
        }
        offset = SEGMENT_HEAD_BYTES as u64;
        let what = read_records(&bytes, &mut offset, &mut position, marker, apply)?;
        let next = segments.get(index + 1).map(|next| next.first);
        if !is_zero(&bytes[offset as usize..]) || next.is_some_and(|first| first != position + 1) {
            return Ok(((position, offset), stop(offset, what)));
        }
    }
    Ok(((position, offset), None))
}

/// Applies records while they follow each other; returns what stood where they stopped.
fn read_records(
    bytes: &[u8],
    offset: &mut u64,
    position: &mut u64,
    marker: u64,
    apply: &mut dyn FnMut(Record) -> Result<(), OpenError>,
) -> Result<String, OpenError> {
    loop {
        match decode_record(&bytes[*offset as usize..]) {
            Ok(record) if record.position == *position + 1 => {
                *position = record.position;
                *offset += record.length as u64;
                if record.position > marker {
                    apply(record)?;
                }
            }
            Ok(record) => return Ok(format!("position {} stands where {} should", record.position, *position + 1)),
            Err(damage) => return Ok(damage.to_string()),
        }
    }
}

/// The highest position that anything behind the stop, or the checkpoint, says was on disk.
fn durable_beyond(segments: &[Segment], stop: &Stop, marker: u64, stopped_at: u64) -> Result<u64, OpenError> {
    let mut durable = marker;
    for (index, segment) in segments.iter().enumerate().skip(stop.segment) {
        let bytes = read_file(&segment.path)?;
        let from = if index == stop.segment { stop.offset as usize } else { 0 };
        if from == 0 {
            durable = durable.max(decode_segment_head(&bytes).map_or(0, |head| head.durable));
        }
        durable = durable.max(durable_in_rest(&bytes, from.max(SEGMENT_HEAD_BYTES), stopped_at));
    }
    Ok(durable)
}

fn durable_in_rest(bytes: &[u8], from: usize, stopped_at: u64) -> u64 {
    let mut durable = 0;
    let mut at = from.next_multiple_of(RECORD_ALIGNMENT_BYTES);
    while at + RECORD_HEAD_BYTES <= bytes.len() {
        match decode_record(&bytes[at..]) {
            // Every record says less to be durable than its own position. What users store is no record, whatever it looks like.
            Ok(record) if record.durable < record.position && record.position > stopped_at => {
                durable = durable.max(record.durable);
                at += record.length;
            }
            Ok(_) => at += RECORD_ALIGNMENT_BYTES,
            Err(_) => at += RECORD_ALIGNMENT_BYTES,
        }
    }
    durable
}

/// Cuts the log off at the stop, so that nothing behind it is ever read again.
fn drop_tail(segments: &mut Vec<Segment>, stop: &Stop) -> Result<(), OpenError> {
    let torn = &segments[stop.segment];
    tracing::warn!(
        file = %shown(&torn.path),
        offset = stop.offset,
        reason = stop.what,
        "the log ends in a record that was not completely written before a crash; it was never promised to be kept and is dropped"
    );
    let keep = if stop.offset < SEGMENT_HEAD_BYTES as u64 { stop.segment } else { stop.segment + 1 };
    for later in segments.drain(keep..).rev() {
        remove(&later.path)?;
    }
    if keep > stop.segment {
        let torn = &mut segments[stop.segment];
        cut(torn, stop.offset).map_err(|error| OpenError::io("cutting off the torn end of", &torn.path, error))?;
    }
    Ok(())
}

fn cut(segment: &mut Segment, offset: u64) -> io::Result<()> {
    let file = File::options().write(true).open(&segment.path)?;
    file.set_len(offset)?;
    if claim(&file, segment.bytes).is_err() {
        // Without space the segment is simply full, and the next record goes into a new one.
        file.set_len(offset)?;
        segment.bytes = offset;
    }
    file.sync_all()
}

/// The end of the log as [`recover`] would find it, if that is a record which a crash cut off: the last position before it,
/// and where it stands. Nothing is changed.
pub(crate) fn torn_end(folder: &Path, cluster: [u8; 16], marker: u64) -> Result<Option<(u64, Finding)>, OpenError> {
    let (_, segments) = list_unfolded(folder, marker)?;
    if segments.first().is_some_and(|segment| segment.first > marker + 1) {
        return Ok(None);
    }
    let ((position, _), stop) = match read_segments(&segments, cluster, marker, &mut |_| Ok(())) {
        Err(OpenError::Damaged { .. }) => return Ok(None),
        other => other?,
    };
    match stop {
        Some(stop) if position >= marker && durable_beyond(&segments, &stop, marker, position)? <= position => {
            let file = segments[stop.segment].path.clone();
            Ok(Some((position, Finding { file, offset: stop.offset, what: stop.what })))
        }
        _ => Ok(None),
    }
}

/// Checks all segments for [`super::Store::verify`] and returns the position the log ends at.
pub(crate) fn check(
    folder: &Path,
    cluster: [u8; 16],
    marker: u64,
    findings: &mut Vec<Finding>,
) -> Result<u64, OpenError> {
    let (_, segments) = list_unfolded(folder, marker)?;
    if let Some(segment) = segments.first().filter(|segment| segment.first > marker + 1) {
        let what = format!("the log begins at position {} but was folded only up to {marker}", segment.first);
        findings.push(Finding { file: segment.path.clone(), offset: 0, what });
    }
    let mut position = marker;
    for (index, segment) in segments.iter().enumerate() {
        let alone = std::slice::from_ref(segment);
        match read_segments(alone, cluster, segment.first - 1, &mut |_| Ok(())) {
            Ok(((end, offset), None)) => {
                position = position.max(end);
                if let Some(next) = segments.get(index + 1).filter(|next| next.first != end + 1) {
                    let what = format!("the segment ends at position {end}, the next begins at {}", next.first);
                    findings.push(Finding { file: segment.path.clone(), offset, what });
                }
            }
            Ok((_, Some(stop))) => {
                findings.push(Finding { file: segment.path.clone(), offset: stop.offset, what: stop.what });
            }
            Err(OpenError::Damaged { file, offset, what }) => findings.push(Finding { file, offset, what }),
            Err(other) => return Err(other),
        }
    }
    Ok(position)
}

fn read_file(path: &PathBuf) -> Result<Vec<u8>, OpenError> {
    std::fs::read(path).map_err(|error| OpenError::io("reading", path, error))
}

fn remove(path: &Path) -> Result<(), OpenError> {
    std::fs::remove_file(path).map_err(|error| OpenError::io("deleting", path, error))
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use super::super::{Change, Table};
    use super::*;
    use crate::store::format::encode_record;

    #[test]
    fn what_looks_like_a_record_and_cannot_be_one_says_nothing_of_the_disk() {
        let record = |position: u64, durable: u64| {
            let mut bytes = Vec::new();
            let change = Change::Put { table: Table::Xattrs, key: b"k".to_vec(), value: b"v".to_vec() };
            encode_record(&mut bytes, position, durable, &[change]);
            bytes
        };
        assert_eq!(durable_in_rest(&record(12, 11), 0, 10), 11, "one that is behind the stop");
        assert_eq!(durable_in_rest(&record(12, 12), 0, 10), 0, "no record is on disk before it is written");
        assert_eq!(durable_in_rest(&record(10, 9), 0, 10), 0, "it stands behind this position");
        // The forged one does not hide what follows it.
        let both = [record(12, 1 << 40), record(13, 11)].concat();
        assert_eq!(durable_in_rest(&both, 0, 10), 11);
    }
}
