//! What the administration and the status page see of the engine.

use rfs_common::ids::SessionId;

use super::Engine;
use crate::leases::LeaseTotals;
use crate::sessions::Session;
use crate::status::SessionReport;

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
    pub(super) fn session_reports(&self) -> Vec<SessionReport> {
        let (monotonic, wall) = (self.clock().monotonic(), self.clock().now());
        let state = self.lock();
        let report = |(session, known): (SessionId, &Session)| {
            let (leases, write_leases) = state.leases.counts_of(session);
            SessionReport {
                session,
                host: known.client().host.clone(),
                mount_point: known.client().mount_point.clone(),
                address: state.peers.get(&session).map(|peer| peer.address()).unwrap_or_default(),
                version: known.client().version.clone(),
                age_ms: wall.since(known.begun()).as_millis() as u64,
                last_heard_ms: monotonic.since(known.heard()).as_millis() as u64,
                leases,
                write_leases,
                locks: state.locks.count_of(session),
                operations: known.operations(),
                read_only: known.client().read_only,
            }
        };
        let mut reports: Vec<SessionReport> = state.sessions.iter().map(report).collect();
        reports.sort_by_key(|report| report.session);
        reports
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
