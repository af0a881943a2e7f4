//! Fetching ahead of a sequential reader: per open handle a window that grows, filled by a few threads into the block cache.
//!
//! A seek, the end of the handle, or an invalidation makes queued fetches void: a fetch holds no lease, so it goes by
//! what the read before it knew, asks the master for nothing, and puts in nothing once that may be wrong. Failures are
//! silent: the read that needs the bytes meets them itself. A read that comes while a fetch of its bytes is under way waits
//! for it in the cache.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rfs_common::leaf::{CHUNK_BYTES, LEAF_BYTES, leaves_of};

use super::block_cache::BLOCK_BYTES;
use super::file::FileData;

/// The first window; it doubles with every read that continues the one before.
const FIRST_WINDOW_BYTES: u64 = 512 << 10;
/// What one thread fetches in one go.
const FETCH_BYTES: u64 = 1 << 20;
/// The kernel sends reads of one sequential reader in several requests, not always in order.
const DISORDER_BYTES: u64 = 2 << 20;
/// A handle counts as sequential after so many reads in a row.
const READS_IN_A_ROW: u32 = 2;

/// How a handle reads just now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pattern {
    /// Only what is asked for is worth fetching.
    Random,
    /// What follows will be asked for.
    Sequential,
}

/// The read-ahead of one handle.
#[derive(Debug)]
pub(crate) struct ReadAhead {
    window_bytes_max: u64,
    window: Mutex<Window>,
    /// Fetches scheduled under an older generation are void.
    generation: Arc<AtomicU64>,
}

#[derive(Debug, Default)]
struct Window {
    next: u64,
    in_a_row: u32,
    bytes: u64,
    scheduled_end: u64,
}

impl ReadAhead {
    pub(crate) fn new(window_bytes_max: u64) -> ReadAhead {
        ReadAhead { window_bytes_max, window: Mutex::default(), generation: Arc::default() }
    }

    /// Takes note of a read; how it goes on, and what should be fetched.
    pub(crate) fn note(&self, offset: u64, length: u64, file_length: u64) -> (Pattern, Option<Range<u64>>) {
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        let slack = if window.in_a_row >= READS_IN_A_ROW { DISORDER_BYTES } else { 0 };
        let continues = offset <= window.next + slack && window.next <= offset + slack;
        let end = offset + length;
        if !continues {
            *window = Window { next: end, ..Window::default() };
            self.generation.fetch_add(1, Ordering::Relaxed);
            return (Pattern::Random, None);
        }
        window.next = window.next.max(end);
        window.in_a_row = window.in_a_row.saturating_add(1);
        if window.in_a_row < READS_IN_A_ROW {
            return (Pattern::Sequential, None);
        }
        window.bytes = (window.bytes * 2).clamp(FIRST_WINDOW_BYTES, self.window_bytes_max.max(FIRST_WINDOW_BYTES));
        let wanted_end = (window.next + window.bytes).min(file_length);
        let from = window.scheduled_end.max(window.next);
        // Small steps would wake a thread for every read: wait until a good part of the window has been used up.
        let worth = FETCH_BYTES.min(window.bytes / 2);
        if from + worth > wanted_end && (wanted_end < file_length || from >= wanted_end) {
            return (Pattern::Sequential, None);
        }
        window.scheduled_end = wanted_end;
        (Pattern::Sequential, Some(from..wanted_end))
    }

    /// Hands the range to the threads; what they have no room for is not fetched. `invalidations` are the file's when the
    /// read began that has a use of what follows.
    pub(crate) fn schedule(&self, file: &Arc<FileData>, range: Range<u64>, invalidations: u64) {
        let mut next = range.start - range.start % u64::from(BLOCK_BYTES);
        let generation = self.generation.load(Ordering::Relaxed);
        while next < range.end {
            let end = (next - next % FETCH_BYTES + FETCH_BYTES).min(range.end);
            let job = FetchJob {
                file: Arc::clone(file),
                range: next..end,
                generation,
                current: Arc::clone(&self.generation),
                invalidations,
            };
            if file.path.fetches.push(job).is_err() {
                break;
            }
            next = end;
        }
    }
}

impl Drop for ReadAhead {
    fn drop(&mut self) {
        self.generation.fetch_add(1, Ordering::Relaxed);
    }
}

/// One range to fetch, within one chunk.
pub(crate) struct FetchJob {
    file: Arc<FileData>,
    range: Range<u64>,
    generation: u64,
    current: Arc<AtomicU64>,
    invalidations: u64,
}

const _: () = assert!(CHUNK_BYTES.is_multiple_of(FETCH_BYTES));

impl FetchJob {
    /// Fetches what is not there yet.
    pub(crate) fn run(&self) {
        if self.current.load(Ordering::Relaxed) != self.generation {
            return;
        }
        let index = (self.range.start / CHUNK_BYTES) as u32;
        let Some(chunk) = self.file.known_places(index, self.invalidations) else { return };
        let first = (self.range.start % CHUNK_BYTES / LEAF_BYTES as u64) as u32;
        let count = (self.range.end - self.range.start).div_ceil(LEAF_BYTES as u64) as u32;
        let leaves = first..(first + count).min(leaves_of(chunk.length));
        if leaves.is_empty() || self.file.path.cache.has_or_fetches(self.file.inode, chunk.chunk, &leaves) {
            return;
        }
        let missing = self.file.path.cache.find(self.file.inode, chunk.chunk, leaves).missing;
        for part in missing {
            if let Err(error) = self.file.fetch(&chunk, part, self.invalidations) {
                tracing::debug!(inode = %self.file.inode, index, %error, "read-ahead failed");
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_grows_for_a_sequence_and_ends_with_a_seek() {
        let (mib, ahead) = (1 << 20, ReadAhead::new(8 << 20));
        let mut scheduled: Vec<Range<u64>> = Vec::new();
        for number in 0..32_u64 {
            let (pattern, range) = ahead.note(number * 128 * 1024, 128 * 1024, 100 * mib);
            assert_eq!(pattern, Pattern::Sequential);
            scheduled.extend(range);
        }
        assert!(scheduled.windows(2).all(|pair| pair[0].end == pair[1].start), "{scheduled:?}");
        assert!(scheduled.last().unwrap().end >= 4 * mib + 7 * mib, "{scheduled:?}");
        assert!(scheduled.len() < 16, "{scheduled:?}");
        let before = ahead.generation.load(Ordering::Relaxed);
        assert_eq!(ahead.note(50 * mib, 4096, 100 * mib), (Pattern::Random, None));
        assert_ne!(ahead.generation.load(Ordering::Relaxed), before);
    }

    #[test]
    fn reads_out_of_order_are_still_a_sequence() {
        let ahead = ReadAhead::new(1 << 20);
        let block = 256 << 10;
        for number in [0_u64, 1, 3, 2, 5, 4, 6] {
            assert_eq!(ahead.note(number * block, block, 1 << 30).0, Pattern::Sequential, "{number}");
        }
    }
}
