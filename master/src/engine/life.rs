//! The life of sessions at the engine: begun, joined, heard, coming back after a restart of the master, ended.
//!
//! The end of a session takes effect in memory at once: its locks and leases go to others, its chunks are settled. Its
//! records (orphans, slots, the session itself) go in one commit, which is tried again if the store refuses it.

use std::ops::{Bound, ControlFlow, Range};
use std::sync::Arc;

use prost::Message;
use rfs_common::clock::Monotonic;
use rfs_common::errno::Errno;
use rfs_common::ids::{ChunkId, InodeId, SessionId};
use rfs_common::name::Name;
use rfs_common::random::SharedRandom;

use super::mirror::{OrphanIndex, chunk_info};
use super::waiting::Reason;
use super::{Engine, EngineConfig, Failure, OpenError, Push, PushMessage, Refusal, State, Storage};
use crate::chunks::{Chunks, Severity};
use crate::leases::{Lease, RecallId};
use crate::locks::{Lock, LockKind};
use crate::namespace::metadata::Transaction;
use crate::namespace::ops::release;
use crate::namespace::records::{
    self, ChunkRecord, OrphanRecord, PassedOverRecord, SessionRecord, SlotRecord, SystemKind,
};
use crate::namespace::source::Table;
use crate::sessions::{ClientDescription, SECRET_BYTES, Sessions};

/// A session that was begun.
#[derive(Clone, Copy, Debug)]
pub struct Begun {
    /// Its id.
    pub session: SessionId,
    /// What proves it.
    pub secret: [u8; SECRET_BYTES],
    /// The directory that is its root.
    pub root: InodeId,
}

/// Why a client is not let in.
pub type HelloRefusal = Failure;

/// Part of what a session held before the master restarted.
#[derive(Clone, Debug, Default)]
pub struct ReclaimedState {
    /// Leases.
    pub leases: Vec<Lease>,
    /// Locks.
    pub locks: Vec<(InodeId, LockKind, Lock)>,
    /// Nodes that it has open.
    pub open: Vec<InodeId>,
    /// Whether this is the last part.
    pub last: bool,
}

/// How a session ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// The client said goodbye: all it wrote is committed.
    Clean,
    /// It was silent, or owed an answer for too long.
    Lost,
}

/// More chunks, nodes or sessions than can be made while one write of the log is on its way to the disk.
const IDS_PASSED_OVER: u64 = 1 << 16;

/// Each start goes on at a random place within so many ids of chunks: one from an older copy of the metadata gives out other ids
/// than the start had whose records it lacks, and no new file gets the chunk of one that it does not know.
const CHUNKS_PASSED_OVER_MAX: u64 = 1 << 40;

/// Starts of the master of which it is remembered up to where the log reached.
const STARTS_REMEMBERED: usize = 64;

/// What the store has for the engine.
pub(super) struct Loaded {
    pub(super) sessions: Sessions,
    pub(super) chunks: Chunks,
    pub(super) orphans: OrphanIndex,
    pub(super) unsettled: Vec<ChunkId>,
    pub(super) master_start: u64,
    pub(super) recovered: Vec<u64>,
}

/// Reads it, and notes the start.
pub(super) fn load(
    storage: &dyn Storage,
    config: &EngineConfig,
    random: &SharedRandom,
    now: Monotonic,
) -> Result<Loaded, OpenError> {
    let mut transaction = Transaction::new(storage.source());
    let mut loaded = Loaded {
        sessions: Sessions::new(config.session_expiry),
        chunks: Chunks::new(config.chunks.clone(), random.clone(), now),
        orphans: OrphanIndex::default(),
        unsettled: Vec::new(),
        master_start: 0,
        recovered: Vec::new(),
    };
    let read = load_records(storage, &mut transaction, &mut loaded, random.below(CHUNKS_PASSED_OVER_MAX), now);
    read.map_err(|errno| {
        let failure = transaction.failure().map_or_else(|| format!("{errno}"), ToString::to_string);
        OpenError::Unreadable(failure)
    })?;
    // A start that clients have seen is never counted again, nor is what it found in the log.
    let noted = storage.commit_start(&transaction.into_changes()).and_then(|position| storage.wait_durable(position));
    noted.map_err(|refused| OpenError::Unwritable(refused.message))?;
    Ok(loaded)
}

