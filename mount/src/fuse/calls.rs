//! One method for each request of the kernel: arguments to the client's words, the answer back.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::SystemTime;

use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, FileHandle, Filesystem, FopenFlags, ForgetOne, INodeNo,
    InterruptOutcome, KernelConfig, LockKind, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLock, ReplyLseek, ReplyOpen, ReplyStatfs,
    ReplyWrite, ReplyXattr, Request, RequestId, TimeOrNow, WriteFlags,
};
use rfs_common::errno::Errno;
use rfs_common::ids::InodeId;
use rfs_common::name::NAME_BYTES_MAX;

use super::answers::{
    add_entry, add_entry_with_node, answer_attributes, answer_empty, answer_opened, answer_written, answer_xattr,
};
use super::changes::{GiveBack, new_node};
use super::files::{FileWrite, READ_BUFFER, handle};
use super::locking::{LockRequest, Wait};
use super::locks::Interrupted;
use super::reply::{self, Nodes};
use super::threads::{Busy, UnderWay};
use super::{Adapter, REQUEST_BYTES_MAX};
use crate::client::{AttributeChanges, Entry, KernelCaches, ReadTarget, Seek, Taken};

/// `f_bsize`: what the numbers of statfs(2) count.
const SPACE_UNIT_BYTES: u64 = 4096;

/// The largest part of copy_file_range(2) that is done at once, so that a signal is noticed between two. Callers go on with
/// the rest.
const COPY_BYTES_MAX: u64 = 64 << 20;

/// What the kernel keeps file capabilities in.
const CAPABILITY: &str = "security.capability";

impl Adapter {
    pub(super) fn nodes(&self) -> Nodes {
        Nodes { root: self.client.root() }
    }

    pub(super) fn inode(&self, node: INodeNo) -> InodeId {
        self.nodes().inode(node)
    }

    /// The calling thread begins to work on a request.
    fn begin(&self, request: &Request, operation: &'static str, node: INodeNo) -> Busy<'_> {
        self.threads.busy(self.under_way(request, operation, node))
    }

    /// The same, for a request that may be left waiting when its handler returns.
    fn begin_without_parking(&self, request: &Request, operation: &'static str, node: INodeNo) -> Busy<'_> {
        self.threads.busy_without_parking(self.under_way(request, operation, node))
    }

    fn under_way(&self, request: &Request, operation: &'static str, node: INodeNo) -> UnderWay {
        UnderWay { operation, node: self.inode(node).get(), thread: request.pid(), since: self.clock.monotonic() }
    }
}

impl Filesystem for Adapter {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        self.configure(config)
    }

    fn thread_ends(&self) {
        self.threads.close();
        self.connection.close();
    }

    fn interrupt(&self, _request: &Request, unique: RequestId) -> InterruptOutcome {
        match self.locks.interrupt(unique) {
            Interrupted::Cancel(ticket) => {
                self.client.cancel_lock(ticket);
                InterruptOutcome::Delivered
            }
            Interrupted::Later => InterruptOutcome::Delivered,
            Interrupted::Unknown if self.killable.interrupt(unique) => InterruptOutcome::Delivered,
            Interrupted::Unknown => InterruptOutcome::Unknown,
        }
    }

    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let _busy = self.begin(request, "lookup", parent);
        let waiting = self.killable.register(request.unique(), request.pid(), reply);
        let answer = self.client.lookup(&self.caller(request), self.inode(parent), name.as_bytes());
        match (waiting.take(), answer) {
            (Some(reply), answer) => self.answer_entry(answer, reply),
            (None, Ok(node)) => node.give_back(&self.client),
            (None, Err(_)) => {}
        }
    }

    fn forget(&self, request: &Request, node: INodeNo, count: u64) {
        let _busy = self.begin(request, "forget", node);
        self.client.forget(self.inode(node), count);
    }

    fn batch_forget(&self, request: &Request, nodes: &[ForgetOne]) {
        let _busy = self.begin(request, "forget", nodes.first().map_or(INodeNo::ROOT, ForgetOne::nodeid));
        for node in nodes {
            self.client.forget(self.inode(node.nodeid()), node.nlookup());
        }
    }

    fn getattr(&self, request: &Request, node: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        let _busy = self.begin(request, "getattr", node);
        let waiting = self.killable.register(request.unique(), request.pid(), reply);
        let answer = self.client.get_attributes(self.inode(node));
        if let Some(reply) = waiting.take() {
            answer_attributes(answer, reply);
        }
    }

