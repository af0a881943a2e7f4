//! What happens because time passes: silent sessions end, chunks are repaired, settled and forgotten, late sleepers wake.

use std::sync::Arc;
use std::time::Duration;

use rfs_common::background::{Step, Worker};
use rfs_common::clock::Monotonic;
use rfs_common::ids::InodeId;

use super::life::Ending;
use super::settle::{self, CompareCopies};
use super::{Engine, PushMessage, State};
use crate::chunks::Severity;
use crate::leases::{Lease, LeaseMode, Outstanding, RecallItems};
use crate::namespace::ops::chunks;

/// How often the ticker looks at everything.
const INTERVAL: Duration = Duration::from_millis(100);

/// The worker that lets time pass at the engine.
pub struct Ticker {
    engine: Arc<Engine>,
    copies: Arc<dyn CompareCopies>,
}

impl Ticker {
    /// For this engine; copies are compared by `copies`.
    pub fn new(engine: Arc<Engine>, copies: Arc<dyn CompareCopies>) -> Ticker {
        Ticker { engine, copies }
    }
}

impl Worker for Ticker {
    fn name(&self) -> String {
        "ticker".to_owned()
    }

    fn step(&mut self) -> Step {
        self.engine.tick(&*self.copies);
        Step::Idle(INTERVAL)
    }

    fn state(&self) -> String {
        let settling = self.engine.lock().settling.count();
        if settling == 0 { "nothing is due".to_owned() } else { format!("settling {settling} chunks") }
    }
}

impl Engine {
    /// Does all that is due now. Called by the [`Ticker`], and by tests that move the clock.
    pub fn tick(&self, copies: &dyn CompareCopies) {
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
            for chunk in state.chunks.wants_settling() {
                state.settling.add(chunk);
            }
            state.settle_step(self, now)
        } else {
            Vec::new()
        };
        let late: Vec<_> = state.waiters.take_late(now).collect();
        state.waking.extend(late);
        state.wake_for_chunks();
        drop(state);
        for comparison in comparisons {
            let digests = settle::compare(&comparison, copies);
            self.lock().compared(self, &comparison, &digests, now);
        }
    }

    fn end_lost_sessions(&self, state: &mut State, now: Monotonic) {
        let silent = state.sessions.expired(now);
        let overdue = state.recalls.overdue(now, self.config.recall_timeout);
        let reasons = silent.into_iter().map(|session| (session, "was silent for", self.config.session_expiry));
        let overdue =
            overdue.into_iter().map(|session| (session, "owed the answer to a recall for", self.config.recall_timeout));
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
            let outstanding = Outstanding { session, items: items.clone(), waiter: None, since: now };
            let recall = self.recalls.begin(outstanding);
            self.push(session, PushMessage::Recall(recall, items));
        }
    }

    /// Nobody may write the file: whatever still counts as being written is not.
    fn end_stray_writes(&mut self, inode: InodeId) {
        self.writing_ended(rfs_common::ids::SessionId::new(0), inode);
    }
}
