//! Telling the kernel to forget, from threads that hold nothing and that nobody needs for anything else.
//!
//! The kernel may take as long as a request of its own on the same directory or page is with us, and that request may be
//! waiting at the master for another client, which waits for us. So whoever waits for the kernel on behalf of the master
//! gives up after [`PATIENCE`] or [`PATIENCE_IF_STUCK`] **if** an operation of ours about that node is with the master, or all threads here are
//! stuck in the kernel, which comes to the same; the kernel's own work goes on in its thread meanwhile. That is for entries.
//! Data that others are about to change is never left to it: whoever was not told that pages are forgotten asks again, for those
//! that are not locked (`cache/locked_pages.rs`), by a thread of its own.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use rfs_common::background;
use rfs_common::clock::SharedClock;
use rfs_common::ids::InodeId;

use super::types::{Forgotten, KernelCaches};

const THREADS: usize = 6;
const QUEUE_LENGTH: usize = 16_384;
/// How long the kernel is waited for while it may be waiting for us: while an operation of ours on the directory is with the master. What
/// asks us to forget has the directory there, so that the operation waits for it, or was done before, and its answer is on its way.
const PATIENCE: Duration = Duration::from_millis(25);
/// The same where all threads here wait for the kernel already.
const PATIENCE_IF_STUCK: Duration = Duration::from_millis(300);

/// What came of waiting for the kernel.
pub(super) struct Outcome {
    /// It has done everything.
    pub(super) all: bool,
    /// Nodes that it did not know.
    pub(super) not_known: Vec<InodeId>,
}

/// One thing for the kernel to forget.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Forget {
    Data(InodeId),
    /// Some pages only.
    Pages(InodeId, Range<u64>),
    Entry(InodeId, Box<[u8]>),
    /// The name of a directory that has another by now.
    Directory(InodeId, Box<[u8]>),
}

struct Task {
    what: Forget,
    batch: Option<Arc<Batch>>,
}

/// Tasks whose end somebody waits for.
struct Batch {
    left: Mutex<Left>,
    done: Condvar,
}

impl Batch {
    fn of(tasks: usize) -> Arc<Batch> {
        let left = Left { to_begin: tasks, to_end: tasks, not_known: Vec::new() };
        Arc::new(Batch { left: Mutex::new(left), done: Condvar::new() })
    }

    fn wait(&self, limit: Duration) -> Outcome {
        let left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.done.wait_timeout_while(left, limit, |left| left.to_end > 0);
        waited.unwrap_or_else(PoisonError::into_inner).0.outcome()
    }

    fn ended(&self, not_known: Option<InodeId>) {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        left.to_end -= 1;
        left.not_known.extend(not_known);
        if left.to_end == 0 {
            self.done.notify_all();
        }
    }
}

impl Left {
    fn outcome(&mut self) -> Outcome {
        Outcome { all: self.to_end == 0, not_known: std::mem::take(&mut self.not_known) }
    }
}

struct Left {
    to_begin: usize,
    to_end: usize,
    /// Nodes that the kernel did not know.
    not_known: Vec<InodeId>,
}

/// The threads.
pub(super) struct KernelNotifier {
    kernel: Arc<dyn KernelCaches>,
    sender: SyncSender<Task>,
    clock: SharedClock,
    /// Names that the kernel was to drop and had not, when they were waited for.
    late: Mutex<Vec<Arc<Batch>>>,
    any_late: AtomicBool,
}

impl KernelNotifier {
    pub(super) fn start(kernel: &Arc<dyn KernelCaches>, clock: SharedClock) -> std::io::Result<KernelNotifier> {
        let (sender, receiver) = sync_channel(QUEUE_LENGTH);
        let receiver = Arc::new(Mutex::new(receiver));
        for number in 0..THREADS {
            let (kernel, receiver) = (Arc::clone(kernel), Arc::clone(&receiver));
            background::spawn(&format!("kernel-{number}"), move || notify(&*kernel, &receiver))?;
        }
        let (late, any_late) = (Mutex::default(), AtomicBool::new(false));
        Ok(KernelNotifier { kernel: Arc::clone(kernel), sender, clock, late, any_late })
    }

