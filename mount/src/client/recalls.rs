//! What the master says unasked: recalls, notices, a restart, the loss of the session.
//!
//! A recall is carried out in this order: caches here are brought down (which flushes and commits), then the kernel's, then
//! RecallDone goes out when [`SessionEvents::recall`] returns. `core.rs` says why no step can wait for itself.
//!
//! Several operations may recall the same at once. Who finds that another recall has brought a lease down already waits until the
//! kernel has forgotten for that one, since its own RecallDone lets the other client go on.

use std::sync::Arc;
use std::time::Duration;

use rfs_common::background;
use rfs_common::clock::Monotonic;
use rfs_common::errno::Errno;
use rfs_common::ids::InodeId;
use rfs_proto::session as wire;
use tracing::{debug, warn};

use super::access_times::NODES_PER_ANSWER;
use super::core::{Core, Lowered, Node, lock};
use super::kernel::Forget;
use super::types::{Forgotten, LockTicket};
use crate::cache::entries::Known;
use crate::cache::node::Mode;
use crate::cache::order::Stamp;
use crate::session::{Holdings, Loss, SessionEvents};

/// The time in which a thread of the kernel that was answered gets to keep what it was told: entries have nothing by which
/// it could tell an old answer from a new one.
const KERNEL_TAKES_IN: Duration = Duration::from_millis(5);
/// How long an answer that brings the kernel a node may be under way to it. The kernel drops attributes that were
/// under way when it was told to forget, but only of nodes that it knows; so it is asked until it knows the node.
const KERNEL_LEARNS_WITHIN: Duration = Duration::from_millis(500);
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(1);
/// How long the kernel is waited for to forget what it has not locked, before it is looked what it has locked by then.
const ROUND: Duration = Duration::from_millis(100);
/// How often.
const ROUNDS_MAX: u32 = 20;

/// The core as the session knows it.
pub(super) struct Events(pub(super) Arc<Core>);

impl SessionEvents for Events {
    fn recall(&self, recall: &wire::Recall) -> Vec<wire::TouchedNode> {
        let core = &*self.0;
        let mut kernel = KernelWork::default();
        for lease in &recall.leases {
            core.recall_lease(lease, &mut kernel);
        }
        for notice in &recall.entries {
            core.recall_entries(notice, &mut kernel);
        }
        for inode in &recall.attributes {
            core.recall_attributes(InodeId::new(*inode));
        }
        core.do_in_kernel(kernel);
        let leases = recall.leases.iter().filter(|lease| Mode::from_wire(lease.mode) == Mode::None);
        let nodes = recall.attributes.iter().copied().chain(leases.map(|lease| lease.inode));
        let nodes = nodes.filter_map(|inode| core.table.get(InodeId::new(inode)));
        nodes.filter_map(|node| core.take_access(&node)).take(NODES_PER_ANSWER).collect()
    }

    fn notice(&self, notice: &wire::Notice) {
        for granted in &notice.granted {
            self.0.end_wait(LockTicket(granted.ticket), Ok(()));
        }
        for inode in &notice.unlinked {
            self.0.orphaned(InodeId::new(*inode));
        }
    }

    fn holdings(&self) -> Holdings {
        let core = &*self.0;
        // The new master knows of no lease but those named here: none that the old one gave may be learned any more from an
        // answer that is in a thread's hands.
        core.order.forget_all();
        let mut holdings = Holdings { locks: core.locks.held(), ..Holdings::default() };
        for node in core.table.all() {
            let state = node.state();
            let (inode, mode) = (node.inode().get(), state.mode.to_wire().into());
            holdings.leases.push(wire::Lease { inode, mode, grant: state.grant });
            if state.open > 0 {
                holdings.open_inodes.push(inode);
            }
        }
        if core.locks.any_waits() {
            let core = Arc::clone(&self.0);
            let started = background::spawn("relock", move || core.queue_locks_again());
            if let Err(error) = started {
                warn!(%error, "waits for file locks could not be queued again");
            }
        }
        holdings
    }

    fn reclaim_refused(&self, inodes: &[u64]) {
        warn!(count = inodes.len(), "leases could not be had again: dropping what was kept under them");
        let mut kernel = KernelWork::default();
        for node in inodes.iter().filter_map(|inode| self.0.table.get(InodeId::new(*inode))) {
            self.0.drop_node(&node, &mut kernel);
        }
        self.0.tell_kernel_later(kernel);
    }

    fn lost(&self, loss: Loss) {
        let core = &*self.0;
        core.order.forget_all();
        let mut kernel = KernelWork::default();
        for node in core.table.all() {
            core.drop_node(&node, &mut kernel);
            if let Loss::Log { recovered } = loss {
                node.state().lose_changes(recovered);
            }
            // The old session's orphans are gone with it; their numbers mean nothing to the new one.
            node.state().orphan = false;
        }
        core.lose_locks();
        lock(&core.later.orphans).clear();
        core.tell_kernel_later(kernel);
    }

