//! Where the copies of every chunk are, and what to do about it: the chunk table's second half, which lives in memory only.
//!
//! The metadata says which chunks exist, at which version and with which goal ([`ChunkInfo`]); chunkservers say which
//! copies they hold. [`Chunks`] brings the two together: it knows which copies are current and live, places new chunks,
//! locks chunks between writers and repairs, orders copies to be raised, fetched and deleted, and keeps the counters of
//! the status page. It does no IO and asks no clock: events go in with the time, commands are taken out
//! ([`Chunks::take_commands`]).
//!
//! What always holds: a copy that is not current is never among [`Chunks::places`]; no order puts a second copy on a
//! server; a copy is ordered away only while at least goal other current copies are live; only settled chunks without
//! a writer are replicated by repair; the counters equal a recount of everything.
//!
//! One lock of the engine guards the whole; every method is short, except those that change whether a volume counts,
//! which touch each of its chunks once.

pub mod types;

mod astray;
mod balance;
mod cluster_events;
mod counters;
mod deletion;
mod drain;
mod excuse;
mod index;
mod lacking;
mod orders;
mod pace;
mod placement;
mod repair;
mod servers;
mod settle;
mod standing;
mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use rfs_common::clock::Monotonic;
use rfs_common::ids::{ChunkId, ChunkVersion, Goal, InodeId, ServerId, SessionId, VolumeId};
use rfs_common::random::SharedRandom;

pub use self::astray::{AstrayCopies, Judgement, ReturnedView};
pub use self::balance::BalanceView;
pub use self::cluster_events::InventoryPart;
pub use self::counters::Summary;
pub use self::drain::{DrainHindrance, DrainMark, DrainView};
pub use self::excuse::{Excuse, Excused, Maintenance};
pub use self::lacking::{Hindrance, LackingChunk};
pub use self::servers::{Signal, Traffic};
pub use self::settle::{SettleCandidate, SettleView};
pub use self::types::{
    ChunkInfo, ChunksConfig, Command, CommandId, CommandResult, CopyFault, Held, NoSpace, Notice, Order, OrderId,
    Outcome, Place, RaiseOf, Registration, RegistrationRefusal, ScrubReport, Severity, StreamId, VolumeReport,
    VolumeState, WriteRefusal,
};
pub use self::view::{CopyState, CopyView, ServerView, VolumeView};

use self::astray::{Epochs, ToCompare};
use self::balance::Balance;
use self::counters::Counters;
use self::deletion::Orphans;
use self::index::{ChunkMap, CopyFlags, Entry};
use self::orders::Orders;
use self::pace::Pace;
use self::servers::Servers;

/// Where the copies of every chunk are. See the module's page.
#[derive(Debug)]
pub struct Chunks {
    config: ChunksConfig,
    random: SharedRandom,
    /// The time of the latest event.
    now: Monotonic,
    started: Monotonic,
    entries: ChunkMap<Entry>,
    writers: ChunkMap<SessionId>,
    servers: Servers,
    orders: Orders,
    orphans: Orphans,
    counters: Counters,
    /// Chunks with at least one live copy but fewer than their goal, fewest live copies first.
    under_goal: BTreeSet<(u8, ChunkId)>,
    /// Chunks without a live copy.
    unavailable: BTreeSet<ChunkId>,
    /// Chunks with a copy that should go: stale, bad, superfluous, or of a freed chunk.
    cleanup: BTreeSet<ChunkId>,
    /// Freed chunks whose copies are not all known to be gone.
    doomed: BTreeSet<ChunkId>,
    /// Those of which no copy is known any more.
    copyless: BTreeSet<ChunkId>,
    /// How many chunks of `cleanup` are not freed.
    surplus: usize,
    /// Settled chunks all of whose live copies are suspect, or whose repair a bad copy stands in the way of, or of which a
    /// power cut may have left no copy.
    to_settle: BTreeSet<ChunkId>,
    /// Where the last look for work stopped, so that what cannot be helped does not keep the rest waiting.
    repair_cursor: Option<(u8, ChunkId)>,
    /// Chunks with so many live copies waited for volumes to be free in this look: those with more come after them.
    repair_class: Option<u8>,
    /// How fast chunks get the copies that they lack.
    pace: Pace,
    balance: Balance,
    cleanup_cursor: Option<ChunkId>,
    /// See [`Chunks::take_left_open`].
    left_open: BTreeSet<ChunkId>,
    /// When an inode's lease was last asked back, so that a writer is not asked all the time.
    asked_back: BTreeMap<InodeId, Monotonic>,
    wanted_back: BTreeSet<InodeId>,
    /// The highest version above the record's that a copy of the chunk was named with.
    newer: BTreeMap<ChunkId, u32>,
    notices: Vec<Notice>,
    /// Ids from here on were never given out by this metadata; copies with such ids are never deleted.
    next_chunk: ChunkId,
    /// Nor were these, below it: from the first to the one before the second.
    passed_over: BTreeMap<ChunkId, ChunkId>,
    /// Files that a writer from before the start of the master goes on with: which of their chunks it writes is not known.
    written_on: BTreeSet<InodeId>,
    /// Those of their chunks that the writer has asked for since: `writers` says whether it writes them.
    asked_anew: BTreeSet<(InodeId, ChunkId)>,
    /// Chunks committed by such writers whose copies are looked for on every volume that has not said what it holds yet.
    sought: BTreeSet<ChunkId>,
    epochs: Epochs,
    to_compare: ToCompare,
}

