//! Chunkservers whose absence is expected: what they hold is not made anew while they are *excused*.
//!
//! An administrator says beforehand that a chunkserver goes away for a while (maintenance), or it says so itself when it is
//! stopped: most that are stopped are started again in a moment. A chunk waits for such a server
//! only if it then has its goal: each excused server that holds, or may hold, a good copy of the chunk stands for one copy,
//! and a chunk that lacks more gets what is lacking beyond that. A writer waits for nobody: it gets the copies that it needs.
//!
//! While the time runs, other places are preferred for new copies. What always holds: nobody is excused for ever.

use std::time::Duration;

use rfs_common::clock::Monotonic;
use rfs_common::ids::{ChunkId, ServerId};

use super::Chunks;
use super::index::{CopyFlags, Entry};
use super::servers::Server;

/// Until when a chunkserver may be away without its copies being made anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Maintenance {
    /// On this master's clock.
    pub until: Monotonic,
    /// The same in seconds since 1970, for the record.
    pub until_s: i64,
}

/// Why a chunkserver may be away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Excuse {
    /// An administrator said so.
    Maintenance,
    /// It said goodbye.
    CleanStop,
}

/// A chunkserver that is away, and whose copies are waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Excused {
    /// The chunkserver.
    pub server: ServerId,
    /// Its machine.
    pub host: String,
    /// Why.
    pub why: Excuse,
    /// For how much longer.
    pub left: Duration,
}

impl Chunks {
    /// How long the maintenance of a chunkserver lasts, if there is one.
    pub fn maintenance(&self, server: ServerId) -> Option<Maintenance> {
        self.servers.marks.maintenance.get(&server).copied()
    }

    /// That was changed, or read from the record at the start.
    pub fn set_maintenance(&mut self, server: ServerId, maintenance: Option<Maintenance>) {
        match maintenance {
            Some(maintenance) => self.servers.marks.maintenance.insert(server, maintenance),
            None => self.servers.marks.maintenance.remove(&server),
        };
        self.reconsider_repairs();
    }

    /// Chunkservers whose maintenance is over.
    pub fn maintenance_over(&self) -> Vec<ServerId> {
        let all = self.servers.marks.maintenance.iter();
        all.filter(|(_, maintenance)| maintenance.until <= self.now).map(|(server, _)| *server).collect()
    }

    /// Chunks whose only good copy that is live is on this chunkserver: nobody can read them while it is away.
    pub fn only_live_on(&self, server: ServerId) -> Vec<ChunkId> {
        let slots = self.servers.servers.get(&server).map_or(&[][..], |server| &server.slots);
        let mut chunks: Vec<ChunkId> =
            slots.iter().flat_map(|slot| self.servers.volume(*slot).chunks.iter().copied()).collect();
        chunks.retain(|chunk| {
            let Some(entry) = self.entries.get(chunk).filter(|entry| !entry.is_doomed()) else { return false };
            let here = entry.copies().iter().filter(|copy| slots.contains(&copy.slot));
            self.live_servers(entry) == 1 && here.into_iter().any(|copy| self.is_live_and_good(entry, copy))
        });
        chunks.sort_unstable();
        chunks.dedup();
        chunks
    }

    /// Until when the server is excused, if it is away and is, and why.
    fn excused_until(&self, server: &Server) -> Option<(Monotonic, Excuse)> {
        let maintenance = self.maintenance(server.id).map(|maintenance| (maintenance.until, Excuse::Maintenance));
        let stopped = server.stopped.map(|stopped| (stopped + self.config.clean_stop_wait, Excuse::CleanStop));
        let excuses = maintenance.into_iter().chain(stopped);
        let longest = excuses.max_by_key(|(until, _)| *until)?;
        (server.stream.is_none() && longest.0 > self.now).then_some(longest)
    }

    /// All that are excused now.
    pub fn excused(&self) -> Vec<Excused> {
        let each = self.servers.servers.values().filter_map(|server| {
            let (until, why) = self.excused_until(server)?;
            Some(Excused { server: server.id, host: server.host.clone(), why, left: self.now.until(until) })
        });
        each.collect()
    }

    /// Those of the excused servers that make the chunk wait, if they are enough for its goal: the one that takes longest.
    pub(super) fn waits_for<'a>(&self, entry: &Entry, live: u8, excused: &'a [Excused]) -> Option<&'a Excused> {
        let holders: Vec<&Excused> = excused.iter().filter(|one| self.may_hold(entry, one.server)).collect();
        let enough = usize::from(live) + holders.len() >= usize::from(entry.goal());
        holders.into_iter().max_by_key(|one| one.left).filter(|_| enough)
    }

    /// Whether the server, which is away, has a good copy, or has not said what it holds since the master started.
    fn may_hold(&self, entry: &Entry, server: ServerId) -> bool {
        let good = |slot: u16| {
            let copy = entry.copy_on(slot);
            copy.is_some_and(|copy| entry.is_current(copy) && !copy.flags.has(CopyFlags::BAD))
        };
        let slots = self.servers.servers.get(&server).map_or(&[][..], |server| &server.slots);
        slots.iter().any(|slot| good(*slot) || !self.servers.volume(*slot).was_inventoried)
    }
}

#[cfg(test)]
#[path = "excuse_test.rs"]
mod tests;
