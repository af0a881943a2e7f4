//! Gives chunks the copies they lack.
//!
//! Chunks with the fewest live copies come first: while any of them waits for a volume that is at its limits, none with more
//! copies is begun. The limits of each volume are copies at a time and bytes a second. A repair waits until the chunk has lacked a copy for the repair delay
//! (a server that restarts comes back with all its copies), and all repairs wait while servers are still expected after a
//! start, while inventories are coming in, and when most volumes vanished together: that is an outage of something shared,
//! and copying everything to what is left would only add to it.

use std::ops::Bound;
use std::time::Duration;

use rfs_common::clock::Monotonic;
use rfs_common::ids::{ChunkId, ChunkVersion, ServerId, VolumeId};

use super::Chunks;
use super::index::Entry;
use super::orders::Purpose;
use super::placement::Room;
use super::servers::{Drain, Volume};
use super::types::{Order, Place, VolumeState};

/// A writer is asked for its lease once in this time.
const ASK_BACK_AGAIN: Duration = Duration::from_secs(30);
/// A volume may do the repairs of this time in advance, so that small ones run beside each other.
pub(super) const PACE_AHEAD: Duration = Duration::from_secs(1);
/// Chunks that are looked at in one go, and how many of them may wait for a chunkserver that is excused beside them.
const EXAMINED_MAX: usize = 256;
const SEEN_MAX: usize = 4096;
/// Repairs wait for an inventory that is coming in, but not longer than this.
const INVENTORY_WAIT: Duration = Duration::from_secs(60);

/// What became of the look at one chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tried {
    Begun,
    /// The volumes that it needs are at their limits.
    NoVolumeFree,
    /// Nothing that a free volume would change.
    NotNow,
}

impl Chunks {
    /// Orders repairs, a bounded number at a time.
    pub(super) fn schedule_repairs(&mut self) {
        if self.under_goal.is_empty() || self.repairs_wait().is_some() {
            return;
        }
        let excused = self.excused();
        let after = self.repair_cursor.map_or(Bound::Unbounded, Bound::Excluded);
        let mut part = Vec::new();
        let mut last = None;
        let mut rest = self.under_goal.range((after, Bound::Unbounded)).take(SEEN_MAX);
        while let Some((live, chunk)) = rest.next().filter(|_| part.len() < EXAMINED_MAX) {
            if self.repair_class.is_some_and(|class| class < *live) {
                // Volumes that become free are for those in greater need, which are looked at again.
                last = None;
                break;
            }
            last = Some((*live, *chunk));
            let entry = &self.entries[chunk];
            if excused.is_empty() || self.waits_for(entry, *live, &excused).is_none() {
                part.push((*live, *chunk));
            }
        }
        let is_end = last.is_none_or(|last| self.under_goal.last() == Some(&last));
        self.repair_cursor = if is_end { None } else { last };
        if self.repair_cursor.is_none() {
            self.repair_class = None;
        }
        for (live, chunk) in part {
            if self.repair_class.is_some_and(|class| class < live) {
                self.reconsider_repairs();
                break;
            }
            if self.repair(chunk, live) == Tried::NoVolumeFree {
                self.repair_class = Some(live);
            }
        }
    }

    /// Begins the next repairs with those in greatest need again, for example after a volume came or went.
    pub(super) fn reconsider_repairs(&mut self) {
        self.repair_cursor = None;
        self.repair_class = None;
    }

    fn repair(&mut self, chunk: ChunkId, live: u8) -> Tried {
        let Some(entry) = self.entries.get(&chunk) else { return Tried::NotNow };
        // What may be as good as the others is compared first.
        if self.to_compare.contains(chunk) {
            return Tried::NotNow;
        }
        if entry.is_repairing() || self.orders.is_paused(chunk) || !self.is_due(entry.under_since_s, live, entry.goal())
        {
            return Tried::NotNow;
        }
        let Some(target) = self.repair_place(chunk) else {
            if self.is_blocked_by_useless(chunk) {
                self.to_settle.insert(chunk);
            }
            return Tried::NotNow;
        };
        let entry = &self.entries[&chunk];
        let is_written = !entry.is_settled() || self.has_writer(chunk, entry);
        if is_written && self.under_for(entry.under_since_s) < self.config.repair_delay {
            return Tried::NotNow;
        }
        if !self.is_free(target) || !self.is_in_pace(target) {
            return Tried::NoVolumeFree;
        }
        self.copy_or_ask_back(chunk, target)
    }

