//! Disk space: how much the store may use of a disk of some size, and the reserve that lets a checkpoint run on a full
//! one.
//!
//! The reserve is a file of claimed blocks. Commits are refused while it cannot be held in full; a checkpoint that would
//! not fit gives it up, writes, and takes it back, having dropped log segments in between. So a full disk never stops
//! the store from folding its log, and a store that was refused space works again as soon as there is some.
//!
//! A second reserve is for opening: sled writes when it is opened, and a master may be killed while its checkpoint is using
//! the first one.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, PoisonError};

use super::StoreOptions;
use super::log::{SEGMENT_BYTES_MIN, claim, is_no_space, locked};

/// The reserve's file in the store's folder.
pub(crate) const RESERVE_NAME: &str = "reserve";
/// The opening reserve's file.
pub(crate) const OPENING_RESERVE_NAME: &str = "opening-reserve";
/// What sled writes when it is opened: its snapshot, some 30 bytes for each page, and what it goes on with.
const OPENING_BYTES_MIN: u64 = 3 << 20;
const OPENING_BYTES_MAX: u64 = 64 << 20;
/// A reserve that does not fit is taken in so many steps.
const RESERVE_PARTS: u64 = 16;
/// What sled writes at most per byte of pages, with its own rewriting.
const SLED_BYTES_PER_BYTE: u64 = 3;
/// What a checkpoint takes besides pages.
const CHECKPOINT_OVERHEAD_BYTES: u64 = 4 << 20;

/// The sizes a store uses on the disk it is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sizes {
    pub(crate) segment_bytes: u64,
    pub(crate) checkpoint_log_bytes: u64,
    /// Commits wait for a checkpoint when so much has changed.
    pub(crate) dirty_bytes_max: u64,
    pub(crate) reserve_bytes: u64,
    pub(crate) opening_reserve_bytes: u64,
}

impl Sizes {
    /// The options, cut down to what a disk of this size bears.
    pub(crate) fn for_disk(options: &StoreOptions, disk_bytes: u64) -> Sizes {
        let segment_bytes = options.segment_bytes.min(disk_bytes / 64).max(SEGMENT_BYTES_MIN).next_multiple_of(4096);
        let dirty_bytes_max = options.cache_bytes.min(disk_bytes / 24).max(4 * options.page_bytes as u64);
        let reserve_bytes = (2 * dirty_bytes_max + CHECKPOINT_OVERHEAD_BYTES).min(disk_bytes / 8);
        let checkpoint_log_bytes = options.checkpoint_log_bytes.min(disk_bytes / 16).max(2 * segment_bytes);
        let opening_reserve_bytes = (disk_bytes / 64).clamp(OPENING_BYTES_MIN, OPENING_BYTES_MAX);
        Sizes { segment_bytes, checkpoint_log_bytes, dirty_bytes_max, reserve_bytes, opening_reserve_bytes }
    }
}

/// Bytes of the disk a folder is on: all of them, and those still free.
pub(crate) fn disk_bytes(folder: &Path) -> io::Result<(u64, u64)> {
    let disk = rustix::fs::statvfs(folder)?;
    Ok((disk.f_blocks.saturating_mul(disk.f_frsize), disk.f_bavail.saturating_mul(disk.f_frsize)))
}

/// The file of claimed blocks.
#[derive(Debug)]
pub(crate) struct Reserve {
    folder: PathBuf,
    name: &'static str,
    bytes: u64,
}

impl Reserve {
    pub(crate) fn new(folder: &Path, bytes: u64) -> Reserve {
        Reserve { folder: folder.to_owned(), name: RESERVE_NAME, bytes }
    }

    /// The one that is given up only while sled is being opened.
    pub(crate) fn for_opening(folder: &Path, bytes: u64) -> Reserve {
        Reserve { folder: folder.to_owned(), name: OPENING_RESERVE_NAME, bytes }
    }

    fn path(&self) -> PathBuf {
        self.folder.join(self.name)
    }

