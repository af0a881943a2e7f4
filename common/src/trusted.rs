//! Whose files a program believes: those of its own user and of root that nobody else may write.
//!
//! In a folder that everybody may write to, such as /var/tmp, somebody else can have made the folder or file that a program
//! is about to use. What it says (which processes to end, which folders to remove) is then theirs to choose.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::durable::{self, FileError};

/// Mode bits with which others than the owner may write.
const OTHERS_WRITE: u32 = 0o022;
/// `O_NOFOLLOW` and `O_NONBLOCK`: a link is not followed, a pipe is not waited for.
const NO_LINK: rustix::fs::OFlags = rustix::fs::OFlags::NOFOLLOW.union(rustix::fs::OFlags::NONBLOCK);

/// Why a file or folder is not believed.
#[derive(Debug, thiserror::Error)]
pub enum Distrust {
    /// It is another user's.
    #[error("{path} belongs to user {owner}, who could have put anything there; use another folder, or remove this one",
        path = path.display())]
    OtherOwner {
        /// What it is about.
        path: PathBuf,
        /// The owner's number.
        owner: u32,
    },
    /// Others may write to it.
    #[error("others than its owner may write to {path}; take that from them with: chmod go-w {path}", path = path.display())]
    Writable {
        /// What it is about.
        path: PathBuf,
    },
    /// It is a link, or neither a file nor a folder.
    #[error("{path} is {what}; remove it, or use another folder", path = path.display())]
    WrongKind {
        /// What it is about.
        path: PathBuf,
        /// What it is instead.
        what: &'static str,
    },
    /// It cannot be looked at.
    #[error("cannot look at {path}", path = path.display())]
    Unusable {
        /// What it is about.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Refuses what is there if another user than this process's or root owns it. That nothing is there is fine.
///
/// # Errors
/// Whose it is.
pub fn require_owned(path: &Path) -> Result<(), Distrust> {
    look(path)?.map_or(Ok(()), |metadata| check_owner(path, &metadata))
}

/// The same, and refuses what others may write to. A symbolic link must be of one of the two users as well.
///
/// # Errors
/// Whose it is, or how to take the right to write from others.
pub fn require_private(path: &Path) -> Result<(), Distrust> {
    if let Some(link) = lstat(path)? {
        check_owner(path, &link)?;
    }
    match look(path)? {
        Some(metadata) => check_owner(path, &metadata).and_then(|()| check_mode(path, &metadata)),
        None => Ok(()),
    }
}

fn check_owner(path: &Path, metadata: &Metadata) -> Result<(), Distrust> {
    let owner = metadata.uid();
    match owner == 0 || owner == rustix::process::geteuid().as_raw() {
        true => Ok(()),
        false => Err(Distrust::OtherOwner { path: path.to_owned(), owner }),
    }
}

fn check_mode(path: &Path, metadata: &Metadata) -> Result<(), Distrust> {
    match metadata.mode() & OTHERS_WRITE == 0 {
        true => Ok(()),
        false => Err(Distrust::Writable { path: path.to_owned() }),
    }
}

fn look(path: &Path) -> Result<Option<Metadata>, Distrust> {
    there(path, fs::metadata(path))
}

fn lstat(path: &Path) -> Result<Option<Metadata>, Distrust> {
    there(path, fs::symlink_metadata(path))
}

fn there(path: &Path, found: io::Result<Metadata>) -> Result<Option<Metadata>, Distrust> {
    match found {
        Ok(metadata) => Ok(Some(metadata)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Distrust::Unusable { path: path.to_owned(), source }),
    }
}

/// Opens a file for appending, and makes it, without following a link to another place.
///
/// # Errors
/// It is a link, no regular file, another user's, or cannot be opened.
pub fn open_to_append(path: &Path) -> Result<File, Distrust> {
    let mut options = OpenOptions::new();
    options.create(true).append(true);
    open(path, &mut options)
}

/// Opens a file for reading without following a link.
///
/// # Errors
/// It is a link, no regular file, another user's, others may write to it, or it cannot be opened.
pub fn open_to_read(path: &Path) -> Result<File, Distrust> {
    let file = open(path, OpenOptions::new().read(true))?;
    let metadata = file.metadata().map_err(|source| Distrust::Unusable { path: path.to_owned(), source })?;
    check_mode(path, &metadata)?;
    Ok(file)
}

fn open(path: &Path, options: &mut OpenOptions) -> Result<File, Distrust> {
    let unusable = |source| Distrust::Unusable { path: path.to_owned(), source };
    let file = match options.custom_flags(NO_LINK.bits() as i32).open(path) {
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => {
            return Err(Distrust::WrongKind { path: path.to_owned(), what: "a symbolic link" });
        }
        opened => opened.map_err(unusable)?,
    };
    let metadata = file.metadata().map_err(unusable)?;
    if !metadata.is_file() {
        return Err(Distrust::WrongKind { path: path.to_owned(), what: "no regular file" });
    }
    check_owner(path, &metadata)?;
    Ok(file)
}

/// Makes a folder with this mode (whatever the umask), durably; one that is there keeps its mode. Folders above are made as
/// usual.
///
/// # Errors
/// It cannot be made, or something else is there.
pub fn create_folder_with_mode(folder: &Path, mode: u32) -> Result<(), FileError> {
    if let Some(parent) = folder.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        durable::create_folder(parent)?;
    }
    match fs::DirBuilder::new().mode(mode).create(folder) {
        Ok(()) => set_mode(folder, mode)?,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(FileError::of("create the folder", folder)(error)),
    }
    durable::create_folder(folder)
}

