//! What programs see is what the model of a filesystem says: on one mount, and on two mounts of the same cluster, each
//! operation through the other one.

use std::path::PathBuf;

use rand::RngExt;
use rfs_tests::cluster::Cluster;
use rfs_tests::conformance::compare_random_operations;

const OPERATIONS: usize = 1500;
const ROUNDS: u64 = 3;

#[allow(clippy::print_stdout, reason = "a failed run is repeated with the seed it printed")]
fn rounds(cluster: &Cluster, roots: &[PathBuf]) {
    for round in 0..ROUNDS {
        let seed = std::env::var("RFS_TEST_SEED")
            .ok()
            .and_then(|text| text.parse().ok())
            .unwrap_or_else(|| rand::rng().random());
        println!("RFS_TEST_SEED={seed}");
        let name = format!("round{round}-{seed}");
        std::fs::create_dir(roots[0].join(&name)).expect("a folder for the round");
        let roots: Vec<PathBuf> = roots.iter().map(|root| root.join(&name)).collect();
        compare_random_operations(&roots, seed, OPERATIONS);
    }
    cluster.wait_until_fully_replicated().expect("nothing is left half-way");
}

#[test]
fn one_mount_agrees_with_the_model() {
    let cluster = Cluster::start().expect("a cluster");
    let mount = cluster.mount().expect("a mount");
    rounds(&cluster, &[mount.path().to_owned()]);
    mount.unmount().expect("unmounted");
}

#[test]
fn two_mounts_agree_with_the_model() {
    let cluster = Cluster::start().expect("a cluster");
    let (first, second) = (cluster.mount().expect("a mount"), cluster.mount().expect("another"));
    rounds(&cluster, &[first.path().to_owned(), second.path().to_owned()]);
    first.unmount().expect("unmounted");
    second.unmount().expect("unmounted");
}
