//! Every daemon meets every fault, under every kind of load: nothing that was promised is lost, and no call fails without
//! a reason. Each case is one round of `rfs_tests::power`; the results are printed as a table.
//!
//! `RFS_FAULT=PauseMaster,FullMaster` and `RFS_LOAD=Streaming` choose cases, `RFS_TEST_SEED` their choices.

use std::collections::BTreeMap;

use rfs_tests::power::actor::Load;
use rfs_tests::power::oracle::Fault;
use rfs_tests::power::rounds::{Campaign, Plan};

/// What each is, beside the name of the case.
const CASES: [(Fault, &str); 16] = [
    (Fault::KillMaster, "master: kill -9"),
    (Fault::PauseMaster, "master: SIGSTOP"),
    (Fault::FullMaster, "master: volume full"),
    (Fault::Master, "master: volume gone (power cut)"),
    (Fault::KillChunkserver, "chunkserver: kill -9"),
    (Fault::PauseChunkserver, "chunkserver: SIGSTOP"),
    (Fault::FullChunkserver, "chunkserver: volume full"),
    (Fault::OneChunkserver, "chunkserver: volume gone (power cut)"),
    (Fault::ReadErrors, "chunkserver: EIO on reads"),
    (Fault::WriteErrors, "chunkserver: EIO on writes and syncs"),
    (Fault::UnmountedChunkserver, "chunkserver: volume unmounted beneath"),
    (Fault::WrongVolume, "chunkserver: the wrong volume mounted"),
    (Fault::SameVolumeTwice, "chunkserver: same volume by two servers"),
    (Fault::KillChunkservers, "all chunkservers: kill -9"),
    (Fault::Client, "client: kill -9"),
    (Fault::PauseClient, "client: SIGSTOP"),
];

const LOADS: [Load; 3] = [Load::Idle, Load::Streaming, Load::SmallFiles];

/// Where a variable names some of these, only those.
fn chosen<T: std::fmt::Debug>(variable: &str, all: impl IntoIterator<Item = T>) -> Vec<T> {
    let names = std::env::var(variable).ok();
    let is_chosen = |item: &T| names.as_ref().is_none_or(|names| names.split(',').any(|name| name == format!("{item:?}")));
    all.into_iter().filter(is_chosen).collect()
}

/// What became of each case under one load, in words; empty: well.
fn run(load: Load, faults: &[Fault], seed: u64) -> BTreeMap<Fault, Vec<String>> {
    let name = format!("{load:?}");
    let plan =
        Plan { name: name.clone(), seed, faults: faults.to_vec(), in_order: true, load, faulty_disk: true };
    let mut results = BTreeMap::new();
    let mut campaign = match Campaign::start(plan) {
        Ok(campaign) => campaign,
        Err(error) => {
            results.insert(faults[0], vec![format!("{name} did not start: {error:#}")]);
            return results;
        }
    };
    for fault in faults {
        let before = campaign.problems().len();
        let ended = campaign.round();
        let mut said: Vec<String> = campaign.problems()[before..].iter().map(ToString::to_string).collect();
        if let Err(error) = &ended {
            said.push(format!("{name} did not go on: {error:#}"));
        }
        results.insert(*fault, said);
        if ended.is_err() {
            break;
        }
    }
    results
}

#[test]
fn every_daemon_bears_every_fault() {
    let seed = std::env::var("RFS_TEST_SEED").map_or(5, |seed| seed.parse().expect("RFS_TEST_SEED is a number"));
    let faults = chosen("RFS_FAULT", CASES.map(|(fault, _)| fault));
    let loads = chosen("RFS_LOAD", LOADS);
    let results: Vec<BTreeMap<Fault, Vec<String>>> = std::thread::scope(|scope| {
        let spawn = |load: Load| {
            let faults = &faults;
            std::thread::Builder::new()
                .name(format!("fault_matrix_{load:?}"))
                .spawn_scoped(scope, move || run(load, faults, seed))
                .expect("a thread")
        };
        let running: Vec<_> = loads.iter().map(|load| spawn(*load)).collect();
        running.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    let heads: Vec<String> = loads.iter().map(|load| format!("{:>12}", format!("{load:?}"))).collect();
    println!("{:40}{}", "fault", heads.join(""));
    for (fault, words) in CASES.iter().filter(|(fault, _)| faults.contains(fault)) {
        let cells: Vec<String> = results
            .iter()
            .map(|results| match results.get(fault).map(Vec::len) {
                None => "not run".to_owned(),
                Some(0) => "ok".to_owned(),
                Some(count) => format!("{count} wrong"),
            })
            .map(|cell| format!("{cell:>12}"))
            .collect();
        println!("{words:40}{}", cells.join(""));
    }
    let said: Vec<String> = results.into_iter().flat_map(BTreeMap::into_values).flatten().collect();
    assert!(said.is_empty(), "{} problems (RFS_TEST_SEED={seed}):\n{}", said.len(), said.join("\n"));
}
