//! A volume that its storage brings back as an older image of itself (a snapshot of the LUN restored, an old clone attached) is not
//! believed: chunk versions do not count writes, so its copies may have older bytes under the version that is current.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use rfs_tests::cluster::{Cluster, IN_TIME, SOON, Shape};
use rfs_tests::programs::run;

const BYTES: usize = 300_000;

fn epoch(folder: &Path) -> u64 {
    let text = fs::read_to_string(folder.join("epoch.toml")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("epoch = "));
    line.and_then(|number| number.trim().parse().ok()).unwrap_or(0)
}

/// What the storage would have made a snapshot of; the volume is in use.
fn image_of(volume: &Path) -> PathBuf {
    let image = volume.with_extension("image");
    run(Command::new("cp").arg("-a").arg(volume).arg(&image)).expect("copied");
    image
}

fn restore(image: &Path, volume: &Path) {
    fs::remove_dir_all(volume).expect("the volume is gone");
    fs::rename(image, volume).expect("and its image in its place");
}

fn write_all(file: &File, byte: u8) {
    file.write_all_at(&vec![byte; BYTES], 0).expect("written");
    file.sync_all().expect("fsync");
}

fn reads_as(path: &Path, byte: u8) {
    let content = fs::read(path).expect("read");
    assert!(
        content.len() == BYTES && content.iter().all(|have| *have == byte),
        "{} bytes, the first {:?}, not {byte}",
        content.len(),
        content.first()
    );
}

fn events(cluster: &Cluster) -> String {
    let output = cluster.rfs(&["events", "--limit", "1000"]).output().expect("rfs events");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The chunkserver tells with its next heartbeat what it has stored, and the master notes it within a second.
const UNTIL_IT_IS_ON_RECORD: Duration = Duration::from_secs(3);

/// The volume in this folder is at a later epoch than it was, and the master knows.
fn wait_for_epoch(cluster: &Cluster, folder: &Path, than: u64) {
    assert!(cluster.wait(SOON, || epoch(folder) > than), "it is still at {than}");
    sleep(UNTIL_IT_IS_ON_RECORD);
}

#[test]
fn an_older_image_of_a_volume_is_compared_before_it_is_used() {
    let shape = Shape { chunkservers: 2, ..Shape::default() };
    let mut cluster = Cluster::start_shaped(shape).expect("a cluster");
    let mount = cluster.mount().expect("a mount");
    let folder = cluster.chunkserver_folder(1).to_owned();
    for name in ["same", "other"] {
        fs::write(mount.path().join(name), vec![b'1'; BYTES]).expect("written");
        File::open(mount.path().join(name)).and_then(|file| file.sync_all()).expect("fsync");
    }
    // One writer under one grant: its writes do not raise the version.
    let file = OpenOptions::new().write(true).open(mount.path().join("other")).expect("open");
    write_all(&file, b'2');
    let before = epoch(&folder);
    wait_for_epoch(&cluster, &folder, before);
    let image = image_of(&folder);
    write_all(&file, b'3');
    wait_for_epoch(&cluster, &folder, epoch(&image));
    drop(file);
    // This one goes on knowing where the copies are.
    let reader = cluster.mount().expect("a mount");
    reads_as(&reader.path().join("other"), b'3');

    cluster.kill_chunkserver(1);
    restore(&image, &folder);
    // However often it is started while nobody looks.
    cluster.kill_master();
    for _ in 0..3 {
        cluster.start_chunkserver(1).expect("started");
        cluster.kill_chunkserver(1);
    }
    cluster.start_master().expect("the master again");
    cluster.start_chunkserver(1).expect("started");
    for _ in 0..20 {
        run(Command::new("sh").args(["-c", "echo 3 > /proc/sys/vm/drop_caches"])).expect("caches dropped");
        reads_as(&reader.path().join("other"), b'3');
        let fresh = cluster.mount().expect("a mount");
        reads_as(&fresh.path().join("other"), b'3');
        reads_as(&fresh.path().join("same"), b'1');
        fresh.unmount().expect("unmounted");
    }
    cluster
        .wait_for_status(IN_TIME, "all well", |status| status["fully_replicated"] == true && status["health"] == "ok")
        .expect("what differs is made anew");
    let told = events(&cluster);
    assert!(told.contains("is an older image of itself"), "{told}");
    assert!(cluster.wait(SOON, || events(&cluster).contains("is in full use again")), "{}", events(&cluster));
    // Its copies are those of now, and are used.
    drop((mount, reader));
    cluster.kill_chunkserver(0);
    let fresh = cluster.mount().expect("a mount");
    reads_as(&fresh.path().join("other"), b'3');
    reads_as(&fresh.path().join("same"), b'1');
}

#[test]
fn the_only_copies_are_used_though_they_are_older_and_that_is_said() {
    let shape = Shape { chunkservers: 1, goal: 1, ..Shape::default() };
    let mut cluster = Cluster::start_shaped(shape).expect("a cluster");
    let mount = cluster.mount().expect("a mount");
    let folder = cluster.chunkserver_folder(0).to_owned();
    let file = File::create(mount.path().join("file")).expect("made");
    write_all(&file, b'1');
    let before = epoch(&folder);
    wait_for_epoch(&cluster, &folder, before);
    let image = image_of(&folder);
    write_all(&file, b'2');
    wait_for_epoch(&cluster, &folder, epoch(&image));
    drop(file);
    mount.unmount().expect("unmounted");
    cluster.stop_chunkserver(0).expect("stopped");
    restore(&image, &folder);
    cluster.start_chunkserver(0).expect("started");
    let mount = cluster.mount().expect("a mount");
    reads_as(&mount.path().join("file"), b'1');
    cluster
        .wait_for_status(IN_TIME, "a note", |status| {
            let notes = status["notes"].as_array().cloned().unwrap_or_default();
            status["health"] == "ok" && notes.iter().any(|note| note.to_string().contains("had no other"))
        })
        .expect("the status says what happened");
    let told = || events(&cluster).contains("1 had no others and are used as they are");
    assert!(cluster.wait(SOON, told), "{}", events(&cluster));
}
