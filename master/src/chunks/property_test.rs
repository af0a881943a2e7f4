//! Random lives of a small cluster against a model of chunkservers that really hold copies: whatever happens, the promises
//! on the module's page are kept.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use rfs_common::clock::Monotonic;
use rfs_common::ids::{ChunkId, ChunkVersion, Goal, InodeId, ServerId, SessionId, VolumeId};
use rfs_common::random::SeededRandom;

use super::counters::Counters;
use super::*;

const VOLUMES_PER_SERVER: u64 = 2;
const SESSION: SessionId = SessionId::new(1);

/// A chunkserver of the model: what is on its disks, and the commands it has not carried out yet.
#[derive(Debug, Default)]
struct Machine {
    stream: Option<StreamId>,
    volumes: BTreeMap<VolumeId, BTreeMap<ChunkId, u32>>,
    queue: Vec<Command>,
}

struct World {
    chunks: Chunks,
    machines: BTreeMap<ServerId, Machine>,
    records: BTreeMap<ChunkId, ChunkInfo>,
    writing: BTreeMap<ChunkId, Vec<Place>>,
    now: Monotonic,
    next_stream: u64,
    next_chunk: u64,
    /// Whether a chunkserver was told of a bad copy: those differ from the model's disks.
    bad: BTreeSet<(VolumeId, ChunkId)>,
    /// Servers on which a second copy may be: one of their volumes was drained once.
    may_hold_two: BTreeSet<ServerId>,
    /// Half of the volumes are full for ever, so that copies always have somewhere better to be.
    uneven: bool,
}

#[derive(Debug, Clone)]
enum Event {
    Create(u8),
    Write(u8),
    Commit(u8),
    CopyFails(u8),
    Free(u8),
    SetGoal(u8, u8),
    Connect(u8),
    Disconnect(u8, bool),
    Carry(u8, u8),
    Refuse(u8),
    Pass(u16),
    Bad(u8),
    Damage(u8),
    Forget(u8),
    Drain(u8, bool),
    DrainServer(u8, bool),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        4 => (1_u8..4).prop_map(Event::Create),
        2 => any::<u8>().prop_map(Event::Write),
        4 => any::<u8>().prop_map(Event::Commit),
        1 => any::<u8>().prop_map(Event::CopyFails),
        1 => any::<u8>().prop_map(Event::Free),
        1 => (any::<u8>(), 1_u8..4).prop_map(|(which, goal)| Event::SetGoal(which, goal)),
        3 => any::<u8>().prop_map(Event::Connect),
        1 => (any::<u8>(), any::<bool>()).prop_map(|(which, carry)| Event::Disconnect(which, carry)),
        8 => (any::<u8>(), 1_u8..8).prop_map(|(which, count)| Event::Carry(which, count)),
        1 => any::<u8>().prop_map(Event::Refuse),
        4 => (1_u16..15_000).prop_map(Event::Pass),
        1 => any::<u8>().prop_map(Event::Bad),
        1 => any::<u8>().prop_map(Event::Damage),
        1 => any::<u8>().prop_map(Event::Forget),
        1 => (any::<u8>(), any::<bool>()).prop_map(|(which, wanted)| Event::Drain(which, wanted)),
        1 => (any::<u8>(), any::<bool>()).prop_map(|(which, wanted)| Event::DrainServer(which, wanted)),
    ];
    proptest::collection::vec(event, 1..120)
}

fn pick<T: Clone>(from: impl Iterator<Item = T>, which: u8) -> Option<T> {
    let all: Vec<T> = from.collect();
    if all.is_empty() { None } else { Some(all[usize::from(which) % all.len()].clone()) }
}