    fn setattr(
        &self,
        request: &Request,
        node: INodeNo,
        mode: Option<u32>,
        user: Option<u32>,
        group: Option<u32>,
        length: Option<u64>,
        accessed: Option<TimeOrNow>,
        modified: Option<TimeOrNow>,
        _changed: Option<SystemTime>,
        file: Option<FileHandle>,
        _created: Option<SystemTime>,
        _changed_here: Option<SystemTime>,
        _backed_up: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        kill_set_id: bool,
        reply: ReplyAttr,
    ) {
        let _busy = self.begin(request, "setattr", node);
        let changes = AttributeChanges {
            mode: mode.map(|mode| mode & 0o7777),
            user,
            group,
            length,
            accessed: accessed.map(reply::set_time),
            modified: modified.map(reply::set_time),
            kill_set_id,
            handle: file.map(handle),
        };
        answer_attributes(self.client.set_attributes(&self.caller(request), self.inode(node), &changes), reply);
    }

    fn readlink(&self, request: &Request, node: INodeNo, reply: ReplyData) {
        let _busy = self.begin(request, "readlink", node);
        match self.client.read_symlink(self.inode(node)) {
            Ok(target) => reply.data(&target),
            Err(errno) => reply.error(reply::errno(errno)),
        }
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        device: u32,
        reply: ReplyEntry,
    ) {
        let _busy = self.begin(request, "mknod", parent);
        let Some(kind) = reply::kind_of_mode(mode) else { return reply.error(fuser::Errno::EINVAL) };
        let (caller, parent) = (self.caller(request), self.inode(parent));
        let made = self.client.make_node(&caller, parent, name.as_bytes(), kind, new_node(mode, umask), device);
        self.answer_entry(self.names_changed(&caller, parent, made), reply);
    }

    fn mkdir(&self, request: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        let _busy = self.begin(request, "mkdir", parent);
        let (caller, parent) = (self.caller(request), self.inode(parent));
        let made = self.client.make_directory(&caller, parent, name.as_bytes(), new_node(mode, umask));
        self.answer_entry(self.names_changed(&caller, parent, made), reply);
    }

    fn unlink(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let _busy = self.begin(request, "unlink", parent);
        let (caller, parent) = (self.caller(request), self.inode(parent));
        let removed = self.client.unlink(&caller, parent, name.as_bytes());
        answer_empty(self.names_changed(&caller, parent, removed), reply);
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let _busy = self.begin(request, "rmdir", parent);
        let (caller, parent) = (self.caller(request), self.inode(parent));
        let removed = self.client.remove_directory(&caller, parent, name.as_bytes());
        answer_empty(self.names_changed(&caller, parent, removed), reply);
    }

    fn symlink(&self, request: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let _busy = self.begin(request, "symlink", parent);
        let (caller, parent) = (self.caller(request), self.inode(parent));
        let made = self.client.make_symlink(&caller, parent, name.as_bytes(), target.as_os_str().as_bytes());
        self.answer_entry(self.names_changed(&caller, parent, made), reply);
    }

    fn rename(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let _busy = self.begin(request, "rename", parent);
        if !(RenameFlags::RENAME_NOREPLACE | RenameFlags::RENAME_EXCHANGE).contains(flags) {
            return reply.error(fuser::Errno::EINVAL);
        }
        let caller = self.caller(request);
        let (parent, new_parent) = (self.inode(parent), self.inode(new_parent));
        let (name, new_name) = (name.as_bytes(), new_name.as_bytes());
        let renamed = self.client.rename(&caller, parent, name, new_parent, new_name, flags.bits());
        answer_empty(self.names_changed(&caller, new_parent, renamed), reply);
    }

    fn link(&self, request: &Request, node: INodeNo, new_parent: INodeNo, new_name: &OsStr, reply: ReplyEntry) {
        let _busy = self.begin(request, "link", node);
        let (caller, parent) = (self.caller(request), self.inode(new_parent));
        let linked = self.client.link(&caller, self.inode(node), parent, new_name.as_bytes());
        self.answer_entry(self.names_changed(&caller, parent, linked), reply);
    }

