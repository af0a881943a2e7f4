//! Calls about open files: open, read, write, flush, fsync, release.
//!
//! Data is read under the READ lease and written under the WRITE lease; both are asked for by the first call that needs
//! them. Closing commits, and gives the WRITE lease back in the same step when nobody else here writes the file.

use std::cell::{Cell, OnceCell, RefCell};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rfs_common::errno::Errno;
use rfs_common::ids::InodeId;
use rfs_common::name::FILE_BYTES_MAX;
use rfs_proto::session as wire;
use tracing::debug;

use super::Client;
use super::bytes::Durability;
use super::chunk_sync::Holds;
use super::core::{
    Committed, Content, Core, LEASE_PAUSE_MAX, LEASE_PAUSE_MIN, LEASE_TRIES, Node, Use, caller_to_wire, lock,
    node_losses,
};
use super::handles::OpenFile;
use super::kernel::Forget;
use super::types::{Caller, Handle, LockFamily, Opened, ReadTarget, Reads, SyncAfter, WriteOrigin};
use crate::cache::locked_pages::Locked;
use crate::cache::node::Mode;
use crate::data::{Keep, ReadPatience};

const READ: u32 = 4;
const WRITE: u32 = 2;
const SET_ID_BITS: u32 = 0o6000;

impl Client {
    /// Opens a file. Of the flags, the access mode, O_APPEND and O_TRUNC count; who may open what was the kernel's
    /// decision (`default_permissions`).
    ///
    /// # Errors
    /// ESTALE if the node is gone; and the master's others.
    pub fn open(&self, caller: &Caller, inode: InodeId, flags: i32) -> Result<Opened, Errno> {
        self.core.open_existing(caller, &self.core.node(inode), flags)
    }

    /// Puts up to `size` bytes at the start of `into`, which grows as needed and is to be used again: fresh bytes have to
    /// be zeroed first. How many there are; fewer at the end of the file. `wanted` is asked now and then while no copy can
    /// be had: whether somebody still waits for the bytes.
    ///
    /// # Errors
    /// EBADF; EIO when no copy gives the right bytes in time, or when a lock taken through the handle was lost with the
    /// session; EINTR when nobody waits any more.
    pub fn read(
        &self,
        handle: Handle,
        offset: u64,
        size: usize,
        (target, into): (ReadTarget, &mut Vec<u8>),
        wanted: &dyn Fn() -> bool,
    ) -> Result<usize, Errno> {
        let open = self.core.handles.file(handle)?;
        if !open.readable {
            return Err(Errno::EBADF);
        }
        self.core.read(&open, offset, size, (target, into), wanted)
    }

    /// Takes all of `data` or fails. What appends is written at the end of the file, wherever that is then; other
    /// clients' appends are before or after, never below.
    ///
    /// # Errors
    /// EBADF, EFBIG; ENOSPC when the cluster is full, or what was written before found it so; EIO when a lock taken through the handle was lost with the session; and what the data path or the
    /// master refuses with.
    pub fn write(&self, handle: Handle, offset: u64, data: &[u8], origin: WriteOrigin) -> Result<(), Errno> {
        let open = self.core.handles.file(handle)?;
        if !open.writable {
            return Err(Errno::EBADF);
        }
        self.core.write(&open, offset, data, origin)
    }

    /// The program that wrote was killed, so that the kernel did not learn that the write went on: it is to forget the pages
    /// that it may have kept from before.
    pub fn write_was_given_up(&self, inode: InodeId) {
        self.core.post(Forget::Data(inode));
    }

    /// close(2) of one descriptor: pushes and commits what is dirty, and releases the owner's POSIX locks. What went
    /// wrong with data written earlier is answered here, once.
    ///
    /// # Errors
    /// EBADF; what writing or committing failed with.
    pub fn flush(&self, handle: Handle, lock_owner: u64) -> Result<(), Errno> {
        let core = &*self.core;
        let open = core.handles.file(handle)?;
        open.closed_once.store(true, Ordering::Release);
        let flushed = if open.writable { core.flush(&open.node) } else { Ok(()) };
        let told = core.without_what_was_lost(&open, open.bytes.take_error_at_close());
        let unlocked = core.unlock_closed(open.node.inode(), lock_owner);
        let undone = open.node.state().losses.take_at_close(&mut lock(&open.losses_told));
        told.and(flushed).and(undone).and(unlocked)
    }

