//! Threads with names, and workers: background work in small steps whose state can be looked at.
//!
//! A [`Worker`] does one small step at a time and says when it wants the next, so it never has to look for a shutdown
//! itself and can be tested step by step without a thread. [`start`] runs it on a thread of its own until the shutdown is
//! requested; its [`WorkerHandle`] tells how often it ran and what it did last.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use crate::clock::{SharedClock, Time};
use crate::shutdown::Shutdown;

/// Bytes of a thread's name that Linux keeps (`TASK_COMM_LEN` without the closing NUL).
pub const THREAD_NAME_BYTES_MAX: usize = 15;

/// Starts a thread with this name, of which `top` and `ps` show the first [`THREAD_NAME_BYTES_MAX`] bytes. Fails when the
/// system has no more threads.
pub fn spawn<T: Send + 'static>(name: &str, work: impl FnOnce() -> T + Send + 'static) -> io::Result<JoinHandle<T>> {
    Builder::new().name(name.to_owned()).spawn(work)
}

/// Background work that is done in small steps.
pub trait Worker: Send + 'static {
    /// The worker's name, also of its thread.
    fn name(&self) -> String;

    /// Does a little work: at most a few milliseconds of computing, or one I/O operation.
    fn step(&mut self) -> Step;

    /// What the worker is doing, in a few words for people.
    fn state(&self) -> String;
}

/// What a worker wants after a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// There is more to do at once.
    Busy,
    /// There is nothing to do for this long.
    Idle(Duration),
    /// There will never be anything to do again.
    Done,
}

/// What a worker reported last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerStatus {
    /// The worker's name.
    pub name: String,
    /// What it is doing, in its own words.
    pub state: String,
    /// How many steps it has done.
    pub steps: u64,
    /// When it ended its last step, or when it was started.
    pub last_step_at: Time,
    /// What it wanted after its last step; nothing before the first one.
    pub last_step: Option<Step>,
}

/// A running worker.
#[derive(Debug)]
pub struct WorkerHandle {
    status: Arc<Mutex<WorkerStatus>>,
    thread: JoinHandle<()>,
}

impl WorkerHandle {
    /// What the worker reported after its last step.
    pub fn status(&self) -> WorkerStatus {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for the end of the worker, which comes with the shutdown or with [`Step::Done`].
    pub fn join(self) {
        // A panic ends the process, so there is none to pass on.
        let _ = self.thread.join();
    }
}

/// Runs the worker on a thread of its own until it is done or the shutdown is requested.
pub fn start(mut worker: impl Worker, shutdown: Shutdown, clock: SharedClock) -> io::Result<WorkerHandle> {
    let name = worker.name();
    let status = Arc::new(Mutex::new(WorkerStatus {
        name: name.clone(),
        state: worker.state(),
        steps: 0,
        last_step_at: clock.now(),
        last_step: None,
    }));
    let reported = Arc::clone(&status);
    let run = move || {
        while !shutdown.is_requested() {
            let step = worker.step();
            report(&reported, &worker, step, clock.now());
            match step {
                Step::Busy => {}
                Step::Idle(pause) => {
                    shutdown.wait_timeout(pause);
                }
                Step::Done => return,
            }
        }
    };
    Ok(WorkerHandle { status, thread: spawn(&name, run)? })
}

fn report(status: &Mutex<WorkerStatus>, worker: &impl Worker, step: Step, now: Time) {
    let state = worker.state();
    let mut status = status.lock().unwrap_or_else(PoisonError::into_inner);
    status.state = state;
    status.steps += 1;
    status.last_step_at = now;
    status.last_step = Some(step);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;

    struct Counter {
        left: u32,
        at_end: Step,
    }

    impl Worker for Counter {
        fn name(&self) -> String {
            "counter".to_owned()
        }

        fn step(&mut self) -> Step {
            self.left = self.left.saturating_sub(1);
            if self.left > 0 { Step::Busy } else { self.at_end }
        }

        fn state(&self) -> String {
            format!("{} left", self.left)
        }
    }

    #[test]
    fn threads_have_names() {
        let thread = spawn("a-name", || std::thread::current().name().map(str::to_owned)).unwrap();
        assert_eq!(thread.join().unwrap().as_deref(), Some("a-name"));
    }

    #[test]
    fn a_worker_runs_until_it_is_done() {
        let worker = Counter { left: 3, at_end: Step::Done };
        let handle = start(worker, Shutdown::new(), SystemClock::shared()).unwrap();
        while handle.status().last_step != Some(Step::Done) {
            std::thread::yield_now();
        }
        let status = handle.status();
        assert_eq!((status.name.as_str(), status.state.as_str(), status.steps), ("counter", "0 left", 3));
        handle.join();
    }

    #[test]
    fn a_shutdown_ends_an_idle_worker_at_once() {
        let shutdown = Shutdown::new();
        let worker = Counter { left: 2, at_end: Step::Idle(Duration::from_secs(3600)) };
        let handle = start(worker, shutdown.clone(), SystemClock::shared()).unwrap();
        while handle.status().steps < 2 {
            std::thread::yield_now();
        }
        shutdown.request();
        handle.join();
    }
}
