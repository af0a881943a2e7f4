//! The data of one file, as its open handles see it: the facade over writer, cache, copies and read-ahead. This file has
//! the state and the reading; `writer.rs` the writing, `commit.rs` what the master is told.
//!
//! A read takes, from the top: what is not acknowledged (dirty, on its way, zeroed), then the block cache, then the
//! copies. What it overlays is copied out before it asks anyone, so that a piece acknowledged meanwhile is not missed:
//! acknowledging invalidates the cache before it drops the piece.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rfs_common::clock::{Monotonic, Time};
use rfs_common::errno::Errno;
use rfs_common::ids::InodeId;
use rfs_common::leaf::{CHUNK_BYTES, LEAF_BYTES, leaves_of, touched_leaves};

use super::block_cache::{BLOCK_LEAVES, Run};
use super::chunk_state::ChunkState;
use super::error_state::{ErrorCursor, ErrorState};
use super::path::DataPath;
use super::places::{ChunkPlaces, Span};
use super::read::{ReadError, Way};
use super::read_ahead::{Pattern, ReadAhead};
use super::waits::{ChunkWait, Purpose};

/// Chunks whose places are asked for at once.
const LOCATE_COUNT: u32 = 16;
/// Leaves fetched from a copy in one request: 1 MiB.
const FETCH_LEAVES_MAX: u32 = 64;
/// Between the first two attempts to find a copy. The pause doubles up to [`READ_RETRY_MAX`]: each attempt asks the master.
const READ_RETRY_MIN: Duration = Duration::from_millis(20);
const READ_RETRY_MAX: Duration = Duration::from_millis(250);

/// The data of one file. Whoever drops the last one has flushed and committed it before, or means to lose the rest.
pub struct FileData {
    pub(crate) path: Arc<DataPath>,
    pub(crate) inode: InodeId,
    state: Mutex<FileState>,
    /// Something others wait for: a chunk came free, pieces were acknowledged.
    pub(crate) changed: Condvar,
}

/// What is known of a file's data.
#[derive(Debug, Default)]
pub(crate) struct FileState {
    /// Chunks that are being written.
    pub(crate) chunks: BTreeMap<u32, ChunkState>,
    /// What the master said of the others; `None` is a hole.
    pub(crate) located: BTreeMap<u32, Option<Arc<ChunkPlaces>>>,
    /// Rises when `located` may have become wrong, so that an answer asked for before is not put in.
    pub(crate) located_epoch: u64,
    /// Unacknowledged bytes.
    pub(crate) bytes: usize,
    /// The length, while the master does not know it.
    pub(crate) local_length: Option<u64>,
    /// The master's length when it was last known.
    pub(crate) base_length: u64,
    /// Where the acknowledged bytes end.
    pub(crate) acknowledged_end: u64,
    /// When it was written last, while the master does not know it.
    pub(crate) modified: Option<Time>,
    pub(crate) errors: ErrorState,
    /// From here on the file is lost for want of space, and to be cut as soon as nobody sends any of it.
    pub(crate) lost_from: Option<u64>,
    /// Rises with every [`FileData::discard`].
    pub(crate) epoch: u64,
    /// Rises whenever what is known of the copies has to go: what was begun before, such as a read or a fetch ahead of
    /// one, keeps nothing from then on.
    pub(crate) invalidations: u64,
}

/// Whether what a read learns may be kept for later ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// A lease is held, which says when it is no longer right.
    UnderLease,
    /// Others may change the file without a word: it is good for this read.
    Nothing,
}

/// Until when something may be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keeps {
    /// Until the invalidations rise above this.
    Since(u64),
    Nothing,
}

/// What one read goes by besides its range.
#[derive(Clone, Copy)]
struct How<'a> {
    keeps: Keeps,
    pattern: Pattern,
    patience: &'a ReadPatience<'a>,
}

/// One open of a file: which errors it has been told of, and how it reads.
#[derive(Debug)]
pub struct DataHandle {
    errors_seen: Mutex<ErrorCursor>,
    read_ahead: ReadAhead,
}

/// How long a read waits for a good copy. It outlives attempts, so that a read which makes way for others and begins
/// again does not wait longer in all.
pub struct ReadPatience<'a> {
    go_on: &'a dyn Fn() -> bool,
    deadline: Cell<Option<Monotonic>>,
    pause: Cell<Duration>,
}

