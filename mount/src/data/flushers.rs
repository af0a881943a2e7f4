//! The threads that send dirty data behind the writers' backs, their queue, and the bound on dirty bytes of a mount.
//!
//! A chunk is in the queue at most once (`ChunkState::queued`) and only while it has dirty bytes, so the queue is bounded
//! by the bound on dirty bytes. Writers that find no room wait; that is the backpressure.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use super::file::FileData;

/// How often a writer without room asks again for everything to be sent: others may have filled what became free.
pub(crate) const HURRY_INTERVAL: Duration = Duration::from_millis(100);

/// One chunk that a flusher is to look after.
pub(crate) struct FlushJob {
    pub(crate) file: Arc<FileData>,
    pub(crate) index: u32,
}

/// A queue that threads take jobs from until it is closed.
#[derive(Debug)]
pub(crate) struct JobQueue<T> {
    jobs: Mutex<(VecDeque<T>, Open)>,
    more: Condvar,
    length_max: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Open {
    Yes,
    No,
}

impl<T> JobQueue<T> {
    pub(crate) fn new(length_max: usize) -> JobQueue<T> {
        JobQueue { jobs: Mutex::new((VecDeque::new(), Open::Yes)), more: Condvar::new(), length_max }
    }

    /// Adds a job; gives it back if the queue is full or closed.
    pub(crate) fn push(&self, job: T) -> Result<(), T> {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        if jobs.1 == Open::No || jobs.0.len() >= self.length_max {
            return Err(job);
        }
        jobs.0.push_back(job);
        drop(jobs);
        self.more.notify_one();
        Ok(())
    }

    /// The next job; `None` once the queue is closed.
    pub(crate) fn pop(&self) -> Option<T> {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if jobs.1 == Open::No {
                return None;
            }
            if let Some(job) = jobs.0.pop_front() {
                return Some(job);
            }
            jobs = self.more.wait(jobs).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Ends the threads that take from it.
    pub(crate) fn close(&self) {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        jobs.1 = Open::No;
        let left = std::mem::take(&mut jobs.0);
        drop(jobs);
        self.more.notify_all();
        drop(left);
    }
}

/// The bound on unacknowledged bytes of all files.
#[derive(Debug)]
pub(crate) struct Budget {
    bytes_max: usize,
    used: Mutex<usize>,
    freed: Condvar,
}

impl Budget {
    pub(crate) fn new(bytes_max: usize) -> Budget {
        Budget { bytes_max, used: Mutex::new(0), freed: Condvar::new() }
    }

    /// Takes room for so many bytes; `hurry` is called, without the lock, for as long as there is none, to have some made.
    pub(crate) fn acquire(&self, bytes: usize, hurry: impl Fn()) {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        while *used > 0 && *used + bytes > self.bytes_max {
            drop(used);
            hurry();
            used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
            if *used > 0 && *used + bytes > self.bytes_max {
                used = self.freed.wait_timeout(used, HURRY_INTERVAL).unwrap_or_else(PoisonError::into_inner).0;
            }
        }
        *used += bytes;
    }

    /// Gives room back.
    pub(crate) fn release(&self, bytes: usize) {
        if bytes > 0 {
            let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
            *used -= bytes;
            drop(used);
            self.freed.notify_all();
        }
    }

    /// How much is taken.
    pub(crate) fn used(&self) -> usize {
        *self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
