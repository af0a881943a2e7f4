//! Recalls that no operation waits for: something has changed that is no session's doing.

use rfs_common::clock::Monotonic;
use rfs_common::ids::{InodeId, SessionId};

use super::{PushMessage, State};
use crate::leases::{Forgotten, Outstanding, RecallItems};
use crate::operation::Need;

/// No session has this id: whatever it does is in everybody's way.
pub(super) const NOBODY: SessionId = SessionId::new(0);

impl State {
    /// Has every session forget the attributes of a node. A writer keeps its lease: a goal is nothing that it changes.
    pub(super) fn tell_attributes_changed(&mut self, inode: InodeId, now: Monotonic) {
        let found = self.leases.conflicts(NOBODY, &[Need::ChangeAttributes(inode)], &Forgotten::default());
        for (session, mut items) in found {
            items.leases.clear();
            self.recall_unawaited(session, items, now);
        }
    }

    /// Has every session give back its lease on a file, and with it what it keeps of the bytes: they are others now.
    pub(super) fn tell_data_changed(&mut self, inode: InodeId, now: Monotonic) {
        let found = self.leases.conflicts(NOBODY, &[Need::ChangeData(inode)], &Forgotten::default());
        for (session, items) in found {
            self.recall_unawaited(session, items, now);
        }
    }

    pub(super) fn recall_unawaited(&mut self, session: SessionId, items: RecallItems, now: Monotonic) {
        let outstanding = Outstanding { session, items: items.clone(), waiter: None, since: now };
        let recall = self.recalls.begin(outstanding);
        self.push(session, PushMessage::Recall(recall, items));
    }
}
