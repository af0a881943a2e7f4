//! One operation of one session at the engine: it is admitted to its slot, runs when nothing is in the way, and leaves
//! nothing behind however it ends.
//!
//! [`Turn::perform`] runs an operation of the namespace by the rules of docs/protocol.md, section 2. A turn holds the
//! engine's lock except while it sleeps; whoever slept finds the world changed and starts again.

use prost::Message;
use rfs_common::clock::{Monotonic, Time};
use rfs_common::errno::Errno;
use rfs_common::ids::{ChunkId, InodeId, LogPosition, SessionId};

use super::mirror;
use super::waiting::{AttemptId, Parker, Reason};
use super::{Engine, Failure, Locked, PushMessage, Refusal, Request, State};
use crate::chunks::OrderId;
use crate::leases::{Forgotten, Lease, LeaseMode, Outstanding, RecallItems};
use crate::locks::{ByteRange, CancelOutcome, Lock, LockKind, LockOutcome, LockOwner, Patience, Ticket};
use crate::namespace::metadata::Transaction;
use crate::namespace::records::{self, Record, SlotRecord};
use crate::namespace::source::Change;
use crate::operation::{Context, Need, Operation, perform};
use crate::sessions::{Admission, Remembered};

/// An operation that was admitted.
pub(crate) struct Turn<'a> {
    pub(crate) engine: &'a Engine,
    pub(crate) request: Request,
    state: Option<Locked<'a>>,
    attempt: Option<AttemptId>,
    /// The chunk that this turn mends, and the order for it that is under way.
    pub(super) mending: Option<ChunkId>,
    pub(super) order: Option<OrderId>,
    root: InodeId,
    read_only: bool,
}

/// What came of asking to be admitted.
pub(crate) enum Entered<'a> {
    /// The operation is to run.
    Turn(Turn<'a>),
    /// It ran before and was answered this.
    Repeated(Vec<u8>),
}

/// An operation of the namespace that has run and whose changes are not committed yet.
pub(crate) struct Performed<O> {
    pub(crate) outcome: O,
    pub(crate) changes: Vec<Change>,
}

/// Whether nodes that others are about to take may be taken first.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Precedence {
    /// The operation gives this node's WRITE lease: older operations that have all they waited for go first.
    After(InodeId),
    /// It gives none that would stand in their way.
    None,
}

