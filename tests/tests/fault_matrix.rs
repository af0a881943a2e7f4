//! Every daemon meets every fault, under every kind of load: nothing that was promised is lost, and no call fails without
//! a reason. Each case is one round of `rfs_tests::power`, named FAULT::LOAD; the results are printed as a table.
//!
//! Each fault comes once, the loads in turn; with `RFS_MATRIX=all` under every load. `RFS_CASE=master-kill::idle,client-mute::*`
//! chooses cases, `RFS_TEST_SEED` their choices: a case makes the same ones alone and among others. Loads have a cluster
//! each, side by side; after a case that failed, the next one begins with a new cluster, and the folder of the old one stays.

use std::fmt;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::PathBuf;
use std::time::Duration;

use rfs_common::clock::{Clock as _, SystemClock};
use rfs_tests::cluster::Machines;
use rfs_tests::power::actor::Load;
use rfs_tests::power::background::Background;
use rfs_tests::power::fault::{Fault, Trouble, Victim};
use rfs_tests::power::rounds::{Campaign, Plan};

/// What goes on while the fault comes.
const LOADS: [(&str, Load, Background); 6] = [
    ("idle", Load::Idle, Background::Nothing),
    ("streaming", Load::Streaming, Background::Nothing),
    ("small-files", Load::SmallFiles, Background::Nothing),
    ("re-replication", Load::Mixed, Background::Replication),
    ("checkpoint", Load::Mixed, Background::Checkpoints),
    ("scrub", Load::Mixed, Background::Scrub),
];
const SEED: u64 = 5;
/// What is not borne well every time yet (docs/known-limits.md): only where all cases are asked for, or these.
const UNSETTLED: [Fault; 2] =
    [Fault::On(Victim::Master, Trouble::WriteErrors), Fault::On(Victim::Master, Trouble::SyncErrors)];

/// One case, by the number of its load.
#[derive(Clone, Copy)]
struct Case {
    fault: Fault,
    load: usize,
}

impl fmt::Display for Case {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(&format!("{}::{}", self.fault, LOADS[self.load].0))
    }
}

impl Case {
    fn seed(self, seed: u64) -> u64 {
        let mut hasher = DefaultHasher::new();
        (seed, self.to_string()).hash(&mut hasher);
        hasher.finish()
    }

    fn is_named(self, name: &str) -> bool {
        let fits = |wanted: &str, own: &str| wanted == "*" || wanted == own;
        let (fault, load) = name.split_once("::").unwrap_or((name, "*"));
        fits(fault, &self.fault.to_string()) && fits(load, LOADS[self.load].0)
    }
}

/// What came out of a case.
struct Outcome {
    case: Case,
    longest_call: Duration,
    errors: usize,
    took: Duration,
    /// What is wrong; empty: nothing.
    wrong: Vec<String>,
    folder: PathBuf,
}

impl fmt::Display for Outcome {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { case, longest_call, errors, took, wrong, folder } = self;
        let seconds = [longest_call.as_secs_f64(), took.as_secs_f64()];
        write!(out, "{:26}{:16}", case.fault.to_string(), LOADS[case.load].0)?;
        write!(out, "{:>12.2}{errors:>8}{:>8.1}  ", seconds[0], seconds[1])?;
        match wrong.len() {
            0 => write!(out, "ok"),
            count => write!(out, "{count} WRONG, see {}", folder.display()),
        }
    }
}

/// All cases, or those that are asked for.
fn cases() -> Vec<Case> {
    let faults: Vec<Fault> = Fault::all().filter(|fault| *fault != Fault::Everything).collect();
    let loads = LOADS.len();
    let all = faults.iter().flat_map(|fault| (0..loads).map(|load| Case { fault: *fault, load }));
    if let Ok(names) = std::env::var("RFS_CASE") {
        let chosen: Vec<Case> = all.filter(|case| names.split(',').any(|name| case.is_named(name))).collect();
        let faults = || faults.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        assert!(!chosen.is_empty(), "no case is named {names}; faults are {}", faults());
        return chosen;
    }
    match std::env::var("RFS_MATRIX").as_deref() {
        Ok("all") => all.collect(),
        _ => {
            let settled = faults.iter().enumerate().filter(|(_, fault)| !UNSETTLED.contains(fault));
            settled.map(|(at, fault)| Case { fault: *fault, load: at % loads }).collect()
        }
    }
}

/// The cases of one load, one after the other.
fn run(load: usize, cases: &[Case], seed: u64) -> Vec<Outcome> {
    let (name, actors, background) = LOADS[load];
    let mut campaign = None;
    let mut outcomes = Vec::new();
    for case in cases.iter().filter(|case| case.load == load) {
        let before = SystemClock.monotonic();
        let plan = || Plan { name: name.to_owned(), load: actors, background, machines: Machines::Many };
        let started = match campaign.take() {
            Some(campaign) => Ok(campaign),
            None => Campaign::start(plan()),
        };
        let mut outcome = Outcome {
            case: *case,
            longest_call: Duration::ZERO,
            errors: 0,
            took: Duration::ZERO,
            wrong: Vec::new(),
            folder: PathBuf::new(),
        };
        match started {
            Ok(mut started) => {
                let ended = started.round(case.fault, case.seed(seed));
                outcome.folder = started.folder().to_owned();
                outcome.wrong.extend(started.problems().iter().map(|broken| format!("{case}: {}", broken.problem)));
                match ended {
                    Ok(verdict) => (outcome.longest_call, outcome.errors) = (verdict.longest_call, verdict.errors),
                    Err(error) => outcome.wrong.push(format!("{case}: the cluster does not come back: {error:#}")),
                }
                campaign = Some(started).filter(|_| outcome.wrong.is_empty());
            }
            Err(error) => outcome.wrong.push(format!("{case}: no cluster: {error:#}")),
        }
        outcome.took = SystemClock.monotonic().since(before);
        outcomes.push(outcome);
    }
    outcomes
}

#[test]
fn every_daemon_bears_every_fault() {
    let seed = std::env::var("RFS_TEST_SEED").map_or(SEED, |seed| seed.parse().expect("RFS_TEST_SEED is a number"));
    let cases = cases();
    println!("{} cases, RFS_TEST_SEED={seed}", cases.len());
    let outcomes: Vec<Outcome> = std::thread::scope(|scope| {
        let spawn = |load: usize| {
            let cases = &cases;
            std::thread::Builder::new()
                .name(format!("fault_matrix_{}", LOADS[load].0))
                .spawn_scoped(scope, move || run(load, cases, seed))
                .expect("a thread")
        };
        let running: Vec<_> = (0..LOADS.len()).map(spawn).collect();
        running.into_iter().flat_map(|thread| thread.join().expect("no panic")).collect()
    });
    println!("\n{:26}{:16}{:>12}{:>8}{:>8}  verdict", "fault", "load", "longest, s", "errors", "took, s");
    for case in &cases {
        let of_case = |outcome: &&Outcome| outcome.case.to_string() == case.to_string();
        outcomes.iter().find(of_case).into_iter().for_each(|outcome| println!("{outcome}"));
    }
    let wrong: Vec<&String> = outcomes.iter().flat_map(|outcome| &outcome.wrong).collect();
    let said: Vec<String> = wrong.iter().map(ToString::to_string).collect();
    assert!(
        wrong.is_empty(),
        "{} problems; RFS_TEST_SEED={seed} RFS_CASE=FAULT::LOAD makes the same choices again:\n{}",
        wrong.len(),
        said.join("\n")
    );
}
