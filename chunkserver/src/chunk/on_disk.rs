//! Comparing a copy with what its disk has, past the page cache.
//!
//! A scrub must not be fooled by the page cache, which may hold good bytes over rotten ones, and must not fill it with
//! chunks that nobody reads. So it reads with `O_DIRECT`, where the filesystem can do that. It holds the copy's lock for
//! one piece at a time: no change can come between the hashes and the bytes, and no change waits for long.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use rfs_common::errno::Errno;
use rfs_common::leaf::{LEAF_BYTES, LEAF_HASH_BYTES, hash_leaf, hash_leaves, leaves_of};

use super::copy::{ChunkCopy, State};
use super::fault::{Fault, IoOperation};
use super::format::{DATA_AT, HEADER_BYTES, Header, LEAVES_AT, data_at, leaf_hash_at};

/// Leaves compared under one hold of the copy's lock: 1 MiB of data.
pub const PIECE_LEAVES: u32 = 64;

/// What a direct read's memory, position and length are multiples of.
const ALIGNMENT: usize = 4096;
const BUFFER_BYTES: usize = PIECE_LEAVES as usize * LEAF_BYTES;

const _: () = assert!(DATA_AT.is_multiple_of(ALIGNMENT as u64) && DATA_AT as usize <= BUFFER_BYTES);

/// What a comparison found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// The disk has what it should.
    Same,
    /// The copy takes writes, was open in a power cut, or is gone: not a case for a scrub.
    NotNow,
    /// The disk has something else, or a write or sync of the copy failed, so that nobody knows what it has.
    Differs(String),
}

/// Reads files past the page cache into one aligned buffer.
#[derive(Debug)]
pub struct DiskReader {
    buffer: Vec<u8>,
    start: usize,
}

impl Default for DiskReader {
    fn default() -> DiskReader {
        let buffer = vec![0; BUFFER_BYTES + ALIGNMENT];
        let start = buffer.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
        DiskReader { buffer, start }
    }
}

impl DiskReader {
    /// The bytes at `at`, as many as there are up to `length`. Both are multiples of a page.
    fn read(&mut self, path: &Path, at: u64, length: usize) -> io::Result<&[u8]> {
        let file = open_past_the_page_cache(path)?;
        let wanted = length.next_multiple_of(ALIGNMENT);
        let mut filled = 0;
        while filled < wanted {
            let into = &mut self.buffer[self.start + filled..self.start + wanted];
            match file.read_at(into, at + filled as u64) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            if !filled.is_multiple_of(ALIGNMENT) {
                break;
            }
        }
        Ok(&self.buffer[self.start..self.start + filled.min(length)])
    }
}

fn open_past_the_page_cache(path: &Path) -> io::Result<File> {
    let direct = rustix::fs::OFlags::DIRECT.bits() as i32;
    match OpenOptions::new().read(true).custom_flags(direct).open(path) {
        Err(error) if error.raw_os_error() == Some(Errno::EINVAL.raw()) => File::open(path),
        other => other,
    }
}

