//! Drains of simulated clusters, from beginning to end.

use rfs_common::ids::{ServerId, VolumeId};

use super::super::simulated::{MEBIBYTE, Simulated, volume};
use super::super::types::{ChunksConfig, VolumeState};
use super::*;

const LARGE: u64 = 100_000 * MEBIBYTE;

/// So many servers with so many volumes each, and chunks of goal 2 spread over them.
fn cluster(seed: u64, servers: u64, volumes: u64, chunks: u64) -> Simulated {
    let sizes = vec![LARGE; volumes as usize];
    let shape: Vec<&[u64]> = (0..servers).map(|_| &sizes[..]).collect();
    let mut simulated = Simulated::new(seed, ChunksConfig::default(), &shape);
    for chunk in 0..chunks {
        let (first, second) = (chunk % servers, (chunk + 1 + chunk / servers % (servers - 1)) % servers);
        let on = [volume(first + 1, chunk % volumes), volume(second + 1, chunk / 3 % volumes)];
        simulated.put(2, (1 + chunk % 64) * MEBIBYTE, &on);
    }
    simulated.connect();
    simulated
}

fn no_place(simulated: &Simulated, volume: VolumeId) -> (usize, usize) {
    match simulated.drain_view(volume).and_then(|view| view.hindrance) {
        Some(DrainHindrance::NoPlace { connected, full, .. }) => (connected, full),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_drained_volume_is_empty_and_every_chunk_has_its_copies() {
    for (servers, volumes) in [(3, 1), (4, 2), (12, 3)] {
        let mut simulated = cluster(servers, servers, volumes, servers * 100);
        let drained = volume(2, 0);
        let here = simulated.disks[&drained].held.len() as u64;
        assert_eq!(simulated.drain_view(drained), None);
        simulated.drain(drained, true);
        let view = simulated.drain_view(drained).unwrap();
        assert_eq!((view.drained, view.chunks_left, view.hindrance), (false, here, None));
        assert_eq!(view.bytes_left, simulated.disks[&drained].used());
        simulated.pass(300);
        let view = simulated.drain_view(drained).unwrap();
        assert!(view.drained && view.chunks_left == 0 && view.bytes_left == 0, "{view:?}");
        assert!(simulated.disks[&drained].held.is_empty());
        assert_eq!((simulated.made, simulated.deleted), (here, here), "nothing but what had to be was moved");
        simulated.assert_all_in_order();
    }
}

#[test]
fn a_drain_tells_how_long_it_takes() {
    let mut simulated = cluster(1, 3, 1, 3000);
    simulated.orders_per_second = 10;
    let drained = volume(1, 0);
    simulated.drain(drained, true);
    simulated.pass(30);
    let view = simulated.drain_view(drained).unwrap();
    let estimate = view.time_left.expect("an estimate").as_secs();
    let mut took = 0;
    while !simulated.drain_view(drained).unwrap().drained {
        simulated.pass(1);
        took += 1;
    }
    assert!(estimate.abs_diff(took) * 5 < took, "{estimate} s were told and it took {took} s");
    assert_eq!(simulated.drain_view(drained).unwrap().time_left, None);
}

#[test]
fn a_whole_server_is_drained_with_what_it_gets_later() {
    let mut simulated = cluster(5, 4, 2, 200);
    let server = ServerId::new(3);
    simulated.chunks.set_server_draining(server, true);
    simulated.pass(200);
    for index in 0..2 {
        let view = simulated.drain_view(volume(3, index)).unwrap();
        assert!(view.drained && view.with_server, "{view:?}");
    }
    simulated.assert_all_in_order();
    // One that was brought from elsewhere, with copies on it.
    let disk = simulated.disks.remove(&volume(4, 0)).unwrap();
    simulated.disks.insert(volume(4, 0), super::super::simulated::Disk { server, ..disk });
    simulated.disconnect(ServerId::new(4));
    simulated.disconnect(server);
    simulated.connect_one(server);
    simulated.connect_one(ServerId::new(4));
    assert!(!simulated.drain_view(volume(4, 0)).unwrap().drained);
    simulated.pass(300);
    assert!(simulated.drain_view(volume(4, 0)).unwrap().drained);
    simulated.assert_all_in_order();
}

#[test]
fn two_copies_of_a_chunk_may_be_on_volumes_that_are_drained_together() {
    let mut simulated = cluster(6, 5, 1, 300);
    simulated.drain(volume(1, 0), true);
    simulated.drain(volume(2, 0), true);
    simulated.pass(300);
    assert!(simulated.drain_view(volume(1, 0)).unwrap().drained && simulated.drain_view(volume(2, 0)).unwrap().drained);
    simulated.assert_all_in_order();
    assert_eq!(simulated.made, simulated.deleted);
}

#[test]
fn another_volume_of_the_same_server_takes_what_no_other_server_can() {
    let mut simulated = cluster(7, 2, 2, 100);
    simulated.drain(volume(1, 0), true);
    simulated.pass(200);
    assert!(simulated.drain_view(volume(1, 0)).unwrap().drained);
    simulated.assert_all_in_order();
}

#[test]
fn a_drain_that_cannot_finish_says_so_and_goes_on_when_it_can() {
    let mut simulated = cluster(8, 2, 1, 50);
    let drained = volume(2, 0);
    simulated.drain(drained, true);
    simulated.pass(100);
    assert_eq!(no_place(&simulated, drained), (2, 0));
    assert_eq!((simulated.made, simulated.drain_view(drained).unwrap().chunks_left), (0, 50));
    // A third one is full, then has room.
    let mut third = Simulated::new(8, ChunksConfig::default(), &[&[LARGE], &[LARGE], &[LARGE]]);
    for _ in 0..50 {
        third.put(2, MEBIBYTE, &[volume(1, 0), drained]);
    }
    third.disks.get_mut(&volume(3, 0)).unwrap().state = VolumeState::Full;
    third.connect();
    third.drain(drained, true);
    third.pass(10);
    assert_eq!(no_place(&third, drained), (3, 1));
    third.disks.get_mut(&volume(3, 0)).unwrap().state = VolumeState::InService;
    third.pass(100);
    assert!(third.drain_view(drained).unwrap().drained);
    third.assert_all_in_order();
}

#[test]
fn what_cannot_be_written_is_drained_once_nothing_on_it_is_needed() {
    let mut simulated = cluster(9, 3, 1, 60);
    let drained = volume(1, 0);
    let here = simulated.disks[&drained].held.len();
    simulated.disks.get_mut(&drained).unwrap().state = VolumeState::ReadOnly;
    simulated.orders_per_second = 2;
    simulated.drain(drained, true);
    simulated.pass(1);
    assert!(!simulated.drain_view(drained).unwrap().drained);
    simulated.pass(200);
    let view = simulated.drain_view(drained).unwrap();
    assert!(view.drained, "{view:?}");
    assert_eq!((view.chunks_left as usize, simulated.disks[&drained].held.len()), (here, here));
    simulated.disconnect(ServerId::new(1));
    simulated.pass(100);
    assert!(simulated.chunks.summary().fully_replicated && simulated.chunks.summary().repairs_wait.is_none());
    assert_eq!(simulated.made as usize, here, "nothing is made anew when it is taken away");
}

#[test]
fn nothing_new_is_put_on_it_but_what_a_writer_would_fail_without() {
    let mut simulated = cluster(10, 3, 1, 6);
    simulated.drain(volume(1, 0), true);
    for _ in 0..50 {
        let places = simulated.chunks.choose_new(rfs_common::ids::Goal::TWO, &[]).unwrap();
        assert!(places.iter().all(|place| place.volume != volume(1, 0)), "{places:?}");
    }
    simulated.disconnect(ServerId::new(2));
    let places = simulated.chunks.choose_new(rfs_common::ids::Goal::TWO, &[]).unwrap();
    assert!(places.len() == 2 && places[0].volume == volume(3, 0), "{places:?}");
    // Never on what was called drained: it may be on its way out.
    simulated.chunks.set_drain_mark(volume(1, 0), DrainMark { wanted: true, drained: true });
    assert!(simulated.chunks.choose_new(rfs_common::ids::Goal::TWO, &[]).is_err());
}

#[test]
fn a_cancelled_drain_leaves_everything_where_it_is() {
    let mut simulated = cluster(11, 4, 1, 400);
    simulated.orders_per_second = 3;
    let drained = volume(1, 0);
    simulated.drain(drained, true);
    simulated.pass(10);
    let moved = simulated.made;
    assert!(moved > 0 && !simulated.disks[&drained].held.is_empty());
    simulated.drain(drained, false);
    simulated.pass(60);
    assert_eq!(simulated.drain_view(drained), None);
    assert!(simulated.made <= moved + 4, "{} copies were made after {moved}", simulated.made);
    simulated.assert_all_in_order();
}

#[test]
fn lost_copies_are_made_before_any_is_moved() {
    let mut simulated = cluster(12, 5, 1, 1000);
    simulated.orders_per_second = 2;
    simulated.drain(volume(1, 0), true);
    simulated.pass(5);
    let left = |simulated: &Simulated| simulated.drain_view(volume(1, 0)).unwrap().chunks_left;
    let before = left(&simulated);
    simulated.disconnect(ServerId::new(5));
    let lacking = simulated.chunks.summary().under_goal;
    simulated.pass(60);
    let (repaired, moved) = (lacking - simulated.chunks.summary().under_goal, before - left(&simulated));
    assert!(repaired > moved, "{repaired} repaired, {moved} moved");
    simulated.pass(1000);
    assert!(simulated.drain_view(volume(1, 0)).unwrap().drained && simulated.chunks.summary().fully_replicated);
}

#[test]
fn what_was_drained_is_not_missed_when_it_is_gone() {
    let mut simulated = cluster(13, 3, 1, 90);
    simulated.drain(volume(1, 0), true);
    simulated.pass(200);
    simulated.disconnect(ServerId::new(1));
    simulated.pass(1);
    assert!(simulated.drain_view(volume(1, 0)).unwrap().drained, "on record");
    assert!(!simulated.chunks.expects_volumes());
    simulated.disconnect(ServerId::new(2));
    simulated.pass(1);
    // Two of three volumes are away, but only one of them was expected.
    assert_eq!(simulated.chunks.summary().repairs_wait, None);
}
