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

use crate::guardian::Guardian;
use crate::programs::run;

/// An XFS filesystem on a loop device.
pub struct XfsVolume {
    image: PathBuf,
    path: PathBuf,
    device: String,
    guardian: Guardian,
    /// Where files tell the disk to fail, if it can.
    errors: Option<PathBuf>,
}

/// What a disk that can fail fails at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskError {
    /// Every read.
    Read,
    /// Every write, and so the syncs of what was written before.
    Write,
}

impl XfsVolume {
    /// Makes one of `bytes` (at least 300 MiB, the least that mkfs.xfs takes) and mounts it on `path`.
    ///
    /// # Errors
    /// Those of the commands.
    pub fn create(guardian: &Guardian, image: PathBuf, path: PathBuf, bytes: u64) -> anyhow::Result<Self> {
        make_filesystem(&image, bytes)?;
        let device = loop_device(guardian, &image)?;
        Self::create_on(guardian, image, path, device, None)
    }

    /// The same on a disk that fails on demand, see [`Self::set_error`]: the image behind nbdkit's error filter.
    ///
    /// # Errors
    /// Those of the commands.
    pub fn create_on_faulty_disk(
        guardian: &Guardian,
        image: PathBuf,
        path: PathBuf,
        bytes: u64,
    ) -> anyhow::Result<Self> {
        make_filesystem(&image, bytes)?;
        let errors = image.with_extension("errors");
        let (socket, disk) = (errors.join("socket"), errors.join("disk"));
        fs::create_dir_all(&disk)?;
        let mut server = Command::new("nbdkit");
        server.args(["--foreground", "--unix"]).arg(&socket).arg("--filter=error").arg("file").arg(&image);
        for (call, error) in [("pread", DiskError::Read), ("pwrite", DiskError::Write), ("zero", DiskError::Write)] {
            server.arg(format!("error-{call}=EIO")).arg(format!("error-{call}-rate=100%"));
            server.arg(format!("error-{call}-file={}", errors.join(error.name()).display()));
        }
        start(guardian, &mut server)?;
        wait_for(&socket)?;
        guardian.mount(&disk);
        start(guardian, Command::new("nbdfuse").arg(&disk).arg("--unix").arg(&socket))?;
        wait_for(&disk.join("nbd"))?;
        let device = loop_device(guardian, &disk.join("nbd"))?;
        Self::create_on(guardian, image, path, device, Some(errors))
    }

    fn create_on(
        guardian: &Guardian,
        image: PathBuf,
        path: PathBuf,
        device: String,
        errors: Option<PathBuf>,
    ) -> anyhow::Result<Self> {
        fs::create_dir_all(&path)?;
        let volume = Self { image, path, device, guardian: guardian.clone(), errors };
        volume.mount()?;
        Ok(volume)
    }

    /// From now on the disk fails so, or no longer.
    ///
    /// # Errors
    /// If it is not a disk that can.
    pub fn set_error(&self, error: DiskError, fails: bool) -> anyhow::Result<()> {
        let file = self.errors.as_ref().context("its disk cannot fail")?.join(error.name());
        if fails {
            File::create(file).map(drop)?;
        } else {
            fs::remove_file(file)?;
        }
        Ok(())
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
        run(Command::new("mount").args(["-t", "xfs"]).arg(&self.device).arg(path)).map(drop)
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
        self.guardian.mount(&self.path);
        run(Command::new("mount").args(["-t", "xfs"]).arg(&self.device).arg(&self.path)).map(drop)
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

impl DiskError {
    fn name(self) -> &'static str {
        match self {
            Self::Read => "fail-reads",
            Self::Write => "fail-writes",
        }
    }
}

/// Unmounts, also if it is in use for a moment: a process that another thread of the test is just starting has, until it becomes
/// another program, everything open that the test has open.
pub(crate) fn unmount_patiently(path: &Path) -> anyhow::Result<()> {
    for _ in 0..100 {
        match unmount(path, UnmountFlags::empty()) {
            Err(Errno::BUSY) => sleep(Duration::from_millis(20)),
            done => return done.with_context(|| format!("cannot unmount {}", path.display())),
        }
    }
    anyhow::bail!("cannot unmount {}: it stays in use", path.display())
}

fn make_filesystem(image: &Path, bytes: u64) -> anyhow::Result<()> {
    File::create(image)?.set_len(bytes)?;
    run(Command::new("mkfs.xfs").args(["-q", "-f"]).arg(image)).map(drop)
}

fn loop_device(guardian: &Guardian, image: &Path) -> anyhow::Result<String> {
    let device = run(Command::new("losetup").args(["-f", "--show", "--direct-io=off"]).arg(image))?.trim().to_owned();
    guardian.loop_device(&device, image);
    Ok(device)
}

fn start(guardian: &Guardian, command: &mut Command) -> anyhow::Result<()> {
    let child = command.current_dir("/").stdin(Stdio::null()).spawn().with_context(|| format!("{command:?}"))?;
    guardian.process(child.id());
    Ok(())
}

fn wait_for(path: &Path) -> anyhow::Result<()> {
    for _ in 0..500 {
        if path.exists() {
            return Ok(());
        }
        sleep(Duration::from_millis(20));
    }
    anyhow::bail!("{} does not appear", path.display())
}
