//! Simulated clusters become even, stay so, and nothing goes to and fro.

use rfs_common::ids::{ServerId, VolumeId};
use rfs_common::random::{Random, SeededRandom};

use super::super::simulated::{MEBIBYTE, Simulated, volume};
use super::super::types::ChunksConfig;

const GIBIBYTE: u64 = 1024 * MEBIBYTE;

fn fast() -> ChunksConfig {
    ChunksConfig { rebalance_bytes_per_second: GIBIBYTE, repair_bytes_per_second: 0, ..ChunksConfig::default() }
}

/// The used shares of the emptiest and the fullest volume, in percent.
fn used(simulated: &Simulated) -> (u64, u64) {
    let shares = simulated.disks.values().map(|disk| disk.used() * 100 / disk.total);
    (shares.clone().min().unwrap(), shares.max().unwrap())
}

/// Chunks of goal 2 on random volumes of the first servers, until these are filled to so many percent.
fn fill(simulated: &mut Simulated, random: &SeededRandom, servers: u64, volumes: u64, percent: u64) {
    let room = |simulated: &Simulated, volume: VolumeId| {
        let disk = &simulated.disks[&volume];
        disk.used() * 100 / disk.total < percent
    };
    for _ in 0..100_000 {
        let (first, second) = (random.below(servers), random.below(servers - 1));
        let second = (first + 1 + second) % servers;
        let on = [volume(first + 1, random.below(volumes)), volume(second + 1, random.below(volumes))];
        if on.iter().all(|volume| room(simulated, *volume)) {
            simulated.put(2, (1 + random.below(64)) * MEBIBYTE, &on);
        } else if random.below(200) == 0 {
            return;
        }
    }
}

fn until_it_rests(simulated: &mut Simulated) -> u64 {
    let mut passed = 0;
    loop {
        let before = simulated.made;
        simulated.pass(60);
        passed += 60;
        if simulated.made == before {
            return passed;
        }
        assert!(passed < 20_000, "it ends; used now: {:?}", used(simulated));
    }
}

#[test]
fn clusters_of_several_sizes_become_even_and_stay_so() {
    for (seed, (servers, new, volumes, size)) in
        (0_u64..).zip([(2, 1, 1, 5), (3, 1, 1, 10), (3, 3, 2, 4), (2, 2, 2, 6), (10, 2, 2, 4), (6, 1, 1, 8)])
    {
        let random = SeededRandom::new(seed);
        let sizes: Vec<Vec<u64>> = (0..servers + new)
            .map(|_| (0..volumes).map(|_| (size + random.below(size)) * GIBIBYTE).collect())
            .collect();
        let shape: Vec<&[u64]> = sizes.iter().map(|sizes| &sizes[..]).collect();
        let mut simulated = Simulated::new(seed, fast(), &shape);
        fill(&mut simulated, &random, servers, volumes, 70);
        simulated.connect();
        let before = used(&simulated);
        until_it_rests(&mut simulated);
        let after = used(&simulated);
        assert!(before.1 - before.0 > 10 && after.1 - after.0 <= 6, "{servers}+{new}: {before:?}, then {after:?}");
        assert_eq!((simulated.made, simulated.returned), (simulated.deleted, 0), "nothing goes to and fro");
        simulated.assert_all_in_order();
        let made = simulated.made;
        simulated.pass(2000);
        assert_eq!(simulated.made, made, "what is even rests");
        assert!(!simulated.chunks.summary().balance.active);
    }
}

#[test]
fn a_new_volume_of_a_server_is_filled_from_its_neighbour_too() {
    let sizes = [10 * GIBIBYTE, 10 * GIBIBYTE];
    let mut simulated = Simulated::new(3, fast(), &[&sizes[..]; 2]);
    for _ in 0..100 {
        simulated.put(2, 64 * MEBIBYTE, &[volume(1, 0), volume(2, 0)]);
    }
    simulated.connect();
    until_it_rests(&mut simulated);
    let (emptiest, fullest) = used(&simulated);
    assert!(fullest - emptiest <= 6, "{emptiest} to {fullest}");
    simulated.assert_all_in_order();
}

