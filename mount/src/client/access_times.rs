//! Times of access: which reads are noted, and how the master comes to know of them.
//!
//! The kernel leaves them to the filesystem. A read that comes here notes the time with its node, by the rule of the mount;
//! whoever asks for the node's attributes here sees it at once. The master is told some time later, of many nodes at once,
//! by a thread of its own that nobody waits for; when another session makes this one forget a node's attributes, the time
//! goes with the answer, so that it is there before whatever the other one does.
//!
//! What always holds: noting costs no round trip; a time never goes back but by utimensat, which a late touch does not
//! undo (the master drops a touch of a node that has changed since); what waits to be told is bounded, and beyond that
//! accesses are not noted.

use std::sync::Arc;
use std::time::Duration;

use rfs_common::access_time::Times;
use rfs_common::background::{Step, Worker};
use rfs_common::clock::Time;
use rfs_proto::session as wire;
use tracing::debug;

use super::core::{Core, Node, lock};
use super::types::{AccessRule, Kind, Reads};
use crate::cache::attributes::time_to_wire;
use crate::cache::node::{Mode, NodeState};

/// How long accesses are gathered.
const PAUSE: Duration = Duration::from_secs(1);
/// Nodes told of with one message.
const NODES_PER_TOUCH: usize = 256;
/// Nodes told of with the answer to one recall.
pub(super) const NODES_PER_ANSWER: usize = 64;
/// Nodes that may wait to be told of.
const WAITING_MAX: usize = 65_536;
/// How often the master is told of one access while this client itself goes on changing the node.
const TRIES_MAX: u8 = 4;
/// So far another machine's clock may be ahead: a node that was changed "later" was not.
const CLOCKS_APART_MAX: Duration = Duration::from_secs(10);

/// An access that the master does not know yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PendingAccess {
    /// When it was.
    pub at: Time,
    /// How often the master was told in vain.
    tries: u8,
}

/// Tells the master. It waits for nothing but the master, and nothing waits for it.
pub(super) struct AccessTeller(pub(super) Arc<Core>);

impl Worker for AccessTeller {
    fn name(&self) -> String {
        "accesses".to_owned()
    }

    fn step(&mut self) -> Step {
        if self.0.session.has_ended() {
            return Step::Done;
        }
        self.0.tell_accesses();
        Step::Idle(PAUSE)
    }

    fn state(&self) -> String {
        format!("{} nodes to be told of", lock(&self.0.later.accessed).len())
    }
}

impl Core {
    /// How the kernel is to open a file, so that the reads that are to be noted come here.
    pub(super) fn reads_to_see(&self, node: &Node, state: &NodeState) -> Reads {
        match self.accesses.rule {
            AccessRule::Never => Reads::MayBeCached,
            AccessRule::Always => Reads::AllAreSeen,
            AccessRule::WhenDue => {
                let (Some(times), now) = (times(node, state), self.clock.now()) else { return Reads::FirstIsSeen };
                // After a change that is still to come every access is due, and none makes an end of it.
                let is_to_come = times.modified.max(times.changed) > now + CLOCKS_APART_MAX;
                let written = node.content().and_then(|content| content.local_length());
                let length = written.or(state.attributes.as_ref().map(|known| known.length));
                match times.access_is_due(now) {
                    // Of a file without bytes, the kernel asks for none.
                    true if length == Some(0) => Reads::AllAreSeen,
                    // To drop pages, the kernel would wait for those that a read is waiting for, which may be long.
                    true if !is_to_come && !node.is_asking() => Reads::FirstIsSeen,
                    _ => Reads::MayBeCached,
                }
            }
        }
    }

    /// Something of the node was read: its bytes, its entries, its target.
    pub(super) fn note_access(&self, node: &Arc<Node>) {
        let rule = self.accesses.rule;
        if rule == AccessRule::Never {
            return;
        }
        let mut state = node.state();
        let is_directory = state.attributes.as_ref().is_some_and(|attributes| attributes.kind == Kind::Directory);
        let (Some(times), now) = (times(node, &state), self.clock.now()) else { return };
        if (is_directory && !self.accesses.directories) || (rule == AccessRule::WhenDue && !times.access_is_due(now)) {
            return;
        }
        let at = moment(&times, now);
        match &mut state.accessed {
            Some(pending) => pending.at = at,
            None => {
                let mut waiting = lock(&self.later.accessed);
                if waiting.len() < WAITING_MAX {
                    waiting.push(Arc::clone(node));
                    state.accessed = Some(PendingAccess { at, tries: 0 });
                }
            }
        }
    }

    /// Takes the node's access out, to be told with the answer to a recall.
    pub(super) fn take_access(&self, node: &Node) -> Option<wire::TouchedNode> {
        self.take_pending_access(node).map(|pending| self.touched(node, pending, 0))
    }