impl World {
    fn new(seed: u64, servers: u64, uneven: bool) -> World {
        let config =
            ChunksConfig { startup_wait: Duration::ZERO, mass_wait: Duration::from_secs(5), ..ChunksConfig::default() };
        let chunks = Chunks::new(config, Arc::new(SeededRandom::new(seed)), Monotonic::START);
        let machine = |server: u64| {
            let ids = (0..VOLUMES_PER_SERVER).map(|index| VolumeId::new(server * 10 + index));
            let volumes = ids.map(|id| (id, BTreeMap::new())).collect();
            (ServerId::new(server), Machine { volumes, ..Machine::default() })
        };
        let mut world = World {
            chunks,
            machines: (1..=servers).map(machine).collect(),
            records: BTreeMap::new(),
            writing: BTreeMap::new(),
            now: Monotonic::START,
            next_stream: 1,
            next_chunk: 1,
            bad: BTreeSet::new(),
            may_hold_two: BTreeSet::new(),
            uneven,
        };
        if uneven {
            world.may_hold_two.extend((1..=servers).map(ServerId::new));
        }
        for server in 1..=servers {
            world.connect(ServerId::new(server));
        }
        world
    }

    fn connect(&mut self, id: ServerId) {
        let machine = self.machines.get_mut(&id).unwrap();
        let stream = StreamId(self.next_stream);
        self.next_stream += 1;
        machine.stream = Some(stream);
        machine.queue.clear();
        let reports: Vec<VolumeReport> = machine.volumes.keys().map(|volume| report(*volume, self.uneven)).collect();
        let (host, address) = (format!("host{id}"), format!("{id}:9422"));
        let registration = Registration { server: id, host, address, version: String::new(), volumes: reports };
        self.chunks.register(self.now, registration, stream, Signal::default()).unwrap();
        for (volume, copies) in machine.volumes.clone() {
            let held: Vec<Held> = copies.iter().map(|(chunk, version)| held(*chunk, *version)).collect();
            let (first, second) = held.split_at(held.len() / 2);
            let begin = InventoryPart { first: true, last: false };
            let end = InventoryPart { first: false, last: true };
            self.chunks.inventory(self.now, id, stream, volume, first, begin);
            self.chunks.inventory(self.now, id, stream, volume, second, end);
        }
    }

    fn disconnect(&mut self, id: ServerId, carry: bool) {
        let machine = self.machines.get_mut(&id).unwrap();
        let Some(stream) = machine.stream.take() else { return };
        for command in std::mem::take(&mut machine.queue) {
            if carry
                && carry_out(machine, &command).done
                && let Order::Replicate { volume, chunk, .. } = command.order
            {
                self.bad.remove(&(volume, chunk));
            }
        }
        assert!(self.chunks.disconnected(self.now, id, stream));
    }

    fn run(&mut self, event: &Event) {
        match *event {
            Event::Create(goal) => self.create(Goal::new(goal).unwrap()),
            Event::Write(which) => self.write(which),
            Event::Commit(which) => self.commit(which),
            Event::CopyFails(which) => self.copy_fails(which),
            Event::Free(which) => self.free(which),
            Event::SetGoal(which, goal) => {
                let Some(chunk) = pick(self.records.keys().copied(), which) else { return };
                self.change(chunk, |info| info.goal = Goal::new(goal).unwrap());
            }
            Event::Connect(which) => {
                let away = self.machines.iter().filter(|(_, m)| m.stream.is_none()).map(|(id, _)| *id);
                if let Some(id) = pick(away, which) {
                    self.connect(id);
                }
            }
            Event::Disconnect(which, carry) => {
                let id = pick(self.machines.keys().copied(), which).unwrap();
                self.disconnect(id, carry);
            }
            Event::Carry(which, count) => self.answer(which, usize::from(count), true),
            Event::Refuse(which) => self.answer(which, 1, false),
            Event::Pass(ms) => self.pass(Duration::from_millis(u64::from(ms))),
            Event::Bad(which) => self.bad(which),
            Event::Damage(which) => self.damage(which),
            Event::Drain(which, wanted) => {
                let all = self.machines.iter().flat_map(|(id, m)| m.volumes.keys().map(|volume| (*id, *volume)));
                let (server, volume) = pick(all, which).unwrap();
                self.chunks.set_drain_mark(volume, DrainMark { wanted, drained: false });
                self.may_hold_two.insert(server);
            }
            Event::DrainServer(which, wanted) => {
                let server = pick(self.machines.keys().copied(), which).unwrap();
                self.chunks.set_server_draining(server, wanted);
                self.may_hold_two.insert(server);
            }
            Event::Forget(which) => {
                let id = pick(self.machines.keys().copied(), which).unwrap();
                // Forgotten only when empty, or the model would have to lose data with it.
                let empty = self.machines[&id].volumes.values().all(BTreeMap::is_empty);
                let written = self.writing.values().flatten().any(|place| place.server == id);
                if empty && !written && self.machines[&id].stream.is_none() {
                    self.chunks.forget_server(id);
                }
            }
        }
    }

