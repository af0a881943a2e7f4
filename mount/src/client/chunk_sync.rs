//! Syncing chunks that were committed before they were synced: by a close, by the background, for a recall.
//!
//! The data path knows a chunk as its own only until the commit; a later fsync must still bring it to every copy's disk.
//! So the chunks of each commit that was not durable are noted, and fsync has their copies sync what they have, wherever
//! the master says they are by then. This is the rare way (fsync usually finds the data dirty and syncs with the last
//! write), so a connection is made for it and dropped again.

use std::collections::BTreeSet;
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rfs_common::clock::SharedClock;
use rfs_common::errno::Errno;
use rfs_common::ids::InodeId;
use rfs_proto::PROTOCOL_VERSION;
use rfs_proto::data::{ChangeReply, Hello, HelloReply, NextCopy, Status, SyncChunk};
use rfs_proto::frame::FrameType;
use rfs_proto::wire::{Connection, Envelope};
use tracing::warn;

use super::core::lock;
use crate::data::{ChunkPlaces, DataSettings, FileMaster};

/// How often a chunk is tried: copies may be raised or moved meanwhile, and the master then names others.
const ATTEMPTS: u32 = 10;
const PAUSE: Duration = Duration::from_millis(300);

/// Chunks of one file that are on their copies, but perhaps not on their disks.
#[derive(Debug, Default)]
pub(super) struct Unsynced(Mutex<BTreeSet<u32>>);

impl Unsynced {
    /// A commit that was not durable has named these chunks.
    pub(super) fn add(&self, indexes: impl Iterator<Item = u32>) {
        lock(&self.0).extend(indexes);
    }

    /// These were synced with their last write.
    pub(super) fn remove(&self, indexes: impl Iterator<Item = u32>) {
        let mut unsynced = lock(&self.0);
        for index in indexes {
            unsynced.remove(&index);
        }
    }
}

/// Who syncs.
pub(super) struct ChunkSync {
    pub(super) master: Arc<dyn FileMaster>,
    pub(super) settings: DataSettings,
    pub(super) clock: SharedClock,
}

impl ChunkSync {
    /// Has every copy of the file's unsynced chunks synced.
    ///
    /// # Errors
    /// EIO if that cannot be had; the chunks stay noted.
    pub(super) fn sync(&self, inode: InodeId, unsynced: &Unsynced) -> Result<(), Errno> {
        let indexes: Vec<u32> = lock(&unsynced.0).iter().copied().collect();
        for index in indexes {
            self.sync_chunk(inode, index)?;
            unsynced.remove(std::iter::once(index));
        }
        Ok(())
    }

    fn sync_chunk(&self, inode: InodeId, index: u32) -> Result<(), Errno> {
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
            // Truncated or punched since: there is nothing to sync.
            let Some(chunk) = chunk else { return Ok(()) };
            match self.sync_copies(&chunk) {
                Ok(()) => return Ok(()),
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