impl<'a> ReadPatience<'a> {
    /// While no copy can be had, `go_on` is asked before each attempt; false ends the read with EINTR.
    pub fn new(go_on: &'a dyn Fn() -> bool) -> ReadPatience<'a> {
        ReadPatience { go_on, deadline: Cell::new(None), pause: Cell::new(READ_RETRY_MIN) }
    }

    /// How long to wait until the next attempt.
    pub(crate) fn next_pause(&self) -> Duration {
        let pause = self.pause.get();
        self.pause.set((pause * 2).min(READ_RETRY_MAX));
        pause
    }

    fn deadline(&self, now: Monotonic, give_up: Duration) -> Monotonic {
        let deadline = self.deadline.get().unwrap_or(now + give_up);
        self.deadline.set(Some(deadline));
        deadline
    }
}

/// What the range of a chunk is to be read from.
enum Source {
    Hole,
    Chunk(Arc<ChunkPlaces>),
}

impl std::fmt::Debug for FileData {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("FileData").field("inode", &self.inode).finish_non_exhaustive()
    }
}

impl FileData {
    pub(crate) fn new(path: Arc<DataPath>, inode: InodeId) -> FileData {
        FileData { path, inode, state: Mutex::default(), changed: Condvar::new() }
    }

    /// Which file this is.
    pub fn inode(&self) -> InodeId {
        self.inode
    }

    /// For a file that is being opened; dropping it ends its read-ahead.
    pub fn open_handle(&self) -> DataHandle {
        let largest = self.path.settings.read_ahead_bytes_max;
        DataHandle { errors_seen: Mutex::new(self.state().errors.cursor()), read_ahead: ReadAhead::new(largest) }
    }

    /// The write error that this handle has not been told of: the answer to its fsync, flush or close.
    ///
    /// # Errors
    /// EIO or ENOSPC: bytes that were accepted have been lost since the handle was last told.
    pub fn take_error(&self, handle: &DataHandle) -> Result<(), Errno> {
        let mut seen = handle.errors_seen.lock().unwrap_or_else(PoisonError::into_inner);
        self.state().errors.take(&mut seen)
    }

    /// What close says: the same, of what happened while the file was open; fsync says it as well.
    ///
    /// # Errors
    /// As [`FileData::take_error`].
    pub fn take_error_at_close(&self, handle: &DataHandle) -> Result<(), Errno> {
        let mut seen = handle.errors_seen.lock().unwrap_or_else(PoisonError::into_inner);
        self.state().errors.take_at_close(&mut seen)
    }

    /// What a write says first: the same, where what was lost found no space.
    ///
    /// # Errors
    /// ENOSPC.
    pub fn take_error_at_write(&self, handle: &DataHandle) -> Result<(), Errno> {
        let mut seen = handle.errors_seen.lock().unwrap_or_else(PoisonError::into_inner);
        self.state().errors.take_at_write(&mut seen)
    }

