//! Requests about file locks in the client's words, and waits for them.

use std::sync::Arc;

use fuser::{FileHandle, INodeNo, LockKind, LockOwner, ReplyEmpty, RequestId};
use rfs_common::errno::Errno;
use rfs_common::ids::InodeId;

use super::answers::answer_empty;
use super::files::handle;
use super::{Adapter, reply};
use crate::client::Lock;

/// What to do when another owner's lock is in the way.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Wait {
    /// F_SETLKW.
    ForOthers,
    /// F_SETLK.
    Not,
}

/// What getlk and setlk are asked with.
pub(super) struct LockRequest {
    pub(super) node: INodeNo,
    pub(super) file: FileHandle,
    pub(super) owner: LockOwner,
    pub(super) range: (u64, u64),
    pub(super) lock_type: i32,
    pub(super) process: u32,
    pub(super) kind: LockKind,
}

impl LockRequest {
    /// The lock; nothing if there is no such kind.
    pub(super) fn lock(&self) -> Option<Lock> {
        reply::lock(self.kind, self.lock_owner(), self.range, self.lock_type, self.process)
    }

    /// Who holds a lock. A flock belongs to the open file, and is known by its handle: the kernel's own number for it is the
    /// address of a structure that is used again as soon as the file is closed, while the release that drops the lock is still
    /// on its way. A new open file of the same number would be taken for the old one, and lose its lock to that release.
    fn lock_owner(&self) -> u64 {
        match self.kind {
            LockKind::Posix => self.owner.0,
            LockKind::Flock => self.file.0,
        }
    }
}

impl Adapter {
    /// A lock of another owner that is in the way.
    pub(super) fn other_lock(&self, request: &LockRequest) -> Result<Option<Lock>, Errno> {
        let lock = request.lock().ok_or(Errno::EINVAL)?;
        self.client.get_lock(self.inode(request.node), &lock)
    }

    /// Sets or drops a lock. The answer to one that has to be waited for is sent when it is there.
    pub(super) fn set_lock(&self, unique: RequestId, request: &LockRequest, wait: Wait, reply: ReplyEmpty) {
        let Some(lock) = request.lock() else { return reply.error(fuser::Errno::EINVAL) };
        let inode = self.inode(request.node);
        self.client.note_locker(handle(request.file), inode, &lock);
        if wait == Wait::ForOthers && request.lock_type != libc::F_UNLCK {
            self.wait_for_lock(unique, inode, &lock, reply);
        } else {
            answer_empty(self.client.set_lock(inode, &lock), reply);
        }
    }

    pub(super) fn wait_for_lock(&self, request: RequestId, inode: InodeId, lock: &Lock, reply: ReplyEmpty) {
        self.locks.register(request, reply);
        let locks = Arc::clone(&self.locks);
        let ticket = self.client.set_lock_wait(inode, lock, Box::new(move |outcome| locks.answer(request, outcome)));
        if self.locks.set_ticket(request, ticket) {
            self.client.cancel_lock(ticket);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flock_belongs_to_the_open_file() {
        let request = |kind| LockRequest {
            node: INodeNo(1),
            file: FileHandle(3),
            owner: LockOwner(7),
            range: (0, 1),
            lock_type: libc::F_RDLCK,
            process: 1,
            kind,
        };
        assert_eq!(request(LockKind::Flock).lock_owner(), 3);
        assert_eq!(request(LockKind::Posix).lock_owner(), 7);
    }
}
