//! Syncing chunks that were committed before they were synced: by a close, by the background, for a recall.
//!
//! The data path knows a chunk as its own only until the commit; a later fsync must still bring it to every copy's disk.
//! So the chunks of each commit that was not durable are noted, and fsync has their copies sync what they have, wherever
//! the master says they are by then. A power cut of all copies before that fsync is seen by the chunk's `lost_version`
//! (docs/protocol.md, section 3): the fsync fails, once. This is the rare way (fsync usually finds the data dirty and syncs with the last
//! write), so a connection is made for it and dropped again.

use std::collections::BTreeMap;
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rfs_common::clock::SharedClock;
use rfs_common::errno::Errno;
use rfs_common::ids::{ChunkId, ChunkVersion, InodeId};
use rfs_proto::PROTOCOL_VERSION;
use rfs_proto::data::{ChangeReply, Hello, HelloReply, NextCopy, Status, SyncChunk};
use rfs_proto::frame::FrameType;
use rfs_proto::wire::{Connection, Envelope};
use tracing::warn;

use super::core::lock;
use crate::data::{ChunkPlaces, CommittedChunk, DataSettings, FileMaster};

/// How often a chunk is tried: copies may be raised or moved meanwhile, and the master then names others.
const ATTEMPTS: u32 = 10;
const PAUSE: Duration = Duration::from_millis(300);

/// Chunks of one file that are on their copies, but perhaps not on their disks, and the version they were committed with.
#[derive(Debug, Default)]
pub(super) struct Unsynced(Mutex<BTreeMap<u32, ChunkVersion>>);

/// Whether bytes that wait for a sync are still on the copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum Waiting {
    /// They are.
    Kept,
    /// The copies lost power before: the application has to be told.
    Lost,
}

impl Unsynced {
    /// A commit that was not durable has named these chunks.
    pub(super) fn add(&self, chunks: &[CommittedChunk]) -> Waiting {
        let mut unsynced = lock(&self.0);
        let before = chunks.iter().map(|chunk| (chunk, unsynced.insert(chunk.index, chunk.version)));
        lost_among(before)
    }

    /// These were synced with their last write.
    pub(super) fn remove(&self, chunks: &[CommittedChunk]) -> Waiting {
        let mut unsynced = lock(&self.0);
        let before = chunks.iter().map(|chunk| (chunk, unsynced.remove(&chunk.index)));
        lost_among(before)
    }
}

/// Whether any chunk was noted with a version older than its last loss. Looks at all: each is noted anew meanwhile.
fn lost_among<'a>(chunks: impl Iterator<Item = (&'a CommittedChunk, Option<ChunkVersion>)>) -> Waiting {
    let mut waiting = Waiting::Kept;
    for (chunk, noted) in chunks {
        if noted.is_some_and(|noted| chunk.lost_version > noted) {
            waiting = Waiting::Lost;
        }
    }
    waiting
}

/// Who syncs.
pub(super) struct ChunkSync {
    pub(super) master: Arc<dyn FileMaster>,
    pub(super) settings: DataSettings,
    pub(super) clock: SharedClock,
}

impl ChunkSync {
    /// Has every copy of the file's unsynced chunks synced. Chunks whose bytes were lost are not noted any more.
    ///
    /// # Errors
    /// EIO if that cannot be had; the chunks stay noted.
    pub(super) fn sync(&self, inode: InodeId, unsynced: &Unsynced) -> Result<Waiting, Errno> {
        let noted: Vec<(u32, ChunkVersion)> = lock(&unsynced.0).iter().map(|(at, version)| (*at, *version)).collect();
        let mut waiting = Waiting::Kept;
        let mut synced: Vec<ChunkId> = Vec::new();
        for (index, version) in &noted {
            let Some(chunk) = self.sync_chunk(inode, *index)? else { continue };
            synced.push(chunk.chunk);
            if chunk.lost_version > *version {
                warn!(inode = inode.get(), index, "a chunk's copies lost power before they were synced: fsync fails");
                waiting = Waiting::Lost;
            }
        }
        if !synced.is_empty() {
            self.master.chunks_synced(&synced)?;
        }
        let mut unsynced = lock(&unsynced.0);
        // A commit made meanwhile has noted another version, which is not synced.
        for (index, version) in noted {
            if unsynced.get(&index) == Some(&version) {
                unsynced.remove(&index);
            }
        }
        Ok(waiting)
    }

    /// The chunk as it was synced; `None`: truncated or punched since, there is nothing to sync.
    fn sync_chunk(&self, inode: InodeId, index: u32) -> Result<Option<ChunkPlaces>, Errno> {
        let mut last = Errno::EIO;
        for attempt in 0..ATTEMPTS {
            if attempt > 0 {
                self.clock.sleep(PAUSE);
            }
            let chunk = match self.master.locate(inode, index, 1) {
                Ok(chunks) => chunks.into_iter().find(|chunk| chunk.index == index),
                Err(Errno::EAGAIN) => continue,
                Err(errno) => return Err(errno),
            };
            let Some(chunk) = chunk else { return Ok(None) };
            match self.sync_copies(&chunk) {
                Ok(()) => return Ok(Some(chunk)),
                Err(errno) => last = errno,
            }
        }
        warn!(inode = inode.get(), index, errno = %last, "the copies of a chunk could not all be synced: fsync fails");
        Err(Errno::EIO)
    }

    fn sync_copies(&self, chunk: &ChunkPlaces) -> Result<(), Errno> {
        let Some((first, rest)) = chunk.places.split_first() else { return Err(Errno::EIO) };
        let failed = |_| Errno::EIO;
        let address = first.address.to_socket_addrs()?.next().ok_or(Errno::EHOSTUNREACH)?;
        let stream = TcpStream::connect_timeout(&address, self.settings.connect_timeout)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(self.settings.write_timeout))?;
        let mut connection = Connection::new(stream);
        let hello = Hello {
            protocol_version: PROTOCOL_VERSION,
            cluster: self.settings.cluster.clone(),
            server: first.server.get(),
            volume: first.volume.get(),
            from: self.settings.from.clone(),
        };
        connection.send(Envelope::request(FrameType::DataHello, 0), &hello, &[]).map_err(failed)?;
        let greeted = connection.receive_reply::<HelloReply>(FrameType::DataHello, 0).map_err(failed)?;
        greeted.map_err(|_| Errno::EIO)?;
        let request = SyncChunk {
            volume: first.volume.get(),
            chunk: chunk.chunk.get(),
            version: chunk.version.get(),
            next: rest.iter().map(NextCopy::from).collect(),
        };
        connection.send(Envelope::request(FrameType::SyncChunk, 1), &request, &[]).map_err(failed)?;
        let reply = connection.receive_reply::<ChangeReply>(FrameType::SyncChunk, 1).map_err(failed)?;
        let results = reply.map_err(|_| Errno::EIO)?.results;
        let synced = results.iter().filter(|result| result.status() == Status::Ok).count();
        if synced == chunk.places.len() { Ok(()) } else { Err(Errno::EIO) }
    }
}