    fn create(&mut self, goal: Goal) {
        let Ok(places) = self.chunks.choose_new(goal, &[]) else { return };
        let servers: BTreeSet<ServerId> = places.iter().map(|place| place.server).collect();
        assert_eq!(servers.len(), places.len(), "two copies of a new chunk on one server");
        let chunk = ChunkId::new(self.next_chunk);
        self.next_chunk += 1;
        let (none, first) = (ChunkVersion::new(0), ChunkVersion::FIRST);
        let info = ChunkInfo { inode: InodeId::new(1), version: none, granted: first, goal, unsynced: false };
        self.records.insert(chunk, info);
        self.chunks.created(chunk, info);
        self.grant(chunk, none, first, places);
    }

    fn grant(&mut self, chunk: ChunkId, from: ChunkVersion, to: ChunkVersion, places: Vec<Place>) {
        self.chunks.granted(chunk, from, to, &places);
        self.writing.insert(chunk, places);
    }

    fn write(&mut self, which: u8) {
        let settled = self.records.iter().filter(|(_, info)| info.is_settled()).map(|(chunk, _)| *chunk);
        let Some(chunk) = pick(settled, which) else { return };
        let Ok(places) = self.chunks.begin_write(chunk, SESSION) else { return };
        let from = self.records[&chunk].version;
        self.change(chunk, |info| info.granted = info.granted.next());
        self.grant(chunk, from, from.next(), places);
    }

    /// The writer writes to every place that is there, and commits if that were all.
    fn commit(&mut self, which: u8) {
        let Some(chunk) = pick(self.writing.keys().copied(), which) else { return };
        let granted = self.records[&chunk].granted;
        let places = self.writing[&chunk].clone();
        if places.iter().any(|place| self.machines[&place.server].stream.is_none()) {
            return;
        }
        for place in &places {
            self.disk(place).insert(chunk, granted.get());
        }
        self.writing.remove(&chunk);
        self.change(chunk, |info| info.version = granted);
        self.chunks.has_length(chunk, 9000);
        self.chunks.end_write(chunk);
    }

    /// One place does not answer the writer: the others go on with a newer version, and the failed one keeps what it has.
    fn copy_fails(&mut self, which: u8) {
        let Some(chunk) = pick(self.writing.keys().copied(), which) else { return };
        let mut places = self.writing[&chunk].clone();
        if places.len() < 2 || places.iter().any(|place| self.machines[&place.server].stream.is_none()) {
            return;
        }
        let granted = self.records[&chunk].granted;
        let failed = places.remove(0);
        self.disk(&failed).insert(chunk, granted.get());
        for place in &places {
            self.disk(place).insert(chunk, granted.next().get());
        }
        self.change(chunk, |info| info.granted = granted.next());
        self.grant(chunk, granted.next(), granted.next(), places);
    }

    fn disk(&mut self, place: &Place) -> &mut BTreeMap<ChunkId, u32> {
        self.machines.get_mut(&place.server).unwrap().volumes.get_mut(&place.volume).unwrap()
    }

    fn free(&mut self, which: u8) {
        let Some(chunk) = pick(self.records.keys().copied(), which) else { return };
        self.records.remove(&chunk);
        self.writing.remove(&chunk);
        self.chunks.freed(chunk);
    }

    fn change(&mut self, chunk: ChunkId, change: impl FnOnce(&mut ChunkInfo)) {
        let info = self.records.get_mut(&chunk).unwrap();
        change(info);
        self.chunks.changed(chunk, *info);
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        for (id, machine) in &self.machines {
            if let Some(stream) = machine.stream {
                let reports = machine.volumes.keys().map(|volume| report(*volume, self.uneven)).collect();
                self.chunks.heartbeat(self.now, *id, stream, reports, Traffic::default());
            }
        }
        self.chunks.tick(self.now);
        self.settle();
        self.record_drains();
        for chunk in self.chunks.removed_everywhere() {
            let left = self.machines.values().flat_map(|m| m.volumes.values()).any(|disk| disk.contains_key(&chunk));
            assert!(!left, "chunk {chunk} is called gone but a copy is left");
            self.chunks.forget_freed(chunk);
        }
    }

