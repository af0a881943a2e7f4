//! Recalls that no operation waits for: something has changed that is no session's doing, or a time of access.

use rfs_common::clock::Monotonic;
use rfs_common::ids::{InodeId, SessionId};

use super::turn::Turn;
use super::{Engine, PushMessage, State};
use crate::leases::{Forgotten, Outstanding, RecallId, RecallItems};
use crate::namespace::metadata::Transaction;
use crate::namespace::ops::touch::{Touch, TouchNodes, Touched};
use crate::operation::{Context, Need, perform};

/// No session has this id: whatever it does is in everybody's way.
pub(super) const NOBODY: SessionId = SessionId::new(0);

impl State {
    /// Has every session forget the attributes of a node. A writer keeps its lease: a goal is nothing that it changes.
    pub(super) fn tell_attributes_changed(&mut self, inode: InodeId, now: Monotonic) {
        self.tell_others_attributes_changed(NOBODY, inode, now);
    }

    /// The same, but for the session that has changed them.
    fn tell_others_attributes_changed(&mut self, by: SessionId, inode: InodeId, now: Monotonic) {
        let found = self.leases.conflicts(by, &[Need::ChangeAttributes(inode)], &Forgotten::default());
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

impl Turn<'_> {
    /// Other sessions learn of times of access that this one has changed, without anybody waiting for it.
    pub(crate) fn tell_accesses(&mut self, touched: &[Touched]) {
        let (session, now) = (self.session(), self.engine.clock.monotonic());
        for touched in touched.iter().filter(|touched| touched.applied) {
            self.state().tell_others_attributes_changed(session, touched.inode, now);
        }
    }
}

impl Engine {
    /// Notes accesses that a session tells with its answer to a recall, before whatever the recall was for is done. Those of
    /// nodes that were not recalled are passed over: others could be told of them too late.
    pub fn note_accesses(&self, session: SessionId, recall: RecallId, touches: Vec<Touch>) {
        let mut state = self.lock();
        let Some(client) = state.sessions.get(session) else { return };
        let (root, read_only) = (client.root(), client.client().read_only);
        let Some((_, items)) = state.recalls.of_session(session).find(|(owed, _)| *owed == recall) else { return };
        let is_recalled =
            |inode| items.attributes.contains(&inode) || items.leases.iter().any(|lease| lease.inode == inode);
        let touches: Vec<Touch> = touches.into_iter().filter(|touch| is_recalled(touch.inode)).collect();
        if touches.is_empty() {
            return;
        }
        let (known_by, written_elsewhere) = (|_| Vec::new(), |_| false);
        let now = self.clock.now();
        let context =
            Context { session, read_only, root, now, known_by: &known_by, written_elsewhere: &written_elsewhere };
        let mut transaction = Transaction::new(self.storage.source());
        // An access that cannot be noted is lost, and nothing else.
        let Ok(touched) = perform(&TouchNodes { touches }, &mut transaction, &context) else { return };
        let changes = transaction.into_changes();
        if changes.is_empty() || state.commit(self, Some(session), &changes).is_err() {
            return;
        }
        let now = self.clock.monotonic();
        for touched in touched.iter().filter(|touched| touched.applied) {
            state.tell_others_attributes_changed(session, touched.inode, now);
        }
    }
}
