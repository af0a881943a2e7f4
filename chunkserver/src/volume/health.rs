//! What a volume stands on: the mount, the filesystem, and how much space it has.
//!
//! A running daemon compares what it opened with what is there now: an unmounted filesystem would let it write to the root
//! disk, and a replaced one holds other chunks. Multipath, iSCSI session and storage machine will be read here too.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use rustix::fs::{AtFlags, StatxAttributes, StatxFlags};

use crate::system;

/// The mount and the filesystem under a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ground {
    /// Device number of the filesystem.
    pub device: (u32, u32),
    /// Number of the mount, never used again while the machine runs; 0 if the kernel (before 6.8) does not tell.
    pub mount: u64,
    /// UUID of the filesystem, or empty if nobody tells.
    pub filesystem_uuid: String,
    /// The folder is the root of a mount.
    pub is_mount_point: bool,
}

/// Space of a filesystem in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Space {
    /// All of it.
    pub total: u64,
    /// What an ordinary user may still take.
    pub free: u64,
}

/// `STATX_MNT_ID_UNIQUE` of linux/stat.h.
const MOUNT_ID_UNIQUE: StatxFlags = StatxFlags::from_bits_retain(0x4000);

impl Ground {
    /// Looks at the folder.
    ///
    /// # Errors
    /// Those of the system: the folder is not there, or its filesystem is dead.
    pub fn of(folder: &Path) -> io::Result<Ground> {
        Ground::of_open(&File::open(folder)?, folder)
    }

    /// Looks at a folder that is open.
    ///
    /// # Errors
    /// Those of the system.
    pub fn of_open(file: &File, folder: &Path) -> io::Result<Ground> {
        let known = rustix::fs::statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS | MOUNT_ID_UNIQUE)?;
        let mount = if known.stx_mask & MOUNT_ID_UNIQUE.bits() != 0 { known.stx_mnt_id } else { 0 };
        let is_mount_point = if known.stx_attributes_mask.contains(StatxAttributes::MOUNT_ROOT) {
            known.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)
        } else {
            is_on_another_device_than_its_parent(folder)?
        };
        let device = (known.stx_dev_major, known.stx_dev_minor);
        let uuid = system::filesystem_uuid(file).map(|bytes| uuid_text(&bytes));
        let filesystem_uuid = uuid.or_else(|| uuid_by_udev(device)).unwrap_or_default();
        Ok(Ground { device, mount, filesystem_uuid, is_mount_point })
    }

    /// What differs from the ground a volume was opened on, in words.
    pub fn difference(&self, now: &Ground) -> Option<String> {
        if self.mount != now.mount {
            return Some("its filesystem was unmounted or mounted anew".to_owned());
        }
        (self.device != now.device || self.filesystem_uuid != now.filesystem_uuid).then(|| {
            format!("another filesystem is mounted there ({} instead of {})", now.filesystem_uuid, self.filesystem_uuid)
        })
    }
}

fn is_on_another_device_than_its_parent(folder: &Path) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let (own, parent) = (fs::metadata(folder)?, fs::metadata(folder.join(".."))?);
    Ok(own.dev() != parent.dev() || own.ino() == parent.ino())
}

fn uuid_text(bytes: &[u8; 16]) -> String {
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// What udev found in the superblock, for kernels that do not tell the UUID.
fn uuid_by_udev(device: (u32, u32)) -> Option<String> {
    use std::os::unix::fs::MetadataExt;
    for entry in fs::read_dir("/dev/disk/by-uuid").ok()?.flatten() {
        let number = fs::metadata(entry.path()).ok()?.rdev();
        if (rustix::fs::major(number), rustix::fs::minor(number)) == device {
            return entry.file_name().into_string().ok();
        }
    }
    None
}

/// The space of the filesystem of an open file or folder.
///
/// # Errors
/// Those of the system.
pub fn space_of(file: &File) -> io::Result<Space> {
    let known = rustix::fs::fstatvfs(file)?;
    let bytes = |blocks: u64| blocks.saturating_mul(known.f_frsize);
    Ok(Space { total: bytes(known.f_blocks), free: bytes(known.f_bavail) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_mount_points_and_filesystems_apart() {
        let folder = tempfile::tempdir().unwrap();
        let here = Ground::of(folder.path()).unwrap();
        assert!(!here.is_mount_point);
        assert_eq!(here.difference(&Ground::of(folder.path()).unwrap()), None);
        let process = Ground::of(Path::new("/proc")).unwrap();
        assert!(process.is_mount_point);
        assert!(here.difference(&process).is_some());
        assert!(Ground::of(&folder.path().join("none")).is_err());
        assert!(space_of(&File::open(folder.path()).unwrap()).unwrap().total > 0);
    }
}
