//! Which master is meant, when the user does not say: that of the mount the path is on, of the current folder, or of
//! the only rfs mount there is.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use rfs_common::endpoint::{CLIENT_TO_MASTER_PORT, Endpoint};

/// A mounted rfs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RfsMount {
    /// Where.
    pub(super) mount_point: PathBuf,
    /// Its master.
    pub(super) master: Endpoint,
}

/// The master to ask. `path`: the file that the command is about.
pub(super) fn find(named: Option<&Endpoint>, path: Option<&Path>) -> anyhow::Result<Endpoint> {
    if let Some(endpoint) = named {
        return Ok(endpoint.clone());
    }
    let mounts = mounts()?;
    if let Some(path) = path {
        let absolute = fs::canonicalize(path).with_context(|| format!("cannot find {}", path.display()))?;
        return match mount_of(&mounts, &absolute) {
            Some(mount) => Ok(mount.master.clone()),
            None => bail!(
                "{} is not on a mount of rfs; give a path on one, or --master HOST and --from-root",
                path.display()
            ),
        };
    }
    let here = std::env::current_dir().ok();
    if let Some(mount) = here.as_deref().and_then(|folder| mount_of(&mounts, folder)) {
        return Ok(mount.master.clone());
    }
    let mut masters: Vec<&Endpoint> = mounts.iter().map(|mount| &mount.master).collect();
    masters.sort_by_key(ToString::to_string);
    masters.dedup();
    match masters.as_slice() {
        // By number: a minimal system has no names, not even its own.
        [] => Ok(Endpoint::new("127.0.0.1", CLIENT_TO_MASTER_PORT)),
        [only] => Ok((*only).clone()),
        several => {
            let list: Vec<String> = several.iter().map(ToString::to_string).collect();
            bail!("this machine has mounts of several masters ({}); say which with --master", list.join(", "))
        }
    }
}

/// The mount that an absolute path is on: the longest mount point that it begins with.
pub(super) fn mount_of<'a>(mounts: &'a [RfsMount], path: &Path) -> Option<&'a RfsMount> {
    mounts
        .iter()
        .filter(|mount| path.starts_with(&mount.mount_point))
        .max_by_key(|mount| mount.mount_point.as_os_str().len())
}

/// All mounts of rfs on this machine.
pub(super) fn mounts() -> anyhow::Result<Vec<RfsMount>> {
    let text = fs::read_to_string("/proc/self/mountinfo").context("cannot read /proc/self/mountinfo")?;
    Ok(text.lines().filter_map(parse_mount).collect())
}

/// Whether something is mounted on this very folder, given by its real path.
pub(super) fn is_mount_point(folder: &Path) -> anyhow::Result<bool> {
    let text = fs::read_to_string("/proc/self/mountinfo").context("cannot read /proc/self/mountinfo")?;
    Ok(text.lines().filter_map(|line| line.split(' ').nth(4)).any(|point| Path::new(&unescape(point)) == folder))
}

/// One line of mountinfo (proc(5)): fields 5 is the mount point, after the separator come type and source.
fn parse_mount(line: &str) -> Option<RfsMount> {
    let (before, after) = line.split_once(" - ")?;
    let mount_point = unescape(before.split(' ').nth(4)?);
    let mut after = after.split(' ');
    let (kind, source) = (after.next()?, unescape(after.next()?));
    if kind != "fuse.rfs" && kind != "rfs" {
        return None;
    }
    let address = source.split_once(":/").map_or(source.as_str(), |(address, _)| address);
    let master = Endpoint::parse(address, CLIENT_TO_MASTER_PORT).ok()?;
    Some(RfsMount { mount_point: PathBuf::from(mount_point), master })
}

/// mountinfo writes space, tab, newline and backslash as three octal digits.
fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let code = rest.get(at + 1..at + 4).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(code) => {
                out.push(char::from(code));
                rest = &rest[at + 4..];
            }
            None => {
                out.push('\\');
                rest = &rest[at + 1..];
            }
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_rfs_line_gives_mount_point_and_master() {
        let line = "40 28 0:36 / /mnt/my\\040files rw,nosuid shared:9 - fuse.rfs 10.0.0.1:9421:/home rw,user_id=0";
        let mount = parse_mount(line).expect("a mount");
        assert_eq!(mount.mount_point, PathBuf::from("/mnt/my files"));
        assert_eq!(mount.master, Endpoint::new("10.0.0.1", 9421));
        assert_eq!(parse_mount("28 1 254:0 / / rw - ext4 /dev/vda rw"), None);
    }

    #[test]
    fn the_deepest_mount_wins() {
        let mount = |path: &str, host: &str| RfsMount { mount_point: path.into(), master: Endpoint::new(host, 1) };
        let mounts = [mount("/a", "outer"), mount("/a/b", "inner")];
        assert_eq!(mount_of(&mounts, Path::new("/a/b/c")), Some(&mounts[1]));
        assert_eq!(mount_of(&mounts, Path::new("/a/bc")), Some(&mounts[0]));
        assert_eq!(mount_of(&mounts, Path::new("/b")), None);
    }
}
