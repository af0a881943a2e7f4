//! Chunk files damaged under a running chunkserver, of which nobody reads: the scrub finds each, and the cluster heals.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rfs_tests::cluster::{Cluster, IN_TIME, Shape};
use rfs_tests::programs::program;

const FILES: usize = 6;
const BYTES: usize = 3 << 20;
const GOAL: usize = 2;
/// Where a chunk file's data begins (docs/formats/chunk.md).
const DATA_AT: u64 = 147_456;

fn content(number: usize) -> Vec<u8> {
    (0..BYTES).map(|at| (at / 7 % 251 + number) as u8).collect()
}

fn shape() -> Shape {
    // A round every four seconds, begun as soon as the copies are at rest.
    let settings = ["scrub_period=4s", "scrub_rate_max=1GiB", "close_after=200ms"];
    Shape { chunkserver_settings: settings.map(str::to_owned).to_vec(), ..Shape::default() }
}

/// Damages the first five of these files, each in its own way; the fifth by putting the sixth in its place.
fn damage(files: &[PathBuf]) {
    let open = |path: &Path| OpenOptions::new().read(true).write(true).open(path).expect("opened");
    let flipped = open(&files[0]);
    let mut byte = [0];
    flipped.read_exact_at(&mut byte, DATA_AT + 1_000_000).expect("read");
    flipped.write_all_at(&[byte[0] ^ 4], DATA_AT + 1_000_000).expect("written");
    open(&files[1]).set_len(DATA_AT + 500_000).expect("cut");
    open(&files[2]).write_all_at(&vec![0; DATA_AT as usize + BYTES], 0).expect("zeroed");
    fs::remove_file(&files[3]).expect("removed");
    fs::copy(&files[5], &files[4]).expect("replaced");
}

fn found(cluster: &Cluster) -> u64 {
    let volumes = cluster.rfs_json(&["volumes"]).expect("volumes");
    volumes.as_array().expect("a list").iter().filter_map(|volume| volume["scrub"]["found"].as_u64()).sum()
}

#[test]
fn what_rots_unread_is_found_and_healed() {
    let mut cluster = Cluster::start_shaped(shape()).expect("a cluster");
    let mount = cluster.mount().expect("a mount");
    for number in 0..FILES {
        fs::write(mount.path().join(format!("{number}")), content(number)).expect("written");
    }
    mount.unmount().expect("unmounted");
    cluster.wait_until_fully_replicated().expect("two copies");
    let victim = (0..3).max_by_key(|index| cluster.chunk_files(*index).len()).expect("three");
    // Copies go by chance: more files until one server has six.
    let mount = cluster.mount().expect("a mount");
    let mut written = FILES;
    while cluster.chunk_files(victim).len() < FILES {
        fs::write(mount.path().join(format!("{written}")), content(written)).expect("written");
        written += 1;
    }
    cluster.wait_until_fully_replicated().expect("two copies");
    let at_rest = || {
        let volumes = cluster.rfs_json(&["volumes"]).expect("volumes");
        let done = |volume: &serde_json::Value| volume["scrub"]["chunks"] == volume["chunks"];
        volumes.as_array().expect("a list").iter().all(done)
    };
    assert!(cluster.wait(IN_TIME, at_rest), "no round of scrubbing covers all chunks");
    assert_eq!(found(&cluster), 0, "found before anything was damaged");

    let files = cluster.chunk_files(victim);
    damage(&files);
    let damaged: Vec<Option<Vec<u8>>> = files[..5].iter().map(|file| fs::read(file).ok()).collect();
    let stop = AtomicBool::new(false);
    let healed = std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut rounds = 0;
            while !stop.load(Ordering::Relaxed) {
                let reading = cluster.mount().expect("a mount without caches");
                for number in 0..written {
                    let read = fs::read(reading.path().join(format!("{number}"))).expect("read");
                    assert!(read == content(number), "wrong bytes were read from file {number}");
                }
                reading.unmount().expect("unmounted");
                rounds += 1;
            }
            rounds
        });
        let copies = || (0..3).map(|index| cluster.chunk_files(index).len()).sum::<usize>();
        let replaced =
            || files.iter().zip(&damaged).all(|(file, bytes)| bytes.is_none() || fs::read(file).ok() != *bytes);
        let healed = cluster.wait(2 * IN_TIME, || replaced() && copies() == GOAL * written);
        stop.store(true, Ordering::Relaxed);
        assert!(reader.join().expect("the reader") > 0);
        healed
    });
    assert!(healed, "found {} bad copies, and not all were replaced", found(&cluster));
    cluster
        .wait_for_status(IN_TIME, "healed", |status| status["fully_replicated"] == true && status["health"] == "ok")
        .expect("healed");
    mount.unmount().expect("unmounted");
    for index in 0..3 {
        cluster.stop_chunkserver(index).expect("stopped");
        let verified = Command::new(program("chunkserver"))
            .arg("verify")
            .arg(cluster.chunkserver_folder(index))
            .output()
            .expect("chunkserver verify");
        assert!(verified.status.success(), "a bad copy is left: {}", String::from_utf8_lossy(&verified.stdout));
    }
}

/// The same without any reader: nothing but the scrub can find it.
#[test]
fn the_scrub_finds_rot_alone() {
    let cluster = Cluster::start_shaped(shape()).expect("a cluster");
    let mount = cluster.mount().expect("a mount");
    fs::write(mount.path().join("file"), content(0)).expect("written");
    mount.unmount().expect("unmounted");
    cluster.wait_until_fully_replicated().expect("two copies");
    let victim = (0..3).find(|index| !cluster.chunk_files(*index).is_empty()).expect("a copy");
    let file = cluster.chunk_files(victim)[0].clone();
    let before = fs::metadata(&file).expect("stat").len();
    assert!(before > DATA_AT);
    std::thread::sleep(Duration::from_secs(1));
    let rotten = OpenOptions::new().write(true).open(&file).expect("opened");
    rotten.write_all_at(&[0xff; 64], before - 100).expect("written");
    let damaged = fs::read(&file).expect("read");
    assert!(cluster.wait(IN_TIME, || found(&cluster) > 0), "the scrub did not find it");
    let replaced = || fs::read(&file).ok().as_ref() != Some(&damaged);
    assert!(cluster.wait(IN_TIME, replaced), "the rotten copy is still there");
    cluster
        .wait_for_status(IN_TIME, "healed", |status| status["fully_replicated"] == true && status["health"] == "ok")
        .expect("healed");
}
