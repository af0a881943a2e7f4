//! Many small files, in a folder for each thread.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use anyhow::ensure;

use super::{SMALL_BYTES, drop_caches, in_threads, of_threads, small};
use crate::meter::{Amount, Meter};

/// One step for each file; the second path is free for another name.
type Step = fn(&Path, &Path) -> anyhow::Result<()>;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Caches {
    AsTheyAre,
    Dropped,
}

/// In the order in which they run: each finds what those before it left.
const STEPS: [(&str, Step, Caches); 6] = [
    ("create", |file, _| Ok(File::create_new(file).map(drop)?), Caches::AsTheyAre),
    ("open and write 4 KiB", write_small, Caches::AsTheyAre),
    ("stat, cold", |file, _| has_length(file, SMALL_BYTES), Caches::Dropped),
    ("stat, warm", |file, _| has_length(file, SMALL_BYTES), Caches::AsTheyAre),
    ("open and close, warm", |file, _| Ok(File::open(file).map(drop)?), Caches::AsTheyAre),
    ("open and read 4 KiB, cold", |file, _| check_small(file), Caches::Dropped),
];

const LAST_STEPS: [(&str, Step); 3] = [
    ("rename", |file, to| Ok(fs::rename(file, to)?)),
    ("unlink", |_, file| Ok(fs::remove_file(file)?)),
    ("mkdir", |folder, _| Ok(fs::create_dir(folder)?)),
];

pub(super) fn run(root: &Path, files: usize, threads: usize, meter: &mut Meter<'_>) -> anyhow::Result<()> {
    let folders: Vec<PathBuf> = (0..threads).map(|thread| root.join(format!("m{threads}-{thread}"))).collect();
    folders.iter().try_for_each(fs::create_dir)?;
    let each = |step: Step| {
        in_threads(threads, |thread| {
            let path = |prefix: &str, number: usize| folders[thread].join(format!("{prefix}{number}"));
            (0..files).try_for_each(|number| step(&path("f", number), &path("renamed", number)))
        })
    };
    let (amount, how) = (Amount::Operations(files * threads), of_threads(threads));
    for (name, step, caches) in STEPS {
        if caches == Caches::Dropped {
            drop_caches()?;
        }
        meter.measure(format!("{name}, {how}"), amount, || each(step))?;
    }
    drop_caches()?;
    meter.measure(format!("readdir and stat, cold, {how}"), amount, || {
        in_threads(threads, |thread| expect_files(&folders[thread], files))
    })?;
    for (name, step) in LAST_STEPS {
        meter.measure(format!("{name}, {how}"), amount, || each(step))?;
    }
    folders.iter().try_for_each(|folder| expect_folders(folder, files))
}

fn write_small(file: &Path, _: &Path) -> anyhow::Result<()> {
    Ok(OpenOptions::new().write(true).open(file)?.write_all(&small(file))?)
}

fn has_length(file: &Path, bytes: usize) -> anyhow::Result<()> {
    let length = fs::symlink_metadata(file)?.len();
    ensure!(length == bytes as u64, "{} has {length} bytes instead of {bytes}", file.display());
    Ok(())
}

fn check_small(file: &Path) -> anyhow::Result<()> {
    let mut content = Vec::with_capacity(SMALL_BYTES);
    File::open(file)?.read_to_end(&mut content)?;
    ensure!(content == small(file), "{} has other bytes than were written", file.display());
    Ok(())
}

fn expect_files(folder: &Path, count: usize) -> anyhow::Result<()> {
    let mut found = 0;
    for entry in fs::read_dir(folder)? {
        has_length(&entry?.path(), SMALL_BYTES)?;
        found += 1;
    }
    ensure!(found == count, "{found} files instead of {count} in {}", folder.display());
    Ok(())
}

/// The files are gone and the folders there.
fn expect_folders(folder: &Path, count: usize) -> anyhow::Result<()> {
    let entries: Vec<_> = fs::read_dir(folder)?.collect::<Result<_, _>>()?;
    let folders = entries.iter().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).count();
    ensure!(
        entries.len() == count && folders == count,
        "{} has {} entries and {folders} folders instead of {count} folders",
        folder.display(),
        entries.len()
    );
    Ok(())
}