    /// Everything written to the file is on every copy's disk and on the master's when this returns.
    ///
    /// # Errors
    /// EBADF; what writing, syncing or committing failed with.
    pub fn fsync(&self, handle: Handle, _data_only: bool) -> Result<(), Errno> {
        let core = &*self.core;
        let open = core.handles.file(handle)?;
        let synced = core.sync(&open.node);
        let told = core.without_what_was_lost(&open, open.bytes.take_error());
        told.and(synced).and(node_losses(&open.node, &open.losses_told))
    }

    /// What a write through this handle has to wait for, by the flags that it was opened with.
    pub fn sync_after(&self, handle: Handle) -> Option<SyncAfter> {
        self.core.handles.file(handle).ok()?.synchronous
    }

    /// The last use of the handle. `flock_owner`: a flock of this owner goes with it.
    pub fn release(&self, handle: Handle, flock_owner: Option<u64>) {
        let core = &*self.core;
        let Some(open) = core.handles.remove_file(handle) else { return };
        if let Some(owner) = flock_owner
            && let Err(errno) = core.unlock_all(open.node.inode(), LockFamily::Flock, owner)
        {
            debug!(%errno, "a lock could not be released");
        }
        core.forget_lost_locks(handle);
        if let Err(errno) = core.unlock_released(open.node.inode(), handle) {
            debug!(%errno, "a lock of the open file could not be released");
        }
        core.released(&open.node, open.writable);
    }
}

/// What nobody has changed for so long is on its copies' disks: chunkservers sync what is not written for some seconds. Much longer
/// than these; it is counted by this machine alone, from when it has kept others from writing.
const SYNCED_BY_THEMSELVES_AFTER: Duration = Duration::from_secs(120);

/// How long after another client's change a file counts as contended.
const CONTENDED_FOR: Duration = Duration::from_secs(10);

impl Core {
    /// Whether the caller may open a file with these flags: asked where the kernel could not know.
    pub(super) fn check_access(&self, caller: &Caller, inode: InodeId, flags: i32) -> Result<(), Errno> {
        let mask = match flags & libc::O_ACCMODE {
            libc::O_WRONLY => WRITE,
            libc::O_RDWR => READ | WRITE,
            _ => READ,
        };
        self.session.call(&wire::Access { caller: caller_to_wire(caller), inode: inode.get(), mask }).map(drop)
    }

    /// Opens a file that is there: checks that it still is, and truncates it with O_TRUNC.
    pub(super) fn open_existing(&self, caller: &Caller, node: &Arc<Node>, flags: i32) -> Result<Opened, Errno> {
        if flags & libc::O_TRUNC != 0 {
            let request = wire::SetAttributes {
                caller: caller_to_wire(caller),
                inode: node.inode().get(),
                length: Some(0),
                by_descriptor: true,
                ..wire::SetAttributes::default()
            };
            self.set_length(node, &request, 0)?;
        } else {
            self.attributes(node)?;
        }
        Ok(self.open_file(node, flags))
    }

    pub(super) fn open_file(&self, node: &Arc<Node>, flags: i32) -> Opened {
        let access = flags & libc::O_ACCMODE;
        let open = OpenFile {
            node: Arc::clone(node),
            bytes: self.content_with_place(node).open(),
            readable: access != libc::O_WRONLY,
            writable: access != libc::O_RDONLY,
            synchronous: SyncAfter::of_flags(flags),
            notes_accesses: access != libc::O_WRONLY && flags & libc::O_NOATIME == 0,
            locks_lost: AtomicBool::new(false),
            closed_once: AtomicBool::new(false),
            losses_told: Mutex::new(node.state().losses.cursor()),
        };
        let mut state = node.state();
        state.open += 1;
        state.open_writable += u32::from(open.writable);
        let keep_cache = state.mode > Mode::None && !state.closing && state.recalls_waiting == 0;
        let now = self.now();
        let contended = !keep_cache || state.noticed_at.is_some_and(|noticed| now.since(noticed) < CONTENDED_FOR);
        let reads = if open.notes_accesses { self.reads_to_see(node, &state) } else { Reads::MayBeCached };
        drop(state);
        Opened { handle: self.handles.add_file(open), keep_cache, contended, reads }
    }

