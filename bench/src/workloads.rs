//! What is measured. Each workload runs in a folder of its own with one thread, and some with eight.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use rfs_common::clock::SystemClock;

const SMALL_BYTES: usize = 4096;
const CALL_BYTES: usize = 1 << 20;
const THREADS: usize = 8;
const RANDOM_CALLS: usize = 2000;

/// How much to do.
#[derive(Clone, Copy)]
pub(crate) struct Sizes {
    /// Files of each thread.
    pub(crate) files: usize,
    /// Of a stream.
    pub(crate) stream_bytes: usize,
}

/// One result.
pub(crate) struct Figure {
    /// Which workload.
    pub(crate) workload: &'static str,
    /// `per s` or `MB/s`.
    pub(crate) unit: &'static str,
    /// More is better.
    pub(crate) value: f64,
}

/// Runs all of them below `root`.
pub(crate) fn run_all(root: &Path, sizes: Sizes) -> anyhow::Result<Vec<Figure>> {
    let mut figures = Vec::new();
    metadata(root, sizes.files, 1, &METADATA_1, &mut figures)?;
    metadata(root, sizes.files / 2, THREADS, &METADATA_8, &mut figures)?;
    stream(root, sizes.stream_bytes, &mut figures)?;
    random(root, sizes.stream_bytes, &mut figures)?;
    Ok(figures)
}

/// Names of the metadata workloads, in the order in which they run.
type Names = [&'static str; 6];
const METADATA_1: Names = [
    "create, 1 thread",
    "write 4 KiB, 1 thread",
    "stat, 1 thread",
    "read 4 KiB, 1 thread",
    "rename, 1 thread",
    "unlink, 1 thread",
];
const METADATA_8: Names = [
    "create, 8 threads",
    "write 4 KiB, 8 threads",
    "stat, 8 threads",
    "read 4 KiB, 8 threads",
    "rename, 8 threads",
    "unlink, 8 threads",
];

fn metadata(root: &Path, files: usize, threads: usize, names: &Names, figures: &mut Vec<Figure>) -> anyhow::Result<()> {
    let folders: Vec<PathBuf> = (0..threads).map(|thread| root.join(format!("m{threads}-{thread}"))).collect();
    folders.iter().try_for_each(fs::create_dir)?;
    let path = |folder: &Path, prefix: &str, number: usize| folder.join(format!("{prefix}{number}"));
    type Step = fn(&Path, &Path) -> anyhow::Result<()>;
    let steps: [(Step, &str, bool); 6] = [
        (|file, _| File::create(file).map(drop).map_err(Into::into), "f", false),
        (|file, _| Ok(File::create(file)?.write_all(&small(file))?), "f", false),
        (|file, _| fs::metadata(file).map(|_| ()).map_err(Into::into), "f", true),
        (|file, _| check_small(file), "f", false),
        (|file, to| Ok(fs::rename(file, to)?), "f", false),
        (|_, file| Ok(fs::remove_file(file)?), "f", false),
    ];
    for ((step, prefix, drop_first), name) in steps.into_iter().zip(names) {
        if drop_first {
            drop_caches()?;
        }
        let seconds = timed(|| {
            std::thread::scope(|scope| -> anyhow::Result<()> {
                let workers: Vec<_> = folders
                    .iter()
                    .map(|folder| {
                        scope.spawn(move || {
                            (0..files).try_for_each(|number| {
                                step(&path(folder, prefix, number), &path(folder, "renamed", number))
                            })
                        })
                    })
                    .collect();
                workers
                    .into_iter()
                    .try_for_each(|worker| worker.join().map_err(|_| anyhow::anyhow!("a thread failed"))?)
            })
        })
        .with_context(|| (*name).to_owned())?;
        figures.push(Figure { workload: name, unit: "per s", value: (files * threads) as f64 / seconds });
    }
    Ok(())
}

/// Content that depends on the file's name.
fn small(file: &Path) -> Vec<u8> {
    let name = file.to_string_lossy();
    name.bytes().cycle().take(SMALL_BYTES).collect()
}

fn check_small(file: &Path) -> anyhow::Result<()> {
    let mut content = Vec::with_capacity(SMALL_BYTES);
    File::open(file)?.read_to_end(&mut content)?;
    ensure!(content == small(file), "{} has other bytes than were written", file.display());
    Ok(())
}

fn stream(root: &Path, bytes: usize, figures: &mut Vec<Figure>) -> anyhow::Result<()> {
    let path = root.join("stream");
    let block = random_block();
    let calls = bytes / CALL_BYTES;
    let write = timed(|| {
        let mut file = File::create(&path)?;
        (0..calls).try_for_each(|_| file.write_all(&block))?;
        Ok(file.sync_all()?)
    })?;
    drop_caches()?;
    let mut buffer = vec![0; CALL_BYTES];
    let read = timed(|| {
        let mut file = File::open(&path)?;
        (0..calls).try_for_each(|call| {
            file.read_exact(&mut buffer)?;
            ensure!(buffer == block, "MiB {call} of {} has other bytes than were written", path.display());
            Ok(())
        })
    })?;
    let megabytes = (calls * CALL_BYTES) as f64 / 1e6;
    figures.push(Figure { workload: "write by 1 MiB, fsync", unit: "MB/s", value: megabytes / write });
    figures.push(Figure { workload: "read by 1 MiB, cold", unit: "MB/s", value: megabytes / read });
    Ok(())
}

/// On the file that [`stream`] left.
fn random(root: &Path, bytes: usize, figures: &mut Vec<Figure>) -> anyhow::Result<()> {
    let path = root.join("stream");
    let block = random_block();
    let mut random = StdRng::seed_from_u64(1);
    let offsets: Vec<u64> =
        (0..RANDOM_CALLS).map(|_| (random.random_range(0..bytes / SMALL_BYTES) * SMALL_BYTES) as u64).collect();
    drop_caches()?;
    let mut buffer = vec![0; SMALL_BYTES];
    let read = timed(|| {
        let file = File::open(&path)?;
        offsets.iter().try_for_each(|offset| {
            file.read_exact_at(&mut buffer, *offset)?;
            let within = *offset as usize % CALL_BYTES;
            ensure!(buffer == block[within..within + SMALL_BYTES], "wrong bytes at {offset}");
            Ok(())
        })
    })?;
    let write = timed(|| {
        let file = OpenOptions::new().write(true).open(&path)?;
        offsets.iter().try_for_each(|offset| file.write_all_at(&block[..SMALL_BYTES], *offset))?;
        Ok(file.sync_all()?)
    })?;
    figures.push(Figure { workload: "random read 4 KiB, cold", unit: "per s", value: RANDOM_CALLS as f64 / read });
    figures.push(Figure {
        workload: "random write 4 KiB, fsync at end",
        unit: "per s",
        value: RANDOM_CALLS as f64 / write,
    });
    fs::remove_file(&path)?;
    Ok(())
}

fn random_block() -> Vec<u8> {
    let mut block = vec![0; CALL_BYTES];
    StdRng::seed_from_u64(7).fill_bytes(&mut block);
    block
}

/// The kernel's caches, of all filesystems alike.
fn drop_caches() -> anyhow::Result<()> {
    rustix::fs::sync();
    fs::write("/proc/sys/vm/drop_caches", "3").context("cannot drop the kernel's caches; run as root")
}

fn timed(work: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<f64> {
    let clock = SystemClock::shared();
    let start = clock.monotonic();
    work()?;
    Ok(clock.monotonic().since(start).as_secs_f64())
}