    /// What the engine does. What is called drained is empty, and nothing is on its way there.
    fn record_drains(&mut self) {
        for (volume, mark) in self.chunks.drain_marks_to_record() {
            let machine = self.machines.values().find(|machine| machine.volumes.contains_key(&volume)).unwrap();
            let comes =
                |command: &Command| matches!(command.order, Order::Replicate { volume: to, .. } if to == volume);
            if mark.drained {
                assert!(machine.volumes[&volume].is_empty(), "{volume} is called drained and holds copies");
                assert!(!machine.queue.iter().any(comes), "{volume} is called drained and a copy is on its way");
            }
            self.chunks.set_drain_mark(volume, mark);
        }
    }

    /// What the engine does: the good copies get a version of their own.
    fn settle(&mut self) {
        for chunk in self.chunks.wants_settling() {
            let places: Vec<Place> =
                self.chunks.settle_candidates(chunk).candidates.into_iter().map(|c| c.place).collect();
            let to = self.records[&chunk].granted.next();
            for place in &places {
                assert!(!self.bad.contains(&(place.volume, chunk)), "a bad copy is to be settled on");
                self.disk(place).insert(chunk, to.get());
            }
            self.change(chunk, |info| info.granted = to);
            self.grant(chunk, to, to, places);
            self.writing.remove(&chunk);
            self.change(chunk, |info| info.version = to);
        }
    }

    fn bad(&mut self, which: u8) {
        let Some(chunk) = pick(self.records.keys().copied(), which) else { return };
        let Some(place) = self.chunks.places(chunk).first().cloned() else { return };
        let version = self.records[&chunk].version;
        if self.records[&chunk].is_settled() && self.chunks.live_copies(chunk) > 1 {
            self.chunks.bad_copy(place.volume, chunk, version, &CopyFault::Found("rot".to_owned()));
            self.bad.insert((place.volume, chunk));
        }
    }

    /// The header of a chunk's file cannot be read any more: version 0 on the model's disk. A chunkserver that is connected
    /// finds out at once, another one when it connects.
    fn damage(&mut self, which: u8) {
        let on_disk = |machine: &Machine| {
            let copies = |(volume, disk): (&VolumeId, &BTreeMap<ChunkId, u32>)| {
                disk.keys().map(|chunk| (*volume, *chunk)).collect::<Vec<_>>()
            };
            machine.volumes.iter().flat_map(copies).collect::<Vec<_>>()
        };
        let all = self.machines.iter().flat_map(|(id, machine)| {
            on_disk(machine).into_iter().map(|(volume, chunk)| (*id, volume, chunk)).collect::<Vec<_>>()
        });
        let all: Vec<_> = all.filter(|(_, _, chunk)| !self.writing.contains_key(chunk)).collect();
        let Some((server, volume, chunk)) = pick(all.into_iter(), which) else { return };
        let machine = self.machines.get_mut(&server).unwrap();
        machine.volumes.get_mut(&volume).unwrap().insert(chunk, 0);
        if machine.stream.is_some() {
            let fault = CopyFault::Found("no magic".to_owned());
            self.chunks.bad_copy(volume, chunk, ChunkVersion::new(0), &fault);
        }
    }

    fn answer(&mut self, which: u8, count: usize, carry: bool) {
        let connected = self.machines.iter().filter(|(_, machine)| !machine.queue.is_empty()).map(|(id, _)| *id);
        let Some(id) = pick(connected, which) else { return };
        for _ in 0..count {
            let machine = self.machines.get_mut(&id).unwrap();
            let Some(stream) = machine.stream.filter(|_| !machine.queue.is_empty()) else { return };
            let command = machine.queue.remove(0);
            let result = if carry { carry_out(machine, &command) } else { refusal(machine, &command) };
            if let (Order::Replicate { volume, chunk, .. }, true) = (&command.order, result.done) {
                self.bad.remove(&(*volume, *chunk));
            }
            self.chunks.command_result(self.now, id, stream, &result);
        }
    }

