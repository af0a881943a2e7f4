//! `rfs mounts` says what a mount waits for, also while the master is away and every call of a program hangs.

use std::process::{Child, Command, Stdio};

use rfs_tests::cluster::{Cluster, Mount, SOON};
use serde_json::Value;

/// What this mount tells of itself.
fn standing(cluster: &Cluster, mount: &Mount) -> Value {
    let mounts = cluster.rfs_json(&["mounts"]).expect("rfs mounts");
    let ours = |entry: &&Value| entry["mount_point"] == mount.path().display().to_string();
    mounts.as_array().expect("a list").iter().find(ours).expect("this mount").clone()["standing"].clone()
}

fn start(program: &str, arguments: &[&str]) -> Child {
    let mut command = Command::new(program);
    command.args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("started")
}

#[test]
fn a_call_that_waits_for_the_master_is_told() {
    let mut cluster = Cluster::start().expect("a cluster");
    let mount = cluster.mount().expect("a mount");
    let before = standing(&cluster, &mount);
    assert_eq!((&before["connected"], &before["under_way"]), (&true.into(), &Value::Array(Vec::new())), "{before}");
    assert_eq!(before["process"], mount.process_id(), "{before}");

    cluster.kill_master();
    let mut program = start("ls", &[&mount.path().join("unknown").display().to_string()]);
    let thread = program.id();
    let waits = || {
        let now = standing(&cluster, &mount);
        let under_way = now["under_way"].as_array().expect("a list").clone();
        let is_it = |request: &Value| request["thread"] == thread && request["waiting_ms"].as_u64() > Some(1000);
        now["connected"] == false && under_way.iter().any(is_it)
    };
    assert!(cluster.wait(SOON, waits), "{}", standing(&cluster, &mount));
    let said = cluster.rfs(&["mounts"]).output().expect("rfs mounts").stdout;
    let said = String::from_utf8_lossy(&said);
    assert!(said.contains("without its master for") && said.contains(&format!("by ls ({thread}) takes")), "{said}");

    cluster.start_master().expect("a master");
    program.wait().expect("it ends");
    let after = standing(&cluster, &mount);
    assert_eq!((&after["connected"], &after["counts"]["reclaims"]), (&true.into(), &1.into()), "{after}");
    mount.unmount().expect("unmounted");
}

#[test]
fn a_chunk_without_copies_that_can_be_read_is_told() {
    let mut cluster = Cluster::start().expect("a cluster");
    let mount = cluster.mount().expect("a mount");
    let file = mount.path().join("file");
    std::fs::write(&file, vec![7; 100_000]).expect("written");
    let inode = std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(&file).expect("its attributes"));
    mount.unmount().expect("unmounted");
    let mount = cluster.mount().expect("a mount that has nothing in its cache");
    let file = mount.path().join("file");
    (0..cluster.chunkserver_count()).for_each(|index| cluster.kill_chunkserver(index));

    let mut program = start("cat", &[&file.display().to_string()]);
    let waits = || standing(&cluster, &mount)["chunk_waits"][0]["inode"] == inode;
    assert!(cluster.wait(SOON, waits), "{}", standing(&cluster, &mount));
    for index in 0..cluster.chunkserver_count() {
        cluster.start_chunkserver(index).expect("a chunkserver");
    }
    assert!(program.wait().expect("it ends").success(), "it was read in the end");
    assert_eq!(standing(&cluster, &mount)["chunk_waits"], Value::Array(Vec::new()));
    mount.unmount().expect("unmounted");
}
