//! Power cuts and `kill -9` at random moments, under actors that keep a journal: nothing that was promised is lost, nothing
//! that was removed comes back, nothing is mixed. See `rfs_tests::power` for what is promised.
//!
//! `RFS_TEST_SEED` replays a run (its choices, not its timing), `RFS_POWER_ROUNDS` is how many rounds, `RFS_POWER_CLUSTERS` how
//! many clusters they are spread over, side by side.

use rfs_tests::power::rounds::Campaign;

const ROUNDS: u64 = 30;
const CLUSTERS: u64 = 2;
const SEED: u64 = 3;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

fn campaign(name: &str, seed: u64, rounds: u64) -> Vec<String> {
    let mut campaign = match Campaign::start(name, seed) {
        Ok(campaign) => campaign,
        Err(error) => return vec![format!("{name} did not start: {error:#}")],
    };
    for _ in 0..rounds {
        if let Err(error) = campaign.round() {
            let mut problems = campaign.problems().to_vec();
            problems.push(format!("{name} did not go on: {error:#}"));
            println!("{name} did not go on: {error:#}");
            return problems;
        }
    }
    campaign.problems().to_vec()
}

#[test]
fn nothing_that_was_promised_is_lost() {
    let (rounds, clusters) = (setting("RFS_POWER_ROUNDS", ROUNDS), setting("RFS_POWER_CLUSTERS", CLUSTERS));
    let seed = setting("RFS_TEST_SEED", SEED);
    println!("RFS_TEST_SEED={seed} RFS_POWER_ROUNDS={rounds} RFS_POWER_CLUSTERS={clusters}");
    let problems: Vec<String> = std::thread::scope(|scope| {
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
        running.into_iter().flat_map(|thread| thread.join().expect("no panic")).collect()
    });
    assert!(
        problems.is_empty(),
        "{} problems (RFS_TEST_SEED={seed} makes the same choices again):\n{}",
        problems.len(),
        problems.join("\n")
    );
}
