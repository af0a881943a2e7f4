//! Bytes that are gone for good read as an error and are listed: never as zeros that look well.
//!
//! A chunk that nobody synced, and that a power cut took from every volume, is begun anew with zeros, for nothing was promised of
//! it (docs/decisions/what-a-power-cut-leaves.md). What an administrator gave up, or what was removed after the export that a
//! master was restored from, must not be taken for that.

use std::fs;
use std::path::Path;
use std::process::Command;

use rfs_common::errno::Errno;
use rfs_tests::cluster::{Cluster, Mount, SOON, Shape};
use rfs_tests::programs::{program, run};
use serde_json::Value;

const FILES: usize = 4;
/// A mount that does not wait long for copies that never come.
const IMPATIENT: [&str; 2] = ["-o", "chunk_timeout=2s"];

fn content(number: usize) -> Vec<u8> {
    vec![number as u8 + 1; 100_000]
}

/// As `cp` does it: nobody calls fsync.
fn write(folder: &Path, number: usize) {
    fs::write(folder.join(format!("file{number}")), content(number)).expect("written");
}

/// Until each volume has some of them; how many there are.
fn write_to_all_volumes(cluster: &Cluster, folder: &Path) -> usize {
    for number in 0..60 {
        write(folder, number);
        if number > 5 && (0..3).all(|index| !cluster.chunk_files(index).is_empty()) {
            return number + 1;
        }
    }
    panic!("60 files of goal 1 are not on all volumes");
}

/// Has the killed chunkserver's volume say at its next start that its power was cut: its mark is of another boot.
fn pretend_a_power_cut(cluster: &Cluster, index: usize) {
    let mark = cluster.chunkserver_folder(index).join("running.toml");
    let text = fs::read_to_string(&mark).expect("the mark of a volume in use");
    assert!(text.contains("clean = false"), "{text}");
    let other: Vec<&str> =
        text.lines().map(|line| if line.starts_with("boot") { "boot = \"another\"" } else { line }).collect();
    fs::write(&mark, other.join("\n")).expect("written");
}

/// Which of the files are whole; the others have to give EIO. All at once, since each waits for copies that never come.
fn readable(mount: &Mount, numbers: std::ops::Range<usize>) -> Vec<usize> {
    let read = |number: usize| match fs::read(mount.path().join(format!("file{number}"))) {
        Ok(bytes) => {
            assert!(bytes == content(number), "file{number} reads as {:?}...", &bytes[..bytes.len().min(8)]);
            Some(number)
        }
        Err(error) => {
            assert_eq!(Errno::from_io(&error), Errno::EIO, "file{number}: {error}");
            None
        }
    };
    std::thread::scope(|scope| {
        let readers: Vec<_> = numbers.map(|number| scope.spawn(move || read(number))).collect();
        readers.into_iter().filter_map(|reader| reader.join().expect("whole, or EIO")).collect()
    })
}

fn listed(cluster: &Cluster) -> Vec<String> {
    let status = cluster.rfs_json(&["status"]).expect("status");
    assert_eq!(status["health"], "unavailable", "{status:#}");
    let files = status["affected"]["files"].as_array().cloned().unwrap_or_default();
    let mut paths: Vec<String> = files
        .iter()
        .filter(|file| file["live_copies"] == 0)
        .filter_map(|file| file["path"].as_str().map(str::to_owned))
        .collect();
    paths.sort();
    paths
}

/// Ids of the chunkservers that are away.
fn away(cluster: &Cluster) -> Vec<String> {
    let servers = cluster.rfs_json(&["servers"]).expect("servers");
    let servers = servers.as_array().expect("a list");
    let id = |server: &Value| server["server"].as_str().expect("an id").to_owned();
    servers.iter().filter(|server| server["connected"] == false).map(id).collect()
}

