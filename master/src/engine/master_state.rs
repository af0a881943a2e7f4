//! The engine as the cluster service, the administration and the status page see it.

use rfs_common::clock::{Monotonic, SharedClock};
use rfs_common::errno::Errno;
use rfs_common::ids::{ClusterId, Goal, InodeId, SessionId};
use rfs_proto::frame::FrameType;

use super::{Engine, PushMessage, State};
use crate::chunks::{Chunks, Severity};
use crate::events::Event;
use crate::leases::{Forgotten, Outstanding};
use crate::namespace::ops::set_attributes::SetGoal;
use crate::namespace::source::{Change, Source};
use crate::operation::{Caller, Context, Need, Operation};
use crate::status::{GoalFailure, MasterState, SessionReport};

/// No session has this id: whatever it does is in everybody's way.
const NOBODY: SessionId = SessionId::new(0);

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

impl State {
    /// Has every session forget the attributes of a node; nobody waits for it. A writer keeps its lease: a goal is nothing
    /// that it changes.
    fn tell_attributes_changed(&mut self, inode: InodeId, now: Monotonic) {
        let found = self.leases.conflicts(NOBODY, &[Need::ChangeAttributes(inode)], &Forgotten::default());
        for (session, mut items) in found {
            items.leases.clear();
            let outstanding = Outstanding { session, items: items.clone(), waiter: None, since: now };
            let recall = self.recalls.begin(outstanding);
            self.push(session, PushMessage::Recall(recall, items));
        }
    }
}
