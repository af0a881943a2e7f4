//! The lock table: POSIX byte ranges and flock locks of all sessions, with those that wait for one.
//!
//! A pure state machine without clock or IO. A [`LockOwner`] is a session and the number its kernel gives an open file
//! (flock) or a process (POSIX). The rules are those of a local Linux kernel: a POSIX request splits, merges and replaces
//! what its owner holds in the range; a flock conversion first drops what is held, so two that upgrade at once do not
//! wait for each other for ever. Whoever waits is served in the order of asking, as soon as nothing held conflicts. A
//! POSIX wait that would close a circle of waits is refused.
//!
//! What always holds: no two locks of different owners overlap unless both are shared; the ranges of one owner on one
//! node do not overlap, and neighbours of one type are one range; a session's end leaves nothing of it.

use std::collections::{HashMap, HashSet, VecDeque};

use rfs_common::ids::{InodeId, SessionId};

/// The last byte a range can have: "to the end of the file, however long it becomes".
pub const RANGE_END_MAX: u64 = i64::MAX as u64;

/// Nodes on which one session may have locks or waits; beyond that it gets ENOLCK.
pub const NODES_PER_SESSION_MAX: usize = 65_536;

/// Locks and waits that one node may have; beyond that whoever asks gets ENOLCK.
pub const LOCKS_PER_NODE_MAX: usize = 16_384;

/// How many granted waits of a session are remembered, so that a late cancellation learns that it came too late.
const GRANTED_TICKETS_MAX: usize = 1_024;

/// Who holds or wants a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LockOwner {
    /// The session.
    pub session: SessionId,
    /// The kernel's number, unique in the session for a kind of lock.
    pub owner: u64,
}

/// The two families of locks. They do not see each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LockKind {
    /// fcntl: byte ranges.
    Posix,
    /// flock: the whole file.
    Flock,
}

/// What is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LockType {
    /// Others may share it.
    Shared,
    /// Nobody else may have any.
    Exclusive,
}

/// A range of bytes, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ByteRange {
    /// First byte.
    pub start: u64,
    /// Last byte.
    pub end: u64,
}

impl ByteRange {
    /// The whole file.
    pub const ALL: ByteRange = ByteRange { start: 0, end: RANGE_END_MAX };

    /// The range from the first to the last byte, if it is one.
    pub fn new(start: u64, end: u64) -> Option<ByteRange> {
        (start <= end && end <= RANGE_END_MAX).then_some(ByteRange { start, end })
    }

    fn overlaps(self, other: ByteRange) -> bool {
        self.start <= other.end && other.start <= self.end
    }

    fn touches(self, other: ByteRange) -> bool {
        self.start <= other.end.saturating_add(1) && other.start <= self.end.saturating_add(1)
    }
}

/// A lock that is held or asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lock {
    /// Whose.
    pub owner: LockOwner,
    /// Shared or exclusive.
    pub lock_type: LockType,
    /// Where; [`ByteRange::ALL`] of a flock lock.
    pub range: ByteRange,
    /// The process, for those who ask who is in the way.
    pub process_id: u32,
}

impl Lock {
    fn conflicts_with(&self, other: &Lock) -> bool {
        self.owner != other.owner
            && self.range.overlaps(other.range)
            && (self.lock_type == LockType::Exclusive || other.lock_type == LockType::Exclusive)
    }
}

/// Names a wait; chosen by the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// Whether a lock that cannot be had now is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// Refuse it.
    None,
    /// Queue it under this ticket.
    Wait(Ticket),
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockOutcome {
    /// The owner has it.
    Granted,
    /// It waits; a [`GrantedWait`] will follow.
    Queued,
    /// It cannot be had now: EAGAIN.
    Conflict,
    /// Waiting would be for ever: EDEADLK.
    Deadlock,
    /// There are too many: ENOLCK.
    TooMany,
}

/// What a cancellation found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CancelOutcome {
    /// The wait is gone, or was never there.
    Cancelled,
    /// The lock had been granted: the client owns it.
    AlreadyGranted,
}

/// A wait that has ended with the lock: to be told to the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GrantedWait {
    /// Whom to tell.
    pub session: SessionId,
    /// The node.
    pub inode: InodeId,
    /// The wait.
    pub ticket: Ticket,
}

