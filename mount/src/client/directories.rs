//! Calls about open directories.
//!
//! A handle reads the directory in batches and keeps the last one, in which any offset can be resumed. An offset from
//! further back is found by reading from the start again. A listing that was read in one go under the lease is kept with
//! the directory and serves later readers without a round trip.
//!
//! Offsets: 0 the start, 1 after ".", 2 after "..", then each entry's cookie (all above 2).

use std::sync::{Arc, Mutex};
use std::time::Duration;

use rfs_common::errno::Errno;
use rfs_common::ids::InodeId;
use rfs_proto::session as wire;

use super::Client;
use super::core::{Core, Node, caller_to_wire, lock, node_losses};
use super::types::{Caller, Entry, Handle, KERNEL_VALID, Kind, NodeAnswer, Opened, Taken};
use crate::cache::attributes::Kind as NodeKind;
use crate::cache::entries::ListedEntry;
use crate::cache::node::{Answered, Mode};
use crate::cache::order::{Stamp, Ticket};
use crate::data::error_state::ErrorCursor;

/// Entries asked for at once.
const ENTRIES_PER_READ: u32 = 1024;
/// Entries of the first read, when attributes come with them: who reads on gets more.
const ENTRIES_FIRST: u32 = 128;
const AFTER_SELF: u64 = 1;
const AFTER_PARENT: u64 = 2;

/// An open directory.
pub(super) struct OpenDirectory {
    node: Arc<Node>,
    cursor: Mutex<Cursor>,
    losses_told: Mutex<ErrorCursor>,
}

/// Where a handle stands.
#[derive(Default)]
struct Cursor {
    /// Entries read and kept, in the directory's order.
    batch: Batch,
    parent: Option<InodeId>,
    /// Everything read since the start, as long as it can become the directory's kept listing.
    whole: Option<Vec<ListedEntry>>,
    /// The request moment from which on no notice must have come: that of the first read.
    began: Option<u64>,
}

#[derive(Default)]
struct Batch {
    entries: Arc<[ListedEntry]>,
    /// The offset before the first of them.
    start: u64,
    /// Nothing follows the last of them.
    end: bool,
    /// Attributes came with them, and for how long the kernel may keep the entries.
    entry_valid: Option<Duration>,
}

impl Client {
    /// Opens a directory.
    ///
    /// # Errors
    /// ENOTDIR; ESTALE if it is gone; and the master's others.
    pub fn open_directory(&self, _caller: &Caller, inode: InodeId) -> Result<Opened, Errno> {
        let core = &*self.core;
        let node = core.node(inode);
        if core.attributes(&node)?.attributes.kind != Kind::Directory {
            return Err(Errno::ENOTDIR);
        }
        let mut state = node.state();
        state.open += 1;
        let keep_cache = state.mode > Mode::None && !state.closing;
        let losses_told = Mutex::new(state.losses.cursor());
        drop(state);
        let directory = OpenDirectory { node, cursor: Mutex::default(), losses_told };
        Ok(Opened { handle: core.handles.add_directory(directory), keep_cache, contended: false })
    }

    /// Gives the entries after `offset` ("." and ".." included) to `take` until it has no room or there are no more.
    ///
    /// # Errors
    /// EBADF; and the master's.
    pub fn read_directory(
        &self,
        caller: &Caller,
        handle: Handle,
        offset: u64,
        with_attributes: bool,
        take: &mut dyn FnMut(&Entry<'_>) -> Taken,
    ) -> Result<(), Errno> {
        let core = &*self.core;
        core.session.wait_trusted()?;
        let open = core.handles.directory(handle)?;
        let mut cursor = lock(&open.cursor);
        let reading = Reading { core, caller, node: &open.node, with_attributes };
        let Some(mut offset) = reading.give_dots(&mut cursor, offset, take)? else { return Ok(()) };
        while reading.fetch(&mut cursor, offset)? {
            match reading.give(&cursor.batch, offset, take)? {
                Given::All(last) => offset = last,
                Given::Full => return Ok(()),
            }
            if cursor.batch.end {
                return Ok(());
            }
        }
        Ok(())
    }

    /// The last use of the handle.
    pub fn release_directory(&self, handle: Handle) {
        let Some(open) = self.core.handles.remove_directory(handle) else { return };
        let mut state = open.node.state();
        state.open -= 1;
        let (gone, idle) = (state.orphan && state.open == 0, state.open == 0 && state.lookups == 0);
        drop(state);
        if gone {
            lock(&self.core.later.orphans).push(open.node.inode());
        } else if idle {
            self.core.table.note_idle(open.node.inode(), self.core.now());
        }
    }

    /// Everything acknowledged before this is on the master's disk when it returns.
    ///
    /// # Errors
    /// EBADF; and the master's.
    pub fn fsync_directory(&self, handle: Handle) -> Result<(), Errno> {
        let open = self.core.handles.directory(handle)?;
        let synced = self.core.session.call(&wire::Sync::default()).map(drop);
        node_losses(&open.node, &open.losses_told).and(synced)
    }
}

enum Given {
    /// All of the batch; the offset after its last entry.
    All(u64),
    /// There was no more room.
    Full,
}

/// One call of `read_directory`.
struct Reading<'a> {
    core: &'a Core,
    caller: &'a Caller,
    node: &'a Arc<Node>,
    with_attributes: bool,
}