impl ChunkCopy {
    /// Compares header and leaf hashes.
    ///
    /// # Errors
    /// [`Fault`] of the reading.
    pub fn compare_header_on_disk(&self, reader: &mut DiskReader) -> Result<Comparison, Fault> {
        let state = self.read_state();
        if let (Some(reason), false) = (&state.bad, state.gone) {
            return Ok(Comparison::Differs(reason.clone()));
        }
        if !state.is_at_rest() {
            return Ok(Comparison::NotNow);
        }
        let table_bytes = state.leaves.len() * LEAF_HASH_BYTES;
        let found = match reader.read(&self.path, 0, LEAVES_AT as usize + table_bytes) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(differs("its file has vanished")),
            other => other.map_err(Fault::io(IoOperation::Read))?,
        };
        let header = Header::decode(&found[..found.len().min(HEADER_BYTES)]);
        Ok(match header {
            Err(error) => differs(&error.to_string()),
            Ok(header) if header != state.header => differs("byte 0: its header is not the one that was written last"),
            Ok(_) => match state.first_wrong_hash(&found[HEADER_BYTES..]) {
                Some(leaf) => differs(&format!(
                    "byte {}: the hash of leaf {leaf} is not the one written last",
                    leaf_hash_at(leaf)
                )),
                None => Comparison::Same,
            },
        })
    }

    /// Compares the data of a piece of [`PIECE_LEAVES`] leaves with their hashes. Gives the bytes compared, 0 beyond the end.
    ///
    /// # Errors
    /// [`Fault`] of the reading.
    pub fn compare_piece_on_disk(&self, first: u32, reader: &mut DiskReader) -> Result<(Comparison, usize), Fault> {
        let state = self.read_state();
        if !state.is_at_rest() {
            return Ok((Comparison::NotNow, 0));
        }
        let offset = first * LEAF_BYTES as u32;
        let length = BUFFER_BYTES.min(state.header.data_length.saturating_sub(offset) as usize);
        if length == 0 {
            return Ok((Comparison::Same, 0));
        }
        let found = reader.read(&self.path, data_at(offset), length).map_err(Fault::io(IoOperation::Read))?;
        if found.len() < length {
            return Ok((
                differs(&format!(
                    "byte {}: its file ends before the data at {offset} does",
                    data_at(offset) + found.len() as u64
                )),
                length,
            ));
        }
        let leaves = state.leaves[first as usize..].iter();
        let wrong = (first..)
            .zip(leaves.zip(found.chunks(LEAF_BYTES)))
            .find(|(at, (hash, bytes))| hash_leaf(*at, bytes) != **hash);
        let verdict = wrong.map_or(Comparison::Same, |(leaf, _)| {
            let (data, hash) = (data_at(leaf * LEAF_BYTES as u32), leaf_hash_at(leaf));
            differs(&format!(
                "leaf {leaf} on the disk does not match its hash (data at byte {data}, hash at byte {hash})"
            ))
        });
        Ok((verdict, length))
    }
}

impl ChunkCopy {
    /// The leaves whose data on the disk do not match their hashes, for a copy that nobody uses. Data the file lacks counts
    /// as zeros.
    ///
    /// # Errors
    /// [`Fault`] of the reading.
    pub fn mismatches_on_disk(&self, reader: &mut DiskReader) -> Result<Vec<u32>, Fault> {
        let state = self.read_state();
        let mut wrong = Vec::new();
        for first in (0..leaves_of(state.header.data_length)).step_by(PIECE_LEAVES as usize) {
            let offset = first * LEAF_BYTES as u32;
            let length = BUFFER_BYTES.min((state.header.data_length - offset) as usize);
            let found = reader.read(&self.path, data_at(offset), length).map_err(Fault::io(IoOperation::Read))?;
            let mut piece = found.to_vec();
            piece.resize(length, 0);
            let hashes = hash_leaves(first, &piece).zip(&state.leaves[first as usize..]);
            wrong.extend((first..).zip(hashes).filter(|(_, (found, stored))| found != *stored).map(|(leaf, _)| leaf));
        }
        Ok(wrong)
    }
}

impl State {
    /// Closed and trusted: memory and disk have to agree.
    fn is_at_rest(&self) -> bool {
        !self.header.is_open() && !self.header_dirty && !self.suspect && !self.gone && self.bad.is_none()
    }

    fn first_wrong_hash(&self, found: &[u8]) -> Option<u32> {
        let mut stored = found.chunks_exact(LEAF_HASH_BYTES);
        let wrong = self.leaves.iter().position(|leaf| stored.next() != Some(leaf.as_bytes().as_slice()));
        wrong.map(|leaf| leaf as u32)
    }
}

fn differs(reason: &str) -> Comparison {
    Comparison::Differs(reason.to_owned())
}
