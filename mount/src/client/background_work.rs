//! What goes on without a call: committing what was written, giving back leases nobody uses, releasing nodes nobody needs.
//!
//! One thread, one round each [`PAUSE`]. It uses leases and reserved slots like anybody else, so a recall waits for it as
//! it waits for a write.

use std::sync::Arc;
use std::time::Duration;

use rfs_common::background::{Step, Worker};
use rfs_common::clock::Monotonic;
use rfs_common::ids::InodeId;
use rfs_proto::session as wire;
use tracing::debug;

use super::core::{Core, Node, lock};
use crate::cache::node::Mode;
use crate::cache::order::Stamp;
use crate::session::Lane;

const PAUSE: Duration = Duration::from_millis(100);
/// A file that was not written for this long is committed, so that other tools see its size.
const COMMIT_AFTER_LAST_WRITE: Duration = Duration::from_secs(1);
/// A file that is being written all the time is committed this often.
const COMMIT_EVERY: Duration = Duration::from_secs(5);
/// A WRITE lease that nobody writes under goes back after this.
const IDLE_WRITER: Duration = Duration::from_secs(2);
/// A node that the kernel has forgotten is kept for this long.
const IDLE_NODE: Duration = Duration::from_secs(60);
/// And no more than these.
const IDLE_NODES_MAX: usize = 50_000;
/// Nodes released with one message.
const RELEASE_BATCH: usize = 1000;

/// The worker.
pub(super) struct BackgroundWork {
    pub(super) core: Arc<Core>,
}

impl Worker for BackgroundWork {
    fn name(&self) -> String {
        "committer".to_owned()
    }

    fn step(&mut self) -> Step {
        if self.core.session.has_ended() {
            return Step::Done;
        }
        let now = self.core.now();
        self.core.commit_written(now);
        self.core.return_idle_leases(now);
        self.core.release_orphans();
        self.core.forget_again(now);
        if self.core.release_idle(now) { Step::Busy } else { Step::Idle(PAUSE) }
    }

    fn state(&self) -> String {
        let dirty = lock(&self.core.later.dirty).len();
        format!("{dirty} files to be committed, {} nodes known", self.core.table.len())
    }
}

impl Core {
    /// Commits files whose time has come. What cannot be committed now is tried again later, and told by close or fsync.
    fn commit_written(&self, now: Monotonic) {
        let due = |node: &Arc<Node>, since: Monotonic| {
            now.since(node.state().written_at) >= COMMIT_AFTER_LAST_WRITE || now.since(since) >= COMMIT_EVERY
        };
        let ready: Vec<_> = lock(&self.later.dirty).extract_if(.., |(node, since)| due(node, *since)).collect();
        for (node, _) in ready {
            node.state().listed_dirty = false;
            if !node.content().is_some_and(|content| content.has_uncommitted()) {
                continue;
            }
            let committed = match self.try_use(&node, Mode::Write) {
                Ok(Some(_used)) => self.commit_acknowledged(&node).map(drop),
                Ok(None) => Ok(()),
                Err(errno) => Err(errno),
            };
            if let Err(errno) = committed {
                debug!(inode = node.inode().get(), %errno, "a file could not be committed; it will be tried again");
            }
            if node.content().is_some_and(|content| content.has_uncommitted()) {
                self.note_listed(&node, now);
            }
        }
    }

    fn note_listed(&self, node: &Arc<Node>, now: Monotonic) {
        let mut state = node.state();
        if !state.listed_dirty {
            state.listed_dirty = true;
            drop(state);
            lock(&self.later.dirty).push((Arc::clone(node), now));
        }
    }

    /// Brings WRITE leases down that nobody writes under, so that another client's read has nothing to recall and a
    /// chunk that was granted and not written is free for repair.
    fn return_idle_leases(&self, now: Monotonic) {
        let due = |since: Monotonic| now.since(since) >= IDLE_WRITER;
        let idle: Vec<_> = lock(&self.later.idle_writers).extract_if(.., |(_, since)| due(*since)).collect();
        for (node, _) in idle {
            let wanted = {
                let state = node.state();
                state.open_writable > 0 || state.orphan || state.mode < Mode::Write
            };
            if !wanted && let Err(errno) = self.lower(&node, Mode::Read, None) {
                debug!(inode = node.inode().get(), %errno, "an idle lease could not be given back");
            }
        }
    }

    fn release_orphans(&self) {
        let orphans = std::mem::take(&mut *lock(&self.later.orphans));
        let still_open = |inode: &InodeId| {
            let Some(node) = self.table.get(*inode) else { return false };
            let mut state = node.state();
            if state.open > 0 || !state.orphan {
                return true;
            }
            // The node ends with the release: nothing of it is worth keeping.
            state.mode = Mode::None;
            node.drop_caches(&mut state);
            drop(state);
            if let Some(content) = node.content() {
                content.discard();
            }
            false
        };
        let gone: Vec<u64> = orphans.iter().filter(|inode| !still_open(inode)).map(|inode| inode.get()).collect();
        for batch in gone.chunks(RELEASE_BATCH) {
            self.send_release(&wire::Release { orphans: batch.to_vec(), forgotten: Vec::new() });
        }
    }

    fn send_release(&self, release: &wire::Release) -> bool {
        let sent = self.session.call_in(Lane::Reserved, release, &mut || {});
        if let Err(errno) = &sent {
            debug!(%errno, "nodes could not be released");
        }
        sent.is_ok()
    }

    fn forget_again(&self, now: Monotonic) {
        let due: Vec<_> = lock(&self.later.forget_again).extract_if(.., |(at, _)| *at <= now).collect();
        for (_, what) in due {
            self.post(what);
        }
    }

    /// Releases nodes that nobody has needed for long; whether there may be more.
    fn release_idle(&self, now: Monotonic) -> bool {
        let before = Monotonic::from_start(now.since_start().saturating_sub(IDLE_NODE));
        let idle = self.table.take_idle(before, IDLE_NODES_MAX, RELEASE_BATCH);
        let more = idle.len() == RELEASE_BATCH;
        let released: Vec<InodeId> = idle.into_iter().filter(|inode| self.begin_release(*inode)).collect();
        if released.is_empty() {
            return more;
        }
        let forgotten = released.iter().map(|inode| inode.get()).collect();
        self.send_release(&wire::Release { orphans: Vec::new(), forgotten });
        for inode in released {
            // Answers that were on their way may bring leases that the release has ended.
            self.order.stamp(inode, Stamp::Forgotten);
            let unneeded = |node: &Arc<Node>| {
                let mut state = node.state();
                state.releasing = false;
                is_unneeded(&state) && Arc::strong_count(node) == 1
            };
            self.table.remove_if(inode, unneeded);
        }
        more && !self.session.has_ended()
    }

    fn begin_release(&self, inode: InodeId) -> bool {
        let Some(node) = self.table.get(inode) else { return false };
        let writes = node.state().mode == Mode::Write;
        if writes && self.lower(&node, Mode::Read, None).is_err() {
            return false;
        }
        let mut state = node.state();
        if !is_unneeded(&state) || state.releasing || state.mode == Mode::Write {
            return false;
        }
        state.releasing = true;
        state.mode = Mode::None;
        node.drop_caches(&mut state);
        drop(state);
        if let Some(content) = node.content() {
            content.invalidate();
        }
        true
    }
}

fn is_unneeded(state: &crate::cache::node::NodeState) -> bool {
    state.lookups == 0
        && state.open == 0
        && state.in_use == 0
        && !state.closing
        && !state.listed_dirty
        && state.recalls_waiting == 0
        && !state.orphan
}
