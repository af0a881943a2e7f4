//! What a file is made of: its chunk references, and how they change with its length.
//!
//! What always holds: `allocated` of a file is the sum of the lengths of its references; no reference has valid bytes beyond
//! the file's length; every reference names a chunk that names it back.

use std::ops::{Bound, ControlFlow};

use rfs_common::errno::Errno;
use rfs_common::ids::InodeId;
use rfs_common::leaf::CHUNK_BYTES;
use rfs_common::name::FILE_BYTES_MAX;

use super::metadata::Transaction;
use super::records::{ChunkRef, InodeRecord};

/// The references of a file from this chunk on, at most `count`, in order.
///
/// # Errors
/// `EIO` if they cannot be read.
pub fn refs_from(
    transaction: &mut Transaction<'_>,
    inode: InodeId,
    first_index: u32,
    count: usize,
) -> Result<Vec<(u32, ChunkRef)>, Errno> {
    let mut found = Vec::new();
    transaction.scan_of::<ChunkRef>(
        inode.get(),
        Bound::Included(&first_index.to_be_bytes()),
        &mut |key, reference| {
            if found.len() == count {
                return ControlFlow::Break(());
            }
            if let Ok(index) = key.try_into() {
                found.push((u32::from_be_bytes(index), reference));
            }
            ControlFlow::Continue(())
        },
    )?;
    Ok(found)
}

/// Sets the length of a file. Cutting is complete with this change: what lay beyond reads as zeros, also after the file has
/// been made longer again. The file as it is afterwards.
///
/// Chunks that were granted to a writer and never committed stay: they are holes.
///
/// # Errors
/// `EFBIG` if files cannot be so long.
pub fn set_length(transaction: &mut Transaction<'_>, inode: InodeId, length: u64) -> Result<InodeRecord, Errno> {
    if length > FILE_BYTES_MAX {
        return Err(Errno::EFBIG);
    }
    let mut freed = 0;
    if length < transaction.node(inode)?.length {
        let boundary = (length / CHUNK_BYTES) as u32;
        let rest = (length % CHUNK_BYTES) as u32;
        for (index, reference) in refs_from(transaction, inode, boundary, usize::MAX)? {
            freed += if index == boundary && rest > 0 {
                shorten(transaction, inode, index, &reference, rest)
            } else {
                drop_committed(transaction, inode, index, &reference)?
            };
        }
    }
    transaction.update(inode, |node| {
        node.length = length;
        node.allocated = node.allocated.saturating_sub(freed);
    })
}

/// Drops the chunks with these indexes, also those not committed yet: a hole. The file as it is afterwards.
///
/// # Errors
/// `EIO` if records cannot be read.
pub fn punch(
    transaction: &mut Transaction<'_>,
    inode: InodeId,
    indexes: std::ops::Range<u32>,
) -> Result<InodeRecord, Errno> {
    let mut freed = 0;
    for (index, reference) in refs_from(transaction, inode, indexes.start, usize::MAX)? {
        if index >= indexes.end {
            break;
        }
        freed += u64::from(reference.length);
        transaction.drop_ref(inode, index, &reference)?;
    }
    transaction.update(inode, |node| node.allocated = node.allocated.saturating_sub(freed))
}

/// Drops every chunk of a file that is about to be removed.
///
/// # Errors
/// `EIO` if records cannot be read.
pub fn drop_all(transaction: &mut Transaction<'_>, inode: InodeId) -> Result<(), Errno> {
    for (index, reference) in refs_from(transaction, inode, 0, usize::MAX)? {
        transaction.drop_ref(inode, index, &reference)?;
    }
    Ok(())
}

fn shorten(transaction: &mut Transaction<'_>, inode: InodeId, index: u32, reference: &ChunkRef, length: u32) -> u64 {
    let Some(freed) = reference.length.checked_sub(length) else { return 0 };
    transaction.put_ref(inode, index, &ChunkRef { length, ..*reference });
    u64::from(freed)
}

fn drop_committed(
    transaction: &mut Transaction<'_>,
    inode: InodeId,
    index: u32,
    reference: &ChunkRef,
) -> Result<u64, Errno> {
    let pending = transaction.chunk(reference.chunk_id())?.is_some_and(|record| record.is_pending());
    if !pending {
        transaction.drop_ref(inode, index, reference)?;
    }
    Ok(u64::from(reference.length))
}
