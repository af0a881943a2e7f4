//! Requests of programs that are killed while they wait.
//!
//! A program that was hit by a fatal signal still waits for the answer to a request that has been read: the kernel tells us of
//! the signal and waits on. So the replies to requests that may take long are kept where the thread that is told of the
//! signal finds them, and it answers EINTR at once, which nobody sees: the program ends. The thread that works on the
//! request finds its reply gone when it is done, or looks for that while it waits.
//!
//! Only fatal signals count, as with a local disk: programs do not expect EINTR from a read or an fsync because of a timer or a
//! child (and the Go runtime sends itself signals all the time). Whether one is fatal, the kernel says by making SIGKILL
//! pending for the thread (proc_pid_status(5), `SigPnd`). It tells of the first signal only: a program that waits on after one
//! which it handles is looked at again and again, by a thread that is there as long as there is such a program.
//!
//! What always holds: each reply is sent once. What a reply was to give the kernel to keep (nodes, handles) is given back by who
//! finds the reply gone. Changes of names are not here: what the kernel knows of the names would have to be taken back.

use std::collections::{HashMap, VecDeque};
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fuser::{
    Errno, ReplyAttr, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs,
    ReplyWrite, ReplyXattr, RequestId,
};
use rfs_common::background;
use rustix::process::{Pid, test_kill_process};

/// Bit of SIGKILL in a mask of signals.
const KILL_BIT: u64 = 1 << (libc::SIGKILL - 1);

/// Interrupts remembered that came before their request: only those of requests just being handed over matter.
const EARLY_MAX: usize = 64;

/// How often it is looked whether a program was killed that was hit by another signal before.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// Requests that can be given up.
#[derive(Debug, Default)]
pub(super) struct Killable {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: HashMap<RequestId, Arc<dyn GiveUp>>,
    early: VecDeque<RequestId>,
    /// There is a thread that looks at those which were interrupted.
    watched: bool,
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

refuse!(
    ReplyAttr,
    ReplyData,
    ReplyDirectory,
    ReplyDirectoryPlus,
    ReplyEmpty,
    ReplyEntry,
    ReplyOpen,
    ReplyStatfs,
    ReplyWrite,
    ReplyXattr
);

trait GiveUp: std::fmt::Debug + Send + Sync {
    /// A signal has hit the program. Whether the request is given up.
    fn interrupt(&self) -> bool;
    /// Whether one has, and the program waits on. A program that was killed since does not.
    fn waits_on(&self) -> bool;
}

impl<R: Refuse> GiveUp for Reply<R> {
    fn interrupt(&self) -> bool {
        self.interrupted.store(true, Ordering::Release);
        self.give_up_if_killed()
    }

    fn waits_on(&self) -> bool {
        self.interrupted.load(Ordering::Acquire) && !self.give_up_if_killed()
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
        let mut state = self.shared.lock();
        let early = state.early.iter().position(|known| *known == request);
        if let Some(position) = early {
            state.early.remove(position);
        }
        state.waiting.insert(request, Arc::clone(&reply) as Arc<dyn GiveUp>);
        drop(state);
        if early.is_some() && !reply.interrupt() {
            self.watch();
        }
        Waiting { killable: self, request, reply }
    }

    /// A signal has hit the program that waits for this request. Whether the request was found.
    pub(super) fn interrupt(&self, request: RequestId) -> bool {
        let waiting = {
            let mut state = self.shared.lock();
            let waiting = state.waiting.get(&request).cloned();
            if waiting.is_none() {
                state.early.truncate(EARLY_MAX - 1);
                state.early.push_front(request);
            }
            waiting
        };
        if waiting.as_ref().is_some_and(|waiting| !waiting.interrupt()) {
            self.watch();
        }
        waiting.is_some()
    }

