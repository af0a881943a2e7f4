//! Single events whose outcome the random lives do not pin down.

use std::sync::Arc;
use std::time::Duration;

use rfs_common::clock::Monotonic;
use rfs_common::ids::{ChunkId, ChunkVersion, Goal, InodeId, ServerId, SessionId, VolumeId};
use rfs_common::random::SeededRandom;

use super::*;

const WHOLE: InventoryPart = InventoryPart { first: true, last: true };

fn at(seconds: u64) -> Monotonic {
    Monotonic::from_start(Duration::from_secs(seconds))
}

fn table(config: ChunksConfig) -> Chunks {
    Chunks::new(config, Arc::new(SeededRandom::new(7)), Monotonic::START)
}

fn report(volume: u64, machine: &str) -> VolumeReport {
    VolumeReport {
        volume: VolumeId::new(volume),
        path: format!("/v{volume}"),
        state: VolumeState::InService,
        reason: String::new(),
        total: 1 << 40,
        free: 1 << 39,
        chunks: 0,
        storage_machine: machine.to_owned(),
        filesystem: String::new(),
        lost_power: true,
        scrub: Default::default(),
        epoch: None,
        changed: false,
    }
}

fn registration(server: u64, volumes: Vec<VolumeReport>) -> Registration {
    let (host, address) = (format!("h{server}"), format!("h{server}:1"));
    Registration { server: ServerId::new(server), host, address, version: String::new(), volumes }
}

/// Server N has volume N0 with these copies.
fn connect(chunks: &mut Chunks, server: u64, copies: &[Held]) {
    connect_with(chunks, server, report(server * 10, ""), copies);
}

fn connect_with(chunks: &mut Chunks, server: u64, report: VolumeReport, copies: &[Held]) {
    let stream = StreamId(server);
    let now = chunks.now;
    chunks.register(now, registration(server, vec![report]), stream, Signal::default()).unwrap();
    chunks.inventory(now, ServerId::new(server), stream, VolumeId::new(server * 10), copies, WHOLE);
}

fn held(chunk: u64, version: u32) -> Held {
    Held {
        chunk: ChunkId::new(chunk),
        version: ChunkVersion::new(version),
        length: 0,
        open: false,
        suspect: false,
        unreadable: version == 0,
        bad: false,
    }
}

fn info(version: u32, granted: u32, goal: Goal) -> ChunkInfo {
    let (version, granted) = (ChunkVersion::new(version), ChunkVersion::new(granted));
    ChunkInfo { inode: InodeId::new(9), version, granted, goal, unsynced: false }
}

fn commands(chunks: &mut Chunks, server: u64) -> Vec<Order> {
    chunks.take_commands(ServerId::new(server), StreamId(server)).into_iter().map(|command| command.order).collect()
}

fn pass(chunks: &mut Chunks, seconds: u64, alive: &[u64]) {
    let end = chunks.now + Duration::from_secs(seconds);
    while chunks.now < end {
        let now = chunks.now + Duration::from_secs(1);
        for server in alive {
            chunks.heartbeat(now, ServerId::new(*server), StreamId(*server), Vec::new(), Traffic::default());
        }
        chunks.tick(now);
    }
}

#[test]
fn orphans_wait_for_their_grace_and_newer_ids_are_never_deleted() {
    let grace = Duration::from_secs(100);
    let mut chunks = table(ChunksConfig { orphan_grace: grace, ..ChunksConfig::default() });
    // The last start but one has passed over 20 to 30: the master may have been restored from an export, and the ids be
    // those of files that it does not know.
    chunks.set_next_chunk(ChunkId::new(50));
    chunks.passed_over(ChunkId::new(20)..ChunkId::new(30));
    connect(&mut chunks, 1, &[held(20, 1), held(29, 1), held(49, 1), held(50, 1)]);
    assert_eq!(chunks.summary().orphans, 4);
    let notices = chunks.take_notices();
    let told = |words: &str| notices.iter().any(|notice| notice.message.contains(words));
    assert!(
        told("holds 1 copies of chunks with ids beyond")
            && told("holds 2 copies of chunks that this metadata has not given out")
    );
    pass(&mut chunks, 99, &[1]);
    assert!(commands(&mut chunks, 1).is_empty());
    pass(&mut chunks, 300, &[1]);
    let orders = commands(&mut chunks, 1);
    assert!(!orders.is_empty());
    let about_49 = |order: &Order| matches!(order, Order::Delete { chunk, .. } if *chunk == ChunkId::new(49));
    assert!(orders.iter().all(about_49), "{orders:?}");
}

#[test]
fn deletions_are_ordered_many_at_a_time() {
    let config = ChunksConfig { deletions_per_volume: 8, startup_wait: Duration::ZERO, ..ChunksConfig::default() };
    let mut chunks = table(config);
    for chunk in 1..=20 {
        chunks.load(ChunkId::new(chunk), info(1, 1, Goal::ONE));
    }
    connect(&mut chunks, 1, &(1..=20).map(|chunk| held(chunk, 1)).collect::<Vec<_>>());
    (1..=20).for_each(|chunk| chunks.freed(ChunkId::new(chunk)));
    chunks.tick(at(1));
    let (server, stream) = (ServerId::new(1), StreamId(1));
    let mut batches = Vec::new();
    loop {
        let orders = chunks.take_commands(server, stream);
        if orders.is_empty() {
            break;
        }
        batches.push(orders.len());
        for order in orders {
            let (version, message) = (ChunkVersion::new(0), String::new());
            let done = CommandResult { command: order.id, done: true, errno: 0, message, version, length: 0 };
            chunks.command_result(at(1), server, stream, &done);
        }
    }
    assert_eq!(batches.iter().sum::<usize>(), 20);
    assert!(batches.len() <= 4, "{batches:?}");
}

