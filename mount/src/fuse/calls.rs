//! One method for each request of the kernel: arguments to the client's words, the answer back.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, FileHandle, Filesystem, FopenFlags, ForgetOne, Generation, INodeNo,
    InterruptOutcome, KernelConfig, LockKind, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLock, ReplyLseek, ReplyOpen, ReplyStatfs,
    ReplyWrite, ReplyXattr, Request, RequestId, TimeOrNow, WriteFlags,
};
use rfs_common::errno::Errno;
use rfs_common::ids::InodeId;
use rfs_common::name::NAME_BYTES_MAX;

use super::locks::Interrupted;
use super::reply::{self, Nodes, XattrAnswer};
use super::{Adapter, Mapping, REQUEST_BYTES_MAX};
use crate::client::{
    AttributeChanges, AttributesAnswer, Caller, Entry, Handle, KERNEL_VALID, KernelCaches, NewNode, NodeAnswer, Opened,
    Seek, Taken, WriteOrigin,
};

/// The master never uses an inode number twice, so every node has the same generation.
const GENERATION: Generation = Generation(0);

/// `f_bsize`: what the numbers of statfs(2) count.
const SPACE_UNIT_BYTES: u64 = 4096;

/// Set-user-id and set-group-id.
const SET_ID_BITS: u32 = libc::S_ISUID | libc::S_ISGID;

/// The largest part of copy_file_range(2) that is done at once, so that a signal is noticed between two. Callers go on with
/// the rest.
const COPY_BYTES_MAX: u64 = 64 << 20;

