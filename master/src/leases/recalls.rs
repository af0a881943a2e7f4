//! The recalls on their way: what was asked of which session for which waiting operation, and since when.
//!
//! One recall is one message to one session. It ends with the session's answer or with the session. The message is sent
//! again, under the same number, when the session's push connection is new.

use std::collections::BTreeMap;
use std::time::Duration;

use rfs_common::clock::Monotonic;
use rfs_common::ids::SessionId;

use super::RecallItems;

/// Numbers a recall.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecallId(pub u64);

/// A recall that was not answered yet.
#[derive(Clone, Debug)]
pub struct Outstanding<Waiter> {
    /// Who owes the answer.
    pub session: SessionId,
    /// What is asked.
    pub items: RecallItems,
    /// Which operation waits; none when nobody does.
    pub waiter: Option<Waiter>,
    /// When it was asked.
    pub since: Monotonic,
}

/// All recalls that were not answered yet.
#[derive(Debug)]
pub struct Recalls<Waiter> {
    last: u64,
    outstanding: BTreeMap<RecallId, Outstanding<Waiter>>,
}

impl<Waiter: Copy + PartialEq> Recalls<Waiter> {
    /// None. Numbers differ from those of earlier starts of the master.
    pub fn new(master_start: u64) -> Self {
        const RECALLS_PER_START: u32 = 40;
        Recalls { last: master_start << RECALLS_PER_START, outstanding: BTreeMap::new() }
    }

    /// Notes a recall that is about to be sent.
    pub fn begin(&mut self, outstanding: Outstanding<Waiter>) -> RecallId {
        self.last += 1;
        let recall = RecallId(self.last);
        self.outstanding.insert(recall, outstanding);
        recall
    }

    /// The session has carried it out. Nothing if it was answered before, or is another session's.
    pub fn answer(&mut self, session: SessionId, recall: RecallId) -> Option<Outstanding<Waiter>> {
        if self.outstanding.get(&recall)?.session != session {
            return None;
        }
        self.outstanding.remove(&recall)
    }

    /// What the session owes, for a new push connection.
    pub fn of_session(&self, session: SessionId) -> impl Iterator<Item = (RecallId, &RecallItems)> {
        let owed = self.outstanding.iter().filter(move |(_, outstanding)| outstanding.session == session);
        owed.map(|(recall, outstanding)| (*recall, &outstanding.items))
    }

    /// Takes out what a session that is gone owed.
    pub fn end_session(&mut self, session: SessionId) -> Vec<Outstanding<Waiter>> {
        let of_session = |_: &RecallId, outstanding: &mut Outstanding<Waiter>| outstanding.session == session;
        self.outstanding.extract_if(.., of_session).map(|(_, outstanding)| outstanding).collect()
    }

    /// Nobody waits for these answers any more; the sessions still owe them.
    pub fn abandon(&mut self, waiter: Waiter) {
        for outstanding in self.outstanding.values_mut().filter(|outstanding| outstanding.waiter == Some(waiter)) {
            outstanding.waiter = None;
        }
    }

    /// Sessions that have owed an answer for longer than `limit`.
    pub fn overdue(&self, now: Monotonic, limit: Duration) -> Vec<SessionId> {
        let late = self.outstanding.values().filter(|outstanding| now.since(outstanding.since) > limit);
        let mut sessions: Vec<SessionId> = late.map(|outstanding| outstanding.session).collect();
        sessions.sort_unstable();
        sessions.dedup();
        sessions
    }

    /// How many were not answered yet.
    pub fn count(&self) -> usize {
        self.outstanding.len()
    }
}
