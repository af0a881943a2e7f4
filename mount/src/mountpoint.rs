//! The folder to mount on: what may be there, and what the kernel's mount table says about it.
//!
//! The mount table is `/proc/self/mountinfo` (proc_pid_mountinfo(5)): one line per mount, in which space, tab, newline and
//! backslash are written as `\ooo`. Several mounts can lie on one folder; the last line is the one that is seen.
//!
//! What always holds: a mount that works is never touched. Only one whose process is gone, of our own type, is detached.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, StatxFlags, major, minor, statx};
use rustix::mount::{UnmountFlags, unmount};

/// Where the kernel shows this process's mounts.
const MOUNTINFO: &str = "/proc/self/mountinfo";

/// The type of our mounts in the mount table.
pub const MOUNT_TYPE: &str = "fuse.rfs";

/// Dead mounts that can lie on each other on one folder; more are surely something else.
const DEAD_MOUNTS_MAX: usize = 16;

/// The number of a device, by which sysfs knows a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DeviceNumber {
    /// The driver.
    pub major: u32,
    /// The device of the driver.
    pub minor: u32,
}

impl std::fmt::Display for DeviceNumber {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}:{}", self.major, self.minor)
    }
}

/// One line of the mount table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountEntry {
    /// The device that `stat` shows for files in it.
    pub device: DeviceNumber,
    /// The folder it lies on.
    pub mount_point: PathBuf,
    /// How it lies there, such as `rw,nosuid`.
    pub options: String,
    /// The type, such as `ext4` or `fuse.rfs`.
    pub kind: String,
    /// What is mounted; of rfs, `MASTER:PORT[:/SUBDIR]`.
    pub source: String,
    /// The options of the file system itself.
    pub super_options: String,
}

impl MountEntry {
    /// Whether it is a mount of rfs.
    pub fn is_rfs(&self) -> bool {
        self.kind == MOUNT_TYPE
    }
}

/// All mounts that this process sees, in the kernel's order.
pub fn mounts() -> io::Result<Vec<MountEntry>> {
    fs::read(MOUNTINFO).map(|text| parse_mountinfo(&text))
}

/// Whether anything is mounted on a folder of the file system with this number, as far as this process sees.
///
/// # Errors
/// If the mount table cannot be read.
pub fn has_mounts_below(device: DeviceNumber) -> io::Result<bool> {
    fs::read(MOUNTINFO).map(|text| lie_below(&text, device))
}

fn lie_below(mountinfo: &[u8], device: DeviceNumber) -> bool {
    let device = device.to_string();
    let fields = |line: &[u8]| -> Option<[Vec<u8>; 3]> {
        let mut fields = line.split(|byte| *byte == b' ').map(<[u8]>::to_vec);
        Some([fields.next()?, fields.next()?, fields.next()?])
    };
    let mounts: Vec<[Vec<u8>; 3]> = mountinfo.split(|byte| *byte == b'\n').filter_map(fields).collect();
    let is_ours = |number: &[u8]| mounts.iter().any(|[own, _, of]| own == number && of == device.as_bytes());
    mounts.iter().any(|[_, parent, _]| is_ours(parent))
}

/// Reads the mount table. Lines that do not look like one are left out: a newer kernel may add what we do not know.
pub fn parse_mountinfo(text: &[u8]) -> Vec<MountEntry> {
    text.split(|byte| *byte == b'\n').filter_map(parse_line).collect()
}

fn parse_line(line: &[u8]) -> Option<MountEntry> {
    let mut fields = line.split(|byte| *byte == b' ');
    let device = std::str::from_utf8(fields.nth(2)?).ok()?;
    let (major, minor) = device.split_once(':')?;
    let mount_point = PathBuf::from(OsStr::from_bytes(&unescape(fields.nth(1)?)));
    let options = fields.next()?;
    // Optional fields stand before a lone hyphen.
    fields.find(|field| *field == b"-")?;
    let text = |field: &[u8]| String::from_utf8_lossy(&unescape(field)).into_owned();
    Some(MountEntry {
        device: DeviceNumber { major: major.parse().ok()?, minor: minor.parse().ok()? },
        mount_point,
        options: text(options),
        kind: text(fields.next()?),
        source: text(fields.next()?),
        super_options: fields.next().map(text).unwrap_or_default(),
    })
}

/// Undoes the kernel's `\ooo`.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, others @ ..] = rest {
        match (first, others) {
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..]) => {
                plain.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = after;
            }
            _ => {
                plain.push(*first);
                rest = others;
            }
        }
    }
    plain
}

