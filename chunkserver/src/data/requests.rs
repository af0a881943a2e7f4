//! What a request of the data port must be before anything is done for it, and the wire's words for results.

use rfs_common::ids::{ChunkId, ChunkVersion, ServerId, VolumeId};
use rfs_common::leaf::{CHUNK_BYTES, LEAF_HASH_BYTES, hash_leaf, split_at_leaves, touched_leaves};
use rfs_proto::data::{CopyResult, NextCopy, Status};

use crate::chunk::change::Terms;
use crate::chunk::fault::Fault;

use super::peers::PeerError;

/// Copies that one chain may have.
const CHAIN_MAX: usize = 16;

/// The chunk a request is about.
///
/// # Errors
/// Zero is no chunk.
pub(super) fn chunk(number: u64) -> Result<ChunkId, Fault> {
    if number == 0 { Err(Fault::BadRequest("chunk 0 does not exist")) } else { Ok(ChunkId::new(number)) }
}

/// The version a request is about.
///
/// # Errors
/// Zero is no version.
pub(super) fn version(number: u32) -> Result<ChunkVersion, Fault> {
    if number == 0 { Err(Fault::BadRequest("version 0 does not exist")) } else { Ok(ChunkVersion::new(number)) }
}

/// Under which terms a change is asked for.
///
/// # Errors
/// [`Fault::BadRequest`].
pub(super) fn terms(version_from: u32, version_to: u32, cut_to: Option<u32>) -> Result<Terms, Fault> {
    if cut_to.is_some_and(|length| u64::from(length) > CHUNK_BYTES) {
        return Err(Fault::BadRequest("a cut beyond the end of a chunk"));
    }
    let version_from = (version_from != 0).then(|| ChunkVersion::new(version_from));
    Ok(Terms { version_from, version: version(version_to)?, cut_to })
}

/// That a range lies within a chunk.
///
/// # Errors
/// [`Fault::BadRequest`].
pub(super) fn check_range(offset: u32, length: u32) -> Result<(), Fault> {
    if u64::from(offset) + u64::from(length) > CHUNK_BYTES {
        return Err(Fault::BadRequest("a range beyond the end of a chunk"));
    }
    Ok(())
}

/// That a chain is not endless.
///
/// # Errors
/// [`Fault::BadRequest`].
pub(super) fn check_chain(next: &[NextCopy]) -> Result<(), Fault> {
    if next.len() > CHAIN_MAX { Err(Fault::BadRequest("a chain of too many copies")) } else { Ok(()) }
}

/// That each piece of a payload has the hash that came with it.
///
/// # Errors
/// [`Fault::BadRequest`], or [`Fault::BadHashSent`] naming the first leaf that differs.
pub(super) fn check_payload(offset: u32, length: u32, payload: &[u8], hashes: &[u8]) -> Result<(), Fault> {
    check_range(offset, length)?;
    if length as usize != payload.len() {
        return Err(Fault::BadRequest("the payload has another length than the request says"));
    }
    if hashes.len() != touched_leaves(offset, length).len() * LEAF_HASH_BYTES {
        return Err(Fault::BadRequest("there has to be one hash for each leaf that is touched"));
    }
    let mut rest = payload;
    for (part, hash) in split_at_leaves(offset, length).zip(hashes.chunks_exact(LEAF_HASH_BYTES)) {
        let (piece, behind) = rest.split_at(part.length);
        rest = behind;
        if hash_leaf(part.leaf_index, piece).as_bytes() != hash {
            return Err(Fault::BadHashSent { leaf_index: part.leaf_index });
        }
    }
    Ok(())
}

/// The result of one copy.
pub(super) fn copy_result(server: ServerId, volume: VolumeId, fault: Option<&Fault>) -> CopyResult {
    let mut result = CopyResult { server: server.get(), volume: volume.get(), ..CopyResult::default() };
    if let Some(fault) = fault {
        result.set_status(fault.status());
        result.errno = fault.errno().raw() as u32;
        result.have_version = fault.have();
        result.message = fault.to_string();
    }
    result
}

/// The result of a copy that could not be reached.
pub(super) fn unreached(next: &NextCopy, error: &PeerError) -> CopyResult {
    let errno = error.errno();
    let timed_out = errno == rfs_common::errno::Errno::ETIMEDOUT;
    let status = if timed_out { Status::Timeout } else { Status::IoError };
    CopyResult {
        server: next.server,
        volume: next.volume,
        status: status.into(),
        errno: errno.raw() as u32,
        have_version: 0,
        message: crate::volume::identity::with_sources(error),
    }
}
