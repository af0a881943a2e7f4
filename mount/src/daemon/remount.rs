//! `-o remount`: makes a mount read-only, or writable again.
//!
//! It is done with the flags of the mount in the tree (MS_BIND), not with those of the file system behind it: the process that
//! serves it is not asked, and keeps its session, so what was written before still gets to the disks. A mount that was
//! *mounted* read-only has a session that may not change anything, which no flag here could alter.
//!
//! What always holds: nothing but `ro` changes; restrictions such as `nosuid` stay, whatever else stands after `-o`.

use std::io;
use std::path::Path;

use rustix::mount::{MountFlags, mount_remount};

use super::{ExitStatus, Failure, chain};
use crate::mountpoint::{self, MountEntry};
use crate::options::MountRequest;

/// Carries out the request.
pub(super) fn remount(request: &MountRequest) -> Result<(), Failure> {
    let refuse = |text: String| Failure::new(ExitStatus::MountFailed, text);
    let folder = request.absolute_mount_point();
    let shown = folder.display();
    let mounts = mountpoint::mounts().map_err(|error| refuse(chain(&error)))?;
    let Some(mount) = mountpoint::mount_at(&mounts, &folder).filter(|mount| mount.is_rfs()) else {
        return Err(refuse(format!("nothing of rfs is mounted on {shown}, so there is nothing to remount")));
    };
    let read_only = request.options.read_only;
    if !read_only && has(&mount.super_options, "ro") {
        return Err(refuse(format!(
            "{shown} was mounted read-only, and the master holds its session to that; unmount it and mount it again"
        )));
    }
    change(&folder, flags(mount, read_only)).map_err(|error| match error.raw_os_error() {
        Some(libc::EBUSY) => {
            refuse(format!("files on {shown} are open for writing; close them first (fuser -m {shown})"))
        }
        _ => refuse(format!("cannot remount {shown}: {error}")),
    })
}

fn change(folder: &Path, flags: MountFlags) -> io::Result<()> {
    mount_remount(folder, flags, "").map_err(io::Error::from)
}

/// The flags that the mount has, but for `ro`. Those of access times that are not given stay as they are.
fn flags(mount: &MountEntry, read_only: bool) -> MountFlags {
    let kept = [
        ("nosuid", MountFlags::NOSUID),
        ("nodev", MountFlags::NODEV),
        ("noexec", MountFlags::NOEXEC),
        ("noatime", MountFlags::NOATIME),
        ("nodiratime", MountFlags::NODIRATIME),
        ("relatime", MountFlags::RELATIME),
    ];
    let kept = kept.into_iter().filter(|(name, _)| has(&mount.options, name)).map(|(_, flag)| flag);
    let mut flags: MountFlags = kept.chain([MountFlags::BIND]).collect();
    flags.set(MountFlags::RDONLY, read_only);
    flags
}

fn has(options: &str, wanted: &str) -> bool {
    options.split(',').any(|option| option == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ro_changes() {
        let table = b"30 22 0:45 / /mnt rw,nosuid,nodev,relatime shared:7 - fuse.rfs m:1 rw,user_id=0\n";
        let mount = mountpoint::parse_mountinfo(table).remove(0);
        let kept = MountFlags::BIND | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::RELATIME;
        assert_eq!(flags(&mount, false), kept);
        assert_eq!(flags(&mount, true), kept | MountFlags::RDONLY);
    }
}
