//! The metadata store: ordered tables of keys and values whose changes survive the end of the process at once, and a
//! power cut as soon as they were waited for.
//!
//! The log is the truth; pages in sled are what it has been folded into. A commit is written to the log (`log.rs`), then
//! made in the pages in memory (`pages.rs`), and is visible from then on. Now and then a checkpoint stores the changed
//! pages in sled (`checkpoint.rs`, `sled_pages.rs`), notes up to which position in the marker, and drops the log below
//! it. Opening reads the marker, the division into pages, and replays the rest of the log (`open.rs`). An export is a
//! checked copy of everything from which a new store can be built (`export.rs`).
//!
//! The store knows bytes, not inodes: what is in the tables is the business of its callers.
//!
//! What always holds: a commit that was refused changed nothing and never will; commits are made in the order of
//! their positions; reads see every commit that returned.

pub mod anchor;
mod checkpoint;
mod commit;
mod export;
mod format;
mod log;
mod log_recovery;
mod open;
mod page;
mod pages;
mod sled_format;
mod sled_pages;
mod sled_panic;
mod sled_survey;
mod sled_sync;
mod space;
mod verify;
mod wakeup;

use anchor::shown;
use std::io;
use std::ops::{Bound, ControlFlow};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use rfs_common::ids::LogPosition;

pub use checkpoint::CheckpointError;
#[cfg(test)]
pub(crate) use export::restore;
pub use export::{Amend, ExportError, ExportReport, RestoreError, restore_amended};
pub use format::{KEY_BYTES_MAX, VALUE_BYTES_MAX};
pub use open::CreateError;
pub(crate) use open::is_store;

use commit::Core;
use log::locked;

/// The tables of a store. The numbers are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Table {
    /// Files, directories and the like.
    Inodes = 1,
    /// Directory entries.
    Entries = 2,
    /// Chunks.
    Chunks = 3,
    /// Extended attributes.
    Xattrs = 4,
    /// Clients' sessions and the replies they may ask for again.
    Sessions = 5,
    /// Objects without a name that are still open.
    Orphans = 6,
    /// Everything there is one of.
    System = 7,
    /// Which chunks a file is made of.
    Refs = 8,
}

impl Table {
    /// Every table, in the order of their numbers.
    pub const ALL: [Table; 8] = [
        Table::Inodes,
        Table::Entries,
        Table::Chunks,
        Table::Xattrs,
        Table::Sessions,
        Table::Orphans,
        Table::System,
        Table::Refs,
    ];

    fn from_number(number: u8) -> Option<Table> {
        Table::ALL.into_iter().find(|table| *table as u8 == number)
    }

    fn index(self) -> usize {
        self as usize - 1
    }
}

/// One effect on a table. Making it twice is the same as making it once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The key has this value from now on.
    Put {
        /// In which table.
        table: Table,
        /// Up to [`KEY_BYTES_MAX`] bytes.
        key: Vec<u8>,
        /// Up to [`VALUE_BYTES_MAX`] bytes.
        value: Vec<u8>,
    },
    /// The key has no value from now on.
    Delete {
        /// In which table.
        table: Table,
        /// Up to [`KEY_BYTES_MAX`] bytes.
        key: Vec<u8>,
    },
}

impl Change {
    /// Which table it changes.
    pub fn table(&self) -> Table {
        match self {
            Change::Put { table, .. } | Change::Delete { table, .. } => *table,
        }
    }

    /// Which key it changes.
    pub fn key(&self) -> &[u8] {
        match self {
            Change::Put { key, .. } | Change::Delete { key, .. } => key,
        }
    }
}

/// How a store behaves. On small disks segments, cached changes and the checkpoint's distance are made smaller to fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreOptions {
    /// Memory for pages; changed pages that a checkpoint is writing come on top.
    pub cache_bytes: u64,
    /// A power cut takes at most the commits of this long and of a sync, unless they were waited for.
    pub log_flush_interval: Duration,
    /// The log is behind when a commit has waited for the disk for longer than this, see [`Store::is_behind`].
    pub log_unsynced_max: Duration,
    /// Whether every commit waits until it is on disk.
    pub wait_for_disk: bool,
    /// Disk space of one segment of the log.
    pub segment_bytes: u64,
    /// A checkpoint begins when so much log is not folded into pages yet.
    pub checkpoint_log_bytes: u64,
    /// A checkpoint begins at the latest this long after the last one, if anything has changed.
    pub checkpoint_interval: Duration,
    /// A page that grows beyond this is divided.
    pub page_bytes: usize,
    /// Commits wait so long for a checkpoint that has to make room in memory or on the disk. One that takes longer is not
    /// waited for: the disk may not answer at all.
    pub checkpoint_wait: Duration,
}