    /// Chunkservers receive what was ordered; every order is judged at this moment.
    fn deliver(&mut self) {
        let ids: Vec<(ServerId, Option<StreamId>)> = self.machines.iter().map(|(id, m)| (*id, m.stream)).collect();
        for (id, stream) in ids {
            let Some(stream) = stream else { continue };
            for command in self.chunks.take_commands(id, stream) {
                self.judge(id, &command.order);
                self.machines.get_mut(&id).unwrap().queue.push(command);
            }
        }
    }

    fn judge(&mut self, server: ServerId, order: &Order) {
        match order {
            Order::Delete { volume, chunk, .. } => {
                let Some(info) = self.records.get(chunk) else { return };
                let others = self.good_copies(*chunk, *info, Some(*volume));
                assert!(others >= usize::from(info.goal.get()), "deletion of {chunk} leaves {others} of {}", info.goal);
            }
            Order::Replicate { volume, chunk, version, .. } => {
                let info = self.records[chunk];
                assert!(info.is_settled() && info.version == *version, "{chunk} is replicated while it is written");
                assert_eq!(self.chunks.writer(*chunk), None);
                let slot = |volume: &VolumeId| self.chunks.servers.slot(*volume).unwrap();
                let drains = |volume: &VolumeId| self.chunks.servers.volume(slot(volume)).is_draining();
                let mut others = self.machines[&server].volumes.iter().filter(|(id, _)| *id != volume);
                let moved = |id: &VolumeId| self.chunks.balance.source_of(*chunk) == Some(slot(id));
                // A stale or bad one does not count: where a copy was being drained or moved there may be one beside another that is
                // replaced, and it goes once there are enough, as nothing is deleted before.
                let is_useless = |id: &VolumeId, found: u32| found < version.get() || self.bad.contains(&(*id, *chunk));
                let is_second = |id: &VolumeId, disk: &BTreeMap<ChunkId, u32>| {
                    disk.get(chunk).is_some_and(|found| !is_useless(id, *found))
                };
                let other = others.any(|(id, disk)| is_second(id, disk) && !drains(id) && !moved(id));
                assert!(!other, "a second copy of {chunk} on server {server}");
                let last = self.chunks.live_copies(*chunk) == 1;
                assert!(last || !drains(volume), "{chunk} is copied to {volume}, which is being drained");
                assert!(!self.chunks.drain_mark(*volume).drained || !drains(volume), "{volume} was called drained");
                assert_eq!(self.chunks.begin_write(*chunk, SESSION).err(), Some(WriteRefusal::Busy));
            }
            Order::Raise { .. } | Order::Check { .. } => {}
        }
    }

    /// Right copies on connected servers, without that on one volume and without those that are to be deleted.
    fn good_copies(&self, chunk: ChunkId, info: ChunkInfo, without: Option<VolumeId>) -> usize {
        let connected = self.machines.values().filter(|machine| machine.stream.is_some());
        connected
            .filter(|machine| {
                let deleting = |volume: VolumeId| {
                    machine.queue.iter().any(|command| {
                matches!(command.order, Order::Delete { volume: on, chunk: of, .. } if on == volume && of == chunk)
            })
                };
                machine.volumes.iter().any(|(volume, disk)| {
                    let right = disk.get(&chunk) == Some(&info.version.get()) && !self.bad.contains(&(*volume, chunk));
                    right && Some(*volume) != without && !deleting(*volume)
                })
            })
            .count()
    }

    fn check(&self) {
        self.check_counters();
        for (chunk, info) in self.records.iter().filter(|(_, info)| info.is_settled()) {
            for place in self.chunks.places(*chunk) {
                let disk = &self.machines[&place.server].volumes[&place.volume];
                assert_eq!(disk.get(chunk), Some(&info.version.get()), "a stale copy of {chunk} is offered");
            }
        }
        for (id, machine) in &self.machines {
            let mut seen = BTreeSet::new();
            for chunk in machine.volumes.values().flat_map(BTreeMap::keys) {
                assert!(seen.insert(chunk) || self.may_hold_two.contains(id), "two copies of {chunk} on server {id}");
            }
        }
    }

