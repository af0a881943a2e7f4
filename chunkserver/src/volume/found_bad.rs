//! Which copies were found bad while the volume is in use, and which are to be looked at because somebody says that they are.
//!
//! What was found stands in each inventory, so that a master that starts anew knows it, and is told again each minute by the
//! scrub until the copy is gone. It is not marked in the copy itself: other parts of it may be the last that there are.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rfs_common::ids::{ChunkId, ChunkVersion};

use super::store::Volume;

/// More than that is a dead disk, of which the master is told otherwise.
const FOUND_MAX: usize = 1000;
/// More than these need not be looked at before the scrub comes to them.
const ASKED_MAX: usize = 1000;

/// Both.
#[derive(Debug, Default)]
pub(super) struct FoundBad {
    lists: Mutex<Lists>,
}

#[derive(Debug, Default)]
struct Lists {
    found: BTreeMap<ChunkId, (ChunkVersion, String)>,
    asked: BTreeSet<ChunkId>,
}

impl FoundBad {
    fn lists(&self) -> MutexGuard<'_, Lists> {
        self.lists.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that the copy is bad in this version.
    pub(super) fn add(&self, chunk: ChunkId, version: ChunkVersion, reason: &str) {
        let mut lists = self.lists();
        if version.get() != 0 && lists.found.len() < FOUND_MAX {
            lists.found.insert(chunk, (version, reason.to_owned()));
        }
    }

    /// Whether it was found so.
    pub(super) fn contains(&self, chunk: ChunkId, version: ChunkVersion) -> bool {
        self.lists().found.get(&chunk).is_some_and(|(found, _)| *found == version)
    }
}

impl Volume {
    /// What was found and is still there, as far as known.
    pub(super) fn still_bad(&self) -> Vec<(ChunkId, ChunkVersion, String)> {
        let found = self.found_bad.lists().found.clone();
        let is_there =
            |chunk: ChunkId, version: ChunkVersion| self.known_held(chunk).is_some_and(|held| held.version == version);
        let (still, gone): (Vec<_>, Vec<_>) =
            found.into_iter().partition(|(chunk, (version, _))| is_there(*chunk, *version));
        let mut lists = self.found_bad.lists();
        for (chunk, (version, _)) in gone {
            if lists.found.get(&chunk).is_some_and(|(found, _)| *found == version) {
                lists.found.remove(&chunk);
            }
        }
        still.into_iter().map(|(chunk, (version, reason))| (chunk, version, reason)).collect()
    }

    /// Somebody was given wrong bytes: the copy is to be read from the disk and compared with its hashes soon.
    pub fn ask_to_check(&self, chunk: ChunkId) {
        let mut lists = self.found_bad.lists();
        if lists.asked.len() < ASKED_MAX {
            lists.asked.insert(chunk);
        }
    }

    /// The next of those.
    pub(super) fn take_to_check(&self) -> Option<ChunkId> {
        self.found_bad.lists().asked.pop_first()
    }
}
