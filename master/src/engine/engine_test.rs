//! Sessions against each other at one engine, with a clock that stands still, peers and chunkservers made up, and a store
//! in memory that outlives engines. Requests go in as the bytes that a connection would carry.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use prost::Message;
use rfs_common::background::Worker;
use rfs_common::clock::{ManualClock, SystemClock, Time};
use rfs_common::ids::{ChunkId, ChunkVersion, Goal, ServerId, VolumeId};
use rfs_common::random::SeededRandom;
use rfs_proto::session;
use rfs_proto::session_calls::Call;

use super::*;
use crate::chunks::{
    Command, CommandResult, Held, InventoryPart, Order, Place, RaiseOf, Registration, Signal, StreamId, VolumeReport,
    VolumeState,
};
use crate::leases::{Lease, LeaseMode};
use crate::namespace::bootstrap::new_cluster;
use crate::namespace::check::check;
use crate::session::calls;
use crate::sessions::ClientDescription;

#[path = "rejoin_test.rs"]
mod rejoin;

#[path = "copies_test.rs"]
mod copies;

const STREAM: StreamId = StreamId(1);

/// What a peer does with a recall.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Manners {
    /// Answers at once.
    Answers,
    /// Keeps it, for the test to answer.
    Keeps,
}

struct Peer {
    engine: Mutex<Option<Arc<Engine>>>,
    session: SessionId,
    manners: Manners,
    got: Mutex<Vec<PushMessage>>,
}

impl Push for Peer {
    fn deliver(&self, message: PushMessage) {
        let recall = match &message {
            PushMessage::Recall(recall, _) if self.manners == Manners::Answers => Some(*recall),
            _ => None,
        };
        self.got.lock().unwrap().push(message);
        let engine = self.engine.lock().unwrap().clone();
        if let (Some(recall), Some(engine)) = (recall, engine) {
            engine.recall_done(self.session, recall);
        }
    }

    fn close(&self) {}

    fn address(&self) -> String {
        String::new()
    }
}

impl Peer {
    fn recalls(&self) -> Vec<(RecallId, RecallItems)> {
        let got = self.got.lock().unwrap();
        let recalls = got.iter().filter_map(|message| match message {
            PushMessage::Recall(recall, items) => Some((*recall, items.clone())),
            _ => None,
        });
        recalls.collect()
    }

    fn has(&self, message: &PushMessage) -> bool {
        self.got.lock().unwrap().contains(message)
    }
}

/// The same digest for every copy, or another for each.
struct Digests(bool);

impl CompareCopies for Digests {
    fn digest(&self, place: &Place, _chunk: ChunkId, _version: ChunkVersion) -> Option<[u8; 32]> {
        Some([if self.0 { 1 } else { place.volume.get() as u8 }; 32])
    }
}

struct World {
    clock: ManualClock,
    storage: Arc<MemoryStorage>,
    engine: Arc<Engine>,
}

#[derive(Clone)]
struct Client {
    engine: Arc<Engine>,
    session: SessionId,
    sequence: Arc<AtomicU64>,
    peer: Arc<Peer>,
}

fn caller() -> Option<session::Caller> {
    Some(session::Caller::default())
}

impl World {
    fn new() -> World {
        let storage = Arc::new(MemoryStorage::default());
        storage.commit(&new_cluster(Goal::TWO, Time::EPOCH)).unwrap();
        let clock = ManualClock::new(Time::from_seconds(1_000));
        let engine = World::open(&storage, clock.shared());
        World { clock, storage, engine }
    }

    fn open(storage: &Arc<MemoryStorage>, clock: SharedClock) -> Arc<Engine> {
        let random = Arc::new(SeededRandom::new(7));
        let storage: Arc<dyn Storage> = storage.clone();
        // Chunkservers here send no heartbeats.
        let chunks = ChunksConfig { server_expiry: Duration::from_secs(3_600), ..ChunksConfig::default() };
        let config = EngineConfig { chunks, ..EngineConfig::default() };
        Engine::open(storage, ClusterId::new(1), config, clock, random).unwrap()
    }

    fn restart(&mut self) {
        self.engine.stop();
        self.engine = World::open(&self.storage, self.clock.shared());
    }