#[test]
fn a_copy_newer_than_its_record_is_neither_read_nor_deleted() {
    let mut chunks = table(ChunksConfig::default());
    chunks.load(ChunkId::new(1), info(3, 3, Goal::ONE));
    connect(&mut chunks, 1, &[held(1, 4)]);
    connect(&mut chunks, 2, &[held(1, 3)]);
    pass(&mut chunks, 60, &[1, 2]);
    let places = chunks.places(ChunkId::new(1));
    assert_eq!(places.iter().map(|place| place.server).collect::<Vec<_>>(), [ServerId::new(2)]);
    assert!(commands(&mut chunks, 1).is_empty() && commands(&mut chunks, 2).is_empty());
}

#[test]
fn a_repair_waits_for_the_delay_unless_one_copy_is_left() {
    let mut chunks = table(ChunksConfig { startup_wait: Duration::ZERO, ..ChunksConfig::default() });
    chunks.load(ChunkId::new(1), info(1, 1, Goal::new(3).unwrap()));
    chunks.load(ChunkId::new(2), info(1, 1, Goal::TWO));
    connect(&mut chunks, 1, &[held(1, 1), held(2, 1)]);
    connect(&mut chunks, 2, &[held(1, 1), held(2, 1)]);
    connect(&mut chunks, 3, &[held(1, 1)]);
    connect(&mut chunks, 4, &[]);
    chunks.tick(at(0));
    assert!((1..=4).all(|server| commands(&mut chunks, server).is_empty()));
    chunks.disconnected(at(0), ServerId::new(2), StreamId(2));
    pass(&mut chunks, 5, &[1, 3, 4]);
    let orders: Vec<Order> = [3, 4].into_iter().flat_map(|server| commands(&mut chunks, server)).collect();
    assert!(matches!(&orders[..], [Order::Replicate { chunk, .. }] if *chunk == ChunkId::new(2)), "{orders:?}");
    pass(&mut chunks, 6, &[1, 3, 4]);
    let orders = commands(&mut chunks, 4);
    assert!(matches!(&orders[..], [Order::Replicate { chunk, .. }] if *chunk == ChunkId::new(1)), "{orders:?}");
}

#[test]
fn the_outage_of_a_storage_machine_is_waited_out() {
    let config = ChunksConfig { startup_wait: Duration::ZERO, ..ChunksConfig::default() };
    let mut chunks = table(config);
    for server in 1..=4_u64 {
        let volumes = vec![report(server * 10, "sto1"), report(server * 10 + 1, "sto2")];
        chunks.register(at(0), registration(server, volumes), StreamId(server), Signal::default()).unwrap();
        for volume in [server * 10, server * 10 + 1] {
            let copies = [held(1, 1)];
            let copies = if volume == 10 || volume == 21 { &copies[..] } else { &[] };
            chunks.load(ChunkId::new(1), info(1, 1, Goal::TWO));
            chunks.inventory(at(0), ServerId::new(server), StreamId(server), VolumeId::new(volume), copies, WHOLE);
        }
    }
    assert_eq!(chunks.summary().under_goal, 0);
    for server in 1..=4 {
        let stalled = VolumeReport { state: VolumeState::Stalled, ..report(server * 10, "sto1") };
        chunks.heartbeat(at(1), ServerId::new(server), StreamId(server), vec![stalled], Traffic::default());
    }
    pass(&mut chunks, 120, &[1, 2, 3, 4]);
    assert!(chunks.summary().repairs_wait.unwrap().contains("storage machine sto1"));
    assert!((1..=4).all(|server| commands(&mut chunks, server).is_empty()));
    pass(&mut chunks, 300, &[1, 2, 3, 4]);
    assert!((1..=4).any(|server| !commands(&mut chunks, server).is_empty()));
}

#[test]
fn a_chunk_committed_across_a_restart_is_looked_for_everywhere() {
    let mut chunks = table(ChunksConfig::default());
    chunks.load(ChunkId::new(1), info(0, 1, Goal::ONE));
    connect(&mut chunks, 1, &[]);
    // The writer, whose places the restarted master does not know, made the copy after the inventory and commits.
    chunks.changed(ChunkId::new(1), info(1, 1, Goal::ONE));
    let taken = chunks.take_commands(ServerId::new(1), StreamId(1));
    assert!(matches!(taken[0].order, Order::Raise { from, to, .. } if from == to));
    let (command, version) = (taken[0].id, ChunkVersion::new(1));
    let result = CommandResult { command, done: true, errno: 0, message: String::new(), version, length: 5 };
    chunks.command_result(at(1), ServerId::new(1), StreamId(1), &result);
    assert_eq!(chunks.places(ChunkId::new(1)).len(), 1);
    assert!(chunks.summary().fully_replicated);
}

#[test]
fn suspect_copies_are_settled_and_no_reader_is_sent_to_one() {
    let mut chunks = table(ChunksConfig::default());
    chunks.load(ChunkId::new(1), info(2, 2, Goal::TWO));
    let suspect = Held { suspect: true, ..held(1, 2) };
    connect(&mut chunks, 1, &[suspect]);
    connect(&mut chunks, 2, &[suspect]);
    assert_eq!((chunks.wants_settling(), chunks.places(ChunkId::new(1)).len()), (vec![ChunkId::new(1)], 0));
    connect(&mut chunks, 4, &[]);
    connect(&mut chunks, 3, &[held(1, 2)]);
    assert!(chunks.wants_settling().is_empty());
    assert_eq!(chunks.places(ChunkId::new(1)).len(), 1);
    // Without a server for a fresh copy, a suspect one has to become old before it can be replaced.
    chunks.disconnected(at(1), ServerId::new(4), StreamId(4));
    pass(&mut chunks, 6, &[1, 2, 3]);
    assert_eq!(chunks.wants_settling(), [ChunkId::new(1)]);
}

