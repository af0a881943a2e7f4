//! Scrubbing: within a set time every chunk of a volume is read from its disk and compared with its leaf hashes, so that
//! rot is found while another copy is still good.
//!
//! A *round* goes through the chunks that were there when it began, in the order of their ids, a piece of 1 MiB at a time,
//! and as slowly as it may: a full volume takes the whole period, a small one is read at [`BYTES_PER_SECOND_MIN`], and no
//! volume faster than the settings allow. Between two pieces nothing is held. The next round begins a period after the
//! last one began. Chunks that take writes are passed over: their hashes are compared by everyone who reads them, and the
//! next round finds them at rest.
//!
//! A copy that the master asks about is compared at once. What was found bad is reported to the master, and again each minute until the copy is gone: the master decides what is
//! done. Where a round stands is kept in `scrub.toml` (docs/formats/volume.md).

use std::path::Path;
use std::sync::PoisonError;
use std::time::Duration;

use rfs_common::clock::{Monotonic, Time};
use rfs_common::durable;
use rfs_common::ids::ChunkId;
use rfs_common::leaf::LEAF_BYTES;
use serde::{Deserialize, Serialize};

use crate::chunk::fault::Fault;
use crate::chunk::format::HEADER_PAGE_BYTES;
use crate::chunk::on_disk::{Comparison, DiskReader, PIECE_LEAVES};

use super::identity::with_sources;
use super::scan::named;
use super::store::Volume;

/// How a volume is scrubbed.
#[derive(Clone, Copy, Debug)]
pub struct ScrubSettings {
    /// Within this time every chunk is read.
    pub period: Duration,
    /// At most this fast.
    pub bytes_per_second_max: u64,
}

/// How far the scrub of a volume is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Chunks of this round that were looked at.
    pub done: u64,
    /// Chunks of this round.
    pub chunks: u64,
    /// When the last complete round ended, in seconds since 1970; 0: never.
    pub completed: i64,
    /// Bad copies found since the volume was made.
    pub found: u64,
}

/// A volume that holds little is not read more slowly than this.
const BYTES_PER_SECOND_MIN: u64 = 1 << 20;
const FILE_NAME: &str = "scrub.toml";
const SAVE_INTERVAL: Duration = Duration::from_secs(300);
const REPORT_INTERVAL: Duration = Duration::from_secs(60);
/// Between two looks whether a round is due, and after a failure to read.
const IDLE: Duration = Duration::from_secs(1);

/// `scrub.toml`. Times are in seconds since 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    /// When the latest round began; 0: there was none.
    started: i64,
    /// When a round was completed last; 0: never.
    completed: i64,
    /// The round goes on with this chunk; 0: it is over.
    next: u64,
    /// Bad copies found.
    found: u64,
}

/// The scrub of one volume in use.
#[derive(Debug)]
pub struct Scrubber {
    reader: DiskReader,
    record: Record,
    round: Option<Round>,
    saved: Monotonic,
    /// When what was found is told again.
    report_next: Monotonic,
}

#[derive(Debug)]
struct Round {
    /// The chunks to come, the next one last.
    chunks: Vec<ChunkId>,
    /// The first leaf of the next piece of the next chunk; none: its header comes first.
    leaf: Option<u32>,
    bytes_per_second: u64,
}

impl Scrubber {
    /// Goes on where the last use of the volume ended.
    pub fn of(volume: &Volume) -> Scrubber {
        let record = Record::read(&volume.anchor).unwrap_or_default();
        let now = volume.now();
        let scrubber = Scrubber {
            reader: DiskReader::default(),
            record,
            round: None,
            saved: now,
            report_next: now + REPORT_INTERVAL,
        };
        scrubber.show(volume);
        scrubber
    }

    /// Compares one piece, if a round is under way or due. Gives the time until the next step.
    pub fn step(&mut self, volume: &Volume) -> Duration {
        if volume.is_out() || volume.gate.is_stalled() {
            return IDLE;
        }
        self.report_again(volume);
        if let Some(chunk) = volume.take_to_check() {
            self.check(volume, chunk);
            return Duration::ZERO;
        }
        if self.round.is_none() && !self.begin_if_due(volume) {
            return IDLE;
        }
        let bytes = self.next_piece(volume);
        let pace = self.round.as_ref().map_or(BYTES_PER_SECOND_MIN, |round| round.bytes_per_second);
        if volume.now().since(self.saved) >= SAVE_INTERVAL || self.round.is_none() {
            self.save(volume);
        }
        self.show(volume);
        Duration::from_secs_f64(bytes as f64 / pace as f64)
    }

    /// Writes down where the round stands.
    pub fn save(&self, volume: &Volume) {
        if volume.read_only_reason().is_some() || volume.is_out() {
            return;
        }
        if let Err(error) = self.record.write(&volume.anchor) {
            let error = named(error, &volume.anchor, &volume.folder);
            tracing::debug!(volume = %volume.id(), error = %with_sources(&error), "where the scrub stands could not be written");
        }
    }

