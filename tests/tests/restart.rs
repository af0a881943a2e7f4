//! Everything stops and starts again, cleanly or by a power cut of everything at once: what was promised is there.

use std::fs;
use std::io::{ErrorKind, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::Duration;

use rfs_tests::cluster::{Cluster, Shape, Storage};
use rfs_tests::workload;

const SEED: u64 = 7;

#[test]
fn everything_is_there_after_a_restart_of_all_daemons() {
    let mut cluster = Cluster::start().expect("a cluster");
    let mount = cluster.mount().expect("a mount");
    for number in 0..200 {
        workload::write(mount.path(), SEED, number, false).expect("written");
    }
    mount.unmount().expect("unmounted");
    for index in 0..3 {
        assert!(cluster.stop_chunkserver(index).expect("stopped").success());
    }
    assert!(cluster.stop_master().expect("stopped").success());
    let before = cluster.now();
    cluster.start_everything().expect("started again");
    let took = cluster.now().since(before);
    assert!(took < Duration::from_secs(10), "all volumes in service after {took:?}");
    let mount = cluster.mount().expect("mounted again");
    for number in 0..200 {
        workload::verify(mount.path(), SEED, number).expect("as it was");
    }
    cluster.wait_until_fully_replicated().expect("nothing lacks copies");
}

#[test]
fn the_mount_outlives_a_restart_of_all_daemons() {
    let mut cluster = Cluster::start().expect("a cluster");
    let mount = cluster.mount().expect("a mount");
    workload::write(mount.path(), SEED, 1, false).expect("written");
    let open = fs::File::open(workload::path(mount.path(), 1)).expect("open");
    for index in 0..3 {
        cluster.stop_chunkserver(index).expect("stopped");
    }
    cluster.stop_master().expect("stopped");
    cluster.start_everything().expect("started again");
    workload::verify(mount.path(), SEED, 1).expect("read");
    assert!(open.metadata().is_ok());
    drop(open);
    workload::write(mount.path(), SEED, 2, true).expect("written");
    workload::verify(mount.path(), SEED, 2).expect("read");
    mount.unmount().expect("unmounted");
}

#[test]
fn every_connection_is_of_use_after_a_session_was_lost() {
    const THREADS: usize = 16;
    // Nothing is on the master's disk but what somebody waited for.
    let master_settings = ["log_flush_interval=1h", "log_unsynced_max=1h"].map(str::to_owned).to_vec();
    let storage = Storage::Xfs { master_bytes: 1 << 30, chunkserver_bytes: 1 << 30, disks_may_fail: false };
    let shape = Shape { storage, master_settings, ..Shape::default() };
    let mut cluster = Cluster::start_shaped(shape).expect("a cluster");
    let mount = cluster.mount().expect("a mount");
    // Recalls and flushing have connections of their own, over which nothing goes but changes.
    let write_files = |round: u8| {
        let together = std::sync::Barrier::new(THREADS);
        let write = &|thread: usize| {
            together.wait();
            for number in 0..5 {
                let path = mount.path().join(format!("{thread}.{number}"));
                let mut file = fs::OpenOptions::new().create(true).append(true).open(path).expect("opened");
                file.write_all(&[round; 10_000]).expect("written");
                file.sync_all().expect("a commit in the session that is there now");
            }
        };
        std::thread::scope(|scope| (0..THREADS).for_each(|thread| drop(scope.spawn(move || write(thread)))));
    };
    write_files(0);
    write_files(1);
    fs::write(mount.path().join("lost"), b"of this the master knows nothing later").expect("written");
    cluster.volume(None).cut_power().expect("power cut");
    cluster.kill_master();
    cluster.volume(None).unmount().expect("unmounted");
    cluster.volume(None).mount().expect("mounted again");
    cluster.start_master().expect("started again");
    let began = || cluster.master_log().expect("a log").matches(" began: ").count() >= 2;
    assert!(cluster.wait(Duration::from_secs(30), began), "no new session");
    cluster.wait_for_volumes(3).expect("back");
    write_files(2);
    mount.unmount().expect("unmounted");
}

#[test]
fn what_was_fsynced_survives_a_power_cut_of_everything() {
    const FILES: usize = 150;
    let storage = Storage::Xfs { master_bytes: 1 << 30, chunkserver_bytes: 1 << 30, disks_may_fail: false };
    let mut cluster = Cluster::start_shaped(Shape { storage, ..Shape::default() }).expect("a cluster");
    for round in 0..2 {
        let mount = cluster.mount().expect("a mount");
        let root = mount.path().join(format!("round{round}"));
        fs::create_dir(&root).expect("mkdir");
        for number in 0..FILES {
            workload::write(&root, SEED + round, number, number % 3 != 2).expect("written");
        }
        let overwritten = workload::path(&root, 0);
        fs::write(&overwritten, b"a second content, fsynced").expect("written");
        fs::File::open(&overwritten).expect("open").sync_all().expect("fsync");
        fs::File::open(&root).expect("open").sync_all().expect("fsync of the folder");
        fs::File::open(mount.path()).expect("open").sync_all().expect("fsync of the root");
        for daemon in [None, Some(0), Some(1), Some(2)] {
            cluster.volume(daemon).cut_power().expect("power cut");
        }
        cluster.kill_master();
        (0..3).for_each(|index| cluster.kill_chunkserver(index));
        mount.kill();
        for daemon in [None, Some(0), Some(1), Some(2)] {
            cluster.volume(daemon).unmount().expect("unmounted");
            cluster.volume(daemon).mount().expect("mounted again");
        }
        cluster.start_everything().expect("started again");
        let mount = cluster.mount().expect("mounted again");
        let root = mount.path().join(format!("round{round}"));
        assert_eq!(fs::read(workload::path(&root, 0)).expect("read"), b"a second content, fsynced");
        let lost: Vec<String> = (1..FILES)
            .filter(|number| number % 3 != 2)
            .filter_map(|number| workload::verify(&root, SEED + round, number).err().map(|error| format!("{error:#}")))
            .collect();
        assert!(lost.is_empty(), "{} of the fsynced files are lost: {lost:#?}", lost.len());
        // What was not fsynced may be there or not, but what there is of it can be read, and is nobody else's.
        let left: Vec<String> = (0..FILES)
            .filter(|number| number % 3 == 2)
            .filter_map(|number| unsynced_file_is_wrong(&root, SEED + round, number))
            .collect();
        assert!(left.is_empty(), "{} files that were not fsynced are wrong: {left:#?}", left.len());
        mount.unmount().expect("unmounted");
        cluster.wait_until_fully_replicated().expect("well again");
    }
}

/// What is wrong with a file that was not fsynced before a power cut: it may be missing, shorter, or have zeros.
fn unsynced_file_is_wrong(root: &Path, seed: u64, number: usize) -> Option<String> {
    let written = workload::content(seed, number);
    match fs::read(workload::path(root, number)) {
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => Some(format!("file {number} cannot be read: {error}")),
        Ok(bytes) if bytes.len() > written.len() => Some(format!("file {number} has become longer")),
        Ok(bytes) => {
            let other = bytes.iter().zip(&written).position(|(byte, written)| *byte != *written && *byte != 0);
            other.map(|at| format!("byte {at} of file {number} was never written"))
        }
    }
}

#[test]
fn an_fsync_after_a_power_cut_of_all_chunkservers_tells_of_the_loss_once() {
    const SYNCED: usize = 3 << 20;
    const UNSYNCED: usize = 2 << 20;
    let storage = Storage::Xfs { master_bytes: 1 << 30, chunkserver_bytes: 1 << 30, disks_may_fail: false };
    let mut cluster = Cluster::start_shaped(Shape { storage, ..Shape::default() }).expect("a cluster");
    let mount = cluster.mount().expect("a mount");
    // The one is still being written at the power cut, the other one was closed, and so committed without a sync.
    let paths = [mount.path().join("open"), mount.path().join("closed")];
    let mut files: Vec<fs::File> = paths.iter().map(|path| fs::File::create(path).expect("created")).collect();
    for file in &mut files {
        file.write_all(&vec![b'1'; SYNCED]).expect("written");
        file.sync_all().expect("fsync");
    }
    for file in &mut files {
        file.write_all(&vec![b'2'; UNSYNCED]).expect("written");
    }
    // Time for the bytes to reach the copies, and not for the chunks to be closed.
    std::thread::sleep(Duration::from_secs(1));
    drop(files.pop());
    let reopened = fs::OpenOptions::new().write(true).open(&paths[1]).expect("open");
    files.push(reopened);
    for index in 0..3 {
        cluster.volume(Some(index)).cut_power().expect("power cut");
        cluster.kill_chunkserver(index);
    }
    for index in 0..3 {
        cluster.volume(Some(index)).unmount().expect("unmounted");
        cluster.volume(Some(index)).mount().expect("mounted again");
        cluster.start_chunkserver(index).expect("started again");
    }
    cluster.wait_for_volumes(3).expect("back");
    for (file, path) in files.iter().zip(&paths) {
        let first = file.sync_all();
        assert!(first.is_err(), "{}: fsync says that lost bytes are safe", path.display());
        file.sync_all().unwrap_or_else(|error| panic!("{}: it was told once already: {error}", path.display()));
        let bytes = fs::read(path).expect("read");
        assert!(bytes[..SYNCED].iter().all(|byte| *byte == b'1'), "{}: fsynced bytes are lost", path.display());
    }
    // And both take writes as before.
    for (file, path) in files.iter_mut().zip(&paths) {
        file.seek(SeekFrom::Start(SYNCED as u64)).expect("seek");
        file.write_all(&vec![b'3'; UNSYNCED]).expect("written");
        file.sync_all().expect("fsync");
        assert!(fs::read(path).expect("read")[SYNCED..].iter().all(|byte| *byte == b'3'));
    }
    drop(files);
    mount.unmount().expect("unmounted");
    cluster.wait_until_fully_replicated().expect("well again");
}
