//! What the cluster service, the administration and the status page need of the master. The engine is the one
//! implementation; tests have a small one.

use rfs_common::clock::{Monotonic, SharedClock};
use rfs_common::errno::Errno;
use rfs_common::ids::{ChunkId, ClusterId, Goal, InodeId};
use rfs_proto::frame::FrameType;

use crate::chunks::{Chunks, Severity};
use crate::events::Event;
use crate::namespace::source::{Change, Source};

use super::report::SessionReport;

/// The master, as its services see it. Every method may wait for the engine's lock: call them from threads that may block.
pub trait MasterState: Send + Sync + 'static {
    /// Looks at or changes the chunk table, under the lock. See [`MasterStateExt::with_chunks`].
    fn visit_chunks(&self, look: &mut dyn FnMut(&mut Chunks, Monotonic));

    /// The records.
    fn source(&self) -> &dyn Source;

    /// Changes records that the engine itself does not use (known servers).
    ///
    /// # Errors
    /// Why the store refused, in words.
    fn commit(&self, changes: Vec<Change>) -> Result<(), String>;

    /// Commits what `decide` returns of the chunk table as it is then, and lets `follow` change the table, all in one step. False
    /// if `decide` says no.
    ///
    /// # Errors
    /// Why the store refused, in words; nothing has changed then.
    fn commit_with_chunks(
        &self,
        decide: &dyn Fn(&Chunks) -> Option<Vec<Change>>,
        follow: &mut dyn FnMut(&mut Chunks),
    ) -> Result<bool, String>;

    /// Waits until a power cut takes nothing of what was decided before this call.
    ///
    /// # Errors
    /// In words: that can no longer be promised.
    fn wait_until_durable(&self) -> Result<(), String>;

    /// The cluster.
    fn cluster(&self) -> ClusterId;

    /// The clock.
    fn clock(&self) -> &SharedClock;

    /// Reports an event.
    fn report(&self, severity: Severity, message: String);

    /// The latest events with a number above `after`, oldest first.
    fn events_after(&self, after: u64) -> Vec<Event>;

    /// The sessions.
    fn sessions(&self) -> Vec<SessionReport>;

    /// The counters as Prometheus reads them.
    fn metrics_text(&self) -> String;

    /// Operations of clients answered since the start, by type; always the same types in the same order.
    fn operations(&self) -> Vec<(FrameType, u64)>;

    /// Notes that copies of these chunks were somewhere: if they are gone for good, the chunks are lost, and are never begun
    /// anew with zeros.
    ///
    /// # Errors
    /// Why the store refused, in words.
    fn expect_copies(&self, chunks: &[ChunkId]) -> Result<(), String>;

    /// Sets the goal of these nodes, each in one step with its chunks; returns how many had another one. Nodes that are
    /// gone are passed over.
    ///
    /// # Errors
    /// Why the store refused.
    fn set_goals(&self, nodes: &[InodeId], goal: Goal) -> Result<u64, GoalFailure>;
}

/// A goal could not be set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the goal of inode {inode} was not changed: {message} ({errno:?})")]
pub struct GoalFailure {
    /// The node.
    pub inode: InodeId,
    /// Linux's number.
    pub errno: Errno,
    /// Why.
    pub message: String,
}

/// Calls with a result on any [`MasterState`].
pub trait MasterStateExt {
    /// Looks at or changes the chunk table, under the lock.
    fn with_chunks<R>(&self, look: impl FnOnce(&mut Chunks, Monotonic) -> R) -> R;
}

impl<T: MasterState + ?Sized> MasterStateExt for T {
    fn with_chunks<R>(&self, look: impl FnOnce(&mut Chunks, Monotonic) -> R) -> R {
        let mut look = Some(look);
        let mut result = None;
        self.visit_chunks(&mut |chunks, now| {
            if let Some(look) = look.take() {
                result = Some(look(chunks, now));
            }
        });
        result.expect("visit_chunks calls its argument before it returns")
    }
}
