//! An open copy: the file, and its header and leaf hashes in memory.
//!
//! Readers share the state's lock, changes have it alone, so a reader never sees data of one moment with hashes of
//! another. `change` has the writing, `check` the comparing of leaves with data.
//!
//! What always holds:
//! - The state in memory is what was last given to the file, except after a failure that made the copy *bad*.
//! - Before the first change after the copy was closed, the open mark is durable. A new file is the exception: it is made
//!   with the mark, and a power cut before its first sync leaves no file, or one that was marked from the start.
//! - Within a change data goes to the file before leaf hashes and length. After `kill -9` only leaves of writes that
//!   nobody had acknowledged can disagree.
//! - A failed sync makes the copy bad for good: the kernel drops what it could not write, so no later sync tells the truth.
//! - Linux tells a failed write-back once per open file. So syncs of a copy run one after the other, each with its result
//!   taken into the state (`syncing`, which is locked before the state is): else one could return 0 beside the one that is told.
//! - A deadline (`enter`, of the volume's gate) begins when the copy's locks are held: whoever waits for them waits for
//!   somebody whose own deadline runs.
//! - A *suspect* copy (open in a power cut) takes neither changes nor syncs before a `Raise`: acknowledged writes may be
//!   missing from it, and a sync that succeeds would hide that.

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use rfs_common::clock::Monotonic;
use rfs_common::ids::{ChunkId, ChunkVersion};
use rfs_common::leaf::{LEAF_BYTES, LEAF_HASH_BYTES, LeafHash, hash_leaf, leaf_length, leaves_of};
use rfs_proto::frame::PAYLOAD_BYTES_MAX;

use super::fault::{Fault, IoOperation};
use super::format::{FLAG_BAD, HEADER_BYTES, Header, HeaderError, LEAVES_AT, data_at};

/// What the master is told of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// Its version.
    pub version: ChunkVersion,
    /// Bytes of data.
    pub data_length: u32,
    /// Takes writes.
    pub open: bool,
    /// Was open in a power cut.
    pub suspect: bool,
    /// A write or sync of it failed.
    pub bad: bool,
}

/// Why a file is not a usable copy.
#[derive(Debug)]
pub enum OpenFault {
    /// The file is not there, or the system failed.
    Fault(Fault),
    /// The header is wrong.
    Header(HeaderError),
}

/// One copy of one chunk, open.
#[derive(Debug)]
pub struct ChunkCopy {
    pub(super) chunk: ChunkId,
    pub(super) path: PathBuf,
    file: File,
    /// The file could be opened for reading only.
    read_only: bool,
    /// The same file, opened when it could be written.
    writable: OnceLock<File>,
    syncing: Mutex<()>,
    pub(super) state: RwLock<State>,
    used_ms: AtomicU64,
}

/// What an operation is about to do, which says how long it may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effort {
    /// Reads and writes.
    Io,
    /// Waits for everything written before.
    Sync,
}

/// Without a deadline.
#[cfg(test)]
pub(super) fn unhurried(_: Effort) -> Result<(), Fault> {
    Ok(())
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) header: Header,
    pub(super) leaves: Vec<LeafHash>,
    /// Raised by every change; the copy is durable up to `synced`.
    pub(super) generation: u64,
    pub(super) synced: u64,
    /// Bytes written since a sync was last begun or asked for.
    pub(super) unsynced_bytes: u64,
    /// The header in memory is newer than the file's.
    pub(super) header_dirty: bool,
    /// The open mark is known to be on the disk.
    pub(super) mark_durable: bool,
    /// The file is known to end where the data ends.
    pub(super) trimmed: bool,
    /// The folder's entry of the file is durable.
    pub(super) entry_durable: bool,
    pub(super) suspect: bool,
    pub(super) bad: Option<String>,
    /// Deleted or replaced: this is no longer the chunk's file.
    pub(super) gone: bool,
}

/// What a read gives beside the bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Served {
    /// Of the first byte: a leaf boundary.
    pub offset: u32,
    /// Bytes served.
    pub length: usize,
    /// Of the copy.
    pub data_length: u32,
    /// One per leaf served, as bytes.
    pub hashes: Vec<u8>,
}

/// A copy's file, for a reader of this host that reads from it by itself.
#[derive(Debug)]
pub struct OpenedCopy {
    /// A descriptor of its own, only for reading.
    pub file: File,
    /// Bytes of the copy.
    pub data_length: u32,
    /// One per leaf, as bytes.
    pub hashes: Vec<u8>,
}

