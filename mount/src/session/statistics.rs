//! Counts of what a session asked, by kind of request: tests count round trips with them, people see them in reports.

use std::sync::atomic::{AtomicU64, Ordering};

use rfs_proto::frame::FrameType;

const KINDS: usize = 35;

/// Counts since the start.
#[derive(Debug)]
pub struct Statistics {
    calls: [AtomicU64; KINDS],
    repeats: AtomicU64,
    recalls: AtomicU64,
    sessions_lost: AtomicU64,
    reclaims: AtomicU64,
}

impl Default for Statistics {
    fn default() -> Statistics {
        Statistics {
            calls: std::array::from_fn(|_| AtomicU64::new(0)),
            repeats: AtomicU64::new(0),
            recalls: AtomicU64::new(0),
            sessions_lost: AtomicU64::new(0),
            reclaims: AtomicU64::new(0),
        }
    }
}

impl Statistics {
    /// Requests of this type that were answered (each once, however often it was sent).
    pub fn calls_of(&self, frame_type: FrameType) -> u64 {
        self.calls.get(frame_type as usize).map_or(0, |count| count.load(Ordering::Relaxed))
    }

    /// Requests that were answered, of all types.
    pub fn calls(&self) -> u64 {
        self.calls.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    /// Requests sent again after their connection broke.
    pub fn repeats(&self) -> u64 {
        self.repeats.load(Ordering::Relaxed)
    }

    /// Recalls carried out.
    pub fn recalls(&self) -> u64 {
        self.recalls.load(Ordering::Relaxed)
    }

    /// Sessions that expired under us.
    pub fn sessions_lost(&self) -> u64 {
        self.sessions_lost.load(Ordering::Relaxed)
    }

    /// Reclaims after a restart of the master.
    pub fn reclaims(&self) -> u64 {
        self.reclaims.load(Ordering::Relaxed)
    }

    pub(super) fn called(&self, frame_type: FrameType) {
        if let Some(count) = self.calls.get(frame_type as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn repeated(&self) {
        self.repeats.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn recalled(&self) {
        self.recalls.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn lost(&self) {
        self.sessions_lost.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn reclaimed(&self) {
        self.reclaims.fetch_add(1, Ordering::Relaxed);
    }
}