    fn client(&self, manners: Manners) -> Client {
        let begun = self.engine.begin_session(ClientDescription::default(), b"").unwrap();
        Client::attached(&self.engine, begun.session, manners)
    }

    fn tick_after(&self, seconds: u64) {
        self.clock.advance(Duration::from_secs(seconds));
        self.engine.tick(&Digests(true));
    }

    fn check(&self) {
        let report = check(self.storage.source()).unwrap();
        assert_eq!(report.findings, Vec::<String>::new());
    }

    /// Connects chunkservers 1 to `count`, each with one empty volume of the same number.
    fn chunkservers(&self, count: u64) {
        self.chunkservers_holding(count, |_| Vec::new());
    }

    /// The same, with what each volume holds.
    fn chunkservers_holding(&self, count: u64, held: impl Fn(u64) -> Vec<Held>) {
        for id in 1..=count {
            let volume = VolumeReport {
                volume: VolumeId::new(id),
                path: "/v".into(),
                state: VolumeState::InService,
                reason: String::new(),
                total: 1 << 40,
                free: 1 << 39,
                chunks: 0,
                storage_machine: String::new(),
                filesystem: String::new(),
                lost_power: true,
                scrub: Default::default(),
                epoch: None,
                changed: false,
            };
            let registration = Registration {
                server: ServerId::new(id),
                host: format!("host{id}"),
                address: format!("host{id}:9422"),
                version: String::new(),
                volumes: vec![volume],
            };
            self.engine.with_chunks(|chunks, now| {
                chunks.register(now, registration, STREAM, Signal::default()).unwrap();
                let whole = InventoryPart { first: true, last: true };
                chunks.inventory(now, ServerId::new(id), STREAM, VolumeId::new(id), &held(id), whole);
            });
        }
    }

    /// Their connections end.
    fn chunkservers_gone(&self, count: u64) {
        let now = self.clock.shared().monotonic();
        for id in 1..=count {
            self.engine.with_chunks(|chunks, _| chunks.disconnected(now, ServerId::new(id), STREAM));
        }
    }

    /// Carries out the commands of the chunkservers; those of `failing` fail. Returns what was ordered.
    fn carry_out(&self, count: u64, failing: &[u64]) -> Vec<Command> {
        self.carry_out_or_fail(count, |server, _| failing.contains(&server).then_some(5))
    }

    /// The same, but no new copies are made.
    fn carry_out_but_repairs(&self, count: u64) {
        self.carry_out_or_fail(count, |_, order| matches!(order, Order::Replicate { .. }).then_some(5));
    }

    /// The same; `fails` gives the errno of what fails.
    fn carry_out_or_fail(&self, count: u64, fails: impl Fn(u64, &Order) -> Option<u32>) -> Vec<Command> {
        let mut all = Vec::new();
        for id in 1..=count {
            let server = ServerId::new(id);
            let commands = self.engine.with_chunks(|chunks, _| chunks.take_commands(server, STREAM));
            for command in commands {
                let errno = fails(id, &command.order);
                let version = match command.order {
                    Order::Raise { to, .. } => to,
                    Order::Replicate { version, .. } => version,
                    Order::Delete { .. } | Order::Check { .. } => ChunkVersion::new(0),
                };
                let result = CommandResult {
                    command: command.id,
                    done: errno.is_none(),
                    errno: errno.unwrap_or(0),
                    message: String::new(),
                    version: if errno.is_some() { ChunkVersion::new(0) } else { version },
                    length: 0,
                };
                self.engine.with_chunks(|chunks, now| chunks.command_result(now, server, STREAM, &result));
                all.push(command);
            }
        }
        all
    }
}

impl Client {
    fn attached(engine: &Arc<Engine>, session: SessionId, manners: Manners) -> Client {
        let held = Mutex::new(Some(engine.clone()));
        let peer = Arc::new(Peer { engine: held, session, manners, got: Mutex::new(Vec::new()) });
        engine.attach_push(session, peer.clone());
        Client { engine: engine.clone(), session, sequence: Arc::new(AtomicU64::new(1)), peer }
    }