    /// Reads into `out` up to the end of the file, whose length is `length_of_file` unless it has been written here since.
    ///
    /// # Errors
    /// EIO: no copy could be had for `read_give_up`, or the bytes are among those whose loss was told. EINTR: no copy could
    /// be had, and `patience` says to wait no longer. Else the master's.
    pub fn read(
        self: &Arc<Self>,
        handle: &DataHandle,
        offset: u64,
        out: &mut [u8],
        length_of_file: u64,
        (keep, patience): (Keep, &ReadPatience<'_>),
    ) -> Result<usize, Errno> {
        let (length, invalidations) = {
            let state = self.state();
            (state.local_length.unwrap_or(length_of_file), state.invalidations)
        };
        let count = length.saturating_sub(offset).min(out.len() as u64) as usize;
        let (pattern, ahead) = handle.read_ahead.note(offset, count as u64, length);
        let keeps = match keep {
            Keep::UnderLease => Keeps::Since(invalidations),
            Keep::Nothing => Keeps::Nothing,
        };
        if let (Some(ahead), Keep::UnderLease) = (ahead, keep) {
            handle.read_ahead.schedule(self, ahead, invalidations);
        }
        let how = How { keeps, pattern, patience };
        let mut done = 0;
        while done < count {
            let at = offset + done as u64;
            let (index, start) = ((at / CHUNK_BYTES) as u32, (at % CHUNK_BYTES) as u32);
            let part = (count - done).min((CHUNK_BYTES - u64::from(start)) as usize);
            self.read_in_chunk(index, start, &mut out[done..done + part], how)?;
            done += part;
        }
        Ok(count)
    }

    /// Forgets grants under which nothing was written: they end with the WRITE lease, and a chunk that was never written
    /// is no chunk of the file any more.
    pub fn end_grants(&self) {
        self.state().end_unused_grants();
    }

    /// Forgets clean data and places: the lease that allowed to keep them is gone, or others have changed the file.
    pub fn invalidate(&self) {
        let mut state = self.state();
        state.end_unused_grants();
        state.forget_end();
        state.located.clear();
        state.located_epoch += 1;
        state.invalidations += 1;
        self.path.cache.invalidate(self.inode);
    }

    fn read_in_chunk(&self, index: u32, start: u32, out: &mut [u8], how: How<'_>) -> Result<(), Errno> {
        let gaps = {
            let state = self.state();
            match state.chunks.get(&index) {
                Some(chunk) => chunk.read_over(start, out).ok_or(Errno::EIO)?,
                None => std::iter::once(start..start + out.len() as u32).collect(),
            }
        };
        for gap in gaps {
            let part = &mut out[(gap.start - start) as usize..(gap.end - start) as usize];
            self.read_clean(index, gap.start, part, how)?;
        }
        Ok(())
    }

    /// Reads what is acknowledged, from the cache or the copies, for as long as it takes and is allowed to.
    fn read_clean(&self, index: u32, start: u32, out: &mut [u8], how: How<'_>) -> Result<(), Errno> {
        let mut waiting = None;
        loop {
            let error = match self.source(index, how.keeps) {
                Ok(Source::Hole) => {
                    out.fill(0);
                    return Ok(());
                }
                Ok(Source::Chunk(chunk)) => {
                    let valid = (chunk.length.saturating_sub(start) as usize).min(out.len());
                    out[valid..].fill(0);
                    if valid == 0 {
                        return Ok(());
                    }
                    match self.read_valid(&chunk, start, &mut out[..valid], how) {
                        Ok(()) => return Ok(()),
                        Err(ReadError::Changed) => continue,
                        Err(_) => Errno::EIO,
                    }
                }
                Err(Errno::EAGAIN) => Errno::EIO,
                Err(errno) => return Err(errno),
            };
            let now = self.path.clock.monotonic();
            if now >= how.patience.deadline(now, self.path.settings.read_give_up) {
                tracing::warn!(inode = %self.inode, index, "no copy of a chunk can be read: giving up");
                return Err(error);
            }
            self.forget_place(index);
            if !(how.patience.go_on)() {
                return Err(Errno::EINTR);
            }
            waiting.get_or_insert_with(|| {
                self.path.waits.begin(ChunkWait { inode: self.inode, index, purpose: Purpose::Read, since: now })
            });
            self.path.clock.sleep(how.patience.next_pause());
        }
    }

    fn read_valid(&self, chunk: &ChunkPlaces, start: u32, out: &mut [u8], how: How<'_>) -> Result<(), ReadError> {
        let wanted = touched_leaves(start, out.len() as u32);
        'again: loop {
            let Some(invalidations) = self.state().may_keep(how.keeps) else {
                let runs = self.fetch_for_once(chunk, wanted)?;
                runs.iter().for_each(|run| copy_run(run, start, out));
                return Ok(());
            };
            let found = self.path.cache.find(self.inode, chunk.chunk, wanted.clone());
            let mut runs = found.runs;
            for missing in found.missing {
                match self.fetch(chunk, widen(missing, how.pattern, chunk.length), invalidations)? {
                    Some(fetched) => runs.extend(fetched),
                    None => continue 'again,
                }
            }
            for run in runs {
                copy_run(&run, start, out);
            }
            return Ok(());
        }
    }