fn load_records(
    storage: &dyn Storage,
    transaction: &mut Transaction<'_>,
    loaded: &mut Loaded,
    chunks_passed_over: u64,
    now: Monotonic,
) -> Result<(), Errno> {
    let system = transaction.system_mut()?;
    system.master_start += 1;
    loaded.master_start = system.master_start;
    let chunk_next = system.chunk_next;
    if system.master_start > 1 {
        // A power cut may have taken the records of chunks, nodes and sessions that clients were told of and still use:
        // none of those ids is given to another.
        system.chunk_next += IDS_PASSED_OVER + chunks_passed_over;
        system.inode_next += IDS_PASSED_OVER;
        system.session_next += IDS_PASSED_OVER;
        system.inode_floor = system.inode_next;
    }
    system.recovered.push(storage.position().get());
    let forgotten = system.recovered.len().saturating_sub(STARTS_REMEMBERED);
    system.recovered.drain(..forgotten);
    loaded.recovered.clone_from(&system.recovered);
    loaded.chunks.set_next_chunk(ChunkId::new(system.chunk_next));
    let passed_over = chunk_next..system.chunk_next;
    note_passed_over(transaction, &mut loaded.chunks, passed_over)?;
    load_sessions(storage, loaded, now)?;
    transaction.scan::<OrphanRecord>(Bound::Unbounded, Bound::Unbounded, &mut |key, record| {
        if let Some((inode, _)) = records::split_key(key) {
            loaded.orphans.set(InodeId::new(inode), record.sessions.iter().copied().map(SessionId::new).collect());
        }
        ControlFlow::Continue(())
    })?;
    transaction.scan::<ChunkRecord>(Bound::Unbounded, Bound::Unbounded, &mut |key, record| {
        let Some((chunk, _)) = records::split_key(key) else { return ControlFlow::Continue(()) };
        let chunk = ChunkId::new(chunk);
        if record.deleted {
            loaded.chunks.load_freed(chunk);
        } else {
            loaded.chunks.load(chunk, chunk_info(&record));
            if !record.is_settled() {
                loaded.unsettled.push(chunk);
            }
        }
        ControlFlow::Continue(())
    })
}

/// Tells the chunk table which ids were passed over at this start and those before, and notes those of this one. A start without
/// a new chunk since the last goes on with the range of that one.
fn note_passed_over(
    transaction: &mut Transaction<'_>,
    chunks: &mut Chunks,
    passed_over: Range<u64>,
) -> Result<(), Errno> {
    let key = |id: u64| records::system_key(SystemKind::PassedOver, id);
    let mut last = None;
    let (from, to) = (key(0), key(u64::MAX));
    transaction.scan::<PassedOverRecord>(Bound::Included(&from), Bound::Included(&to), &mut |key, record| {
        if let Some(id) = key.last_chunk::<8>() {
            let start = u64::from_be_bytes(*id);
            chunks.passed_over(ChunkId::new(start)..ChunkId::new(record.end));
            last = Some(start..record.end);
        }
        ControlFlow::Continue(())
    })?;
    if !passed_over.is_empty() {
        let start = last.filter(|last| last.end == passed_over.start).map_or(passed_over.start, |last| last.start);
        transaction.write(key(start), &PassedOverRecord { end: passed_over.end });
        chunks.passed_over(ChunkId::new(start)..ChunkId::new(passed_over.end));
    }
    Ok(())
}

/// Sessions and slots share a table; the length of the key tells them apart, and a session comes before its slots.
fn load_sessions(storage: &dyn Storage, loaded: &mut Loaded, now: Monotonic) -> Result<(), Errno> {
    let mut damaged = false;
    let scanned = storage.source().scan(Table::Sessions, Bound::Unbounded, Bound::Unbounded, &mut |key, value| {
        let Some((session, rest)) = records::split_key(key) else { return ControlFlow::Continue(()) };
        let session = SessionId::new(session);
        match (rest.first_chunk::<4>(), SessionRecord::decode(value), SlotRecord::decode(value)) {
            (None, Ok(record), _) => loaded.sessions.load(session, &record, now),
            (Some(slot), _, Ok(record)) => loaded.sessions.load_slot(session, u32::from_be_bytes(*slot), record),
            _ => damaged = true,
        }
        ControlFlow::Continue(())
    });
    if scanned.is_err() || damaged { Err(Errno::EIO) } else { Ok(()) }
}