    fn call<C: Call>(&self, message: &C) -> Result<C::Reply, Refusal> {
        let sequence = self.sequence.fetch_add(1, Ordering::SeqCst);
        // Each request on a slot of its own, so that one may wait while others go on.
        let request = Request { session: self.session, slot: (sequence % 60) as u32, sequence };
        self.call_as(request, message)
    }

    fn call_as<C: Call>(&self, request: Request, message: &C) -> Result<C::Reply, Refusal> {
        let reply = calls::answer(&self.engine, request, C::FRAME_TYPE, &message.encode_to_vec())?;
        Ok(C::Reply::decode(reply.as_slice()).unwrap())
    }

    fn spawn<C: Call + Send + 'static>(&self, message: C) -> JoinHandle<Result<C::Reply, Refusal>>
    where
        C::Reply: Send,
    {
        let client = self.clone();
        thread::spawn(move || client.call(&message))
    }

    fn make(&self, name: &str, open: bool) -> session::MakeReply {
        self.call(&make(name, open)).unwrap()
    }

    fn lookup(&self, name: &str) -> session::LookupReply {
        self.call(&lookup(name)).unwrap()
    }

    fn attributes(&self, inode: u64) -> Result<session::NodeReply, Refusal> {
        self.call(&session::GetAttributes { inode })
    }

    fn write_lease(&self, inode: u64) -> Result<session::AcquireLeaseReply, Refusal> {
        self.call(&session::AcquireLease { inode, mode: session::LeaseMode::Write as i32 })
    }

    fn mode(&self, inode: u64) -> LeaseMode {
        let held = self.engine.lock().leases.held(self.session, InodeId::new(inode));
        held.map_or(LeaseMode::None, |lease| lease.mode)
    }
}

fn make(name: &str, open: bool) -> session::Make {
    session::Make {
        caller: caller(),
        parent: 1,
        name: name.as_bytes().to_vec().into(),
        kind: session::NodeKind::File as i32,
        mode: 0o644,
        open,
        ..session::Make::default()
    }
}

fn lookup(name: &str) -> session::Lookup {
    session::Lookup { caller: caller(), parent: 1, name: name.as_bytes().to_vec().into() }
}

fn inode_of(made: &session::MakeReply) -> u64 {
    made.node.as_ref().unwrap().attributes.as_ref().unwrap().inode
}

fn errno_of<T: std::fmt::Debug>(result: Result<T, Refusal>) -> Errno {
    match result {
        Err(Refusal::Failed(failure)) => failure.errno,
        other => panic!("{other:?} is no failure"),
    }
}

/// Waits, in real time, for what another thread is about to bring about.
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let clock = SystemClock::shared();
    for _ in 0..5_000 {
        if is_so() {
            return;
        }
        clock.sleep(Duration::from_millis(1));
    }
    panic!("{what} did not come about");
}

#[test]
fn a_reader_waits_until_the_writer_has_given_its_lease_back() {
    let world = World::new();
    let (writer, reader) = (world.client(Manners::Keeps), world.client(Manners::Answers));
    let file = inode_of(&writer.make("f", true));
    assert_eq!(writer.mode(file), LeaseMode::Write);
    let waiting = reader.spawn(session::GetAttributes { inode: file });
    until("the recall", || writer.peer.recalls().len() == 1);
    let (recall, items) = writer.peer.recalls().remove(0);
    assert_eq!((items.leases[0].mode, items.leases[0].inode.get()), (LeaseMode::Read, file));
    // While the reader waits nobody is given a lease, and the writer commits as it gives its own back.
    let during = writer.attributes(file).unwrap().node.unwrap();
    assert_eq!(during.lease, None);
    let commit = session::Commit {
        inode: file,
        length: Some(7),
        return_lease: Some(calls::lease_message(items.leases[0])),
        ..session::Commit::default()
    };
    writer.call(&commit).unwrap();
    assert!(!waiting.is_finished());
    world.engine.recall_done(writer.session, recall);
    let node = waiting.join().unwrap().unwrap().node.unwrap();
    assert_eq!(node.attributes.unwrap().length, 7);
    assert_eq!(node.lease.unwrap().mode, session::LeaseMode::Read as i32);
    assert_eq!((writer.mode(file), reader.mode(file)), (LeaseMode::Read, LeaseMode::Read));
    assert_eq!(world.engine.totals().waiting_for_recalls, 0);
    world.check();
}

