//! What all filesystem calls share: asking the master and learning from the answer, using and lowering leases, committing.
//!
//! **Lock order.** A file's `append`, then its `commit`, then a shard of the table, a node's state, the order of answers
//! (`cache`), then whatever the data path locks. Of all these, only `append` (over a copy into buffers) and `commit` (over
//! flushing and one Commit) are held while something is awaited, and neither is awaited by more than the file's own.
//!
//! **Who waits for whom.** A call waits for the master; the master may wait for another client's recall. So nothing that a
//! recall needs may wait for such a call:
//! - A recall thread waits for operations that *use* the lease. Those ask the master only for what the lease entitles to
//!   (GrantWrite, CopyFailed, Commit, Locate, SetAttributes of the length under WRITE), which no other client delays.
//! - It flushes and commits on reserved slots, so it never waits for a slot that a call holds.
//! - It closes the lease only until the commit is through; only then is the kernel waited for. A read that has a page
//!   locked in the kernel and found the lease closed can go on to the master before the kernel is asked for that page.
//! - The kernel is waited for without limit only where nothing of ours is with the master (`kernel.rs`).

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use rfs_common::clock::{Monotonic, SharedClock};
use rfs_common::errno::Errno;
use rfs_common::ids::InodeId;
use rfs_proto::session as wire;
use rfs_proto::session_calls::Call;
use tracing::warn;

use super::bytes::{Bytes, Durability, FileBytes, Prepared};
use super::committer::Dirty;
use super::handles::Handles;
use super::kernel::{Forget, KernelNotifier};
use super::locks::Locks;
use super::types::{Accesses, Attributes, AttributesAnswer, Caller, KERNEL_VALID, KernelCaches, Kind, NodeAnswer};
use crate::cache;
use crate::cache::attributes::time_to_wire;
use crate::cache::node::{Answered, Mode, NodeState};
use crate::cache::order::{Order, Stamp, Ticket};
use crate::data::error_state::ErrorCursor;
use crate::session::{Lane, Session};

/// A file's bytes.
pub(super) type Content = Arc<dyn FileBytes>;
/// A node of this client.
pub(super) type Node = cache::node::Node<Content>;
/// A lease in use.
pub(super) type Use<'a> = cache::node::Use<'a, Content>;

/// How long a waiting thread sleeps before it looks by itself whether the session has ended.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Supplementary groups that are sent: more would not fit into a frame.
const GROUPS_MAX: usize = 1024;

/// The state behind a client.
pub(super) struct Core {
    pub(super) session: Session,
    pub(super) table: cache::table::Table<Content>,
    pub(super) order: Order,
    pub(super) bytes: Arc<dyn Bytes>,
    pub(super) kernel: Arc<dyn KernelCaches>,
    pub(super) notifier: KernelNotifier,
    pub(super) clock: SharedClock,
    pub(super) handles: Handles,
    pub(super) locks: Locks,
    pub(super) later: Later,
    /// Which accesses are noted.
    pub(super) accesses: Accesses,
    /// Itself, for threads that it starts.
    pub(super) this: OnceLock<std::sync::Weak<Core>>,
}

