//! Places all over one large file, by one thread and by sixteen, each with an open file of its own.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::ensure;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::{Figure, KIB, MIB, drop_caches, in_threads, random_block, timed};

/// Bytes of a call, their name, and calls of each thread.
const CALLS: [(usize, &str, usize); 2] = [(4 * KIB, "4 KiB", 2000), (64 * KIB, "64 KiB", 500)];
const THREADS: [(usize, &str); 2] = [(1, ""), (16, ", 16 at once")];

pub(super) fn run(root: &Path, bytes: usize, figures: &mut Vec<Figure>) -> anyhow::Result<()> {
    let path = root.join("scattered");
    let block = random_block();
    let mut file = File::create(&path)?;
    (0..bytes / MIB).try_for_each(|_| file.write_all(&block))?;
    file.sync_all()?;
    for (call_bytes, size) in CALLS.iter().map(|(bytes, size, _)| (*bytes, *size)) {
        for (threads, how) in THREADS {
            let calls = CALLS.iter().find(|call| call.0 == call_bytes).map_or(0, |call| call.2) / threads.min(4);
            let offsets = |thread: usize| {
                let mut random = StdRng::seed_from_u64(thread as u64 + 1);
                (0..calls).map(move |_| (random.random_range(0..bytes / call_bytes) * call_bytes) as u64)
            };
            drop_caches()?;
            let read = timed(|| in_threads(threads, |thread| read(&path, offsets(thread), call_bytes, &block)))?;
            let write = timed(|| in_threads(threads, |thread| write(&path, offsets(thread), call_bytes, &block)))?;
            let count = calls * threads;
            figures.push(Figure::per_second(format!("random read {size}, cold{how}"), count, read));
            figures.push(Figure::per_second(format!("random write {size}, fsync at end{how}"), count, write));
        }
    }
    Ok(fs::remove_file(&path)?)
}

fn read(path: &Path, offsets: impl Iterator<Item = u64>, bytes: usize, block: &[u8]) -> anyhow::Result<()> {
    let (file, mut buffer) = (File::open(path)?, vec![0; bytes]);
    for offset in offsets {
        file.read_exact_at(&mut buffer, offset)?;
        ensure!(buffer == block[offset as usize % MIB..][..bytes], "wrong bytes at {offset}");
    }
    Ok(())
}

fn write(path: &Path, mut offsets: impl Iterator<Item = u64>, bytes: usize, block: &[u8]) -> anyhow::Result<()> {
    let file = OpenOptions::new().write(true).open(path)?;
    offsets.try_for_each(|offset| file.write_all_at(&block[offset as usize % MIB..][..bytes], offset))?;
    Ok(file.sync_all()?)
}
