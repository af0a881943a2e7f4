//! Commits in the background what was written, and brings WRITE leases down that nobody writes under.
//!
//! One thread looks every [`PAUSE`] which files are due and hands them to a few others, which may wait for chunkservers
//! as long as writes wait: a file whose copies are away holds up none but itself. What finds no room in their queue stays
//! on its list for the next round. A file is in hand at most once, since it stays `listed_dirty` (or its lease `closing`) meanwhile.
//! They use leases and reserved slots like anybody else, so a recall waits for them as it waits for a write.

use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rfs_common::background::{self, Step, Worker};
use rfs_common::clock::Monotonic;
use tracing::debug;

use super::bytes::Durability;
use super::core::{Core, Node, lock};
use crate::cache::node::Mode;

const PAUSE: Duration = Duration::from_millis(100);
/// A file that was not written for this long is committed, so that other tools see its size.
const COMMIT_AFTER_LAST_WRITE: Duration = Duration::from_secs(1);
/// A file that is being written all the time is committed this often, and one that could not be is tried again.
const COMMIT_EVERY: Duration = Duration::from_secs(5);
/// A WRITE lease that nobody writes under goes back after this.
const IDLE_WRITER: Duration = Duration::from_secs(2);
/// Files that are committed at the same time.
const THREADS: usize = 8;
/// Files that wait for one of the threads; more stay on their lists.
const QUEUE_LENGTH: usize = 1024;

/// A file with something to be committed.
pub(super) struct Dirty {
    node: Arc<Node>,
    since: Monotonic,
    /// Not before this: it could not be committed a moment ago.
    not_before: Monotonic,
}

enum Task {
    Commit(Dirty),
    ReturnLease(Arc<Node>, Monotonic),
}

/// Hands out what is due.
pub(super) struct Committer {
    core: Arc<Core>,
    tasks: SyncSender<Task>,
}

impl Committer {
    /// Starts the threads that commit; they end with it.
    pub(super) fn new(core: Arc<Core>) -> std::io::Result<Committer> {
        let (tasks, receiver) = sync_channel(QUEUE_LENGTH);
        let receiver = Arc::new(Mutex::new(receiver));
        for number in 0..THREADS {
            let (core, receiver) = (Arc::clone(&core), Arc::clone(&receiver));
            background::spawn(&format!("commit-{number}"), move || work(&core, &receiver))?;
        }
        Ok(Committer { core, tasks })
    }

    fn hand_out(&self, task: Task) {
        if let Err(TrySendError::Full(task) | TrySendError::Disconnected(task)) = self.tasks.try_send(task) {
            let later = &self.core.later;
            match task {
                Task::Commit(dirty) => lock(&later.dirty).push(dirty),
                Task::ReturnLease(node, since) => lock(&later.idle_writers).push((node, since)),
            }
        }
    }
}

impl Worker for Committer {
    fn name(&self) -> String {
        "committer".to_owned()
    }

    fn step(&mut self) -> Step {
        if self.core.session.has_ended() {
            return Step::Done;
        }
        let now = self.core.now();
        for dirty in self.core.due_commits(now) {
            self.hand_out(Task::Commit(dirty));
        }
        for (node, since) in self.core.due_leases(now) {
            self.hand_out(Task::ReturnLease(node, since));
        }
        Step::Idle(PAUSE)
    }

    fn state(&self) -> String {
        format!("{} files to be committed", lock(&self.core.later.dirty).len())
    }
}

fn work(core: &Core, tasks: &Mutex<Receiver<Task>>) {
    loop {
        let task = lock(tasks).recv();
        match task {
            Ok(Task::Commit(dirty)) => core.commit_written(&dirty.node),
            Ok(Task::ReturnLease(node, _)) => core.return_idle_lease(&node),
            Err(_) => return,
        }
    }
}

impl Core {
    /// Puts the file on the list of those to be committed in the background.
    pub(super) fn note_written(&self, node: &Arc<Node>) {
        let now = self.now();
        node.state().written_at = now;
        self.list_dirty(node, now, now);
    }

    fn list_dirty(&self, node: &Arc<Node>, since: Monotonic, not_before: Monotonic) {
        let mut state = node.state();
        if !state.listed_dirty {
            state.listed_dirty = true;
            drop(state);
            lock(&self.later.dirty).push(Dirty { node: Arc::clone(node), since, not_before });
        }
    }

    fn due_commits(&self, now: Monotonic) -> Vec<Dirty> {
        let due = |dirty: &Dirty| {
            let rests = now.since(dirty.node.state().written_at) >= COMMIT_AFTER_LAST_WRITE;
            now >= dirty.not_before && (rests || now.since(dirty.since) >= COMMIT_EVERY)
        };
        lock(&self.later.dirty).extract_if(.., |dirty| due(dirty)).collect()
    }

    /// Commits a file. What cannot be committed now is tried again later, and told by close or fsync.
    fn commit_written(&self, node: &Arc<Node>) {
        let has_uncommitted = || node.content().is_some_and(|content| content.has_uncommitted());
        let committed = match has_uncommitted().then(|| self.try_use(node, Mode::Write)) {
            Some(Ok(Some(_used))) => self.commit(node, Durability::Acknowledged, None).map(drop),
            Some(Ok(None)) | None => Ok(()),
            Some(Err(errno)) => Err(errno),
        };
        // Only now: what is written meanwhile is seen here, or lists the file itself.
        node.state().listed_dirty = false;
        let now = self.now();
        let mut not_before = now;
        if let Err(errno) = committed {
            debug!(inode = node.inode().get(), %errno, "a file could not be committed; it will be tried again");
            not_before = now + COMMIT_EVERY;
        }
        if has_uncommitted() {
            self.list_dirty(node, now, not_before);
        }
    }

    /// WRITE leases of files that nobody has had open for writing for a while.
    fn due_leases(&self, now: Monotonic) -> Vec<(Arc<Node>, Monotonic)> {
        let due: Vec<_> = {
            let mut idle = lock(&self.later.idle_writers);
            idle.extract_if(.., |(_, since)| now.since(*since) >= IDLE_WRITER).collect()
        };
        due.into_iter().filter(|(node, _)| is_idle_writer(node)).collect()
    }

    /// Brings a WRITE lease down that nobody writes under, so that another client's read has nothing to recall and a
    /// chunk that was granted and not written is free for repair.
    fn return_idle_lease(&self, node: &Arc<Node>) {
        if is_idle_writer(node)
            && let Err(errno) = self.lower(node, Mode::Read, None)
        {
            debug!(inode = node.inode().get(), %errno, "an idle lease could not be given back");
        }
    }
}

/// Nobody writes under its WRITE lease, nor is bringing it down already.
fn is_idle_writer(node: &Node) -> bool {
    let state = node.state();
    state.open_writable == 0 && !state.orphan && state.mode == Mode::Write && !state.closing
}