impl Reading<'_> {
    /// Gives "." and "..". The result is where to go on, or nothing if there is no room.
    fn give_dots(
        &self,
        cursor: &mut Cursor,
        offset: u64,
        take: &mut dyn FnMut(&Entry<'_>) -> Taken,
    ) -> Result<Option<u64>, Errno> {
        if offset >= AFTER_PARENT {
            return Ok(Some(offset));
        }
        if offset == 0 {
            *cursor = Cursor::default();
        }
        // The parent's number comes with the entries.
        if cursor.parent.is_none() {
            self.fetch(cursor, AFTER_PARENT)?;
        }
        let parent = cursor.parent.unwrap_or(self.node.inode());
        let dots = [(&b"."[..], self.node.inode(), AFTER_SELF), (&b".."[..], parent, AFTER_PARENT)];
        for (name, inode, next_offset) in dots.into_iter().filter(|(.., next_offset)| *next_offset > offset) {
            let entry = Entry { name, inode, kind: NodeKind::Directory, next_offset, node: None };
            if take(&entry) == Taken::No {
                return Ok(None);
            }
        }
        Ok(Some(AFTER_PARENT))
    }

    /// Sees to it that the batch holds what follows `offset`; false if nothing follows.
    fn fetch(&self, cursor: &mut Cursor, offset: u64) -> Result<bool, Errno> {
        if cursor.parent.is_some() {
            if cursor.batch.position_after(offset).is_some_and(|at| at < cursor.batch.entries.len()) {
                return Ok(true);
            }
            if cursor.batch.end && cursor.batch.position_after(offset).is_some() {
                return Ok(false);
            }
        }
        if offset == AFTER_PARENT {
            if self.use_kept_listing(cursor) {
                return Ok(!cursor.batch.entries.is_empty());
            }
            self.read(cursor, AFTER_PARENT, &[])?;
            return Ok(!cursor.batch.entries.is_empty());
        }
        let follows = cursor.batch.entries.last().filter(|last| last.cookie == offset).map(|last| last.name.clone());
        match follows {
            Some(name) => self.read(cursor, offset, &name)?,
            None => return self.find(cursor, offset),
        }
        Ok(!cursor.batch.entries.is_empty())
    }

    /// Reads from the start until the entry with this cookie has come.
    fn find(&self, cursor: &mut Cursor, offset: u64) -> Result<bool, Errno> {
        *cursor = Cursor::default();
        self.read(cursor, AFTER_PARENT, &[])?;
        loop {
            if let Some(at) = cursor.batch.position_after(offset) {
                if at < cursor.batch.entries.len() {
                    return Ok(true);
                }
                let Some(last) = cursor.batch.entries.last().cloned().filter(|_| !cursor.batch.end) else {
                    return Ok(false);
                };
                self.read(cursor, last.cookie, &last.name)?;
                return Ok(!cursor.batch.entries.is_empty());
            }
            let Some(last) = cursor.batch.entries.last().cloned().filter(|_| !cursor.batch.end) else {
                return Ok(false);
            };
            self.read(cursor, last.cookie, &last.name)?;
        }
    }

    fn use_kept_listing(&self, cursor: &mut Cursor) -> bool {
        let state = self.node.state();
        if state.mode == Mode::None || state.closing {
            return false;
        }
        let Some((entries, parent)) = state.entries.listing() else { return false };
        drop(state);
        cursor.parent = Some(parent);
        cursor.whole = None;
        cursor.batch = Batch { entries, start: AFTER_PARENT, end: true, entry_valid: Some(Duration::ZERO) };
        true
    }

    /// Asks the master for the entries after `name`, whose offset is `start`.
    fn read(&self, cursor: &mut Cursor, start: u64, name: &[u8]) -> Result<(), Errno> {
        let core = self.core;
        let (_asking, mut ticket) = (self.node.ask(), core.order.begin());
        let first = name.is_empty();
        let request = wire::ReadDirectory {
            caller: caller_to_wire(self.caller),
            inode: self.node.inode().get(),
            after: name.to_vec().into(),
            entries_max: if first && self.with_attributes { ENTRIES_FIRST } else { ENTRIES_PER_READ },
            with_attributes: self.with_attributes,
        };
        let reply = core.call(&mut ticket, &request)?;
        cursor.parent = Some(InodeId::new(reply.parent_inode));
        let of_directory = Answered::from_wire(None, reply.lease.as_ref());
        let mut entries = Vec::with_capacity(reply.entries.len());
        for entry in &reply.entries {
            let (Some(kind), inode) = (NodeKind::from_wire(entry.kind), InodeId::new(entry.inode)) else {
                return Err(Errno::EPROTO);
            };
            if entry.node.is_some() {
                let is_new = core.table.get(inode).is_none();
                core.learn_node(&ticket, entry.node.as_ref())?;
                // The kernel may never take it; then it is idle from the start.
                if is_new {
                    core.table.note_idle(inode, core.now());
                }
            }
            entries.push(ListedEntry { name: entry.name.to_vec().into(), inode, kind, cookie: entry.cookie });
        }
        let entry_valid = self.keep(cursor, &ticket, &of_directory, &entries, (first, reply.end));
        let entry_valid = self.with_attributes.then_some(entry_valid);
        cursor.batch = Batch { entries: entries.into(), start, end: reply.end, entry_valid };
        Ok(())
    }

    /// Keeps the entries with the directory, if they may be kept, and the whole listing once it is there.
    fn keep(
        &self,
        cursor: &mut Cursor,
        ticket: &Ticket<'_>,
        of_directory: &Answered,
        entries: &[ListedEntry],
        (first, end): (bool, bool),
    ) -> Duration {
        let now = self.core.now();
        let mut state = self.node.state();
        self.node.learn(&mut state, ticket, of_directory, now);
        let usable = of_directory.lease.is_some()
            && self.node.may_keep(&state, ticket, of_directory, now)
            && !ticket.is_before(self.node.inode(), Stamp::Own)
            && !state.closing
            && state.recalls_waiting == 0;
        if !usable {
            (cursor.whole, cursor.began) = (None, None);
            return Duration::ZERO;
        }
        let generation = state.entries.generation();
        if first {
            (cursor.whole, cursor.began) = (Some(Vec::new()), Some(generation));
        }
        let mut kept = true;
        for entry in entries {
            kept &= state.entries.learn(&entry.name, Some(entry.inode));
        }
        if cursor.began != Some(generation) {
            cursor.whole = None;
        }
        if let Some(whole) = &mut cursor.whole {
            whole.extend_from_slice(entries);
            if end && let (Some(whole), Some(parent)) = (cursor.whole.take(), cursor.parent) {
                state.entries.learn_all(&whole.into(), parent);
            }
        }
        if kept { KERNEL_VALID } else { Duration::ZERO }
    }

    /// Gives what follows `offset` in the batch.
    fn give(&self, batch: &Batch, offset: u64, take: &mut dyn FnMut(&Entry<'_>) -> Taken) -> Result<Given, Errno> {
        let at = batch.position_after(offset).unwrap_or(batch.entries.len());
        let mut last = offset;
        for entry in &batch.entries[at..] {
            let node = batch.entry_valid.filter(|_| self.with_attributes).and_then(|_| self.node_of(entry));
            let known = node.as_ref().map(|(node, _)| Arc::clone(node));
            let shown = Entry {
                name: &entry.name,
                inode: entry.inode,
                kind: entry.kind,
                next_offset: entry.cookie,
                node: node.map(|(_, answer)| answer),
            };
            if take(&shown) == Taken::No {
                return Ok(Given::Full);
            }
            if let Some(node) = known {
                node.state().lookups += 1;
            }
            last = entry.cookie;
        }
        Ok(Given::All(last))
    }

    /// A listed node as a lookup would answer it, if its attributes are known here. The entry is good for as long as the
    /// directory still knows it.
    fn node_of(&self, entry: &ListedEntry) -> Option<(Arc<Node>, NodeAnswer)> {
        let entry_valid = {
            let state = self.node.state();
            let known = state.entries.get(&entry.name) == crate::cache::entries::Known::Node(entry.inode);
            let keep = known && state.mode > Mode::None && !state.closing && state.recalls_waiting == 0;
            if keep { KERNEL_VALID } else { Duration::ZERO }
        };
        let node = self.core.table.get(entry.inode)?;
        let answer = self.core.cached_attributes(&node)?;
        let (attributes, attribute_valid) = (answer.attributes, answer.attribute_valid);
        Some((node, NodeAnswer { attributes, attribute_valid, entry_valid }))
    }
}

impl Batch {
    /// The index of the entry that follows `offset`, if the offset is one of this batch.
    fn position_after(&self, offset: u64) -> Option<usize> {
        if offset == self.start {
            return Some(0);
        }
        self.entries.iter().position(|entry| entry.cookie == offset).map(|at| at + 1)
    }
}
