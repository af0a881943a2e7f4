//! The epoch that is stored on a volume: the file `epoch.toml`. It is a file of its own so that chunkservers from before there were
//! epochs, which write `running.toml` anew, leave it as it is.
//!
//! It is written over in place, with one sync, since that is done every few seconds while the volume is written. It has the same
//! length for all epochs, less than a sector, which a disk writes whole or not at all.

use std::io;
use std::path::Path;

use rfs_common::durable::{self, FileError};
use serde::Deserialize;

use super::running::overwrite;

const FILE_NAME: &str = "epoch.toml";
const LENGTH: usize = 64;

/// More than any volume comes to; TOML can hold it.
pub(super) const EPOCH_MAX: u64 = 1 << 62;

#[derive(Deserialize)]
struct Stored {
    epoch: u64,
}

/// The epoch stored on the volume; 0 if there is none that can be read.
pub(super) fn last_epoch(folder: &Path) -> u64 {
    let text = durable::read_text_limited(&folder.join(FILE_NAME), 4096).ok();
    text.and_then(|text| toml::from_str::<Stored>(&text).ok()).map_or(0, |stored| stored.epoch)
}

/// Stores an epoch durably.
///
/// # Errors
/// Those of the system.
pub(super) fn store_epoch(folder: &Path, epoch: u64) -> Result<(), FileError> {
    let path = folder.join(FILE_NAME);
    let mut text = format!("epoch = {epoch}\n").into_bytes();
    text.resize(text.len().max(LENGTH), b'\n');
    match overwrite(&path, text.clone()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => durable::write_atomically(&path, &text),
        other => other.map_err(|source| FileError { operation: "overwrite", path, source }),
    }
}

#[cfg(test)]
mod tests {
    use super::super::health::Ground;
    use super::super::running::{self, LastEnd};
    use super::*;

    #[test]
    fn an_epoch_stays_with_the_volume_whatever_is_written_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let ground = Ground::of(folder.path()).unwrap();
        assert_eq!(last_epoch(folder.path()), 0, "never in use");
        for epoch in [9, 10, EPOCH_MAX, 3] {
            store_epoch(folder.path(), epoch).unwrap();
            assert_eq!(last_epoch(folder.path()), epoch);
            assert_eq!(std::fs::metadata(folder.path().join(FILE_NAME)).unwrap().len(), LENGTH as u64);
        }
        running::mark_in_use(folder.path(), &ground).unwrap();
        running::mark_clean(folder.path(), &ground).unwrap();
        std::fs::write(folder.path().join("running.toml"), "clean = ").unwrap();
        assert_eq!((last_epoch(folder.path()), running::last_end(folder.path(), &ground)), (3, LastEnd::PowerCut));
    }
}