    fn begin_if_due(&mut self, volume: &Volume) -> bool {
        let now = volume.clock.now();
        let since = now.since(Time::from_seconds(self.record.started));
        let interrupted = self.record.next != 0;
        let clock_went_back = self.record.started > now.seconds();
        let due = self.record.started == 0 || since >= volume.settings.scrub.period;
        if !interrupted && !due && !clock_went_back {
            return false;
        }
        let mut chunks = volume.copies_held();
        chunks.sort_unstable_by_key(|(chunk, _)| std::cmp::Reverse(*chunk));
        let bytes: u64 = chunks.iter().map(|(_, held)| u64::from(held.data_length) + HEADER_PAGE_BYTES as u64).sum();
        let total = chunks.len() as u64;
        chunks.retain(|(chunk, _)| chunk.get() >= self.record.next);
        if !interrupted {
            self.record.started = now.seconds();
        }
        let settings = volume.settings.scrub;
        let needed = bytes / settings.period.as_secs().max(1);
        let bytes_per_second = needed.max(BYTES_PER_SECOND_MIN).min(settings.bytes_per_second_max.max(1));
        let chunks: Vec<ChunkId> = chunks.into_iter().map(|(chunk, _)| chunk).collect();
        let done = total - chunks.len() as u64;
        volume.set_scrubbed(|progress| (progress.done, progress.chunks) = (done, total));
        tracing::debug!(volume = %volume.id(), chunks = chunks.len(), bytes_per_second, "a round of scrubbing begins");
        self.round = Some(Round { chunks, leaf: None, bytes_per_second });
        true
    }

    /// Compares a whole copy at once, out of turn.
    fn check(&mut self, volume: &Volume, chunk: ChunkId) {
        let mut leaf = None;
        loop {
            match compare_piece(volume, chunk, leaf, &mut self.reader) {
                Ok((Comparison::Same, 0)) if leaf.is_some() => return,
                Ok((Comparison::Same, _)) => leaf = Some(leaf.map_or(0, |leaf| leaf + PIECE_LEAVES)),
                Ok((Comparison::Differs(reason), _)) | Err(Fault::BadCopy { reason }) => {
                    self.found(volume, chunk, reason);
                    return self.show(volume);
                }
                Ok((Comparison::NotNow, _)) | Err(Fault::NoChunk) => return,
                Err(fault) => {
                    if let Some(held) = volume.known_held(chunk) {
                        volume.note(chunk, held.version, &fault);
                    }
                    return;
                }
            }
        }
    }

    /// Gives the bytes read.
    fn next_piece(&mut self, volume: &Volume) -> usize {
        let Some(round) = &mut self.round else { return 0 };
        let Some(&chunk) = round.chunks.last() else {
            self.record.next = 0;
            self.record.completed = volume.clock.now().seconds();
            self.round = None;
            return 0;
        };
        self.record.next = chunk.get();
        let compared = compare_piece(volume, chunk, round.leaf, &mut self.reader);
        let (next, bytes) = match compared {
            Ok((Comparison::Same, 0)) if round.leaf.is_some() => (None, 0),
            Ok((Comparison::Same, bytes)) => (Some(round.leaf.map_or(0, |leaf| leaf + PIECE_LEAVES)), bytes),
            Ok((Comparison::Differs(reason), bytes)) => {
                self.found(volume, chunk, reason);
                (None, bytes)
            }
            Ok((Comparison::NotNow, _)) | Err(Fault::NoChunk) => (None, 0),
            Err(Fault::BadCopy { reason }) => {
                self.found(volume, chunk, reason);
                (None, 0)
            }
            Err(fault) => {
                if let Some(held) = volume.known_held(chunk) {
                    volume.note(chunk, held.version, &fault);
                }
                (None, PIECE_LEAVES as usize * LEAF_BYTES)
            }
        };
        let round = self.round.as_mut().expect("the round is not ended above");
        round.leaf = next;
        if next.is_none() {
            round.chunks.pop();
            volume.set_scrubbed(|progress| progress.done += 1);
        }
        bytes
    }

    fn found(&mut self, volume: &Volume, chunk: ChunkId, reason: String) {
        let Some(held) = volume.known_held(chunk) else { return };
        tracing::warn!(volume = %volume.id(), %chunk, reason, "the scrub found a bad copy");
        self.record.found += 1;
        volume.report_bad(chunk, held.version.get(), reason);
    }

    fn report_again(&mut self, volume: &Volume) {
        if volume.now() < self.report_next {
            return;
        }
        self.report_next = volume.now() + REPORT_INTERVAL;
        for (chunk, version, reason) in volume.still_bad() {
            volume.report_bad(chunk, version.get(), reason);
        }
    }

    fn show(&self, volume: &Volume) {
        let Record { completed, found, .. } = self.record;
        volume.set_scrubbed(|progress| (progress.completed, progress.found) = (completed, found));
    }
}

/// Gives what was found and the bytes read.
fn compare_piece(
    volume: &Volume,
    chunk: ChunkId,
    leaf: Option<u32>,
    reader: &mut DiskReader,
) -> Result<(Comparison, usize), Fault> {
    // A piece is read in one go, but a disk with much to do may take its time: the limit is that of a sync.
    let _pass = volume.gate.enter(volume.now(), volume.settings.sync_deadline)?;
    let copy = volume.copy(chunk)?;
    match leaf {
        None => Ok((copy.compare_header_on_disk(reader)?, HEADER_PAGE_BYTES)),
        Some(first) => copy.compare_piece_on_disk(first, reader),
    }
}

impl Volume {
    fn set_scrubbed(&self, set: impl FnOnce(&mut Progress)) {
        set(&mut self.scrubbed.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Record {
    /// Anything unreadable is a scrub that never was: the worst that follows is one round more.
    fn read(folder: &Path) -> Option<Record> {
        toml::from_str(&durable::read_text_limited(&folder.join(FILE_NAME), 4096).ok()?).ok()
    }

    fn write(&self, folder: &Path) -> Result<(), durable::FileError> {
        let text = toml::to_string(self).expect("a record is plain numbers, which TOML can hold");
        durable::write_atomically(&folder.join(FILE_NAME), text.as_bytes())
    }
}

#[cfg(test)]
#[path = "scrub_golden_test.rs"]
mod golden_tests;

#[cfg(test)]
#[path = "scrub_test.rs"]
mod tests;
