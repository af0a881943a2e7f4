//! Requests about a file's data: where it is, the right to write it, and what was written.

use rfs_common::errno::Errno;
use rfs_common::ids::{ChunkId, ChunkVersion, InodeId};
use rfs_common::leaf::CHUNK_BYTES;
use rfs_proto::session;

use super::parts::{attributes_of, list, node, time};
use super::{Surroundings, translations};
use crate::namespace::ops::locate::{Locate, LocatedChunk};
use crate::namespace::ops::write::{Commit, CopyFailed, Grant, GrantWrite, PunchHole, WrittenChunk};

/// Chunks of one Locate: with nine places each they stay below the frame's limit.
const LOCATED_MAX: u32 = 1_024;
/// Chunks of one Commit.
const COMMITTED_MAX: usize = 16_384;

translations! {
    session::Locate => Locate,
        |request| Locate {
            inode: InodeId::new(request.inode),
            first_index: request.first_index,
            count: request.count.clamp(1, LOCATED_MAX),
            existing: request.existing,
        },
        |(found, chunks), surroundings| session::LocateReply {
            chunks: chunks.iter().map(|chunk| located(chunk, surroundings)).collect(),
            attributes: attributes_of(&found),
        };

    session::GrantWrite => GrantWrite,
        |request| GrantWrite { inode: InodeId::new(request.inode), index: request.index },
        |grant, surroundings| session::GrantWriteReply { grant: Some(write_grant(&grant, surroundings)) };

    session::CopyFailed => CopyFailed,
        |request| CopyFailed {
            inode: InodeId::new(request.inode),
            index: request.index,
            chunk: ChunkId::new(request.chunk),
            version: ChunkVersion::new(request.version),
        },
        |grant, surroundings| session::GrantWriteReply { grant: Some(write_grant(&grant, surroundings)) };

    session::Commit => Commit,
        |request| Commit {
            inode: InodeId::new(request.inode),
            length: request.length,
            modified: time(request.modified.as_ref())?,
            chunks: written(&request.chunks)?,
            kill_set_id: false,
            durable: request.durable,
        },
        |committed, surroundings| session::NodeReply { node: node(&committed, surroundings) };

    session::PunchHole => PunchHole,
        |request| PunchHole {
            inode: InodeId::new(request.inode),
            first_index: request.first_index,
            end_index: request.end_index,
        },
        |punched, surroundings| session::NodeReply { node: node(&punched, surroundings) };
}

/// A grant as it is told, with the places that the engine has for its chunk.
pub fn write_grant(grant: &Grant, surroundings: &mut dyn Surroundings) -> session::WriteGrant {
    session::WriteGrant {
        index: grant.index,
        chunk: grant.chunk.get(),
        version_from: grant.version_from.get(),
        version: grant.version.get(),
        length: grant.length,
        places: surroundings.places(grant.chunk),
        lost_version: grant.lost_version.get(),
    }
}

/// A chunk as it is told, with the places that the engine has for it.
pub fn located(chunk: &LocatedChunk, surroundings: &mut dyn Surroundings) -> session::ChunkPlaces {
    session::ChunkPlaces {
        index: chunk.index,
        chunk: chunk.chunk.get(),
        version: chunk.record.version,
        length: chunk.length,
        places: surroundings.places(chunk.chunk),
        lost_version: chunk.record.lost,
    }
}

fn written(chunks: &[session::CommittedChunk]) -> Result<Vec<WrittenChunk>, Errno> {
    let chunks = list(chunks, COMMITTED_MAX)?;
    if chunks.iter().any(|chunk| u64::from(chunk.length) > CHUNK_BYTES) {
        return Err(Errno::EINVAL);
    }
    let written = chunks.iter().map(|chunk| WrittenChunk {
        index: chunk.index,
        chunk: ChunkId::new(chunk.chunk),
        version: ChunkVersion::new(chunk.version),
        length: chunk.length,
    });
    Ok(written.collect())
}