/// The mount that is seen at this folder, which must be written without symbolic links.
pub fn mount_at<'a>(mounts: &'a [MountEntry], folder: &Path) -> Option<&'a MountEntry> {
    mounts.iter().rev().find(|mount| mount.mount_point == folder)
}

/// The mount that a file lies in.
pub fn mount_of(path: &Path) -> io::Result<Option<MountEntry>> {
    let stat = rustix::fs::stat(path)?;
    let device = DeviceNumber { major: major(stat.st_dev), minor: minor(stat.st_dev) };
    let resolved = path.canonicalize()?;
    // A file system can be mounted on several folders; the one that the path leads through is meant.
    let fits = |mount: &MountEntry| resolved.starts_with(&mount.mount_point);
    Ok(mounts()?.into_iter().filter(|mount| mount.device == device).max_by_key(fits))
}

/// Why nothing can be mounted there.
#[derive(Debug, thiserror::Error)]
pub enum MountPointError {
    /// There is no such folder.
    #[error("the mount point {path} does not exist; create it with mkdir", path = .0.display())]
    Missing(PathBuf),
    /// There is a file.
    #[error("the mount point {path} is not a folder; choose or create one", path = .0.display())]
    NotAFolder(PathBuf),
    /// The folder has entries.
    #[error(
        "the mount point {path} is not empty, and the mount would hide what is in it; use another folder, or -o nonempty",
        path = .0.display()
    )]
    NotEmpty(PathBuf),
    /// A living mount of ours is there.
    #[error("{source_name} is already mounted on {path}; unmount it first with: umount {path}", path = path.display())]
    AlreadyMounted {
        /// The folder.
        path: PathBuf,
        /// What is mounted there.
        source_name: String,
    },
    /// What is mounted there is dead, and cannot be taken away.
    #[error("what was mounted on {path} is dead and cannot be detached; try: umount -l {path}", path = path.display())]
    Dead {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The folder cannot be looked at.
    #[error("cannot use the mount point {path}", path = path.display())]
    Unusable {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Whether a mount point may have something in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// It must be empty.
    MustBeEmpty,
    /// The mount hides it.
    MayBeHidden,
}

/// Makes sure that something can be mounted on this folder, and detaches dead mounts of ours from it (telling so by
/// `report`). Returns the folder without symbolic links, as the mount table will show it.
pub fn prepare(path: &Path, content: Content, mut report: impl FnMut(&str)) -> Result<PathBuf, MountPointError> {
    let unusable = |source| MountPointError::Unusable { path: path.to_owned(), source };
    let folder = resolve(path, &mut report)?;
    let metadata = fs::metadata(&folder).map_err(|source| unusable_or_missing(path, source))?;
    if !metadata.is_dir() {
        return Err(MountPointError::NotAFolder(path.to_owned()));
    }
    let mounts = mounts().map_err(unusable)?;
    if let Some(mount) = mount_at(&mounts, &folder).filter(|mount| mount.is_rfs()) {
        return Err(MountPointError::AlreadyMounted { path: folder, source_name: mount.source.clone() });
    }
    let has_entries = fs::read_dir(&folder).map_err(unusable)?.next().is_some();
    if has_entries && content == Content::MustBeEmpty {
        return Err(MountPointError::NotEmpty(folder));
    }
    Ok(folder)
}

fn unusable_or_missing(path: &Path, source: io::Error) -> MountPointError {
    match source.kind() {
        io::ErrorKind::NotFound => MountPointError::Missing(path.to_owned()),
        io::ErrorKind::NotADirectory => MountPointError::NotAFolder(path.to_owned()),
        _ => MountPointError::Unusable { path: path.to_owned(), source },
    }
}

/// The folder without symbolic links, and without dead mounts of ours on it.
fn resolve(path: &Path, report: &mut impl FnMut(&str)) -> Result<PathBuf, MountPointError> {
    for _ in 0..DEAD_MOUNTS_MAX {
        match path.canonicalize().and_then(|folder| ask(&folder).map(|()| folder)) {
            Err(error) if is_dead(&error) => detach_dead(path, error, report)?,
            resolved => return resolved.map_err(|source| unusable_or_missing(path, source)),
        }
    }
    let source = io::Error::other("there are too many dead mounts on it");
    Err(MountPointError::Dead { path: path.to_owned(), source })
}

/// Has whoever serves the folder answer: what the kernel keeps of a folder outlives the process that told it.
fn ask(folder: &Path) -> io::Result<()> {
    statx(CWD, folder, AtFlags::STATX_FORCE_SYNC, StatxFlags::BASIC_STATS).map(drop).map_err(io::Error::from)
}

/// Whether the error says that the process behind a FUSE mount is gone.
fn is_dead(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOTCONN | libc::ECONNABORTED))
}