/// What the background thread is to do.
#[derive(Default)]
pub(super) struct Later {
    /// Files with something to be committed.
    pub(super) dirty: Mutex<Vec<Dirty>>,
    /// Files that nobody writes any more, and whose WRITE lease is to go back.
    pub(super) idle_writers: Mutex<Vec<(Arc<Node>, Monotonic)>>,
    /// Orphans that may be without open handles.
    pub(super) orphans: Mutex<Vec<InodeId>>,
    /// Nodes whose access the master is to be told of.
    pub(super) accessed: Mutex<Vec<Arc<Node>>>,
    /// What the kernel is to forget once more, at which time.
    pub(super) forget_again: Mutex<Vec<(Monotonic, Forget)>>,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a handle has not been told of changes of its node that a power cut of the master has undone.
pub(super) fn node_losses(node: &Node, told: &Mutex<ErrorCursor>) -> Result<(), Errno> {
    node.state().losses.take(&mut lock(told))
}

/// The caller for the wire.
pub(super) fn caller_to_wire(caller: &Caller) -> Option<wire::Caller> {
    let groups = &caller.groups[..caller.groups.len().min(GROUPS_MAX)];
    Some(wire::Caller { user: caller.user, group: caller.group, groups: groups.to_vec(), process_id: caller.process })
}

// Asking and learning.
/// How often attributes are asked for again that came without a lease: about 0.1 s in all.
pub(super) const LEASE_TRIES: u32 = 50;
pub(super) const LEASE_PAUSE_MIN: Duration = Duration::from_micros(200);
pub(super) const LEASE_PAUSE_MAX: Duration = Duration::from_millis(2);

impl Core {
    pub(super) fn now(&self) -> Monotonic {
        self.clock.monotonic()
    }

    /// The node with this number.
    pub(super) fn node(&self, inode: InodeId) -> Arc<Node> {
        self.table.get_or_insert(inode)
    }

    /// Asks the master, as a filesystem call.
    pub(super) fn call<C: Call>(&self, ticket: &mut Ticket<'_>, request: &C) -> Result<C::Reply, Errno> {
        self.session.call_in(Lane::Operations, request, &mut || ticket.renew())
    }

    /// Notes what an answer said about a node.
    pub(super) fn learn(&self, node: &Node, ticket: &Ticket<'_>, answer: &Answered) {
        node.learn(&mut node.state(), ticket, answer, self.now());
    }

    /// The node that an answer is about, with what it said.
    pub(super) fn learn_node(
        &self,
        ticket: &Ticket<'_>,
        answer: Option<&wire::Node>,
    ) -> Result<(Arc<Node>, Answered), Errno> {
        let answered = answer.map(|node| Answered::from_wire(node.attributes.as_ref(), node.lease.as_ref()));
        let Some(answered) = answered else { return Err(Errno::EPROTO) };
        let inode = answered.attributes.as_ref().ok_or(Errno::EPROTO)?.inode;
        let node = self.node(inode);
        self.learn(&node, ticket, &answered);
        Ok((node, answered))
    }

    /// This client has changed entries of a directory.
    pub(super) fn entries_changed(&self, directory: InodeId) {
        self.order.stamp(directory, Stamp::Own);
        if let Some(node) = self.table.get(directory) {
            self.changed(&node);
        }
    }

    /// The master has answered a change of the node by this client: until it is on disk, a power cut may undo it.
    pub(super) fn changed(&self, node: &Node) {
        node.state().changed_position = self.session.log_position();
    }

    /// Notes attributes that came without a word about the lease, such as those of a changed directory.
    pub(super) fn learn_attributes(&self, ticket: &Ticket<'_>, attributes: Option<&wire::Attributes>) {
        let answered = Answered::from_wire(attributes, None);
        if let Some(attributes) = &answered.attributes
            && let Some(node) = self.table.get(attributes.inode)
        {
            self.learn(&node, ticket, &answered);
        }
    }

    /// Attributes as they are here: the master's with what was written since. `given` serves where nothing is kept.
    pub(super) fn answer(
        &self,
        node: &Node,
        state: &mut NodeState,
        given: Option<&Attributes>,
    ) -> Option<AttributesAnswer> {
        let mut attributes = state.attributes.as_ref().or(given)?.clone();
        let local = add_local_changes(node, &mut attributes);
        if let Some(pending) = state.accessed {
            attributes.accessed = attributes.accessed.max(pending.at);
        }
        // While the node changes by this client's own doing, the kernel might take in an older answer and drop a younger one.
        let keep = state.mode > Mode::None
            && state.fresh
            && !state.closing
            && state.recalls_waiting == 0
            && state.changing == 0;
        if keep {
            state.kernel_told_at = Some(self.now());
        }
        // The master says how many blocks a file has, and confirms its times: until then the kernel is to ask each time.
        let attribute_valid = if keep && local == LocalChanges::None { KERNEL_VALID } else { Duration::ZERO };
        Some(AttributesAnswer { attributes, attribute_valid })
    }

