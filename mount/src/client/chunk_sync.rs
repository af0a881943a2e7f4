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
use rfs_common::socket::Socket;
use rfs_proto::data::{ChangeReply, CopyResult, HelloReply, NextCopy, Status, SyncChunk};
use rfs_proto::frame::FrameType;
use rfs_proto::wire::{Connection, Envelope};
use tracing::{info, warn};

use super::core::lock;
use crate::data::{
    ChunkPlaces, CommittedChunk, CopyFailure, DataSettings, FailedWrite, FileMaster, Place, Span, Way, lives,
};

/// How long a chunk is tried without the WRITE lease: copies may be raised or moved meanwhile, and the master then names others.
const TRIED_WITHOUT_LEASE: Duration = Duration::from_millis(300);
/// Chunks asked for at once.
const LOCATED_AT_ONCE: u32 = 1024;
const PAUSE: Duration = Duration::from_millis(100);

/// What the caller holds on the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holds {
    /// Perhaps nothing: copies that fail are only waited for, and not for long.
    Anything,
    /// The WRITE lease: copies that fail are reported, and the others go on without them.
    WriteLease,
}

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
    /// Notes every chunk of the file that is not noted yet. What others had written and lost is not this client's to tell.
    ///
    /// # Errors
    /// The master's.
    pub(super) fn doubt_all(&self, inode: InodeId, unsynced: &Unsynced) -> Result<(), Errno> {
        let mut next = Some(0);
        while let Some(first_index) = next {
            let chunks = self.master.locate(inode, first_index, Span::Existing(LOCATED_AT_ONCE))?;
            let last = chunks.iter().map(|chunk| chunk.index).max();
            next = last.filter(|_| chunks.len() == LOCATED_AT_ONCE as usize).and_then(|last| last.checked_add(1));
            let mut noted = lock(&unsynced.0);
            for chunk in chunks {
                noted.entry(chunk.index).or_insert(chunk.version.max(chunk.lost_version));
            }
        }
        Ok(())
    }

    /// Has every copy of the file's unsynced chunks synced. Chunks whose bytes were lost are not noted any more.
    ///
    /// # Errors
    /// EIO if that cannot be had; the chunks stay noted.
    pub(super) fn sync(&self, inode: InodeId, unsynced: &Unsynced, holds: Holds) -> Result<Waiting, Errno> {
        let noted: Vec<(u32, ChunkVersion)> = lock(&unsynced.0).iter().map(|(at, version)| (*at, *version)).collect();
        let mut waiting = Waiting::Kept;
        let mut synced: Vec<ChunkId> = Vec::new();
        for (index, version) in &noted {
            let Some(chunk) = self.sync_chunk(inode, *index, holds)? else { continue };
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
    fn sync_chunk(&self, inode: InodeId, index: u32, holds: Holds) -> Result<Option<ChunkPlaces>, Errno> {
        let patience = match holds {
            Holds::Anything => TRIED_WITHOUT_LEASE,
            Holds::WriteLease => self.settings.write_give_up,
        };
        let deadline = self.clock.monotonic() + patience;
        loop {
            match self.try_chunk(inode, index, holds) {
                Ok(synced) => return Ok(synced),
                Err(errno) if self.clock.monotonic() >= deadline => {
                    if holds == Holds::WriteLease {
                        warn!(inode = inode.get(), index, %errno, "the copies of a chunk could not be synced: fsync fails");
                    }
                    return Err(Errno::EIO);
                }
                Err(Errno::EAGAIN) => self.clock.sleep(PAUSE),
                Err(errno) => return Err(errno),
            }
        }
    }

    /// EAGAIN: not now.
    fn try_chunk(&self, inode: InodeId, index: u32, holds: Holds) -> Result<Option<ChunkPlaces>, Errno> {
        let chunks = self.master.locate(inode, index, Span::Indexes(1))?;
        let Some(chunk) = chunks.into_iter().find(|chunk| chunk.index == index) else { return Ok(None) };
        let failures = match self.sync_copies(&chunk) {
            Ok(()) => return Ok(Some(chunk)),
            Err(failures) if failures.is_empty() || holds == Holds::Anything => return Err(Errno::EAGAIN),
            Err(failures) => failures,
        };
        info!(inode = inode.get(), index, ?failures, "copies failed a sync: asking the master to go on without them");
        let failed = FailedWrite { inode, index, chunk: chunk.chunk, version: chunk.version, failures: &failures };
        match self.master.copy_failed(&failed) {
            // The copies that are left have all bytes, under a version that those which failed do not have. They are synced
            // with the next try.
            Ok(_) | Err(Errno::ESTALE) => Err(Errno::EAGAIN),
            Err(errno) => Err(errno),
        }
    }

    /// Which copies failed, if it is known.
    fn sync_copies(&self, chunk: &ChunkPlaces) -> Result<(), Vec<CopyFailure>> {
        let Some(first) = chunk.places.first() else { return Err(Vec::new()) };
        let results = self.ask_to_sync(chunk, first).map_err(|errno| vec![first.failure(errno, "it did not sync")])?;
        let result_of = |place: &Place| {
            results.iter().find(|result| result.server == place.server.get() && result.volume == place.volume.get())
        };
        let failed = |place: &&Place| {
            result_of(place).is_some_and(|result| !matches!(result.status(), Status::Ok | Status::NextFailed))
        };
        let failure = |place: &Place| place.failure(Errno::EIO, "it did not sync");
        let mut failures: Vec<CopyFailure> = chunk.places.iter().filter(failed).map(failure).collect();
        if failures.is_empty() {
            // The first that was not reached is to blame only if none before it is.
            failures.extend(chunk.places.iter().find(|place| result_of(place).is_none()).map(failure));
        }
        if failures.is_empty() { Ok(()) } else { Err(failures) }
    }

    fn ask_to_sync(&self, chunk: &ChunkPlaces, first: &Place) -> Result<Vec<CopyResult>, Errno> {
        let rest = &chunk.places[1..];
        let failed = |_| Errno::EIO;
        let address = first.address.to_socket_addrs()?.next().ok_or(Errno::EHOSTUNREACH)?;
        let stream = Socket::tcp(TcpStream::connect_timeout(&address, self.settings.connect_timeout)?)?;
        stream.set_read_timeout(Some(self.settings.write_timeout))?;
        let mut connection = Connection::new(stream);
        let hello = self.settings.hello(first);
        connection.send(Envelope::request(FrameType::DataHello, 0), &hello, &[]).map_err(failed)?;
        let greeted = connection.receive_reply::<HelloReply>(FrameType::DataHello, 0).map_err(failed)?;
        greeted.map_err(|_| Errno::EIO)?;
        let place = first.clone();
        connection.stream().ask_while_waiting(Box::new(move || lives(&place, &hello, Way::Tcp)));
        connection.stream().set_read_timeout(Some(self.settings.write_timeout))?;
        let request = SyncChunk {
            volume: first.volume.get(),
            chunk: chunk.chunk.get(),
            version: chunk.version.get(),
            next: rest.iter().map(NextCopy::from).collect(),
        };
        connection.send(Envelope::request(FrameType::SyncChunk, 1), &request, &[]).map_err(failed)?;
        let reply = connection.receive_reply::<ChangeReply>(FrameType::SyncChunk, 1).map_err(failed)?;
        Ok(reply.map_err(|_| Errno::EIO)?.results)
    }
}
