//! One file under random operations (reads, writes, maps, holes, copies, direct I/O), compared with an array of bytes:
//! on local XFS, which judges the exerciser, on one mount, and through two mounts in turn.
//!
//! `RFS_TEST_SEED=n` repeats a run.

use std::path::PathBuf;

use rand::RngExt;
use rfs_tests::cluster::Cluster;
use rfs_tests::guardian::{Guardian, folder_of_all_tests};
use rfs_tests::semantics::exerciser::exercise;
use rfs_tests::volumes::XfsVolume;

/// The one that is asked for, or a new one, which is printed.
#[allow(clippy::print_stdout, reason = "the seed of a failed run is what repeats it")]
fn seed() -> u64 {
    let seed =
        std::env::var("RFS_TEST_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or_else(|| rand::rng().random());
    println!("RFS_TEST_SEED={seed}");
    seed
}

#[test]
fn local_xfs_agrees_with_the_exerciser() {
    let guardian = Guardian::start();
    let folder = tempfile::Builder::new().prefix("fsx.").tempdir_in(folder_of_all_tests()).expect("a folder").keep();
    guardian.folder(&folder);
    let volume = XfsVolume::create(&guardian, folder.join("image"), folder.join("volume"), 1 << 30).expect("a volume");
    let file = volume.path().join("file");
    exercise(&[file.clone(), file], seed(), 5_000).expect("no difference");
    volume.unmount().expect("unmounted");
}

#[test]
fn one_mount_agrees_with_the_exerciser() {
    let cluster = Cluster::start().expect("a cluster");
    let mount = cluster.mount().expect("a mount");
    exercise(&[mount.path().join("file")], seed(), 20_000).expect("no difference");
    mount.unmount().expect("unmounted");
}

#[test]
fn two_mounts_in_turn_agree_with_the_exerciser() {
    let cluster = Cluster::start().expect("a cluster");
    let (first, second) = (cluster.mount().expect("a mount"), cluster.mount().expect("another"));
    let paths: Vec<PathBuf> = [&first, &second].iter().map(|mount| mount.path().join("file")).collect();
    exercise(&paths, seed(), 2_000).expect("no difference");
    first.unmount().expect("unmounted");
    second.unmount().expect("unmounted");
}
