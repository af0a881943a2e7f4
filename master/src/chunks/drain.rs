//! Emptying volumes and whole chunkservers that an administrator wants to take away.
//!
//! Nothing new is put on a volume that is being drained. A copy on it is *needed* while fewer good copies than the goal are
//! on volumes that stay; such a chunk gets one more copy there, by the rules of repair, and only when that is current and
//! live does the one on the drained volume become superfluous and is deleted like any other (`deletion.rs`). So a drain never
//! lowers the number of live copies, and what it waits for is what repair waits for.
//!
//! Two things count more than a drain: a writer that would otherwise get too few places, and a chunk with one copy left
//! that has no other place, may use a volume that is being drained. They never use one that is *drained*: that word is on
//! record, and an administrator may be taking the volume away.
//!
//! What always holds: a volume that is not being drained has no needed chunks; one that is has exactly those.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::time::Duration;

use rfs_common::ids::{ChunkId, ServerId, VolumeId};

use super::Chunks;
use super::excuse::Maintenance;
use super::index::{CopyFlags, Entry, HeldCopy};
use super::pace::Left;
use super::placement::Room;
use super::servers::{Drain, Servers, Volume};

/// What an administrator has asked of a volume, and what became of it, as the records say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DrainMark {
    /// It is to be emptied.
    pub wanted: bool,
    /// Nothing was on it any more, be it because of that or because its chunkserver is to be emptied.
    pub drained: bool,
}

/// What was asked of volumes and chunkservers.
#[derive(Debug, Default)]
pub(super) struct Marks {
    pub(super) volumes: BTreeMap<VolumeId, DrainMark>,
    pub(super) servers: BTreeSet<ServerId>,
    /// Chunkservers that may go away for a while (`excuse.rs`).
    pub(super) maintenance: BTreeMap<ServerId, Maintenance>,
}

impl Marks {
    fn is_nothing_drained(&self) -> bool {
        self.volumes.is_empty() && self.servers.is_empty()
    }
}

/// How far the drain of a volume is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DrainView {
    /// That is on record: nothing is there any more, or nothing but what [`DrainView::kept`] counts and what a volume that cannot be written keeps.
    pub drained: bool,
    /// Chunks with a copy on it.
    pub chunks_left: u64,
    /// About how many bytes they have.
    pub bytes_left: u64,
    /// Copies on it that no record knows, or that are newer than their record: they are kept for the grace time.
    pub kept: u64,
    /// How long it takes at the present pace; nothing if nothing moves.
    pub time_left: Option<Duration>,
    /// Its whole chunkserver is being drained.
    pub with_server: bool,
    /// What stands in the way of some of it.
    pub hindrance: Option<DrainHindrance>,
}

/// What a drain waits for, or cannot go on without.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DrainHindrance {
    /// The volume cannot be read now: copies of what it has are made from others where there are any.
    NotHere,
    /// No copy is made at the moment, for this reason.
    Wait(String),
    /// A chunk has no place elsewhere.
    NoPlace {
        /// The chunk.
        chunk: ChunkId,
        /// How many copies it is to have.
        goal: u8,
        /// Chunkservers that are connected.
        connected: usize,
        /// Volumes on them without room.
        full: usize,
    },
    /// A chunk has no copy that could be copied.
    NoGoodCopy(ChunkId),
}

impl Servers {
    /// Brings the volume in step with what is wanted of it and its server.
    pub(super) fn apply_marks(&mut self, slot: u16) {
        let volume = self.volume(slot);
        let mark = self.marks.volumes.get(&volume.id).copied().unwrap_or_default();
        let wanted = !volume.forgotten && (mark.wanted || self.marks.servers.contains(&volume.server));
        let volume = self.volume_mut(slot);
        volume.drain = match (wanted, mark.drained) {
            (false, _) => Drain::No,
            (true, false) => Drain::Wanted,
            (true, true) => Drain::Noted,
        };
        if !wanted {
            volume.needed.clear();
            volume.needed_cursor = None;
            volume.pace = Default::default();
        }
    }

    fn draining(&self) -> impl Iterator<Item = (u16, &Volume)> {
        let none = self.marks.is_nothing_drained();
        self.volumes().filter(move |(_, volume)| !none && volume.is_draining())
    }
}

impl Chunks {
    /// What is on record about a volume's drain.
    pub fn drain_mark(&self, volume: VolumeId) -> DrainMark {
        self.servers.marks.volumes.get(&volume).copied().unwrap_or_default()
    }

    /// That record was changed, or read at the start.
    pub fn set_drain_mark(&mut self, volume: VolumeId, mark: DrainMark) {
        match mark == DrainMark::default() {
            true => self.servers.marks.volumes.remove(&volume),
            false => self.servers.marks.volumes.insert(volume, mark),
        };
        if let Some(slot) = self.servers.slot(volume) {
            self.marks_changed(slot);
        }
    }

    /// Whether the whole chunkserver, with all volumes that it has or gets, is to be emptied.
    pub fn is_server_draining(&self, server: ServerId) -> bool {
        self.servers.marks.servers.contains(&server)
    }