    /// Has the kernel forget something some time soon. The caller may be a thread that the kernel waits for, so it is
    /// never made to wait: false if there is no room in the queue now.
    #[must_use]
    pub(super) fn try_post(&self, what: Forget) -> bool {
        self.sender.try_send(Task { what, batch: None }).is_ok()
    }

    /// Has the kernel drop a name, and waits for it for so long and no longer. If it takes longer, [`KernelNotifier::let_late_drops_end`]
    /// waits once more. False if there is no room in the queue now.
    pub(super) fn drop_within(&self, what: Forget, limit: Duration) -> bool {
        let batch = Batch::of(1);
        if self.sender.try_send(Task { what, batch: Some(Arc::clone(&batch)) }).is_err() {
            return false;
        }
        if !batch.wait(limit).all {
            self.late.lock().unwrap_or_else(PoisonError::into_inner).push(batch);
            self.any_late.store(true, Ordering::Release);
        }
        true
    }

    /// Waits for names that the kernel has not dropped yet, for so long and no longer.
    pub(super) fn let_late_drops_end(&self, limit: Duration) {
        if !self.any_late.load(Ordering::Acquire) {
            return;
        }
        let late = self.late.lock().unwrap_or_else(PoisonError::into_inner).clone();
        late.iter().for_each(|batch| drop(batch.wait(limit)));
        let mut late = self.late.lock().unwrap_or_else(PoisonError::into_inner);
        late.retain(|batch| !batch.wait(Duration::ZERO).all);
        self.any_late.store(!late.is_empty(), Ordering::Release);
    }

    /// The same for several things, by a thread that does nothing else.
    pub(super) fn forget_apart(&self, what: Vec<Forget>, limit: Duration) -> Outcome {
        let (batch, kernel) = (Batch::of(what.len()), Arc::clone(&self.kernel));
        let of_thread = Arc::clone(&batch);
        let started = background::spawn("kernel-apart", move || {
            what.into_iter().for_each(|what| of_thread.ended(tell(&*kernel, what)));
        });
        match started {
            Ok(_) => batch.wait(limit),
            Err(_) => Outcome { all: false, not_known: Vec::new() },
        }
    }

    /// Has the kernel forget these, and waits until it has, or until it has been waited for long enough while
    /// `may_wait_for_us` holds.
    pub(super) fn forget(&self, what: Vec<Forget>, may_wait_for_us: impl Fn() -> bool) -> Outcome {
        if what.is_empty() {
            return Outcome { all: true, not_known: Vec::new() };
        }
        let batch = Batch::of(what.len());
        let began = self.clock.monotonic();
        for what in what {
            let _ = self.sender.send(Task { what, batch: Some(Arc::clone(&batch)) });
        }
        let mut left = batch.left.lock().unwrap_or_else(PoisonError::into_inner);
        while left.to_end > 0 {
            let (waited_for, stuck) = (self.clock.monotonic().since(began), left.to_begin > 0);
            if waited_for >= PATIENCE && may_wait_for_us() || waited_for >= PATIENCE_IF_STUCK && stuck {
                break;
            }
            let waited = batch.done.wait_timeout(left, PATIENCE);
            left = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        left.outcome()
    }
}

fn notify(kernel: &dyn KernelCaches, receiver: &Mutex<Receiver<Task>>) {
    loop {
        let task = receiver.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(task) = task else { return };
        if let Some(batch) = &task.batch {
            batch.left.lock().unwrap_or_else(PoisonError::into_inner).to_begin -= 1;
        }
        let not_known = tell(kernel, task.what);
        if let Some(batch) = task.batch {
            batch.ended(not_known);
        }
    }
}

/// Tells the kernel; the node that it did not know.
fn tell(kernel: &dyn KernelCaches, what: Forget) -> Option<InodeId> {
    match what {
        Forget::Data(inode) => Some(inode).filter(|_| is_unknown(kernel.invalidate_data(inode))),
        Forget::Pages(inode, pages) => Some(inode).filter(|_| is_unknown(kernel.invalidate_pages(inode, pages))),
        Forget::Entry(parent, name) => {
            kernel.invalidate_entry(parent, &name);
            None
        }
        Forget::Directory(parent, name) => {
            kernel.drop_directory(parent, &name);
            None
        }
    }
}

fn is_unknown(forgotten: Forgotten) -> bool {
    forgotten == Forgotten::NotKnown
}
