//! A cluster in memory for tests of what [`Chunks`] decides over a long time: chunkservers that carry out at once what is
//! ordered, with disks that fill up. Each order is judged when it is given: none may take a copy that is needed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rfs_common::clock::Monotonic;
use rfs_common::ids::{ChunkId, ChunkVersion, Goal, InodeId, ServerId, VolumeId};
use rfs_common::random::SeededRandom;

use super::*;

pub(super) const MEBIBYTE: u64 = 1 << 20;

/// A volume's disk.
#[derive(Debug)]
pub(super) struct Disk {
    pub(super) server: ServerId,
    pub(super) total: u64,
    pub(super) state: VolumeState,
    /// Of the storage machine behind it.
    pub(super) machine: String,
    /// The lengths of the copies on it.
    pub(super) held: BTreeMap<ChunkId, u32>,
}

impl Disk {
    pub(super) fn used(&self) -> u64 {
        self.held.values().map(|length| u64::from(*length)).sum()
    }
}

/// See the module's page.
pub(super) struct Simulated {
    pub(super) chunks: Chunks,
    pub(super) disks: BTreeMap<VolumeId, Disk>,
    pub(super) away: Vec<ServerId>,
    /// Copies made and deleted so far.
    pub(super) made: u64,
    pub(super) deleted: u64,
    /// Copies made where the same one had been deleted before.
    pub(super) returned: u64,
    left: std::collections::BTreeSet<(ChunkId, VolumeId)>,
    /// So many orders of each chunkserver are carried out a second.
    pub(super) orders_per_second: usize,
    queues: BTreeMap<ServerId, Vec<Command>>,
    goals: BTreeMap<ChunkId, u8>,
    streams: BTreeMap<ServerId, StreamId>,
}

/// Volume `index` of the server.
pub(super) fn volume(server: u64, index: u64) -> VolumeId {
    VolumeId::new(server * 100 + index)
}

impl Simulated {
    /// Servers from 1, each with volumes of these sizes.
    pub(super) fn new(seed: u64, config: ChunksConfig, servers: &[&[u64]]) -> Simulated {
        let mut disks = BTreeMap::new();
        for (number, sizes) in (1_u64..).zip(servers) {
            for (index, total) in (0_u64..).zip(*sizes) {
                let disk = Disk {
                    server: ServerId::new(number),
                    total: *total,
                    state: VolumeState::InService,
                    machine: String::new(),
                    held: BTreeMap::new(),
                };
                disks.insert(volume(number, index), disk);
            }
        }
        Simulated {
            chunks: Chunks::new(config, Arc::new(SeededRandom::new(seed)), Monotonic::START),
            disks,
            away: Vec::new(),
            made: 0,
            deleted: 0,
            returned: 0,
            left: Default::default(),
            orders_per_second: usize::MAX,
            queues: BTreeMap::new(),
            goals: BTreeMap::new(),
            streams: BTreeMap::new(),
        }
    }

    /// Puts a chunk with copies on these volumes there before anybody connects.
    pub(super) fn put(&mut self, goal: u8, length: u64, on: &[VolumeId]) -> ChunkId {
        let chunk = ChunkId::new(self.goals.len() as u64 + 1);
        let (version, goal_of) = (ChunkVersion::FIRST, Goal::new(goal).unwrap());
        let inode = InodeId::new(1000 + chunk.get());
        self.chunks.load(chunk, ChunkInfo { inode, version, granted: version, goal: goal_of, unsynced: false });
        self.goals.insert(chunk, goal);
        for volume in on {
            self.disks.get_mut(volume).unwrap().held.insert(chunk, length as u32);
        }
        chunk
    }

    /// Every server connects and says what it holds.
    pub(super) fn connect(&mut self) {
        self.connect_without(ServerId::new(0));
    }

    /// The same, but for one that this master has not seen since it started.
    pub(super) fn connect_without(&mut self, away: ServerId) {
        let mut servers: Vec<ServerId> = self.disks.values().map(|disk| disk.server).collect();
        servers.dedup();
        servers.iter().for_each(|server| self.chunks.know_server(self.registration(*server)));
        servers.into_iter().filter(|server| *server != away).for_each(|server| self.connect_one(server));
    }

    fn registration(&self, server: ServerId) -> Registration {
        let (host, address, volumes) = (format!("h{server}"), format!("h{server}:1"), self.reports(server));
        Registration { server, host, address, version: String::new(), volumes }
    }

    pub(super) fn connect_one(&mut self, server: ServerId) {
        let stream = StreamId(self.streams.get(&server).map_or(1, |stream| stream.0 + 1));
        self.streams.insert(server, stream);
        self.away.retain(|away| *away != server);
        let now = self.chunks.now;
        let registration = self.registration(server);
        self.chunks.register(now, registration, stream, Signal::default()).unwrap();
        let own = self.disks.iter().filter(|(_, disk)| disk.server == server);
        let inventories: Vec<(VolumeId, Vec<Held>)> = own
            .map(|(volume, disk)| (*volume, disk.held.iter().map(|(chunk, length)| held(*chunk, *length)).collect()))
            .collect();
        for (volume, held) in inventories {
            let whole = InventoryPart { first: true, last: true };
            self.chunks.inventory(now, server, stream, volume, &held, whole);
        }
    }

    pub(super) fn disconnect(&mut self, server: ServerId) {
        self.deliver();
        self.queues.remove(&server);
        self.away.push(server);
        let now = self.chunks.now;
        assert!(self.chunks.disconnected(now, server, self.streams[&server]));
    }

