//! Measures the metadata store on the disk of the working directory (or of the folder given first) and prints a table.
//!
//! `cargo run --release -p rfs-master --example store_figures [FOLDER] [RECORDS]`
#![allow(clippy::print_stdout)]

use std::ops::{Bound, ControlFlow};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use rfs_common::clock::{SharedClock, SystemClock};
use rfs_master::store::{Change, Store, StoreOptions, Table, restore_amended};

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let base = arguments.next().unwrap_or_else(|| ".".to_owned());
    let records: u64 = arguments.next().map_or(Ok(1_000_000), |count| count.parse()).context("RECORDS is a number")?;
    let folder = Path::new(&base).join(format!("store-figures-{}", std::process::id()));
    let result = measure(&folder, records);
    std::fs::remove_dir_all(&folder)?;
    result
}

fn measure(folder: &Path, records: u64) -> anyhow::Result<()> {
    let clock = SystemClock::shared();
    let store_folder = folder.join("store");
    Store::create(&store_folder, [7; 16])?;
    let options = StoreOptions::default();
    let mut store = Store::open(&store_folder, options.clone(), clock.clone())?;
    commits(&store, &clock, "commit of 4 changes, new keys", 0, records / 4)?;
    waits(&store, &clock)?;
    gets(&store, &clock, records, "get, in memory")?;
    while_folding(&store, &clock, records)?;
    let began = clock.monotonic();
    store.close()?;
    row("close (last checkpoint)", format!("{:?}", clock.monotonic().since(began)));
    drop(store);
    row("disk space", format!("{} MiB", disk_space(&store_folder)? >> 20));

    let began = clock.monotonic();
    store = Store::open(&store_folder, options.clone(), clock.clone())?;
    row("open after a clean close", format!("{:?}", clock.monotonic().since(began)));
    gets(&store, &clock, records, "get, cold at first")?;
    commits(&store, &clock, "commit of 4 changes, keys anywhere", records, records / 16)?;
    drop(store);
    let began = clock.monotonic();
    store = Store::open(&store_folder, options.clone(), clock.clone())?;
    row(&format!("open with {} commits to replay", records / 16), format!("{:?}", clock.monotonic().since(began)));
    store.close()?;
    drop(store);

    let small = StoreOptions { cache_bytes: 8 << 20, ..options };
    store = Store::open(&store_folder, small, clock.clone())?;
    gets(&store, &clock, records, "get, anywhere, cache of 8 MiB")?;
    scan(&store, &clock)?;
    let export = folder.join("export");
    let began = clock.monotonic();
    let report = store.export(&export)?;
    row(&format!("export, {} MiB", report.bytes >> 20), format!("{:?}", clock.monotonic().since(began)));
    let began = clock.monotonic();
    restore_amended(&export, &folder.join("restored"), &|_, _| None, &|_| {})?;
    row("restore", format!("{:?}", clock.monotonic().since(began)));
    Ok(())
}

fn row(what: &str, figure: impl std::fmt::Display) {
    println!("{what:48} {figure}");
}

fn key(number: u64) -> Vec<u8> {
    number.to_be_bytes().to_vec()
}

fn scattered(number: u64, below: u64) -> u64 {
    number.wrapping_mul(0x9e37_79b9_7f4a_7c15) % below
}

/// Four changes: new keys in order if `anywhere` is 0, otherwise keys below it in no order.
fn four(number: u64, anywhere: u64) -> Vec<Change> {
    (number * 4..number * 4 + 4)
        .map(|number| {
            let number = if anywhere == 0 { number } else { scattered(number, anywhere) };
            Change::Put { table: Table::Inodes, key: key(number), value: vec![number as u8; 100] }
        })
        .collect()
}

fn commits(store: &Store, clock: &SharedClock, what: &str, anywhere: u64, count: u64) -> anyhow::Result<()> {
    let mut times = Vec::new();
    let began = clock.monotonic();
    for number in 0..count {
        let changes = four(number, anywhere);
        let before = clock.monotonic();
        store.commit(&changes)?;
        times.push(clock.monotonic().since(before));
    }
    let total = clock.monotonic().since(began);
    row(what, format!("{:.0}/s, {}", count as f64 / total.as_secs_f64(), percentiles(times)));
    Ok(())
}

fn waits(store: &Store, clock: &SharedClock) -> anyhow::Result<()> {
    let mut times = Vec::new();
    for number in 0..2000 {
        let changes = four(number, 1 << 20);
        let before = clock.monotonic();
        let position = store.commit(&changes)?;
        store.wait_durable(position)?;
        times.push(clock.monotonic().since(before));
    }
    row("commit and wait for the disk", percentiles(times));
    Ok(())
}

fn gets(store: &Store, clock: &SharedClock, records: u64, what: &str) -> anyhow::Result<()> {
    let count = records.min(500_000);
    let began = clock.monotonic();
    for number in 0..count {
        store.get(Table::Inodes, &key(scattered(number, records)))?.context("the key was put")?;
    }
    let total = clock.monotonic().since(began);
    row(what, format!("{:.0}/s, {:?} each", count as f64 / total.as_secs_f64(), total / count as u32));
    Ok(())
}

/// Commits all over the tables, so that most pages change, while one checkpoint after another runs.
fn while_folding(store: &Store, clock: &SharedClock, records: u64) -> anyhow::Result<()> {
    let folding = AtomicBool::new(true);
    std::thread::scope(|scope| -> anyhow::Result<()> {
        scope.spawn(|| {
            (0..5).for_each(|_| drop(store.checkpoint()));
            folding.store(false, Ordering::Relaxed);
        });
        let mut times = Vec::new();
        let mut number = 0;
        while folding.load(Ordering::Relaxed) {
            let changes = four(number, records);
            let before = clock.monotonic();
            store.commit(&changes)?;
            times.push(clock.monotonic().since(before));
            number += 1;
        }
        row(&format!("{number} commits while 5 checkpoints ran"), percentiles(times));
        Ok(())
    })
}

fn scan(store: &Store, clock: &SharedClock) -> anyhow::Result<()> {
    let began = clock.monotonic();
    let mut count = 0_u64;
    store.scan(Table::Inodes, Bound::Unbounded, Bound::Unbounded, &mut |_, _| {
        count += 1;
        ControlFlow::Continue(())
    })?;
    row("scan", format!("{:.0} records/s", count as f64 / clock.monotonic().since(began).as_secs_f64()));
    Ok(())
}

fn percentiles(mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    let at =
        |share: f64| times.get((times.len() as f64 * share) as usize).or(times.last()).copied().unwrap_or_default();
    format!("p50 {:?}, p99 {:?}, p99.9 {:?}, max {:?}", at(0.5), at(0.99), at(0.999), at(1.0))
}

fn disk_space(folder: &Path) -> anyhow::Result<u64> {
    let mut total = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        let is_reserve = entry.file_name() == "reserve";
        total += if metadata.is_dir() {
            disk_space(&entry.path())?
        } else if is_reserve {
            0
        } else {
            metadata.len()
        };
    }
    Ok(total)
}