#[test]
fn less_than_the_threshold_is_left_alone_and_the_switch_turns_it_off() {
    // A third volume that is 9, then 30 percent emptier.
    for (chunks, rebalance, moves) in [(14, true, false), (48, true, true), (48, false, false)] {
        let config = ChunksConfig { rebalance, ..fast() };
        let mut simulated = Simulated::new(4, config, &[&[10 * GIBIBYTE][..]; 3]);
        for _ in 0..chunks {
            simulated.put(2, 64 * MEBIBYTE, &[volume(1, 0), volume(2, 0)]);
        }
        simulated.connect();
        simulated.pass(100);
        assert_eq!(simulated.made > 0, moves, "{chunks} chunks, {rebalance}");
    }
}

#[test]
fn the_rate_of_each_volume_is_bounded() {
    let config = ChunksConfig { rebalance_bytes_per_second: 16 * MEBIBYTE, ..ChunksConfig::default() };
    let mut simulated = Simulated::new(5, config, &[&[10 * GIBIBYTE][..]; 3]);
    for _ in 0..120 {
        simulated.put(2, 64 * MEBIBYTE, &[volume(1, 0), volume(2, 0)]);
    }
    simulated.connect();
    for second in 1..=120_u64 {
        simulated.pass(1);
        let arrived = simulated.disks[&volume(3, 0)].used();
        assert!(arrived <= (second + 1) * 16 * MEBIBYTE + 64 * MEBIBYTE, "{arrived} bytes in {second} s");
    }
    assert!(simulated.made > 20, "{} in two minutes", simulated.made);
}

#[test]
fn nothing_is_moved_while_anything_lacks_copies() {
    let mut simulated = Simulated::new(6, fast(), &[&[10 * GIBIBYTE][..]; 3]);
    for _ in 0..100 {
        simulated.put(2, 64 * MEBIBYTE, &[volume(1, 0), volume(2, 0)]);
    }
    simulated.put(3, 64 * MEBIBYTE, &[volume(1, 0), volume(2, 0)]);
    simulated.put(4, 64 * MEBIBYTE, &[volume(1, 0), volume(2, 0), volume(3, 0)]);
    simulated.connect();
    simulated.pass(300);
    assert_eq!(simulated.made, 1, "the fourth copy of the last one has no place, so that nothing else begins");
}

#[test]
fn copies_stay_on_different_storage_machines() {
    // Each server has a volume of either machine; the second of each is new and empty, and machine b is full.
    let sizes = [10 * GIBIBYTE; 4];
    let mut simulated = Simulated::new(7, fast(), &[&sizes[..]; 3]);
    let machine = |id: VolumeId| if id.get().is_multiple_of(2) { "a" } else { "b" };
    for (id, disk) in &mut simulated.disks {
        disk.machine = machine(*id).to_owned();
    }
    for chunk in 0..90_u64 {
        let (first, second) = (chunk % 3 + 1, (chunk + 1) % 3 + 1);
        simulated.put(2, 64 * MEBIBYTE, &[volume(first, 0), volume(second, 1)]);
    }
    simulated.connect();
    until_it_rests(&mut simulated);
    assert!(simulated.made > 20, "{}", simulated.made);
    for chunk in simulated.disks.values().flat_map(|disk| disk.held.keys()) {
        let holders = simulated.disks.iter().filter(|(_, disk)| disk.held.contains_key(chunk));
        let machines: Vec<&str> = holders.map(|(id, _)| machine(*id)).collect();
        assert!(machines.contains(&"a") && machines.contains(&"b"), "{chunk} is on {machines:?}");
    }
    simulated.assert_all_in_order();
}

#[test]
fn a_move_that_fails_is_forgotten_and_another_volume_that_goes_away_ends_nothing() {
    let mut simulated = Simulated::new(8, fast(), &[&[10 * GIBIBYTE][..]; 4]);
    for _ in 0..100 {
        simulated.put(2, 64 * MEBIBYTE, &[volume(1, 0), volume(2, 0)]);
    }
    simulated.connect();
    simulated.orders_per_second = 1;
    simulated.pass(10);
    simulated.disconnect(ServerId::new(3));
    simulated.pass(30);
    simulated.connect_one(ServerId::new(3));
    simulated.orders_per_second = 100;
    until_it_rests(&mut simulated);
    let (emptiest, fullest) = used(&simulated);
    assert!(fullest - emptiest <= 6, "{emptiest} to {fullest}");
    simulated.assert_all_in_order();
    assert_eq!(simulated.chunks.summary().balance.running, 0);
}
