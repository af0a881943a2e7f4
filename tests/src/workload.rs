//! Work that knows what its result must be: trees of files made from a seed, and the sources that cargo keeps.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};

/// The content of file `number` of the tree of `seed`.
pub fn content(seed: u64, number: usize) -> Vec<u8> {
    let mut random = StdRng::seed_from_u64(seed ^ (number as u64) << 20);
    let length = match random.random_range(0..10) {
        0 => 0,
        1..=6 => random.random_range(1..20_000),
        7 | 8 => random.random_range(20_000..300_000),
        _ => random.random_range(300_000..2_000_000),
    };
    let mut bytes = vec![0; length];
    random.fill_bytes(&mut bytes);
    bytes
}

/// Path of file `number`.
pub fn path(root: &Path, number: usize) -> PathBuf {
    root.join(format!("folder{}", number % 7)).join(format!("file{number}"))
}

/// Writes file `number`, synced or not.
///
/// # Errors
/// Any that an application would see.
pub fn write(root: &Path, seed: u64, number: usize, sync: bool) -> anyhow::Result<()> {
    let path = path(root, number);
    let folder = path.parent().context("it has a folder")?;
    fs::create_dir_all(folder)?;
    let mut file = File::create(&path).with_context(|| format!("create {}", path.display()))?;
    file.write_all(&content(seed, number)).with_context(|| format!("write {}", path.display()))?;
    if sync {
        file.sync_all().with_context(|| format!("fsync {}", path.display()))?;
        File::open(folder)?.sync_all().with_context(|| format!("fsync {}", folder.display()))?;
    }
    Ok(())
}

/// Whether file `number` is there with its content.
///
/// # Errors
/// What is wrong with it.
pub fn verify(root: &Path, seed: u64, number: usize) -> anyhow::Result<()> {
    let path = path(root, number);
    let mut got = Vec::new();
    File::open(&path)
        .and_then(|mut file| file.read_to_end(&mut got))
        .with_context(|| format!("read {}", path.display()))?;
    let expected = content(seed, number);
    ensure!(got.len() == expected.len(), "{} has {} bytes, not {}", path.display(), got.len(), expected.len());
    if let Some(at) = got.iter().zip(&expected).position(|(got, expected)| got != expected) {
        anyhow::bail!("{} differs from byte {at} on", path.display());
    }
    Ok(())
}

/// A folder with many source files: what cargo keeps of the crates that it built this project from.
///
/// # Errors
/// If cargo keeps none.
pub fn crate_sources() -> anyhow::Result<PathBuf> {
    let home = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo")));
    let registry = home.context("neither CARGO_HOME nor HOME is set")?.join("registry/src");
    fs::read_dir(&registry)
        .with_context(|| format!("no crate sources in {}", registry.display()))?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.is_dir())
        .with_context(|| format!("no crate sources in {}", registry.display()))
}
