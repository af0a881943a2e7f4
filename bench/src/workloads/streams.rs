//! Large files from their start to their end, by calls of three sizes, one and four at once.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use anyhow::ensure;

use super::{KIB, MIB, drop_caches, in_threads, random_block};
use crate::meter::{Amount, Meter};

/// Bytes of a call and their name.
const CALLS: [(usize, &str); 3] = [(MIB, "1 MiB"), (128 * KIB, "128 KiB"), (4 * KIB, "4 KiB")];
const STREAMS: [(usize, &str); 2] = [(1, ""), (4, ", 4 at once")];

pub(super) fn run(root: &Path, bytes: usize, meter: &mut Meter<'_>) -> anyhow::Result<()> {
    let block = random_block(7);
    for (streams, how) in STREAMS {
        let paths: Vec<PathBuf> = (0..streams).map(|stream| root.join(format!("stream{stream}"))).collect();
        for (call_bytes, size) in CALLS {
            let calls = bytes / streams / call_bytes;
            let amount = Amount::Bytes(calls * call_bytes * streams);
            meter.measure(format!("write by {size}, fsync{how}"), amount, || {
                in_threads(streams, |stream| write(&paths[stream], calls, call_bytes, &block))
            })?;
            drop_caches()?;
            meter.measure(format!("read by {size}, cold{how}"), amount, || {
                in_threads(streams, |stream| read(&paths[stream], calls, call_bytes, &block))
            })?;
            paths.iter().try_for_each(fs::remove_file)?;
        }
    }
    Ok(())
}

fn write(path: &Path, calls: usize, call_bytes: usize, block: &[u8]) -> anyhow::Result<()> {
    let mut file = File::create(path)?;
    (0..calls).try_for_each(|call| file.write_all(&block[call * call_bytes % block.len()..][..call_bytes]))?;
    Ok(file.sync_all()?)
}

fn read(path: &Path, calls: usize, call_bytes: usize, block: &[u8]) -> anyhow::Result<()> {
    let (mut file, mut buffer) = (File::open(path)?, vec![0; call_bytes]);
    for call in 0..calls {
        file.read_exact(&mut buffer)?;
        let expected = &block[call * call_bytes % block.len()..][..call_bytes];
        ensure!(buffer == expected, "call {call} on {} read other bytes than were written", path.display());
    }
    ensure!(file.read(&mut buffer)? == 0, "{} is longer than what was written", path.display());
    Ok(())
}
