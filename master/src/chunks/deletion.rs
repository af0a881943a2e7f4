//! Which copies may be deleted, and ordering it.
//!
//! Copies of freed chunks go at once. A stale, bad or superfluous copy goes only while at least goal good current copies on
//! other servers are live, from a settled chunk that nobody writes or repairs. Copies that no record knows (orphans) and
//! copies newer than their record (anomalies) are kept for the grace time; with an id that this metadata never gave out,
//! for ever: the metadata then comes from an older export, and the copy is more right than it.

use std::collections::BTreeMap;
use std::ops::Bound;

use rfs_common::clock::Monotonic;
use rfs_common::ids::{ChunkId, ChunkVersion, ServerId};

use super::Chunks;
use super::index::{CopyFlags, Entry, HeldCopy};
use super::orders::Purpose;
use super::types::Order;

/// Copies whose record is missing or older, by volume.
pub(super) type Orphans = BTreeMap<(u16, ChunkId), Orphan>;

#[derive(Debug, Clone, Copy)]
pub(super) struct Orphan {
    pub(super) version: u32,
    pub(super) since: Monotonic,
}

impl Chunks {
    /// The copies of the chunk that may be deleted now.
    pub(super) fn deletable(&self, chunk: ChunkId, entry: &Entry) -> Vec<u16> {
        let copies = entry.copies();
        let reachable =
            |copy: &&HeldCopy| !copy.flags.has(CopyFlags::DELETING) && self.servers.volume(copy.slot).takes_writes();
        if entry.is_doomed() {
            return copies.iter().filter(reachable).map(|copy| copy.slot).collect();
        }
        // Most chunks leave here: they have no more copies than they should.
        if copies.len() <= usize::from(entry.goal()) || self.is_locked(chunk, entry) {
            return Vec::new();
        }
        let live = self.live_servers(entry);
        if live < entry.goal() {
            return Vec::new();
        }
        let is_useless = |copy: &&HeldCopy| {
            let stale = !entry.is_current(copy) && !entry.is_anomaly(copy);
            stale || (entry.is_current(copy) && !copy.flags.is_good())
        };
        let mut slots: Vec<u16> = copies.iter().filter(reachable).filter(is_useless).map(|copy| copy.slot).collect();
        slots.extend(self.second_copies(chunk, entry));
        if slots.is_empty() && live > entry.goal() && self.writable_copies(entry) > usize::from(entry.goal()) {
            slots.extend(self.least_wanted(chunk, entry));
        }
        slots
    }

    /// Good copies that can be written: one on a volume that only serves reads is not worth one of them.
    fn writable_copies(&self, entry: &Entry) -> usize {
        let live = entry.copies().iter().filter(|copy| self.is_live_and_good(entry, copy));
        live.filter(|copy| self.servers.volume(copy.slot).takes_writes()).count()
    }

    fn is_locked(&self, chunk: ChunkId, entry: &Entry) -> bool {
        !entry.is_settled() || entry.is_repairing() || self.writers.contains_key(&chunk)
    }

    /// Good copies whose server has another good one: those that are moved away rather than others.
    fn second_copies(&self, chunk: ChunkId, entry: &Entry) -> Vec<u16> {
        let mut servers: Vec<ServerId> = Vec::new();
        let mut second = Vec::new();
        let mut good: Vec<&HeldCopy> =
            entry.copies().iter().filter(|copy| self.is_live_and_good(entry, copy)).collect();
        good.sort_by_key(|copy| {
            self.balance.source_of(chunk) == Some(copy.slot) || self.servers.volume(copy.slot).is_draining()
        });
        for copy in good {
            let volume = self.servers.volume(copy.slot);
            if !servers.contains(&volume.server) {
                servers.push(volume.server);
            } else if volume.takes_writes() {
                second.push(copy.slot);
            }
        }
        second
    }

