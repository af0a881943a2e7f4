//! The order and the rate of repairs, in simulated clusters.

use std::time::Duration;

use rfs_common::ids::{ServerId, VolumeId};

use super::super::simulated::{MEBIBYTE, Simulated, volume};
use super::super::types::ChunksConfig;

const LARGE: u64 = 100_000 * MEBIBYTE;

fn on(servers: &[u64]) -> Vec<VolumeId> {
    servers.iter().map(|server| volume(*server, 0)).collect()
}

#[test]
fn while_one_copy_is_all_that_is_left_of_anything_nothing_else_is_repaired() {
    // Ids go the other way round: those with two copies left come first.
    let config = ChunksConfig { repair_delay: Duration::ZERO, ..ChunksConfig::default() };
    let mut simulated = Simulated::new(1, config, &[&[LARGE][..]; 6]);
    for chunk in 0..400_u64 {
        simulated.put(3, MEBIBYTE, &on(&[1, 2 + chunk % 2, 4]));
    }
    for chunk in 0..400_u64 {
        simulated.put(2, MEBIBYTE, &on(&[1, 2 + chunk % 4]));
    }
    simulated.connect();
    simulated.pass(1);
    simulated.orders_per_second = 3;
    simulated.disconnect(ServerId::new(1));
    let mut last_copies_at = Vec::new();
    while simulated.chunks.summary().under_goal > 0 {
        simulated.pass(1);
        let summary = simulated.chunks.summary();
        let two_left = summary.under_goal - summary.last_copy;
        if summary.last_copy > 20 {
            // What was begun in the moment when volumes were idle may end.
            assert!(two_left > 400 - 30, "{two_left} with two left, {} with one", summary.last_copy);
        }
        last_copies_at.push(summary.last_copy);
        assert!(last_copies_at.len() < 1000, "it ends");
    }
    assert_eq!(simulated.made, 800);
}

#[test]
fn a_greater_need_that_comes_later_goes_first() {
    let config = ChunksConfig { repair_delay: Duration::ZERO, ..ChunksConfig::default() };
    let mut simulated = Simulated::new(2, config, &[&[LARGE][..]; 6]);
    for _ in 0..600 {
        simulated.put(3, MEBIBYTE, &on(&[1, 2, 3]));
    }
    for _ in 0..30 {
        simulated.put(2, MEBIBYTE, &on(&[4, 3]));
    }
    simulated.connect();
    simulated.pass(1);
    simulated.orders_per_second = 2;
    simulated.disconnect(ServerId::new(1));
    simulated.pass(20);
    simulated.disconnect(ServerId::new(4));
    simulated.pass(40);
    let summary = simulated.chunks.summary();
    assert!(summary.last_copy == 0 && summary.under_goal > 300, "{summary:?}");
}

#[test]
fn no_volume_does_more_for_repairs_than_it_may() {
    let rate = 8 * MEBIBYTE;
    let config = ChunksConfig { repair_bytes_per_second: rate, ..ChunksConfig::default() };
    let mut simulated = Simulated::new(3, config, &[&[LARGE][..]; 4]);
    for chunk in 0..300_u64 {
        simulated.put(2, 4 * MEBIBYTE, &on(&[1, 2 + chunk % 3]));
    }
    simulated.connect();
    simulated.pass(1);
    let before: Vec<u64> = simulated.disks.values().map(|disk| disk.used()).collect();
    simulated.disconnect(ServerId::new(1));
    for second in 1..=60_u64 {
        simulated.pass(1);
        for (disk, before) in simulated.disks.values().zip(&before) {
            let written = disk.used().saturating_sub(*before);
            assert!(written <= (second + 2) * rate, "{written} bytes in {second} s");
        }
    }
    // Three volumes, each reading as much as it writes: half of the rate each way.
    let made = simulated.made * 4 * MEBIBYTE;
    assert!(made > 60 * rate, "only {made} bytes in a minute");
    let summary = simulated.chunks.summary();
    let (left, missing) = (summary.time_left.expect("an estimate").as_secs(), summary.missing_bytes);
    assert_eq!(missing, summary.missing_copies * 4 * MEBIBYTE);
    let mut took = 0;
    while simulated.chunks.summary().under_goal > 0 {
        simulated.pass(1);
        took += 1;
    }
    assert!(left.abs_diff(took) <= 3 + took / 5, "{left} s were told and it took {took} s");
}
