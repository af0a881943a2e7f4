//! Fifos, sockets, devices; the filesystem as a whole; limits of a process; notifications.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use anyhow::{Context as _, ensure};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::fs::{AtFlags, CWD, FileType, Mode, StatxFlags, makedev, mkfifoat, mknodat, statvfs, statx};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, setrlimit};

use super::calls::{ChildEnd, ignore_file_size_signal, in_child};
use super::checks::{USER, as_user, chmod, make_file, refused, same, stat};
use super::{Case, cases};

pub(super) const CASES: &[Case] = cases![
    a_fifo_carries_data,
    a_socket_has_a_name,
    devices_keep_their_numbers,
    only_root_makes_devices,
    a_device_is_opened,
    mknod_makes_plain_files,
    the_filesystem_has_a_size,
    statx_tells_what_stat_tells,
    inode_numbers_are_stable_and_different,
    the_file_size_limit_of_a_process,
    changes_are_notified,
    rdev_of_others_is_zero,
];

fn a_fifo_carries_data(folder: &Path) -> anyhow::Result<()> {
    let path = folder.join("fifo");
    mkfifoat(CWD, &path, Mode::from_raw_mode(0o600))?;
    ensure!(stat(&path)?.file_type().is_fifo(), "a fifo");
    let mut text = String::new();
    std::thread::scope(|scope| -> anyhow::Result<()> {
        let writer = scope.spawn(|| OpenOptions::new().write(true).open(&path)?.write_all(b"through the fifo"));
        File::open(&path)?.read_to_string(&mut text)?;
        Ok(writer.join().expect("no panic")?)
    })?;
    same(text, "through the fifo", "what arrives")?;
    same(stat(&path)?.len(), 0, "length")
}

fn a_socket_has_a_name(folder: &Path) -> anyhow::Result<()> {
    // A socket's path is limited to 107 bytes.
    std::env::set_current_dir(folder)?;
    let listener = UnixListener::bind("socket")?;
    ensure!(stat(&folder.join("socket"))?.file_type().is_socket(), "a socket");
    let mut client = UnixStream::connect("socket")?;
    let (mut server, _) = listener.accept()?;
    client.write_all(b"hello")?;
    let mut back = [0; 5];
    server.read_exact(&mut back)?;
    same(&back, b"hello", "what arrives")?;
    refused(UnixListener::bind("socket"), Errno::ADDRINUSE, "bound again")?;
    refused(File::open("socket"), Errno::NXIO, "open")?;
    fs::remove_file("socket").map_err(Into::into)
}

/// Up to the largest numbers that XFS takes.
fn devices_keep_their_numbers(folder: &Path) -> anyhow::Result<()> {
    for (number, (kind, major, minor)) in [
        (FileType::CharacterDevice, 1, 3),
        (FileType::BlockDevice, 7, 200),
        (FileType::CharacterDevice, 511, 262_143),
        (FileType::BlockDevice, 0, 0),
    ]
    .into_iter()
    .enumerate()
    {
        let path = folder.join(format!("device{number}"));
        mknodat(CWD, &path, kind, Mode::from_raw_mode(0o640), makedev(major, minor))
            .with_context(|| format!("mknod {kind:?} {major}:{minor}"))?;
        let stat = stat(&path)?;
        same(stat.rdev(), makedev(major, minor), "the device's number")?;
        same(stat.file_type().is_char_device(), kind == FileType::CharacterDevice, "its kind")?;
        same(stat.file_type().is_block_device(), kind == FileType::BlockDevice, "its kind")?;
    }
    Ok(())
}

fn only_root_makes_devices(folder: &Path) -> anyhow::Result<()> {
    chmod(folder, 0o777)?;
    as_user(USER, || {
        let mode = Mode::from_raw_mode(0o600);
        let device = mknodat(CWD, folder.join("device"), FileType::CharacterDevice, mode, makedev(1, 3));
        refused(device, Errno::PERM, "mknod of a device")?;
        Ok(mkfifoat(CWD, folder.join("fifo"), mode)?)
    })
}

fn a_device_is_opened(folder: &Path) -> anyhow::Result<()> {
    let path = folder.join("zero");
    mknodat(CWD, &path, FileType::CharacterDevice, Mode::from_raw_mode(0o600), makedev(1, 5))?;
    match File::open(&path) {
        // A mount may have nodev.
        Err(error) => refused::<()>(Err(error), Errno::ACCESS, "open"),
        Ok(mut file) => {
            let mut back = [1; 8];
            file.read_exact(&mut back)?;
            same(back, [0; 8], "/dev/zero under another name")
        }
    }
}

