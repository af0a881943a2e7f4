//! Short words for what the cases say all the time: make this, expect that error, compare.

use std::fmt::Debug;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use rustix::io::Errno;

use super::calls;

/// Users and groups that need not exist.
pub(crate) const USER: u32 = 1000;
pub(crate) const OTHER: u32 = 1001;
pub(crate) const GROUP: u32 = 2000;

/// The call must fail with this error and no other.
pub(crate) fn refused<T>(result: Result<T, impl Into<io::Error>>, expected: Errno, what: &str) -> anyhow::Result<()> {
    refused_as(result, &[expected], what)
}

/// The call must fail with one of these errors.
pub(crate) fn refused_as<T>(
    result: Result<T, impl Into<io::Error>>,
    expected: &[Errno],
    what: &str,
) -> anyhow::Result<()> {
    match result.map_err(Into::into) {
        Ok(_) => bail!("{what}: it succeeds, must be refused with {expected:?}"),
        Err(error) => {
            let number = error.raw_os_error().with_context(|| format!("{what}: {error} has no number"))?;
            let got = Errno::from_raw_os_error(number);
            ensure!(expected.contains(&got), "{what}: refused with {error}, must be {expected:?}");
            Ok(())
        }
    }
}

/// Both must be equal.
#[allow(clippy::needless_pass_by_value, reason = "callers compare what they have just computed")]
pub(crate) fn same<T: PartialEq<U> + Debug, U: Debug>(got: T, expected: U, what: &str) -> anyhow::Result<()> {
    ensure!(got == expected, "{what}: {got:?}, must be {expected:?}");
    Ok(())
}

/// Contents must be equal; names the first byte that is not, instead of printing them.
pub(crate) fn same_bytes(got: &[u8], expected: &[u8], what: &str) -> anyhow::Result<()> {
    ensure!(got.len() == expected.len(), "{what}: {} bytes, must be {}", got.len(), expected.len());
    if let Some(at) = got.iter().zip(expected).position(|(got, expected)| got != expected) {
        bail!("{what}: byte {at} is {:#x}, must be {:#x}", got[at], expected[at]);
    }
    Ok(())
}

/// A file with this content and mode 0644.
pub(crate) fn make_file(path: &Path, content: &[u8]) -> anyhow::Result<()> {
    fs::write(path, content).with_context(|| format!("write {}", path.display()))?;
    chmod(path, 0o644)
}

/// A file with some content, of this user and mode.
pub(crate) fn make_owned(path: &Path, uid: u32, gid: u32, mode: u32) -> anyhow::Result<()> {
    make_file(path, b"content")?;
    chown(path, uid, gid)?;
    chmod(path, mode)
}

/// A folder of this user and mode.
pub(crate) fn make_folder(path: &Path, uid: u32, gid: u32, mode: u32) -> anyhow::Result<()> {
    fs::create_dir(path).with_context(|| format!("mkdir {}", path.display()))?;
    chown(path, uid, gid)?;
    chmod(path, mode)
}

/// Opens for reading and writing, and makes it if it is not there.
pub(crate) fn open_new(path: &Path) -> anyhow::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .with_context(|| format!("open {}", path.display()))
}

pub(crate) fn chmod(path: &Path, mode: u32) -> anyhow::Result<()> {
    fs::set_permissions(path, Permissions::from_mode(mode))
        .with_context(|| format!("chmod {mode:o} {}", path.display()))
}

pub(crate) fn chown(path: &Path, uid: u32, gid: u32) -> anyhow::Result<()> {
    std::os::unix::fs::lchown(path, Some(uid), Some(gid)).with_context(|| format!("chown {}", path.display()))
}

/// Permissions and set-id and sticky bits.
pub(crate) fn mode(path: &Path) -> anyhow::Result<u32> {
    Ok(stat(path)?.mode() & 0o7777)
}

/// The mode must be this.
pub(crate) fn has_mode(path: &Path, expected: u32, what: &str) -> anyhow::Result<()> {
    let got = mode(path)?;
    ensure!(got == expected, "{what}: mode {got:04o}, must be {expected:04o}");
    Ok(())
}

/// Without following a link at the end.
pub(crate) fn stat(path: &Path) -> anyhow::Result<fs::Metadata> {
    fs::symlink_metadata(path).with_context(|| format!("stat {}", path.display()))
}

pub(crate) fn links(path: &Path) -> anyhow::Result<u64> {
    Ok(stat(path)?.nlink())
}

/// Names in a folder, sorted.
pub(crate) fn names(path: &Path) -> anyhow::Result<Vec<String>> {
    let mut names = fs::read_dir(path)?
        .map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned()))
        .collect::<Result<Vec<_>, _>>()?;
    names.sort();
    Ok(names)
}

/// Runs `work` as a user with a group of the same number and no others.
pub(crate) fn as_user<T: Send>(uid: u32, work: impl FnOnce() -> anyhow::Result<T> + Send) -> anyhow::Result<T> {
    calls::as_user_of_groups(uid, uid, &[], work)
}

/// Longer than the kernel's coarse clock stands still.
pub(crate) fn let_time_pass() {
    sleep(Duration::from_millis(15));
}

/// Bytes that differ from place to place.
pub(crate) fn pattern(length: usize, seed: u8) -> Vec<u8> {
    (0..length).map(|at| (at % 251) as u8 ^ ((at >> 8) as u8).wrapping_mul(7) ^ seed).collect()
}