#[test]
fn the_copies_of_a_grant_are_the_candidates_and_those_away_are_waited_for() {
    let mut chunks = table(ChunksConfig::default());
    chunks.load(ChunkId::new(1), info(2, 2, Goal::TWO));
    (1..=3).for_each(|server| connect(&mut chunks, server, &[held(1, 2)]));
    let places = chunks.begin_write(ChunkId::new(1), SessionId::new(1)).unwrap();
    assert_eq!(chunks.begin_write(ChunkId::new(1), SessionId::new(2)), Err(WriteRefusal::Busy));
    chunks.changed(ChunkId::new(1), info(2, 3, Goal::TWO));
    chunks.granted(ChunkId::new(1), ChunkVersion::new(2), ChunkVersion::new(3), &places[..2]);
    let away = places[0].server;
    chunks.disconnected(at(1), away, StreamId(away.get()));
    let view = chunks.settle_candidates(ChunkId::new(1));
    assert_eq!(view.candidates.iter().map(|candidate| candidate.place.server).collect::<Vec<_>>(), [places[1].server]);
    assert_eq!(view.missing, [places[0].volume]);
}

#[test]
fn copies_stay_apart_as_far_as_there_are_machines() {
    let mut chunks = table(ChunksConfig::default());
    for server in 1..=2_u64 {
        let volumes = vec![report(server * 10, "sto1"), report(server * 10 + 1, "sto2")];
        chunks.register(at(0), registration(server, volumes), StreamId(server), Signal::default()).unwrap();
        for volume in [server * 10, server * 10 + 1] {
            chunks.inventory(at(0), ServerId::new(server), StreamId(server), VolumeId::new(volume), &[], WHOLE);
        }
    }
    for _ in 0..100 {
        let places = chunks.choose_new(Goal::TWO, &[]).unwrap();
        let machines: Vec<u64> = places.iter().map(|place| place.volume.get() % 10).collect();
        assert!(places[0].server != places[1].server && machines[0] != machines[1], "{places:?}");
    }
    chunks.disconnected(at(1), ServerId::new(2), StreamId(2));
    let refused = chunks.choose_new(Goal::TWO, &[]).unwrap_err();
    assert_eq!((refused.found, refused.needed, refused.full), (1, 2, 0));
    assert_eq!(chunks.choose_new(Goal::ONE, &[]).unwrap().len(), 1);
}

#[test]
fn places_are_waited_for_while_volumes_may_come_back() {
    let mut chunks = table(ChunksConfig::default());
    let may_pass = |chunks: &mut Chunks| chunks.choose_new(Goal::TWO, &[]).unwrap_err().may_pass();
    connect(&mut chunks, 1, &[]);
    pass(&mut chunks, 3_600, &[1]);
    assert!(!may_pass(&mut chunks), "there never was another");
    let (server, stream, now) = (ServerId::new(2), StreamId(2), chunks.now);
    chunks.register(now, registration(2, vec![report(20, "")]), stream, Signal::default()).unwrap();
    assert!(may_pass(&mut chunks), "it has just come and has yet to say what it holds");
    chunks.inventory(now, server, stream, VolumeId::new(20), &[], WHOLE);
    assert_eq!(chunks.choose_new(Goal::TWO, &[]).unwrap().len(), 2);
    for (state, is_awaited) in [(VolumeState::Stalled, true), (VolumeState::Out, false)] {
        let report = VolumeReport { state, ..report(20, "") };
        chunks.heartbeat(now, server, stream, vec![report], Traffic::default());
        assert_eq!(may_pass(&mut chunks), is_awaited, "{state:?}");
    }
    chunks.disconnected(now, server, stream);
    assert!(may_pass(&mut chunks), "away");
}

/// The orders to delete of a server, carried out.
fn deletions(chunks: &mut Chunks, server: u64) -> Vec<u32> {
    let commands = chunks.take_commands(ServerId::new(server), StreamId(server));
    let mut versions = Vec::new();
    for command in commands {
        let Order::Delete { version, .. } = command.order else { continue };
        versions.push(version.get());
        let result = CommandResult {
            command: command.id,
            done: true,
            errno: 0,
            message: String::new(),
            version: ChunkVersion::new(0),
            length: 0,
        };
        chunks.command_result(chunks.now, ServerId::new(server), StreamId(server), &result);
    }
    versions
}

#[test]
fn an_unreadable_file_is_deleted_once_others_are_good_whenever_it_is_told_of() {
    let unreadable = CopyFault::Found("no magic".to_owned());
    let zero = ChunkVersion::new(0);
    for told in ["in the inventory", "before the inventory", "after the inventory"] {
        // No repair before the second good copy is there.
        let delay = Duration::from_secs(100);
        let mut chunks = table(ChunksConfig { last_copy_delay: delay, repair_delay: delay, ..ChunksConfig::default() });
        chunks.load(ChunkId::new(1), info(3, 3, Goal::TWO));
        connect(&mut chunks, 1, &[held(1, 3)]);
        let stream = StreamId(3);
        let (server, volume) = (ServerId::new(3), VolumeId::new(30));
        let now = chunks.now;
        chunks.register(now, registration(3, vec![report(30, "")]), stream, Signal::default()).unwrap();
        let listed = if told == "after the inventory" { held(1, 3) } else { held(1, 0) };
        if told == "before the inventory" {
            chunks.bad_copy(volume, ChunkId::new(1), zero, &unreadable);
        }
        chunks.inventory(now, server, stream, volume, &[listed], WHOLE);
        if told == "after the inventory" {
            chunks.bad_copy(volume, ChunkId::new(1), zero, &unreadable);
        }
        assert_eq!(chunks.places(ChunkId::new(1)).len(), 1, "{told}");
        connect(&mut chunks, 2, &[held(1, 3)]);
        pass(&mut chunks, 1, &[1, 2, 3]);
        assert_eq!(deletions(&mut chunks, 3), [0], "{told}");
        assert_eq!(chunks.copies(ChunkId::new(1)).len(), 2, "{told}");
    }
}