impl Chunks {
    /// No chunks, no servers.
    pub fn new(config: ChunksConfig, random: SharedRandom, now: Monotonic) -> Chunks {
        let first_command = random.u64() >> 16;
        Chunks {
            config,
            random,
            now,
            started: now,
            entries: ChunkMap::default(),
            writers: ChunkMap::default(),
            servers: Servers::default(),
            orders: Orders::starting_at(first_command),
            orphans: Orphans::default(),
            counters: Counters::default(),
            under_goal: BTreeSet::new(),
            unavailable: BTreeSet::new(),
            cleanup: BTreeSet::new(),
            doomed: BTreeSet::new(),
            copyless: BTreeSet::new(),
            surplus: 0,
            to_settle: BTreeSet::new(),
            repair_cursor: None,
            repair_class: None,
            pace: Pace::default(),
            balance: Balance::default(),
            cleanup_cursor: None,
            left_open: BTreeSet::new(),
            asked_back: BTreeMap::new(),
            wanted_back: BTreeSet::new(),
            newer: BTreeMap::new(),
            notices: Vec::new(),
            next_chunk: ChunkId::new(0),
            passed_over: BTreeMap::new(),
            written_on: BTreeSet::new(),
            asked_anew: BTreeSet::new(),
            sought: BTreeSet::new(),
            epochs: Epochs::default(),
            to_compare: ToCompare::default(),
        }
    }

    /// The settings it works by.
    pub fn config(&self) -> &ChunksConfig {
        &self.config
    }

    // ------------------------------------------------------------------ what the metadata says

    /// A chunk record read when the master started.
    pub fn load(&mut self, chunk: ChunkId, info: ChunkInfo) {
        self.created(chunk, info);
    }

    /// The id that the next new chunk will get, known at the start. Copies with this id or a higher one are never deleted.
    pub fn set_next_chunk(&mut self, next: ChunkId) {
        self.next_chunk = self.next_chunk.max(next);
    }

    /// Ids that a start of the master has left out: like those above the next one, nobody was given them.
    pub fn passed_over(&mut self, ids: Range<ChunkId>) {
        self.passed_over.insert(ids.start, ids.end);
    }

    /// Whether this metadata has given out the id, as far as it remembers.
    pub(crate) fn was_given_out(&self, chunk: ChunkId) -> bool {
        let below = self.passed_over.range(..=chunk).next_back();
        chunk < self.next_chunk && below.is_none_or(|(_, end)| chunk >= *end)
    }

    /// A session has taken back its WRITE lease on the file after the start of the master, and may go on with any of its
    /// chunks: they are neither repaired nor are copies of them deleted.
    pub fn is_written_on(&mut self, inode: InodeId) {
        self.written_on.insert(inode);
    }

    /// The lease is down.
    pub fn is_not_written_on(&mut self, inode: InodeId) {
        self.written_on.remove(&inode);
        let asked: Vec<ChunkId> = self
            .asked_anew
            .range((inode, ChunkId::new(0))..=(inode, ChunkId::new(u64::MAX)))
            .map(|(_, chunk)| *chunk)
            .collect();
        for chunk in asked {
            self.asked_anew.remove(&(inode, chunk));
        }
    }

    /// Whether somebody may be writing the chunk.
    fn has_writer(&self, chunk: ChunkId, entry: &Entry) -> bool {
        let inode = entry.inode();
        self.writers.contains_key(&chunk)
            || (self.written_on.contains(&inode) && !self.asked_anew.contains(&(inode, chunk)))
    }