    /// Takes the node's access out: another time is about to be set.
    pub(super) fn take_pending_access(&self, node: &Node) -> Option<PendingAccess> {
        node.state().accessed.take()
    }

    /// The other time was refused.
    pub(super) fn put_access_back(&self, node: &Arc<Node>, pending: PendingAccess) {
        let mut state = node.state();
        if state.accessed.is_none() {
            state.accessed = Some(pending);
            lock(&self.later.accessed).push(Arc::clone(node));
        }
    }

    /// Tells the master of all accesses that wait for it.
    pub(super) fn tell_accesses(&self) {
        let waiting = std::mem::take(&mut *lock(&self.later.accessed));
        for nodes in waiting.chunks(NODES_PER_TOUCH) {
            let told: Vec<Told<'_>> = nodes.iter().filter_map(|node| self.to_tell(node)).collect();
            if told.is_empty() {
                continue;
            }
            let touch = wire::Touch { nodes: told.iter().map(|told| told.touched).collect() };
            match self.session.call(&touch) {
                Ok(reply) => {
                    told.iter().zip(&reply.results).for_each(|(told, result)| self.learn_told(told, result));
                }
                Err(errno) => {
                    debug!(%errno, nodes = told.len(), "accesses could not be noted");
                    told.iter().for_each(|told| self.give_up_access(told.node));
                }
            }
        }
    }

    fn to_tell<'a>(&self, node: &'a Arc<Node>) -> Option<Told<'a>> {
        let state = node.state();
        let pending = state.accessed?;
        let revision = state.attributes.as_ref().map_or(0, |attributes| attributes.revision);
        Some(Told { node, pending, touched: self.touched(node, pending, revision) })
    }

    fn touched(&self, node: &Node, pending: PendingAccess, revision: u64) -> wire::TouchedNode {
        wire::TouchedNode {
            inode: node.inode().get(),
            accessed: Some(time_to_wire(pending.at)),
            revision,
            always: self.accesses.rule == AccessRule::Always,
        }
    }

    /// Takes the master's answer about one node.
    fn learn_told(&self, told: &Told<'_>, result: &wire::TouchResult) {
        let mut state = told.node.state();
        let is_as_told = state.attributes.as_ref().is_some_and(|known| known.revision == told.touched.revision);
        if result.applied
            && is_as_told
            && let Some(known) = &mut state.attributes
        {
            (known.accessed, known.revision) = (told.pending.at, result.revision);
        }
        let Some(pending) = &mut state.accessed else { return };
        let read_since = pending.at > told.pending.at;
        // The node has changed since the master was told, by this client's own doing: others' would have taken the access.
        let is_another = !result.applied && result.revision != 0 && result.revision != told.touched.revision;
        pending.tries += u8::from(is_another);
        if (read_since || is_another) && pending.tries < TRIES_MAX {
            lock(&self.later.accessed).push(Arc::clone(told.node));
        } else if result.applied {
            state.accessed = None;
        } else {
            drop(state);
            self.give_up_access(told.node);
        }
    }

    /// The access is not noted after all: what the kernel was told of it has to be asked for again.
    fn give_up_access(&self, node: &Node) {
        if node.state().accessed.take().is_some() {
            self.kernel.invalidate_attributes(node.inode());
        }
    }
}

/// An access that the master was told of.
struct Told<'a> {
    node: &'a Arc<Node>,
    pending: PendingAccess,
    touched: wire::TouchedNode,
}

/// The node's times as a program here would see them.
fn times(node: &Node, state: &NodeState) -> Option<Times> {
    let known = state.attributes.as_ref()?;
    let written = if state.mode == Mode::Write { node.content().and_then(|content| content.modified()) } else { None };
    let accessed = state.accessed.map_or(known.accessed, |pending| pending.at.max(known.accessed));
    let (modified, changed) =
        (written.unwrap_or(known.modified), written.map_or(known.changed, |at| at.max(known.changed)));
    Some(Times { accessed, modified, changed })
}

/// The time of an access that is now: after all that was before it, though that was told by another machine's clock.
fn moment(times: &Times, now: Time) -> Time {
    let last = times.accessed.max(times.modified).max(times.changed);
    if last >= now && last <= now + CLOCKS_APART_MAX { last + Duration::from_nanos(1) } else { now }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_access_is_after_what_it_read_though_another_clock_is_ahead() {
        let time = Time::from_seconds;
        let times = |last| Times { accessed: time(5), modified: time(last), changed: time(6) };
        assert_eq!(moment(&times(90), time(100)), time(100));
        assert_eq!(moment(&times(103), time(100)), time(103) + Duration::from_nanos(1));
        assert_eq!(moment(&times(10_000), time(100)), time(100), "set to a time that is still to come");
    }
}
