//! The engine: everything that clients share, behind one lock, and the threads that come to it one operation at a time.
//!
//! An operation's thread takes the lock, asks what the operation needs, and either runs it at once or has the leases that
//! are in the way recalled, sleeps without the lock, and starts again ([`turn`]). Running means: changes and the reply to
//! be remembered are committed to the store in one step, then the mirrors in memory follow ([`mirror`]), then the lock goes
//! and the reply is sent by the same thread. What other sessions must hear is collected under the lock and sent after it.
//!
//! What always holds: no IO but the store's reads and commit (and a rare line of the log) happens under the lock; whoever sleeps holds no lock and looks at
//! everything anew when it wakes; memory never runs ahead of the store (a change that the store refused is nowhere).

mod copy_digests;
pub(crate) mod copy_failed;
mod data;
pub(crate) mod grants;
mod life;
mod master_state;
mod mirror;
mod settle;
pub mod storage;
mod ticker;
pub(crate) mod turn;
mod unawaited;
mod view;
mod waiting;

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

use rfs_common::clock::{Monotonic, SharedClock};
use rfs_common::errno::Errno;
use rfs_common::ids::{ChunkId, ClusterId, InodeId, SessionId};
use rfs_common::random::SharedRandom;

use crate::chunks::{Chunks, ChunksConfig, Severity};
use crate::events::Events;
use crate::leases::{Leases, RecallId, RecallItems, Recalls};
use crate::locks::Locks;
use crate::locks::Ticket;
use crate::metrics::Metrics;
use crate::namespace::metadata::{Failure as MetadataFailure, Transaction};
use crate::sessions::Sessions;

pub use self::copy_digests::CopyDigests;
pub use self::life::{Begun, HelloRefusal, ReclaimedState};
pub use self::settle::CompareCopies;
pub use self::storage::{MemoryStorage, Storage};
pub use self::ticker::Ticker;
pub use self::view::Totals;

use self::grants::Grants;
use self::mirror::OrphanIndex;
use self::settle::Settling;
use self::waiting::{AttemptId, Attempts, Parker, Waiters};

/// The settings of the engine.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// A session is over after this long without a heartbeat.
    pub session_expiry: Duration,
    /// How often clients send one.
    pub heartbeat: Duration,
    /// A session that has neither answered a recall nor said that it is at work on it for this long is over.
    pub recall_timeout: Duration,
    /// How long an operation waits for copies, repairs and settling before it is answered with an error.
    pub chunk_wait: Duration,
    /// Placement and repair.
    pub chunks: ChunksConfig,
}

impl Default for EngineConfig {
    fn default() -> EngineConfig {
        EngineConfig {
            session_expiry: Duration::from_secs(10),
            heartbeat: Duration::from_secs(2),
            recall_timeout: Duration::from_secs(30),
            chunk_wait: Duration::from_secs(30),
            chunks: ChunksConfig::default(),
        }
    }
}

/// What an operation is refused with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Linux's error number.
    pub errno: Errno,
    /// Why, for the client's log; empty where the number says it all.
    pub message: String,
}

impl Failure {
    /// A failure with its reason.
    pub fn new(errno: Errno, message: impl Into<String>) -> Failure {
        Failure { errno, message: message.into() }
    }
}

impl From<Errno> for Failure {
    fn from(errno: Errno) -> Failure {
        Failure { errno, message: String::new() }
    }
}

/// Why an operation ends without its outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The client is answered with this.
    Failed(Failure),
    /// There is no answer: the connection is closed, for this reason. The client connects and asks again.
    Close(&'static str),
    /// The same, since what came is not of this protocol: something that somebody should look for.
    NotOurs(&'static str),
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Refusal {
        Refusal::Failed(failure)
    }
}

impl From<Errno> for Refusal {
    fn from(errno: Errno) -> Refusal {
        Refusal::Failed(errno.into())
    }
}

/// What a session is told unasked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PushMessage {
    /// Give these up and answer.
    Recall(RecallId, RecallItems),
    /// A wait for a lock has ended with the lock.
    LockGranted(InodeId, Ticket),
    /// These nodes lost their last name and are kept for the session until it releases them.
    Unlinked(Vec<InodeId>),
}

