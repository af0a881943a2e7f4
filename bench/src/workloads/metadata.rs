//! Many small files, in a folder for each thread.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};

use super::{Figure, SMALL_BYTES, drop_caches, in_threads, timed};

/// One step for each file; the second path is free for another name.
type Step = fn(&Path, &Path) -> anyhow::Result<()>;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Caches {
    AsTheyAre,
    Dropped,
}

/// In the order in which they run: each finds what those before it left.
const STEPS: [(&str, Step, Caches); 9] = [
    ("create", |file, _| Ok(File::create(file).map(drop)?), Caches::AsTheyAre),
    ("write 4 KiB", |file, _| Ok(File::create(file)?.write_all(&small(file))?), Caches::AsTheyAre),
    ("stat, cold", |file, _| Ok(fs::metadata(file).map(drop)?), Caches::Dropped),
    ("read 4 KiB", |file, _| check_small(file), Caches::AsTheyAre),
    ("stat, warm", |file, _| Ok(fs::metadata(file).map(drop)?), Caches::AsTheyAre),
    ("open and close, warm", |file, _| Ok(File::open(file).map(drop)?), Caches::AsTheyAre),
    ("rename", |file, to| Ok(fs::rename(file, to)?), Caches::AsTheyAre),
    ("unlink", |_, file| Ok(fs::remove_file(file)?), Caches::AsTheyAre),
    ("mkdir", |folder, _| Ok(fs::create_dir(folder)?), Caches::AsTheyAre),
];

pub(super) fn run(root: &Path, files: usize, threads: usize, figures: &mut Vec<Figure>) -> anyhow::Result<()> {
    let folders: Vec<PathBuf> = (0..threads).map(|thread| root.join(format!("m{threads}-{thread}"))).collect();
    folders.iter().try_for_each(fs::create_dir)?;
    for (name, step, caches) in STEPS {
        if caches == Caches::Dropped {
            drop_caches()?;
        }
        let name = format!("{name}, {threads} {}", if threads == 1 { "thread" } else { "threads" });
        let seconds = timed(|| {
            in_threads(threads, |thread| {
                let path = |prefix: &str, number: usize| folders[thread].join(format!("{prefix}{number}"));
                (0..files).try_for_each(|number| step(&path("f", number), &path("renamed", number)))
            })
        })
        .with_context(|| name.clone())?;
        figures.push(Figure::per_second(name, files * threads, seconds));
    }
    Ok(())
}

/// Content that depends on the file's name.
fn small(file: &Path) -> Vec<u8> {
    let name = file.to_string_lossy();
    name.bytes().cycle().take(SMALL_BYTES).collect()
}

fn check_small(file: &Path) -> anyhow::Result<()> {
    let mut content = Vec::with_capacity(SMALL_BYTES);
    File::open(file)?.read_to_end(&mut content)?;
    ensure!(content == small(file), "{} has other bytes than were written", file.display());
    Ok(())
}
