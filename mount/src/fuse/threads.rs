//! How many FUSE threads read requests: few while requests are quick, more while they wait for the master.
//!
//! A FUSE thread asks the master itself and is busy until the answer is there, because waking another thread costs more
//! than most requests take. But if all of them wait (a recall, a stopped chunkserver, an fsync), nobody reads requests that
//! could be answered at once, and some of those are needed for the waiting to end: the kernel answers an invalidation only
//! after it has written dirty mapped pages back through here. So the session starts with as many threads as there may ever
//! be, and this module keeps most of them parked at the end of a handler. When no thread reads and for
//! [`PATIENCE`] none has finished either, one more is let go; when there are plenty of idle readers again, it is parked
//! again. `docs/decisions/fuse-threads.md` says what else was considered.
//!
//! What always holds: a thread is parked only after its request was answered, and at least one thread that is not parked
//! remains; when the connection to the kernel ends, nobody stays parked.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rfs_common::clock::Monotonic;

/// How long all threads may be busy, without one of them finishing a request, before another one helps.
const PATIENCE: Duration = Duration::from_millis(5);

/// How many times [`PATIENCE`] the watcher goes on after it was last needed, so that a busy mount need not wake it again
/// and again.
const CALM_ROUNDS: u32 = 40;

/// Parks and releases the threads of one FUSE session.
#[derive(Debug)]
pub(super) struct Threads {
    state: Mutex<State>,
    parked: Condvar,
    usual: usize,
}

/// A request that a thread works on, for people who ask what a mount does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnderWay {
    /// What is to be done, in FUSE's words.
    pub operation: &'static str,
    /// With which node.
    pub node: u64,
    /// The thread that waits for it; 0 if none does, or it lives where we cannot see it.
    pub thread: u32,
    /// When it was read.
    pub since: Monotonic,
}

#[derive(Debug)]
struct State {
    /// What the busy ones do; as many places as there ever were at once.
    under_way: Vec<Option<UnderWay>>,
    /// All threads of the session.
    total: usize,
    /// Those in a handler.
    busy: usize,
    /// Those parked.
    parked: usize,
    /// How many may be unparked.
    wanted: usize,
    /// Requests finished so far, to see whether there is progress.
    finished: u64,
    /// One of the parked threads looks for a lack of readers.
    watched: bool,
    closed: bool,
}

impl State {
    fn readers(&self) -> usize {
        self.total - self.busy - self.parked
    }
}

/// A thread is in a handler; dropped after the request was answered. Dropping may park the thread.
pub(super) struct Busy<'a> {
    threads: &'a Threads,
    end: End,
    place: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    MayPark,
    Reads,
}

impl Threads {
    /// For a session of `total` threads of which `usual` are enough as a rule.
    pub(super) fn new(usual: usize, total: usize) -> Threads {
        let usual = usual.min(total);
        let under_way = Vec::with_capacity(total);
        let state =
            State { under_way, total, busy: 0, parked: 0, wanted: usual, finished: 0, watched: false, closed: false };
        Threads { state: Mutex::new(state), parked: Condvar::new(), usual }
    }

