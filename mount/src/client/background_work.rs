//! What goes on without a call besides commits (`committer.rs`): releasing nodes nobody needs, and having the kernel
//! forget what it could not be told at once.
//!
//! One thread, one round each [`PAUSE`].

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
/// A node that the kernel has forgotten is kept for this long.
const IDLE_NODE: Duration = Duration::from_secs(60);
/// And no more than these.
const IDLE_NODES_MAX: usize = 50_000;
/// Nodes released with one message.
const RELEASE_BATCH: usize = 1000;

/// Releases nodes. It waits for nothing but the master.
pub(super) struct Releaser(pub(super) Arc<Core>);

impl Worker for Releaser {
    fn name(&self) -> String {
        "releaser".to_owned()
    }

    fn step(&mut self) -> Step {
        if self.0.session.has_ended() {
            return Step::Done;
        }
        let now = self.0.now();
        self.0.release_orphans();
        self.0.forget_again(now);
        if self.0.release_idle(now) { Step::Busy } else { Step::Idle(PAUSE) }
    }

    fn state(&self) -> String {
        format!("{} nodes known", self.0.table.len())
    }
}

impl Core {
    fn release_orphans(&self) {
        let orphans = std::mem::take(&mut *lock(&self.later.orphans));
        let still_open = |inode: &InodeId| {
            let Some(node) = self.table.get(*inode) else { return false };
            let mut state = node.state();
            if state.open > 0 || !state.orphan {
                return true;
            }
            // The node ends with the release: nothing of it is worth keeping.
            (state.mode, state.orphan) = (Mode::None, false);
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
    pub(super) fn release_idle(&self, now: Monotonic) -> bool {
        let before = Monotonic::from_start(now.since_start().saturating_sub(IDLE_NODE));
        let idle = self.table.take_idle(before, IDLE_NODES_MAX, RELEASE_BATCH);
        let more = idle.len() == RELEASE_BATCH;
        let mut released = Vec::new();
        for inode in idle {
            match self.begin_release(inode) {
                Release::Begun => released.push(inode),
                // Its time comes again: nobody else would put it back.
                Release::Later => self.table.note_idle(inode, now),
                Release::Needed => {}
            }
        }
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
            if !self.table.remove_if(inode, unneeded) && self.table.get(inode).is_some() {
                self.table.note_idle(inode, now);
            }
        }
        more && !self.session.has_ended()
    }

    fn begin_release(&self, inode: InodeId) -> Release {
        let Some(node) = self.table.get(inode) else { return Release::Needed };
        let writes = node.state().mode == Mode::Write;
        if writes && self.lower(&node, Mode::Read, None).is_err() {
            return Release::Later;
        }
        let mut state = node.state();
        if state.lookups > 0 || state.open > 0 || state.releasing {
            // Whoever ends that puts it on the list of idle nodes again.
            return Release::Needed;
        }
        if !is_unneeded(&state) || state.mode == Mode::Write {
            return Release::Later;
        }
        state.releasing = true;
        state.mode = Mode::None;
        node.drop_caches(&mut state);
        drop(state);
        if let Some(content) = node.content() {
            content.invalidate();
        }
        Release::Begun
    }
}

/// What comes of a node that was idle for long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Release {
    Begun,
    /// It is in use now, without being open.
    Later,
    /// It is not idle any more, or not known.
    Needed,
}

fn is_unneeded(state: &crate::cache::node::NodeState) -> bool {
    state.lookups == 0
        && state.open == 0
        && state.in_use == 0
        && !state.closing
        && !state.listed_dirty
        && state.recalls_waiting == 0
        && !state.orphan
        && state.accessed.is_none()
}
