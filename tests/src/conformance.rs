//! Runs the `Model`'s operations on a real folder, and compares: one folder, or one seen through
//! several mounts, each operation through another of them.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rfs_common::errno::Errno;

use crate::model::{Answer, Model, Operation, describe};

/// Compares `count` random operations, each run below one of `roots` (all of which show the same folder) and on the model.
///
/// # Panics
/// At the first difference, with the seed and what led there.
pub fn compare_random_operations(roots: &[PathBuf], seed: u64, count: usize) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut model = Model::default();
    let mut history = Vec::new();
    for _ in 0..count {
        let operation = random_operation(&mut random);
        let root = &roots[random.random_range(0..roots.len())];
        let expected = model.run(&operation);
        let got = run(root, &operation);
        let shown = match &operation {
            Operation::Write(path, offset, data) => format!("Write({path:?}, {offset}, {})", describe(data)),
            other => format!("{other:?}"),
        };
        history.push(format!("{} {shown}", root.display()));
        assert!(
            got == expected,
            "seed {seed}: {shown} below {} gives {got:?}, must be {expected:?}; before it:\n{}",
            root.display(),
            history[history.len().saturating_sub(12)..].join("\n")
        );
    }
}

fn random_operation(random: &mut StdRng) -> Operation {
    let path = random_path(random);
    match random.random_range(0..16) {
        0 | 1 => Operation::Create(path),
        2..=4 => {
            let length = random.random_range(1..40_000);
            let byte = random.random::<u8>();
            Operation::Write(path, random.random_range(0..60_000), vec![byte; length])
        }
        5 => Operation::Truncate(path, random.random_range(0..80_000)),
        6 => Operation::Mkdir(path),
        7 => Operation::Unlink(path),
        8 => Operation::Rmdir(path),
        9 | 10 => Operation::Rename(path, random_path(random)),
        11 => Operation::Link(path, random_path(random)),
        12 => Operation::Symlink("nowhere/at-all".into(), path),
        13 => Operation::Chmod(path, [0o600, 0o644, 0o755, 0o700][random.random_range(0..4)]),
        14 => Operation::Read(path),
        _ if random.random() => Operation::List(path),
        _ => Operation::Stat(path),
    }
}

/// Few names, so that operations meet.
fn random_path(random: &mut StdRng) -> Vec<String> {
    let depth = random.random_range(1..4);
    (0..depth).map(|_| ["a", "b", "c", "d"][random.random_range(0..4)].to_owned()).collect()
}

fn run(root: &Path, operation: &Operation) -> Answer {
    let at = |path: &[String]| path.iter().fold(root.to_owned(), |folder, name| folder.join(name));
    let done = |result: std::io::Result<()>| result.map(|()| String::new()).map_err(|error| Errno::from_io(&error));
    match operation {
        Operation::Create(path) => {
            done(OpenOptions::new().write(true).create_new(true).mode(0o644).open(at(path)).map(drop))
        }
        Operation::Mkdir(path) => done(fs::create_dir(at(path))),
        Operation::Symlink(target, path) => done(symlink(target, at(path))),
        Operation::Write(path, offset, data) => {
            done(open(&at(path), OpenOptions::new().write(true)).and_then(|file| file.write_all_at(data, *offset)))
        }
        Operation::Truncate(path, length) => {
            done(open(&at(path), OpenOptions::new().write(true)).and_then(|file| file.set_len(*length)))
        }
        Operation::Read(path) => open(&at(path), OpenOptions::new().read(true))
            .and_then(|mut file| {
                let mut content = Vec::new();
                std::io::Read::read_to_end(&mut file, &mut content).map(|_| describe(&content))
            })
            .map_err(|error| Errno::from_io(&error)),
        Operation::Unlink(path) => done(fs::remove_file(at(path))),
        Operation::Rmdir(path) => done(fs::remove_dir(at(path))),
        Operation::Rename(from, to) => done(fs::rename(at(from), at(to))),
        Operation::Link(from, to) => done(fs::hard_link(at(from), at(to))),
        Operation::Chmod(path, mode) => done(chmod(&at(path), *mode)),
        Operation::List(path) => list(&at(path)),
        Operation::Stat(path) => stat(&at(path)),
    }
}

/// Without following a link at the end.
fn open(path: &Path, options: &mut OpenOptions) -> std::io::Result<fs::File> {
    options.custom_flags(libc::O_NOFOLLOW).open(path)
}

fn chmod(path: &Path, mode: u32) -> std::io::Result<()> {
    let kind = fs::symlink_metadata(path)?.file_type();
    if kind.is_symlink() {
        return Err(Errno::ELOOP.into());
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

fn list(path: &Path) -> Answer {
    let read = || -> std::io::Result<Vec<String>> {
        if fs::symlink_metadata(path)?.is_symlink() {
            return Err(Errno::ENOTDIR.into());
        }
        let mut names = fs::read_dir(path)?
            .map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned()))
            .collect::<Result<Vec<_>, _>>()?;
        names.sort();
        Ok(names)
    };
    read().map(|names| names.join(" ")).map_err(|error| Errno::from_io(&error))
}

fn stat(path: &Path) -> Answer {
    let metadata = fs::symlink_metadata(path).map_err(|error| Errno::from_io(&error))?;
    let mode = metadata.permissions().mode() & 0o7777;
    Ok(if metadata.is_file() {
        format!("file {} {} {mode:o}", metadata.len(), metadata.nlink())
    } else if metadata.is_symlink() {
        let target = fs::read_link(path).map_err(|error| Errno::from_io(&error))?;
        format!("link {}", target.display())
    } else {
        format!("directory {mode:o}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The model itself is right if a local filesystem agrees with it.
    #[test]
    fn the_local_filesystem_agrees_with_the_model() {
        for seed in 0..20 {
            let folder = tempfile::tempdir().expect("a folder");
            compare_random_operations(&[folder.path().to_owned()], seed, 400);
        }
    }
}
