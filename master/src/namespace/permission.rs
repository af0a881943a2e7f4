//! Who may do what with a node: the rules of the Linux kernel, checked once more by the master.
//!
//! | question | answer |
//! |---|---|
//! | read, write, execute | the owner's bits, else the ACL (if the mode's group bits are not all zero), else the group's, else the others' |
//! | root | reads and writes everything, searches every directory, executes files with any execute bit |
//! | change of attributes | the owner or root |
//! | remove or rename in a sticky directory | the owner of the node or of the directory, or root |
//! | keep the set-group-id bit | members of the node's group, or root |
//!
//! The master does not walk paths for clients (they do, with one lookup for each part), so "search" is checked on the
//! directory that an operation names.

use rfs_common::errno::Errno;
use rfs_common::ids::InodeId;

use super::acl::{ACCESS_XATTR, Acl};
use super::metadata::Transaction;
use super::records::InodeRecord;
use crate::operation::Caller;

/// Wanted: read.
pub const READ: u32 = 4;
/// Wanted: write.
pub const WRITE: u32 = 2;
/// Wanted: execute, or search of a directory.
pub const EXECUTE: u32 = 1;

/// Mode bit: runs as the file's owner.
pub const SET_USER: u32 = 0o4000;
/// Mode bit: runs as the file's group; nodes made in the directory get its group.
pub const SET_GROUP: u32 = 0o2000;
/// Mode bit: only owners remove or rename in the directory.
pub const STICKY: u32 = 0o1000;
/// Mode bit: the group may execute.
pub const GROUP_EXECUTE: u32 = 0o010;
/// All bits that a mode has.
pub const MODE_BITS: u32 = 0o7777;

impl Caller {
    /// The caller that may do everything.
    pub fn root() -> Caller {
        Caller::default()
    }

    /// Whether the caller is root (the kernel's capabilities are not known here).
    pub fn is_root(&self) -> bool {
        self.user == 0
    }

    /// Whether the caller is a member of the group.
    pub fn is_in_group(&self, group: u32) -> bool {
        self.group == group || self.groups.contains(&group)
    }

    /// Whether the caller owns the node or is root.
    pub fn owns(&self, node: &InodeRecord) -> bool {
        self.is_root() || self.user == node.user
    }

    /// Whether the caller may keep a set-group-id bit of a node with this group.
    pub fn keeps_set_group(&self, group: u32) -> bool {
        self.is_root() || self.is_in_group(group)
    }
}

/// Whether the caller may do all of `wanted` with the node.
///
/// # Errors
/// `EACCES` if not.
pub fn check(
    transaction: &mut Transaction<'_>,
    caller: &Caller,
    inode: InodeId,
    node: &InodeRecord,
    wanted: u32,
) -> Result<(), Errno> {
    let wanted = wanted & 7;
    if root_may(caller, node, wanted) || bits_permit(transaction, caller, inode, node, wanted)? {
        Ok(())
    } else {
        Err(Errno::EACCES)
    }
}

/// The directory with this id, which the caller may search.
///
/// # Errors
/// `ENOTDIR`, `EACCES`, `ESTALE`.
pub fn searched(transaction: &mut Transaction<'_>, caller: &Caller, directory: InodeId) -> Result<InodeRecord, Errno> {
    let node = transaction.directory(directory)?;
    check(transaction, caller, directory, &node, EXECUTE)?;
    Ok(node)
}

/// Whether entries of the directory may be made or removed by the caller.
///
/// # Errors
/// `EACCES` if not.
pub fn check_entry_change(
    transaction: &mut Transaction<'_>,
    caller: &Caller,
    inode: InodeId,
    directory: &InodeRecord,
) -> Result<(), Errno> {
    check(transaction, caller, inode, directory, WRITE | EXECUTE)
}

/// Whether the sticky bit of the directory lets the caller remove or rename the node.
///
/// # Errors
/// `EPERM` if not.
pub fn check_sticky(caller: &Caller, directory: &InodeRecord, node: &InodeRecord) -> Result<(), Errno> {
    let free = directory.mode & STICKY == 0 || caller.owns(node) || caller.owns(directory);
    if free { Ok(()) } else { Err(Errno::EPERM) }
}

/// The mode after a write, truncation or change of owner by someone who may not keep set-id bits.
pub fn without_set_id(mode: u32) -> u32 {
    let group = if mode & GROUP_EXECUTE != 0 { SET_GROUP } else { 0 };
    mode & !(SET_USER | group)
}

fn root_may(caller: &Caller, node: &InodeRecord, wanted: u32) -> bool {
    caller.is_root() && (wanted & EXECUTE == 0 || node.is_directory() || node.mode & 0o111 != 0)
}

fn bits_permit(
    transaction: &mut Transaction<'_>,
    caller: &Caller,
    inode: InodeId,
    node: &InodeRecord,
    wanted: u32,
) -> Result<bool, Errno> {
    let granted = if caller.user == node.user {
        node.mode >> 6
    } else if node.access_acl && node.mode & 0o070 != 0 {
        let acl = match transaction.xattr(inode, ACCESS_XATTR)? {
            Some(value) => Acl::decode(&value).map_err(|_| Errno::EIO)?,
            None => None,
        };
        return Ok(acl.is_some_and(|acl| acl.permits(node, caller, wanted)));
    } else if caller.is_in_group(node.group) {
        node.mode >> 3
    } else {
        node.mode
    };
    Ok(granted & wanted == wanted)
}