    /// The server says goodbye and goes.
    pub(super) fn stop(&mut self, server: ServerId) {
        self.chunks.leaving(server, self.streams[&server]);
        self.disconnect(server);
    }

    fn reports(&self, server: ServerId) -> Vec<VolumeReport> {
        let own = self.disks.iter().filter(|(_, disk)| disk.server == server);
        own.map(|(volume, disk)| VolumeReport {
            volume: *volume,
            path: format!("/v{volume}"),
            state: disk.state,
            reason: String::new(),
            total: disk.total,
            free: disk.total.saturating_sub(disk.used()),
            chunks: disk.held.len() as u64,
            storage_machine: disk.machine.clone(),
            filesystem: String::new(),
            lost_power: false,
            scrub: ScrubReport::default(),
            epoch: None,
            changed: false,
        })
        .collect()
    }

    /// Lets time pass second by second.
    pub(super) fn pass(&mut self, seconds: u64) {
        for _ in 0..seconds {
            let now = self.chunks.now + Duration::from_secs(1);
            let streams: Vec<(ServerId, StreamId)> = self.streams.iter().map(|(id, stream)| (*id, *stream)).collect();
            for (server, stream) in streams.into_iter().filter(|(id, _)| !self.away.contains(id)).collect::<Vec<_>>() {
                let reports = self.reports(server);
                self.chunks.heartbeat(now, server, stream, reports, Traffic::default());
            }
            self.chunks.tick(now);
            self.carry_out();
            for (volume, mark) in self.chunks.drain_marks_to_record() {
                assert!(
                    !mark.drained || self.disks[&volume].held.is_empty() || !self.disks[&volume].state.is_writable()
                );
                self.chunks.set_drain_mark(volume, mark);
            }
        }
    }

    /// What was ordered is judged by what is there now.
    fn deliver(&mut self) {
        for (server, stream) in self.streams.clone() {
            let commands = self.chunks.take_commands(server, stream);
            commands.iter().for_each(|command| self.judge(&command.order));
            self.queues.entry(server).or_default().extend(commands);
        }
    }

    fn carry_out(&mut self) {
        let servers: Vec<(ServerId, StreamId)> = self.streams.iter().map(|(id, stream)| (*id, *stream)).collect();
        for (server, stream) in servers {
            let mut left = self.orders_per_second;
            loop {
                self.deliver();
                let Some(queue) = self.queues.get_mut(&server) else { break };
                if queue.is_empty() || left == 0 {
                    break;
                }
                left -= 1;
                let command = queue.remove(0);
                let result = self.carry_out_one(&command);
                let now = self.chunks.now;
                self.chunks.command_result(now, server, stream, &result);
            }
        }
    }

    /// A copy is deleted only while there are enough others.
    fn judge(&self, order: &Order) {
        let Order::Delete { volume, chunk, .. } = order else { return };
        let is_here = |disk: &&Disk| !self.away.contains(&disk.server) && disk.held.contains_key(chunk);
        let others = self.disks.iter().filter(|(id, _)| *id != volume).map(|(_, disk)| disk).filter(is_here);
        let mut servers: Vec<ServerId> = others.map(|disk| disk.server).collect();
        servers.dedup();
        assert!(servers.len() >= usize::from(self.goals[chunk]), "the deletion of {chunk} on {volume} leaves too few");
    }

    fn carry_out_one(&mut self, command: &Command) -> CommandResult {
        let mut version = ChunkVersion::FIRST;
        let done = match &command.order {
            Order::Delete { volume, chunk, .. } => {
                let done = self.disks.get_mut(volume).unwrap().held.remove(chunk).is_some();
                version = ChunkVersion::new(0);
                self.deleted += u64::from(done);
                self.left.insert((*chunk, *volume));
                done
            }
            Order::Replicate { volume, chunk, sources, .. } => {
                let length = self.disks[&sources[0].volume].held[chunk];
                let disk = self.disks.get_mut(volume).unwrap();
                assert!(disk.used() + u64::from(length) <= disk.total, "{volume} overflows");
                assert_eq!(disk.held.insert(*chunk, length), None, "{chunk} is on {volume} already");
                self.made += 1;
                self.returned += u64::from(self.left.contains(&(*chunk, *volume)));
                true
            }
            Order::Raise { .. } | Order::Check { .. } => false,
        };
        let errno = if done { 0 } else { 5 };
        CommandResult { command: command.id, done, errno, message: String::new(), version, length: 0 }
    }

    /// Every chunk has exactly its goal of copies, on servers of their own.
    pub(super) fn assert_all_in_order(&self) {
        for (chunk, goal) in &self.goals {
            let holders = self.disks.values().filter(|disk| disk.held.contains_key(chunk));
            let mut servers: Vec<ServerId> = holders.map(|disk| disk.server).collect();
            let copies = servers.len();
            servers.dedup();
            assert_eq!((servers.len(), copies), (usize::from(*goal), usize::from(*goal)), "copies of {chunk}");
        }
        assert!(self.chunks.summary().fully_replicated);
    }

    pub(super) fn drain(&mut self, volume: VolumeId, wanted: bool) {
        self.chunks.set_drain_mark(volume, DrainMark { wanted, drained: false });
    }

    pub(super) fn drain_view(&self, volume: VolumeId) -> Option<DrainView> {
        let views = self.chunks.servers();
        let mut all = views.iter().flat_map(|server| &server.volumes);
        all.find(|view| view.report.volume == volume).unwrap().drain.clone()
    }
}

fn held(chunk: ChunkId, length: u32) -> Held {
    let version = ChunkVersion::FIRST;
    Held { chunk, version, length, open: false, suspect: false, unreadable: false, bad: false }
}
