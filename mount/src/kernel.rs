//! The kernel's side of a mount: telling it what to forget, and how far to read ahead.
//!
//! The client keeps the kernel's caches as right as its own: when a lease goes, it calls [`KernelCaches`] from threads of
//! its own that hold no lock. Each call here is one notification written to /dev/fuse and returns when the kernel has
//! obeyed. That can take as long as another request of this mount takes: forgetting an entry needs the directory's lock
//! in the kernel, forgetting data waits for pages that are being read or written.
//!
//! What always holds: an entry is made to *expire*, because dropping it would also detach whatever is mounted below it.
//! Only the name of a directory that has another by now is dropped, where nothing is mounted below this mount.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use fuser::{INodeNo, Notifier};
use rfs_common::ids::InodeId;
use rfs_common::size::ByteSize;

use crate::client::{Forgotten, KernelCaches};
use crate::mountpoint::{self, DeviceNumber};

/// The kernel's caches of one mount. Before [`KernelNotifier::connect`] there is no mount and so nothing to forget.
#[derive(Debug, Default)]
pub struct KernelNotifier {
    mounted: OnceLock<Mounted>,
}

#[derive(Debug)]
struct Mounted {
    notifier: Notifier,
    root: InodeId,
    device: Option<DeviceNumber>,
}

impl KernelNotifier {
    /// From now on there is a mount, whose root shows this inode. `device`: its number in the mount table, if it is there.
    pub fn connect(&self, notifier: Notifier, root: InodeId, device: Option<DeviceNumber>) {
        // A second call would be of the same mount.
        let _already = self.mounted.set(Mounted { notifier, root, device });
    }

    /// Whether something is mounted below the mount, or nobody knows.
    fn has_mounts_below(&self) -> bool {
        let device = self.mounted.get().and_then(|mounted| mounted.device);
        device.is_none_or(|device| mountpoint::has_mounts_below(device).unwrap_or(true))
    }

    fn notify(&self, what: &str, inode: InodeId, send: impl FnOnce(&Notifier, INodeNo) -> io::Result<()>) -> Forgotten {
        let Some(mounted) = self.mounted.get() else { return Forgotten::Yes };
        let node = if inode == mounted.root { INodeNo::ROOT } else { INodeNo(inode.get()) };
        match send(&mounted.notifier, node) {
            Ok(()) => tracing::trace!(%inode, "the kernel forgot {what}"),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Forgotten::NotKnown,
            // The mount is gone, and with it everything that the kernel kept of it.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENODEV | libc::ENOTCONN)) => {}
            Err(error) => tracing::warn!(%inode, %error, "the kernel did not forget {what}"),
        }
        Forgotten::Yes
    }
}

impl KernelCaches for KernelNotifier {
    fn invalidate_attributes(&self, inode: InodeId) -> Forgotten {
        self.notify("attributes", inode, |notifier, node| notifier.inval_known_inode(node, -1, 0))
    }

    fn invalidate_data(&self, inode: InodeId) -> Forgotten {
        self.notify("attributes and data", inode, |notifier, node| notifier.inval_known_inode(node, 0, 0))
    }

    fn invalidate_pages(&self, inode: InodeId, pages: Range<u64>) -> Forgotten {
        let offset = i64::try_from(pages.start).unwrap_or(i64::MAX);
        // No length is up to the end.
        let length = if pages.end == u64::MAX { 0 } else { i64::try_from(pages.end - pages.start).unwrap_or(0) };
        self.notify("attributes and pages", inode, |notifier, node| notifier.inval_known_inode(node, offset, length))
    }

    fn invalidate_entry(&self, parent: InodeId, name: &[u8]) {
        self.notify("an entry", parent, |notifier, node| notifier.expire_entry(node, OsStr::from_bytes(name)));
    }

    fn drop_directory(&self, parent: InodeId, name: &[u8]) {
        if self.has_mounts_below() {
            return self.invalidate_entry(parent, name);
        }
        self.notify("a directory", parent, |notifier, node| notifier.inval_entry(node, OsStr::from_bytes(name)));
    }
}

/// Raises the limits that the kernel has for FUSE mounts in general and that INIT cannot raise: how far it reads ahead,
/// and how much of the machine's dirty memory (of mapped files) may be of this mount. Failures are only logged: in a
/// container /sys is often read-only, and the mount works without this, more slowly.
pub fn tune(device: DeviceNumber, read_ahead: ByteSize) {
    let folder = PathBuf::from(format!("/sys/class/bdi/{device}"));
    let settings = [
        ("read_ahead_kb", (read_ahead.get() >> 10).to_string()),
        ("max_ratio", "100".to_owned()),
        ("strict_limit", "0".to_owned()),
    ];
    for (name, value) in settings {
        if let Err(error) = set(&folder.join(name), &value) {
            let file = folder.join(name);
            tracing::warn!(file = %file.display(), value, %error, "cannot tune the mount; reading may be slower");
        }
    }
}

fn set(file: &Path, value: &str) -> io::Result<()> {
    // A kernel that does not know the setting needs none.
    match fs::write(file, value) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        written => written,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn before_there_is_a_mount_nothing_has_to_be_forgotten() {
        let kernel = KernelNotifier::default();
        assert_eq!(kernel.invalidate_attributes(InodeId::ROOT), Forgotten::Yes);
        assert_eq!(kernel.invalidate_data(InodeId::ROOT), Forgotten::Yes);
        kernel.invalidate_entry(InodeId::ROOT, b"name");
    }

    #[test]
    fn settings_that_a_kernel_lacks_are_left_out() {
        let folder = tempfile::tempdir().unwrap();
        assert!(set(&folder.path().join("none").join("read_ahead_kb"), "1024").is_ok());
        assert!(set(folder.path(), "1").is_err());
    }
}
