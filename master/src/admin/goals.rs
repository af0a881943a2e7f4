//! Setting the goal of a node or of everything below it.

use std::ops::{Bound, ControlFlow};

use prost::Message;
use rfs_common::ids::{Goal, InodeId};
use rfs_proto::admin::SetGoalProgress;
use tokio::sync::mpsc;
use tonic::Status;

use crate::namespace::records::{EntryRecord, NodeKind, entry_key};
use crate::namespace::source::{Source, StoreError, Table};
use crate::status::MasterState;

/// Nodes whose goal is set in one call.
const BATCH_NODES: usize = 64;
/// Entries that are read from a directory at a time.
const BATCH_ENTRIES: usize = 1024;

/// What is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// The node alone: of a directory, what will be made in it.
    NodeOnly,
    /// The node and all files and directories below it.
    Everything,
}

type Progress = mpsc::Sender<Result<SetGoalProgress, Status>>;

/// Sets the goal and reports after each batch. Ends early when nobody listens any more. Not for async threads.
pub(super) fn set(state: &dyn MasterState, root: InodeId, goal: Goal, reach: Reach, progress: &Progress) {
    let mut walk = Walk { state, goal, progress, counts: SetGoalProgress::default() };
    let outcome = match reach {
        Reach::NodeOnly => walk.set_batch(&[root]),
        Reach::Everything => walk.everything(root),
    };
    let last = match outcome {
        Ok(()) => Ok(SetGoalProgress { done: true, ..walk.counts }),
        Err(Stop::Failed(status)) => Err(status),
        Err(Stop::NobodyListens) => return,
    };
    // Whoever asked may be gone; the goals are set all the same.
    let _ = progress.blocking_send(last);
}

enum Stop {
    Failed(Status),
    NobodyListens,
}

impl From<StoreError> for Stop {
    fn from(error: StoreError) -> Stop {
        Stop::Failed(crate::grpc::failed(format!("the directory tree cannot be read: {error}")))
    }
}

struct Walk<'a> {
    state: &'a dyn MasterState,
    goal: Goal,
    progress: &'a Progress,
    counts: SetGoalProgress,
}

impl Walk<'_> {
    /// Directories first, so that what is made in them meanwhile has the new goal.
    fn everything(&mut self, root: InodeId) -> Result<(), Stop> {
        self.set_batch(&[root])?;
        let mut directories = vec![root];
        while let Some(directory) = directories.pop() {
            let mut after: Option<Vec<u8>> = None;
            loop {
                let entries = entries_after(self.state.source(), directory, after.as_deref())?;
                let Some((last, _)) = entries.last() else { break };
                after = Some(last.clone());
                let has_goal = |kind: NodeKind| matches!(kind, NodeKind::File | NodeKind::Directory);
                let nodes: Vec<&EntryRecord> =
                    entries.iter().map(|(_, entry)| entry).filter(|entry| has_goal(entry.kind())).collect();
                for batch in nodes.chunks(BATCH_NODES) {
                    let inodes: Vec<InodeId> = batch.iter().map(|entry| entry.inode_id()).collect();
                    self.set_batch(&inodes)?;
                }
                let below = nodes.iter().filter(|entry| entry.kind() == NodeKind::Directory);
                directories.extend(below.map(|entry| entry.inode_id()));
            }
        }
        Ok(())
    }

    fn set_batch(&mut self, nodes: &[InodeId]) -> Result<(), Stop> {
        let changed = self.state.set_goals(nodes, self.goal);
        self.counts.changed += changed.map_err(|failure| Stop::Failed(crate::grpc::failed(failure.to_string())))?;
        self.counts.seen += nodes.len() as u64;
        self.progress.blocking_send(Ok(self.counts)).map_err(|_| Stop::NobodyListens)
    }
}

/// The next entries of a directory, with their keys.
fn entries_after(
    source: &dyn Source,
    directory: InodeId,
    after: Option<&[u8]>,
) -> Result<Vec<(Vec<u8>, EntryRecord)>, StoreError> {
    let (first, end) = (entry_key(directory, b""), entry_key(InodeId::new(directory.get() + 1), b""));
    let from = after.map_or(Bound::Included(&first[..]), Bound::Excluded);
    let mut entries = Vec::new();
    source.scan(Table::Entries, from, Bound::Excluded(&end), &mut |key, value| {
        if let Ok(entry) = EntryRecord::decode(value) {
            entries.push((key.to_vec(), entry));
        }
        if entries.len() < BATCH_ENTRIES { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    Ok(entries)
}