#[test]
fn a_session_that_owes_an_answer_for_too_long_ends_and_the_others_go_on() {
    let world = World::new();
    let (writer, reader) = (world.client(Manners::Keeps), world.client(Manners::Answers));
    let file = inode_of(&writer.make("f", true));
    let waiting = reader.spawn(session::GetAttributes { inode: file });
    until("the recall", || !writer.peer.recalls().is_empty());
    for _ in 0..7 {
        world.clock.advance(Duration::from_secs(5));
        world.engine.heartbeat(writer.session, []).unwrap_or(());
        world.engine.heartbeat(reader.session, []).unwrap();
        world.engine.tick(&Digests(true));
    }
    assert!(waiting.join().unwrap().is_ok());
    assert_eq!(errno_of(writer.attributes(file)), Errno::ESTALE);
    assert_eq!(world.engine.heartbeat(writer.session, []).unwrap_err().errno, Errno::ESTALE);
    assert_eq!(world.engine.session_reports().len(), 1);
}

#[test]
fn a_session_that_is_at_work_on_a_recall_is_waited_for() {
    let world = World::new();
    let (writer, reader) = (world.client(Manners::Keeps), world.client(Manners::Answers));
    let file = inode_of(&writer.make("f", true));
    let waiting = reader.spawn(session::GetAttributes { inode: file });
    until("the recall", || !writer.peer.recalls().is_empty());
    let recall = writer.peer.recalls()[0].0;
    for _ in 0..20 {
        world.clock.advance(Duration::from_secs(5));
        world.engine.heartbeat(writer.session, [recall]).unwrap();
        world.engine.heartbeat(reader.session, []).unwrap();
        world.engine.tick(&Digests(true));
    }
    assert!(!waiting.is_finished());
    world.engine.recall_done(writer.session, recall);
    assert!(waiting.join().unwrap().is_ok());
    assert!(writer.attributes(file).is_ok());
}

#[test]
fn silence_ends_a_session_and_its_locks_go_to_those_that_wait() {
    let world = World::new();
    let (silent, other) = (world.client(Manners::Keeps), world.client(Manners::Answers));
    let file = inode_of(&other.make("f", false));
    let lock = |ticket| session::SetLock {
        inode: file,
        range: Some(session::LockRange {
            kind: session::LockKind::Posix as i32,
            r#type: session::LockType::Exclusive as i32,
            owner: 1,
            start: 0,
            end: 9,
            process_id: 1,
        }),
        wait: true,
        ticket,
    };
    assert!(silent.call(&lock(1)).unwrap().granted);
    assert!(!other.call(&lock(2)).unwrap().granted);
    world.clock.advance(Duration::from_secs(9));
    world.engine.heartbeat(other.session, []).unwrap();
    world.tick_after(2);
    assert!(other.peer.has(&PushMessage::LockGranted(InodeId::new(file), Ticket(2))));
    assert!(other.call(&session::CancelLock { inode: file, ticket: 2 }).unwrap().granted);
    world.check();
}

#[test]
fn a_change_is_not_run_twice_also_across_a_restart() {
    let mut world = World::new();
    let client = world.client(Manners::Answers);
    let request = Request { session: client.session, slot: 3, sequence: 9 };
    let first = client.call_as(request, &make("f", true)).unwrap();
    let again = client.call_as(request, &make("f", true)).unwrap();
    assert_eq!((inode_of(&first), first.created), (inode_of(&again), again.created));
    assert!(first.node.unwrap().lease.is_some() && again.node.as_ref().unwrap().lease.is_none());
    world.restart();
    let client = Client::attached(&world.engine, client.session, Manners::Answers);
    // Nothing runs before the session has reclaimed what it had.
    let waiting = {
        let client = client.clone();
        thread::spawn(move || client.call_as(request, &make("f", true)))
    };
    until("the wait", || world.engine.totals().waiting == 1);
    assert!(world.engine.totals().grace);
    let lease = Lease {
        inode: InodeId::new(inode_of(&again)),
        mode: LeaseMode::Write,
        grant: rfs_common::ids::LeaseGrant::new(1),
    };
    let reclaimed = ReclaimedState { leases: vec![lease], last: true, ..ReclaimedState::default() };
    assert_eq!(world.engine.reclaim(client.session, &reclaimed).unwrap(), []);
    let repeated = waiting.join().unwrap().unwrap();
    assert_eq!(inode_of(&repeated), inode_of(&again));
    assert_eq!(client.mode(inode_of(&again)), LeaseMode::Write);
    let changed = client.call_as(Request { sequence: 10, ..request }, &make("g", false)).unwrap();
    assert!(changed.created);
    assert_eq!(
        client.call_as(request, &make("f", true)),
        Err(Refusal::Close("the request's slot is further on already"))
    );
    world.check();
}

