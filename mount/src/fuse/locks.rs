//! Processes that wait for a lock: their replies, until the lock is granted or a signal ends the wait.
//!
//! A wait can end at any moment, also while it is being set up: the client may call back before it returns the wait's
//! ticket, and the kernel may send the interrupt before the ticket is known. Each wait is therefore registered before the
//! client is asked, and an interrupt that finds no ticket yet is noted and carried out when the ticket comes.
//!
//! What always holds: a reply is sent once, by the client's callback. An interrupt only asks the client to cancel; whether
//! the process gets EINTR or the lock is what the client's callback says, so a lock that was granted first is not lost.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rfs_common::errno::Errno;

/// Waits, each named by its request (`K`) and known to the client by a ticket (`T`); `R` is what answers the process.
#[derive(Debug)]
pub(super) struct Waits<K, T, R> {
    waits: Mutex<HashMap<K, Wait<T, R>>>,
}

/// The waits of a mount.
pub(super) type WaitingLocks = Waits<fuser::RequestId, crate::client::LockTicket, fuser::ReplyEmpty>;

#[derive(Debug)]
struct Wait<T, R> {
    reply: R,
    ticket: Option<T>,
    interrupted: bool,
}

/// What an interrupt found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Interrupted<T> {
    /// A wait that the client is to cancel now.
    Cancel(T),
    /// A wait that is just being set up; it will be cancelled then.
    Later,
    /// No such wait.
    Unknown,
}

impl<K, T, R> Default for Waits<K, T, R> {
    fn default() -> Waits<K, T, R> {
        Waits { waits: Mutex::default() }
    }
}

impl<K: Eq + Hash + Copy, T: Copy, R> Waits<K, T, R> {
    /// Before the client is asked: from now on the wait can be interrupted and can end.
    pub(super) fn register(&self, request: K, reply: R) {
        self.lock().insert(request, Wait { reply, ticket: None, interrupted: false });
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.lock().len()
    }

    /// The client has returned this ticket. Returns whether the wait is to be cancelled at once.
    pub(super) fn set_ticket(&self, request: K, ticket: T) -> bool {
        let mut waits = self.lock();
        let Some(wait) = waits.get_mut(&request) else { return false };
        wait.ticket = Some(ticket);
        wait.interrupted
    }

    /// A signal hit the process.
    pub(super) fn interrupt(&self, request: K) -> Interrupted<T> {
        let mut waits = self.lock();
        let Some(wait) = waits.get_mut(&request) else { return Interrupted::Unknown };
        wait.interrupted = true;
        wait.ticket.map_or(Interrupted::Later, Interrupted::Cancel)
    }

    /// The wait is over; what answers the process.
    pub(super) fn end(&self, request: K) -> Option<R> {
        self.lock().remove(&request).map(|wait| wait.reply)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<K, Wait<T, R>>> {
        self.waits.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl WaitingLocks {
    /// Answers the process, which gets the lock or an error.
    pub(super) fn answer(&self, request: fuser::RequestId, outcome: Result<(), Errno>) {
        match (self.end(request), outcome) {
            (Some(reply), Ok(())) => reply.ok(),
            (Some(reply), Err(errno)) => reply.error(super::reply::errno(errno)),
            (None, _) => tracing::error!(?request, "a wait for a lock ended twice, which is a mistake in this program"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type TestWaits = Waits<u64, u32, &'static str>;

    #[test]
    fn an_interrupt_cancels_by_ticket() {
        let waits = TestWaits::default();
        waits.register(1, "reply");
        assert!(!waits.set_ticket(1, 70));
        assert_eq!(waits.interrupt(1), Interrupted::Cancel(70));
        assert_eq!(waits.end(1), Some("reply"));
        assert_eq!(waits.interrupt(1), Interrupted::Unknown);
        assert_eq!(waits.end(1), None);
    }

    #[test]
    fn an_interrupt_before_the_ticket_is_not_lost() {
        let waits = TestWaits::default();
        waits.register(1, "reply");
        assert_eq!(waits.interrupt(1), Interrupted::Later);
        assert!(waits.set_ticket(1, 70));
    }

    #[test]
    fn a_wait_that_ends_before_its_ticket_needs_no_cancelling() {
        let waits = TestWaits::default();
        waits.register(1, "reply");
        assert_eq!(waits.end(1), Some("reply"));
        assert!(!waits.set_ticket(1, 70));
    }
}
