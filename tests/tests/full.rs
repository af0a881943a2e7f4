//! A full cluster: `write` says so, also to programs that look at neither fsync nor close, and what was lost never stays as zeros.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::Path;

use rfs_common::errno::Errno;
use rfs_tests::cluster::{Cluster, IN_TIME, SOON, Shape, Storage};

const MIB: usize = 1 << 20;
const VOLUME_BYTES: u64 = 400 << 20;

fn piece(number: usize) -> Vec<u8> {
    vec![number as u8 | 1; MIB]
}

/// Writes pieces until the first error; how many were taken.
fn fill(file: &mut File, limit: usize) -> usize {
    for number in 0..limit {
        if let Err(error) = file.write_all(&piece(number)) {
            assert_eq!(Errno::from_io(&error), Errno::ENOSPC, "{error}");
            return number;
        }
    }
    panic!("{limit} MiB were taken");
}

/// Whether the file is the pieces from the first on, and no byte of it is another.
fn assert_only_what_was_written(path: &Path) -> usize {
    let content = fs::read(path).expect("read");
    for (number, part) in content.chunks(MIB).enumerate() {
        assert!(part.iter().all(|byte| *byte == number as u8 | 1), "piece {number} has bytes that were never written");
    }
    content.len()
}

#[test]
fn write_fails_soon_after_the_cluster_is_full_and_no_zeros_are_left() {
    let storage = Storage::Xfs { master_bytes: VOLUME_BYTES, chunkserver_bytes: VOLUME_BYTES, disks_may_fail: false };
    let cluster = Cluster::start_shaped(Shape { chunkservers: 2, storage, ..Shape::default() }).expect("a cluster");
    let mount = cluster.mount().expect("a mount");
    let (first, second) = (mount.path().join("first"), mount.path().join("second"));
    let mut file = File::create(&first).expect("made");
    let taken = fill(&mut file, 2 * (VOLUME_BYTES >> 20) as usize);
    // From now on it is known, and nobody is promised anything.
    for _ in 0..3 {
        let error = file.write_all(&piece(0)).expect_err("no space");
        assert_eq!(Errno::from_io(&error), Errno::ENOSPC);
    }
    let error = File::create(&second).and_then(|mut file| file.write_all(b"some")).expect_err("no space for others");
    assert_eq!(Errno::from_io(&error), Errno::ENOSPC);
    cluster
        .wait_for_status(SOON, "that it is full", |status| {
            status["summary"].as_str().is_some_and(|line| line.starts_with("The cluster is full"))
        })
        .expect("the status says so");
    // As programs that ignore close do it.
    drop(file);
    let kept = assert_only_what_was_written(&first);
    assert!(kept > 0 && kept <= taken * MIB, "{kept} bytes of {taken} MiB");
    let fresh = cluster.mount().expect("a mount without caches");
    let seen =
        cluster.wait(SOON, || fs::metadata(fresh.path().join("first")).is_ok_and(|seen| seen.len() == kept as u64));
    assert!(seen, "{:?}", fs::metadata(fresh.path().join("first")));
    assert_eq!(assert_only_what_was_written(&fresh.path().join("first")), kept);
    // And it goes on by itself.
    fs::remove_file(&first).expect("removed");
    let goes_on = cluster.wait(IN_TIME, || {
        let file = OpenOptions::new().write(true).create(true).truncate(true).open(&second);
        file.and_then(|mut file| file.write_all(&piece(7)).and_then(|()| file.sync_all())).is_ok()
    });
    assert!(goes_on, "there is space again");
    assert!(fs::read(fresh.path().join("second")).expect("read") == piece(7));
    cluster.wait_for_status(IN_TIME, "all well", |status| status["health"] == "ok").expect("all well");
}