fn detach_dead(path: &Path, seen: io::Error, report: &mut impl FnMut(&str)) -> Result<(), MountPointError> {
    let dead = |source| MountPointError::Dead { path: path.to_owned(), source };
    let folder = resolve_above(path).map_err(dead)?;
    let mounts = mounts().map_err(dead)?;
    if !mount_at(&mounts, &folder).is_some_and(MountEntry::is_rfs) {
        return Err(MountPointError::Unusable { path: path.to_owned(), source: seen });
    }
    unmount(&folder, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW).map_err(|errno| dead(errno.into()))?;
    report(&format!("{} had a mount whose process was gone; detached it", folder.display()));
    Ok(())
}

/// The path with everything above its last part resolved, as the last part is not to be touched.
fn resolve_above(path: &Path) -> io::Result<PathBuf> {
    let absolute = std::path::absolute(path)?;
    match (absolute.parent(), absolute.file_name()) {
        (Some(parent), Some(name)) => Ok(parent.canonicalize()?.join(name)),
        _ => Ok(absolute),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[u8] = b"\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n\
30 22 0:45 / /mnt/with\\040space rw,nosuid,nodev,relatime shared:7 master:3 - fuse.rfs sto\\0401:9421:/a rw,user_id=0\n\
31 22 0:46 / /mnt/two rw - fuse.rfs first:9421 rw\n\
32 31 0:47 / /mnt/two rw - tmpfs none rw\n\
33 22 0:48 / /mnt/odd\\134name rw - fuse.rfs [::1]:9421 rw\n\
what is this\n\
34 22 x:y / /mnt/bad rw - ext4 none rw\n";

    #[test]
    fn reads_the_mount_table() {
        let mounts = parse_mountinfo(TABLE);
        assert_eq!(mounts.len(), 5);
        let rfs = &mounts[1];
        assert_eq!(rfs.device.to_string(), "0:45");
        assert_eq!(rfs.mount_point, Path::new("/mnt/with space"));
        assert_eq!((rfs.kind.as_str(), rfs.source.as_str()), ("fuse.rfs", "sto 1:9421:/a"));
        assert!(rfs.is_rfs() && !mounts[0].is_rfs());
        assert_eq!(mounts[4].mount_point, Path::new("/mnt/odd\\name"));
    }

    #[test]
    fn the_last_mount_on_a_folder_is_the_one_seen() {
        let mounts = parse_mountinfo(TABLE);
        assert_eq!(mount_at(&mounts, Path::new("/mnt/two")).unwrap().kind, "tmpfs");
        assert!(mount_at(&mounts, Path::new("/mnt")).is_none());
    }

    #[test]
    fn mounts_below_another_are_seen() {
        let below = |minor| lie_below(TABLE, DeviceNumber { major: 0, minor });
        assert_eq!([45, 46, 47].map(below), [false, true, false]);
    }

    #[test]
    fn only_complete_escapes_are_undone() {
        assert_eq!(unescape(b"a\\011b\\12\\400\\"), b"a\tb\\12\\400\\");
    }

    #[test]
    fn the_real_table_has_what_we_need() {
        let mount = mount_of(Path::new("/proc")).unwrap().expect("a mount of /proc");
        assert_eq!((mount.kind.as_str(), mount.mount_point.as_path()), ("proc", Path::new("/proc")));
    }

    fn refusal(path: &Path) -> String {
        prepare(path, Content::MustBeEmpty, |_| ()).unwrap_err().to_string()
    }

    #[test]
    fn unsuitable_mount_points_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, b"x").unwrap();
        assert!(refusal(&folder.path().join("none")).contains("does not exist"));
        assert!(refusal(&file).contains("is not a folder"));
        assert!(refusal(&file.join("below")).contains("is not a folder"));
        assert!(refusal(folder.path()).contains("is not empty"));
        let hidden = prepare(folder.path(), Content::MayBeHidden, |_| ()).unwrap();
        assert_eq!(hidden, folder.path().canonicalize().unwrap());
        let link = folder.path().join("link");
        fs::create_dir(folder.path().join("empty")).unwrap();
        std::os::unix::fs::symlink("empty", &link).unwrap();
        assert_eq!(prepare(&link, Content::MustBeEmpty, |_| ()).unwrap(), hidden.join("empty"));
    }
}