    /// The good live copy on a volume that is being drained, else the one that is moved, else that on the one with the smallest share of free space.
    fn least_wanted(&self, chunk: ChunkId, entry: &Entry) -> Option<u16> {
        let live = entry.copies().iter().filter(|copy| self.is_live_and_good(entry, copy));
        let writable = live.filter(|copy| self.servers.volume(copy.slot).takes_writes());
        let free_share = |slot: u16| {
            let report = &self.servers.volume(slot).report;
            u128::from(report.free) * 1_000_000 / u128::from(report.total.max(1))
        };
        writable.map(|copy| copy.slot).min_by_key(|slot| {
            let stays = !self.servers.volume(*slot).is_draining();
            let is_moved = self.balance.source_of(chunk) == Some(*slot);
            (stays, !is_moved, free_share(*slot))
        })
    }

    /// Orders deletions, a bounded number at a time.
    pub(super) fn schedule_deletions(&mut self) {
        const EXAMINED_MAX: usize = 256;
        let after = self.cleanup_cursor.map_or(Bound::Unbounded, Bound::Excluded);
        let part: Vec<ChunkId> = self.cleanup.range((after, Bound::Unbounded)).take(EXAMINED_MAX).copied().collect();
        self.cleanup_cursor = if part.len() < EXAMINED_MAX { None } else { part.last().copied() };
        for chunk in part {
            self.delete_copies_of(chunk);
        }
    }

    fn delete_copies_of(&mut self, chunk: ChunkId) {
        if self.orders.is_paused(chunk) {
            return;
        }
        let Some(entry) = self.entries.get(&chunk) else { return };
        if !entry.is_doomed() && self.has_writer(chunk, entry) {
            return;
        }
        for slot in self.deletable(chunk, entry) {
            if self.servers.volume(slot).deletions >= self.config.deletions_per_volume {
                continue;
            }
            let Some(copy) = self.entries.get_mut(&chunk).and_then(|entry| entry.copy_on_mut(slot)) else { continue };
            copy.flags.set(CopyFlags::DELETING);
            // A place of a new chunk that was never heard of has the version that its writer was to create.
            let (version, bad) = (copy.version, copy.flags.has(CopyFlags::BAD));
            let version = if version == 0 && !bad { self.entries[&chunk].granted().max(1) } else { version };
            self.order_deletion(slot, chunk, version, Purpose::Delete);
        }
        self.refresh(chunk);
    }

    fn order_deletion(&mut self, slot: u16, chunk: ChunkId, version: u32, purpose: Purpose) {
        self.servers.volume_mut(slot).deletions += 1;
        let volume = self.servers.volume(slot).id;
        let order = Order::Delete { volume, chunk, version: ChunkVersion::new(version) };
        let deadline = self.config.order_deadline;
        self.issue(slot, chunk, purpose, order, deadline);
    }

    /// Orders the deletion of orphans whose grace is over.
    pub(super) fn schedule_orphans(&mut self) {
        const AT_ONCE_MAX: usize = 64;
        let due = |orphan: &Orphan| self.now.since(orphan.since) >= self.config.orphan_grace;
        let old = self.orphans.iter().filter(|(key, orphan)| due(orphan) && self.may_delete_orphan(key.0, key.1));
        let old: Vec<(u16, ChunkId, u32)> =
            old.take(AT_ONCE_MAX).map(|((slot, chunk), orphan)| (*slot, *chunk, orphan.version)).collect();
        for (slot, chunk, version) in old {
            // Not named again for another grace time, also when the deletion fails.
            if let Some(orphan) = self.orphans.get_mut(&(slot, chunk)) {
                orphan.since = self.now;
            }
            self.order_deletion(slot, chunk, version, Purpose::DeleteOrphan);
        }
    }

    fn may_delete_orphan(&self, slot: u16, chunk: ChunkId) -> bool {
        let volume = self.servers.volume(slot);
        if !self.was_given_out(chunk) || !volume.takes_writes() || volume.deletions >= self.config.deletions_per_volume
        {
            return false;
        }
        match self.entries.get(&chunk) {
            None => true,
            Some(entry) => {
                !self.has_writer(chunk, entry)
                    && !self.is_locked(chunk, entry)
                    && self.live_servers(entry) >= entry.goal()
            }
        }
    }
}