    /// The node's attributes go to the kernel in the answer to a change of it.
    pub(super) fn note_told_of_change(&self, node: &Node) {
        let mut state = node.state();
        state.kernel_told_of_change_at = state.kernel_told_at;
    }

    /// The same for an answer by name: the kernel knows the node once more.
    pub(super) fn answer_by_name(
        &self,
        node: &Node,
        answered: &Answered,
        entry_valid: Duration,
    ) -> Result<NodeAnswer, Errno> {
        let mut state = node.state();
        let answer = self.answer(node, &mut state, answered.attributes.as_ref()).ok_or(Errno::EPROTO)?;
        state.lookups += 1;
        Ok(NodeAnswer { attributes: answer.attributes, attribute_valid: answer.attribute_valid, entry_valid })
    }

    /// Attributes from here if the lease allows it, else from the master.
    pub(super) fn attributes(&self, node: &Node) -> Result<AttributesAnswer, Errno> {
        self.session.wait_trusted()?;
        if let Some(answer) = self.cached_attributes(node) {
            return Ok(answer);
        }
        let (node, answered) = self.ask_attributes(node)?;
        let answered = self.under_a_lease(&node, answered)?;
        let mut state = node.state();
        self.answer(&node, &mut state, answered.attributes.as_ref()).ok_or(Errno::EPROTO)
    }

    pub(super) fn ask_attributes(&self, node: &Node) -> Result<(Arc<Node>, Answered), Errno> {
        let mut ticket = self.order.begin();
        let _asking = node.ask();
        let reply = self.call(&mut ticket, &wire::GetAttributes { inode: node.inode().get() })?;
        self.learn_node(&ticket, reply.node.as_ref())
    }

    /// The answer, or a later one that came with a lease. The kernel takes answers in at any time after they were given, and
    /// drops those that were under way when it was told to forget. Attributes that come without a lease are followed by
    /// no recall: the kernel could take them in after younger ones, and even drop the younger ones for them. The master
    /// gives no lease only while another operation waits for the node, so asking again soon helps.
    pub(super) fn under_a_lease(&self, node: &Arc<Node>, mut answered: Answered) -> Result<Answered, Errno> {
        let mut pause = LEASE_PAUSE_MIN;
        for _ in 0..LEASE_TRIES {
            if node.state().mode > Mode::None {
                break;
            }
            self.clock.sleep(pause);
            pause = (pause * 2).min(LEASE_PAUSE_MAX);
            (_, answered) = self.ask_attributes(node)?;
        }
        Ok(answered)
    }

    pub(super) fn cached_attributes(&self, node: &Node) -> Option<AttributesAnswer> {
        let mut state = node.state();
        if state.mode == Mode::None || !state.fresh {
            return None;
        }
        self.answer(node, &mut state, None)
    }

    /// Bytes of the file, as seen here.
    pub(super) fn length(&self, node: &Node) -> u64 {
        let local = node.content().and_then(|content| content.local_length());
        local.unwrap_or_else(|| node.state().attributes.as_ref().map_or(0, |attributes| attributes.length))
    }

    pub(super) fn content<'a>(&self, node: &'a Node) -> &'a Content {
        node.content_or(|| self.bytes.file(node.inode()))
    }
}

/// Whether attributes have parts that the master does not know yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LocalChanges {
    None,
    Some,
}

fn add_local_changes(node: &Node, attributes: &mut Attributes) -> LocalChanges {
    let Some(content) = node.content().filter(|_| attributes.kind == Kind::File) else { return LocalChanges::None };
    let uncommitted = content.has_uncommitted();
    if let Some(length) = content.local_length() {
        attributes.allocated += length.saturating_sub(attributes.length);
        attributes.length = length;
    }
    if let Some(modified) = content.modified() {
        attributes.modified = modified;
        // As the commit will have it.
        attributes.changed = modified.max(attributes.changed + Duration::from_nanos(1));
    }
    if uncommitted { LocalChanges::Some } else { LocalChanges::None }
}

