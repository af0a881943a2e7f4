//! What the engine asks of the store: reads of records, commits, and the wait for the disk. [`Store`] gives it; tests
//! give it from memory.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rfs_common::errno::Errno;
use rfs_common::ids::LogPosition;

use crate::namespace::source::{Change, MemorySource, Source};
use crate::store::{CommitError, Store};

/// A store of records that takes commits.
pub trait Storage: Send + Sync {
    /// The records.
    fn source(&self) -> &dyn Source;

    /// Makes all changes or none. They survive the end of this process when it returns.
    ///
    /// # Errors
    /// [`Refused`]: nothing has changed and nothing will.
    fn commit(&self, changes: &[Change]) -> Result<LogPosition, Refused>;

    /// The same for what the start of a master has to note, which a full disk must not prevent.
    ///
    /// # Errors
    /// As above.
    fn commit_start(&self, changes: &[Change]) -> Result<LogPosition, Refused> {
        self.commit(changes)
    }

    /// Waits until changes have room in memory. For whoever is about to commit, before it takes a lock: commits themselves do
    /// not wait for that.
    fn wait_for_room(&self) {}

    /// Waits until everything up to this position survives a power cut.
    ///
    /// # Errors
    /// [`Refused`]: that can no longer be promised.
    fn wait_durable(&self, position: LogPosition) -> Result<(), Refused>;

    /// Whether the disk is so slow that answers have to wait for it, or a power cut would take more than it may.
    fn is_behind(&self) -> bool {
        false
    }

    /// The last commit.
    fn position(&self) -> LogPosition;
}

/// The store refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// What the client is answered.
    pub errno: Errno,
    /// Why.
    pub message: String,
}

impl From<CommitError> for Refused {
    fn from(error: CommitError) -> Refused {
        let errno = match &error {
            CommitError::NoSpace => Errno::ENOSPC,
            CommitError::TooLarge { .. } => Errno::EFBIG,
            CommitError::Failed(_) | CommitError::Unreadable(_) => Errno::EIO,
        };
        Refused { errno, message: error.to_string() }
    }
}

impl Storage for Store {
    fn source(&self) -> &dyn Source {
        self
    }

    fn commit(&self, changes: &[Change]) -> Result<LogPosition, Refused> {
        Ok(Store::commit_at_once(self, changes)?)
    }

    fn wait_for_room(&self) {
        Store::wait_for_memory(self);
    }

    fn commit_start(&self, changes: &[Change]) -> Result<LogPosition, Refused> {
        Ok(Store::commit_from_reserve(self, changes)?)
    }

    fn wait_durable(&self, position: LogPosition) -> Result<(), Refused> {
        Ok(Store::wait_durable(self, position)?)
    }

    fn is_behind(&self) -> bool {
        Store::is_behind(self)
    }

    fn position(&self) -> LogPosition {
        Store::position(self)
    }
}

/// A store in memory, for tests: it survives an engine, and can be told to refuse.
#[derive(Debug, Default)]
pub struct MemoryStorage {
    records: MemorySource,
    position: AtomicU64,
    refuses: AtomicBool,
    behind: AtomicBool,
    waits: AtomicU64,
}

impl MemoryStorage {
    /// From now on its disk is too slow, or no longer.
    pub fn set_behind(&self, behind: bool) {
        self.behind.store(behind, Ordering::SeqCst);
    }

    /// How often somebody has waited for the disk.
    pub fn waits(&self) -> u64 {
        self.waits.load(Ordering::SeqCst)
    }

    /// From now on commits are refused, or taken again, as on a disk that is full.
    pub fn set_full(&self, full: bool) {
        self.refuses.store(full, Ordering::SeqCst);
    }
}

impl Storage for MemoryStorage {
    fn source(&self) -> &dyn Source {
        &self.records
    }

    fn commit(&self, changes: &[Change]) -> Result<LogPosition, Refused> {
        if self.refuses.load(Ordering::SeqCst) {
            return Err(CommitError::NoSpace.into());
        }
        self.records.apply(changes);
        Ok(LogPosition::new(self.position.fetch_add(1, Ordering::SeqCst) + 1))
    }

    fn wait_durable(&self, _position: LogPosition) -> Result<(), Refused> {
        self.waits.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    fn is_behind(&self) -> bool {
        self.behind.load(Ordering::SeqCst)
    }

    fn position(&self) -> LogPosition {
        LogPosition::new(self.position.load(Ordering::SeqCst))
    }
}
