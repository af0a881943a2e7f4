//! One process per folder: a daemon locks the folder it writes, and a second daemon on it refuses to start.
//!
//! The lock is `flock` on the file `lock` in the folder. The kernel frees it when the last process holding it is gone,
//! however it ended, so a lock never has to be removed by hand. The file holds the pid of the last holder, for messages
//! only, and stays where it is: removing it would let two processes lock two files of the same name.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

/// The name of the lock's file in the folder.
pub const LOCK_FILE_NAME: &str = "lock";

/// A lock on a folder, held until this is dropped or the process ends.
#[derive(Debug)]
#[must_use = "the folder is locked only while this value lives"]
pub struct FolderLock {
    _file: File,
    folder: PathBuf,
}

/// Why a folder could not be locked.
#[derive(Debug, thiserror::Error)]
pub enum FolderLockError {
    /// Another process has it.
    #[error("{folder} is in use by {holder}; stop that process first, or give this one a folder of its own",
        folder = folder.display(), holder = holder_words(*.pid))]
    Held {
        /// The folder.
        folder: PathBuf,
        /// The process that holds it, if its pid could be read.
        pid: Option<u32>,
    },
    /// The lock's file could not be opened or written.
    #[error("cannot lock {folder}; check that the folder exists and that this user may write in it",
        folder = folder.display())]
    Failed {
        /// The folder.
        folder: PathBuf,
        /// Why.
        source: io::Error,
    },
}

fn holder_words(pid: Option<u32>) -> String {
    pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
}

impl FolderLock {
    /// Locks the folder, at once or not at all.
    pub fn acquire(folder: &Path) -> Result<FolderLock, FolderLockError> {
        FolderLock::acquire_through(folder, folder)
    }

    /// The same for a folder that is open already, through a path that leads to what is open: `folder` may lead elsewhere
    /// by now, and is only for the messages.
    pub fn acquire_through(path: &Path, folder: &Path) -> Result<FolderLock, FolderLockError> {
        let failed = |source| FolderLockError::Failed { folder: folder.to_owned(), source };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits() as i32)
            .open(path.join(LOCK_FILE_NAME))
            .map_err(failed)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(FolderLockError::Held { folder: folder.to_owned(), pid: read_pid(&mut file) });
            }
            Err(errno) => return Err(failed(errno.into())),
        }
        let pid = format!("{}\n", std::process::id());
        // Never empty in between: on a full disk the block of the file would be lost to others.
        file.write_all(pid.as_bytes()).and_then(|()| file.set_len(pid.len() as u64)).map_err(failed)?;
        Ok(FolderLock { _file: file, folder: folder.to_owned() })
    }

    /// The folder that is locked.
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

fn read_pid(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.take(16).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn second_lock_names_the_first_holder() {
        let folder = tempfile::tempdir().unwrap();
        let lock = FolderLock::acquire(folder.path()).unwrap();
        assert_eq!(lock.folder(), folder.path());
        let error = FolderLock::acquire(folder.path()).unwrap_err();
        assert!(matches!(error, FolderLockError::Held { pid: Some(pid), .. } if pid == std::process::id()), "{error}");
        assert!(error.to_string().contains(&format!("in use by process {}", std::process::id())), "{error}");
        drop(lock);
        drop(FolderLock::acquire(folder.path()).unwrap());
    }

    #[test]
    fn a_killed_process_frees_its_lock() {
        let folder = tempfile::tempdir().unwrap();
        let lock_file = folder.path().join(LOCK_FILE_NAME);
        let mut holder = Command::new("flock")
            .arg("--no-fork")
            .arg(&lock_file)
            .args(["sh", "-c", "echo 999999999999 > \"$0\"; echo locked; exec sleep 60"])
            .arg(&lock_file)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        holder.stdout.as_mut().unwrap().read_exact(&mut [0; 7]).unwrap();
        let error = FolderLock::acquire(folder.path()).unwrap_err();
        assert!(matches!(error, FolderLockError::Held { pid: None, .. }), "{error}");
        holder.kill().unwrap();
        holder.wait().unwrap();
        drop(FolderLock::acquire(folder.path()).unwrap());
    }

    #[test]
    fn a_missing_folder_is_explained() {
        let error = FolderLock::acquire(Path::new("/nonexistent/folder")).unwrap_err();
        assert!(error.to_string().contains("check that the folder exists"), "{error}");
    }
}
