//! Checkpoints: the changed pages go to sled, the marker says up to where, and the log below it is dropped.
//!
//! The order is what makes it safe: the log is synced up to the captured position before any page is written, so no page
//! is ever ahead of the log; the pages are on disk before the marker says so; the marker is on disk before log is
//! dropped. Commits go on all the time: they are held up only while the pointers of the changed pages are taken.
//!
//! A checkpoint that fails leaves the log as it is and everything captured as changed; the next one tries again.

use std::time::Duration;

use rfs_common::durable;

use super::StoreError;
use super::commit::Core;
use super::format::{Bounds, Marker};
use super::log::locked;
use super::pages::{CapturedPage, PageId};
use super::wakeup::Woken;

/// The marker's file in the store's folder.
pub(crate) const MARKER_NAME: &str = "checkpoint";
/// How often the checkpoint thread looks at the log's length.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// How long it waits after a failure.
const RETRY_INTERVAL: Duration = Duration::from_secs(2);

/// Why a checkpoint failed. The log is kept, and nothing is lost.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the metadata log was not folded into pages: {0}")]
pub struct CheckpointError(pub(crate) String);

impl From<StoreError> for CheckpointError {
    fn from(error: StoreError) -> CheckpointError {
        CheckpointError(error.to_string())
    }
}

impl Core {
    /// Folds the log now and waits for the end.
    pub(crate) fn checkpoint(&self) -> Result<(), CheckpointError> {
        let _one_at_a_time = locked(&self.checkpointing);
        self.checkpoint_locked().map(|_| ())
    }

    /// The same for a caller that holds the checkpoint lock; returns the position sled now stands at.
    pub(crate) fn checkpoint_locked(&self) -> Result<u64, CheckpointError> {
        self.checkpoint_wanted.store(false, std::sync::atomic::Ordering::Release);
        locked(&self.checkpoint_state).begun = Some(self.clock.monotonic());
        let result = self.fold();
        let mut state = locked(&self.checkpoint_state);
        state.attempts += 1;
        state.begun = None;
        match &result {
            Ok(position) => {
                state.marker = *position;
                state.finished = Some(self.clock.monotonic());
                state.error = None;
            }
            Err(error) => {
                tracing::warn!(error = %error.0, "a checkpoint of the metadata failed; it is tried again, and the log is kept until then");
                state.error = Some(error.0.clone());
            }
        }
        self.checkpoint_ended.notify_all();
        result
    }

    fn fold(&self) -> Result<u64, CheckpointError> {
        if !self.pages.sled.is_open() {
            self.reopen_sled()?;
        }
        loop {
            let _appender = self.log.lock();
            if !self.pages.remove_one_empty(self.log.position())? {
                break;
            }
        }
        let (position, captured, removed) = {
            let _appender = self.log.lock();
            let (captured, removed) = self.pages.capture();
            self.dirty_bytes.store(0, std::sync::atomic::Ordering::Relaxed);
            (self.log.position(), captured, removed)
        };
        let already_folded = locked(&self.checkpoint_state).marker == position;
        if already_folded && captured.is_empty() && removed.is_empty() {
            return Ok(position);
        }
        if let Err(error) = self.store_captured(position, &captured, &removed) {
            self.pages.not_stored(captured, removed);
            self.dirty_bytes.store(self.pages.dirty_bytes(), std::sync::atomic::Ordering::Relaxed);
            return Err(error);
        }
        self.pages.stored(captured);
        self.log
            .drop_through(position)
            .map_err(|error| CheckpointError(format!("deleting folded log failed: {error}")))?;
        Ok(position)
    }

    fn store_captured(
        &self,
        position: u64,
        captured: &[CapturedPage],
        removed: &[PageId],
    ) -> Result<(), CheckpointError> {
        self.log.sync(position).map_err(CheckpointError)?;
        let page_bytes = captured.iter().map(|page| page.page.record_bytes() as u64).sum();
        let reserve = locked(&self.reserve);
        let given_up = reserve
            .make_room(page_bytes, self.sizes.segment_bytes)
            .map_err(|error| CheckpointError(format!("making room on the disk failed: {error}")))?;
        // While the reserve is given up nobody else may claim space.
        let _claims_wait = given_up.then_some(reserve);
        self.keep_for_export(captured, removed)?;
        let digest = self.write_pages(captured, removed)?;
        self.write_marker(position, Bounds::at_rest(digest))?;
        if given_up {
            // The space thread takes the reserve back; until then commits wait for it.
            self.space_low.store(true, std::sync::atomic::Ordering::Release);
            self.space_wakeup.ring();
        }
        Ok(())
    }

    /// Writes the pages, after the marker says what bounds that may leave. Returns the digest of those it left.
    pub(crate) fn write_pages(&self, captured: &[CapturedPage], removed: &[PageId]) -> Result<u64, CheckpointError> {
        let folded = locked(&self.checkpoint_state).marker;
        let bounds = self.pages.sled.bounds_after(captured, removed)?;
        let after = bounds.digests[2];
        self.write_marker(folded, bounds)?;
        if let Err(error) = self.pages.sled.write(captured, removed) {
            self.reopen_sled()?;
            return Err(error.into());
        }
        Ok(after)
    }

    /// On a full disk opening takes its space from its own reserve.
    fn reopen_sled(&self) -> Result<(), StoreError> {
        // Nobody else claims space meanwhile.
        let opening_reserve = locked(&self.opening_reserve);
        let reopened = self.pages.sled.reopen(|| {
            // What cannot be given up is no reason not to try.
            let _ = opening_reserve.give_half();
        });
        let _ = opening_reserve.fill();
        reopened
    }

    fn write_marker(&self, position: u64, bounds: Bounds) -> Result<(), CheckpointError> {
        let marker = Marker { cluster: self.cluster, position, bounds: Some(bounds) };
        durable::write_atomically(&self.folder.join(MARKER_NAME), &marker.encode()).map_err(|error| {
            let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
            CheckpointError(format!("{error}: {cause}"))
        })
    }

    /// The checkpoint thread.
    pub(crate) fn run_checkpoints(&self) {
        let mut last = self.clock.monotonic();
        let mut pause = LOOK_INTERVAL;
        loop {
            match self.checkpoint_wakeup.sleep(pause) {
                Woken::Ended => return,
                Woken::TimePassed if !self.is_checkpoint_due(self.clock.monotonic().since(last)) => continue,
                Woken::TimePassed | Woken::Rung => {}
            }
            pause = if self.checkpoint().is_ok() { LOOK_INTERVAL } else { RETRY_INTERVAL };
            last = self.clock.monotonic();
        }
    }

    fn is_checkpoint_due(&self, since_last: Duration) -> bool {
        let changed = self.log.position() > locked(&self.checkpoint_state).marker;
        changed
            && (since_last >= self.options.checkpoint_interval
                || self.log.kept_bytes() >= self.sizes.checkpoint_log_bytes)
    }
}
