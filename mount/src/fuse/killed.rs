//! Requests of programs that are killed while they wait.
//!
//! A program that was hit by a fatal signal still waits for the answer to a request that has been read: the kernel tells us of
//! the signal and waits on. So the replies to requests that may take long are kept where the thread that is told of the
//! signal finds them, and it answers EINTR at once, which nobody sees: the program ends. The thread that works on the
//! request finds its reply gone when it is done, or looks for that while it waits.
//!
//! Only fatal signals count, as with a local disk: programs do not expect EINTR from a read or an fsync because of a timer or a
//! child (and the Go runtime sends itself signals all the time). Whether one is fatal, the kernel says by making SIGKILL
//! pending for the thread (proc_pid_status(5), `SigPnd`).
//!
//! What always holds: each reply is sent once. Requests whose answer the client counts on the kernel to keep (lookups, opens,
//! creations) are not here: a node or a handle that was given and not taken would never be given back.

use std::collections::{HashMap, VecDeque};
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fuser::{Errno, ReplyAttr, ReplyData, ReplyEmpty, ReplyStatfs, ReplyWrite, ReplyXattr, RequestId};

/// Bit of SIGKILL in a mask of signals.
const KILL_BIT: u64 = 1 << (libc::SIGKILL - 1);

/// Interrupts remembered that came before their request: only those of requests just being handed over matter.
const EARLY_MAX: usize = 64;

/// Requests that can be given up.
#[derive(Debug, Default)]
pub(super) struct Killable {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    waiting: HashMap<RequestId, Arc<dyn GiveUp>>,
    early: VecDeque<RequestId>,
}

/// A request whose reply may be taken away.
pub(super) struct Waiting<'a, R: Refuse> {
    killable: &'a Killable,
    request: RequestId,
    reply: Arc<Reply<R>>,
}

#[derive(Debug)]
struct Reply<R> {
    reply: Mutex<Option<R>>,
    /// The thread that waits.
    thread: u32,
    /// A signal has hit it; which, has to be looked up.
    interrupted: AtomicBool,
}

/// A reply that can be an error.
pub(super) trait Refuse: std::fmt::Debug + Send + 'static {
    fn refuse(self, errno: Errno);
}

macro_rules! refuse {
    ($($reply:ty),+) => {
        $(impl Refuse for $reply {
            fn refuse(self, errno: Errno) {
                self.error(errno);
            }
        })+
    };
}

refuse!(ReplyAttr, ReplyData, ReplyEmpty, ReplyStatfs, ReplyWrite, ReplyXattr);

trait GiveUp: std::fmt::Debug + Send + Sync {
    /// A signal has hit the program. Whether the request is given up.
    fn interrupt(&self) -> bool;
}

impl<R: Refuse> GiveUp for Reply<R> {
    fn interrupt(&self) -> bool {
        self.interrupted.store(true, Ordering::Release);
        self.give_up_if_killed()
    }
}

impl<R: Refuse> Reply<R> {
    fn lock(&self) -> MutexGuard<'_, Option<R>> {
        self.reply.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn give_up_if_killed(&self) -> bool {
        if !is_killed(self.thread) {
            return false;
        }
        let reply = self.lock().take();
        if let Some(reply) = reply {
            reply.refuse(Errno::EINTR);
        }
        true
    }
}

impl Killable {
    /// From now on the request of this thread can be given up.
    pub(super) fn register<R: Refuse>(&self, request: RequestId, thread: u32, reply: R) -> Waiting<'_, R> {
        let reply = Arc::new(Reply { reply: Mutex::new(Some(reply)), thread, interrupted: AtomicBool::new(false) });
        let mut state = self.lock();
        let early = state.early.iter().position(|known| *known == request);
        if let Some(position) = early {
            state.early.remove(position);
        }
        state.waiting.insert(request, Arc::clone(&reply) as Arc<dyn GiveUp>);
        drop(state);
        if early.is_some() {
            reply.interrupt();
        }
        Waiting { killable: self, request, reply }
    }

    /// A signal has hit the program that waits for this request. Whether the request was found.
    pub(super) fn interrupt(&self, request: RequestId) -> bool {
        let waiting = {
            let mut state = self.lock();
            let waiting = state.waiting.get(&request).cloned();
            if waiting.is_none() {
                state.early.truncate(EARLY_MAX - 1);
                state.early.push_front(request);
            }
            waiting
        };
        waiting.map(|waiting| waiting.interrupt()).is_some()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<R: Refuse> Waiting<'_, R> {
    /// Whether somebody still waits. To be asked now and then by what takes long.
    pub(super) fn is_wanted(&self) -> bool {
        if self.reply.interrupted.load(Ordering::Acquire) {
            self.reply.give_up_if_killed();
        }
        self.reply.lock().is_some()
    }

    /// The reply, unless it was given up.
    pub(super) fn take(&self) -> Option<R> {
        self.reply.lock().take()
    }
}

impl<R: Refuse> Drop for Waiting<'_, R> {
    fn drop(&mut self) {
        self.killable.lock().waiting.remove(&self.request);
    }
}

/// Whether the thread is being killed. Number 0 is one that lives where we cannot see it.
fn is_killed(thread: u32) -> bool {
    thread != 0 && fs::read_to_string(format!("/proc/{thread}/status")).map_or(true, |status| has_pending_kill(&status))
}

fn has_pending_kill(status: &str) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigPnd:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & KILL_BIT != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct TestReply(Arc<AtomicBool>);

    impl Refuse for TestReply {
        fn refuse(self, _errno: Errno) {
            self.0.store(true, Ordering::Release);
        }
    }

    /// No thread has this number, so it counts as killed.
    const GONE: u32 = u32::MAX;

    #[test]
    fn a_killed_program_is_answered_at_once_and_only_then() {
        let (killable, refused) = (Killable::default(), Arc::new(AtomicBool::new(false)));
        let living = killable.register(RequestId(1), std::process::id(), TestReply(Arc::clone(&refused)));
        assert!(killable.interrupt(RequestId(1)) && living.is_wanted(), "a signal that does not kill changes nothing");
        let killed = killable.register(RequestId(2), GONE, TestReply(Arc::clone(&refused)));
        assert!(killed.is_wanted() && !refused.load(Ordering::Acquire));
        assert!(killable.interrupt(RequestId(2)) && refused.load(Ordering::Acquire));
        assert!(!killed.is_wanted() && killed.take().is_none() && living.take().is_some());
    }

    #[test]
    fn an_interrupt_before_its_request_is_not_lost_and_old_ones_are_dropped() {
        let (killable, refused) = (Killable::default(), Arc::new(AtomicBool::new(false)));
        (100..300).for_each(|request| assert!(!killable.interrupt(RequestId(request))));
        assert_eq!(killable.lock().early.len(), EARLY_MAX);
        let waiting = killable.register(RequestId(299), GONE, TestReply(Arc::clone(&refused)));
        assert!(refused.load(Ordering::Acquire) && waiting.take().is_none());
        drop(waiting);
        assert!(killable.lock().waiting.is_empty());
    }

    #[test]
    fn sigkill_is_seen_among_pending_signals() {
        assert!(has_pending_kill("Name:\tcat\nSigPnd:\t0000000000000100\n"));
        assert!(!has_pending_kill("Name:\tcat\nSigPnd:\t0000000000000002\nShdPnd:\t0000000000000100\n"));
        assert!(!has_pending_kill(""));
    }
}