    /// Whether the volume takes one more repair beside those under way.
    fn is_free(&self, slot: u16) -> bool {
        self.servers.volume(slot).repairs < self.config.repairs_per_volume
    }

    /// Whether the volume has not done more for repairs than it may in this time.
    pub(super) fn is_in_pace(&self, slot: u16) -> bool {
        self.servers.volume(slot).repairs_paced_until <= self.now + PACE_AHEAD
    }

    fn note_pace(&mut self, slot: u16, bytes: u64) {
        let rate = self.config.repair_bytes_per_second;
        if rate > 0 {
            let now = self.now;
            let takes = Duration::from_secs_f64(bytes as f64 / rate as f64);
            let volume = self.servers.volume_mut(slot);
            volume.repairs_paced_until = volume.repairs_paced_until.max(now) + takes;
        }
    }

    /// Has one more copy made, or asks for the lease of whoever writes the chunk first.
    pub(super) fn copy_or_ask_back(&mut self, chunk: ChunkId, target: u16) -> Tried {
        let Some(entry) = self.entries.get(&chunk) else { return Tried::NotNow };
        if !entry.is_settled() || self.has_writer(chunk, entry) {
            let inode = entry.inode();
            let asked = self.asked_back.get(&inode).is_some_and(|asked| self.now.since(*asked) < ASK_BACK_AGAIN);
            if !asked {
                self.asked_back.insert(inode, self.now);
                self.wanted_back.insert(inode);
            }
            return Tried::NotNow;
        }
        let version = ChunkVersion::new(entry.version());
        let mut sources = self.sources(chunk);
        sources.retain(|slot| self.is_in_pace(*slot));
        if sources.is_empty() {
            return Tried::NoVolumeFree;
        }
        self.order_repair(chunk, version, &sources, target);
        Tried::Begun
    }

    fn is_due(&self, under_since_s: u32, live: u8, goal: u8) -> bool {
        self.due_in(under_since_s, live, goal).is_zero()
    }

    /// How much longer a chunk with so many live copies has to lack some before they are made.
    pub(super) fn due_in(&self, under_since_s: u32, live: u8, goal: u8) -> Duration {
        let last_copy = live == 1 && goal > 1;
        let delay = if last_copy { self.config.last_copy_delay } else { self.config.repair_delay };
        delay.saturating_sub(self.under_for(under_since_s))
    }

    fn under_for(&self, under_since_s: u32) -> Duration {
        let since = Duration::from_secs(u64::from(under_since_s.saturating_sub(1)));
        self.now.since(self.started).saturating_sub(since)
    }

    fn sources(&self, chunk: ChunkId) -> Vec<u16> {
        let entry = &self.entries[&chunk];
        let good = entry.copies().iter().filter(|copy| self.is_live_and_good(entry, copy));
        let free = good.filter(|copy| self.is_free(copy.slot));
        let mut slots: Vec<u16> = free.map(|copy| copy.slot).collect();
        slots.sort_by_key(|slot| self.servers.volume(*slot).repairs);
        slots
    }

    /// The volume for one more copy, if it takes another repair now.
    fn repair_target(&self, chunk: ChunkId) -> Option<u16> {
        self.repair_place(chunk).filter(|slot| self.is_free(*slot))
    }

