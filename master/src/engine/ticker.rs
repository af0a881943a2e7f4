//! What happens because time passes: silent sessions end, chunks are repaired, settled and forgotten, late sleepers wake.

use std::io;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rfs_common::background::{self, Step, Worker};
use rfs_common::clock::Monotonic;
use rfs_common::ids::InodeId;

use super::life::Ending;
use super::settle::{self, CompareCopies, Comparison};
use super::{Engine, State};
use crate::chunks::{AstrayCopies, Place, Severity};
use crate::leases::{Lease, LeaseMode, RecallItems};
use crate::namespace::ops::chunks;

/// How often the ticker looks at everything.
const INTERVAL: Duration = Duration::from_millis(100);

/// How many times `recall_timeout` a session that says to be at work on a recall may be so.
const RECALL_WORK_MAX: u32 = 20;

/// A step that comes so much later than it should have shows that this process did not run: it was stopped, or starved.
const STOOD_STILL: Duration = Duration::from_secs(1);

/// Threads that compare copies: each may wait for a chunkserver that hangs.
const COMPARERS: usize = 4;
/// Comparisons that may wait for them; more are given out again later.
const COMPARISONS_WAITING_MAX: usize = 64;
/// Chunks on older images of volumes that are given out to be compared at a time.
const ASTRAY_AT_ONCE_MAX: usize = 32;

/// The worker that lets time pass at the engine.
pub struct Ticker {
    engine: Arc<Engine>,
    comparisons: SyncSender<Comparison>,
    last_step: Option<Monotonic>,
}

impl Ticker {
    /// For this engine; copies are compared by `copies`, on threads of their own: neither time nor other chunks wait for a
    /// chunkserver that does not answer.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn new(engine: Arc<Engine>, copies: &Arc<dyn CompareCopies>) -> io::Result<Ticker> {
        let (comparisons, waiting) = sync_channel::<Comparison>(COMPARISONS_WAITING_MAX);
        let waiting = Arc::new(Mutex::new(waiting));
        for _ in 0..COMPARERS {
            let (engine, copies, waiting) = (Arc::clone(&engine), Arc::clone(copies), Arc::clone(&waiting));
            background::spawn("compare", move || compare_all(&engine, &*copies, &waiting))?;
        }
        Ok(Ticker { engine, comparisons, last_step: None })
    }
}

/// Until the ticker is gone.
fn compare_all(engine: &Engine, copies: &dyn CompareCopies, waiting: &Mutex<Receiver<Comparison>>) {
    loop {
        let next = waiting.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(comparison) = next else { return };
        engine.compare(&comparison, copies);
    }
}

impl Worker for Ticker {
    fn name(&self) -> String {
        "ticker".to_owned()
    }

    fn step(&mut self) -> Step {
        let now = self.engine.clock.monotonic();
        let pause = self.last_step.map_or(Duration::ZERO, |last| now.since(last).saturating_sub(INTERVAL));
        self.last_step = Some(now);
        if pause > STOOD_STILL {
            self.engine.stood_still(now, pause);
        }
        for comparison in self.engine.pass_time() {
            if let Err(TrySendError::Full(comparison) | TrySendError::Disconnected(comparison)) =
                self.comparisons.try_send(comparison)
            {
                self.engine.lock().not_compared(&comparison);
            }
        }
        Step::Idle(INTERVAL)
    }

    fn state(&self) -> String {
        let settling = self.engine.lock().settling.count();
        if settling == 0 { "nothing is due".to_owned() } else { format!("settling {settling} chunks") }
    }
}

impl Engine {
    /// Does all that is due now, comparisons included: for tests that move the clock.
    #[cfg(test)]
    pub fn tick(&self, copies: &dyn CompareCopies) {
        for comparison in self.pass_time() {
            self.compare(&comparison, copies);
        }
    }

    fn compare(&self, comparison: &Comparison, copies: &dyn CompareCopies) {
        match comparison {
            Comparison::Settling(settling) => {
                let digests = settle::compare(settling, copies);
                let now = self.clock.monotonic();
                self.lock().compared(self, settling, &digests, now);
            }
            Comparison::Astray(astray) => self.compare_astray(astray, copies),
        }
    }

