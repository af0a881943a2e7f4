//! The chunkservers and volumes that are known, connected or not.
//!
//! A volume has a small number (slot) for as long as the master runs, so that a chunk's entry can name it in two bytes.
//! A volume *counts* while its server is connected, its inventory is complete and it can be read: only then are the
//! copies on it live.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use rfs_common::clock::Monotonic;
use rfs_common::ids::{ChunkId, ServerId, VolumeId};
use tokio::sync::Notify;

use super::astray::{Astray, ReturnedView, Untold};
use super::drain::Marks;
use super::index::ChunkSet;
use super::pace::Pace;
use super::types::{Command, Place, StreamId, VolumeReport, VolumeState};

/// Wakes whoever sends a server's commands.
#[derive(Debug, Clone, Default)]
pub struct Signal(Arc<Notify>);

impl Signal {
    /// Returns once there may be commands to take.
    pub async fn raised(&self) {
        self.0.notified().await;
    }

    /// Wakes the waiting one, or the next that waits.
    pub fn raise(&self) {
        self.0.notify_one();
    }
}

/// How far a volume's inventory is.
#[derive(Debug)]
pub(super) enum Inventory {
    /// Not begun since the server connected.
    Awaited,
    /// Parts have come; these chunks were in them.
    Receiving(ChunkSet),
    Complete,
}

#[derive(Debug)]
pub(super) struct Volume {
    pub(super) id: VolumeId,
    pub(super) server: ServerId,
    pub(super) report: VolumeReport,
    pub(super) inventory: Inventory,
    /// Its inventory was complete once since the master started, so that its absence says something.
    pub(super) was_inventoried: bool,
    /// Whether copies on it are live; changed only together with the entries of its chunks.
    pub(super) counts: bool,
    pub(super) chunks: ChunkSet,
    /// About how many bytes their copies take here.
    pub(super) bytes: u64,
    /// The same when its last report came.
    pub(super) bytes_at_report: u64,
    /// Grants that include it: writers spread over volumes by this.
    pub(super) grants: u32,
    pub(super) repairs: u32,
    /// Before this moment it takes no more of them, so that their rate stays within the limit.
    pub(super) repairs_paced_until: Monotonic,
    /// The same for moves from full volumes to empty ones.
    pub(super) balance_paced_until: Monotonic,
    pub(super) deletions: u32,
    pub(super) vanished: Option<Monotonic>,
    /// When its inventory was asked for, or expected unasked.
    pub(super) inventory_asked: Option<Monotonic>,
    pub(super) forgotten: bool,
    /// Its server named it when it registered last, or has not registered yet.
    pub(super) named: bool,
    /// Whether an administrator wants nothing on it.
    pub(super) drain: Drain,
    /// While it is being drained: chunks that need their copy here until there is one more elsewhere.
    pub(super) needed: BTreeSet<ChunkId>,
    /// Where the last look for copies to move stopped.
    pub(super) needed_cursor: Option<ChunkId>,
    /// How fast it is emptied.
    pub(super) pace: Pace,
    /// When it was last given an epoch, since it was registered.
    pub(super) epoch_offered: Option<Monotonic>,
    /// It is an older image of itself.
    pub(super) astray: Option<Astray>,
    /// It was one, since the master started.
    pub(super) returned: Option<ReturnedView>,
    pub(super) untold: Untold,
}

/// Whether a volume is to be emptied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Drain {
    No,
    Wanted,
    /// It was empty once since that was wanted, and nothing has been put there: that is on record.
    Noted,
}

impl Volume {
    pub(super) fn takes_new_chunks(&self) -> bool {
        self.has_room() && self.drain == Drain::No
    }

    pub(super) fn has_room(&self) -> bool {
        self.counts && self.report.state == VolumeState::InService && self.report.free > 0
    }

    /// Bytes in use, as its last report says, and with what has come and gone since.
    pub(super) fn used(&self) -> u64 {
        let reported = self.report.total.saturating_sub(self.report.free);
        (reported + self.bytes).saturating_sub(self.bytes_at_report)
    }

    pub(super) fn is_draining(&self) -> bool {
        self.drain != Drain::No
    }