    /// A volume for one more copy: on a server without any, else in the place of a stale copy. A server that holds
    /// such a copy gets the new one on the same volume, so that it never has two. For the last copy, if there is nothing else, a
    /// volume that is being drained.
    pub(super) fn repair_place(&self, chunk: ChunkId) -> Option<u16> {
        let entry = &self.entries[&chunk];
        let slots: Vec<u16> = entry.copies().iter().map(|copy| copy.slot).collect();
        let mut servers: Vec<ServerId> = slots.iter().map(|slot| self.servers.volume(*slot).server).collect();
        servers.extend(self.orders.making(chunk));
        let beside: Vec<u16> = slots.iter().copied().filter(|slot| self.servers.volume(*slot).counts).collect();
        let fresh = self.choose_slots(1, &servers, &beside, Room::Staying).first().copied();
        if fresh.is_some() {
            return fresh;
        }
        let of_its_server = |copy: &super::index::HeldCopy| {
            let server = self.servers.volume(copy.slot).server;
            entry.copies().iter().filter(move |other| self.servers.volume(other.slot).server == server)
        };
        let replaceable = entry.copies().iter().filter(|copy| {
            let useless = |other: &super::index::HeldCopy| !(entry.is_current(other) && other.flags.is_good());
            let nothing_good = of_its_server(copy).all(useless);
            let volume = self.servers.volume(copy.slot);
            let deleting = copy.flags.has(super::index::CopyFlags::DELETING);
            let older = copy.version < entry.version();
            nothing_good && older && volume.keeps_copies() && !deleting
        });
        // Rather where no other volume of the server has one as well.
        let replaceable = replaceable.min_by_key(|copy| of_its_server(copy).count());
        replaceable.map(|copy| copy.slot).or_else(|| {
            let last_copy = self.live_servers(entry) == 1 && entry.goal() > 1;
            let drained_too = || self.choose_slots(1, &servers, &beside, Room::LastResort).first().copied();
            last_copy.then(drained_too).flatten()
        })
    }

    /// Has a copy made that can be written, beside copies on volumes that only serve reads. True: one is being made.
    pub fn add_writable_copy(&mut self, chunk: ChunkId) -> bool {
        let Some(entry) = self.entries.get(&chunk).filter(|entry| !entry.is_doomed() && entry.is_settled()) else {
            return false;
        };
        if entry.is_repairing() {
            return true;
        }
        let read_only = |copy: &super::index::HeldCopy| {
            self.is_live_and_good(entry, copy) && !self.servers.volume(copy.slot).takes_writes()
        };
        let version = ChunkVersion::new(entry.version());
        if self.has_writer(chunk, entry) || self.orders.is_paused(chunk) || !entry.copies().iter().any(read_only) {
            return false;
        }
        let (sources, target) = (self.sources(chunk), self.repair_target(chunk));
        let Some(target) = target.filter(|_| !sources.is_empty()) else { return false };
        self.order_repair(chunk, version, &sources, target);
        true
    }

    /// Whether a bad or suspect copy of the right version stands where a new one could be. Chunkservers replace only copies
    /// that are older: settling the chunk gives the good ones a newer version, and so makes the other one old.
    pub(super) fn is_blocked_by_useless(&self, chunk: ChunkId) -> bool {
        let entry = &self.entries[&chunk];
        let useless = |copy: &super::index::HeldCopy| {
            let writable = self.servers.volume(copy.slot).takes_writes();
            writable && entry.is_current(copy) && !copy.flags.is_good() && copy.flags.is_last_resort()
        };
        entry.is_settled() && entry.copies().iter().any(useless)
    }

    pub(super) fn order_repair(&mut self, chunk: ChunkId, version: ChunkVersion, sources: &[u16], target: u16) {
        let places: Vec<Place> = sources.iter().filter_map(|slot| self.servers.place(*slot)).collect();
        let volume = self.servers.volume(target).id;
        // The first source is the one that will be read from.
        let source = sources[0];
        self.servers.volume_mut(source).repairs += 1;
        self.servers.volume_mut(target).repairs += 1;
        let bytes = self.entries.get(&chunk).map_or(0, Entry::bytes);
        self.note_pace(source, bytes);
        self.note_pace(target, bytes);
        if let Some(entry) = self.entries.get_mut(&chunk) {
            entry.lock_for_repair();
        }
        let order = Order::Replicate { volume, chunk, version, sources: places };
        let deadline = self.config.replicate_deadline;
        self.issue(target, chunk, Purpose::Repair { version, source }, order, deadline);
        self.refresh(chunk);
    }

    /// Whether known servers are still expected after the start.
    pub fn is_waiting_for_servers(&self) -> bool {
        !self.servers.all_inventoried() && self.now.since(self.started) < self.config.startup_wait
    }

    /// Whether the volume is away or stalled and may come back, or has just come and is about to say what it holds.
    pub fn may_come_back(&self, volume: VolumeId) -> bool {
        self.servers.slot(volume).is_some_and(|slot| self.is_expected(self.servers.volume(slot)))
    }

    /// Whether any volume may come back.
    pub fn expects_volumes(&self) -> bool {
        self.is_waiting_for_servers() || self.servers.volumes().any(|(_, volume)| self.is_expected(volume))
    }