impl ChunkCopy {
    /// Makes the file of a new chunk. Its header is written with the first change.
    ///
    /// # Errors
    /// [`Fault`] of the system; a file that is there is not touched.
    pub fn create(path: PathBuf, chunk: ChunkId, version: ChunkVersion) -> Result<ChunkCopy, Fault> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .map_err(Fault::io(IoOperation::Write))?;
        let state = State {
            header: Header::new(chunk, version),
            leaves: Vec::new(),
            generation: 1,
            synced: 0,
            unsynced_bytes: 0,
            header_dirty: true,
            mark_durable: true,
            trimmed: true,
            entry_durable: false,
            suspect: false,
            bad: None,
            gone: false,
        };
        Ok(ChunkCopy::of(chunk, path, file, state))
    }

    fn of(chunk: ChunkId, path: PathBuf, file: File, state: State) -> ChunkCopy {
        ChunkCopy {
            chunk,
            path,
            file,
            read_only: false,
            writable: OnceLock::new(),
            syncing: Mutex::new(()),
            state: RwLock::new(state),
            used_ms: AtomicU64::new(0),
        }
    }

    /// Opens a chunk's file and loads header and leaf hashes.
    ///
    /// # Errors
    /// [`OpenFault`]: not there, unreadable, or not this chunk's file.
    pub fn open(path: PathBuf, chunk: ChunkId, suspect: bool) -> Result<ChunkCopy, OpenFault> {
        let failed = |error: std::io::Error| match error.kind() {
            std::io::ErrorKind::NotFound => OpenFault::Fault(Fault::NoChunk),
            _ => OpenFault::Fault(Fault::io(IoOperation::Open)(error)),
        };
        let (file, read_only) = match OpenOptions::new().read(true).write(true).open(&path) {
            // A volume that turned read-only still serves reads.
            Err(error) if error.kind() == std::io::ErrorKind::ReadOnlyFilesystem => {
                (File::open(&path).map_err(failed)?, true)
            }
            other => (other.map_err(failed)?, false),
        };
        let header = read_header(&file, chunk)?;
        let leaves = load_leaves(&file, leaves_of(header.data_length)).map_err(OpenFault::Fault)?;
        let state = State {
            header,
            leaves,
            generation: 1,
            synced: if header.is_open() { 0 } else { 1 },
            unsynced_bytes: 0,
            header_dirty: false,
            // A daemon that was killed may have set it and not synced it.
            mark_durable: false,
            trimmed: false,
            entry_durable: !header.is_open(),
            suspect: suspect || header.is_suspect(),
            bad: header.is_bad().then(|| "an earlier write or sync of it failed".to_owned()),
            gone: false,
        };
        Ok(ChunkCopy { read_only, ..ChunkCopy::of(chunk, path, file, state) })
    }

    /// Which chunk this is a copy of.
    pub fn chunk(&self) -> ChunkId {
        self.chunk
    }

    /// What the master is told of it.
    pub fn held(&self) -> Held {
        let state = self.read_state();
        held_of(&state)
    }

    /// Whether the copy is bad for good.
    pub fn is_bad(&self) -> bool {
        self.read_state().bad.is_some()
    }

    /// Whether an eviction would lose track of writes that are not durable.
    pub fn needs_sync(&self) -> bool {
        self.state.try_read().map_or(true, |state| {
            let matters = !state.gone && !state.suspect && state.bad.is_none();
            matters && (state.generation != state.synced || !state.entry_durable)
        })
    }

    /// Whether the copy is marked open, in use by no one at this moment.
    pub fn is_open_mark_set(&self) -> bool {
        self.state.try_read().is_ok_and(|state| state.header.is_open() && !state.gone && state.bad.is_none())
    }

    /// When it was last used, for eviction and closing.
    pub fn used(&self) -> Monotonic {
        Monotonic::from_start(std::time::Duration::from_millis(self.used_ms.load(Ordering::Relaxed)))
    }

    /// Notes that it is used now.
    pub fn touch(&self, now: Monotonic) {
        self.used_ms.store(now.since_start().as_millis() as u64, Ordering::Relaxed);
    }

    /// Reads the leaves that this range touches, as far as there is data and at most one frame's payload.
    ///
    /// They are not compared with their hashes here: the reader does that anyway, and then also sees what memory and network
    /// did. A suspect copy refuses: its bytes and hashes may be a match of before a write that another copy, of the same
    /// version, has.
    ///
    /// # Errors
    /// [`Fault`]; [`Fault::BadCopy`] if the file is shorter than its header says.
    pub fn read<P>(
        &self,
        version: ChunkVersion,
        offset: u32,
        length: u32,
        buffer: &mut Vec<u8>,
        enter: impl FnOnce(Effort) -> Result<P, Fault>,
    ) -> Result<Served, Fault> {
        let state = self.read_state();
        state.check_version(version)?;
        if state.suspect {
            return Err(Fault::Suspect);
        }
        let _pass = enter(Effort::Io)?;
        let leaf_bytes = LEAF_BYTES as u64;
        let from = u64::from(offset) / leaf_bytes * leaf_bytes;
        let to = (u64::from(offset) + u64::from(length)).next_multiple_of(leaf_bytes);
        let to = to.min(from + u64::from(PAYLOAD_BYTES_MAX)).min(u64::from(state.header.data_length));
        let (from, wanted) = (from as u32, to.saturating_sub(from) as usize);
        if buffer.len() < wanted {
            buffer.resize(wanted, 0);
        }
        self.read_data(from, &mut buffer[..wanted])?;
        let first = from / LEAF_BYTES as u32;
        let begin = (first as usize).min(state.leaves.len());
        let leaves = &state.leaves[begin..begin + wanted.div_ceil(LEAF_BYTES)];
        let mut hashes = Vec::with_capacity(leaves.len() * LEAF_HASH_BYTES);
        leaves.iter().for_each(|leaf| hashes.extend_from_slice(leaf.as_bytes()));
        Ok(Served { offset: from, length: wanted, data_length: state.header.data_length, hashes })
    }

    /// The copy's file, and what its leaves must be. The hashes are those in memory, as they were acknowledged: what a failed
    /// write-back leaves in the file may match hashes of before, which are in the file as well.
    ///
    /// # Errors
    /// [`Fault`], as of [`Self::read`].
    pub fn open_for_reader(&self, version: ChunkVersion) -> Result<OpenedCopy, Fault> {
        let state = self.read_state();
        state.check_version(version)?;
        if state.suspect {
            return Err(Fault::Suspect);
        }
        // Of the path there may be another file by now.
        let own = format!("/proc/self/fd/{}", self.file().as_raw_fd());
        let file = File::open(own).map_err(Fault::io(IoOperation::Open))?;
        let mut hashes = Vec::with_capacity(state.leaves.len() * LEAF_HASH_BYTES);
        state.leaves.iter().for_each(|leaf| hashes.extend_from_slice(leaf.as_bytes()));
        Ok(OpenedCopy { file, data_length: state.header.data_length, hashes })
    }

    /// Makes everything acknowledged so far durable. Costs nothing when it already is.
    ///
    /// # Errors
    /// [`Fault`]; a failed sync makes the copy bad for good.
    pub fn sync<P>(&self, enter: impl FnOnce(Effort) -> Result<P, Fault>) -> Result<(), Fault> {
        self.sync_by(enter, |file| Ok(rustix::fs::fdatasync(file)?))
    }

    fn sync_by<P>(
        &self,
        enter: impl FnOnce(Effort) -> Result<P, Fault>,
        sync: impl FnOnce(&File) -> std::io::Result<()>,
    ) -> Result<(), Fault> {
        if self.read_state().is_synced()? {
            return Ok(());
        }
        let _syncing = self.lock_syncing();
        let (generation, marked) = {
            let mut state = self.write_state();
            if state.is_synced()? {
                return Ok(());
            }
            state.unsynced_bytes = 0;
            (state.generation, state.header.is_open() && !state.header_dirty)
        };
        let _pass = enter(Effort::Sync)?;
        let synced = sync(self.file());
        let mut state = self.write_state();
        if let Err(error) = synced {
            return Err(self.sync_failed(&mut state, error));
        }
        // A write that failed meanwhile is none of those that are durable now.
        state.check_usable()?;
        state.synced = state.synced.max(generation);
        state.mark_durable |= marked;
        Ok(())
    }

    /// Before the state's lock, and until the result of the sync is in the state.
    pub(super) fn lock_syncing(&self) -> MutexGuard<'_, ()> {
        self.syncing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The copy's file.
    pub(super) fn file(&self) -> &File {
        self.writable.get().unwrap_or(&self.file)
    }

    /// Sees to it that [`Self::file`] can be written: the filesystem may have been read-only when the copy was opened.
    ///
    /// # Errors
    /// [`Fault`]: it still is.
    pub(super) fn make_writable(&self) -> Result<(), Fault> {
        if !self.read_only || self.writable.get().is_some() {
            return Ok(());
        }
        let open = Fault::io(IoOperation::Open);
        let file = OpenOptions::new().read(true).write(true).open(&self.path).map_err(&open)?;
        let (new, old) = (file.metadata().map_err(&open)?, self.file.metadata().map_err(&open)?);
        if (new.dev(), new.ino()) != (old.dev(), old.ino()) {
            return Err(Fault::BadCopy { reason: "its file was replaced by another".to_owned() });
        }
        // Another thread may have been faster; it is the same file.
        let _ = self.writable.set(file);
        Ok(())
    }

    /// Whether so many bytes were written since a sync was last begun, or this was last answered with yes.
    pub fn has_written(&self, bytes: u64) -> bool {
        let enough = self.read_state().unsynced_bytes >= bytes;
        if enough {
            self.write_state().unsynced_bytes = 0;
        }
        enough
    }

    /// Whether the folder's entry of the file is known to be durable.
    pub fn is_entry_durable(&self) -> bool {
        self.read_state().entry_durable
    }

    /// Notes that the folder has been synced.
    pub fn note_entry_durable(&self) {
        self.write_state().entry_durable = true;
    }

    /// How far the copy has been changed; see [`Self::close`].
    pub fn generation(&self) -> u64 {
        self.read_state().generation
    }

    /// Notes that everything up to `generation` has become durable by a sync of the whole filesystem.
    pub fn note_synced(&self, generation: u64) {
        let mut state = self.write_state();
        if state.bad.is_some() {
            return;
        }
        state.mark_durable |= state.header.is_open() && state.generation == generation;
        state.synced = state.synced.max(generation);
        state.entry_durable = true;
    }

    /// Takes the open mark off if everything is durable and nothing has changed since `generation`. The mark's going need
    /// not be durable: a mark too many only makes the copy suspect.
    ///
    /// # Errors
    /// [`Fault`] of the write; the copy stays open.
    pub fn close(&self, generation: u64) -> Result<(), Fault> {
        let mut state = self.write_state();
        let durable = state.synced == state.generation && state.entry_durable;
        let stays = state.suspect || state.generation != generation || !state.header.is_open();
        if !durable || stays || state.check_usable().is_err() {
            return Ok(());
        }
        self.make_writable()?;
        let closed = Header { flags: state.header.flags & !super::format::FLAG_OPEN, ..state.header };
        self.file().write_all_at(&closed.encode(), 0).map_err(Fault::io(IoOperation::Write))?;
        state.header = closed;
        state.mark_durable = false;
        Ok(())
    }

    /// Marks the copy as gone, waiting for whoever uses it: its file was or will be deleted or replaced. `check` decides
    /// with what is known of it.
    ///
    /// # Errors
    /// Those of `check`.
    pub fn retire(&self, check: impl FnOnce(Held) -> Result<(), Fault>) -> Result<(), Fault> {
        let mut state = self.write_state();
        if state.gone {
            return Err(Fault::NoChunk);
        }
        check(held_of(&state))?;
        state.gone = true;
        Ok(())
    }

    /// Makes the copy bad for good, and writes so into its header if that still can be written.
    pub fn mark_bad(&self, reason: &str) {
        self.set_bad(&mut self.write_state(), reason);
    }

    pub(super) fn set_bad(&self, state: &mut State, reason: &str) {
        if state.bad.is_none() && !state.gone {
            state.bad = Some(reason.to_owned());
            let marked = Header { flags: state.header.flags | FLAG_BAD, ..state.header };
            if let Err(error) = self.file().write_all_at(&marked.encode(), 0) {
                tracing::debug!(chunk = %self.chunk, %error, "a bad copy could not be marked in its file");
            }
            tracing::warn!(chunk = %self.chunk, path = %self.path.display(), reason, "this copy is bad from now on");
        }
    }

    pub(super) fn sync_failed(&self, state: &mut State, error: std::io::Error) -> Fault {
        self.set_bad(state, &format!("a sync of it failed: {error}"));
        match Fault::io(IoOperation::Sync)(error) {
            // No space at the time of a sync: the data is lost all the same.
            Fault::NoSpace => Fault::Io { operation: IoOperation::Sync, errno: rfs_common::errno::Errno::ENOSPC },
            fault => fault,
        }
    }

    /// Fills `into` with data; a file that ends before is a bad copy.
    pub(super) fn read_data(&self, offset: u32, into: &mut [u8]) -> Result<(), Fault> {
        if into.is_empty() {
            return Ok(());
        }
        self.file().read_exact_at(into, data_at(offset)).map_err(|error| match error.kind() {
            std::io::ErrorKind::UnexpectedEof => {
                Fault::BadCopy { reason: format!("its file ends before the data at {offset} does") }
            }
            _ => Fault::io(IoOperation::Read)(error),
        })
    }

    /// One leaf's bytes, compared with its hash.
    pub(super) fn read_leaf(&self, state: &State, leaf_index: u32, into: &mut [u8]) -> Result<(), Fault> {
        let length = leaf_length(leaf_index, state.header.data_length);
        self.read_data(leaf_index * LEAF_BYTES as u32, &mut into[..length])?;
        if length > 0 {
            state.compare(leaf_index, state.leaves[leaf_index as usize], &into[..length])?;
        }
        Ok(())
    }

    pub(super) fn read_state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn write_state(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Whether everything is durable.
    fn is_synced(&self) -> Result<bool, Fault> {
        self.check_usable()?;
        Ok(self.synced == self.generation)
    }

    pub(super) fn check_usable(&self) -> Result<(), Fault> {
        if self.gone {
            return Err(Fault::NoChunk);
        }
        match &self.bad {
            Some(reason) => Err(Fault::BadCopy { reason: reason.clone() }),
            None => Ok(()),
        }
    }

    pub(super) fn check_version(&self, version: ChunkVersion) -> Result<(), Fault> {
        self.check_usable()?;
        if self.header.version == version { Ok(()) } else { Err(Fault::WrongVersion { have: self.header.version }) }
    }

    pub(super) fn check_not_suspect(&self) -> Result<(), Fault> {
        if self.suspect {
            let reason = "it was open in a power cut and may lack writes; the master has to raise it first".to_owned();
            return Err(Fault::BadCopy { reason });
        }
        Ok(())
    }

    fn compare(&self, leaf_index: u32, hash: LeafHash, bytes: &[u8]) -> Result<(), Fault> {
        if hash_leaf(leaf_index, bytes) == hash {
            return Ok(());
        }
        Err(Fault::BadCopy { reason: format!("leaf {leaf_index} does not match its hash") })
    }
}

