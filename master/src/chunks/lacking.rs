//! Chunks that lack copies, one by one: where copies of them still are, and why none is made.

use rfs_common::ids::{ChunkId, InodeId};

use super::Chunks;
use super::excuse::Excused;
use super::index::Entry;
use super::view::{CopyState, CopyView};

/// Why a chunk has not got its missing copies back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hindrance {
    /// Nothing can be copied: no copy is live.
    NoLiveCopy,
    /// A copy is being made.
    BeingMade,
    /// A client writes the chunk; it is asked to give it back first.
    BeingWritten,
    /// Another copy is on an older image of its volume, and compared with those that are good first.
    BeingCompared,
    /// No repair is begun at the moment, for this reason.
    RepairsWait(String),
    /// A chunkserver that has a copy is away on purpose, and is waited for.
    Excused(Excused),
    /// It lacked copies only just now; in this many seconds they are made.
    Delay(u64),
    /// No volume can take another copy: every chunkserver that is there has one, or has no room.
    NoPlace {
        /// Chunkservers that are connected.
        connected: usize,
        /// Volumes on them without room.
        full: usize,
    },
    /// Copies were ordered and could not be made.
    Failing {
        /// So often in succession.
        times: u32,
        /// Where to and why, the last time.
        reason: String,
    },
    /// Nothing stands in the way: it waits for its turn.
    Queued,
}

/// A copy that could not be made so often in succession is not about to be made.
const FAILURES_MIN: u32 = 2;

/// A chunk with fewer live copies than its goal.
#[derive(Debug, Clone)]
pub struct LackingChunk {
    /// The chunk.
    pub chunk: ChunkId,
    /// The file it belongs to.
    pub inode: InodeId,
    /// How many copies it is to have.
    pub goal: u8,
    /// On how many servers a good copy is live.
    pub live: u8,
    /// All copies that are known, live or not.
    pub copies: Vec<CopyView>,
    /// Why there are not more.
    pub hindrance: Hindrance,
}

impl Chunks {
    /// Chunks that lack copies, those with the fewest first.
    pub fn lacking(&self, limit: usize) -> Vec<LackingChunk> {
        let without = self.unavailable.iter();
        let with_some = self.under_goal.iter().map(|(_, chunk)| chunk);
        without.chain(with_some).take(limit).filter_map(|chunk| self.lacking_chunk(*chunk)).collect()
    }

    /// One of the chunks whose copies are not made by themselves: there is no volume that takes them, or making them fails.
    pub fn stuck(&self) -> Option<LackingChunk> {
        const EXAMINED_MAX: usize = 32;
        let failing = self.orders.failing().filter(|(_, failure)| failure.times >= FAILURES_MIN);
        let failing = failing.min_by_key(|(chunk, _)| *chunk).and_then(|(chunk, _)| self.lacking_chunk(chunk));
        if failing.is_some() {
            return failing;
        }
        let first = self.under_goal.iter().take(EXAMINED_MAX);
        let mut lacking = first.filter_map(|(_, chunk)| self.lacking_chunk(*chunk));
        lacking.find(|chunk| matches!(chunk.hindrance, Hindrance::NoPlace { .. }))
    }

    /// Whether those without a live copy, as far as some of them show, have copies on volumes that are here, all of which are bad.
    pub fn unavailable_are_bad(&self) -> bool {
        const EXAMINED_MAX: usize = 64;
        let is_bad = |chunk: &ChunkId| {
            let copies = self.copies(*chunk);
            let state = |wanted: CopyState| copies.iter().any(|copy| copy.state == wanted);
            state(CopyState::Bad) && !state(CopyState::Away)
        };
        !self.unavailable.is_empty() && self.unavailable.iter().take(EXAMINED_MAX).all(is_bad)
    }

    fn lacking_chunk(&self, chunk: ChunkId) -> Option<LackingChunk> {
        let entry = self.entries.get(&chunk)?;
        let live = self.live_servers(entry);
        Some(LackingChunk {
            chunk,
            inode: entry.inode(),
            goal: entry.goal(),
            live,
            copies: self.copies(chunk),
            hindrance: self.hindrance(chunk, entry, live),
        })
    }

    fn hindrance(&self, chunk: ChunkId, entry: &Entry, live: u8) -> Hindrance {
        if live == 0 {
            return Hindrance::NoLiveCopy;
        }
        if let Some(failure) = self.orders.failure(chunk).filter(|failure| failure.times >= FAILURES_MIN) {
            return Hindrance::Failing { times: failure.times, reason: failure.reason.clone() };
        }
        if entry.is_repairing() {
            return Hindrance::BeingMade;
        }
        if self.to_compare.contains(chunk) {
            return Hindrance::BeingCompared;
        }
        if let Some(excused) = self.waits_for(entry, live, &self.excused()) {
            return Hindrance::Excused(excused.clone());
        }
        if self.is_waiting_for_servers()
            && let Some(reason) = self.repairs_wait()
        {
            return Hindrance::RepairsWait(reason);
        }
        if self.repair_place(chunk).is_none() && !self.is_blocked_by_useless(chunk) {
            return self.no_place();
        }
        if let Some(reason) = self.repairs_wait() {
            return Hindrance::RepairsWait(reason);
        }
        let due_in = self.due_in(entry.under_since_s, live, entry.goal());
        if !due_in.is_zero() {
            return Hindrance::Delay(due_in.as_secs() + 1);
        }
        if !entry.is_settled() || self.writers.contains_key(&chunk) {
            return Hindrance::BeingWritten;
        }
        Hindrance::Queued
    }

    fn no_place(&self) -> Hindrance {
        let (connected, full) = self.connected_and_full();
        Hindrance::NoPlace { connected, full }
    }
}
