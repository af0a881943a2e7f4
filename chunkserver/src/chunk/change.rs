//! Changes of a copy: the version rules, cuts, writes and zeroes. `copy` says what holds before and after each.

use std::num::NonZeroU64;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use rfs_common::ids::ChunkVersion;
use rfs_common::leaf::{
    CHUNK_BYTES, LEAF_BYTES, LEAF_HASH_BYTES, LeafHash, hash_leaf, hash_zero_leaf, leaf_length, leaves_of,
    split_at_leaves,
};
use rustix::fs::{Advice, FallocateFlags};

use super::copy::{ChunkCopy, Effort, State};
use super::fault::{Fault, IoOperation};
use super::format::{
    FLAG_OPEN, HEADER_BYTES, HEADER_PAGE_BYTES, Header, LEAVES_AT, LEAVES_IN_HEADER_PAGE, data_at, leaf_hash_at,
};

/// Under which version a change is made, and what comes before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Raise a copy of this version; `None`: the chunk is made if it is not there.
    pub version_from: Option<ChunkVersion>,
    /// Take a copy of this version as it is.
    pub version: ChunkVersion,
    /// First cut the data to this length.
    pub cut_to: Option<u32>,
}

/// What is changed.
#[derive(Clone, Copy, Debug)]
pub enum Action<'a> {
    /// Only what the terms say.
    Nothing,
    /// Bytes at some offsets, none of them empty, each behind the one before.
    Write(&'a [Piece<'a>]),
    /// Zeroes as much of the range as there is data.
    Zero {
        /// Of the first byte.
        offset: u32,
        /// How many.
        length: u32,
    },
}

/// Bytes to be written at one offset; the hashes have been compared.
#[derive(Clone, Copy, Debug)]
pub struct Piece<'a> {
    /// Of the first byte.
    pub offset: u32,
    /// The bytes.
    pub bytes: &'a [u8],
    /// 32 bytes for each part between leaf boundaries.
    pub hashes: &'a [u8],
}

/// When a new version is on the disk. A copy that was cut off from power between a commit and that moment would have the
/// version before, and with it bytes that were synced long ago would count for nothing: so before anything is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Raise {
    /// Before the change.
    Durably,
    /// With the sync that follows the change: where the open mark is on the disk already, the new version becomes durable
    /// with the bytes written under it, by that one sync.
    WithTheSync,
}

/// Ranges of the table that are nearer to each other than this, in leaves, are written in one call: 4 KiB of hashes.
const TABLE_GAP_LEAVES_MAX: u32 = 128;

impl ChunkCopy {
    /// Carries out one change and gives the data's length after it.
    ///
    /// # Errors
    /// [`Fault`]: nothing of the action counts then. A failure that leaves bytes half written is repaired (what was added is
    /// cut off, the other leaves are hashed anew), or makes the copy bad.
    pub fn change<P>(
        &self,
        terms: &Terms,
        action: Action<'_>,
        raise: Raise,
        enter: impl FnOnce(Effort) -> Result<P, Fault>,
    ) -> Result<u32, Fault> {
        let changes = !matches!(action, Action::Nothing) || terms.cut_to.is_some();
        let mut syncing = None;
        let mut state = loop {
            let state = self.write_state();
            if syncing.is_some() || !(state.needs_header_sync(terms, changes, raise) || state.is_cut_by(terms)) {
                break state;
            }
            drop(state);
            syncing = Some(self.lock_syncing());
        };
        state.check_usable()?;
        state.check_not_suspect()?;
        let _pass = enter(if syncing.is_some() { Effort::Sync } else { Effort::Io })?;
        self.take_version(&mut state, terms, changes, raise)?;
        if let Some(length) = terms.cut_to {
            self.cut(&mut state, length)?;
        }
        match action {
            Action::Nothing => {}
            Action::Write(pieces) => self.write(&mut state, pieces)?,
            Action::Zero { offset, length } => self.zero(&mut state, offset, length)?,
        }
        if state.header_dirty {
            self.write_table(&mut state, 0..0)?;
        }
        Ok(state.header.data_length)
    }

    /// Makes the copy one of `terms.version` that is durably marked open, or refuses.
    fn take_version(&self, state: &mut State, terms: &Terms, changes: bool, raise: Raise) -> Result<(), Fault> {
        let have = state.header.version;
        let raises = have != terms.version;
        if raises && terms.version_from != Some(have) {
            return Err(Fault::WrongVersion { have });
        }
        if raises || changes {
            self.make_writable()?;
        }
        let header = Header { version: terms.version, flags: FLAG_OPEN, ..state.header };
        if state.needs_header_sync(terms, changes, raise) {
            return self.write_header_durably(state, header);
        }
        if raises {
            state.generation += 1;
            state.header = header;
            state.header_dirty = true;
        }
        Ok(())
    }

