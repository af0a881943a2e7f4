//! Reading while this client changes the length.
//!
//! A read takes the length, and then the bytes; a cut in between would have it give zeros that were never in the file. So a
//! read that a cut has met is made again. And the kernel, which reads for its page cache, takes a short answer for zeros as
//! long as it knows the old length: a short answer is held back until the kernel has had time to take the new one in.
//! What waits here uses no lease, so nothing that the cut needs waits for it.

use std::sync::Arc;
use std::time::Duration;

use rfs_common::errno::Errno;

use super::core::{Core, Node};

/// The time in which a thread of the kernel that was answered takes in a new length.
const KERNEL_TAKES_IN: Duration = Duration::from_millis(5);
/// How long a read waits for a cut, which may be waiting for a master that is away.
const CUT_WAITED_FOR: Duration = Duration::from_secs(10);
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// How often a read is made again.
const TRIES_MAX: u32 = 100;

/// A change of the length that is under way.
pub(super) struct Cutting<'a> {
    core: &'a Core,
    node: &'a Arc<Node>,
}

impl Drop for Cutting<'_> {
    fn drop(&mut self) {
        let now = self.core.now();
        let mut state = self.node.state();
        state.cutting -= 1;
        (state.cuts, state.cut_at) = (state.cuts + 1, Some(now));
        drop(state);
        self.node.notify();
    }
}

impl Core {
    /// The length is about to change, until the guard is dropped.
    pub(super) fn begin_cut<'a>(&'a self, node: &'a Arc<Node>) -> Cutting<'a> {
        node.state().cutting += 1;
        Cutting { core: self, node }
    }

    /// Reads, with `read`, what the file had at one moment.
    pub(super) fn read_between_cuts(
        &self,
        node: &Arc<Node>,
        size: usize,
        mut read: impl FnMut() -> Result<usize, Errno>,
    ) -> Result<usize, Errno> {
        for _ in 0..TRIES_MAX {
            let Some(before) = self.wait_for_cuts(node) else { break };
            let got = read()?;
            let (after, cut_at) = {
                let state = node.state();
                ((state.cutting == 0).then_some(state.cuts), state.cut_at)
            };
            if after != Some(before) {
                continue;
            }
            if got < size
                && let Some(cut_at) = cut_at
            {
                let since = self.now().since(cut_at);
                self.clock.sleep(KERNEL_TAKES_IN.saturating_sub(since));
            }
            return Ok(got);
        }
        read()
    }

    /// Waits until no cut is under way, for as long as that is sensible; how many there were if none is.
    fn wait_for_cuts(&self, node: &Node) -> Option<u64> {
        let mut state = node.state();
        if state.cutting > 0 {
            let began = self.now();
            while state.cutting > 0 && self.now().since(began) < CUT_WAITED_FOR {
                state = node.wait(state, LOOK_AGAIN);
            }
        }
        (state.cutting == 0).then_some(state.cuts)
    }
}
