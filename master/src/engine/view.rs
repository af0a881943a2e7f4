//! What the administration and the status page see of the engine.

use rfs_common::clock::Time;
use rfs_common::ids::{InodeId, SessionId};
use std::time::Duration;

use super::Engine;
use crate::leases::LeaseTotals;
use crate::sessions::ClientDescription;

/// A session, for people.
#[derive(Clone, Debug)]
pub struct SessionView {
    /// Its id.
    pub session: SessionId,
    /// What the client said of itself.
    pub client: ClientDescription,
    /// The directory that it takes for its root.
    pub root: InodeId,
    /// When it began.
    pub begun: Time,
    /// How long ago the client was heard.
    pub heard_ago: Duration,
    /// Whether it has a push connection.
    pub connected: bool,
    /// Whether it has not yet reclaimed what it held before the master restarted.
    pub returning: bool,
    /// Nodes it knows.
    pub nodes_known: usize,
    /// Recalls it owes the answer to.
    pub recalls_owed: usize,
}

/// Sums over everything that the engine keeps in memory.
#[derive(Clone, Copy, Debug, Default)]
pub struct Totals {
    /// Sessions.
    pub sessions: usize,
    /// Leases and the nodes they are on.
    pub leases: LeaseTotals,
    /// Locks held.
    pub locks: usize,
    /// Waits for locks.
    pub lock_waits: usize,
    /// Recalls that were not answered yet.
    pub recalls: usize,
    /// Operations that wait for recalls.
    pub waiting_for_recalls: usize,
    /// Threads that wait for anything else.
    pub waiting: usize,
    /// Rights to write chunks.
    pub grants: usize,
    /// Chunks being settled.
    pub settling: usize,
    /// Nodes without a name.
    pub orphans: usize,
    /// Whether sessions are still to come back after the start, so that operations wait.
    pub grace: bool,
}

impl Engine {
    /// All sessions, in the order of their ids.
    pub fn session_views(&self) -> Vec<SessionView> {
        let now = self.clock().monotonic();
        let state = self.lock();
        let view = |(session, known): (SessionId, &crate::sessions::Session)| SessionView {
            session,
            client: known.client().clone(),
            root: known.root(),
            begun: known.begun(),
            heard_ago: now.since(known.heard()),
            connected: state.peers.contains_key(&session),
            returning: known.is_returning(),
            nodes_known: state.leases.known_count(session),
            recalls_owed: state.recalls.of_session(session).count(),
        };
        let mut views: Vec<SessionView> = state.sessions.iter().map(view).collect();
        views.sort_by_key(|view| view.session);
        views
    }

    /// Sums over everything.
    pub fn totals(&self) -> Totals {
        let state = self.lock();
        let (locks, lock_waits) = state.locks.totals();
        Totals {
            sessions: state.sessions.count(),
            leases: state.leases.totals(),
            locks,
            lock_waits,
            recalls: state.recalls.count(),
            waiting_for_recalls: state.attempts.count(),
            waiting: state.waiters.count(),
            grants: state.grants.count(),
            settling: state.settling.count(),
            orphans: state.orphans.count(),
            grace: !state.grace_over,
        }
    }
}
