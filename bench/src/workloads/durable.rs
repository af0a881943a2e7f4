//! An fsync after each step.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;

use super::{Figure, SMALL_BYTES, random_block, timed};

pub(super) fn run(root: &Path, count: usize, figures: &mut Vec<Figure>) -> anyhow::Result<()> {
    let block = random_block();
    let files = timed(|| {
        (0..count).try_for_each(|number| {
            let mut file = File::create(root.join(format!("durable{number}")))?;
            file.write_all(&block[..SMALL_BYTES])?;
            Ok(file.sync_all()?)
        })
    })?;
    let appends = timed(|| {
        let mut file = OpenOptions::new().create(true).append(true).open(root.join("log"))?;
        (0..count).try_for_each(|_| {
            file.write_all(&block[..SMALL_BYTES])?;
            Ok(file.sync_data()?)
        })
    })?;
    figures.push(Figure::per_second("new file of 4 KiB, fsync", count, files));
    figures.push(Figure::per_second("append 4 KiB, fsync", count, appends));
    Ok(())
}
