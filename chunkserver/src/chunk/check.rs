//! Comparing a copy's leaves with its data: verification, digests, and the raise that makes a suspect copy good again.

use std::os::unix::fs::FileExt;

use rfs_common::ids::ChunkVersion;
use rfs_common::leaf::{LEAF_BYTES, LeafHash, chunk_digest, hash_leaf, leaf_length, leaves_of};

use super::copy::{ChunkCopy, Effort, State, read_as_far_as_there};
use super::fault::{Fault, IoOperation};
use super::format::{FLAG_OPEN, FLAG_SUSPECT, Header, data_at};

/// Which copies a raise is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RaiseOf {
    /// Those that have everything that was acknowledged.
    Sound,
    /// Also suspect ones.
    Whatever,
}

impl ChunkCopy {
    /// The leaves that do not match the data. Data the file lacks counts as zeros.
    ///
    /// # Errors
    /// [`Fault`] if the file cannot be read.
    pub fn mismatches(&self) -> Result<Vec<u32>, Fault> {
        let state = self.read_state();
        if state.gone {
            return Err(Fault::NoChunk);
        }
        let actual = self.hash_data(&state)?;
        Ok(rfs_common::leaf::differing(&actual, &state.leaves))
    }

    /// Declares an open copy suspect, also in its header, so that a later clean end does not make it good.
    pub fn make_suspect(&self) {
        let mut state = self.write_state();
        state.suspect = true;
        state.header.flags |= FLAG_SUSPECT;
        if let Err(error) = self.file().write_all_at(&state.header.encode(), 0) {
            tracing::debug!(chunk = %self.chunk, %error, "a suspect copy could not be marked in its file");
        }
    }

    /// Length and digest of the copy: from its leaf hashes, or from the data where the hashes cannot be trusted.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn digest<P>(
        &self,
        version: ChunkVersion,
        enter: impl FnOnce(Effort) -> Result<P, Fault>,
    ) -> Result<(u32, [u8; 32]), Fault> {
        let state = self.read_state();
        state.check_version(version)?;
        let _pass = enter(Effort::Sync)?;
        let length = state.header.data_length;
        if state.suspect {
            return Ok((length, chunk_digest(&self.hash_data(&state)?, length)));
        }
        Ok((length, chunk_digest(&state.leaves, length)))
    }

    /// Raises a copy from one version to another, durably; a copy that has the later one already is fine. A suspect copy's
    /// mismatching leaves are hashed anew: what a power cut left of its data becomes its content. That loses no byte whose
    /// fsync returned, since those are in the data; it can only decide between bytes that nobody was promised. Where a writer
    /// lives that believes its acknowledged bytes to be here, the suspect copy is to refuse.
    ///
    /// # Errors
    /// [`Fault`]; a bad copy cannot be raised.
    pub fn raise<P>(
        &self,
        from: ChunkVersion,
        to: ChunkVersion,
        of: RaiseOf,
        enter: impl FnOnce(Effort) -> Result<P, Fault>,
    ) -> Result<(), Fault> {
        let _syncing = self.lock_syncing();
        let mut state = self.write_state();
        state.check_usable()?;
        let _pass = enter(Effort::Sync)?;
        self.make_writable()?;
        if of == RaiseOf::Sound {
            state.check_not_suspect()?;
        }
        let have = state.header.version;
        if have != from && have != to {
            return Err(Fault::WrongVersion { have });
        }
        if state.suspect {
            self.settle_suspect(&mut state)?;
        }
        if have != to || state.suspect {
            // The open mark stays as it is, or is set: the writer goes on right away.
            let flags = state.header.flags & !FLAG_SUSPECT | FLAG_OPEN;
            let header = Header { version: to, flags, ..state.header };
            self.write_header_durably(&mut state, header)?;
        }
        state.suspect = false;
        Ok(())
    }

    fn settle_suspect(&self, state: &mut State) -> Result<(), Fault> {
        let length = state.header.data_length;
        let end = data_at(length);
        if self.file().metadata().map_err(Fault::io(IoOperation::Read))?.len() != end {
            self.file().set_len(end).map_err(Fault::io(IoOperation::Write))?;
        }
        state.trimmed = true;
        let actual = self.hash_data(state)?;
        let changed = rfs_common::leaf::differing(&actual, &state.leaves);
        state.generation += 1;
        state.leaves = actual;
        if let (Some(first), Some(last)) = (changed.first(), changed.last()) {
            tracing::info!(chunk = %self.chunk, leaves = changed.len(), "hashed anew what a power cut left of a chunk");
            self.write_table(state, *first..*last + 1)?;
        }
        Ok(())
    }

    fn hash_data(&self, state: &State) -> Result<Vec<LeafHash>, Fault> {
        const STEP_LEAVES: u32 = 64;
        let length = state.header.data_length;
        let leaves = leaves_of(length);
        let mut hashes = Vec::with_capacity(leaves as usize);
        let mut buffer = vec![0; STEP_LEAVES.min(leaves) as usize * LEAF_BYTES];
        for first in (0..leaves).step_by(STEP_LEAVES as usize) {
            let offset = first * LEAF_BYTES as u32;
            let step = buffer.len().min((length - offset) as usize);
            let filled = read_as_far_as_there(self.file(), &mut buffer[..step], data_at(offset))?;
            buffer[filled..step].fill(0);
            for (leaf_index, bytes) in (first..).zip(buffer[..step].chunks(LEAF_BYTES)) {
                debug_assert_eq!(bytes.len(), leaf_length(leaf_index, length));
                hashes.push(hash_leaf(leaf_index, bytes));
            }
        }
        Ok(hashes)
    }
}
