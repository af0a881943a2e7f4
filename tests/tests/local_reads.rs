//! A mount reads copies of its own host from their files, and holds them open no longer than it may.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rfs_tests::cluster::{Cluster, Mount};

const BYTES: usize = 8 << 20;
/// Sooner than files that nobody reads are closed.
const AT_ONCE: Duration = Duration::from_secs(5);

fn content() -> Vec<u8> {
    (0..BYTES).map(|at| (at / 5 % 251) as u8).collect()
}

/// Files below the folder that the mount's process has open.
fn held_open(mount: &Mount, folder: &Path) -> Vec<PathBuf> {
    let descriptors = fs::read_dir(format!("/proc/{}/fd", mount.process_id())).expect("its descriptors");
    let open = descriptors.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    open.filter(|path| path.starts_with(folder)).collect()
}

fn held_anywhere(cluster: &Cluster, mount: &Mount) -> Vec<usize> {
    (0..3).filter(|index| !held_open(mount, cluster.chunkserver_folder(*index)).is_empty()).collect()
}

#[test]
fn files_of_copies_are_read_and_closed_when_their_chunkserver_stops() {
    let mut cluster = Cluster::start().expect("a cluster");
    let mount = cluster.mount().expect("a mount");
    fs::write(mount.path().join("file"), content()).expect("written");
    mount.unmount().expect("unmounted");

    let mount = cluster.mount().expect("a mount without caches");
    let other = cluster.mount_with(&["-o", "nolocal"]).expect("another");
    assert!(fs::read(mount.path().join("file")).expect("read") == content());
    assert!(fs::read(other.path().join("file")).expect("read") == content());
    let held = held_anywhere(&cluster, &mount);
    assert_eq!(held.len(), 1, "one copy is read from its file");
    assert_eq!(held_anywhere(&cluster, &other).len(), 0, "it was told to read through chunkservers");

    assert!(cluster.stop_chunkserver(held[0]).expect("stopped").success());
    let closed = cluster.wait(AT_ONCE, || !held_anywhere(&cluster, &mount).contains(&held[0]));
    assert!(closed, "its volume could not be unmounted: {:?}", held_open(&mount, cluster.chunkserver_folder(held[0])));
    fs::write(other.path().join("file"), vec![9; BYTES]).expect("written without that copy");
    assert!(fs::read(mount.path().join("file")).expect("read") == vec![9; BYTES], "what was written since");
    cluster.start_chunkserver(held[0]).expect("started");
    cluster.wait_until_fully_replicated().expect("healed");
    assert!(fs::read(other.path().join("file")).expect("read") == vec![9; BYTES]);
}

#[test]
fn files_that_are_not_read_any_more_are_closed() {
    let cluster = Cluster::start().expect("a cluster");
    let mount = cluster.mount().expect("a mount");
    fs::write(mount.path().join("file"), content()).expect("written");
    mount.unmount().expect("unmounted");
    let mount = cluster.mount().expect("a mount without caches");
    assert!(fs::read(mount.path().join("file")).expect("read") == content());
    assert_eq!(held_anywhere(&cluster, &mount).len(), 1);
    let closed = cluster.wait(Duration::from_secs(40), || held_anywhere(&cluster, &mount).is_empty());
    assert!(closed, "the chunk could be removed, and its space would not be free");
}

/// Connections of Unix sockets that were made to names which begin so, in this network namespace.
fn connections_to(name: &str) -> usize {
    const CONNECTED: &str = "03";
    let sockets = fs::read_to_string("/proc/net/unix").expect("the list of sockets");
    let is_one = |line: &&str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        fields.get(5) == Some(&CONNECTED) && fields.get(7).is_some_and(|path| path.starts_with(name))
    };
    sockets.lines().filter(is_one).count()
}

#[test]
fn programs_of_one_host_meet_over_unix_sockets_unless_told_not_to() {
    let cluster = Cluster::start().expect("a cluster");
    let master = format!("@rfs-master-{}", cluster.status().expect("status")["cluster"].as_str().expect("its id"));
    let other = cluster.mount_with(&["-o", "nolocal"]).expect("a mount that uses TCP");
    fs::write(other.path().join("file"), b"bytes").expect("written");
    assert_eq!(connections_to(&master), 0);
    let mount = cluster.mount().expect("a mount");
    fs::write(mount.path().join("another"), b"more bytes").expect("written");
    assert_eq!(fs::read(mount.path().join("file")).expect("read"), b"bytes");
    assert!(connections_to(&master) > 0, "{}", fs::read_to_string("/proc/net/unix").expect("the list"));
    assert!(connections_to("@rfs-chunkserver-") > 0);
}
