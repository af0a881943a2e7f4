//! The order of answers, which come on one connection, and of recalls and notices, which come on another.
//!
//! Each request that may bring leases, attributes or entries takes a [`Ticket`] before it is sent. A notice about a node
//! stamps it with a number from the same sequence, so that an answer to a request begun before the notice is told from
//! one begun after it: the earlier one may be older than what the notice announced, and is not kept. A recall that names
//! a grant not seen here waits until the answer with that grant has come, or every request begun before the recall is
//! over: then no answer on its way can bring that grant.

use std::collections::HashMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rfs_common::ids::InodeId;

/// How long before a waiting recall looks again by itself.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Names one request's place in the order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(u64);

/// Who stamps a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stamp {
    /// Another session changes it.
    Foreign,
    /// This client has changed it.
    Own,
    /// This client has told the master that it forgets it: leases in earlier answers do not count.
    Forgotten,
}

#[derive(Debug, Default, Clone, Copy)]
struct Stamps {
    foreign: u64,
    own: u64,
    forgotten: u64,
}

#[derive(Debug, Default)]
struct State {
    last: u64,
    active: Vec<u64>,
    stamps: HashMap<InodeId, Stamps>,
    /// Nothing from a request before this one is kept: the session was lost since.
    floor: u64,
    waiting: usize,
}

/// The order of all answers and notices.
#[derive(Debug, Default)]
pub struct Order {
    state: Mutex<State>,
    ended: Condvar,
}

/// A request on its way. Ends when dropped.
#[derive(Debug)]
pub struct Ticket<'a> {
    order: &'a Order,
    moment: Moment,
}

impl Order {
    /// Before a request is sent.
    pub fn begin(&self) -> Ticket<'_> {
        let mut state = self.state();
        state.last += 1;
        let moment = state.last;
        state.active.push(moment);
        Ticket { order: self, moment: Moment(moment) }
    }

    /// Notes that something about a node changes now.
    pub fn stamp(&self, inode: InodeId, stamp: Stamp) {
        let mut state = self.state();
        state.last += 1;
        if state.active.is_empty() {
            state.stamps.clear();
            return;
        }
        if state.stamps.len() >= 4096 {
            let oldest = state.active.iter().copied().min().unwrap_or(u64::MAX);
            state.stamps.retain(|_, stamps| stamps.foreign.max(stamps.own).max(stamps.forgotten) > oldest);
        }
        let now = state.last;
        let stamps = state.stamps.entry(inode).or_default();
        match stamp {
            Stamp::Foreign => stamps.foreign = now,
            Stamp::Own => stamps.own = now,
            Stamp::Forgotten => stamps.forgotten = now,
        }
    }

    /// Nothing that is on its way now is to be kept.
    pub fn forget_all(&self) {
        let mut state = self.state();
        state.last += 1;
        state.floor = state.last;
        drop(state);
        self.ended.notify_all();
    }

    /// Waits until `known` or until every request that is on its way now is over.
    pub fn wait_for_grant(&self, mut known: impl FnMut() -> bool) {
        let arrived = {
            let mut state = self.state();
            state.last += 1;
            state.last
        };
        loop {
            if known() {
                return;
            }
            let mut state = self.state();
            let floor = state.floor;
            if state.active.iter().all(|moment| *moment > arrived || *moment < floor) {
                return;
            }
            state.waiting += 1;
            let mut state = self.ended.wait_timeout(state, LOOK_AGAIN).unwrap_or_else(PoisonError::into_inner).0;
            state.waiting -= 1;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ticket<'_> {
    /// The request is sent again: an answer to the earlier one will not come.
    pub fn renew(&mut self) {
        let mut state = self.order.state();
        state.last += 1;
        let (before, after) = (self.moment.0, state.last);
        if let Some(moment) = state.active.iter_mut().find(|moment| **moment == before) {
            *moment = after;
        }
        self.moment = Moment(after);
        let waiting = state.waiting > 0;
        drop(state);
        if waiting {
            self.order.ended.notify_all();
        }
    }

    /// Whether the node was stamped like this after the request began, or all was forgotten.
    pub fn is_before(&self, inode: InodeId, stamp: Stamp) -> bool {
        let state = self.order.state();
        let stamps = state.stamps.get(&inode).copied().unwrap_or_default();
        let stamped = match stamp {
            Stamp::Foreign => stamps.foreign,
            Stamp::Own => stamps.own,
            Stamp::Forgotten => stamps.forgotten,
        };
        stamped.max(state.floor) > self.moment.0
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        let mut state = self.order.state();
        let moment = self.moment.0;
        if let Some(index) = state.active.iter().position(|active| *active == moment) {
            state.active.swap_remove(index);
        }
        let waiting = state.waiting > 0;
        drop(state);
        if waiting {
            self.order.ended.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_older_than_a_notice_is_told_from_a_younger_one() {
        let order = Order::default();
        let inode = InodeId::new(7);
        let early = order.begin();
        order.stamp(inode, Stamp::Foreign);
        let late = order.begin();
        assert!(early.is_before(inode, Stamp::Foreign));
        assert!(!early.is_before(inode, Stamp::Own));
        assert!(!late.is_before(inode, Stamp::Foreign));
        order.forget_all();
        assert!(late.is_before(inode, Stamp::Forgotten));
        assert!(!order.begin().is_before(inode, Stamp::Forgotten));
    }

    #[test]
    fn a_recall_waits_for_earlier_requests_only() {
        let order = Order::default();
        let mut early = order.begin();
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| order.wait_for_grant(|| false));
            while order.state().waiting == 0 {
                std::thread::yield_now();
            }
            let _late = order.begin();
            assert!(!waiter.is_finished());
            early.renew();
            waiter.join().expect("the wait ends although the request goes on");
        });
    }
}
