//! Adding and removing names: what every operation that changes a directory does to it.
//!
//! What always holds: a directory's `entries` is the number of its entries, its `links` is 2 and one for each subdirectory
//! (0 once it is removed), and cookies of one directory rise and are never used twice.

use rfs_common::clock::Time;
use rfs_common::errno::Errno;
use rfs_common::ids::{InodeId, SessionId};
use rfs_common::name::{LINKS_MAX, Name};

use super::content;
use super::metadata::Transaction;
use super::records::{self, EntryRecord, InodeRecord, NodeKind, OrphanRecord, XattrRecord};
use super::source::Table;
use crate::operation::Context;

/// Cookies below are those of "." and "..".
pub const COOKIE_FIRST: u64 = 3;

/// What an entry names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Named {
    /// The node.
    pub inode: InodeId,
    /// What it is.
    pub kind: NodeKind,
}

/// The node that a directory has under this name, if any.
///
/// # Errors
/// `EIO` if it cannot be read.
pub fn find(transaction: &mut Transaction<'_>, directory: InodeId, name: &Name) -> Result<Option<InodeId>, Errno> {
    Ok(transaction.entry(directory, name.as_bytes())?.map(|entry| entry.inode_id()))
}

/// Adds a name; the directory as it is afterwards. There must be none of that name.
///
/// # Errors
/// `ESTALE` if the directory does not exist.
pub fn add(
    transaction: &mut Transaction<'_>,
    directory: InodeId,
    name: &Name,
    named: Named,
    now: Time,
) -> Result<InodeRecord, Errno> {
    let mut cookie = 0;
    let node = transaction.update(directory, |node| {
        cookie = node.cookie_next.max(COOKIE_FIRST);
        node.cookie_next = cookie + 1;
        node.entries += 1;
        node.links += u32::from(named.kind == NodeKind::Directory);
        touch(node, now);
    })?;
    let entry = EntryRecord { inode: named.inode.get(), kind: named.kind as i32, cookie };
    transaction.write(records::entry_key(directory, name.as_bytes()), &entry);
    Ok(node)
}

/// Removes a name; the directory as it is afterwards. There must be one of that name.
///
/// # Errors
/// `ESTALE` if the directory does not exist, `EIO` if its counts are damaged.
pub fn remove(
    transaction: &mut Transaction<'_>,
    directory: InodeId,
    name: &Name,
    kind: NodeKind,
    now: Time,
) -> Result<InodeRecord, Errno> {
    let key = records::entry_key(directory, name.as_bytes());
    let subdirectories = u32::from(kind == NodeKind::Directory);
    let node = transaction.node(directory)?;
    if node.entries == 0 || node.links < subdirectories {
        return Err(transaction.damaged(Table::Inodes, &key, "the directory counts fewer entries than it has"));
    }
    transaction.remove::<EntryRecord>(key);
    transaction.update(directory, |node| {
        node.entries -= 1;
        node.links -= subdirectories;
        touch(node, now);
    })
}

/// Whether a directory can take one more subdirectory.
///
/// # Errors
/// `EMLINK` if not.
pub fn check_room_for_subdirectory(directory: &InodeRecord) -> Result<(), Errno> {
    if directory.links >= LINKS_MAX { Err(Errno::EMLINK) } else { Ok(()) }
}

/// What became of a node that lost a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unnamed {
    /// The node's id.
    pub inode: InodeId,
    /// As it is afterwards; `links` 0: it has no name any more.
    pub record: InodeRecord,
    /// The sessions for which it is kept; empty although `links` is 0: it is gone.
    pub kept_for: Vec<SessionId>,
}

/// Takes one name from a node's count. With the last one the node goes, unless sessions know it: for these it is kept.
///
/// # Errors
/// `EIO` if records cannot be read.
pub fn drop_link(transaction: &mut Transaction<'_>, inode: InodeId, context: &Context<'_>) -> Result<Unnamed, Errno> {
    let record = transaction.update(inode, |node| {
        node.links = if node.is_directory() { 0 } else { node.links.saturating_sub(1) };
        node.changed = context.now.into();
        if node.is_directory() {
            node.parent = 0;
        }
    })?;
    let mut kept_for = Vec::new();
    if record.links == 0 {
        kept_for = (context.known_by)(inode);
        kept_for.sort_unstable();
        kept_for.dedup();
        if kept_for.is_empty() {
            erase(transaction, inode)?;
        } else {
            let sessions = kept_for.iter().map(|session| session.get()).collect();
            transaction.put_orphan(inode, &OrphanRecord { sessions, nameable: false })?;
        }
    }
    Ok(Unnamed { inode, record, kept_for })
}

/// Removes a node and everything that is only its own: attributes, chunks, the orphan record.
///
/// # Errors
/// `EIO` if records cannot be read.
pub fn erase(transaction: &mut Transaction<'_>, inode: InodeId) -> Result<(), Errno> {
    let node = transaction.node(inode)?;
    if node.is_file() {
        content::drop_all(transaction, inode)?;
    }
    if node.xattrs > 0 {
        let mut names = Vec::new();
        transaction.scan_of::<XattrRecord>(inode.get(), std::ops::Bound::Unbounded, &mut |name, _| {
            names.push(name.to_vec());
            std::ops::ControlFlow::Continue(())
        })?;
        for name in names {
            transaction.remove::<XattrRecord>(records::xattr_key(inode, &name));
        }
    }
    transaction.remove_orphan(inode)?;
    transaction.remove_node(inode)
}

fn touch(node: &mut InodeRecord, now: Time) {
    node.modified = now.into();
    node.changed = now.into();
}
