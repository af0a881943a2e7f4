//! Threads that sleep until something changes.
//!
//! Each sleeping thread has a [`Parker`] of its own, so that waking one wakes no other. An operation that has recalls on
//! their way is an *attempt*: it keeps nodes frozen until it ends, and counts the answers it still waits for. Everything
//! else that is waited for (a slot, the grace time, chunks, an older operation's turn) is a [`Reason`] in [`Waiters`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, Thread};

use rfs_common::clock::Monotonic;
use rfs_common::ids::{InodeId, SessionId};

use crate::leases::Forgotten;

/// Lets one thread sleep and others wake it. A wake before the sleep counts.
#[derive(Debug)]
pub(super) struct Parker {
    thread: Thread,
    woken: AtomicBool,
}

impl Parker {
    /// For the calling thread.
    pub(super) fn new() -> Arc<Parker> {
        Arc::new(Parker { thread: thread::current(), woken: AtomicBool::new(false) })
    }

    /// Sleeps until woken. Only for the thread that made it.
    pub(super) fn sleep(&self) {
        while !self.woken.swap(false, Ordering::Acquire) {
            thread::park();
        }
    }

    /// Wakes the thread.
    pub(super) fn wake(&self) {
        self.woken.store(true, Ordering::Release);
        self.thread.unpark();
    }
}

/// Why a thread sleeps, apart from recalls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    /// The slot's request before it runs.
    Slot(SessionId, u32),
    /// Sessions are still to come back after the start.
    Grace,
    /// An older operation on the node has all it waited for and is about to run.
    Turn,
    /// Copies, orders or repairs.
    Chunks,
}

/// The threads that sleep for a [`Reason`].
#[derive(Debug, Default)]
pub(super) struct Waiters {
    waiting: Vec<(Reason, Option<Monotonic>, Arc<Parker>)>,
}

impl Waiters {
    /// The thread is about to sleep, until woken for the reason or until the deadline.
    pub(super) fn add(&mut self, reason: Reason, deadline: Option<Monotonic>, parker: Arc<Parker>) {
        self.waiting.push((reason, deadline, parker));
    }

    /// Takes out those that sleep for this reason.
    pub(super) fn take(&mut self, reason: Reason) -> impl Iterator<Item = Arc<Parker>> {
        self.waiting.extract_if(.., move |waiting| waiting.0 == reason).map(|waiting| waiting.2)
    }

    /// Takes out those whose deadline has passed.
    pub(super) fn take_late(&mut self, now: Monotonic) -> impl Iterator<Item = Arc<Parker>> {
        let late = move |waiting: &mut (Reason, Option<Monotonic>, Arc<Parker>)| {
            waiting.1.is_some_and(|deadline| deadline <= now)
        };
        self.waiting.extract_if(.., late).map(|waiting| waiting.2)
    }

    /// Takes out all.
    pub(super) fn take_all(&mut self) -> impl Iterator<Item = Arc<Parker>> {
        self.waiting.drain(..).map(|waiting| waiting.2)
    }

    /// How many sleep.
    pub(super) fn count(&self) -> usize {
        self.waiting.len()
    }
}

/// Numbers the operations that have recalled something; a smaller number is older.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct AttemptId(pub(super) u64);

/// An operation that has recalled something and has not ended.
#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) parker: Arc<Parker>,
    /// Answers still to come.
    pub(super) pending: usize,
    /// Whether it waits for answers, or has them all and is about to run.
    pub(super) sleeping: bool,
    /// Nodes it keeps frozen.
    pub(super) frozen: Vec<InodeId>,
    /// What sessions have forgotten for it.
    pub(super) forgotten: Forgotten,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Attempts {
    last: u64,
    attempts: BTreeMap<AttemptId, Attempt>,
}

impl Attempts {
    /// Begins one, for the thread of this parker.
    pub(super) fn begin(&mut self, parker: Arc<Parker>) -> AttemptId {
        self.last += 1;
        let id = AttemptId(self.last);
        let attempt =
            Attempt { parker, pending: 0, sleeping: false, frozen: Vec::new(), forgotten: Forgotten::default() };
        self.attempts.insert(id, attempt);
        id
    }

    /// The attempt.
    pub(super) fn get_mut(&mut self, id: AttemptId) -> Option<&mut Attempt> {
        self.attempts.get_mut(&id)
    }

    /// The attempt.
    pub(super) fn get(&self, id: AttemptId) -> Option<&Attempt> {
        self.attempts.get(&id)
    }

    /// Ends it.
    pub(super) fn end(&mut self, id: AttemptId) -> Option<Attempt> {
        self.attempts.remove(&id)
    }

    /// Whether an operation older than `own` (any, without one) waits for this node no longer and is about to run.
    pub(super) fn is_older_about_to_run(&self, inode: InodeId, own: Option<AttemptId>) -> bool {
        let older = self.attempts.iter().take_while(|(id, _)| own.is_none_or(|own| **id < own));
        older
            .into_iter()
            .any(|(_, attempt)| attempt.sleeping && attempt.pending == 0 && attempt.frozen.contains(&inode))
    }

    /// A session has been given a lease on a node, whoever waits for it: what it forgot of the node before counts no more.
    pub(super) fn given_anew(&mut self, session: SessionId, inode: InodeId) {
        self.attempts.values_mut().for_each(|attempt| attempt.forgotten.given_anew(session, inode));
    }

    /// The threads of all.
    pub(super) fn parkers(&self) -> impl Iterator<Item = Arc<Parker>> {
        self.attempts.values().map(|attempt| attempt.parker.clone())
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.attempts.len()
    }
}