#[test]
fn sessions_that_do_not_come_back_after_a_restart_are_not_waited_for_longer_than_the_expiry() {
    let mut world = World::new();
    let gone = world.client(Manners::Answers);
    gone.make("f", true);
    world.restart();
    let client = world.client(Manners::Answers);
    let waiting = client.spawn(lookup("f"));
    until("the wait", || world.engine.totals().waiting == 1);
    world.clock.advance(Duration::from_secs(5));
    world.engine.heartbeat(client.session, []).unwrap();
    world.tick_after(5);
    assert!(waiting.join().unwrap().unwrap().node.is_some());
    assert!(!world.engine.totals().grace);
}

#[test]
fn a_rename_has_others_forget_both_names_before_it_happens() {
    let world = World::new();
    let (knows, renames) = (world.client(Manners::Keeps), world.client(Manners::Answers));
    renames.make("a", false);
    assert!(knows.lookup("a").parent_lease.is_some());
    assert!(knows.lookup("b").node.is_none());
    let rename = session::Rename {
        caller: caller(),
        parent: 1,
        name: b"a".to_vec().into(),
        new_parent: 1,
        new_name: b"b".to_vec().into(),
        flags: 0,
    };
    let waiting = renames.spawn(rename);
    until("the recall", || !knows.peer.recalls().is_empty());
    let (recall, items) = knows.peer.recalls().remove(0);
    let mut names: Vec<_> = items.entries.iter().flat_map(|(_, names)| names).map(ToString::to_string).collect();
    names.sort();
    assert_eq!(names, ["a", "b"]);
    assert!(items.attributes.contains(&InodeId::ROOT));
    // What it looks up now is how it still is, and may not be kept.
    let meanwhile = knows.lookup("a");
    assert!(meanwhile.node.is_some() && meanwhile.parent_lease.is_none());
    world.engine.recall_done(knows.session, recall);
    assert!(waiting.join().unwrap().is_ok());
    let after = knows.lookup("b");
    assert!(after.node.is_some() && after.parent_lease.is_some());
    assert_eq!(knows.peer.recalls().len(), 1);
    world.check();
}

#[test]
fn an_answer_to_a_recall_does_not_end_the_lease_that_was_granted_after_it() {
    let world = World::new();
    let (first, second) = (world.client(Manners::Keeps), world.client(Manners::Answers));
    let file = inode_of(&second.make("f", false));
    first.attributes(file).unwrap();
    let waiting = second.spawn(session::AcquireLease { inode: file, mode: session::LeaseMode::Write as i32 });
    until("the recall", || first.peer.recalls().len() == 1);
    // Its own request for the lease overtakes the recall of the older one.
    let taken = first.write_lease(file).unwrap();
    assert_eq!(taken.node.unwrap().lease.unwrap().mode, session::LeaseMode::Write as i32);
    world.engine.recall_done(first.session, first.peer.recalls()[0].0);
    assert_eq!(first.mode(file), LeaseMode::Write);
    until("the recall of the newer one", || first.peer.recalls().len() == 2);
    world.engine.recall_done(first.session, first.peer.recalls()[1].0);
    assert!(waiting.join().unwrap().is_ok());
    assert_eq!((first.mode(file), second.mode(file)), (LeaseMode::None, LeaseMode::Write));
}