impl Engine {
    /// Begins a session whose root is the directory below the cluster's root that the path names.
    ///
    /// # Errors
    /// If there is no such directory, there are too many sessions, or the store takes no changes.
    pub fn begin_session(&self, client: ClientDescription, subdirectory: &[u8]) -> Result<Begun, HelloRefusal> {
        let mut secret = [0; SECRET_BYTES];
        self.random.fill(&mut secret);
        let mut state = self.lock();
        let mut transaction = self.transaction();
        let root = directory_at(&mut transaction, subdirectory)?;
        let system = transaction.system_mut()?;
        let session = SessionId::new(system.session_next);
        system.session_next += 1;
        let times = (self.clock.monotonic(), self.clock.now());
        let Some(record) = state.sessions.begin(session, secret, client, root, times) else {
            return Err(Failure::new(Errno::ENOSPC, "the master has as many sessions as it can: unmount some clients"));
        };
        transaction.write(records::session_key(session), &record);
        if let Err(failure) = state.commit(self, None, &transaction.into_changes()) {
            state.sessions.remove(session);
            return Err(failure);
        }
        drop(state);
        self.metrics.sessions_begun.add_one();
        let what = format!("session {session} began: {} on {}", record.mount_point, record.host);
        self.report(Severity::Information, what);
        Ok(Begun { session, secret, root })
    }

    /// Checks that a connection may join a session; gives its root.
    ///
    /// # Errors
    /// `ESTALE` if the session is over, `EACCES` if the secret is another's.
    pub fn join_session(&self, session: SessionId, secret: &[u8]) -> Result<InodeId, HelloRefusal> {
        let state = self.lock();
        match state.sessions.get(session) {
            None => Err(Failure::new(Errno::ESTALE, "the session is not known (any more): begin a new one")),
            Some(known) if known.is_proved_by(secret) => Ok(known.root()),
            Some(_) => Err(Failure::new(Errno::EACCES, "the secret is not that of the session")),
        }
    }

    /// Whether a power cut has taken from the log what a client was told under an earlier start of the master: something
    /// up to this position. What cannot be known counts as taken.
    pub(crate) fn has_lost(&self, master_start: u64, position: u64) -> bool {
        let is_known_to_be_there = master_start == 0 || master_start == self.master_start;
        !is_known_to_be_there && self.recovered_after(master_start).is_none_or(|recovered| position > recovered)
    }

    /// Up to where the log reached at the start after this one: whatever is missing then is missing for ever. None: nobody
    /// remembers.
    pub(crate) fn recovered_after(&self, master_start: u64) -> Option<u64> {
        let starts_since = usize::try_from(self.master_start.checked_sub(master_start)?).ok()?;
        self.recovered.get(self.recovered.len().checked_sub(starts_since)?).copied()
    }

    /// Ends a session that knows what the log has lost; what a client is told that asks for it.
    pub(crate) fn end_deceived(&self, session: SessionId, secret: &[u8]) -> HelloRefusal {
        let mut state = self.lock();
        if state.sessions.get(session).is_some_and(|known| known.is_proved_by(secret))
            && let Some(ended) = self.end_session(&mut state, session, Ending::Lost)
        {
            let what = format!("session {session} was told what a power cut has taken, and begins anew: {ended}");
            self.report(Severity::Warning, what);
        }
        let message = "a power cut has taken from the master's log what this session was told: begin a new one";
        Failure::new(Errno::ENOTRECOVERABLE, message)
    }

    /// The session has a push connection, in place of an earlier one. Everything that the session may have missed is told
    /// again over it.
    pub fn attach_push(&self, session: SessionId, peer: Arc<dyn Push>) {
        let mut state = self.lock();
        let now = self.clock.monotonic();
        state.sessions.heard(session, now);
        if let Some(before) = state.peers.insert(session, peer) {
            state.closing.push(before);
        }
        let mut missed: Vec<PushMessage> = state
            .recalls
            .of_session(session)
            .map(|(recall, items)| PushMessage::Recall(recall, items.clone()))
            .collect();
        let granted = state.locks.granted_lately(session);
        missed.extend(granted.into_iter().map(|wait| PushMessage::LockGranted(wait.inode, wait.ticket)));
        state.locks.granted_told(session);
        let orphans = state.orphans.of_session(session);
        if !orphans.is_empty() {
            missed.push(PushMessage::Unlinked(orphans));
        }
        missed.into_iter().for_each(|message| state.push(session, message));
    }

