//! File locks: asked of the master, remembered here for reclaiming and for release when a file is closed.
//!
//! Ranges held are kept as the kernel keeps them: disjoint per owner, a new one replaces what it covers. The mutexes here
//! are never held over a call.
//!
//! Locks that were lost with the session protect nothing any more, and their owner does not know: reads and writes through
//! the handle that asked for them fail with EIO until the owner has unlocked what it lost, or closed the file.

use std::collections::{HashMap, HashSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rfs_common::errno::Errno;
use rfs_common::ids::InodeId;
use rfs_proto::session as wire;
use tracing::warn;

use super::Client;
use super::core::{Core, lock};
use super::types::{Handle, Lock, LockFamily, LockTicket, LockType, LockWaiter};

/// The last byte of a file, as the kernel counts.
const END_OF_FILE: u64 = i64::MAX as u64;

/// The pauses, each twice as long as the one before, in which a lock is waited for, where nobody asked to wait, whose holder on
/// this mount may be closed already. In all, 63 ms.
const PAUSE_FOR_CLOSED_FIRST: Duration = Duration::from_millis(1);
const PAUSES_FOR_CLOSED: u32 = 6;

/// A wait for a lock.
struct Wait {
    inode: InodeId,
    lock: Lock,
    waiter: LockWaiter,
}

/// A lock that was lost with the session.
struct Lost {
    inode: InodeId,
    handle: Handle,
    lock: Lock,
}

/// Handles of lock owners, and the owners of handles.
#[derive(Default)]
struct Through {
    handles: HashMap<(InodeId, u64), Handle>,
    owners: HashMap<Handle, HashSet<u64>>,
}

impl Through {
    fn note(&mut self, inode: InodeId, owner: u64, handle: Handle) {
        if self.handles.get(&(inode, owner)) != Some(&handle) {
            self.remove(inode, owner);
            self.handles.insert((inode, owner), handle);
            self.owners.entry(handle).or_default().insert(owner);
        }
    }

    fn remove(&mut self, inode: InodeId, owner: u64) {
        let Some(handle) = self.handles.remove(&(inode, owner)) else { return };
        if let Some(owners) = self.owners.get_mut(&handle) {
            owners.remove(&owner);
            if owners.is_empty() {
                self.owners.remove(&handle);
            }
        }
    }

    fn owners_of(&self, handle: Handle) -> Vec<u64> {
        self.owners.get(&handle).map(|owners| owners.iter().copied().collect()).unwrap_or_default()
    }
}

/// Locks held and awaited.
#[derive(Default)]
pub(super) struct Locks {
    held: Mutex<HashMap<InodeId, Vec<Lock>>>,
    /// What was lost and not unlocked since, and the handle it had been asked for through.
    lost: Mutex<Vec<Lost>>,
    waits: Mutex<HashMap<LockTicket, Wait>>,
    /// Through which handle an owner last asked for a POSIX lock. A process gives its locks up with a flush; the owner of
    /// open file description locks is the handle itself, of whose end the kernel tells nothing but the release.
    through: Mutex<Through>,
    last_ticket: AtomicU64,
}

impl Client {
    /// The lock in the way of this one, if there is any.
    ///
    /// # Errors
    /// The master's.
    pub fn get_lock(&self, inode: InodeId, wanted: &Lock) -> Result<Option<Lock>, Errno> {
        let request = wire::GetLock { inode: inode.get(), range: Some(to_wire(wanted)) };
        Ok(self.core.session.call(&request)?.conflict.map(|conflict| from_wire(&conflict)))
    }

    /// Notes that this lock is about to be asked for through this handle.
    pub fn note_locker(&self, handle: Handle, inode: InodeId, wanted: &Lock) {
        if wanted.family == LockFamily::Posix && wanted.lock_type != LockType::Unlock {
            lock(&self.core.locks.through).note(inode, wanted.owner, handle);
        }
    }

    /// Takes or releases a lock without waiting.
    ///
    /// # Errors
    /// EAGAIN if another holds what is in its way; and the master's others.
    pub fn set_lock(&self, inode: InodeId, wanted: &Lock) -> Result<(), Errno> {
        for pause in (0..PAUSES_FOR_CLOSED).map(|number| PAUSE_FOR_CLOSED_FIRST * (1 << number)) {
            // Looked at before: the holder's end may be told while the master answers.
            let in_the_way = self.core.locks.in_the_way_of(inode, wanted);
            match self.core.set_lock(inode, wanted) {
                // The kernel tells of the end of an open file only after close(2), or the end of its process, was seen by others.
                Err(Errno::EAGAIN) if self.core.may_be_closed(inode, &in_the_way) => self.core.clock.sleep(pause),
                set => return set,
            }
        }
        self.core.set_lock(inode, wanted)
    }

    /// Takes a lock, or queues for it. `waiter` is called exactly once, possibly before this returns.
    pub fn set_lock_wait(&self, inode: InodeId, wanted: &Lock, waiter: LockWaiter) -> LockTicket {
        let locks = &self.core.locks;
        let ticket = LockTicket(locks.last_ticket.fetch_add(1, Ordering::Relaxed) + 1);
        // The grant may be told on the push connection before the answer to the request is here.
        lock(&locks.waits).insert(ticket, Wait { inode, lock: *wanted, waiter });
        self.core.queue_lock(inode, wanted, ticket);
        ticket
    }

    /// Ends a wait: its waiter gets EINTR, unless the lock was granted first.
    pub fn cancel_lock(&self, ticket: LockTicket) {
        let Some(inode) = lock(&self.core.locks.waits).get(&ticket).map(|wait| wait.inode) else { return };
        let request = wire::CancelLock { inode: inode.get(), ticket: ticket.0 };
        match self.core.session.call(&request) {
            Ok(reply) if reply.granted => self.core.end_wait(ticket, Ok(())),
            Ok(_) => self.core.end_wait(ticket, Err(Errno::EINTR)),
            Err(errno) => self.core.end_wait(ticket, Err(errno)),
        }
    }
}

impl Core {
    /// Whether these locks are held through handles of this mount that are closed, or may be. Of one that cannot write, no close is
    /// told before its end.
    fn may_be_closed(&self, inode: InodeId, held: &[Lock]) -> bool {
        let may_be_closed = |held: &Lock| {
            let handle = self.locks.handle_of(inode, held);
            let open = handle.and_then(|handle| self.handles.file(handle).ok());
            open.is_none_or(|open| !open.writable || open.closed_once.load(Ordering::Acquire))
        };
        !held.is_empty() && held.iter().all(may_be_closed)
    }

    fn set_lock(&self, inode: InodeId, wanted: &Lock) -> Result<(), Errno> {
        if wanted.lock_type == LockType::Unlock {
            self.unlock_lost(|lost| (lost.inode == inode).then(|| without(&lost.lock, wanted)));
        }
        let request = wire::SetLock { inode: inode.get(), range: Some(to_wire(wanted)), wait: false, ticket: 0 };
        if !self.session.call(&request)?.granted {
            return Err(Errno::EAGAIN);
        }
        if let Some(Ok(open)) = self.locks.handle_of(inode, wanted).map(|handle| self.handles.file(handle)) {
            open.closed_once.store(false, Ordering::Release);
        }
        self.locks.note(inode, wanted);
        Ok(())
    }

    fn queue_lock(&self, inode: InodeId, wanted: &Lock, ticket: LockTicket) {
        let request = wire::SetLock { inode: inode.get(), range: Some(to_wire(wanted)), wait: true, ticket: ticket.0 };
        match self.session.call(&request) {
            Ok(reply) if reply.granted => self.end_wait(ticket, Ok(())),
            Ok(_) => {}
            Err(errno) => self.end_wait(ticket, Err(errno)),
        }
    }

    /// Ends a wait, if it has not ended already.
    pub(super) fn end_wait(&self, ticket: LockTicket, result: Result<(), Errno>) {
        let Some(wait) = lock(&self.locks.waits).remove(&ticket) else { return };
        if result.is_ok() {
            self.locks.note(wait.inode, &wait.lock);
        }
        (wait.waiter)(result);
    }

    /// Releases all locks of an owner on a file, with a round trip only if there are any.
    pub(super) fn unlock_all(&self, inode: InodeId, family: LockFamily, owner: u64) -> Result<(), Errno> {
        let all = Lock { family, lock_type: LockType::Unlock, owner, start: 0, end: END_OF_FILE, process: 0 };
        if !self.locks.holds(inode, family, owner) {
            self.unlock_lost(|lost| (lost.inode == inode).then(|| without(&lost.lock, &all)));
            return Ok(());
        }
        self.set_lock(inode, &all)
    }

    /// An owner has closed the file: all of its POSIX locks go.
    pub(super) fn unlock_closed(&self, inode: InodeId, owner: u64) -> Result<(), Errno> {
        lock(&self.locks.through).remove(inode, owner);
        self.unlock_all(inode, LockFamily::Posix, owner)
    }

    /// A handle has ended, and with it the locks that it owns.
    pub(super) fn unlock_released(&self, inode: InodeId, handle: Handle) -> Result<(), Errno> {
        let owners = lock(&self.locks.through).owners_of(handle);
        owners.into_iter().try_for_each(|owner| self.unlock_closed(inode, owner))
    }

    /// Queues again what was queued at a master that has restarted since: it remembers locks held, not waits.
    pub(super) fn queue_locks_again(&self) {
        let of = |(ticket, wait): (&LockTicket, &Wait)| (*ticket, wait.inode, wait.lock);
        let waits: Vec<_> = lock(&self.locks.waits).iter().map(of).collect();
        for (ticket, inode, wanted) in waits {
            self.queue_lock(inode, &wanted, ticket);
        }
    }

    /// The session is gone, and its locks with it.
    pub(super) fn lose_locks(&self) {
        let held: Vec<(InodeId, Vec<Lock>)> = lock(&self.locks.held).drain().collect();
        if !held.is_empty() {
            warn!(files = held.len(), "file locks were lost with the session: reading and writing through them fails");
        }
        let held = held.into_iter().flat_map(|(inode, locks)| locks.into_iter().map(move |held| (inode, held)));
        for (inode, held) in held {
            self.lose_lock(inode, held);
        }
        let tickets: Vec<LockTicket> = lock(&self.locks.waits).keys().copied().collect();
        for ticket in tickets {
            self.end_wait(ticket, Err(Errno::EIO));
        }
    }
}

// What was lost.
impl Core {
    fn lose_lock(&self, inode: InodeId, held: Lock) {
        let Some(handle) = self.locks.handle_of(inode, &held) else { return };
        let mut lost = lock(&self.locks.lost);
        if let Ok(open) = self.handles.file(handle) {
            open.locks_lost.store(true, Ordering::Release);
            lost.push(Lost { inode, handle, lock: held });
        }
    }

    /// Replaces lost locks by what `left` says is left of them; handles that have none any more can be used again.
    fn unlock_lost(&self, left: impl Fn(&Lost) -> Option<Vec<Lock>>) {
        let mut lost = lock(&self.locks.lost);
        let mut touched = Vec::new();
        for before in std::mem::take(&mut *lost) {
            let (inode, handle) = (before.inode, before.handle);
            match left(&before) {
                None => lost.push(before),
                Some(left) => {
                    touched.push(handle);
                    lost.extend(left.into_iter().map(|lock| Lost { inode, handle, lock }));
                }
            }
        }
        for handle in touched {
            if let Ok(open) = self.handles.file(handle) {
                open.locks_lost.store(lost.iter().any(|lost| lost.handle == handle), Ordering::Release);
            }
        }
    }

    /// A handle has ended: nobody reads or writes through it any more.
    pub(super) fn forget_lost_locks(&self, handle: Handle) {
        self.unlock_lost(|lost| (lost.handle == handle).then(Vec::new));
    }
}

/// What is left of a lock after another of the same owner.
fn without(old: &Lock, new: &Lock) -> Vec<Lock> {
    if old.family != new.family || old.owner != new.owner {
        return vec![*old];
    }
    let before = (old.start < new.start).then(|| Lock { end: old.end.min(new.start - 1), ..*old });
    let after = (old.end > new.end).then(|| Lock { start: old.start.max(new.end + 1), ..*old });
    before.into_iter().chain(after).collect()
}

impl Locks {
    /// What is held, for a master that has restarted.
    pub(super) fn held(&self) -> Vec<wire::ReclaimedLock> {
        let held = lock(&self.held);
        let of_inode = |(inode, locks): (&InodeId, &Vec<Lock>)| {
            let inode = inode.get();
            locks.iter().map(move |held| wire::ReclaimedLock { inode, range: Some(to_wire(held)) }).collect::<Vec<_>>()
        };
        held.iter().flat_map(of_inode).collect()
    }

    /// Whether any wait is queued.
    pub(super) fn any_waits(&self) -> bool {
        !lock(&self.waits).is_empty()
    }

    fn holds(&self, inode: InodeId, family: LockFamily, owner: u64) -> bool {
        let held = lock(&self.held);
        held.get(&inode).is_some_and(|locks| locks.iter().any(|held| held.family == family && held.owner == owner))
    }

    /// The handle that a lock was asked for through.
    fn handle_of(&self, inode: InodeId, held: &Lock) -> Option<Handle> {
        match held.family {
            LockFamily::Posix => lock(&self.through).handles.get(&(inode, held.owner)).copied(),
            LockFamily::Flock => Some(Handle(held.owner)),
        }
    }

    /// What other owners on this mount have that is in the way of this.
    fn in_the_way_of(&self, inode: InodeId, wanted: &Lock) -> Vec<Lock> {
        let conflicts = |held: &Lock| {
            let exclusive = [held.lock_type, wanted.lock_type].contains(&LockType::Exclusive);
            let overlaps = held.start <= wanted.end && wanted.start <= held.end;
            held.family == wanted.family && held.owner != wanted.owner && exclusive && overlaps
        };
        let held = lock(&self.held);
        held.get(&inode).map(|locks| locks.iter().filter(|held| conflicts(held)).copied().collect()).unwrap_or_default()
    }

    /// Notes that the master granted this (or released it).
    fn note(&self, inode: InodeId, granted: &Lock) {
        let mut held = lock(&self.held);
        let locks = held.entry(inode).or_default();
        let before = std::mem::take(locks);
        before.iter().for_each(|old| locks.extend(without(old, granted)));
        if granted.lock_type != LockType::Unlock {
            locks.push(*granted);
        }
        if locks.is_empty() {
            held.remove(&inode);
        }
    }
}

fn to_wire(range: &Lock) -> wire::LockRange {
    let kind = match range.family {
        LockFamily::Posix => wire::LockKind::Posix,
        LockFamily::Flock => wire::LockKind::Flock,
    };
    let lock_type = match range.lock_type {
        LockType::Unlock => wire::LockType::Unlock,
        LockType::Shared => wire::LockType::Shared,
        LockType::Exclusive => wire::LockType::Exclusive,
    };
    wire::LockRange {
        kind: kind.into(),
        r#type: lock_type.into(),
        owner: range.owner,
        start: range.start,
        end: range.end.min(END_OF_FILE),
        process_id: range.process,
    }
}

fn from_wire(range: &wire::LockRange) -> Lock {
    let family = if range.kind() == wire::LockKind::Flock { LockFamily::Flock } else { LockFamily::Posix };
    let lock_type = match range.r#type() {
        wire::LockType::Unlock => LockType::Unlock,
        wire::LockType::Shared => LockType::Shared,
        wire::LockType::Exclusive => LockType::Exclusive,
    };
    Lock { family, lock_type, owner: range.owner, start: range.start, end: range.end, process: range.process_id }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_found_by_the_handle_they_asked_through_last() {
        let (inode, mut through) = (InodeId::new(3), Through::default());
        (1..4).for_each(|owner| through.note(inode, owner, Handle(7)));
        through.note(inode, 2, Handle(8));
        through.remove(inode, 3);
        assert_eq!([7, 8, 9].map(|handle| through.owners_of(Handle(handle))), [vec![1], vec![2], vec![]]);
        through.remove(inode, 1);
        through.remove(inode, 2);
        assert!(through.handles.is_empty() && through.owners.is_empty());
    }

    #[test]
    fn an_unlock_in_the_middle_leaves_both_ends() {
        let locks = Locks::default();
        let inode = InodeId::new(3);
        let lock_of =
            |lock_type, start, end| Lock { family: LockFamily::Posix, lock_type, owner: 1, start, end, process: 0 };
        locks.note(inode, &lock_of(LockType::Exclusive, 0, END_OF_FILE));
        locks.note(inode, &lock_of(LockType::Unlock, 10, 19));
        let mut ranges: Vec<_> = locks
            .held()
            .iter()
            .map(|held| held.range.as_ref().map(|range| (range.start, range.end)).unwrap())
            .collect();
        ranges.sort_unstable();
        assert_eq!(ranges, [(0, 9), (20, END_OF_FILE)]);
        assert!(locks.holds(inode, LockFamily::Posix, 1) && !locks.holds(inode, LockFamily::Flock, 1));
        locks.note(inode, &lock_of(LockType::Unlock, 0, END_OF_FILE));
        assert!(!locks.holds(inode, LockFamily::Posix, 1));
    }
}
