//! What the master itself does with chunks: settling those whose writer is gone, and forgetting those whose copies are.
//!
//! No client asks for these, so they need nothing of anybody's leases; who runs them has made sure that no session holds
//! the grant any more.

use rfs_common::errno::Errno;
use rfs_common::ids::{ChunkId, ChunkVersion};

use crate::namespace::metadata::Transaction;

/// What the copies that a chunk goes on with have of what was acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remains {
    /// All of it, as far as is known.
    Everything,
    /// All of them went through a power cut: what was not synced may be gone.
    WhatWasSynced,
}

/// Gives a chunk whose writer is gone this version, which copies have been raised to. False if the chunk is gone.
///
/// # Errors
/// `EINVAL` if the version is below one that was granted: an old copy would pass for current.
pub fn settle(
    transaction: &mut Transaction<'_>,
    chunk: ChunkId,
    version: ChunkVersion,
    remains: Remains,
) -> Result<bool, Errno> {
    let Some(mut record) = transaction.chunk(chunk)?.filter(|record| !record.deleted) else { return Ok(false) };
    if version.get() < record.granted.max(record.version) {
        return Err(Errno::EINVAL);
    }
    record.version = version.get();
    record.granted = version.get();
    if remains == Remains::WhatWasSynced {
        record.lost = version.get();
    }
    transaction.put_chunk(chunk, &record);
    Ok(true)
}

/// Reserves the version to which copies will be raised: logged before the first of them is. The new version, or nothing if
/// the chunk is gone. What `remains` of acknowledged bytes is noted with it: a copy that was raised looks sound from then on,
/// whatever becomes of the rest of the work.
///
/// # Errors
/// `EOVERFLOW` after four thousand million grants.
pub fn raise(
    transaction: &mut Transaction<'_>,
    chunk: ChunkId,
    remains: Remains,
) -> Result<Option<ChunkVersion>, Errno> {
    let Some(mut record) = transaction.chunk(chunk)?.filter(|record| !record.deleted) else { return Ok(None) };
    record.granted = record.granted.max(record.version).checked_add(1).ok_or(Errno::EOVERFLOW)?;
    if remains == Remains::WhatWasSynced {
        record.lost = record.granted;
    }
    transaction.put_chunk(chunk, &record);
    Ok(Some(ChunkVersion::new(record.granted)))
}

/// Takes the word of copies that are newer than this metadata, which was put back from before they were written: the chunk was
/// granted up to their version, so that settling goes on with what they hold, and no version of theirs is given again. False if the
/// record says so already, or there is no such chunk any more.
///
/// # Errors
/// `EIO` if records cannot be read.
pub fn adopt(transaction: &mut Transaction<'_>, chunk: ChunkId, version: ChunkVersion) -> Result<bool, Errno> {
    let known = |granted: u32, of_record: u32| version.get() <= granted.max(of_record);
    let Some(mut record) = transaction.chunk(chunk)?.filter(|record| !record.deleted && !record.is_pending()) else {
        return Ok(false);
    };
    if known(record.granted, record.version) {
        return Ok(false);
    }
    record.granted = version.get();
    transaction.put_chunk(chunk, &record);
    Ok(true)
}

/// Notes that a client has synced every copy of a chunk that was committed unsynced.
///
/// # Errors
/// `EIO` if records cannot be read.
pub fn synced(transaction: &mut Transaction<'_>, chunk: ChunkId) -> Result<(), Errno> {
    if let Some(mut record) = transaction.chunk(chunk)?.filter(|record| record.unsynced && !record.deleted) {
        record.unsynced = false;
        transaction.put_chunk(chunk, &record);
    }
    Ok(())
}

/// Deletes a chunk that was granted and never committed, since its writer is gone. False if it is not such a chunk.
///
/// # Errors
/// `EIO` if records cannot be read.
pub fn drop_pending(transaction: &mut Transaction<'_>, chunk: ChunkId) -> Result<bool, Errno> {
    let Some(record) = transaction.chunk(chunk)?.filter(|record| record.is_pending() && !record.deleted) else {
        return Ok(false);
    };
    let (inode, index) = (record.inode_id(), record.index);
    match transaction.chunk_ref(inode, index)? {
        Some(reference) if reference.chunk_id() == chunk => {
            transaction.drop_ref(inode, index, &reference)?;
            Ok(true)
        }
        _ => Ok(false),
    }
}

/// Forgets a deleted chunk: no copy of it is left.
///
/// # Errors
/// `EIO` if records cannot be read.
pub fn forget(transaction: &mut Transaction<'_>, chunk: ChunkId) -> Result<(), Errno> {
    transaction.forget_chunk(chunk)
}