impl Default for StoreOptions {
    fn default() -> StoreOptions {
        StoreOptions {
            cache_bytes: 256 << 20,
            log_flush_interval: Duration::from_millis(10),
            log_unsynced_max: Duration::from_secs(1),
            wait_for_disk: false,
            segment_bytes: 32 << 20,
            checkpoint_log_bytes: 256 << 20,
            checkpoint_interval: Duration::from_secs(60),
            page_bytes: 16 << 10,
            checkpoint_wait: Duration::from_secs(30),
        }
    }
}

/// Pages could not be read or written. The message names the folder and, where one is damaged, the page.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the metadata pages in {folder}: {what}; if this lasts, restore the metadata from an export", folder = shown(folder))]
pub struct StoreError {
    folder: PathBuf,
    what: String,
    /// The disk refused, or somebody else has the files: that says nothing about them.
    of_the_disk: bool,
}

impl StoreError {
    fn pages(folder: &Path, what: impl Into<String>) -> StoreError {
        StoreError { folder: folder.to_owned(), what: what.into(), of_the_disk: false }
    }

    fn disk(folder: &Path, what: impl Into<String>) -> StoreError {
        StoreError { of_the_disk: true, ..StoreError::pages(folder, what) }
    }
}

/// Why a commit was refused. It changed nothing and never will, except after [`CommitError::Failed`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommitError {
    /// The disk is full. Reads go on; commits work again, without a restart, when there is space.
    #[error("the disk of the metadata is full; free space on it, nothing has to be restarted")]
    NoSpace,
    /// A write or sync failed, now or earlier; this is the first reason. Nothing is committed any more; reads go on. What
    /// was being written or waited for when it failed may or may not be there after a restart, as after a crash.
    #[error("the metadata log takes no more changes: {0}; restart the master when the disk is sound")]
    Failed(String),
    /// A page that the commit would change cannot be read.
    #[error(transparent)]
    Unreadable(#[from] StoreError),
    /// A key, a value or the whole commit is longer than the store takes.
    #[error("a change of {bytes} bytes is longer than the {bytes_max} the metadata store takes")]
    TooLarge {
        /// What was too long.
        bytes: u64,
        /// How long it may be.
        bytes_max: u64,
    },
}

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The folder has no store in it, or one that was not completely made.
    #[error("{folder} has no metadata in it; make it with `mfs-master init`, or check the path", folder = shown(folder))]
    NotAStore {
        /// The folder.
        folder: PathBuf,
    },
    /// A file is damaged where no crash can have damaged it.
    #[error("{file} is damaged at byte {offset}: {what}; restore the metadata from an export, or the file from a backup",
        file = shown(file))]
    Damaged {
        /// The file.
        file: PathBuf,
        /// Where in it.
        offset: u64,
        /// What is wrong.
        what: String,
    },
    /// A file could not be read or written.
    #[error("{doing} {path} failed; check the disk and the permissions", path = shown(path))]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// sled could not be opened or read. A second store on the same folder ends here too.
    #[error(transparent)]
    Pages(#[from] StoreError),
}

impl OpenError {
    fn io(doing: &'static str, path: &Path, source: io::Error) -> OpenError {
        OpenError::Io { doing, path: path.to_owned(), source }
    }
}

/// What [`Store::scan`] calls with each key and value; it breaks to end the scan.
pub type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'a;

/// What [`Store::verify`] found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verified {
    /// What opening refuses, or cannot read.
    pub damages: Vec<Finding>,
    /// A record at the end of the log that a crash cut off, and the last position before it: opening drops it.
    pub torn_end: Option<(u64, Finding)>,
}

/// One thing that [`Store::verify`] found wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// In which file.
    pub file: PathBuf,
    /// Where in it.
    pub offset: u64,
    /// What is wrong.
    pub what: String,
}

/// Whether the store takes commits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreState {
    /// It does.
    Working,
    /// Not until there is space on the disk.
    NoSpace,
    /// Never again; the first reason.
    Failed(String),
}

/// How a store is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreStatus {
    /// The last commit.
    pub position: LogPosition,
    /// The last commit known to be on disk.
    pub durable: LogPosition,
    /// How much log a restart would have to replay.
    pub log_bytes_unfolded: u64,
    /// Pages changed since they were last stored.
    pub dirty_pages: u64,
    /// Memory that pages take.
    pub cached_bytes: u64,
    /// How long ago the last complete checkpoint was, if there was one since the store was opened.
    pub last_checkpoint: Option<Duration>,
    /// Why the last checkpoint failed, if it did.
    pub last_checkpoint_error: Option<String>,
    /// Whether it takes commits.
    pub state: StoreState,
}