    fn silent(&self) {
        let mut kernel = KernelWork::default();
        for node in self.0.table.all() {
            self.0.add_kernel_work(&node, &mut kernel);
        }
        self.0.tell_kernel_later(kernel);
    }
}

/// What the kernel is to forget for one recall.
#[derive(Default)]
struct KernelWork {
    forget: Vec<Forget>,
    /// What it is about.
    nodes: Vec<Arc<Node>>,
    /// Those of them of which the kernel may be taking in something that it has to forget.
    told: Vec<Arc<Node>>,
    /// Those whose leases are gone: one mention for each time that this is noted with the node.
    gone: Vec<Arc<Node>>,
    /// Those that others may be having the kernel forget something of.
    awaited: Vec<Arc<Node>>,
}

impl Core {
    fn recall_lease(&self, lease: &wire::Lease, kernel: &mut KernelWork) {
        let node = self.node(InodeId::new(lease.inode));
        let to = Mode::from_wire(lease.mode);
        // What answers already on their way say about a node whose data changes must not be kept.
        if to == Mode::None {
            self.order.stamp(node.inode(), Stamp::Foreign);
        }
        node.state().recalls_waiting += 1;
        self.order.wait_for_grant(|| node.state().grant >= lease.grant);
        // Lowering drops the names that the kernel may know, so they are noted before; no new ones are told meanwhile.
        let mut forgotten = KernelWork::default();
        self.add_kernel_work(&node, &mut forgotten);
        let lowered = self.lower(&node, to, Some(lease.grant));
        let mut state = node.state();
        state.recalls_waiting -= 1;
        let unneeded = state.lookups == 0 && state.open == 0;
        if to == Mode::None {
            state.noticed_at = Some(self.now());
        }
        let nothing_held = state.mode == Mode::None;
        drop(state);
        // Also where nothing had to come down: whatever was begun under an earlier lease keeps nothing any more.
        if nothing_held && let (Ok(Lowered::No), Some(content)) = (&lowered, node.content()) {
            content.invalidate();
        }
        if unneeded {
            self.table.note_idle(node.inode(), self.now());
        }
        match lowered {
            Ok(Lowered::Yes) | Err(_) if to == Mode::None => {
                kernel.forget.extend(forgotten.forget);
                kernel.nodes.extend(forgotten.nodes);
                kernel.told.extend(forgotten.told);
                kernel.gone.push(node);
            }
            Ok(_) if to == Mode::None => kernel.awaited.push(node),
            Ok(_) => {}
            Err(errno) => debug!(inode = lease.inode, %errno, "a lease went back without all of its data"),
        }
    }

    fn recall_entries(&self, notice: &wire::EntryNotice, kernel: &mut KernelWork) {
        let directory = InodeId::new(notice.directory);
        self.order.stamp(directory, Stamp::Foreign);
        let mut known: Vec<Option<InodeId>> = vec![None; notice.names.len()];
        let mut kernel_may_know = vec![true; notice.names.len()];
        if let Some(node) = self.table.get(directory) {
            let mut state = node.state();
            state.noticed_at = Some(self.now());
            for ((name, known), may_know) in notice.names.iter().zip(&mut known).zip(&mut kernel_may_know) {
                *may_know = state.entries.kernel_may_know(name);
                if let Known::Node(inode) = state.entries.get(name) {
                    *known = Some(inode);
                }
                state.entries.forget(name);
            }
            if known.iter().any(Option::is_some) {
                state.forgetting += 1;
                kernel.told.push(Arc::clone(&node));
                kernel.gone.push(Arc::clone(&node));
            }
            drop(state);
            kernel.awaited.push(Arc::clone(&node));
            kernel.nodes.push(node);
        }
        // Who makes a name that nobody here knows does not wait for the kernel, which does not take a name from a directory while a
        // program of ours makes another one there: two mounts that fill one directory would wait for each other.
        for ((name, known), _) in notice.names.iter().zip(known).zip(kernel_may_know).filter(|(_, may_know)| *may_know)
        {
            let node = known.and_then(|inode| self.table.get(inode));
            kernel.forget.push(self.name_to_forget(node, directory, name));
        }
    }

    fn recall_attributes(&self, inode: InodeId) {
        self.order.stamp(inode, Stamp::Foreign);
        if let Some(node) = self.table.get(inode) {
            let now = self.now();
            let mut state = node.state();
            (state.noticed_at, state.fresh, state.target) = (Some(now), false, None);
            let told_at = state.kernel_told_of_change_at;
            drop(state);
            self.let_kernel_take_in(told_at);
        }
        if self.kernel.invalidate_attributes(inode) == Forgotten::NotKnown {
            self.forget_once_known(inode);
        }
    }

    /// What the kernel has to forget when a lease is gone altogether.
    fn add_kernel_work(&self, node: &Arc<Node>, kernel: &mut KernelWork) {
        let state = node.state();
        let entries = state.entries.names().map(|name| Forget::Entry(node.inode(), name.into()));
        kernel.forget.extend(entries);
        if state.kernel_told_at.is_some() || state.open > 0 {
            kernel.forget.push(Forget::Data(node.inode()));
        }
        drop(state);
        kernel.nodes.push(Arc::clone(node));
        kernel.told.push(Arc::clone(node));
    }

