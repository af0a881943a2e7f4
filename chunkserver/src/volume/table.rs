//! Which copies a volume has, and the bounded set of those that are open.
//!
//! What always holds: a copy in use by any thread has at most one [`ChunkCopy`], since only one that nobody else holds is
//! evicted, under the table's lock. While a copy is open, it knows better than its entry, which is brought up to date when
//! the copy is evicted.

use std::collections::HashMap;
use std::sync::Arc;

use rfs_common::ids::ChunkId;

use crate::chunk::copy::{ChunkCopy, Held};

/// Entries and open copies.
#[derive(Debug, Default)]
pub struct Table {
    entries: HashMap<ChunkId, Held>,
    open: HashMap<ChunkId, Arc<ChunkCopy>>,
    /// Files whose header cannot be read, with the reason.
    damaged: HashMap<ChunkId, String>,
    /// Copies with the open mark that the last use left, to be closed.
    left_open: Vec<ChunkId>,
}

/// What the table knows of a chunk.
#[derive(Debug)]
pub enum Known {
    /// Nothing.
    Nothing,
    /// An open copy.
    Open(Arc<ChunkCopy>),
    /// A copy that is not open.
    Closed(Held),
    /// A file that is not a copy.
    Damaged(String),
}

impl Table {
    /// What is known of a chunk.
    pub fn find(&self, chunk: ChunkId) -> Known {
        if let Some(copy) = self.open.get(&chunk) {
            return Known::Open(Arc::clone(copy));
        }
        match (self.entries.get(&chunk), self.damaged.get(&chunk)) {
            (Some(held), _) => Known::Closed(*held),
            (None, Some(reason)) => Known::Damaged(reason.clone()),
            (None, None) => Known::Nothing,
        }
    }

    /// Adds a copy that the volume has.
    pub fn add(&mut self, chunk: ChunkId, held: Held) {
        self.damaged.remove(&chunk);
        self.entries.insert(chunk, held);
    }

    /// Notes a copy that is to be closed though nobody has used it yet.
    pub fn add_left_open(&mut self, chunk: ChunkId) {
        self.left_open.push(chunk);
    }

    /// Some copies to be closed.
    pub fn take_left_open(&mut self, count: usize) -> Vec<ChunkId> {
        let rest = self.left_open.len().saturating_sub(count);
        self.left_open.split_off(rest)
    }

    /// Adds a file that is not a copy.
    pub fn add_damaged(&mut self, chunk: ChunkId, reason: String) {
        self.entries.remove(&chunk);
        self.damaged.insert(chunk, reason);
    }

    /// Adds an open copy, unless the chunk is gone or its file was replaced meanwhile, or another thread was faster: gives
    /// the one that counts.
    pub fn add_open(&mut self, copy: ChunkCopy) -> Option<Arc<ChunkCopy>> {
        let chunk = copy.chunk();
        if self.entries.get(&chunk).is_none_or(|held| held.version != copy.held().version) {
            return None;
        }
        Some(Arc::clone(self.open.entry(chunk).or_insert_with(|| Arc::new(copy))))
    }

    /// Forgets a chunk. Gives its copy if it was open.
    pub fn remove(&mut self, chunk: ChunkId) -> Option<Arc<ChunkCopy>> {
        self.entries.remove(&chunk);
        self.damaged.remove(&chunk);
        self.open.remove(&chunk)
    }

    /// How many copies are open.
    pub fn open_count(&self) -> usize {
        self.open.len()
    }

    /// How many copies there are.
    pub fn count(&self) -> usize {
        self.entries.len()
    }

    /// Every open copy.
    pub fn open_copies(&self) -> Vec<Arc<ChunkCopy>> {
        self.open.values().cloned().collect()
    }

    /// Every entry; the open ones are to be asked themselves.
    pub fn entries(&self) -> Vec<(ChunkId, Held, Option<Arc<ChunkCopy>>)> {
        self.entries.iter().map(|(chunk, held)| (*chunk, *held, self.open.get(chunk).cloned())).collect()
    }

    /// Files that are not copies.
    pub fn damaged(&self) -> Vec<(ChunkId, String)> {
        self.damaged.iter().map(|(chunk, reason)| (*chunk, reason.clone())).collect()
    }

    /// Closes the least recently used copies that nobody uses and that are durable, until at most `keep` are open or no
    /// more can go. Gives the oldest one that stayed because it needs a sync.
    pub fn evict(&mut self, keep: usize) -> Option<Arc<ChunkCopy>> {
        let mut by_age: Vec<_> = self.open.values().map(|copy| (copy.used(), copy.chunk())).collect();
        by_age.sort_unstable();
        let mut oldest_unsynced = None;
        for (_, chunk) in by_age {
            if self.open.len() <= keep {
                break;
            }
            let Some(copy) = self.open.get(&chunk) else { continue };
            if Arc::strong_count(copy) > 1 {
                continue;
            }
            if copy.needs_sync() {
                oldest_unsynced.get_or_insert_with(|| Arc::clone(copy));
                continue;
            }
            // Closing is one small write into the page cache; one that fails keeps the copy.
            if copy.is_open_mark_set() && copy.close(copy.generation()).is_err() {
                continue;
            }
            let held = copy.held();
            self.open.remove(&chunk);
            if let Some(entry) = self.entries.get_mut(&chunk) {
                *entry = held;
            }
        }
        oldest_unsynced
    }
}
