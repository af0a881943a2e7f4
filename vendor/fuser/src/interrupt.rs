//! Interrupts on their way to the filesystem
//!
//! The kernel sends FUSE_INTERRUPT for a request that a signal hit. With several threads it can arrive before the
//! request itself reaches the filesystem. The kernel's own cure is the answer EAGAIN, which makes it send the interrupt
//! again at once; but a request that never registers (a slow read, say) would keep a thread busy with this for as long
//! as it lasts, and with cloned devices the answer may not even find the request. So such interrupts are kept here.
//!
//! Order is what makes it safe: an interrupt is noted *before* the filesystem is asked, and taken *after* the request
//! was handed to the filesystem. If the filesystem looks up and registers waiting requests under one lock, one of the
//! two calls of `Filesystem::interrupt` finds the request.

use std::collections::VecDeque;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;

use crate::ll::RequestId;

/// An interrupt whose request was answered meanwhile stays noted, since nobody takes it. As only those of requests
/// being dispatched matter, at most one per thread, the oldest can go when there are this many.
const NOTED_MAX: usize = 1024;

/// What became of an interrupt passed to the filesystem.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InterruptOutcome {
    /// The request was waiting and is being answered.
    Delivered,
    /// No such request is waiting: it is answered, cannot be interrupted, or has not reached the filesystem yet. In the
    /// last case `interrupt` is called again when it has.
    Unknown,
    /// The filesystem never interrupts requests; the kernel need not send more of these.
    Unsupported,
}

/// Interrupts that may have overtaken their requests.
#[derive(Debug, Default)]
pub(crate) struct EarlyInterrupts {
    /// The length of `noted`, so that the usual case costs no lock.
    len: AtomicUsize,
    noted: Mutex<VecDeque<RequestId>>,
}

impl EarlyInterrupts {
    /// Keeps the interrupt until [`take`](Self::take) is called for its request.
    pub(crate) fn note(&self, interrupted: RequestId) {
        let mut noted = self.noted.lock();
        if noted.len() == NOTED_MAX {
            noted.pop_front();
        }
        noted.push_back(interrupted);
        self.len.store(noted.len(), Ordering::Release);
    }

    /// Forgets the interrupt of a request. Returns whether there was one.
    pub(crate) fn take(&self, request: RequestId) -> bool {
        if self.len.load(Ordering::Acquire) == 0 {
            return false;
        }
        let mut noted = self.noted.lock();
        let Some(position) = noted.iter().position(|&id| id == request) else {
            return false;
        };
        noted.remove(position);
        self.len.store(noted.len(), Ordering::Release);
        true
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn takes_what_was_noted_once() {
        let interrupts = EarlyInterrupts::default();
        assert!(!interrupts.take(RequestId(2)));
        interrupts.note(RequestId(2));
        interrupts.note(RequestId(4));
        assert!(interrupts.take(RequestId(4)));
        assert!(!interrupts.take(RequestId(4)));
        assert!(interrupts.take(RequestId(2)));
    }

    #[test]
    fn drops_the_oldest_when_full() {
        let interrupts = EarlyInterrupts::default();
        for unique in 0..=NOTED_MAX as u64 {
            interrupts.note(RequestId(unique));
        }
        assert!(!interrupts.take(RequestId(0)));
        assert!(interrupts.take(RequestId(1)));
        assert!(interrupts.take(RequestId(NOTED_MAX as u64)));
    }
}
