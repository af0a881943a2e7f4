//! A node known to this client: attributes, lease, entries, and who needs it.
//!
//! The lease is *used* by operations that read or write data under it ([`Use`]); whoever brings it down first closes it
//! to new uses and waits for those in progress. An operation that uses a lease asks the master only for what that lease
//! entitles it to, so it never waits for another client, and a lease can always be brought down.

use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use rfs_common::clock::Monotonic;
use rfs_common::errno::Errno;
use rfs_common::ids::InodeId;
use rfs_proto::session as wire;

use super::attributes::Attributes;
use super::entries::Entries;
use super::locked_pages::LockedPages;
use super::order::{Stamp, Ticket};
use super::xattrs::Xattrs;
use crate::client::PendingAccess;
use crate::data::ChunkPlaces;
use crate::data::error_state::ErrorState;

/// The longest time between the announcement of another session's change and the change: it waits for other sessions, each
/// of which is given up after its expiry.
const ANNOUNCED_CHANGE_MAX: Duration = Duration::from_secs(60);

/// What may be kept of a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// Nothing beyond the operation.
    #[default]
    None,
    /// Attributes, data, entries.
    Read,
    /// And length, times and data may be changed here first.
    Write,
}

impl Mode {
    /// From the wire; what is unknown is nothing.
    pub fn from_wire(mode: i32) -> Mode {
        match wire::LeaseMode::try_from(mode) {
            Ok(wire::LeaseMode::Read) => Mode::Read,
            Ok(wire::LeaseMode::Write) => Mode::Write,
            Ok(wire::LeaseMode::None) | Err(_) => Mode::None,
        }
    }

    /// For the wire.
    pub fn to_wire(self) -> wire::LeaseMode {
        match self {
            Mode::None => wire::LeaseMode::None,
            Mode::Read => wire::LeaseMode::Read,
            Mode::Write => wire::LeaseMode::Write,
        }
    }
}

/// One name in one directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryName {
    /// The directory.
    pub directory: InodeId,
    /// The name.
    pub name: Box<[u8]>,
}

impl EntryName {
    /// Whether it is this one.
    pub fn is(&self, directory: InodeId, name: &[u8]) -> bool {
        self.directory == directory && *self.name == *name
    }
}

/// What is known of a node. Behind [`Node::state`].
#[derive(Debug, Default)]
pub struct NodeState {
    /// As the master said last.
    pub attributes: Option<Attributes>,
    /// They are those of now, as long as the lease is held.
    pub fresh: bool,
    /// The lease held.
    pub mode: Mode,
    /// The highest grant seen.
    pub grant: u64,
    /// Since when a lease has been held without a break, so that nobody else can have changed the node.
    pub held_since: Option<Monotonic>,
    /// Operations that use the lease now.
    pub in_use: u32,
    /// The lease is being brought down: no new uses.
    pub closing: bool,
    /// How often the kernel was told of the node, less what it has forgotten.
    pub lookups: u64,
    /// The name under which it was told of it last, of a directory.
    pub known_as: Option<EntryName>,
    /// Changes of attributes by this client that are under way.
    pub changing: u32,
    /// Changes of the length by this client that are under way, and how many there were.
    pub cutting: u32,
    /// See above.
    pub cuts: u64,
    /// When the last one ended.
    pub cut_at: Option<Monotonic>,
    /// Open handles.
    pub open: u32,
    /// Those of them that may write.
    pub open_writable: u32,
    /// It has no name any more, and the master keeps it for this session.
    pub orphan: bool,
    /// Leases that are gone, and what was kept under them not yet from the kernel.
    pub forgetting: u32,
    /// Recalls that wait for the answer with the grant that they name.
    pub recalls_waiting: u32,
    /// `Release` is on its way: whatever lease comes meanwhile does not count.
    pub releasing: bool,
    /// Known entries, of a directory.
    pub entries: Entries,
    /// Known extended attributes.
    pub xattrs: Xattrs,
    /// An access that the master does not know yet.
    pub accessed: Option<PendingAccess>,
    /// Target, of a symbolic link.
    pub target: Option<Arc<[u8]>>,
    /// Where the first chunk is, of a file that was not opened since its name was looked up.
    pub first_chunk: Option<Box<ChunkPlaces>>,
    /// When another session's change of the node, or of entries in it, was last announced.
    pub noticed_at: Option<Monotonic>,
    /// When the kernel was last told that it may keep something: attributes, or an entry of the directory.
    pub kernel_told_at: Option<Monotonic>,
    /// The same of attributes in an answer that makes the node or gives it a name (CREATE, MKDIR, LINK and the like): the kernel takes
    /// them in although it was told to forget meanwhile. All other answers with attributes that it may keep it drops then.
    pub kernel_told_of_change_at: Option<Monotonic>,
    /// Nothing that other sessions wrote still waits for a sync of its copies: none of them could write since it was so.
    pub others_synced: bool,
    /// It is on the list of files with something to be committed.
    pub listed_dirty: bool,
    /// When something was last written.
    pub written_at: Monotonic,
    /// Where in the master's log this client's last change of the node is, or before.
    pub changed_position: u64,
    /// Changes by this client that a power cut of the master has undone.
    pub(crate) losses: ErrorState,
}