    /// Copies here count for what is to stay when volumes are emptied.
    pub(super) fn keeps_copies(&self) -> bool {
        self.takes_writes() && !self.is_draining()
    }

    pub(super) fn takes_writes(&self) -> bool {
        self.counts && self.report.state.is_writable()
    }

    /// A storage machine counts as a failure domain only where it is known.
    pub(super) fn storage_machine(&self) -> Option<&str> {
        Some(self.report.storage_machine.as_str()).filter(|name| !name.is_empty())
    }
}

#[derive(Debug)]
pub(super) struct Server {
    pub(super) id: ServerId,
    pub(super) host: String,
    pub(super) address: Arc<str>,
    pub(super) version: String,
    pub(super) stream: Option<StreamId>,
    pub(super) signal: Signal,
    pub(super) last_heard: Option<Monotonic>,
    pub(super) registered: Option<Monotonic>,
    pub(super) leaving: bool,
    /// When its stream ended after it had said goodbye, unless it is back.
    pub(super) stopped: Option<Monotonic>,
    pub(super) slots: Vec<u16>,
    pub(super) outbox: VecDeque<Command>,
    pub(super) traffic: Traffic,
}

/// What a server has served, in a heartbeat or since the master started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Reads answered.
    pub reads: u64,
    /// Writes answered.
    pub writes: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub written_bytes: u64,
}

impl std::ops::AddAssign for Traffic {
    fn add_assign(&mut self, other: Traffic) {
        self.reads = self.reads.wrapping_add(other.reads);
        self.writes = self.writes.wrapping_add(other.writes);
        self.read_bytes = self.read_bytes.wrapping_add(other.read_bytes);
        self.written_bytes = self.written_bytes.wrapping_add(other.written_bytes);
    }
}

/// All servers and volumes.
#[derive(Debug, Default)]
pub(super) struct Servers {
    pub(super) servers: BTreeMap<ServerId, Server>,
    volumes: Vec<Volume>,
    slots: HashMap<VolumeId, u16>,
    pub(super) marks: Marks,
}

impl Servers {
    pub(super) fn slot(&self, volume: VolumeId) -> Option<u16> {
        self.slots.get(&volume).copied()
    }

    pub(super) fn volume(&self, slot: u16) -> &Volume {
        &self.volumes[usize::from(slot)]
    }

    pub(super) fn volume_mut(&mut self, slot: u16) -> &mut Volume {
        &mut self.volumes[usize::from(slot)]
    }

    /// Volumes that are known and not forgotten.
    pub(super) fn volumes(&self) -> impl Iterator<Item = (u16, &Volume)> {
        let numbered = self.volumes.iter().enumerate().map(|(index, volume)| (index as u16, volume));
        numbered.filter(|(_, volume)| !volume.forgotten)
    }

    pub(super) fn volume_count(&self) -> usize {
        self.volumes.len()
    }

    pub(super) fn server_mut(&mut self, id: ServerId) -> &mut Server {
        self.servers.entry(id).or_insert_with(|| Server {
            id,
            host: String::new(),
            address: Arc::from(""),
            version: String::new(),
            stream: None,
            signal: Signal::default(),
            last_heard: None,
            registered: None,
            leaving: false,
            stopped: None,
            slots: Vec::new(),
            outbox: VecDeque::new(),
            traffic: Traffic::default(),
        })
    }

    /// The slot of a volume that this server has from now on.
    pub(super) fn adopt(&mut self, server: ServerId, report: VolumeReport) -> u16 {
        let id = report.volume;
        let slot = match self.slot(id) {
            Some(slot) => slot,
            None => self.add_volume(id, server, report.clone()),
        };
        let former = self.volume(slot).server;
        if former != server
            && let Some(former) = self.servers.get_mut(&former)
        {
            former.slots.retain(|other| *other != slot);
        }
        let volume = self.volume_mut(slot);
        volume.server = server;
        volume.report = report;
        volume.forgotten = false;
        volume.named = true;
        self.apply_marks(slot);
        let slots = &mut self.server_mut(server).slots;
        if !slots.contains(&slot) {
            slots.push(slot);
        }
        slot
    }