#[test]
fn an_unreadable_file_of_a_freed_chunk_is_deleted_before_the_chunk_is_forgotten() {
    let mut chunks = table(ChunksConfig::default());
    chunks.load_freed(ChunkId::new(1));
    connect(&mut chunks, 1, &[held(1, 0)]);
    assert!(chunks.removed_everywhere().is_empty());
    pass(&mut chunks, 1, &[1]);
    assert_eq!(deletions(&mut chunks, 1), [0]);
    assert_eq!(chunks.removed_everywhere(), [ChunkId::new(1)]);
}

#[test]
fn a_copy_that_kept_its_power_is_not_outvoted_by_suspect_ones() {
    let mut chunks = table(ChunksConfig::default());
    chunks.load(ChunkId::new(1), info(3, 4, Goal::new(3).unwrap()));
    let suspect = Held { open: true, suspect: true, ..held(1, 4) };
    connect(&mut chunks, 1, &[suspect]);
    connect(&mut chunks, 2, &[held(1, 4)]);
    connect(&mut chunks, 3, &[suspect]);
    let candidates = chunks.settle_candidates(ChunkId::new(1)).candidates;
    assert_eq!(candidates.len(), 1, "{candidates:?}");
    assert_eq!((candidates[0].place.server, candidates[0].suspect), (ServerId::new(2), false));
}

#[test]
fn a_chunk_without_any_copy_is_lost_only_if_never_synced_and_while_every_volume_is_there() {
    let mut chunks = table(ChunksConfig { startup_wait: Duration::ZERO, ..ChunksConfig::default() });
    let unsynced = ChunkInfo { unsynced: true, ..info(2, 2, Goal::TWO) };
    chunks.load(ChunkId::new(1), unsynced);
    chunks.load(ChunkId::new(2), info(2, 2, Goal::TWO));
    assert!(chunks.wants_settling().is_empty(), "nothing is known of any volume");
    connect(&mut chunks, 1, &[]);
    connect(&mut chunks, 2, &[]);
    assert_eq!(chunks.wants_settling(), [ChunkId::new(1)]);
    assert!(chunks.settle_candidates(ChunkId::new(1)).is_lost && !chunks.settle_candidates(ChunkId::new(2)).is_lost);
    assert!(chunks.disconnected(chunks.now, ServerId::new(2), StreamId(2)));
    assert!(chunks.wants_settling().is_empty(), "the volume that is away may have it");
    assert!(!chunks.settle_candidates(ChunkId::new(1)).is_lost);
    // Back with an old copy, and with an unreadable one: neither is what was written, nor is anything promised.
    connect(&mut chunks, 2, &[held(1, 1)]);
    assert!(chunks.settle_candidates(ChunkId::new(1)).is_lost);
    connect(&mut chunks, 2, &[held(1, 2)]);
    assert!(chunks.wants_settling().is_empty());
    assert!(!chunks.settle_candidates(ChunkId::new(1)).is_lost);
}

#[test]
fn a_granted_copy_that_is_not_there_is_no_candidate_any_more() {
    let (mut chunks, chunk) = (table(ChunksConfig::default()), ChunkId::new(1));
    connect(&mut chunks, 1, &[]);
    connect(&mut chunks, 2, &[]);
    chunks.load(chunk, ChunkInfo { unsynced: true, ..info(1, 1, Goal::TWO) });
    let places = chunks.choose_new(Goal::TWO, &[]).unwrap();
    chunks.changed(chunk, ChunkInfo { unsynced: true, ..info(1, 2, Goal::TWO) });
    chunks.granted(chunk, ChunkVersion::new(1), ChunkVersion::new(2), &places);
    for server in [1, 2] {
        assert!(chunks.disconnected(chunks.now, ServerId::new(server), StreamId(server)));
        connect(&mut chunks, server, &[]);
    }
    let candidates: Vec<Place> =
        chunks.settle_candidates(chunk).candidates.into_iter().map(|candidate| candidate.place).collect();
    assert_eq!(candidates.len(), 2, "an inventory says nothing of a copy that its writer may be making");
    chunks.order_raise(chunk, ChunkVersion::new(1), ChunkVersion::new(2), &candidates, RaiseOf::Whatever);
    for server in [1, 2] {
        let command = chunks.take_commands(ServerId::new(server), StreamId(server))[0].id;
        let (message, version) = (String::new(), ChunkVersion::new(0));
        let result = CommandResult { command, done: false, errno: 2, message, version, length: 0 };
        chunks.command_result(chunks.now, ServerId::new(server), StreamId(server), &result);
    }
    let view = chunks.settle_candidates(chunk);
    assert!(view.candidates.is_empty() && view.is_lost);
}

