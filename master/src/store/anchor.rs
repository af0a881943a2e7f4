//! The folder of the metadata by what it is and not by its name: a disk that is unmounted beneath a running master takes its files
//! along, and nothing is written to the folder that it had been mounted on.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};

const DESCRIPTORS: &str = "/proc/self/fd";

/// A folder held open.
#[derive(Debug)]
pub struct Anchor(File);

impl Anchor {
    /// Opens it.
    ///
    /// # Errors
    /// Those of the system.
    pub fn of(folder: &Path) -> io::Result<Anchor> {
        Ok(Anchor(File::open(folder)?))
    }

    /// A path that leads to this folder and to nothing else, for as long as this is there.
    pub fn path(&self) -> PathBuf {
        Path::new(DESCRIPTORS).join(self.0.as_raw_fd().to_string())
    }
}

/// How people know what a path leads to that may begin with [`Anchor::path`].
pub fn shown(path: &Path) -> String {
    let below = || {
        let mut parts = path.strip_prefix(DESCRIPTORS).ok()?.iter();
        let folder = std::fs::read_link(Path::new(DESCRIPTORS).join(parts.next()?)).ok()?;
        let rest = parts.as_path();
        // Joining nothing would add a slash.
        let path = if rest.as_os_str().is_empty() { folder } else { folder.join(rest) };
        Some(path.display().to_string())
    };
    below().unwrap_or_else(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_anchored_is_shown_by_its_name_and_reached_under_another() {
        let folder = tempfile::tempdir().unwrap();
        let (before, after) = (folder.path().join("before"), folder.path().join("after"));
        std::fs::create_dir(&before).unwrap();
        let anchor = Anchor::of(&before).unwrap();
        assert_eq!(shown(&anchor.path().join("log/1")), before.join("log/1").display().to_string());
        assert_eq!(shown(&anchor.path()), before.display().to_string());
        assert_eq!(shown(&before), before.display().to_string());
        std::fs::rename(&before, &after).unwrap();
        std::fs::create_dir(&before).unwrap();
        std::fs::write(anchor.path().join("file"), "here").unwrap();
        assert_eq!(std::fs::read(after.join("file")).unwrap(), b"here");
    }
}
