//! Volumes that come back as older images of themselves: how the master finds them, compares their copies, and when it uses them.

use std::sync::Arc;

use rfs_common::ids::Goal;
use rfs_common::random::SeededRandom;

use super::super::{
    ChunkInfo, ChunksConfig, CommandResult, CopyState, Held, InventoryPart, Notice, Order, RaiseOf, Registration,
    Signal, StreamId, Traffic, VolumeReport, VolumeState,
};
use super::*;

const WHOLE: InventoryPart = InventoryPart { first: true, last: true };

fn table() -> Chunks {
    let config = ChunksConfig { startup_wait: Duration::ZERO, ..ChunksConfig::default() };
    Chunks::new(config, Arc::new(SeededRandom::new(7)), Monotonic::START)
}

fn report(volume: u64, epoch: u64, changed: bool) -> VolumeReport {
    VolumeReport {
        volume: VolumeId::new(volume),
        path: format!("/v{volume}"),
        state: VolumeState::InService,
        reason: String::new(),
        total: 1 << 40,
        free: 1 << 39,
        chunks: 0,
        storage_machine: String::new(),
        filesystem: String::new(),
        lost_power: false,
        scrub: Default::default(),
        epoch: Some(epoch),
        changed,
    }
}

fn held(chunk: u64, version: u32) -> Held {
    Held {
        chunk: ChunkId::new(chunk),
        version: ChunkVersion::new(version),
        length: 0,
        open: false,
        suspect: false,
        unreadable: false,
        bad: false,
    }
}

/// Server N has volume N0.
fn connect(chunks: &mut Chunks, server: u64, epoch: u64, copies: &[Held]) -> Vec<Judgement> {
    let (stream, id) = (StreamId(server), ServerId::new(server));
    let volumes = vec![report(server * 10, epoch, false)];
    let registration = Registration {
        server: id,
        host: format!("h{server}"),
        address: format!("h{server}:1"),
        version: String::new(),
        volumes,
    };
    chunks.register(chunks.now, registration, stream, Signal::default()).unwrap();
    let told = chunks.take_judgements(id);
    chunks.inventory(chunks.now, id, stream, VolumeId::new(server * 10), copies, WHOLE);
    told
}

fn beat(chunks: &mut Chunks, server: u64, seconds: u64, epoch: u64, changed: bool) -> Vec<Judgement> {
    let now = chunks.now + Duration::from_secs(seconds);
    let (stream, id) = (StreamId(server), ServerId::new(server));
    chunks.heartbeat(now, id, stream, vec![report(server * 10, epoch, changed)], Traffic::default());
    chunks.tick(now);
    chunks.take_judgements(id)
}

fn load(chunks: &mut Chunks, chunk: u64, goal: Goal) {
    let version = ChunkVersion::new(3);
    let info = ChunkInfo { inode: InodeId::new(9), version, granted: version, goal, unsynced: false };
    chunks.load(ChunkId::new(chunk), info);
}

fn said(chunks: &mut Chunks, words: &str) -> bool {
    chunks.take_notices().iter().any(|Notice { message, .. }| message.contains(words))
}

fn state_on(chunks: &Chunks, chunk: u64, volume: u64) -> CopyState {
    let copies = chunks.copies(ChunkId::new(chunk));
    copies.iter().find(|copy| copy.volume == VolumeId::new(volume)).expect("a copy").state
}

#[test]
fn a_volume_gets_an_epoch_at_each_start_and_while_it_is_written() {
    let mut chunks = table();
    assert!(connect(&mut chunks, 1, 0, &[]).is_empty(), "not before it has told what is on it");
    let epochs = |judgements: Vec<Judgement>| judgements.into_iter().map(|one| one.epoch).collect::<Vec<_>>();
    assert_eq!(epochs(beat(&mut chunks, 1, 1, 0, false)), [1]);
    assert!(beat(&mut chunks, 1, 1, 0, false).is_empty());
    assert!(beat(&mut chunks, 1, 5, 1, false).is_empty(), "nothing was written");
    assert_eq!(epochs(beat(&mut chunks, 1, 1, 1, true)), [2]);
    assert!(beat(&mut chunks, 1, 1, 1, true).is_empty(), "it is about to store it");
    assert_eq!(chunks.epochs_to_record(), [(VolumeId::new(10), 1)]);
    chunks.epochs_recorded(&[(VolumeId::new(10), 1)]);
    assert!(chunks.epochs_to_record().is_empty());
    // A master whose metadata is older learns it.
    let mut restored = table();
    restored.know_epoch(VolumeId::new(10), 1);
    connect(&mut restored, 1, 7, &[]);
    assert_eq!(epochs(beat(&mut restored, 1, 1, 7, false)), [8]);
    assert!(!said(&mut restored, "older image"));
}