    /// A chunk record was made.
    pub fn created(&mut self, chunk: ChunkId, info: ChunkInfo) {
        self.next_chunk = self.next_chunk.max(chunk.next());
        if self.entries.contains_key(&chunk) {
            return self.changed(chunk, info);
        }
        self.entries.insert(chunk, Entry::new(info));
        self.refresh(chunk);
    }

    /// A chunk record was changed: versions, goal or owner. When it becomes settled at the version that was granted, the
    /// places of the grant are its current copies.
    pub fn changed(&mut self, chunk: ChunkId, info: ChunkInfo) {
        let Some(entry) = self.entries.get_mut(&chunk) else {
            return self.created(chunk, info);
        };
        let blind = !entry.is_settled() && !entry.knows_grant();
        let granted_slots = entry.set_info(info);
        self.servers.grants_ended(&granted_slots);
        self.refresh(chunk);
        if blind && info.is_settled() {
            self.find_copies(chunk);
        }
    }

    /// Asks for the copies of a chunk that was committed by a writer whose places are not known since the master
    /// restarted: the writer may have raised or even created copies after their volume's inventory, or while it came in.
    fn find_copies(&mut self, chunk: ChunkId) {
        let slots: Vec<u16> =
            self.servers.volumes().filter(|(_, volume)| volume.counts).map(|(slot, _)| slot).collect();
        for slot in slots {
            self.seek(chunk, slot);
        }
        if self.servers.volumes().any(|(_, volume)| !volume.counts) {
            self.sought.insert(chunk);
        }
    }

    /// Asks one volume for such a chunk, unless enough copies are known. Says whether there still are too few.
    fn seek(&mut self, chunk: ChunkId, slot: u16) -> bool {
        let Some(entry) = self.entries.get(&chunk).filter(|entry| !entry.is_doomed()) else { return false };
        let version = entry.version();
        if self.live_servers(entry) >= entry.goal() || version == 0 {
            return false;
        }
        if !entry.copy_on(slot).is_some_and(|copy| entry.is_current(copy)) {
            self.probe(slot, chunk, version);
        }
        true
    }

    /// The volume has said what it holds, which may be older than what is sought.
    fn seek_on(&mut self, slot: u16) {
        let sought: Vec<ChunkId> = self.sought.iter().copied().collect();
        for chunk in sought {
            if !self.seek(chunk, slot) {
                self.sought.remove(&chunk);
            }
        }
        if self.servers.volumes().all(|(_, volume)| volume.counts) {
            self.sought.clear();
        }
    }

    /// The last reference to the chunk is gone: its record became a deletion entry. Its copies are deleted;
    /// [`Chunks::removed_everywhere`] says when the entry can go.
    pub fn freed(&mut self, chunk: ChunkId) {
        self.next_chunk = self.next_chunk.max(chunk.next());
        self.writers.remove(&chunk);
        let info = ChunkInfo::of_freed();
        let entry = self.entries.entry(chunk).or_insert_with(|| Entry::new(info));
        let granted_slots = entry.doom();
        self.servers.grants_ended(&granted_slots);
        self.doomed.insert(chunk);
        self.refresh(chunk);
    }

    /// A deletion entry read when the master started.
    pub fn load_freed(&mut self, chunk: ChunkId) {
        self.freed(chunk);
    }

    /// So many bytes of the chunk are valid, as a record says.
    pub fn has_length(&mut self, chunk: ChunkId, length: u32) {
        let Some(entry) = self.entries.get_mut(&chunk) else { return };
        let before = entry.bytes();
        if !entry.set_length(length) {
            return;
        }
        let after = entry.bytes();
        if let Some(counted) = entry.counted {
            self.counters.remove(counted, before);
            self.counters.add(counted, after);
        }
        for copy in entry.copies() {
            let volume = self.servers.volume_mut(copy.slot);
            volume.bytes = volume.bytes - before + after;
        }
    }

    /// What is known of a chunk's record.
    pub fn info(&self, chunk: ChunkId) -> Option<ChunkInfo> {
        self.entries.get(&chunk).filter(|entry| !entry.is_doomed()).map(Entry::info)
    }

    // ------------------------------------------------------------------ reading

    /// The live current copies, in an order that spreads readers. Where no good copy is live, bad ones of the current
    /// version are offered as the last resort: other parts of them may be whole, and the reader checks hashes. Suspect copies
    /// never are: they may lack acknowledged writes, and are settled first.
    pub fn places(&self, chunk: ChunkId) -> Vec<Place> {
        let Some(entry) = self.entries.get(&chunk).filter(|entry| !entry.is_doomed()) else {
            return Vec::new();
        };
        let readable = |wanted: fn(CopyFlags) -> bool| -> Vec<Place> {
            let copies = entry.copies();
            let usable = copies.iter().filter(|copy| entry.is_current(copy) && wanted(copy.flags));
            usable.filter_map(|copy| self.servers.live_place(copy.slot)).collect()
        };
        let mut places = readable(CopyFlags::is_good);
        if places.is_empty() {
            places = readable(|flags| flags.is_last_resort() && !flags.is_in_doubt());
        }
        self.shuffle(&mut places);
        places
    }

