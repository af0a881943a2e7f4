//! What stands between the data path and the metadata session, in both directions.
//!
//! [`SessionMaster`] is what the data path asks the master through; [`FileBytes`] and its kin are implemented for the data
//! path's types.

use std::ops::Range;
use std::sync::Arc;

use rfs_common::clock::Time;
use rfs_common::errno::Errno;
use rfs_common::ids::{ChunkId, ChunkVersion, InodeId};
use rfs_proto::session as wire;
use tracing::debug;

use super::bytes::{Bytes, BytesStanding, Durability, FileBytes, OpenBytes, Prepared};
use super::chunk_sync::{ChunkSync, Holds, Unsynced, Waiting};
use crate::data::{
    self, ChunkPlaces, Committable, CopyFailure, DataHandle, DataPath, FailedWrite, FileData, FileMaster, Keep,
    ReadPatience, Span, WriteGrant,
};
use crate::session::{Lane, Session};

/// Chunks named in one Sync, whose frame is small.
const SYNCED_AT_ONCE_MAX: usize = 256;

/// The master, as the data path asks it.
pub struct SessionMaster {
    session: Session,
}

impl SessionMaster {
    /// Asks in this session.
    pub fn new(session: Session) -> SessionMaster {
        SessionMaster { session }
    }
}

impl FileMaster for SessionMaster {
    fn grant(&self, inode: InodeId, index: u32) -> Result<WriteGrant, Errno> {
        let request = wire::GrantWrite { inode: inode.get(), index };
        let reply = self.session.call_in(Lane::Reserved, &request, &mut || {})?;
        reply.grant.map(WriteGrant::from).ok_or(Errno::EPROTO)
    }

    fn copy_failed(&self, failed: &FailedWrite<'_>) -> Result<WriteGrant, Errno> {
        let request = wire::CopyFailed {
            inode: failed.inode.get(),
            index: failed.index,
            chunk: failed.chunk.get(),
            version: failed.version.get(),
            failures: failed.failures.iter().cloned().map(wire::CopyFailure::from).collect(),
        };
        let reply = self.session.call_in(Lane::Reserved, &request, &mut || {})?;
        reply.grant.map(WriteGrant::from).ok_or(Errno::EPROTO)
    }

    fn locate(&self, inode: InodeId, first_index: u32, span: Span) -> Result<Vec<ChunkPlaces>, Errno> {
        let (count, existing) = match span {
            Span::Indexes(count) => (count, false),
            Span::Existing(count) => (count, true),
        };
        let reply = self.session.call(&wire::Locate { inode: inode.get(), first_index, count, existing })?;
        Ok(reply.chunks.into_iter().map(ChunkPlaces::from).collect())
    }

    fn report_bad_copy(&self, chunk: ChunkId, version: ChunkVersion, failure: CopyFailure) {
        let request = wire::ReportBadCopy { chunk: chunk.get(), version: version.get(), failure: Some(failure.into()) };
        if let Err(errno) = self.session.call(&request) {
            debug!(%errno, "a bad copy could not be reported");
        }
    }

    fn chunks_synced(&self, chunks: &[ChunkId]) -> Result<(), Errno> {
        // As many as one frame takes.
        for chunks in chunks.chunks(SYNCED_AT_ONCE_MAX) {
            self.session.call(&wire::Sync { chunks: chunks.iter().map(|chunk| chunk.get()).collect() })?;
        }
        Ok(())
    }
}

/// The data path as [`Bytes`].
pub(super) struct DataBytes {
    pub(super) path: Arc<DataPath>,
    pub(super) sync: Arc<ChunkSync>,
}

impl Bytes for DataBytes {
    fn file(&self, inode: InodeId) -> Arc<dyn FileBytes> {
        let (file, unsynced, sync) = (self.path.file(inode), Arc::default(), Arc::clone(&self.sync));
        Arc::new(DataFile { file, unsynced, sync })
    }

    fn standing(&self) -> BytesStanding {
        let path = &self.path;
        BytesStanding { unsent: path.unsent_bytes(), cached: path.cached_bytes(), waits: path.waits() }
    }
}

struct DataFile {
    file: Arc<FileData>,
    unsynced: Arc<Unsynced>,
    sync: Arc<ChunkSync>,
}

