//! [`Client`]: one method for each filesystem call. Signatures first; the bodies follow.
#![allow(unused_variables, missing_docs, clippy::too_many_arguments)]

mod types;

use std::time::Duration;

use rfs_common::errno::Errno;
use rfs_common::ids::InodeId;

pub use types::*;

/// A mounted filesystem without its kernel side. Methods block; any thread may call any of them. Flags are Linux's (libc).
pub struct Client {
    root: InodeId,
}

const NOT_YET: Errno = Errno::ENOSYS;

impl Client {
    pub fn root(&self) -> InodeId { self.root }
    /// ENOENT for a negative answer (the kernel must not keep it).
    pub fn lookup(&self, caller: &Caller, parent: InodeId, name: &[u8]) -> Result<NodeAnswer, Errno> { Err(NOT_YET) }
    pub fn forget(&self, inode: InodeId, count: u64) {}
    pub fn get_attributes(&self, inode: InodeId) -> Result<AttributesAnswer, Errno> { Err(NOT_YET) }
    pub fn set_attributes(&self, caller: &Caller, inode: InodeId, changes: &AttributeChanges) -> Result<AttributesAnswer, Errno> { Err(NOT_YET) }
    pub fn access(&self, caller: &Caller, inode: InodeId, mask: u32) -> Result<(), Errno> { Err(NOT_YET) }
    pub fn read_symlink(&self, inode: InodeId) -> Result<Vec<u8>, Errno> { Err(NOT_YET) }

    pub fn make_node(&self, caller: &Caller, parent: InodeId, name: &[u8], kind: Kind, new: NewNode, device: u32) -> Result<NodeAnswer, Errno> { Err(NOT_YET) }
    pub fn make_directory(&self, caller: &Caller, parent: InodeId, name: &[u8], new: NewNode) -> Result<NodeAnswer, Errno> { Err(NOT_YET) }
    pub fn make_symlink(&self, caller: &Caller, parent: InodeId, name: &[u8], target: &[u8]) -> Result<NodeAnswer, Errno> { Err(NOT_YET) }
    /// open(2) flags: O_EXCL, O_TRUNC and O_APPEND count.
    pub fn create(&self, caller: &Caller, parent: InodeId, name: &[u8], new: NewNode, flags: i32) -> Result<(NodeAnswer, Opened), Errno> { Err(NOT_YET) }
    pub fn make_unnamed(&self, caller: &Caller, parent: InodeId, new: NewNode, flags: i32) -> Result<(NodeAnswer, Opened), Errno> { Err(NOT_YET) }
    pub fn link(&self, caller: &Caller, inode: InodeId, new_parent: InodeId, new_name: &[u8]) -> Result<NodeAnswer, Errno> { Err(NOT_YET) }
    pub fn unlink(&self, caller: &Caller, parent: InodeId, name: &[u8]) -> Result<(), Errno> { Err(NOT_YET) }
    pub fn remove_directory(&self, caller: &Caller, parent: InodeId, name: &[u8]) -> Result<(), Errno> { Err(NOT_YET) }
    pub fn rename(&self, caller: &Caller, parent: InodeId, name: &[u8], new_parent: InodeId, new_name: &[u8], flags: u32) -> Result<(), Errno> { Err(NOT_YET) }

    pub fn open(&self, caller: &Caller, inode: InodeId, flags: i32) -> Result<Opened, Errno> { Err(NOT_YET) }
    /// Fills `into` (cleared first) with up to `size` bytes; fewer at the end of the file.
    pub fn read(&self, handle: Handle, offset: u64, size: usize, into: &mut Vec<u8>) -> Result<(), Errno> { Err(NOT_YET) }
    /// Takes all of `data` or fails. With O_APPEND the offset given is not used.
    pub fn write(&self, handle: Handle, offset: u64, data: &[u8], kill_set_id: bool) -> Result<(), Errno> { Err(NOT_YET) }
    /// close(2): pushes and commits what is dirty; releases the owner's POSIX locks.
    pub fn flush(&self, handle: Handle, lock_owner: u64) -> Result<(), Errno> { Err(NOT_YET) }
    pub fn fsync(&self, handle: Handle, data_only: bool) -> Result<(), Errno> { Err(NOT_YET) }
    /// The last use of the handle; `flock_owner` if the kernel says that a flock is to be released.
    pub fn release(&self, handle: Handle, flock_owner: Option<u64>) {}
    pub fn fallocate(&self, caller: &Caller, handle: Handle, offset: u64, length: u64, mode: i32) -> Result<(), Errno> { Err(NOT_YET) }
    pub fn seek(&self, handle: Handle, offset: u64, seek: Seek) -> Result<u64, Errno> { Err(NOT_YET) }
    pub fn copy_file_range(&self, from: Handle, from_offset: u64, to: Handle, to_offset: u64, length: u64) -> Result<u64, Errno> { Err(NOT_YET) }

    pub fn open_directory(&self, caller: &Caller, inode: InodeId) -> Result<Opened, Errno> { Err(NOT_YET) }
    /// Gives the entries after `offset` (0: from the start, "." and ".." included) to `take` until it has no room.
    pub fn read_directory(&self, caller: &Caller, handle: Handle, offset: u64, with_attributes: bool, take: &mut dyn FnMut(&Entry<'_>) -> Taken) -> Result<(), Errno> { Err(NOT_YET) }
    pub fn release_directory(&self, handle: Handle) {}
    pub fn fsync_directory(&self, handle: Handle) -> Result<(), Errno> { Err(NOT_YET) }
    pub fn filesystem_space(&self) -> Result<FilesystemSpace, Errno> { Err(NOT_YET) }

    pub fn get_xattr(&self, caller: &Caller, inode: InodeId, name: &[u8]) -> Result<Vec<u8>, Errno> { Err(NOT_YET) }
    pub fn list_xattr(&self, caller: &Caller, inode: InodeId) -> Result<Vec<Vec<u8>>, Errno> { Err(NOT_YET) }
    pub fn set_xattr(&self, caller: &Caller, inode: InodeId, name: &[u8], value: &[u8], flags: u32) -> Result<(), Errno> { Err(NOT_YET) }
    pub fn remove_xattr(&self, caller: &Caller, inode: InodeId, name: &[u8]) -> Result<(), Errno> { Err(NOT_YET) }

    /// The lock in the way, if any.
    pub fn get_lock(&self, inode: InodeId, lock: &Lock) -> Result<Option<Lock>, Errno> { Err(NOT_YET) }
    /// EAGAIN if it cannot be had now.
    pub fn set_lock(&self, inode: InodeId, lock: &Lock) -> Result<(), Errno> { Err(NOT_YET) }
    /// `waiter` is called exactly once, possibly before this returns.
    pub fn set_lock_wait(&self, inode: InodeId, lock: &Lock, waiter: LockWaiter) -> LockTicket { waiter(Err(NOT_YET)); LockTicket(0) }
    /// Ends a wait: its waiter gets EINTR, unless the lock was granted first.
    pub fn cancel_lock(&self, ticket: LockTicket) {}

    /// Commits what is dirty, gives everything back and ends the session: at unmount. Calls after it answer EIO.
    pub fn shut_down(&self, patience: Duration) {}
}