    /// Gives the file a header and makes it durable with everything before it. The caller has locked `syncing`.
    pub(super) fn write_header_durably(&self, state: &mut State, header: Header) -> Result<(), Fault> {
        state.generation += 1;
        self.file().write_all_at(&header.encode(), 0).map_err(Fault::io(IoOperation::Write))?;
        state.header = header;
        state.header_dirty = false;
        rustix::fs::fdatasync(self.file()).map_err(|error| self.sync_failed(state, error.into()))?;
        state.synced = state.generation;
        state.mark_durable = state.header.is_open();
        Ok(())
    }

    /// Makes the file end with the data, once after it was opened: a crash may have left bytes beyond.
    fn trim(&self, state: &mut State) -> Result<(), Fault> {
        if !state.trimmed {
            let end = data_at(state.header.data_length);
            if self.file().metadata().map_err(Fault::io(IoOperation::Read))?.len() > end {
                self.file().set_len(end).map_err(Fault::io(IoOperation::Write))?;
            }
            state.trimmed = true;
        }
        Ok(())
    }

    /// Drops the data beyond `length`, durably. The file is cut before the header says so: bytes beyond the header's length
    /// would come back as data when the chunk grows again. And they would come back where a power cut took the cut
    /// and what was written after it, while the master keeps the length that this had: it has to be zeros then. The caller has
    /// locked `syncing`.
    fn cut(&self, state: &mut State, length: u32) -> Result<(), Fault> {
        if length >= state.header.data_length {
            return Ok(());
        }
        let last = leaves_of(length).saturating_sub(1);
        let rest = leaf_length(last, length);
        let partial = if rest == leaf_length(last, state.header.data_length) { 0 } else { rest };
        let mut leaf = [0; LEAF_BYTES];
        if partial > 0 {
            self.read_leaf(state, last, &mut leaf)?;
        }
        state.generation += 1;
        self.file().set_len(data_at(length)).map_err(Fault::io(IoOperation::Write))?;
        state.trimmed = true;
        state.leaves.truncate(leaves_of(length) as usize);
        if partial > 0 {
            state.leaves[last as usize] = hash_leaf(last, &leaf[..partial]);
        }
        state.header.data_length = length;
        state.header_dirty = true;
        let changed = if partial > 0 { last..last + 1 } else { 0..0 };
        self.write_table(state, changed).inspect_err(|_| self.set_bad(state, "a cut of it failed half way"))?;
        rustix::fs::fdatasync(self.file()).map_err(|error| self.sync_failed(state, error.into()))?;
        state.synced = state.generation;
        Ok(())
    }

