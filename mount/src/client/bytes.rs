//! The seam between the client core and the data path: what the core asks of the bytes of files.
//!
//! [`crate::data`] implements it; tests put bytes in memory behind it.

use std::ops::Range;
use std::sync::Arc;

use rfs_common::clock::Time;
use rfs_common::errno::Errno;
use rfs_common::ids::InodeId;
use rfs_proto::session as wire;

use super::chunk_sync::Holds;
use crate::data::{ChunkPlaces, ChunkWait, Keep, ReadPatience, WriteGrant};

/// All files' bytes.
pub trait Bytes: Send + Sync {
    /// One file's. Asked once for each node.
    fn file(&self, inode: InodeId) -> Arc<dyn FileBytes>;
    /// What it holds and waits for just now, for people.
    fn standing(&self) -> BytesStanding;
}

/// What the bytes of all files hold and wait for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BytesStanding {
    /// Bytes that were written and that no copy has acknowledged yet.
    pub unsent: usize,
    /// Bytes kept for reading.
    pub cached: usize,
    /// Chunks that somebody waits for.
    pub waits: Vec<ChunkWait>,
}

/// How far a commit's data has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Every copy has it.
    Acknowledged,
    /// Every copy has it on its disk.
    Durable,
}

/// What the master is to be told, and what is held back until it was.
pub trait Prepared: Send {
    /// The file's new length, if it changed.
    fn length(&self) -> Option<u64>;
    /// When it was last written, if it was.
    fn modified(&self) -> Option<Time>;
    /// Chunks written under a grant.
    fn chunks(&self) -> Vec<wire::CommittedChunk>;
    /// The master has it. Without this call it stays uncommitted.
    fn committed(self: Box<Self>);
}

/// One open file's own place in the bytes.
pub trait OpenBytes: Send + Sync {
    /// Reads; 0 bytes at the end. Under what it may be kept for later reads is the caller's to say.
    ///
    /// # Errors
    /// EIO when no copy gives the right bytes; EINTR when none does now and `patience` says to wait no longer.
    fn read(
        &self,
        offset: u64,
        out: &mut [u8],
        length_of_file: u64,
        how: (Keep, &ReadPatience<'_>),
    ) -> Result<usize, Errno>;
    /// What went wrong with data written since this was last asked.
    ///
    /// # Errors
    /// That.
    fn take_error(&self) -> Result<(), Errno>;
    /// The same for close, which fsync repeats.
    ///
    /// # Errors
    /// That.
    fn take_error_at_close(&self) -> Result<(), Errno>;
    /// The same for a write: only that there was no space.
    ///
    /// # Errors
    /// ENOSPC.
    fn take_error_at_write(&self) -> Result<(), Errno>;
}

/// One file's bytes. See [`crate::data`] for what each method does.
#[allow(missing_docs, reason = "they are those of the data path's FileData")]
pub trait FileBytes: Send + Sync {
    fn open(&self) -> Arc<dyn OpenBytes>;
    fn write(&self, offset: u64, bytes: &[u8], length_of_file: u64) -> Result<u64, Errno>;
    fn prepare_commit(&self, durability: Durability) -> Result<Box<dyn Prepared>, Errno>;
    fn committable(&self) -> Option<Box<dyn Prepared>>;
    /// Counts every chunk of the file as committed without being durable: another session may have left it so.
    fn doubt_all(&self) -> Result<(), Errno>;
    /// Has every copy sync what was committed without being durable.
    fn sync_committed(&self, holds: Holds) -> Result<(), Errno>;
    /// The first part of a chunk at or after `offset` that is no hole, if a copy tells.
    fn next_data(&self, chunk: &ChunkPlaces, offset: u32) -> Option<Range<u32>>;
    fn offer_place(&self, place: ChunkPlaces);
    fn give_grant(&self, grant: WriteGrant);
    fn truncate(&self, length: u64);
    fn zero(&self, offset: u64, length: u64) -> Result<(), Errno>;
    fn forget_chunks(&self, first_index: u32, end_index: u32);
    fn end_grants(&self);
    fn invalidate(&self);
    fn discard(&self);
    fn has_uncommitted(&self) -> bool;
    fn local_length(&self) -> Option<u64>;
    fn modified(&self) -> Option<Time>;
}
