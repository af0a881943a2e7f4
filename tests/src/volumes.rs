//! Where daemons keep their data in a test: plain folders, or XFS filesystems of their own on loop devices, which can be
//! full, and can lose power.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use anyhow::Context as _;
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, Signal, kill_process};

use crate::guardian::Guardian;
use crate::programs::run;

/// An XFS filesystem on a loop device.
pub struct XfsVolume {
    image: PathBuf,
    path: PathBuf,
    device: String,
    guardian: Guardian,
    /// What can fail, if anything can.
    failing: Option<FailingDisks>,
}

/// The disks of a volume that can fail: one for everything but XFS's log, and one for the log. Where only the first fails, the
/// filesystem lives, and the syncs of what was written tell of it; where both fail, XFS shuts down.
struct FailingDisks {
    /// A file here makes the disk fail.
    errors: PathBuf,
    log_device: String,
    servers: Vec<Pid>,
}

/// What a disk that can fail fails at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskError {
    /// Every read.
    Read,
    /// Every write, that of XFS's log too.
    Write,
    /// The writes that a sync has to do, and not those of XFS's log.
    Sync,
}

/// Whether an opened or mounted thing may be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Only read.
    ReadOnly,
    /// Read and written.
    ReadWrite,
}

const LOG_BYTES: u64 = 64 << 20;

impl XfsVolume {
    /// Makes one of `bytes` (at least 300 MiB, the least that mkfs.xfs takes) and mounts it on `path`.
    ///
    /// # Errors
    /// Those of the commands.
    pub fn create(guardian: &Guardian, image: PathBuf, path: PathBuf, bytes: u64) -> anyhow::Result<Self> {
        make_image(&image, bytes)?;
        let device = loop_device(guardian, &image)?;
        run(Command::new("mkfs.xfs").args(["-q", "-f", &device]))?;
        Self::create_on(guardian, image, path, device, None)
    }

    /// The same on disks that fail on demand, see [`Self::set_error`]: images behind nbdkit's error filter.
    ///
    /// # Errors
    /// Those of the commands.
    pub fn create_on_faulty_disk(
        guardian: &Guardian,
        image: PathBuf,
        path: PathBuf,
        bytes: u64,
    ) -> anyhow::Result<Self> {
        let errors = image.with_extension("errors");
        fs::create_dir(&errors)?;
        let log = image.with_extension("log");
        make_image(&image, bytes)?;
        make_image(&log, LOG_BYTES)?;
        let (device, data_server) = failing_disk(guardian, &image, &errors, "data")?;
        let (log_device, log_server) = failing_disk(guardian, &log, &errors, "log")?;
        run(Command::new("mkfs.xfs").args(["-q", "-f", "-l", &format!("logdev={log_device}"), &device]))?;
        let failing = FailingDisks { errors, log_device, servers: vec![data_server, log_server] };
        Self::create_on(guardian, image, path, device, Some(failing))
    }

    fn create_on(
        guardian: &Guardian,
        image: PathBuf,
        path: PathBuf,
        device: String,
        failing: Option<FailingDisks>,
    ) -> anyhow::Result<Self> {
        fs::create_dir_all(&path)?;
        let volume = Self { image, path, device, guardian: guardian.clone(), failing };
        volume.mount()?;
        Ok(volume)
    }

    /// From now on the disk fails so, or no longer.
    ///
    /// # Errors
    /// If it is not a disk that can.
    pub fn set_error(&self, error: DiskError, fails: bool) -> anyhow::Result<()> {
        let errors = &self.failing()?.errors;
        for name in error.files() {
            let file = errors.join(name);
            if fails {
                File::create(file).map(drop)?;
            } else {
                fs::remove_file(file)?;
            }
        }
        Ok(())
    }

    /// Nothing that is asked of the disk is answered any more, neither well nor badly, until it is told to go on.
    ///
    /// # Errors
    /// If it is not a disk that can.
    pub fn hang(&self) -> anyhow::Result<()> {
        self.signal_disks(Signal::STOP)
    }

    /// Ends what [`Self::hang`] began.
    ///
    /// # Errors
    /// As above.
    pub fn go_on(&self) -> anyhow::Result<()> {
        self.signal_disks(Signal::CONT)
    }

    fn signal_disks(&self, signal: Signal) -> anyhow::Result<()> {
        Ok(self.failing()?.servers.iter().try_for_each(|server| kill_process(*server, signal))?)
    }

    fn failing(&self) -> anyhow::Result<&FailingDisks> {
        self.failing.as_ref().context("its disk cannot fail")
    }