thread_local! {
    /// Where this thread reads data into before it is given to the kernel.
    static READ_BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Adapter {
    fn nodes(&self) -> Nodes {
        Nodes { root: self.client.root() }
    }

    fn inode(&self, node: INodeNo) -> InodeId {
        self.nodes().inode(node)
    }

    fn answer_entry(&self, answer: Result<NodeAnswer, Errno>, reply: ReplyEntry) {
        match answer {
            Ok(node) => {
                let attributes = reply::attributes(&node.attributes, self.nodes().node(node.attributes.inode));
                reply.entry_with_ttls(&node.attribute_valid, &node.entry_valid, &attributes, GENERATION);
            }
            Err(errno) => reply.error(reply::errno(errno)),
        }
    }

    fn answer_created(&self, answer: Result<(NodeAnswer, Opened), Errno>, flags: i32, reply: ReplyCreate) {
        match answer {
            Ok((node, opened)) => {
                let attributes = reply::attributes(&node.attributes, self.nodes().node(node.attributes.inode));
                let valid = reply::shorter(node.attribute_valid, node.entry_valid);
                reply.created(
                    &valid,
                    &attributes,
                    GENERATION,
                    FileHandle(opened.handle.0),
                    opened_as(opened, flags, self.mapping),
                );
            }
            Err(errno) => reply.error(reply::errno(errno)),
        }
    }

    /// Ends a change of names; with `dirsync` once it is durable.
    fn names_changed<T>(&self, caller: &Caller, parent: InodeId, result: Result<T, Errno>) -> Result<T, Errno> {
        let value = result?;
        if self.synchronous.names {
            let opened = self.client.open_directory(caller, parent)?;
            let synced = self.client.fsync_directory(opened.handle);
            self.client.release_directory(opened.handle);
            synced?;
        }
        Ok(value)
    }

    /// Opens a file, and truncates it separately where the set-id bits have to go with the data.
    fn open_file(&self, caller: &Caller, inode: InodeId, flags: i32, kill_set_id: bool) -> Result<Opened, Errno> {
        let truncates = kill_set_id && flags & libc::O_TRUNC != 0;
        if !truncates || !self.has_set_id(inode)? {
            return self.client.open(caller, inode, flags);
        }
        let opened = self.client.open(caller, inode, flags & !libc::O_TRUNC)?;
        let handle = Some(opened.handle);
        let changes = AttributeChanges { length: Some(0), kill_set_id, handle, ..AttributeChanges::default() };
        match self.client.set_attributes(caller, inode, &changes) {
            Ok(_) => {
                self.kernel.invalidate_attributes(inode);
                Ok(opened)
            }
            Err(errno) => {
                self.client.release(opened.handle, None);
                Err(errno)
            }
        }
    }

    /// Writes, and waits for the disks where the file or the mount is synchronous: the kernel does not do it for files
    /// that bypass its page cache. The answer to a write has no attributes, so a mode that changed with it is made known by
    /// having the kernel ask again.
    fn write_file(&self, write: &FileWrite<'_>, write_flags: WriteFlags, flags: i32) -> Result<(), Errno> {
        let kill_set_id = write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID);
        let changes_mode = kill_set_id && self.has_set_id(write.inode)?;
        let from_pages = write_flags.contains(WriteFlags::FUSE_WRITE_CACHE);
        let origin = if from_pages { WriteOrigin::PageCache } else { WriteOrigin::Call { kill_set_id } };
        self.client.write(write.handle, write.offset, write.data, origin)?;
        if changes_mode {
            self.kernel.invalidate_attributes(write.inode);
        }
        match flags & libc::O_SYNC {
            libc::O_SYNC => self.client.fsync(write.handle, false),
            libc::O_DSYNC => self.client.fsync(write.handle, true),
            _ if self.synchronous.writes => self.client.fsync(write.handle, false),
            _ => Ok(()),
        }
    }

    fn has_set_id(&self, inode: InodeId) -> Result<bool, Errno> {
        Ok(self.client.get_attributes(inode)?.attributes.mode & SET_ID_BITS != 0)
    }

    /// Sets an attribute, and clears set-group-id if the kernel asks for it with an ACL.
    fn set_xattr(
        &self,
        caller: &Caller,
        inode: InodeId,
        name: &[u8],
        value: &[u8],
        flags: i32,
        kill_set_group_id: bool,
    ) -> Result<(), Errno> {
        self.client.set_xattr(caller, inode, name, value, flags as u32)?;
        if kill_set_group_id {
            let mode = self.client.get_attributes(inode)?.attributes.mode;
            if mode & libc::S_ISGID != 0 {
                let changes = AttributeChanges { mode: Some(mode & !libc::S_ISGID), ..AttributeChanges::default() };
                self.client.set_attributes(caller, inode, &changes)?;
            }
        }
        Ok(())
    }

    fn wait_for_lock(&self, request: RequestId, inode: InodeId, lock: &crate::client::Lock, reply: ReplyEmpty) {
        self.locks.register(request, reply);
        let locks = Arc::clone(&self.locks);
        let ticket = self.client.set_lock_wait(inode, lock, Box::new(move |outcome| locks.answer(request, outcome)));
        if self.locks.set_ticket(request, ticket) {
            self.client.cancel_lock(ticket);
        }
    }
}

/// Bytes for a file.
struct FileWrite<'a> {
    inode: InodeId,
    handle: Handle,
    offset: u64,
    data: &'a [u8],
}

/// Who holds a lock. A flock belongs to the open file, and is known by its handle: the kernel's own number for it is the
/// address of a structure that is used again as soon as the file is closed, while the release that drops the lock is still
/// on its way. A new open file of the same number would be taken for the old one, and lose its lock to that release.
fn lock_owner(kind: LockKind, owner: LockOwner, file: FileHandle) -> u64 {
    match kind {
        LockKind::Posix => owner.0,
        LockKind::Flock => file.0,
    }
}

