//! A chunkserver that is added takes its share of what is there already, and clients notice nothing.

use std::fs;

use rfs_tests::cluster::{Cluster, SOON, Shape, Storage};

const FILES: usize = 40;
const FILE_BYTES: usize = 4 << 20;

fn content(number: usize) -> Vec<u8> {
    (0..FILE_BYTES).map(|at| (at / 4096 + number) as u8).collect()
}

#[test]
fn an_empty_volume_is_filled_from_the_full_ones_until_they_are_even() {
    let storage = Storage::Xfs { master_bytes: 320 << 20, chunkserver_bytes: 512 << 20, disks_may_fail: false };
    let settings = ["rebalance_rate=1GiB", "clean_stop_wait=0s"].map(str::to_owned).to_vec();
    let shape = Shape { storage, master_settings: settings, ..Shape::default() };
    let mut cluster = Cluster::start_shaped(shape).expect("a cluster");
    cluster.stop_chunkserver(2).expect("stopped");
    let mount = cluster.mount().expect("a mount");
    for number in 0..FILES {
        fs::write(mount.path().join(format!("file{number}")), content(number)).expect("written");
    }
    cluster.start_chunkserver(2).expect("started");
    cluster
        .wait_for_status(SOON, "even volumes", |status| {
            let rebalance = &status["rebalance"];
            rebalance["active"] == false && rebalance["done"].as_u64() > Some(0) && status["health"] == "ok"
        })
        .expect("rebalanced");
    let status = cluster.status().expect("status");
    let percent = |name: &str| status["rebalance"][name].as_u64().expect("a number");
    assert!(percent("used_percent_max") - percent("used_percent_min") <= 6, "{status:#}");
    let copies: Vec<usize> = (0..3).map(|index| cluster.chunk_files(index).len()).collect();
    assert!(copies[2] > FILES / 4, "{copies:?}");
    assert_eq!(copies.iter().sum::<usize>(), FILES * 2, "{copies:?}");
    for number in 0..FILES {
        let read = fs::read(mount.path().join(format!("file{number}"))).expect("read");
        assert!(read == content(number), "file{number} has other bytes");
    }
    mount.unmount().expect("unmounted");
}