/// Changes who may do what with a file or folder.
///
/// # Errors
/// It is not ours, or is not there.
pub fn set_mode(path: &Path, mode: u32) -> Result<(), FileError> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(FileError::of("change the mode of", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o777
    }

    #[test]
    fn what_others_may_write_is_not_believed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("plan");
        require_private(&path).unwrap();
        fs::write(&path, "").unwrap();
        set_mode(&path, 0o644).unwrap();
        require_private(&path).unwrap();
        open_to_read(&path).unwrap();
        for mode in [0o664, 0o646, 0o777] {
            set_mode(&path, mode).unwrap();
            assert!(matches!(require_private(&path), Err(Distrust::Writable { .. })), "{mode:o}");
            assert!(matches!(open_to_read(&path), Err(Distrust::Writable { .. })), "{mode:o}");
            require_owned(&path).unwrap();
        }
    }

    #[test]
    fn what_another_user_made_is_not_believed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("plan");
        fs::write(&path, "").unwrap();
        if std::os::unix::fs::chown(&path, Some(12_345), None).is_err() {
            return; // Only root can make this case.
        }
        assert!(matches!(require_owned(&path), Err(Distrust::OtherOwner { owner: 12_345, .. })));
        assert!(require_private(&path).unwrap_err().to_string().contains("belongs to user 12345"));
        assert!(open_to_append(&path).is_err() && open_to_read(&path).is_err());
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(folder.path(), &link).unwrap();
        require_private(&link).unwrap();
        std::os::unix::fs::lchown(&link, Some(12_345), None).unwrap();
        assert!(require_private(&link).is_err());
    }

    #[test]
    fn links_and_pipes_are_not_opened() {
        let folder = tempfile::tempdir().unwrap();
        let (target, link) = (folder.path().join("target"), folder.path().join("link"));
        std::os::unix::fs::symlink(&target, &link).unwrap();
        assert!(open_to_append(&link).unwrap_err().to_string().contains("symbolic link"));
        assert!(!target.exists());
        assert!(open_to_append(folder.path()).is_err());
        open_to_append(&target).unwrap();
        assert!(target.exists());
    }

    #[test]
    fn folders_get_the_mode_they_were_made_with_and_keep_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b");
        create_folder_with_mode(&path, 0o700).unwrap();
        assert_eq!(mode(&path), 0o700);
        create_folder_with_mode(&path, 0o755).unwrap();
        assert_eq!(mode(&path), 0o700);
    }
}