    fn check_counters(&self) {
        let mut recount = Counters::default();
        let (mut under, mut unavailable) = (BTreeSet::new(), BTreeSet::new());
        for (chunk, entry) in self.chunks.entries.iter().filter(|(_, entry)| !entry.is_doomed()) {
            let live = self.chunks.live_servers(entry);
            let counted = index::Counted { goal: entry.goal(), live, settled: entry.is_settled() };
            recount.add(counted, entry.bytes());
            if live > 0 && live < entry.goal() {
                under.insert((live, *chunk));
            }
            if live == 0 {
                unavailable.insert(*chunk);
            }
        }
        assert_eq!(self.chunks.counters, recount);
        assert_eq!(self.chunks.surplus, self.chunks.cleanup.difference(&self.chunks.doomed).count());
        let copyless = self.chunks.doomed.iter().filter(|chunk| self.chunks.entries[*chunk].copies().is_empty());
        assert!(copyless.eq(self.chunks.copyless.iter()));
        assert_eq!((&self.chunks.under_goal, &self.chunks.unavailable), (&under, &unavailable));
        let lacking: BTreeSet<ChunkId> = self.chunks.lacking(usize::MAX).iter().map(|lacks| lacks.chunk).collect();
        assert_eq!(lacking, under.iter().map(|(_, chunk)| *chunk).chain(unavailable).collect());
        assert_eq!(self.chunks.entries.values().filter(|entry| !entry.is_doomed()).count(), self.records.len());
        self.check_volumes();
        let grants: u32 = self.chunks.servers.volumes().map(|(_, volume)| volume.grants).sum();
        let granted: usize = self.writing.values().map(Vec::len).sum();
        assert_eq!(grants as usize, granted, "grants of volumes");
    }
}

impl World {
    fn check_volumes(&self) {
        for (slot, volume) in self.chunks.servers.volumes() {
            let entries = volume.chunks.iter().map(|chunk| (chunk, &self.chunks.entries[chunk]));
            let bytes: u64 = entries.clone().map(|(_, entry)| entry.bytes()).sum();
            assert_eq!(volume.bytes, bytes, "bytes of {}", volume.id);
            let is_needed = |(_, entry): &(&ChunkId, &index::Entry)| {
                let stays = |copy: &&index::HeldCopy| {
                    self.chunks.is_live_and_good(entry, copy) && self.chunks.servers.volume(copy.slot).keeps_copies()
                };
                let staying: BTreeSet<ServerId> = entry
                    .copies()
                    .iter()
                    .filter(stays)
                    .map(|copy| self.chunks.servers.volume(copy.slot).server)
                    .collect();
                let copy = entry.copy_on(slot).unwrap();
                let useless = copy.flags.has(index::CopyFlags::BAD) || copy.flags.has(index::CopyFlags::DELETING);
                let lacks = staying.len() < usize::from(entry.goal());
                volume.is_draining() && !entry.is_doomed() && lacks && entry.is_current(copy) && !useless
            };
            let needed: BTreeSet<ChunkId> = entries.filter(is_needed).map(|(chunk, _)| *chunk).collect();
            assert_eq!(volume.needed, needed, "what is needed on {}", volume.id);
        }
    }
}

fn report(volume: VolumeId, uneven: bool) -> VolumeReport {
    VolumeReport {
        volume,
        path: format!("/v/{volume}"),
        state: VolumeState::InService,
        reason: String::new(),
        total: 1 << 40,
        free: if uneven && volume.get() % 2 == 1 { 1 << 37 } else { 1 << 39 },
        chunks: 0,
        storage_machine: String::new(),
        filesystem: String::new(),
        lost_power: false,
        scrub: Default::default(),
        epoch: None,
        changed: false,
    }
}

fn held(chunk: ChunkId, version: u32) -> Held {
    let version = ChunkVersion::new(version);
    let length = chunk.get() as u32 * 5000;
    Held { chunk, version, length, open: false, suspect: false, unreadable: version.get() == 0, bad: false }
}

