//! What is measured. Each workload runs in a folder of its own; those of metadata with one thread and with eight.

mod durable;
mod metadata;
mod scattered;
mod streams;
mod trees;

use std::fs;
use std::path::Path;

use anyhow::Context as _;
use clap::ValueEnum;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rfs_common::clock::SystemClock;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
const SMALL_BYTES: usize = 4 * KIB;

/// How much to do.
#[derive(Clone, Copy)]
pub(crate) struct Sizes {
    /// Files of each thread, and of the tree five times as many.
    pub(crate) files: usize,
    /// Of a stream.
    pub(crate) stream_bytes: usize,
}

/// Workloads that belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Group {
    /// Many small files: create, write, stat, open, read, rename, unlink, mkdir.
    Metadata,
    /// One large file from its start to its end.
    Streams,
    /// Places all over one large file.
    Scattered,
    /// An fsync after each step.
    Durable,
    /// A tree of files: unpacked, copied, walked, removed.
    Trees,
}

/// One result.
pub(crate) struct Figure {
    /// Which workload.
    pub(crate) workload: String,
    /// `per s` or `MB/s`.
    pub(crate) unit: &'static str,
    /// More is better.
    pub(crate) value: f64,
}

impl Figure {
    fn per_second(workload: impl Into<String>, count: usize, seconds: f64) -> Figure {
        Figure { workload: workload.into(), unit: "per s", value: count as f64 / seconds }
    }

    fn megabytes(workload: impl Into<String>, bytes: usize, seconds: f64) -> Figure {
        Figure { workload: workload.into(), unit: "MB/s", value: bytes as f64 / 1e6 / seconds }
    }
}

/// Runs these groups below `root`.
pub(crate) fn run(root: &Path, sizes: Sizes, groups: &[Group]) -> anyhow::Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for group in groups {
        let figures = &mut figures;
        match group {
            Group::Metadata => {
                metadata::run(root, sizes.files, 1, figures)?;
                metadata::run(root, sizes.files / 2, 8, figures)?;
            }
            Group::Streams => streams::run(root, sizes.stream_bytes, figures)?,
            Group::Scattered => scattered::run(root, sizes.stream_bytes, figures)?,
            Group::Durable => durable::run(root, sizes.files / 5, figures)?,
            Group::Trees => trees::run(root, sizes.files * 5, figures)?,
        }
    }
    Ok(figures)
}

/// A MiB that no filesystem can make smaller.
fn random_block() -> Vec<u8> {
    let mut block = vec![0; MIB];
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

/// The same work by several threads at once, each of which gets its number.
fn in_threads(threads: usize, work: impl Fn(usize) -> anyhow::Result<()> + Sync) -> anyhow::Result<()> {
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|thread| {
                scope.spawn({
                    let work = &work;
                    move || work(thread)
                })
            })
            .collect();
        workers.into_iter().try_for_each(|worker| worker.join().map_err(|_| anyhow::anyhow!("a thread failed"))?)
    })
}
