//! Where the copies of a chunk are, what the master says about writing it, and the one trait through which the data path
//! asks the master.
//!
//! The types mirror `session.proto` with ids as newtypes; the conversions stand at the end. [`FileMaster`] is implemented
//! by the client core over its metadata session, and by a fake in the tests.

use std::sync::Arc;

use rfs_common::errno::Errno;
use rfs_common::ids::{ChunkId, ChunkVersion, InodeId, ServerId, VolumeId};
use rfs_proto::wire::cut_foreign_text;
use rfs_proto::{data, session};

/// How many chunks are asked for at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Span {
    /// Those with so many indexes, one after the other.
    Indexes(u32),
    /// So many that exist, however far apart.
    Existing(u32),
}

/// What the data path needs of the master. Every call blocks until there is an answer: broken connections and a restarted
/// master are the implementation's business. It is called without any lock of the data path held, from threads of
/// applications, of the flushers and of the read-ahead.
pub trait FileMaster: Send + Sync {
    /// The right to write chunk `index` of the file, whose write lease this client holds.
    ///
    /// # Errors
    /// `EAGAIN`: not now; it is asked again until the write deadline. Any other is final for the data that waits.
    fn grant(&self, inode: InodeId, index: u32) -> Result<WriteGrant, Errno>;

    /// Copies did not take a write; the answer is the grant to go on with, whose copies hold all that every copy of the
    /// old chain acknowledged.
    ///
    /// # Errors
    /// As for [`FileMaster::grant`].
    fn copy_failed(&self, failed: &FailedWrite<'_>) -> Result<WriteGrant, Errno>;

    /// The chunks of the file from `first_index` on; those that are missing are holes.
    ///
    /// # Errors
    /// `EAGAIN`: not now; it is asked again until the read deadline. Any other is the reader's answer.
    fn locate(&self, inode: InodeId, first_index: u32, span: Span) -> Result<Vec<ChunkPlaces>, Errno>;

    /// A copy did not give the right bytes to a reader. Nothing is awaited.
    fn report_bad_copy(&self, chunk: ChunkId, version: ChunkVersion, failure: CopyFailure);

    /// Every copy of these chunks has synced what a commit left unsynced. Answered once that survives a power cut.
    ///
    /// # Errors
    /// The master's.
    fn chunks_synced(&self, chunks: &[ChunkId]) -> Result<(), Errno>;
}

/// One write that not every copy took: the argument of [`FileMaster::copy_failed`].
#[derive(Clone, Copy, Debug)]
pub struct FailedWrite<'a> {
    /// The file.
    pub inode: InodeId,
    /// Which chunk of the file.
    pub index: u32,
    /// The chunk.
    pub chunk: ChunkId,
    /// The granted version it was written under.
    pub version: ChunkVersion,
    /// Which copies failed, and how.
    pub failures: &'a [CopyFailure],
}

/// The place of one copy.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// The chunkserver.
    pub server: ServerId,
    /// Its volume.
    pub volume: VolumeId,
    /// `host:port` of the chunkserver's data port.
    pub address: Arc<str>,
}

/// A chunk of a file and where its live copies are, nearest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChunkPlaces {
    /// Which chunk of the file: offset / 64 MiB.
    pub index: u32,
    /// The chunk.
    pub chunk: ChunkId,
    /// The version a copy must have.
    pub version: ChunkVersion,
    /// Valid bytes; what a copy holds beyond them reads as zeros.
    pub length: u32,
    /// Empty: no copy is live now.
    pub places: Vec<Place>,
    /// Bytes acknowledged under an older version and not synced may be gone; 0: that never happened.
    pub lost_version: ChunkVersion,
}

/// The right to write one chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WriteGrant {
    /// Which chunk of the file.
    pub index: u32,
    /// The chunk.
    pub chunk: ChunkId,
    /// What the copies have now; 0: the chunk is new and the first write makes it.
    pub version_from: ChunkVersion,
    /// What the first write raises the copies to.
    pub version: ChunkVersion,
    /// Valid bytes so far; the first write cuts the copies to them.
    pub length: u32,
    /// The chain, first to last.
    pub places: Vec<Place>,
    /// As in [`ChunkPlaces`].
    pub lost_version: ChunkVersion,
}

/// One copy's failure, as it is reported to the master.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyFailure {
    /// The chunkserver.
    pub server: ServerId,
    /// Its volume.
    pub volume: VolumeId,
    /// The nearest error number.
    pub errno: Errno,
    /// In words, for the master's log.
    pub reason: String,
}

impl From<session::Place> for Place {
    fn from(place: session::Place) -> Place {
        Place {
            server: ServerId::new(place.server),
            volume: VolumeId::new(place.volume),
            address: Arc::from(place.address),
        }
    }
}

impl From<session::ChunkPlaces> for ChunkPlaces {
    fn from(chunk: session::ChunkPlaces) -> ChunkPlaces {
        ChunkPlaces {
            index: chunk.index,
            chunk: ChunkId::new(chunk.chunk),
            version: ChunkVersion::new(chunk.version),
            length: chunk.length,
            places: chunk.places.into_iter().map(Place::from).collect(),
            lost_version: ChunkVersion::new(chunk.lost_version),
        }
    }
}

impl From<session::WriteGrant> for WriteGrant {
    fn from(grant: session::WriteGrant) -> WriteGrant {
        WriteGrant {
            index: grant.index,
            chunk: ChunkId::new(grant.chunk),
            version_from: ChunkVersion::new(grant.version_from),
            version: ChunkVersion::new(grant.version),
            length: grant.length,
            places: grant.places.into_iter().map(Place::from).collect(),
            lost_version: ChunkVersion::new(grant.lost_version),
        }
    }
}

impl From<CopyFailure> for session::CopyFailure {
    fn from(failure: CopyFailure) -> session::CopyFailure {
        session::CopyFailure {
            server: failure.server.get(),
            volume: failure.volume.get(),
            errno: failure.errno.raw() as u32,
            reason: failure.reason,
        }
    }
}

impl From<&Place> for data::NextCopy {
    fn from(place: &Place) -> data::NextCopy {
        data::NextCopy {
            server: place.server.get(),
            volume: place.volume.get(),
            address: place.address.as_ref().to_owned(),
        }
    }
}

impl Place {
    /// The failure of this place's copy.
    pub(crate) fn failure(&self, errno: Errno, reason: impl Into<String>) -> CopyFailure {
        // What a chunkserver says goes on to the master, whose frames have their limits.
        let reason = cut_foreign_text(reason.into());
        CopyFailure { server: self.server, volume: self.volume, errno, reason }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A chunkserver's words must fit into what the master is told.
    #[test]
    fn the_reason_of_a_failure_is_cut() {
        let place = Place { server: ServerId::new(1), volume: VolumeId::new(2), address: Arc::from("a:1") };
        let failure = place.failure(Errno::EIO, "z".repeat(20_000));
        assert!(failure.reason.len() <= rfs_proto::wire::FOREIGN_TEXT_BYTES_MAX, "{}", failure.reason.len());
    }
}
