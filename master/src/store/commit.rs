//! What an open store consists of, and the way of a commit through it.
//!
//! A commit holds the log's append lock from the check of its pages to their change, so commits are one after another.
//! It waits, outside that lock, for the thread that gets disk space if there is no segment to write to or the reserve is
//! not full, and for a checkpoint if too many pages have changed.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

use rfs_common::clock::{Monotonic, SharedClock};
use rfs_common::ids::LogPosition;

use super::anchor::shown;
use super::export::ExportView;
use super::format::{KEY_BYTES_MAX, RECORD_HEAD_BYTES, VALUE_BYTES_MAX};
use super::log::{AppendError, Log, is_no_space, locked};
use super::pages::{Origin, Pages};
use super::space::{Reserve, Sizes, SpaceRounds, Verdict};
use super::wakeup::{Wakeup, Woken};
use super::{Change, CommitError, StoreOptions, StoreState, StoreStatus};

/// Bytes of a change in the log besides its key and value.
const CHANGE_BYTES: usize = 8;
/// How long the threads sleep when nothing wakes them.
const IDLE: Duration = Duration::from_secs(3600);

/// What the last checkpoint left behind.
#[derive(Debug, Default)]
pub(crate) struct CheckpointState {
    /// Up to where the marker says the log is folded.
    pub(crate) marker: u64,
    pub(crate) finished: Option<Monotonic>,
    pub(crate) error: Option<String>,
    /// Counts attempts, so that whoever waits for one sees it end.
    pub(crate) attempts: u64,
    /// When the one that is under way began.
    pub(crate) begun: Option<Monotonic>,
}

/// An open store without its threads.
pub(crate) struct Core {
    pub(crate) folder: PathBuf,
    pub(crate) cluster: [u8; 16],
    pub(crate) options: StoreOptions,
    pub(crate) sizes: Sizes,
    pub(crate) clock: SharedClock,
    pub(crate) log: Log,
    pub(crate) pages: Pages,
    /// Held by whoever writes a checkpoint.
    pub(crate) checkpointing: Mutex<()>,
    /// Held by whoever writes an export.
    pub(crate) exporting: Mutex<()>,
    pub(crate) export_view: Mutex<Option<ExportView>>,
    pub(crate) checkpoint_state: Mutex<CheckpointState>,
    pub(crate) checkpoint_ended: Condvar,
    pub(crate) checkpoint_wakeup: Wakeup,
    pub(crate) checkpoint_wanted: AtomicBool,
    /// Held while the reserve is given up or a segment is claimed.
    pub(crate) reserve: Mutex<Reserve>,
    /// Given up only while sled is being opened; held then.
    pub(crate) opening_reserve: Mutex<Reserve>,
    pub(crate) space_low: AtomicBool,
    pub(crate) space_wakeup: Wakeup,
    pub(crate) space_rounds: SpaceRounds,
    pub(crate) flush_wakeup: Wakeup,
    pub(crate) flush_idle: AtomicBool,
    pub(crate) dirty_bytes: AtomicU64,
    pub(crate) stopped: AtomicBool,
}

impl Core {
    pub(crate) fn commit(&self, changes: &[Change]) -> Result<u64, CommitError> {
        self.check_sizes(changes)?;
        if changes.is_empty() {
            return Ok(self.log.position());
        }
        loop {
            if self.space_low.load(Ordering::Acquire) {
                self.wait_for_space()?;
            }
            match self.try_commit(changes)? {
                Some(position) => {
                    self.wake_threads();
                    if self.options.wait_for_disk {
                        self.log.sync(position).map_err(CommitError::Failed)?;
                    }
                    return Ok(position);
                }
                None => self.wait_for_space()?,
            }
        }
    }

    /// A commit that may use the reserve, for the few records without which a master cannot start on a full disk.
    pub(crate) fn commit_from_reserve(&self, changes: &[Change]) -> Result<u64, CommitError> {
        self.check_sizes(changes)?;
        if changes.is_empty() {
            return Ok(self.log.position());
        }
        // Nobody else claims space meanwhile.
        let reserve = locked(&self.reserve);
        let failed = |error: std::io::Error| match is_no_space(&error) {
            true => CommitError::NoSpace,
            false => CommitError::Failed(format!("claiming disk space in {} failed: {error}", shown(&self.folder))),
        };
        let position = match self.try_commit(changes)? {
            Some(position) => position,
            None => {
                self.space_low.store(true, Ordering::Release);
                reserve.make_room(0, self.sizes.segment_bytes).and_then(|_| self.log.prepare()).map_err(failed)?;
                self.try_commit(changes)?.ok_or(CommitError::NoSpace)?
            }
        };
        drop(reserve);
        self.space_wakeup.ring();
        self.wake_threads();
        Ok(position)
    }

