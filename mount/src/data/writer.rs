//! Write-behind of one file: accepting bytes, sending them, losing them.
//!
//! What an application sees:
//! - `write` returns when the bytes are in memory here. Every read through this client sees them from then on.
//! - If a copy does not take them, the master replaces it and what was not acknowledged is sent again; this lasts up to
//!   `write_give_up` without any progress, or until the master says that it is hopeless (ENOSPC, EIO, ESTALE).
//! - Then all unsent bytes of that chunk are lost. Each handle open at that moment gets the errno once, from its next
//!   fsync, flush or close; attributes and the length can be changed nevertheless. Reads of those bytes fail with EIO until they are written again, cut off, or replaced:
//!   before anything else is sent for that chunk, those of the lost ranges that may have been sent are zeroed on every copy,
//!   because some copies may have taken them and others not. From then on they read as zeros, and what was lost unsent as
//!   before it was written. An fsync after the error speaks only for what
//!   was written outside the lost ranges or after the loss.
//! - Where space is refused (ENOSPC), by the master or three times by the copies that it chooses, the file is cut before the first
//!   byte beyond its committed end that was lost, so that no hole is left where bytes were accepted. The next write through
//!   each handle that was open says it as well, and as long as the cluster is full (`full.rs`) every write waits for its space and
//!   its copies, and fails at once.
//! - `discard` (the lease is lost) drops everything unsent and records EIO if there was anything.

use std::ops::Range;
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use rfs_common::clock::{Monotonic, Time};
use rfs_common::errno::Errno;
use rfs_common::leaf::CHUNK_BYTES;
use rfs_common::name::FILE_BYTES_MAX;

use super::chunk_state::{ChunkState, Extent, Owner};
use super::dirty::PIECE_BYTES;
use super::file::{FileData, FileState};
use super::flushers::{FlushJob, HURRY_INTERVAL};
use super::places::{FailedWrite, WriteGrant};
use super::sender::Trouble;
use super::waits::{ChunkWait, Purpose};

/// The pause after the second failure in a row; it doubles up to [`PAUSE_MAX`].
const PAUSE_FIRST: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// How long repairs alone are tried at a time: nothing is lost by trying them again later.
const REPAIRS_GIVE_UP: Duration = Duration::from_secs(2);

impl FileData {
    /// Accepts bytes; waits only for room, and for the copies where the cluster is full. The new length of the file, whose length was
    /// `length_of_file` unless it has been written here since.
    ///
    /// # Errors
    /// EFBIG; ENOSPC where it is known that the cluster is full. What fails later is told by [`FileData::take_error`].
    pub fn write(&self, offset: u64, bytes: &[u8], length_of_file: u64) -> Result<u64, Errno> {
        let end = offset.checked_add(bytes.len() as u64).filter(|end| *end <= FILE_BYTES_MAX).ok_or(Errno::EFBIG)?;
        self.cut_lost_end();
        let is_full = self.path.full.is_noted(self.path.clock.monotonic());
        if is_full && !bytes.is_empty() {
            for index in offset / CHUNK_BYTES..=(end - 1) / CHUNK_BYTES {
                self.grant_now(index as u32)?;
            }
        }
        self.accept(end, bytes, length_of_file);
        // Another error is told later, as ever.
        if is_full && self.flush() == Err(Errno::ENOSPC) {
            return Err(Errno::ENOSPC);
        }
        Ok(self.local_length().unwrap_or(length_of_file))
    }

    /// Asks for the right to write a chunk before any byte for it is accepted.
    fn grant_now(&self, index: u32) -> Result<(), Errno> {
        self.state().chunks.entry(index).or_default();
        let Some(epoch) = self.claim(index) else { return Ok(()) };
        let granted = self.ensure_grant(index, epoch);
        self.release(index, epoch, Owner::Free);
        match granted {
            Err(Trouble::Final(Errno::ENOSPC)) => {
                self.path.full.note(self.path.clock.monotonic());
                Err(Errno::ENOSPC)
            }
            // Whoever sends meets the same trouble, and bears it for as long as it may.
            _ => Ok(()),
        }
    }

