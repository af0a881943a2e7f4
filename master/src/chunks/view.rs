//! What is shown of servers, volumes and copies.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use rfs_common::ids::{ChunkId, ChunkVersion, ServerId, VolumeId};

use super::Chunks;
use super::astray::ReturnedView;
use super::counters::Summary;
use super::drain::DrainView;
use super::index::{CopyFlags, Entry, HeldCopy};
use super::servers::{Server, Traffic};
use super::types::VolumeReport;

/// A chunkserver.
#[derive(Debug, Clone)]
pub struct ServerView {
    /// Its id.
    pub server: ServerId,
    /// The machine it runs on.
    pub host: String,
    /// `host:port` of its data port.
    pub address: Arc<str>,
    /// Its program version.
    pub version: String,
    /// Whether it is connected.
    pub connected: bool,
    /// It said that it stops.
    pub leaving: bool,
    /// How long ago it was heard; nothing if not since the master started.
    pub last_heard: Option<Duration>,
    /// How long ago it connected last.
    pub registered: Option<Duration>,
    /// Its volumes.
    pub volumes: Vec<VolumeView>,
    /// It may be away for so much longer without its copies being made anew.
    pub maintenance: Option<Duration>,
    /// All that it has is to be moved away.
    pub draining: bool,
    /// What it has served.
    pub traffic: Traffic,
}

/// A volume.
#[derive(Debug, Clone)]
pub struct VolumeView {
    /// What its server said last.
    pub report: VolumeReport,
    /// Whether its copies count.
    pub counts: bool,
    /// Copies of known chunks on it.
    pub copies: u64,
    /// Its server named it when it registered last, or has not registered yet.
    pub named: bool,
    /// How far it is emptied, if it is to be.
    pub drain: Option<DrainView>,
    /// It is an older image of itself, and not all that is on it has been compared.
    pub astray: bool,
    /// What was found on it, if it is or was one since the master started.
    pub returned: Option<ReturnedView>,
}

impl VolumeView {
    /// The state in words for people: a volume that cannot be asked is away, whatever it said last.
    pub fn state(&self, connected: bool) -> &'static str {
        match (connected, self.counts) {
            (false, _) => "away",
            (true, false) if self.report.state.is_readable() => "taking inventory",
            (true, true) if self.report.state.is_writable() && self.drain.is_some() => {
                if self.drain.as_ref().is_some_and(|drain| drain.drained) { "drained" } else { "draining" }
            }
            (true, _) => self.report.state.text(),
        }
    }
}

/// How a copy is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyState {
    /// Live and right.
    Current,
    /// Being written.
    Writing,
    /// Of an old version.
    Stale,
    /// Newer than the record.
    Newer,
    /// Open in a crash.
    Suspect,
    /// On an older image of its volume, and not compared with others yet.
    Astray,
    /// Gives wrong bytes or none.
    Bad,
    /// On its way out.
    Deleting,
    /// Its volume is not there.
    Away,
}

impl CopyState {
    /// The state in words for people.
    pub fn text(self) -> &'static str {
        match self {
            CopyState::Current => "current",
            CopyState::Writing => "being written",
            CopyState::Stale => "stale",
            CopyState::Newer => "newer than its record",
            CopyState::Suspect => "suspect after a crash",
            CopyState::Astray => "on an older image of its volume",
            CopyState::Bad => "bad",
            CopyState::Deleting => "being deleted",
            CopyState::Away => "away",
        }
    }
}

/// A copy of a chunk.
#[derive(Debug, Clone)]
pub struct CopyView {
    /// Its server.
    pub server: ServerId,
    /// Its volume.
    pub volume: VolumeId,
    /// The machine of the server.
    pub host: String,
    /// Where the volume is mounted.
    pub path: String,
    /// The data port of the server.
    pub address: Arc<str>,
    /// Its version.
    pub version: ChunkVersion,
    /// How it is.
    pub state: CopyState,
}

impl Chunks {
    /// The numbers of the status page; no scan of the chunks.
    pub fn summary(&self) -> Summary {
        let mut summary = self.counters.summary();
        summary.repairs_running = self.orders.repairs_running;
        summary.deletions_waiting = (self.doomed.len() + self.surplus) as u64;
        summary.orphans = self.orphans.len() as u64;
        summary.time_left = self.pace.time_left();
        summary.excused = self.excused();
        summary.balance = self.balance_view();
        summary.repairs_wait = if self.under_goal.is_empty() { None } else { self.repairs_wait() };
        let servers = self.servers.servers.values();
        let connected = servers.clone().filter(|server| server.stream.is_some()).count();
        summary.servers = (servers.count() as u32, connected as u32);
        for (_, volume) in self.servers.volumes() {
            summary.volumes.0 += 1;
            summary.volumes.1 += u32::from(volume.counts);
        }
        summary.space = self.space();
        summary
    }