#[test]
fn what_an_older_image_has_counts_once_it_is_found_to_be_as_others_are() {
    let mut chunks = table();
    for chunk in 1..=3 {
        load(&mut chunks, chunk, Goal::TWO);
    }
    let copies = [held(1, 3), held(2, 3), held(3, 3)];
    chunks.know_epoch(VolumeId::new(20), 5);
    connect(&mut chunks, 1, 0, &copies);
    let told = connect(&mut chunks, 2, 4, &copies[..2]);
    assert!(told[0].astray && told[0].epoch == 0, "{told:?}");
    assert!(said(&mut chunks, "/v20 of chunkserver"));
    assert_eq!((chunks.live_copies(ChunkId::new(1)), state_on(&chunks, 1, 20)), (1, CopyState::Astray));
    assert!(chunks.places(ChunkId::new(1)).iter().all(|place| place.volume == VolumeId::new(10)));
    assert_eq!(chunks.last_copies_of_volume(VolumeId::new(10)).len(), 3, "the only good ones");
    let told = beat(&mut chunks, 2, 1, 4, true);
    assert!(told[0].astray && told[0].epoch == 0, "once more, with the inventory: {told:?}");
    let given = chunks.astray_to_compare(10);
    assert_eq!(given.len(), 2);
    assert!(chunks.astray_to_compare(10).is_empty(), "they are given out");
    assert_eq!(chunks.astray_compared(&given[0], Some([1; 32]), &[Some([1; 32])]), None);
    assert_eq!(chunks.astray_compared(&given[1], Some([1; 32]), &[Some([2; 32])]), Some(InodeId::new(9)));
    assert_eq!((state_on(&chunks, 1, 20), state_on(&chunks, 2, 20)), (CopyState::Current, CopyState::Bad));
    let told = beat(&mut chunks, 2, 5, 4, true);
    assert_eq!((told[0].epoch, &told[0].sound[..]), (0, &[ChunkId::new(1)][..]), "one is left: {told:?}");
    // The different one is replaced, and then the volume is as any other.
    chunks.drop_copy(chunks.servers.slot(VolumeId::new(20)).unwrap(), ChunkId::new(2));
    assert_eq!(beat(&mut chunks, 2, 5, 4, true)[0].epoch, 6);
    beat(&mut chunks, 2, 1, 6, false);
    assert!(said(&mut chunks, "1 copies on it were as others are, 1 were not"));
    assert!(!chunks.server(ServerId::new(2)).unwrap().volumes[0].astray);
}

#[test]
fn an_older_image_is_not_used_while_a_volume_is_away_that_may_have_more() {
    let mut chunks = table();
    load(&mut chunks, 1, Goal::TWO);
    chunks.know_epoch(VolumeId::new(20), 5);
    connect(&mut chunks, 1, 0, &[held(1, 3)]);
    assert!(chunks.disconnected(chunks.now, ServerId::new(1), StreamId(1)));
    connect(&mut chunks, 2, 4, &[held(1, 3)]);
    let chunk = ChunkId::new(1);
    for _ in 0..50 {
        beat(&mut chunks, 2, 1, 4, false);
        assert!(chunks.places(chunk).is_empty() && chunks.wants_settling().is_empty());
        assert!(chunks.settle_candidates(chunk).candidates.is_empty());
    }
    // It never comes back.
    assert!(chunks.forget_server(ServerId::new(1)));
    assert_eq!(chunks.wants_settling(), [chunk]);
    let view = chunks.settle_candidates(chunk);
    assert!(view.candidates.len() == 1 && view.candidates[0].suspect, "{view:?}");
    let to = ChunkVersion::new(4);
    chunks.order_raise(chunk, ChunkVersion::new(3), to, &[view.candidates[0].place.clone()], RaiseOf::Whatever);
    let command = chunks.take_commands(ServerId::new(2), StreamId(2)).pop().expect("a raise");
    assert!(matches!(command.order, Order::Raise { .. }));
    let result =
        CommandResult { command: command.id, done: true, errno: 0, message: String::new(), version: to, length: 0 };
    chunks.command_result(chunks.now, ServerId::new(2), StreamId(2), &result);
    let version = to;
    let info = ChunkInfo { inode: InodeId::new(9), version, granted: version, goal: Goal::TWO, unsynced: false };
    chunks.changed(chunk, info);
    assert_eq!(chunks.places(chunk).len(), 1);
    let epoch = beat(&mut chunks, 2, 5, 4, false)[0].epoch;
    beat(&mut chunks, 2, 1, epoch, false);
    assert!(said(&mut chunks, "1 had no others and are used as they are"));
    assert_eq!(chunks.server(ServerId::new(2)).unwrap().volumes[0].returned.unwrap().only, 1);
}

#[test]
fn the_volume_itself_is_believed_when_it_takes_the_place_of_its_image() {
    let mut chunks = table();
    load(&mut chunks, 1, Goal::ONE);
    chunks.know_epoch(VolumeId::new(20), 5);
    connect(&mut chunks, 1, 0, &[]);
    chunks.disconnected(chunks.now, ServerId::new(1), StreamId(1));
    connect(&mut chunks, 2, 4, &[held(1, 3)]);
    assert_eq!(chunks.live_copies(ChunkId::new(1)), 0);
    chunks.disconnected(chunks.now, ServerId::new(2), StreamId(2));
    let told = connect(&mut chunks, 2, 5, &[held(1, 3)]);
    assert!(told.iter().all(|judgement| !judgement.astray), "{told:?}");
    assert_eq!(chunks.live_copies(ChunkId::new(1)), 1);
}
