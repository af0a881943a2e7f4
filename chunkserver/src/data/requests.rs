//! What a request of the data port must be before anything is done for it, and the wire's words for results.

use rfs_common::ids::{ChunkId, ChunkVersion, ServerId, VolumeId};
use rfs_common::leaf::{CHUNK_BYTES, LEAF_HASH_BYTES, hash_leaf, split_at_leaves, touched_leaves};
use rfs_proto::data::{self, CopyResult, NextCopy, Status, Write};
use rfs_proto::wire::cut_foreign_text;

use crate::chunk::change::{Piece, Terms};
use crate::chunk::fault::Fault;

use super::peers::PeerError;

/// Copies that one chain may have.
const CHAIN_MAX: usize = 16;
/// A host's name, which has 253 bytes at most, and a port.
const ADDRESS_BYTES_MAX: usize = 260;

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

/// That a chain is not endless, and that its addresses can be some.
///
/// # Errors
/// [`Fault::BadRequest`].
pub(super) fn check_chain(next: &[NextCopy]) -> Result<(), Fault> {
    if next.len() > CHAIN_MAX {
        return Err(Fault::BadRequest("a chain of too many copies"));
    }
    if next.iter().any(|copy| copy.address.len() > ADDRESS_BYTES_MAX) {
        return Err(Fault::BadRequest("an address that is too long"));
    }
    Ok(())
}

/// The pieces of a write, each of whose parts between leaf boundaries has the hash that came with it.
///
/// # Errors
/// [`Fault::BadRequest`], or [`Fault::BadHashSent`] naming the first leaf that differs.
pub(super) fn pieces<'a>(request: &'a Write, payload: &'a [u8]) -> Result<Vec<Piece<'a>>, Fault> {
    let first = data::Piece { offset: request.offset, length: request.length };
    let (mut bytes, mut hashes) = (payload, &request.hashes[..]);
    let (mut pieces, mut end) = (Vec::with_capacity(1 + request.more.len()), 0);
    for piece in std::iter::once(&first).chain(&request.more) {
        check_range(piece.offset, piece.length)?;
        if piece.offset < end {
            return Err(Fault::BadRequest("the pieces of a write are out of order"));
        }
        end = piece.offset + piece.length;
        let of_piece = take(&mut bytes, piece.length as usize)
            .ok_or(Fault::BadRequest("the payload has another length than the request says"))?;
        let hashes = take(&mut hashes, touched_leaves(piece.offset, piece.length).len() * LEAF_HASH_BYTES)
            .ok_or(Fault::BadRequest("there has to be one hash for each leaf that is touched"))?;
        if !of_piece.is_empty() {
            pieces.push(Piece { offset: piece.offset, bytes: of_piece, hashes });
        }
    }
    if !bytes.is_empty() || !hashes.is_empty() {
        return Err(Fault::BadRequest("more payload or hashes than the request says"));
    }
    pieces.iter().try_for_each(check_hashes)?;
    Ok(pieces)
}

fn take<'a>(from: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, rest) = from.split_at_checked(length)?;
    *from = rest;
    Some(taken)
}

fn check_hashes(piece: &Piece<'_>) -> Result<(), Fault> {
    let mut rest = piece.bytes;
    let parts = split_at_leaves(piece.offset, piece.bytes.len() as u32);
    for (part, hash) in parts.zip(piece.hashes.chunks_exact(LEAF_HASH_BYTES)) {
        let (bytes, behind) = rest.split_at(part.length);
        rest = behind;
        if hash_leaf(part.leaf_index, bytes).as_bytes() != hash {
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
        result.message = cut_foreign_text(fault.to_string());
    }
    result
}

/// The results of the copies behind this one, as the next one told them: no more than there are copies, and no more of its
/// words than an answer has room for.
pub(super) fn results_behind(told: Vec<CopyResult>, copies: usize) -> impl Iterator<Item = CopyResult> {
    told.into_iter().take(copies).map(|mut result| {
        result.message = cut_foreign_text(result.message);
        result
    })
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
        message: cut_foreign_text(crate::volume::identity::with_sources(error)),
    }
}