fn held_of(state: &State) -> Held {
    Held {
        version: state.header.version,
        data_length: state.header.data_length,
        open: state.header.is_open(),
        suspect: state.suspect,
        bad: state.bad.is_some(),
    }
}

/// Reads and checks the header of a chunk's file.
pub(crate) fn read_header(file: &File, chunk: ChunkId) -> Result<Header, OpenFault> {
    let mut bytes = [0; HEADER_BYTES];
    let filled = read_as_far_as_there(file, &mut bytes, 0).map_err(OpenFault::Fault)?;
    let header = Header::decode(&bytes[..filled]).map_err(OpenFault::Header)?;
    if header.chunk != chunk {
        return Err(OpenFault::Header(HeaderError::Field { at: 16, field: "chunk id", value: header.chunk.get() }));
    }
    Ok(header)
}

/// Reads the header of the file at this path; and whether the file ends before the data does that the header tells of.
pub fn header_at(path: &Path, chunk: ChunkId) -> Result<(Header, bool), OpenFault> {
    let file = File::open(path).map_err(|error| OpenFault::Fault(Fault::io(IoOperation::Open)(error)))?;
    let header = read_header(&file, chunk)?;
    let length = file.metadata().map_err(|error| OpenFault::Fault(Fault::io(IoOperation::Read)(error)))?.len();
    let is_short = header.data_length > 0 && length < data_at(header.data_length);
    Ok((header, is_short))
}

/// Leaf hashes that the file lacks are zeros, which match nothing.
fn load_leaves(file: &File, count: u32) -> Result<Vec<LeafHash>, Fault> {
    let mut bytes = vec![0; count as usize * LEAF_HASH_BYTES];
    read_as_far_as_there(file, &mut bytes, LEAVES_AT)?;
    Ok(bytes.chunks_exact(LEAF_HASH_BYTES).filter_map(LeafHash::from_slice).collect())
}

/// Reads until the buffer is full or the file ends.
pub(super) fn read_as_far_as_there(file: &File, into: &mut [u8], at: u64) -> Result<usize, Fault> {
    let mut filled = 0;
    while filled < into.len() {
        match file.read_at(&mut into[filled..], at + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Fault::io(IoOperation::Read)(error)),
        }
    }
    Ok(filled)
}

#[cfg(test)]
#[path = "copy_test.rs"]
mod tests;