    fn open(&self, request: &Request, node: INodeNo, flags: OpenFlags, kill_set_id: bool, reply: ReplyOpen) {
        let _busy = self.begin(request, "open", node);
        let waiting = self.killable.register(request.unique(), request.pid(), reply);
        let opened = self.open_file(&self.caller(request), self.inode(node), flags.0, kill_set_id);
        match (waiting.take(), opened) {
            (Some(reply), opened) => answer_opened(opened, flags.0, self.mapping, reply),
            (None, Ok(opened)) => self.client.release(opened.handle, None),
            (None, Err(_)) => {}
        }
    }

    fn read(
        &self,
        request: &Request,
        node: INodeNo,
        file: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let _busy = self.begin(request, "read", node);
        // Whose locks count is said with the reads of programs, which go past the page cache.
        let target = if lock_owner.is_some() { ReadTarget::Caller } else { ReadTarget::PageCache };
        let waiting = self.killable.register(request.unique(), request.pid(), reply);
        READ_BUFFER.with_borrow_mut(|buffer| {
            let size = size.min(2 * REQUEST_BYTES_MAX) as usize;
            let read = self.client.read(handle(file), offset, size, (target, buffer), &|| waiting.is_wanted());
            match (waiting.take(), read) {
                (Some(reply), Ok(count)) => reply.data(&buffer[..count]),
                (Some(reply), Err(errno)) => reply.error(reply::errno(errno)),
                (None, _) => {}
            }
        });
    }

    fn write(
        &self,
        request: &Request,
        node: INodeNo,
        file: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let _busy = self.begin(request, "write", node);
        let waiting = self.killable.register(request.unique(), request.pid(), reply);
        let write = FileWrite { inode: self.inode(node), handle: handle(file), offset, data };
        let written = self.write_file(&write, write_flags, flags.0);
        match waiting.take() {
            Some(reply) => answer_written(written.map(|()| data.len()), reply),
            None => self.client.write_was_given_up(self.inode(node)),
        }
    }

    fn flush(&self, request: &Request, node: INodeNo, file: FileHandle, lock_owner: LockOwner, reply: ReplyEmpty) {
        let _busy = self.begin(request, "flush", node);
        let waiting = self.killable.register(request.unique(), request.pid(), reply);
        let flushed = self.client.flush(handle(file), lock_owner.0);
        if let Some(reply) = waiting.take() {
            answer_empty(flushed, reply);
        }
    }

    fn release(
        &self,
        request: &Request,
        node: INodeNo,
        file: FileHandle,
        _flags: OpenFlags,
        lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        let _busy = self.begin(request, "release", node);
        self.client.release(handle(file), lock_owner.map(|_| file.0));
        reply.ok();
    }

    fn fsync(&self, request: &Request, node: INodeNo, file: FileHandle, data_only: bool, reply: ReplyEmpty) {
        let _busy = self.begin(request, "fsync", node);
        let waiting = self.killable.register(request.unique(), request.pid(), reply);
        let synced = self.client.fsync(handle(file), data_only);
        if let Some(reply) = waiting.take() {
            answer_empty(synced, reply);
        }
    }

    // Directories are not cached by the kernel (FOPEN_CACHE_DIR): it would not ask for attributes with the entries, and
    // would answer a reader that starts over from what it has, without asking.
    fn opendir(&self, request: &Request, node: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let _busy = self.begin(request, "opendir", node);
        let waiting = self.killable.register(request.unique(), request.pid(), reply);
        let opened = self.client.open_directory(&self.caller(request), self.inode(node), flags.0);
        match (waiting.take(), opened) {
            (Some(reply), Ok(opened)) => reply.opened(FileHandle(opened.handle.0), FopenFlags::empty()),
            (Some(reply), Err(errno)) => reply.error(reply::errno(errno)),
            (None, Ok(opened)) => self.client.release_directory(opened.handle),
            (None, Err(_)) => {}
        }
    }

    fn readdir(&self, request: &Request, node: INodeNo, file: FileHandle, offset: u64, reply: ReplyDirectory) {
        let _busy = self.begin(request, "readdir", node);
        let waiting = self.killable.register(request.unique(), request.pid(), reply);
        let mut take = |entry: &Entry<'_>| waiting.with(|reply| add_entry(reply, entry)).unwrap_or(Taken::No);
        let read = self.client.read_directory(&self.caller(request), handle(file), offset, false, &mut take);
        match (waiting.take(), read) {
            (Some(reply), Ok(())) => reply.ok(),
            (Some(reply), Err(errno)) => reply.error(reply::errno(errno)),
            (None, _) => {}
        }
    }

