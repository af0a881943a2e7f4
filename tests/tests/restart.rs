//! Everything stops and starts again, cleanly or by a power cut of everything at once: what was promised is there.

use std::fs;
use std::time::Duration;

use rfs_tests::cluster::{Cluster, Shape, Storage};
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

#[test]
fn what_was_fsynced_survives_a_power_cut_of_everything() {
    const FILES: usize = 150;
    let storage = Storage::Xfs { master_bytes: 1 << 30, chunkserver_bytes: 1 << 30, first_may_fail: false };
    let mut cluster = Cluster::start_shaped(Shape { storage, ..Shape::default() }).expect("a cluster");
    for round in 0..2 {
        let mount = cluster.mount().expect("a mount");
        let root = mount.path().join(format!("round{round}"));
        fs::create_dir(&root).expect("mkdir");
        for number in 0..FILES {
            workload::write(&root, SEED + round, number, number % 3 != 2).expect("written");
        }
        let overwritten = workload::path(&root, 0);
        fs::write(&overwritten, b"a second content, fsynced").expect("written");
        fs::File::open(&overwritten).expect("open").sync_all().expect("fsync");
        fs::File::open(&root).expect("open").sync_all().expect("fsync of the folder");
        fs::File::open(mount.path()).expect("open").sync_all().expect("fsync of the root");
        for daemon in [None, Some(0), Some(1), Some(2)] {
            cluster.volume(daemon).cut_power().expect("power cut");
        }
        cluster.kill_master();
        (0..3).for_each(|index| cluster.kill_chunkserver(index));
        mount.kill();
        for daemon in [None, Some(0), Some(1), Some(2)] {
            cluster.volume(daemon).unmount().expect("unmounted");
            cluster.volume(daemon).mount().expect("mounted again");
        }
        cluster.start_everything().expect("started again");
        let mount = cluster.mount().expect("mounted again");
        let root = mount.path().join(format!("round{round}"));
        assert_eq!(fs::read(workload::path(&root, 0)).expect("read"), b"a second content, fsynced");
        let lost: Vec<String> = (1..FILES)
            .filter(|number| number % 3 != 2)
            .filter_map(|number| workload::verify(&root, SEED + round, number).err().map(|error| format!("{error:#}")))
            .collect();
        assert!(lost.is_empty(), "{} of the fsynced files are lost: {lost:#?}", lost.len());
        // What was not fsynced may be there or not; it can be removed, and then nothing is wrong any more.
        for number in (0..FILES).filter(|number| number % 3 == 2) {
            let _ = fs::remove_file(workload::path(&root, number));
        }
        mount.unmount().expect("unmounted");
        cluster.wait_until_fully_replicated().expect("well again");
    }
}
