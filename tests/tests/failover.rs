//! How long applications wait when a chunkserver dies in each of its ways: reads go on elsewhere, and so does a write that was
//! under way. All settings are the defaults, each daemon is on a machine of its own, and the figures are printed.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use rfs_common::clock::{Clock as _, SystemClock};
use rfs_tests::cluster::{Cluster, Machines, Mount, Shape};
use rfs_tests::network::{Machine, Silence};

const READ_WITHIN: Duration = Duration::from_secs(2);
const WRITE_WITHIN: Duration = Duration::from_secs(3);
/// The machine is busy with other tests.
const PATIENCE: u32 = 2;
const FILES: usize = 24;
const BYTES: usize = 300_000;
/// Each file has two of three chunkservers.
const WRITERS: usize = 4;
const WRITTEN_FOR: Duration = Duration::from_secs(6);

/// How it dies.
#[derive(Clone, Copy, Debug)]
enum Death {
    Killed,
    Stopped,
    CutOff,
    Mute,
    Deaf,
}

fn content(number: usize) -> Vec<u8> {
    (0..BYTES).map(|at| (at / 7 % 251 + number) as u8).collect()
}

fn path(mount: &Mount, number: usize) -> PathBuf {
    mount.path().join(format!("file{number}"))
}

fn die(cluster: &mut Cluster, index: usize, death: Death) {
    let cut = |silence| cluster.cut_off(Machine::Chunkserver(index), silence).expect("cut off");
    match death {
        Death::Killed => cluster.kill_chunkserver(index),
        Death::Stopped => cluster.pause_chunkserver(index),
        Death::CutOff => cut(Silence::BothWays),
        Death::Mute => cut(Silence::Outgoing),
        Death::Deaf => cut(Silence::Incoming),
    }
}

fn come_back(cluster: &mut Cluster, index: usize, death: Death) {
    match death {
        Death::Killed => cluster.start_chunkserver(index).expect("started"),
        Death::Stopped => cluster.resume_chunkserver(index),
        _ => cluster.connect_again(Machine::Chunkserver(index)).expect("connected again"),
    }
    cluster.wait_for_volumes(cluster.chunkserver_count()).expect("it is back");
}

fn timed<T>(work: impl FnOnce() -> T) -> (Duration, T) {
    let before = SystemClock.monotonic();
    let done = work();
    (SystemClock.monotonic().since(before), done)
}

/// The longest that reading a file took, of those that the mount has not read before.
fn longest_read(mount: &Mount) -> Duration {
    let read = |number| {
        let (took, got) = timed(|| fs::read(path(mount, number)));
        assert!(got.expect("read") == content(number), "file {number} reads otherwise than it was written");
        took
    };
    (0..FILES).skip(1).step_by(2).map(read).max().unwrap_or_default()
}

/// Writes and syncs small pieces until the time is over; the longest of them, and what was written.
fn write_on(file: &Path) -> (Duration, Vec<u8>) {
    let mut file = File::create(file).expect("created");
    let (mut longest, mut written) = (Duration::ZERO, Vec::new());
    let end = SystemClock.monotonic() + WRITTEN_FOR;
    while SystemClock.monotonic() < end {
        let piece = vec![(written.len() / 5_000) as u8; 5_000];
        let (took, ()) = timed(|| {
            file.write_all(&piece).expect("written");
            file.sync_data().expect("synced");
        });
        longest = longest.max(took);
        written.extend(piece);
    }
    (longest, written)
}

#[test]
fn reads_and_writes_go_on_when_a_chunkserver_dies() {
    let shape = Shape { machines: Machines::Many, ..Shape::default() };
    let mut cluster = Cluster::start_shaped(shape).expect("a cluster");
    let mount = cluster.mount_on_client(&[]).expect("a mount");
    (0..FILES).for_each(|number| fs::write(path(&mount, number), content(number)).expect("written"));
    cluster.wait_until_fully_replicated().expect("two copies");
    let mut late = Vec::new();
    println!("{:10}{:>14}{:>14}", "death", "read, s", "write, s");
    let deaths = [Death::Killed, Death::Stopped, Death::CutOff, Death::Mute, Death::Deaf];
    for (number, death) in deaths.into_iter().enumerate() {
        let victim = number % cluster.chunkserver_count();
        // It is connected to the chunkservers.
        let reader = cluster.mount().expect("a second mount");
        (0..FILES).step_by(2).for_each(|number| drop(fs::read(path(&reader, number)).expect("read")));
        fs::write("/proc/sys/vm/drop_caches", "1").expect("root");
        let targets: Vec<PathBuf> =
            (0..WRITERS).map(|writer| mount.path().join(format!("{death:?}{writer}"))).collect();
        let (read, written) = std::thread::scope(|scope| {
            let writers: Vec<_> = targets.iter().map(|target| scope.spawn(|| write_on(target))).collect();
            sleep(WRITTEN_FOR / 6);
            die(&mut cluster, victim, death);
            let read = longest_read(&reader);
            (read, writers.into_iter().map(|writer| writer.join().expect("no panic")).collect::<Vec<_>>())
        });
        let write = written.iter().map(|(longest, _)| *longest).max().unwrap_or_default();
        println!("{:10}{:>14.2}{:>14.2}", format!("{death:?}"), read.as_secs_f64(), write.as_secs_f64());
        late.extend((read > READ_WITHIN * PATIENCE).then(|| format!("a read took {read:?} after {death:?}")));
        late.extend((write > WRITE_WITHIN * PATIENCE).then(|| format!("a write took {write:?} after {death:?}")));
        for (target, (_, written)) in targets.iter().zip(&written) {
            let seen = reader.path().join(target.file_name().expect("a name"));
            assert!(&fs::read(&seen).expect("read") == written, "{} has other bytes", seen.display());
        }
        come_back(&mut cluster, victim, death);
        reader.unmount().expect("unmounted");
    }
    assert!(late.is_empty(), "{}", late.join("; "));
}
