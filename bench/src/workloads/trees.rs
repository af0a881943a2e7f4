//! A tree of files like a source tree: unpacked, copied, walked and removed. The archive stands on a local filesystem.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::ensure;

use super::{Figure, drop_caches, random_block, timed};

const FILES_PER_FOLDER: usize = 50;
/// Sizes of the files, in turns.
const BYTES: [usize; 5] = [0, 300, 2_000, 6_000, 20_000];

pub(super) fn run(root: &Path, files: usize, figures: &mut Vec<Figure>) -> anyhow::Result<()> {
    let local = tempfile::tempdir()?;
    make_tree(&local.path().join("tree"), files)?;
    let archive = local.path().join("tree.tar");
    run_command(Command::new("tar").arg("-cf").arg(&archive).arg("-C").arg(local.path()).arg("tree"))?;
    let (tree, copy) = (root.join("tree"), root.join("copy"));
    let untar = timed(|| run_command(Command::new("tar").arg("-xf").arg(&archive).arg("-C").arg(root)))?;
    let copied = timed(|| run_command(Command::new("cp").arg("-a").arg(&tree).arg(&copy)))?;
    let walk = || {
        let found = walk(&copy)?;
        ensure!(found == files, "{found} files instead of {files} below {}", copy.display());
        Ok(())
    };
    drop_caches()?;
    let (cold, warm) = (timed(walk)?, timed(walk)?);
    let removed = timed(|| Ok(fs::remove_dir_all(&copy)?))?;
    for (name, seconds) in [
        ("untar, files", untar),
        ("cp -a, files", copied),
        ("walk with stat, cold", cold),
        ("walk with stat, warm", warm),
        ("rm -rf, files", removed),
    ] {
        figures.push(Figure::per_second(name, files, seconds));
    }
    Ok(fs::remove_dir_all(&tree)?)
}

fn make_tree(tree: &Path, files: usize) -> anyhow::Result<()> {
    let block = random_block();
    for number in 0..files {
        let folder = tree.join(format!("part{}/folder{}", number / FILES_PER_FOLDER % 10, number / FILES_PER_FOLDER));
        fs::create_dir_all(&folder)?;
        fs::write(folder.join(format!("file{number}.c")), &block[number..][..BYTES[number % BYTES.len()]])?;
    }
    Ok(())
}

/// How many files there are, after a stat of each.
fn walk(folder: &Path) -> anyhow::Result<usize> {
    let mut files = 0;
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        files += if fs::symlink_metadata(&path)?.is_dir() { walk(&path)? } else { 1 };
    }
    Ok(files)
}

fn run_command(command: &mut Command) -> anyhow::Result<()> {
    let status = command.status()?;
    ensure!(status.success(), "{command:?} failed: {status}");
    Ok(())
}