#[test]
fn a_chunk_without_any_copy_is_not_begun_anew_where_no_volume_lost_power() {
    let mut chunks = table(ChunksConfig { startup_wait: Duration::ZERO, ..ChunksConfig::default() });
    chunks.load(ChunkId::new(1), ChunkInfo { unsynced: true, ..info(2, 2, Goal::TWO) });
    for server in [1, 2] {
        let healthy = VolumeReport { lost_power: false, ..report(server * 10, "sto1") };
        connect_with(&mut chunks, server, healthy, &[]);
    }
    assert!(!chunks.settle_candidates(ChunkId::new(1)).is_lost, "its files were removed, not lost in a power cut");
}

#[test]
fn open_copies_of_settled_chunks_are_named_after_the_start_and_not_later() {
    let mut chunks = table(ChunksConfig::default());
    for chunk in 1..=3 {
        chunks.load(ChunkId::new(chunk), info(2, if chunk == 3 { 3 } else { 2 }, Goal::ONE));
    }
    let open = |chunk| Held { open: true, ..held(chunk, 2) };
    connect(&mut chunks, 1, &[open(1), held(2, 2), open(3)]);
    assert_eq!(chunks.take_left_open(), [ChunkId::new(1)], "the others are closed, or unsettled anyway");
    assert!(chunks.disconnected(chunks.now, ServerId::new(1), StreamId(1)));
    connect(&mut chunks, 1, &[open(1), open(2)]);
    assert!(chunks.take_left_open().is_empty(), "this master knows who writes");
}

#[test]
fn only_volumes_that_vanish_together_look_like_the_outage_of_something_shared() {
    for (apart_s, waits) in [(5, true), (100, false)] {
        let mut chunks = table(ChunksConfig { startup_wait: Duration::ZERO, ..ChunksConfig::default() });
        chunks.load(ChunkId::new(1), info(1, 1, Goal::TWO));
        for server in 1..=5 {
            let copy = [held(1, 1)];
            connect(&mut chunks, server, if server == 1 || server == 5 { &copy } else { &[] });
        }
        for (gone, alive) in [(3, &[1, 2, 4, 5][..]), (4, &[1, 2, 5]), (5, &[1, 2])] {
            assert!(chunks.disconnected(chunks.now, ServerId::new(gone), StreamId(gone)));
            pass(&mut chunks, apart_s, alive);
        }
        assert_eq!(chunks.summary().repairs_wait.is_some(), waits, "{apart_s} s apart");
    }
}

#[test]
fn a_chunk_whose_copies_only_serve_reads_gets_one_that_takes_writes() {
    let mut chunks = table(ChunksConfig { startup_wait: Duration::ZERO, ..ChunksConfig::default() });
    let chunk = ChunkId::new(1);
    chunks.load(chunk, info(1, 1, Goal::TWO));
    connect(&mut chunks, 1, &[held(1, 1)]);
    connect(&mut chunks, 2, &[held(1, 1)]);
    connect(&mut chunks, 3, &[]);
    let state = |chunks: &mut Chunks, state| {
        let told = VolumeReport { state, ..report(20, "") };
        chunks.heartbeat(chunks.now, ServerId::new(2), StreamId(2), vec![told], Traffic::default());
    };
    state(&mut chunks, VolumeState::ReadOnly);
    assert_eq!(chunks.begin_write(chunk, SessionId::new(1)).map(|places| places.len()), Ok(1));
    chunks.end_write(chunk);
    assert!(chunks.add_writable_copy(chunk));
    let command = chunks.take_commands(ServerId::new(3), StreamId(3)).remove(0);
    assert!(matches!(command.order, Order::Replicate { .. }), "{command:?}");
    let version = ChunkVersion::new(1);
    let made = CommandResult { command: command.id, done: true, errno: 0, message: String::new(), version, length: 0 };
    chunks.command_result(chunks.now, ServerId::new(3), StreamId(3), &made);
    pass(&mut chunks, 60, &[1, 2, 3]);
    assert_eq!(chunks.begin_write(chunk, SessionId::new(1)).map(|places| places.len()), Ok(2));
    chunks.end_write(chunk);
    assert!((1..=3).all(|server| commands(&mut chunks, server).is_empty()), "none of the three goes meanwhile");
    state(&mut chunks, VolumeState::InService);
    pass(&mut chunks, 1, &[1, 2, 3]);
    let orders: Vec<Order> = (1..=3).flat_map(|server| commands(&mut chunks, server)).collect();
    assert!(matches!(orders[..], [Order::Delete { .. }]), "{orders:?}");
}

#[test]
fn a_server_that_was_not_here_since_the_start_may_have_what_nobody_else_has() {
    let mut chunks = table(ChunksConfig::default());
    for chunk in 1..=2 {
        chunks.load(ChunkId::new(chunk), info(2, 2, Goal::TWO));
    }
    chunks.load(ChunkId::new(3), info(0, 1, Goal::TWO));
    chunks.know_server(registration(1, vec![report(10, "")]));
    chunks.know_server(registration(2, vec![report(20, "")]));
    connect(&mut chunks, 2, &[held(2, 2)]);
    assert_eq!(chunks.last_copies_of(ServerId::new(1)), [ChunkId::new(1)], "3 was never written to its end");
    assert_eq!(chunks.last_copies_of_volume(VolumeId::new(10)), [ChunkId::new(1)]);
    assert_eq!(chunks.last_copies_of(ServerId::new(2)), [ChunkId::new(2)]);
}

#[test]
fn the_last_copies_of_a_server_that_is_away_are_counted() {
    let mut chunks = table(ChunksConfig::default());
    for chunk in 1..=3 {
        chunks.load(ChunkId::new(chunk), info(2, 2, Goal::TWO));
    }
    connect(&mut chunks, 1, &[held(1, 2), held(2, 2), held(3, 1)]);
    connect(&mut chunks, 2, &[held(2, 2), held(3, 2)]);
    assert!(chunks.disconnected(chunks.now, ServerId::new(1), StreamId(1)));
    assert_eq!(chunks.last_copies_of(ServerId::new(1)), [ChunkId::new(1)], "2 is elsewhere, of 3 it has an old one");
}

