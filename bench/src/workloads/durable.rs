//! An fsync after each step, as mail servers, logs and databases do it.

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::process::Command;

use anyhow::ensure;

use super::{SMALL_BYTES, drop_caches, random_block, run_command, small};
use crate::meter::{Amount, Meter};

pub(super) fn run(root: &Path, count: usize, meter: &mut Meter<'_>) -> anyhow::Result<()> {
    let (block, log) = (random_block(7), root.join("log"));
    let file = |number: usize| root.join(format!("durable{number}"));
    let amount = Amount::Operations(count);
    meter.measure("new file of 4 KiB, fsync", amount, || {
        (0..count).try_for_each(|number| {
            let path = file(number);
            let mut file = File::create_new(&path)?;
            file.write_all(&small(&path))?;
            Ok(file.sync_all()?)
        })
    })?;
    meter.measure("append 4 KiB, fsync", amount, || {
        let mut file = OpenOptions::new().create(true).append(true).open(&log)?;
        (0..count).try_for_each(|number| {
            file.write_all(&block[number % 256 * SMALL_BYTES..][..SMALL_BYTES])?;
            Ok(file.sync_data()?)
        })
    })?;
    insert(&root.join("inserts.sqlite"), count, meter)?;
    drop_caches()?;
    for path in (0..count).map(file) {
        ensure!(fs::read(&path)? == small(&path), "{} has other bytes than were written", path.display());
    }
    let expected: Vec<u8> = block.iter().copied().cycle().take(count * SMALL_BYTES).collect();
    ensure!(fs::read(&log)? == expected, "{} has other bytes than were appended", log.display());
    Ok(())
}

/// Each insert is a transaction of its own.
fn insert(database: &Path, count: usize, meter: &mut Meter<'_>) -> anyhow::Result<()> {
    let sqlite = |words: &str| run_command(Command::new("sqlite3").arg(database).arg(words));
    sqlite("create table t (number integer primary key, words text)")?;
    let mut inserts = String::new();
    (0..count)
        .try_for_each(|number| writeln!(inserts, "insert into t values ({number}, 'of some length {number}');"))?;
    meter.measure("SQLite inserts", Amount::Operations(count), || sqlite(&inserts).map(drop))?;
    let found = sqlite("pragma integrity_check; select count(*) from t;")?;
    ensure!(found == format!("ok\n{count}\n"), "{} has other rows than were inserted: {found}", database.display());
    Ok(())
}