    /// Reads leaves from the copies past the cache.
    fn fetch_for_once(&self, chunk: &ChunkPlaces, leaves: Range<u32>) -> Result<Vec<Run>, ReadError> {
        let blocks = split_at_blocks(leaves.clone());
        let mut buffers: Vec<Vec<u8>> = blocks.iter().map(|run| vec![0; run.len() * LEAF_BYTES]).collect();
        self.path.reader.read_leaves(chunk, leaves.start, &mut buffers, Way::Asking)?;
        let runs = blocks.iter().zip(buffers);
        Ok(runs.map(|(run, bytes)| Run { first_leaf: run.start, bytes: Arc::new(bytes) }).collect())
    }

    /// Reads leaves from the copies into the cache; `None` if another was at it: look again. Nothing is put in if there
    /// were more invalidations than these when the fetch began.
    pub(crate) fn fetch(
        &self,
        chunk: &ChunkPlaces,
        leaves: Range<u32>,
        invalidations: u64,
    ) -> Result<Option<Vec<Run>>, ReadError> {
        let mut runs = Vec::with_capacity((leaves.len() as u32 / BLOCK_LEAVES + 2) as usize);
        let mut next = leaves.start;
        while next < leaves.end {
            let part = next..leaves.end.min(next + FETCH_LEAVES_MAX);
            let Some(fetch) = self.path.cache.begin(self.inode, chunk.chunk, &part) else { return Ok(None) };
            // What comes from now on spoils the fetch; what came before is seen here.
            let (way, epoch) = {
                let state = self.state();
                if state.invalidations != invalidations || !state.is_source(chunk) {
                    return Err(ReadError::Changed);
                }
                (state.way_to_read(chunk.index), state.located_epoch)
            };
            let first = runs.len();
            let blocks = split_at_blocks(part.clone());
            let mut buffers: Vec<Vec<u8>> =
                blocks.iter().map(|run| self.path.cache.buffer(run.len() * LEAF_BYTES)).collect();
            self.path.reader.read_leaves(chunk, part.start, &mut buffers, way)?;
            if way == Way::Any {
                self.forget_local_if_written(chunk, epoch);
            }
            runs.extend(
                blocks.iter().zip(buffers).map(|(run, bytes)| Run { first_leaf: run.start, bytes: Arc::new(bytes) }),
            );
            fetch.deliver(&runs[first..]);
            next = part.end;
        }
        Ok(Some(runs))
    }

    /// A file that was handed over while the chunk began to be written here came with hashes of some moment in between.
    fn forget_local_if_written(&self, chunk: &ChunkPlaces, epoch: u64) {
        let written = {
            let state = self.state();
            state.located_epoch != epoch || state.way_to_read(chunk.index) != Way::Any
        };
        if written {
            self.path.reader.local.forget_chunk(chunk.chunk);
        }
    }

    /// Where a chunk's acknowledged bytes are; `None` for a hole. The caller holds a lease.
    ///
    /// # Errors
    /// The master's.
    pub(crate) fn places(&self, index: u32) -> Result<Option<Arc<ChunkPlaces>>, Errno> {
        let keeps = Keeps::Since(self.state().invalidations);
        match self.source(index, keeps)? {
            Source::Hole => Ok(None),
            Source::Chunk(chunk) => Ok(Some(chunk)),
        }
    }

    /// The same if it is known here, and nothing was invalidated since.
    pub(crate) fn known_places(&self, index: u32, invalidations: u64) -> Option<Arc<ChunkPlaces>> {
        let state = self.state();
        match state.known_source(index).filter(|_| state.invalidations == invalidations)? {
            Source::Hole => None,
            Source::Chunk(chunk) => Some(chunk),
        }
    }

    fn source(&self, index: u32, keeps: Keeps) -> Result<Source, Errno> {
        loop {
            let epoch = {
                let state = self.state();
                if let Some(known) = state.known_source(index) {
                    return Ok(known);
                }
                state.located_epoch
            };
            let count = LOCATE_COUNT.min(u32::MAX - index);
            let answer = self.path.master.locate(self.inode, index, Span::Indexes(count))?;
            let mut state = self.state();
            if state.located_epoch != epoch {
                continue;
            }
            if state.may_keep(keeps).is_none() {
                let found = answer.into_iter().find(|chunk| chunk.index == index);
                return Ok(found.map_or(Source::Hole, |chunk| Source::Chunk(Arc::new(chunk))));
            }
            for index in index..index + count {
                state.located.entry(index).or_insert(None);
            }
            let chunks = answer.into_iter().filter(|chunk| chunk.index - index < count);
            state.located.extend(chunks.map(|chunk| (chunk.index, Some(Arc::new(chunk)))));
        }
    }

