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

/// A recall, and when its session was last known to be at work on it: at first, when it was asked.
#[derive(Debug)]
struct Owed<Waiter> {
    outstanding: Outstanding<Waiter>,
    at_work: Monotonic,
}

/// All recalls that were not answered yet.
#[derive(Debug)]
pub struct Recalls<Waiter> {
    last: u64,
    outstanding: BTreeMap<RecallId, Owed<Waiter>>,
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
        self.outstanding.insert(recall, Owed { at_work: outstanding.since, outstanding });
        recall
    }

    /// The session has carried it out. Nothing if it was answered before, or is another session's.
    pub fn answer(&mut self, session: SessionId, recall: RecallId) -> Option<Outstanding<Waiter>> {
        if self.outstanding.get(&recall)?.outstanding.session != session {
            return None;
        }
        self.outstanding.remove(&recall).map(|owed| owed.outstanding)
    }

    /// What the session owes, for a new push connection.
    pub fn of_session(&self, session: SessionId) -> impl Iterator<Item = (RecallId, &RecallItems)> {
        let owed = self.outstanding.iter().filter(move |(_, owed)| owed.outstanding.session == session);
        owed.map(|(recall, owed)| (*recall, &owed.outstanding.items))
    }

    /// Takes out what a session that is gone owed.
    pub fn end_session(&mut self, session: SessionId) -> Vec<Outstanding<Waiter>> {
        let owed: Vec<RecallId> = self.of_session(session).map(|(recall, _)| recall).collect();
        let removed = owed.into_iter().filter_map(|recall| self.outstanding.remove(&recall));
        removed.map(|owed| owed.outstanding).collect()
    }

    /// Nobody waits for these answers any more; the sessions still owe them.
    pub fn abandon(&mut self, waiter: Waiter) {
        let all = self.outstanding.values_mut().map(|owed| &mut owed.outstanding);
        for outstanding in all.filter(|outstanding| outstanding.waiter == Some(waiter)) {
            outstanding.waiter = None;
        }
    }

    /// The session says that it is still carrying these out: it may have to wait for chunkservers. Numbers of others'
    /// recalls, or of answered ones, mean nothing.
    pub fn worked_on(&mut self, session: SessionId, recalls: impl IntoIterator<Item = RecallId>, now: Monotonic) {
        for recall in recalls {
            let owed = self.outstanding.get_mut(&recall).filter(|owed| owed.outstanding.session == session);
            if let Some(owed) = owed {
                owed.at_work = now;
            }
        }
    }

    /// Sessions that have owed an answer and not worked on it for longer than `idle`, or have owed it for longer than
    /// `all`, whatever they say.
    pub fn overdue(&self, now: Monotonic, idle: Duration, all: Duration) -> Vec<SessionId> {
        let is_late = |owed: &Owed<Waiter>| now.since(owed.at_work) > idle || now.since(owed.outstanding.since) > all;
        let late = self.outstanding.values().filter(|owed| is_late(owed));
        let mut sessions: Vec<SessionId> = late.map(|owed| owed.outstanding.session).collect();
        sessions.sort_unstable();
        sessions.dedup();
        sessions
    }

    /// This process did nothing for so long: that no answer was heard in that time is nobody's fault.
    pub fn stood_still(&mut self, now: Monotonic, pause: Duration) {
        for owed in self.outstanding.values_mut() {
            owed.at_work = (owed.at_work + pause).min(now);
            owed.outstanding.since = (owed.outstanding.since + pause).min(now);
        }
    }

    /// How many were not answered yet.
    pub fn count(&self) -> usize {
        self.outstanding.len()
    }
}