    /// The calling thread begins to handle a request.
    pub(super) fn busy(&self, work: UnderWay) -> Busy<'_> {
        self.enter(work, End::MayPark)
    }

    /// The same, for a request that may be left waiting when the handler returns: since an interrupt of it is delivered
    /// when the handler has returned, the thread is not parked.
    pub(super) fn busy_without_parking(&self, work: UnderWay) -> Busy<'_> {
        self.enter(work, End::Reads)
    }

    /// What all threads are busy with, the oldest first.
    pub(super) fn under_way(&self) -> Vec<UnderWay> {
        let mut all: Vec<UnderWay> = self.lock().under_way.iter().flatten().copied().collect();
        all.sort_by_key(|work| work.since);
        all
    }

    fn enter(&self, work: UnderWay, end: End) -> Busy<'_> {
        let mut state = self.lock();
        state.busy += 1;
        let place = state.under_way.iter().position(Option::is_none).unwrap_or(state.under_way.len());
        match state.under_way.get_mut(place) {
            Some(free) => *free = Some(work),
            None => state.under_way.push(Some(work)),
        }
        if state.readers() == 0 && state.parked > 0 && !state.watched {
            self.parked.notify_one();
        }
        drop(state);
        Busy { threads: self, end, place }
    }

    fn leave(&self, place: usize, end: End) {
        let mut state = self.lock();
        state.under_way[place] = None;
        state.busy -= 1;
        state.finished += 1;
        if state.readers() > self.usual {
            state.wanted = self.usual.max(state.wanted - 1);
        }
        let unparked = state.total - state.parked;
        if end == End::MayPark && unparked > state.wanted && !state.closed {
            self.park(state);
        }
    }

    fn park(&self, mut state: MutexGuard<'_, State>) {
        state.parked += 1;
        while !state.closed {
            if state.readers() > 0 || state.watched {
                state = self.parked.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let needed;
            (state, needed) = self.watch(state);
            if needed {
                state.wanted = state.total.min(state.wanted + 1);
                break;
            }
        }
        state.parked -= 1;
    }

    /// Watches until another reader is needed, or until none has been needed for a while.
    fn watch<'a>(&self, mut state: MutexGuard<'a, State>) -> (MutexGuard<'a, State>, bool) {
        state.watched = true;
        let (mut calm_rounds, mut needed) = (0, false);
        while calm_rounds < CALM_ROUNDS && !needed && !state.closed {
            let (finished, all_busy) = (state.finished, state.readers() == 0);
            (state, _) = self.parked.wait_timeout(state, PATIENCE).unwrap_or_else(PoisonError::into_inner);
            needed = all_busy && state.readers() == 0 && state.finished == finished;
            calm_rounds = if state.readers() == 0 { 0 } else { calm_rounds + 1 };
        }
        state.watched = false;
        (state, needed)
    }

    /// The connection to the kernel has ended: all threads are to leave.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.parked.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.threads.leave(self.place, self.end);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, mpsc};

    use rfs_common::clock::{ManualClock, Time};

    use super::*;

    fn some_work() -> UnderWay {
        let since = ManualClock::new(Time::default()).shared().monotonic();
        UnderWay { operation: "read", node: 7, thread: 0, since }
    }

    /// A session whose requests are numbers of milliseconds, read by all its threads from one queue.
    struct Session {
        threads: Arc<Threads>,
        requests: mpsc::Sender<mpsc::Receiver<()>>,
        joined: Vec<std::thread::JoinHandle<()>>,
    }

    impl Session {
        fn start(usual: usize, total: usize) -> Session {
            let threads = Arc::new(Threads::new(usual, total));
            let (requests, queue) = mpsc::channel::<mpsc::Receiver<()>>();
            let queue = Arc::new(Mutex::new(queue));
            let read = |_| {
                let (threads, queue) = (Arc::clone(&threads), Arc::clone(&queue));
                std::thread::spawn(move || {
                    loop {
                        let Ok(request) = queue.lock().unwrap().recv() else { break };
                        let _busy = threads.busy(some_work());
                        // Answered when the test drops its end.
                        let _answered = request.recv();
                    }
                    threads.close();
                })
            };
            let joined = (0..total).map(read).collect();
            Session { threads, requests, joined }
        }

        fn request(&self) -> mpsc::Sender<()> {
            let (finish, request) = mpsc::channel();
            self.requests.send(request).unwrap();
            finish
        }

        fn wait_until(&self, condition: impl Fn(&State) -> bool) {
            for _ in 0..2000 {
                if condition(&self.threads.lock()) {
                    return;
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            panic!("{:?}", self.threads.lock());
        }

        fn end(self) {
            drop(self.requests);
            for thread in self.joined {
                thread.join().unwrap();
            }
        }
    }

    #[test]
    fn few_threads_remain_while_requests_are_quick() {
        let session = Session::start(2, 6);
        for _ in 0..20 {
            drop(session.request());
        }
        session.wait_until(|state| state.parked == 4 && state.finished == 20);
        session.end();
    }

    #[test]
    fn more_threads_read_while_requests_wait_and_fewer_afterwards() {
        let session = Session::start(2, 6);
        (0..20).for_each(|_| drop(session.request()));
        session.wait_until(|state| state.parked == 4);
        let waiting: Vec<_> = (0..4).map(|_| session.request()).collect();
        session.wait_until(|state| state.busy == 4);
        assert_eq!(session.threads.under_way(), [some_work(); 4]);
        // There is still somebody who reads.
        drop(session.request());
        session.wait_until(|state| state.finished == 21);
        drop(waiting);
        (0..40).for_each(|_| drop(session.request()));
        session.wait_until(|state| state.parked == 4 && state.finished == 65);
        assert_eq!(session.threads.under_way(), []);
        session.end();
    }

    #[test]
    fn all_threads_can_wait_and_the_session_still_ends() {
        let session = Session::start(1, 3);
        let waiting: Vec<_> = (0..5).map(|_| session.request()).collect();
        session.wait_until(|state| state.busy == 3);
        drop(waiting);
        session.end();
    }
}
