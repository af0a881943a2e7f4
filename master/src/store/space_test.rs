//! The store on a disk that fills up: a tmpfs of its own, mounted by the test, which needs root.

use std::fs;
use std::process::Command;
use std::time::Duration;

use rfs_common::clock::SystemClock;

use super::space::{OPENING_RESERVE_NAME, RESERVE_NAME};
use super::tests::{CLUSTER, Dice, content, model_after, put};
use super::*;

/// A filesystem that is unmounted with this value.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount(mebibytes: u32) -> SmallDisk {
        let folder = tempfile::tempdir().unwrap();
        let size = format!("size={mebibytes}m");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(folder.path()).status();
        assert!(mounted.is_ok_and(|status| status.success()), "this test mounts a filesystem; run it as root");
        SmallDisk(folder)
    }

    /// Writes a file until nothing is left.
    fn fill(&self) {
        let path = self.0.path().join("filler");
        let mut file = fs::File::options().append(true).create(true).open(path).unwrap();
        while io::Write::write_all(&mut file, &[1; 1 << 16]).is_ok() {}
        while io::Write::write_all(&mut file, &[1; 512]).is_ok() {}
    }

    fn free(&self) {
        fs::remove_file(self.0.path().join("filler")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("-l").arg(self.0.path()).status();
        assert!(unmounted.is_ok_and(|status| status.success()), "the test's filesystem stays mounted");
    }
}

fn defaults() -> StoreOptions {
    StoreOptions { checkpoint_interval: Duration::from_secs(3600), ..StoreOptions::default() }
}

#[test]
fn a_full_disk_refuses_commits_until_there_is_space() {
    let disk = SmallDisk::mount(96);
    let folder = disk.0.path().join("store");
    Store::create(&folder, CLUSTER).unwrap();
    let store = Store::open(&folder, defaults(), SystemClock::shared()).unwrap();
    let seed = 3;
    let mut dice = Dice::new(seed);
    for _ in 0..2000 {
        store.commit(&dice.commit()).unwrap();
    }
    disk.fill();
    let mut commits = 2000;
    let mut next = dice.commit();
    let error = loop {
        match store.commit(&next) {
            Ok(_) => commits += 1,
            Err(error) => break error,
        }
        next = dice.commit();
        assert!(commits < 1_000_000, "the disk is full but commits go on");
    };
    println!("{} commits after the disk was full", commits - 2000);
    assert_eq!(error, CommitError::NoSpace);
    assert_eq!(store.status().state, StoreState::NoSpace);
    assert_eq!(store.commit(&next), Err(CommitError::NoSpace));
    assert_eq!(store.position().get(), commits);
    assert!(content(&store) == model_after(seed, commits), "reads go on");
    store.checkpoint().unwrap();
    disk.free();
    store.commit(&next).unwrap();
    commits += 1;
    assert_eq!(store.status().state, StoreState::Working);
    drop(store);
    let store = Store::open(&folder, defaults(), SystemClock::shared()).unwrap();
    assert!(content(&store) == model_after(seed, commits));
    store.close().unwrap();
}

#[test]
fn a_small_disk_works_for_long_and_recovers_when_full() {
    let disk = SmallDisk::mount(128);
    let folder = disk.0.path().join("store");
    Store::create(&folder, CLUSTER).unwrap();
    let store = Store::open(&folder, defaults(), SystemClock::shared()).unwrap();
    let mut dice = Dice::new(4);
    let value = |number: u64| number.to_le_bytes().repeat(50);
    let mut numbers = std::collections::BTreeMap::new();
    // More log than fits the disk, over 5 MB of records: segments must be dropped all the time.
    for number in 0..250_000_u64 {
        let key = dice.below(12_000);
        store.commit(&[put(Table::Inodes, &key.to_be_bytes(), &value(number))]).unwrap();
        numbers.insert(key, number);
    }
    disk.fill();
    let mut number = 250_000;
    loop {
        let key = dice.below(12_000);
        match store.commit(&[put(Table::Inodes, &key.to_be_bytes(), &value(number))]) {
            Ok(_) => numbers.insert(key, number),
            Err(error) => break assert_eq!(error, CommitError::NoSpace),
        };
        number += 1;
        // A sled that is opened again can give back so much that checkpoints and commits go round for ever.
        if number % 20_000 == 0 {
            disk.fill();
        }
    }
    drop(store);
    // A restart on the full disk reads everything. sled may give some space back when it opens, so it is filled again.
    let store = Store::open(&folder, defaults(), SystemClock::shared()).unwrap();
    for (key, number) in &numbers {
        assert_eq!(store.get(Table::Inodes, &key.to_be_bytes()).unwrap().unwrap(), value(*number));
    }
    disk.fill();
    let mut commits = 0;
    while store.commit(&[put(Table::Chunks, b"x", &value(number))]) != Err(CommitError::NoSpace) {
        // As above: what checkpoints give back is enough for the next ones.
        commits += 1;
        if commits % 20_000 == 0 {
            disk.fill();
        }
    }
    disk.free();
    store.commit(&[put(Table::Inodes, b"x", b"y")]).unwrap();
    store.close().unwrap();
    drop(store);
    assert_eq!(Store::verify(&folder).unwrap(), Verified::default());
}

#[test]
fn large_pages_are_folded_after_their_disk_was_unmounted_beneath() {
    let disk = SmallDisk::mount(96);
    let anchor = anchor::Anchor::of(disk.0.path()).unwrap();
    let folder = anchor.path().join("store");
    Store::create(&folder, CLUSTER).unwrap();
    let store = Store::open(&folder, defaults(), SystemClock::shared()).unwrap();
    assert!(Command::new("umount").arg("-l").arg(disk.0.path()).status().unwrap().success());
    for round in 0..12 {
        store.commit(&[put(Table::Inodes, b"key", &vec![round; 200_000])]).unwrap();
        store.checkpoint().unwrap();
    }
    store.close().unwrap();
    // What unmounts at the end finds something to unmount.
    let mounted = Command::new("mount").args(["-t", "tmpfs", "tmpfs"]).arg(disk.0.path()).status().unwrap();
    assert!(mounted.success());
}

#[test]
fn a_start_that_is_refused_takes_nothing_from_the_next_one() {
    let disk = SmallDisk::mount(96);
    let folder = disk.0.path().join("store");
    Store::create(&folder, CLUSTER).unwrap();
    let store = Store::open(&folder, defaults(), SystemClock::shared()).unwrap();
    store.commit(&[put(Table::Inodes, b"key", b"value")]).unwrap();
    store.close().unwrap();
    drop(store);
    disk.fill();
    let reserves = || [RESERVE_NAME, OPENING_RESERVE_NAME].map(|name| fs::metadata(folder.join(name)).unwrap().len());
    let before = reserves();
    assert!(before.iter().all(|bytes| *bytes > 0));
    let settings = folder.join("pages/conf");
    let whole = fs::read(&settings).unwrap();
    fs::write(&settings, vec![b'x'; whole.len()]).unwrap();
    Store::open(&folder, defaults(), SystemClock::shared()).map(|_| ()).unwrap_err();
    assert_eq!(reserves(), before);
    fs::write(&settings, whole).unwrap();
    let store = Store::open(&folder, defaults(), SystemClock::shared()).unwrap();
    assert_eq!(store.get(Table::Inodes, b"key").unwrap().unwrap()[..], b"value"[..]);
}