fn mknod_makes_plain_files(folder: &Path) -> anyhow::Result<()> {
    let path = folder.join("file");
    mknodat(CWD, &path, FileType::RegularFile, Mode::from_raw_mode(0o640), 0)?;
    ensure!(stat(&path)?.is_file(), "a file");
    fs::write(&path, "content")?;
    same(fs::read_to_string(&path)?, "content", "content")
}

fn the_filesystem_has_a_size(folder: &Path) -> anyhow::Result<()> {
    let all = statvfs(folder)?;
    ensure!(all.f_bsize > 0 && all.f_frsize > 0 && all.f_blocks > 0, "no blocks, or of no size");
    ensure!(all.f_bavail > 0 && all.f_bfree <= all.f_blocks, "{} of {} blocks are free", all.f_bfree, all.f_blocks);
    ensure!(all.f_files > 0 && all.f_ffree > 0, "{} of {} inodes are free", all.f_ffree, all.f_files);
    same(all.f_namemax, 255, "the longest name")?;
    crate::programs::shell(folder, "df . && df -i . && stat -f .").map(drop)
}

fn statx_tells_what_stat_tells(folder: &Path) -> anyhow::Result<()> {
    let path = folder.join("file");
    make_file(&path, b"content")?;
    let wanted = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
    let extended = statx(CWD, &path, AtFlags::empty(), wanted)?;
    let stat = stat(&path)?;
    same(
        (extended.stx_ino, extended.stx_size, u64::from(extended.stx_nlink)),
        (stat.ino(), stat.size(), stat.nlink()),
        "statx",
    )?;
    same(
        (extended.stx_mtime.tv_sec, i64::from(extended.stx_mtime.tv_nsec)),
        (stat.mtime(), stat.mtime_nsec()),
        "mtime",
    )?;
    same(
        (extended.stx_ctime.tv_sec, i64::from(extended.stx_ctime.tv_nsec)),
        (stat.ctime(), stat.ctime_nsec()),
        "ctime",
    )?;
    ensure!(stat.blksize() >= 512, "block size {}", stat.blksize());
    Ok(())
}

fn inode_numbers_are_stable_and_different(folder: &Path) -> anyhow::Result<()> {
    let mut seen = std::collections::BTreeSet::new();
    for number in 0..100 {
        make_file(&folder.join(format!("file{number}")), b"")?;
        ensure!(seen.insert(stat(&folder.join(format!("file{number}")))?.ino()), "a number is used twice");
    }
    for number in 0..100 {
        ensure!(seen.contains(&stat(&folder.join(format!("file{number}")))?.ino()), "a number changed");
    }
    same(stat(folder)?.dev(), stat(&folder.join("file0"))?.dev(), "the device of a folder and of a file in it")
}

fn the_file_size_limit_of_a_process(folder: &Path) -> anyhow::Result<()> {
    let path = folder.join("file");
    let end = in_child(|| {
        ignore_file_size_signal();
        setrlimit(Resource::Fsize, Rlimit { current: Some(10_000), maximum: Some(10_000) })?;
        let mut file = File::create(&path)?;
        file.write_all(&[1; 10_000])?;
        refused(file.write(&[1]), Errno::FBIG, "a write behind the limit")?;
        refused(file.set_len(10_001), Errno::FBIG, "ftruncate behind the limit")?;
        same(file.metadata()?.len(), 10_000, "length")
    })?;
    same(end, ChildEnd::Returned(Ok(())), "the limited process")
}

fn changes_are_notified(folder: &Path) -> anyhow::Result<()> {
    let watch = inotify::init(CreateFlags::NONBLOCK)?;
    let wanted =
        WatchFlags::CREATE | WatchFlags::MODIFY | WatchFlags::DELETE | WatchFlags::MOVE | WatchFlags::CLOSE_WRITE;
    inotify::add_watch(&watch, folder, wanted)?;
    fs::write(folder.join("file"), "content")?;
    fs::rename(folder.join("file"), folder.join("moved"))?;
    fs::remove_file(folder.join("moved"))?;
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut reader = inotify::Reader::new(&watch, &mut buffer);
    let mut seen = inotify::ReadFlags::empty();
    while let Ok(event) = reader.next() {
        seen |= event.events();
    }
    use inotify::ReadFlags as Flags;
    let expected =
        Flags::CREATE | Flags::MODIFY | Flags::CLOSE_WRITE | Flags::MOVED_FROM | Flags::MOVED_TO | Flags::DELETE;
    ensure!(seen.contains(expected), "notified of {seen:?}, must be {expected:?}");
    Ok(())
}

fn rdev_of_others_is_zero(folder: &Path) -> anyhow::Result<()> {
    make_file(&folder.join("file"), b"")?;
    same(stat(&folder.join("file"))?.rdev(), 0, "of a file")?;
    same(stat(folder)?.rdev(), 0, "of a folder")
}