impl<'a> Turn<'a> {
    /// Waits for the slot, the grace time and the session itself.
    pub(crate) fn enter(engine: &'a Engine, request: Request) -> Result<Entered<'a>, Refusal> {
        let mut state = engine.lock();
        loop {
            if state.stopping {
                return Err(Refusal::Close("the master is stopping"));
            }
            let Some(session) = state.sessions.get(request.session) else { return Err(expired()) };
            let (root, read_only) = (session.root(), session.client().read_only);
            if !state.grace_over {
                state = sleep(engine, state, Reason::Grace, None);
                continue;
            }
            match state.sessions.admit(request.session, request.slot, request.sequence) {
                Admission::Run => {
                    let (attempt, mending, order) = (None, None, None);
                    let state = Some(state);
                    return Ok(Entered::Turn(Turn {
                        engine,
                        request,
                        state,
                        attempt,
                        mending,
                        order,
                        root,
                        read_only,
                    }));
                }
                Admission::Repeated(reply) => {
                    engine.metrics.repetitions.add_one();
                    return Ok(Entered::Repeated(reply));
                }
                Admission::Occupied => {
                    state = sleep(engine, state, Reason::Slot(request.session, request.slot), None);
                }
                Admission::Outdated { .. } => return Err(Refusal::Close("the request's slot is further on already")),
            }
        }
    }

    /// What the lock guards.
    pub(crate) fn state(&mut self) -> &mut State {
        self.state.as_mut().expect("a turn holds the lock unless it sleeps")
    }

    /// The session.
    pub(crate) fn session(&self) -> SessionId {
        self.request.session
    }

    /// The wall clock.
    pub(crate) fn now(&self) -> Time {
        self.engine.clock.now()
    }

    /// When an operation that begins to wait for chunks now gives up.
    pub(crate) fn chunk_deadline(&self) -> Monotonic {
        self.engine.clock.monotonic() + self.engine.config.chunk_wait
    }

    /// Runs an operation of the namespace as soon as nothing is in its way. Its changes are to be committed with
    /// [`Turn::commit`] before the lock goes.
    pub(crate) fn perform<O: Operation>(&mut self, operation: &O) -> Result<Performed<O::Outcome>, Refusal> {
        let engine = self.engine;
        loop {
            let (session, root, read_only, now) = (self.session(), self.root, self.read_only, self.now());
            let attempt = self.attempt;
            let state = self.state();
            let leases = &state.leases;
            let known_by = |inode| leases.known_by(inode);
            let written_elsewhere = |inode| leases.writer(inode).is_some_and(|(writer, _)| writer != session);
            let context =
                Context { session, read_only, root, now, known_by: &known_by, written_elsewhere: &written_elsewhere };
            if O::CHANGES && read_only {
                return Err(Errno::EROFS.into());
            }
            let mut transaction = engine.transaction();
            let needs =
                operation.needs(&mut transaction, &context).map_err(|errno| failed(engine, errno, &transaction))?;
            check_own_leases(state, session, &needs)?;
            let nothing = Forgotten::default();
            let forgotten =
                attempt.and_then(|id| state.attempts.get(id)).map_or(&nothing, |attempt| &attempt.forgotten);
            let conflicts = state.leases.conflicts(session, &needs, forgotten);
            if conflicts.is_empty() {
                let mut transaction = engine.transaction();
                let outcome = perform(operation, &mut transaction, &context);
                let outcome = outcome.map_err(|errno| failed(engine, errno, &transaction))?;
                self.end_attempt();
                return Ok(Performed { outcome, changes: transaction.into_changes() });
            }
            self.recall(conflicts)?;
        }
    }

    /// Waits until what these needs say is out of other sessions' hands.
    pub(crate) fn clear(&mut self, needs: &[Need], precedence: Precedence) -> Result<(), Refusal> {
        loop {
            let (session, attempt) = (self.session(), self.attempt);
            let state = self.state();
            check_own_leases(state, session, needs)?;
            if let Precedence::After(inode) = precedence
                && state.attempts.is_older_about_to_run(inode, attempt)
            {
                self.sleep(Reason::Turn, None)?;
                continue;
            }
            let nothing = Forgotten::default();
            let forgotten =
                attempt.and_then(|id| state.attempts.get(id)).map_or(&nothing, |attempt| &attempt.forgotten);
            let conflicts = state.leases.conflicts(session, needs, forgotten);
            if conflicts.is_empty() {
                self.end_attempt();
                return Ok(());
            }
            self.recall(conflicts)?;
        }
    }

    /// All is out of the way, and stays so as long as the lock is held: what was frozen for this operation no longer is, so
    /// that its own answer can carry leases.
    fn end_attempt(&mut self) {
        if let Some(id) = self.attempt.take() {
            self.state().end_attempt(id);
        }
    }

    /// Sends recalls, freezes what they are about, and sleeps until each is answered or its session is gone.
    fn recall(&mut self, conflicts: std::collections::BTreeMap<SessionId, RecallItems>) -> Result<(), Refusal> {
        let (engine, now) = (self.engine, self.engine.clock.monotonic());
        let attempt = self.attempt;
        let state = self.state();
        let id = attempt.unwrap_or_else(|| state.attempts.begin(Parker::new()));
        let count = conflicts.len();
        engine.metrics.recalls.add(count as u64);
        for (session, items) in conflicts {
            state.freeze_for(id, &items);
            let outstanding = Outstanding { session, items: items.clone(), waiter: Some(id), since: now };
            let recall = state.recalls.begin(outstanding);
            state.push(session, PushMessage::Recall(recall, items));
        }
        let attempt = state.attempts.get_mut(id).expect("it has just begun or was there");
        attempt.pending += count;
        attempt.sleeping = true;
        let parker = attempt.parker.clone();
        self.attempt = Some(id);
        loop {
            engine.metrics.waits.add_one();
            self.state = None;
            parker.sleep();
            self.state = Some(engine.lock());
            self.check_alive()?;
            let attempt = self.state().attempts.get_mut(id).expect("only this turn ends it");
            if attempt.pending == 0 {
                attempt.sleeping = false;
                // Those that let this one go first may go on.
                let state = self.state();
                state.waking.extend(state.waiters.take(Reason::Turn));
                return Ok(());
            }
        }
    }

    /// Sleeps until woken for the reason, or until the deadline.
    pub(super) fn sleep(&mut self, reason: Reason, deadline: Option<Monotonic>) -> Result<(), Refusal> {
        let state = self.state.take().expect("a turn holds the lock unless it sleeps");
        self.state = Some(sleep(self.engine, state, reason, deadline));
        self.check_alive()
    }

    /// Sleeps until something about chunks has changed; fails with `late` when the deadline has passed.
    pub(crate) fn sleep_for_chunks(
        &mut self,
        deadline: Monotonic,
        late: impl FnOnce() -> Failure,
    ) -> Result<(), Refusal> {
        if self.engine.clock.monotonic() >= deadline {
            return Err(late().into());
        }
        self.sleep(Reason::Chunks, Some(deadline))
    }

    fn check_alive(&mut self) -> Result<(), Refusal> {
        let session = self.session();
        let state = self.state();
        if state.stopping {
            return Err(Refusal::Close("the master is stopping"));
        }
        if state.sessions.get(session).is_none() {
            return Err(expired());
        }
        Ok(())
    }

    /// Commits changes together with the reply that a repetition of the request is to get, and brings the mirrors in step.
    /// Nothing to change is nothing to commit or remember.
    pub(crate) fn commit(&mut self, mut changes: Vec<Change>, reply: &impl Message) -> Result<LogPosition, Refusal> {
        let engine = self.engine;
        if changes.is_empty() {
            return Ok(engine.storage.position());
        }
        let Request { session, slot, sequence } = self.request;
        let remembered = Remembered { sequence, reply: reply.encode_to_vec() };
        let record = SlotRecord { sequence, reply: remembered.reply.clone(), error: false };
        let (key, value) = (records::slot_key(session, slot), record.encode_to_vec());
        changes.push(Change::Put { table: SlotRecord::TABLE, key, value });
        let position = self.state().commit(engine, Some(session), &changes)?;
        self.state().sessions.remember(session, slot, remembered);
        Ok(position)
    }

    /// The last commit.
    pub(crate) fn position(&self) -> LogPosition {
        self.engine.storage.position()
    }

    /// The lease that an answer about the node carries.
    pub(crate) fn answer_lease(&mut self, inode: InodeId) -> Lease {
        let session = self.session();
        self.state().leases.answer(session, inode)
    }

    /// What the session holds on the node.
    pub(crate) fn held_lease(&mut self, inode: InodeId) -> Option<Lease> {
        let session = self.session();
        self.state().leases.held(session, inode)
    }

    /// Whether the session may ask for such a lease on the node at all.
    pub(crate) fn check_lease(&mut self, inode: InodeId, mode: LeaseMode) -> Result<(), Refusal> {
        let engine = self.engine;
        let mut transaction = engine.transaction();
        let node = transaction.node(inode).map_err(|errno| failed(engine, errno, &transaction))?;
        match mode {
            LeaseMode::Write if self.read_only => Err(Errno::EROFS.into()),
            LeaseMode::Write if node.is_directory() => Err(Errno::EISDIR.into()),
            LeaseMode::Write if !node.is_file() => Err(Errno::EINVAL.into()),
            _ => Ok(()),
        }
    }

    /// Gives the WRITE lease, once [`Turn::acquire`] has made way for it.
    pub(crate) fn take_write(&mut self, inode: InodeId) {
        let session = self.session();
        let state = self.state();
        state.leases.take_write(session, inode);
        state.attempts.given_anew(session, inode);
    }

    /// The session no longer knows these nodes.
    pub(crate) fn forget(&mut self, inodes: &[InodeId]) {
        let session = self.session();
        let state = self.state();
        for inode in inodes {
            let wrote = state.leases.may_write(session, *inode);
            state.leases.forget(session, *inode);
            if wrote {
                state.writing_ended(*inode);
            }
        }
    }

    /// Bytes of the cluster and how many of them are free, as they count for files of the default goal.
    pub(crate) fn space(&self) -> (u64, u64) {
        let mut transaction = self.engine.transaction();
        let goal = transaction.system().map_or(1, |system| u64::from(system.goal.max(1)));
        let state = self.state.as_ref().expect("a turn holds the lock unless it sleeps");
        let (total, free) = state.chunks.space();
        (total / goal, free / goal)
    }

    /// Takes a lock or queues for it; others may get theirs.
    pub(crate) fn lock(&mut self, inode: InodeId, kind: LockKind, lock: Lock, patience: Patience) -> LockOutcome {
        let mut granted = Vec::new();
        let state = self.state();
        let outcome = state.locks.acquire(inode, kind, lock, patience, &mut granted);
        state.push_lock_grants(&granted);
        outcome
    }

    /// Gives a lock up; others may get theirs.
    pub(crate) fn unlock(&mut self, inode: InodeId, kind: LockKind, owner: LockOwner, range: ByteRange) {
        let mut granted = Vec::new();
        let state = self.state();
        state.locks.unlock(inode, kind, owner, range, &mut granted);
        state.push_lock_grants(&granted);
    }

    /// Who is in the way of a lock.
    pub(crate) fn lock_conflict(&mut self, inode: InodeId, kind: LockKind, wanted: &Lock) -> Option<Lock> {
        self.state().locks.conflict(inode, kind, wanted)
    }

    /// Ends a wait for a lock.
    pub(crate) fn cancel_lock(&mut self, inode: InodeId, ticket: Ticket) -> CancelOutcome {
        let session = self.session();
        self.state().locks.cancel(session, inode, ticket)
    }

    /// A change of memory only: remembers the reply until the master restarts.
    pub(crate) fn remember(&mut self, reply: &impl Message) {
        let Request { session, slot, sequence } = self.request;
        self.state().sessions.remember(session, slot, Remembered { sequence, reply: reply.encode_to_vec() });
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut state = match self.state.take() {
            Some(state) => state,
            None => self.engine.lock(),
        };
        let state = &mut *state;
        if let Some(id) = self.attempt {
            state.end_attempt(id);
        }
        if let Some(order) = self.order {
            state.chunks.abandon_order(order);
        }
        if let Some(chunk) = self.mending {
            state.mending_ended(chunk);
        }
        let Request { session, slot, .. } = self.request;
        state.sessions.finish(session, slot);
        if state.waiters.count() > 0 {
            state.waking.extend(state.waiters.take(Reason::Slot(session, slot)));
        }
    }
}

/// The session is over: the client begins a new one.
fn expired() -> Refusal {
    Failure::new(Errno::ESTALE, "the session is not known (any more): begin a new one").into()
}

/// The refusal of an operation that could not read records, or that the namespace refused.
fn failed(engine: &Engine, errno: Errno, transaction: &Transaction<'_>) -> Refusal {
    engine.note_failure(transaction.failure());
    Failure::new(errno, transaction.failure().map(ToString::to_string).unwrap_or_default()).into()
}

fn check_own_leases(state: &State, session: SessionId, needs: &[Need]) -> Result<(), Refusal> {
    for need in needs {
        if let Need::Write(inode) = need
            && !state.leases.may_write(session, *inode)
        {
            let message = format!("the write lease on inode {inode} is not held: acquire it again");
            return Err(Failure::new(Errno::ESTALE, message).into());
        }
    }
    Ok(())
}

fn sleep<'a>(engine: &'a Engine, mut state: Locked<'a>, reason: Reason, deadline: Option<Monotonic>) -> Locked<'a> {
    engine.metrics.waits.add_one();
    let parker = Parker::new();
    state.waiters.add(reason, deadline, parker.clone());
    drop(state);
    parker.sleep();
    engine.lock()
}

impl State {
    /// Commits changes and brings the mirrors in step. `session` is on whose behalf, if it is on somebody's.
    pub(crate) fn commit(
        &mut self,
        engine: &Engine,
        session: Option<SessionId>,
        changes: &[Change],
    ) -> Result<LogPosition, Failure> {
        let effects = mirror::effects(changes);
        let position = engine.storage.commit(changes).map_err(|refused| {
            engine.metrics.commit_failures.add_one();
            Failure { errno: refused.errno, message: refused.message }
        })?;
        engine.metrics.commits.add_one();
        self.mirror(session, effects);
        Ok(position)
    }