    fn check_sizes(&self, changes: &[Change]) -> Result<(), CommitError> {
        let too_large = |bytes: usize, bytes_max: u64| CommitError::TooLarge { bytes: bytes as u64, bytes_max };
        let mut record_bytes = RECORD_HEAD_BYTES;
        for change in changes {
            let value_bytes = if let Change::Put { value, .. } = change { value.len() } else { 0 };
            if change.key().len() > KEY_BYTES_MAX {
                return Err(too_large(change.key().len(), KEY_BYTES_MAX as u64));
            }
            if value_bytes > VALUE_BYTES_MAX {
                return Err(too_large(value_bytes, VALUE_BYTES_MAX as u64));
            }
            record_bytes += CHANGE_BYTES + change.key().len() + value_bytes;
        }
        let bytes_max = self.log.record_bytes_max() - 8;
        if record_bytes as u64 > bytes_max { Err(too_large(record_bytes, bytes_max)) } else { Ok(()) }
    }

    /// One attempt; `None` if there is no space to write to.
    fn try_commit(&self, changes: &[Change]) -> Result<Option<u64>, CommitError> {
        let mut appender = self.log.lock();
        if self.stopped.load(Ordering::Acquire) {
            return Err(CommitError::Failed("the store is closed".to_owned()));
        }
        let pinned = self.pages.pin(changes)?;
        match self.log.append(&mut appender, changes) {
            Ok(position) => {
                let dirty_bytes = self.pages.apply(position, changes, pinned, Origin::Commit);
                self.dirty_bytes.store(dirty_bytes, Ordering::Relaxed);
                Ok(Some(position))
            }
            Err(AppendError::NoSegment) => Ok(None),
            Err(AppendError::NoSpace) => Err(CommitError::NoSpace),
            Err(AppendError::Failed(reason)) => Err(CommitError::Failed(reason)),
        }
    }

    fn wake_threads(&self) {
        if self.flush_idle.swap(false, Ordering::AcqRel) {
            self.flush_wakeup.ring();
        }
        if !self.log.is_prepared() {
            self.space_wakeup.ring();
        }
        self.want_checkpoint_if_much_changed();
    }

    /// Half of what may change between two checkpoints is when the next one begins; a replay can come to that too.
    pub(crate) fn want_checkpoint_if_much_changed(&self) {
        if self.dirty_bytes.load(Ordering::Relaxed) > self.sizes.dirty_bytes_max / 2 {
            self.want_checkpoint();
        }
    }

    /// Wakes the checkpoint thread, once per checkpoint.
    fn want_checkpoint(&self) {
        if !self.checkpoint_wanted.swap(true, Ordering::AcqRel) {
            self.checkpoint_wakeup.ring();
        }
    }

    /// Waits for one checkpoint if too much has changed. If checkpoints fail, or take too long, commits go on as long as the
    /// log has space.
    pub(crate) fn wait_for_memory(&self) {
        if self.dirty_bytes.load(Ordering::Relaxed) <= self.sizes.dirty_bytes_max {
            return;
        }
        if locked(&self.checkpoint_state).error.is_none() {
            self.wait_for_checkpoint(1);
        }
    }

