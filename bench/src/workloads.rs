//! What is measured. Those of metadata run with one thread and with eight.

mod clients;
mod durable;
mod metadata;
mod scattered;
mod streams;
mod trees;

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, ensure};
use clap::ValueEnum;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::meter::Meter;
use crate::places::Place;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
const SMALL_BYTES: usize = 4 * KIB;

/// How much to do.
#[derive(Clone, Copy)]
pub(crate) struct Sizes {
    /// Files of a thread.
    pub(crate) files: usize,
    /// Of the source tree.
    pub(crate) tree_files: usize,
    /// Of a stream, and of the file whose scattered places are read and written.
    pub(crate) stream_bytes: usize,
}

/// Workloads that belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Group {
    /// Many small files: create, write, stat, open, read, list, rename, unlink, mkdir.
    Metadata,
    /// Large files from their start to their end, one and four at once.
    Streams,
    /// Places all over one large file, through the page cache and past it.
    Scattered,
    /// An fsync after each step, and transactions of SQLite.
    Durable,
    /// A source tree with its git repository: unpacked, copied, looked at, removed.
    Trees,
    /// Two mounts at once.
    Clients,
}

/// Runs these groups in this folder of the place.
pub(crate) fn run(
    place: &Place,
    folder: &str,
    sizes: Sizes,
    groups: &[Group],
    meter: &mut Meter<'_>,
) -> anyhow::Result<()> {
    let root = place.path.join(folder);
    for group in groups {
        match group {
            Group::Metadata => {
                metadata::run(&root, sizes.files, 1, meter)?;
                metadata::run(&root, sizes.files / 2, 8, meter)?;
            }
            Group::Streams => streams::run(&root, sizes.stream_bytes, meter)?,
            Group::Scattered => scattered::run(&root, sizes.stream_bytes, meter)?,
            Group::Durable => durable::run(&root, sizes.files / 2, meter)?,
            Group::Trees => trees::run(&root, sizes.tree_files, meter)?,
            Group::Clients => clients::run([&root, &place.second_path.join(folder)], sizes.files, meter)?,
        }
    }
    Ok(())
}

/// A MiB that no filesystem can make smaller.
fn random_block(seed: u64) -> Vec<u8> {
    let mut block = vec![0; MIB];
    StdRng::seed_from_u64(seed).fill_bytes(&mut block);
    block
}

/// Content that depends on the file's name.
fn small(file: &Path) -> Vec<u8> {
    let name = file.file_name().unwrap_or_default().as_encoded_bytes();
    name.iter().copied().cycle().take(SMALL_BYTES).collect()
}

/// The kernel's caches, of all filesystems alike.
fn drop_caches() -> anyhow::Result<()> {
    rustix::fs::sync();
    fs::write("/proc/sys/vm/drop_caches", "3").context("cannot drop the kernel's caches; run as root")
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

fn of_threads(threads: usize) -> String {
    format!("{threads} {}", if threads == 1 { "thread" } else { "threads" })
}

/// Runs a program to its end, and gives what it printed.
fn run_command(command: &mut Command) -> anyhow::Result<String> {
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    let (said, complained) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{command:?}: {}{}", said.trim(), complained.trim());
    Ok(said.into_owned())
}
