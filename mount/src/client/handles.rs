//! Open files and directories by their handles.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use rfs_common::errno::Errno;

use super::bytes::OpenBytes;
use super::core::{Node, lock};
use super::directories::OpenDirectory;
use super::types::{Handle, SyncAfter};
use crate::data::error_state::ErrorCursor;

const SHARDS: usize = 16;

/// An open file.
pub(super) struct OpenFile {
    pub(super) node: Arc<Node>,
    pub(super) bytes: Arc<dyn OpenBytes>,
    pub(super) readable: bool,
    pub(super) writable: bool,
    /// Reading through it is noted as an access of the file.
    pub(super) notes_accesses: bool,
    /// What O_SYNC or O_DSYNC has waited for.
    pub(super) synchronous: Option<SyncAfter>,
    /// File locks that it was used for are gone without its owner's doing (`locks.rs`).
    pub(super) locks_lost: AtomicBool,
    /// A descriptor of it was closed, perhaps the last one, since a lock was taken through it.
    pub(super) closed_once: AtomicBool,
    /// Up to which of the node's lost changes it has been told.
    pub(super) losses_told: Mutex<ErrorCursor>,
}

impl OpenFile {
    /// Whether it may be read and written: not while its owner believes in locks that are gone.
    pub(super) fn check_locks(&self) -> Result<(), Errno> {
        if self.locks_lost.load(Ordering::Acquire) { Err(Errno::EIO) } else { Ok(()) }
    }
}

#[derive(Clone)]
enum Open {
    File(Arc<OpenFile>),
    Directory(Arc<OpenDirectory>),
}

/// All that is open.
pub(super) struct Handles {
    last: AtomicU64,
    shards: Vec<Mutex<HashMap<Handle, Open>>>,
}

impl Default for Handles {
    fn default() -> Handles {
        Handles { last: AtomicU64::new(0), shards: (0..SHARDS).map(|_| Mutex::default()).collect() }
    }
}

impl Handles {
    pub(super) fn add_file(&self, file: OpenFile) -> Handle {
        self.add(Open::File(Arc::new(file)))
    }

    pub(super) fn add_directory(&self, directory: OpenDirectory) -> Handle {
        self.add(Open::Directory(Arc::new(directory)))
    }

    pub(super) fn file(&self, handle: Handle) -> Result<Arc<OpenFile>, Errno> {
        match lock(self.shard(handle)).get(&handle) {
            Some(Open::File(file)) => Ok(Arc::clone(file)),
            _ => Err(Errno::EBADF),
        }
    }

    pub(super) fn directory(&self, handle: Handle) -> Result<Arc<OpenDirectory>, Errno> {
        match lock(self.shard(handle)).get(&handle) {
            Some(Open::Directory(directory)) => Ok(Arc::clone(directory)),
            _ => Err(Errno::EBADF),
        }
    }

    pub(super) fn remove_file(&self, handle: Handle) -> Option<Arc<OpenFile>> {
        match lock(self.shard(handle)).remove(&handle)? {
            Open::File(file) => Some(file),
            Open::Directory(_) => None,
        }
    }

    pub(super) fn remove_directory(&self, handle: Handle) -> Option<Arc<OpenDirectory>> {
        match lock(self.shard(handle)).remove(&handle)? {
            Open::Directory(directory) => Some(directory),
            Open::File(_) => None,
        }
    }

    fn add(&self, open: Open) -> Handle {
        let handle = Handle(self.last.fetch_add(1, Ordering::Relaxed) + 1);
        lock(self.shard(handle)).insert(handle, open);
        handle
    }

    fn shard(&self, handle: Handle) -> &Mutex<HashMap<Handle, Open>> {
        &self.shards[handle.0 as usize % SHARDS]
    }
}