    /// Holds up everything that would change the filesystem.
    ///
    /// # Errors
    /// Those of fsfreeze.
    pub fn freeze(&self) -> anyhow::Result<()> {
        self.guardian.frozen(&self.path);
        run(Command::new("fsfreeze").arg("--freeze").arg(&self.path)).map(drop)
    }

    /// Ends what [`Self::freeze`] began.
    ///
    /// # Errors
    /// As above.
    pub fn thaw(&self) -> anyhow::Result<()> {
        run(Command::new("fsfreeze").arg("--unfreeze").arg(&self.path)).map(drop)
    }

    /// Mounts it anew, while it stays where it is, for reading only or for everything.
    ///
    /// # Errors
    /// Those of mount: it is in use for writing.
    pub fn remount(&self, access: Access) -> anyhow::Result<()> {
        let option = if access == Access::ReadOnly { "remount,ro" } else { "remount,rw" };
        run(Command::new("mount").args(["-o", option]).arg(&self.path)).map(drop)
    }

    /// A second volume that says that it is this one, as a copy of the LUN made by the storage does.
    ///
    /// # Errors
    /// Those of the commands.
    pub fn copy(&self, path: PathBuf) -> anyhow::Result<Self> {
        let image = path.with_extension("xfs");
        fs::create_dir(&path)?;
        self.freeze()?;
        let copied = run(Command::new("cp").arg("--sparse=always").arg(&self.image).arg(&image));
        self.thaw()?;
        copied?;
        let device = loop_device(&self.guardian, &image)?;
        Self::create_on(&self.guardian, image, path, device, None)
    }

    /// Gives up the device of a volume that is not mounted any more.
    ///
    /// # Errors
    /// Those of losetup.
    pub fn remove(self) -> anyhow::Result<()> {
        run(Command::new("losetup").args(["--detach", &self.device]))?;
        Ok(fs::remove_file(&self.image)?)
    }

    /// Takes all the space that is left; the file that does is removed to give it back.
    ///
    /// # Errors
    /// If the file cannot be made.
    pub fn fill(&self) -> anyhow::Result<PathBuf> {
        let path = self.path.join("filling");
        let file = File::create(&path)?;
        let mut end = 0;
        for step in [256 << 20, 16 << 20, 1 << 20, 64 << 10, 4 << 10] {
            while rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), end, step).is_ok() {
                end += step;
            }
        }
        Ok(path)
    }

    /// Unmounts it beneath whoever uses it: what they have open stays open.
    ///
    /// # Errors
    /// Those of umount.
    pub fn detach(&self) -> anyhow::Result<()> {
        run(Command::new("umount").arg("--lazy").arg(&self.path)).map(drop)
    }

    /// Mounts this volume somewhere else as well.
    ///
    /// # Errors
    /// Those of mount.
    pub fn mount_at(&self, path: &Path) -> anyhow::Result<()> {
        self.guardian.mount(path);
        let log = self.failing.as_ref().map_or_else(String::new, |disks| format!(",logdev={}", disks.log_device));
        let options = format!("nouuid{log}");
        run(Command::new("mount").args(["-t", "xfs", "-o", &options]).arg(&self.device).arg(path)).map(drop)
    }

    /// Its mount point.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Mounts it; the log is replayed as after a crash.
    ///
    /// # Errors
    /// Those of mount.
    pub fn mount(&self) -> anyhow::Result<()> {
        self.mount_at(&self.path)
    }

    /// Unmounts it.
    ///
    /// # Errors
    /// If it is in use.
    pub fn unmount(&self) -> anyhow::Result<()> {
        unmount_patiently(&self.path)
    }

    /// Drops everything that was not synced, at once, as a power cut does; every later access fails until it is
    /// unmounted and mounted again.
    ///
    /// # Errors
    /// Those of xfs_io.
    pub fn cut_power(&self) -> anyhow::Result<()> {
        run(Command::new("xfs_io").args(["-x", "-c", "shutdown"]).arg(&self.path)).map(drop)
    }

    /// The image file behind it.
    pub fn image(&self) -> &Path {
        &self.image
    }
}

/// How often it is looked for something that a process makes, 20 ms apart.
const LOOKS_MAX: u32 = 500;
/// How often, and for how many looks each, a disk's client is started.
const ATTEMPTS: u32 = 5;
const ATTEMPT_LOOKS: u32 = 150;

impl DiskError {
    fn files(self) -> &'static [&'static str] {
        match self {
            Self::Read => &["data-reads"],
            Self::Write => &["data-writes", "log-writes"],
            Self::Sync => &["data-writes"],
        }
    }
}