    /// The first part of a chunk of the file at or after `offset` that is no hole, as a copy's file knows it.
    pub fn next_data(&self, chunk: &ChunkPlaces, offset: u32) -> Option<Range<u32>> {
        self.path.reader.next_data(chunk, offset)
    }

    /// Where a chunk is, which came with another answer of the master. The caller holds the lease under which it may be kept.
    pub fn offer_place(&self, place: ChunkPlaces) {
        self.state().located.entry(place.index).or_insert_with(|| Some(Arc::new(place)));
    }

    fn forget_place(&self, index: u32) {
        let mut state = self.state();
        state.located.remove(&index);
        state.located_epoch += 1;
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, FileState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl FileState {
    /// Others may cut the file from now on: bytes acknowledged before may be beyond its end then.
    pub(crate) fn forget_end(&mut self) {
        if self.chunks.is_empty() {
            self.acknowledged_end = 0;
        }
    }

    fn end_unused_grants(&mut self) {
        self.chunks.values_mut().for_each(ChunkState::end_unused_grant);
        self.chunks.retain(|_, chunk| !chunk.is_idle());
    }

    /// Which invalidations what is learned now may outlast; `None`: it may not be kept.
    fn may_keep(&self, keeps: Keeps) -> Option<u64> {
        match keeps {
            Keeps::Since(invalidations) if invalidations == self.invalidations => Some(invalidations),
            Keeps::Since(_) | Keeps::Nothing => None,
        }
    }

    /// Whether the chunk is still what it was when its places were asked for.
    fn is_source(&self, chunk: &ChunkPlaces) -> bool {
        match self.known_source(chunk.index) {
            Some(Source::Chunk(now)) => {
                now.chunk == chunk.chunk && now.version == chunk.version && now.length == chunk.length
            }
            Some(Source::Hole) | None => false,
        }
    }

    /// Files of this host serve as long as the chunk is not written here.
    fn way_to_read(&self, index: u32) -> Way {
        if self.chunks.contains_key(&index) { Way::Asking } else { Way::Any }
    }

    fn known_source(&self, index: u32) -> Option<Source> {
        let chunk = self.chunks.get(&index).filter(|chunk| !chunk.grant_ended);
        if let Some(grant) = chunk.and_then(|chunk| chunk.grant.as_ref()) {
            return Some(grant.places().map_or(Source::Hole, |places| Source::Chunk(Arc::new(places))));
        }
        let located = self.located.get(&index)?;
        Some(located.as_ref().map_or(Source::Hole, |chunk| Source::Chunk(Arc::clone(chunk))))
    }
}

impl Drop for FileData {
    fn drop(&mut self) {
        let bytes = self.state().bytes;
        self.path.budget.release(bytes);
        self.path.forget(self.inode);
    }
}

/// A sequential reader will want the whole blocks; others only the leaves they touch.
fn widen(leaves: Range<u32>, pattern: Pattern, length: u32) -> Range<u32> {
    match pattern {
        Pattern::Random => leaves,
        Pattern::Sequential => {
            let end = (leaves.end.div_ceil(BLOCK_LEAVES) * BLOCK_LEAVES).min(leaves_of(length));
            leaves.start..end.max(leaves.end)
        }
    }
}

fn split_at_blocks(leaves: Range<u32>) -> Vec<Range<u32>> {
    let mut parts = Vec::with_capacity(leaves.len() / BLOCK_LEAVES as usize + 2);
    let mut next = leaves.start;
    while next < leaves.end {
        let end = leaves.end.min((next / BLOCK_LEAVES + 1) * BLOCK_LEAVES);
        parts.push(next..end);
        next = end;
    }
    parts
}

/// Copies what a run has of the range of `out`, which begins at `start` of the chunk.
fn copy_run(run: &Run, start: u32, out: &mut [u8]) {
    let run_start = run.first_leaf * LEAF_BYTES as u32;
    let from = run_start.max(start);
    let to = (run_start + run.bytes.len() as u32).min(start + out.len() as u32);
    if from < to {
        let source = &run.bytes[(from - run_start) as usize..(to - run_start) as usize];
        out[(from - start) as usize..(to - start) as usize].copy_from_slice(source);
    }
}