    /// That record was changed, or read at the start.
    pub fn set_server_draining(&mut self, server: ServerId, wanted: bool) {
        match wanted {
            true => self.servers.marks.servers.insert(server),
            false => self.servers.marks.servers.remove(&server),
        };
        let slots = self.servers.servers.get(&server).map_or_else(Vec::new, |server| server.slots.clone());
        for slot in slots {
            self.marks_changed(slot);
        }
    }

    fn marks_changed(&mut self, slot: u16) {
        let before = self.servers.volume(slot).is_draining();
        self.servers.apply_marks(slot);
        if before != self.servers.volume(slot).is_draining() {
            self.refresh_volume(slot);
            self.reconsider_repairs();
        }
    }

    /// Volumes whose record does not say what has become of their drain: with what it should say.
    pub fn drain_marks_to_record(&self) -> Vec<(VolumeId, DrainMark)> {
        let here = self.servers.draining().filter(|(_, volume)| volume.counts);
        let changed = here.filter_map(|(slot, volume)| {
            let drained = self.is_emptied(slot);
            let mark = self.drain_mark(volume.id);
            (mark.drained != drained).then_some((volume.id, DrainMark { drained, ..mark }))
        });
        changed.collect()
    }

    /// Whether nothing that is worth anything is on the volume, which is here, or on its way to it.
    fn is_emptied(&self, slot: u16) -> bool {
        let volume = self.servers.volume(slot);
        let nothing_there = match volume.takes_writes() {
            true => volume.chunks.is_empty() || volume.chunks.len() == self.newer_than_their_records(slot),
            // What cannot be deleted stays; it must only not be needed.
            false => volume.needed.is_empty() && volume.grants == 0,
        };
        nothing_there && !self.orders.may_arrive(slot)
    }

    fn newer_than_their_records(&self, slot: u16) -> usize {
        let chunks = &self.servers.volume(slot).chunks;
        self.orphans_on(slot).filter(|chunk| chunks.contains(chunk)).count()
    }

    fn orphans_on(&self, slot: u16) -> impl Iterator<Item = ChunkId> {
        let all = (slot, ChunkId::new(0))..=(slot, ChunkId::new(u64::MAX));
        self.orphans.range(all).map(|((_, chunk), _)| *chunk)
    }

    /// Good copies on distinct servers that stay when everything that is being drained is gone.
    fn staying(&self, entry: &Entry) -> u8 {
        self.servers_with(entry, |copy| {
            self.is_live_and_good(entry, copy) && self.servers.volume(copy.slot).keeps_copies()
        })
    }

    /// Keeps the lists of needed copies in step with the entry.
    pub(super) fn refresh_needed(&mut self, chunk: ChunkId) {
        if self.servers.marks.is_nothing_drained() {
            return;
        }
        let Some(entry) = self.entries.get(&chunk) else { return };
        let lacking = !entry.is_doomed() && self.staying(entry) < entry.goal();
        let is_needed = |copy: &HeldCopy| {
            let useless = copy.flags.has(CopyFlags::BAD) || copy.flags.has(CopyFlags::DELETING);
            lacking && entry.is_current(copy) && !useless
        };
        let on: Vec<(u16, bool)> = entry.copies().iter().map(|copy| (copy.slot, is_needed(copy))).collect();
        for (slot, needed) in on {
            let volume = self.servers.volume_mut(slot);
            if needed && volume.is_draining() {
                volume.needed.insert(chunk);
            } else {
                volume.needed.remove(&chunk);
            }
        }
    }

    /// Orders copies elsewhere of what is needed on volumes that are being drained, a bounded number at a time. Half of what
    /// a volume may do at a time is left to repairs.
    pub(super) fn schedule_moves(&mut self) {
        let slots: Vec<u16> = self
            .servers
            .draining()
            .filter(|(_, volume)| volume.counts && !volume.needed.is_empty())
            .map(|(slot, _)| slot)
            .collect();
        if slots.is_empty() || self.repairs_wait().is_some() {
            return;
        }
        for slot in slots {
            self.schedule_moves_from(slot);
        }
    }

    fn schedule_moves_from(&mut self, slot: u16) {
        const EXAMINED_MAX: usize = 64;
        if !self.may_move(slot) {
            return;
        }
        let volume = self.servers.volume(slot);
        let after = volume.needed_cursor.map_or(Bound::Unbounded, Bound::Excluded);
        let part: Vec<ChunkId> = volume.needed.range((after, Bound::Unbounded)).take(EXAMINED_MAX).copied().collect();
        let mut cursor = if part.len() < EXAMINED_MAX { None } else { part.last().copied() };
        let mut last = None;
        for chunk in part {
            if !self.may_move(slot) {
                cursor = last;
                break;
            }
            self.copy_elsewhere(chunk);
            last = Some(chunk);
        }
        self.servers.volume_mut(slot).needed_cursor = cursor;
    }