    fn readdirplus(&self, request: &Request, node: INodeNo, file: FileHandle, offset: u64, reply: ReplyDirectoryPlus) {
        let _busy = self.begin(request, "readdirplus", node);
        let nodes = self.nodes();
        let waiting = self.killable.register(request.unique(), request.pid(), reply);
        let mut given = Vec::new();
        let mut take = |entry: &Entry<'_>| {
            let taken = waiting.with(|reply| add_entry_with_node(reply, entry, nodes)).unwrap_or(Taken::No);
            given.extend((taken == Taken::Yes && entry.node.is_some()).then_some(entry.inode));
            taken
        };
        let read = self.client.read_directory(&self.caller(request), handle(file), offset, true, &mut take);
        match (waiting.take(), read) {
            (Some(reply), Ok(())) => return reply.ok(),
            (Some(reply), Err(errno)) => reply.error(reply::errno(errno)),
            (None, _) => {}
        }
        given.into_iter().for_each(|inode| self.client.forget(inode, 1));
    }

    fn releasedir(&self, request: &Request, node: INodeNo, file: FileHandle, _flags: OpenFlags, reply: ReplyEmpty) {
        let _busy = self.begin(request, "releasedir", node);
        self.client.release_directory(handle(file));
        reply.ok();
    }

    fn fsyncdir(&self, request: &Request, node: INodeNo, file: FileHandle, _data_only: bool, reply: ReplyEmpty) {
        let _busy = self.begin(request, "fsyncdir", node);
        let waiting = self.killable.register(request.unique(), request.pid(), reply);
        let synced = self.client.fsync_directory(handle(file));
        if let Some(reply) = waiting.take() {
            answer_empty(synced, reply);
        }
    }

    fn statfs(&self, request: &Request, node: INodeNo, reply: ReplyStatfs) {
        let _busy = self.begin(request, "statfs", node);
        let waiting = self.killable.register(request.unique(), request.pid(), reply);
        let space = self.client.filesystem_space();
        let Some(reply) = waiting.take() else { return };
        match space {
            Ok(space) => reply.statfs(
                space.total / SPACE_UNIT_BYTES,
                space.free / SPACE_UNIT_BYTES,
                space.available / SPACE_UNIT_BYTES,
                space.inodes,
                space.inodes_free,
                SPACE_UNIT_BYTES as u32,
                NAME_BYTES_MAX as u32,
                SPACE_UNIT_BYTES as u32,
            ),
            Err(errno) => reply.error(reply::errno(errno)),
        }
    }

    fn setxattr(
        &self,
        request: &Request,
        node: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        acl_kill_set_group_id: bool,
        reply: ReplyEmpty,
    ) {
        let _busy = self.begin(request, "setxattr", node);
        let (caller, inode) = (self.caller(request), self.inode(node));
        answer_empty(self.set_xattr(&caller, inode, name.as_bytes(), value, flags, acl_kill_set_group_id), reply);
    }

    fn getxattr(&self, request: &Request, node: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let _busy = self.begin(request, "getxattr", node);
        let waiting = self.killable.register(request.unique(), request.pid(), reply);
        let value = self.client.get_xattr(&self.caller(request), self.inode(node), name.as_bytes());
        if let Some(reply) = waiting.take() {
            answer_xattr(value, size, reply);
        }
    }

    fn listxattr(&self, request: &Request, node: INodeNo, size: u32, reply: ReplyXattr) {
        let _busy = self.begin(request, "listxattr", node);
        let names = self.client.list_xattr(&self.caller(request), self.inode(node));
        answer_xattr(names.map(|names| reply::xattr_list(&names)), size, reply);
    }

    fn removexattr(&self, request: &Request, node: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let _busy = self.begin(request, "removexattr", node);
        // Before a change by whom it was not given to, the kernel removes it in its own right, as that caller; a program that
        // asks for it needs CAP_SETFCAP, which the kernel has looked at.
        let mut caller = self.caller(request);
        if name == CAPABILITY {
            caller.user = 0;
        }
        answer_empty(self.client.remove_xattr(&caller, self.inode(node), name.as_bytes()), reply);
    }

    fn access(&self, request: &Request, node: INodeNo, mask: AccessFlags, reply: ReplyEmpty) {
        let _busy = self.begin(request, "access", node);
        answer_empty(self.client.access(&self.caller(request), self.inode(node), mask.bits() as u32), reply);
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        _kill_set_id: bool,
        reply: ReplyCreate,
    ) {
        let _busy = self.begin(request, "create", parent);
        let (caller, parent) = (self.caller(request), self.inode(parent));
        let created = self.client.create(&caller, parent, name.as_bytes(), new_node(mode, umask), flags);
        self.answer_created(self.names_changed(&caller, parent, created), flags, reply);
    }

    fn tmpfile(
        &self,
        request: &Request,
        parent: INodeNo,
        mode: u32,
        umask: u32,
        flags: i32,
        _kill_set_id: bool,
        reply: ReplyCreate,
    ) {
        let _busy = self.begin(request, "tmpfile", parent);
        let (caller, parent) = (self.caller(request), self.inode(parent));
        let made = self.client.make_unnamed(&caller, parent, new_node(mode, umask), flags);
        self.answer_created(made, flags, reply);
    }

    fn getlk(
        &self,
        request: &Request,
        node: INodeNo,
        file: FileHandle,
        owner: LockOwner,
        start: u64,
        end: u64,
        lock_type: i32,
        process: u32,
        kind: LockKind,
        reply: ReplyLock,
    ) {
        let _busy = self.begin(request, "getlk", node);
        let request = LockRequest { node, file, owner, range: (start, end), lock_type, process, kind };
        match self.other_lock(&request) {
            Ok(None) => reply.locked(start, end, libc::F_UNLCK, 0),
            Ok(Some(other)) => reply.locked(other.start, other.end, reply::lock_type(other.lock_type), other.process),
            Err(errno) => reply.error(reply::errno(errno)),
        }
    }

    fn setlk(
        &self,
        request: &Request,
        node: INodeNo,
        file: FileHandle,
        owner: LockOwner,
        start: u64,
        end: u64,
        lock_type: i32,
        process: u32,
        sleep: bool,
        kind: LockKind,
        reply: ReplyEmpty,
    ) {
        let _busy = self.begin_without_parking(request, "setlk", node);
        let lock = LockRequest { node, file, owner, range: (start, end), lock_type, process, kind };
        let wait = if sleep { Wait::ForOthers } else { Wait::Not };
        self.set_lock(request.unique(), &lock, wait, reply);
    }

    fn fallocate(
        &self,
        request: &Request,
        node: INodeNo,
        file: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let _busy = self.begin(request, "fallocate", node);
        let file = (self.inode(node), handle(file));
        answer_empty(self.fallocate(&self.caller(request), file, offset, length, mode), reply);
    }

    // The kernel answers the other kinds of lseek(2) itself.
    fn lseek(&self, request: &Request, node: INodeNo, file: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        let _busy = self.begin(request, "lseek", node);
        let seek = match whence {
            libc::SEEK_DATA => Ok(Seek::Data),
            libc::SEEK_HOLE => Ok(Seek::Hole),
            _ => Err(Errno::EINVAL),
        };
        let found = seek.and_then(|seek| {
            let offset = u64::try_from(offset).map_err(|_| Errno::ENXIO)?;
            let found = self.client.seek(handle(file), offset, seek)?;
            i64::try_from(found).map_err(|_| Errno::EOVERFLOW)
        });
        match found {
            Ok(offset) => reply.offset(offset),
            Err(errno) => reply.error(reply::errno(errno)),
        }
    }

    fn copy_file_range(
        &self,
        request: &Request,
        from_node: INodeNo,
        from: FileHandle,
        from_offset: u64,
        to_node: INodeNo,
        to: FileHandle,
        to_offset: u64,
        length: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let _busy = self.begin(request, "copy_file_range", from_node);
        let length = length.min(COPY_BYTES_MAX);
        let (source, target) = ((handle(from), from_offset), (handle(to), to_offset));
        let inode = self.inode(to_node);
        let changes_mode = request.uid() != 0 && self.has_set_id(inode).unwrap_or(true);
        let copied = self.copy_file_range(&self.caller(request), source, target, length);
        if changes_mode {
            self.kernel.invalidate_attributes(inode);
        }
        answer_written(copied.map(|bytes| bytes as usize), reply);
    }
}