#[test]
fn what_lacks_copies_says_why() {
    let mut chunks = table(ChunksConfig { startup_wait: Duration::ZERO, ..ChunksConfig::default() });
    let three = Goal::new(3).unwrap();
    chunks.load(ChunkId::new(1), info(1, 1, three));
    chunks.load(ChunkId::new(2), info(1, 1, Goal::ONE));
    connect(&mut chunks, 1, &[held(1, 1)]);
    connect(&mut chunks, 2, &[held(1, 1)]);
    connect(&mut chunks, 3, &[held(1, 1), held(2, 1)]);
    assert!(chunks.lacking(9).is_empty());
    chunks.disconnected(at(1), ServerId::new(3), StreamId(3));
    let lacking = chunks.lacking(9);
    let found: Vec<_> = lacking.iter().map(|lacks| (lacks.chunk.get(), lacks.live, lacks.hindrance.clone())).collect();
    let no_place = Hindrance::NoPlace { connected: 2, full: 0 };
    assert_eq!(found, [(2, 0, Hindrance::NoLiveCopy), (1, 2, no_place)]);
    assert_eq!(lacking[0].copies[0].state, CopyState::Away);
    assert_eq!(chunks.lacking(1).len(), 1);
    connect(&mut chunks, 4, &[]);
    let hindrance = |chunks: &Chunks| chunks.lacking(9)[1].hindrance.clone();
    assert!(matches!(hindrance(&chunks), Hindrance::Delay(1..=11)), "{:?}", hindrance(&chunks));
    pass(&mut chunks, 12, &[1, 2, 4]);
    assert_eq!(hindrance(&chunks), Hindrance::BeingMade);
}

#[test]
fn a_volume_that_is_not_named_any_more_can_be_forgotten_and_comes_back_when_it_is() {
    let mut chunks = table(ChunksConfig::default());
    for chunk in [1, 2] {
        chunks.load(ChunkId::new(chunk), info(1, 1, Goal::TWO));
    }
    let both = vec![report(10, ""), report(11, "")];
    let stream = StreamId(1);
    let server = ServerId::new(1);
    chunks.register(at(0), registration(1, both), stream, Signal::default()).unwrap();
    chunks.inventory(at(0), server, stream, VolumeId::new(10), &[held(1, 1)], WHOLE);
    chunks.inventory(at(0), server, stream, VolumeId::new(11), &[held(1, 1), held(2, 1)], WHOLE);
    connect(&mut chunks, 2, &[held(1, 1)]);
    assert!(!chunks.forget_volume(VolumeId::new(11)), "it is in use");
    assert_eq!(chunks.last_copies_of_volume(VolumeId::new(11)), [ChunkId::new(2)]);
    // The disk is taken out.
    let stream = StreamId(5);
    chunks.register(at(1), registration(1, vec![report(10, "")]), stream, Signal::default()).unwrap();
    chunks.inventory(at(1), server, stream, VolumeId::new(10), &[held(1, 1)], WHOLE);
    let known = |chunks: &Chunks| chunks.server(server).unwrap().volumes.len();
    assert_eq!((known(&chunks), chunks.summary().volumes), (2, (3, 2)));
    assert!(chunks.forget_volume(VolumeId::new(11)) && !chunks.forget_volume(VolumeId::new(11)));
    assert_eq!((known(&chunks), chunks.summary().volumes), (1, (2, 2)));
    assert!(chunks.copies(ChunkId::new(2)).is_empty() && chunks.live_copies(ChunkId::new(1)) == 2);
    // It was only away after all.
    let stream = StreamId(6);
    chunks.register(at(2), registration(1, vec![report(10, ""), report(11, "")]), stream, Signal::default()).unwrap();
    chunks.inventory(at(2), server, stream, VolumeId::new(11), &[held(2, 1)], WHOLE);
    assert_eq!((known(&chunks), chunks.live_copies(ChunkId::new(2))), (2, 1));
}

#[test]
fn volumes_that_share_a_filesystem_share_its_space() {
    let mut chunks = table(ChunksConfig::default());
    let on = |volume: u64, filesystem: &str| VolumeReport { filesystem: filesystem.to_owned(), ..report(volume, "") };
    connect_with(&mut chunks, 1, on(10, "boot 8:1"), &[]);
    connect_with(&mut chunks, 2, on(20, "boot 8:1"), &[]);
    assert_eq!(chunks.summary().space, (1 << 40, 1 << 39));
    connect_with(&mut chunks, 3, on(30, "boot 8:2"), &[]);
    connect_with(&mut chunks, 4, on(40, ""), &[]);
    connect_with(&mut chunks, 5, on(50, ""), &[]);
    assert_eq!(chunks.summary().space, (4 << 40, 4 << 39));
}

#[test]
fn a_copy_that_its_server_lists_as_bad_does_not_count_and_is_replaced() {
    let mut chunks = table(ChunksConfig { startup_wait: Duration::ZERO, ..ChunksConfig::default() });
    chunks.load(ChunkId::new(1), info(3, 3, Goal::TWO));
    connect(&mut chunks, 1, &[held(1, 3)]);
    connect(&mut chunks, 2, &[Held { bad: true, ..held(1, 3) }]);
    assert_eq!(chunks.places(ChunkId::new(1)).len(), 1);
    connect(&mut chunks, 3, &[]);
    pass(&mut chunks, 60, &[1, 2, 3]);
    let replicates = |order: &Order| matches!(order, Order::Replicate { chunk, .. } if *chunk == ChunkId::new(1));
    assert!(commands(&mut chunks, 3).iter().any(replicates), "no good copy takes the place of the bad one");
    // A later inventory of the same copy says the same.
    connect(&mut chunks, 2, &[Held { bad: true, ..held(1, 3) }]);
    assert_eq!(chunks.places(ChunkId::new(1)).len(), 1);
}

