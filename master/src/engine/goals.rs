//! Goals set by an administrator: no session asks, so nothing is waited for. Sessions that keep the attributes of a node
//! are told to drop them once the change is made.

use rfs_common::errno::Errno;
use rfs_common::ids::{Goal, InodeId, SessionId};

use super::{Engine, Failure, PushMessage, State};
use crate::leases::{Forgotten, Outstanding, RecallItems};
use crate::namespace::ops::set_attributes::SetGoal;
use crate::operation::{Caller, Context, Need, perform};

/// Nobody's session: ids of sessions begin with 1.
const NO_SESSION: SessionId = SessionId::new(0);

impl Engine {
    /// Sets the goal of a node and its chunks in one step. Returns whether it had another one; a node that is gone had none.
    ///
    /// # Errors
    /// If records cannot be read or the store refuses.
    pub fn set_goal(&self, inode: InodeId, goal: Goal) -> Result<bool, Failure> {
        let mut state = self.lock();
        let operation = SetGoal { caller: Caller::default(), inode, goal };
        let context = Context {
            session: NO_SESSION,
            read_only: false,
            root: InodeId::ROOT,
            now: self.clock.now(),
            known_by: &|_| Vec::new(),
            written_elsewhere: &|_| false,
        };
        let mut transaction = self.transaction();
        match perform(&operation, &mut transaction, &context) {
            Ok((_, true)) => {}
            Ok((_, false)) | Err(Errno::ESTALE) => return Ok(false),
            Err(errno) => {
                self.note_failure(transaction.failure());
                return Err(errno.into());
            }
        }
        state.commit(self, None, transaction.into_changes())?;
        state.tell_attributes_changed(inode, self.clock.monotonic());
        Ok(true)
    }
}

impl State {
    fn tell_attributes_changed(&mut self, inode: InodeId, now: rfs_common::clock::Monotonic) {
        let conflicts = self.leases.conflicts(NO_SESSION, &[Need::ChangeAttributes(inode)], &Forgotten::default());
        for (session, items) in conflicts.into_iter().filter(|(_, items)| !items.attributes.is_empty()) {
            // A lease for writing stays: its holder's length and times are newer, and its next commit brings the goal.
            let items = RecallItems { attributes: items.attributes, ..RecallItems::default() };
            let outstanding = Outstanding { session, items: items.clone(), waiter: None, since: now };
            let recall = self.recalls.begin(outstanding);
            self.push(session, PushMessage::Recall(recall, items));
        }
    }
}