    /// Wakes the threads that wait for something about chunks.
    pub(crate) fn wake_for_chunks(&mut self) {
        if self.waiters.count() > 0 {
            self.waking.extend(self.waiters.take(Reason::Chunks));
        }
    }

    /// Nodes stay without new leases until the attempt ends.
    fn freeze_for(&mut self, id: AttemptId, items: &RecallItems) {
        let inodes = items.leases.iter().map(|lease| lease.inode);
        let inodes = inodes.chain(items.entries.iter().map(|entry| entry.0)).chain(items.attributes.iter().copied());
        let attempt = self.attempts.get_mut(id).expect("the caller has it");
        for inode in inodes {
            if !attempt.frozen.contains(&inode) {
                attempt.frozen.push(inode);
                self.leases.freeze(inode);
            }
        }
    }

    fn end_attempt(&mut self, id: AttemptId) {
        let Some(attempt) = self.attempts.end(id) else { return };
        attempt.frozen.into_iter().for_each(|inode| self.leases.thaw(inode));
        self.recalls.abandon(id);
        self.waking.extend(self.waiters.take(Reason::Turn));
    }

    /// A session has carried out what it was asked, or is gone: the operation that waits for it has one answer less to
    /// wait for.
    pub(super) fn recall_ended(&mut self, outstanding: &Outstanding<AttemptId>) {
        for lease in &outstanding.items.leases {
            self.lower_lease(outstanding.session, *lease);
        }
        let Some(attempt) = outstanding.waiter.and_then(|id| self.attempts.get_mut(id)) else { return };
        attempt.forgotten.add(outstanding.session, &outstanding.items);
        attempt.pending -= 1;
        if attempt.pending == 0 {
            self.waking.push(attempt.parker.clone());
        }
    }

    /// A lease comes down. When it was the WRITE lease, what was being written under it is over.
    pub(crate) fn lower_lease(&mut self, session: SessionId, lease: crate::leases::Lease) {
        let wrote = self.leases.may_write(session, lease.inode);
        self.leases.lower(session, lease);
        if wrote && !self.leases.may_write(session, lease.inode) {
            debug_assert!(lease.mode < LeaseMode::Write);
            self.writing_ended(lease.inode);
        }
    }

    /// Nobody raises the chunk's copies any more.
    pub(super) fn mending_ended(&mut self, chunk: ChunkId) {
        self.mending.remove(&chunk);
        self.wake_for_chunks();
    }

    /// A chunk's writer is done with it, or gone.
    pub(crate) fn end_write(&mut self, chunk: ChunkId) {
        self.chunks.end_write(chunk);
        self.wake_for_chunks();
    }
}