#[test]
fn a_volume_in_dispute_is_refused_and_its_server_is_not() {
    let mut chunks = table(ChunksConfig { startup_wait: Duration::ZERO, ..ChunksConfig::default() });
    chunks.load(ChunkId::new(1), info(3, 3, Goal::TWO));
    connect(&mut chunks, 1, &[held(1, 3)]);
    let now = chunks.now;
    let (server, stream) = (ServerId::new(2), StreamId(2));
    let both = || vec![report(10, ""), report(20, "")];
    let refused = chunks.register(now, registration(2, both()), stream, Signal::default()).unwrap();
    assert_eq!(refused, [VolumeId::new(10)]);
    chunks.inventory(now, server, stream, VolumeId::new(20), &[held(1, 3)], WHOLE);
    chunks.inventory(now, server, stream, VolumeId::new(10), &[], WHOLE);
    assert_eq!(chunks.places(ChunkId::new(1)).len(), 2, "both serve");
    let heartbeat = |chunks: &mut Chunks| chunks.heartbeat(now, server, stream, both(), Traffic::default());
    assert!(!heartbeat(&mut chunks).contains(&VolumeId::new(10)));
    // Once the other is gone it may have the volume.
    assert!(chunks.disconnected(now, ServerId::new(1), StreamId(1)));
    assert!(heartbeat(&mut chunks).contains(&VolumeId::new(10)));
    chunks.inventory(now, server, stream, VolumeId::new(10), &[held(1, 3)], WHOLE);
    let holders: Vec<u64> = chunks.copies(ChunkId::new(1)).iter().map(|copy| copy.server.get()).collect();
    assert_eq!(holders, [2, 2]);
    // A server all of whose volumes are another's is refused itself.
    let again = chunks.register(now, registration(1, both()), StreamId(3), Signal::default());
    assert!(matches!(again, Err(RegistrationRefusal::DuplicateVolumes(_))));
}

#[test]
fn a_second_daemon_that_says_it_is_a_server_waits_until_the_first_is_gone() {
    let mut chunks = table(ChunksConfig::default());
    chunks.load(ChunkId::new(1), info(3, 3, Goal::TWO));
    connect(&mut chunks, 1, &[held(1, 3)]);
    let elsewhere = || Registration { address: "copy:1".to_owned(), ..registration(1, vec![report(10, "")]) };
    let second = |chunks: &mut Chunks| chunks.register(chunks.now, elsewhere(), StreamId(7), Signal::default());
    let refused = second(&mut chunks).unwrap_err();
    assert!(matches!(refused, RegistrationRefusal::ConnectedElsewhere { .. }), "{refused}");
    assert_eq!(&*chunks.places(ChunkId::new(1))[0].address, "h1:1");
    // The first itself may connect anew, also before its old connection is seen to be broken.
    connect(&mut chunks, 1, &[held(1, 3)]);
    pass(&mut chunks, 60, &[]);
    second(&mut chunks).expect("nobody else is it any more");
}

#[test]
fn sizes_that_cannot_be_do_not_overflow() {
    let mut chunks = table(ChunksConfig::default());
    for server in 1..=2 {
        let huge = VolumeReport { total: u64::MAX, free: u64::MAX - 1, ..report(server * 10, "") };
        let (id, stream) = (ServerId::new(server), StreamId(server));
        let now = chunks.now;
        chunks.register(now, registration(server, vec![huge]), stream, Signal::default()).unwrap();
        chunks.inventory(now, id, stream, VolumeId::new(server * 10), &[], WHOLE);
    }
    assert_eq!(chunks.summary().space, (u64::MAX, u64::MAX));
}

#[test]
fn a_file_whose_writer_came_back_is_asked_back_before_it_is_repaired() {
    let mut chunks = table(ChunksConfig { startup_wait: Duration::ZERO, ..ChunksConfig::default() });
    let wait = chunks.config().repair_delay.as_secs() + 2;
    chunks.load(ChunkId::new(1), info(1, 1, Goal::TWO));
    connect(&mut chunks, 1, &[held(1, 1)]);
    chunks.is_written_on(InodeId::new(9));
    connect(&mut chunks, 2, &[]);
    let made = |order: &Order| matches!(order, Order::Replicate { .. });
    pass(&mut chunks, wait, &[1, 2]);
    assert!(!commands(&mut chunks, 2).iter().any(made), "its writer may go on with the one copy");
    assert_eq!(chunks.wants_back(), [InodeId::new(9)]);
    chunks.is_not_written_on(InodeId::new(9));
    pass(&mut chunks, wait, &[1, 2]);
    assert!(commands(&mut chunks, 2).iter().any(made));
}

#[test]
fn a_writer_that_came_back_and_asks_for_a_chunk_gets_the_copies_that_it_lacks() {
    let mut chunks = table(ChunksConfig { startup_wait: Duration::ZERO, ..ChunksConfig::default() });
    let wait = chunks.config().repair_delay.as_secs() + 2;
    chunks.load(ChunkId::new(1), info(1, 1, Goal::TWO));
    connect(&mut chunks, 1, &[held(1, 1)]);
    chunks.is_written_on(InodeId::new(9));
    connect(&mut chunks, 2, &[]);
    let made = |order: &Order| matches!(order, Order::Replicate { .. });
    assert_eq!(chunks.begin_write(ChunkId::new(1), SessionId::new(5)).unwrap().len(), 1);
    pass(&mut chunks, wait, &[1, 2]);
    assert!(!commands(&mut chunks, 2).iter().any(made), "it writes");
    // One is too few for the engine.
    chunks.end_write(ChunkId::new(1));
    pass(&mut chunks, wait, &[1, 2]);
    assert!(commands(&mut chunks, 2).iter().any(made));
}

