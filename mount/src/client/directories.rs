//! Calls about open directories.
//!
//! A handle reads the directory in batches and keeps the last two: the kernel asks again from the last entry that found
//! room in the program's buffer, which may be of the batch before. Of every entry it has read, a handle remembers the name
//! (`listing_places.rs`), since the master goes on after names: so it goes on at any offset it ever gave, also when the
//! entry has been removed since. A listing that was read in one go under the lease is kept with the directory and serves
//! later readers without a round trip.
//!
//! Offsets: 0 the start, 1 after ".", 2 after "..", then each entry's cookie (all above 2).

use std::sync::{Arc, Mutex};
use std::time::Duration;

use rfs_common::errno::Errno;
use rfs_common::ids::InodeId;
use rfs_proto::session as wire;

use super::Client;
use super::core::{Core, Node, caller_to_wire, lock, node_losses};
use super::listing_places::ListingPlaces;
use super::types::{Caller, Entry, Handle, KERNEL_VALID, Kind, NodeAnswer, Opened, Reads, Taken};
use crate::cache::attributes::Kind as NodeKind;
use crate::cache::entries::{ListedEntry, NAMES_MAX};
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
    /// Listing it is noted as an access.
    notes_accesses: bool,
    cursor: Mutex<Cursor>,
    losses_told: Mutex<ErrorCursor>,
}

/// Where a handle stands.
#[derive(Default)]
struct Cursor {
    /// The batch that holds what is to be given.
    batch: Batch,
    /// Another that was read just before it, or after.
    other: Batch,
    /// The names at the offsets of all entries read since the start.
    places: ListingPlaces,
    parent: Option<InodeId>,
    /// Everything read since the start, as long as it can become the directory's kept listing.
    whole: Option<Vec<ListedEntry>>,
    /// The request moment from which on no notice must have come: that of the first read.
    began: Option<u64>,
}

/// Entries read and kept, in the directory's order.
#[derive(Default)]
struct Batch {
    entries: Arc<[ListedEntry]>,
    /// The offset before the first of them; 0 if nothing was read.
    start: u64,
    /// Nothing follows the last of them.
    end: bool,
    /// Attributes came with them, and for how long the kernel may keep the entries.
    entry_valid: Option<Duration>,
    /// The entry to be given next, most likely.
    next: usize,
}

/// What a handle has of what follows an offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Follows {
    /// Entries, in the batch.
    Entries,
    /// Nothing: it is the end.
    Nothing,
    /// That has to be asked for.
    Unknown,
}