    /// Holds the reserve in full, or fails and holds as much of it as there is.
    pub(crate) fn fill(&self) -> io::Result<()> {
        let file = File::options().write(true).create(true).truncate(false).open(self.path())?;
        if file.metadata()?.len() > self.bytes {
            file.set_len(self.bytes)?;
        }
        let claimed = claim(&file, self.bytes);
        if claimed.as_ref().is_err_and(is_no_space) {
            let _ = (1..RESERVE_PARTS).try_for_each(|part| claim(&file, self.bytes * part / RESERVE_PARTS));
        }
        claimed
    }

    /// Makes room for a checkpoint of so many bytes of pages, if there is not enough. Says whether it gave itself up.
    pub(crate) fn make_room(&self, page_bytes: u64, segment_bytes: u64) -> io::Result<bool> {
        let wanted = page_bytes * SLED_BYTES_PER_BYTE + CHECKPOINT_OVERHEAD_BYTES + segment_bytes;
        let (_, free) = disk_bytes(&self.folder)?;
        let gives_up = free < wanted;
        if gives_up {
            self.shrink_to(0)?;
        }
        Ok(gives_up)
    }

    /// Makes room for opening sled at the start, which may take as much as the opening reserve has.
    pub(crate) fn make_room_for_opening(&self) -> io::Result<()> {
        let (_, free) = disk_bytes(&self.folder)?;
        if free < self.bytes { self.shrink_to(0) } else { Ok(()) }
    }

    /// Makes room for opening sled again in a process that runs. Half of the reserve stays, for the next start.
    pub(crate) fn give_half(&self) -> io::Result<()> {
        self.shrink_to(self.bytes / 2)
    }

    fn shrink_to(&self, bytes: u64) -> io::Result<()> {
        match File::options().write(true).open(self.path()) {
            Ok(file) if file.metadata()?.len() > bytes => file.set_len(bytes),
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// How an attempt to get disk space ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    Space,
    NoSpace,
    Failed(String),
}

#[derive(Debug)]
struct Rounds {
    begun: u64,
    ended: u64,
    verdict: Verdict,
    closed: bool,
}

/// How commits wait for the thread that gets space: each round is one attempt, shared by all who waited for it.
#[derive(Debug)]
pub(crate) struct SpaceRounds {
    rounds: Mutex<Rounds>,
    changed: Condvar,
}

impl Default for SpaceRounds {
    fn default() -> SpaceRounds {
        let rounds = Rounds { begun: 0, ended: 0, verdict: Verdict::Space, closed: false };
        SpaceRounds { rounds: Mutex::new(rounds), changed: Condvar::new() }
    }
}

impl SpaceRounds {
    /// Waits for the end of a round that begins after this call; `ring` wakes the thread that runs it.
    pub(crate) fn wait(&self, ring: impl FnOnce()) -> Verdict {
        let rounds = locked(&self.rounds);
        let wanted = rounds.begun + 1;
        ring();
        let waiting = |rounds: &mut Rounds| rounds.ended < wanted && !rounds.closed;
        let rounds = self.changed.wait_while(rounds, waiting).unwrap_or_else(PoisonError::into_inner);
        if rounds.ended < wanted {
            return Verdict::Failed("the store is closed".to_owned());
        }
        rounds.verdict.clone()
    }

    pub(crate) fn begin(&self) {
        locked(&self.rounds).begun += 1;
    }

    pub(crate) fn end(&self, verdict: Verdict) {
        let mut rounds = locked(&self.rounds);
        rounds.ended = rounds.begun;
        rounds.verdict = verdict;
        self.changed.notify_all();
    }

    /// Lets everyone go who waits, now and later.
    pub(crate) fn close(&self) {
        locked(&self.rounds).closed = true;
        self.changed.notify_all();
    }

    /// How the last round ended.
    pub(crate) fn last(&self) -> Verdict {
        locked(&self.rounds).verdict.clone()
    }
}
