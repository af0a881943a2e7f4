//! Which master is meant, when the user does not say: that of the mount the path is on, of the current folder, or of
//! the only rfs mount there is.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use rfs_common::endpoint::{CLIENT_TO_MASTER_PORT, Endpoint};

use crate::mountpoint::{self, MountEntry};

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
    let mounts = mountpoint::mounts().context("cannot read the mount table")?;
    Ok(mounts.into_iter().filter_map(rfs_mount).collect())
}

/// Whether something is mounted on this very folder, given by its real path.
pub(super) fn is_mount_point(folder: &Path) -> anyhow::Result<bool> {
    let mounts = mountpoint::mounts().context("cannot read the mount table")?;
    Ok(mountpoint::mount_at(&mounts, folder).is_some())
}

fn rfs_mount(mount: MountEntry) -> Option<RfsMount> {
    if !mount.is_rfs() {
        return None;
    }
    let address = mount.source.split_once(":/").map_or(mount.source.as_str(), |(address, _)| address);
    let master = Endpoint::parse(address, CLIENT_TO_MASTER_PORT).ok()?;
    Some(RfsMount { mount_point: mount.mount_point, master })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_rfs_line_gives_mount_point_and_master_whatever_the_others_are() {
        let table = b"28 1 254:0 / /odd\xff rw - ext4 /dev/vda rw\n\
            40 28 0:36 / /mnt/my\\040files rw,nosuid shared:9 - fuse.rfs 10.0.0.1:9421:/home rw,user_id=0\n";
        let mounts: Vec<_> = mountpoint::parse_mountinfo(table).into_iter().filter_map(rfs_mount).collect();
        assert_eq!(mounts, [RfsMount { mount_point: "/mnt/my files".into(), master: Endpoint::new("10.0.0.1", 9421) }]);
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