impl Client {
    /// Opens a directory. Of the flags, O_NOATIME counts.
    ///
    /// # Errors
    /// ENOTDIR; ESTALE if it is gone; and the master's others.
    pub fn open_directory(&self, _caller: &Caller, inode: InodeId, flags: i32) -> Result<Opened, Errno> {
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
        let notes_accesses = flags & libc::O_NOATIME == 0;
        let directory = OpenDirectory { node, notes_accesses, cursor: Mutex::default(), losses_told };
        Ok(Opened {
            handle: core.handles.add_directory(directory),
            keep_cache,
            contended: false,
            reads: Reads::MayBeCached,
        })
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
        if open.notes_accesses {
            core.note_access(&open.node);
        }
        let mut cursor = lock(&open.cursor);
        let reading = Reading { core, caller, node: &open.node, with_attributes };
        let Some(mut offset) = reading.give_dots(&mut cursor, offset, take)? else { return Ok(()) };
        while reading.fetch(&mut cursor, offset)? {
            match reading.give(&mut cursor.batch, offset, take)? {
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
        match cursor.turn_to(offset) {
            Follows::Entries => return Ok(true),
            Follows::Nothing => return Ok(false),
            Follows::Unknown => {}
        }
        if offset == AFTER_PARENT {
            if !self.use_kept_listing(cursor) {
                self.read(cursor, AFTER_PARENT, &[])?;
            }
        } else if let Some(name) = cursor.places.name_at(offset).map(<[u8]>::to_vec) {
            self.read(cursor, offset, &name)?;
        } else {
            return self.find(cursor, offset);
        }
        Ok(!cursor.batch.entries.is_empty())
    }

    /// Reads from the start until an entry with this offset has come, which was given by another handle, or by this one
    /// before it began anew.
    fn find(&self, cursor: &mut Cursor, offset: u64) -> Result<bool, Errno> {
        let (mut start, mut name) = (AFTER_PARENT, Box::default());
        loop {
            self.read(cursor, start, &name)?;
            match cursor.turn_to(offset) {
                Follows::Entries => return Ok(true),
                Follows::Nothing => return Ok(false),
                Follows::Unknown => {}
            }
            let Some(last) = cursor.batch.entries.last().filter(|_| !cursor.batch.end) else { return Ok(false) };
            (start, name) = (last.cookie, last.name.clone());
            if start == offset {
                self.read(cursor, start, &name)?;
                return Ok(!cursor.batch.entries.is_empty());
            }
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
        let entry_valid = Some(Duration::ZERO);
        cursor.add(Batch { entries, start: AFTER_PARENT, end: true, entry_valid, next: 0 });
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
        // A listing is whole only if it was read in one go.
        let goes_on = |whole: &Vec<ListedEntry>| whole.last().is_some_and(|last| last.cookie == start);
        cursor.whole = cursor.whole.take().filter(goes_on);
        let entry_valid = self.keep(cursor, &ticket, &of_directory, &entries, (first, reply.end));
        let entry_valid = self.with_attributes.then_some(entry_valid);
        entries.iter().for_each(|entry| cursor.places.note(entry.cookie, &entry.name));
        cursor.add(Batch { entries: entries.into(), start, end: reply.end, entry_valid, next: 0 });
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
        let too_many = cursor.whole.as_ref().is_some_and(|whole| whole.len() + entries.len() > NAMES_MAX);
        if cursor.began != Some(generation) || too_many {
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
    fn give(&self, batch: &mut Batch, offset: u64, take: &mut dyn FnMut(&Entry<'_>) -> Taken) -> Result<Given, Errno> {
        batch.next = batch.position_after(offset).unwrap_or(batch.entries.len());
        let mut last = offset;
        for entry in &batch.entries[batch.next..] {
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
                if entry.kind == NodeKind::Directory {
                    self.core.directory_is_listed(&node, self.node.inode(), &entry.name);
                }
                node.state().lookups += 1;
            }
            last = entry.cookie;
            batch.next += 1;
        }
        Ok(Given::All(last))
    }

    /// A listed node as a lookup would answer it, if its attributes are known here. The entry is good for as long as the
    /// directory still knows it.
    fn node_of(&self, entry: &ListedEntry) -> Option<(Arc<Node>, NodeAnswer)> {
        let entry_valid = {
            let mut state = self.node.state();
            let known = state.entries.get(&entry.name) == crate::cache::entries::Known::Node(entry.inode);
            let keep = known && state.mode > Mode::None && !state.closing && state.recalls_waiting == 0;
            if keep { self.core.told_to_keep(&mut state) } else { Duration::ZERO }
        };
        let node = self.core.table.get(entry.inode)?;
        let answer = self.core.cached_attributes(&node)?;
        let (attributes, attribute_valid) = (answer.attributes, answer.attribute_valid);
        Some((node, NodeAnswer { attributes, attribute_valid, entry_valid }))
    }
}

impl Cursor {
    /// Has the batch be the one that holds what follows `offset`, if either does.
    fn turn_to(&mut self, offset: u64) -> Follows {
        if self.parent.is_none() {
            return Follows::Unknown;
        }
        let mut follows = self.batch.follows(offset);
        if follows == Follows::Unknown && self.other.follows(offset) != Follows::Unknown {
            std::mem::swap(&mut self.batch, &mut self.other);
            follows = self.batch.follows(offset);
        }
        follows
    }

    /// Takes a batch that was just read.
    fn add(&mut self, batch: Batch) {
        self.other = std::mem::replace(&mut self.batch, batch);
    }
}

impl Batch {
    fn follows(&self, offset: u64) -> Follows {
        match self.position_after(offset) {
            Some(at) if at < self.entries.len() => Follows::Entries,
            Some(_) if self.end => Follows::Nothing,
            _ => Follows::Unknown,
        }
    }

    /// The index of the entry that follows `offset`, if the offset is one of this batch.
    fn position_after(&self, offset: u64) -> Option<usize> {
        if self.start > 0 && offset == self.start {
            return Some(0);
        }
        let is_at = |at: usize| self.entries.get(at).is_some_and(|entry| entry.cookie == offset);
        if self.next > 0 && is_at(self.next - 1) {
            return Some(self.next);
        }
        self.entries.iter().position(|entry| entry.cookie == offset).map(|at| at + 1)
    }
}
