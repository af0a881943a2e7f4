//! A copy that was away during a write never wins: it is neither read nor counted, and it is replaced.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::process::Command;

use rfs_tests::cluster::{Cluster, IN_TIME, SOON, Shape};
use serde_json::Value;

/// Chunkservers that have a copy of the file's only chunk that can be read or is being written, by number. Copies that are
/// away or stale are shown, too, each with its state.
fn holders(cluster: &Cluster, path: &std::path::Path) -> Vec<usize> {
    let info = cluster.rfs_json(&["fileinfo", path.to_str().expect("a path")]).expect("fileinfo");
    let copies = info[0]["chunks"][0]["copies"].as_array().cloned().unwrap_or_default();
    (0..cluster.chunkserver_count())
        .filter(|index| {
            let address = format!("127.0.0.1:{}", cluster.data_port(*index));
            let good = |copy: &&Value| copy["state"] == "current" || copy["state"] == "being written";
            copies.iter().filter(good).any(|copy| copy["address"] == address.as_str())
        })
        .collect()
}

#[test]
fn a_copy_that_was_away_during_an_append_is_never_read() {
    // Two chunkservers and goal 2, so that nothing else can take the place of the one that is away; one copy is allowed
    // to take writes, so that they go on without it.
    let shape = Shape { chunkservers: 2, master_settings: vec!["copies_min=1".into()], ..Shape::default() };
    let mut cluster = Cluster::start_shaped(shape).expect("a cluster");
    let mount = cluster.mount().expect("a mount");
    let path = mount.path().join("file");
    fs::write(&path, vec![b'1'; 100_000]).expect("written");
    OpenOptions::new().write(true).open(&path).expect("open").sync_all().expect("fsync");
    cluster.kill_chunkserver(1);
    let mut file = OpenOptions::new().append(true).open(&path).expect("open");
    file.write_all(&vec![b'2'; 100_000]).expect("appended with one copy away");
    file.sync_all().expect("fsync");
    drop(file);
    mount.unmount().expect("unmounted");
    // Now only the copy that was away is there.
    cluster.kill_chunkserver(0);
    cluster.start_chunkserver(1).expect("started again");
    cluster.wait_for_volumes(1).expect("back");
    let mount = cluster.mount_with(&["-o", "chunk_timeout=3s"]).expect("a mount");
    let read = fs::read(mount.path().join("file"));
    assert!(read.is_err(), "the old copy was read: {} bytes", read.expect("bytes").len());
    cluster.start_chunkserver(0).expect("started again");
    cluster.wait_for_volumes(2).expect("back");
    let content = fs::read(mount.path().join("file")).expect("read from the good copy");
    assert_eq!(content.len(), 200_000);
    assert!(content[..100_000].iter().all(|byte| *byte == b'1') && content[100_000..].iter().all(|byte| *byte == b'2'));
    cluster.wait_until_fully_replicated().expect("the old copy is replaced by itself");
    // And the new one is good: read it alone.
    cluster.kill_chunkserver(0);
    Command::new("sh").args(["-c", "echo 3 > /proc/sys/vm/drop_caches"]).status().expect("caches dropped");
    let fresh = cluster.mount().expect("a mount without caches");
    assert!(fs::read(fresh.path().join("file")).expect("read from the new copy") == content);
}

#[test]
fn a_write_goes_on_when_a_copy_dies_and_its_place_is_filled() {
    let mut cluster = Cluster::start().expect("a cluster");
    let mount = cluster.mount().expect("a mount");
    let path = mount.path().join("file");
    let mut file = fs::File::create(&path).expect("created");
    file.write_all(&vec![b'1'; 3 << 20]).expect("written");
    file.sync_all().expect("fsync");
    let before = holders(&cluster, &path);
    assert_eq!(before.len(), 2);
    cluster.kill_chunkserver(before[0]);
    let start = cluster.now();
    file.write_all(&vec![b'2'; 3 << 20]).expect("written on");
    file.sync_all().expect("fsync");
    let took = cluster.now().since(start);
    println!("a write stalled by a dead copy went on after {took:?}");
    assert!(took.as_secs() < 10, "it took {took:?}");
    drop(file);
    cluster.wait_for_status(IN_TIME, "at its goal", |status| status["under_goal"] == 0).expect("repaired");
    let now = holders(&cluster, &path);
    assert!(now.len() == 2 && !now.contains(&before[0]), "{before:?} became {now:?}");
    cluster.start_chunkserver(before[0]).expect("started again");
    cluster.wait_for_volumes(3).expect("back");
    // The stale copy goes away; the good ones stay.
    let gone = cluster.wait(SOON, || cluster.chunk_files(before[0]).is_empty());
    assert!(gone, "the stale copy is deleted: {:?}", cluster.chunk_files(before[0]));
    let content = fs::read(&path).expect("read");
    let runs: Vec<_> = content.chunk_by(|one, next| one == next).map(|run| (run[0] as char, run.len())).collect();
    assert_eq!(runs, [('1', 3 << 20), ('2', 3 << 20)]);
}

#[test]
fn a_file_stays_readable_while_any_copy_lives() {
    let mut cluster = Cluster::start().expect("a cluster");
    let mount = cluster.mount().expect("a mount");
    for number in 0..20 {
        fs::write(mount.path().join(format!("f{number}")), vec![number; 50_000]).expect("written");
    }
    mount.unmount().expect("unmounted");
    for victim in 0..3 {
        cluster.kill_chunkserver(victim);
        let mount = cluster.mount().expect("a mount without caches");
        for number in 0..20 {
            let content = fs::read(mount.path().join(format!("f{number}"))).expect("read");
            assert!(content.len() == 50_000 && content.iter().all(|byte| *byte == number));
        }
        mount.unmount().expect("unmounted");
        cluster.start_chunkserver(victim).expect("started again");
        cluster.wait_for_volumes(3).expect("back");
        cluster.wait_until_fully_replicated().expect("whole again");
    }
}
