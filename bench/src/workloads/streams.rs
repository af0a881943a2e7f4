//! One large file from its start to its end, by calls of three sizes.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;

use anyhow::ensure;

use super::{Figure, KIB, MIB, drop_caches, random_block, timed};

/// Bytes of a call, their name, and which part of the stream is enough.
const CALLS: [(usize, &str, usize); 3] = [(4 * KIB, "4 KiB", 4), (128 * KIB, "128 KiB", 2), (MIB, "1 MiB", 1)];

pub(super) fn run(root: &Path, bytes: usize, figures: &mut Vec<Figure>) -> anyhow::Result<()> {
    let path = root.join("stream");
    let block = random_block();
    for (call_bytes, name, part) in CALLS {
        let calls = bytes / part / call_bytes;
        let place_in_block = |call: usize| call * call_bytes % block.len();
        let write = timed(|| {
            let mut file = File::create(&path)?;
            (0..calls).try_for_each(|call| file.write_all(&block[place_in_block(call)..][..call_bytes]))?;
            Ok(file.sync_all()?)
        })?;
        drop_caches()?;
        let mut buffer = vec![0; call_bytes];
        let read = timed(|| {
            let mut file = File::open(&path)?;
            (0..calls).try_for_each(|call| {
                file.read_exact(&mut buffer)?;
                let expected = &block[place_in_block(call)..][..call_bytes];
                ensure!(buffer == expected, "call {call} on {} read other bytes than were written", path.display());
                Ok(())
            })
        })?;
        figures.push(Figure::megabytes(format!("write by {name}, fsync"), calls * call_bytes, write));
        figures.push(Figure::megabytes(format!("read by {name}, cold"), calls * call_bytes, read));
        fs::remove_file(&path)?;
    }
    Ok(())
}