    /// The push connection is gone. One that has been replaced already changes nothing.
    pub fn detach_push(&self, session: SessionId, peer: &Arc<dyn Push>) {
        let mut state = self.lock();
        if state.peers.get(&session).is_some_and(|current| Arc::ptr_eq(current, peer)) {
            state.peers.remove(&session);
        }
    }

    /// A sign of life, from a session that is carrying out these recalls.
    ///
    /// # Errors
    /// `ESTALE` if the session is over.
    pub fn heartbeat(&self, session: SessionId, recalls: impl IntoIterator<Item = RecallId>) -> Result<(), Failure> {
        let mut state = self.lock();
        if state.sessions.get(session).is_none() {
            return Err(Failure::new(Errno::ESTALE, "the session is not known (any more): begin a new one"));
        }
        let now = self.clock.monotonic();
        state.sessions.heard(session, now);
        state.recalls.worked_on(session, recalls, now);
        Ok(())
    }

    /// The session has carried out a recall.
    pub fn recall_done(&self, session: SessionId, recall: RecallId) {
        let mut state = self.lock();
        if let Some(outstanding) = state.recalls.answer(session, recall) {
            state.recall_ended(&outstanding);
        }
    }

    /// The session takes back what it held before the master restarted. Returns the nodes whose lease or lock it cannot have
    /// again.
    ///
    /// # Errors
    /// `ESTALE` if the session is over.
    pub fn reclaim(&self, session: SessionId, reclaimed: &ReclaimedState) -> Result<Vec<InodeId>, Failure> {
        let mut state = self.lock();
        let Some(known) = state.sessions.get(session) else {
            return Err(Failure::new(Errno::ESTALE, "the session is not known (any more): begin a new one"));
        };
        let returning = known.is_returning();
        let now = self.clock.monotonic();
        state.sessions.heard(session, now);
        let mut refused = Vec::new();
        if !returning {
            // It lost nothing: what it names it still holds, or it was recalled since.
            let held =
                |lease: &&Lease| state.leases.held(session, lease.inode).is_none_or(|held| held.mode < lease.mode);
            return Ok(reclaimed.leases.iter().filter(held).map(|lease| lease.inode).collect());
        }
        for lease in &reclaimed.leases {
            if !state.leases.reclaim(session, *lease) {
                refused.push(lease.inode);
            }
        }
        for (inode, kind, lock) in &reclaimed.locks {
            if !state.locks.reclaim(*inode, *kind, *lock) {
                refused.push(*inode);
                self.report(
                    Severity::Warning,
                    format!("session {session} lost a lock on inode {inode} to another session"),
                );
            }
        }
        self.keep_open(&mut state, session, &reclaimed.open)?;
        if reclaimed.last && state.sessions.returned(session) {
            self.end_grace(&mut state);
        }
        Ok(refused)
    }

    fn keep_open(&self, state: &mut State, session: SessionId, open: &[InodeId]) -> Result<(), Failure> {
        let mut transaction = self.transaction();
        for inode in open {
            let kept = release::keep_for(&mut transaction, *inode, session);
            kept.inspect_err(|_| self.note_failure(transaction.failure()))?;
            let nothing = Lease {
                inode: *inode,
                mode: crate::leases::LeaseMode::None,
                grant: rfs_common::ids::LeaseGrant::new(0),
            };
            if state.leases.held(session, *inode).is_none() {
                state.leases.reclaim(session, nothing);
            }
        }
        if !transaction.is_unchanged() {
            state.commit(self, Some(session), &transaction.into_changes())?;
        }
        Ok(())
    }

    /// The client is done with the session.
    pub fn goodbye(&self, session: SessionId) {
        let mut state = self.lock();
        if let Some(ended) = self.end_session(&mut state, session, Ending::Clean) {
            self.report(Severity::Information, format!("session {session} ended: {ended}"));
        }
    }

    /// Ends a session by the word of an administrator.
    ///
    /// # Errors
    /// `ENOENT` if there is no such session.
    pub fn expel(&self, session: SessionId) -> Result<(), Failure> {
        let mut state = self.lock();
        let Some(ended) = self.end_session(&mut state, session, Ending::Lost) else {
            return Err(Failure::new(Errno::ENOENT, format!("there is no session {session}")));
        };
        self.report(Severity::Warning, format!("session {session} was ended by an administrator: {ended}"));
        Ok(())
    }