    /// The bytes of a file, which are told where they begin if that is known: while the lease cannot go, so that whoever
    /// takes it afterwards finds bytes to invalidate.
    fn content_with_place<'a>(&self, node: &'a Node) -> &'a Content {
        let mut state = node.state();
        let first = state.first_chunk.take();
        let content = self.content(node);
        if let Some(first) = first.filter(|_| state.mode > Mode::None && state.fresh && !state.closing) {
            content.offer_place(*first);
        }
        content
    }

    pub(super) fn read(
        &self,
        open: &OpenFile,
        offset: u64,
        size: usize,
        (target, into): (ReadTarget, &mut Vec<u8>),
        wanted: &dyn Fn() -> bool,
    ) -> Result<usize, Errno> {
        open.check_locks()?;
        let into_pages = target == ReadTarget::PageCache;
        let pages = || open.node.locked_pages.add(offset..offset.saturating_add(size as u64));
        let locked = RefCell::new(into_pages.then(pages));
        // A read that waits for a copy makes way for whoever wants the lease back: the wait may be long, and a recall that
        // is not answered ends the session. It counts as one that is with the master, so that nobody waits long for the
        // kernel to forget the page that it has locked. And what may be used only once is not waited with.
        let (once, stalled) = (Cell::new(false), OnceCell::new());
        let go_on = || {
            stalled.get_or_init(|| open.node.ask());
            wanted() && !once.get() && !open.node.state().closing
        };
        let patience = ReadPatience::new(&go_on);
        loop {
            let read = || {
                // What was read before is read again: until then the pages have nothing to be forgotten.
                if into_pages {
                    locked.borrow_mut().get_or_insert_with(pages);
                }
                self.read_in_use(open, offset, size, into, (&patience, &once, &locked))
            };
            match self.read_between_cuts(&open.node, size, read) {
                Err(Errno::EINTR) if wanted() => self.clock.sleep(patience.next_pause()),
                Ok(count) => {
                    if open.notes_accesses {
                        self.note_access(&open.node);
                    }
                    return Ok(count);
                }
                Err(errno) => return Err(errno),
            }
        }
    }

    fn read_in_use(
        &self,
        open: &OpenFile,
        offset: u64,
        size: usize,
        into: &mut Vec<u8>,
        (patience, once, locked): (&ReadPatience<'_>, &Cell<bool>, &RefCell<Option<Locked<'_>>>),
    ) -> Result<usize, Errno> {
        let used = self.lease_to_read(open, locked.borrow().is_some())?;
        once.set(used.mode() == Mode::None);
        let revision = open.node.state().attributes.as_ref().map_or(0, |known| known.revision);
        let length = self.length(&open.node);
        let wanted = length.saturating_sub(offset).min(size as u64) as usize;
        if into.len() < wanted {
            into.resize(wanted, 0);
        }
        // Without a lease, somebody is about to change the file and will not tell us again: nothing of this is kept.
        let keep = if used.mode() == Mode::None { Keep::Nothing } else { Keep::UnderLease };
        let how = (keep, patience);
        let got = if wanted == 0 { Ok(0) } else { open.bytes.read(offset, &mut into[..wanted], length, how) };
        if got.is_ok() {
            // Before the lease can come down: from now on the kernel is waited for, so that it has these bytes before it forgets.
            *locked.borrow_mut() = None;
        }
        if keep == Keep::Nothing {
            self.post(Forget::Data(open.node.inode()));
            // What the master is asked for may wait for a recall, which waits for whoever uses the lease.
            drop(used);
            return got.and_then(|count| self.if_not_cut(&open.node, revision, &into[..count]));
        } else if open.node.state().mode == Mode::None {
            // The lease was lost with the session while it was in use, perhaps before the read looked what it may keep.
            self.content(&open.node).invalidate();
        }
        got
    }

    /// The lease to read under. What is read to be used once would be in the kernel's page cache until the kernel has
    /// forgotten it, and others might be shown it: so for the page cache a lease that lasts is asked for. READ is not given
    /// while others wait for the node; WRITE is, at once and to be recalled at once.
    fn lease_to_read<'a>(&self, open: &'a OpenFile, into_pages: bool) -> Result<Use<'a>, Errno> {
        let mut pause = LEASE_PAUSE_MIN;
        for _ in 0..LEASE_TRIES {
            let used = self.use_lease(&open.node, Mode::Read)?;
            if used.mode() > Mode::None || !into_pages {
                return Ok(used);
            }
            drop(used);
            self.clock.sleep(pause);
            pause = (pause * 2).min(LEASE_PAUSE_MAX);
        }
        match self.use_lease(&open.node, Mode::Write) {
            // Who may only read is given none.
            Err(Errno::EROFS) => self.use_lease(&open.node, Mode::Read),
            used => used,
        }
    }

    /// A read without a lease asked for the length first and for the bytes then. Another client may have cut the file in
    /// between: then it ends with zeros that never were, and is to be made again.
    fn if_not_cut(&self, node: &Node, revision: u64, read: &[u8]) -> Result<usize, Errno> {
        if read.last() != Some(&0) {
            return Ok(read.len());
        }
        let (_, answered) = self.ask_attributes(node)?;
        let same = answered.attributes.is_some_and(|attributes| attributes.revision == revision);
        if same { Ok(read.len()) } else { Err(Errno::EINTR) }
    }

    pub(super) fn write(&self, open: &OpenFile, offset: u64, data: &[u8], origin: WriteOrigin) -> Result<(), Errno> {
        let node = &open.node;
        let _writing = match origin {
            WriteOrigin::PageCache => Some(node.locked_pages.add_write()),
            WriteOrigin::Call { .. } => {
                open.check_locks()?;
                None
            }
        };
        let _used = self.use_lease(node, Mode::Write)?;
        if origin != WriteOrigin::PageCache {
            self.shorter_if_full(node, open.bytes.take_error_at_write())?;
        }
        if matches!(origin, WriteOrigin::Call { kill_set_id: true, .. }) {
            self.kill_set_id(node)?;
        }
        let appends = matches!(origin, WriteOrigin::Call { appends: true, .. });
        let _append = appends.then(|| lock(&node.append));
        let length = self.length(node);
        let offset = if appends { length } else { offset };
        if offset.checked_add(data.len() as u64).is_none_or(|end| end > FILE_BYTES_MAX) {
            return Err(Errno::EFBIG);
        }
        let content = self.content(node);
        let grows = offset + data.len() as u64 > length;
        if grows && !content.has_uncommitted() && node.state().kernel_told_at.is_some() {
            // Who asks for the length meanwhile may be shown the new one before the kernel has the answer to the write; it is
            // not to show the old one after that. As long as the master does not know the new one, it keeps none.
            self.kernel.invalidate_attributes(node.inode());
        }
        let written = content.write(offset, data, length);
        if written == Err(Errno::ENOSPC) {
            // What it could not tell otherwise it has told now.
            let _ = open.bytes.take_error_at_write();
        }
        self.note_written(node);
        self.shorter_if_full(node, written).map(drop)
    }

    /// Where there was no space, the file may be shorter than the kernel was told.
    fn shorter_if_full<T>(&self, node: &Node, result: Result<T, Errno>) -> Result<T, Errno> {
        if matches!(result, Err(Errno::ENOSPC)) {
            self.post(Forget::Data(node.inode()));
        }
        result
    }

    /// Clears set-id bits, if there are any. The kernel asks for it, whoever writes, so it is done by root's right.
    pub(super) fn kill_set_id(&self, node: &Arc<Node>) -> Result<(), Errno> {
        let mode = node.state().attributes.as_ref().map_or(0, |attributes| attributes.mode);
        if mode & SET_ID_BITS == 0 {
            return Ok(());
        }
        let request = wire::SetAttributes {
            caller: Some(wire::Caller::default()),
            inode: node.inode().get(),
            by_descriptor: true,
            kill_set_id: true,
            ..wire::SetAttributes::default()
        };
        self.set_attributes(node, &request).map(drop)
    }

    /// What close does with data. The last writer's close gives the lease back with the commit, so that the next
    /// client's read finds nothing to recall.
    fn flush(&self, node: &Arc<Node>) -> Result<(), Errno> {
        if !node.content().is_some_and(|content| content.has_uncommitted()) {
            return Ok(());
        }
        let last_writer = node.state().open_writable <= 1;
        if last_writer {
            return self.lower(node, Mode::Read, None).map(drop);
        }
        match self.try_use(node, Mode::Write)? {
            Some(_used) => self.commit(node, Durability::Acknowledged, None).map(drop),
            None => Ok(()),
        }
    }

    /// After an error of data written earlier, what is kept of the file here and in the kernel may be what was lost: it is not
    /// to be read any more.
    fn without_what_was_lost(&self, open: &OpenFile, told: Result<(), Errno>) -> Result<(), Errno> {
        if told.is_err() {
            self.content(&open.node).invalidate();
            self.post(Forget::Data(open.node.inode()));
        }
        told
    }

    fn sync(&self, node: &Arc<Node>) -> Result<(), Errno> {
        self.session.wait_trusted()?;
        let used = self.try_use(node, Mode::Write)?;
        let doubted = self.doubt_others(node)?;
        let told = self.commit(node, Durability::Durable, None)?;
        drop(used);
        if let Some(content) = node.content()
            && content.sync_committed(Holds::Anything).is_err()
        {
            // Copies fail. Who holds the WRITE lease can have the others go on without them.
            let _used = self.use_lease(node, Mode::Write)?;
            content.sync_committed(Holds::WriteLease)?;
        }
        if let Some(grant) = doubted {
            let mut state = node.state();
            // Nobody else could write meanwhile.
            state.others_synced = state.mode > Mode::None && state.grant == grant && !state.closing;
        }
        // The commit was answered from the master's disk; without one, earlier changes may not be there yet.
        if told == Committed::Nothing {
            self.session.call(&wire::Sync::default())?;
        }
        Ok(())
    }

    /// Another session may have written the file and closed it, and lost its power since: what it wrote is what fsync is to
    /// bring to disk as well. Chunkservers sync by themselves what is not written any more, so that nothing is in doubt once a lease
    /// has been held for long. No time of another machine says so: clocks differ. The lease under which all is known to be
    /// synced if what follows succeeds.
    fn doubt_others(&self, node: &Node) -> Result<Option<u64>, Errno> {
        let grant = {
            let mut state = node.state();
            let held_for = state.held_since.map(|since| self.now().since(since)).filter(|_| state.mode > Mode::None);
            state.others_synced |= held_for.is_some_and(|held_for| held_for > SYNCED_BY_THEMSELVES_AFTER);
            if state.others_synced {
                return Ok(None);
            }
            state.grant
        };
        if let Some(content) = node.content() {
            content.doubt_all()?;
        }
        Ok(Some(grant))
    }

    /// One handle less.
    fn released(&self, node: &Arc<Node>, writable: bool) {
        let mut state = node.state();
        state.open -= 1;
        state.open_writable -= u32::from(writable);
        let (open, orphan) = (state.open > 0, state.orphan);
        let idle_writer = state.mode == Mode::Write && state.open_writable == 0;
        let idle = !open && state.lookups == 0;
        drop(state);
        if orphan && !open {
            lock(&self.later.orphans).push(node.inode());
        } else if idle_writer {
            lock(&self.later.idle_writers).push((Arc::clone(node), self.now()));
        }
        if idle {
            self.table.note_idle(node.inode(), self.now());
        }
    }
}
