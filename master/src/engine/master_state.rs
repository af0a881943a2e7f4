//! The engine as the cluster service, the administration and the status page see it.

use rfs_common::clock::{Monotonic, SharedClock};
use rfs_common::errno::Errno;
use rfs_common::ids::{ChunkId, ClusterId, Goal, InodeId};
use rfs_proto::frame::FrameType;

use super::Engine;
use super::unawaited::NOBODY;
use crate::chunks::{Chunks, Severity};
use crate::events::Event;
use crate::namespace::ops::chunks;
use crate::namespace::ops::set_attributes::SetGoal;
use crate::namespace::source::{Change, Source};
use crate::operation::{Caller, Context, Operation};
use crate::status::{GoalFailure, MasterState, SessionReport};

/// Chunks that one change of the records notes.
const EXPECTED_AT_ONCE: usize = 1024;

impl MasterState for Engine {
    fn visit_chunks(&self, look: &mut dyn FnMut(&mut Chunks, Monotonic)) {
        self.with_chunks(look);
    }

    fn source(&self) -> &dyn Source {
        self.storage.source()
    }

    fn commit(&self, changes: Vec<Change>) -> Result<(), String> {
        self.lock().commit(self, None, &changes).map(drop).map_err(|failure| failure.message)
    }

    fn commit_with_chunks(
        &self,
        decide: &dyn Fn(&Chunks) -> Option<Vec<Change>>,
        follow: &mut dyn FnMut(&mut Chunks),
    ) -> Result<bool, String> {
        let mut state = self.lock();
        let Some(changes) = decide(&state.chunks) else { return Ok(false) };
        state.commit(self, None, &changes).map_err(|failure| failure.message)?;
        follow(&mut state.chunks);
        state.wake_for_chunks();
        Ok(true)
    }

    fn wait_until_durable(&self) -> Result<(), String> {
        self.storage.wait_durable(self.storage.position()).map_err(|refused| refused.message)
    }

    fn cluster(&self) -> ClusterId {
        self.cluster
    }

    fn clock(&self) -> &SharedClock {
        &self.clock
    }

    fn report(&self, severity: Severity, message: String) {
        Engine::report(self, severity, message);
    }

    fn events_after(&self, after: u64) -> Vec<Event> {
        self.events.after(after)
    }

    fn sessions(&self) -> Vec<SessionReport> {
        self.session_reports()
    }

    fn metrics_text(&self) -> String {
        self.metrics.render()
    }

    fn operations(&self) -> Vec<(FrameType, u64)> {
        self.metrics.operations()
    }

    fn expect_copies(&self, expected: &[ChunkId]) -> Result<(), String> {
        // One part at a time, so that clients come in between.
        for part in expected.chunks(EXPECTED_AT_ONCE) {
            let mut state = self.lock();
            let mut transaction = self.transaction();
            for chunk in part {
                chunks::synced(&mut transaction, *chunk).map_err(|errno| errno.to_string())?;
            }
            state.commit(self, None, &transaction.into_changes()).map_err(|refused| refused.message)?;
        }
        Ok(())
    }

    fn set_goals(&self, nodes: &[InodeId], goal: Goal) -> Result<u64, GoalFailure> {
        let mut changed = 0;
        for inode in nodes {
            let failure = |errno, message: String| GoalFailure { inode: *inode, errno, message };
            // One node at a time, so that clients come in between.
            let mut state = self.lock();
            let mut transaction = self.transaction();
            let operation = SetGoal { caller: Caller::root(), inode: *inode, goal };
            let context = Context {
                session: NOBODY,
                read_only: false,
                root: InodeId::ROOT,
                now: self.clock.now(),
                known_by: &|_| Vec::new(),
                written_elsewhere: &|_| false,
            };
            match operation.run(&mut transaction, &context) {
                Ok((_, true)) => {
                    let committed = state.commit(self, None, &transaction.into_changes());
                    committed.map_err(|refused| failure(refused.errno, refused.message))?;
                    state.tell_attributes_changed(*inode, self.clock.monotonic());
                    changed += 1;
                }
                Ok((_, false)) | Err(Errno::ESTALE | Errno::ENOENT) => {}
                Err(errno) => return Err(failure(errno, "the node could not be changed".to_owned())),
            }
        }
        Ok(changed)
    }
}