    /// Data first, all of it, then leaf hashes and length. After a failure the copy is as long as it was.
    fn write(&self, state: &mut State, pieces: &[Piece<'_>]) -> Result<(), Fault> {
        self.trim(state)?;
        let old_length = state.header.data_length;
        if pieces.len() > 1 {
            self.fetch_partial_leaves(old_length, pieces);
        }
        let mut changed: Vec<Range<u32>> = Vec::with_capacity(pieces.len());
        let written = pieces
            .iter()
            .try_for_each(|piece| self.write_piece(state, piece, &mut changed))
            .and_then(|()| changed.iter().try_for_each(|leaves| self.write_table(state, leaves.clone())));
        if let Err(fault) = &written {
            self.repair(state, &changed, old_length, fault);
        }
        written
    }

    /// Has the system read what will have to be read to hash leaves that are written in part, all of it at once: one after
    /// the other, each would be waited for.
    fn fetch_partial_leaves(&self, data_length: u32, pieces: &[Piece<'_>]) {
        for piece in pieces {
            for part in split_at_leaves(piece.offset, piece.bytes.len() as u32) {
                let length = leaf_length(part.leaf_index, data_length);
                let (Some(length), true) = (NonZeroU64::new(length as u64), part.length < length) else { continue };
                let at = data_at(part.leaf_index * LEAF_BYTES as u32);
                if let Err(error) = rustix::fs::fadvise(self.file(), at, Some(length), Advice::WillNeed) {
                    tracing::debug!(chunk = %self.chunk, %error, "the system was not told what will be read");
                    return;
                }
            }
        }
    }

    /// One piece's data, and in memory its leaf hashes. Those that may have changed join `changed` before anything is written.
    fn write_piece(&self, state: &mut State, piece: &Piece<'_>, changed: &mut Vec<Range<u32>>) -> Result<(), Fault> {
        let Piece { offset, bytes, hashes } = *piece;
        let old_length = state.header.data_length;
        let new_length = old_length.max(offset + bytes.len() as u32);
        let first = offset.min(old_length) / LEAF_BYTES as u32;
        let new_leaves = self.leaves_after_write(state, first, offset, bytes, hashes)?;
        let leaves = first..first + new_leaves.len() as u32;
        match changed.last_mut() {
            Some(last) if leaves.start <= last.end + TABLE_GAP_LEAVES_MAX => last.end = last.end.max(leaves.end),
            _ => changed.push(leaves.clone()),
        }
        state.generation += 1;
        state.unsynced_bytes += bytes.len() as u64;
        self.file().write_all_at(bytes, data_at(offset)).map_err(Fault::io(IoOperation::Write))?;
        take_over(state, &new_leaves, leaves, new_length);
        Ok(())
    }

    /// The hashes of all leaves from `first` that a write changes, those of a gap before it included.
    fn leaves_after_write(
        &self,
        state: &State,
        first: u32,
        offset: u32,
        bytes: &[u8],
        hashes: &[u8],
    ) -> Result<Vec<LeafHash>, Fault> {
        let old_length = state.header.data_length;
        let new_length = old_length.max(offset + bytes.len() as u32);
        let mut leaves = Vec::with_capacity((leaves_of(new_length) - first) as usize);
        for leaf_index in first..offset / LEAF_BYTES as u32 {
            leaves.push(self.leaf_with_zeros_behind(state, leaf_index, leaf_length(leaf_index, new_length))?);
        }
        let mut rest = bytes;
        let parts = split_at_leaves(offset, bytes.len() as u32).zip(hashes.chunks_exact(LEAF_HASH_BYTES));
        for (part, hash) in parts {
            let (piece, behind) = rest.split_at(part.length);
            rest = behind;
            let length = leaf_length(part.leaf_index, new_length);
            if part.start == 0 && part.length == length {
                leaves.extend(LeafHash::from_slice(hash));
                continue;
            }
            let mut leaf = [0; LEAF_BYTES];
            self.read_leaf(state, part.leaf_index, &mut leaf)?;
            leaf[part.start..part.start + part.length].copy_from_slice(piece);
            leaves.push(hash_leaf(part.leaf_index, &leaf[..length]));
        }
        Ok(leaves)
    }

    /// The hash of a leaf as it is, followed by zeros up to `length`.
    fn leaf_with_zeros_behind(&self, state: &State, leaf_index: u32, length: usize) -> Result<LeafHash, Fault> {
        if leaf_length(leaf_index, state.header.data_length) == 0 {
            return Ok(hash_zero_leaf(leaf_index, length));
        }
        let mut leaf = [0; LEAF_BYTES];
        self.read_leaf(state, leaf_index, &mut leaf)?;
        Ok(hash_leaf(leaf_index, &leaf[..length]))
    }

    /// Zeroes what there is of a range. What lies beyond the data reads as zeros anyway.
    fn zero(&self, state: &mut State, offset: u32, length: u32) -> Result<(), Fault> {
        let old_length = state.header.data_length;
        let length = length.min(old_length.saturating_sub(offset));
        if length == 0 {
            return Ok(());
        }
        self.trim(state)?;
        let mut new_leaves = Vec::new();
        for part in split_at_leaves(offset, length) {
            let whole = leaf_length(part.leaf_index, old_length);
            if part.length == whole {
                new_leaves.push(hash_zero_leaf(part.leaf_index, whole));
                continue;
            }
            let mut leaf = [0; LEAF_BYTES];
            self.read_leaf(state, part.leaf_index, &mut leaf)?;
            leaf[part.start..part.start + part.length].fill(0);
            new_leaves.push(hash_leaf(part.leaf_index, &leaf[..whole]));
        }
        let first = offset / LEAF_BYTES as u32;
        let changed = first..first + new_leaves.len() as u32;
        state.generation += 1;
        let zeroed = self.zero_data(offset, length).map_err(Fault::io(IoOperation::Write)).and_then(|()| {
            take_over(state, &new_leaves, changed.clone(), old_length);
            self.write_table(state, changed.clone())
        });
        if let Err(fault) = &zeroed {
            self.repair(state, &[changed], old_length, fault);
        }
        zeroed
    }

    /// Punches a hole; a filesystem that cannot gets zeros written.
    fn zero_data(&self, offset: u32, length: u32) -> std::io::Result<()> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match rustix::fs::fallocate(self.file(), flags, data_at(offset), length.into()) {
            Err(rustix::io::Errno::OPNOTSUPP) => {
                let zeros = [0; LEAF_BYTES];
                split_at_leaves(offset, length)
                    .try_for_each(|part| self.file().write_all_at(&zeros[..part.length], data_at(part.offset())))
            }
            other => Ok(other?),
        }
    }

    /// After a write that failed half way: cuts off what it added and hashes the other leaves it touched anew as the data now
    /// is, so that the bytes that were there before stay readable. That needs no space, so a full volume costs no copy. If it
    /// fails too, the copy is bad.
    fn repair(&self, state: &mut State, changed: &[Range<u32>], old_length: u32, fault: &Fault) {
        if changed.is_empty() {
            return;
        }
        let repaired = self.rehash_as_it_is(state, changed, old_length);
        if let Err(error) = repaired {
            self.set_bad(state, &format!("a write failed half way ({fault}) and could not be undone ({error})"));
        } else if matches!(fault, Fault::Io { .. }) {
            self.set_bad(state, &format!("a write failed: {fault}"));
        }
    }

    fn rehash_as_it_is(&self, state: &mut State, changed: &[Range<u32>], old_length: u32) -> Result<(), Fault> {
        self.file().set_len(data_at(old_length)).map_err(Fault::io(IoOperation::Write))?;
        state.leaves.resize(leaves_of(old_length) as usize, LeafHash::default());
        state.header_dirty |= state.header.data_length != old_length;
        state.header.data_length = old_length;
        let mut leaf = [0; LEAF_BYTES];
        for leaves in changed {
            let end = leaves.end.min(leaves_of(old_length));
            let leaves = leaves.start.min(end)..end;
            for leaf_index in leaves.clone() {
                let length = leaf_length(leaf_index, old_length);
                self.read_data(leaf_index * LEAF_BYTES as u32, &mut leaf[..length])?;
                state.leaves[leaf_index as usize] = hash_leaf(leaf_index, &leaf[..length]);
            }
            self.write_table(state, leaves)?;
        }
        Ok(())
    }

    /// Gives the file these leaf hashes, and the header if it is newer than the file's: one call where both stand in the
    /// header's page, else leaf hashes before the header.
    pub(super) fn write_table(&self, state: &mut State, leaves: Range<u32>) -> Result<(), Fault> {
        let as_bytes = |leaves: Range<u32>, into: &mut Vec<u8>| {
            for leaf in &state.leaves[leaves.start as usize..leaves.end as usize] {
                into.extend_from_slice(leaf.as_bytes());
            }
        };
        let write = |bytes: &[u8], at: u64| self.file().write_all_at(bytes, at).map_err(Fault::io(IoOperation::Write));
        let header_page_bytes = HEADER_BYTES + leaves.end as usize * LEAF_HASH_BYTES;
        if state.header_dirty && leaves.end <= LEAVES_IN_HEADER_PAGE {
            let mut page = Vec::with_capacity(HEADER_PAGE_BYTES.min(header_page_bytes));
            page.extend_from_slice(&state.header.encode());
            as_bytes(0..leaves.end, &mut page);
            write(&page, 0)?;
            state.header_dirty = false;
            return Ok(());
        }
        if !leaves.is_empty() {
            let mut hashes = Vec::with_capacity(leaves.len() * LEAF_HASH_BYTES);
            as_bytes(leaves.clone(), &mut hashes);
            write(&hashes, leaf_hash_at(leaves.start))?;
        }
        if state.header_dirty {
            write(&state.header.encode(), 0)?;
            state.header_dirty = false;
        }
        Ok(())
    }
}

/// Takes over the leaves of a change whose data was written.
fn take_over(state: &mut State, new_leaves: &[LeafHash], changed: Range<u32>, new_length: u32) {
    state.leaves.resize(leaves_of(new_length) as usize, LeafHash::default());
    state.leaves[changed.start as usize..changed.end as usize].copy_from_slice(new_leaves);
    if new_length != state.header.data_length {
        state.header.data_length = new_length;
        state.header_dirty = true;
    }
}

impl State {
    /// Whether a change begins with a cut.
    fn is_cut_by(&self, terms: &Terms) -> bool {
        terms.cut_to.is_some_and(|length| length < self.header.data_length)
    }

    /// Whether a change begins with a header that has to be on the disk first: a new version, or the open mark.
    fn needs_header_sync(&self, terms: &Terms, changes: bool, raise: Raise) -> bool {
        let marked = self.header.is_open() && self.mark_durable;
        if self.header.version == terms.version {
            return changes && !marked;
        }
        terms.version_from == Some(self.header.version) && !(raise == Raise::WithTheSync && marked)
    }
}

const _: () = assert!(LEAVES_AT == HEADER_BYTES as u64 && CHUNK_BYTES <= u32::MAX as u64);
