//! For tests: a filesystem in memory that is as small as asked for, and that can be made full or read-only.

use std::fs::{File, remove_file};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// Mounted for as long as this lives.
pub(crate) struct SmallDisk(TempDir);

impl SmallDisk {
    /// None where the tests may not mount.
    pub(crate) fn of(size: &str) -> Option<SmallDisk> {
        let folder = TempDir::new().unwrap();
        let options = format!("size={size}");
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", &options, "rfs-test"]).arg(folder.path()).output();
        mounted.is_ok_and(|mounted| mounted.status.success()).then(|| SmallDisk(folder))
    }

    pub(crate) fn folder(&self) -> &TempDir {
        &self.0
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// `ro` or `rw`.
    pub(crate) fn remount(&self, mode: &str) {
        let options = format!("remount,{mode}");
        assert!(Command::new("mount").args(["-o", &options]).arg(self.path()).status().unwrap().success());
    }

    /// Leaves room for so many pages. Gives the file that takes the rest.
    pub(crate) fn fill(&self, pages_free: u64) -> PathBuf {
        let path = self.path().join("filler");
        let _ = remove_file(&path);
        let filler = File::create(&path).unwrap();
        let mut at = 0;
        while filler.write_all_at(&[1; 4096], at).is_ok() {
            at += 4096;
        }
        filler.set_len(at - pages_free * 4096).unwrap();
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.path()).status();
    }
}