    /// Sees to it that a thread looks at programs that wait on after a signal.
    fn watch(&self) {
        if std::mem::replace(&mut self.shared.lock().watched, true) {
            return;
        }
        let shared = Arc::clone(&self.shared);
        if let Err(error) = background::spawn("killed", move || shared.look_again_and_again()) {
            tracing::warn!(%error, "a program that is killed after another signal will not be noticed");
            self.shared.lock().watched = false;
        }
    }
}

impl Shared {
    /// Until no program waits that was hit by a signal.
    fn look_again_and_again(&self) {
        loop {
            let (state, _) = self.ended.wait_timeout(self.lock(), LOOK_AGAIN).unwrap_or_else(PoisonError::into_inner);
            let waiting: Vec<Arc<dyn GiveUp>> = state.waiting.values().cloned().collect();
            drop(state);
            let any = waiting.iter().filter(|waiting| waiting.waits_on()).count() > 0;
            let mut state = self.lock();
            // One that came meanwhile counts on this thread.
            if !any && !state.waiting.values().any(|waiting| waiting.waits_on()) {
                state.watched = false;
                return;
            }
        }
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

    /// Does something to the reply before it is sent, unless it was given up.
    pub(super) fn with<T>(&self, change: impl FnOnce(&mut R) -> T) -> Option<T> {
        self.reply.lock().as_mut().map(change)
    }

    /// The reply, unless it was given up.
    pub(super) fn take(&self) -> Option<R> {
        self.reply.lock().take()
    }
}

impl<R: Refuse> Drop for Waiting<'_, R> {
    fn drop(&mut self) {
        self.killable.shared.lock().waiting.remove(&self.request);
    }
}

/// Whether the thread is being killed, or is gone. Number 0 is one that lives where we cannot see it. One of which nothing can be read
/// (no descriptor is left, or `/proc` hides it) lives until the kernel says that there is none.
fn is_killed(thread: u32) -> bool {
    match fs::read_to_string(format!("/proc/{thread}/status")) {
        _ if thread == 0 => false,
        Ok(status) => has_pending_kill(&status),
        Err(_) => is_gone(thread),
    }
}

fn is_gone(thread: u32) -> bool {
    let number = i32::try_from(thread).ok().and_then(Pid::from_raw);
    number.is_none_or(|number| test_kill_process(number) == Err(rustix::io::Errno::SRCH))
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
        assert_eq!(killable.shared.lock().early.len(), EARLY_MAX);
        let waiting = killable.register(RequestId(299), GONE, TestReply(Arc::clone(&refused)));
        assert!(refused.load(Ordering::Acquire) && waiting.take().is_none());
        drop(waiting);
        assert!(killable.shared.lock().waiting.is_empty());
    }

    #[test]
    fn a_program_that_is_killed_after_another_signal_is_answered() {
        let (killable, refused) = (Killable::default(), Arc::new(AtomicBool::new(false)));
        let mut program = std::process::Command::new("sleep").arg("100").spawn().unwrap();
        let waiting = killable.register(RequestId(1), program.id(), TestReply(Arc::clone(&refused)));
        assert!(killable.interrupt(RequestId(1)) && waiting.is_wanted());
        std::thread::sleep(2 * LOOK_AGAIN);
        assert!(!refused.load(Ordering::Acquire));
        program.kill().unwrap();
        program.wait().unwrap();
        let mut looks = 0;
        while !refused.load(Ordering::Acquire) {
            assert!(looks < 100, "nobody looked again");
            std::thread::sleep(LOOK_AGAIN / 10);
            looks += 1;
        }
        assert!(waiting.take().is_none());
        drop(waiting);
        while killable.shared.lock().watched {
            std::thread::sleep(LOOK_AGAIN / 10);
        }
    }

    #[test]
    fn who_cannot_be_seen_lives_until_the_kernel_says_otherwise() {
        assert!(!is_gone(std::process::id()) && !is_gone(1) && is_gone(GONE));
        let mut program = std::process::Command::new("true").spawn().unwrap();
        let thread = program.id();
        program.wait().unwrap();
        assert!(is_gone(thread) && is_killed(thread));
    }

    #[test]
    fn sigkill_is_seen_among_pending_signals() {
        assert!(has_pending_kill("Name:\tcat\nSigPnd:\t0000000000000100\n"));
        assert!(!has_pending_kill("Name:\tcat\nSigPnd:\t0000000000000002\nShdPnd:\t0000000000000100\n"));
        assert!(!has_pending_kill(""));
    }
}