#[test]
fn copies_of_a_file_whose_writer_came_back_are_not_deleted() {
    let mut chunks = table(ChunksConfig { startup_wait: Duration::ZERO, ..ChunksConfig::default() });
    chunks.load(ChunkId::new(1), info(1, 1, Goal::ONE));
    chunks.is_written_on(InodeId::new(9));
    connect(&mut chunks, 1, &[held(1, 1)]);
    connect(&mut chunks, 2, &[held(1, 1)]);
    let deletions = |chunks: &mut Chunks| {
        let orders = [commands(chunks, 1), commands(chunks, 2)].concat();
        orders.iter().filter(|order| matches!(order, Order::Delete { .. })).count()
    };
    pass(&mut chunks, 5, &[1, 2]);
    assert_eq!(deletions(&mut chunks), 0);
    chunks.is_not_written_on(InodeId::new(9));
    pass(&mut chunks, 5, &[1, 2]);
    assert_eq!(deletions(&mut chunks), 1);
}

#[test]
fn copies_of_what_was_committed_after_a_restart_are_sought_on_volumes_that_come_later() {
    let mut chunks = table(ChunksConfig::default());
    chunks.know_server(registration(1, vec![report(10, "")]));
    chunks.know_server(registration(2, vec![report(20, "")]));
    chunks.load(ChunkId::new(1), info(0, 1, Goal::TWO));
    connect(&mut chunks, 1, &[]);
    chunks.changed(ChunkId::new(1), info(1, 1, Goal::TWO));
    let asks = |order: &Order| matches!(order, Order::Raise { from, to, .. } if from == to);
    assert_eq!(commands(&mut chunks, 1).iter().filter(|order| asks(order)).count(), 1);
    // Its inventory was taken before the writer made the copy.
    connect(&mut chunks, 2, &[]);
    assert_eq!(commands(&mut chunks, 2).iter().filter(|order| asks(order)).count(), 1);
}

#[test]
fn what_a_reader_says_of_the_last_copy_is_looked_into_by_its_chunkserver() {
    let mut chunks = table(ChunksConfig { startup_wait: Duration::ZERO, ..ChunksConfig::default() });
    let (chunk, version) = (ChunkId::new(1), ChunkVersion::new(1));
    chunks.load(chunk, info(1, 1, Goal::ONE));
    connect(&mut chunks, 1, &[held(1, 1)]);
    let reported = CopyFault::Reported("wrong bytes".to_owned());
    chunks.bad_copy(VolumeId::new(10), chunk, version, &reported);
    chunks.bad_copy(VolumeId::new(10), chunk, version, &reported);
    let check = Order::Check { volume: VolumeId::new(10), chunk };
    assert_eq!(commands(&mut chunks, 1), [check], "once");
    assert_eq!((chunks.places(chunk).len(), chunks.summary().unavailable), (1, 0));
    chunks.bad_copy(VolumeId::new(10), chunk, version, &CopyFault::Found("leaf 3".to_owned()));
    let told = chunks.take_notices();
    assert!(
        told.iter().any(|notice| notice.severity == Severity::Error && notice.message.contains("no other good one")),
        "{told:?}"
    );
    assert_eq!((chunks.places(chunk).len(), chunks.summary().unavailable), (1, 1), "other parts may be whole");
    assert_eq!(chunks.lacking(9)[0].copies[0].state, CopyState::Bad);
    pass(&mut chunks, 61, &[1]);
    chunks.bad_copy(VolumeId::new(10), chunk, version, &reported);
    assert!(commands(&mut chunks, 1).is_empty(), "it is known by now");
}

#[test]
fn a_repair_that_fails_again_and_again_is_said_to_and_its_source_looked_at() {
    let mut chunks = table(ChunksConfig { startup_wait: Duration::ZERO, ..ChunksConfig::default() });
    let chunk = ChunkId::new(1);
    chunks.load(chunk, info(1, 1, Goal::TWO));
    connect(&mut chunks, 1, &[held(1, 1)]);
    connect(&mut chunks, 2, &[]);
    let mut checks = 0;
    for _ in 0..3 {
        assert!(!chunks.lacking(9).is_empty());
        pass(&mut chunks, 7, &[1, 2]);
        for command in chunks.take_commands(ServerId::new(2), StreamId(2)) {
            let Order::Replicate { .. } = command.order else { continue };
            let (message, version) = ("bytes that do not match their hashes".to_owned(), ChunkVersion::new(0));
            let result = CommandResult { command: command.id, done: false, errno: 5, message, version, length: 0 };
            chunks.command_result(chunks.now, ServerId::new(2), StreamId(2), &result);
        }
        checks += commands(&mut chunks, 1).iter().filter(|order| matches!(order, Order::Check { .. })).count();
    }
    assert_eq!(checks, 1, "not at each failure");
    let stuck = chunks.stuck().expect("it does not help itself");
    let Hindrance::Failing { times, reason } = stuck.hindrance else { panic!("{stuck:?}") };
    assert!(times >= 2 && reason.starts_with("to /v20 on h2: bytes that do not match"), "{times} {reason}");
    chunks.drop_copy(chunks.servers.slot(VolumeId::new(10)).unwrap(), chunk);
    assert!(chunks.stuck().is_none());
}
