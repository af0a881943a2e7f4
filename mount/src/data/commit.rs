//! What the master is told of a file that was written: which chunks, the length, the time.
//!
//! What always holds: only acknowledged bytes are committed (and synced ones, if the commit is to be durable), and nothing
//! is written under a grant once it is in a commit: `Commit` settles the version, so a later write needs a grant of its
//! own. The chunks of a [`Committable`] are therefore kept from senders until it is gone; writes only collect meanwhile.

use std::sync::Arc;

use rfs_common::clock::Time;
use rfs_common::errno::Errno;
use rfs_common::ids::{ChunkId, ChunkVersion};
use rfs_common::leaf::CHUNK_BYTES;

use super::chunk_state::{ChunkState, Extent, Owner};
use super::file::{FileData, FileState};

/// How far data must have come before it is committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Every copy has it in memory: close, a lease that goes down.
    Acknowledged,
    /// Every copy has it on its disk: fsync.
    Durable,
}

/// One chunk of a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommittedChunk {
    /// Which chunk of the file.
    pub index: u32,
    /// The chunk.
    pub chunk: ChunkId,
    /// The granted version it was written under.
    pub version: ChunkVersion,
    /// Its valid bytes.
    pub length: u32,
    /// Bytes acknowledged under an older version and not synced may be gone.
    pub lost_version: ChunkVersion,
}

impl From<CommittedChunk> for rfs_proto::session::CommittedChunk {
    fn from(chunk: CommittedChunk) -> Self {
        Self { index: chunk.index, chunk: chunk.chunk.get(), version: chunk.version.get(), length: chunk.length }
    }
}

/// What a `Commit` is to say. Its chunks take no writes until it is dropped: the commit failed, all of it is to be said
/// again; or [`Committable::committed`].
#[derive(Debug)]
pub struct Committable {
    /// The file's new length, if it changed.
    pub length: Option<u64>,
    /// When it was written last, if it was.
    pub modified: Option<Time>,
    /// The chunks that were written.
    pub chunks: Vec<CommittedChunk>,
    file: Arc<FileData>,
    epoch: u64,
}

impl FileData {
    /// Has everything acknowledged (and synced) that is here now, and says what to commit. The chunks are kept from
    /// senders from their last write on, so nothing slips in between.
    ///
    /// # Errors
    /// Bytes were lost just now; the application's answer is [`FileData::take_error`]. Nothing is kept.
    pub fn prepare_commit(self: &Arc<Self>, durability: Durability) -> Result<Committable, Errno> {
        let extent = match durability {
            Durability::Acknowledged => Extent::Everything,
            Durability::Durable => Extent::EverythingSynced,
        };
        self.cut_lost_end();
        let kept = self.send_all(extent, Owner::Commit).inspect_err(|_| self.cut_lost_end())?;
        Ok(self.snapshot(&mut self.state(), &kept))
    }

    /// What can be committed without sending or waiting; `None`: nothing.
    pub fn committable(self: &Arc<Self>) -> Option<Committable> {
        let mut state = self.state();
        let ready = |chunk: &ChunkState| chunk.owner == Owner::Free && chunk.is_written() && chunk.repairs.is_empty();
        let kept: Vec<u32> = state.chunks.iter().filter(|(_, chunk)| ready(chunk)).map(|(index, _)| *index).collect();
        for index in &kept {
            if let Some(chunk) = state.chunks.get_mut(index) {
                chunk.owner = Owner::Commit;
            }
        }
        let committable = self.snapshot(&mut state, &kept);
        drop(state);
        let any = committable.length.is_some() || committable.modified.is_some() || !committable.chunks.is_empty();
        any.then_some(committable)
    }

    fn snapshot(self: &Arc<Self>, state: &mut FileState, kept: &[u32]) -> Committable {
        let chunk_of = |index: &u32| {
            let grant = state.chunks.get(index)?.grant.as_ref()?;
            let (chunk, version, lost_version) = (grant.grant.chunk, grant.grant.version, grant.grant.lost_version);
            Some(CommittedChunk { index: *index, chunk, version, length: grant.valid_length, lost_version })
        };
        Committable {
            chunks: kept.iter().filter_map(chunk_of).collect(),
            length: state.length_to_commit(kept),
            modified: state.modified,
            file: Arc::clone(self),
            epoch: state.epoch,
        }
    }
}

impl FileState {
    /// The new length, as far as it is safe to say: never beyond the acknowledged bytes while others are dirty, and not
    /// beyond the start of a written chunk that is not in the commit, so that a crash leaves no end of zeros.
    fn length_to_commit(&self, kept: &[u32]) -> Option<u64> {
        let local = self.local_length?;
        let mut safe = self.lost_from.map_or(local, |lost| local.min(lost));
        if self.chunks.values().any(ChunkState::is_dirty) {
            safe = safe.min(self.acknowledged_end);
        }
        let left_out = self.chunks.iter().find(|(index, chunk)| chunk.is_written() && !kept.contains(index));
        if let Some((index, _)) = left_out {
            safe = safe.min(u64::from(*index) * CHUNK_BYTES);
        }
        (safe > self.base_length).then_some(safe)
    }

    fn committed(&mut self, done: &Committable) {
        for committed in &done.chunks {
            let grant = self.chunks.get_mut(&committed.index).and_then(|chunk| chunk.grant.take());
            if let Some(places) = grant.and_then(|grant| grant.places()) {
                self.located.insert(committed.index, Some(Arc::new(places)));
            }
        }
        self.located_epoch += 1;
        if let Some(length) = done.length {
            self.base_length = self.base_length.max(length);
            // The master has been told of more, as by a commit that was under way when it was lost: nothing that is committed is cut off.
            self.lost_from = self.lost_from.filter(|lost| *lost >= self.base_length);
        }
        if self.local_length.is_some_and(|local| local <= self.base_length) {
            self.local_length = None;
        }
        if self.modified == done.modified {
            self.modified = None;
        }
    }
}

impl Committable {
    /// The master has taken it. The file's attributes from its answer must be in use before this is called: from here on
    /// reads and writes go by the length their callers give.
    pub fn committed(self) {
        let mut state = self.file.state();
        if state.epoch == self.epoch {
            state.committed(&self);
        }
    }
}

impl Drop for Committable {
    fn drop(&mut self) {
        let kept: Vec<u32> = self.chunks.iter().map(|chunk| chunk.index).collect();
        self.file.release_all(&kept, self.epoch);
    }
}