    fn accept(&self, end: u64, bytes: &[u8], length_of_file: u64) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let at = end - rest.len() as u64;
            let room_in_chunk = (CHUNK_BYTES - at % CHUNK_BYTES) as usize;
            let (part, after) = rest.split_at(rest.len().min(PIECE_BYTES).min(room_in_chunk));
            self.write_part(at, part, length_of_file);
            rest = after;
        }
    }

    fn write_part(&self, offset: u64, bytes: &[u8], length_of_file: u64) {
        self.path.budget.acquire(bytes.len(), || self.path.hurry());
        let mut state = self.wait_for_room(bytes.len());
        let index = (offset / CHUNK_BYTES) as u32;
        let chunk = state.chunks.entry(index).or_default();
        let before = chunk.dirty.bytes();
        let completed = chunk.dirty.write((offset % CHUNK_BYTES) as u32, bytes, &self.path.buffers);
        let added = chunk.dirty.bytes() - before;
        state.bytes += added;
        self.path.budget.release(bytes.len() - added);
        state.note_write(offset + bytes.len() as u64, length_of_file, self.path.clock.now());
        if state.bytes > self.path.settings.dirty_bytes_per_file_max / 2 {
            self.want_all(&mut state);
        } else if completed {
            self.want(&mut state, index, Extent::WholePieces);
        }
    }

    fn wait_for_room(&self, bytes: usize) -> MutexGuard<'_, FileState> {
        let mut state = self.state();
        while state.bytes > 0 && state.bytes + bytes > self.path.settings.dirty_bytes_per_file_max {
            self.want_all(&mut state);
            state = self.changed.wait_timeout(state, HURRY_INTERVAL).unwrap_or_else(PoisonError::into_inner).0;
        }
        state
    }

    /// Sends everything that is here now, on this thread, and waits until every copy has it.
    ///
    /// # Errors
    /// Bytes were lost just now; handles are told by [`FileData::take_error`], which is what an application gets.
    pub fn flush(&self) -> Result<(), Errno> {
        self.send_all(Extent::Everything, Owner::Free).map(drop).inspect_err(|_| self.cut_lost_end())
    }

    /// As [`FileData::flush`], and every copy has everything on its disk; also what was acknowledged before.
    ///
    /// # Errors
    /// As for [`FileData::flush`].
    pub fn sync(&self) -> Result<(), Errno> {
        self.send_all(Extent::EverythingSynced, Owner::Free).map(drop).inspect_err(|_| self.cut_lost_end())
    }

    /// Has everything sent by the flushers, without waiting.
    pub(crate) fn hurry(self: &std::sync::Arc<Self>) {
        self.want_all(&mut self.state());
    }

    /// The grant that came with the making of the file.
    pub fn give_grant(&self, grant: WriteGrant) {
        let mut state = self.state();
        let chunk = state.chunks.entry(grant.index).or_default();
        if chunk.grant.is_none() {
            chunk.replace_grant(grant);
            state.located_epoch += 1;
        }
    }

    /// The file ends here now: the master has agreed. What is unsent beyond is dropped. Waits for chunks that are being
    /// sent or committed, so never call it while holding a `Committable` of this file; the same goes for
    /// [`FileData::zero`] and [`FileData::forget_chunks`].
    pub fn truncate(&self, length: u64) {
        let (last, cut) = ((length / CHUNK_BYTES) as u32, (length % CHUNK_BYTES) as u32);
        let mut state = self.wait_until_free(last..u32::MAX);
        let beyond = state.chunks.split_off(&last.saturating_add(u32::from(cut > 0)));
        if let Some(chunk) = state.chunks.get_mut(&last) {
            chunk.cut(cut);
        }
        drop(beyond);
        state.located.retain(|index, _| *index < last);
        state.local_length = None;
        state.lost_from = None;
        // The master's time of the cut is the younger one.
        state.modified = None;
        state.base_length = length;
        state.acknowledged_end = state.acknowledged_end.min(length);
        self.contents_changed(state);
    }

    /// After a loss for want of space, the file ends before what was lost: the bytes behind it, which nobody was promised either,
    /// would follow a hole that nobody has made. Waits for those who send them.
    pub(crate) fn cut_lost_end(&self) {
        let Some(from) = self.state().lost_from else { return };
        let mut state = self.wait_until_free((from / CHUNK_BYTES) as u32..u32::MAX);
        let Some(from) = state.lost_from.take() else { return };
        for (index, chunk) in &mut state.chunks {
            let start = u64::from(*index) * CHUNK_BYTES;
            if start + CHUNK_BYTES > from {
                chunk.cut_lost(from.saturating_sub(start) as u32);
            }
        }
        state.chunks.retain(|_, chunk| !chunk.is_idle());
        state.acknowledged_end = state.acknowledged_end.min(from);
        let end = state.end_of_what_is_there();
        state.local_length = state.local_length.map(|local| local.min(end)).filter(|local| *local > state.base_length);
        self.contents_changed(state);
    }

    /// Whole chunks have become holes: the master has dropped them.
    pub fn forget_chunks(&self, first_index: u32, end_index: u32) {
        let mut state = self.wait_until_free(first_index..end_index);
        state.chunks.retain(|index, _| !(first_index..end_index).contains(index));
        // Their copies are there until the chunkservers have deleted them.
        state.located.retain(|index, _| !(first_index..end_index).contains(index));
        self.contents_changed(state);
    }

    /// Makes a range read as zeros: from now on here, and on the copies with the next flush. The file's length stays.
    ///
    /// # Errors
    /// The master did not say whether there is a chunk.
    pub fn zero(&self, offset: u64, length: u64) -> Result<(), Errno> {
        let end = offset.saturating_add(length).min(FILE_BYTES_MAX);
        let mut at = offset;
        while at < end {
            let index = (at / CHUNK_BYTES) as u32;
            let chunk_start = u64::from(index) * CHUNK_BYTES;
            let chunk_end = (chunk_start + CHUNK_BYTES).min(end);
            self.zero_in_chunk(index, (at - chunk_start) as u32..(chunk_end - chunk_start) as u32)?;
            at = chunk_end;
        }
        Ok(())
    }

    fn zero_in_chunk(&self, index: u32, range: Range<u32>) -> Result<(), Errno> {
        let places = self.places(index).map_err(|errno| if errno == Errno::EAGAIN { Errno::EIO } else { errno })?;
        let is_hole = places.is_none();
        let mut state = self.wait_until_free(index..index + 1);
        if is_hole && !state.chunks.contains_key(&index) {
            return Ok(());
        }
        state.chunks.entry(index).or_default().zero(range);
        state.modified = Some(self.path.clock.now());
        self.contents_changed(state);
        Ok(())
    }

    /// The write lease is lost: everything that is not committed is dropped.
    pub fn discard(&self) {
        let mut state = self.state();
        if state.chunks.values().any(|chunk| chunk.is_dirty() || chunk.is_written()) {
            state.errors.record(Errno::EIO);
        }
        state.chunks.clear();
        state.forget_end();
        state.epoch += 1;
        state.local_length = None;
        state.lost_from = None;
        state.modified = None;
        state.located.clear();
        self.contents_changed(state);
    }

    /// Bytes that were committed and not synced are gone from the copies: every handle is told once.
    pub fn note_loss(&self) {
        self.state().errors.record(Errno::EIO);
    }

    /// Something has not been acknowledged by every copy.
    pub fn has_dirty(&self) -> bool {
        self.state().chunks.values().any(ChunkState::is_dirty)
    }

    /// Something is not known to the master.
    pub fn has_uncommitted(&self) -> bool {
        let state = self.state();
        state.local_length.is_some()
            || state.modified.is_some()
            || state.chunks.values().any(|chunk| chunk.is_dirty() || chunk.is_written())
    }

    /// The file's length, while the master does not know it.
    pub fn local_length(&self) -> Option<u64> {
        self.state().local_length
    }

    /// When the file was written last, while the master does not know it.
    pub fn modified(&self) -> Option<Time> {
        self.state().modified
    }

    /// Settles the accounts after pieces were dropped, and wakes who waits.
    fn contents_changed(&self, mut state: MutexGuard<'_, FileState>) {
        state.located_epoch += 1;
        state.invalidations += 1;
        self.settle_bytes(&mut state);
        self.path.cache.invalidate(self.inode);
        drop(state);
        self.changed.notify_all();
    }

    /// Counts anew what is held.
    pub(crate) fn settle_bytes(&self, state: &mut FileState) {
        let bytes = state.chunks.values().map(ChunkState::bytes).sum();
        self.path.budget.release(state.bytes - bytes);
        state.bytes = bytes;
    }

    fn wait_until_free(&self, indices: Range<u32>) -> MutexGuard<'_, FileState> {
        let mut state = self.state();
        while state.chunks.range(indices.clone()).any(|(_, chunk)| chunk.owner != Owner::Free) {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state
    }

    /// Has a flusher send this much of a chunk.
    fn want(&self, state: &mut FileState, index: u32, extent: Extent) {
        let Some(chunk) = state.chunks.get_mut(&index) else { return };
        chunk.wanted = chunk.wanted.max(Some(extent));
        if !chunk.queued
            && chunk.owner == Owner::Free
            && let Some(file) = self.path.file_if_there(self.inode)
        {
            chunk.queued = self.path.flushes.push(FlushJob { file, index }).is_ok();
        }
    }

    fn want_all(&self, state: &mut FileState) {
        let dirty: Vec<u32> =
            state.chunks.iter().filter(|(_, chunk)| !chunk.dirty.is_empty()).map(|(index, _)| *index).collect();
        for index in dirty {
            self.want(state, index, Extent::Everything);
        }
    }

    /// A flusher's turn at a chunk. What is lost is told by [`FileData::take_error`].
    pub(crate) fn flush_in_background(&self, index: u32) {
        let (extent, epoch) = {
            let mut state = self.state();
            let epoch = state.epoch;
            let Some(chunk) = state.chunks.get_mut(&index) else { return };
            chunk.queued = false;
            if chunk.owner != Owner::Free {
                return;
            }
            let Some(extent) = chunk.wanted.take() else { return };
            chunk.owner = Owner::Sender;
            (extent, epoch)
        };
        // What became of it is told by `lose`.
        let _ = self.send_claimed(index, extent, epoch);
        self.release(index, epoch, Owner::Free);
    }

    /// Sends what all chunks have and leaves those written to `next_owner`; which they are.
    pub(crate) fn send_all(&self, extent: Extent, next_owner: Owner) -> Result<Vec<u32>, Errno> {
        let indices = self.chunks_with_work(extent, next_owner);
        let mut kept = Vec::new();
        let mut failed = None;
        let mut last_epoch = 0;
        for index in indices {
            let Some(epoch) = self.claim(index) else { continue };
            if epoch != last_epoch {
                // Discarded meanwhile: what was kept before is gone.
                kept.clear();
                last_epoch = epoch;
            }
            let sent = self.send_claimed(index, extent, epoch);
            let owner = if sent.is_ok() { next_owner } else { Owner::Free };
            if self.release(index, epoch, owner) == Owner::Commit {
                kept.push(index);
            }
            failed = failed.or(sent.err());
        }
        match failed {
            None => Ok(kept),
            Some(errno) => {
                self.release_all(&kept, last_epoch);
                Err(errno)
            }
        }
    }

    /// Which chunks have something to send, in order. All but the first are handed to the flushers as well.
    fn chunks_with_work(&self, extent: Extent, next_owner: Owner) -> Vec<u32> {
        let mut state = self.state();
        let has_work = |chunk: &ChunkState| {
            chunk.is_dirty()
                || (extent == Extent::EverythingSynced && chunk.is_unsynced())
                || (next_owner == Owner::Commit && chunk.is_written())
                || chunk.owner != Owner::Free
        };
        let indices: Vec<u32> =
            state.chunks.iter().filter(|(_, chunk)| has_work(chunk)).map(|(index, _)| *index).collect();
        for index in indices.iter().skip(1) {
            self.want(&mut state, *index, extent);
        }
        indices
    }

    /// Waits until the chunk can be claimed, and claims it; `None` if there is nothing of it any more.
    fn claim(&self, index: u32) -> Option<u64> {
        let mut state = self.state();
        loop {
            let epoch = state.epoch;
            let chunk = state.chunks.get_mut(&index)?;
            if chunk.owner == Owner::Free {
                chunk.owner = Owner::Sender;
                chunk.wanted = None;
                return Some(epoch);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Hands a claimed chunk on; to whom it went: a chunk without anything to commit is always free.
    fn release(&self, index: u32, epoch: u64, owner: Owner) -> Owner {
        let mut state = self.state();
        let mut became = Owner::Free;
        if state.epoch == epoch
            && let Some(chunk) = state.chunks.get_mut(&index)
        {
            became = if chunk.is_written() { owner } else { Owner::Free };
            chunk.owner = became;
            if became == Owner::Free && !chunk.is_dirty() {
                chunk.present_grant();
            }
            let idle = chunk.is_idle();
            if let Some(extent) = chunk.wanted.filter(|_| became == Owner::Free) {
                self.want(&mut state, index, extent);
            } else if idle {
                state.chunks.remove(&index);
            }
        }
        drop(state);
        self.changed.notify_all();
        became
    }

    /// Frees chunks that were kept for a commit, unless they were discarded since.
    pub(crate) fn release_all(&self, indices: &[u32], epoch: u64) {
        for index in indices {
            self.release(*index, epoch, Owner::Free);
        }
    }

    /// Sends until it is done or hopeless.
    fn send_claimed(&self, index: u32, extent: Extent, epoch: u64) -> Result<(), Errno> {
        let give_up = self.give_up_after(index, epoch)?;
        let mut patience = Patience::new(self.path.clock.monotonic() + give_up);
        let mut waiting = None;
        loop {
            let trouble = match self.send_once(index, extent, epoch) {
                Ok(()) => return Ok(()),
                Err(trouble) => trouble,
            };
            let is_full = trouble.is_want_of_space();
            let outcome = match trouble {
                Trouble::Copies(failures) => self.replace_copies(index, epoch, &failures).inspect_err(|refused| {
                    if matches!(refused, Trouble::Final(Errno::ENOSPC)) {
                        self.end_refused_grant(index, epoch);
                    }
                }),
                other => Err(other),
            };
            // The master has had the chance to find room elsewhere.
            let outcome = match outcome {
                Ok(()) if patience.is_full_again(is_full, self.progress(index)) => Err(Trouble::Final(Errno::ENOSPC)),
                other => other,
            };
            let last_errno = match outcome {
                Ok(()) | Err(Trouble::Resend | Trouble::Copies(_)) if is_full => Errno::ENOSPC,
                Ok(()) | Err(Trouble::Resend | Trouble::Copies(_)) => Errno::EIO,
                Err(Trouble::Discarded) => return Err(Errno::EIO),
                Err(Trouble::Later(errno)) => errno,
                Err(Trouble::Final(errno)) => return Err(self.lose(index, epoch, errno)),
            };
            let now = self.path.clock.monotonic();
            if patience.is_over(now, self.progress(index), give_up) {
                return Err(self.lose(index, epoch, last_errno));
            }
            waiting.get_or_insert_with(|| {
                self.path.waits.begin(ChunkWait { inode: self.inode, index, purpose: Purpose::Write, since: now })
            });
            self.path.clock.sleep(patience.pause().min(now.until(patience.deadline)));
        }
    }

    fn give_up_after(&self, index: u32, epoch: u64) -> Result<Duration, Errno> {
        let state = self.state();
        let chunk = state.chunk_of(index, epoch).map_err(|_| Errno::EIO)?;
        let longest = self.path.settings.write_give_up;
        Ok(if chunk.has_only_repairs() && !chunk.is_written() { longest.min(REPAIRS_GIVE_UP) } else { longest })
    }

    fn progress(&self, index: u32) -> u64 {
        self.state().chunks.get(&index).map_or(0, |chunk| chunk.acknowledged)
    }

    /// Reports copies that failed and goes on with the master's answer.
    fn replace_copies(&self, index: u32, epoch: u64, failures: &[super::places::CopyFailure]) -> Result<(), Trouble> {
        let (chunk, version) = {
            let state = self.state();
            let grant = state.chunk_of(index, epoch)?.grant.as_ref().ok_or(Trouble::Resend)?;
            (grant.grant.chunk, grant.grant.version)
        };
        tracing::info!(inode = %self.inode, index, %chunk, ?failures, "copies failed a write: asking the master to go on without them");
        let failed = FailedWrite { inode: self.inode, index, chunk, version, failures };
        let grant = self.path.master.copy_failed(&failed).map_err(refusal)?;
        self.path.reader.local.forget_chunk(grant.chunk);
        let mut state = self.state();
        let lost = state.chunk_of_mut(index, epoch)?.replace_grant(grant);
        if lost {
            state.errors.record(Errno::EIO);
        }
        state.located_epoch += 1;
        Ok(())
    }

    /// The master has no copies to go on with, and has reserved versions above the grant's: nothing more can be committed under it,
    /// and would keep all else of the file from being committed. What was acknowledged under it goes with what is lost.
    fn end_refused_grant(&self, index: u32, epoch: u64) {
        let mut state = self.state();
        let base_length = state.base_length;
        let Ok(chunk) = state.chunk_of_mut(index, epoch) else { return };
        let Some(grant) = chunk.grant.take().filter(|grant| grant.written) else { return };
        let start = u64::from(index) * CHUNK_BYTES;
        let from = start.max(base_length);
        if start + u64::from(grant.valid_length) > from {
            state.lost_from = state.lost_from.into_iter().chain([from]).min();
        }
        state.errors.record(Errno::ENOSPC);
        state.located.remove(&index);
        state.located_epoch += 1;
    }

    /// Everything unsent of a chunk is lost, which is told if there is anything.
    fn lose(&self, index: u32, epoch: u64, errno: Errno) -> Errno {
        let errno = if errno == Errno::EAGAIN { Errno::EIO } else { errno };
        let mut state = self.state();
        if errno == Errno::ENOSPC {
            self.path.full.note(self.path.clock.monotonic());
            if state.epoch == epoch {
                state.note_lost_end(index);
            }
        }
        if let Ok(chunk) = state.chunk_of_mut(index, epoch) {
            let any = chunk.lose_dirty();
            chunk.wanted = None;
            if any {
                tracing::warn!(inode = %self.inode, index, %errno, "bytes that were accepted have been lost");
                state.errors.record(errno);
            }
            self.settle_bytes(&mut state);
        }
        errno
    }
}

/// What the master's refusal means.
pub(crate) fn refusal(errno: Errno) -> Trouble {
    if errno == Errno::EAGAIN { Trouble::Later(errno) } else { Trouble::Final(errno) }
}

impl FileState {
    /// A claimed chunk, unless it has been discarded meanwhile.
    pub(crate) fn chunk_of(&self, index: u32, epoch: u64) -> Result<&ChunkState, Trouble> {
        self.chunks.get(&index).filter(|_| self.epoch == epoch).ok_or(Trouble::Discarded)
    }

    /// The same, to be changed.
    pub(crate) fn chunk_of_mut(&mut self, index: u32, epoch: u64) -> Result<&mut ChunkState, Trouble> {
        let same = self.epoch == epoch;
        self.chunks.get_mut(&index).filter(|_| same).ok_or(Trouble::Discarded)
    }

    /// Where the file ends by what is here, on the copies or known to the master.
    fn end_of_what_is_there(&self) -> u64 {
        let unsent = self.chunks.iter().filter_map(|(index, chunk)| {
            let end = chunk.unsent().chain(chunk.zeroed()).map(|range| range.end).max()?;
            Some(u64::from(*index) * CHUNK_BYTES + u64::from(end))
        });
        unsent.chain([self.base_length, self.acknowledged_end]).max().unwrap_or(0)
    }

    /// From the first byte beyond what the master and the copies have that found no space, the file is to be cut.
    fn note_lost_end(&mut self, index: u32) {
        let Some(chunk) = self.chunks.get(&index) else { return };
        let start = u64::from(index) * CHUNK_BYTES;
        let valid = chunk.grant.as_ref().map_or(0, |grant| grant.valid_length);
        let lost = chunk.unsent().filter_map(|range| {
            let from = (start + u64::from(range.start.max(valid))).max(self.base_length);
            (start + u64::from(range.end) > from).then_some(from)
        });
        self.lost_from = lost.chain(self.lost_from).min();
    }

    fn note_write(&mut self, end: u64, length_of_file: u64, now: Time) {
        if self.local_length.is_none() {
            self.base_length = length_of_file;
        }
        if end > self.local_length.unwrap_or(length_of_file) {
            self.local_length = Some(end);
        }
        self.modified = Some(now);
    }
}

/// How long failures are borne: until a deadline that every progress moves.
struct Patience {
    deadline: Monotonic,
    progress: u64,
    failures: u32,
    /// Times in succession that copies had no space, and the progress since which.
    full: (u32, u64),
}

/// So often the master is asked for other copies than those that have no space.
const FULL_MAX: u32 = 3;

impl Patience {
    fn new(deadline: Monotonic) -> Patience {
        Patience { deadline, progress: 0, failures: 0, full: (0, 0) }
    }

    /// Whether there is no space for good: the copies have said so again and again, whichever the master chose.
    fn is_full_again(&mut self, is_full: bool, progress: u64) -> bool {
        let (times, since) = self.full;
        let times = if is_full && (times == 0 || progress == since) { times + 1 } else { u32::from(is_full) };
        self.full = (times, progress);
        times >= FULL_MAX
    }

    fn is_over(&mut self, now: Monotonic, progress: u64, give_up: Duration) -> bool {
        self.failures += 1;
        if progress > self.progress {
            *self = Patience { deadline: now + give_up, progress, failures: 1, full: self.full };
        }
        now >= self.deadline
    }

    /// None after the first failure: the master has just replaced the copy.
    fn pause(&self) -> Duration {
        match self.failures {
            0 | 1 => Duration::ZERO,
            more => (PAUSE_FIRST * 2_u32.pow((more - 2).min(8))).min(PAUSE_MAX),
        }
    }
}