/// An open store. Its threads (log flush, disk space, checkpoints) end with it; without [`Store::close`] the next open
/// finds what a crash would have left, which is complete too.
pub struct Store {
    core: Arc<Core>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Store {
    /// The value of a key.
    pub fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.core.pages.get(table, key)
    }

    /// Calls `visit` with each key and value between the bounds, ascending, until it breaks. Commits made meanwhile may
    /// or may not be seen; each page's worth of records is seen as it was at one moment. `visit` may call the store.
    pub fn scan(
        &self,
        table: Table,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        visit: &mut Visit<'_>,
    ) -> Result<(), StoreError> {
        let mut cursor = match from {
            Bound::Included(key) | Bound::Excluded(key) => key.to_vec(),
            Bound::Unbounded => Vec::new(),
        };
        loop {
            let view = self.core.pages.view(table, &cursor)?;
            let start = view.page.find(&cursor).unwrap_or_else(|index| index);
            for index in start..view.page.record_count() {
                let (key, value) = view.page.record(index);
                let ended = match to {
                    Bound::Included(end) => key > end,
                    Bound::Excluded(end) => key >= end,
                    Bound::Unbounded => false,
                };
                if ended || (from != Bound::Excluded(key) && visit(key, value).is_break()) {
                    return Ok(());
                }
            }
            match view.upper {
                Some(upper) => cursor = upper,
                None => return Ok(()),
            }
        }
    }

    /// Makes the changes, all or none, and returns their position. They survive the end of the process, and are visible,
    /// when this returns; a power cut only after [`Store::wait_durable`], unless the store waits for the disk itself. An
    /// empty commit is the last position and no change.
    pub fn commit(&self, changes: &[Change]) -> Result<LogPosition, CommitError> {
        self.wait_for_memory();
        self.commit_at_once(changes)
    }

    /// Waits for a checkpoint where more has changed than memory is meant for.
    pub fn wait_for_memory(&self) {
        self.core.wait_for_memory();
    }

    /// A commit that does not do that: for a caller that has waited before it took a lock.
    pub fn commit_at_once(&self, changes: &[Change]) -> Result<LogPosition, CommitError> {
        self.core.commit(changes).map(LogPosition::new)
    }

    /// The same for what a start needs to note: on a full disk it takes its space from the reserve.
    pub fn commit_from_reserve(&self, changes: &[Change]) -> Result<LogPosition, CommitError> {
        self.core.commit_from_reserve(changes).map(LogPosition::new)
    }

    /// Waits until everything up to this position survives a power cut. Many callers share one sync.
    pub fn wait_durable(&self, position: LogPosition) -> Result<(), CommitError> {
        self.core.log.sync(position.get()).map_err(CommitError::Failed)
    }

    /// Whether the disk is so slow that a commit has not been on it for longer than [`StoreOptions::log_unsynced_max`]. Whoever
    /// then waits for the disk before telling anybody of a commit has a power cut take at most what was told in that time.
    pub fn is_behind(&self) -> bool {
        self.core.log.unsynced_for() > self.core.options.log_unsynced_max
    }

    /// The cluster that the store was made for.
    pub fn cluster(&self) -> [u8; 16] {
        self.core.cluster
    }

    /// The last commit.
    pub fn position(&self) -> LogPosition {
        LogPosition::new(self.core.log.position())
    }

    /// The last commit known to be on disk.
    pub fn durable_position(&self) -> LogPosition {
        LogPosition::new(self.core.log.durable_position())
    }

    /// Folds the log into pages now and returns when it is done.
    pub fn checkpoint(&self) -> Result<(), CheckpointError> {
        self.core.checkpoint()
    }

    /// Writes a checked copy of everything as it is at one moment during the call. Commits and checkpoints go on meanwhile;
    /// pages that checkpoints write over before they are exported are kept in memory until then.
    pub fn export(&self, path: &Path) -> Result<ExportReport, ExportError> {
        self.core.export(path)
    }

    /// How the store is doing.
    pub fn status(&self) -> StoreStatus {
        self.core.status()
    }

    /// Ends cleanly: everything on disk and folded, so that the next open has nothing to replay. Commits after this fail.
    pub fn close(&self) -> Result<(), CheckpointError> {
        self.stop_threads();
        self.core.checkpoint()
    }

    fn stop_threads(&self) {
        self.core.stop();
        for thread in locked(&self.threads).drain(..) {
            // A panic in it has ended the process already.
            let _ = thread.join();
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.stop_threads();
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Store").field("folder", &self.core.folder).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "store_test.rs"]
mod tests;

#[cfg(test)]
#[path = "damage_test.rs"]
mod damage_tests;

#[cfg(test)]
#[path = "space_test.rs"]
mod space_tests;

#[cfg(test)]
#[path = "golden_test.rs"]
mod golden_tests;