impl DataFile {
    fn prepared(&self, committable: Committable, durability: Durability) -> Box<dyn Prepared> {
        let (file, unsynced) = (Arc::clone(&self.file), Arc::clone(&self.unsynced));
        Box::new(DataCommit { committable, durability, file, unsynced })
    }
}

/// A commit that will note what it left unsynced.
struct DataCommit {
    committable: Committable,
    durability: Durability,
    file: Arc<FileData>,
    unsynced: Arc<Unsynced>,
}

struct OpenData {
    file: Arc<FileData>,
    handle: DataHandle,
}

impl OpenBytes for OpenData {
    fn read(
        &self,
        offset: u64,
        out: &mut [u8],
        length_of_file: u64,
        how: (Keep, &ReadPatience<'_>),
    ) -> Result<usize, Errno> {
        self.file.read(&self.handle, offset, out, length_of_file, how)
    }

    fn take_error(&self) -> Result<(), Errno> {
        self.file.take_error(&self.handle)
    }

    fn take_error_at_close(&self) -> Result<(), Errno> {
        self.file.take_error_at_close(&self.handle)
    }

    fn take_error_at_write(&self) -> Result<(), Errno> {
        self.file.take_error_at_write(&self.handle)
    }
}

impl Prepared for DataCommit {
    fn length(&self) -> Option<u64> {
        self.committable.length
    }

    fn modified(&self) -> Option<Time> {
        self.committable.modified
    }

    fn chunks(&self) -> Vec<wire::CommittedChunk> {
        self.committable.chunks.iter().copied().map(wire::CommittedChunk::from).collect()
    }

    fn committed(self: Box<Self>) {
        let chunks = &self.committable.chunks;
        // Noted first: an fsync must not find the chunks neither written nor noted.
        let waiting = match self.durability {
            Durability::Acknowledged => self.unsynced.add(chunks),
            Durability::Durable => self.unsynced.remove(chunks),
        };
        if waiting == Waiting::Lost {
            self.file.note_loss();
        }
        self.committable.committed();
    }
}

impl FileBytes for DataFile {
    fn open(&self) -> Arc<dyn OpenBytes> {
        Arc::new(OpenData { file: Arc::clone(&self.file), handle: self.file.open_handle() })
    }

    fn write(&self, offset: u64, bytes: &[u8], length_of_file: u64) -> Result<u64, Errno> {
        self.file.write(offset, bytes, length_of_file)
    }

    fn prepare_commit(&self, durability: Durability) -> Result<Box<dyn Prepared>, Errno> {
        let of_data = match durability {
            Durability::Acknowledged => data::Durability::Acknowledged,
            Durability::Durable => data::Durability::Durable,
        };
        Ok(self.prepared(self.file.prepare_commit(of_data)?, durability))
    }

    fn committable(&self) -> Option<Box<dyn Prepared>> {
        self.file.committable().map(|committable| self.prepared(committable, Durability::Acknowledged))
    }

    fn doubt_all(&self) -> Result<(), Errno> {
        self.sync.doubt_all(self.file.inode(), &self.unsynced)
    }

    fn sync_committed(&self, holds: Holds) -> Result<(), Errno> {
        if self.sync.sync(self.file.inode(), &self.unsynced, holds)? == Waiting::Lost {
            self.file.note_loss();
        }
        Ok(())
    }

    fn next_data(&self, chunk: &ChunkPlaces, offset: u32) -> Option<Range<u32>> {
        self.file.next_data(chunk, offset)
    }

    fn offer_place(&self, place: ChunkPlaces) {
        self.file.offer_place(place);
    }

    fn give_grant(&self, grant: WriteGrant) {
        self.file.give_grant(grant);
    }

    fn truncate(&self, length: u64) {
        self.file.truncate(length);
    }

    fn zero(&self, offset: u64, length: u64) -> Result<(), Errno> {
        self.file.zero(offset, length)
    }

    fn forget_chunks(&self, first_index: u32, end_index: u32) {
        self.file.forget_chunks(first_index, end_index);
    }

    fn end_grants(&self) {
        self.file.end_grants();
    }

    fn invalidate(&self) {
        self.file.invalidate();
    }

    fn discard(&self) {
        self.file.discard();
    }

    fn has_uncommitted(&self) -> bool {
        self.file.has_uncommitted()
    }

    fn local_length(&self) -> Option<u64> {
        self.file.local_length()
    }

    fn modified(&self) -> Option<Time> {
        self.file.modified()
    }
}
