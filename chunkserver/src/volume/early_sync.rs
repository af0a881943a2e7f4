//! Syncs of large copies that nobody has asked for yet: while a stream is being written its disk would else have nothing
//! to do, and the fsync at the end everything.
//!
//! What always holds: nothing is acknowledged by such a sync; a failure of it makes the copy bad, as that of any sync does,
//! the next request for the copy tells so, and the volume draws the consequences at its next look. A sync that is asked for
//! meanwhile waits for it. What finds no room in the queue is not synced early.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use rfs_common::background;
use rfs_common::clock::SharedClock;
use rfs_common::ids::{ChunkId, ChunkVersion};

use crate::chunk::copy::ChunkCopy;
use crate::chunk::fault::Fault;

use super::gate::Gate;

/// Copies that wait for their turn; a stream has one, or two where it goes from one chunk to the next.
const WAITING_MAX: usize = 8;
/// Failures that wait to be looked at. Each has made its copy bad, which every use of the copy tells as well.
const FAILED_MAX: usize = 64;

/// A sync that failed.
type Failed = (ChunkId, ChunkVersion, Fault);

/// The gate that a sync passes, the clock, and how long it may take.
type Entrance = (Arc<Gate>, SharedClock, Duration);

/// The queue of one volume, and its thread, which is there from the first use on and ends with the volume.
#[derive(Debug, Default)]
pub(super) struct EarlySyncs {
    queue: OnceLock<Option<SyncSender<Arc<ChunkCopy>>>>,
    failed: Arc<Mutex<Vec<Failed>>>,
}

impl EarlySyncs {
    /// Has the copy synced soon, if there is room.
    pub(super) fn ask(&self, copy: &Arc<ChunkCopy>, entrance: impl FnOnce() -> Entrance) {
        let queue = self.queue.get_or_init(|| {
            let (sender, receiver) = sync_channel(WAITING_MAX);
            let (entrance, failed) = (entrance(), Arc::clone(&self.failed));
            background::spawn("early-sync", move || sync_all(&receiver, &entrance, &failed)).ok().map(|_| sender)
        });
        if let Some(queue) = queue {
            // Without room it is asked for again after as many bytes.
            let _ = queue.try_send(Arc::clone(copy));
        }
    }

    /// The failures since this was last asked.
    pub(super) fn take_failed(&self) -> Vec<Failed> {
        std::mem::take(&mut *self.failed.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn sync_all(copies: &Receiver<Arc<ChunkCopy>>, entrance: &Entrance, failed: &Mutex<Vec<Failed>>) {
    let (gate, clock, limit) = entrance;
    for copy in copies {
        if let Err(fault) = copy.sync(|_| gate.enter(clock.monotonic(), *limit)) {
            tracing::warn!(chunk = %copy.chunk(), %fault, "an early sync failed");
            let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
            if failed.len() < FAILED_MAX {
                failed.push((copy.chunk(), copy.held().version, fault));
            }
        }
    }
}