#[derive(Clone, Copy, Debug)]
struct Waiting {
    ticket: Ticket,
    kind: LockKind,
    lock: Lock,
}

#[derive(Debug, Default)]
struct NodeLocks {
    posix: Vec<Lock>,
    flock: Vec<Lock>,
    waiting: VecDeque<Waiting>,
}

impl NodeLocks {
    fn held(&self, kind: LockKind) -> &[Lock] {
        match kind {
            LockKind::Posix => &self.posix,
            LockKind::Flock => &self.flock,
        }
    }

    fn held_mut(&mut self, kind: LockKind) -> &mut Vec<Lock> {
        match kind {
            LockKind::Posix => &mut self.posix,
            LockKind::Flock => &mut self.flock,
        }
    }

    fn conflict(&self, kind: LockKind, wanted: &Lock) -> Option<Lock> {
        self.held(kind).iter().filter(|held| held.conflicts_with(wanted)).min_by_key(|held| held.range.start).copied()
    }

    fn is_empty(&self) -> bool {
        self.posix.is_empty() && self.flock.is_empty() && self.waiting.is_empty()
    }

    fn is_full(&self) -> bool {
        self.posix.len() + self.flock.len() + self.waiting.len() >= LOCKS_PER_NODE_MAX
    }
}

#[derive(Debug, Default)]
struct SessionLocks {
    nodes: HashSet<InodeId>,
    granted: VecDeque<(InodeId, Ticket)>,
}

/// All locks and waits.
#[derive(Debug, Default)]
pub struct Locks {
    nodes: HashMap<InodeId, NodeLocks>,
    sessions: HashMap<SessionId, SessionLocks>,
}

impl Locks {
    /// An empty table.
    pub fn new() -> Locks {
        Locks::default()
    }

    /// Takes a lock, or waits for it. Replacing an exclusive lock by a shared one, and a flock conversion that must wait,
    /// may let others have theirs: they are added to `granted`.
    pub fn acquire(
        &mut self,
        inode: InodeId,
        kind: LockKind,
        lock: Lock,
        patience: Patience,
        granted: &mut Vec<GrantedWait>,
    ) -> LockOutcome {
        if self.has_too_many(lock.owner.session, inode) {
            return LockOutcome::TooMany;
        }
        let node = self.nodes.entry(inode).or_default();
        if kind == LockKind::Flock {
            let owned = node.flock.iter().position(|held| held.owner == lock.owner);
            if let Some(at) = owned {
                if node.flock[at].lock_type == lock.lock_type {
                    return LockOutcome::Granted;
                }
                node.flock.remove(at);
                self.serve_waiting(inode, granted);
            }
        }
        let node = self.nodes.entry(inode).or_default();
        let outcome = if node.conflict(kind, &lock).is_none() {
            place(node.held_mut(kind), lock);
            LockOutcome::Granted
        } else {
            self.queue(inode, kind, lock, patience)
        };
        if matches!(outcome, LockOutcome::Granted | LockOutcome::Queued) {
            self.sessions.entry(lock.owner.session).or_default().nodes.insert(inode);
        }
        self.serve_waiting(inode, granted);
        self.forget_if_unused(inode, lock.owner.session);
        outcome
    }

    /// Gives up what the owner holds in the range (of a flock lock: all). Others may get theirs: added to `granted`.
    pub fn unlock(
        &mut self,
        inode: InodeId,
        kind: LockKind,
        owner: LockOwner,
        range: ByteRange,
        granted: &mut Vec<GrantedWait>,
    ) {
        let Some(node) = self.nodes.get_mut(&inode) else { return };
        match kind {
            LockKind::Posix => cut_out(&mut node.posix, owner, range),
            LockKind::Flock => node.flock.retain(|held| held.owner != owner),
        }
        self.serve_waiting(inode, granted);
        self.forget_if_unused(inode, owner.session);
    }

    /// A lock of another owner that is in the way of this one, if there is one.
    pub fn conflict(&self, inode: InodeId, kind: LockKind, wanted: &Lock) -> Option<Lock> {
        self.nodes.get(&inode).and_then(|node| node.conflict(kind, wanted))
    }

