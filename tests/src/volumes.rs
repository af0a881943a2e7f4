//! Where daemons keep their data in a test: plain folders, or XFS filesystems of their own on loop devices, which can be
//! full, and can lose power.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::guardian::Guardian;
use crate::programs::run;

/// An XFS filesystem on a loop device.
pub struct XfsVolume {
    image: PathBuf,
    path: PathBuf,
    device: String,
    guardian: Guardian,
}

impl XfsVolume {
    /// Makes one of `bytes` (at least 300 MiB, the least that mkfs.xfs takes) and mounts it on `path`.
    ///
    /// # Errors
    /// Those of the commands.
    pub fn create(guardian: &Guardian, image: PathBuf, path: PathBuf, bytes: u64) -> anyhow::Result<Self> {
        File::create(&image)?.set_len(bytes)?;
        fs::create_dir_all(&path)?;
        run(Command::new("mkfs.xfs").args(["-q", "-f"]).arg(&image))?;
        let device =
            run(Command::new("losetup").args(["-f", "--show", "--direct-io=off"]).arg(&image))?.trim().to_owned();
        guardian.loop_device(&device);
        let volume = Self { image, path, device, guardian: guardian.clone() };
        volume.mount()?;
        Ok(volume)
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
        run(Command::new("umount").arg(&self.path)).map(drop)
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