    /// Whether one more move may begin that reads from or writes to the volume.
    pub(super) fn may_move(&self, slot: u16) -> bool {
        self.servers.volume(slot).repairs < self.config.repairs_per_volume.div_ceil(2) && self.is_in_pace(slot)
    }

    fn copy_elsewhere(&mut self, chunk: ChunkId) {
        let Some(entry) = self.entries.get(&chunk) else { return };
        // With too few live copies it is repair's, and with too many one goes first.
        let standing = entry.counted.is_some_and(|counted| counted.live >= counted.goal);
        if !standing || entry.is_repairing() || self.orders.is_paused(chunk) || self.cleanup.contains(&chunk) {
            return;
        }
        let Some(target) = self.place_elsewhere(chunk).filter(|slot| self.may_move(*slot)) else { return };
        self.copy_or_ask_back(chunk, target);
    }

    /// A volume that stays for one more copy: on a server that has none, else on one that has it only on volumes that are
    /// being drained.
    fn place_elsewhere(&self, chunk: ChunkId) -> Option<u16> {
        let entry = self.entries.get(&chunk)?;
        let staying = |slot: &u16| !self.servers.volume(*slot).is_draining();
        let server = |slot: u16| self.servers.volume(slot).server;
        let slots: Vec<u16> = entry.copies().iter().map(|copy| copy.slot).collect();
        let beside: Vec<u16> =
            slots.iter().copied().filter(|slot| staying(slot) && self.servers.volume(*slot).counts).collect();
        let making: Vec<ServerId> = self.orders.making(chunk).collect();
        let holders = |slots: &mut dyn Iterator<Item = u16>| -> Vec<ServerId> {
            slots.map(server).chain(making.iter().copied()).collect()
        };
        let all = holders(&mut slots.iter().copied());
        let elsewhere = self.choose_slots(1, &all, &beside, Room::Staying);
        elsewhere.first().copied().or_else(|| {
            let others = holders(&mut slots.iter().copied().filter(staying));
            self.choose_slots(1, &others, &beside, Room::Staying).first().copied()
        })
    }

    /// Looks at how fast volumes are emptied.
    pub(super) fn watch_drains(&mut self) {
        let slots: Vec<u16> = self.servers.draining().map(|(slot, _)| slot).collect();
        for slot in slots {
            let now = self.now;
            let volume = self.servers.volume_mut(slot);
            let left = Left { copies: volume.chunks.len() as u64, bytes: volume.bytes };
            volume.pace.look(now, left);
        }
    }

    /// How far the drain of the volume is, if it is being drained.
    pub(super) fn drain_view(&self, slot: u16) -> Option<DrainView> {
        let volume = self.servers.volume(slot);
        let drained = match (volume.drain, volume.counts) {
            (Drain::No, _) => return None,
            // Whoever hears it takes the volume away: the next master has to know it as well.
            (on_record, here) => on_record == Drain::Noted && (!here || self.is_emptied(slot)),
        };
        Some(DrainView {
            drained,
            chunks_left: volume.chunks.len() as u64,
            bytes_left: volume.bytes,
            kept: self.orphans_on(slot).count() as u64,
            time_left: volume.pace.time_left().filter(|_| !drained),
            with_server: self.servers.marks.servers.contains(&volume.server),
            hindrance: if drained { None } else { self.drain_hindrance(slot) },
        })
    }

    fn drain_hindrance(&self, slot: u16) -> Option<DrainHindrance> {
        const EXAMINED_MAX: usize = 32;
        let volume = self.servers.volume(slot);
        if !volume.counts {
            return Some(DrainHindrance::NotHere);
        }
        let first = volume.needed.iter().take(EXAMINED_MAX).chain(volume.chunks.iter().take(EXAMINED_MAX));
        let stuck = first.copied().find_map(|chunk| self.stuck_on(volume, chunk));
        let wait = || self.repairs_wait().filter(|_| !volume.needed.is_empty()).map(DrainHindrance::Wait);
        stuck.or_else(wait)
    }

    /// What keeps the chunk from leaving the volume for as long as nothing else changes.
    fn stuck_on(&self, volume: &Volume, chunk: ChunkId) -> Option<DrainHindrance> {
        let entry = self.entries.get(&chunk).filter(|entry| !entry.is_doomed())?;
        if entry.is_repairing() || self.cleanup.contains(&chunk) {
            return None;
        }
        let live = self.live_servers(entry);
        if live == 0 {
            return Some(DrainHindrance::NoGoodCopy(chunk));
        }
        let has_place = match volume.needed.contains(&chunk) {
            true => self.place_elsewhere(chunk).is_some(),
            // A useless copy goes once the others are complete.
            false => live >= entry.goal() || self.repair_place(chunk).is_some(),
        };
        let (connected, full) = self.connected_and_full();
        (!has_place).then(|| DrainHindrance::NoPlace { chunk, goal: entry.goal(), connected, full })
    }
}

#[cfg(test)]
#[path = "drain_test.rs"]
mod tests;
