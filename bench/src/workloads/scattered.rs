//! Places all over one large file, by one thread and by sixteen, each with an open file of its own; through the page cache
//! and past it (`O_DIRECT`).

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use anyhow::ensure;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rustix::fs::OFlags;

use super::{KIB, MIB, drop_caches, in_threads, random_block};
use crate::meter::{Amount, Meter};

/// Bytes of a call, their name, calls of one thread alone, and of each of sixteen.
const CALLS: [(usize, &str, usize, usize); 2] = [(4 * KIB, "4 KiB", 2000, 500), (64 * KIB, "64 KiB", 500, 125)];
const THREADS: [(usize, &str); 2] = [(1, ""), (16, ", 16 at once")];
const MODES: [(Caching, &str); 2] = [(Caching::Buffered, ""), (Caching::Direct, ", direct")];

/// What direct I/O asks of addresses and lengths, at most.
const ALIGNMENT: usize = 4096;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Caching {
    Buffered,
    Direct,
}

impl Caching {
    fn flags(self) -> i32 {
        if self == Caching::Direct { OFlags::DIRECT.bits().cast_signed() } else { 0 }
    }
}

/// Bytes that direct I/O takes.
struct Aligned {
    bytes: Vec<u8>,
    start: usize,
    length: usize,
}

impl Aligned {
    fn new(length: usize) -> Aligned {
        let bytes = vec![0; length + ALIGNMENT];
        Aligned { start: bytes.as_ptr().align_offset(ALIGNMENT), bytes, length }
    }

    fn get(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..][..self.length]
    }
}

pub(super) fn run(root: &Path, bytes: usize, meter: &mut Meter<'_>) -> anyhow::Result<()> {
    let path = root.join("scattered");
    let (old, new) = (random_block(7), random_block(8));
    for (caching, how) in MODES {
        let mut file = File::create(&path)?;
        (0..bytes / MIB).try_for_each(|_| file.write_all(&old))?;
        file.sync_all()?;
        drop(file);
        let mut written = HashSet::new();
        for (call_bytes, size, alone, of_sixteen) in CALLS {
            for (threads, at_once) in THREADS {
                let calls = if threads == 1 { alone } else { of_sixteen };
                let seed = (call_bytes + threads) as u64 * 100;
                let offsets = |thread: usize| {
                    let mut random = StdRng::seed_from_u64(seed + thread as u64);
                    (0..calls).map(move |_| (random.random_range(0..bytes / call_bytes) * call_bytes) as u64)
                };
                let name = |what: &str, when: &str| format!("random {what} {size}{how}{when}{at_once}");
                let amount = Amount::Operations(calls * threads);
                drop_caches()?;
                meter.measure(name("read", ", cold"), amount, || {
                    in_threads(threads, |thread| read(&path, caching, offsets(thread), call_bytes, [&old, &new]))
                })?;
                meter.measure(name("write", ", fsync at end"), amount, || {
                    in_threads(threads, |thread| write(&path, caching, offsets(thread), call_bytes, &new))
                })?;
                let pieces =
                    |offset: u64| (0..call_bytes / ALIGNMENT).map(move |piece| offset + (piece * ALIGNMENT) as u64);
                written.extend((0..threads).flat_map(offsets).flat_map(pieces));
            }
        }
        drop_caches()?;
        check(&path, bytes, &written, [&old, &new])?;
    }
    Ok(fs::remove_file(&path)?)
}

fn part(block: &[u8], offset: u64, bytes: usize) -> &[u8] {
    &block[offset as usize % MIB..][..bytes]
}

fn read(
    path: &Path,
    caching: Caching,
    offsets: impl Iterator<Item = u64>,
    bytes: usize,
    blocks: [&[u8]; 2],
) -> anyhow::Result<()> {
    let file = OpenOptions::new().read(true).custom_flags(caching.flags()).open(path)?;
    let mut buffer = Aligned::new(bytes);
    for offset in offsets {
        file.read_exact_at(buffer.get(), offset)?;
        // Calls of other sizes have left either in parts of this one.
        for (piece, at) in buffer.get().chunks(ALIGNMENT).zip((offset..).step_by(ALIGNMENT)) {
            let known = blocks.iter().any(|block| piece == part(block, at, ALIGNMENT));
            ensure!(known, "wrong bytes at {at} of {}", path.display());
        }
    }
    Ok(())
}

fn write(
    path: &Path,
    caching: Caching,
    mut offsets: impl Iterator<Item = u64>,
    bytes: usize,
    block: &[u8],
) -> anyhow::Result<()> {
    let file = OpenOptions::new().write(true).custom_flags(caching.flags()).open(path)?;
    let mut buffer = Aligned::new(bytes);
    offsets.try_for_each(|offset| {
        buffer.get().copy_from_slice(part(block, offset, bytes));
        file.write_all_at(buffer.get(), offset)
    })?;
    Ok(file.sync_all()?)
}

/// Each piece is new where it was written, and old everywhere else.
fn check(path: &Path, bytes: usize, written: &HashSet<u64>, [old, new]: [&[u8]; 2]) -> anyhow::Result<()> {
    let (file, mut buffer) = (File::open(path)?, vec![0; MIB]);
    for offset in (0..bytes as u64).step_by(MIB) {
        file.read_exact_at(&mut buffer, offset)?;
        for (piece, at) in buffer.chunks(ALIGNMENT).zip((offset..).step_by(ALIGNMENT)) {
            let block = if written.contains(&at) { new } else { old };
            ensure!(piece == part(block, at, ALIGNMENT), "other bytes at {at} of {} than were written", path.display());
        }
    }
    Ok(())
}