    /// Copies on an older image of their volume with a good one.
    fn compare_astray(&self, copies: &AstrayCopies, digests: &dyn CompareCopies) {
        let digest = |place: &Place| digests.digest(place, copies.chunk, copies.version);
        let good = digest(&copies.good);
        let astray: Vec<Option<[u8; 32]>> = match good {
            Some(_) => copies.astray.iter().map(digest).collect(),
            None => Vec::new(),
        };
        let now = self.clock.monotonic();
        let mut state = self.lock();
        if let Some(inode) = state.chunks.astray_compared(copies, good, &astray) {
            state.tell_data_changed(inode, now);
        }
    }

    /// Does all that is due now, but for the comparisons that it gives.
    fn pass_time(&self) -> Vec<Comparison> {
        let now = self.clock.monotonic();
        let mut state = self.lock();
        self.end_lost_sessions(&mut state, now);
        self.store_ends(&mut state);
        state.chunks.tick(now);
        for notice in state.chunks.take_notices() {
            self.report(notice.severity, notice.message);
        }
        state.recall_for_repair(now);
        self.forget_removed_chunks(&mut state);
        let comparisons = if state.grace_over {
            state.settle_left_open();
            state.adopt_newer(self, now);
            for chunk in state.chunks.wants_settling() {
                state.settling.add(chunk);
            }
            let mut comparisons = state.settle_step(self, now);
            comparisons.extend(state.chunks.astray_to_compare(ASTRAY_AT_ONCE_MAX).into_iter().map(Comparison::Astray));
            comparisons
        } else {
            Vec::new()
        };
        let late: Vec<_> = state.waiters.take_late(now).collect();
        state.waking.extend(late);
        state.wake_for_chunks();
        comparisons
    }

    /// Nobody is taken for away because of a time in which this process itself heard nothing.
    fn stood_still(&self, now: Monotonic, pause: Duration) {
        let mut state = self.lock();
        state.chunks.stood_still(now, pause);
        state.sessions.stood_still(now, pause);
        state.recalls.stood_still(now, pause);
        drop(state);
        let seconds = pause.as_secs_f32();
        let message = format!(
            "the master itself stood still for {seconds:.1} s (stopped, or short of processor time or memory); clients and \
             chunkservers that were silent meanwhile are given that time"
        );
        self.report(Severity::Warning, message);
    }

    fn end_lost_sessions(&self, state: &mut State, now: Monotonic) {
        let silent = state.sessions.expired(now);
        let recall_timeout = self.config.recall_timeout;
        let overdue = state.recalls.overdue(now, recall_timeout, recall_timeout * RECALL_WORK_MAX);
        let reasons = silent.into_iter().map(|session| (session, "was silent for", self.config.session_expiry));
        let overdue =
            overdue.into_iter().map(|session| (session, "owed the answer to a recall for more than", recall_timeout));
        for (session, what, how_long) in reasons.chain(overdue).collect::<Vec<_>>() {
            if let Some(who) = self.end_session(state, session, Ending::Lost) {
                self.metrics.sessions_expired.add_one();
                let seconds = how_long.as_secs_f64();
                let message = format!(
                    "session {session} ({who}) {what} {seconds} s and has ended: its leases and locks are free"
                );
                self.report(Severity::Warning, message);
            }
        }
    }

    fn forget_removed_chunks(&self, state: &mut State) {
        let gone = state.chunks.removed_everywhere();
        if gone.is_empty() {
            return;
        }
        let mut transaction = self.transaction();
        for chunk in gone {
            if chunks::forget(&mut transaction, chunk).is_err() {
                self.note_failure(transaction.failure());
                return;
            }
        }
        // A store that takes no changes now is asked again at the next tick.
        let _ = state.commit(self, None, &transaction.into_changes());
    }
}

impl State {
    /// Asks writers to give back what stands in the way of repairs.
    fn recall_for_repair(&mut self, now: Monotonic) {
        for inode in self.chunks.wants_back() {
            let Some((session, lease)) = self.leases.writer(inode) else {
                self.end_stray_writes(inode);
                continue;
            };
            let lease = Lease { mode: LeaseMode::Read, ..lease };
            let items = RecallItems { leases: vec![lease], ..RecallItems::default() };
            self.recall_unawaited(session, items, now);
        }
    }

    /// Nobody may write the file: whatever still counts as being written is not.
    fn end_stray_writes(&mut self, inode: InodeId) {
        self.writing_ended(inode);
    }
}