    /// Waits for so many checkpoints to end, for as long as the options allow since the one under way began. Says whether
    /// they did.
    fn wait_for_checkpoint(&self, count: u64) -> bool {
        let mut state = locked(&self.checkpoint_state);
        self.want_checkpoint();
        let (wanted, asked) = (state.attempts + count, self.clock.monotonic());
        loop {
            if state.attempts >= wanted {
                return true;
            }
            let waited = self.clock.monotonic().since(state.begun.unwrap_or(asked).min(asked));
            let left = self.options.checkpoint_wait.saturating_sub(waited);
            if left.is_zero() || self.stopped.load(Ordering::Acquire) {
                return false;
            }
            let woken = self.checkpoint_ended.wait_timeout(state, left);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn wait_for_space(&self) -> Result<(), CommitError> {
        match self.space_rounds.wait(|| self.space_wakeup.ring()) {
            Verdict::Space => Ok(()),
            Verdict::NoSpace => Err(CommitError::NoSpace),
            Verdict::Failed(reason) => Err(CommitError::Failed(reason)),
        }
    }

    /// The flush thread: nothing stays off the disk for longer than the interval.
    pub(crate) fn run_flush(&self) {
        let mut synced_for = Duration::ZERO;
        loop {
            self.flush_idle.store(true, Ordering::SeqCst);
            if self.log.position() <= self.log.durable_position() && self.flush_wakeup.sleep(IDLE) == Woken::Ended {
                return;
            }
            self.flush_idle.store(false, Ordering::SeqCst);
            // From the beginning of one sync to that of the next: what comes during a slow one has waited already.
            let woken = self.flush_wakeup.sleep(self.options.log_flush_interval.saturating_sub(synced_for));
            let begun = self.clock.monotonic();
            // The log keeps the reason of a failure and tells it to every commit.
            let _ = self.log.sync(self.log.position());
            synced_for = self.clock.monotonic().since(begun);
            if woken == Woken::Ended || (self.log.failure().is_some() && self.flush_wakeup.sleep(IDLE) == Woken::Ended)
            {
                return;
            }
        }
    }

    /// The space thread: keeps the next segment and the reserve ready.
    pub(crate) fn run_space(&self) {
        while self.space_wakeup.sleep(IDLE) != Woken::Ended {
            self.space_rounds.begin();
            let verdict = self.get_space();
            self.space_low.store(verdict != Verdict::Space, Ordering::Release);
            self.space_rounds.end(verdict);
        }
        self.space_rounds.close();
    }

    /// Claims what is needed, after a checkpoint that makes room where there is too little. A checkpoint that hangs is not
    /// waited for.
    fn get_space(&self) -> Verdict {
        match self.claim_space() {
            Some(Verdict::NoSpace) if !self.has_unfolded_log() => return Verdict::NoSpace,
            // The one under way may have begun too early to make room.
            Some(Verdict::NoSpace) => {
                let under_way = locked(&self.checkpoint_state).begun.is_some();
                self.wait_for_checkpoint(1 + u64::from(under_way));
            }
            Some(verdict) => return verdict,
            None => {
                self.wait_for_checkpoint(1);
            }
        }
        self.claim_space().unwrap_or(Verdict::NoSpace)
    }

    /// None: a checkpoint has given up a reserve, and claims wait.
    pub(crate) fn claim_space(&self) -> Option<Verdict> {
        let reserve = try_locked(&self.reserve)?;
        let opening_reserve = try_locked(&self.opening_reserve)?;
        // The one for opening first: without it the next start may fail.
        let filled = opening_reserve.fill().and_then(|()| reserve.fill());
        Some(match filled.and_then(|()| self.log.prepare()) {
            Ok(()) => Verdict::Space,
            Err(error) if is_no_space(&error) => Verdict::NoSpace,
            Err(error) => Verdict::Failed(format!("claiming disk space in {} failed: {error}", shown(&self.folder))),
        })
    }

    fn has_unfolded_log(&self) -> bool {
        self.log.position() > locked(&self.checkpoint_state).marker
    }

    /// Ends the threads; whoever waits for them is let go.
    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        self.flush_wakeup.end();
        self.space_wakeup.end();
        self.checkpoint_wakeup.end();
        drop(locked(&self.checkpoint_state));
        self.checkpoint_ended.notify_all();
    }

    pub(crate) fn status(&self) -> StoreStatus {
        let state = match self.log.failure() {
            Some(reason) => StoreState::Failed(reason.to_owned()),
            None if self.space_low.load(Ordering::Acquire) => match self.space_rounds.last() {
                Verdict::Failed(reason) => StoreState::Failed(reason),
                Verdict::NoSpace | Verdict::Space => StoreState::NoSpace,
            },
            None => StoreState::Working,
        };
        let checkpoint = locked(&self.checkpoint_state);
        StoreStatus {
            position: LogPosition::new(self.log.position()),
            durable: LogPosition::new(self.log.durable_position()),
            log_bytes_unfolded: if self.log.position() > checkpoint.marker { self.log.kept_bytes() } else { 0 },
            dirty_pages: self.pages.dirty_pages(),
            cached_bytes: self.pages.cached_bytes(),
            last_checkpoint: checkpoint.finished.map(|finished| self.clock.monotonic().since(finished)),
            last_checkpoint_error: checkpoint.error.clone(),
            state,
        }
    }
}

fn try_locked<T>(mutex: &Mutex<T>) -> Option<MutexGuard<'_, T>> {
    match mutex.try_lock() {
        Ok(guard) => Some(guard),
        Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    }
}