/// The push connection of a session. Called without the engine's lock.
pub trait Push: Send + Sync {
    /// Sends a message. One that cannot be sent closes the connection: everything is told again over the next one.
    fn deliver(&self, message: PushMessage);

    /// Ends the connection.
    fn close(&self);

    /// Where the client is.
    fn address(&self) -> String;
}

/// Which request an operation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// The session that asks.
    pub session: SessionId,
    /// On which of its slots.
    pub slot: u32,
    /// Its number there.
    pub sequence: u64,
}

/// What the lock guards.
pub(crate) struct State {
    leases: Leases,
    recalls: Recalls<AttemptId>,
    locks: Locks,
    sessions: Sessions,
    chunks: Chunks,
    grants: Grants,
    settling: Settling,
    /// Chunks whose copies a turn is raising since one failed: nobody else reserves versions of them meanwhile.
    mending: BTreeSet<ChunkId>,
    orphans: OrphanIndex,
    attempts: Attempts,
    waiters: Waiters,
    peers: HashMap<SessionId, Arc<dyn Push>>,
    /// Sessions whose end is not stored completely yet, because the store refused it: tried again.
    ending: Vec<SessionId>,
    grace_over: bool,
    stopping: bool,
    /// To be done when the lock is free.
    outgoing: Vec<(Arc<dyn Push>, PushMessage)>,
    closing: Vec<Arc<dyn Push>>,
    waking: Vec<Arc<Parker>>,
}

/// See the module's page.
pub struct Engine {
    state: Mutex<State>,
    storage: Arc<dyn Storage>,
    clock: SharedClock,
    random: SharedRandom,
    config: EngineConfig,
    cluster: ClusterId,
    master_start: u64,
    /// Up to where the log reached at each of the last starts, this one last.
    recovered: Vec<u64>,
    events: Events,
    metrics: Metrics,
}

impl Engine {
    /// Reads what the store has of sessions, chunks and orphans, and begins a start of the master. Sessions of earlier starts
    /// have the expiry time to come back.
    ///
    /// # Errors
    /// If the store cannot be read or written.
    pub fn open(
        storage: Arc<dyn Storage>,
        cluster: ClusterId,
        config: EngineConfig,
        clock: SharedClock,
        random: SharedRandom,
    ) -> Result<Arc<Engine>, OpenError> {
        let now = clock.monotonic();
        let loaded = life::load(&*storage, &config, &random, now)?;
        let state = State {
            leases: Leases::new(loaded.master_start),
            recalls: Recalls::new(loaded.master_start),
            locks: Locks::new(),
            grace_over: !loaded.sessions.is_grace(),
            sessions: loaded.sessions,
            chunks: loaded.chunks,
            grants: Grants::default(),
            settling: Settling::new(loaded.unsettled),
            mending: BTreeSet::new(),
            orphans: loaded.orphans,
            attempts: Attempts::default(),
            waiters: Waiters::default(),
            peers: HashMap::new(),
            ending: Vec::new(),
            stopping: false,
            outgoing: Vec::new(),
            closing: Vec::new(),
            waking: Vec::new(),
        };
        Ok(Arc::new(Engine {
            state: Mutex::new(state),
            storage,
            clock,
            random,
            config,
            cluster,
            master_start: loaded.master_start,
            recovered: loaded.recovered,
            events: Events::new(),
            metrics: Metrics::new(),
        }))
    }

    /// The cluster.
    pub fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// Differs with every start of the master.
    pub fn master_start(&self) -> u64 {
        self.master_start
    }

    /// The settings.
    pub fn config(&self) -> &EngineConfig {
        &self.config
    }

    /// The clock that everything here goes by.
    pub fn clock(&self) -> &SharedClock {
        &self.clock
    }

    /// What happened lately.
    pub fn events(&self) -> &Events {
        &self.events
    }

    /// The counters.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// The store, for reads that may be a moment old.
    pub fn storage(&self) -> &Arc<dyn Storage> {
        &self.storage
    }