/// A block device of the image that fails while there is a file for it in `errors`, and the process that serves it.
fn failing_disk(guardian: &Guardian, image: &Path, errors: &Path, name: &str) -> anyhow::Result<(String, Pid)> {
    let (socket, disk) = (errors.join(format!("{name}-socket")), errors.join(format!("{name}-disk")));
    fs::create_dir(&disk)?;
    let mut server = Command::new("nbdkit");
    server.args(["--foreground", "--unix"]).arg(&socket).arg("--filter=error").arg("file").arg(image);
    for (call, kind) in [("pread", "reads"), ("pwrite", "writes"), ("zero", "writes")] {
        server.arg(format!("error-{call}=EIO")).arg(format!("error-{call}-rate=100%"));
        server.arg(format!("error-{call}-file={}", errors.join(format!("{name}-{kind}")).display()));
    }
    let server = start(guardian, &mut server)?;
    wait_for(&socket)?;
    guardian.mount(&disk);
    // The socket is there a moment before the server listens on it, and who comes in between is refused.
    let served = (0..ATTEMPTS).any(|_| {
        let mut client = Command::new("nbdfuse");
        start(guardian, client.arg(&disk).arg("--unix").arg(&socket)).is_ok()
            && appears(&disk.join("nbd"), ATTEMPT_LOOKS)
    });
    anyhow::ensure!(served, "{} does not appear", disk.display());
    Ok((loop_device(guardian, &disk.join("nbd"))?, server))
}

/// Unmounts, also if it is in use for a while: a process that another thread of the test is just starting has, until it becomes
/// another program, everything open that the test has open, and a busy disk has to bring that program first.
pub(crate) fn unmount_patiently(path: &Path) -> anyhow::Result<()> {
    for _ in 0..1000 {
        match unmount(path, UnmountFlags::empty()) {
            Err(Errno::BUSY) => sleep(Duration::from_millis(20)),
            done => return done.with_context(|| format!("cannot unmount {}", path.display())),
        }
    }
    anyhow::bail!("cannot unmount {}: it stays in use by {:?}", path.display(), users_of(path))
}

/// The processes that have something open below this folder, or stand in it: what, and their command lines.
fn users_of(folder: &Path) -> Vec<String> {
    let is_number = |entry: &fs::DirEntry| entry.file_name().to_string_lossy().parse::<u32>().is_ok();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let processes = entries.filter(is_number).map(|entry| entry.path());
    let links_of = |process: &Path| {
        let open = fs::read_dir(process.join("fd")).into_iter().flatten().flatten().map(|entry| entry.path());
        open.chain(["cwd", "root", "exe"].map(|name| process.join(name))).collect::<Vec<_>>()
    };
    processes
        .filter_map(|process| {
            let used = links_of(&process).into_iter().filter_map(|link| fs::read_link(link).ok());
            let used = used.into_iter().find(|target| target.starts_with(folder))?;
            let line = fs::read(process.join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            Some(format!("{}: {line}({})", process.display(), used.display()))
        })
        .collect()
}

fn make_image(image: &Path, bytes: u64) -> anyhow::Result<()> {
    Ok(File::create(image)?.set_len(bytes)?)
}

fn loop_device(guardian: &Guardian, image: &Path) -> anyhow::Result<String> {
    let device = run(Command::new("losetup").args(["-f", "--show", "--direct-io=off"]).arg(image))?.trim().to_owned();
    guardian.loop_device(&device, image);
    Ok(device)
}

fn start(guardian: &Guardian, command: &mut Command) -> anyhow::Result<Pid> {
    let child = command.current_dir("/").stdin(Stdio::null()).spawn().with_context(|| format!("{command:?}"))?;
    guardian.process(child.id());
    Pid::from_raw(child.id().cast_signed()).context("a process")
}

fn wait_for(path: &Path) -> anyhow::Result<()> {
    anyhow::ensure!(appears(path, LOOKS_MAX), "{} does not appear", path.display());
    Ok(())
}

fn appears(path: &Path, looks: u32) -> bool {
    (0..looks).any(|_| {
        sleep(Duration::from_millis(20));
        path.exists()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_a_file_open_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let _open = File::create(folder.path().join("file")).expect("made");
        let users = users_of(folder.path());
        let own = format!("/proc/{}: ", std::process::id());
        assert!(users.len() == 1 && users[0].starts_with(&own) && users[0].contains("file"), "{users:?}");
    }
}
