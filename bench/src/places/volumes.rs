//! XFS volumes on loop devices, mounted alike for everybody.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use super::command::run;

/// Volumes that are unmounted when this is dropped.
#[derive(Default)]
pub(super) struct Volumes(Vec<PathBuf>);

impl Volumes {
    /// Makes a volume of this size, mounts it at this folder, and gives the folder.
    pub(super) fn make(&mut self, folder: &Path, bytes: u64) -> anyhow::Result<PathBuf> {
        fs::create_dir_all(folder)?;
        let image = folder.with_extension("img");
        File::create(&image)?.set_len(bytes)?;
        run("mkfs.xfs", &["-q", "-f"], &[&image])?;
        run("mount", &["-o", "loop,noatime"], &[&image, folder])?;
        self.0.push(folder.to_owned());
        Ok(folder.to_owned())
    }
}

impl Drop for Volumes {
    fn drop(&mut self) {
        for folder in &self.0 {
            if let Err(error) = run("umount", &[], &[folder]) {
                eprintln!("left mounted: {error}");
            }
        }
    }
}