/// What an open file is to the kernel. What may be written goes past the page cache: that is several times faster, several
/// writers of one file need not wait for each other, and reads are not cut by a length that the kernel took from an
/// answer overtaken by another (docs/decisions/kernel-caches.md). What is only read is kept, unless other clients change it
/// now. Where the kernel cannot map files that bypass its cache, those that may be mapped for writing go through it.
fn opened_as(opened: Opened, flags: i32, mapping: Mapping) -> FopenFlags {
    let only_written = flags & libc::O_ACCMODE == libc::O_WRONLY || flags & libc::O_DIRECT != 0;
    let shared = flags & libc::O_ACCMODE == libc::O_RDWR || opened.contended;
    let bypasses_cache = only_written || (shared && mapping == Mapping::AlsoDirect);
    let mut how = FopenFlags::empty();
    how.set(FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES, bypasses_cache);
    how.set(FopenFlags::FOPEN_KEEP_CACHE, opened.keep_cache);
    how
}

fn answer_empty(result: Result<(), Errno>, reply: ReplyEmpty) {
    match result {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(reply::errno(errno)),
    }
}

fn answer_attributes(answer: Result<AttributesAnswer, Errno>, reply: ReplyAttr) {
    match answer {
        Ok(answer) => {
            // This is what st_ino shows, of the root, too.
            let number = INodeNo(answer.attributes.inode.get());
            reply.attr(&answer.attribute_valid, &reply::attributes(&answer.attributes, number));
        }
        Err(errno) => reply.error(reply::errno(errno)),
    }
}

fn answer_opened(answer: Result<Opened, Errno>, flags: i32, mapping: Mapping, reply: ReplyOpen) {
    match answer {
        Ok(opened) => reply.opened(FileHandle(opened.handle.0), opened_as(opened, flags, mapping)),
        Err(errno) => reply.error(reply::errno(errno)),
    }
}

fn answer_xattr(value: Result<Vec<u8>, Errno>, size: u32, reply: ReplyXattr) {
    match value.and_then(|value| XattrAnswer::for_buffer(size, value.len()).map(|answer| (answer, value))) {
        Ok((XattrAnswer::Size(needed), _)) => reply.size(needed),
        Ok((XattrAnswer::Value, value)) => reply.data(&value),
        Err(errno) => reply.error(reply::errno(errno)),
    }
}

fn answer_written(written: Result<usize, Errno>, reply: ReplyWrite) {
    match written.and_then(|bytes| u32::try_from(bytes).map_err(|_| Errno::EOVERFLOW)) {
        Ok(bytes) => reply.written(bytes),
        Err(errno) => reply.error(reply::errno(errno)),
    }
}

fn new_node(mode: u32, umask: u32) -> NewNode {
    NewNode { mode: mode & 0o7777, umask: umask & 0o777 }
}

fn handle(handle: FileHandle) -> Handle {
    Handle(handle.0)
}

/// Room in the answer of a directory request.
fn taken(is_full: bool) -> Taken {
    if is_full { Taken::No } else { Taken::Yes }
}

fn add_entry(reply: &mut ReplyDirectory, entry: &Entry<'_>) -> Taken {
    let name = OsStr::from_bytes(entry.name);
    taken(reply.add(INodeNo(entry.inode.get()), entry.next_offset, reply::file_type(entry.kind), name))
}

fn add_entry_with_node(reply: &mut ReplyDirectoryPlus, entry: &Entry<'_>, nodes: Nodes) -> Taken {
    let (attributes, valid) = match &entry.node {
        Some(node) => {
            let attributes = reply::attributes(&node.attributes, nodes.node(entry.inode));
            (attributes, reply::shorter(node.attribute_valid, node.entry_valid))
        }
        None => (reply::no_attributes(entry.kind), KERNEL_VALID),
    };
    let name = OsStr::from_bytes(entry.name);
    taken(reply.add(INodeNo(entry.inode.get()), entry.next_offset, name, &valid, &attributes, GENERATION))
}

