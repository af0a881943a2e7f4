//! A source tree with its git repository: unpacked, copied, looked at, removed. The archive stands on a local filesystem.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::ensure;

use super::{drop_caches, random_block, run_command};
use crate::meter::{Amount, Meter};

const FILES_PER_FOLDER: usize = 50;
/// Sizes of the files, in turns.
const BYTES: [usize; 5] = [0, 300, 2_000, 6_000, 20_000];

pub(super) fn run(root: &Path, files: usize, meter: &mut Meter<'_>) -> anyhow::Result<()> {
    let local = tempfile::tempdir()?;
    let original = local.path().join("tree");
    make_tree(&original, files)?;
    let archive = local.path().join("tree.tar");
    run_command(Command::new("tar").arg("-cf").arg(&archive).arg("-C").arg(local.path()).arg("tree"))?;
    let (tree, copy) = (root.join("tree"), root.join("copy"));
    let amount = Amount::Operations(files);
    meter.measure("untar, files", amount, || {
        run_command(Command::new("tar").arg("-xf").arg(&archive).arg("-C").arg(root)).map(drop)
    })?;
    meter.measure("cp -a, files", amount, || {
        run_command(Command::new("cp").arg("-a").arg(&tree).arg(&copy)).map(drop)
    })?;
    drop_caches()?;
    meter.measure("walk with stat, cold, files", amount, || expect_files(&copy, files))?;
    meter.measure("walk with stat, warm, files", amount, || expect_files(&copy, files))?;
    // The first look after unpacking reads all files, since their times are new.
    git_status(&tree)?;
    meter.measure("git status, warm, files", amount, || git_status(&tree))?;
    drop_caches()?;
    meter.measure("git status, cold, files", amount, || git_status(&tree))?;
    for made in [&tree, &copy] {
        run_command(Command::new("diff").args(["-r", "--exclude=.git"]).arg(&original).arg(made))?;
    }
    run_command(Command::new("git").arg("-C").arg(&copy).args(["fsck", "--no-progress"]))?;
    meter.measure("rm -rf, files", amount, || run_command(Command::new("rm").arg("-rf").arg(&copy)).map(drop))?;
    ensure!(!copy.exists(), "{} is still there", copy.display());
    Ok(fs::remove_dir_all(&tree)?)
}

fn make_tree(tree: &Path, files: usize) -> anyhow::Result<()> {
    let block = random_block(7);
    for number in 0..files {
        let folder = tree.join(format!("part{}/folder{}", number / FILES_PER_FOLDER % 10, number / FILES_PER_FOLDER));
        fs::create_dir_all(&folder)?;
        let content = &block[number % (block.len() - 20_000)..][..BYTES[number % BYTES.len()]];
        fs::write(folder.join(format!("file{number}.c")), content)?;
    }
    let git = |words: &[&str]| run_command(Command::new("git").arg("-C").arg(tree).args(words)).map(drop);
    git(&["init", "-q"])?;
    git(&["add", "."])?;
    git(&["-c", "user.name=bench", "-c", "user.email=bench@localhost", "commit", "-q", "-m", "all"])?;
    git(&["gc", "-q"])
}

fn git_status(tree: &Path) -> anyhow::Result<()> {
    let said = run_command(Command::new("git").arg("-C").arg(tree).args(["status", "--porcelain"]))?;
    ensure!(said.is_empty(), "git finds changes in {}: {said}", tree.display());
    Ok(())
}

fn expect_files(folder: &Path, files: usize) -> anyhow::Result<()> {
    let found = walk(folder)?;
    ensure!(found == files, "{found} files instead of {files} below {}", folder.display());
    Ok(())
}

/// How many files there are beside git's own, after a stat of each.
fn walk(folder: &Path) -> anyhow::Result<usize> {
    let mut files = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name() == ".git" {
            continue;
        }
        files += if fs::symlink_metadata(entry.path())?.is_dir() { walk(&entry.path())? } else { 1 };
    }
    Ok(files)
}