    /// Whether acknowledged bytes may be missing from the chunk's copy on that volume: it was open in a power cut, or the volume is an
    /// older image of itself, and it has not been settled since.
    pub fn is_suspect(&self, chunk: ChunkId, volume: VolumeId) -> bool {
        let copy = self.servers.slot(volume).and_then(|slot| self.entries.get(&chunk)?.copy_on(slot));
        copy.is_some_and(|copy| copy.flags.is_in_doubt())
    }

    // ------------------------------------------------------------------ writing

    /// Places for the copies of a new chunk (or more copies of an old one: then `exclude` names the servers that have
    /// one). At least `copies_min` of the configuration, at most the goal.
    pub fn choose_new(&mut self, goal: Goal, exclude: &[ServerId]) -> Result<Vec<Place>, NoSpace> {
        let needed = usize::from(goal.get()).min(self.config.copies_min).saturating_sub(exclude.len()).max(1);
        self.choose(usize::from(goal.get()).saturating_sub(exclude.len()).max(1), needed, exclude)
    }

    /// Locks an existing chunk for a writer and gives the copies it can write to. The caller logs a new granted version
    /// and tells [`Chunks::granted`], or calls [`Chunks::end_write`].
    pub fn begin_write(&mut self, chunk: ChunkId, session: SessionId) -> Result<Vec<Place>, WriteRefusal> {
        let entry = self.entries.get(&chunk).filter(|entry| !entry.is_doomed()).ok_or(WriteRefusal::NoCopies)?;
        // Who asks does not go on under a grant from before the start. With too few copies for it there have to be more first.
        if self.written_on.contains(&entry.inode()) && self.asked_anew.insert((entry.inode(), chunk)) {
            self.refresh(chunk);
        }
        let entry = self.entries.get(&chunk).ok_or(WriteRefusal::NoCopies)?;
        let other_writer = self.writers.get(&chunk).is_some_and(|writer| *writer != session);
        if other_writer || entry.is_repairing() {
            return Err(WriteRefusal::Busy);
        }
        let current = entry.copies().iter().filter(|copy| entry.is_current(copy) && copy.flags.is_good());
        let mut places: Vec<Place> = current.filter_map(|copy| self.servers.writable_place(copy.slot)).collect();
        if places.is_empty() {
            return Err(WriteRefusal::NoCopies);
        }
        self.shuffle(&mut places);
        self.writers.insert(chunk, session);
        Ok(places)
    }

    /// A version was granted: the copies at these places, and no others, are what the writer writes to. Those of
    /// `version_from` become `version` with its first write; equal versions say that they already have been raised.
    /// For a new chunk, call it after [`Chunks::created`].
    pub fn granted(&mut self, chunk: ChunkId, version_from: ChunkVersion, version: ChunkVersion, places: &[Place]) {
        let slots: Vec<u16> = places.iter().filter_map(|place| self.servers.slot(place.volume)).collect();
        let Some(entry) = self.entries.get_mut(&chunk) else { return };
        let bytes = entry.bytes();
        let before = entry.grant(version_from, version, &slots);
        self.servers.grants_ended(&before);
        self.servers.grants_begun(&slots);
        for slot in slots {
            self.servers.add_chunk(slot, chunk, bytes);
        }
        self.refresh(chunk);
    }

    /// The writer of the chunk is done with it, or gone; the chunk may be repaired once it is settled.
    pub fn end_write(&mut self, chunk: ChunkId) {
        self.writers.remove(&chunk);
        self.refresh(chunk);
    }

    /// The session that writes the chunk.
    pub fn writer(&self, chunk: ChunkId) -> Option<SessionId> {
        self.writers.get(&chunk).copied()
    }

    // ------------------------------------------------------------------ what the engine is to do

    /// Inodes whose write lease stands in the way of a repair: recall them. Each is named once in a while, not each time.
    pub fn wants_back(&mut self) -> Vec<InodeId> {
        std::mem::take(&mut self.wanted_back).into_iter().collect()
    }