    /// Ends a wait.
    pub fn cancel(&mut self, session: SessionId, inode: InodeId, ticket: Ticket) -> CancelOutcome {
        if let Some(node) = self.nodes.get_mut(&inode) {
            let waits = |wait: &Waiting| wait.ticket == ticket && wait.lock.owner.session == session;
            if let Some(at) = node.waiting.iter().position(waits) {
                node.waiting.remove(at);
                self.forget_if_unused(inode, session);
                return CancelOutcome::Cancelled;
            }
        }
        let granted = self.sessions.get(&session).is_some_and(|owned| owned.granted.contains(&(inode, ticket)));
        if granted { CancelOutcome::AlreadyGranted } else { CancelOutcome::Cancelled }
    }

    /// Takes a lock that the session says it held before the master restarted. False if another has it now.
    pub fn reclaim(&mut self, inode: InodeId, kind: LockKind, lock: Lock) -> bool {
        let mut granted = Vec::new();
        let outcome = self.acquire(inode, kind, lock, Patience::None, &mut granted);
        debug_assert!(granted.is_empty(), "nobody waits before the grace time is over");
        outcome == LockOutcome::Granted
    }

    /// Drops everything of a session. Others may get theirs: added to `granted`.
    pub fn end_session(&mut self, session: SessionId, granted: &mut Vec<GrantedWait>) {
        let Some(owned) = self.sessions.remove(&session) else { return };
        for inode in owned.nodes {
            let Some(node) = self.nodes.get_mut(&inode) else { continue };
            node.posix.retain(|held| held.owner.session != session);
            node.flock.retain(|held| held.owner.session != session);
            node.waiting.retain(|wait| wait.lock.owner.session != session);
            self.serve_waiting(inode, granted);
            if self.nodes.get(&inode).is_some_and(NodeLocks::is_empty) {
                self.nodes.remove(&inode);
            }
        }
    }

    /// The waits of a session that were granted lately: told again when its push connection is new, since the first
    /// telling may have been lost with the old one.
    pub fn granted_lately(&self, session: SessionId) -> Vec<GrantedWait> {
        let owned = self.sessions.get(&session).into_iter().flat_map(|owned| owned.granted.iter());
        owned.map(|(inode, ticket)| GrantedWait { session, inode: *inode, ticket: *ticket }).collect()
    }

    /// The session was told, or is being told, of all that was granted: the latest are kept, to be told again. While it cannot
    /// be told, many more are.
    pub fn granted_told(&mut self, session: SessionId) {
        if let Some(owned) = self.sessions.get_mut(&session) {
            let old = owned.granted.len().saturating_sub(GRANTED_TICKETS_MAX);
            owned.granted.drain(..old);
        }
    }

    /// Locks that a session holds.
    pub fn count_of(&self, session: SessionId) -> u64 {
        let nodes = self.sessions.get(&session).into_iter().flat_map(|owned| &owned.nodes);
        let held =
            nodes.filter_map(|inode| self.nodes.get(inode)).flat_map(|node| node.posix.iter().chain(&node.flock));
        held.filter(|lock| lock.owner.session == session).count() as u64
    }

    /// Locks held and waits, of all sessions.
    pub fn totals(&self) -> (usize, usize) {
        let count = |(held, waiting): (usize, usize), node: &NodeLocks| {
            (held + node.posix.len() + node.flock.len(), waiting + node.waiting.len())
        };
        self.nodes.values().fold((0, 0), count)
    }

    fn has_too_many(&self, session: SessionId, inode: InodeId) -> bool {
        let node_full = self.nodes.get(&inode).is_some_and(NodeLocks::is_full);
        let session_full = self
            .sessions
            .get(&session)
            .is_some_and(|owned| owned.nodes.len() >= NODES_PER_SESSION_MAX && !owned.nodes.contains(&inode));
        node_full || session_full
    }

    fn queue(&mut self, inode: InodeId, kind: LockKind, lock: Lock, patience: Patience) -> LockOutcome {
        let Patience::Wait(ticket) = patience else { return LockOutcome::Conflict };
        let node = self.nodes.get(&inode).expect("the caller has just made the entry");
        let repeated = |wait: &Waiting| wait.ticket == ticket && wait.lock.owner.session == lock.owner.session;
        if node.waiting.iter().any(repeated) {
            return LockOutcome::Queued;
        }
        if kind == LockKind::Posix && self.closes_a_circle(inode, &lock) {
            return LockOutcome::Deadlock;
        }
        let node = self.nodes.get_mut(&inode).expect("the caller has just made the entry");
        node.waiting.push_back(Waiting { ticket, kind, lock });
        LockOutcome::Queued
    }