// Leases.
impl Core {
    /// Uses the lease in at least this mode, after asking for it if need be. Under `Read` the use may come with mode
    /// `None`: what is read then is not to be kept.
    pub(super) fn use_lease<'a>(&self, node: &'a Arc<Node>, mode: Mode) -> Result<Use<'a>, Errno> {
        let mut pause = Duration::from_millis(1);
        loop {
            self.session.wait_trusted()?;
            if let Some(used) = self.try_use(node, mode)? {
                return Ok(used);
            }
            if let Some(used) = self.acquire(node, mode)? {
                return Ok(used);
            }
            self.clock.sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    }

    /// Uses the lease if it is held in this mode, once it is not being lowered.
    pub(super) fn try_use<'a>(&self, node: &'a Arc<Node>, mode: Mode) -> Result<Option<Use<'a>>, Errno> {
        let mut state = node.state();
        while state.closing {
            state = node.wait(state, LOOK_AGAIN);
            if self.session.has_ended() {
                return Err(Errno::EIO);
            }
        }
        // Data is read with the length that the attributes give, so these must be known, too.
        let suffices = state.mode >= mode && (state.fresh || state.mode == Mode::Write) && state.attributes.is_some();
        Ok(suffices.then(|| node.begin_use(&mut state)))
    }

    /// Asks for the lease. The use begins in the same moment in which the lease is learned, so that a recall that is
    /// already waiting for it lets it be used once. It may begin while an older grant is being lowered: the master keeps
    /// the younger one, and so does [`Core::lower`].
    fn acquire<'a>(&self, node: &'a Arc<Node>, mode: Mode) -> Result<Option<Use<'a>>, Errno> {
        let mut ticket = self.order.begin();
        let _asking = node.ask();
        let request = wire::AcquireLease { inode: node.inode().get(), mode: mode.to_wire().into() };
        let reply = self.call(&mut ticket, &request)?;
        let answer = reply.node.as_ref().ok_or(Errno::EPROTO)?;
        let answered = Answered::from_wire(answer.attributes.as_ref(), answer.lease.as_ref());
        let mut state = node.state();
        let held_before = state.grant;
        node.learn(&mut state, &ticket, &answered, self.now());
        let goes_down = state.closing && state.grant == held_before;
        if mode == Mode::Write {
            let ours = state.mode == Mode::Write && !goes_down;
            return Ok(ours.then(|| node.begin_use(&mut state)));
        }
        if state.attributes.is_none() {
            return Err(Errno::EPROTO);
        }
        Ok(Some(if goes_down { node.begin_use_once(&mut state) } else { node.begin_use(&mut state) }))
    }

    /// Brings the lease down to `to`, unless it is a younger one than `grant`: waits for those who use it, commits, and
    /// drops what was cached here. The kernel is the caller's business: who brings a lease down to nothing calls
    /// [`Core::kernel_has_forgotten`] afterwards.
    ///
    /// # Errors
    /// What flushing or the commit failed with; the lease is down nevertheless.
    pub(super) fn lower(&self, node: &Arc<Node>, to: Mode, grant: Option<u64>) -> Result<Lowered, Errno> {
        let mut state = node.state();
        while state.closing {
            state = node.wait(state, LOOK_AGAIN);
        }
        let younger = |state: &NodeState| grant.is_some_and(|grant| state.grant > grant);
        if state.mode <= to || younger(&state) {
            return Ok(Lowered::No);
        }
        state.closing = true;
        while state.in_use > 0 {
            state = node.wait(state, LOOK_AGAIN);
        }
        let (from, held) = (state.mode, state.grant);
        if younger(&state) || from <= to {
            state.closing = false;
            drop(state);
            node.notify();
            return Ok(Lowered::No);
        }
        drop(state);
        // Down to READ and no further: until the kernel has forgotten as well, the master is to keep others from changing the node.
        // The rest goes with RecallDone.
        let returned = wire::Lease { inode: node.inode().get(), mode: Mode::Read.to_wire().into(), grant: held };
        let result = if from == Mode::Write { self.commit_and_return(node, returned) } else { Ok(()) };
        if let Some(content) = node.content() {
            if to == Mode::None { content.invalidate() } else { content.end_grants() }
        }
        self.set_lowered(node, to, held);
        result.map(|()| Lowered::Yes)
    }

    fn set_lowered(&self, node: &Node, to: Mode, held: u64) {
        let mut state = node.state();
        if state.grant <= held {
            state.mode = state.mode.min(to);
        }
        if to == Mode::None {
            node.drop_caches(&mut state);
            state.forgetting += 1;
        }
        state.closing = false;
        drop(state);
        node.notify();
    }

    /// The kernel has forgotten what it kept of the node under a lease that is gone.
    pub(super) fn kernel_has_forgotten(&self, node: &Node) {
        node.state().forgetting -= 1;
        node.notify();
    }

    /// Waits until the kernel has forgotten what others have it forget of the node.
    pub(super) fn wait_until_forgotten(&self, node: &Node) {
        let mut state = node.state();
        while state.forgetting > 0 && !self.session.has_ended() {
            state = node.wait(state, LOOK_AGAIN);
        }
    }

    fn commit_and_return(&self, node: &Arc<Node>, lease: wire::Lease) -> Result<(), Errno> {
        let result = self.commit(node, Durability::Acknowledged, Some(lease));
        if let Err(errno) = result {
            warn!(inode = node.inode().get(), %errno, "data could not be committed before the lease went back");
            if let Some(content) = node.content().filter(|content| content.has_uncommitted()) {
                content.discard();
            }
        }
        result.map(drop)
    }
}