    /// Freed chunks of which no copy is left anywhere: their deletion entries can be removed. Tell
    /// [`Chunks::forget_freed`] once that is logged; until then they are named again.
    pub fn removed_everywhere(&self) -> Vec<ChunkId> {
        const AT_ONCE_MAX: usize = 1000;
        if !self.servers.all_inventoried() {
            return Vec::new();
        }
        let gone = |chunk: &&ChunkId| self.orders.making(**chunk).next().is_none();
        self.copyless.iter().filter(gone).take(AT_ONCE_MAX).copied().collect()
    }

    /// The deletion entry of the chunk was removed.
    pub fn forget_freed(&mut self, chunk: ChunkId) {
        if self.doomed.remove(&chunk) {
            self.cleanup.remove(&chunk);
            self.copyless.remove(&chunk);
            self.entries.remove(&chunk);
        }
    }

    /// Some of the chunks with copies that are newer than their records, and the highest version of those; when nobody writes them
    /// and the known servers have said what they hold.
    pub fn with_newer_copies(&self) -> Vec<(ChunkId, ChunkVersion)> {
        const AT_ONCE_MAX: usize = 100;
        if self.newer.is_empty() || self.is_waiting_for_servers() {
            return Vec::new();
        }
        let is_free = |chunk: ChunkId| {
            let entry = self.entries.get(&chunk);
            entry.is_none_or(|entry| !self.has_writer(chunk, entry) && !entry.is_repairing())
        };
        let free = self.newer.iter().filter(|(chunk, _)| is_free(**chunk)).take(AT_ONCE_MAX);
        free.map(|(chunk, version)| (*chunk, ChunkVersion::new(*version))).collect()
    }

    /// The chunk's record is not older than its copies any more.
    pub fn adopted(&mut self, chunk: ChunkId) {
        self.newer.remove(&chunk);
        let slots: Vec<u16> = self
            .entries
            .get(&chunk)
            .into_iter()
            .flat_map(|entry| entry.copies().iter().map(|copy| copy.slot))
            .collect();
        for slot in slots {
            self.orphans.remove(&(slot, chunk));
        }
        self.refresh(chunk);
    }

    /// Settled chunks that need a new version: all of their live copies went through a crash while open, or a bad copy can be
    /// replaced only once it is old. Settle them as if their writer were gone.
    pub fn wants_settling(&self) -> Vec<ChunkId> {
        const AT_ONCE_MAX: usize = 100;
        if self.to_settle.is_empty() || self.is_waiting_for_servers() {
            return Vec::new();
        }
        let repairing = |chunk: &ChunkId| self.entries.get(chunk).is_some_and(Entry::is_repairing);
        let everything_is_there = self.is_everything_there();
        let lost = |chunk: &ChunkId| self.entries.get(chunk).is_some_and(Entry::may_have_lost_all);
        let free = |chunk: &&ChunkId| {
            let waits = self.entries.get(chunk).is_some_and(|entry| self.waits_for_better(entry));
            let possible = (everything_is_there || !lost(chunk)) && !waits;
            possible && !self.writers.contains_key(*chunk) && !repairing(chunk)
        };
        self.to_settle.iter().filter(free).take(AT_ONCE_MAX).copied().collect()
    }

    /// Whether the chunk is settled, and only what a power cut left of it is live.
    pub fn lacks_sound_copies(&self, chunk: ChunkId) -> bool {
        let none_live = |entry: &Entry| entry.counted.is_some_and(|counted| counted.settled && counted.live == 0);
        let entry = self.entries.get(&chunk).filter(|_| self.to_settle.contains(&chunk));
        entry.is_some_and(|entry| none_live(entry) && !self.waits_for_better(entry))
    }

    /// Chunks that a volume named as taking writes in its first inventory since the start, and that were settled then. Their
    /// writers from before the start may have gone on after the commit.
    pub fn take_left_open(&mut self) -> Vec<ChunkId> {
        std::mem::take(&mut self.left_open).into_iter().collect()
    }

    /// What happened that a person should know, since the last call.
    pub fn take_notices(&mut self) -> Vec<Notice> {
        std::mem::take(&mut self.notices)
    }

    fn notice(&mut self, severity: Severity, message: String) {
        const NOTICES_MAX: usize = 1000;
        if self.notices.len() < NOTICES_MAX {
            self.notices.push(Notice { severity, message });
        }
    }

    fn shuffle(&self, places: &mut [Place]) {
        for last in (1..places.len()).rev() {
            places.swap(last, self.random.below(last as u64 + 1) as usize);
        }
    }
}

#[cfg(test)]
mod simulated;

#[cfg(test)]
#[path = "property_test.rs"]
mod property_tests;

#[cfg(test)]
#[path = "chunks_test.rs"]
mod tests;
