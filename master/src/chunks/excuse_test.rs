//! Chunkservers that go away on purpose, in simulated clusters.

use std::time::Duration;

use rfs_common::ids::{ServerId, VolumeId};

use super::super::Hindrance;
use super::super::simulated::{MEBIBYTE, Simulated, volume};
use super::super::types::ChunksConfig;
use super::*;

const LARGE: u64 = 100_000 * MEBIBYTE;

fn on(servers: &[u64]) -> Vec<VolumeId> {
    servers.iter().map(|server| volume(*server, 0)).collect()
}

/// Five servers with a volume each.
fn cluster(chunks: &[(u8, &[u64])]) -> Simulated {
    let mut simulated = Simulated::new(3, ChunksConfig::default(), &[&[LARGE][..]; 5]);
    for (goal, servers) in chunks {
        simulated.put(*goal, MEBIBYTE, &on(servers));
    }
    simulated.connect();
    simulated.pass(1);
    simulated
}

fn maintain(simulated: &mut Simulated, server: u64, seconds: u64) {
    let until = simulated.chunks.now + Duration::from_secs(seconds);
    simulated.chunks.set_maintenance(ServerId::new(server), Some(Maintenance { until, until_s: 1 }));
}

#[test]
fn copies_of_a_server_in_maintenance_are_made_anew_only_when_the_time_is_over() {
    let mut simulated = cluster(&[(2, &[1, 2]), (3, &[1, 2, 3]), (2, &[4, 5])]);
    maintain(&mut simulated, 1, 1800);
    simulated.stop(ServerId::new(1));
    simulated.pass(1790);
    assert_eq!(simulated.made, 0);
    let lacking = simulated.chunks.lacking(10);
    assert!(lacking.len() == 2, "{lacking:?}");
    for chunk in lacking {
        assert!(matches!(&chunk.hindrance, Hindrance::Excused(one) if one.server == ServerId::new(1)));
    }
    assert_eq!(simulated.chunks.excused().len(), 1);
    assert_eq!(simulated.chunks.maintenance_over(), []);
    simulated.pass(40);
    assert_eq!(simulated.chunks.maintenance_over(), [ServerId::new(1)]);
    assert_eq!((simulated.made, simulated.chunks.summary().under_goal), (2, 0));
}

#[test]
fn a_server_that_comes_back_in_time_costs_nothing() {
    let mut simulated = cluster(&[(2, &[1, 2][..]); 50]);
    maintain(&mut simulated, 2, 600);
    simulated.stop(ServerId::new(2));
    simulated.pass(500);
    simulated.connect_one(ServerId::new(2));
    simulated.pass(300);
    assert_eq!((simulated.made, simulated.deleted), (0, 0));
    simulated.assert_all_in_order();
}

#[test]
fn what_lacks_more_than_that_server_holds_is_repaired_meanwhile() {
    let mut simulated = cluster(&[(3, &[1, 2, 3]), (2, &[2, 3]), (2, &[1, 2])]);
    maintain(&mut simulated, 1, 3600);
    simulated.stop(ServerId::new(1));
    simulated.disconnect(ServerId::new(2));
    simulated.pass(100);
    // One for the first, which has one left, one for the second; of the third nothing is here.
    assert_eq!(simulated.made, 2);
    assert_eq!(simulated.chunks.summary().unavailable, 1);
}

#[test]
fn the_end_of_a_maintenance_that_is_taken_back_is_now() {
    let mut simulated = cluster(&[(2, &[1, 2])]);
    maintain(&mut simulated, 1, 3600);
    simulated.stop(ServerId::new(1));
    simulated.pass(100);
    simulated.chunks.set_maintenance(ServerId::new(1), None);
    simulated.pass(20);
    assert_eq!(simulated.made, 1);
}

#[test]
fn a_server_that_said_goodbye_has_a_minute_to_come_back() {
    for goodbye in [true, false] {
        let mut simulated = cluster(&[(2, &[1, 2]), (3, &[1, 2, 3])]);
        match goodbye {
            true => simulated.stop(ServerId::new(1)),
            false => simulated.disconnect(ServerId::new(1)),
        }
        simulated.pass(50);
        assert_eq!(simulated.made, if goodbye { 0 } else { 2 });
        let excused = simulated.chunks.summary().excused;
        assert_eq!(excused.iter().map(|one| one.why).collect::<Vec<_>>(), vec![Excuse::CleanStop; goodbye.into()]);
        simulated.pass(20);
        assert_eq!((simulated.made, simulated.chunks.summary().under_goal), (2, 0));
    }
    let mut simulated = cluster(&[(2, &[1, 2])]);
    simulated.stop(ServerId::new(1));
    simulated.pass(30);
    simulated.connect_one(ServerId::new(1));
    simulated.pass(100);
    assert_eq!(simulated.made, 0);
}

#[test]
fn a_master_that_has_not_seen_the_server_since_its_start_waits_as_well() {
    let mut simulated = Simulated::new(4, ChunksConfig::default(), &[&[LARGE][..]; 4]);
    simulated.put(2, MEBIBYTE, &on(&[1, 2]));
    simulated.connect_without(ServerId::new(1));
    maintain(&mut simulated, 1, 600);
    simulated.pass(590);
    assert_eq!(simulated.made, 0);
    simulated.pass(30);
    assert_eq!(simulated.made, 1);
}

#[test]
fn new_copies_go_elsewhere_while_the_time_runs() {
    let mut simulated = cluster(&[(2, &[1, 2])]);
    maintain(&mut simulated, 3, 600);
    let goal = rfs_common::ids::Goal::new(4).unwrap();
    for _ in 0..20 {
        let places = simulated.chunks.choose_new(goal, &[]).unwrap();
        assert!(places.len() == 4 && places.iter().all(|place| place.server != ServerId::new(3)), "{places:?}");
    }
    simulated.pass(601);
    simulated.chunks.set_maintenance(ServerId::new(3), None);
    let all = rfs_common::ids::Goal::new(5).unwrap();
    assert_eq!(simulated.chunks.choose_new(all, &[]).unwrap().len(), 5);
}

#[test]
fn what_nobody_could_read_without_it_is_named() {
    let mut simulated = cluster(&[(1, &[1]), (2, &[1, 2]), (1, &[2]), (2, &[1, 5])]);
    assert_eq!(simulated.chunks.only_live_on(ServerId::new(1)), [ChunkId::new(1)]);
    simulated.disconnect(ServerId::new(5));
    assert_eq!(simulated.chunks.only_live_on(ServerId::new(1)), [ChunkId::new(1), ChunkId::new(4)]);
}

#[test]
fn an_outage_of_most_volumes_is_no_reason_to_wait_when_it_was_announced() {
    let mut simulated = cluster(&[(2, &[1, 4]), (2, &[2, 5])]);
    for server in 1..=3 {
        maintain(&mut simulated, server, 50);
        simulated.stop(ServerId::new(server));
    }
    simulated.pass(2);
    assert_eq!(simulated.chunks.summary().repairs_wait, None);
    simulated.pass(100);
    assert!(simulated.chunks.summary().repairs_wait.is_some(), "now it is an outage like others");
}