    fn add_volume(&mut self, id: VolumeId, server: ServerId, report: VolumeReport) -> u16 {
        let slot = u16::try_from(self.volumes.len()).expect("registrations are refused before slots run out");
        self.volumes.push(Volume {
            id,
            server,
            report,
            inventory: Inventory::Awaited,
            was_inventoried: false,
            counts: false,
            chunks: ChunkSet::default(),
            bytes: 0,
            bytes_at_report: 0,
            grants: 0,
            repairs: 0,
            repairs_paced_until: Monotonic::START,
            balance_paced_until: Monotonic::START,
            deletions: 0,
            vanished: None,
            inventory_asked: None,
            forgotten: false,
            named: true,
            drain: Drain::No,
            needed: BTreeSet::new(),
            needed_cursor: None,
            pace: Pace::default(),
            epoch_offered: None,
            astray: None,
            returned: None,
            untold: Untold::default(),
        });
        self.slots.insert(id, slot);
        slot
    }

    pub(super) fn place(&self, slot: u16) -> Option<Place> {
        let volume = self.volume(slot);
        let server = self.servers.get(&volume.server)?;
        Some(Place { server: volume.server, volume: volume.id, address: Arc::clone(&server.address) })
    }

    pub(super) fn live_place(&self, slot: u16) -> Option<Place> {
        self.volume(slot).counts.then(|| self.place(slot)).flatten()
    }

    pub(super) fn writable_place(&self, slot: u16) -> Option<Place> {
        self.volume(slot).takes_writes().then(|| self.place(slot)).flatten()
    }

    /// A copy of so many bytes is on the volume, or will be.
    pub(super) fn add_chunk(&mut self, slot: u16, chunk: ChunkId, bytes: u64) {
        let volume = self.volume_mut(slot);
        if volume.chunks.insert(chunk) {
            volume.bytes += bytes;
        }
    }

    /// It is not there any more.
    pub(super) fn remove_chunk(&mut self, slot: u16, chunk: ChunkId, bytes: u64) {
        let volume = self.volume_mut(slot);
        volume.needed.remove(&chunk);
        if volume.chunks.remove(&chunk) {
            volume.bytes -= bytes;
        }
    }

    pub(super) fn grants_begun(&mut self, slots: &[u16]) {
        for slot in slots {
            self.volume_mut(*slot).grants += 1;
        }
    }

    pub(super) fn grants_ended(&mut self, slots: &[u16]) {
        for slot in slots {
            let volume = self.volume_mut(*slot);
            volume.grants = volume.grants.saturating_sub(1);
        }
    }

    /// Whether every known volume told what is on it since the master started.
    pub(super) fn all_inventoried(&self) -> bool {
        self.volumes().all(|(_, volume)| {
            volume.was_inventoried || volume.report.state == VolumeState::Out || volume.drain == Drain::Noted
        })
    }

    /// Whether every known volume has told what is on it, those included that are out of service.
    pub(super) fn all_have_told(&self) -> bool {
        self.volumes().all(|(_, volume)| volume.was_inventoried || volume.drain == Drain::Noted)
    }

    pub(super) fn is_stream_of(&self, server: ServerId, stream: StreamId) -> bool {
        self.servers.get(&server).is_some_and(|known| known.stream == Some(stream))
    }

    /// Queues a command for a server. Returns whether the server is connected.
    pub(super) fn send(&mut self, server: ServerId, command: Command) -> bool {
        match self.servers.get_mut(&server) {
            Some(server) if server.stream.is_some() => {
                server.outbox.push_back(command);
                server.signal.raise();
                true
            }
            _ => false,
        }
    }

    pub(super) fn forget_volume(&mut self, slot: u16) {
        let volume = self.volume_mut(slot);
        volume.forgotten = true;
        let (id, server) = (volume.id, volume.server);
        self.marks.volumes.remove(&id);
        self.apply_marks(slot);
        if let Some(server) = self.servers.get_mut(&server) {
            server.slots.retain(|other| *other != slot);
        }
    }

    pub(super) fn forget(&mut self, id: ServerId) {
        if let Some(server) = self.servers.remove(&id) {
            self.marks.servers.remove(&id);
            self.marks.maintenance.remove(&id);
            for slot in server.slots {
                self.forget_volume(slot);
            }
        }
    }
}
