//! Which parts of a copy are holes, as its file knows.
//!
//! A hole that is told is skipped by whoever copies the file, so it must not be a lie: bytes that rot or a crash turned into a
//! hole are not one. So every leaf that a hole touches is compared with its hash, which is that of zeros where the hole has
//! all of the leaf; what does not match counts as data, and its reader learns that it is bad.

use std::fs::File;

use rfs_common::ids::ChunkVersion;
use rfs_common::leaf::{LEAF_BYTES, hash_zero_leaf, leaf_length};
use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

use super::copy::{ChunkCopy, Effort, State};
use super::fault::{Fault, IoOperation};
use super::format::data_at;

/// A part of a copy that is no hole; empty, at the end of the data, if there is no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataRange {
    /// Its first byte.
    pub start: u32,
    /// Behind its last.
    pub end: u32,
}

impl ChunkCopy {
    /// The first part at or after `offset` that is no hole.
    ///
    /// # Errors
    /// [`Fault`], as of [`Self::read`].
    pub fn next_data<P>(
        &self,
        version: ChunkVersion,
        offset: u32,
        enter: impl FnOnce(Effort) -> Result<P, Fault>,
    ) -> Result<DataRange, Fault> {
        let state = self.read_state();
        state.check_version(version)?;
        if state.suspect {
            return Err(Fault::Suspect);
        }
        let _pass = enter(Effort::Io)?;
        let length = state.header.data_length;
        let start = self.end_of_hole(&state, offset.min(length))?;
        let mut end = start;
        while end < length {
            // At the end of a leaf at the latest, if it was not the file that called it data.
            let known = next(self.file(), SeekFrom::Hole, end, length)?;
            end = if known > end { known } else { length.min((end / LEAF_BYTES as u32 + 1) * LEAF_BYTES as u32) };
            if self.end_of_hole(&state, end)? > end {
                break;
            }
        }
        Ok(DataRange { start, end })
    }

    /// Where the hole ends that begins here; here, if there is none.
    fn end_of_hole(&self, state: &State, start: u32) -> Result<u32, Fault> {
        let end = next(self.file(), SeekFrom::Data, start, state.header.data_length)?;
        let mut verified = start;
        while verified < end {
            let leaf_index = verified / LEAF_BYTES as u32;
            if !self.is_as_hashed(state, leaf_index) {
                break;
            }
            verified = end.min((leaf_index + 1) * LEAF_BYTES as u32);
        }
        Ok(verified)
    }

    /// Whether a leaf that is a hole, or has one, is what it should be.
    fn is_as_hashed(&self, state: &State, leaf_index: u32) -> bool {
        let length = leaf_length(leaf_index, state.header.data_length);
        let zeros = state.leaves.get(leaf_index as usize) == Some(&hash_zero_leaf(leaf_index, length));
        zeros || self.read_leaf(state, leaf_index, &mut [0; LEAF_BYTES]).is_ok()
    }
}

/// Where data or a hole begins in the file at or after this place of the data; its end if there is no more.
fn next(file: &File, whence: impl FnOnce(u64) -> SeekFrom, at: u32, data_length: u32) -> Result<u32, Fault> {
    if at >= data_length {
        return Ok(data_length);
    }
    // The file's own position means nothing: everything else says where it reads and writes.
    match seek(file, whence(data_at(at))) {
        Ok(found) => Ok(u32::try_from(found - data_at(0)).unwrap_or(u32::MAX).min(data_length)),
        Err(Errno::NXIO) => Ok(data_length),
        Err(error) => Err(Fault::io(IoOperation::Read)(error.into())),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use rfs_common::ids::ChunkId;
    use rfs_common::leaf::{LEAF_HASH_BYTES, hash_leaf, split_at_leaves};

    use super::super::change::{Action, Piece, Raise, Terms};
    use super::super::copy::unhurried;
    use super::*;

    const VERSION: ChunkVersion = ChunkVersion::new(1);
    const TERMS: Terms = Terms { version_from: None, version: VERSION, cut_to: None };

    fn write(copy: &ChunkCopy, offset: u32, bytes: &[u8]) {
        let mut hashes = Vec::with_capacity(LEAF_HASH_BYTES);
        for part in split_at_leaves(offset, bytes.len() as u32) {
            let from = (part.offset() - offset) as usize;
            hashes.extend_from_slice(hash_leaf(part.leaf_index, &bytes[from..from + part.length]).as_bytes());
        }
        let piece = Piece { offset, bytes, hashes: &hashes };
        copy.change(&TERMS, Action::Write(&[piece]), Raise::WithTheSync, unhurried).unwrap();
    }

    fn ranges(copy: &ChunkCopy) -> Vec<(u32, u32)> {
        let (mut found, mut at) = (Vec::new(), 0);
        loop {
            let DataRange { start, end } = copy.next_data(VERSION, at, unhurried).unwrap();
            if start == end {
                return found;
            }
            found.push((start, end));
            at = end;
        }
    }

    #[test]
    fn holes_are_found_to_the_block_and_what_is_damaged_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let copy = ChunkCopy::create(folder.path().join("chunk"), ChunkId::new(5), VERSION).unwrap();
        write(&copy, 1 << 20, &[7; 100_000]);
        write(&copy, 3 << 20, &[8; 10]);
        let all = ranges(&copy);
        // To the block of the filesystem, which is one page or less on those that tests run on.
        assert!(all.len() == 2 && all[0].0 == 1 << 20 && all[1] == (3 << 20, (3 << 20) + 10), "{all:?}");
        assert!((1 << 20) + 100_000 <= all[0].1 && all[0].1 <= (1 << 20) + 102_400, "{all:?}");
        let zero = Action::Zero { offset: (1 << 20) + 8192, length: 8192 };
        copy.change(&TERMS, zero, Raise::WithTheSync, unhurried).unwrap();
        assert_eq!(ranges(&copy)[..2], [(1 << 20, (1 << 20) + 8192), ((1 << 20) + 16_384, all[0].1)], "within a leaf");
        // Something else than this program has made a hole.
        let file = copy.file();
        let lost = (1 << 20) + 5 * LEAF_BYTES as u32;
        let flags = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
        rustix::fs::fallocate(file, flags, data_at(lost), LEAF_BYTES as u64).unwrap();
        assert_eq!(ranges(&copy)[1], ((1 << 20) + 16_384, all[0].1), "a hole that its hash does not know is data");
        assert_eq!(copy.next_data(ChunkVersion::new(9), 0, unhurried), Err(Fault::WrongVersion { have: VERSION }));
        file.read_at(&mut [0; 10], 0).unwrap();
    }
}
