//! Whether a volume was closed cleanly, and if not, whether the page cache survived: the file `running.toml`.
//!
//! It is replaced by rename, or on a full filesystem written over in place. It is written when a volume is opened (with the
//! machine's boot id and the mount's number) and again when it has been closed with everything synced. `kill -9` leaves
//! boot and mount as they were: whatever the daemon had written is in the page cache. A power cut, a reboot or a new mount changes one of them: writes that were not synced may be missing.

use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rfs_common::durable::{self, FileError};
use serde::{Deserialize, Serialize};

use super::health::Ground;

const FILE_NAME: &str = "running.toml";
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// How the last use of a volume ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LastEnd {
    /// Everything was synced and no chunk was left open.
    Clean,
    /// The daemon ended, the kernel and the mount did not.
    ProcessEnded,
    /// The machine or the mount went down, or it is not known.
    PowerCut,
}

#[derive(Serialize, Deserialize)]
struct Mark {
    clean: bool,
    boot: String,
    mount: u64,
}

/// How the last use of the volume ended. No mark at all means that it never was in use.
pub fn last_end(folder: &Path, ground: &Ground) -> LastEnd {
    let text = match durable::read_text_limited(&folder.join(FILE_NAME), 4096) {
        Err(error) if error.is_not_found() => return LastEnd::Clean,
        Err(_) => return LastEnd::PowerCut,
        Ok(text) => text,
    };
    match toml::from_str::<Mark>(&text) {
        Ok(mark) if mark.clean => LastEnd::Clean,
        Ok(mark) if mark.mount != 0 && mark.mount == ground.mount && boot_id().as_ref() == Some(&mark.boot) => {
            LastEnd::ProcessEnded
        }
        _ => LastEnd::PowerCut,
    }
}

/// Notes durably that the volume is in use.
///
/// # Errors
/// Those of the system.
pub fn mark_in_use(folder: &Path, ground: &Ground) -> Result<(), FileError> {
    write(folder, &text_of(ground, false))
}

/// Notes durably that the volume has been closed cleanly.
///
/// # Errors
/// Those of the system.
pub fn mark_clean(folder: &Path, ground: &Ground) -> Result<(), FileError> {
    write(folder, &text_of(ground, true))
}

fn text_of(ground: &Ground, clean: bool) -> String {
    let mark = Mark { clean, boot: boot_id().unwrap_or_default(), mount: ground.mount };
    toml::to_string(&mark).expect("a mark is plain fields, which TOML can hold")
}

fn write(folder: &Path, text: &str) -> Result<(), FileError> {
    let path = folder.join(FILE_NAME);
    match durable::write_atomically(&path, text.as_bytes()) {
        Err(error) if is_full(&error.source) => {
            let leftover = path.with_file_name(format!("{FILE_NAME}.new"));
            if let Err(error) = fs::remove_file(&leftover) {
                tracing::debug!(path = %leftover.display(), %error, "no half written mark could be removed");
            }
            let overwritten = overwrite(&path, text.as_bytes().to_vec());
            overwritten.map_err(|source| FileError { operation: "overwrite", path, source })
        }
        other => other,
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// On a full filesystem there is no room for a second file, and a full volume has to open and to close all the same. The
/// mark is much smaller than a sector, which a disk writes whole or not at all; a mark that cannot be read is a power cut.
pub(super) fn overwrite(path: &Path, mut text: Vec<u8>) -> io::Result<()> {
    let file = fs::OpenOptions::new().write(true).open(path)?;
    // As long as before, so that it takes no block and needs no cut: empty lines mean nothing.
    text.resize(text.len().max(file.metadata()?.len() as usize), b'\n');
    file.write_all_at(&text, 0)?;
    file.sync_all()
}

fn boot_id() -> Option<String> {
    durable::read_text_limited(Path::new(BOOT_ID), 100).ok().map(|text| text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_filesystem_takes_the_mark_too() {
        let Some(disk) = crate::small_disk::SmallDisk::of("1m") else { return };
        let folder = disk.path();
        let ground = Ground::of(folder).unwrap();
        mark_clean(folder, &ground).unwrap();
        disk.fill(0);
        mark_in_use(folder, &ground).unwrap();
        assert_ne!(last_end(folder, &ground), LastEnd::Clean);
        mark_clean(folder, &ground).unwrap();
        assert_eq!(last_end(folder, &ground), LastEnd::Clean);
        assert!(!folder.join("running.toml.new").exists());
    }

    #[test]
    fn tells_a_clean_end_from_a_killed_process_and_from_a_new_mount() {
        let folder = tempfile::tempdir().unwrap();
        let ground = Ground::of(folder.path()).unwrap();
        assert_eq!(last_end(folder.path(), &ground), LastEnd::Clean);
        mark_in_use(folder.path(), &ground).unwrap();
        if ground.mount != 0 {
            assert_eq!(last_end(folder.path(), &ground), LastEnd::ProcessEnded);
        }
        let remounted = Ground { mount: ground.mount + 1, ..ground.clone() };
        assert_eq!(last_end(folder.path(), &remounted), LastEnd::PowerCut);
        mark_clean(folder.path(), &ground).unwrap();
        assert_eq!(last_end(folder.path(), &remounted), LastEnd::Clean);
        std::fs::write(folder.path().join(FILE_NAME), "clean = ").unwrap();
        assert_eq!(last_end(folder.path(), &ground), LastEnd::PowerCut);
    }
}
