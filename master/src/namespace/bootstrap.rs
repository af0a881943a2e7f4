//! What a new cluster contains: an empty root directory and the counters.

use rfs_common::clock::Time;
use rfs_common::ids::{Goal, InodeId};

use super::entries::COOKIE_FIRST;
use super::records::{self, InodeRecord, NodeKind, SystemKind, SystemRecord};
use super::source::Change;

/// The first chunk id; 0 means none.
const CHUNK_FIRST: u64 = 1;
/// The first session id; 0 means none.
const SESSION_FIRST: u64 = 1;

/// The changes that turn an empty store into an empty filesystem, whose root directory is root's.
pub fn new_cluster(goal: Goal, now: Time) -> Vec<Change> {
    new_cluster_of((0, 0), goal, now)
}

/// The same with a root directory of this user and group.
pub fn new_cluster_of((user, group): (u32, u32), goal: Goal, now: Time) -> Vec<Change> {
    let mut root = InodeRecord {
        mode: 0o755,
        user,
        group,
        links: 2,
        accessed: now.into(),
        modified: now.into(),
        changed: now.into(),
        created: now.into(),
        goal: u32::from(goal.get()),
        parent: InodeId::ROOT.get(),
        cookie_next: COOKIE_FIRST,
        revision: 1,
        ..InodeRecord::default()
    };
    root.set_kind(NodeKind::Directory);
    let system = SystemRecord {
        inode_next: InodeId::ROOT.next().get(),
        chunk_next: CHUNK_FIRST,
        session_next: SESSION_FIRST,
        inodes: 1,
        directories: 1,
        goal: u32::from(goal.get()),
        ..SystemRecord::default()
    };
    vec![
        records::put(records::inode_key(InodeId::ROOT), &root),
        records::put(records::system_key(SystemKind::Counters, 0), &system),
    ]
}
