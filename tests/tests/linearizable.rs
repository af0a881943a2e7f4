//! What several mounts are shown could have come from one file system that does one thing at a time: proven for each file and
//! each directory from timed histories, while daemons are killed, paused and restarted. See `rfs_tests::linearizable`.
//!
//! `RFS_TEST_SEED` makes the same choices again (not at the same moments), `RFS_LINEAR_SECONDS` is how long it goes on.

use std::thread::sleep;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use rfs_tests::cluster::Cluster;
use rfs_tests::linearizable::{Histories, Recorder, work};

const SECONDS: u64 = 20;
/// At least; two for each mount.
const THREADS: usize = 4;

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// One thing that goes wrong, and is right again when this returns. Daemons that are started again are processes made before:
/// one made now would first close what this process has open on the mounts, and that may wait for the daemon.
fn break_something(cluster: &mut Cluster, random: &mut StdRng) -> anyhow::Result<&'static str> {
    let victim = random.random_range(0..cluster.chunkserver_count());
    let pause = Duration::from_millis(random.random_range(100..1_500));
    Ok(match random.random_range(0..4) {
        0 => {
            cluster.kill_chunkserver_to_start_again(victim)?;
            sleep(pause);
            cluster.start_chunkserver(victim)?;
            "kill -9 of a chunkserver"
        }
        1 => {
            cluster.pause_chunkserver(victim);
            sleep(pause * 2);
            cluster.resume_chunkserver(victim);
            "a pause of a chunkserver"
        }
        2 => {
            cluster.pause_master();
            sleep(pause);
            cluster.resume_master();
            "a pause of the master"
        }
        _ => {
            cluster.kill_master();
            sleep(pause / 4);
            cluster.start_master()?;
            "kill -9 of the master"
        }
    })
}

/// Breaks something now and then.
#[allow(clippy::print_stdout, reason = "the report of a test")]
fn break_things(cluster: &mut Cluster, random: &mut StdRng, seconds: u64, faults: bool) -> anyhow::Result<()> {
    let began = cluster.now();
    while cluster.now().since(began) < Duration::from_secs(seconds) {
        sleep(Duration::from_millis(random.random_range(300..2_000)));
        if faults {
            println!("after {:?}: {}", cluster.now().since(began), break_something(cluster, random)?);
        }
    }
    Ok(())
}

/// Works on so many mounts for so long, with or without faults. The cluster's logs are kept if the histories are no good.
fn record(mounts: usize, seed: u64, seconds: u64, faults: bool) -> (Histories, Cluster) {
    let mut cluster = Cluster::start().expect("a cluster");
    let mounts: Vec<_> = (0..mounts).map(|_| cluster.mount().expect("a mount")).collect();
    let recorder = Recorder::new(mounts[0].path(), mounts.len()).expect("the first objects");
    let mut random = StdRng::seed_from_u64(seed);
    let broken = std::thread::scope(|scope| {
        let threads = THREADS.max(2 * mounts.len());
        for (number, mount) in mounts.iter().cycle().take(threads).enumerate() {
            let (recorder, root) = (&recorder, mount.path());
            scope.spawn(move || work(recorder, root, number, seed));
        }
        let broken = break_things(&mut cluster, &mut random, seconds, faults);
        // Also after an error: the threads would wait for ever.
        recorder.end();
        broken
    });
    broken.expect("everything comes back");
    (recorder.histories(), cluster)
}

#[allow(clippy::print_stdout, reason = "the report of a test")]
fn judge(mounts: usize, seed: u64, seconds: u64, faults: bool) {
    println!("RFS_TEST_SEED={seed} RFS_LINEAR_SECONDS={seconds}, {mounts} mounts");
    let (mut histories, _cluster) = record(mounts, seed, seconds, faults);
    let (files, directories) = (histories.files.len(), histories.directories.len());
    println!("{} calls on {files} files and {directories} directories", histories.call_count());
    assert!(histories.call_count() > 500, "too few calls to say anything");
    assert_eq!(histories.failures, Vec::<String>::new(), "with seed {seed}: calls that failed");
    let refuted = histories.refuted();
    assert!(refuted.is_empty(), "with seed {seed}, {} histories have no order:\n{}", refuted.len(), refuted.join("\n"));
    // A checker that lets a stale read pass proves nothing.
    assert!(histories.make_one_read_stale(), "no read comes after two writes of its block");
    assert_eq!(histories.refuted().len(), 1, "a stale read was put in and not found");
}

#[test]
fn one_mount_is_shown_one_file_system() {
    let (seed, seconds) = (setting("RFS_TEST_SEED"), setting("RFS_LINEAR_SECONDS"));
    judge(1, seed.unwrap_or_else(rand::random), seconds.unwrap_or(SECONDS / 10), false);
}

#[test]
fn two_mounts_are_shown_one_file_system() {
    let (seed, seconds) = (setting("RFS_TEST_SEED"), setting("RFS_LINEAR_SECONDS"));
    judge(2, seed.unwrap_or_else(rand::random), seconds.unwrap_or(SECONDS / 5), false);
}

#[test]
fn three_mounts_are_shown_one_file_system_while_daemons_die() {
    let (seed, seconds) = (setting("RFS_TEST_SEED"), setting("RFS_LINEAR_SECONDS"));
    judge(3, seed.unwrap_or_else(rand::random), seconds.unwrap_or(SECONDS * 7 / 10), true);
}