/// Whether a lease came down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lowered {
    Yes,
    /// It was down before, or is a younger one.
    No,
}

/// Whether the master had to be told anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Committed {
    Told,
    Nothing,
}

// Committing.
impl Core {
    /// Flushes (or syncs) the file and commits what was written. The caller uses the WRITE lease, or has closed it.
    pub(super) fn commit(
        &self,
        node: &Arc<Node>,
        durability: Durability,
        returned: Option<wire::Lease>,
    ) -> Result<Committed, Errno> {
        let _one = lock(&node.commit);
        let (prepared, flushed) = match node.content().map(|content| content.prepare_commit(durability)) {
            None => (None, Ok(())),
            Some(Ok(prepared)) => (Some(prepared), Ok(())),
            // What is lost is lost; what did arrive counts.
            Some(Err(errno)) => (node.content().and_then(|content| content.committable()), Err(errno)),
        };
        let told = self.tell(node, prepared, durability, returned)?;
        flushed.map(|()| told)
    }

    fn tell(
        &self,
        node: &Arc<Node>,
        prepared: Option<Box<dyn Prepared>>,
        durability: Durability,
        returned: Option<wire::Lease>,
    ) -> Result<Committed, Errno> {
        let mut commit = wire::Commit {
            inode: node.inode().get(),
            durable: durability == Durability::Durable,
            return_lease: returned,
            ..wire::Commit::default()
        };
        if let Some(prepared) = &prepared {
            commit.length = prepared.length();
            commit.modified = prepared.modified().map(time_to_wire);
            commit.chunks = prepared.chunks();
        }
        let nothing = commit.length.is_none() && commit.modified.is_none() && commit.chunks.is_empty();
        if nothing && returned.is_none() {
            return Ok(Committed::Nothing);
        }
        let mut ticket = self.order.begin();
        let reply = self.session.call_in(Lane::Reserved, &commit, &mut || ticket.renew())?;
        self.learn_node(&ticket, reply.node.as_ref())?;
        self.changed(node);
        if let Some(prepared) = prepared {
            prepared.committed();
        }
        Ok(Committed::Told)
    }
}
