//! Everything stops and starts again in order: all of it is there. Power cuts: `power_cut.rs`.

use std::fs;
use std::time::Duration;

use rfs_tests::cluster::Cluster;
use rfs_tests::workload;

const SEED: u64 = 7;

#[test]
fn everything_is_there_after_a_restart_of_all_daemons() {
    let mut cluster = Cluster::start().expect("a cluster");
    let mount = cluster.mount().expect("a mount");
    for number in 0..200 {
        workload::write(mount.path(), SEED, number, false).expect("written");
    }
    mount.unmount().expect("unmounted");
    for index in 0..3 {
        assert!(cluster.stop_chunkserver(index).expect("stopped").success());
    }
    assert!(cluster.stop_master().expect("stopped").success());
    let before = cluster.now();
    cluster.start_everything().expect("started again");
    let took = cluster.now().since(before);
    assert!(took < Duration::from_secs(10), "all volumes in service after {took:?}");
    let mount = cluster.mount().expect("mounted again");
    for number in 0..200 {
        workload::verify(mount.path(), SEED, number).expect("as it was");
    }
    cluster.wait_until_fully_replicated().expect("nothing lacks copies");
}

#[test]
fn the_mount_outlives_a_restart_of_all_daemons() {
    let mut cluster = Cluster::start().expect("a cluster");
    let mount = cluster.mount().expect("a mount");
    workload::write(mount.path(), SEED, 1, false).expect("written");
    let open = fs::File::open(workload::path(mount.path(), 1)).expect("open");
    for index in 0..3 {
        cluster.stop_chunkserver(index).expect("stopped");
    }
    cluster.stop_master().expect("stopped");
    cluster.start_everything().expect("started again");
    workload::verify(mount.path(), SEED, 1).expect("read");
    assert!(open.metadata().is_ok());
    drop(open);
    workload::write(mount.path(), SEED, 2, true).expect("written");
    workload::verify(mount.path(), SEED, 2).expect("read");
    mount.unmount().expect("unmounted");
}
