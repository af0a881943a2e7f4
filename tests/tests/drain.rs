//! What an administrator takes away is empty before it goes, what goes away for a while is waited for, and clients notice nothing.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use rfs_tests::cluster::{Cluster, SOON, Shape};
use rfs_tests::programs::run;
use serde_json::Value;

const FILES: usize = 24;

fn content(number: usize, turn: usize) -> Vec<u8> {
    let mut bytes = vec![(number * 7 + turn) as u8; 1000 + number * 30_000];
    bytes[..8].copy_from_slice(&(turn as u64).to_be_bytes());
    bytes
}

fn write(folder: &Path, numbers: std::ops::Range<usize>) {
    numbers.for_each(|number| fs::write(folder.join(format!("file{number}")), content(number, 0)).expect("written"));
}

fn check(folder: &Path, numbers: std::ops::Range<usize>) {
    for number in numbers {
        let read = fs::read(folder.join(format!("file{number}"))).expect("read");
        assert!(read == content(number, 0), "file{number} has other bytes");
    }
}

fn volumes(cluster: &Cluster) -> Vec<Value> {
    cluster.rfs_json(&["volumes"]).expect("volumes").as_array().cloned().expect("a list")
}

fn volume_at(cluster: &Cluster, folder: &Path) -> Value {
    let folder = folder.to_str().expect("a path");
    let found = volumes(cluster).into_iter().find(|volume| volume["path"] == folder);
    found.unwrap_or_else(|| panic!("no volume at {folder}: {:#?}", volumes(cluster)))
}

fn id(document: &Value, name: &str) -> String {
    document[name].as_str().expect("an id").to_owned()
}

/// Overwrites, reads back and makes files until told to stop; gives how many turns that were.
fn work(folder: &Path, ends: &AtomicBool) -> usize {
    let mut turn = 1;
    while !ends.load(Ordering::Relaxed) {
        let path = folder.join(format!("busy{}", turn % 3));
        fs::write(&path, content(turn % 5, turn)).expect("written");
        assert!(fs::read(&path).expect("read") == content(turn % 5, turn), "turn {turn}");
        turn += 1;
    }
    turn
}

#[test]
fn a_volume_is_emptied_under_work_and_stays_so_until_it_is_taken_away() {
    let mut cluster = Cluster::start().expect("a cluster");
    let mount = cluster.mount().expect("a mount");
    write(mount.path(), 0..FILES);
    cluster.wait_until_fully_replicated().expect("replicated");
    assert!(!cluster.chunk_files(0).is_empty());
    let volume = volume_at(&cluster, cluster.chunkserver_folder(0));
    let (volume, server) = (id(&volume, "volume"), id(&volume, "server"));

    let ends = AtomicBool::new(false);
    let turns = std::thread::scope(|scope| {
        let worker = scope.spawn(|| work(mount.path(), &ends));
        let drained = run(&mut cluster.rfs(&["volume", "drain", &volume, "--wait", "60s"]));
        ends.store(true, Ordering::Relaxed);
        let turns = worker.join().expect("reads what it wrote");
        assert!(drained.as_ref().is_ok_and(|said| said.contains("is drained")), "{drained:?}");
        turns
    });
    assert!(turns > 3, "{turns} turns of work");
    assert_eq!(cluster.chunk_files(0), Vec::<std::path::PathBuf>::new());
    let status = cluster.status().expect("status");
    assert!(status["notes"][0].as_str().is_some_and(|note| note.contains("is drained")), "{status:#}");
    assert_eq!(status["health"], "ok", "{status:#}");

    cluster.kill_master();
    cluster.start_master().expect("the master");
    cluster.wait_for_volumes(3).expect("in service");
    write(mount.path(), FILES..FILES + 8);
    assert_eq!(cluster.chunk_files(0), Vec::<std::path::PathBuf>::new(), "nothing new is put there");
    assert_eq!(volume_at(&cluster, cluster.chunkserver_folder(0))["state"], "drained");

    // Nobody misses it, also not a master that has not seen it since its start.
    cluster.stop_chunkserver(0).expect("stopped");
    cluster.kill_master();
    cluster.start_master().expect("the master");
    cluster
        .wait_for_status(SOON, "all well without it", |status| {
            status["health"] == "ok" && status["volumes_in_service"] == 2 && status["fully_replicated"] == true
        })
        .expect("well");
    check(mount.path(), 0..FILES + 8);
    run(&mut cluster.rfs(&["admin", "forget-server", &server])).expect("forgotten");
    assert_eq!(volumes(&cluster).len(), 2);

    // With goal 2, neither of the two that are left can go.
    let other = id(&volume_at(&cluster, cluster.chunkserver_folder(1)), "volume");
    let said = cluster.rfs(&["volume", "drain", &other]).output().expect("run");
    assert!(said.status.success() && String::from_utf8_lossy(&said.stderr).contains("cannot finish"), "{said:?}");
    let status = cluster.status().expect("status");
    assert_eq!(status["health"], "degraded", "{status:#}");
    assert!(status["summary"].as_str().is_some_and(|line| line.contains("has no other place")), "{status:#}");
    fs::write(mount.path().join("more"), content(1, 1)).expect("a write never fails because of a drain");
    run(&mut cluster.rfs(&["volume", "drain", &other, "--cancel"])).expect("cancelled");
    assert_eq!(cluster.status().expect("status")["health"], "ok");
    mount.unmount().expect("unmounted");
}