impl NodeState {
    /// The master's log ends at `recovered` after a power cut: what was changed beyond is undone, which each open handle
    /// is told once, or else the next one.
    pub fn lose_changes(&mut self, recovered: u64) {
        if self.changed_position > recovered {
            self.losses.record(Errno::EIO);
        }
        self.changed_position = 0;
        // The master counts revisions on from an older one: whatever it says next is younger than what is known.
        if let Some(known) = &mut self.attributes {
            known.revision = 0;
        }
    }
}

/// A node. `C` is what keeps a file's bytes.
pub struct Node<C> {
    inode: InodeId,
    state: Mutex<NodeState>,
    changed: Condvar,
    /// Made when the file is first opened.
    content: OnceLock<C>,
    /// Operations of this client about the node that are with the master.
    asking: AtomicU32,
    /// What the kernel has locked of a file's pages.
    pub locked_pages: LockedPages,
    /// One commit at a time, so that the master hears of lengths in their order. Held over the network; whoever holds it
    /// waits for nothing that a recall depends on.
    pub commit: Mutex<()>,
    /// One append at a time.
    pub append: Mutex<()>,
}

impl<C> Node<C> {
    /// A node of which nothing is known.
    pub fn new(inode: InodeId) -> Node<C> {
        Node {
            inode,
            state: Mutex::default(),
            changed: Condvar::new(),
            content: OnceLock::new(),
            asking: AtomicU32::new(0),
            locked_pages: LockedPages::default(),
            commit: Mutex::default(),
            append: Mutex::default(),
        }
    }

    /// Its number.
    pub fn inode(&self) -> InodeId {
        self.inode
    }

    /// What is known of it.
    pub fn state(&self) -> MutexGuard<'_, NodeState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a change of the state, for at most this long.
    pub fn wait<'a>(&'a self, state: MutexGuard<'a, NodeState>, limit: Duration) -> MutexGuard<'a, NodeState> {
        self.changed.wait_timeout(state, limit).unwrap_or_else(PoisonError::into_inner).0
    }

    /// Wakes whoever waits for a change.
    pub fn notify(&self) {
        self.changed.notify_all();
    }

    /// The bytes, if the file was ever opened.
    pub fn content(&self) -> Option<&C> {
        self.content.get()
    }

    /// The bytes.
    pub fn content_or(&self, make: impl FnOnce() -> C) -> &C {
        self.content.get_or_init(make)
    }