fn parts(order: &Order) -> (VolumeId, ChunkId) {
    match order {
        Order::Delete { volume, chunk, .. }
        | Order::Replicate { volume, chunk, .. }
        | Order::Raise { volume, chunk, .. }
        | Order::Check { volume, chunk } => (*volume, *chunk),
    }
}

fn carry_out(machine: &mut Machine, command: &Command) -> CommandResult {
    let (volume, chunk) = parts(&command.order);
    let disk = machine.volumes.get_mut(&volume).unwrap();
    let done = match &command.order {
        Order::Delete { version, .. } => {
            let same = disk.get(&chunk) == Some(&version.get());
            if same {
                disk.remove(&chunk);
            }
            same
        }
        Order::Replicate { version, .. } => {
            let older = disk.get(&chunk).is_none_or(|have| *have < version.get());
            if older {
                disk.insert(chunk, version.get());
            }
            older
        }
        Order::Check { .. } => true,
        Order::Raise { from, to, .. } => {
            let same = disk.get(&chunk) == Some(&from.get());
            if same {
                disk.insert(chunk, to.get());
            }
            same
        }
    };
    let version = ChunkVersion::new(disk.get(&chunk).copied().unwrap_or(0));
    // An unreadable file is there, but no copy.
    let errno = match (done, disk.get(&chunk)) {
        (true, _) => 0,
        (false, None) => 2,
        (false, Some(_)) => 5,
    };
    CommandResult { command: command.id, done, errno, message: String::new(), version, length: 0 }
}

fn refusal(machine: &Machine, command: &Command) -> CommandResult {
    let (volume, chunk) = parts(&command.order);
    let version = ChunkVersion::new(machine.volumes[&volume].get(&chunk).copied().unwrap_or(0));
    CommandResult { command: command.id, done: false, errno: 5, message: "I/O error".to_owned(), version, length: 0 }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]
    #[test]
    fn promises_are_kept_whatever_happens(seed: u64, servers in 1_u64..6, uneven: bool, events in events()) {
        let mut world = World::new(seed, servers, uneven);
        for event in &events {
            world.run(event);
            world.deliver();
            world.check();
        }
        world.recover();
    }
}

impl World {
    /// Everything comes back and nothing is written any more: all that can have all its copies gets them.
    fn recover(&mut self) {
        self.chunks.config.rebalance = false;
        for server in self.machines.keys() {
            self.chunks.set_server_draining(*server, false);
        }
        for volume in self.machines.values().flat_map(|machine| machine.volumes.keys()) {
            self.chunks.set_drain_mark(*volume, DrainMark::default());
        }
        while let Some(chunk) = self.writing.keys().next().copied() {
            self.free_chunk(chunk);
        }
        let away: Vec<ServerId> = self.machines.iter().filter(|(_, m)| m.stream.is_none()).map(|(id, _)| *id).collect();
        away.into_iter().for_each(|id| self.connect(id));
        for _ in 0..60 {
            self.pass(Duration::from_secs(3));
            self.deliver();
            let ids: Vec<ServerId> = self.machines.keys().copied().collect();
            for (which, _) in ids.iter().enumerate() {
                for _ in 0..20 {
                    self.answer(which as u8, 100, true);
                    self.deliver();
                }
            }
            self.check();
        }
        let servers = self.machines.len();
        for (chunk, info) in &self.records {
            let goal = usize::from(info.goal.get()).min(servers);
            let good = self.good_copies(*chunk, *info, None);
            assert!(good == 0 || good == goal, "{chunk} has {good} good copies of {goal}");
            let copies =
                self.machines.values().flat_map(|m| m.volumes.values()).filter(|d| d.contains_key(chunk)).count();
            assert!(good == 0 || copies <= usize::from(info.goal.get()), "{chunk} has {copies} copies");
        }
        assert!(self.chunks.doomed.is_empty(), "freed chunks are left: {:?}", self.chunks.doomed);
    }

    fn free_chunk(&mut self, chunk: ChunkId) {
        self.records.remove(&chunk);
        self.writing.remove(&chunk);
        self.chunks.freed(chunk);
    }
}