#[test]
fn a_disk_is_replaced_where_no_other_server_has_a_place() {
    let mut cluster = Cluster::start_shaped(Shape { chunkservers: 2, ..Shape::default() }).expect("a cluster");
    let mount = cluster.mount().expect("a mount");
    write(mount.path(), 0..FILES);
    cluster.wait_until_fully_replicated().expect("replicated");
    let new = cluster.add_volume(0).expect("a second volume");
    cluster.stop_chunkserver(0).expect("stopped");
    cluster.start_chunkserver(0).expect("started");
    cluster.wait_for_volumes(3).expect("in service");
    let old = id(&volume_at(&cluster, cluster.chunkserver_folder(0)), "volume");
    run(&mut cluster.rfs(&["volume", "drain", &old, "--wait", "60s"])).expect("drained");
    assert_eq!((cluster.chunk_files(0).len(), Cluster::chunk_files_in(&new).len()), (0, FILES));
    check(mount.path(), 0..FILES);
    assert_eq!(cluster.status().expect("status")["health"], "ok");
    mount.unmount().expect("unmounted");
}

#[test]
fn a_chunkserver_in_maintenance_is_waited_for_and_what_only_it_has_is_named() {
    // Nothing else is to delay a repair.
    let settings = ["repair_delay=0s", "clean_stop_wait=0s", "mass_outage_wait=0s"].map(str::to_owned).to_vec();
    let mut cluster =
        Cluster::start_shaped(Shape { master_settings: settings, ..Shape::default() }).expect("a cluster");
    let mount = cluster.mount().expect("a mount");
    write(mount.path(), 0..FILES);
    let lone = mount.path().join("lone");
    fs::write(&lone, content(3, 3)).expect("written");
    run(cluster.rfs(&["setgoal", "1"]).arg(&lone)).expect("goal 1");
    let copies = |cluster: &Cluster| (0..3).map(|index| cluster.chunk_files(index).len()).sum::<usize>();
    assert!(cluster.wait(SOON, || copies(&cluster) == FILES * 2 + 1), "{} copies", copies(&cluster));
    let info = cluster.rfs_json(&["fileinfo", "--from-root", "/lone"]).expect("fileinfo");
    let host = info.to_string();
    let index = (0..3).find(|index| host.contains(&format!("chunkserver{}", index + 1))).expect("a host");
    let server = id(&volume_at(&cluster, cluster.chunkserver_folder(index)), "server");

    let on = cluster.rfs(&["server", "maintenance", "on", &server, "--for", "12s"]).output().expect("run");
    let warned = String::from_utf8_lossy(&on.stderr).into_owned();
    assert!(on.status.success() && warned.contains("1 chunk") && warned.contains("/lone"), "{on:?}");
    let begun = cluster.now();
    cluster.stop_chunkserver(index).expect("stopped");
    cluster
        .wait_for_status(SOON, "it is waited for", |status| {
            let notes = status["notes"].as_array().cloned().unwrap_or_default();
            status["servers_up"] == 2 && notes.iter().any(|note| note.to_string().contains("in maintenance and away"))
        })
        .expect("a note");
    check(mount.path(), 0..FILES);
    let here = |cluster: &Cluster| -> usize {
        (0..3).filter(|other| *other != index).map(|other| cluster.chunk_files(other).len()).sum()
    };
    let before = here(&cluster);
    let replicated = |cluster: &Cluster| here(cluster) >= FILES * 2;
    assert!(before < FILES * 2, "{before} of {} copies are on the others", FILES * 2);
    assert!(cluster.wait(SOON, || replicated(&cluster)), "{} copies are here after the time", here(&cluster));
    let took = cluster.now().since(begun).as_secs();
    assert!(took >= 11, "copies were made anew after {took} s");
    cluster.start_chunkserver(index).expect("started");
    cluster.wait_until_fully_replicated().expect("replicated");
    check(mount.path(), 0..FILES);
    mount.unmount().expect("unmounted");
}