#[test]
fn two_writers_and_a_reader_of_one_file_all_get_on() {
    let world = World::new();
    let clients: Vec<Client> = (0..3).map(|_| world.client(Manners::Answers)).collect();
    let file = inode_of(&clients[0].make("f", false));
    let threads: Vec<_> = clients
        .iter()
        .cloned()
        .enumerate()
        .map(|(number, client)| {
            thread::spawn(move || {
                for _ in 0..300 {
                    match number {
                        0 => drop(client.attributes(file).unwrap()),
                        _ => drop(client.write_lease(file).unwrap()),
                    }
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    let totals = world.engine.totals();
    assert_eq!((totals.recalls, totals.waiting, totals.waiting_for_recalls), (0, 0, 0));
}

#[test]
fn a_full_disk_refuses_changes_and_reads_go_on() {
    let world = World::new();
    let client = world.client(Manners::Answers);
    client.make("f", false);
    world.storage.set_full(true);
    assert_eq!(errno_of(client.call(&make("g", true))), Errno::ENOSPC);
    assert!(client.lookup("f").node.is_some());
    assert!(client.lookup("g").node.is_none());
    world.storage.set_full(false);
    assert!(client.make("g", true).created);
    world.check();
}

#[test]
fn a_node_that_others_know_is_kept_until_they_have_released_it_or_are_gone() {
    let world = World::new();
    let (first, second) = (world.client(Manners::Answers), world.client(Manners::Answers));
    let file = inode_of(&first.make("f", false));
    second.lookup("f");
    let unlink = session::Unlink { caller: caller(), parent: 1, name: b"f".to_vec().into(), directory: false };
    let reply = first.call(&unlink).unwrap();
    assert!(reply.orphan);
    assert!(second.peer.has(&PushMessage::Unlinked(vec![InodeId::new(file)])));
    first.call(&session::Release { orphans: vec![file], forgotten: vec![file] }).unwrap();
    assert!(second.attributes(file).is_ok());
    world.engine.goodbye(second.session);
    assert_eq!(errno_of(first.attributes(file)), Errno::ESTALE);
    assert_eq!(world.engine.totals().orphans, 0);
    world.check();
}

#[test]
fn recalls_are_told_again_over_a_new_push_connection() {
    let world = World::new();
    let (writer, reader) = (world.client(Manners::Keeps), world.client(Manners::Answers));
    let file = inode_of(&writer.make("f", true));
    let peer: Arc<dyn Push> = writer.peer.clone();
    world.engine.detach_push(writer.session, &peer);
    let waiting = reader.spawn(session::GetAttributes { inode: file });
    until("the recall", || world.engine.totals().recalls == 1);
    assert!(writer.peer.recalls().is_empty());
    let back = Client::attached(&world.engine, writer.session, Manners::Answers);
    assert!(waiting.join().unwrap().is_ok());
    assert_eq!(back.peer.recalls().len(), 1);
}

#[test]
fn stopping_ends_every_wait_without_an_answer() {
    let world = World::new();
    let (writer, reader) = (world.client(Manners::Keeps), world.client(Manners::Answers));
    let file = inode_of(&writer.make("f", true));
    let waiting = reader.spawn(session::GetAttributes { inode: file });
    until("the recall", || !writer.peer.recalls().is_empty());
    world.engine.stop();
    assert!(matches!(waiting.join().unwrap(), Err(Refusal::Close(_))));
}

#[test]
fn after_a_pause_of_the_master_nobody_is_taken_for_away() {
    let world = World::new();
    world.chunkservers(2);
    let client = world.client(Manners::Answers);
    let copies: Arc<dyn CompareCopies> = Arc::new(Digests(true));
    let mut ticker = Ticker::new(world.engine.clone(), &copies).unwrap();
    let connected = || world.engine.with_chunks(|chunks, _| chunks.summary().servers.1);
    ticker.step();
    world.clock.advance(Duration::from_secs(3600));
    ticker.step();
    assert_eq!((connected(), world.engine.totals().sessions), (2, 1));
    assert!(world.engine.events().after(0).iter().any(|event| event.message.contains("stood still for 3599.9 s")));
    // Who stays silent from then on is away.
    for _ in 0..110 {
        world.clock.advance(Duration::from_millis(100));
        ticker.step();
    }
    assert_eq!(world.engine.totals().sessions, 0);
    drop(client);
}