    fn is_expected(&self, volume: &Volume) -> bool {
        let server = self.servers.servers.get(&volume.server);
        let away = server.is_some_and(|server| server.stream.is_none());
        // One that is stalled has lost nothing: it waits for a path to its disk.
        let state = volume.report.state;
        !volume.counts
            && !volume.forgotten
            && volume.drain != Drain::Noted
            && (away || state.is_readable() || state == VolumeState::Stalled)
    }

    /// Whether every known volume is there and has said what is on it: a copy that nobody has named is nowhere.
    pub(super) fn is_everything_there(&self) -> bool {
        self.servers.volumes().all(|(_, volume)| volume.counts) && self.servers.volumes().next().is_some()
    }

    /// Why no repair is begun at the moment, in words for people.
    pub(super) fn repairs_wait(&self) -> Option<String> {
        if self.is_waiting_for_servers() {
            return Some("the master has just started and waits for the chunkservers it knows".to_owned());
        }
        if let Some(path) = self.inventory_coming_in() {
            return Some(format!("the inventory of {path} is coming in"));
        }
        self.mass_disappearance()
    }

    fn inventory_coming_in(&self) -> Option<String> {
        self.servers.servers.values().find_map(|server| {
            let registered = server.registered.filter(|_| server.stream.is_some())?;
            let mut volumes = server.slots.iter().map(|slot| self.servers.volume(*slot));
            let waiting = volumes.find(|volume| volume.report.state.is_readable() && !volume.counts)?;
            (self.now.since(registered) < INVENTORY_WAIT).then(|| format!("{} of {}", waiting.report.path, server.host))
        })
    }

    fn mass_disappearance(&self) -> Option<String> {
        // What was drained, or announced, goes away on purpose.
        let excused: Vec<ServerId> = self.excused().into_iter().map(|one| one.server).collect();
        let expected = || {
            let volumes = self.servers.volumes().map(|(_, volume)| volume);
            volumes.filter(|volume| volume.drain != Drain::Noted && !excused.contains(&volume.server))
        };
        let known = expected().count();
        let away = || expected().filter(|volume| !volume.counts);
        let last = away().filter_map(|volume| volume.vanished).max()?;
        // Those that went one by one have nothing shared to blame, and are repaired one by one.
        let together = |vanished: Monotonic| last.since(vanished) < self.config.mass_window;
        let away: Vec<_> = away().filter(|volume| volume.vanished.is_some_and(together)).collect();
        let passed = self.now.since(last);
        if passed >= self.config.mass_wait {
            return None;
        }
        let mut servers: Vec<ServerId> = away.iter().map(|volume| volume.server).collect();
        servers.sort_unstable();
        servers.dedup();
        let most = away.len() * 2 > known && servers.len() >= 2;
        let machine = self.vanished_storage_machine(&excused);
        if !most && machine.is_none() {
            return None;
        }
        let what = match machine {
            Some(name) => format!("all volumes of the storage machine {name}"),
            None => format!("{} of {known} volumes", away.len()),
        };
        let left_s = (self.config.mass_wait - passed).as_secs();
        Some(format!(
            "{what} vanished together, which looks like the outage of something shared (repairs begin in {left_s} s)"
        ))
    }

    /// A storage machine with volumes on several servers, none of which counts.
    fn vanished_storage_machine(&self, excused: &[ServerId]) -> Option<String> {
        let mut machines: std::collections::BTreeMap<&str, (bool, Vec<ServerId>)> = std::collections::BTreeMap::new();
        let on_purpose = |volume: &Volume| volume.drain == Drain::Noted || excused.contains(&volume.server);
        for (_, volume) in self.servers.volumes().filter(|(_, volume)| !on_purpose(volume)) {
            let Some(name) = volume.storage_machine() else { continue };
            let (any_counts, servers) = machines.entry(name).or_default();
            *any_counts |= volume.counts;
            if !servers.contains(&volume.server) {
                servers.push(volume.server);
            }
        }
        let gone = machines.into_iter().find(|(_, (any_counts, servers))| !any_counts && servers.len() >= 2);
        gone.map(|(name, _)| name.to_owned())
    }
}

#[cfg(test)]
#[path = "repair_test.rs"]
mod tests;