    /// The chunk table, with the time. Whoever waits for something about chunks looks again afterwards; chunkservers'
    /// adapters and the administration come in here.
    pub fn with_chunks<R>(&self, look: impl FnOnce(&mut Chunks, Monotonic) -> R) -> R {
        let mut state = self.lock();
        let now = self.clock.monotonic();
        let result = look(&mut state.chunks, now);
        state.wake_for_chunks();
        result
    }

    /// Reports an event.
    pub fn report(&self, severity: Severity, message: impl Into<String>) {
        self.events.report(self.clock.now(), severity, message);
    }

    /// Ends all waits; operations that have not begun are not begun any more. Answers under way are still given.
    pub fn stop(&self) {
        let mut state = self.lock();
        state.stopping = true;
        let state = &mut *state;
        state.waking.extend(state.waiters.take_all());
        state.waking.extend(state.attempts.parkers());
        state.closing.extend(state.peers.drain().map(|(_, peer)| peer));
    }

    pub(crate) fn lock(&self) -> Locked<'_> {
        let state = match self.state.try_lock() {
            Ok(state) => state,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => self.wait_for_lock(),
        };
        Locked { state: Some(state) }
    }

    /// The lock when another thread has it: counted, since it says when one lock is not enough any more.
    fn wait_for_lock(&self) -> MutexGuard<'_, State> {
        let begun = self.clock.monotonic();
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        self.metrics.lock_waits.add_one();
        self.metrics.lock_wait_microseconds.add(self.clock.monotonic().since(begun).as_micros() as u64);
        state
    }

    fn transaction(&self) -> Transaction<'_> {
        Transaction::new(self.storage.source())
    }

    /// Notes why records could not be read, once for each operation.
    fn note_failure(&self, failure: Option<&MetadataFailure>) {
        if let Some(failure) = failure {
            self.report(Severity::Error, failure.to_string());
        }
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Engine").field("cluster", &self.cluster).finish_non_exhaustive()
    }
}

/// The engine cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Records cannot be read.
    #[error("the metadata cannot be read: {0}; check it with `mfs-master check`")]
    Unreadable(String),
    /// The start could not be noted.
    #[error("the start of the master cannot be noted in the metadata log: {0}")]
    Unwritable(String),
}

/// The engine's lock. When it goes, what was collected under it is sent, and those who can go on are woken.
pub(crate) struct Locked<'a> {
    state: Option<MutexGuard<'a, State>>,
}

impl std::ops::Deref for Locked<'_> {
    type Target = State;

    fn deref(&self) -> &State {
        self.state.as_ref().expect("the lock is held until the drop")
    }
}

impl std::ops::DerefMut for Locked<'_> {
    fn deref_mut(&mut self) -> &mut State {
        self.state.as_mut().expect("the lock is held until the drop")
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        let Some(mut state) = self.state.take() else { return };
        if state.outgoing.is_empty() && state.waking.is_empty() && state.closing.is_empty() {
            return;
        }
        let (outgoing, waking, closing) = (
            std::mem::take(&mut state.outgoing),
            std::mem::take(&mut state.waking),
            std::mem::take(&mut state.closing),
        );
        drop(state);
        waking.iter().for_each(|parker| parker.wake());
        for (peer, message) in outgoing {
            peer.deliver(message);
        }
        closing.iter().for_each(|peer| peer.close());
    }
}

impl State {
    /// Tells a session something, if it can be reached; otherwise it is told when it can.
    fn push(&mut self, session: SessionId, message: PushMessage) {
        if let Some(peer) = self.peers.get(&session) {
            self.outgoing.push((peer.clone(), message));
        }
    }

    fn push_lock_grants(&mut self, granted: &[crate::locks::GrantedWait]) {
        for wait in granted {
            self.push(wait.session, PushMessage::LockGranted(wait.inode, wait.ticket));
            if self.peers.contains_key(&wait.session) {
                self.locks.granted_told(wait.session);
            }
        }
    }
}

#[cfg(test)]
#[path = "engine_test.rs"]
mod tests;