    /// Whether those who hold what `wanted` needs wait, directly or through others, for its owner.
    fn closes_a_circle(&self, inode: InodeId, wanted: &Lock) -> bool {
        let mut seen = HashSet::new();
        let mut to_visit: Vec<LockOwner> = self.blockers(inode, wanted).collect();
        while let Some(owner) = to_visit.pop() {
            if owner == wanted.owner {
                return true;
            }
            if !seen.insert(owner) {
                continue;
            }
            let Some(owned) = self.sessions.get(&owner.session) else { continue };
            for waited_on in &owned.nodes {
                let waits = self.nodes.get(waited_on).into_iter().flat_map(|node| &node.waiting);
                let of_owner = waits.filter(|wait| wait.kind == LockKind::Posix && wait.lock.owner == owner);
                for wait in of_owner {
                    to_visit.extend(self.blockers(*waited_on, &wait.lock));
                }
            }
        }
        false
    }

    fn blockers<'a>(&'a self, inode: InodeId, wanted: &'a Lock) -> impl Iterator<Item = LockOwner> + 'a {
        let held = self.nodes.get(&inode).into_iter().flat_map(|node| &node.posix);
        held.filter(|held| held.conflicts_with(wanted)).map(|held| held.owner)
    }

    /// Gives their lock to all waiting, in order, that nothing held is in the way of.
    fn serve_waiting(&mut self, inode: InodeId, granted: &mut Vec<GrantedWait>) {
        let Some(node) = self.nodes.get_mut(&inode) else { return };
        let mut at = 0;
        while at < node.waiting.len() {
            let wait = node.waiting[at];
            if node.conflict(wait.kind, &wait.lock).is_some() {
                at += 1;
                continue;
            }
            node.waiting.remove(at);
            place(node.held_mut(wait.kind), wait.lock);
            let session = wait.lock.owner.session;
            let owned = self.sessions.entry(session).or_default();
            if owned.granted.len() == NODES_PER_SESSION_MAX {
                owned.granted.pop_front();
            }
            owned.granted.push_back((inode, wait.ticket));
            granted.push(GrantedWait { session, inode, ticket: wait.ticket });
            // What was just placed may have replaced an exclusive lock by a shared one, for someone further ahead.
            at = 0;
        }
    }

    fn forget_if_unused(&mut self, inode: InodeId, session: SessionId) {
        let Some(node) = self.nodes.get(&inode) else { return };
        let is_ours = |lock: &Lock| lock.owner.session == session;
        let used = node.posix.iter().any(is_ours)
            || node.flock.iter().any(is_ours)
            || node.waiting.iter().any(|wait| is_ours(&wait.lock));
        if !used && let Some(owned) = self.sessions.get_mut(&session) {
            owned.nodes.remove(&inode);
        }
        if node.is_empty() {
            self.nodes.remove(&inode);
        }
    }
}

/// Puts a lock into the ranges of its owner: what it overlaps is replaced, equal neighbours are joined.
fn place(held: &mut Vec<Lock>, mut lock: Lock) {
    cut_out(held, lock.owner, lock.range);
    held.retain(|other| {
        let joins = other.owner == lock.owner && other.lock_type == lock.lock_type && other.range.touches(lock.range);
        if joins {
            lock.range.start = lock.range.start.min(other.range.start);
            lock.range.end = lock.range.end.max(other.range.end);
        }
        !joins
    });
    held.push(lock);
}

/// Removes a range from what the owner holds; a lock around it leaves its two ends.
fn cut_out(held: &mut Vec<Lock>, owner: LockOwner, range: ByteRange) {
    let mut ends = Vec::new();
    held.retain(|lock| {
        let cut = lock.owner == owner && lock.range.overlaps(range);
        if cut && lock.range.start < range.start {
            ends.push(Lock { range: ByteRange { start: lock.range.start, end: range.start - 1 }, ..*lock });
        }
        if cut && lock.range.end > range.end {
            ends.push(Lock { range: ByteRange { start: range.end + 1, end: lock.range.end }, ..*lock });
        }
        !cut
    });
    held.extend(ends);
}

#[cfg(test)]
#[path = "locks_test.rs"]
mod tests;
