//! Chunk files damaged on disk behind the chunkserver's back: reads stay right, the damage is reported, and the copy is
//! replaced from a good one.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rfs_tests::cluster::{Cluster, IN_TIME, SOON, Shape};
use rfs_tests::programs::{program, run};

/// Longer than one leaf table's first part, so that both parts of it are used.
const BYTES: usize = 5 << 20;

/// Readers until one of them has certainly come upon the damage.
const READERS_MAX: usize = 20;
/// How long the replacement of a copy that a reader found bad is waited for before the next one reads.
const NOTICED: Duration = Duration::from_millis(500);

fn content() -> Vec<u8> {
    (0..BYTES).map(|at| (at / 7 % 251) as u8).collect()
}

fn verify(volume: &Path) -> std::process::Output {
    Command::new(program("chunkserver")).arg("verify").arg(volume).output().expect("chunkserver verify")
}

fn damaged_copies_are_healed(damage: impl Fn(&Path)) {
    let mut cluster = Cluster::start().expect("a cluster");
    let mount = cluster.mount().expect("a mount");
    fs::write(mount.path().join("file"), content()).expect("written");
    mount.unmount().expect("unmounted");
    cluster.wait_until_fully_replicated().expect("two copies");
    let victim = (0..3).find(|index| !cluster.chunk_files(*index).is_empty()).expect("a copy");
    cluster.stop_chunkserver(victim).expect("stopped");
    assert!(verify(cluster.chunkserver_folder(victim)).status.success(), "good before");
    for file in cluster.chunk_files(victim) {
        damage(&file);
    }
    let damaged: Vec<_> =
        cluster.chunk_files(victim).into_iter().map(|file| (file.clone(), fs::read(&file).expect("read"))).collect();
    let after = verify(cluster.chunkserver_folder(victim));
    let said = String::from_utf8_lossy(&after.stdout).into_owned() + &String::from_utf8_lossy(&after.stderr);
    assert_eq!(after.status.code(), Some(1), "chunkserver verify finds it: {said}");
    cluster.start_chunkserver(victim).expect("started again");
    cluster.wait_for_volumes(3).expect("back");
    // Whichever copy a client happens to choose, what it reads is right. They choose differently, so that one of them
    // comes upon the damage if the chunkserver has not.
    let gone = || damaged.iter().all(|(file, bytes)| fs::read(file).ok().as_ref() != Some(bytes));
    for _ in 0..READERS_MAX {
        let mount = cluster.mount().expect("a mount without caches");
        assert!(fs::read(mount.path().join("file")).expect("read") == content(), "wrong bytes were read");
        mount.unmount().expect("unmounted");
        if cluster.wait(NOTICED, gone) {
            break;
        }
    }
    assert!(cluster.wait(IN_TIME, gone), "the damaged file is neither replaced nor deleted");
    cluster
        .wait_for_status(IN_TIME, "healed", |status| status["fully_replicated"] == true && status["health"] == "ok")
        .expect("healed");
    // A volume that is served cannot be verified.
    for index in 0..3 {
        cluster.stop_chunkserver(index).expect("stopped");
        let output = verify(cluster.chunkserver_folder(index));
        assert!(output.status.success(), "a bad copy is left: {}", String::from_utf8_lossy(&output.stdout));
    }
}

fn change(path: &Path, offset: u64) {
    let file = OpenOptions::new().read(true).write(true).open(path).expect("open");
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).expect("read");
    file.write_all_at(&[byte[0] ^ 0x40], offset).expect("written");
}

#[test]
fn a_flipped_bit_in_the_data() {
    damaged_copies_are_healed(|file| {
        let length = fs::metadata(file).expect("stat").len();
        change(file, length - 1_000_000);
    });
}

#[test]
fn a_flipped_bit_in_the_header() {
    damaged_copies_are_healed(|file| change(file, 20));
}

#[test]
fn a_file_cut_short() {
    damaged_copies_are_healed(|file| {
        let file = OpenOptions::new().write(true).open(file).expect("open");
        let length = file.metadata().expect("stat").len();
        file.set_len(length - 100_000).expect("cut");
    });
}

#[test]
fn the_last_copy_of_a_file_being_bad_is_said_with_its_name_and_what_to_do() {
    let cluster = Cluster::start_shaped(Shape { chunkservers: 2, goal: 1, ..Shape::default() }).expect("a cluster");
    let mount = cluster.mount().expect("a mount");
    fs::write(mount.path().join("file"), content()).expect("written");
    mount.unmount().expect("unmounted");
    let holder = (0..2).find(|index| !cluster.chunk_files(*index).is_empty()).expect("a copy");
    let closed = cluster.wait(SOON, || {
        let header = fs::read(&cluster.chunk_files(holder)[0]).expect("read");
        header[12] & 1 == 0
    });
    assert!(closed, "the chunk is at rest");
    let file = &cluster.chunk_files(holder)[0];
    change(file, fs::metadata(file).expect("stat").len() - 1_000_000);
    run(Command::new("sh").args(["-c", "sync; echo 3 > /proc/sys/vm/drop_caches"])).expect("caches dropped");
    let mount = cluster.mount_with(&["-o", "chunk_timeout=2s"]).expect("a mount");
    assert!(fs::read(mount.path().join("file")).is_err(), "wrong bytes were read");
    cluster.wait_for_status(IN_TIME, "it is known", |status| status["health"] == "unavailable").expect("the status");
    let status = cluster.rfs_json(&["status"]).expect("status");
    let listed = &status["affected"]["files"][0];
    let why = listed["why"].as_str().unwrap_or_default();
    assert!(
        listed["path"] == "/file" && why.contains("none of them is whole") && why.contains("restore it"),
        "{status:#}"
    );
    let mut start = vec![0; 1 << 20];
    let open = fs::File::open(mount.path().join("file")).expect("open");
    open.read_exact_at(&mut start, 0).expect("what is whole can be read");
    assert!(start[..] == content()[..1 << 20]);
}
