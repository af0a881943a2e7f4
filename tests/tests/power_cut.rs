//! Power cuts and `kill -9` at random moments, under actors that keep a journal: nothing that was promised is lost, nothing
//! that was removed comes back, nothing is mixed. See `rfs_tests::power` for what is promised.
//!
//! `RFS_TEST_SEED` replays a run (its choices, not its timing), `RFS_POWER_ROUNDS` is how many rounds, `RFS_POWER_CLUSTERS` how
//! many clusters they are spread over, side by side, and `RFS_POWER_FAULTS` (`master-power,client-kill`) which faults only.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use rfs_tests::cluster::{Cluster, Machines, Shape, Storage};
use rfs_tests::power::actor::Load;
use rfs_tests::power::background::Background;
use rfs_tests::power::fault::Fault;
use rfs_tests::power::rounds::{Broken, Campaign, FAULTS, Plan, shuffled};

const ROUNDS: u64 = 30;
const CLUSTERS: u64 = 3;
const SEED: u64 = 3;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

fn faults() -> Vec<Fault> {
    let Ok(chosen) = std::env::var("RFS_POWER_FAULTS") else { return FAULTS.to_vec() };
    chosen.split(',').map(|name| name.parse().unwrap_or_else(|error| panic!("RFS_POWER_FAULTS: {error}"))).collect()
}

/// The promises broken in so many rounds, and why they ended early.
#[allow(clippy::print_stdout, reason = "what ended a campaign is said when it happens")]
fn campaign(name: &str, seed: u64, rounds: u64) -> (Vec<Broken>, Option<String>) {
    let plan =
        Plan { name: name.to_owned(), load: Load::Mixed, background: Background::Nothing, machines: Machines::One };
    let mut campaign = match Campaign::start(plan) {
        Ok(campaign) => campaign,
        Err(error) => return (Vec::new(), Some(format!("{name} did not start: {error:#}"))),
    };
    let faults = faults();
    let mut round = |number| campaign.round(shuffled(&faults, seed, number), seed ^ number << 32).err();
    let stopped = (0..rounds).find_map(&mut round);
    let stopped = stopped.map(|error| format!("{name} did not go on: {error:#}"));
    stopped.iter().for_each(|words| println!("{words}"));
    (campaign.problems().to_vec(), stopped)
}

#[test]
fn nothing_that_was_promised_is_lost() {
    let (rounds, clusters) = (setting("RFS_POWER_ROUNDS", ROUNDS), setting("RFS_POWER_CLUSTERS", CLUSTERS));
    let seed = setting("RFS_TEST_SEED", SEED);
    println!("RFS_TEST_SEED={seed} RFS_POWER_ROUNDS={rounds} RFS_POWER_CLUSTERS={clusters}");
    let ended: Vec<_> = std::thread::scope(|scope| {
        let running: Vec<_> = (0..clusters)
            .map(|number| {
                let share = rounds / clusters + u64::from(number < rounds % clusters);
                let name = format!("cluster {number}");
                std::thread::Builder::new()
                    .name(format!("power_cut{number}"))
                    .spawn_scoped(scope, move || campaign(&name, seed + 1_000 * number, share))
                    .expect("a thread")
            })
            .collect();
        running.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    let problems: Vec<Broken> = ended.iter().flat_map(|(problems, _)| problems.clone()).collect();
    let mut counts = BTreeMap::new();
    for broken in &problems {
        *counts.entry((broken.fault, broken.problem.kind)).or_insert(0) += 1;
    }
    for ((fault, kind), count) in counts {
        println!("{count} x {kind:?} after {fault:?}");
    }
    let said: Vec<String> =
        problems.iter().map(Broken::to_string).chain(ended.into_iter().filter_map(|(_, stopped)| stopped)).collect();
    assert!(
        said.is_empty(),
        "{} problems (RFS_TEST_SEED={seed} makes the same choices again):\n{}",
        said.len(),
        said.join("\n")
    );
}

/// Pages so large that sled keeps them in files of their own, which it neither syncs nor keeps until what replaces them is safe.
#[test]
fn a_power_cut_in_the_midst_of_a_checkpoint_loses_no_page() {
    let seed = setting("RFS_TEST_SEED", SEED);
    println!("RFS_TEST_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let storage = Storage::Xfs { master_bytes: 1 << 30, chunkserver_bytes: 300 << 20, disks_may_fail: false };
    let shape = Shape { chunkservers: 1, goal: 1, storage, ..Shape::default() };
    let mut cluster = Cluster::start_shaped(shape).unwrap();
    let mount = cluster.mount().unwrap();
    let files: Vec<_> = (0..400).map(|number| mount.path().join(number.to_string())).collect();
    files.iter().for_each(|file| drop(std::fs::File::create(file).unwrap()));
    for round in 1..=CHECKPOINTS_CUT {
        files.iter().for_each(|file| set_attribute(file, &[round; 30_000]));
        // What was not synced may be gone.
        std::fs::File::open(mount.path()).unwrap().sync_all().unwrap();
        let mut checkpoint = cluster.rfs(&["admin", "checkpoint"]).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(random.random_range(5..250)));
        cluster.volume(None).cut_power().unwrap();
        cluster.kill_master();
        checkpoint.wait().unwrap();
        cluster.volume(None).unmount().unwrap();
        cluster.volume(None).mount().unwrap();
        let came_back = cluster.start_master().and_then(|()| cluster.wait_for_volumes(1));
        came_back.unwrap_or_else(|error| panic!("round {round}: {error:#}"));
        for file in &files {
            assert_eq!(attribute(file), [round; 30_000], "round {round}: {}", file.display());
        }
    }
}

const CHECKPOINTS_CUT: u8 = 12;

fn set_attribute(file: &Path, value: &[u8]) {
    rustix::fs::setxattr(file.as_os_str().as_bytes(), "user.large", value, rustix::fs::XattrFlags::empty())
        .expect("the attribute is set");
}

fn attribute(file: &Path) -> Vec<u8> {
    let mut value = vec![0; 65_536];
    let bytes = rustix::fs::getxattr(file.as_os_str().as_bytes(), "user.large", &mut value[..])
        .expect("the attribute is there");
    value.truncate(bytes);
    value
}