    /// Bytes of all volumes that count, total and free. Volumes that share a filesystem share its space.
    pub fn space(&self) -> (u64, u64) {
        let (mut total, mut free) = (0_u64, 0_u64);
        let mut shared: HashMap<&str, (u64, u64)> = HashMap::new();
        for (_, volume) in self.servers.volumes().filter(|(_, volume)| volume.counts) {
            let report = &volume.report;
            if report.filesystem.is_empty() {
                (total, free) = (total.saturating_add(report.total), free.saturating_add(report.free));
            } else {
                let known = shared.entry(&report.filesystem).or_default();
                *known = (known.0.max(report.total), known.1.max(report.free));
            }
        }
        shared.values().fold((total, free), |(total, free), (more, more_free)| {
            (total.saturating_add(*more), free.saturating_add(*more_free))
        })
    }

    /// All known servers with their volumes.
    pub fn servers(&self) -> Vec<ServerView> {
        self.servers.servers.values().map(|server| self.server_view(server)).collect()
    }

    /// One server.
    pub fn server(&self, id: ServerId) -> Option<ServerView> {
        self.servers.servers.get(&id).map(|server| self.server_view(server))
    }

    fn server_view(&self, server: &Server) -> ServerView {
        let volumes = server.slots.iter().map(|slot| (*slot, self.servers.volume(*slot)));
        let volumes = volumes.map(|(slot, volume)| VolumeView {
            report: volume.report.clone(),
            counts: volume.counts,
            copies: volume.chunks.len() as u64,
            named: volume.named,
            drain: self.drain_view(slot),
            returned: self.returned_view(slot),
            astray: self.is_astray(slot),
        });
        ServerView {
            server: server.id,
            host: server.host.clone(),
            address: Arc::clone(&server.address),
            version: server.version.clone(),
            connected: server.stream.is_some(),
            leaving: server.leaving,
            last_heard: server.last_heard.map(|heard| self.now.since(heard)),
            registered: server.registered.map(|registered| self.now.since(registered)),
            volumes: volumes.collect(),
            maintenance: self.maintenance(server.id).map(|maintenance| self.now.until(maintenance.until)),
            draining: self.is_server_draining(server.id),
            traffic: server.traffic,
        }
    }

    /// What all known servers have served since the master started.
    pub fn traffic(&self) -> Traffic {
        let mut sum = Traffic::default();
        self.servers.servers.values().for_each(|server| sum += server.traffic);
        sum
    }

    /// All known copies of a chunk, live or not.
    pub fn copies(&self, chunk: ChunkId) -> Vec<CopyView> {
        let Some(entry) = self.entries.get(&chunk) else { return Vec::new() };
        entry.copies().iter().filter_map(|copy| self.copy_view(entry, copy)).collect()
    }

    /// How many distinct servers hold a live, good, current copy.
    pub fn live_copies(&self, chunk: ChunkId) -> u8 {
        self.entries.get(&chunk).map_or(0, |entry| self.live_servers(entry))
    }

    fn copy_view(&self, entry: &Entry, copy: &HeldCopy) -> Option<CopyView> {
        let volume = self.servers.volume(copy.slot);
        let server = self.servers.servers.get(&volume.server)?;
        Some(CopyView {
            server: volume.server,
            volume: volume.id,
            host: server.host.clone(),
            path: volume.report.path.clone(),
            address: Arc::clone(&server.address),
            version: ChunkVersion::new(copy.version),
            state: self.copy_state(entry, copy),
        })
    }

    fn copy_state(&self, entry: &Entry, copy: &HeldCopy) -> CopyState {
        if !self.servers.volume(copy.slot).counts {
            return CopyState::Away;
        }
        if copy.flags.has(CopyFlags::DELETING) {
            return CopyState::Deleting;
        }
        if entry.is_anomaly(copy) {
            return CopyState::Newer;
        }
        if !entry.is_current(copy) {
            return CopyState::Stale;
        }
        if copy.flags.has(CopyFlags::BAD) {
            return CopyState::Bad;
        }
        if copy.flags.has(CopyFlags::ASTRAY) {
            return CopyState::Astray;
        }
        if copy.flags.has(CopyFlags::SUSPECT) {
            return CopyState::Suspect;
        }
        if entry.is_settled() { CopyState::Current } else { CopyState::Writing }
    }
}
