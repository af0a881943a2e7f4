//! Small files that must survive a power cut: written whole or not at all, and read with a limit.
//!
//! A file is durable when its data and the directory entry that leads to it are on disk. So each function here syncs the
//! folder too, and a folder that was made is synced into its parent.
//!
//! What always holds: after [`write_atomically`] returned, and after any crash during it, the file has either its old
//! content or the new one. A file `NAME.new` beside it is a leftover of a crash and is overwritten by the next write.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// A failed operation on a file; `source` says why.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} {path}", path = path.display())]
pub struct FileError {
    /// What was tried, as in "cannot *write* ...".
    pub operation: &'static str,
    /// On which file or folder.
    pub path: PathBuf,
    /// Why it failed.
    pub source: io::Error,
}

impl FileError {
    pub(crate) fn of<'a>(operation: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> FileError + 'a {
        move |source| FileError { operation, path: path.to_owned(), source }
    }

    /// Whether the file is simply not there.
    pub fn is_not_found(&self) -> bool {
        self.source.kind() == io::ErrorKind::NotFound
    }
}

/// Replaces the content of a file, or makes the file, so that a crash leaves the old content or the new one and the new
/// one is on disk when this returns. Only one process at a time may write the file (see `folder_lock`).
pub fn write_atomically(path: &Path, content: &[u8]) -> Result<(), FileError> {
    replace(path, content, 0o644)
}

/// The same as [`write_atomically`] for a file that only its owner may read, such as a key.
pub fn write_secret_atomically(path: &Path, content: &[u8]) -> Result<(), FileError> {
    replace(path, content, 0o600)
}

fn replace(path: &Path, content: &[u8], mode: u32) -> Result<(), FileError> {
    let no_name = || FileError::of("write", path)(io::Error::from(io::ErrorKind::InvalidInput));
    let mut new_name = path.file_name().ok_or_else(no_name)?.to_owned();
    new_name.push(".new");
    let new_path = path.with_file_name(new_name);
    // A leftover is removed, not reused, so that the mode is that of this write.
    match fs::remove_file(&new_path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(FileError::of("remove", &new_path)(error)),
        _ => {}
    }
    let write = || -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&new_path)?;
        file.write_all(content)?;
        file.sync_all()
    };
    write().map_err(FileError::of("write", &new_path))?;
    fs::rename(&new_path, path).map_err(FileError::of("replace", path))?;
    sync_folder(folder_of(path))
}

/// Makes the entries of a folder durable: what was created, renamed or removed in it before this call.
pub fn sync_folder(folder: &Path) -> Result<(), FileError> {
    File::open(folder).and_then(|file| file.sync_all()).map_err(FileError::of("sync the folder", folder))
}

/// Makes a folder and those above it, where they are missing, each durably.
pub fn create_folder(folder: &Path) -> Result<(), FileError> {
    match fs::create_dir(folder) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && folder.is_dir() => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound && folder.parent().is_some() => {
            create_folder(folder_of(folder))?;
            fs::create_dir(folder).map_err(FileError::of("create the folder", folder))?;
        }
        Err(error) => return Err(FileError::of("create the folder", folder)(error)),
    }
    sync_folder(folder_of(folder))
}

/// Removes a file durably. That it is not there is no error.
pub fn remove_file(path: &Path) -> Result<(), FileError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(FileError::of("remove", path)(error)),
        Ok(()) => sync_folder(folder_of(path)),
    }
}

/// The whole content of a file of at most `bytes_max` bytes; a larger one is refused before memory is spent on it.
pub fn read_limited(path: &Path, bytes_max: u64) -> Result<Vec<u8>, FileError> {
    let read = || -> io::Result<Vec<u8>> {
        let mut content = Vec::new();
        // One byte more than allowed tells a file that is too large, also one whose size the kernel does not know.
        File::open(path)?.take(bytes_max.saturating_add(1)).read_to_end(&mut content)?;
        if content.len() as u64 > bytes_max {
            let message = format!("the file has more than the {bytes_max} bytes it may have");
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
        }
        Ok(content)
    };
    read().map_err(FileError::of("read", path))
}

/// The same as [`read_limited`] for a file of UTF-8 text.
pub fn read_text_limited(path: &Path, bytes_max: u64) -> Result<String, FileError> {
    let not_text = |_| FileError::of("read", path)(io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8 text"));
    String::from_utf8(read_limited(path, bytes_max)?).map_err(not_text)
}

/// The folder a path lies in; for a bare name that is the working directory.
fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) => Path::new("."),
        None => path,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn replaces_content_and_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("identity");
        fs::write(folder.path().join("identity.new"), "left by a crash, and longer than what follows").unwrap();
        write_atomically(&path, b"one").unwrap();
        write_atomically(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn keeps_secrets_from_others_even_after_a_crash() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        fs::write(folder.path().join("key.new"), "readable by all").unwrap();
        write_secret_atomically(&path, b"secret").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn makes_folders_and_removes_files() {
        let folder = tempfile::tempdir().unwrap();
        let deep = folder.path().join("a/b/c");
        create_folder(&deep).unwrap();
        create_folder(&deep).unwrap();
        assert!(deep.is_dir());
        let file = deep.join("file");
        fs::write(&file, "").unwrap();
        assert!(create_folder(&file).is_err());
        remove_file(&file).unwrap();
        remove_file(&file).unwrap();
        assert!(!file.exists());
    }

    #[test]
    fn reads_only_what_is_small_enough() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, b"12345\xff").unwrap();
        assert_eq!(read_limited(&path, 6).unwrap(), b"12345\xff");
        assert_eq!(read_limited(&path, 5).unwrap_err().source.kind(), io::ErrorKind::FileTooLarge);
        assert_eq!(read_text_limited(&path, 6).unwrap_err().source.kind(), io::ErrorKind::InvalidData);
        assert!(read_limited(Path::new("/dev/zero"), 100).is_err());
        let missing = read_limited(&folder.path().join("none"), 1).unwrap_err();
        assert!(missing.is_not_found());
        assert!(missing.to_string().starts_with("cannot read /"), "{missing}");
    }
}