impl Filesystem for Adapter {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        self.configure(config)
    }

    fn thread_ends(&self) {
        self.threads.close();
    }

    fn interrupt(&self, _request: &Request, unique: RequestId) -> InterruptOutcome {
        match self.locks.interrupt(unique) {
            Interrupted::Cancel(ticket) => {
                self.client.cancel_lock(ticket);
                InterruptOutcome::Delivered
            }
            Interrupted::Later => InterruptOutcome::Delivered,
            Interrupted::Unknown => InterruptOutcome::Unknown,
        }
    }

    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let _busy = self.threads.busy();
        let answer = self.client.lookup(&self.caller(request), self.inode(parent), name.as_bytes());
        self.answer_entry(answer, reply);
    }

    fn forget(&self, _request: &Request, node: INodeNo, count: u64) {
        let _busy = self.threads.busy();
        self.client.forget(self.inode(node), count);
    }

    fn batch_forget(&self, _request: &Request, nodes: &[ForgetOne]) {
        let _busy = self.threads.busy();
        for node in nodes {
            self.client.forget(self.inode(node.nodeid()), node.nlookup());
        }
    }

    fn getattr(&self, _request: &Request, node: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        let _busy = self.threads.busy();
        answer_attributes(self.client.get_attributes(self.inode(node)), reply);
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
        let _busy = self.threads.busy();
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

    fn readlink(&self, _request: &Request, node: INodeNo, reply: ReplyData) {
        let _busy = self.threads.busy();
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
        let _busy = self.threads.busy();
        let Some(kind) = reply::kind_of_mode(mode) else { return reply.error(fuser::Errno::EINVAL) };
        let (caller, parent) = (self.caller(request), self.inode(parent));
        let made = self.client.make_node(&caller, parent, name.as_bytes(), kind, new_node(mode, umask), device);
        self.answer_entry(self.names_changed(&caller, parent, made), reply);
    }

    fn mkdir(&self, request: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        let _busy = self.threads.busy();
        let (caller, parent) = (self.caller(request), self.inode(parent));
        let made = self.client.make_directory(&caller, parent, name.as_bytes(), new_node(mode, umask));
        self.answer_entry(self.names_changed(&caller, parent, made), reply);
    }

    fn unlink(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let _busy = self.threads.busy();
        let (caller, parent) = (self.caller(request), self.inode(parent));
        let removed = self.client.unlink(&caller, parent, name.as_bytes());
        answer_empty(self.names_changed(&caller, parent, removed), reply);
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let _busy = self.threads.busy();
        let (caller, parent) = (self.caller(request), self.inode(parent));
        let removed = self.client.remove_directory(&caller, parent, name.as_bytes());
        answer_empty(self.names_changed(&caller, parent, removed), reply);
    }

    fn symlink(&self, request: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let _busy = self.threads.busy();
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
        let _busy = self.threads.busy();
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
        let _busy = self.threads.busy();
        let (caller, parent) = (self.caller(request), self.inode(new_parent));
        let linked = self.client.link(&caller, self.inode(node), parent, new_name.as_bytes());
        self.answer_entry(self.names_changed(&caller, parent, linked), reply);
    }

    fn open(&self, request: &Request, node: INodeNo, flags: OpenFlags, kill_set_id: bool, reply: ReplyOpen) {
        let _busy = self.threads.busy();
        let opened = self.open_file(&self.caller(request), self.inode(node), flags.0, kill_set_id);
        answer_opened(opened, flags.0, self.mapping, reply);
    }

    fn read(
        &self,
        _request: &Request,
        _node: INodeNo,
        file: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let _busy = self.threads.busy();
        READ_BUFFER.with_borrow_mut(|buffer| {
            match self.client.read(handle(file), offset, size.min(2 * REQUEST_BYTES_MAX) as usize, buffer) {
                Ok(count) => reply.data(&buffer[..count]),
                Err(errno) => reply.error(reply::errno(errno)),
            }
        });
    }

    fn write(
        &self,
        _request: &Request,
        node: INodeNo,
        file: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let _busy = self.threads.busy();
        let write = FileWrite { inode: self.inode(node), handle: handle(file), offset, data };
        let written = self.write_file(&write, write_flags, flags.0);
        answer_written(written.map(|()| data.len()), reply);
    }

    fn flush(&self, _request: &Request, _node: INodeNo, file: FileHandle, lock_owner: LockOwner, reply: ReplyEmpty) {
        let _busy = self.threads.busy();
        answer_empty(self.client.flush(handle(file), lock_owner.0), reply);
    }

    fn release(
        &self,
        _request: &Request,
        _node: INodeNo,
        file: FileHandle,
        _flags: OpenFlags,
        lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        let _busy = self.threads.busy();
        self.client.release(handle(file), lock_owner.map(|_| file.0));
        reply.ok();
    }

    fn fsync(&self, _request: &Request, _node: INodeNo, file: FileHandle, data_only: bool, reply: ReplyEmpty) {
        let _busy = self.threads.busy();
        answer_empty(self.client.fsync(handle(file), data_only), reply);
    }

    // Directories are not cached by the kernel (FOPEN_CACHE_DIR): it would not ask for attributes with the entries, and
    // would answer a reader that starts over from what it has, without asking.
    fn opendir(&self, request: &Request, node: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let _busy = self.threads.busy();
        match self.client.open_directory(&self.caller(request), self.inode(node)) {
            Ok(opened) => reply.opened(FileHandle(opened.handle.0), FopenFlags::empty()),
            Err(errno) => reply.error(reply::errno(errno)),
        }
    }

    fn readdir(&self, request: &Request, _node: INodeNo, file: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let _busy = self.threads.busy();
        let mut take = |entry: &Entry<'_>| add_entry(&mut reply, entry);
        match self.client.read_directory(&self.caller(request), handle(file), offset, false, &mut take) {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(reply::errno(errno)),
        }
    }

    fn readdirplus(
        &self,
        request: &Request,
        _node: INodeNo,
        file: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let _busy = self.threads.busy();
        let nodes = self.nodes();
        let mut take = |entry: &Entry<'_>| add_entry_with_node(&mut reply, entry, nodes);
        match self.client.read_directory(&self.caller(request), handle(file), offset, true, &mut take) {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(reply::errno(errno)),
        }
    }

    fn releasedir(&self, _request: &Request, _node: INodeNo, file: FileHandle, _flags: OpenFlags, reply: ReplyEmpty) {
        let _busy = self.threads.busy();
        self.client.release_directory(handle(file));
        reply.ok();
    }

    fn fsyncdir(&self, _request: &Request, _node: INodeNo, file: FileHandle, _data_only: bool, reply: ReplyEmpty) {
        let _busy = self.threads.busy();
        answer_empty(self.client.fsync_directory(handle(file)), reply);
    }

    fn statfs(&self, _request: &Request, _node: INodeNo, reply: ReplyStatfs) {
        let _busy = self.threads.busy();
        match self.client.filesystem_space() {
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
        let _busy = self.threads.busy();
        let (caller, inode) = (self.caller(request), self.inode(node));
        answer_empty(self.set_xattr(&caller, inode, name.as_bytes(), value, flags, acl_kill_set_group_id), reply);
    }

    fn getxattr(&self, request: &Request, node: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let _busy = self.threads.busy();
        answer_xattr(self.client.get_xattr(&self.caller(request), self.inode(node), name.as_bytes()), size, reply);
    }

    fn listxattr(&self, request: &Request, node: INodeNo, size: u32, reply: ReplyXattr) {
        let _busy = self.threads.busy();
        let names = self.client.list_xattr(&self.caller(request), self.inode(node));
        answer_xattr(names.map(|names| reply::xattr_list(&names)), size, reply);
    }

    fn removexattr(&self, request: &Request, node: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let _busy = self.threads.busy();
        answer_empty(self.client.remove_xattr(&self.caller(request), self.inode(node), name.as_bytes()), reply);
    }

    fn access(&self, request: &Request, node: INodeNo, mask: AccessFlags, reply: ReplyEmpty) {
        let _busy = self.threads.busy();
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
        let _busy = self.threads.busy();
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
        let _busy = self.threads.busy();
        let (caller, parent) = (self.caller(request), self.inode(parent));
        let made = self.client.make_unnamed(&caller, parent, new_node(mode, umask), flags);
        self.answer_created(made, flags, reply);
    }

    fn getlk(
        &self,
        _request: &Request,
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
        let _busy = self.threads.busy();
        let Some(lock) = reply::lock(kind, lock_owner(kind, owner, file), (start, end), lock_type, process) else {
            return reply.error(fuser::Errno::EINVAL);
        };
        match self.client.get_lock(self.inode(node), &lock) {
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
        let _busy = self.threads.busy_without_parking();
        let Some(lock) = reply::lock(kind, lock_owner(kind, owner, file), (start, end), lock_type, process) else {
            return reply.error(fuser::Errno::EINVAL);
        };
        self.client.note_locker(handle(file), self.inode(node), &lock);
        if sleep && lock_type != libc::F_UNLCK {
            self.wait_for_lock(request.unique(), self.inode(node), &lock, reply);
        } else {
            answer_empty(self.client.set_lock(self.inode(node), &lock), reply);
        }
    }

    fn fallocate(
        &self,
        request: &Request,
        _node: INodeNo,
        file: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let _busy = self.threads.busy();
        answer_empty(self.client.fallocate(&self.caller(request), handle(file), offset, length, mode), reply);
    }

    // The kernel answers the other kinds of lseek(2) itself.
    fn lseek(&self, _request: &Request, _node: INodeNo, file: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        let _busy = self.threads.busy();
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
        _from_node: INodeNo,
        from: FileHandle,
        from_offset: u64,
        to_node: INodeNo,
        to: FileHandle,
        to_offset: u64,
        length: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let _busy = self.threads.busy();
        let length = length.min(COPY_BYTES_MAX);
        let (source, target) = ((handle(from), from_offset), (handle(to), to_offset));
        let inode = self.inode(to_node);
        let changes_mode = request.uid() != 0 && self.has_set_id(inode).unwrap_or(true);
        let copied = self.client.copy_file_range(&self.caller(request), source, target, length);
        if changes_mode {
            self.kernel.invalidate_attributes(inode);
        }
        answer_written(copied.map(|bytes| bytes as usize), reply);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened(flags: i32, contended: bool, mapping: Mapping) -> FopenFlags {
        opened_as(Opened { handle: Handle(1), keep_cache: false, contended }, flags, mapping)
    }

    #[test]
    fn only_what_is_read_alone_goes_through_the_page_cache() {
        let direct = FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES;
        for mapping in [Mapping::AlsoDirect, Mapping::OnlyCached] {
            assert_eq!(opened(libc::O_WRONLY | libc::O_APPEND, false, mapping), direct);
            assert_eq!(opened(libc::O_RDWR | libc::O_DIRECT, false, mapping), direct);
            assert_eq!(opened(libc::O_RDONLY, false, mapping), FopenFlags::empty());
        }
        assert_eq!(opened(libc::O_RDWR, false, Mapping::AlsoDirect), direct);
        assert_eq!(opened(libc::O_RDONLY, true, Mapping::AlsoDirect), direct);
        assert_eq!(opened(libc::O_RDWR, true, Mapping::OnlyCached), FopenFlags::empty());
        let kept = Opened { handle: Handle(1), keep_cache: true, contended: false };
        assert_eq!(opened_as(kept, libc::O_RDONLY, Mapping::AlsoDirect), FopenFlags::FOPEN_KEEP_CACHE);
    }

    #[test]
    fn a_flock_belongs_to_the_open_file() {
        let (kernel, file) = (LockOwner(7), FileHandle(3));
        assert_eq!(lock_owner(LockKind::Flock, kernel, file), 3);
        assert_eq!(lock_owner(LockKind::Posix, kernel, file), 7);
    }

    #[test]
    fn new_nodes_get_permission_bits_only() {
        assert_eq!(new_node(libc::S_IFREG | 0o6755, 0o7022), NewNode { mode: 0o6755, umask: 0o022 });
    }
}