    /// Notes that an operation about the node is with the master, until the guard is dropped.
    pub fn ask(&self) -> Asking<'_> {
        self.asking.fetch_add(1, Ordering::AcqRel);
        Asking(&self.asking)
    }

    /// Whether an operation of this client about the node is with the master.
    pub fn is_asking(&self) -> bool {
        self.asking.load(Ordering::Acquire) > 0
    }

    /// Uses the lease, whose mode was just seen to suffice.
    pub fn begin_use<'a>(self: &'a Arc<Self>, state: &mut NodeState) -> Use<'a, C> {
        state.in_use += 1;
        Use { node: self, mode: state.mode }
    }

    /// Uses what an answer without a lease of its own said, once: a lease that is being brought down just now may have been
    /// waited for already.
    pub fn begin_use_once<'a>(self: &'a Arc<Self>, state: &mut NodeState) -> Use<'a, C> {
        state.in_use += 1;
        Use { node: self, mode: Mode::None }
    }

    /// Takes an answer of the master: its attributes by revision, its lease by grant. `ticket` is the request's.
    pub fn learn(&self, state: &mut NodeState, ticket: &Ticket<'_>, answer: &Answered, now: Monotonic) {
        if let Some(lease) = answer.lease {
            self.learn_lease(state, ticket, lease, now);
        }
        if let Some(attributes) = &answer.attributes {
            let keep = self.may_keep(state, ticket, answer, now);
            learn_attributes(state, attributes, keep);
        }
    }

    /// Whether what an answer says about the node, or about entries in it, may be kept.
    ///
    /// An answer with a lease may, unless a notice came after the request began. One that carries NONE may not: somebody
    /// waits to change the node, and will not announce it to us again. An answer that says nothing about the lease
    /// (of a change of our own) may if nobody has announced a change for so long that it cannot still be to come.
    pub fn may_keep(&self, state: &NodeState, ticket: &Ticket<'_>, answer: &Answered, now: Monotonic) -> bool {
        let allowed = match answer.lease {
            Some((mode, _)) => mode > Mode::None,
            None => state.noticed_at.is_none_or(|noticed| now.since(noticed) > ANNOUNCED_CHANGE_MAX),
        };
        allowed && state.mode > Mode::None && !ticket.is_before(self.inode, Stamp::Foreign)
    }

    fn learn_lease(&self, state: &mut NodeState, ticket: &Ticket<'_>, (mode, grant): (Mode, u64), now: Monotonic) {
        if mode == Mode::None || state.releasing || ticket.is_before(self.inode, Stamp::Forgotten) {
            return;
        }
        // An answer says all that the session holds, so the one with the youngest grant is the truth.
        if grant > state.grant {
            (state.grant, state.mode) = (grant, mode);
            state.held_since.get_or_insert(now);
        }
    }

    /// Drops what needs a lease to be kept.
    pub fn drop_caches(&self, state: &mut NodeState) {
        state.fresh = false;
        (state.others_synced, state.held_since) = (false, None);
        state.entries.clear();
        state.target = None;
        state.first_chunk = None;
        state.xattrs = Xattrs::default();
    }
}

fn learn_attributes(state: &mut NodeState, attributes: &Attributes, keep: bool) {
    let known = state.attributes.as_ref().map_or(0, |known| known.revision);
    if attributes.revision > known {
        state.first_chunk = None;
    }
    if attributes.revision >= known {
        state.attributes = Some(attributes.clone());
        state.fresh = keep;
    }
}

impl<C> fmt::Debug for Node<C> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Node").field("inode", &self.inode).finish_non_exhaustive()
    }
}

/// What the master answered about a node.
#[derive(Clone, Debug, Default)]
pub struct Answered {
    /// Attributes.
    pub attributes: Option<Attributes>,
    /// Lease and grant.
    pub lease: Option<(Mode, u64)>,
}

impl Answered {
    /// From the wire.
    pub fn from_wire(attributes: Option<&wire::Attributes>, lease: Option<&wire::Lease>) -> Answered {
        Answered {
            attributes: attributes.and_then(Attributes::from_wire),
            lease: lease.map(|lease| (Mode::from_wire(lease.mode), lease.grant)),
        }
    }
}

/// An operation that is with the master.
#[derive(Debug)]
pub struct Asking<'a>(&'a AtomicU32);

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A lease in use.
#[derive(Debug)]
pub struct Use<'a, C> {
    node: &'a Arc<Node<C>>,
    mode: Mode,
}

impl<C> Use<'_, C> {
    /// What may be done under it; `None` if the answer may be used once and not be kept.
    pub fn mode(&self) -> Mode {
        self.mode
    }
}

impl<C> Drop for Use<'_, C> {
    fn drop(&mut self) {
        let mut state = self.node.state();
        state.in_use -= 1;
        if state.in_use == 0 && state.closing {
            drop(state);
            self.node.notify();
        }
    }
}