    /// Takes a session out of everything. Returns who it was.
    pub(super) fn end_session(&self, state: &mut State, session: SessionId, ending: Ending) -> Option<String> {
        let ended = state.sessions.remove(session)?;
        let who = format!("{} on {}", ended.client().mount_point, ended.client().host);
        state.closing.extend(state.peers.remove(&session));
        let mut granted = Vec::new();
        state.locks.end_session(session, &mut granted);
        state.push_lock_grants(&granted);
        match ending {
            Ending::Lost => state.writer_lost(session),
            Ending::Clean => state.writer_left(session),
        }
        for outstanding in state.recalls.end_session(session) {
            state.recall_ended(&outstanding);
        }
        state.leases.end_session(session);
        // Its own operations that sleep find out.
        let own = state.waiters.take_all();
        state.waking.extend(own);
        state.waking.extend(state.attempts.parkers());
        state.ending.push(session);
        self.store_ends(state);
        if !state.grace_over && !state.sessions.is_grace() {
            self.end_grace(state);
        }
        Some(who)
    }

    /// Stores the ends of sessions, as far as the store takes them.
    pub(super) fn store_ends(&self, state: &mut State) {
        while let Some(session) = state.ending.last().copied() {
            let mut transaction = self.transaction();
            let removed = remove_records(self.storage.source(), &mut transaction, session);
            if removed.is_err() || state.commit(self, None, &transaction.into_changes()).is_err() {
                return;
            }
            state.ending.pop();
        }
    }

    /// Every session is back or gone: operations may run. What was granted to writers that did not come back is settled.
    fn end_grace(&self, state: &mut State) {
        state.grace_over = true;
        for inode in state.leases.written_nodes() {
            state.note_reclaimed(inode);
        }
        state.settle_left_open();
        for chunk in state.settling.chunks() {
            let Some(inode) = state.chunks.info(chunk).map(|info| info.inode) else { continue };
            if state.leases.writer(inode).is_some() {
                state.stop_settling(chunk);
                state.grants.put_reclaimed(inode, chunk);
            }
        }
        let waiting = state.waiters.take(Reason::Grace);
        state.waking.extend(waiting);
        self.report(Severity::Information, "all sessions from before the start are back or gone: operations run");
    }

    /// What a session may still be told: refusals of operations end up here.
    pub(crate) fn count_refusal(&self, refusal: &Refusal) {
        if matches!(refusal, Refusal::Failed(_)) {
            self.metrics.failures.add_one();
        }
    }
}

fn remove_records(
    source: &dyn crate::namespace::source::Source,
    transaction: &mut Transaction<'_>,
    session: SessionId,
) -> Result<(), Errno> {
    release::end_session(transaction, session)?;
    let mut keys: Vec<Vec<u8>> = Vec::new();
    let from = records::session_key(session);
    let scanned = source.scan(Table::Sessions, Bound::Included(&from), Bound::Unbounded, &mut |key, _| {
        if !key.starts_with(&from) {
            return ControlFlow::Break(());
        }
        keys.push(key.to_vec());
        ControlFlow::Continue(())
    });
    scanned.map_err(|_| Errno::EIO)?;
    keys.into_iter().for_each(|key| transaction.remove::<SessionRecord>(key));
    Ok(())
}

/// The directory at a path below the root. Empty parts of the path are passed over.
fn directory_at(transaction: &mut Transaction<'_>, path: &[u8]) -> Result<InodeId, Failure> {
    let mut directory = InodeId::ROOT;
    let missing = |errno: Errno| {
        let shown = String::from_utf8_lossy(path);
        let message =
            format!("the subdirectory {shown:?} cannot be mounted ({errno}): make it first, mounting the root");
        Failure::new(errno, message)
    };
    for part in path.split(|byte| *byte == b'/').filter(|part| !part.is_empty()) {
        let name = Name::new(part).map_err(|error| missing(error.errno()))?;
        let entry = transaction.entry(directory, name.as_bytes())?.ok_or_else(|| missing(Errno::ENOENT))?;
        directory = entry.inode_id();
        transaction.directory(directory).map_err(missing)?;
    }
    Ok(directory)
}