fn forget_those_away_and_expect_errors(cluster: &mut Cluster, master_restarts: bool) {
    let mount = cluster.mount_with(&IMPATIENT).expect("a mount");
    let files = write_to_all_volumes(cluster, mount.path());
    mount.unmount().expect("unmounted");
    (0..3).for_each(|index| cluster.kill_chunkserver(index));
    if master_restarts {
        // Where copies were is in no record: this master hears it from nobody.
        cluster.kill_master();
        cluster.start_master().expect("the master");
    }
    pretend_a_power_cut(cluster, 2);
    cluster.start_chunkserver(2).expect("the last chunkserver");
    cluster.wait_for_volumes(1).expect("in service");
    let lost = away(cluster);
    assert_eq!(lost.len(), 2);
    for server in &lost {
        let refused = cluster.rfs(&["admin", "forget-server", server]).output().expect("run");
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && said.contains("last copies"), "{said}");
        run(&mut cluster.rfs(&["admin", "forget-server", server, "--last-copies"])).expect("forgotten");
    }
    // Long enough for a chunk to be begun anew, if it were.
    let mount = cluster.mount_with(&IMPATIENT).expect("a mount");
    let whole = readable(&mount, 0..files);
    assert_eq!(whole.len(), cluster.chunk_files(2).len(), "what the last volume has can be read, and nothing else");
    let mut gone: Vec<String> =
        (0..files).filter(|number| !whole.contains(number)).map(|number| format!("/file{number}")).collect();
    gone.sort();
    assert_eq!(listed(cluster), gone);
    mount.unmount().expect("unmounted");
}

#[test]
fn what_was_given_up_with_its_chunkservers_is_an_error() {
    let shape = Shape { goal: 1, ..Shape::default() };
    let mut cluster = Cluster::start_shaped(shape).expect("a cluster");
    forget_those_away_and_expect_errors(&mut cluster, false);
}

#[test]
fn what_was_given_up_after_a_restart_of_the_master_is_an_error() {
    let shape = Shape { goal: 1, ..Shape::default() };
    let mut cluster = Cluster::start_shaped(shape).expect("a cluster");
    forget_those_away_and_expect_errors(&mut cluster, true);
}

#[test]
fn what_was_removed_after_the_export_is_an_error_after_its_restore() {
    let mut cluster = Cluster::start().expect("a cluster");
    let mount = cluster.mount().expect("a mount");
    (0..FILES).for_each(|number| write(mount.path(), number));
    let export = cluster.folder().join("export");
    run(&mut cluster.rfs(&["admin", "export", export.to_str().expect("a path")])).expect("export");
    for number in 0..FILES - 2 {
        fs::remove_file(mount.path().join(format!("file{number}"))).expect("removed");
    }
    let left = |cluster: &Cluster| (0..3).map(|index| cluster.chunk_files(index).len()).sum::<usize>();
    assert!(cluster.wait(SOON, || left(&cluster) == 4), "{} copies are left", left(&cluster));
    mount.unmount().expect("unmounted");
    cluster.stop_master().expect("stopped");
    (0..3).for_each(|index| cluster.kill_chunkserver(index));
    let restored = cluster.folder().join("restored");
    run(Command::new(program("mfs-master")).arg("restore").args([&export, &restored])).expect("restored");
    fs::rename(cluster.master_folder(), cluster.folder().join("old")).expect("renamed");
    fs::rename(&restored, cluster.master_folder()).expect("renamed");
    (0..3).for_each(|index| pretend_a_power_cut(&cluster, index));
    cluster.start_everything().expect("started on the restored metadata");
    let mount = cluster.mount_with(&IMPATIENT).expect("a mount");
    assert_eq!(readable(&mount, 0..FILES), [FILES - 2, FILES - 1]);
    let removed: Vec<String> = (0..FILES - 2).map(|number| format!("/file{number}")).collect();
    assert_eq!(listed(&cluster), removed);
    mount.unmount().expect("unmounted");
}