    fn do_in_kernel(&self, kernel: KernelWork) {
        for node in &kernel.told {
            let told_at = node.state().kernel_told_at;
            self.let_kernel_take_in(told_at);
        }
        let data = |what: &Forget| if let Forget::Data(inode) = what { Some(*inode) } else { None };
        let files: Vec<InodeId> = kernel.forget.iter().filter_map(data).collect();
        let forget = kernel.forget.into_iter().flat_map(|what| self.unless_locked(what)).collect();
        let told = self.notifier.forget(forget, || kernel.nodes.iter().any(|node| node.is_asking()));
        if !told.all {
            kernel.nodes.iter().for_each(|node| node.state().entries.doubt());
        }
        let late = if told.all { Vec::new() } else { self.forget_unlocked(&files) };
        for inode in told.not_known.into_iter().chain(late) {
            self.forget_once_known(inode);
        }
        kernel.gone.iter().for_each(|node| self.kernel_has_forgotten(node));
        kernel.awaited.iter().for_each(|node| self.wait_until_forgotten(node));
    }

    /// Of a file's data, what the kernel has not locked: it would wait for a request that may be waiting for others.
    fn unless_locked(&self, what: Forget) -> Vec<Forget> {
        let Forget::Data(inode) = what else { return vec![what] };
        match self.table.get(inode).filter(|node| node.locked_pages.any()) {
            None => vec![what],
            Some(node) => {
                let gaps = node.locked_pages.gaps();
                gaps.into_iter().map(|pages| Forget::Pages(inode, pages)).collect()
            }
        }
    }

    /// The kernel was not done in time: pages that were locked since may have held it up before it came to others. What was
    /// there before has to be forgotten by all means, since the other client goes on then. The nodes that it did not know.
    fn forget_unlocked(&self, files: &[InodeId]) -> Vec<InodeId> {
        let mut not_known = Vec::new();
        let is_written = |inode: &InodeId| self.table.get(*inode).is_some_and(|node| node.locked_pages.is_written());
        for _ in 0..ROUNDS_MAX {
            // Those wait for the lease that is going, and so for whoever waits here.
            if files.iter().any(is_written) {
                return not_known;
            }
            let pages: Vec<Forget> = files.iter().flat_map(|inode| self.unless_locked(Forget::Data(*inode))).collect();
            if pages.is_empty() {
                return not_known;
            }
            let told = self.notifier.forget_apart(pages, ROUND);
            not_known.extend(told.not_known);
            if told.all {
                return not_known;
            }
        }
        warn!(?files, "the kernel did not forget all pages of files in time");
        not_known
    }

    /// The kernel did not know the node. If it was told of it and has not given that up, the answer is under way, and
    /// brings attributes that the kernel has to forget. This is done before the other client goes on, and never later:
    /// a kernel that is told to forget while it asks for attributes drops the answer, and goes by an old length
    /// (`i_size`) in copies and mappings, whatever it tells the program that asked.
    fn forget_once_known(&self, inode: InodeId) {
        let told = || self.table.get(inode).is_some_and(|node| node.state().lookups > 0);
        let began = self.now();
        while told() && self.now().since(began) < KERNEL_LEARNS_WITHIN {
            self.clock.sleep(ASK_AGAIN_AFTER);
            if self.kernel.invalidate_attributes(inode) == Forgotten::Yes {
                return;
            }
        }
    }

    /// Waits until the kernel has taken in what it was told then.
    fn let_kernel_take_in(&self, told_at: Option<Monotonic>) {
        let Some(told_at) = told_at else { return };
        let now = self.now();
        let since = now.since(told_at);
        if since >= KERNEL_TAKES_IN {
            return;
        }
        self.clock.sleep(KERNEL_TAKES_IN - since);
    }

    /// Has the kernel forget, by a thread of its own, since the caller is one that others wait for.
    fn tell_kernel_later(&self, kernel: KernelWork) {
        let Some(core) = self.this.get().and_then(std::sync::Weak::upgrade) else { return };
        let gone = kernel.gone.clone();
        let started = background::spawn("kernel-all", move || core.do_in_kernel(kernel));
        if let Err(error) = started {
            gone.iter().for_each(|node| self.kernel_has_forgotten(node));
            warn!(%error, "the kernel could not be told to forget");
        }
    }

    /// The lease is gone without our doing: what was written and not committed is lost.
    fn drop_node(&self, node: &Arc<Node>, kernel: &mut KernelWork) {
        self.add_kernel_work(node, kernel);
        let mut state = node.state();
        (state.mode, state.grant, state.accessed) = (Mode::None, 0, None);
        node.drop_caches(&mut state);
        state.forgetting += 1;
        drop(state);
        kernel.gone.push(Arc::clone(node));
        node.notify();
        if let Some(content) = node.content() {
            if content.has_uncommitted() {
                warn!(inode = node.inode().get(), errno = %Errno::EIO, "unwritten data of a file is lost");
                content.discard();
            }
            content.invalidate();
        }
    }
}
