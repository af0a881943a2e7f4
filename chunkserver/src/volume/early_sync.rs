//! Syncs of large copies that nobody has asked for yet: while a stream is being written its disk would else have nothing
//! to do, and the fsync at the end everything.
//!
//! What always holds: nothing waits for such a sync, and nothing is acknowledged by it; a failure of it makes the copy bad,
//! as that of any sync does, and the next request for the copy tells so. What finds no room in the queue is not synced early.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, OnceLock};

use rfs_common::background;

use crate::chunk::copy::ChunkCopy;

/// Copies that wait for their turn; a stream has one, or two where it goes from one chunk to the next.
const WAITING_MAX: usize = 8;

/// The queue of one volume, and its thread, which is there from the first use on and ends with the volume.
#[derive(Debug, Default)]
pub(super) struct EarlySyncs {
    queue: OnceLock<Option<SyncSender<Arc<ChunkCopy>>>>,
}

impl EarlySyncs {
    /// Has the copy synced soon, if there is room.
    pub(super) fn ask(&self, copy: &Arc<ChunkCopy>) {
        let queue = self.queue.get_or_init(|| {
            let (sender, receiver) = sync_channel(WAITING_MAX);
            background::spawn("early-sync", move || sync_all(&receiver)).ok().map(|_| sender)
        });
        if let Some(queue) = queue {
            // Without room it is asked for again after as many bytes.
            let _ = queue.try_send(Arc::clone(copy));
        }
    }
}

fn sync_all(copies: &Receiver<Arc<ChunkCopy>>) {
    for copy in copies {
        if let Err(fault) = copy.sync() {
            tracing::warn!(chunk = %copy.chunk(), %fault, "an early sync failed");
        }
    }
}
