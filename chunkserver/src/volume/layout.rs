//! Where a chunk's file stands: `chunks/GGGGGGGGGG/FFF/IIIIIIIIIIIIIIII`, all hexadecimal.
//!
//! A run of 4096 consecutive chunk ids shares one folder FFF, and 4096 such folders share one GGGGGGGGGG: new chunks have
//! neighbouring ids, so their files are made in one folder whose blocks are in memory. Spreading them over many folders
//! by hash made every creation touch another folder.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rfs_common::durable;
use rfs_common::ids::ChunkId;

/// Folder of the chunks within a volume.
pub const CHUNKS: &str = "chunks";
/// Folder of files that have lost their header, moved aside.
pub const LOST: &str = "lost";
/// Folder of files that are being fetched.
pub const INCOMING: &str = "incoming";

/// Knows which folders are there, and which are durable.
#[derive(Debug)]
pub struct Layout {
    root: PathBuf,
    folders: Mutex<Folders>,
}

#[derive(Debug, Default)]
struct Folders {
    made: HashSet<u64>,
    durable: HashSet<u64>,
}

impl Layout {
    /// Of the volume in this folder.
    pub fn new(root: &Path) -> Layout {
        Layout { root: root.to_owned(), folders: Mutex::default() }
    }

    /// The file of a chunk.
    pub fn path(&self, chunk: ChunkId) -> PathBuf {
        self.folder(chunk).join(format!("{:016x}", chunk.get()))
    }

    /// A file to be filled before it takes a chunk's place.
    pub fn incoming(&self, chunk: ChunkId, number: u64) -> PathBuf {
        self.root.join(INCOMING).join(format!("{:016x}.{number}", chunk.get()))
    }

    /// The chunk that a file of this name holds a copy of.
    pub fn chunk_of_name(name: &str) -> Option<ChunkId> {
        let is_id = name.len() == 16 && name.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
        is_id.then(|| u64::from_str_radix(name, 16).ok().map(ChunkId::new)).flatten()
    }

    /// Makes the folder of a chunk if it is not there, not durably.
    ///
    /// # Errors
    /// Those of the system.
    pub fn make_folder(&self, chunk: ChunkId) -> io::Result<()> {
        let run = chunk.get() >> 12;
        if self.folders().made.contains(&run) {
            return Ok(());
        }
        fs::create_dir_all(self.folder(chunk))?;
        self.folders().made.insert(run);
        Ok(())
    }

    /// Makes the entry of a chunk's file durable, with the folders above it.
    ///
    /// # Errors
    /// Those of the system.
    pub fn sync_entry(&self, chunk: ChunkId) -> Result<(), durable::FileError> {
        let run = chunk.get() >> 12;
        let folder = self.folder(chunk);
        durable::sync_folder(&folder)?;
        if self.folders().durable.contains(&run) {
            return Ok(());
        }
        let group = folder.parent().unwrap_or(&self.root);
        durable::sync_folder(group)?;
        durable::sync_folder(&self.root.join(CHUNKS))?;
        self.folders().durable.insert(run);
        Ok(())
    }

    fn folder(&self, chunk: ChunkId) -> PathBuf {
        let id = chunk.get();
        self.root.join(CHUNKS).join(format!("{:010x}", id >> 24)).join(format!("{:03x}", id >> 12 & 0xfff))
    }

    fn folders(&self) -> std::sync::MutexGuard<'_, Folders> {
        self.folders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_share_a_folder_and_names_lead_back() {
        let layout = Layout::new(Path::new("/volume"));
        let path = layout.path(ChunkId::new(0x12_3456_789a));
        assert_eq!(path, Path::new("/volume/chunks/0000001234/567/000000123456789a"));
        assert_eq!(layout.path(ChunkId::new(4096)).parent(), layout.path(ChunkId::new(8191)).parent());
        assert_eq!(Layout::chunk_of_name("000000123456789a"), Some(ChunkId::new(0x12_3456_789a)));
        for name in ["", "123", "000000123456789A", "+00000123456789a", "000000123456789a.1"] {
            assert_eq!(Layout::chunk_of_name(name), None);
        }
    }
}
